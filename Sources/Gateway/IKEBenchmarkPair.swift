import Crypto
import IKE
import IPsec
import Platform
import Wire

/// Two cores with connections between them, and a wire that carries a datagram at once.
final class IKEBenchmarkPair {
    /// One end: its core, and the time it took.
    private final class End {
        let core = IKECore(settings: CoreSettings(), crypto: OpenSSLCrypto(), random: SystemRandom())
        var nanoseconds: UInt64 = 0
        var installations = 0

        /// Calls into the core, timed; whatever it wants installed is installed at once.
        func timed(_ now: Instant, _ body: (IKECore) -> Void) {
            let start = MonotonicClock.nanoseconds
            body(core)
            while let event = core.pollEvent() {
                if case .judgeCertificates(let works, let token) = event {
                    for work in works { work.run() }
                    core.certificatesJudged(token: token, now: now)
                    continue
                }
                guard case .installChild(_, let token) = event else { continue }
                installations += 1
                core.childInstalled(token: token, now: now)
            }
            nanoseconds &+= MonotonicClock.nanoseconds &- start
        }
    }

    /// Lifetimes are longer than any run, in virtual time.
    private static let lifetime: Duration = .seconds(100_000_000)
    /// Datagrams that one operation may take.
    private static let mostDatagrams = 1000
    private static let warmUps = 3

    private let initiator = End()
    private let responder = End()
    private var now = Instant(nanoseconds: 1_000_000_000)

    init(connections: Int, proposal: String, credentials: IKEBenchmarkCredentials) throws {
        for number in 0..<connections {
            responder.core.addConnection(try Self.plan(number, isInitiator: false, proposal, credentials), now: now)
            initiator.core.addConnection(try Self.plan(number, isInitiator: true, proposal, credentials), now: now)
        }
    }

    private static func name(_ number: Int) -> String { "bench\(number)" }

    private static func plan(
        _ number: Int, isInitiator: Bool, _ proposal: String, _ credentials: IKEBenchmarkCredentials
    ) throws -> ConnectionPlan {
        // 198.18.0.0/15 is kept for benchmarks (RFC 2544).
        let host = UInt32(truncatingIfNeeded: number) & 0xFFFF
        let ends = (IPAddress.v4(IPv4Address(bits: 0xC612_0000 | host)), IPAddress.v4(IPv4Address(bits: 0xC613_0000 | host)))
        let names = isInitiator ? ("i\(number).example", "r\(number).example") : ("r\(number).example", "i\(number).example")
        let proofs = try credentials.ends(names.0, isInitiator: isInitiator)
        let networks = (
            TrafficSelector(first: .v4(IPv4Address(bits: 0x0A01_0000)), last: .v4(IPv4Address(bits: 0x0A01_FFFF))),
            TrafficSelector(first: .v4(IPv4Address(bits: 0x0A02_0000)), last: .v4(IPv4Address(bits: 0x0A02_FFFF)))
        )
        let child = ChildPlan(
            name: "net", localSelectors: [isInitiator ? networks.0 : networks.1],
            remoteSelectors: [isInitiator ? networks.1 : networks.0],
            proposals: [try ESPProposal(keywords: "aes256gcm16-esn")], lifetime: lifetime, start: .manual)
        return ConnectionPlan(
            name: name(number), localAddress: isInitiator ? ends.0 : ends.1, remoteAddress: isInitiator ? ends.1 : ends.0,
            localIdentity: .fqdn(names.0), remotePattern: .exactly(.fqdn(names.1)), localAuthentication: proofs.local,
            remoteAuthentication: proofs.remote, proposals: [try IKEProposal(keywords: proposal)],
            lifetime: lifetime, dpdInterval: .zero, children: [child])
    }

    // MARK: Operations

    /// Nanoseconds that one operation takes at each end.
    struct Times: Sendable {
        var initiator: Double
        var responder: Double
        var both: Double { initiator + responder }
        /// Of the thread, for both.
        var cpu: Double
    }

