import IPsec
import Testing
import Wire

@testable import IKE

/// What an event costs with ten peers and with ten thousand: counted in looks into the core's tables, not in time.
@Suite struct WorkTests {
    /// West takes anybody and has so many peers that are up, besides east, who shook hands with it.
    private static func hub(peers: Int) throws -> Pair {
        let pair = Pair(settings: InitTests.settings { ($0.maxChildren, $0.maxPeerChildren) = (1 << 20, 1 << 20) })
        pair.eastSide.identity = .fqdn("east.example")
        pair.westSide.remoteAddress = nil
        pair.westSide.children = [("net", ["10.2.0.0/24"], ["0.0.0.0/0"])]
        pair.westSide.change = { $0.remotePattern = .any }
        #expect(try pair.establish())
        var other = pair.westSide
        (other.remoteAddress, other.remoteIdentity) = (IPAddress("192.0.2.99"), .fqdn("other.example"))
        other.children = [("net", ["10.2.0.0/24"], ["10.77.0.0/24"])]
        other.change = { $0.name = "other" }
        pair.west.core.addConnection(try Pair.plan(other, local: pair.west.address), now: pair.now)
        let state = try #require(pair.west.core.connections["c"])
        for number in 0..<peers { add(UInt32(number), to: pair.west.core, state, now: pair.now) }
        pair.west.core.settle(pair.now)
        pair.west.takeEvents(now: pair.now)
        return pair
    }

    /// A peer as it stands when it is up, without the handshake.
    private static func add(_ number: UInt32, to core: IKECore, _ state: ConnectionState, now: Instant) {
        let remote = Endpoint(.v4(IPv4Address(bits: 0xC612_0000 &+ number)), 500)
        let path = Path(local: Endpoint(state.plan.localAddress, 500), remote: remote)
        let peer = ProvenPeer(identity: .fqdn("host-\(number).example"), method: "pre-shared key")
        let established = EstablishedSA(
            localIdentity: state.plan.localIdentity, peer: peer, localMethod: "", establishedAt: now,
            rekeyAt: now + .seconds(10_000), expiresAt: now + .seconds(20_000), lowestNonce: [])
        established.settled.instance = number + 10
        let spi = UInt64(number) + 1 << 40
        let sa = IKESA(
            localSPI: spi, initiatorSPI: spi + 1, responderSPI: spi, isInitiator: false, path: path,
            phase: .established(established), now: now)
        sa.connection = state.plan.name
        core.sas[spi] = sa
        state.sas.append(spi)
        core.index(sa)
        let address = TrafficSelector(IPPrefix(.v4(IPv4Address(bits: 0x0A80_0000 &+ number)), length: 32)!)
        let record = ChildRecord(
            name: "net", inboundSPI: 0x1000_0000 + number, outboundSPI: 0x2000_0000 + number,
            suite: ESPSuite(transform: ESPTransform(keyBits: 256, extendedSequenceNumbers: true), method: nil),
            localSelectors: state.plan.children[0].localSelectors, remoteSelectors: [address], createdAt: now,
            rekeyAt: now + .seconds(9000), expiresAt: now + .seconds(9500), weInitiated: false, lowestNonce: [])
        record.state = .installed
        established.children = [record]
        core.childIndex[record.inboundSPI] = spi
        core.claim(record, sa, established)
        core.countChild(record, sa, established)
        core.touch(sa)
    }

