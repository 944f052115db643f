import Crypto
import IPsec
import Testing
import Wire

@testable import IKE

/// IKE_FOLLOWUP_KE: additional key exchanges of CREATE_CHILD_SA. RFC 9370 §2.2.4.
@Suite struct FollowUpTests {
    static func up(
        seed: UInt64 = 1, ike: String = "aes256gcm16-prfsha384-x25519-ke1_mlkem768",
        esp: String = "aes256gcm16-x25519-ke1_mlkem768-ke2_ecp256-esn", _ change: (Pair) -> Void = { _ in }
    ) throws -> Pair {
        let pair = Pair(seed: seed)
        (pair.eastSide.ike, pair.westSide.ike) = ([ike], [ike])
        (pair.eastSide.esp, pair.westSide.esp) = ([esp], [esp])
        // One datagram per message, to count and to forge them.
        (pair.eastSide.paths.fragmentation, pair.westSide.paths.fragmentation) = (false, false)
        change(pair)
        #expect(try pair.establish())
        pair.network.history = []
        return pair
    }

    static func exchanges(_ pair: Pair) -> [UInt8] {
        pair.network.history.map { $0.bytes[18] }.filter { $0 != ExchangeType.informational.rawValue }
    }

    /// Nothing half-done is left on either end.
    static func isQuiet(_ pair: Pair) -> Bool {
        [pair.east, pair.west].allSatisfy { node in
            node.core.allSAs.filter { !$0.isClosed }.count == 1
                && node.core.allSAs.allSatisfy { $0.answered.isEmpty && $0.outstanding == nil && $0.withheld == nil }
        }
    }

    @Test(arguments: [true, false])
    func `a child is rekeyed after all its key exchanges, without a gap`(_ byInitiator: Bool) throws {
        let pair = try Self.up()
        let old = pair.east.installed[0]
        let node = byInitiator ? pair.east : pair.west
        #expect(node.core.rekey(connection: "c", child: "net", ike: false, now: pair.now))
        #expect(RekeyTests.watch(pair, 5))
        #expect(Self.exchanges(pair) == [36, 36, 44, 44, 44, 44])
        #expect(pair.mismatch == nil && pair.east.installed.count == 1 && pair.west.installed.count == 1)
        #expect(pair.east.installed[0].inboundKey.octets != old.inboundKey.octets)
        #expect(pair.east.status(now: pair.now)?.children[0].rekeys == 1)
        #expect(pair.west.status(now: pair.now)?.children[0].rekeys == 1)
        pair.run(3)
        #expect(Self.isQuiet(pair))
    }

    @Test(arguments: [true, false])
    func `the IKE SA is rekeyed after all its key exchanges`(_ byInitiator: Bool) throws {
        let pair = try Self.up(ike: "aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke3_mlkem1024")
        let before = try #require(pair.east.status(now: pair.now)?.ike)
        let node = byInitiator ? pair.east : pair.west
        #expect(node.core.rekey(connection: "c", child: nil, ike: true, now: pair.now))
        #expect(RekeyTests.watch(pair, 5))
        #expect(Self.exchanges(pair) == [36, 36, 44, 44, 44, 44])
        let after = try #require(pair.east.status(now: pair.now)?.ike)
        #expect(after.initiatorSPI != before.initiatorSPI && after.isInitiator == byInitiator)
        #expect(after.proposal == before.proposal)
        pair.run(15)
        #expect(Self.isQuiet(pair))
        // The new SA works in both directions, so its keys are the same on both ends.
        #expect(pair.east.core.rekey(connection: "c", child: nil, ike: false, now: pair.now))
        pair.run(5)
        #expect(pair.west.core.rekey(connection: "c", child: nil, ike: false, now: pair.now))
        pair.run(5)
        #expect(pair.mismatch == nil && pair.east.downs.isEmpty && pair.west.downs.isEmpty)
    }

    @Test func `further children come with all their key exchanges`() throws {
        let pair = try Self.up { pair in
            pair.eastSide.children = [("a", ["10.1.0.0/24"], ["10.2.0.0/24"]), ("b", ["10.1.1.0/24"], ["10.2.1.0/24"])]
            pair.westSide.children = [("a", ["10.2.0.0/24"], ["10.1.0.0/24"]), ("b", ["10.2.1.0/24"], ["10.1.1.0/24"])]
        }
        #expect(pair.mismatch == nil && pair.east.installed.map(\.child) == ["a", "b"])
        #expect(Self.isQuiet(pair))
    }

