import IKE
import IPsec
import Testing
import Wire

@Suite struct RekeyTests {
    static func up(seed: UInt64 = 1, _ change: (Pair) -> Void = { _ in }) throws -> Pair {
        let pair = Pair(seed: seed)
        change(pair)
        #expect(try pair.establish())
        return pair
    }

    /// Makes before breaking: at no moment is an end without a child.
    static func watch(_ pair: Pair, _ seconds: Double) -> Bool {
        var neverEmpty = true
        pair.network.run(for: .milliseconds(Int64(seconds * 1000))) {
            if pair.east.installed.isEmpty || pair.west.installed.isEmpty { neverEmpty = false }
            return false
        }
        return neverEmpty
    }

    @Test(arguments: [true, false])
    func `either end rekeys a child without a gap`(_ byInitiator: Bool) throws {
        let pair = try Self.up()
        let old = pair.east.installed[0]
        let node = byInitiator ? pair.east : pair.west
        #expect(node.core.rekey(connection: "c", child: "net", ike: false, now: pair.now))
        #expect(Self.watch(pair, 5))
        #expect(pair.mismatch == nil)
        #expect(pair.east.installed.count == 1 && pair.west.installed.count == 1)
        #expect(pair.east.installed[0].inboundSPI != old.inboundSPI)
        #expect(pair.east.installed[0].inboundKey.octets != old.inboundKey.octets)
        #expect(pair.east.status(now: pair.now)?.children[0].rekeys == 1)
        #expect(pair.west.status(now: pair.now)?.children[0].rekeys == 1)
    }

    @Test func `a rekey with perfect forward secrecy retries with the peer's group`() throws {
        let pair = try Self.up {
            $0.eastSide.esp = ["aes256gcm16-ecp256-ecp384"]
            $0.westSide.esp = ["aes256gcm16-ecp384"]
        }
        #expect(pair.east.core.rekey(connection: "c", child: nil, ike: false, now: pair.now))
        #expect(Self.watch(pair, 5))
        #expect(pair.mismatch == nil && pair.east.installed.count == 1)
        #expect(pair.east.status(now: pair.now)?.children[0].rekeys == 1)
    }

    @Test(arguments: [true, false])
    func `either end rekeys the IKE SA, and the children move`(_ byInitiator: Bool) throws {
        let pair = try Self.up()
        let before = try #require(pair.east.status(now: pair.now)?.ike)
        let child = pair.east.installed[0].inboundSPI
        let node = byInitiator ? pair.east : pair.west
        #expect(node.core.rekey(connection: "c", child: nil, ike: true, now: pair.now))
        #expect(Self.watch(pair, 3))
        let after = try #require(pair.east.status(now: pair.now)?.ike)
        #expect(after.initiatorSPI != before.initiatorSPI && after.responderSPI != before.responderSPI)
        // "the original responder … becomes the original initiator of the new IKE SA".
        #expect(after.isInitiator == byInitiator)
        #expect(pair.east.installed.map(\.inboundSPI) == [child])
        #expect(pair.east.downs.isEmpty && pair.west.downs.isEmpty)
        pair.run(15)
        #expect(pair.east.core.tableSizes["sas"] == 1 && pair.west.core.tableSizes["sas"] == 1)
        // The new SA works in both directions.
        #expect(pair.east.core.rekey(connection: "c", child: nil, ike: false, now: pair.now))
        pair.run(5)
        #expect(pair.west.core.rekey(connection: "c", child: nil, ike: false, now: pair.now))
        pair.run(5)
        #expect(pair.mismatch == nil && pair.east.installed.count == 1)
        #expect(pair.east.status(now: pair.now)?.children[0].rekeys == 2)
    }

