import Platform
import Wire

/// The readings that `KernelFollower` makes: each a whole list, of one moment.
protocol KernelReading {
    func links() throws(SystemError) -> [NetlinkLink]
    func addresses(_ family: AddressFamily) throws(SystemError) -> [NetlinkAddress]
    func neighbours(_ family: AddressFamily) throws(SystemError) -> [NetlinkNeighbour]
    /// Of the main table.
    func mainRoutes(_ family: AddressFamily) throws(SystemError) -> [NetlinkRoute]
    /// Of the local table, IPv4.
    func localRoutes() throws(SystemError) -> [NetlinkRoute]
    func nexthops() throws(SystemError) -> [NetlinkNexthop]
}

extension Netlink: KernelReading {
    func mainRoutes(_ family: AddressFamily) throws(SystemError) -> [NetlinkRoute] {
        try routes(family, table: NetlinkRoute.mainTable)
    }
    func localRoutes() throws(SystemError) -> [NetlinkRoute] { try routes(.ipv4, table: RouteAlternatives.localTable) }
}

/// What is known of the kernel: events as they come, and whole readings where events do not tell everything. A reading that fails
/// changes nothing and is owed: half of one would look as if addresses and links had gone, and sockets and ports with them.
struct KernelFollower {
    private var mirror = KernelMirror()
    /// The reading that is owed, if it is one, or that the view is out of date.
    private var owed = KernelMirror.Effect.everything
    private var changes = KernelChanges()

    /// As of the last reading that went well, and the events since.
    var view: KernelView { mirror.view }
    var receiveQueues: [String: Int] { mirror.receiveQueues }
    var unsupported: [String] { mirror.unsupported }
    /// True while the view may lack what events have not told.
    var mustRead: Bool { owed >= .routes }
    var lost: Set<NeighbourKey> { mirror.lost }
    /// Readings of routes so far.
    private(set) var readings = 0

    /// What may be another since this was asked last.
    mutating func takeChanges() -> KernelChanges {
        defer { changes = KernelChanges() }
        changes.formUnion(mirror.takeChanges())
        return changes
    }

    mutating func take(_ events: [NetlinkEvent]) {
        for event in events { owed = max(owed, mirror.take(event)) }
    }

    /// Events were lost.
    mutating func lose() { owed = .everything }

    /// Reads what is owed; true when the view may have changed. After an error nothing that was known is lost.
    mutating func catchUp(_ kernel: some KernelReading) throws(SystemError) -> Bool {
        guard owed > .nothing else { return false }
        if mustRead {
            changes.formUnion(mirror.takeChanges())
            mirror = try read(kernel)
            changes.formUnion(.everything)
        }
        owed = .nothing
        return true
    }

    /// Addresses and routes always: the kernel drops routes without a word when a link goes down or an address goes.
    private mutating func read(_ kernel: some KernelReading) throws(SystemError) -> KernelMirror {
        var fresh = owed == .everything ? KernelMirror() : mirror
        fresh.forgetRoutes()
        readings += 1
        if owed == .everything {
            for link in try kernel.links() { fresh.take(.link(link)) }
            for family in AddressFamily.allCases {
                for neighbour in try kernel.neighbours(family) { fresh.take(.neighbour(neighbour)) }
            }
        }
        for nexthop in try kernel.nexthops() { fresh.take(.nexthop(nexthop)) }
        for family in AddressFamily.allCases {
            for address in try kernel.addresses(family) { fresh.take(.address(address)) }
            // The kernel lists them in the order in which it looks at them.
            for route in try kernel.mainRoutes(family) { fresh.take(.routeAppended(route)) }
        }
        for route in try kernel.localRoutes() { fresh.take(.routeAppended(route)) }
        return fresh
    }
}