    @Test(arguments: 1...12)
    func `both ends rekey the child at once and one new pair is left`(_ seed: UInt64) throws {
        let pair = try Self.up(seed: seed)
        let old = pair.east.installed[0].inboundSPI
        #expect(pair.east.core.rekey(connection: "c", child: nil, ike: false, now: pair.now))
        if seed % 2 == 0 { pair.network.run(for: .milliseconds(5)) }
        if seed % 3 == 0 { pair.network.run(for: .milliseconds(Int64(seed) * 4)) }
        if seed % 4 == 0 { pair.network.faults.spread = .milliseconds(60) }
        _ = pair.west.core.rekey(connection: "c", child: nil, ike: false, now: pair.now)
        #expect(RekeyTests.watch(pair, 15))
        #expect(pair.mismatch == nil && pair.east.installed.count == 1 && pair.west.installed.count == 1)
        #expect(pair.east.installed[0].inboundSPI != old)
        #expect(Self.isQuiet(pair))
    }

    @Test(arguments: 1...12)
    func `both ends rekey the IKE SA at once and one is left with the child`(_ seed: UInt64) throws {
        let pair = try Self.up(seed: seed)
        let child = pair.east.installed[0].inboundSPI
        #expect(pair.east.core.rekey(connection: "c", child: nil, ike: true, now: pair.now))
        if seed % 2 == 0 { pair.network.run(for: .milliseconds(5)) }
        if seed % 3 == 0 { pair.network.run(for: .milliseconds(Int64(seed) * 4)) }
        if seed % 4 == 0 { pair.network.faults.spread = .milliseconds(60) }
        _ = pair.west.core.rekey(connection: "c", child: nil, ike: true, now: pair.now)
        #expect(RekeyTests.watch(pair, 40))
        #expect(pair.east.installed.map(\.inboundSPI) == [child] && pair.mismatch == nil)
        #expect(Self.isQuiet(pair))
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
        if seed % 2 == 0 { pair.network.run(for: .milliseconds(Int64(seed) * 5)) }
        _ = pair.west.core.rekey(connection: "c", child: nil, ike: true, now: pair.now)
        #expect(RekeyTests.watch(pair, 60))
        #expect(pair.mismatch == nil && pair.east.installed.count == 1)
        #expect(pair.east.status(now: pair.now)?.children[0].rekeys ?? 0 >= 1)
        #expect(Self.isQuiet(pair))
    }

    @Test(arguments: 1...4)
    func `short lifetimes on a lossy network are survived without a gap`(_ seed: UInt64) throws {
        let pair = try Self.up(seed: seed) {
            for keyPath in [\Pair.eastSide, \Pair.westSide] {
                $0[keyPath: keyPath].lifetime = .seconds(20)
                $0[keyPath: keyPath].ikeLifetime = .seconds(61)
            }
        }
        pair.network.faults = Network.Faults(loss: 0.05, duplication: 0.1, spread: .milliseconds(100))
        pair.network.keepsHistory = false
        #expect(RekeyTests.watch(pair, 300))
        // A rekey may be under way at this moment.
        pair.network.faults = .none
        #expect(pair.network.run(for: .seconds(10)) { pair.mismatch == nil })
        #expect(pair.east.downs.isEmpty && pair.west.downs.isEmpty, "\(pair.east.downs) \(pair.west.downs)")
        #expect(pair.east.status(now: pair.now)?.children[0].rekeys ?? 0 > 10)
    }

    @Test func `a peer with one additional key exchange less gets the proposal that both have`() throws {
        let pair = try Self.up {
            $0.eastSide.esp = ["aes256gcm16-x25519-ke1_mlkem768", "aes256gcm16-x25519"]
            $0.westSide.esp = ["aes256gcm16-x25519"]
            $0.westSide.ike = ["aes256gcm16-prfsha384-x25519"]
            $0.eastSide.ike = ["aes256gcm16-prfsha384-x25519-ke1_mlkem768", "aes256gcm16-prfsha384-x25519"]
        }
        for ike in [true, false] {
            #expect(pair.east.core.rekey(connection: "c", child: nil, ike: ike, now: pair.now))
            pair.run(5)
            #expect(pair.west.core.rekey(connection: "c", child: nil, ike: ike, now: pair.now))
            pair.run(15)
        }
        #expect(!Self.exchanges(pair).contains(44) && pair.mismatch == nil && Self.isQuiet(pair))
    }

