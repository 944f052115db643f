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
        #expect(mirror.take(link(2)) == .view)
        #expect(mirror.take(link(2)) == .nothing)
        mirror.take(.route(NetlinkRoute(prefix: prefix("10.9.0.0/24"), gateway: ip("192.0.2.2"), linkIndex: 2)))
        #expect(mirror.take(link(2, mtu: 9000)) == .view)
        #expect(mirror.take(link(2, up: false, running: false, mtu: 9000)) == .routes)
        #expect(mirror.take(.linkRemoved(index: 2)) == .routes)
        #expect(mirror.take(link(3)) == .view && mirror.take(link(3, up: false)) == .view, "nothing led there")
        mirror.take(.linkRemoved(index: 3))
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
        #expect(mirror.view.routes.map(\.gateway) == [ip("192.0.2.3")])
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

@Suite("Routes as the kernel keys them")
struct RouteAlternativesTests {
    private func route(
        _ text: String = "10.9.0.0/24", via gateway: String? = nil, link: Int = 2, metric: UInt32 = 0, protocolNumber: UInt8 = 4
    ) -> NetlinkRoute {
        NetlinkRoute(
            prefix: prefix(text), gateway: gateway.map(ip), linkIndex: link, metric: metric, protocolNumber: protocolNumber)
    }

    private func mirror(_ events: NetlinkEvent...) -> KernelMirror {
        var mirror = KernelMirror()
        for event in events { mirror.take(event) }
        return mirror
    }

    private func way(_ mirror: KernelMirror, _ text: String = "10.9.0.0/24") -> KernelView.Route? {
        mirror.view.routes[prefix(text)]
    }

    /// D5: until something else made it read again, both were forgotten.
    @Test func `of two equal routes one that is deleted leaves the other`() {
        let (first, second) = (route(via: "192.0.2.3"), route(via: "192.0.2.2"))
        var mirror = mirror(.route(first), .routeAppended(second))
        #expect(way(mirror)?.gateway == ip("192.0.2.3"))
        #expect(mirror.take(.routeRemoved(first)) == .view)
        #expect(way(mirror)?.gateway == ip("192.0.2.2"))
        #expect(mirror.take(.routeRemoved(second)) == .view && way(mirror) == nil)
    }

    @Test func `a route put in front decides, one in place of another takes it away`() {
        var mirror = mirror(.route(route(via: "192.0.2.3")), .route(route(via: "192.0.2.2")))
        #expect(way(mirror)?.gateway == ip("192.0.2.2"))
        #expect(mirror.take(.routeReplaced(route(via: "192.0.2.9"))) == .view)
        #expect(way(mirror)?.gateway == ip("192.0.2.9"))
        #expect(mirror.take(.routeRemoved(route(via: "192.0.2.9"))) == .view)
        #expect(way(mirror)?.gateway == ip("192.0.2.3"), "the second was replaced, the first was not")
    }

    @Test func `metrics, kinds and preferred sources tell routes apart`() {
        var other = route(via: "192.0.2.2")
        other.preferredSource = ip("192.0.2.1")
        let blackhole = NetlinkRoute(prefix: prefix("10.9.0.0/24"), kind: .blackhole, metric: 0, protocolNumber: 4)
        var mirror = mirror(
            .route(route(via: "192.0.2.2", metric: 5)), .route(route(via: "192.0.2.2")), .routeAppended(other),
            .routeAppended(blackhole))
        for removed in [route(via: "192.0.2.2"), other] { mirror.take(.routeRemoved(removed)) }
        #expect(way(mirror)?.linkIndex == nil && way(mirror)?.metric == 0, "the blackhole")
        mirror.take(.routeRemoved(blackhole))
        #expect(way(mirror)?.metric == 5)
    }

    @Test func `a word that does not fit what is known means reading again`() {
        var mirror = mirror(.route(route(via: "192.0.2.3")), .routeAppended(route(via: "192.0.2.2")))
        #expect(mirror.take(.routeRemoved(route(via: "192.0.2.77"))) == .routes)
    }

    @Test func `a gateway of the other family is one`() {
        let mirror = mirror(.route(route(via: "fe80::1")))
        #expect(way(mirror)?.gateway == ip("fe80::1") && way(mirror)?.linkIndex == 2)
    }

    @Test func `a nexthop object leads on, also when it changes without a word about the route`() {
        var bare = NetlinkRoute(prefix: prefix("10.9.0.0/24"), protocolNumber: 4)
        bare.nexthopID = 7
        let hop = { (gateway: String) in NetlinkNexthop(id: 7, hop: .init(gateway: ip(gateway), linkIndex: 2)) }
        var mirror = mirror(.nexthop(hop("192.0.2.2")), .route(bare))
        #expect(way(mirror)?.gateway == ip("192.0.2.2") && way(mirror)?.linkIndex == 2)
        #expect(mirror.take(.nexthop(hop("192.0.2.3"))) == .view)
        #expect(way(mirror)?.gateway == ip("192.0.2.3"))
        #expect(mirror.take(.nexthopRemoved(id: 7)) == .routes, "the kernel has dropped the route in silence")
        #expect(mirror.take(.nexthopRemoved(id: 8)) == .nothing)
    }

