import Crypto
import IKE
import IPsec
import Testing
import Wire

@Suite("Virtual addresses") struct VirtualAddressTests {
    private static let pool = AddressPool(
        name: "road", first: IPAddress("10.9.0.1")!, last: IPAddress("10.9.0.2")!, dns: [IPAddress("10.1.0.53")!])
    private static let pool6 = AddressPool(
        name: "road6", first: IPAddress("2001:db8:9::1")!, last: IPAddress("2001:db8:9::ffff")!,
        dns: [IPAddress("2001:db8::53")!])

    /// East is a host that asks for an address, west a gateway with pools that takes anybody.
    private static func pair(
        pools: [AddressPool] = [pool], asks: VirtualAddressRequest = VirtualAddressRequest(wantsIPv4: true), seed: UInt64 = 1
    ) -> Pair {
        let pair = Pair(seed: seed)
        pair.eastSide.children = [("net", ["0.0.0.0/0"] + (asks.wantsIPv6 ? ["::/0"] : []), ["10.1.0.0/16"])]
        pair.eastSide.change = { plan in
            plan.virtualAddress = asks
            plan.children[0].localIsAssigned = true
        }
        pair.westSide.children = [("net", ["10.1.0.0/16"], [])]
        pair.westSide.remoteAddress = nil
        pair.westSide.remoteIdentity = nil
        pair.westSide.change = { plan in
            plan.pools = pools.map(\.name)
            plan.children[0].remoteIsAssigned = true
        }
        pair.west.core.setPools(pools)
        return pair
    }

    /// Another host with the same configuration and an identity of its own.
    private static func addHost(_ pair: Pair, _ name: String, _ address: String) throws -> Node {
        let node = Node(name, address, seed: 77, settings: CoreSettings())
        pair.network.nodes.append(node)
        var side = pair.eastSide
        side.identity = .fqdn(name)
        node.core.addConnection(try Pair.plan(side, local: node.address), now: pair.network.now)
        return node
    }

    @Test("a host gets an address, a name server and the subnets behind, and its child is for that address alone")
    func assignment() throws {
        let pair = Self.pair()
        #expect(try pair.establish())
        let given = try #require(pair.east.virtual.first ?? nil)
        #expect(given.addresses == [IPAddress("10.9.0.1")!])
        #expect(given.dns == [IPAddress("10.1.0.53")!])
        #expect(given.subnets == [IPPrefix("10.1.0.0/16")!])
        #expect(pair.mismatch == nil)
        #expect(pair.west.installed.first?.remoteSelectors == [TrafficSelector(IPPrefix("10.9.0.1/32")!)])
        #expect(pair.west.core.poolUse == ["road": 1])
    }

    @Test("both families at once")
    func bothFamilies() throws {
        let pair = Self.pair(pools: [Self.pool, Self.pool6], asks: VirtualAddressRequest(wantsIPv4: true, wantsIPv6: true))
        #expect(try pair.establish())
        let given = try #require(pair.east.virtual.first ?? nil)
        #expect(given.addresses.map(\.description) == ["10.9.0.1", "2001:db8:9::1"])
        #expect(given.dns.count == 2)
    }

    @Test("two hosts of one connection are up at once, each with its own address, child and number")
    func severalPeers() throws {
        let pair = Self.pair()
        try pair.start()
        let other = try Self.addHost(pair, "other.example", "192.0.2.7")
        #expect(pair.network.run(for: .seconds(30)) { pair.isUp(pair.east) && pair.isUp(other) })
        pair.run(5)
        let children = pair.west.installed
        #expect(Set(children.map(\.remoteSelectors)).count == 2)
        #expect(Set(children.map(\.instance)).count == 2)
        #expect(children.allSatisfy { $0.instance != 0 })
        // One leaves; the other is not touched.
        _ = other.core.terminate(connection: "c", child: nil, now: pair.now)
        pair.run(5)
        #expect(pair.west.installed.count == 1)
        #expect(pair.isUp(pair.east))
        #expect(pair.west.core.poolUse == ["road": 1])
        #expect(pair.west.downs.isEmpty)
    }

