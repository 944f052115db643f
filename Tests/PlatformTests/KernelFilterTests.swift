import Glibc
import Testing
import Wire

import Platform

@Suite("The packet filter against clear inbound traffic")
struct KernelFilterTests {
    private static let remote = IPPrefix("10.2.0.0/16")!
    private static let local = IPPrefix("10.1.0.0/16")!
    private static let protected = FilterRules.Pair(sources: [local], destinations: [remote])

    /// A network with the address 10.1.0.1 on `wan0`, and the filter on it.
    private static func withFilter(
        bypass: [FilterRules.Pair] = [], _ body: @escaping @Sendable (KernelFilter, FramePort) throws -> Void
    ) async throws {
        try await withVethPair {
            try shell("ip addr add 10.1.0.1/16 dev wan0; sysctl -qw net.ipv4.ip_forward=1")
            let filter = try KernelFilter()
            try filter.install(.init(bypass: bypass, protected: [protected]))
            let port = try FramePort("far0")
            try body(filter, port)
        }
    }

    private static func udp(_ source: String, _ destination: String, port: UInt16, data: [UInt8]) -> Frame {
        Frame(source: source, destination: destination, payload: Frame.udp(to: port, data))
    }

    private static func esp(_ source: String, _ destination: String) -> Frame {
        Frame(source: source, destination: destination, protocolNumber: 50, payload: Frame.esp)
    }

    private static func ike(_ source: String, _ destination: String, port: UInt16) -> Frame {
        udp(source, destination, port: port, data: (port == 4500 ? Frame.nonESPMarker : []) + Frame.ikeHeader)
    }

    /// Sends the frames and expects the filter to drop so many of them.
    private static func expect(
        _ count: UInt64, droppedOf frames: [Frame], _ filter: KernelFilter, _ port: FramePort,
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        let before = filter.droppedPackets().inbound
        for frame in frames { try port.send(FramePort.checksummed(frame.bytes)) }
        _ = eventually { filter.droppedPackets().inbound - before >= count }
        // One more than expected would come at once.
        usleep(20_000)
        #expect(filter.droppedPackets().inbound - before == count, sourceLocation: sourceLocation)
    }

    @Test("drops clear packets from remote to local subnets, and counts each")
    func dropsClear() async throws {
        try await Self.withFilter { filter, port in
            let frame = Self.udp("10.2.3.4", "10.1.0.1", port: 7, data: [1, 2, 3, 4])
            try Self.expect(3, droppedOf: [frame, frame, frame], filter, port)
            var tcp = frame
            tcp.protocolNumber = 6
            try Self.expect(1, droppedOf: [tcp], filter, port)
        }
    }

    @Test("leaves other sources and destinations alone")
    func leavesOthers() async throws {
        try await Self.withFilter { filter, port in
            let frames = [
                Self.udp("192.0.2.1", "10.1.0.1", port: 7, data: [1]),
                Self.udp("10.2.0.1", "192.0.2.2", port: 7, data: [1]),
                Self.udp("10.1.0.9", "10.1.0.1", port: 7, data: [1]),
            ]
            try Self.expect(0, droppedOf: frames, filter, port)
        }
    }

    @Test("lets IPsec and IKE for this machine by, whatever their addresses")
    func letsIPsecBy() async throws {
        try await Self.withFilter { filter, port in
            var ah = Self.esp("10.2.0.1", "10.1.0.1")
            ah.protocolNumber = 51
            var laterFragment = Self.udp("10.2.0.1", "10.1.0.1", port: 4500, data: [UInt8](repeating: 9, count: 64))
            laterFragment.fragmentOffset = 800
            let frames = [
                Self.esp("10.2.0.1", "10.1.0.1"), ah, Self.ike("10.2.0.1", "10.1.0.1", port: 500),
                Self.ike("10.2.0.1", "10.1.0.1", port: 4500), laterFragment,
            ]
            try Self.expect(0, droppedOf: frames, filter, port)
        }
    }

