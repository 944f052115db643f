@testable import Configuration
@testable import Gateway
import Dataplane
import IPsec
import Platform
import Testing
import Wire

private let outside = OutsideLinks(tun: 9, underlay: [2])
private let lan = KernelView.Route(prefix: prefix("10.1.0.0/24"), gateway: nil, linkIndex: 3, metric: 0)

/// The laboratory's gateway with routes of the test's own besides the underlay's.
private func view(_ routes: [KernelView.Route], defaultLink: Int? = 2, links: [KernelView.Link] = []) -> KernelView {
    var view = eastView()
    view.routes = []
    view.routes += routes + [.init(prefix: prefix("192.0.2.0/24"), gateway: nil, linkIndex: 2, metric: 0)]
    if let defaultLink {
        view.routes.append(.init(prefix: prefix("0.0.0.0/0"), gateway: ip("192.0.2.2"), linkIndex: defaultLink, metric: 0))
    }
    for link in links { view.links[link.index] = link }
    return view
}

private func link(_ index: Int, _ name: String) -> KernelView.Link {
    .init(index: index, name: name, isUp: true, isRunning: true, mtu: 1500, mac: [2, 0, 0, 0, 0, UInt8(index)])
}

private let oneArmed = [AttachedInterface(portIndex: 0, linkIndex: 2, name: "wan0", role: [.underlay, .protected])]

@Suite("The exit of the workers: what may leave by a route in the clear")
struct WorkerExitTests {
    private func route(_ plan: ForwardingPlan, _ address: String) -> ForwardingPlan.Route? {
        plan.routes.filter { $0.prefix.contains(ip(address)) }.max { $0.prefix.length < $1.prefix.length }
    }

    private func plan(
        _ policy: PolicySet, _ view: KernelView, ports: [AttachedInterface] = eastPorts, peers: [IPAddress] = []
    ) -> ForwardingPlan { Steering.forwardingPlan(policy, view: view, ports: ports, peers: peers) }

    private let site = policy([(["10.1.0.0/16"], ["10.2.0.0/24"])])

    @Test func `a local subnet's own route by a protected port is free`() {
        #expect(route(plan(site, view([lan])), "10.1.0.5")?.clear == .allowed)
    }

    @Test func `the default route serves no local subnet, whether it lost its route or never had one, and ESP goes on`() {
        for routes in [[lan], []] {
            let found = route(plan(site, view(routes)), "10.1.9.5")
            #expect(found?.clear == .refused)
            #expect(found?.portIndex == 0 && found?.gateway == ip("192.0.2.2"), "a peer inside the subnet is reached by it")
        }
        #expect(route(plan(site, view([])), "10.1.0.5")?.clear == .refused)
        #expect(route(plan(site, view([], defaultLink: nil)), "10.1.0.5") == nil)
    }

    @Test func `two halves of a default route serve it as little`() {
        let halves = ["0.0.0.0/1", "128.0.0.0/1"].map {
            KernelView.Route(prefix: prefix($0), gateway: ip("192.0.2.2"), linkIndex: 2, metric: 0)
        }
        #expect(route(plan(site, view(halves)), "10.1.0.5")?.clear == .refused)
    }

    @Test func `a default route by a protected port, or by an interface that is not ours, is what it is`() {
        #expect(route(plan(site, view([], defaultLink: 3)), "10.1.9.5")?.clear == .allowed)
        // The kernel would forward it there in the clear.
        #expect(route(plan(site, view([], defaultLink: 7)), "10.1.9.5")?.clear == .refused)
        let own = KernelView.Route(prefix: prefix("10.1.9.0/24"), gateway: nil, linkIndex: 7, metric: 0)
        let found = route(plan(site, view([own])), "10.1.9.5")
        #expect(found?.clear == .allowed && found?.portIndex == nil)
    }

    @Test func `a route inside a local subnet that leads to the underlay is refused`() {
        let astray = KernelView.Route(prefix: prefix("10.1.9.0/24"), gateway: ip("192.0.2.2"), linkIndex: 2, metric: 0)
        #expect(route(plan(site, view([lan, astray])), "10.1.9.5")?.clear == .refused)
    }

    @Test func `one-armed, a route as specific as the subnet is needed`() {
        let own = KernelView.Route(prefix: prefix("10.1.0.0/24"), gateway: nil, linkIndex: 2, metric: 0)
        #expect(route(plan(site, view([own]), ports: oneArmed), "10.1.0.5")?.clear == .allowed)
        #expect(route(plan(site, view([own]), ports: oneArmed), "10.1.9.5")?.clear == .refused)
        let wide = KernelView.Route(prefix: prefix("10.0.0.0/8"), gateway: ip("192.0.2.9"), linkIndex: 2, metric: 0)
        #expect(route(plan(site, view([wide]), ports: oneArmed), "10.1.0.5")?.clear == .refused)
    }

