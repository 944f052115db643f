import IKE
import IPsec
import Testing
import Wire

@Suite struct NegotiationTests {
    func ike(_ texts: String...) throws -> [IKEProposal] { try texts.map { try IKEProposal(keywords: $0) } }

    @Test func `normal and combined-mode ciphers are offered apart`() throws {
        let offer = Offer.ike(try ike("aes256gcm16-prfsha384-ecp384", "aes128-aes256-sha256-sha512-x25519"))
        #expect(offer.count == 2)
        #expect(offer[0].transforms(TransformType.integrity).isEmpty)
        #expect(offer[1].transforms(TransformType.integrity).count == 2)
        #expect(offer[1].transforms(TransformType.encryption).map(\.keyLength) == [128, 256])
        #expect(offer.map(\.number) == [1, 2])
    }

    @Test func `the responder's order of preference decides`() throws {
        let offer = Offer.ike(try ike("aes128gcm16-aes256gcm16-prfsha256-prfsha384-x25519-ecp384", "aes256-sha256-modp2048"))
        let choice = Negotiation.choose(try ike("aes256gcm16-prfsha384-prfsha256-ecp384-x25519"), from: offer)
        #expect(choice?.suite == IKESuite(cipher: .aesGCM16(keyBits: 256), prf: .hmacSHA384, method: .ecp384))
        let cbc = Negotiation.choose(try ike("aes256-sha256-modp2048", "aes128gcm16-prfsha256-x25519"), from: offer)
        #expect(cbc?.number == 2)
        #expect(cbc?.suite.cipher == .aesCBC(keyBits: 256, .hmacSHA256_128))
    }

    @Test func `a proposal with an unknown transform type is passed over, an unknown transform only itself`() throws {
        var offer = Offer.ike(try ike("aes256gcm16-prfsha384-ecp384"))
        offer[0].transforms.append(Transform(TransformType.encryption, 999))
        #expect(Negotiation.choose(try ike("aes256gcm16-prfsha384-ecp384"), from: offer) != nil)
        offer[0].transforms[0].hasUnknownAttribute = true
        #expect(Negotiation.choose(try ike("aes256gcm16-prfsha384-ecp384"), from: offer) == nil)
        offer = Offer.ike(try ike("aes256gcm16-prfsha384-ecp384"))
        offer[0].transforms.append(Transform(99, 1))
        #expect(Negotiation.choose(try ike("aes256gcm16-prfsha384-ecp384"), from: offer) == nil)
    }

    @Test func `integrity NONE beside a combined-mode cipher is accepted`() throws {
        var offer = Offer.ike(try ike("aes256gcm16-prfsha384-ecp384"))
        offer[0].transforms.append(Transform(TransformType.integrity, 0))
        #expect(Negotiation.choose(try ike("aes256gcm16-prfsha384-ecp384"), from: offer) != nil)
    }

