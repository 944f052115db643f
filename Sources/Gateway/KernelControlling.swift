import IKE
import Wire

/// Everything the control thread asks of the kernel, apart from sockets; a protocol so that it is tested without root.
protocol KernelControlling: AnyObject {
    /// As of the last `takeChanges`.
    var view: KernelView { get }
    var tunLinkIndex: Int? { get }
    /// Readable when the kernel has changes to tell.
    var monitorDescriptor: Int32 { get }
    /// Readable when the kernel has a packet for a tunnel.
    var tunDescriptor: Int32 { get }

    /// Reads what the kernel has told since; true when the view may have changed.
    func takeChanges() -> Bool
    /// True when a reading of the kernel's state failed and `takeChanges` should try again, events or not.
    var mustReadAgain: Bool { get }
    /// Makes the kernel's routes and rules those of the plan; sentences about what it refused.
    func apply(_ plan: RoutingPlan) -> [String]
    /// Replaces the packet filter against clear inbound traffic; a sentence when the kernel refused.
    func apply(_ plan: FilterPlan) -> String?
    /// Whether the filter is still there, with all its rules: `nft flush` takes them away, and nobody tells.
    func isFilterInPlace() -> Bool
    /// Packets that this filter has dropped; never less than before.
    func filteredPackets() -> UInt64
    /// Takes Culvert's XDP program off interfaces that are not configured: an earlier run that was killed left it there, and
    /// without sockets it drops what is to be protected. Their names.
    func detachLeftovers(except configured: Set<String>) -> [String]
    /// Makes the kernel find the neighbour, and keep it found.
    func resolve(_ address: IPAddress, linkIndex: Int)
    /// Forgets neighbours that were kept for us and have not answered for `LinuxKernel.lostPatience`; called now and then.
    func forgetLostNeighbours(now: Instant)
    /// Makes these, and no others, the addresses of the TUN device; sentences about what the kernel refused.
    func setVirtualAddresses(_ addresses: [IPv4Address]) -> [String]
    /// A packet that the kernel routed into the TUN device; nil when none waits.
    func readTunnelPacket() -> [UInt8]?
    /// False when the device refused it.
    func writeTunnelPacket(_ packet: [UInt8]) -> Bool
    /// Receive queues of an interface, at least 1.
    func queueCount(_ name: String) -> Int
    /// Stops keeping neighbours: the workers have ended.
    func letGoOfNeighbours()
    /// Removes every route, rule, filter and device of ours: nothing is protected after this.
    func release()
}

/// What the kernel's packet filter drops where XDP is not attached: packets that came in the clear on an underlay interface
/// although policy says they must be protected. RFC 4301 §5.2.
struct FilterPlan: Hashable, Sendable {
    struct Pair: Hashable, Sendable {
        var source: [IPPrefix]
        var destination: [IPPrefix]
    }
    /// Interfaces with an underlay role, by name, so that one that comes back is covered from its first packet.
    var interfaces: [String]
    /// Let through, before `drop`.
    var accept: [Pair]
    var drop: [Pair]
    /// Interfaces that are the underlay's alone: no host of ours is behind them.
    var outerInterfaces: [String]
    /// What only a spoofer sends there: from our own subnets to protected ones. Routed into the tunnel it would reach the far
    /// site as authentic.
    var spoofed: [Pair]

    init(_ policy: PolicySet, underlay: [String], outer: [String] = []) {
        interfaces = underlay
        outerInterfaces = outer
        spoofed = policy.protections.map {
            Pair(source: $0.local.filter { $0.length > 0 }, destination: $0.remote)
        }
        accept = policy.addressOnlyBypasses.flatMap { bypass in
            let (a, b) = (bypass.source.prefixes, bypass.destination.prefixes)
            return [Pair(source: a, destination: b), Pair(source: b, destination: a)]
        }
        // One-armed: what stays between local subnets is the site's own, also when a child protects everything else.
        if outer.isEmpty {
            accept += policy.protections.map {
                let local = $0.local.filter { $0.length > 0 }
                return Pair(source: local, destination: local)
            }
        }
        drop = policy.protections.map { Pair(source: $0.remote, destination: $0.local) }
    }
}