    @Test(arguments: 1...20)
    func `both ends rekey the child at once and one new pair is left`(_ seed: UInt64) throws {
        let pair = try Self.up(seed: seed)
        #expect(pair.east.core.rekey(connection: "c", child: nil, ike: false, now: pair.now))
        if seed % 2 == 0 { pair.network.run(for: .milliseconds(5)) }
        if seed % 5 == 0 { pair.network.faults.spread = .milliseconds(60) }
        #expect(pair.west.core.rekey(connection: "c", child: nil, ike: false, now: pair.now))
        #expect(Self.watch(pair, 10))
        #expect(pair.mismatch == nil)
        #expect(pair.east.installed.count == 1 && pair.west.installed.count == 1)
    }

    @Test(arguments: 1...20)
    func `both ends rekey the IKE SA at once and one is left with the child`(_ seed: UInt64) throws {
        let pair = try Self.up(seed: seed)
        let child = pair.east.installed[0].inboundSPI
        #expect(pair.east.core.rekey(connection: "c", child: nil, ike: true, now: pair.now))
        if seed % 2 == 0 { pair.network.run(for: .milliseconds(5)) }
        if seed % 5 == 0 { pair.network.faults.spread = .milliseconds(60) }
        #expect(pair.west.core.rekey(connection: "c", child: nil, ike: true, now: pair.now))
        #expect(Self.watch(pair, 30))
        #expect(pair.east.installed.map(\.inboundSPI) == [child] && pair.mismatch == nil)
        #expect(pair.east.core.tableSizes["sas"] == 1 && pair.west.core.tableSizes["sas"] == 1)
        let (east, west) = (pair.east.status(now: pair.now)?.ike, pair.west.status(now: pair.now)?.ike)
        #expect(east?.initiatorSPI == west?.initiatorSPI && east?.initiatorSPI != nil)
        #expect(pair.east.downs.isEmpty && pair.west.downs.isEmpty)
        #expect(pair.west.core.rekey(connection: "c", child: nil, ike: false, now: pair.now))
        pair.run(5)
        #expect(pair.mismatch == nil)
    }

    @Test(arguments: 1...10)
    func `one end rekeys the child while the other rekeys the IKE SA`(_ seed: UInt64) throws {
        let pair = try Self.up(seed: seed)
        #expect(pair.east.core.rekey(connection: "c", child: nil, ike: false, now: pair.now))
        #expect(pair.west.core.rekey(connection: "c", child: nil, ike: true, now: pair.now))
        #expect(Self.watch(pair, 60))
        #expect(pair.mismatch == nil)
        #expect(pair.east.installed.count == 1)
        #expect(pair.east.status(now: pair.now)?.children[0].rekeys ?? 0 >= 1)
        #expect(pair.east.core.tableSizes["sas"] == 1 && pair.west.core.tableSizes["sas"] == 1)
    }

    @Test(arguments: 1...10)
    func `one end rekeys the child while the other deletes it`(_ seed: UInt64) throws {
        let pair = try Self.up(seed: seed) {
            $0.eastSide.start = .immediately; $0.westSide.start = .manual
        }
        #expect(pair.east.core.rekey(connection: "c", child: nil, ike: false, now: pair.now))
        if seed > 5 { pair.network.run(for: .milliseconds(15)) }
        #expect(pair.west.core.deleteAsPeer(connection: "c", child: "net", now: pair.now))
        pair.run(40)
        #expect(pair.east.faults.isEmpty && pair.west.faults.isEmpty)
        // East wants it, so it is back.
        #expect(pair.mismatch == nil && pair.east.installed.count == 1)
    }

    @Test(arguments: 1...5)
    func `short lifetimes are survived for ten minutes without a gap`(_ seed: UInt64) throws {
        let pair = try Self.up(seed: seed) {
            for keyPath in [\Pair.eastSide, \Pair.westSide] {
                $0[keyPath: keyPath].lifetime = .seconds(5)
                $0[keyPath: keyPath].ikeLifetime = .seconds(17)
            }
        }
        #expect(Self.watch(pair, 600))
        #expect(pair.mismatch == nil)
        #expect(pair.east.downs.isEmpty && pair.west.downs.isEmpty)
        #expect(pair.east.status(now: pair.now)?.children[0].rekeys ?? 0 > 100)
        #expect(pair.east.installed.count <= 3)
        #expect((pair.east.core.tableSizes["sas"] ?? 0) <= 3)
    }

