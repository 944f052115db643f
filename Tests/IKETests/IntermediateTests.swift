import Crypto
import IPsec
import Testing
import Wire

@testable import IKE

/// IKE_INTERMEDIATE with additional key exchanges. RFC 9242, RFC 9370.
@Suite struct IntermediateTests {
    static let hybrid = "aes256gcm16-prfsha384-x25519-ke1_mlkem768"

    static func pair(_ east: String..., west: [String]? = nil, seed: UInt64 = 1) -> Pair {
        let pair = Pair(seed: seed)
        pair.eastSide.ike = east
        pair.westSide.ike = west ?? east
        return pair
    }

    static func exchanges(_ pair: Pair, from node: Node) -> [UInt8] {
        pair.network.history.filter { $0.source.address == node.address }.map { $0.bytes[18] }
    }

    @Test(arguments: [
        ("aes256gcm16-prfsha384-x25519-ke1_mlkem768", 1), ("aes128gcm16-prfsha256-ecp256-ke1_mlkem1024", 1),
        ("aes256-sha256-x25519-ke1_mlkem768-ke2_mlkem1024-ke7_ecp384", 3), ("aes256gcm16-prfsha512-mlkem768-ke3_x25519", 1),
        ("aes128gcm16-prfsha256-mlkem1024", 0), ("aes192-sha512-modp2048-ke2_x25519-ke4_ecp256-ke6_mlkem768", 3),
    ])
    func `additional key exchanges come between IKE_SA_INIT and IKE_AUTH`(_ keywords: String, _ count: Int) throws {
        let pair = Self.pair(keywords)
        // One datagram per message, to count them.
        pair.eastSide.paths.fragmentation = false
        #expect(try pair.establish())
        #expect(pair.mismatch == nil)
        #expect(pair.east.status(now: pair.now)?.ike?.proposal == keywords)
        #expect(pair.west.status(now: pair.now)?.ike?.proposal == keywords)
        let wanted: [UInt8] = [34] + [UInt8](repeating: 43, count: count) + [35]
        #expect(Self.exchanges(pair, from: pair.east) == wanted && Self.exchanges(pair, from: pair.west) == wanted)
        let ids = try pair.network.history.map { try IKEHeader(parsing: $0.bytes[...]).messageID }
        #expect(ids == (0...UInt32(count) + 1).flatMap { [$0, $0] })
    }

    @Test(arguments: 1...20)
    func `they survive a hostile network`(_ seed: UInt64) throws {
        let pair = Self.pair("aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke2_mlkem1024", seed: seed)
        pair.network.faults = .hostile
        #expect(try pair.establish(within: .seconds(120)))
        #expect(pair.mismatch == nil)
    }

    @Test(arguments: 1...8)
    func `they are authenticated as a whole when they travel in fragments`(_ seed: UInt64) throws {
        let pair = Self.pair("aes256-sha256-x25519-ke1_mlkem1024", seed: seed)
        pair.eastSide.paths.fragmentDatagramBytes = 300 + Int(seed) * 64
        pair.westSide.paths.fragmentDatagramBytes = 420
        if seed > 4 { pair.network.faults = Network.Faults(loss: 0.1, duplication: 0.3, spread: .milliseconds(50)) }
        #expect(try pair.establish(within: .seconds(90)))
        #expect(pair.mismatch == nil)
        #expect(pair.west.core.counters.messagesReassembled >= 1 && pair.east.core.counters.messagesReassembled >= 1)
    }

    @Test func `a repeated IKE_INTERMEDIATE request is answered again, also after the keys changed`() throws {
        let pair = Self.pair(Self.hybrid)
        var lost = 3
        pair.network.filter = { bytes, source, _ in
            guard source.address == pair.west.address, bytes[18] == ExchangeType.ikeIntermediate.rawValue, lost > 0 else {
                return true
            }
            lost -= 1
            return false
        }
        #expect(try pair.establish())
        #expect(pair.west.core.counters.responsesRetransmitted >= 3 && pair.west.core.counters.unauthentic == 0)
        #expect(pair.mismatch == nil)
    }

    @Test func `a peer without additional key exchanges gets the classical proposal of the defaults`() throws {
        for (east, west) in [
            (IKEProposal.defaults.map(\.keywords), ["aes256gcm16-prfsha384-ecp384", "aes256-sha256-x25519"]),
            (["aes256gcm16-prfsha384-x25519"], IKEProposal.defaults.map(\.keywords)),
        ] {
            let pair = Self.pair(west: west)
            pair.eastSide.ike = east
            #expect(try pair.establish())
            #expect(pair.mismatch == nil)
            #expect(pair.west.status(now: pair.now)?.ike?.proposal.contains("ke1") == false)
            #expect(Self.exchanges(pair, from: pair.east).contains(ExchangeType.ikeIntermediate.rawValue) == false)
        }
        let both = Self.pair(west: IKEProposal.defaults.map(\.keywords))
        both.eastSide.ike = IKEProposal.defaults.map(\.keywords)
        #expect(try both.establish())
        #expect(both.west.status(now: both.now)?.ike?.proposal == Self.hybrid)
    }

