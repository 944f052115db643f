import IKE
import IPsec
import Testing
import Wire

/// Both ends begin, or one begins again: they end with one IKE SA and working tunnels.
@Suite struct ConvergenceTests {
    static func both(_ seed: UInt64, _ change: (Pair) -> Void = { _ in }) throws -> Pair {
        let pair = Pair(seed: seed)
        pair.westSide.start = .immediately
        change(pair)
        try pair.configureWest()
        try pair.configureEast()
        return pair
    }

    @Test(arguments: 1...30)
    func `both ends initiate at once`(_ seed: UInt64) throws {
        let pair = try Self.both(seed)
        if seed % 3 == 0 { pair.network.faults.spread = .milliseconds(80) }
        #expect(pair.network.run(for: .seconds(10)) { pair.isUp })
        var gaps = 0
        pair.network.run(for: .seconds(60)) {
            if pair.east.installed.isEmpty || pair.west.installed.isEmpty { gaps += 1 }
            return false
        }
        #expect(gaps == 0)
        #expect(pair.isUp && pair.mismatch == nil)
        #expect(pair.east.core.tableSizes["sas"] == 1 && pair.west.core.tableSizes["sas"] == 1)
        #expect(pair.east.installed.count == 1 && pair.west.installed.count == 1)
        #expect(pair.east.downs.isEmpty && pair.west.downs.isEmpty)
    }

    @Test(arguments: 1...10)
    func `both ends initiate at once with three children`(_ seed: UInt64) throws {
        let pair = try Self.both(seed) {
            $0.eastSide.children = [
                ("a", ["10.1.0.0/24"], ["10.2.0.0/24"]), ("b", ["10.1.1.0/24"], ["10.2.1.0/24"]),
                ("c", ["10.1.2.0/24"], ["10.2.2.0/24"]),
            ]
            $0.westSide.children = [
                ("a", ["10.2.0.0/24"], ["10.1.0.0/24"]), ("b", ["10.2.1.0/24"], ["10.1.1.0/24"]),
                ("c", ["10.2.2.0/24"], ["10.1.2.0/24"]),
            ]
        }
        #expect(pair.network.run(for: .seconds(10)) { pair.isUp })
        pair.run(60)
        #expect(pair.isUp && pair.mismatch == nil)
        #expect(pair.east.core.tableSizes["sas"] == 1)
        #expect(Set(pair.east.installed.map(\.child)) == ["a", "b", "c"])
    }

    @Test(arguments: 1...20)
    func `a peer that restarts and begins is not held up by what is left of it`(_ seed: UInt64) throws {
        let pair = Pair(seed: seed)
        pair.eastSide.dpd = .zero
        pair.westSide.dpd = .zero
        #expect(try pair.establish())
        pair.east.restart()
        try pair.configureEast()
        #expect(pair.network.run(for: .seconds(10)) { pair.isUp && pair.mismatch == nil })
        // INITIAL_CONTACT dropped the old SA.
        #expect(pair.west.core.tableSizes["sas"] == 1)
        #expect(pair.west.installed.count == 1)
    }

    @Test(arguments: 1...20)
    func `a responder that restarts and begins itself`(_ seed: UInt64) throws {
        let pair = try Self.both(seed)
        #expect(pair.network.run(for: .seconds(10)) { pair.isUp })
        pair.run(10)
        pair.west.restart()
        try pair.configureWest()
        #expect(pair.network.run(for: .seconds(40)) { pair.isUp && pair.mismatch == nil })
        pair.run(60)
        #expect(pair.isUp && pair.mismatch == nil)
        #expect(pair.east.core.tableSizes["sas"] == 1 && pair.west.core.tableSizes["sas"] == 1)
    }

    @Test func `an INITIAL_CONTACT that was overtaken does not drop the SA that overtook it`() throws {
        let pair = Pair()
        var held: (bytes: [UInt8], source: Endpoint, destination: Endpoint)?
        // East's IKE_AUTH request, which says that east has no other SA, is held back on the way.
        pair.network.filter = { bytes, source, destination in
            guard held == nil, source.address == pair.east.address,
                let header = try? WireMessage(parsing: bytes).header, header.exchange == .ikeAuth, !header.isResponse
            else { return true }
            held = (bytes, source, destination)
            return false
        }
        try pair.start()
        pair.run(0.05)
        let late = try #require(held)
        // Meanwhile west begins, and comes up.
        #expect(pair.west.core.initiate(connection: "c", child: nil, now: pair.now))
        #expect(pair.network.run(for: .milliseconds(300)) { pair.isUp })
        pair.network.put(late.bytes, from: late.source, to: late.destination)
        pair.run(0.5)
        #expect(pair.mismatch == nil)
        #expect(pair.west.removals == 0 && pair.east.removals == 0)
        pair.run(60)
        #expect(pair.isUp && pair.mismatch == nil && pair.east.core.tableSizes["sas"] == 1)
    }

    @Test func `two connections between the same identities do not drop each other`() throws {
        let pair = Pair()
        try pair.start()
        for (node, side, local, remote) in [
            (pair.east, pair.eastSide, "10.1.5.0/24", "10.2.5.0/24"), (pair.west, pair.westSide, "10.2.5.0/24", "10.1.5.0/24"),
        ] {
            var plan = try Pair.plan(side, local: node.address)
            plan.name = "d"
            plan.children[0].localSelectors = [TrafficSelector(IPPrefix(local)!)]
            plan.children[0].remoteSelectors = [TrafficSelector(IPPrefix(remote)!)]
            node.core.addConnection(plan, now: pair.now)
        }
        // Both have the same addresses and identities: the responder's first connection takes the IKE SA, so the second's child
        // is refused there; what must not happen is that the two take each other down.
        #expect(pair.network.run(for: .seconds(10)) { pair.isUp(pair.east) })
        pair.run(60)
        #expect(pair.east.status("c", now: pair.now)?.state == .established)
        #expect(pair.east.status("d", now: pair.now)?.state == .established)
        #expect(pair.east.downs.isEmpty)
    }
}