    @Test("does not take what is to be forwarded for IPsec of ours")
    func exceptionsAreLocal() async throws {
        try await Self.withFilter { filter, port in
            let frames = [
                Self.esp("10.2.0.1", "10.1.7.7"), Self.ike("10.2.0.1", "10.1.7.7", port: 500),
                Self.udp("10.2.0.1", "10.1.7.7", port: 4500, data: [1, 2, 3, 4, 5]),
            ]
            try Self.expect(3, droppedOf: frames, filter, port)
        }
    }

    @Test("lets bypass pairs by first")
    func bypass() async throws {
        let pair = FilterRules.Pair(sources: [IPPrefix("10.1.0.1/32")!], destinations: [IPPrefix("10.2.9.0/24")!])
        try await Self.withFilter(bypass: [pair]) { filter, port in
            try Self.expect(0, droppedOf: [Self.udp("10.2.9.1", "10.1.0.1", port: 7, data: [1])], filter, port)
            try Self.expect(1, droppedOf: [Self.udp("10.2.8.1", "10.1.0.1", port: 7, data: [1])], filter, port)
        }
    }

    @Test("takes prefixes of every length", arguments: [0, 1, 7, 8, 9, 15, 23, 24, 25, 31, 32])
    func everyLength(length: Int) async throws {
        try await withVethPair {
            try shell("ip addr add 10.1.0.1/16 dev wan0")
            let address = IPv4Address("172.21.133.67")!
            let prefix = try #require(IPPrefix(.v4(address), length: length))
            let filter = try KernelFilter()
            try filter.install(.init(protected: [.init(sources: [IPPrefix("10.1.0.1/32")!], destinations: [prefix])]))
            let port = try FramePort("far0")
            try Self.expect(1, droppedOf: [Self.udp("\(address)", "10.1.0.1", port: 7, data: [1])], filter, port)
            guard length > 0 else { return }
            let neighbour = IPv4Address(bits: address.bits ^ (1 << UInt32(32 - length)))
            try Self.expect(0, droppedOf: [Self.udp("\(neighbour)", "10.1.0.1", port: 7, data: [1])], filter, port)
        }
    }

    @Test("drops our own addresses on the outer interfaces, for protected destinations only")
    func spoofed() async throws {
        try await withVethPair {
            try shell("ip addr add 192.0.2.1/24 dev wan0")
            let filter = try KernelFilter()
            let bypass = FilterRules.Pair(sources: [IPPrefix("10.1.9.0/24")!], destinations: [Self.remote])
            try filter.install(.init(outer: ["wan0"], bypass: [bypass], protected: [Self.protected]))
            let port = try FramePort("far0")
            try Self.expect(1, droppedOf: [Self.udp("10.1.0.5", "10.2.0.9", port: 7, data: [1])], filter, port)
            try Self.expect(0, droppedOf: [Self.udp("10.1.9.5", "10.2.0.9", port: 7, data: [1])], filter, port)
            try Self.expect(0, droppedOf: [Self.udp("10.1.0.5", "198.51.100.9", port: 7, data: [1])], filter, port)
            try Self.expect(0, droppedOf: [Self.udp("198.51.100.9", "10.2.0.9", port: 7, data: [1])], filter, port)
        }
    }

    @Test("judges every interface but those it is told not to, also those that come later")
    func interfaces() async throws {
        try await withVethPair {
            try shell("ip addr add 10.1.0.1/16 dev wan0")
            let filter = try KernelFilter()
            try filter.install(.init(inside: ["wan0"], protected: [Self.protected]))
            let port = try FramePort("far0")
            let frame = Self.udp("10.2.3.4", "10.1.0.1", port: 7, data: [1])
            try Self.expect(0, droppedOf: [frame], filter, port)
            try shell("ip link set wan0 down; ip link set wan0 name later; ip link set later up")
            // The far end gets its carrier back a moment later; until then it sends nothing.
            let guarded = try eventually {
                try port.send(FramePort.checksummed(frame.bytes))
                return filter.droppedPackets().inbound > 0
            }
            #expect(guarded)
        }
    }

