import IKE
import IPsec
import Testing
import Wire

/// A peer that makes one child SA per pair of networks, or takes a part only of what it is asked for. RFC 7296 §2.9.
@Suite struct NarrowedSelectorTests {
    /// East wants three networks in one child; west has a child for each of `networks`.
    private static func pair(_ networks: [String], westStart: StartAction = .manual, eastStart: StartAction = .immediately)
        -> Pair
    {
        let pair = Pair()
        pair.eastSide.children = [("net", ["10.1.0.0/24"], ["10.2.0.0/24", "10.3.0.0/24", "10.4.0.0/24"])]
        pair.eastSide.start = eastStart
        pair.westSide.children = networks.map { ("to-\($0)", [$0], ["10.1.0.0/24"]) }
        pair.westSide.start = westStart
        return pair
    }
    private static let all = ["10.2.0.0/24", "10.3.0.0/24", "10.4.0.0/24"]

    private static func carried(_ node: Node) -> [String] {
        node.installed.flatMap(\.remoteSelectors).map(\.description).sorted()
    }

    private static func child(_ pair: Pair) throws -> ConnectionStatus.Child {
        try #require(pair.east.status(now: pair.now)?.children.first)
    }

    @Test func `what the peer leaves out is asked for by itself, until everything is carried`() throws {
        let pair = Self.pair(Self.all)
        #expect(try pair.establish())
        pair.run(5)
        #expect(Self.carried(pair.east) == Self.all)
        #expect(pair.mismatch == nil)
        let child = try Self.child(pair)
        #expect(child.state == .installed && child.problem == nil)
        #expect(child.remoteSelectors.map(\.description).sorted() == Self.all, "status tells what all SAs carry")
        let installations = pair.east.installations
        pair.run(120)
        #expect(pair.east.installations == installations, "and is not asked for again")
    }

    @Test func `each SA is rekeyed for itself, and says which one it replaces`() throws {
        let pair = Self.pair(Self.all)
        #expect(try pair.establish())
        pair.run(5)
        let before = Set(pair.east.installed.map(\.inboundSPI))
        #expect(pair.east.core.rekey(connection: "c", child: "net", ike: false, now: pair.now))
        pair.run(10)
        #expect(Self.carried(pair.east) == Self.all && pair.mismatch == nil)
        #expect(Set(pair.east.installed.compactMap(\.replaces)) == before)
        #expect(before.isDisjoint(with: pair.east.installed.map(\.inboundSPI)))
    }

    @Test func `one of several that the peer deletes is asked for again`() throws {
        let pair = Self.pair(Self.all)
        #expect(try pair.establish())
        pair.run(5)
        _ = pair.west.core.deleteAsPeer(connection: "c", child: "to-10.3.0.0/24", now: pair.now)
        pair.run(5)
        #expect(Self.carried(pair.east) == ["10.2.0.0/24", "10.4.0.0/24"])
        pair.run(30)
        #expect(Self.carried(pair.east) == Self.all)
    }

    @Test func `what the peer refuses is told once, and does not take the rest down`() throws {
        let pair = Self.pair(["10.2.0.0/24", "10.4.0.0/24"])
        try pair.start()
        pair.run(60)
        #expect(Self.carried(pair.east) == ["10.2.0.0/24", "10.4.0.0/24"])
        let child = try Self.child(pair)
        #expect(child.state == .installed)
        #expect(child.problem?.contains("10.3.0.0/24") == true && child.problem?.contains("10.2.0.0/24") == false)
        #expect(pair.east.logs.count { $0.contains("Not carried") } <= 2)
        let sent = pair.west.installations
        pair.run(120)
        #expect(pair.west.installations == sent)
    }

    @Test func `a peer with a smaller network gets it, and the difference is named`() throws {
        let pair = Pair()
        pair.eastSide.children = [("net", ["10.1.0.0/16"], ["10.2.0.0/16"])]
        pair.westSide.children = [("net", ["10.2.5.0/24"], ["10.1.0.0/16"])]
        #expect(try pair.establish())
        pair.run(30)
        #expect(pair.east.installed.count == 1)
        let problem = try #require(try Self.child(pair).problem)
        #expect(problem.contains("10.2.0.0/16") && problem.contains("10.2.5.0/24"))
    }

    @Test func `of a child that the peer began, traffic asks for the rest`() throws {
        let pair = Self.pair(Self.all, eastStart: .manual)
        pair.westSide.change = { plan in
            for index in plan.children.indices { plan.children[index].start = index == 0 ? .immediately : .manual }
        }
        try pair.start()
        pair.run(10)
        #expect(Self.carried(pair.east) == ["10.2.0.0/24"])
        pair.east.core.trafficWantsTunnel(connection: "c", child: "net", now: pair.now)
        pair.run(10)
        #expect(Self.carried(pair.east) == Self.all && pair.mismatch == nil)
    }

    @Test func `more selectors than one payload carries go into several SAs`() throws {
        let pair = Pair()
        let networks = (0..<100).map { "10.2.\($0).0/24" }
        pair.eastSide.children = [("net", ["10.1.0.0/24"], networks)]
        pair.westSide.children = [
            ("first", Array(networks[..<64]), ["10.1.0.0/24"]), ("others", Array(networks[64...]), ["10.1.0.0/24"]),
        ]
        #expect(try pair.establish())
        pair.run(10)
        #expect(Set(Self.carried(pair.east)) == Set(networks))
    }
}
