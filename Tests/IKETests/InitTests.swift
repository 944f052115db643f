import Crypto
import IKE
import IPsec
import Testing
import Wire

@Suite struct InitTests {
    static func settings(_ change: (inout CoreSettings) -> Void) -> CoreSettings {
        var settings = CoreSettings()
        change(&settings)
        return settings
    }

    /// A first message as a stranger or a peer would send it.
    static func request(spi: UInt64 = 0x1111, method: UInt16 = 31, keyBytes: Int = 32, extra: [Payload] = [], seed: UInt64 = 1)
        throws -> [UInt8]
    {
        let random = SeededRandom(seed: seed)
        let offer = Offer.ike([try IKEProposal(keywords: "aes256gcm16-prfsha384-x25519")])
        return WireMessage.encodeClear(
            IKEHeader(
                initiatorSPI: spi, responderSPI: 0, exchange: .ikeSAInit, isFromInitiator: true, isResponse: false, messageID: 0),
            extra + [
                .securityAssociation(offer), .keyExchange(method: method, data: random.bytes(keyBytes)), .nonce(random.bytes(32)),
                // As long as those of real peers are, with what they announce.
                .vendorID([UInt8](repeating: 0x76, count: 60)),
            ])
    }

    /// The answers to a first message of somebody who is there, and so has the cookie when one is wanted.
    static func knock(_ node: Node, _ spi: UInt64, path: Path, now: Instant) throws -> [WireMessage] {
        node.core.handleDatagram(try request(spi: spi, seed: spi), path: path, now: now)
        let first = answers(node)
        guard let cookie = first.first?.payloads.notify(.cookie) else { return first }
        node.core.handleDatagram(try request(spi: spi, extra: [.notify(cookie)], seed: spi), path: path, now: now)
        return answers(node)
    }
    static let path = Path(local: Endpoint(IPAddress("192.0.2.2")!, 500), remote: Endpoint(IPAddress("192.0.2.1")!, 500))

    static func answers(_ node: Node) -> [WireMessage] {
        var messages: [WireMessage] = []
        while let transmit = node.core.pollTransmit() {
            if let message = try? WireMessage(parsing: transmit.bytes) { messages.append(message) }
        }
        return messages
    }

    // MARK: Cookies

    @Test func `above the threshold an initiator must return a cookie, and then gets through`() throws {
        let pair = Pair(settings: Self.settings { $0.cookieThreshold = 0 })
        #expect(try pair.establish())
        #expect(pair.mismatch == nil)
        #expect(pair.west.core.counters.cookiesSent == 1)
        let inits = try pair.network.history.map { try WireMessage(parsing: $0.bytes) }.filter {
            $0.header.exchange == .ikeSAInit
        }
        #expect(inits.count == 4)
        // "include the COOKIE notification … as the first payload, and all other payloads unchanged"
        #expect(inits[2].payloads.all.first == .notify(Notify(.cookie, data: inits[1].payloads.notify(.cookie)?.data ?? [])))
        #expect(Array(inits[2].payloads.all.dropFirst()) == inits[0].payloads.all)
        #expect(inits[1].header.responderSPI == 0 && inits[2].header.messageID == 0)
    }

    @Test func `a cookie costs the responder no state`() throws {
        let pair = Pair(settings: Self.settings { $0.cookieThreshold = 0 })
        try pair.configureWest()
        let before = pair.west.core.tableSizes
        for index in 0..<500 {
            pair.west.core.handleDatagram(
                try Self.request(spi: UInt64(index + 1), seed: UInt64(index)), path: Self.path, now: pair.now)
        }
        #expect(Self.answers(pair.west).count == 500)
        pair.west.takeEvents(now: pair.now)
        #expect(pair.west.core.tableSizes == before)
    }

    @Test func `a cookie is good for its nonce, SPI and address only, and for a while`() throws {
        let pair = Pair(settings: Self.settings { $0.cookieThreshold = 0 })
        try pair.configureWest()
        pair.west.core.handleDatagram(try Self.request(), path: Self.path, now: pair.now)
        let cookie = try #require(Self.answers(pair.west).first?.payloads.notify(.cookie))
        #expect(Bounds.cookieBytes.contains(cookie.data.count))
        func isAccepted(_ bytes: [UInt8], _ path: Path = Self.path, after seconds: Int = 0) -> Bool {
            pair.west.core.handleDatagram(bytes, path: path, now: pair.now + .seconds(seconds))
            return Self.answers(pair.west).contains { $0.payloads.nonce != nil }
        }
        var elsewhere = Self.path
        elsewhere.remote.address = IPAddress("192.0.2.99")!
        #expect(!isAccepted(try Self.request(spi: 0x2222, extra: [.notify(cookie)])))
        #expect(!isAccepted(try Self.request(extra: [.notify(cookie)], seed: 2)))
        #expect(!isAccepted(try Self.request(extra: [.notify(cookie)]), elsewhere))
        #expect(!isAccepted(try Self.request(extra: [.notify(Notify(.cookie, data: cookie.data + [0]))])))
        #expect(!isAccepted(try Self.request(extra: [.notify(cookie)]), after: 130))
        #expect(pair.west.core.counters.cookiesRefused >= 4)
        let fresh = Pair(settings: Self.settings { $0.cookieThreshold = 0 })
        try fresh.configureWest()
        fresh.west.core.handleDatagram(try Self.request(), path: Self.path, now: fresh.now)
        let again = try #require(Self.answers(fresh.west).first?.payloads.notify(.cookie))
        // One rotation of the secret later it still counts.
        fresh.west.core.handleDatagram(try Self.request(extra: [.notify(again)]), path: Self.path, now: fresh.now + .seconds(61))
        #expect(Self.answers(fresh.west).contains { $0.payloads.nonce != nil })
    }

