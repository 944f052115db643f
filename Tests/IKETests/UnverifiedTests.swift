import IPsec
import Testing
import Wire

@testable import IKE

/// First messages from addresses that anybody may have written into them. RFC 7296 §2.6.
@Suite struct UnverifiedTests {
    private static func hub(threshold: Int = 1 << 20, change: ((inout ConnectionPlan) -> Void)? = nil) throws -> Pair {
        let pair = Pair(settings: InitTests.settings { $0.cookieThreshold = threshold })
        pair.westSide.change = { plan in
            (plan.remoteAddress, plan.remotePattern) = (nil, .any)
            change?(&plan)
        }
        try pair.configureWest()
        return pair
    }

    private static func path(_ address: String) -> Path {
        Path(local: Endpoint(IPAddress("192.0.2.2")!, 500), remote: Endpoint(IPAddress(address)!, 500))
    }

    private static func send(_ pair: Pair, _ bytes: [UInt8], from address: String) -> [WireMessage] {
        pair.west.core.handleDatagram(bytes, path: path(address), now: pair.now)
        pair.west.takeEvents(now: pair.now)
        return InitTests.answers(pair.west)
    }

    @Test func `somebody who sends in a host's name does not shut it out`() throws {
        let pair = try Self.hub()
        for index in 0..<400 { _ = Self.send(pair, try InitTests.request(spi: UInt64(index + 1), seed: 5), from: "203.0.113.5") }
        #expect(pair.west.core.tableSizes["halfOpen"] == Bounds.unverifiedPerAddress)
        // The host itself hears the cookie, and others of its network too.
        for index in 0..<Bounds.halfOpenPerStranger {
            let spi = UInt64(1000 + index)
            let cookie = try #require(
                Self.send(pair, try InitTests.request(spi: spi, seed: spi), from: "203.0.113.5").first?.payloads.notify(.cookie))
            let again = try InitTests.request(spi: spi, extra: [.notify(cookie)], seed: spi)
            #expect(Self.send(pair, again, from: "203.0.113.5").first?.payloads.nonce != nil, "\(index)")
        }
        #expect(pair.west.core.counters.halfOpenRefused == 0)
        // What is known to be its own counts against it.
        let cookie = try #require(
            Self.send(pair, try InitTests.request(spi: 9, seed: 9), from: "203.0.113.5").first?.payloads.notify(.cookie))
        #expect(Self.send(pair, try InitTests.request(spi: 9, extra: [.notify(cookie)], seed: 9), from: "203.0.113.5").isEmpty)
        #expect(pair.west.core.counters.halfOpenRefused == 1)
        pair.run(40)
        while pair.west.core.pollTransmit() != nil {}
        #expect(pair.west.core.halfOpenByAddress.isEmpty && pair.west.core.unverifiedByAddress.isEmpty)
    }

    @Test func `a cookie of another address, nonce or SPI proves nothing`() throws {
        let pair = try Self.hub(threshold: 0)
        let first = try InitTests.request(spi: 1, seed: 1)
        let cookie = try #require(Self.send(pair, first, from: "203.0.113.5").first?.payloads.notify(.cookie))
        let good = try InitTests.request(spi: 1, extra: [.notify(cookie)], seed: 1)
        #expect(Self.send(pair, good, from: "203.0.113.6").first?.payloads.nonce == nil)
        #expect(Self.send(pair, try InitTests.request(spi: 2, extra: [.notify(cookie)], seed: 1), from: "203.0.113.5")
            .first?.payloads.nonce == nil)
        #expect(Self.send(pair, try InitTests.request(spi: 1, extra: [.notify(cookie)], seed: 2), from: "203.0.113.5")
            .first?.payloads.nonce == nil)
        #expect(Self.send(pair, good, from: "203.0.113.5").first?.payloads.nonce != nil)
    }

    /// The twenty authorities that fit a CERTREQ are 400 octets.
    @Test func `an answer that is longer than its question waits for the cookie`() throws {
        let random = SeededRandom(seed: 3)
        let authorities = (0..<20).map { _ in random.bytes(20) }
        let request = try InitTests.request(spi: 77)
        let (short, long) = (try Self.hub(), try Self.hub())
        let trust = TestTrust()
        trust.authorityKeyHashes = authorities
        long.west.core.addConnection(
            try Pair.plan(
                {
                    var side = long.westSide
                    side.change = { plan in
                        (plan.name, plan.remoteAddress, plan.remotePattern) = ("certificates", nil, .any)
                        plan.remoteAuthentication = .certificate(trust)
                    }
                    return side
                }(), local: long.west.address), now: long.now)
        #expect(Self.send(short, request, from: "203.0.113.5").first?.payloads.nonce != nil)
        let answer = try #require(Self.send(long, request, from: "203.0.113.5").first)
        let cookie = try #require(answer.payloads.notify(.cookie))
        #expect(long.west.core.tableSizes["sas"] == 0)
        let again = try InitTests.request(spi: 77, extra: [.notify(cookie)])
        #expect(Self.send(long, again, from: "203.0.113.5").first?.payloads.nonce != nil)
    }

    @Test func `never more octets go out than came in before the sender is known to be there`() throws {
        for threshold in [0, 1 << 20] {
            let long = String(repeating: "a", count: 63) + ".b"
            let pair = try Self.hub(threshold: threshold) { $0.paths.redirectTo = .name(long) }
            let random = SeededRandom(seed: UInt64(threshold))
            var shortest = 0
            for index in 0..<600 {
                var bytes = try InitTests.request(spi: UInt64(index + 1), method: index % 5 == 0 ? 20 : 31, seed: UInt64(index))
                switch index % 7 {
                case 1: bytes = Array(bytes.prefix(28))
                case 2: bytes[17] = 0x30
                case 3: bytes = Array(bytes.prefix(Int(random.next() % UInt64(bytes.count))))
                case 4: for position in 8..<16 { bytes[position] = 1 }
                case 5: bytes = try Self.small(spi: UInt64(index + 1))
                case 6: bytes[Int(random.next() % UInt64(bytes.count))] ^= UInt8(truncatingIfNeeded: random.next())
                default: break
                }
                pair.west.core.handleDatagram(bytes, path: Self.path("203.0.113.\(index % 250 + 1)"), now: pair.now)
                var octets = 0
                while let transmit = pair.west.core.pollTransmit() { octets += transmit.bytes.count }
                #expect(octets <= bytes.count, "\(index)")
                if octets > 0 { shortest += 1 }
            }
            #expect(shortest > 100, "most get an answer")
        }
    }

    /// As little as a first message can be.
    private static func small(spi: UInt64) throws -> [UInt8] {
        WireMessage.encodeClear(
            IKEHeader(
                initiatorSPI: spi, responderSPI: 0, exchange: .ikeSAInit, isFromInitiator: true, isResponse: false, messageID: 0),
            [
                .securityAssociation([WireProposal(number: 1, protocolID: ProtocolID.ike, transforms: [])]),
                .keyExchange(method: 31, data: []), .nonce([UInt8](repeating: 1, count: 16)),
                .notify(Notify(.redirectSupported)),
            ])
    }

    @Test func `the answer to one first message is sent so many times and no more`() throws {
        let pair = try Self.hub()
        let request = try InitTests.request()
        let answered = (0..<100).count { _ in !Self.send(pair, request, from: "203.0.113.5").isEmpty }
        #expect(answered == 1 + Bounds.initRepeats)
    }

    @Test func `proposals are numbered from one, and have no SPI in a first message`() throws {
        let transforms = Offer.ike([try IKEProposal(keywords: "aes256gcm16-prfsha384-x25519")])[0].transforms
        func answers(_ numbers: [UInt8], spi: [UInt8] = []) throws -> Bool {
            let pair = try Self.hub()
            let random = SeededRandom(seed: 1)
            let offer = numbers.map { WireProposal(number: $0, protocolID: ProtocolID.ike, spi: spi, transforms: transforms) }
            let message = WireMessage.encodeClear(
                IKEHeader(
                    initiatorSPI: 5, responderSPI: 0, exchange: .ikeSAInit, isFromInitiator: true, isResponse: false,
                    messageID: 0),
                [
                    .securityAssociation(offer), .keyExchange(method: 31, data: random.bytes(32)), .nonce(random.bytes(32)),
                ])
            return !Self.send(pair, message, from: "203.0.113.5").isEmpty
        }
        #expect(try answers([1]) && answers([1, 2, 3]))
        #expect(try !answers([0]) && !answers([2]) && !answers([1, 1]) && !answers([1, 0]))
        #expect(try !answers([1], spi: [1, 2, 3, 4, 5, 6, 7, 8]))
    }
}
