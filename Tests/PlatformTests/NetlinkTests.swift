import CLinux
import Glibc
import Testing
import Wire

@testable import Platform

/// With the interfaces of `withVethPair`: `wan0` and `far0`.
@Suite("Routing netlink")
struct NetlinkTests {
    private static let table: UInt32 = 22_000
    private static let prefix = IPPrefix("10.2.0.0/24")!

    // MARK: Reading

    @Test("reads links with their names, addresses and states")
    func links() async throws {
        try await withVethPair {
            try shell("ip link set wan0 mtu 1400; ip link add name down0 type veth peer name down1")
            let netlink = try Netlink()
            let wan = try #require(try netlink.link(named: "wan0"))
            let wanIndex = try index(of: "wan0")
            #expect(wan.index == wanIndex)
            #expect(wan.isUp && wan.isRunning)
            #expect(wan.mtu == 1400)
            #expect(wan.mac == Frame.portMAC)
            #expect(wan.kind == "veth")
            #expect(wan.receiveQueues >= 1 && wan.transmitQueues >= 1)
            let down = try #require(try netlink.link(named: "down0"))
            #expect(!down.isUp && !down.isRunning)
            #expect(try netlink.link(named: "nowhere") == nil)
            let loopback = try #require(try netlink.link(named: "lo"))
            #expect(loopback.mtu == 65_536)
        }
    }

    @Test("tells a link without carrier from one that runs")
    func carrier() async throws {
        try await withVethPair {
            try shell("ip link set far0 down")
            let link = try #require(try Netlink().link(named: "wan0"))
            #expect(link.isUp && !link.isRunning)
        }
    }

    @Test("reads and writes addresses")
    func addresses() async throws {
        try await withVethPair {
            let netlink = try Netlink()
            let link = try index(of: "wan0")
            let address = NetlinkAddress(address: IPAddress("192.0.2.1")!, prefixLength: 24, linkIndex: link)
            try netlink.addAddress(address)
            try netlink.addAddress(address)
            #expect(try netlink.addresses().filter { $0.linkIndex == link } == [address])
            try netlink.deleteAddress(address)
            try netlink.deleteAddress(address)
            #expect(try netlink.addresses().filter { $0.linkIndex == link }.isEmpty)
        }
    }

    @Test("reads the near end of a point-to-point address")
    func pointToPoint() async throws {
        try await withVethPair {
            try shell("ip addr add 192.0.2.1 peer 192.0.2.9/32 dev wan0")
            let link = try index(of: "wan0")
            #expect(try Netlink().addresses().filter { $0.linkIndex == link }.map(\.address) == [IPAddress("192.0.2.1")!])
        }
    }

    @Test("reads the main table: gateways, metrics, multipath, blackholes")
    func mainTable() async throws {
        try await withVethPair {
            try shell(
                """
                ip addr add 192.0.2.1/24 dev wan0
                ip route add 198.51.100.0/24 via 192.0.2.9 metric 7
                ip route add blackhole 203.0.113.0/24
                ip route add 10.9.0.0/16 nexthop via 192.0.2.10 nexthop via 192.0.2.11
                ip route add 10.8.0.0/16 table 77 via 192.0.2.9
                """)
            let routes = try Netlink().routes()
            let find = { (text: String) in routes.first { $0.prefix == IPPrefix(text) } }
            let connected = try #require(find("192.0.2.0/24"))
            let wanIndex = try index(of: "wan0")
            #expect(connected.gateway == nil && connected.linkIndex == wanIndex)
            #expect(connected.preferredSource == IPAddress("192.0.2.1"))
            let via = try #require(find("198.51.100.0/24"))
            #expect(via.gateway == IPAddress("192.0.2.9") && via.metric == 7 && via.kind == .unicast && via.hops.count == 1)
            let hole = try #require(find("203.0.113.0/24"))
            #expect(hole.kind == .blackhole)
            let multipath = try #require(find("10.9.0.0/16"))
            #expect(multipath.hops.map(\.gateway) == [IPAddress("192.0.2.10"), IPAddress("192.0.2.11")])
            #expect(multipath.hops.allSatisfy { $0.linkIndex == wanIndex })
            #expect(find("10.8.0.0/16") == nil)
            #expect(try Netlink().routes(table: 77).map(\.prefix) == [IPPrefix("10.8.0.0/16")!])
        }
    }