    @Test func `a child whose rekey is never answered ends at its lifetime`() throws {
        let pair = try Self.up {
            $0.eastSide.lifetime = .seconds(20)
            $0.eastSide.dpd = .zero
            $0.westSide.dpd = .zero
        }
        pair.west.isAlive = false
        #expect(pair.network.run(for: .seconds(21)) { pair.east.installed.isEmpty })
    }

    @Test func `limits on bytes and packets rekey or end a child`() throws {
        let pair = try Self.up()
        let spi = pair.east.installed[0].inboundSPI
        pair.east.core.childLimitReached(inboundSPI: spi, hard: false, now: pair.now)
        #expect(Self.watch(pair, 5))
        #expect(pair.east.installed.count == 1 && pair.east.installed[0].inboundSPI != spi)
        pair.east.core.childLimitReached(inboundSPI: pair.east.installed[0].inboundSPI, hard: true, now: pair.now)
        pair.network.collect()
        #expect(pair.east.installed.isEmpty)
        #expect(pair.network.run(for: .seconds(5)) { pair.isUp })
        #expect(pair.mismatch == nil)
    }

    @Test func `a peer that allows no rekey is connected to anew without a gap`() throws {
        // West answers every CREATE_CHILD_SA with NO_ADDITIONAL_SAS, as §2.8 lets minimal implementations do.
        let pair = try Self.up()
        let forge = try #require(Forge(pair.west))
        let west = forge.sa
        pair.network.filter = { bytes, source, destination in
            guard source.address == pair.east.address, let message = try? WireMessage(parsing: bytes),
                message.header.exchange == .createChildSA, let suite = west.suite, let keys = west.ourKeys,
                message.header.responderSPI == west.responderSPI
            else { return true }
            var header = message.header.response()
            header.isFromInitiator = false
            if let answer = try? MessageSealer(crypto: OpenSSLCryptoForTests.shared, cipher: suite.cipher).seal(
                header, [.notify(Notify(.noAdditionalSAs))], keys: keys, iv: [1, 2, 3, 4, 5, 6, 7, 8])
            {
                pair.network.put(answer, from: destination, to: source)
                west.expectedRequestID = message.header.messageID &+ 1
            }
            return false
        }
        let before = pair.east.status(now: pair.now)?.ike?.initiatorSPI
        #expect(pair.east.core.rekey(connection: "c", child: nil, ike: false, now: pair.now))
        #expect(Self.watch(pair, 10))
        #expect(pair.east.status(now: pair.now)?.ike?.initiatorSPI != before)
        pair.run(15)
        #expect(pair.mismatch == nil && pair.east.installed.count == 1)
        #expect(pair.east.core.tableSizes["sas"] == 1)
    }

    @Test func `an unknown child cannot be rekeyed, and the answer copies its SPI`() throws {
        let pair = try Self.up()
        let forge = try #require(Forge(pair.east))
        let nonce = Payload.nonce(forge.random.bytes(32))
        let offer = Offer.esp([try ESPProposal(keywords: "aes256gcm16")], spi: 4096, withMethods: true)
        let selectors = WireSelectors([TrafficSelector(IPPrefix("10.1.0.0/24")!)])
        let request = try forge.request(
            .createChildSA,
            [
                .notify(Notify(.rekeySA, protocolID: ProtocolID.esp, spi: [9, 9, 9, 9])), .securityAssociation(offer), nonce,
                .trafficSelectorsInitiator(selectors),
                .trafficSelectorsResponder(WireSelectors([TrafficSelector(IPPrefix("10.2.0.0/24")!)])),
            ], id: 2)
        let path = Path(local: Endpoint(pair.west.address, 500), remote: Endpoint(pair.east.address, 500))
        pair.west.core.handleDatagram(request, path: path, now: pair.now)
        let answer = try forge.open(try #require(pair.west.core.pollTransmit()).bytes)
        #expect(answer.notify(.childSANotFound)?.spi == [9, 9, 9, 9])
        #expect(pair.isUp)
    }
}
