@testable import Dataplane
import Testing
import Wire

/// The same numbers every time. Knuth's.
private struct Numbers: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return state ^ state >> 33
    }
}

@Suite("Tables that workers share")
struct TablesTests {
    private func prefix(_ bits: UInt32, _ length: Int) -> IPPrefix { IPPrefix(.v4(IPv4Address(bits: bits)), length: length)! }
    private func route(_ prefix: IPPrefix, _ gateway: UInt32) -> ForwardingPlan.Route {
        .init(prefix: prefix, gateway: .v4(IPv4Address(bits: gateway)), portIndex: 1)
    }

    @Test("every change leaves the longest prefix deciding, and older views as they were", arguments: [1, 2, 3] as [UInt64])
    func longestPrefix(seed: UInt64) {
        var random = Numbers(state: seed)
        let tables = Tables(ForwardingPlan(), ports: [], generation: 1)
        var present: [IPPrefix: UInt32] = [:]
        var kept: [Tables.Replaced] = []
        let expected = { (present: [IPPrefix: UInt32], address: UInt32) in
            (0...32).reversed().lazy.compactMap { present[prefix(address, $0)] }.first
        }
        for round in 0..<400 {
            var update = ForwardingUpdate()
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                // Few addresses and all lengths, so that prefixes cover each other.
                let bits = UInt32.random(in: 0...255, using: &random) << 24 | UInt32.random(in: 0...3, using: &random) << 10
                let prefix = prefix(bits & 0x0F00_FFFF, Int.random(in: 0...32, using: &random))
                let gateway: UInt32? = Bool.random(using: &random) ? UInt32(round + 1) : nil
                present[prefix] = gateway
                update.routes[prefix] = .some(gateway.map { route(prefix, $0) })
            }
            let before = tables.view
            let sample = (0..<20).map { _ in UInt32.random(in: 0...0x0FFF_FFFF, using: &random) & 0x0F00_FFFF }
            let earlier = sample.map { before.route(to: $0)?.gateway }
            kept.append(tables.apply(update, ports: [], generation: UInt32(round + 2)))
            for address in sample { #expect(tables.view.route(to: address)?.gateway == expected(present, address)) }
            #expect(sample.map { before.route(to: $0)?.gateway } == earlier, "a worker still reads the older view")
        }
        #expect(present.count > 50)
        withExtendedLifetime(kept) {}
    }

    @Test("neighbours and peers are found by both families' addresses, each port has its own")
    func neighbours() {
        let (router, host) = (IPAddress("fe80::1")!, IPAddress("10.1.0.2")!)
        var plan = ForwardingPlan(neighbours: [
            .init(address: router, portIndex: 0, mac: [2, 0, 0, 0, 0, 1]),
            .init(address: router, portIndex: 1, mac: [2, 0, 0, 0, 0, 2]),
            .init(address: host, portIndex: 1, mac: [2, 0, 0, 0, 0, 3]), .init(address: host, portIndex: 0, mac: []),
        ])
        plan.peers = [.init(address: IPv6Address("2001:db8::2")!, nextHop: router.v6!, portIndex: nil)]
        let tables = Tables(plan, ports: [], generation: 1)
        let (high, low) = (router.v6!.high, router.v6!.low)
        #expect(tables.view.neighbour(high: high, low: low, portIndex: 0)?.mac.5 == 1)
        #expect(tables.view.neighbour(high: high, low: low, portIndex: 1)?.mac.5 == 2)
        #expect(tables.view.neighbour(host.v4!.bits, portIndex: 1)?.mac.5 == 3)
        #expect(tables.view.neighbour(host.v4!.bits, portIndex: 0) == nil, "one without a link-layer address is none")
        #expect(tables.view.peer(high: 0x2001_0db8_0000_0000, low: 2)?.portIndex == TablesView.kernelPort)
        var update = ForwardingUpdate()
        update.neighbours[.init(address: router, portIndex: 0)] = .some(nil)
        update.peers[IPv6Address("2001:db8::2")!] = .some(nil)
        _ = tables.apply(update, ports: [], generation: 2)
        #expect(tables.view.neighbour(high: high, low: low, portIndex: 0) == nil)
        #expect(tables.view.neighbour(high: high, low: low, portIndex: 1) != nil)
        #expect(tables.view.peer(high: 0x2001_0db8_0000_0000, low: 2) == nil)
    }

    /// By the pieces of memory that a change copies: a change of routes at most one per level, of a map three.
    @Test("one change costs the same with ten and with sixty thousand entries", arguments: [10, 60_000])
    func price(count: Int) {
        var plan = ForwardingPlan()
        for number in 0..<count {
            let prefix = prefix(0x0A00_0000 + UInt32(number) << 8, 24)
            plan.routes.append(route(prefix, UInt32(number + 1)))
            plan.neighbours.append(.init(address: prefix.address, portIndex: 1, mac: [2, 0, 0, 0, 0, 9]))
            plan.peers.append(
                .init(address: IPv6Address(high: 1, low: UInt64(number)), nextHop: IPv6Address(high: 1, low: 1), portIndex: 1))
        }
        let tables = Tables(plan, ports: [], generation: 1)
        var generation: UInt32 = 1
        let cost = { (change: (inout ForwardingUpdate) -> Void) -> Int in
            var update = ForwardingUpdate()
            change(&update)
            generation += 1
            let before = tables.copies
            _ = tables.apply(update, ports: [], generation: generation)
            return tables.copies - before
        }
        let one = prefix(0x0A00_0300, 24)
        #expect(cost { $0.routes[one] = .some(route(one, 7)) } <= 8)
        #expect(tables.view.route(to: 0x0A00_0305)?.gateway == 7)
        #expect(cost { $0.routes[one] = .some(nil) } <= 8 && tables.view.route(to: 0x0A00_0305) == nil)
        #expect(cost { $0.neighbours[.init(address: one.address, portIndex: 1)] = .some([2, 0, 0, 0, 0, 8]) } <= 3)
        #expect(tables.view.neighbour(0x0A00_0300, portIndex: 1)?.mac.5 == 8)
        #expect(cost { $0.peers[IPv6Address(high: 1, low: 5)] = .some(nil) } <= 3)
        #expect(tables.view.rulesGeneration == 1, "what policy said of flows stays right")
        #expect(tables.view.route(to: 0x0A00_0405)?.gateway == 5)
    }
}
