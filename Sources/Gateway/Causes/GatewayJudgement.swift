import IKE
import IPsec

/// What is wrong with the gateway itself, whatever connection it hurts: a pure function.
struct GatewayJudgement {
    /// Why configured interfaces are not in use, by name.
    var interfaceProblems: [String: String]
    /// Packets dropped lately, and since when that is.
    var recentDrops: [DropReason: UInt64] = [:]
    var recentSince: Instant?
    /// Peers that no connection is for.
    var refusedStrangers: [RefusedPeer] = []
    /// Some connection waits for its peer: one of them may be it.
    var isPeerMissing = false
    var now: Instant

    /// Who came once may be anybody that looks for gateways; a peer comes again.
    static let knocksOfPeer = 2
    static let knockLifetime: Duration = .seconds(300)

    /// Fewer are the network's normal life: one packet for a host that has just gone.
    static let fewestDrops: UInt64 = 10

    /// What is in order when it happens, or told as a connection's own cause.
    static let expectedDrops: Set<DropReason> = [
        .policyDiscard, .dummyPacket, .natKeepalive, .ttlExpired, .tooBig, .ikeFlood, .stranger, .noSA, .noPolicy,
        .unknownSPI, .malformed, .xdpMalformed, .lifetimeEnded,
    ]

    var causes: [Cause] {
        let unusable = interfaceProblems.sorted { $0.key < $1.key }.map { name, problem in
            var cause = Cause(.interfaceUnusable, problem)
            cause.interface = name
            return cause
        }
        return unusable + drops + strangers
    }

    private var strangers: [Cause] {
        refusedStrangers.prefix(4).map { refusal in
            let isPeer =
                isPeerMissing && refusal.count >= Self.knocksOfPeer && now < refusal.last + Self.knockLifetime
            return Cause(.refusals, refusal.sentence(now: now), severity: isPeer ? .warning : .notice)
        }
    }

    private var drops: [Cause] {
        let told = recentDrops.filter { $0.value >= Self.fewestDrops && !Self.expectedDrops.contains($0.key) }
        return told.sorted { ($1.value, $0.key.rawValue) < ($0.value, $1.key.rawValue) }.map { reason, count in
            let seconds = recentSince.map { max(1, Int((now - $0).components.seconds)) }
            let within = seconds.map { " within \($0) s" } ?? ""
            return Cause(.packetsDropped, "\(reason.name), \(count) packets\(within): \(reason.text).", remedy: reason.remedy)
        }
    }
}