    @Test("a pool without an address left refuses with a sentence, and serves again when one leaves")
    func exhaustion() throws {
        let pair = Self.pair()
        try pair.start()
        let second = try Self.addHost(pair, "second.example", "192.0.2.7")
        #expect(pair.network.run(for: .seconds(30)) { pair.isUp(pair.east) && pair.isUp(second) })
        let third = try Self.addHost(pair, "third.example", "192.0.2.8")
        pair.run(3)
        #expect(!pair.isUp(third))
        let reason = third.status(now: pair.now)?.children.first?.reason ?? ""
        #expect(reason.contains("INTERNAL_ADDRESS_FAILURE"))
        #expect(pair.west.logs.contains { $0.contains("no address is left in pool road (2 in use)") })
        _ = second.core.terminate(connection: "c", child: nil, now: pair.now)
        #expect(pair.network.run(for: .seconds(60)) { pair.isUp(third) })
        #expect(third.virtual.last??.addresses == [IPAddress("10.9.0.2")!])
    }

    @Test("a host that comes back has its old address again, also after others came and went")
    func stability() throws {
        let pair = Self.pair(pools: [
            AddressPool(name: "road", first: IPAddress("10.9.0.1")!, last: IPAddress("10.9.0.9")!)
        ])
        #expect(try pair.establish())
        _ = pair.east.core.terminate(connection: "c", child: nil, now: pair.now)
        pair.run(5)
        #expect(pair.east.virtual.last == .some(nil))
        #expect(pair.west.core.poolUse == ["road": 0])
        let other = try Self.addHost(pair, "other.example", "192.0.2.7")
        #expect(pair.network.run(for: .seconds(30)) { pair.isUp(other) })
        #expect(other.virtual.first??.addresses == [IPAddress("10.9.0.2")!])
        _ = pair.east.core.initiate(connection: "c", child: nil, now: pair.now)
        #expect(pair.network.run(for: .seconds(30)) { pair.isUp(pair.east) })
        #expect(pair.east.virtual.last??.addresses == [IPAddress("10.9.0.1")!])
    }

    @Test("rekeying child and IKE SA keeps address and number")
    func rekeying() throws {
        let pair = Self.pair()
        #expect(try pair.establish())
        let before = try #require(pair.west.installed.first)
        #expect(pair.east.core.rekey(connection: "c", child: nil, ike: true, now: pair.now))
        pair.run(10)
        #expect(pair.west.core.rekey(connection: "c", child: nil, ike: false, now: pair.now))
        pair.run(10)
        let after = try #require(pair.west.installed.first)
        #expect(after.inboundSPI != before.inboundSPI)
        #expect(after.remoteSelectors == before.remoteSelectors)
        #expect(after.instance == before.instance)
        #expect(pair.west.core.poolUse == ["road": 1])
        #expect(pair.east.virtual.count == 1)
        #expect(pair.mismatch == nil)
        _ = pair.east.core.terminate(connection: "c", child: nil, now: pair.now)
        pair.run(5)
        #expect(pair.west.core.poolUse == ["road": 0])
    }

    @Test("a pool that is changed while hosts are there gives their addresses to nobody else")
    func changedPool() throws {
        let pair = Self.pair()
        #expect(try pair.establish())
        var wider = Self.pool
        wider.last = IPAddress("10.9.0.9")!
        pair.west.core.setPools([wider])
        #expect(pair.west.core.poolUse == ["road": 1])
        let other = try Self.addHost(pair, "other.example", "192.0.2.7")
        #expect(pair.network.run(for: .seconds(30)) { pair.isUp(other) })
        #expect(other.virtual.first??.addresses == [IPAddress("10.9.0.2")!])
    }

    @Test("a peer that asks for no address where one is needed is told so")
    func required() throws {
        let pair = Self.pair()
        pair.eastSide.change = nil
        try pair.start()
        pair.run(5)
        #expect(pair.east.status(now: pair.now)?.children.first?.reason?.contains("FAILED_CP_REQUIRED") == true)
        #expect(pair.west.logs.contains { $0.contains("asks for no address") })
        #expect(pair.west.installed.isEmpty)
    }

    @Test("a gateway without a pool refuses, and the host says what is missing")
    func withoutPool() throws {
        let pair = Self.pair()
        pair.westSide.change = nil
        pair.westSide.children = [("net", ["10.1.0.0/16"], ["10.9.0.0/24"])]
        try pair.start()
        pair.run(5)
        #expect(pair.east.installed.isEmpty)
        #expect(pair.west.logs.contains { $0.contains("has no pool") })
    }

    // MARK: Leases

