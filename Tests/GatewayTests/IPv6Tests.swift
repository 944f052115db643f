@testable import Gateway
@testable import Platform
import Dataplane
import Testing
import Wire

/// wan0 has 2001:db8::1, a neighbour 2001:db8::2, and a default route by fe80::99.
private func sixView() -> KernelView {
    var view = eastView()
    view.ipv6.addresses = [.init(address: v6("2001:db8::1"), linkIndex: 2, isUsable: true)]
    view.ipv6.routes = [
        .init(prefix: prefix("2001:db8::/64"), gateway: nil, linkIndex: 2, metric: 256),
        .init(prefix: prefix("::/0"), gateway: ip("fe80::99"), linkIndex: 2, metric: 1024),
        .init(prefix: prefix("::/0"), gateway: ip("fe80::98"), linkIndex: 3, metric: 2048),
        .init(prefix: prefix("2001:db8:dead::/48"), gateway: nil, linkIndex: nil, metric: 1024),
        .init(prefix: prefix("2001:db8:7::/48"), gateway: ip("2001:db8:1::7"), linkIndex: 7, metric: 1024),
    ]
    view.ipv6.neighbours = [
        .init(address: ip("2001:db8::2"), linkIndex: 2, mac: [2, 0, 0, 0, 0, 9]),
        .init(address: ip("fe80::99"), linkIndex: 2, mac: [2, 0, 0, 0, 0, 0x99]),
        .init(address: ip("fe80::99"), linkIndex: 3, mac: [2, 0, 0, 0, 0, 0x33]),
    ]
    return view
}

@Suite("An IPv6 underlay: ways to peers")
struct IPv6SteeringTests {
    private func peer(_ address: String, _ view: KernelView) -> ForwardingPlan.Peer? {
        let plan = Steering.forwardingPlan(policy([]), view: view, ports: eastPorts, peers: [ip("192.0.2.2"), ip(address)])
        #expect(plan.peers.count == 1, "IPv4 peers need no entry")
        return plan.peers.first
    }

    @Test func `a peer on link is its own next hop, one beyond is reached by the router`() {
        let near = ForwardingPlan.Peer(address: v6("2001:db8::2"), nextHop: v6("2001:db8::2"), portIndex: 0)
        #expect(peer("2001:db8::2", sixView()) == near)
        let far = ForwardingPlan.Peer(address: v6("2001:db8:5::2"), nextHop: v6("fe80::99"), portIndex: 0)
        #expect(peer("2001:db8:5::2", sixView()) == far, "the least metric")
        let neighbours = Steering.forwardingPlan(policy([]), view: sixView(), ports: eastPorts).neighbours
        let router = { (port: Int) in neighbours.first { $0.key == .init(address: ip("fe80::99"), portIndex: port) }?.mac.last }
        #expect(router(0) == 0x99 && router(1) == 0x33, "each link has its own")
    }

    @Test func `a next hop that is not resolved is named all the same, so that it can be`() {
        var view = sixView()
        view.ipv6.neighbours = []
        #expect(peer("2001:db8:5::2", view)?.nextHop == v6("fe80::99"))
        #expect(peer("2001:db8:5::2", view)?.portIndex == 0)
    }

    @Test func `no route, a blackhole and an interface that is not ours are no way`() {
        var view = sixView()
        #expect(peer("2001:db8:dead::1", view)?.portIndex == nil)
        #expect(peer("2001:db8:7::1", view)?.portIndex == nil)
        view.ipv6.routes = []
        #expect(peer("2001:db8::2", view)?.portIndex == nil)
    }

    @Test func `the XDP program hears of addresses once they may be used`() {
        var view = sixView()
        view.ipv6.addresses.append(.init(address: v6("2001:db8::3"), linkIndex: 2, isUsable: false))
        let plan = Steering.steeringPlan(policy([]), view: view, outside: OutsideLinks(tun: 9, underlay: [2]))
        #expect(plan.localAddressesIPv6 == [v6("2001:db8::1")])
    }

    @Test func `an address under duplicate detection is not present, and status says why`() {
        var view = sixView()
        let six = connection(local: "2001:db8::1", remote: "2001:db8::2")
        func problem() -> String? {
            LocalProblems.find([six], view: view, interfaceProblems: [:], underlay: ["wan0"])["west"]
        }
        #expect(problem() == nil && view.isLocal(ip("2001:db8::1")))
        view.ipv6.addresses[0].isUsable = false
        #expect(problem()?.contains("duplicate address detection") == true && !view.isLocal(ip("2001:db8::1")))
        view.ipv6.addresses = []
        #expect(problem()?.contains("2001:db8::1 is on no interface") == true)
    }
}

