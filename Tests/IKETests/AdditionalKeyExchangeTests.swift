import Crypto
import IPsec
import Testing
import Wire

@testable import IKE

/// Choosing additional key exchanges. RFC 9370 §2.2.1.
@Suite struct AdditionalKeyExchangeTests {
    static func ike(_ keywords: String...) throws -> [IKEProposal] { try keywords.map { try IKEProposal(keywords: $0) } }

    static let head = "aes256gcm16-prfsha384-"

    @Test(arguments: [
        ("x25519-ke1_mlkem768", "x25519-ke1_mlkem768", "x25519-ke1_mlkem768"),
        ("x25519-ke1_mlkem1024-ke1_mlkem768", "x25519-ke1_mlkem768-ke1_mlkem1024", "x25519-ke1_mlkem1024"),
        ("x25519-ke1_mlkem768", "x25519-ke1_mlkem768-ke1_none", "x25519-ke1_mlkem768"),
        ("x25519-ke1_mlkem768-ke1_none", "x25519", "x25519"), ("x25519", "x25519-ke1_mlkem768-ke1_none", "x25519"),
        ("x25519-ke1_ecp256-ke1_none", "x25519-ke1_mlkem768-ke1_none", "x25519"),
        ("x25519-ke2_mlkem768-ke5_ecp384", "x25519-ke2_mlkem768-ke5_ecp384", "x25519-ke2_mlkem768-ke5_ecp384"),
        // No method twice: the second slot has to take the other one, or the first has to make room for the second.
        (
            "x25519-ke1_mlkem768-ke1_mlkem1024-ke2_mlkem768-ke2_mlkem1024",
            "x25519-ke1_mlkem768-ke1_mlkem1024-ke2_mlkem768-ke2_mlkem1024", "x25519-ke1_mlkem768-ke2_mlkem1024"
        ),
        (
            "x25519-ke1_mlkem768-ke1_mlkem1024-ke2_mlkem768", "x25519-ke1_mlkem768-ke1_mlkem1024-ke2_mlkem768",
            "x25519-ke1_mlkem1024-ke2_mlkem768"
        ),
        ("x25519-ecp256-ke1_x25519", "x25519-ecp256-ke1_x25519", "ecp256-ke1_x25519"),
        ("x25519-ke1_mlkem768", "x25519", nil), ("x25519", "x25519-ke1_mlkem768", nil),
        ("x25519-ke1_mlkem768", "x25519-ke2_mlkem768", nil), ("x25519-ke1_mlkem768", "x25519-ke1_mlkem1024", nil),
        (
            "x25519-ke1_mlkem768-ke1_mlkem1024-ke2_mlkem768-ke2_mlkem1024",
            "x25519-ke1_mlkem768-ke1_ecp256-ke2_mlkem768-ke2_ecp256", nil
        ),
    ])
    func `the responder chooses in its own order, never a method twice`(
        _ ours: String, _ theirs: String, _ expected: String?
    ) throws {
        let offer = Offer.ike(try Self.ike(Self.head + theirs))
        let choice = Negotiation.choose(try Self.ike(Self.head + ours), from: offer)
        #expect(choice?.suite.keywords == expected.map { Self.head + $0 })
        guard let choice else { return }
        // "if the initiator includes any ADDKE Transform Type in the proposal, the responder MUST select one of the algorithms
        // proposed using this type": of every offered type one, NONE included.
        let types = { (proposal: [Transform]) in Set(proposal.map(\.type)) }
        #expect(types(choice.suite.transforms) == types(offer[0].transforms))
        let answer = WireProposal(number: choice.number, protocolID: ProtocolID.ike, transforms: choice.suite.transforms)
        #expect(try Negotiation.verify([answer], offered: offer).suite == choice.suite)
    }

