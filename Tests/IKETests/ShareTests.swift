import IPsec
import Testing
import Wire

@testable import IKE

/// What one authenticated peer can take of the whole, in children and in lines of the log.
@Suite struct ShareTests {
    /// A hub with room for so many children, and a peer of it that can be made to ask for anything.
    private static func hub(_ maxChildren: Int) throws -> Pair {
        let pair = Pair(settings: InitTests.settings { ($0.maxChildren, $0.maxPeerChildren) = (maxChildren, maxChildren) })
        (pair.eastSide.dpd, pair.westSide.dpd) = (.zero, .zero)
        pair.westSide.remoteAddress = nil
        pair.westSide.children = [("net", ["10.2.0.0/24"], ["0.0.0.0/0"])]
        pair.westSide.change = { $0.remotePattern = .any }
        try pair.configureWest()
        return pair
    }

    private static func peer(_ pair: Pair, _ number: Int) throws -> Node {
        let node = Node("n\(number)", "192.0.3.\(number)", seed: UInt64(number), settings: CoreSettings())
        pair.network.nodes.append(node)
        var side = pair.eastSide
        side.identity = .fqdn("n\(number).example")
        side.children = [("net", ["10.9.\(number).0/24"], ["10.2.0.0/24"])]
        node.core.addConnection(try Pair.plan(side, local: node.address), now: pair.now)
        pair.network.run(for: .milliseconds(200))
        return node
    }

    /// CREATE_CHILD_SA for one child more, as the node would send it.
    private static func ask(_ pair: Pair, _ node: Node, _ number: Int, spi: UInt32) throws -> PayloadList {
        let forge = try #require(Forge(node))
        let own = TrafficSelector(IPPrefix("10.9.\(number).0/24")!)
        let payloads: [Payload] = [
            .securityAssociation([
                WireProposal(
                    number: 1, protocolID: ProtocolID.esp, spi: [UInt8](u32: spi),
                    transforms: ESPSuite(
                        transform: ESPTransform(keyBits: 256, extendedSequenceNumbers: true), method: nil
                    ).transforms)
            ]), .nonce([UInt8](repeating: UInt8(truncatingIfNeeded: spi), count: 32)),
            .trafficSelectorsInitiator(WireSelectors([own])),
            .trafficSelectorsResponder(WireSelectors([TrafficSelector(IPPrefix("10.2.0.0/24")!)])),
        ]
        let target = try #require(pair.west.core.allSAs.first { $0.initiatorSPI == forge.sa.initiatorSPI })
        let request = try forge.request(.createChildSA, payloads, id: target.expectedRequestID)
        let path = Path(local: Endpoint(pair.west.address, 500), remote: Endpoint(node.address, 500))
        pair.west.core.handleDatagram(request, path: path, now: pair.now)
        pair.west.takeEvents(now: pair.now)
        // The node has sent it, for all that its core knows.
        forge.sa.nextRequestID = target.expectedRequestID
        let answer = try #require(InitTests.answers(pair.west).last)
        guard let suite = forge.sa.suite, let keys = forge.sa.peerKeys, let sealed = answer.encrypted else {
            return PayloadList()
        }
        let inner = try MessageSealer(crypto: OpenSSLCryptoForTests.shared, cipher: suite.cipher).open(sealed, keys: keys)
        return try PayloadChain(first: sealed.firstPayload, bytes: inner[...]).payloads
    }

    @Test func `one identity gets an eighth of the table, the others their children and every rekey`() throws {
        let pair = try Self.hub(64)
        let greedy = try Self.peer(pair, 1)
        let modest = try Self.peer(pair, 2)
        #expect(pair.west.installed.count == 2)
        var refused = 0
        for index in 0..<20 {
            let answer = try Self.ask(pair, greedy, 1, spi: 0x5000 + UInt32(index))
            if answer.notify(.noAdditionalSAs) != nil { refused += 1 }
        }
        #expect(refused == 13 && pair.west.installed.count == 9, "an eighth of 64 for the greedy, one for the modest")
        #expect(pair.west.core.counters.childLimitReached == 13)
        #expect(pair.west.logs.contains { $0.contains("n1.example has 8 children, the most for one identity") })
        _ = try Self.peer(pair, 3)
        #expect(pair.west.installed.count == 10)
        #expect(modest.core.rekey(connection: "c", child: nil, ike: false, now: pair.now))
        pair.run(5)
        #expect(pair.isUp(modest) && modest.status(now: pair.now)?.children.first?.rekeys == 1)
    }