    // MARK: What the peer does not finish, or does wrong

    @Test func `a series that is not finished is freed after 20 seconds, and the SA goes on`() throws {
        let pair = try Self.up()
        var lost = true
        pair.network.filter = { bytes, _, _ in !lost || bytes[18] != ExchangeType.ikeFollowUpKE.rawValue }
        for ike in [true, false] { #expect(pair.east.core.rekey(connection: "c", child: nil, ike: ike, now: pair.now)) }
        pair.run(1)
        #expect(pair.west.core.allSAs.contains { $0.answered.count == 1 })
        // East forgets; its SA stays because it did not: it is played from here on.
        for sa in pair.east.core.allSAs { sa.outstanding = nil }
        lost = false
        pair.run(25)
        #expect(pair.west.core.counters.followUpsExpired >= 1)
        pair.run(120)
        #expect(pair.mismatch == nil && Self.isQuiet(pair))
    }

    /// East plays a peer on a live SA; answers come from west.
    struct Played {
        let pair: Pair
        let forge: Forge
        let path: Path
        var id: UInt32

        init() throws {
            pair = try FollowUpTests.up()
            forge = try #require(Forge(pair.east))
            path = Path(local: Endpoint(pair.west.address, 500), remote: Endpoint(pair.east.address, 500))
            id = forge.sa.nextRequestID
        }

        mutating func send(_ exchange: ExchangeType, _ payloads: [Payload]) throws -> PayloadList? {
            while pair.west.core.pollTransmit() != nil {}
            pair.west.core.handleDatagram(try forge.request(exchange, payloads, id: id), path: path, now: pair.now)
            pair.west.takeEvents(now: pair.now)
            id += 1
            return try pair.west.core.pollTransmit().map { try forge.open($0.bytes) }
        }

        var sa: IKESA? { pair.west.core.allSAs.first { $0.established != nil } }

        /// CREATE_CHILD_SA for a rekey of the child; the link of the answer.
        mutating func begin() throws -> [UInt8] {
            let crypto = OpenSSLCrypto()
            let offer = Offer.esp(
                [try ESPProposal(keywords: "aes256gcm16-x25519-ke1_mlkem768-ke2_ecp256-esn")], spi: 40_000 + id, withMethods: true
            )
            let answer = try send(
                .createChildSA,
                [
                    .notify(
                        Notify(
                            .rekeySA, protocolID: ProtocolID.esp, spi: [UInt8](u32: pair.east.installed[0].inboundSPI))),
                    .securityAssociation(offer), .nonce(forge.random.bytes(32)),
                    .keyExchange(method: 31, data: try crypto.makeKeyExchange(.x25519).publicValue),
                    .trafficSelectorsInitiator(WireSelectors(pair.east.installed[0].localSelectors)),
                    .trafficSelectorsResponder(WireSelectors(pair.east.installed[0].remoteSelectors)),
                ])
            return try #require(answer?.notify(.additionalKeyExchange)?.data)
        }

        func link(_ data: [UInt8]) -> Payload { .notify(Notify(.additionalKeyExchange, data: data)) }
        func key(_ method: KeyExchangeMethod) throws -> Payload {
            .keyExchange(method: method.rawValue, data: try OpenSSLCrypto().makeKeyExchange(method).publicValue)
        }
    }

    @Test func `an unknown, used or missing link is answered with STATE_NOT_FOUND, and nothing else happens`() throws {
        var played = try Played()
        #expect(
            try played.send(.ikeFollowUpKE, [played.key(.mlkem768), played.link([1, 2, 3])])?.firstError?.type == .stateNotFound)
        #expect(try played.send(.ikeFollowUpKE, [played.key(.mlkem768)])?.firstError?.type == .stateNotFound)
        #expect(try played.send(.ikeFollowUpKE, [])?.firstError?.type == .stateNotFound)
        let first = try played.begin()
        let answer = try played.send(.ikeFollowUpKE, [played.key(.mlkem768), played.link(first)])
        let second = try #require(answer?.notify(.additionalKeyExchange)?.data)
        #expect(answer?.keyExchange?.method == 36 && answer?.keyExchange?.data.count == 1088 && second != first)
        #expect(try played.send(.ikeFollowUpKE, [played.key(.ecp256), played.link(first)])?.firstError?.type == .stateNotFound)
        let last = try played.send(.ikeFollowUpKE, [played.key(.ecp256), played.link(second)])
        #expect(last?.keyExchange?.method == 19 && last?.notify(.additionalKeyExchange) == nil)
        #expect(played.sa?.answered.isEmpty == true && played.pair.west.installed.count == 2)
    }

