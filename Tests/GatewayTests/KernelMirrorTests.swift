@testable import Gateway
@testable import Platform
import Testing
import Wire

@Suite("The kernel's state, event by event")
struct KernelMirrorTests {
    private func link(_ index: Int, up: Bool = true, running: Bool = true, mtu: Int = 1500) -> NetlinkEvent {
        .link(
            NetlinkLink(
                index: index, name: "eth\(index)", isUp: up, isRunning: running, mtu: mtu, mac: [2, 0, 0, 0, 0, UInt8(index)],
                receiveQueues: 4, transmitQueues: 4, masterIndex: nil, kind: "veth"))
    }

    private func neighbour(_ state: UInt16, mac: [UInt8] = [2, 0, 0, 0, 0, 9], managed: Bool = false) -> NetlinkEvent {
        .neighbour(
            NetlinkNeighbour(address: ip("192.0.2.2"), linkIndex: 2, mac: mac, state: state, isManaged: managed))
    }

    @Test func `a link that goes down takes routes along without a word, another MTU does not`() {
        var mirror = KernelMirror()
        #expect(mirror.take(link(2)) == .routes)
        #expect(mirror.take(link(2)) == .nothing)
        #expect(mirror.take(link(2, mtu: 9000)) == .view)
        #expect(mirror.take(link(2, up: false, running: false, mtu: 9000)) == .routes)
        #expect(mirror.take(.linkRemoved(index: 2)) == .routes)
        #expect(mirror.view.links.isEmpty)
    }

    @Test func `routes of other tables are nobody's business, unless one of ours goes`() {
        var mirror = KernelMirror()
        let other = NetlinkRoute(prefix: prefix("10.9.0.0/24"), table: 100, linkIndex: 2)
        let own = NetlinkRoute(prefix: prefix("10.2.0.0/24"), table: RoutingPlan.table, linkIndex: 9, metric: 100)
        #expect(mirror.take(.route(other)) == .nothing)
        #expect(mirror.take(.routeRemoved(other)) == .nothing)
        #expect(mirror.take(.route(own)) == .nothing)
        #expect(mirror.take(.routeRemoved(own)) == .routes)
        let discard = NetlinkRoute(
            prefix: prefix("10.3.0.0/24"), kind: .blackhole, table: RoutingPlan.discardTable, metric: 4_000)
        #expect(mirror.take(.routeRemoved(discard)) == .routes)
        #expect(mirror.view.routes.isEmpty)
    }

    @Test func `a replaced route's late end does not take its successor away`() {
        var mirror = KernelMirror()
        let first = NetlinkRoute(prefix: prefix("10.9.0.0/24"), gateway: ip("192.0.2.2"), linkIndex: 2)
        let second = NetlinkRoute(prefix: prefix("10.9.0.0/24"), gateway: ip("192.0.2.3"), linkIndex: 2)
        #expect(mirror.take(.route(first)) == .view)
        #expect(mirror.take(.route(second)) == .view)
        #expect(mirror.take(.routeRemoved(first)) == .nothing)
        #expect(mirror.view.routes.map(\.gateway) == [v4("192.0.2.3")])
        #expect(mirror.take(.routeRemoved(second)) == .view)
        #expect(mirror.take(.route(NetlinkRoute(prefix: prefix("10.8.0.0/24"), kind: .blackhole))) == .view)
        #expect(mirror.view.routes.first?.linkIndex == nil)
    }

    @Test func `a neighbour's new address matters, its freshness does not`() {
        var mirror = KernelMirror()
        #expect(mirror.take(neighbour(0x02)) == .view)
        #expect(mirror.take(neighbour(0x04)) == .nothing)
        #expect(mirror.take(neighbour(0x02, mac: [2, 0, 0, 0, 0, 8])) == .view)
        #expect(mirror.view.neighbours.first?.mac == [2, 0, 0, 0, 0, 8])
        #expect(mirror.take(neighbour(0x20, mac: [])) == .view)
        #expect(mirror.view.neighbours.isEmpty)
    }

    @Test func `a kept neighbour that fails is lost until it answers`() {
        var mirror = KernelMirror()
        mirror.take(neighbour(0x20, mac: []))
        #expect(mirror.lost.isEmpty)
        mirror.take(neighbour(0x20, mac: [], managed: true))
        #expect(mirror.lost.count == 1)
        mirror.take(neighbour(0x02, managed: true))
        #expect(mirror.lost.isEmpty)
        #expect(mirror.view.neighbours.first?.isKept == true)
    }

    @Test func `lost events mean reading everything again`() {
        var mirror = KernelMirror()
        #expect(mirror.take(.overrun) == .everything)
    }
}