    @Test("lets the site's own networks by on the interface they are on, and nowhere else")
    func networks() async throws {
        try await withVethPair {
            try shell("ip addr add 10.1.0.1/16 dev wan0")
            let everywhere = IPPrefix("0.0.0.0/0")!
            let own = FilterRules.Pair(sources: [IPPrefix("10.2.9.0/24")!], destinations: [everywhere])
            let filter = try KernelFilter()
            let port = try FramePort("far0")
            for (name, dropped) in [("wan0", UInt64(0)), ("other0", 1)] {
                try filter.install(.init(onEntry: [.init(interface: name, pair: own)], protected: [Self.protected]))
                try Self.expect(dropped, droppedOf: [Self.udp("10.2.9.4", "10.1.0.1", port: 7, data: [1])], filter, port)
                try Self.expect(1, droppedOf: [Self.udp("10.2.8.4", "10.1.0.1", port: 7, data: [1])], filter, port)
            }
        }
    }

    /// A machine with 10.1.0.1 and a way to everybody out of wan0, where nobody answers.
    private static func withExit(
        _ rules: FilterRules, _ body: @escaping @Sendable (KernelFilter, (UInt64, _ words: String) throws -> Void) throws -> Void
    ) async throws {
        try await withVethPair {
            try shell("""
                ip addr add 10.1.0.1/16 dev wan0; ip route add default via 10.1.0.2
                ip neigh add 10.1.0.2 lladdr 02:00:00:00:00:99 dev wan0
                """)
            let filter = try KernelFilter()
            try filter.install(rules)
            try body(filter) { count, words in
                let before = filter.droppedPackets().outbound
                try shell("ping -n -c 2 -i 0.01 -W 0.1 \(words) || true")
                #expect(filter.droppedPackets().outbound - before == count, "ping \(words)")
            }
        }
    }

    @Test("lets nothing out from local to remote subnets, nor back, on any interface, and counts it")
    func exit() async throws {
        try await Self.withExit(.init(protected: [Self.protected])) { filter, dropped in
            try dropped(2, "10.2.3.4")
            try dropped(2, "-s 4000 10.2.3.4")
            try dropped(0, "198.51.100.1")
            #expect(filter.droppedPackets().inbound == 0)
        }
        let reversed = FilterRules.Pair(sources: [Self.remote], destinations: [Self.local])
        try await Self.withExit(.init(protected: [reversed])) { _, dropped in try dropped(2, "10.2.3.4") }
    }

    @Test("lets out what leaves by the protected side, past the tunnels, to the site's own networks, or from our sockets")
    func exitExceptions() async throws {
        let everywhere = IPPrefix("0.0.0.0/0")!
        let own = FilterRules.Pair(sources: [everywhere], destinations: [IPPrefix("10.2.3.0/24")!])
        for rules in [
            FilterRules(inside: ["wan0"], protected: [Self.protected]),
            FilterRules(
                bypass: [.init(sources: [IPPrefix("10.2.3.4/32")!], destinations: [Self.local])], protected: [Self.protected]),
            FilterRules(onExit: [.init(interface: "wan0", pair: own)], protected: [Self.protected]),
            FilterRules(onExit: [.init(interface: nil, pair: own)], protected: [Self.protected]),
        ] {
            try await Self.withExit(rules) { _, dropped in try dropped(0, "10.2.3.4") }
        }
        try await Self.withExit(.init(protected: [Self.protected], mark: 77)) { _, dropped in
            try dropped(0, "-m 77 10.2.3.4")
            try dropped(2, "-m 78 10.2.3.4")
        }
        // The local side of a hub is everybody, who may be answered.
        let hub = FilterRules.Pair(sources: [everywhere], destinations: [IPPrefix("10.1.0.0/16")!])
        try await Self.withExit(.init(protected: [hub])) { _, dropped in try dropped(0, "198.51.100.1") }
    }