    @Test func `a hub's way to everybody goes through the kernel, with its NAT, but by a protected port`() {
        let hub = policy([(["0.0.0.0/0"], ["10.1.0.0/24"])])
        #expect(route(plan(hub, view([])), "8.8.8.8")?.clear == .byKernel)
        #expect(route(plan(hub, view([]), ports: oneArmed), "8.8.8.8")?.clear == .byKernel)
        #expect(route(plan(hub, view([], defaultLink: 3)), "8.8.8.8")?.clear == .allowed)
        // Its own network beside that is no part of everybody.
        let both = policy([(["0.0.0.0/0", "10.9.0.0/16"], ["10.1.0.0/24"])])
        #expect(route(plan(both, view([])), "10.9.0.1")?.clear == .refused)
    }

    @Test func `a peer whose address a local subnet covers is reached, and nothing else there`() {
        let inside = policy([(["192.0.0.0/16"], ["0.0.0.0/0"])])
        let found = plan(inside, view([]), peers: [ip("192.0.77.1")])
        #expect(route(found, "192.0.77.1") == .init(
            prefix: prefix("192.0.77.1/32"), gateway: ip("192.0.2.2"), portIndex: 0, clear: .refused))
        #expect(route(found, "192.0.77.2")?.clear == .refused)
    }
}

@Suite("The exit of the kernel: rules and the packet filter")
struct KernelExitTests {
    private let file: [GatewayConfiguration.Interface] = [
        .init(name: "wan0", role: .underlay), .init(name: "lan0", role: .protected),
    ]

    private func filter(
        _ policy: PolicySet, _ view: KernelView, interfaces: [GatewayConfiguration.Interface]? = nil,
        outside: OutsideLinks = outside
    ) -> FilterRules { FilterRules(policy, view: view, interfaces: interfaces ?? file, outside: outside) }

    private func pair(_ sources: [String], _ destinations: [String]) -> FilterRules.Pair {
        .init(sources: sources.map(prefix), destinations: destinations.map(prefix))
    }

    @Test func `every interface is judged but the protected side's, the loopback and the tunnels'`() {
        let rules = filter(policy([(["10.1.0.0/24"], ["10.2.0.0/24"])]), eastView())
        #expect(rules.inside == ["culvert0", "lo", "lan0"])
        #expect(rules.outer == ["wan0"])
        #expect(rules.protected == [pair(["10.1.0.0/24"], ["10.2.0.0/24"])])
        #expect(rules.onEntry.isEmpty && rules.onExit.isEmpty && rules.bypass.isEmpty)
        #expect(rules.mark == RoutingPlan.socketMark)
    }