    /// Looks that each event took.
    private static func prices(peers: Int) throws -> [String: Int] {
        let pair = try hub(peers: peers)
        let core = pair.west.core
        var prices: [String: Int] = [:]
        func measure(_ name: String, _ body: () throws -> Void) rethrows {
            let before = core.meter.looks
            try body()
            prices[name] = core.meter.looks - before
            while core.pollTransmit() != nil {}
            while core.pollEvent() != nil {}
        }
        let stranger = Path(
            local: Endpoint(pair.west.address, 500), remote: Endpoint(IPAddress("203.0.113.9")!, 500))
        measure("garbage") { core.handleDatagram([UInt8](repeating: 7, count: 20), path: stranger, now: pair.now) }
        let known = try #require(core.allSAs.first { $0.suite != nil })
        var header = known.header(.informational, isResponse: false, id: known.expectedRequestID)
        (header.isFromInitiator, header.nextPayload) = (true, .encrypted)
        let sealed: [UInt8] = [0, 0, 0, 68] + [UInt8](repeating: 7, count: 64)
        header.length = UInt32(IKEHeader.byteCount + sealed.count)
        measure("known SPI, not authentic") {
            core.handleDatagram(header.encoded + sealed, path: known.path, now: pair.now)
        }
        var unknown = header
        unknown.responderSPI = 0x4242
        measure("unknown SPI") { core.handleDatagram(unknown.encoded + sealed, path: stranger, now: pair.now) }
        try measure("IKE_SA_INIT") { core.handleDatagram(try InitTests.request(), path: stranger, now: pair.now) }
        measure("ESP arrived") { core.inboundTraffic(inboundSPI: 0x1000_0003, now: pair.now) }
        measure("ESP arrived, by connection") { core.inboundTraffic(connection: "c", now: pair.now) }
        measure("nothing is due") { core.handleTimeout(now: pair.now) }
        measure("status of another connection") { _ = core.status(connection: "other", now: pair.now) }
        measure("limit") { core.childLimitReached(inboundSPI: 0x1000_0004, hard: true, now: pair.now) }
        let gone = try #require(core.sas[1 << 40 + 5])
        measure("one ends") {
            core.drop(gone, reason: "test", failed: false, now: pair.now)
            core.settle(pair.now)
        }
        return prices
    }

    @Test func `an event costs the same with ten peers and with ten thousand`() throws {
        let (few, many) = (try Self.prices(peers: 10), try Self.prices(peers: 10_000))
        for (event, price) in few.sorted(by: { $0.key < $1.key }) {
            // In the tree of selectors the way to a peer's place is a few forks longer.
            let most = event == "one ends" || event == "limit" ? price + 32 : price
            #expect(try #require(many[event]) <= most, "\(event)")
        }
        #expect(few.count == many.count && few.values.allSatisfy { $0 < 200 }, "\(few)")
    }

    @Test func `a peer that comes, rekeys and goes costs the same with ten others and with ten thousand`() throws {
        var prices: [Int] = []
        for peers in [10, 10_000] {
            let pair = try Self.hub(peers: peers)
            let newcomer = Node("new", "192.0.2.3", seed: 3)
            pair.network.nodes.append(newcomer)
            var side = pair.eastSide
            (side.identity, side.children) = (.fqdn("new.example"), [("net", ["10.3.0.0/24"], ["10.2.0.0/24"])])
            let before = pair.west.core.meter.looks
            newcomer.core.addConnection(try Pair.plan(side, local: newcomer.address), now: pair.now)
            pair.network.run(for: .milliseconds(500))
            let isUp = newcomer.core.allSAs.contains { $0.established?.children.first?.isInstalled == true }
            #expect(isUp)
            for ike in [true, false] {
                _ = newcomer.core.rekey(connection: "c", child: nil, ike: ike, now: pair.now)
                pair.network.run(for: .milliseconds(500))
            }
            _ = newcomer.core.terminate(connection: "c", child: nil, now: pair.now)
            pair.network.run(for: .milliseconds(500))
            prices.append(pair.west.core.meter.looks - before)
        }
        #expect(prices[1] <= prices[0] + 200, "\(prices)")
    }

    @Test func `an ordered list keeps order, forgets what goes, and takes turns`() {
        var list = OrderedList<Int>()
        for number in 0..<100 { list.append(number) }
        list.append(3)
        for number in 0..<100 where number % 3 != 0 { list.remove(number) }
        let thirds = (0..<100).filter { $0 % 3 == 0 }
        #expect(Array(list) == thirds && Array(list.newestFirst) == thirds.reversed() && list.count == thirds.count)
        var place = 0
        let turns = (0..<2 * thirds.count).compactMap { _ in list.next(&place) }
        #expect(turns == thirds + thirds)
        for number in thirds.dropLast() { list.remove(number) }
        #expect(Array(list) == [99] && list.first == 99 && list.next(&place) == 99)
        list.remove(99)
        #expect(list.isEmpty && list.next(&place) == nil)
    }
}