    @Test func `an answer that was not offered is refused`() throws {
        let offered = Offer.ike(try ike("aes256gcm16-prfsha384-ecp384-x25519", "aes256-sha256-modp2048"))
        let suite = IKESuite(cipher: .aesGCM16(keyBits: 256), prf: .hmacSHA384, method: .ecp384)
        func answer(_ number: UInt8, _ transforms: [Transform]) -> [WireProposal] {
            [WireProposal(number: number, protocolID: ProtocolID.ike, transforms: transforms)]
        }
        #expect(try Negotiation.verify(answer(1, suite.transforms), offered: offered).suite == suite)
        let wrong: [[WireProposal]] = [
            [], answer(3, suite.transforms), answer(2, suite.transforms), answer(1, Array(suite.transforms.dropLast())),
            answer(1, suite.transforms + [Transform(TransformType.keyExchange, 31)]),
            answer(1, IKESuite(cipher: .aesGCM16(keyBits: 128), prf: .hmacSHA384, method: .ecp384).transforms),
            answer(1, suite.transforms) + answer(1, suite.transforms),
        ]
        for answer in wrong { #expect(throws: IKEFault.self) { try Negotiation.verify(answer, offered: offered) } }
    }

    @Test func `groups have no place in IKE_AUTH and must agree afterwards`() throws {
        let ours = [try ESPProposal(keywords: "aes256gcm16-ecp384")]
        let without = Offer.esp(ours, spi: 4096, withMethods: false)
        #expect(without[0].transforms(TransformType.keyExchange).isEmpty)
        #expect(Negotiation.choose(ours, from: without, withMethods: false)?.suite.method == nil)
        #expect(Negotiation.choose(ours, from: without, withMethods: true) == nil)
        let with = Offer.esp(ours, spi: 4096, withMethods: true)
        #expect(Negotiation.choose(ours, from: with, withMethods: true)?.suite.method == .ecp384)
        #expect(Negotiation.choose([try ESPProposal(keywords: "aes256gcm16")], from: with, withMethods: true) == nil)
    }

    @Test(arguments: [
        ("aes256gcm16-prfsha384-ecp384", "aes128gcm16-prfsha384-ecp384", "encryption algorithm"),
        ("aes256gcm16-prfsha384-ecp384", "aes256gcm16-prfsha256-ecp384", "pseudo-random function"),
        ("aes256gcm16-prfsha384-ecp384", "aes256gcm16-prfsha384-modp2048", "key exchange group"),
        ("aes256-sha256-ecp384", "aes256-sha512-prfsha256-ecp384", "integrity algorithm"),
    ])
    func `the report names the first difference and the line to change`(
        _ ours: String, _ theirs: String, _ what: String
    ) throws {
        let report = NegotiationReport.ike(ours: try ike(ours), offer: Offer.ike(try ike(theirs)), connection: "west")
        #expect(
            report.contains(ours) && report.contains(what) && report.contains("add \(theirs) to")
                && report.contains("ike_proposals of connection west"))
    }

    @Test func `the ESP report names ESN and perfect forward secrecy`() throws {
        func report(_ ours: String, _ theirs: String) throws -> String {
            NegotiationReport.esp(
                ours: [try ESPProposal(keywords: ours)],
                offer: Offer.esp([try ESPProposal(keywords: theirs)], spi: 4096, withMethods: true), withMethods: true,
                connection: "c",
                child: "net")
        }
        #expect(try report("aes256gcm16", "aes256gcm16-esn").contains("insists on esn"))
        #expect(try report("aes256gcm16-ecp384", "aes256gcm16").contains("add aes256gcm16 to esp_proposals"))
        #expect(try report("aes256gcm16", "aes256gcm16-ecp384").contains("aes256gcm16-ecp384 to esp_proposals of child c/net"))
        #expect(try report("aes256gcm16", "aes128gcm16").contains("add aes128gcm16"))
    }

    @Test func `narrowing keeps the initiator's first choice and drops what another selector contains`() throws {
        func selectors(_ texts: String...) -> [TrafficSelector] { texts.map { TrafficSelector(IPPrefix($0)!) } }
        let result = try #require(
            Narrowing.narrow(
                offeredInitiator: selectors("10.1.0.43", "10.1.0.0/16"), offeredResponder: selectors("10.2.0.7", "10.2.0.0/16"),
                policyInitiator: selectors("10.1.0.0/24"), policyResponder: selectors("10.2.0.0/24")))
        #expect(result.initiator == selectors("10.1.0.0/24"))
        #expect(result.responder == selectors("10.2.0.0/24"))
        #expect(Narrowing.covers(result.initiator, selectors("10.1.0.43")))
        #expect(
            Narrowing.narrow(
                offeredInitiator: selectors("10.9.0.0/24"), offeredResponder: selectors("10.2.0.0/24"),
                policyInitiator: selectors("10.1.0.0/24"), policyResponder: selectors("10.2.0.0/24")) == nil)
    }
}