    @Test func `many identities together leave a quarter for rekeys and what others are configured for`() throws {
        let pair = try Self.hub(32)
        var site = pair.westSide
        (site.remoteAddress, site.remoteIdentity) = (IPAddress("192.0.2.1"), .fqdn("east.example"))
        site.children = (0..<4).map { ("s\($0)", ["10.2.0.0/24"], ["10.40.\($0).0/24"]) }
        site.change = { $0.name = "site" }
        pair.west.core.addConnection(try Pair.plan(site, local: pair.west.address), now: pair.now)
        let peers = try (1...8).map { try Self.peer(pair, $0) }
        for (offset, peer) in peers.enumerated() {
            for index in 0..<6 { _ = try Self.ask(pair, peer, offset + 1, spi: 0x6000 + UInt32(offset * 16 + index)) }
        }
        #expect(pair.west.core.shares["c"] == 20, "three quarters of 32, without the four of the site")
        pair.eastSide.children = (0..<4).map { ("s\($0)", ["10.40.\($0).0/24"], ["10.2.0.0/24"]) }
        try pair.configureEast()
        pair.run(10)
        #expect(pair.west.core.shares["site"] == 4)
        for peer in peers { _ = peer.core.rekey(connection: "c", child: nil, ike: false, now: pair.now) }
        pair.run(10)
        #expect(peers.allSatisfy { $0.status(now: pair.now)?.children.first?.rekeys == 1 })
    }

    @Test func `two children of one peer cannot have the same SPI`() throws {
        let pair = try Self.hub(1024)
        let node = try Self.peer(pair, 1)
        #expect(try Self.ask(pair, node, 1, spi: 0x7001).proposals != nil)
        let second = try Self.ask(pair, node, 1, spi: 0x7001)
        #expect(second.proposals == nil && second.notify(.noProposalChosen) != nil)
        #expect(try Self.ask(pair, node, 1, spi: 0x7002).proposals != nil)
        #expect(pair.isUp(node), "and nothing else happens")
    }

    @Test func `a peer's error notifies are told some times, counted, and told again later`() throws {
        let pair = Pair()
        (pair.eastSide.dpd, pair.westSide.dpd) = (.zero, .zero)
        #expect(try pair.establish())
        let forge = try #require(Forge(pair.east))
        let path = Path(local: Endpoint(pair.west.address, 500), remote: Endpoint(pair.east.address, 500))
        func send(_ count: Int) throws {
            for _ in 0..<count {
                let id = try #require(pair.west.core.allSAs.first).expectedRequestID
                let many = [Payload](repeating: .notify(Notify(.invalidSelectors)), count: 20)
                let request = try forge.request(.informational, [.notify(Notify(.setWindowSize))] + many, id: id)
                pair.west.core.handleDatagram(request, path: path, now: pair.now)
                pair.west.takeEvents(now: pair.now)
            }
            while pair.west.core.pollTransmit() != nil {}
        }
        func told() -> [String] { pair.west.logs.filter { $0.contains("The peer reports") } }
        // Not the first after IKE_AUTH, which may refuse us. One line for everybody; what repeats it is for who debugs.
        try send(200)
        let lines = 1 + LogRates.burst
        #expect(told().count == lines)
        #expect(pair.west.core.counters.linesUnsaid == 4000 - lines)
        pair.network.now = pair.network.now + .seconds(10)
        try send(1)
        #expect(told().count == lines + 5)
        #expect(told()[lines].contains("(\(4000 - lines) more like it were left out)"))
        pair.network.now = pair.network.now + Repetitions.firstInterval
        try send(1)
        #expect(told().contains { $0.hasPrefix("Still failing, the 4021st time in 1m 10s: The peer reports INVALID_SELECTORS.") })
        #expect(pair.isUp(pair.west))
    }
}
