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
    case icmpLimited
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
    public var name: String { Self.table[Int(rawValue)].name }
    /// What happened, as a clause.
    public var text: String { Self.table[Int(rawValue)].text }
    /// What an operator can do about it.
    public var remedy: String { Self.table[Int(rawValue)].remedy }

    public init?(name: String) {
        guard let index = Self.table.firstIndex(where: { $0.name == name }), let found = Self(rawValue: UInt8(index)) else {
            return nil
        }
        self = found
    }

    private static let table: [(name: String, text: String, remedy: String)] = [
        ("malformed", "headers or lengths do not fit the frame", "capture on the sending side; look for a broken NIC offload"),
        (
            "no-policy", "no policy covers source and destination",
            "add the pair to local_subnets and remote_subnets, or a bypass policy"
        ),
        ("policy-discard", "a policy says discard", "nothing, unless the policy is wrong"),
        ("no-sa", "the policy says protect and no SA is up", "see the connection's reason in `culvert status`"),
        (
            "unknown-spi", "no inbound SA has this SPI",
            "expected for seconds after a restart; otherwise the peer kept an old SA: `culvert down`, then `up`"
        ),
        (
            "replay", "the sequence number was seen or left the window",
            "raise replay_window when the path reorders more than it covers"
        ),
        ("authentication-failed", "the ICV does not verify", "damage on the path, or an attacker"),
        (
            "selector-mismatch", "the inner packet is outside the SA's selectors",
            "compare local_subnets and remote_subnets of both ends"
        ),
        ("unsupported-payload", "the ESP payload is not IPv4", "configure the peer for IPv4 in tunnel mode"),
        ("dummy-packet", "traffic flow confidentiality padding", "nothing: RFC 4303 §2.6 says discard"),
        ("ecn-incompatible", "outer CE on an inner packet that is not ECN capable", "nothing: RFC 6040 §4.2 says drop"),
        ("ttl-expired", "the TTL ran out here", "look for a routing loop"),
        (
            "too-big", "does not fit the path and may not be fragmented",
            "nothing: the sender was told by ICMP; check that it accepts ICMP"
        ),
        ("sequence-exhausted", "the SA has used all its sequence numbers", "negotiate -esn, or shorten lifetime_packets"),
        (
            "lifetime-ended", "the SA has carried all that lifetime_bytes or lifetime_packets allow",
            "see why the rekey did not come through in time, or raise the limit"
        ),
        ("no-route", "no route to the destination", "add the route"),
        (
            "clear-outbound", "would have left in the clear although policy protects it",
            "give each of local_subnets a route by a protected interface, and put no `ip rule` before Culvert's"
        ),
        ("no-neighbour", "the next hop does not answer ARP or neighbour discovery", "check the host, the cable and the VLAN"),
        ("no-frames", "the worker's frame pool is empty", "raise frames_per_worker"),
        ("handoff-full", "the owner worker's ring is full", "one SA is limited to one core: use more children"),
        ("transmit-full", "the transmit ring is full", "the port is slower than its input: check link speed and flow control"),
        ("transmit-failed", "the kernel refused to transmit", "see the log for the port"),
        ("port-down", "the egress port is not attached", "bring the interface up"),
        ("punt-full", "too many packets for the gateway itself", "check what talks to the gateway through the tunnel"),
        ("inject-full", "too many packets from the gateway itself", "check what the gateway sends into the tunnel"),
        ("icmp-limited", "no ICMP error was sent: rate limit", "nothing"),
        ("clear-inbound", "arrived in the clear although policy protects it", "somebody spoofs, or the peer sends in the clear"),
        ("ike-flood", "more IKE from one source than allowed", "nothing, unless a peer sits behind a large NAT"),
        ("stranger", "IKE or ESP from an address that is no peer's", "add it to remote.address if it is a peer's"),
        ("nat-keepalive", "NAT keepalive, consumed", "nothing"),
        ("xdp-malformed", "too short for its headers", "capture on the underlay"),
        ("no-socket", "no AF_XDP socket on the receive queue", "the number of queues changed: restart the gateway"),
        ("receive-ring-full", "the worker did not keep up", "add workers and queues"),
        ("fill-ring-empty", "no free frame for the NIC", "raise frames_per_worker"),
        ("receive-dropped", "the kernel dropped on receive", "see ethtool -S of the port"),
        ("invalid-descriptor", "the kernel refused a transmit descriptor", "report it with the log"),
        ("tunnel-device", "the TUN device refused a packet", "see the log"),
    ]
}