    @Test("lets no ICMP error out that quotes a protected packet")
    func quotes() async throws {
        try await withVethPair {
            try shell("""
                ip addr add 192.0.2.1/24 dev wan0; sysctl -qw net.ipv4.icmp_ratelimit=0
                ip route add default via 192.0.2.2; ip neigh add 192.0.2.2 lladdr 02:00:00:00:00:99 dev wan0
                """)
            let filter = try KernelFilter()
            // What the packets are about is not judged on the way in here.
            let rules = FilterRules(
                onEntry: [.init(interface: "wan0", pair: .init(sources: [Self.remote], destinations: [Self.local]))],
                protected: [Self.protected])
            try filter.install(rules)
            let port = try FramePort("far0")
            // No such port here: the kernel answers from 192.0.2.1 to the source.
            try shell("ip addr add 10.1.0.1/32 dev lo")
            try port.send(FramePort.checksummed(Self.udp("10.2.3.4", "10.1.0.1", port: 7, data: [1]).bytes))
            #expect(eventually { filter.droppedPackets().outbound == 1 })
            try port.send(FramePort.checksummed(Self.udp("198.51.100.3", "10.1.0.1", port: 7, data: [1]).bytes))
            usleep(20_000)
            #expect(filter.droppedPackets().outbound == 1)
        }
    }

    @Test("looks prefixes up in sets of any size, which touch, overlap and reach to both ends")
    func sets() async throws {
        try await withVethPair {
            try shell("ip addr add 10.1.0.1/16 dev wan0")
            let some = ["0.0.0.0/8", "10.2.0.0/24", "10.2.1.0/24", "10.2.1.128/25", "172.16.0.0/12", "240.0.0.0/4"]
            let remotes = some.map { IPPrefix($0)! }
            let more = (0..<3000).map { IPPrefix(.v4(IPv4Address(bits: 0xC612_0000 + UInt32($0 * 2 << 3))), length: 29)! }
            let filter = try KernelFilter()
            try filter.install(.init(protected: [.init(sources: [Self.local], destinations: remotes + more)]))
            let port = try FramePort("far0")
            let frames = { (list: [String]) in list.map { Self.udp($0, "10.1.0.1", port: 7, data: [1]) } }
            let (inside, outside) = (
                ["10.2.0.1", "10.2.1.255", "172.31.255.255", "198.18.0.7", "198.18.187.112"],
                ["10.2.2.0", "10.1.255.255", "172.32.0.0", "198.18.0.8", "198.18.187.120"]
            )
            try Self.expect(5, droppedOf: frames(inside), filter, port)
            try Self.expect(0, droppedOf: frames(outside), filter, port)
            let shown = try output(of: "nft list table ip culvert")
            #expect(shown.contains("10.2.0.0/23") && shown.contains("172.16.0.0/12"), "as nft understands it")
        }
    }

    @Test("goes on counting when it is replaced, and is gone when removed")
    func replaceAndRemove() async throws {
        try await Self.withFilter { filter, port in
            let frame = Self.udp("10.2.3.4", "10.1.0.1", port: 7, data: [1])
            try Self.expect(2, droppedOf: [frame, frame], filter, port)
            let elsewhere = FilterRules.Pair(sources: [IPPrefix("10.1.99.0/24")!], destinations: [Self.remote])
            try filter.install(.init(protected: [elsewhere]))
            #expect(filter.droppedPackets().inbound == 2)
            try Self.expect(0, droppedOf: [frame], filter, port)
            try filter.remove()
            try filter.remove()
            #expect(filter.droppedPackets().inbound == 2)
            let tables = try output(of: "nft list tables")
            #expect(!tables.contains("culvert"))
        }
    }