    @Test func `a NAT moves the exchange to port 4500 with IKE_INTERMEDIATE`() throws {
        let pair = Self.pair(Self.hybrid)
        pair.network.natBoxes = [Network.NATBox(inside: "192.0.2.1", outside: "203.0.113.9")]
        pair.westSide.remoteAddress = nil
        #expect(try pair.establish())
        #expect(pair.mismatch == nil)
        let ports = pair.network.history.filter { $0.source.address == pair.east.address }.map(\.source.port)
        #expect(ports.first == 500 && ports.dropFirst().allSatisfy { $0 == 4500 })
        #expect(pair.west.status(now: pair.now)?.ike?.remoteNAT == true)
    }

    // MARK: Hostile

    /// Runs until west has answered IKE_SA_INIT, and plays east from there with its keys.
    struct Played {
        let pair: Pair
        let west: Node
        /// East's half-made SA, with the keys of IKE_SA_INIT.
        let sa: IKESA
        let path: Path

        init(_ keywords: String = IntermediateTests.hybrid) throws {
            pair = IntermediateTests.pair(keywords)
            west = pair.west
            let network = pair.network
            network.filter = { bytes, source, _ in
                source.address == network.nodes[1].address || bytes[18] == ExchangeType.ikeSAInit.rawValue
            }
            try pair.start()
            pair.run(0.1)
            sa = try #require(pair.east.core.allSAs.first)
            path = Path(local: Endpoint(pair.west.address, 500), remote: Endpoint(pair.east.address, 500))
        }

        func sealed(_ exchange: ExchangeType, _ payloads: [Payload], id: UInt32) throws -> [UInt8] {
            let (suite, keys) = (try #require(sa.suite), try #require(sa.ourKeys))
            return try MessageSealer(crypto: OpenSSLCrypto(), cipher: suite.cipher).seal(
                sa.header(exchange, isResponse: false, id: id), payloads, keys: keys, iv: [9, 9, 9, 9, 9, 9, 9, UInt8(id)])
        }

        /// The notify in west's answer; nil when it does not answer, or answers without one.
        func send(_ exchange: ExchangeType, _ payloads: [Payload], id: UInt32) throws -> NotifyType? {
            while west.core.pollTransmit() != nil {}
            west.core.handleDatagram(try sealed(exchange, payloads, id: id), path: path, now: pair.now)
            guard let answer = west.core.pollTransmit(), let encrypted = try WireMessage(parsing: answer.bytes).encrypted,
                let suite = sa.suite, let keys = sa.peerKeys,
                let inner = try? MessageSealer(crypto: OpenSSLCrypto(), cipher: suite.cipher).open(encrypted, keys: keys)
            else { return nil }
            return try PayloadChain(first: encrypted.firstPayload, bytes: inner[...]).payloads.notifies.first?.type
        }

        var isForgotten: Bool { west.core.allSAs.allSatisfy { $0.isClosed } }
        /// A responder that still waits for the right request.
        var isWaiting: Bool { west.core.allSAs.contains { $0.isHalfOpen } }
    }

    @Test func `IKE_AUTH before the additional key exchange is not looked at`() throws {
        let played = try Played()
        let identity = WireIdentity(.fqdn("east.example"))
        #expect(try played.send(.ikeAuth, [.identityInitiator(identity)], id: 1) == nil)
        #expect(played.isWaiting && played.west.core.counters.unexpected == 1)
        #expect(try played.send(.createChildSA, [], id: 1) == nil)
        #expect(try played.send(.informational, [.delete(.ikeSA)], id: 1) == nil)
        #expect(try played.send(.ikeIntermediate, [], id: 2) == nil)
        #expect(try played.send(.ikeIntermediate, [], id: 0) == nil)
        #expect(played.isWaiting && played.west.installed.isEmpty)
    }

    @Test(arguments: [
        (36, 1183), (36, 1185), (36, 1), (37, 1568), (31, 32), (0, 1184), (999, 8),
    ])
    func `a key exchange of another method or length ends the attempt with INVALID_SYNTAX`(
        _ method: UInt16, _ count: Int
    ) throws {
        let played = try Played()
        let payload = Payload.keyExchange(method: method, data: [UInt8](repeating: 7, count: count))
        #expect(try played.send(.ikeIntermediate, [payload], id: 1) == .invalidSyntax)
        #expect(played.isForgotten)
    }