    // MARK: Groups

    @Test func `the initiator retries with the group that the responder wants`() throws {
        let pair = Pair()
        pair.eastSide.ike = ["aes256gcm16-prfsha384-x25519-ecp384-ecp256"]
        pair.westSide.ike = ["aes256gcm16-prfsha384-ecp256"]
        #expect(try pair.establish())
        #expect(pair.mismatch == nil)
        #expect(pair.east.status(now: pair.now)?.ike?.proposal == "aes256gcm16-prfsha384-ecp256")
        let inits = try pair.network.history.map { try WireMessage(parsing: $0.bytes) }.filter {
            $0.header.exchange == .ikeSAInit
        }
        #expect(inits.count == 4)
        #expect(inits[1].payloads.notify(.invalidKEPayload)?.data == [0, 19])
        // "MUST again propose its full set of acceptable cryptographic suites"
        #expect(inits[2].payloads.proposals == inits[0].payloads.proposals)
        #expect(inits[2].payloads.keyExchange?.method == 19)
    }

    @Test func `cookie and group together take the shorter exchange`() throws {
        let pair = Pair(settings: Self.settings { $0.cookieThreshold = 0 })
        pair.eastSide.ike = ["aes256gcm16-prfsha384-x25519-ecp256"]
        pair.westSide.ike = ["aes256gcm16-prfsha384-ecp256"]
        #expect(try pair.establish())
        let inits = try pair.network.history.map { try WireMessage(parsing: $0.bytes) }.filter {
            $0.header.exchange == .ikeSAInit
        }
        // request, COOKIE, request, INVALID_KE_PAYLOAD, request with the same cookie, response
        #expect(inits.count == 6)
        #expect(pair.west.core.counters.cookiesSent == 1)
    }

    @Test func `a responder that wants a cookie again after the group is satisfied too`() throws {
        let pair = Pair()
        pair.eastSide.ike = ["aes256gcm16-prfsha384-x25519-ecp256"]
        pair.westSide.ike = ["aes256gcm16-prfsha384-ecp256"]
        // Between the retries a stranger in the middle asks for another cookie: "MUST NOT fail if other implementations do not
        // support this shorter exchange".
        var injected = 0
        pair.network.filter = { bytes, source, destination in
            guard source.address == pair.east.address, injected < 2, let message = try? WireMessage(parsing: bytes),
                message.payloads.keyExchange?.method == (injected == 0 ? 31 : 19)
            else { return true }
            injected += 1
            let answer = WireMessage.encodeClear(
                message.header.response(), [.notify(Notify(.cookie, data: [UInt8](repeating: UInt8(injected), count: 16)))])
            pair.east.core.handleDatagram(answer, path: Path(local: source, remote: destination), now: pair.now)
            return false
        }
        #expect(try pair.establish())
        #expect(injected == 2)
    }

    @Test func `endless retries are not followed`() throws {
        let pair = Pair()
        try pair.configureEast()
        pair.run(0.001)
        let request = try WireMessage(parsing: pair.network.history[0].bytes)
        let path = Path(local: pair.network.history[0].source, remote: pair.network.history[0].destination)
        for index in 0..<100 {
            let answer = WireMessage.encodeClear(request.header.response(), [.notify(Notify(.cookie, data: [UInt8(index), 1]))])
            pair.east.core.handleDatagram(answer, path: path, now: pair.now)
        }
        #expect(Self.answers(pair.east).count == Bounds.initRetries)
    }

    @Test func `a group that we do not offer is not a reason to weaken, and the sentence names it`() throws {
        let pair = Pair()
        try pair.configureEast()
        pair.run(0.001)
        let request = try WireMessage(parsing: pair.network.history[0].bytes)
        let path = Path(local: pair.network.history[0].source, remote: pair.network.history[0].destination)
        let answer = WireMessage.encodeClear(request.header.response(), [.notify(Notify(.invalidKEPayload, data: [0, 14]))])
        pair.east.core.handleDatagram(answer, path: path, now: pair.now)
        #expect(Self.answers(pair.east).isEmpty)
        #expect(pair.east.status(now: pair.now)?.reason?.contains("modp2048") == true)
    }

    // MARK: Bounds and versions