    @Test("notices that somebody flushed it, and comes back")
    func flushed() async throws {
        try await Self.withFilter { filter, port in
            #expect(try filter.isInPlace())
            try shell("nft flush ruleset")
            #expect(try !filter.isInPlace())
            try filter.install(.init(protected: [Self.protected]))
            #expect(try filter.isInPlace())
            try Self.expect(1, droppedOf: [Self.udp("10.2.3.4", "10.1.0.1", port: 7, data: [1])], filter, port)
        }
    }

    @Test(
        "notices that its rules went, or some, or that the table sleeps, and comes back",
        arguments: [
            "nft flush table ip culvert", "nft flush chain ip culvert inbound", "nft flush chain ip culvert prerouting",
            """
            nft delete rule ip culvert prerouting \
            handle $(nft -a list chain ip culvert prerouting | sed -n 's/.*jump.*# handle //p')
            """,
            "nft flush chain ip culvert outbound", "nft flush chain ip culvert postrouting",
            """
            nft replace rule ip culvert postrouting \
            handle $(nft -a list chain ip culvert postrouting | sed -n 's/.*jump outbound.*# handle //p') return
            """,
            "nft delete table ip culvert", "nft add rule ip culvert inbound accept",
            "nft insert rule ip culvert prerouting accept", "nft add table ip culvert '{ flags dormant; }'",
        ])
    func meddledWith(command: String) async throws {
        try await Self.withFilter { filter, port in
            #expect(try filter.isInPlace())
            try shell(command)
            #expect(try !filter.isInPlace())
            try filter.install(.init(protected: [Self.protected]))
            #expect(try filter.isInPlace())
            try Self.expect(1, droppedOf: [Self.udp("10.2.3.4", "10.1.0.1", port: 7, data: [1])], filter, port)
        }
    }

    @Test("leaves other people's tables alone")
    func otherTables() async throws {
        try await withVethPair {
            try shell("nft add table ip mine; nft add chain ip mine c")
            let filter = try KernelFilter()
            try filter.install(.init())
            try filter.remove()
            let tables = try output(of: "nft list tables")
            #expect(tables.contains("table ip mine"))
        }
    }

    @Test("refuses more than its bounds, and stays as it was")
    func bound() async throws {
        try await Self.withFilter { filter, port in
            let many = (0..<UInt32(KernelFilter.prefixLimit)).map { IPPrefix(.v4(IPv4Address(bits: $0 << 8)), length: 24)! }
            let pairs = [FilterRules.Pair](repeating: Self.protected, count: KernelFilter.pairLimit + 1)
            for protected in [[FilterRules.Pair(sources: [Self.local], destinations: many)], pairs] {
                let rules = FilterRules(protected: protected)
                let error = #expect(throws: SystemError.self) { try filter.install(rules) }
                #expect(error?.code == E2BIG)
                #expect(error?.remedy.isEmpty == false)
            }
            try Self.expect(1, droppedOf: [Self.udp("10.2.3.4", "10.1.0.1", port: 7, data: [1])], filter, port)
        }
    }

    @Test("takes as much as its bounds allow in one transaction")
    func manyPairs() async throws {
        try await withVethPair {
            let many = (0..<UInt32(KernelFilter.prefixLimit) / 2).map { IPPrefix(.v4(IPv4Address(bits: $0 << 9)), length: 24)! }
            let filter = try KernelFilter()
            try filter.install(.init(protected: [.init(sources: [Self.local], destinations: many)]))
            try filter.install(.init(protected: [.init(sources: [Self.local], destinations: many)]))
            let pairs = [FilterRules.Pair](repeating: Self.protected, count: KernelFilter.pairLimit)
            try filter.install(.init(protected: pairs))
            #expect(filter.droppedPackets() == .init())
        }
    }
}