    @Test("a wished-for address is given when it is free or one's own, never when it is another's")
    func wishes() {
        var leases = AddressLeases(AddressPool(name: "p", first: IPAddress("10.0.0.1")!, last: IPAddress("10.0.0.4")!))
        let third = IPAddress("10.0.0.3")!
        #expect(leases.assign(to: "a", owner: 1, wanted: third) == third)
        #expect(leases.assign(to: "b", owner: 2, wanted: third)?.description == "10.0.0.1")
        // A second IKE SA of the same host that names its address shares it; one that does not gets another.
        #expect(leases.assign(to: "a", owner: 3, wanted: third) == third)
        #expect(leases.assign(to: "a", owner: 4, wanted: nil)?.description == "10.0.0.2")
        #expect(leases.usedCount == 3)
        leases.release(owner: 1)
        #expect(leases.usedCount == 3)
        leases.release(owner: 3)
        #expect(leases.usedCount == 2)
        // The one never used comes before the one that may be wanted back.
        #expect(leases.assign(to: "c", owner: 5, wanted: nil)?.description == "10.0.0.4")
        #expect(leases.assign(to: "d", owner: 6, wanted: nil) == third)
        #expect(leases.assign(to: "e", owner: 7, wanted: nil) == nil)
    }

    @Test("an address that somebody else decides is taken from the pool, and never from a host that uses it")
    func reserving() {
        var leases = AddressLeases(AddressPool(name: "p", first: IPAddress("10.0.0.1")!, last: IPAddress("10.0.0.4")!))
        let second = IPAddress("10.0.0.2")!
        var outcomes = [leases.reserve(IPAddress("10.0.0.9")!, for: "a", owner: 1)]
        for owner in [1, 2] as [UInt64] { outcomes.append(leases.reserve(second, for: "a", owner: owner)) }
        outcomes.append(leases.reserve(second, for: "b", owner: 3))
        #expect(outcomes == [false, true, true, false])
        var others = 0
        for owner in 10..<14 as Range<UInt64> where leases.assign(to: "c\(owner)", owner: owner, wanted: nil) != nil {
            others += 1
        }
        #expect(others == 3)
        #expect(leases.usedCount == 4)
        leases.release(owner: 1)
        leases.release(owner: 2)
        let isTaken = leases.reserve(second, for: "b", owner: 3)
        #expect(isTaken)
        #expect(leases.usedCount == 4)
    }

    @Test("one identity does not empty a pool")
    func greed() {
        var leases = AddressLeases(AddressPool(name: "p", first: IPAddress("10.0.0.1")!, last: IPAddress("10.0.0.254")!))
        var given = 0
        for owner in 0..<100 as Range<UInt64> where leases.assign(to: "a", owner: owner, wanted: nil) != nil { given += 1 }
        #expect(given == Bounds.addressesPerIdentity)
        #expect(leases.assign(to: "b", owner: 200, wanted: nil) != nil)
    }

    @Test("a thousand strangers that come and go leave a bounded memory of themselves in a huge pool")
    func hugePool() {
        var leases = AddressLeases(
            AddressPool(name: "p", first: IPAddress("2001:db8::1")!, last: IPAddress("2001:db8:0:0:ffff:ffff:ffff:ffff")!))
        var seen: Set<IPAddress> = []
        for number in 0..<1000 {
            let address = leases.assign(to: "host \(number)", owner: UInt64(number), wanted: nil)
            if let address { seen.insert(address) }
            leases.release(owner: UInt64(number))
        }
        #expect(seen.count == 1000)
        #expect(leases.usedCount == 0)
    }

    // MARK: Codec

    @Test("a configuration payload is read as it was written")
    func codec() throws {
        let wire = WireConfiguration(
            kind: 2, attributes: [.init(1, [10, 9, 0, 1]), .init(3), .init(13, [10, 1, 0, 0, 255, 255, 0, 0])])
        #expect(try WireConfiguration(parsing: wire.encoded[...]) == wire)
    }

    @Test(
        "hostile configuration payloads are errors",
        arguments: [[], [1, 0, 0], [1, 0, 0, 0, 0, 1], [1, 0, 0, 0, 0, 1, 0, 4, 1]])
    func hostile(_ bytes: [UInt8]) {
        #expect(throws: IKEFault.self) { try WireConfiguration(parsing: bytes[...]) }
    }

    @Test("more attributes than anybody needs are an error")
    func tooMany() {
        let bytes: [UInt8] = [1, 0, 0, 0] + (0..<65).flatMap { _ in [0, 3, 0, 0] as [UInt8] }
        #expect(throws: IKEFault.self) { try WireConfiguration(parsing: bytes[...]) }
    }
}
