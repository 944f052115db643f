@testable import Gateway
@testable import Platform
import Configuration
import Dataplane
import IKE
import Testing
import Wire

private struct Numbers: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return state ^ state >> 33
    }
}

@Suite("The workers' plan, change by change")
struct ForwardingPlannerTests {
    private let set = policy([(["10.1.0.0/16"], ["10.0.0.0/8"]), (["10.1.0.0/16"], ["172.16.0.0/12"])])

    @Test("after any changes it is as if it were made anew", arguments: [1, 2, 3, 4] as [UInt64])
    func equivalence(seed: UInt64) {
        var random = Numbers(state: seed)
        var view = eastView()
        var told = ForwardingPlan()
        var peers: Set<IPAddress> = [ip("192.0.2.2")]
        var planner = ForwardingPlanner(set, view: view, ports: eastPorts, peers: peers)
        told.apply(planner.difference(from: nil))
        let gateways: [IPAddress?] = [nil, ip("192.0.2.2"), ip("fe80::1"), ip("10.1.0.9")]
        let candidates = [ip("10.9.0.9"), ip("172.16.0.1"), ip("203.0.113.5"), ip("2001:db8::7"), ip("2001:db8:5::7")]
        for _ in 0..<300 {
            var changes = KernelChanges()
            switch Int.random(in: 0...3, using: &random) {
            case 0, 1:
                let texts = [
                    "10.1.5.0/24", "10.1.0.0/16", "10.9.0.0/16", "10.9.0.9/32", "0.0.0.0/0", "172.16.0.0/12", "8.8.0.0/16",
                ]
                let prefix = prefix(texts.randomElement(using: &random)!)
                let route = KernelView.Route(
                    prefix: prefix, gateway: gateways.randomElement(using: &random)!,
                    linkIndex: [2, 3, 7, nil].randomElement(using: &random)!, metric: 0,
                    isKernels: Int.random(in: 0...9, using: &random) == 0)
                view.routes[prefix] = Bool.random(using: &random) ? route : nil
                changes.routes = [prefix]
            case 2:
                let prefix = prefix(["2001:db8::/32", "2001:db8:5::/48", "::/0"].randomElement(using: &random)!)
                view.ipv6.routes[prefix] =
                    Bool.random(using: &random)
                    ? .init(
                        prefix: prefix, gateway: ip("fe80::1"), linkIndex: [2, 7].randomElement(using: &random)!, metric: 0)
                    : nil
                changes.routes = [prefix]
            default:
                let peer = candidates.randomElement(using: &random)!
                let isThere = Bool.random(using: &random)
                if isThere { peers.insert(peer) } else { peers.remove(peer) }
                told.apply(planner.follow(peers: [peer: isThere], view))
            }
            let key = NeighbourKey(
                address: candidates.randomElement(using: &random)!, linkIndex: [2, 7].randomElement(using: &random)!)
            let neighbour = Bool.random(using: &random)
                ? KernelView.Neighbour(address: key.address, linkIndex: key.linkIndex, mac: [2, 0, 0, 0, 0, 1]) : nil
            if key.address.isIPv4 { view.neighbours[key] = neighbour } else { view.ipv6.neighbours[key] = neighbour }
            changes.neighbours = [key]
            told.apply(planner.follow(changes, view))
            let fresh = ForwardingPlanner(set, view: view, ports: eastPorts, peers: peers)
            #expect(Set(told.routes) == Set(fresh.plan.routes))
            #expect(Set(told.neighbours) == Set(fresh.plan.neighbours) && Set(told.peers) == Set(fresh.plan.peers))
            #expect(fresh.difference(from: planner).isEmpty)
        }
    }

    @Test func `a gateway of the other family is the workers' next hop, and worth keeping`() {
        var view = eastView()
        view.routes[prefix("203.0.113.0/24")] = .init(
            prefix: prefix("203.0.113.0/24"), gateway: ip("fe80::1"), linkIndex: 2, metric: 0)
        let planner = ForwardingPlanner(set, view: view, ports: eastPorts, peers: [ip("203.0.113.5")])
        #expect(planner.routes[prefix("203.0.113.0/24")]?.gateway == ip("fe80::1"))
        #expect(planner.routes[prefix("203.0.113.0/24")]?.portIndex == 0)
        #expect(planner.needs(.init(address: ip("fe80::1"), linkIndex: 2)))
        #expect(!planner.needs(.init(address: ip("fe80::2"), linkIndex: 2)))
        #expect(planner.needs(.init(address: ip("192.0.2.7"), linkIndex: 2)))
        #expect(!planner.needs(.init(address: ip("192.0.2.7"), linkIndex: 7)))
    }
}

