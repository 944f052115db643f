import Glibc
import Platform
import Testing
import Wire

private func prefix(_ text: String) throws -> IPPrefix { try #require(IPPrefix(text)) }
private func address(_ text: String) throws -> IPv4Address { try #require(IPv4Address(text)) }

@Suite struct NetlinkTests {
    private static let table: UInt32 = 22_000

    private static func lab() throws -> (Netlink, lan: Int) {
        try shell(
            """
            ip link add lan0 address 02:00:00:00:00:01 numrxqueues 2 numtxqueues 3 type veth peer name lan1
            ip link set lan0 up; ip link set lan1 up
            ip address add 10.1.0.1/24 dev lan0
            """)
        return (try Netlink(), try index(of: "lan0"))
    }

    @Test func `Links are read with what decisions need`() async throws {
        try await inNewNetworkNamespace {
            let (netlink, index) = try Self.lab()
            let link = try #require(try netlink.link(named: "lan0"))
            #expect(link.index == index && link.isUp && link.isRunning && link.mtu == 1500)
            #expect(link.mac == [2, 0, 0, 0, 0, 1])
            #expect(link.receiveQueues == 2 && link.transmitQueues == 3 && link.kind == "veth" && link.masterIndex == nil)
            try netlink.setLink(index: index, mtu: 1400)
            #expect(try netlink.link(named: "lan0")?.mtu == 1400)
            try shell("ip link set lan1 down")
            let dark = try #require(try netlink.link(named: "lan0"))
            #expect(dark.isUp && !dark.isRunning)
            try netlink.setLink(index: index, up: false)
            #expect(try netlink.link(named: "lan0")?.isUp == false)
            try shell("ip link add br0 type bridge; ip link set lan0 master br0")
            #expect(try netlink.link(named: "lan0")?.masterIndex == PlatformTests.index(of: "br0"))
        }
    }

    @Test func `Addresses come, are read and go`() async throws {
        try await inNewNetworkNamespace {
            let (netlink, index) = try Self.lab()
            let second = NetlinkAddress(address: try address("10.1.0.2"), prefixLength: 32, linkIndex: index)
            try netlink.addAddress(second)
            try netlink.addAddress(second)
            let all = try netlink.addresses()
            #expect(all.contains(second))
            #expect(all.contains(NetlinkAddress(address: try address("10.1.0.1"), prefixLength: 24, linkIndex: index)))
            try netlink.deleteAddress(second)
            try netlink.deleteAddress(second)
            #expect(try !netlink.addresses().contains(second))
        }
    }

    @Test func `Routes of a table of our own are made, replaced, read and removed`() async throws {
        try await inNewNetworkNamespace {
            let (netlink, index) = try Self.lab()
            let tunnel = NetlinkRoute(
                prefix: try prefix("10.2.0.0/24"), table: Self.table, linkIndex: index,
                preferredSource: try address("10.1.0.1"), metric: 100)
            let blackhole = NetlinkRoute(prefix: try prefix("10.2.0.0/24"), kind: .blackhole, table: Self.table, metric: 4000)
            let exception = NetlinkRoute(prefix: try prefix("192.0.2.0/24"), kind: .throw, table: Self.table, metric: 100)
            let gateway = NetlinkRoute(
                prefix: try prefix("0.0.0.0/0"), table: Self.table, gateway: try address("10.1.0.9"), linkIndex: index, metric: 7)
            for route in [tunnel, blackhole, exception, gateway] {
                try netlink.replaceRoute(route)
                try netlink.replaceRoute(route)
            }
            let expected: Set = [tunnel, blackhole, exception, gateway]
            #expect(Set(try netlink.routes(table: Self.table)) == expected)
            #expect(try output(of: "ip route show table 22000 proto 84").contains("blackhole 10.2.0.0/24 metric 4000"))

            var moved = tunnel
            moved.preferredSource = nil
            try netlink.replaceRoute(moved)
            #expect(Set(try netlink.routes(table: Self.table)) == [moved, blackhole, exception, gateway])
            for route in expected {
                try netlink.deleteRoute(route)
                try netlink.deleteRoute(route)
            }
            #expect(try netlink.routes(table: Self.table).isEmpty)
            #expect(try netlink.routes().map(\.prefix) == [prefix("10.1.0.0/24")], "the main table is as it was")
        }
    }

    @Test func `Of a multipath route the first hop that works counts`() async throws {
        try await inNewNetworkNamespace {
            let (netlink, index) = try Self.lab()
            try shell(
                """
                ip link add wan0 type veth peer name wan1; ip link set wan0 up; ip link set wan1 up
                ip address add 192.0.2.1/24 dev wan0
                ip route add 10.9.0.0/16 nexthop via 192.0.2.9 dev wan0 nexthop via 10.1.0.9 dev lan0
                """)
            let find = { try #require(try netlink.routes().first { $0.prefix == IPPrefix("10.9.0.0/16") }) }
            #expect(try find().gateway == address("192.0.2.9"))
            try shell("ip link set wan1 down")
            let other = try find()
            #expect(try other.gateway == address("10.1.0.9") && other.linkIndex == index && other.isUsable)
        }
    }

    @Test func `The kernel's choice of route honours rules, marks and throws`() async throws {
        try await inNewNetworkNamespace {
            let (netlink, index) = try Self.lab()
            let mark: UInt32 = 0xC017E7
            try netlink.replaceRoute(NetlinkRoute(prefix: try prefix("0.0.0.0/0"), table: Self.table, linkIndex: index))
            try netlink.replaceRoute(NetlinkRoute(prefix: try prefix("10.9.0.0/16"), kind: .throw, table: Self.table))
            let rule = NetlinkRule(priority: 22_000, table: Self.table, mark: mark, isInverted: true)
            try netlink.addRule(rule)
            try netlink.addRule(rule)
            #expect(try netlink.rules().filter { $0 == rule }.count == 1)

            #expect(try netlink.lookup(address("198.51.100.1")).table == Self.table)
            let marked = #expect(throws: SystemError.self) { try netlink.lookup(address("198.51.100.1"), mark: mark) }
            #expect(marked?.code == ENETUNREACH)
            let thrown = #expect(throws: SystemError.self) { try netlink.lookup(address("10.9.0.1")) }
            #expect(thrown?.code == ENETUNREACH)

            try netlink.deleteRule(rule)
            try netlink.deleteRule(rule)
            #expect(try !netlink.rules().contains(rule))
            let gone = #expect(throws: SystemError.self) { try netlink.lookup(address("198.51.100.1")) }
            #expect(gone?.code == ENETUNREACH)
        }
    }

    @Test func `Rules by source, destination and interface survive a round trip`() async throws {
        try await inNewNetworkNamespace {
            let (netlink, _) = try Self.lab()
            let rules = [
                NetlinkRule(priority: 21_980, table: 254, source: try prefix("10.1.0.0/24"), destination: try prefix("10.2.9.0/24")),
                NetlinkRule(priority: 21_990, table: 254, source: try prefix("192.0.2.1/32")),
                NetlinkRule(priority: 21_991, table: Self.table, inputInterface: "lan0"),
            ]
            for rule in rules { try netlink.addRule(rule) }
            #expect(try netlink.rules().filter { (21_000..<22_000).contains($0.priority) } == rules)
        }
    }

    @Test func `A neighbour is found, kept and told`() async throws {
        let name = "culvert-test-\(getpid())"
        try await inNewNetworkNamespace {
            try shell("ip netns add \(name)")
            defer { try? shell("ip netns del \(name)") }
            let (netlink, index) = try Self.lab()
            try shell(
                """
                ip link set lan1 netns \(name)
                ip -n \(name) link set lan1 address 02:00:00:00:00:07 up
                ip -n \(name) address add 10.1.0.7/24 dev lan1
                """)
            let monitor = try NetlinkMonitor()
            try netlink.resolve(address("10.1.0.7"), linkIndex: index)
            var told: NetlinkNeighbour?
            #expect(
                try eventually {
                    for case .neighbour(let one) in try monitor.read() where one.isUsable { told = one }
                    return told != nil
                })
            #expect(try told?.address == address("10.1.0.7"))
            #expect(told?.mac == [2, 0, 0, 0, 0, 7] && told?.linkIndex == index)
            #expect(try netlink.neighbours().contains { $0.isUsable && $0.isManaged })

            try netlink.resolve(address("10.1.0.8"), linkIndex: index)
            #expect(try eventually { try netlink.neighbours().contains { $0.hasFailed && !$0.isUsable } })
            try netlink.deleteNeighbour(address("10.1.0.7"), linkIndex: index)
            try netlink.deleteNeighbour(address("10.1.0.9"), linkIndex: index)
        }
    }

    @Test func `The monitor tells what changes, in order, and nothing twice`() async throws {
        try await inNewNetworkNamespace {
            let monitor = try NetlinkMonitor()
            let (netlink, index) = try Self.lab()
            try netlink.replaceRoute(NetlinkRoute(prefix: try prefix("10.5.0.0/16"), gateway: try address("10.1.0.9"), linkIndex: index))
            try netlink.deleteRoute(NetlinkRoute(prefix: try prefix("10.5.0.0/16"), gateway: try address("10.1.0.9"), linkIndex: index))
            try shell("ip address del 10.1.0.1/24 dev lan0; ip link del lan0")
            var seen: [String] = []
            #expect(
                try eventually {
                    for event in try monitor.read() {
                        switch event {
                        case .link(let link) where link.name == "lan0" && seen.isEmpty: seen.append("link")
                        case .address(let one) where one.linkIndex == index: seen.append("address")
                        case .route(let route) where route.prefix == IPPrefix("10.5.0.0/16"): seen.append("route")
                        case .routeRemoved(let route) where route.prefix == IPPrefix("10.5.0.0/16"): seen.append("no route")
                        case .addressRemoved(let one) where one.linkIndex == index: seen.append("no address")
                        case .linkRemoved(index): seen.append("no link")
                        default: break
                        }
                    }
                    return seen.last == "no link"
                })
            #expect(seen == ["link", "address", "route", "no route", "no address", "no link"])
            #expect(try monitor.read().isEmpty)
        }
    }

    @Test func `What the kernel refuses comes back with its words`() async throws {
        try await inNewNetworkNamespace {
            let (netlink, index) = try Self.lab()
            let wrong = NetlinkRoute(prefix: try prefix("10.5.0.0/16"), gateway: try address("203.0.113.1"), linkIndex: index)
            let error = #expect(throws: SystemError.self) { try netlink.replaceRoute(wrong) }
            #expect(error?.code == ENETUNREACH)
            #expect(error?.description.contains("Nexthop") == true, "\(String(describing: error))")
        }
    }

    @Test func `Ten thousand routes are read whole`() async throws {
        try await inNewNetworkNamespace {
            let (netlink, index) = try Self.lab()
            for i in 0..<10_000 {
                let destination = IPv4Address(bits: 0x0B00_0000 + UInt32(i) << 8)
                try netlink.replaceRoute(
                    NetlinkRoute(prefix: try #require(IPPrefix(.v4(destination), length: 24)), table: Self.table, linkIndex: index))
            }
            #expect(try netlink.routes(table: Self.table).count == 10_000)
        }
    }
}