    @Test func `half-open SAs are bounded and forgotten`() throws {
        let pair = Pair(
            settings: Self.settings {
                $0.cookieThreshold = 1000; $0.maxHalfOpen = 20
            })
        try pair.configureWest()
        let before = pair.west.core.tableSizes
        for index in 0..<50 {
            _ = try Self.knock(pair.west, UInt64(index + 1), path: Self.path, now: pair.now)
        }
        #expect(pair.west.core.tableSizes["halfOpen"] == 20)
        #expect(pair.west.core.counters.halfOpenRefused == 30)
        pair.run(31)
        _ = Self.answers(pair.west)
        #expect(pair.west.core.tableSizes == before)
        #expect(pair.west.core.counters.halfOpenExpired == 20)
    }

    @Test func `a repeated first message gets the same answer and makes no second SA`() throws {
        let pair = Pair()
        try pair.configureWest()
        let request = try Self.request()
        for _ in 0..<3 { pair.west.core.handleDatagram(request, path: Self.path, now: pair.now) }
        var answers: [[UInt8]] = []
        while let transmit = pair.west.core.pollTransmit() { answers.append(transmit.bytes) }
        #expect(answers.count == 3 && Set(answers).count == 1)
        #expect(pair.west.core.tableSizes["sas"] == 1)
        // Another initiator with the same SPI (behind one NAT, say) is another SA.
        pair.west.core.handleDatagram(try Self.request(seed: 9), path: Self.path, now: pair.now)
        #expect(pair.west.core.tableSizes["sas"] == 2)
    }

    @Test func `a higher major version is told what we speak, at a limited rate, IKEv1 is ignored`() throws {
        let pair = Pair()
        try pair.configureWest()
        var request = try Self.request()
        request[17] = 0x30
        for _ in 0..<100 { pair.west.core.handleDatagram(request, path: Self.path, now: pair.now) }
        let answers = Self.answers(pair.west)
        #expect(answers.count == Bounds.unprotectedAnswersPerSecond)
        #expect(answers.first?.payloads.notify(.invalidMajorVersion)?.data == [0x20])
        request[17] = 0x10
        pair.west.core.handleDatagram(request, path: Self.path, now: pair.now + .seconds(2))
        #expect(Self.answers(pair.west).isEmpty)
        request[17] = 0x21
        pair.west.core.handleDatagram(request, path: Self.path, now: pair.now + .seconds(2))
        #expect(Self.answers(pair.west).count == 1)
    }

    @Test func `an unknown critical payload is named in the answer`() throws {
        let pair = Pair()
        try pair.configureWest()
        var request = try Self.request(extra: [.opaque(PayloadType(rawValue: 222), [])])
        request[IKEHeader.byteCount + 1] = 0x80
        pair.west.core.handleDatagram(request, path: Self.path, now: pair.now)
        #expect(Self.answers(pair.west).first?.payloads.notify(.unsupportedCriticalPayload)?.data == [222])
        #expect(pair.west.core.tableSizes["sas"] == 0)
    }

    @Test func `a stranger gets NO_PROPOSAL_CHOSEN and the log says what is missing`() throws {
        let pair = Pair()
        try pair.configureWest()
        var path = Self.path
        path.remote.address = IPAddress("203.0.113.5")!
        pair.west.core.handleDatagram(try Self.request(), path: path, now: pair.now)
        #expect(Self.answers(pair.west).first?.payloads.notify(.noProposalChosen) != nil)
        pair.west.takeEvents(now: pair.now)
        #expect(pair.west.logs.contains { $0.contains("203.0.113.5") && $0.contains("remote.address") })
        #expect(pair.west.core.counters.strangersRefused == 1)
    }

    @Test func `a key exchange value of the wrong length is dropped`() throws {
        let pair = Pair()
        try pair.configureWest()
        pair.west.core.handleDatagram(try Self.request(keyBytes: 31), path: Self.path, now: pair.now)
        #expect(Self.answers(pair.west).isEmpty)
        #expect(pair.west.core.counters.malformed == 1)
    }

    @Test func `responses and requests for unknown SAs change nothing`() throws {
        let pair = Pair()
        try pair.establish()
        var header = IKEHeader(
            initiatorSPI: 1, responderSPI: 2, exchange: .informational, isFromInitiator: true, isResponse: true, messageID: 0)
        pair.west.core.handleDatagram(WireMessage.encodeClear(header, []), path: Self.path, now: pair.now)
        #expect(Self.answers(pair.west).isEmpty)
        header.isResponse = false
        pair.west.core.handleDatagram(WireMessage.encodeClear(header, []), path: Self.path, now: pair.now)
        #expect(Self.answers(pair.west).isEmpty, "an answer would be longer")
        pair.west.core.handleDatagram(WireMessage.encodeClear(header, [.vendorID([1, 2, 3, 4])]), path: Self.path, now: pair.now)
        let answer = try #require(Self.answers(pair.west).first)
        #expect(answer.payloads.notify(.invalidIKESPI) != nil)
        #expect(answer.header.initiatorSPI == 1 && answer.header.responderSPI == 2 && answer.header.isResponse)
        #expect(pair.isUp)
    }
}