    @Test func `without IKE_INTERMEDIATE such proposals are passed over`() throws {
        let offer = Offer.ike(try Self.ike(Self.head + "x25519-ke1_mlkem768", "aes128gcm16-prfsha256-x25519"))
        let ours = try Self.ike(Self.head + "x25519-ke1_mlkem768", "aes128gcm16-prfsha256-x25519")
        #expect(Negotiation.choose(ours, from: offer)?.number == 1)
        #expect(Negotiation.choose(ours, from: offer, withAdditional: false)?.number == 2)
        #expect(Negotiation.choose(ours, from: Array(offer.prefix(1)), withAdditional: false) == nil)
    }

    @Test func `the initiator minds an answer that repeats a method, adds one, or leaves one out`() throws {
        let offered = Offer.ike(
            try Self.ike(Self.head + "x25519-ke1_mlkem768-ke1_mlkem1024-ke2_mlkem768-ke2_mlkem1024-ke3_ecp256-ke3_none"))
        func verify(_ additional: [ChosenKeyExchange]) throws -> IKESuite {
            let suite = IKESuite(
                cipher: .aesGCM16(keyBits: 256), prf: .hmacSHA384, method: .x25519, additional: additional)
            let answer = WireProposal(number: 1, protocolID: ProtocolID.ike, transforms: suite.transforms)
            return try Negotiation.verify([answer], offered: offered).suite
        }
        let good: [ChosenKeyExchange] = [.init(slot: 1, method: .mlkem768), .init(slot: 2, method: .mlkem1024)]
        let none = ChosenKeyExchange(slot: 3, method: nil)
        #expect(try verify(good + [none]).additionalMethods == [.mlkem768, .mlkem1024])
        #expect(try verify(good).additionalMethods == [.mlkem768, .mlkem1024])
        let repeated: [ChosenKeyExchange] = [.init(slot: 1, method: .mlkem768), .init(slot: 2, method: .mlkem768), none]
        #expect(throws: IKEFault.peerMisbehaved("the peer chose the additional key exchange mlkem768 twice")) {
            try verify(repeated)
        }
        for wrong: [ChosenKeyExchange] in [
            [], [good[0]], [good[0], none], good + [.init(slot: 4, method: .ecp384)], good + [.init(slot: 3, method: .ecp384)],
            [.init(slot: 1, method: nil), good[1], none],
        ] { #expect(throws: IKEFault.self) { try verify(wrong) } }
    }

    @Test func `ESP proposals have them with perfect forward secrecy, not in IKE_AUTH`() throws {
        let plan = try ESPProposal(keywords: "aes256gcm16-x25519-ke1_mlkem768")
        func choose(_ ours: [ESPProposal], _ offer: [WireProposal], withMethods: Bool = true) -> ESPSuite? {
            Negotiation.choose(ours, from: offer, withMethods: withMethods)?.suite
        }
        let with = Offer.esp([plan], spi: 4096, withMethods: true)
        let suite = try #require(Negotiation.choose([plan], from: with, withMethods: true)?.suite)
        #expect(suite.method == .x25519 && suite.additionalMethods == [.mlkem768])
        let answer = WireProposal(number: 1, protocolID: ProtocolID.esp, spi: [0, 0, 16, 1], transforms: suite.transforms)
        #expect(try Negotiation.verifyESP([answer], offered: with).suite == suite)
        let without = Offer.esp([plan], spi: 4096, withMethods: false)
        #expect(without.allSatisfy { !$0.hasAdditionalKeyExchange })
        #expect(choose([plan], without, withMethods: false)?.additional == [])
        let classical = try ESPProposal(keywords: "aes256gcm16-x25519")
        #expect(choose([classical], with) == nil)
        #expect(choose([plan, classical], Offer.esp([classical], spi: 4096, withMethods: true))?.additional == [])
        // One without a first exchange makes no sense.
        var headless = with
        headless[0].transforms.removeAll { $0.type == TransformType.keyExchange }
        #expect(choose([plan], headless) == nil)
    }