    /// "this error notification is considered fatal in both peers" (RFC 7296 §2.21.3)
    @Test func `a key exchange out of order is answered with INVALID_SYNTAX and ends the SA`() throws {
        var played = try Played()
        let link = try played.begin()
        #expect(try played.send(.ikeFollowUpKE, [played.key(.ecp256), played.link(link)])?.firstError?.type == .invalidSyntax)
        #expect(played.sa?.established == nil && played.pair.west.installed.isEmpty)
    }

    @Test(arguments: [1183, 1185])
    func `a key of another length ends the SA with INVALID_SYNTAX`(_ count: Int) throws {
        var played = try Played()
        let link = try played.begin()
        let key = Payload.keyExchange(method: 36, data: [UInt8](repeating: 1, count: count))
        #expect(try played.send(.ikeFollowUpKE, [key, played.link(link)])?.firstError?.type == .invalidSyntax)
        #expect(played.sa == nil)
    }

    @Test func `a new request for the same child takes the place of the series before`() throws {
        var played = try Played()
        let first = try played.begin()
        let second = try played.begin()
        #expect(played.sa?.answered.count == 1)
        #expect(try played.send(.ikeFollowUpKE, [played.key(.mlkem768), played.link(first)])?.firstError?.type == .stateNotFound)
        #expect(try played.send(.ikeFollowUpKE, [played.key(.mlkem768), played.link(second)])?.keyExchange?.method == 36)
    }

    @Test func `more series than are kept are put off`() throws {
        var played = try Played()
        let spare = Offer.esp(
            [try ESPProposal(keywords: "aes256gcm16-x25519-ke1_mlkem768-ke2_ecp256-esn")], spi: 50_000, withMethods: true)
        var answers: [NotifyType?] = []
        for _ in 0..<6 {
            let answer = try played.send(
                .createChildSA,
                [
                    .securityAssociation(spare), .nonce(played.forge.random.bytes(32)), played.key(.x25519),
                    .trafficSelectorsInitiator(WireSelectors(played.pair.east.installed[0].localSelectors)),
                    .trafficSelectorsResponder(WireSelectors(played.pair.east.installed[0].remoteSelectors)),
                ])
            answers.append(answer?.firstError?.type)
        }
        #expect(answers == [nil, nil, nil, nil, .temporaryFailure, .temporaryFailure])
        #expect(played.sa?.answered.count == 4 && played.pair.west.core.counters.followUpLimitReached == 2)
    }

    // MARK: What happens between CREATE_CHILD_SA and the last key exchange

    /// Both additional key exchanges of a rekey, with something in between; the answer to the last.
    private func finish(_ played: inout Played, meanwhile: (inout Played) throws -> Void) throws -> PayloadList? {
        let answer = try played.send(.ikeFollowUpKE, [played.key(.mlkem768), played.link(try played.begin())])
        let link = try #require(answer?.notify(.additionalKeyExchange)?.data)
        try meanwhile(&played)
        return try played.send(.ikeFollowUpKE, [played.key(.ecp256), played.link(link)])
    }

    @Test func `a child that went meanwhile is not replaced`() throws {
        var played = try Played()
        let spi = played.pair.east.installed[0].inboundSPI
        let answer = try finish(&played) { played in
            _ = try played.send(.informational, [.delete(Delete(protocolID: ProtocolID.esp, spis: [spi]))])
        }
        #expect(answer?.firstError?.type == .temporaryFailure && answer?.keyExchange == nil)
        #expect(played.pair.west.installed.isEmpty && played.sa?.answered.isEmpty == true)
    }

