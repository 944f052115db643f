import Glibc
import Testing
import Wire

import Platform

@Suite("The packet filter against clear inbound traffic")
struct KernelFilterTests {
    private static let remote = IPPrefix("10.2.0.0/16")!
    private static let local = IPPrefix("10.1.0.0/16")!

    /// A network with the address 10.1.0.1 on `wan0`, and the filter on it.
    private static func withFilter(
        accept: [KernelFilter.Pair] = [], _ body: @escaping @Sendable (KernelFilter, FramePort) throws -> Void
    ) async throws {
        try await withVethPair {
            try shell("ip addr add 10.1.0.1/16 dev wan0; sysctl -qw net.ipv4.ip_forward=1")
            let filter = try KernelFilter()
            try filter.install(
                interfaces: ["wan0"], accept: accept, drop: [.init(sources: [remote], destinations: [local])])
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
        let before = filter.droppedPackets()
        for frame in frames { try port.send(FramePort.checksummed(frame.bytes)) }
        _ = eventually { filter.droppedPackets() - before >= count }
        // One more than expected would come at once.
        usleep(20_000)
        #expect(filter.droppedPackets() - before == count, sourceLocation: sourceLocation)
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
        let pair = KernelFilter.Pair(sources: [IPPrefix("10.2.9.0/24")!], destinations: [IPPrefix("10.1.0.1/32")!])
        try await Self.withFilter(accept: [pair]) { filter, port in
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
            try filter.install(
                interfaces: ["wan0"], accept: [], drop: [.init(sources: [prefix], destinations: [IPPrefix("10.1.0.1/32")!])])
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
            let pair = KernelFilter.Pair(sources: [Self.local], destinations: [Self.remote])
            let bypass = KernelFilter.Pair(sources: [IPPrefix("10.1.9.0/24")!], destinations: [Self.remote])
            try filter.install(interfaces: ["wan0"], accept: [bypass], drop: [], outer: ["wan0"], spoofed: [pair])
            let port = try FramePort("far0")
            try Self.expect(1, droppedOf: [Self.udp("10.1.0.5", "10.2.0.9", port: 7, data: [1])], filter, port)
            try Self.expect(0, droppedOf: [Self.udp("10.1.9.5", "10.2.0.9", port: 7, data: [1])], filter, port)
            try Self.expect(0, droppedOf: [Self.udp("10.1.0.5", "198.51.100.9", port: 7, data: [1])], filter, port)
            try Self.expect(0, droppedOf: [Self.udp("198.51.100.9", "10.2.0.9", port: 7, data: [1])], filter, port)
        }
    }

    @Test("guards only the interfaces it is told, also those that come later")
    func interfaces() async throws {
        try await withVethPair {
            try shell("ip addr add 10.1.0.1/16 dev wan0")
            let filter = try KernelFilter()
            let pair = KernelFilter.Pair(sources: [Self.remote], destinations: [Self.local])
            try filter.install(interfaces: ["later"], accept: [], drop: [pair])
            let port = try FramePort("far0")
            let frame = Self.udp("10.2.3.4", "10.1.0.1", port: 7, data: [1])
            try Self.expect(0, droppedOf: [frame], filter, port)
            try shell("ip link set wan0 down; ip link set wan0 name later; ip link set later up")
            // The far end gets its carrier back a moment later; until then it sends nothing.
            let guarded = try eventually {
                try port.send(FramePort.checksummed(frame.bytes))
                return filter.droppedPackets() > 0
            }
            #expect(guarded)
        }
    }

    @Test("goes on counting when it is replaced, and is gone when removed")
    func replaceAndRemove() async throws {
        try await Self.withFilter { filter, port in
            let frame = Self.udp("10.2.3.4", "10.1.0.1", port: 7, data: [1])
            try Self.expect(2, droppedOf: [frame, frame], filter, port)
            let elsewhere = KernelFilter.Pair(sources: [Self.remote], destinations: [IPPrefix("10.1.99.0/24")!])
            try filter.install(interfaces: ["wan0"], accept: [], drop: [elsewhere])
            #expect(filter.droppedPackets() == 2)
            try Self.expect(0, droppedOf: [frame], filter, port)
            try filter.remove()
            try filter.remove()
            #expect(filter.droppedPackets() == 2)
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
            try filter.install(
                interfaces: ["wan0"], accept: [], drop: [.init(sources: [Self.remote], destinations: [Self.local])])
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
            "nft delete table ip culvert", "nft add rule ip culvert inbound accept",
            "nft insert rule ip culvert prerouting accept", "nft add table ip culvert '{ flags dormant; }'",
        ])
    func meddledWith(command: String) async throws {
        try await Self.withFilter { filter, port in
            #expect(try filter.isInPlace())
            try shell(command)
            #expect(try !filter.isInPlace())
            try filter.install(
                interfaces: ["wan0"], accept: [], drop: [.init(sources: [Self.remote], destinations: [Self.local])])
            #expect(try filter.isInPlace())
            try Self.expect(1, droppedOf: [Self.udp("10.2.3.4", "10.1.0.1", port: 7, data: [1])], filter, port)
        }
    }

    @Test("leaves other people's tables alone")
    func otherTables() async throws {
        try await withVethPair {
            try shell("nft add table ip mine; nft add chain ip mine c")
            let filter = try KernelFilter()
            try filter.install(interfaces: ["wan0"], accept: [], drop: [])
            try filter.remove()
            let tables = try output(of: "nft list tables")
            #expect(tables.contains("table ip mine"))
        }
    }

    @Test("refuses more pairs than its bound, and stays as it was")
    func bound() async throws {
        try await Self.withFilter { filter, port in
            let many = (0..<UInt32(KernelFilter.pairLimit + 1)).map { IPPrefix(.v4(IPv4Address(bits: $0 << 8)), length: 24)! }
            let tooMany = [KernelFilter.Pair(sources: many, destinations: [Self.local])]
            let error = #expect(throws: SystemError.self) { try filter.install(interfaces: ["wan0"], accept: [], drop: tooMany) }
            #expect(error?.code == E2BIG)
            #expect(error?.remedy.isEmpty == false)
            try Self.expect(1, droppedOf: [Self.udp("10.2.3.4", "10.1.0.1", port: 7, data: [1])], filter, port)
        }
    }

    @Test("takes as many pairs as its bound allows in one transaction")
    func manyPairs() async throws {
        try await withVethPair {
            let many = (0..<UInt32(KernelFilter.pairLimit)).map { IPPrefix(.v4(IPv4Address(bits: $0 << 8)), length: 24)! }
            let filter = try KernelFilter()
            try filter.install(interfaces: ["wan0"], accept: [], drop: [.init(sources: many, destinations: [Self.local])])
            try filter.install(interfaces: ["wan0"], accept: [], drop: [.init(sources: many, destinations: [Self.local])])
            #expect(filter.droppedPackets() == 0)
        }
    }
}