@Suite("An IPv6 underlay: what the kernel tells")
struct IPv6MirrorTests {
    @Test func `the two families are kept apart`() {
        var mirror = KernelMirror()
        mirror.take(.address(NetlinkAddress(address: ip("192.0.2.1"), prefixLength: 24, linkIndex: 2)))
        mirror.take(.address(NetlinkAddress(address: ip("2001:db8::1"), prefixLength: 64, linkIndex: 2)))
        mirror.take(.route(NetlinkRoute(prefix: prefix("0.0.0.0/0"), gateway: ip("192.0.2.2"), linkIndex: 2)))
        mirror.take(.route(NetlinkRoute(prefix: prefix("::/0"), gateway: ip("fe80::1"), linkIndex: 2, metric: 1024)))
        let mac: [UInt8] = [2, 0, 0, 0, 0, 9]
        for address in ["192.0.2.2", "fe80::1", "ff02::2"] {
            mirror.take(
                .neighbour(NetlinkNeighbour(address: ip(address), linkIndex: 2, mac: mac, state: 0x02, isManaged: false)))
        }
        let view = mirror.view
        #expect(view.addresses.map(\.address) == [v4("192.0.2.1")] && view.ipv6.addresses.map(\.address) == [v6("2001:db8::1")])
        #expect(view.routes.map(\.gateway) == [ip("192.0.2.2")] && view.ipv6.routes.map(\.gateway) == [ip("fe80::1")])
        #expect(view.neighbours.map(\.address) == [ip("192.0.2.2")])
        #expect(view.ipv6.neighbours.map(\.address) == [ip("fe80::1")], "multicast groups are no neighbours")
    }

    @Test func `link-local and loopback addresses are not the underlay's`() {
        var mirror = KernelMirror()
        for address in ["fe80::1", "::1", "fd00::1"] {
            mirror.take(.address(NetlinkAddress(address: ip(address), prefixLength: 64, linkIndex: 2)))
        }
        #expect(mirror.view.ipv6.addresses.map(\.address) == [v6("fd00::1")])
    }

    @Test func `an address counts from the end of duplicate detection`() {
        var mirror = KernelMirror()
        let tentative = NetlinkAddress(address: ip("2001:db8::1"), prefixLength: 64, linkIndex: 2, isUsable: false)
        #expect(mirror.take(.address(tentative)) == .view)
        #expect(!mirror.view.isLocal(ip("2001:db8::1")))
        #expect(mirror.take(.address(NetlinkAddress(address: ip("2001:db8::1"), prefixLength: 64, linkIndex: 2))) == .view)
        #expect(mirror.view.isLocal(ip("2001:db8::1")) && mirror.view.ipv6.addresses.count == 1)
    }
}

@Suite("An IPv6 underlay: path MTU")
struct IPv6PathMTUTests {
    /// "Packet too big" about a packet 2001:db8::1 -> 2001:db8::2, from its type on.
    private func message(_ mtu: UInt32, nextHeader: UInt8 = 50, payload: [UInt8] = [0, 0, 2, 0, 0, 0, 0, 1]) -> [UInt8] {
        let quoted = IPv6Header(
            source: v6("2001:db8::1"), destination: v6("2001:db8::2"), nextHeader: nextHeader, payloadBytes: 1460)
        return [2, 0, 0xAB, 0xCD] + (0..<4).map { UInt8(truncatingIfNeeded: mtu >> UInt32(24 - 8 * $0)) } + quoted.bytes + payload
    }
    private func report(_ message: [UInt8]) -> PathMTUReport? { PathMTUReport(icmpv6: message, natTraversalPort: 4500) }

    @Test func `packet too big about our ESP is read, in UDP and without`() throws {
        let found = try #require(report(message(1400)))
        #expect(found.mtu == 1400 && found.spi == 0x200 && found.remote == ip("2001:db8::2") && found.local == ip("2001:db8::1"))
        let udp: [UInt8] = [0x11, 0x94, 0x11, 0x94, 0, 100, 0, 0, 0, 0, 3, 0]
        #expect(report(message(1300, nextHeader: 17, payload: udp))?.spi == 0x300)
    }

    @Test func `anything else is not a report, however it is cut`() {
        let whole = message(1400)
        for length in 0..<(whole.count - 4) { #expect(report(Array(whole.prefix(length))) == nil) }
        #expect(report(message(1400, nextHeader: 6)) == nil)
        #expect(report(message(1400, nextHeader: 17, payload: [0, 53, 0, 53, 0, 20, 0, 0, 0, 0, 3, 0])) == nil)
        for (offset, value) in [(0, UInt8(1)), (1, 1), (8, 0x45)] {
            var other = whole
            other[offset] = value
            #expect(report(other) == nil, "octet \(offset)")
        }
    }

    /// RFC 8201 §4: the estimate never goes below 1280.
    @Test func `a path MTU is never believed below 1280`() throws {
        var table = PathMTUTable()
        #expect(table.learn(try #require(report(message(0))), now: at(0)) == 1280)
        #expect(table.learn(try #require(report(message(1400))), now: at(1)) == nil)
        var other = PathMTUTable()
        #expect(report(message(.max)) == nil && report(message(1500)) == nil, "the packet that it quotes would have passed")
        #expect(other.learn(try #require(report(message(1400))), now: at(0)) == 1400)
    }
}
