@testable import Gateway
import Dataplane
import IPsec
import Testing
import Wire

private let outside = OutsideLinks(tun: 9, underlay: [2])

@Suite("Steering: what the XDP program decides by")
struct SteeringTests {
    /// What the program would find for a destination: the entry of the longest prefix.
    private func entry(_ plan: SteeringPlan, _ address: String) -> SteeringPlan.Prefix? {
        plan.prefixes.filter { $0.prefix.contains(IPAddress(address)!) }.max { $0.prefix.length < $1.prefix.length }
    }

    @Test func `packets for a remote subnet go to the workers, others to the kernel`() {
        let plan = Steering.steeringPlan(policy([(["10.1.0.0/24"], ["10.2.0.0/24"])]), view: eastView(), outside: outside)
        #expect(entry(plan, "10.2.0.9")?.steer == .protect)
        #expect(entry(plan, "10.3.0.9") == nil)
        #expect(plan.localAddresses.contains(v4("192.0.2.1")))
    }

    @Test func `zero slash zero leaves connected networks and multicast to the kernel`() {
        let plan = Steering.steeringPlan(policy([(["10.1.0.0/24"], ["0.0.0.0/0"])]), view: eastView(), outside: outside)
        #expect(entry(plan, "8.8.8.8")?.steer == .protect)
        #expect(entry(plan, "10.1.0.77")?.steer == .pass)
        #expect(
            entry(plan, "192.0.2.2")?.steer == .protect, "hosts behind the gateway reach the outside through the tunnel alone")
        #expect(entry(plan, "224.0.0.5")?.steer == .pass)
        #expect(entry(plan, "255.255.255.255")?.steer == .pass)
    }

    @Test func `a protected prefix inside a connected one, or equal to it, is protected`() {
        let plan = Steering.steeringPlan(
            policy([(["10.1.0.0/24"], ["192.0.2.128/25"]), (["192.0.2.0/24"], ["10.1.0.0/24"])]), view: eastView(),
            outside: outside)
        #expect(entry(plan, "192.0.2.200")?.steer == .protect)
        #expect(entry(plan, "192.0.2.9")?.steer != .protect)
        #expect(entry(plan, "10.1.0.5")?.steer == .protect)
    }

    @Test func `every entry carries the sets of all prefixes that cover it`() {
        let set = policy([(["10.1.0.0/16"], ["10.2.0.0/16"]), (["10.1.5.0/24"], ["10.2.5.0/24"])])
        let plan = Steering.steeringPlan(set, view: eastView(), outside: outside)
        #expect(entry(plan, "10.2.5.1")?.remoteSets == 0b11)
        #expect(entry(plan, "10.2.6.1")?.remoteSets == 0b01)
        #expect(entry(plan, "10.1.5.1")?.localSets == 0b11)
        #expect(entry(plan, "10.1.6.1")?.localSets == 0b01)
    }

    @Test func `more children than bits share bits and none is without`() {
        let pairs = (0..<100).map { (local: ["10.1.0.0/24"], remote: ["10.2.\($0).0/24"]) }
        let plan = Steering.steeringPlan(policy(pairs), view: eastView(), outside: outside)
        for index in 0..<100 {
            let found = entry(plan, "10.2.\(index).1")
            #expect(found?.remoteSets == 1 << UInt64(index % 64))
            #expect((found?.remoteSets ?? 0) & (entry(plan, "10.1.0.1")?.localSets ?? 0) != 0)
        }
    }

    @Test func `a bypass for any protocol has a bit, one for a port has none`() {
        let open = SecurityPolicy(action: .bypass, source: selector("10.1.0.0/24"), destination: selector("10.2.9.0/24"))
        let dns = SecurityPolicy(
            action: .bypass, source: selector("10.1.0.0/24"), destination: selector("10.2.8.0/24", ipProtocol: 17, ports: 53...53)
        )
        let set = policy([(["10.1.0.0/24"], ["10.2.0.0/16"])], [open, dns])
        let plan = Steering.steeringPlan(set, view: eastView(), outside: outside)
        #expect(entry(plan, "10.1.0.5")?.bypassSource == 0b01 && entry(plan, "10.2.9.1")?.bypassDestination == 0b01)
        #expect(entry(plan, "10.2.9.1")?.bypassSource == 0 && entry(plan, "10.1.0.5")?.bypassDestination == 0)
        #expect(entry(plan, "10.2.8.1")?.bypassDestination == 0)
        #expect(entry(plan, "10.2.8.1")?.steer == .protect)
    }

    @Test func `a bypass after a discard that cuts into it is left to the workers`() {
        let discard = SecurityPolicy(action: .discard, source: selector("10.1.0.0/24"), destination: selector("10.2.9.9/32"))
        let bypass = SecurityPolicy(action: .bypass, source: selector("10.1.0.0/24"), destination: selector("10.2.9.0/24"))
        let set = policy([(["10.1.0.0/24"], ["10.2.0.0/16"])], [discard, bypass])
        #expect(set.addressOnlyBypasses.isEmpty)
        #expect(policy([(["10.1.0.0/24"], ["10.2.0.0/16"])], [bypass, discard]).addressOnlyBypasses.count == 1)
    }
}