    func measure(_ operation: IKEBenchmark.Operation, seconds: Double) throws -> Times {
        if operation != .handshake { try establish(0) }
        for _ in 0..<Self.warmUps { try perform(operation) }
        (initiator.nanoseconds, responder.nanoseconds) = (0, 0)
        var count = 0.0
        let cpu = ThreadClock.nanoseconds
        let end = MonotonicClock.nanoseconds &+ UInt64(max(0, seconds) * 1e9)
        repeat {
            try perform(operation)
            count += 1
        } while MonotonicClock.nanoseconds < end
        return Times(
            initiator: Double(initiator.nanoseconds) / count, responder: Double(responder.nanoseconds) / count,
            cpu: Double(ThreadClock.nanoseconds &- cpu) / count)
    }

    private func perform(_ operation: IKEBenchmark.Operation) throws {
        switch operation {
        case .handshake:
            try establish(0)
            initiator.timed(now) { _ = $0.terminate(connection: Self.name(0), child: nil, now: now) }
            try exchange()
        case .rekeyChild, .rekeyIKE:
            let before = spis
            initiator.timed(now) { _ = $0.rekey(connection: Self.name(0), child: nil, ike: operation == .rekeyIKE, now: now) }
            try exchange()
            guard spis != before else { throw IKEBenchmark.Failure("The two ends did not rekey: \(reason(0)).") }
        }
        // What was replaced is forgotten after a while: unless its time comes, the tables grow.
        now = now + .seconds(15)
        for end in [initiator, responder] { end.timed(now) { $0.handleTimeout(now: now) } }
        try exchange()
    }

    private func establish(_ number: Int) throws {
        let before = (initiator.installations, responder.installations)
        initiator.timed(now) { _ = $0.initiate(connection: Self.name(number), child: nil, now: now) }
        try exchange()
        guard initiator.installations == before.0 + 1, responder.installations == before.1 + 1 else {
            throw IKEBenchmark.Failure("The two ends did not come together: \(reason(number)).")
        }
    }

    private func reason(_ number: Int) -> String {
        let status = initiator.core.status(now: now).first { $0.name == Self.name(number) }
        return (status?.reason ?? status?.children.first?.reason)?.sentence ?? "no reason was given"
    }

    /// What a rekey changes.
    private var spis: [UInt64] {
        guard let status = initiator.core.status(now: now).first else { return [] }
        return [status.ike?.initiatorSPI ?? 0] + status.children.map { UInt64($0.inboundSPI) }
    }

    // MARK: The wire

    /// Carries datagrams until neither end has one.
    private func exchange() throws {
        for _ in 0..<Self.mostDatagrams {
            let isIdle = (deliver(from: initiator, to: responder), deliver(from: responder, to: initiator)) == (false, false)
            if isIdle { return }
        }
        throw IKEBenchmark.Failure("The two ends do not come to rest.")
    }

    private func deliver(from sender: End, to receiver: End) -> Bool {
        guard let transmit = sender.core.pollTransmit() else { return false }
        let path = Path(local: transmit.path.remote, remote: transmit.path.local)
        receiver.timed(now) { $0.handleDatagram(transmit.bytes, path: path, now: now) }
        return true
    }
}

// MARK: - Many at once

extension IKEBenchmarkPair {
    /// Holds `sas` IKE SAs at once, each with one child, and says what they take.
    static func crowd(
        sas: Int, proposal: String, credentials: IKEBenchmarkCredentials, progress: (String) -> Void
    ) throws -> IKEBenchmark.Memory {
        let pair = try IKEBenchmarkPair(connections: sas, proposal: proposal, credentials: credentials)
        let before = ProcessMemory.residentBytes
        let start = MonotonicClock.nanoseconds
        for number in 0..<sas {
            try pair.establish(number)
            // A flood of half-open SAs is not what this measures.
            pair.now = pair.now + .milliseconds(1)
            if number.isMultiple(of: 500) { progress("\(number) of \(sas) IKE SAs") }
        }
        let seconds = Double(MonotonicClock.nanoseconds &- start) / 1e9
        let grown = max(0, ProcessMemory.residentBytes - before)
        return IKEBenchmark.Memory(
            sas: sas, bytesPerSA: Double(grown) / Double(2 * max(1, sas)), establishedPerSecond: Double(sas) / seconds)
    }

}
