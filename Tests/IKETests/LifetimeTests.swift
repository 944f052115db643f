import IKE
import IPsec
import Testing
import Wire

/// When an SA is renewed, and by whom; what it may carry; who waits for whom.
@Suite struct LifetimeTests {
    @Test(arguments: 1...40)
    func `the end that made a child renews it first, so that both ends do not collide`(_ seed: UInt64) throws {
        let pair = Pair(seed: seed)
        for side in [\Pair.eastSide, \Pair.westSide] {
            pair[keyPath: side].lifetime = .seconds(1000)
            pair[keyPath: side].ikeLifetime = .seconds(2000)
        }
        #expect(try pair.establish())
        let east = try #require(pair.east.status(now: pair.now)), west = try #require(pair.west.status(now: pair.now))
        func share(_ due: Instant?, of lifetime: Double) -> Double {
            due.map { Double(($0 - pair.now).components.seconds) / lifetime } ?? 0
        }
        #expect((0.69...0.80).contains(share(east.children[0].rekeyAt, of: 1000)))
        #expect((0.79...0.90).contains(share(west.children[0].rekeyAt, of: 1000)))
        #expect((0.69...0.80).contains(share(east.ike?.rekeyAt, of: 2000)))
        #expect((0.79...0.90).contains(share(west.ike?.rekeyAt, of: 2000)))
        var asked: Set<IPAddress> = []
        pair.network.filter = { bytes, source, _ in
            if let header = try? WireMessage(parsing: bytes).header, header.exchange == .createChildSA, !header.isResponse {
                asked.insert(source.address)
            }
            return true
        }
        pair.run(20_000)
        #expect(asked == [pair.east.address], "east made the first, so it renews all")
        #expect(pair.mismatch == nil && pair.east.installed.count == 1)
    }

    @Test(arguments: 1...20)
    func `the soft limits on octets and packets lie below the hard ones, and differently on the two ends`(_ seed: UInt64) throws {
        let pair = Pair(seed: seed)
        for side in [\Pair.eastSide, \Pair.westSide] {
            pair[keyPath: side].change = {
                ($0.children[0].lifetimeBytes, $0.children[0].lifetimePackets) = (1_000_000_000_000, 1000)
            }
        }
        #expect(try pair.establish())
        let east = pair.east.installed[0].limits, west = pair.west.installed[0].limits
        for limits in [east, west] {
            #expect(limits.hardBytes == 1_000_000_000_000 && limits.hardPackets == 1000)
        }
        #expect((700_000_000_000..<800_000_000_000).contains(east.softBytes) && (700..<800).contains(east.softPackets))
        #expect((800_000_000_000..<900_000_000_000).contains(west.softBytes) && (800..<900).contains(west.softPackets))
    }

    @Test func `without limits there are none, and the largest does not overflow`() throws {
        let pair = Pair()
        pair.westSide.change = { ($0.children[0].lifetimeBytes, $0.children[0].lifetimePackets) = (.max, 1) }
        #expect(try pair.establish())
        #expect(pair.east.installed[0].limits == SALimits())
        let west = pair.west.installed[0].limits
        #expect(west.softBytes > .max / 10 * 8 && west.softBytes < west.hardBytes)
        #expect(west.softPackets == 1 && west.hardPackets == 1)
    }

    @Test func `the responder's packets change over with the peer's DELETE of the old child`() throws {
        let pair = Pair()
        #expect(try pair.establish())
        pair.west.used = []
        #expect(pair.east.core.rekey(connection: "c", child: nil, ike: false, now: pair.now))
        pair.run(1)
        #expect(pair.west.installed.count == 2, "the old one still takes what is under way")
        #expect(pair.west.used.last == pair.west.installed[1].inboundSPI)
        pair.run(5)
        #expect(pair.west.installed.count == 1)
    }

    // MARK: Parallel children