@Suite("The price of publishing")
struct PublishingPriceTests {
    /// A gateway with as many routes, neighbours and IPv6 peers.
    private func gateway(_ count: Int) throws -> (FakeKernel, FakeDataplane, PlanPublisher) {
        let (kernel, dataplane) = (FakeKernel(), FakeDataplane())
        var peers: Set<IPAddress> = []
        for number in 0..<count {
            let address = IPAddress.v4(IPv4Address(bits: 0x0A00_0000 + UInt32(number) << 8))
            let network = IPPrefix(address, length: 24)!
            kernel.view.routes[network] = .init(prefix: network, gateway: ip("192.0.2.2"), linkIndex: 2, metric: 0)
            let key = NeighbourKey(address: address, linkIndex: 2)
            kernel.view.neighbours[key] = .init(address: address, linkIndex: 2, mac: [2, 0, 0, 0, 0, 9], isKept: true)
            peers.insert(.v6(IPv6Address(high: 0x2001_0db8_0000_0000, low: UInt64(number))))
        }
        let ports = PortKeeper(
            gatewayConfiguration().interfaces, dataplane: dataplane, kernel: kernel, log: { _, _ in })
        ports.synchronize(now: at(0))
        let publisher = PlanPublisher(kernel: kernel, dataplane: dataplane, ports: ports)
        try publisher.publishAll(
            .init(policy: policy([(["10.1.0.0/24"], ["10.2.0.0/24"])]), outside: .init(tun: 9, underlay: [2]), peers: peers))
        dataplane.updates = []
        return (kernel, dataplane, publisher)
    }

    @Test(arguments: [10, 10_000])
    func `one route, neighbour or peer that changes is looked at alone, and told on alone`(count: Int) throws {
        let (kernel, dataplane, publisher) = try gateway(count)
        var before = publisher.looks
        let network = prefix("10.0.3.0/24")
        kernel.view.routes[network]?.gateway = ip("192.0.2.9")
        let key = NeighbourKey(address: ip("10.0.4.0"), linkIndex: 2)
        kernel.view.neighbours[key]?.mac = [2, 0, 0, 0, 0, 7]
        publisher.publish(KernelChanges(routes: [network], neighbours: [key]))
        #expect(publisher.looks - before == 2)
        #expect(dataplane.updates.count == 1 && dataplane.updates[0].routes.count == 1)
        #expect(dataplane.updates[0].neighbours.count == 1 && dataplane.updates[0].rules == nil)
        before = publisher.looks
        publisher.publish(peers: [ip("2001:db8:7::1"): true])
        #expect(publisher.looks - before == 1 && dataplane.updates.last?.peers.count == 1)
        publisher.publish(KernelChanges(routes: [network], neighbours: [key]))
        #expect(dataplane.updates.count == 2, "nothing is told twice")
    }

    @Test func `a link of somebody else is no reason to look at everything, one of ours is`() throws {
        let (kernel, _, publisher) = try gateway(10)
        kernel.view.links[77] = .init(index: 77, name: "veth77", isUp: true, isRunning: true, mtu: 1500, mac: [])
        #expect(!publisher.isWide(KernelChanges(links: [77])) && !publisher.isWide(KernelChanges(links: [78])))
        #expect(publisher.isWide(KernelChanges(links: [2])) && publisher.isWide(KernelChanges(links: [9])))
        #expect(publisher.isWide(KernelChanges(addresses: true)) && publisher.isWide(.everything))
        kernel.view.links[79] = .init(index: 79, name: "lan0", isUp: true, isRunning: true, mtu: 1500, mac: [])
        #expect(publisher.isWide(KernelChanges(links: [79])), "it has come back under another number")
        #expect(publisher.concernsSite(KernelChanges(routes: [prefix("10.1.0.128/25")])))
        #expect(!publisher.concernsSite(KernelChanges(routes: [prefix("10.9.0.0/16"), prefix("2001:db8::/32")])))
    }
}

@Suite("Neighbours that are kept")
struct NeighbourKeeperTests {
    @Test func `what answers is kept, what nobody answers for goes from the kernel's table`() {
        let kernel = FakeKernel()
        let keeper = NeighbourKeeper(kernel: kernel)
        let (host, nobody) = (
            NeighbourKey(address: ip("10.1.0.7"), linkIndex: 3), NeighbourKey(address: ip("10.1.0.8"), linkIndex: 3)
        )
        for key in [host, nobody] { keeper.find(key, now: at(0)) }
        #expect(kernel.resolved == [host.address, nobody.address] && kernel.kept.isEmpty)
        kernel.view.neighbours[host] = .init(address: host.address, linkIndex: 3, mac: [2, 0, 0, 0, 0, 7])
        keeper.follow([host], needs: { _ in true })
        #expect(kernel.kept == [host.address])
        keeper.tick(now: at(1))
        #expect(kernel.forgotten.isEmpty)
        keeper.tick(now: at(9))
        #expect(kernel.forgotten == [nobody.address])
    }

    /// RFC 2644: asked for it, the kernel would answer with the link's broadcast address.
    @Test func `a broadcast address is never asked for`() {
        let kernel = FakeKernel()
        kernel.view.routes[prefix("10.1.0.255/32")] = .init(
            prefix: prefix("10.1.0.255/32"), gateway: nil, linkIndex: nil, metric: 0, isKernels: true)
        let keeper = NeighbourKeeper(kernel: kernel)
        keeper.find(.init(address: ip("10.1.0.255"), linkIndex: 3), now: at(0))
        #expect(kernel.resolved.isEmpty)
    }
}