    @Test func `of a group the first member whose link is up leads on`() {
        var bare = NetlinkRoute(prefix: prefix("10.9.0.0/24"), protocolNumber: 4)
        bare.nexthopID = 9
        let link = { (index: Int, isUp: Bool) in
            NetlinkEvent.link(
                NetlinkLink(
                    index: index, name: "eth\(index)", isUp: isUp, isRunning: isUp, mtu: 1500, mac: [], receiveQueues: 1,
                    transmitQueues: 1, masterIndex: nil, kind: ""))
        }
        var mirror = mirror(
            link(2, true), link(3, true), .nexthop(.init(id: 1, hop: .init(gateway: ip("192.0.2.2"), linkIndex: 2))),
            .nexthop(.init(id: 2, hop: .init(gateway: ip("fe80::2"), linkIndex: 3))), .nexthop(.init(id: 9, group: [1, 2])),
            .route(bare))
        #expect(way(mirror)?.linkIndex == 2)
        #expect(mirror.take(link(2, false)) == .routes, "the object has gone with its link, in silence")
        // As it is read then.
        mirror.forgetRoutes()
        mirror.take(.nexthop(.init(id: 1, hop: .init(gateway: ip("192.0.2.2"), linkIndex: 2))))
        mirror.take(.nexthop(.init(id: 2, hop: .init(gateway: ip("fe80::2"), linkIndex: 3))))
        mirror.take(.nexthop(.init(id: 9, group: [1, 2])))
        mirror.take(.routeAppended(bare))
        #expect(way(mirror)?.linkIndex == 3 && way(mirror)?.gateway == ip("fe80::2"))
        #expect(mirror.take(.nexthop(.init(id: 9, group: [1]))) == .view)
        #expect(way(mirror) == nil, "no member that works: a shorter prefix decides")
    }

    @Test func `a nexthop that is a blackhole leads nowhere, one with a label to the kernel`() {
        var bare = NetlinkRoute(prefix: prefix("10.9.0.0/24"), protocolNumber: 4)
        bare.nexthopID = 7
        var mirror = mirror(.nexthop(.init(id: 7)), .route(bare))
        #expect(way(mirror)?.linkIndex == nil && way(mirror)?.isKernels == false)
        let labelled = NetlinkHop(gateway: ip("192.0.2.2"), linkIndex: 2, isEncapsulated: true)
        mirror.take(.nexthop(.init(id: 7, hop: labelled)))
        #expect(way(mirror)?.linkIndex == nil && way(mirror)?.isKernels == true)
    }

    @Test func `of several ways the first one that works is taken`() {
        var multipath = route()
        multipath.hops = [
            .init(gateway: ip("192.0.2.2"), linkIndex: 2), .init(gateway: ip("198.51.100.2"), linkIndex: 3),
        ]
        var mirror = KernelMirror()
        for index in [2, 3] {
            mirror.take(
                .link(
                    NetlinkLink(
                        index: index, name: "eth\(index)", isUp: true, isRunning: index == 3, mtu: 1500, mac: [],
                        receiveQueues: 1, transmitQueues: 1, masterIndex: nil, ignoresRoutesWithoutCarrier: index == 2,
                        kind: "")))
        }
        mirror.take(.route(multipath))
        #expect(way(mirror)?.linkIndex == 3, "ignore_routes_with_linkdown")
    }

    @Test func `IPv6 keeps and loses the ways of one route one by one`() {
        var both = NetlinkRoute(prefix: prefix("2001:db8::/32"), metric: 1024, protocolNumber: 4)
        both.hops = [.init(gateway: ip("fe80::1"), linkIndex: 2), .init(gateway: ip("fe80::2"), linkIndex: 2)]
        var (first, second) = (both, both)
        (first.hops, second.hops) = ([both.hops[0]], [both.hops[1]])
        var mirror = mirror(.routeAppended(first), .routeAppended(both))
        let gateway = { (mirror: KernelMirror) in mirror.view.ipv6.routes[prefix("2001:db8::/32")]?.gateway }
        #expect(gateway(mirror) == ip("fe80::1"))
        mirror.take(.routeRemoved(first))
        #expect(gateway(mirror) == ip("fe80::2"))
        mirror.take(.routeRemoved(second))
        #expect(gateway(mirror) == nil)
    }

    @Test func `a route for one type of service decides nothing, and is named`() {
        var special = route(via: "192.0.2.9")
        special.tos = 0x10
        var mirror = mirror(.route(route(via: "192.0.2.2")), .route(special))
        #expect(way(mirror)?.gateway == ip("192.0.2.2"))
        #expect(mirror.unsupported.first?.contains("10.9.0.0/24") == true)
        mirror.take(.routeRemoved(special))
        #expect(mirror.unsupported.isEmpty && way(mirror)?.gateway == ip("192.0.2.2"))
    }

