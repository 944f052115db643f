import IPsec
import Testing
import Wire

@testable import IKE

/// Whoever authenticates may claim what its identity may have, and nothing that is another's. RFC 4301 §4.4.3.
@Suite struct SelectorClaimTests {
    /// West takes everybody below `.road.example`, for any part of 10.9.0.0/16; east is the first of them.
    private static func hub(east: [String] = ["10.9.1.0/24"], change: ((inout ConnectionPlan) -> Void)? = nil) throws -> Pair {
        let pair = Pair()
        (pair.eastSide.identity, pair.eastSide.dpd) = (.fqdn("a.road.example"), .zero)
        pair.eastSide.children = [("net", east, ["10.1.0.0/16"])]
        (pair.westSide.remoteAddress, pair.westSide.dpd) = (nil, .zero)
        pair.westSide.children = [("net", ["10.1.0.0/16"], ["10.9.0.0/16"])]
        pair.westSide.change = { plan in
            plan.remotePattern = .namesBelow(".road.example")
            change?(&plan)
        }
        return pair
    }

    /// Another gateway with an identity of its own that claims a subnet.
    @discardableResult
    private static func add(_ pair: Pair, _ identity: String, _ address: String, _ subnets: [String]) throws -> Node {
        let node = Node(identity, address, seed: UInt64(address.utf8.reduce(0) { $0 &* 31 &+ Int($1) }), settings: CoreSettings())
        pair.network.nodes.append(node)
        var side = pair.eastSide
        side.identity = .fqdn(identity)
        side.children = [("net", subnets, ["10.1.0.0/16"])]
        node.core.addConnection(try Pair.plan(side, local: node.address), now: pair.now)
        return node
    }

    private static func remotes(_ pair: Pair) -> [[TrafficSelector]] { pair.west.installed.map(\.remoteSelectors) }
    private static func selectors(_ texts: String...) -> [TrafficSelector] { texts.map { TrafficSelector(IPPrefix($0)!) } }

    @Test(arguments: ["10.9.1.0/24", "10.9.1.5/32", "10.9.0.0/16", "10.9.0.0/23"])
    func `a second identity gets nothing that the first one has, be it a part, the same, or more`(_ wanted: String) throws {
        let pair = try Self.hub()
        #expect(try pair.establish())
        let thief = try Self.add(pair, "b.road.example", "192.0.2.3", [wanted])
        pair.run(5)
        #expect(Self.remotes(pair) == [Self.selectors("10.9.1.0/24")])
        #expect(thief.installed.isEmpty && pair.west.core.counters.selectorsClaimed >= 1)
        let told = pair.west.logs.filter { $0.contains("b.road.example") && $0.contains("a.road.example") }
        #expect(told.contains { $0.contains("asks for") && $0.contains("192.0.2.3") })
        let problem = try #require(pair.west.status(now: pair.now)?.children.first?.problem)
        #expect(problem.contains("b.road.example") && problem.contains("a.road.example") && problem.contains("peers"))
        #expect(thief.status(now: pair.now)?.children.first?.reason?.contains("TS_UNACCEPTABLE") == true)
    }

    @Test func `what does not overlap is served, and what the first one leaves is free`() throws {
        let pair = try Self.hub()
        #expect(try pair.establish())
        let other = try Self.add(pair, "b.road.example", "192.0.2.3", ["10.9.2.0/24"])
        let waiting = try Self.add(pair, "c.road.example", "192.0.2.4", ["10.9.1.0/24"])
        pair.run(5)
        #expect(pair.isUp(other) && waiting.installed.isEmpty)
        _ = pair.east.core.terminate(connection: "c", child: nil, now: pair.now)
        #expect(pair.network.run(for: .seconds(90)) { pair.isUp(waiting) })
        #expect(Set(Self.remotes(pair)) == [Self.selectors("10.9.1.0/24"), Self.selectors("10.9.2.0/24")])
    }

    @Test func `the same identity comes back from another address, in other letters, and has what it had`() throws {
        let pair = try Self.hub()
        #expect(try pair.establish())
        pair.east.isAlive = false
        let again = try Self.add(pair, "A.Road.example", "192.0.2.9", ["10.9.1.0/24"])
        #expect(pair.network.run(for: .seconds(5)) { pair.isUp(again) })
    }

    @Test func `rekeys of child and IKE SA keep what is had, and keep it from others`() throws {
        let pair = try Self.hub()
        #expect(try pair.establish())
        for isIKE in [false, true, false] {
            #expect(pair.east.core.rekey(connection: "c", child: nil, ike: isIKE, now: pair.now))
            pair.run(10)
            #expect(Self.remotes(pair) == [Self.selectors("10.9.1.0/24")])
        }
        let thief = try Self.add(pair, "b.road.example", "192.0.2.3", ["10.9.1.0/24"])
        pair.run(5)
        #expect(thief.installed.isEmpty)
        #expect(pair.mismatch == nil)
    }

