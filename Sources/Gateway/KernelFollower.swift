import Platform
import Wire

/// The readings that `KernelFollower` makes: each a whole list, of one moment.
protocol KernelReading {
    func links() throws(SystemError) -> [NetlinkLink]
    func addresses(_ family: AddressFamily) throws(SystemError) -> [NetlinkAddress]
    func neighbours(_ family: AddressFamily) throws(SystemError) -> [NetlinkNeighbour]
    /// Of the main table.
    func mainRoutes(_ family: AddressFamily) throws(SystemError) -> [NetlinkRoute]
}

extension Netlink: KernelReading {
    func mainRoutes(_ family: AddressFamily) throws(SystemError) -> [NetlinkRoute] {
        try routes(family, table: NetlinkRoute.mainTable)
    }
}

/// What is known of the kernel: events as they come, and whole readings where events do not tell everything. A reading that fails
/// changes nothing and is owed: half of one would look as if addresses and links had gone, and sockets and ports with them.
struct KernelFollower {
    private var mirror = KernelMirror()
    /// The reading that is owed, if it is one, or that the view is out of date.
    private var owed = KernelMirror.Effect.everything
    private(set) var view = KernelView()
    private(set) var receiveQueues: [String: Int] = [:]

    /// True while the view may lack what events have not told.
    var mustRead: Bool { owed >= .routes }
    var lost: Set<KernelMirror.NeighbourKey> { mirror.lost }

    mutating func take(_ events: [NetlinkEvent]) {
        for event in events { owed = max(owed, mirror.take(event)) }
    }

    /// Events were lost.
    mutating func lose() { owed = .everything }

    /// Reads what is owed; true when the view may have changed. After an error the view is as before.
    mutating func catchUp(_ kernel: some KernelReading) throws(SystemError) -> Bool {
        guard owed > .nothing else { return false }
        if mustRead { mirror = try read(kernel) }
        owed = .nothing
        view = mirror.view
        receiveQueues = mirror.receiveQueues
        return true
    }

    /// Addresses and routes always: the kernel drops routes without a word when a link goes down or an address goes.
    private func read(_ kernel: some KernelReading) throws(SystemError) -> KernelMirror {
        var fresh = owed == .everything ? KernelMirror() : mirror
        fresh.forgetRoutes()
        if owed == .everything {
            for link in try kernel.links() { fresh.take(.link(link)) }
            for family in AddressFamily.allCases {
                for neighbour in try kernel.neighbours(family) { fresh.take(.neighbour(neighbour)) }
            }
        }
        for family in AddressFamily.allCases {
            for address in try kernel.addresses(family) { fresh.take(.address(address)) }
            for route in try kernel.mainRoutes(family) { fresh.take(.route(route)) }
        }
        return fresh
    }
}