    @Test("reads a gateway of another family, and writes one")
    func gatewayOfAnotherFamily() async throws {
        try await withVethPair {
            try shell(
                """
                sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.wan0.disable_ipv6=0
                ip addr add 192.0.2.1/24 dev wan0
                ip route add 10.9.0.0/16 via inet6 fe80::1 dev wan0
                """)
            let route = try #require(try Netlink().routes().first { $0.prefix == IPPrefix("10.9.0.0/16") })
            #expect(route.kind == .unicast && route.gateway == IPAddress("fe80::1"))
            var own = NetlinkRoute(
                prefix: IPPrefix("10.10.0.0/16")!, gateway: IPAddress("fe80::2"), linkIndex: try index(of: "wan0"))
            own.tos = 0
            try Netlink().replaceRoute(own)
            #expect(try Netlink().routes().first { $0.prefix == own.prefix } == own)
        }
    }

    @Test("reads nexthop objects and groups, and routes that have nothing but a number", arguments: [0, 1])
    func nexthops(compatible: Int) async throws {
        try await withVethPair {
            let monitor = try NetlinkMonitor()
            try shell(
                """
                sysctl -qw net.ipv4.nexthop_compat_mode=\(compatible)
                sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.wan0.disable_ipv6=0
                ip addr add 192.0.2.1/24 dev wan0
                ip nexthop add id 1 via 192.0.2.9 dev wan0
                ip nexthop add id 2 via fe80::9 dev wan0
                ip nexthop add id 3 blackhole
                ip nexthop add id 10 group 1/2
                ip route add 10.9.0.0/16 nhid 1
                ip route add 10.10.0.0/16 nhid 10
                ip nexthop replace id 1 via 192.0.2.10 dev wan0
                """)
            let wan = try index(of: "wan0")
            let nexthops = try Netlink().nexthops()
            let found = { (id: UInt32) in nexthops.first { $0.id == id } }
            #expect(found(1)?.hop == NetlinkHop(gateway: IPAddress("192.0.2.10"), linkIndex: wan))
            #expect(found(2)?.hop?.gateway == IPAddress("fe80::9"))
            #expect(found(3) == NetlinkNexthop(id: 3) && found(10) == NetlinkNexthop(id: 10, group: [1, 2]))
            let routes = try Netlink().routes()
            let route = try #require(routes.first { $0.prefix == IPPrefix("10.9.0.0/16") })
            #expect(route.nexthopID == 1 && (compatible == 1 || route.hops.isEmpty))
            #expect(routes.first { $0.prefix == IPPrefix("10.10.0.0/16") }?.nexthopID == 10)
            try shell("ip nexthop del id 1")
            var events: [NetlinkEvent] = []
            while case let more = try monitor.read(), !more.isEmpty { events += more }
            #expect(events.contains(.nexthop(NetlinkNexthop(id: 1, hop: .init(gateway: IPAddress("192.0.2.9"), linkIndex: wan)))))
            #expect(events.contains(.nexthop(NetlinkNexthop(id: 10, group: [1, 2]))))
            #expect(events.contains(.nexthopRemoved(id: 1)))
        }
    }