@Suite("Forwarding: what the workers decide by")
struct ForwardingTests {
    private func verdict(_ plan: ForwardingPlan, _ source: String, _ destination: String) -> ForwardingPlan.Action? {
        plan.rules.first { $0.source.contains(IPAddress(source)!) && $0.destination.contains(IPAddress(destination)!) }?.action
    }

    @Test func `policies come before connections and the first match wins`() {
        let bypass = SecurityPolicy(action: .bypass, source: selector("10.1.0.0/24"), destination: selector("10.2.9.0/24"))
        let plan = Steering.forwardingPlan(
            policy([(["10.1.0.0/24"], ["10.2.0.0/16"]), (["10.1.0.0/16"], ["10.2.0.0/16"])], [bypass]), view: eastView(),
            ports: eastPorts)
        #expect(verdict(plan, "10.1.0.5", "10.2.9.1") == .bypass)
        #expect(verdict(plan, "10.1.0.5", "10.2.8.1") == .protect(childIndex: 0))
        #expect(verdict(plan, "10.1.7.5", "10.2.8.1") == .protect(childIndex: 1))
        #expect(verdict(plan, "10.9.0.5", "10.2.8.1") == nil)
    }

    @Test func `what a discard policy steers in without meaning it goes on, but never to a protected prefix`() {
        let discard = SecurityPolicy(
            action: .discard, source: selector("0.0.0.0/0"),
            destination: selector("203.0.113.0/24", ipProtocol: 17, ports: 1...1023))
        let plan = Steering.forwardingPlan(
            policy([(["10.1.0.0/24"], ["203.0.113.128/25"])], [discard]), view: eastView(), ports: eastPorts)
        let tcp = plan.rules.filter { $0.destination.ipProtocol == 0 }
        #expect(tcp.first { $0.destination.contains(IPAddress("203.0.113.5")!) }?.action == .bypass)
        let elsewhere = tcp.first {
            $0.source.contains(IPAddress("10.7.0.1")!) && $0.destination.contains(IPAddress("203.0.113.200")!)
        }
        #expect(elsewhere?.action == .discard)
    }

    @Test func `routes take the least metric and name the port, or none for an interface that is not ours`() {
        var view = eastView()
        view.routes += [
            .init(prefix: prefix("0.0.0.0/0"), gateway: ip("192.0.2.99"), linkIndex: 2, metric: 100),
            .init(prefix: prefix("172.16.0.0/12"), gateway: nil, linkIndex: 7, metric: 0),
            .init(prefix: prefix("198.51.100.0/24"), gateway: nil, linkIndex: nil, metric: 0),
        ]
        let plan = Steering.forwardingPlan(policy([]), view: view, ports: eastPorts)
        #expect(plan.routes.first { $0.prefix.length == 0 }?.gateway == ip("192.0.2.2"))
        #expect(plan.routes.first { $0.prefix == prefix("10.1.0.0/24") }?.portIndex == 1)
        #expect(plan.routes.contains { $0.prefix == prefix("172.16.0.0/12") && $0.portIndex == nil })
        #expect(plan.routes.contains { $0.prefix == prefix("198.51.100.0/24") && $0.portIndex == nil })
    }

    @Test func `what one tunnel brings for another goes by the kernel back into Culvert, ESP itself does not`() {
        let plan = Steering.forwardingPlan(
            policy([(["10.1.0.0/24"], ["0.0.0.0/0"])]), view: eastView(), ports: eastPorts,
            peers: [ip("203.0.113.5"), ip("192.0.2.2")])
        func route(_ address: String) -> ForwardingPlan.Route? {
            plan.routes.filter { $0.prefix.contains(IPAddress(address)!) }.max { $0.prefix.length < $1.prefix.length }
        }
        #expect(route("8.8.8.8") == .init(prefix: prefix("0.0.0.0/0"), gateway: nil, portIndex: nil))
        #expect(route("10.1.0.7")?.portIndex == 1)
        #expect(
            route("203.0.113.5")
                == .init(prefix: prefix("203.0.113.5/32"), gateway: ip("192.0.2.2"), portIndex: 0, clear: .byKernel))
        #expect(route("192.0.2.2")?.portIndex == 0 && route("192.0.2.2")?.gateway == nil)
    }

    @Test func `neighbours on foreign interfaces stay out, ports get their first address`() {
        var view = eastView()
        view.neighbours = [
            .init(address: ip("192.0.2.2"), linkIndex: 2, mac: [1, 2, 3, 4, 5, 6]),
            .init(address: ip("172.16.0.9"), linkIndex: 7, mac: [9]),
        ]
        let plan = Steering.forwardingPlan(policy([]), view: view, ports: eastPorts)
        #expect(plan.neighbours.map(\.address) == [ip("192.0.2.2")])
        #expect(plan.portAddresses.contains { $0.portIndex == 0 && $0.address == v4("192.0.2.1") })
    }
}