    /// RFC 7296 §2.8: "a node MUST accept incoming packets through either SA".
    @Test func `a peer may have two children with the same selectors; when one goes the other carries on, and none is left over`()
        throws
    {
        let pair = Pair()
        (pair.eastSide.dpd, pair.westSide.dpd) = (.zero, .zero)
        #expect(try pair.establish())
        pair.run(100)
        let forge = try #require(Forge(pair.east))
        let offer = Offer.esp([try ESPProposal(keywords: "aes256gcm16")], spi: 0xABCD, withMethods: true)
        func ask(_ exchange: ExchangeType, _ payloads: [Payload], id: UInt32) throws {
            let path = Path(local: Endpoint(pair.west.address, 500), remote: Endpoint(pair.east.address, 500))
            pair.west.core.handleDatagram(try forge.request(exchange, payloads, id: id), path: path, now: pair.now)
            pair.west.takeEvents(now: pair.now)
            while pair.west.core.pollTransmit() != nil {}
        }
        let first = pair.west.installed[0]
        try ask(
            .createChildSA,
            [
                .securityAssociation(offer), .nonce(forge.random.bytes(32)),
                .trafficSelectorsInitiator(WireSelectors([TrafficSelector(IPPrefix("10.1.0.0/24")!)])),
                .trafficSelectorsResponder(WireSelectors([TrafficSelector(IPPrefix("10.2.0.0/24")!)])),
            ], id: 2)
        #expect(pair.west.installed.map(\.child) == ["net", "net"])
        #expect(pair.west.status(now: pair.now)?.children[0].inboundSPI == pair.west.installed[1].inboundSPI, "the newest")
        pair.west.used = []
        try ask(.informational, [.delete(Delete(protocolID: ProtocolID.esp, spis: [0xABCD]))], id: 3)
        #expect(pair.west.used == [first.inboundSPI])
        pair.network.run(for: .seconds(10))
        #expect(pair.west.installed.map(\.inboundSPI) == [first.inboundSPI])
        try ask(.informational, [.delete(.ikeSA)], id: 4)
        #expect(pair.west.installed.isEmpty && pair.west.core.tableSizes["children"] == 0)
    }

    // MARK: Installation

    @Test func `a child that we asked for and that is never installed is given up, deleted and asked for again`() throws {
        let pair = Pair()
        #expect(try pair.establish())
        let old = pair.east.installed[0].inboundSPI
        pair.east.holdsInstallations = true
        #expect(pair.east.core.rekey(connection: "c", child: nil, ike: false, now: pair.now))
        pair.run(9)
        #expect(pair.east.heldTokens.count == 1)
        #expect(pair.east.installed.count == 2 && pair.west.installed.count == 2)
        pair.east.holdsInstallations = false
        pair.run(3)
        // The half-made pair went on both ends; the old one carries on.
        #expect(pair.east.installed.map(\.inboundSPI).contains(old))
        pair.run(15)
        #expect(pair.mismatch == nil && pair.east.installed.count == 1)
        #expect(pair.east.installed[0].inboundSPI != old, "the rekey was repeated")
        #expect(pair.east.core.tableSizes["installs"] == 0)
    }

    @Test func `a withheld answer goes out when its child is removed before it was installed`() throws {
        let pair = Pair()
        pair.west.holdsInstallations = true
        pair.eastSide.dpd = .zero
        try pair.start()
        pair.run(1)
        #expect(pair.west.heldTokens.count == 1)
        // Meanwhile the data plane reports that the child is spent: nobody will answer its installation any more.
        pair.west.core.childLimitReached(inboundSPI: pair.west.installed[0].inboundSPI, hard: true, now: pair.now)
        pair.run(0.2)
        #expect(pair.east.status(now: pair.now)?.state == .established, "the answer came, without a child")
        #expect(pair.east.status(now: pair.now)?.children[0].reason?.contains("TEMPORARY_FAILURE") == true)
        pair.west.holdsInstallations = false
        #expect(pair.network.run(for: .seconds(30)) { pair.isUp })
        #expect(pair.mismatch == nil)
    }

