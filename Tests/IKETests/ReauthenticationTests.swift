import IKE
import IPsec
import Testing
import Wire

/// A new IKE SA in place of the old one, made before that is broken. RFC 7296 §2.8.3.
@Suite struct ReauthenticationTests {
    static func up(seed: UInt64 = 1, east: Duration, west: Duration = .zero, _ change: (Pair) -> Void = { _ in }) throws -> Pair {
        let pair = Pair(seed: seed)
        pair.eastSide.change = { $0.reauthTime = east }
        pair.westSide.change = { $0.reauthTime = west }
        change(pair)
        #expect(try pair.establish())
        return pair
    }

    /// One IKE SA on each end, the same, with one pair per child and equal keys.
    static func quiet(_ pair: Pair) -> String? {
        if let mismatch = pair.mismatch { return mismatch }
        let (east, west) = (pair.east.status(now: pair.now), pair.west.status(now: pair.now))
        if east?.ike?.initiatorSPI == nil || east?.ike?.initiatorSPI != west?.ike?.initiatorSPI { return "not one IKE SA" }
        for node in [pair.east, pair.west] {
            if node.core.tableSizes["sas"] != 1 { return "\(node.name) holds \(node.core.tableSizes["sas"] ?? 0) IKE SAs" }
            if node.core.tableSizes["identities"] != 1 { return "\(node.name): the index is not clean" }
            let names = node.installed.map(\.child)
            if Set(names).count != names.count { return "\(node.name) has a child twice" }
        }
        return nil
    }

    @Test(arguments: 1...10)
    func `the new SA has its children before the old one goes, again and again`(_ seed: UInt64) throws {
        let pair = try Self.up(seed: seed, east: .seconds(100))
        var seen: Set<UInt64> = []
        for _ in 0..<12 {
            #expect(RekeyTests.watch(pair, 50))
            if let spi = pair.east.status(now: pair.now)?.ike?.initiatorSPI { seen.insert(spi) }
        }
        #expect((6...9).contains(seen.count), "\(seen.count) SAs in 600 s")
        #expect(pair.east.downs.isEmpty && pair.west.downs.isEmpty)
        #expect(pair.network.run(for: .seconds(30)) { Self.quiet(pair) == nil }, "\(Self.quiet(pair) ?? "")")
    }

    @Test func `every exchange is a full authentication, not a rekey`() throws {
        let pair = try Self.up(east: .seconds(100))
        pair.network.history = []
        pair.run(85)
        let kinds = try pair.network.history.map { try WireMessage(parsing: $0.bytes).header }
            .filter { !$0.isResponse && $0.exchange != .informational }.map(\.exchange)
        #expect(kinds == [.ikeSAInit, .ikeAuth])
    }

    @Test func `all children move, also those that nothing wants by itself`() throws {
        let pair = Pair()
        (pair.eastSide.start, pair.westSide.start) = (.manual, .manual)
        pair.eastSide.children = [
            ("a", ["10.1.0.0/24"], ["10.2.0.0/24"]), ("b", ["10.1.1.0/24"], ["10.2.1.0/24"]),
            ("c", ["10.1.2.0/24"], ["10.2.2.0/24"]),
        ]
        pair.westSide.children = pair.eastSide.children.map { ($0.name, $0.remote, $0.local) }
        pair.eastSide.change = { $0.reauthTime = .seconds(100) }
        // West brings b and c up; on east nobody asked for anything.
        pair.westSide.change = { for index in [1, 2] { $0.children[index].start = .immediately } }
        try pair.start()
        #expect(pair.network.run(for: .seconds(20)) { pair.east.installed.count == 2 && pair.west.installed.count == 2 })
        let old = Set(pair.east.installed.map(\.inboundSPI))
        var least = 9
        pair.network.run(for: .seconds(90)) {
            least = min(least, Set(pair.east.installed.map(\.child)).count, Set(pair.west.installed.map(\.child)).count)
            return false
        }
        #expect(least == 2, "no child was missing at any moment")
        #expect(Set(pair.east.installed.map(\.child)) == ["b", "c"])
        #expect(old.isDisjoint(with: pair.east.installed.map(\.inboundSPI)))
        #expect(Self.quiet(pair) == nil)
    }

    @Test(arguments: 1...20)
    func `both ends begin at once and end with one SA`(_ seed: UInt64) throws {
        let pair = try Self.up(seed: seed, east: .seconds(100))
        // Both are due within the same moment.
        pair.east.core.authenticateAnew(connection: "c", now: pair.now)
        if seed % 2 == 0 { pair.network.run(for: .milliseconds(15)) }
        pair.west.core.authenticateAnew(connection: "c", now: pair.now)
        #expect(RekeyTests.watch(pair, 60))
        #expect(Self.quiet(pair) == nil, "\(Self.quiet(pair) ?? "")")
        #expect(pair.east.downs.isEmpty && pair.west.downs.isEmpty)
    }