    @Test func `throw, prohibit and unreachable end here, a local network is the kernel's before longer prefixes`() {
        for kind in [NetlinkRoute.Kind.throw, .prohibit, .unreachable, .blackhole] {
            let mirror = mirror(.route(NetlinkRoute(prefix: prefix("10.9.0.0/24"), kind: kind)))
            #expect(way(mirror)?.linkIndex == nil && way(mirror)?.isKernels == false, "\(kind): not a shorter prefix's")
        }
        let local = NetlinkRoute(prefix: prefix("10.0.0.0/8"), kind: .local, table: 255, linkIndex: 1)
        var mirror = mirror(.routeAppended(local), .route(route(via: "192.0.2.2")))
        #expect(way(mirror)?.isKernels == true && way(mirror, "10.0.0.0/8")?.isKernels == true)
        #expect(mirror.take(.routeRemoved(local)) == .routes, "longer ones are decided otherwise now")
    }

    /// RFC 2644: a directed broadcast is not forwarded as one.
    @Test func `a broadcast address is the kernel's, and its neighbour entry is none`() {
        var mirror = mirror(
            .route(NetlinkRoute(prefix: prefix("10.9.0.255/32"), kind: .broadcast, table: 255, linkIndex: 2)),
            .neighbour(
                NetlinkNeighbour(
                    address: ip("10.9.0.255"), linkIndex: 2, mac: [255, 255, 255, 255, 255, 255], state: 0x40,
                    isManaged: false)))
        #expect(way(mirror, "10.9.0.255/32")?.isKernels == true && mirror.view.neighbours.isEmpty)
        #expect(!mirror.takeChanges().isEmpty && mirror.takeChanges().isEmpty)
    }

    @Test func `an address that no route prefers, and not the link's last, takes nothing along`() {
        let address = { (text: String) in NetlinkAddress(address: ip(text), prefixLength: 24, linkIndex: 2) }
        var preferring = route(via: "192.0.2.2")
        preferring.preferredSource = ip("192.0.2.8")
        var mirror = mirror(
            .address(address("192.0.2.1")), .address(address("192.0.2.7")), .address(address("192.0.2.8")), .route(preferring))
        #expect(mirror.take(.addressRemoved(address("192.0.2.7"))) == .view)
        #expect(mirror.take(.addressRemoved(address("192.0.2.8"))) == .routes)
        mirror.take(.routeRemoved(preferring))
        mirror.take(.route(route(via: "192.0.2.2")))
        #expect(mirror.take(.addressRemoved(address("192.0.2.1"))) == .routes, "all of the link's go with its last address")
    }

    @Test func `the far end of a point-to-point address is what is on link`() {
        var address = NetlinkAddress(address: ip("192.0.2.1"), prefixLength: 32, linkIndex: 2)
        address.peer = ip("198.51.100.9")
        #expect(mirror(.address(address)).view.connectedPrefixes { _ in true } == [prefix("198.51.100.9/32")])
    }
}

@Suite("The price of a kernel notification")
struct KernelPriceTests {
    /// Work is what is told to have changed: whoever follows does no more than that.
    @Test(arguments: [10, 60_000])
    func `one route, nexthop or neighbour among many is one change`(count: Int) throws {
        var mirror = KernelMirror()
        for number in 0..<count {
            let address = IPv4Address(bits: 0x0A00_0000 + UInt32(number) << 8)
            let route = NetlinkRoute(
                prefix: IPPrefix(.v4(address), length: 24)!, gateway: ip("192.0.2.2"), linkIndex: 2, protocolNumber: 4)
            mirror.take(.routeAppended(route))
            mirror.take(
                .neighbour(
                    NetlinkNeighbour(
                        address: .v4(address), linkIndex: 2, mac: [2, 0, 0, 0, 0, 9], state: 2, isManaged: false)))
        }
        #expect(mirror.takeChanges().routes.count == count)
        let one = NetlinkRoute(prefix: prefix("10.0.1.0/24"), gateway: ip("192.0.2.3"), linkIndex: 2, protocolNumber: 4)
        #expect(mirror.take(.routeReplaced(one)) == .view)
        #expect(mirror.takeChanges() == KernelChanges(routes: [one.prefix]))
        let moved = NetlinkNeighbour(
            address: ip("10.0.2.0"), linkIndex: 2, mac: [2, 0, 0, 0, 0, 8], state: 2, isManaged: false)
        #expect(mirror.take(.neighbour(moved)) == .view)
        #expect(mirror.takeChanges() == KernelChanges(neighbours: [.init(address: moved.address, linkIndex: 2)]))
        #expect(mirror.view.routes.route(to: ip("10.0.1.7"))?.gateway == ip("192.0.2.3"))
        #expect(mirror.view.routes.count == count)
    }

    @Test func `a storm of events is one change per thing that changed`() {
        var mirror = KernelMirror()
        let flap = NetlinkRoute(prefix: prefix("10.0.1.0/24"), gateway: ip("192.0.2.3"), linkIndex: 2, protocolNumber: 4)
        for _ in 0..<1_000 {
            mirror.take(.route(flap))
            mirror.take(.routeRemoved(flap))
        }
        #expect(mirror.takeChanges() == KernelChanges(routes: [flap.prefix]))
    }
}