    @Test func `a child at its hard limit goes at once, also when the peer has not answered its deletion`() throws {
        let pair = Pair()
        #expect(try pair.establish())
        let spi = pair.east.installed[0].inboundSPI
        pair.network.faults.loss = 1
        _ = pair.east.core.terminate(connection: "c", child: "net", now: pair.now)
        pair.run(0.2)
        #expect(pair.east.installed.map(\.inboundSPI) == [spi], "its deletion is under way")
        pair.east.core.childLimitReached(inboundSPI: spi, hard: false, now: pair.now)
        pair.run(0.2)
        #expect(pair.east.installed.map(\.inboundSPI) == [spi], "a soft limit does not end it")
        pair.east.core.childLimitReached(inboundSPI: spi, hard: true, now: pair.now)
        pair.run(0.2)
        #expect(pair.east.installed.isEmpty)
    }

    // MARK: Dead peers

    static func died(_ start: StartAction, _ action: DPDAction?) throws -> Pair {
        let pair = Pair()
        pair.eastSide.start = start
        pair.eastSide.dpd = .seconds(2)
        pair.eastSide.change = { $0.dpdAction = action }
        try pair.start()
        #expect(pair.east.core.initiate(connection: "c", child: nil, now: pair.now))
        #expect(pair.network.run(for: .seconds(5)) { pair.isUp })
        pair.west.isAlive = false
        #expect(pair.network.run(for: .seconds(15)) { !pair.east.downs.isEmpty })
        pair.west.restart()
        pair.west.isAlive = true
        try pair.configureWest()
        return pair
    }

    @Test(arguments: [StartAction.immediately, .onTraffic, .manual])
    func `dpd_action restart brings back what was up, however it was started`(_ start: StartAction) throws {
        let pair = try Self.died(start, .restart)
        #expect(pair.network.run(for: .seconds(30)) { pair.isUp && pair.mismatch == nil })
    }

    @Test(arguments: [StartAction.immediately, .onTraffic, .manual])
    func `dpd_action wait brings it back with the next packet`(_ start: StartAction) throws {
        let pair = try Self.died(start, .wait)
        pair.run(60)
        #expect(!pair.isUp)
        pair.east.core.trafficWantsTunnel(connection: "c", child: "net", now: pair.now)
        #expect(pair.network.run(for: .seconds(5)) { pair.isUp && pair.mismatch == nil })
    }

    @Test(arguments: [StartAction.immediately, .onTraffic, .manual])
    func `dpd_action clear leaves it down, for the operator or the peer`(_ start: StartAction) throws {
        let pair = try Self.died(start, .clear)
        pair.east.core.trafficWantsTunnel(connection: "c", child: "net", now: pair.now)
        pair.run(60)
        #expect(!pair.isUp)
        #expect(pair.west.core.initiate(connection: "c", child: nil, now: pair.now))
        #expect(pair.network.run(for: .seconds(5)) { pair.isUp && pair.mismatch == nil })
    }

    @Test(arguments: [(StartAction.immediately, true), (.onTraffic, false), (.manual, false)])
    func `without dpd_action a child's start decides`(_ start: StartAction, _ comesBack: Bool) throws {
        let pair = try Self.died(start, nil)
        #expect(pair.network.run(for: .seconds(60)) { pair.isUp } == comesBack)
        pair.east.core.trafficWantsTunnel(connection: "c", child: "net", now: pair.now)
        #expect(pair.network.run(for: .seconds(5)) { pair.isUp } == (start != .manual))
    }

    @Test func `a peer's DELETE is no death: dpd_action has no say`() throws {
        let pair = Pair()
        pair.eastSide.change = { $0.dpdAction = .clear }
        #expect(try pair.establish())
        #expect(pair.west.core.deleteAsPeer(connection: "c", child: nil, now: pair.now))
        #expect(pair.network.run(for: .seconds(30)) { pair.isUp && pair.mismatch == nil })
    }
}