    @Test("tells where a new route stands among its equals, and which of them is deleted")
    func places() async throws {
        try await withVethPair {
            try shell("ip addr add 192.0.2.1/24 dev wan0")
            let monitor = try NetlinkMonitor()
            try shell(
                """
                ip route add 10.9.0.0/16 via 192.0.2.2
                ip route append 10.9.0.0/16 via 192.0.2.3
                ip route prepend 10.9.0.0/16 via 192.0.2.4
                ip route replace 10.9.0.0/16 via 192.0.2.5
                ip route del 10.9.0.0/16 via 192.0.2.3
                ip route add 10.9.0.0/16 tos 0x10 via 192.0.2.6
                """)
            var told: [String] = []
            while case let events = try monitor.read(), !events.isEmpty {
                for event in events {
                    switch event {
                    case .route(let route): told.append("first \(route.gateway!)\(route.tos == 0 ? "" : " tos \(route.tos)")")
                    case .routeAppended(let route): told.append("last \(route.gateway!)")
                    case .routeReplaced(let route): told.append("in place \(route.gateway!)")
                    case .routeRemoved(let route): told.append("removed \(route.gateway!)")
                    default: break
                    }
                }
            }
            #expect(
                told == [
                    "first 192.0.2.2", "last 192.0.2.3", "first 192.0.2.4", "in place 192.0.2.5", "removed 192.0.2.3",
                    "first 192.0.2.6 tos 16",
                ])
            let order = try Netlink().routes().filter { $0.prefix == IPPrefix("10.9.0.0/16") }.map(\.gateway)
            #expect(order == [IPAddress("192.0.2.6"), IPAddress("192.0.2.5"), IPAddress("192.0.2.2")])
        }
    }

    @Test("reads the master of a link, the far end of an address, and whether routes without carrier count")
    func linkDetails() async throws {
        try await withVethPair {
            try shell(
                """
                ip link add br0 type bridge; ip link set far0 master br0
                sysctl -qw net.ipv4.conf.wan0.ignore_routes_with_linkdown=1
                ip addr add 192.0.2.1 peer 192.0.2.9/32 dev wan0
                """)
            let netlink = try Netlink()
            let bridge = try index(of: "br0")
            #expect(try netlink.link(named: "far0")?.masterIndex == bridge)
            #expect(try netlink.link(named: "br0")?.kind == "bridge")
            #expect(try netlink.link(named: "wan0")?.ignoresRoutesWithoutCarrier == true)
            #expect(try netlink.link(named: "far0")?.ignoresRoutesWithoutCarrier == false)
            #expect(try netlink.addresses().first { $0.address == IPAddress("192.0.2.1") }?.peer == IPAddress("192.0.2.9"))
        }
    }

    @Test("reads some thousand routes whole")
    func manyRoutes() async throws {
        try await withVethPair {
            try shell(
                """
                ip addr add 192.0.2.1/24 dev wan0
                i=0; while [ $i -lt 4000 ]; do
                    echo "route add 10.$((i / 250)).$((i % 250)).0/24 via 192.0.2.9"; i=$((i + 1))
                done | ip -batch -
                """)
            #expect(try Netlink().routes().filter { $0.gateway != nil }.count == 4_000)
        }
    }

    @Test("has the kernel send one table only, so that a full main table costs our own nothing")
    func oneTable() async throws {
        try await withVethPair {
            try shell("ip addr add 192.0.2.1/24 dev wan0; ip route add 10.8.0.0/16 table 77 via 192.0.2.9")
            var message = NetlinkMessage(type: RTM_GETROUTE, flags: NLM_F_DUMP)
            var header = rtmsg()
            header.rtm_family = UInt8(AF_INET)
            message.append(header)
            message.attribute(RTA_TABLE.rawValue, u32: 77)
            let replies = try NetlinkSocket(protocol: NETLINK_ROUTE, name: "test").dump(message, "routes")
            #expect(replies.count == 1)
            #expect(try Netlink().routes(table: 78).isEmpty)
            #expect(try Netlink().routes(table: nil).contains { $0.table == 77 })
            #expect(try Netlink().routes(table: nil).contains { $0.table == 255 })
        }
    }

    // MARK: Routes of ours

    @Test("keeps a TUN route with a blackhole of worse metric behind it, and takes both away")
    func tunnelRouteAndBlackhole() async throws {
        try await withVethPair {
            try shell("ip addr add 10.1.0.1/24 dev wan0")
            let netlink = try Netlink()
            let link = try index(of: "far0")
            let tunnel = NetlinkRoute(
                prefix: Self.prefix, table: Self.table, linkIndex: link, preferredSource: IPAddress("10.1.0.1"), metric: 100)
            let blackhole = NetlinkRoute(prefix: Self.prefix, kind: .blackhole, table: Self.table, metric: 4_000)
            for _ in 0..<2 {
                try netlink.replaceRoute(tunnel)
                try netlink.replaceRoute(blackhole)
            }
            #expect(try netlink.routes(table: Self.table) == [tunnel, blackhole])
            // What the kernel does by itself when the device goes: the blackhole stays.
            try shell("ip link set far0 down")
            #expect(try netlink.routes(table: Self.table) == [blackhole])
            for _ in 0..<2 {
                try netlink.deleteRoute(tunnel)
                try netlink.deleteRoute(blackhole)
            }
            #expect(try netlink.routes(table: Self.table).isEmpty)
        }
    }

    @Test("replaces a route of the same prefix and metric in place")
    func replace() async throws {
        try await withVethPair {
            try shell("ip addr add 10.1.0.1/24 dev wan0; ip addr add 10.1.0.2/24 dev wan0")
            let netlink = try Netlink()
            var route = NetlinkRoute(
                prefix: Self.prefix, table: Self.table, linkIndex: try index(of: "wan0"),
                preferredSource: IPAddress("10.1.0.1"), metric: 100)
            try netlink.replaceRoute(route)
            route.preferredSource = IPAddress("10.1.0.2")
            try netlink.replaceRoute(route)
            #expect(try netlink.routes(table: Self.table) == [route])
            route = NetlinkRoute(prefix: Self.prefix, kind: .throw, table: Self.table, metric: 100)
            try netlink.replaceRoute(route)
            #expect(try netlink.routes(table: Self.table) == [route])
        }
    }

    @Test("says in words why the kernel refused a route")
    func refusal() async throws {
        try await withVethPair {
            let netlink = try Netlink()
            let error = #expect(throws: SystemError.self) {
                try netlink.replaceRoute(NetlinkRoute(prefix: Self.prefix, gateway: IPAddress("192.0.2.9")))
            }
            #expect(error?.code == ENETUNREACH)
            #expect(error?.detail == "Nexthop has invalid gateway")
            #expect(error.map { "\($0)" }?.contains("10.2.0.0/24") == true)
        }
    }

    // MARK: Rules

    @Test("adds each rule once and takes it away")
    func rules() async throws {
        try await withVethPair {
            let netlink = try Netlink()
            let before = try netlink.rules()
            let rules = [
                NetlinkRule(priority: 21_980, table: 254, source: IPPrefix("10.1.0.0/24"), destination: IPPrefix("10.3.0.0/24")),
                NetlinkRule(priority: 21_990, table: 254, source: IPPrefix("192.0.2.1/32")),
                NetlinkRule(priority: 22_000, table: Self.table, mark: 0xC017E7, isInverted: true),
                NetlinkRule(priority: 22_001, table: Self.table, inputInterface: "wan0"),
            ]
            for rule in rules + rules { try netlink.addRule(rule) }
            #expect(try netlink.rules().filter { !before.contains($0) } == rules)
            for rule in rules + rules { try netlink.deleteRule(rule) }
            #expect(try netlink.rules() == before)
        }
    }

    @Test("sends everything but marked sockets into the protected table")
    func markedLookup() async throws {
        try await withVethPair {
            try shell("ip addr add 192.0.2.1/24 dev wan0; ip route add default via 192.0.2.9")
            let netlink = try Netlink()
            try netlink.addRule(NetlinkRule(priority: 22_000, table: Self.table, mark: 0xC017E7, isInverted: true))
            try netlink.replaceRoute(NetlinkRoute(prefix: Self.prefix, kind: .blackhole, table: Self.table, metric: 4_000))
            let inside = IPAddress("10.2.0.7")!
            let refusal = #expect(throws: SystemError.self) { try netlink.lookup(inside) }
            #expect(refusal?.code == EINVAL)
            let marked = try netlink.lookup(inside, mark: 0xC017E7)
            #expect(marked.gateway == IPAddress("192.0.2.9") && marked.table == NetlinkRoute.mainTable)
            try netlink.replaceRoute(
                NetlinkRoute(prefix: IPPrefix("10.2.0.0/28")!, kind: .throw, table: Self.table, metric: 100))
            #expect(try netlink.lookup(inside).table == NetlinkRoute.mainTable)
        }
    }

    /// Without it, an inner router's route would get our own device inside a wider protected prefix.
    @Test("a throw route holds when the kernel looks for the interface of somebody's gateway, and is deleted whatever its scope")
    func throwForNextHops() async throws {
        try await withVethPair {
            try shell("ip addr add 10.1.0.1/24 dev wan0")
            let netlink = try Netlink()
            try netlink.addRule(NetlinkRule(priority: 22_000, table: Self.table, mark: 0xC017E7, isInverted: true))
            try netlink.replaceRoute(
                NetlinkRoute(prefix: IPPrefix("10.0.0.0/8")!, table: Self.table, linkIndex: try index(of: "far0"), metric: 100))
            let exception = NetlinkRoute(prefix: IPPrefix("10.1.0.0/24")!, kind: .throw, table: Self.table, metric: 100)
            try netlink.replaceRoute(exception)
            try shell("ip route add 10.1.5.0/24 via 10.1.0.2")
            let wan = try index(of: "wan0")
            #expect(try netlink.routes().first { $0.prefix == IPPrefix("10.1.5.0/24") }?.linkIndex == wan)
            try netlink.deleteRoute(exception)
            try shell("ip route add throw 10.1.0.0/24 table \(Self.table) metric 100 proto 84")
            try netlink.deleteRoute(exception)
            #expect(try netlink.routes(table: Self.table).map(\.prefix) == [IPPrefix("10.0.0.0/8")!])
        }
    }

    // MARK: Neighbours and links

    @Test("makes the kernel look for a neighbour, and forgets it")
    func resolve() async throws {
        try await withVethPair {
            try shell("ip addr add 192.0.2.1/24 dev wan0")
            let netlink = try Netlink()
            let link = try index(of: "wan0")
            let address = IPAddress("192.0.2.9")!
            let far = try FramePort("far0")
            try netlink.resolve(address, linkIndex: link)
            // Who has 192.0.2.9? Tell 192.0.2.1.
            let request = try far.receive { $0.count >= 42 && $0[12...13] == [8, 6] && $0[38..<42] == [192, 0, 2, 9] }
            #expect(request != nil)
            let entry = try #require(try netlink.neighbours().first { $0.address == address })
            #expect(entry.isManaged && !entry.isUsable && entry.linkIndex == link)
            // The answer.
            try far.send(
                Frame.portMAC + Frame.otherMAC + [8, 6, 0, 1, 8, 0, 6, 4, 0, 2] + Frame.otherMAC + [192, 0, 2, 9] + Frame.portMAC
                    + [192, 0, 2, 1])
            let found = try eventually {
                try netlink.neighbour(address, linkIndex: link).map { $0.isUsable && $0.mac == Frame.otherMAC } ?? false
            }
            #expect(found)
            try netlink.deleteNeighbour(address, linkIndex: link)
            try netlink.deleteNeighbour(address, linkIndex: link)
            #expect(try !netlink.neighbours().contains { $0.address == address && $0.isUsable })
        }
    }

    @Test("leaves a permanent neighbour as the administrator made it")
    func permanentNeighbour() async throws {
        try await withVethPair {
            try shell("ip addr add 192.0.2.1/24 dev wan0; ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:99 dev wan0 nud permanent")
            let netlink = try Netlink()
            try netlink.resolve(IPAddress("192.0.2.9")!, linkIndex: try index(of: "wan0"))
            let entry = try #require(try netlink.neighbour(IPAddress("192.0.2.9")!, linkIndex: try index(of: "wan0")))
            #expect(entry.isUsable && entry.mac == Frame.otherMAC)
            #expect(entry.state & 0x80 != 0)
        }
    }

    @Test("sets links up and down, and their MTU")
    func setLink() async throws {
        try await withVethPair {
            let netlink = try Netlink()
            let link = try index(of: "wan0")
            try netlink.setLink(index: link, up: false, mtu: 1300)
            var wan = try #require(try netlink.link(named: "wan0"))
            #expect(!wan.isUp && wan.mtu == 1300)
            try netlink.setLink(index: link, up: true)
            wan = try #require(try netlink.link(named: "wan0"))
            #expect(wan.isUp && wan.mtu == 1300)
        }
    }

    // MARK: The monitor

    @Test("hears of links, addresses, routes, rules and neighbours that come and go")
    func monitor() async throws {
        try await withVethPair {
            let monitor = try NetlinkMonitor()
            #expect(try monitor.read().isEmpty)
            try shell(
                """
                ip addr add 192.0.2.1/24 dev wan0
                ip route add 198.51.100.0/24 via 192.0.2.9
                ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:99 dev wan0
                ip neigh del 192.0.2.9 dev wan0
                ip route del 198.51.100.0/24
                ip rule add priority 22000 not fwmark 0xc017e7 lookup 22000
                ip rule del priority 22000
                ip addr del 192.0.2.1/24 dev wan0
                ip link add name new0 type veth peer name new1
                ip link del new0
                """)
            #expect(Poll.readable(monitor.descriptor, timeoutMilliseconds: 1_000))
            var events: [NetlinkEvent] = []
            while case let more = try monitor.read(), !more.isEmpty { events += more }
            let link = try index(of: "wan0")
            let address = NetlinkAddress(address: IPAddress("192.0.2.1")!, prefixLength: 24, linkIndex: link)
            #expect(events.contains(.address(address)) && events.contains(.addressRemoved(address)))
            let route = { (event: NetlinkEvent, removed: Bool) -> Bool in
                switch event {
                case .route(let route): !removed && route.prefix == IPPrefix("198.51.100.0/24")
                case .routeRemoved(let route): removed && route.prefix == IPPrefix("198.51.100.0/24")
                default: false
                }
            }
            #expect(events.contains { route($0, false) } && events.contains { route($0, true) })
            let rule = NetlinkRule(priority: 22_000, table: Self.table, mark: 0xC017E7, isInverted: true)
            #expect(events.contains(.rule(rule)) && events.contains(.ruleRemoved(rule)))
            #expect(events.contains { if case .neighbour(let entry) = $0 { entry.mac == Frame.otherMAC } else { false } })
            #expect(events.contains { if case .link(let link) = $0 { link.name == "new0" } else { false } })
            #expect(events.contains { if case .linkRemoved = $0 { true } else { false } })
        }
    }

    @Test("says so when it could not hear everything")
    func overrun() async throws {
        try await withVethPair {
            let monitor = try NetlinkMonitor()
            var tiny: Int32 = 2_304
            #expect(setsockopt(monitor.descriptor, SOL_SOCKET, SO_RCVBUF, &tiny, 4) == 0)
            try shell(
                """
                i=0; while [ $i -lt 200 ]; do
                    echo "neigh replace 192.0.2.9 lladdr 02:00:00:00:00:$((i % 90 + 10)) dev wan0"; i=$((i + 1))
                done | ip -batch -
                """)
            var events: [NetlinkEvent] = []
            while case let more = try monitor.read(), !more.isEmpty { events += more }
            #expect(events.contains(.overrun))
            // It goes on hearing.
            var large: Int32 = 1 << 20
            #expect(setsockopt(monitor.descriptor, SOL_SOCKET, SO_RCVBUF, &large, 4) == 0)
            try shell("ip addr add 192.0.2.1/24 dev wan0")
            #expect(try monitor.read().contains { if case .address = $0 { true } else { false } })
        }
    }
}
