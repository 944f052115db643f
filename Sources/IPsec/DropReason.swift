/// Why a packet was not forwarded. One list for the whole gateway: each case is a counter, a text and a remedy.
/// The raw value is the counter's index in a worker's array.
public enum DropReason: UInt8, CaseIterable, Sendable {
    case malformed
    case noPolicy
    case policyDiscard
    case noSA
    case unknownSPI
    case replay
    case authenticationFailed
    case selectorMismatch
    case unsupportedPayload
    case dummyPacket
    case ecnIncompatible
    case ttlExpired
    case tooBig
    case sequenceExhausted
    case lifetimeEnded
    case noRoute
    case clearOutbound
    case noNeighbour
    case noFrames
    case handoffFull
    case transmitFull
    case transmitFailed
    case portDown
    case puntFull
    case injectFull
    case engineFailed
    case frameTooSmall
    case fragmentUnknown
    case directedBroadcast
    case unsupportedProtocol
    // Folded in from the XDP program and the sockets.
    case clearInbound
    case ikeFlood
    case stranger
    case natKeepalive
    case xdpMalformed
    case noSocket
    case receiveRingFull
    case fillRingEmpty
    case receiveDropped
    case invalidDescriptor
    case tunnelDevice

    /// The name in status, metrics and logs.
    public var name: String { row.name }
    /// What happened, as a clause.
    public var text: String { row.text }
    /// What an operator can do about it.
    public var remedy: String { row.remedy }

    public init?(name: String) {
        guard let found = Self.allCases.first(where: { $0.name == name }) else { return nil }
        self = found
    }

    private var row: (name: String, text: String, remedy: String) {
        switch self {
        case .malformed:
            ("malformed", "headers or lengths do not fit the frame", "capture on the sending side; look for a broken NIC offload")
        case .noPolicy:
            (
                "no-policy", "no policy covers source and destination",
                "add the pair to local_subnets and remote_subnets, or a bypass policy"
            )
        case .policyDiscard: ("policy-discard", "a policy says discard", "nothing, unless the policy is wrong")
        case .noSA: ("no-sa", "the policy says protect and no SA is up", "see the connection's reason in `culvert status`")
        case .unknownSPI:
            (
                "unknown-spi", "no inbound SA has this SPI",
                "expected for seconds after a restart; otherwise the peer kept an old SA: `culvert down`, then `up`"
            )
        case .replay:
            (
                "replay", "the sequence number was seen or left the window",
                "raise replay_window when the path reorders more than it covers"
            )
        case .authenticationFailed: ("authentication-failed", "the ICV does not verify", "damage on the path, or an attacker")
        case .selectorMismatch:
            (
                "selector-mismatch", "the inner packet is outside the SA's selectors",
                "compare local_subnets and remote_subnets of both ends"
            )
        case .unsupportedPayload:
            ("unsupported-payload", "the ESP payload is not IPv4", "configure the peer for IPv4 in tunnel mode")
        case .dummyPacket: ("dummy-packet", "traffic flow confidentiality padding", "nothing: RFC 4303 §2.6 says discard")
        case .ecnIncompatible:
            ("ecn-incompatible", "outer CE on an inner packet that is not ECN capable", "nothing: RFC 6040 §4.2 says drop")
        case .ttlExpired: ("ttl-expired", "the TTL ran out here", "look for a routing loop")
        case .tooBig:
            (
                "too-big", "does not fit the path and may not be fragmented",
                "nothing: the sender was told by ICMP; check that it accepts ICMP"
            )
        case .sequenceExhausted:
            ("sequence-exhausted", "the SA has used all its sequence numbers", "negotiate -esn, or shorten lifetime_packets")
        case .lifetimeEnded:
            (
                "lifetime-ended", "the SA has carried all that lifetime_bytes or lifetime_packets allow",
                "see why the rekey did not come through in time, or raise the limit"
            )
        case .noRoute: ("no-route", "no route to the destination", "add the route")
        case .clearOutbound:
            (
                "clear-outbound", "would have left in the clear although policy protects it",
                "give each of local_subnets a route by a protected interface, and put no `ip rule` before Culvert's"
            )
        case .noNeighbour:
            ("no-neighbour", "the next hop does not answer ARP or neighbour discovery", "check the host, the cable and the VLAN")
        case .noFrames: ("no-frames", "the worker's frame pool is empty", "raise frames_per_worker")
        case .handoffFull: ("handoff-full", "the owner worker's ring is full", "one SA is limited to one core: use more children")
        case .transmitFull:
            ("transmit-full", "the transmit ring is full", "the port is slower than its input: check link speed and flow control")
        case .transmitFailed:
            ("transmit-failed", "the kernel refused to transmit", "see the log for the port, and `ip -s link` for its errors")
        case .portDown: ("port-down", "the egress port is down or not attached", "bring the interface up")
        case .puntFull:
            ("punt-full", "too many packets for the gateway itself", "check what talks to the gateway through the tunnel")
        case .injectFull:
            (
                "inject-full", "too many packets from the kernel: the gateway's own, or reassembled",
                "check what the gateway sends into the tunnel, and why the peer's packets come in fragments"
            )
        case .engineFailed:
            (
                "engine-failed", "the cipher could not be run",
                "report it: `culvert bench esp` tells whether the engine works at all; try another `engine`"
            )
        case .frameTooSmall:
            (
                "frame-too-small", "the packet and its headers are longer than a frame",
                "lower the MTU of the interfaces, or the peer's, to what `culvert doctor` names"
            )
        case .fragmentUnknown:
            (
                "fragment-unknown", "a fragment whose first one, with the ports that policy looks at, was not seen",
                "look for loss or reordering in front of the gateway, or use policies without ports"
            )
        case .directedBroadcast:
            ("directed-broadcast", "for all hosts of a connected network at once", "nothing: RFC 2644 says do not forward")
        case .unsupportedProtocol:
            ("unsupported-protocol", "AH or another protocol that is not ESP came for an SA", "configure the peer for ESP")
        case .clearInbound:
            (
                "clear-inbound", "arrived in the clear although policy protects it",
                "somebody spoofs, or the peer sends in the clear"
            )
        case .ikeFlood: ("ike-flood", "more IKE from one source than allowed", "nothing, unless a peer sits behind a large NAT")
        case .stranger: ("stranger", "IKE or ESP from an address that is no peer's", "add it to remote.address if it is a peer's")
        case .natKeepalive: ("nat-keepalive", "NAT keepalive, consumed", "nothing")
        case .xdpMalformed: ("xdp-malformed", "too short for its headers", "capture on the underlay")
        case .noSocket:
            ("no-socket", "no AF_XDP socket on the receive queue", "the number of queues changed: restart the gateway")
        case .receiveRingFull:
            (
                "receive-ring-full", "the worker did not keep up: more came than it could take",
                "add workers and queues (ethtool -L), or use more children, so that more cores share the load"
            )
        case .fillRingEmpty:
            (
                "fill-ring-empty", "a burst took all frames that the port had for receiving",
                "raise frames_per_worker for longer bursts; when it goes on, add workers and queues"
            )
        case .receiveDropped:
            (
                "receive-dropped", "the kernel dropped on receive",
                "see ethtool -S of the port; a packet longer than a frame is refused here"
            )
        case .invalidDescriptor: ("invalid-descriptor", "the kernel refused a transmit descriptor", "report it with the log")
        case .tunnelDevice: ("tunnel-device", "the TUN device refused a packet", "see the log")
        }
    }
}