    @Test func `no child is made while we rekey the IKE SA`() throws {
        var played = try Played()
        let answer = try finish(&played) { played in
            #expect(played.pair.west.core.rekey(connection: "c", child: nil, ike: true, now: played.pair.now))
            #expect(played.sa?.outstanding != nil)
        }
        #expect(answer?.firstError?.type == .temporaryFailure && played.pair.west.installed.count == 1)
    }

    @Test func `while the peer rekeys the IKE SA our children wait`() throws {
        var played = try Played()
        let offer = Offer.ike(
            [try IKEProposal(keywords: "aes256gcm16-prfsha384-x25519-ke1_mlkem768")], spi: [1, 2, 3, 4, 5, 6, 7, 8])
        let answer = try played.send(
            .createChildSA, [.securityAssociation(offer), .nonce(played.forge.random.bytes(32)), played.key(.x25519)])
        #expect(answer?.notify(.additionalKeyExchange) != nil && played.sa?.answered.count == 1)
        let pair = played.pair
        #expect(pair.west.core.rekey(connection: "c", child: nil, ike: false, now: pair.now))
        #expect(played.sa?.outstanding == nil && pair.west.core.pollTransmit() == nil)
        // The peer never ends it; then it is our turn.
        pair.run(25)
        #expect(
            pair.west.core.counters.followUpsExpired == 1
                && pair.network.history.contains { $0.source.address == pair.west.address })
    }

    @Test(arguments: [true, false])
    func `the peer waits while our own series for the same thing is under way`(forIKE: Bool) throws {
        var played = try Played()
        let pair = played.pair
        pair.network.filter = { bytes, _, _ in bytes[18] != ExchangeType.ikeFollowUpKE.rawValue }
        #expect(pair.west.core.rekey(connection: "c", child: nil, ike: forIKE, now: pair.now))
        pair.run(0.3)
        guard case .followUp = played.sa?.outstanding?.kind else { Issue.record("our series is not under way"); return }
        let refused: NotifyType?
        if forIKE {
            let offer = Offer.ike(
                [try IKEProposal(keywords: "aes256gcm16-prfsha384-x25519-ke1_mlkem768")], spi: [1, 2, 3, 4, 5, 6, 7, 8])
            refused = try played.send(
                .createChildSA, [.securityAssociation(offer), .nonce(played.forge.random.bytes(32)), played.key(.x25519)])?
                .firstError?.type
        } else {
            refused = try played.send(
                .createChildSA,
                [
                    .notify(
                        Notify(.rekeySA, protocolID: ProtocolID.esp, spi: [UInt8](u32: pair.east.installed[0].inboundSPI))),
                    .securityAssociation(
                        Offer.esp(
                            [try ESPProposal(keywords: "aes256gcm16-x25519-ke1_mlkem768-ke2_ecp256-esn")], spi: 40_000,
                            withMethods: true)), .nonce(played.forge.random.bytes(32)), played.key(.x25519),
                    .trafficSelectorsInitiator(WireSelectors(pair.east.installed[0].localSelectors)),
                    .trafficSelectorsResponder(WireSelectors(pair.east.installed[0].remoteSelectors)),
                ])?.firstError?.type
        }
        #expect(refused == .temporaryFailure && played.sa?.answered.isEmpty == true)
    }

    @Test func `an initiator whose series is refused again and again sets up a new IKE SA`() throws {
        let pair = try Self.up()
        pair.network.filter = { bytes, source, _ in
            // West forgets every series before the next message of it comes.
            if bytes[18] == ExchangeType.ikeFollowUpKE.rawValue, source.address == pair.east.address {
                for sa in pair.west.core.allSAs { sa.answered = [] }
            }
            return true
        }
        let before = pair.east.status(now: pair.now)?.ike?.initiatorSPI
        #expect(pair.east.core.rekey(connection: "c", child: nil, ike: false, now: pair.now))
        pair.run(10)
        #expect(pair.east.logs.contains { $0.contains("refused an additional key exchange with STATE_NOT_FOUND") })
        pair.run(60)
        #expect(pair.east.downs.contains { $0.contains("kept refusing additional key exchanges (STATE_NOT_FOUND)") })
        #expect(pair.east.status(now: pair.now)?.ike?.initiatorSPI != before && pair.isUp && pair.mismatch == nil)
    }
}