    @Test func `children that have a side in common share a pair of lists`() {
        let spokes = (0..<200).map { (local: ["10.1.0.0/24"], remote: ["10.2.\($0).0/24"]) }
        #expect(filter(policy(spokes), eastView()).protected.count == 1)
        let mixed = policy([
            (["10.1.0.0/24"], ["10.2.0.0/24"]), (["10.1.1.0/24"], ["10.2.0.0/24"]), (["10.1.0.0/24"], ["10.3.0.0/24"]),
        ])
        #expect(filter(mixed, eastView()).protected == [
            pair(["10.1.0.0/24"], ["10.2.0.0/24", "10.3.0.0/24"]), pair(["10.1.1.0/24"], ["10.2.0.0/24"]),
        ])
    }

    @Test func `networks of the site on interfaces that are not in the file are its own`() {
        var all = view([
            lan, .init(prefix: prefix("10.1.9.0/24"), gateway: nil, linkIndex: 7, metric: 0),
            .init(prefix: prefix("198.51.100.0/24"), gateway: nil, linkIndex: 7, metric: 0),
        ], links: [link(7, "dmz0"), link(8, "mgmt0")])
        all.addresses.append(.init(address: v4("172.16.0.1"), prefixLength: 24, linkIndex: 8))
        let narrow = filter(policy([(["10.1.0.0/16"], ["10.2.0.0/24"])]), all)
        #expect(narrow.onExit == [.init(interface: "dmz0", pair: pair(["0.0.0.0/0"], ["10.1.9.0/24"]))])
        #expect(narrow.onEntry == [.init(interface: "dmz0", pair: pair(["10.1.9.0/24"], ["0.0.0.0/0"]))])
        let wide = filter(policy([(["10.1.0.0/16"], ["0.0.0.0/0"])]), all)
        #expect(wide.onExit.contains(.init(interface: "mgmt0", pair: pair(["0.0.0.0/0"], ["172.16.0.0/24"]))))
        #expect(wide.onEntry.contains(.init(interface: "mgmt0", pair: pair(["172.16.0.0/24"], ["0.0.0.0/0"]))))
        #expect(wide.onExit.contains { $0.interface == nil && $0.pair.destinations.contains(prefix("224.0.0.0/4")) })
        #expect(!wide.onExit.contains { $0.interface == "wan0" } && !wide.onEntry.contains { $0.interface == "wan0" })
    }

    @Test func `one-armed, the site's own packets pass, and decrypted ones by a route of the site`() {
        let own = KernelView.Route(prefix: prefix("10.1.0.0/24"), gateway: nil, linkIndex: 2, metric: 0)
        let rules = filter(
            policy([(["10.1.0.0/24"], ["0.0.0.0/0"])]), view([own]), interfaces: [.init(name: "wan0", role: .both)],
            outside: OutsideLinks(tun: 9, underlay: []))
        #expect(rules.inside == ["culvert0", "lo"] && rules.outer.isEmpty)
        #expect(rules.onEntry.contains(.init(interface: "wan0", pair: pair(["10.1.0.0/24"], ["10.1.0.0/24"]))))
        #expect(!rules.onEntry.contains { $0.interface == "wan0" && $0.pair.destinations == [prefix("0.0.0.0/0")] })
        #expect(rules.onExit.contains { $0.interface == "wan0" && $0.pair.destinations.contains(prefix("10.1.0.0/24")) })
    }

    @Test func `decrypted packets find routes of the site in the kernel, and none that is shorter`() {
        let plan = RoutingPlan(
            policy([(["10.1.0.0/16", "10.1.5.0/24", "0.0.0.0/0"], ["10.2.0.0/24"]), (["172.16.0.0/12"], ["10.3.0.0/24"])]),
            view: eastView(), outside: outside)
        let floor = plan.rules.filter(\.fromTunnel)
        #expect(floor == [
            .init(priority: RoutingPlan.sitePriority, fromTunnel: true, shortestPrefixLength: 12),
            .init(priority: RoutingPlan.siteFloorPriority, table: RoutingPlan.siteTable, fromTunnel: true),
        ])
        let ends = plan.routes.filter { $0.table == RoutingPlan.siteTable }
        #expect(ends.map(\.prefix) == [prefix("10.1.0.0/16"), prefix("172.16.0.0/12")])
        #expect(ends.allSatisfy { $0.kind == .unreachable })
        #expect(plan.rules.allSatisfy { RoutingPlan.priorities.contains($0.priority) })
        let hub = RoutingPlan(policy([(["0.0.0.0/0"], ["10.1.0.0/24"])]), view: eastView(), outside: outside)
        #expect(!hub.rules.contains { $0.fromTunnel })
    }

    @Test func `a network behind a router of the site stays the site's inside a wider protected prefix`() {
        let inner = KernelView.Route(prefix: prefix("10.1.5.0/24"), gateway: ip("10.1.0.9"), linkIndex: 3, metric: 0)
        let astray = KernelView.Route(prefix: prefix("10.1.6.0/24"), gateway: ip("192.0.2.9"), linkIndex: 2, metric: 0)
        let foreign = KernelView.Route(prefix: prefix("10.7.0.0/24"), gateway: ip("10.1.0.9"), linkIndex: 3, metric: 0)
        for remote in ["10.0.0.0/8", "0.0.0.0/0"] {
            let set = policy([(["10.1.0.0/16"], [remote])])
            let all = view([lan, inner, astray, foreign])
            let thrown = RoutingPlan(set, view: all, outside: outside).routes.filter { $0.kind == .throw }.map(\.prefix)
            #expect(thrown.contains(prefix("10.1.5.0/24")) && thrown.contains(prefix("10.1.0.0/24")))
            #expect(!thrown.contains(prefix("10.1.6.0/24")) && !thrown.contains(prefix("10.7.0.0/24")))
            let steered = Steering.steeringPlan(set, view: all, outside: outside).prefixes
            #expect(steered.first { $0.prefix == prefix("10.1.5.0/24") }?.steer == .pass)
            #expect(steered.first { $0.prefix == prefix("10.7.0.0/24") }?.steer ?? .protect == .protect)
            let worker = Steering.forwardingPlan(set, view: all, ports: eastPorts).routes
            #expect(worker.first { $0.prefix == prefix("10.1.5.0/24") }?.portIndex == 1)
            #expect(worker.first { $0.prefix == prefix("10.7.0.0/24") }?.portIndex == nil)
        }
    }

    @Test func `the gateway's own packets to its neighbours go by the tunnel when its address there is a tunnel's`() {
        let ours = RoutingPlan(policy([(["192.0.2.1/32"], ["0.0.0.0/0"])]), view: eastView(), outside: outside)
        #expect(!ours.rules.contains { $0.priority == RoutingPlan.neighbourPriority })
        let others = RoutingPlan(policy([(["10.1.0.0/24"], ["0.0.0.0/0"])]), view: eastView(), outside: outside)
        #expect(others.rules.contains { $0.priority == RoutingPlan.neighbourPriority })
    }
}

