import IKE
import Platform
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
    /// What of `view` may be another since this was called before.
    func takeViewChanges() -> KernelChanges
    /// Sentences about what the operator has made and Culvert does not obey.
    var unsupported: [String] { get }
    /// True when a reading of the kernel's state failed and `takeChanges` should try again, events or not.
    var mustReadAgain: Bool { get }
    /// Makes the TUN device again when somebody has deleted it or set it down; a sentence when it had to, or could not.
    func keepTunnelDevice() -> String?
    /// Makes the kernel's routes and rules those of the plan; sentences about what it refused.
    func apply(_ plan: RoutingPlan) -> [String]
    /// Policy rules of IPv4, everybody's, in order of priority; empty when they cannot be read.
    func policyRules() -> [NetlinkRule]
    /// Of the IPv4 routes of a table, those that end the search; nil when they cannot be read.
    func prefixes(ofTable table: UInt32) -> [IPPrefix]?
    var forwardsIPv6: Bool { get }
    /// Replaces the packet filter against what crosses in the clear; a sentence when the kernel refused.
    func apply(_ rules: FilterRules) -> String?
    /// Whether the filter is still there, with all its rules: `nft flush` takes them away, and nobody tells.
    func isFilterInPlace() -> Bool
    /// Packets that this filter has dropped; never less than before.
    func filteredPackets() -> KernelFilter.Drops
    /// Takes Culvert's XDP program off interfaces that are not configured: an earlier run that was killed left it there, and
    /// without sockets it drops what is to be protected. Their names.
    func detachLeftovers(except configured: Set<String>) -> [String]
    /// Makes the kernel find the neighbour, and with `keep` keep it found.
    func resolve(_ key: NeighbourKey, keep: Bool)
    /// One that was looked for in vain goes from the kernel's table.
    func forget(_ key: NeighbourKey)
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
    /// Whether packets from the interface may lack their transport checksum.
    func leavesChecksums(_ name: String) -> Bool
    /// Stops keeping neighbours: the workers have ended.
    func letGoOfNeighbours()
    /// Removes every route, rule, filter and device of ours: nothing is protected after this.
    func release()
}
