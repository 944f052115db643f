/// Why something is down, or why a peer was refused: a code for programs, and a sentence for people that says what to change.
/// The sentence may be reworded at any time; nothing is decided by it.
public struct Reason: Hashable, Sendable, CustomStringConvertible, ExpressibleByStringInterpolation {
    /// The words of `culvert status --json`: add freely, change or drop nothing.
    public enum Code: String, Sendable, CaseIterable {
        // Nothing is wrong.
        case connecting
        case waitingForTraffic = "waiting-for-traffic"
        case waitingForOperator = "waiting-for-operator"
        case waitingForPeer = "waiting-for-peer"
        case takenDown = "taken-down"

        // The way to the peer.
        case noAnswer = "no-answer"
        /// Our own system does not let the datagram out: no route, a packet filter, a size.
        case sendFailed = "send-failed"
        case localPath = "local-path"
        case nat

        // Who is at the other end, and what it speaks.
        case unknownPeer = "unknown-peer"
        case wrongPort = "wrong-port"
        case ikeVersion = "ike-version"
        case identity
        case authentication
        case certificate

        // What the two ends want.
        case ikeProposals = "ike-proposals"
        case espProposals = "esp-proposals"
        case trafficSelectors = "traffic-selectors"
        case transportMode = "transport-mode"
        case virtualAddress = "virtual-address"

        // What became of it.
        case peerClosed = "peer-closed"
        /// The peer takes nobody in now.
        case peerUnwilling = "peer-unwilling"
        case expired
        case notInstalled = "not-installed"
        case limit
        case configurationChanged = "configuration-changed"
        case other
    }

    public var code: Code
    public var sentence: String

    public init(_ code: Code, _ sentence: String) { (self.code, self.sentence) = (code, sentence) }
    public init(stringLiteral value: String) { self.init(.other, value) }

    public var description: String { sentence }
}

extension Reason.Code {
    /// What has not failed, and waits for somebody or something.
    public var isWaiting: Bool {
        switch self {
        case .connecting, .waitingForTraffic, .waitingForOperator, .waitingForPeer, .takenDown: true
        default: false
        }
    }
}
