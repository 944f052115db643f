/// The system refused to send a datagram: whatever lies beyond this machine has no part in it.
public struct SendFailure: Hashable, Sendable {
    public enum Cause: Hashable, Sendable { case noRoute, filtered, tooLong, other }
    public var cause: Cause
    /// As the system calls it: `ENETUNREACH`; empty where it was not even asked.
    public var name: String

    public init(_ cause: Cause, name: String = "") { (self.cause, self.name) = (cause, name) }

    /// What it is and what to do, without a full stop before it.
    func sentence(_ path: Path) -> String {
        let code = name.isEmpty ? "" : " (\(name))"
        return switch cause {
        case .noRoute:
            "there is no route to \(path.remote.address)\(code). Add one, or correct remote.address; `ip route get "
                + "\(path.remote.address) from \(path.local.address)` shows what the kernel finds."
        case .filtered:
            "a packet filter of this machine refuses it\(code). Let UDP port \(path.remote.port) to "
                + "\(path.remote.address) out; `nft list ruleset` or `iptables -S OUTPUT` shows the rule."
        case .tooLong:
            "it is longer than the way to \(path.remote.address) takes\(code). See the MTU that `ip route get "
                + "\(path.remote.address)` shows, and keep `fragmentation` on at both ends."
        case .other: "the system refused it\(code)."
        }
    }
}

extension IKECore {
    /// A datagram of ours could not be sent. It is told at once, and instead of guesses about the way; retransmissions go on, and
    /// the next one that leaves ends it.
    public func transmitFailed(_ transmit: Transmit, _ failure: SendFailure, now: Instant) {
        let isMarked = transmit.path.local.port == settings.natTraversalPort
        let bytes = isMarked ? transmit.bytes.dropFirst(4) : transmit.bytes[...]
        guard let header = try? IKEHeader(parsing: Array(bytes)[...]),
            let sa = sas[header.isFromInitiator ? header.initiatorSPI : header.responderSPI], sa.path == transmit.path,
            let request = sa.outstanding, request.id == header.messageID, !header.isResponse
        else { return }
        sa.sendFailure = failure
        let reason = Reasons.notSent(failure, request.exchange, sa.path)
        note(sa.connection, failure: reason)
        say(.warning, sa.connection, part: "sending", reason, now: now)
    }
}