    @Test(arguments: 1...20)
    func `the peer rekeys the IKE SA or the child meanwhile`(_ seed: UInt64) throws {
        let pair = try Self.up(seed: seed, east: .seconds(1000))
        pair.east.core.authenticateAnew(connection: "c", now: pair.now)
        pair.network.run(for: .milliseconds(Int64(seed) * 5))
        #expect(pair.west.core.rekey(connection: "c", child: nil, ike: seed % 2 == 0, now: pair.now))
        #expect(RekeyTests.watch(pair, 60))
        #expect(Self.quiet(pair) == nil, "\(Self.quiet(pair) ?? "")")
    }

    @Test(arguments: 1...20)
    func `the peer deletes the IKE SA or the child meanwhile, and the tunnel is back at once`(_ seed: UInt64) throws {
        let pair = try Self.up(seed: seed, east: .seconds(1000))
        pair.east.core.authenticateAnew(connection: "c", now: pair.now)
        pair.network.run(for: .milliseconds(Int64(seed) * 5))
        #expect(pair.west.core.deleteAsPeer(connection: "c", child: seed % 2 == 0 ? nil : "net", now: pair.now))
        #expect(pair.network.run(for: .seconds(60)) { pair.isUp && Self.quiet(pair) == nil }, "\(Self.quiet(pair) ?? "")")
    }

    @Test(arguments: 1...10)
    func `a lossy wire does not break it`(_ seed: UInt64) throws {
        let pair = try Self.up(seed: seed, east: .seconds(300), west: .seconds(300))
        pair.network.faults = Network.Faults(loss: 0.2, duplication: 0.2, spread: .milliseconds(300))
        pair.run(3000)
        pair.network.faults = .none
        #expect(pair.network.run(for: .seconds(200)) { pair.isUp && Self.quiet(pair) == nil }, "\(Self.quiet(pair) ?? "")")
    }

    @Test func `an attempt that fails leaves the old SA, and is repeated`() throws {
        let pair = try Self.up(east: .seconds(300)) {
            $0.westSide.dpd = .zero; $0.eastSide.dpd = .zero
        }
        let before = pair.east.status(now: pair.now)?.ike?.initiatorSPI
        pair.network.filter = { bytes, _, _ in (try? WireMessage(parsing: bytes).header.exchange) != .ikeSAInit }
        #expect(RekeyTests.watch(pair, 245))
        #expect(pair.isUp && pair.east.status(now: pair.now)?.ike?.initiatorSPI == before)
        pair.network.filter = nil
        #expect(RekeyTests.watch(pair, 50))
        #expect(pair.east.status(now: pair.now)?.ike?.initiatorSPI != before)
        #expect(pair.east.downs.isEmpty)
        #expect(pair.network.run(for: .seconds(15)) { Self.quiet(pair) == nil })
    }

    @Test func `what was not authenticated anew in time ends`() throws {
        let pair = try Self.up(east: .seconds(300)) {
            $0.westSide.dpd = .zero; $0.eastSide.dpd = .zero
        }
        pair.network.filter = { bytes, _, _ in (try? WireMessage(parsing: bytes).header.exchange) != .ikeSAInit }
        pair.run(301)
        #expect(pair.east.downs.first?.contains("reauth_time") == true)
        #expect(pair.east.installed.isEmpty && pair.west.installed.isEmpty)
    }

    @Test func `a responder that cannot begin tells the peer the time, and the peer obeys`() throws {
        let pair = try Self.up(east: .zero, west: .seconds(100)) { $0.westSide.remoteAddress = nil }
        let before = pair.east.status(now: pair.now)?.ike?.initiatorSPI
        #expect(RekeyTests.watch(pair, 95))
        #expect(pair.east.status(now: pair.now)?.ike?.initiatorSPI != before)
        #expect(pair.west.downs.isEmpty && Self.quiet(pair) == nil)
    }

    @Test func `a rekeyed IKE SA is no newer authentication`() throws {
        let pair = try Self.up(east: .seconds(100))
        pair.run(30)
        #expect(pair.east.core.rekey(connection: "c", child: nil, ike: true, now: pair.now))
        pair.run(30)
        #expect(pair.east.core.rekey(connection: "c", child: nil, ike: true, now: pair.now))
        pair.network.history = []
        #expect(RekeyTests.watch(pair, 35))
        #expect(try pair.network.history.contains { try WireMessage(parsing: $0.bytes).header.exchange == .ikeAuth })
        pair.run(12)
        #expect(Self.quiet(pair) == nil)
    }
}