    @Test(arguments: [
        ("x25519-ke1_mlkem768", "x25519", "we ask for ke1_mlkem768, the peer offered none"),
        ("x25519", "x25519-ke1_mlkem768", "additional key exchange 1: the peer offered only ke1_mlkem768"),
        ("x25519-ke1_mlkem1024", "x25519-ke1_mlkem768", "add aes256gcm16-prfsha384-x25519-ke1_mlkem768 to ike_proposals"),
    ])
    func `the report names the additional key exchange that differs`(
        _ ours: String, _ theirs: String, _ expected: String
    ) throws {
        let offer = Offer.ike(try Self.ike(Self.head + theirs))
        let report = NegotiationReport.ike(ours: try Self.ike(Self.head + ours), offer: offer, connection: "west")
        #expect(report.contains(expected), "\(report)")
    }

    @Test func `what the libraries cannot do is left out of a proposal`() throws {
        struct Limited: IKECryptoStandIn { let base = OpenSSLCrypto() }
        let crypto = Limited()
        #expect(try IKEProposal(keywords: Self.head + "x25519-mlkem512").supported(by: crypto)?.methods == [.x25519])
        #expect(try IKEProposal(keywords: Self.head + "mlkem512").supported(by: crypto) == nil)
        #expect(try IKEProposal(keywords: Self.head + "x25519-ke1_mlkem512").supported(by: crypto) == nil)
        let optional = try IKEProposal(keywords: Self.head + "x25519-ke1_mlkem512-ke1_none")
        #expect(optional.supported(by: crypto)?.additional == [])
        #expect(try ESPProposal(keywords: "aes256gcm16-mlkem512").supported(by: crypto) == nil)
        #expect(try ESPProposal(keywords: "aes256gcm16").supported(by: crypto) != nil)
    }
}

/// A crypto without ML-KEM-512, whatever the machine has.
protocol IKECryptoStandIn: IKECrypto { var base: OpenSSLCrypto { get } }

extension IKECryptoStandIn {
    func supports(_ method: KeyExchangeMethod) -> Bool { method != .mlkem512 && base.supports(method) }
    func makeKeyExchange(_ method: KeyExchangeMethod) throws(IKECryptoError) -> any KeyExchange {
        try base.makeKeyExchange(method)
    }
    func answerKeyExchange(
        _ method: KeyExchangeMethod, peerPublicValue: [UInt8]
    ) throws(IKECryptoError) -> any KeyExchangeAnswer {
        try base.answerKeyExchange(method, peerPublicValue: peerPublicValue)
    }
    func prf(_ prf: PseudoRandomFunction, key: Secret, data: [UInt8]) throws(IKECryptoError) -> [UInt8] {
        try base.prf(prf, key: key, data: data)
    }
    func prfSecret(_ prf: PseudoRandomFunction, key: Secret, data: [SeedPart]) throws(IKECryptoError) -> Secret {
        try base.prfSecret(prf, key: key, data: data)
    }
    func prfPlus(_ prf: PseudoRandomFunction, key: Secret, seed: [SeedPart], count: Int) throws(IKECryptoError) -> Secret {
        try base.prfPlus(prf, key: key, seed: seed, count: count)
    }
    func slice(_ secret: Secret, _ range: Range<Int>) -> Secret { base.slice(secret, range) }
    func secret(_ bytes: [UInt8]) -> Secret { base.secret(bytes) }
    func seal(
        _ cipher: IKECipher, encryptionKey: Secret, integrityKey: Secret, associatedData: [UInt8], plaintext: [UInt8],
        iv: [UInt8]
    ) throws(IKECryptoError) -> [UInt8] {
        try base.seal(
            cipher, encryptionKey: encryptionKey, integrityKey: integrityKey, associatedData: associatedData,
            plaintext: plaintext, iv: iv)
    }
    func open(
        _ cipher: IKECipher, encryptionKey: Secret, integrityKey: Secret, associatedData: [UInt8], sealed: [UInt8]
    ) throws(IKECryptoError) -> [UInt8] {
        try base.open(
            cipher, encryptionKey: encryptionKey, integrityKey: integrityKey, associatedData: associatedData, sealed: sealed)
    }
    func sha1(_ data: [UInt8]) -> [UInt8] { base.sha1(data) }
    func constantTimeEqual(_ a: [UInt8], _ b: [UInt8]) -> Bool { base.constantTimeEqual(a, b) }
}