    @Test func `written beside an identity, subnets are its own, also while it is away`() throws {
        let pair = try Self.hub(east: ["10.9.0.0/16"]) { plan in
            plan.children[0].peers = [
                PeerSubnets(identity: .fqdn("a.road.example"), selectors: Self.selectors("10.9.1.0/24")),
                PeerSubnets(identity: .fqdn("b.road.example"), selectors: Self.selectors("10.9.2.0/24")),
            ]
        }
        #expect(try pair.establish())
        #expect(Self.remotes(pair) == [Self.selectors("10.9.1.0/24")], "narrowed to what it may have")
        let unnamed = try Self.add(pair, "c.road.example", "192.0.2.4", ["10.9.2.0/24"])
        let free = try Self.add(pair, "d.road.example", "192.0.2.5", ["10.9.7.0/24"])
        pair.run(5)
        #expect(unnamed.installed.isEmpty && pair.isUp(free))
        let rightful = try Self.add(pair, "B.road.example", "192.0.2.6", ["10.9.2.0/24"])
        #expect(pair.network.run(for: .seconds(5)) { pair.isUp(rightful) })
    }

    @Test func `what the configuration gives to a named site no passer-by gets`() throws {
        let pair = try Self.hub(east: ["10.9.5.0/24"])
        pair.westSide.change = { $0.remotePattern = .namesBelow(".road.example") }
        var site = pair.westSide
        (site.remoteAddress, site.remoteIdentity) = (IPAddress("192.0.2.77"), .fqdn("site.example"))
        site.children = [("site", ["10.1.0.0/16"], ["10.9.5.0/24"])]
        site.change = { $0.name = "site" }
        pair.west.core.addConnection(try Pair.plan(site, local: pair.west.address), now: pair.now)
        try pair.start()
        pair.run(5)
        #expect(pair.west.installed.isEmpty)
        // A wider one is what the passers-by's part is cut out of.
        pair.west.core.removeConnection("site", now: pair.now)
        site.children = [("site", ["10.1.0.0/16"], ["0.0.0.0/0"])]
        pair.west.core.addConnection(try Pair.plan(site, local: pair.west.address), now: pair.now)
        #expect(pair.network.run(for: .seconds(60)) { pair.isUp(pair.east) })
    }

    @Test func `ports and protocols that do not meet are no conflict, ranges that do are`() {
        let claims = SelectorClaims(WorkMeter())
        let local = Self.selectors("10.1.0.0/16")
        func selector(_ first: String, _ last: String, _ proto: UInt8 = 0, _ ports: ClosedRange<UInt16> = 0...65535)
            -> TrafficSelector
        {
            TrafficSelector(first: IPAddress(first)!, last: IPAddress(last)!, ipProtocol: proto, ports: ports)
        }
        let holder = SelectorClaims.Holder(connection: "c", identity: .fqdn("a"))
        let mine = [selector("10.9.0.250", "10.9.1.5", 6, 80...90), selector("2001:db8::", "2001:db8::ff")]
        claims.add(.live(1), holder, local: local + Self.selectors("::/0"), remote: mine)
        func meets(_ selector: TrafficSelector, local: [TrafficSelector] = local + Self.selectors("::/0")) -> Bool {
            claims.conflict(local: local, remote: [selector]) { _ in true } != nil
        }
        #expect(meets(selector("10.9.1.0", "10.9.1.255", 6, 85...85)) && meets(selector("10.9.1.5", "10.9.1.5")))
        #expect(meets(selector("0.0.0.0", "255.255.255.255")) && meets(selector("2001:db8::80", "2001:db8::80")))
        #expect(!meets(selector("10.9.1.0", "10.9.1.255", 17, 85...85)) && !meets(selector("10.9.1.0", "10.9.1.255", 6, 91...99)))
        #expect(!meets(selector("10.9.1.6", "10.9.1.255")) && !meets(selector("2001:db8::100", "2001:db8::1ff")))
        #expect(!meets(selector("10.9.1.0", "10.9.1.5"), local: Self.selectors("10.2.0.0/16")))
        claims.remove(.live(1), holder, remote: mine)
        #expect(!meets(selector("0.0.0.0", "255.255.255.255")) && !meets(selector("::", "ffff::")))
    }

    /// Against the plain way of doing it.
    @Test func `the tree finds exactly the prefixes that overlap`() throws {
        let random = SeededRandom(seed: 7)
        func prefix() -> IPPrefix {
            let length = Int(random.next() % 33)
            let mask: UInt32 = length == 0 ? 0 : ~0 << UInt32(32 - length)
            // Few bits, so that they meet.
            let bits = UInt32(truncatingIfNeeded: random.next()) & 0xF0F0_0F0F & mask
            return IPPrefix(.v4(IPv4Address(bits: bits)), length: length)!
        }
        let tree = PrefixTree<IPPrefix>(WorkMeter())
        var plain: [IPPrefix] = []
        for _ in 0..<3000 {
            let one = prefix()
            if random.next() % 3 == 0, let gone = plain.popLast() {
                tree.remove(first: gone.address, last: gone.last) { $0 == gone }
                plain.removeAll { $0 == gone }
            } else {
                tree.insert(one, first: one.address, last: one.last)
                plain.append(one)
            }
            let asked = prefix()
            #expect((tree.first(overlapping: asked.address, asked.last) { $0.overlaps(asked) } != nil)
                == plain.contains { $0.overlaps(asked) })
        }
    }
}