@Suite("Policy rules of somebody else in front of Culvert's")
struct ForeignRuleTests {
    private let set = policy([(["10.1.0.0/24"], ["10.2.0.0/24"])])
    private let tables: [UInt32: [IPPrefix]] = [
        100: [prefix("0.0.0.0/0")], 52: [prefix("100.64.0.9/32")], NetlinkRoute.mainTable: [prefix("0.0.0.0/0")], 220: [],
    ]

    private func sentences(_ rule: NetlinkRule) -> [String] { ForeignRules.sentences([rule], policy: set) { tables[$0] } }

    @Test func `one that takes protected packets is named with what to do`() {
        let found = sentences(.init(priority: 100, table: 100, source: prefix("10.1.0.0/24")))
        #expect(found.count == 1)
        #expect(found.first?.contains("policy rule 100 (from 10.1.0.0/24 lookup 100)") == true)
        #expect(found.first?.contains("10.1.0.0/24 to 10.2.0.0/24") == true)
        #expect(found.first?.contains("ip rule del priority 100") == true)
    }

    @Test(arguments: [
        NetlinkRule(priority: 10, table: 100), NetlinkRule(priority: 10, table: 100, destination: prefix("10.2.0.7/32")),
        NetlinkRule(priority: 10, table: NetlinkRoute.mainTable, mark: 7),
        NetlinkRule(priority: 10, table: 100, source: prefix("10.9.0.0/24"), isInverted: true),
        NetlinkRule(priority: 10, table: 999, source: prefix("10.1.0.7/32"), inputInterface: "lan1"),
    ])
    func `so are those for all, to a destination, by mark or interface, and into tables nobody can read`(_ rule: NetlinkRule) {
        #expect(sentences(rule).count == 1)
    }

    @Test(arguments: [
        NetlinkRule(priority: 0, table: 255), NetlinkRule(priority: 100, table: 100, source: prefix("10.9.0.0/24")),
        NetlinkRule(priority: 100, table: 100, destination: prefix("10.3.0.0/24")), NetlinkRule(priority: 220, table: 220),
        NetlinkRule(priority: 5270, table: 52), NetlinkRule(priority: 32_766, table: NetlinkRoute.mainTable),
        NetlinkRule(priority: 100, table: NetlinkRoute.mainTable, shortestPrefixLength: 1),
        NetlinkRule(priority: RoutingPlan.bypassPriority, table: NetlinkRoute.mainTable),
    ])
    func `what comes later, or leads no protected packet anywhere, is nobody's business`(_ rule: NetlinkRule) {
        #expect(sentences(rule).isEmpty)
    }
}

@Suite("What somebody takes away and the gateway puts back")
struct PutBackTests {
    @Test func `the XDP program is attached again, or the interface has a problem while that is refused`() {
        let (dataplane, kernel) = (FakeDataplane(), FakeKernel())
        var told: [String] = []
        let keeper = PortKeeper(
            gatewayConfiguration().interfaces, dataplane: dataplane, kernel: kernel, log: { _, text in told.append(text) })
        keeper.synchronize(now: at(0))
        told = []
        keeper.keepPrograms()
        #expect(told.isEmpty)
        dataplane.withoutProgram = [1]
        keeper.keepPrograms()
        #expect(told.count == 1 && told[0].contains("lan0 had lost the XDP program"), "\(told)")
        dataplane.refuses = "lan0: another program is attached"
        keeper.keepPrograms()
        keeper.synchronize(now: at(1))
        #expect(keeper.problems["lan0"] == dataplane.refuses)
        dataplane.refuses = nil
        keeper.keepPrograms()
        #expect(keeper.problems["lan0"] == nil)
    }
}