@Suite("Routing: what keeps protected prefixes out of the clear in the kernel")
struct RoutingPlanTests {
    private func routes(_ plan: RoutingPlan, _ text: String) -> [RoutingPlan.Route.Kind] {
        plan.routes.filter { $0.prefix == prefix(text) && $0.table != RoutingPlan.siteTable }.map(\.kind)
    }

    @Test func `each protected prefix has a route into the TUN device with a fitting source, and a blackhole behind it`() {
        let plan = RoutingPlan(policy([(["10.1.0.0/24"], ["10.2.0.0/24", "10.3.0.0/24"])]), view: eastView(), outside: outside)
        #expect(routes(plan, "10.2.0.0/24") == [.tunnel(source: v4("10.1.0.1")), .blackhole])
        #expect(routes(plan, "10.3.0.0/24") == [.tunnel(source: v4("10.1.0.1")), .blackhole])
        #expect(plan.routes.filter { $0.kind == .throw }.isEmpty)
        #expect(RoutingPlan.tunMetric < RoutingPlan.blackholeMetric)
    }

    @Test func `zero slash zero excepts connected networks, and answers from the underlay address go by the main table`() {
        let plan = RoutingPlan(policy([(["10.1.0.0/24"], ["0.0.0.0/0"])]), view: eastView(), outside: outside)
        #expect(routes(plan, "192.0.2.0/24").isEmpty)
        #expect(plan.rules.contains { $0.source == prefix("0.0.0.0/32") && $0.destination == prefix("192.0.2.0/24") })
        #expect(routes(plan, "10.1.0.0/24") == [.throw])
        #expect(routes(plan, "224.0.0.0/4") == [.throw])
        let sources = plan.rules.filter { $0.priority == RoutingPlan.localSourcePriority }.map(\.source)
        #expect(sources.contains(prefix("192.0.2.1/32")))
        #expect(!sources.contains(prefix("10.1.0.1/32")), "an address inside the local subnets belongs to the tunnel")
        #expect(
            plan.rules.contains(
                .init(priority: RoutingPlan.protectedPriority, mark: .unmarked, table: RoutingPlan.table)))
    }

    @Test func `a connected network that is itself protected is not excepted`() {
        let plan = RoutingPlan(policy([(["192.0.2.0/24"], ["0.0.0.0/0", "10.1.0.0/24"])]), view: eastView(), outside: outside)
        #expect(!routes(plan, "10.1.0.0/24").contains(.throw))
    }

    @Test func `the TUN device's own addresses are no exception`() {
        var view = eastView()
        view.addresses.append(.init(address: v4("10.9.0.1"), prefixLength: 24, linkIndex: 9))
        let plan = RoutingPlan(policy([(["10.1.0.0/24"], ["0.0.0.0/0"])]), view: view, outside: outside)
        #expect(routes(plan, "10.9.0.0/24").isEmpty)
    }

    /// What a killed gateway leaves there, or what a tunnel that went down does.
    @Test func `an address on the TUN device never leaves by the main table`() {
        var view = eastView()
        view.addresses.append(.init(address: v4("10.9.0.5"), prefixLength: 32, linkIndex: 9))
        let plan = RoutingPlan(policy([([], ["10.2.0.0/16"])]), view: view, outside: outside)
        #expect(!plan.rules.contains { $0.source == prefix("10.9.0.5/32") })
        #expect(plan.rules.contains { $0.priority == RoutingPlan.localSourcePriority })
    }

    @Test func `IPv6 pools end in a blackhole, whatever else there is`() {
        var set = policy([])
        set.uncarried = [prefix("2001:db8:9::/64")]
        #expect(RoutingPlan(set, view: eastView(), outside: outside).ipv6Blackholes == set.uncarried)
    }

    @Test func `a bypass becomes a rule only when addresses alone decide it`() {
        let open = SecurityPolicy(action: .bypass, source: selector("10.1.0.0/24"), destination: selector("10.2.9.0/24"))
        let dns = SecurityPolicy(
            action: .bypass, source: selector("10.1.0.0/24"), destination: selector("10.2.8.0/24", ipProtocol: 17))
        let plan = RoutingPlan(policy([(["10.1.0.0/24"], ["10.2.0.0/16"])], [open, dns]), view: eastView(), outside: outside)
        let bypasses = plan.rules.filter { $0.priority == RoutingPlan.bypassPriority }
        #expect(bypasses.map(\.destination) == [prefix("10.2.9.0/24")])
        #expect(bypasses.first?.source == prefix("10.1.0.0/24"))
        #expect(routes(plan, "10.2.0.0/16").count == 2)
    }

    @Test func `a discard becomes a rule and a blackhole, after the bypasses, and spares our own sockets`() {
        let bypass = SecurityPolicy(action: .bypass, source: selector("10.1.0.0/24"), destination: selector("203.0.113.8/32"))
        let discard = SecurityPolicy(action: .discard, source: selector("10.1.0.0/24"), destination: selector("203.0.113.0/24"))
        for protections in [[], [(local: ["10.1.0.0/24"], remote: ["10.2.0.0/24"])]] {
            let plan = RoutingPlan(policy(protections, [bypass, discard]), view: eastView(), outside: outside)
            let wanted = RoutingPlan.Rule(
                priority: RoutingPlan.discardPriority, source: prefix("10.1.0.0/24"), destination: prefix("203.0.113.0/24"),
                table: RoutingPlan.discardTable)
            #expect(plan.rules.contains(wanted))
            #expect(plan.rules.contains(.init(priority: RoutingPlan.markedPriority, mark: .marked)))
            let bypasses = plan.rules.filter { $0.priority == RoutingPlan.bypassPriority }
            #expect(bypasses.map(\.destination) == [prefix("203.0.113.8/32")])
            #expect(RoutingPlan.bypassPriority < RoutingPlan.markedPriority)
            #expect(RoutingPlan.markedPriority < RoutingPlan.discardPriority)
            let discarded = plan.routes.filter { $0.table == RoutingPlan.discardTable }
            #expect(discarded.map(\.prefix) == [prefix("203.0.113.0/24")] && discarded.map(\.kind) == [.blackhole])
            #expect(plan.rules.allSatisfy { RoutingPlan.priorities.contains($0.priority) })
        }
    }

    @Test func `a discard for ports, or one that a bypass for ports cuts into, is the workers' alone`() {
        let ports = SecurityPolicy(
            action: .discard, source: selector("0.0.0.0/0"),
            destination: selector("203.0.113.0/24", ipProtocol: 17, ports: 1...99))
        let dns = SecurityPolicy(
            action: .bypass, source: selector("0.0.0.0/0"),
            destination: selector("198.51.100.0/24", ipProtocol: 17, ports: 53...53))
        let rest = SecurityPolicy(action: .discard, source: selector("0.0.0.0/0"), destination: selector("198.51.100.0/24"))
        let plan = RoutingPlan(policy([], [ports, dns, rest]), view: eastView(), outside: outside)
        #expect(plan.rules.isEmpty && plan.routes.isEmpty)
        #expect(!RoutingPlan(policy([], [rest, dns]), view: eastView(), outside: outside).rules.isEmpty)
    }

    @Test func `connected networks inside a discarded prefix stay reachable, one that is discarded itself does not`() {
        let all = SecurityPolicy(action: .discard, source: selector("0.0.0.0/0"), destination: selector("10.0.0.0/8"))
        let plan = RoutingPlan(policy([], [all]), view: eastView(), outside: outside)
        #expect(routes(plan, "10.1.0.0/24") == [.throw])
        #expect(plan.rules.first { $0.priority == RoutingPlan.discardPriority }?.source == nil, "as the kernel tells it")
        let own = SecurityPolicy(action: .discard, source: selector("0.0.0.0/0"), destination: selector("10.1.0.0/24"))
        #expect(routes(RoutingPlan(policy([], [all, own]), view: eastView(), outside: outside), "10.1.0.0/24") == [.blackhole])
    }

    @Test func `without protected prefixes nothing is installed`() {
        let plan = RoutingPlan(policy([]), view: eastView(), outside: outside)
        #expect(plan.rules.isEmpty && plan.routes.isEmpty)
    }

    @Test func `a longer route inside a protected prefix does not lead out in the clear`() {
        var view = eastView()
        view.routes.append(.init(prefix: prefix("10.2.3.0/24"), gateway: ip("192.0.2.9"), linkIndex: 2, metric: 0))
        let ports = [AttachedInterface(portIndex: 1, linkIndex: 2, name: "wan0", role: .underlay)]
        let plan = Steering.forwardingPlan(policy([(["10.1.0.0/24"], ["10.2.0.0/16"])]), view: view, ports: ports)
        let inner = plan.routes.first { $0.prefix == prefix("10.2.3.0/24") }
        #expect(inner != nil && inner?.portIndex == nil, "the kernel sends it back through the tunnel")
    }
}