    @Test func `a message without a key exchange, and a key that is not reduced, end the attempt`() throws {
        for payloads: [Payload] in [
            [], [.nonce([UInt8](repeating: 1, count: 32))],
            [.keyExchange(method: 36, data: [UInt8](repeating: 0xFF, count: 1184))],
        ] {
            let played = try Played()
            #expect(try played.send(.ikeIntermediate, payloads, id: 1) == .invalidSyntax)
            #expect(played.isForgotten)
        }
    }

    @Test func `one exchange too many is not answered`() throws {
        let played = try Played()
        let key = try OpenSSLCrypto().makeKeyExchange(.mlkem768).publicValue
        #expect(try played.send(.ikeIntermediate, [.keyExchange(method: 36, data: key)], id: 1) == nil)
        #expect(played.isWaiting)
        let before = played.west.core.counters.unexpected
        _ = try played.send(.ikeIntermediate, [.keyExchange(method: 36, data: key)], id: 2)
        #expect(played.west.core.counters.unexpected == before + 1 && played.isWaiting)
        // Nobody finishes it: the half-open SA is freed.
        played.pair.east.isAlive = false
        played.pair.run(60)
        #expect(played.west.core.tableSizes["sas"] == 0 && played.west.core.tableSizes["halfOpen"] == 0)
    }

    @Test(arguments: [(36, 1087), (36, 1089), (37, 1568), (31, 32)])
    func `the initiator gives up on an answer of another method or length`(_ method: UInt16, _ count: Int) throws {
        let pair = Self.pair(Self.hybrid)
        try Self.forgeAnswers(pair, [.keyExchange(method: method, data: [UInt8](repeating: 7, count: count))])
        #expect(try !pair.establish(within: .seconds(3)))
        #expect(pair.east.downs.first?.contains("IKE_INTERMEDIATE is unusable") == true, "\(pair.east.downs)")
        #expect(!Self.exchanges(pair, from: pair.east).contains(ExchangeType.ikeAuth.rawValue))
    }

    @Test func `a ciphertext that was not made for our key leads to keys that do not fit, never to a tunnel`() throws {
        let pair = Self.pair(Self.hybrid)
        try Self.forgeAnswers(pair, [.keyExchange(method: 36, data: [UInt8](repeating: 7, count: 1088))])
        #expect(try !pair.establish(within: .seconds(5)))
        #expect(pair.west.core.counters.unauthentic > 0 && pair.east.installed.isEmpty && pair.west.installed.isEmpty)
    }

    @Test func `a refusal of the additional key exchange is told`() throws {
        let pair = Self.pair(Self.hybrid)
        try Self.forgeAnswers(pair, [.notify(Notify(.noProposalChosen))])
        #expect(try !pair.establish(within: .seconds(3)))
        #expect(
            pair.east.downs.first?.contains("refused the additional key exchange mlkem768 with NO_PROPOSAL_CHOSEN") == true)
    }

    /// Puts these payloads in the place of west's answer to the first IKE_INTERMEDIATE.
    static func forgeAnswers(_ pair: Pair, _ payloads: [Payload]) throws {
        pair.network.filter = { bytes, source, destination in
            guard source.address == pair.west.address, bytes[18] == ExchangeType.ikeIntermediate.rawValue,
                let sa = pair.east.core.allSAs.first, let suite = sa.suite, let keys = sa.peerKeys,
                let header = try? IKEHeader(parsing: bytes[...]), header.isResponse,
                let forged = try? MessageSealer(crypto: OpenSSLCrypto(), cipher: suite.cipher).seal(
                    header, payloads, keys: keys, iv: [1, 1, 1, 1, 1, 1, 1, 1])
            else { return true }
            pair.east.core.handleDatagram(forged, path: Path(local: destination, remote: source), now: pair.now)
            return false
        }
    }

    @Test func `an IKE_INTERMEDIATE that somebody changed makes AUTH fail`() throws {
        // Both ends get along with a message that differs in what neither looks at: an unknown payload, added on the way by
        // somebody who has the keys of IKE_SA_INIT.
        let pair = Self.pair(Self.hybrid)
        pair.network.filter = { bytes, source, destination in
            guard source.address == pair.east.address, bytes[18] == ExchangeType.ikeIntermediate.rawValue,
                let sa = pair.east.core.allSAs.first, let suite = sa.suite, let keys = sa.ourKeys,
                let content = sa.outstanding?.content, let payloads = try? content.payloads(),
                let forged = try? MessageSealer(crypto: OpenSSLCrypto(), cipher: suite.cipher).seal(
                    content.header, payloads.all + [.vendorID([1, 2, 3])], keys: keys, iv: [1, 1, 1, 1, 1, 1, 1, 1])
            else { return true }
            pair.west.core.handleDatagram(forged, path: Path(local: destination, remote: source), now: pair.now)
            return false
        }
        #expect(try !pair.establish(within: .seconds(5)))
        #expect(pair.west.core.counters.authenticationsRefused > 0 && pair.west.installed.isEmpty)
    }
}
