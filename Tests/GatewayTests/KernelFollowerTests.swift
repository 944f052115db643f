@testable import Gateway
import IKE
@testable import Platform
import Testing
import Wire

/// A kernel whose readings can fail at any point.
private final class Readings: KernelReading {
    var hasLinks = true
    /// The reading, counted from 1, that fails; 0: none.
    var failing = 0
    private var count = 0

    func failNext(_ position: Int) { (failing, count) = (position, 0) }

    private func answer<T>(_ list: [T]) throws(SystemError) -> [T] {
        count += 1
        if count == failing { throw SystemError(call: "netlink", code: 105) }
        return list
    }
    func links() throws(SystemError) -> [NetlinkLink] { try answer(hasLinks ? [Self.link] : []) }
    func addresses(_ family: AddressFamily) throws(SystemError) -> [NetlinkAddress] {
        try answer(family == .ipv4 ? [Self.address] : [])
    }
    func neighbours(_ family: AddressFamily) throws(SystemError) -> [NetlinkNeighbour] {
        try answer(family == .ipv4 ? [Self.neighbour] : [])
    }
    func mainRoutes(_ family: AddressFamily) throws(SystemError) -> [NetlinkRoute] {
        try answer(family == .ipv4 ? [Self.route] : [])
    }

    func localRoutes() throws(SystemError) -> [NetlinkRoute] { try answer([]) }
    func nexthops() throws(SystemError) -> [NetlinkNexthop] { try answer([]) }

    static let link = NetlinkLink(
        index: 2, name: "wan0", isUp: true, isRunning: true, mtu: 1500, mac: [2, 0, 0, 0, 0, 2], receiveQueues: 4,
        transmitQueues: 4, masterIndex: nil, kind: "veth")
    static let address = NetlinkAddress(address: ip("192.0.2.1"), prefixLength: 24, linkIndex: 2)
    static let neighbour = NetlinkNeighbour(
        address: ip("192.0.2.2"), linkIndex: 2, mac: [2, 0, 0, 0, 0, 9], state: 2, isManaged: false)
    static let route = NetlinkRoute(prefix: prefix("192.0.2.0/24"), linkIndex: 2)
}

@Suite("Following the kernel")
struct KernelFollowerTests {
    /// The readings there are in one of everything, and in one of addresses and routes.
    private static let everything = 1...9
    private static let routesOnly = 1...6

    private func follower(_ kernel: Readings) throws -> KernelFollower {
        var follower = KernelFollower()
        #expect(follower.mustRead)
        #expect(try follower.catchUp(kernel))
        #expect(!follower.mustRead)
        return follower
    }

    @Test func `a view is as the kernel is read`() throws {
        let follower = try follower(Readings())
        #expect(follower.view.links[2]?.name == "wan0")
        #expect(follower.view.addresses.map(\.address) == [v4("192.0.2.1")])
        #expect(follower.view.routes.count == 1 && follower.view.neighbours.count == 1)
        #expect(follower.receiveQueues == ["wan0": 4])
    }

    @Test(
        "a reading that fails anywhere leaves all that was known, also for the next event, and is made up for",
        arguments: [
            (NetlinkEvent.overrun, everything),
            (.ruleRemoved(NetlinkRule(priority: RoutingPlan.protectedPriority, table: RoutingPlan.table)), routesOnly),
        ])
    func failure(event: NetlinkEvent, positions: ClosedRange<Int>) throws {
        for position in positions {
            let kernel = Readings()
            var follower = try follower(kernel)
            let before = follower.view
            follower.take([event])
            kernel.failNext(position)
            #expect(throws: SystemError.self) { try follower.catchUp(kernel) }
            #expect(follower.mustRead && follower.view == before, "reading \(position)")
            // One that by itself is no reason to read anything.
            let moved = NetlinkNeighbour(
                address: ip("192.0.2.2"), linkIndex: 2, mac: [2, 0, 0, 0, 0, 8], state: 2, isManaged: false)
            follower.take([.neighbour(moved)])
            kernel.failNext(position)
            #expect(throws: SystemError.self) { try follower.catchUp(kernel) }
            #expect(follower.view.links == before.links && follower.view.addresses == before.addresses)
            #expect(follower.view.routes == before.routes, "reading \(position), the second time")
            #expect(try follower.catchUp(kernel))
            #expect(!follower.mustRead)
            #expect(follower.view.links == before.links && follower.view.addresses == before.addresses)
            #expect(follower.view.routes == before.routes && follower.view.neighbours.count == 1)
        }
    }

    @Test func `nothing new means nothing to do`() throws {
        let kernel = Readings()
        var follower = try follower(kernel)
        follower.take([.link(Readings.link)])
        kernel.failNext(1)
        #expect(try !follower.catchUp(kernel))
    }
}

@Suite("Complaints")
struct ComplaintsTests {
    @Test func `a sentence is told once, and again after ten minutes`() {
        var complaints = Complaints()
        let told = [("cat", 0), ("cat", 599), ("dog", 599), ("cat", 600), ("cat", 601)].map {
            complaints.mayTell($0.0, now: at($0.1))
        }
        #expect(told == [true, false, true, true, false])
        #expect(complaints.latest == "cat")
    }

    @Test func `after a thousand different ones there is still room, and the newest are remembered`() {
        var complaints = Complaints()
        let told = (0..<(Complaints.limit + 50)).map { complaints.mayTell("\($0)", now: at(Double($0) / 10)) }
        #expect(told.allSatisfy { $0 })
        let (newest, oldest) = (
            complaints.mayTell("\(Complaints.limit + 49)", now: at(106)), complaints.mayTell("0", now: at(106))
        )
        #expect(!newest && oldest, "the oldest made room")
    }
}
