import Crypto
import Foundation
import IPsec
import Testing

@testable import IKE

/// Keys and AUTH with additional key exchanges against Python's own computation of the formulas.
@Suite struct AdditionalKeyScheduleTests {
    struct File: Decodable {
        struct Case: Decodable {
            struct Message: Decodable { var keyI, keyR: String }
            var prf: UInt16
            var keyBits: Int
            var ni, nr, spis: String
            var secrets: [String]
            var messages: [Message]
            var keys, mixed: [String: String]
            var intAuth, realMessage, identity, psk, ppk, auth, authWithPPK, rekeySeed, childKeys: String
        }
        var cases: [Case]
    }

    let crypto = OpenSSLCrypto()

    static func cases() throws -> [File.Case] {
        try JSONDecoder().decode(File.self, from: Data(contentsOf: Vectors.url("computed/additional-keys.json"))).cases
    }

    func hex(_ text: String) -> [UInt8] { Vectors.hex(text[...]) }

    /// Keys and IntAuth after all exchanges of a case.
    func run(_ vector: File.Case) throws -> (suite: IKESuite, keys: IKEKeys, auth: IntermediateAuthentication) {
        let prf = try #require(PseudoRandomFunction(rawValue: vector.prf))
        let suite = IKESuite(cipher: .aesGCM16(keyBits: vector.keyBits), prf: prf, method: .x25519)
        let schedule = KeySchedule(crypto: crypto)
        let (ni, nr, spis) = (hex(vector.ni), hex(vector.nr), hex(vector.spis))
        let (spiI, spiR) = (spis.prefix(8).bigEndianValue, spis.suffix(8).bigEndianValue)
        func keys(_ seed: Secret) throws -> IKEKeys {
            try schedule.keys(
                suite: suite, seed: seed, initiatorNonce: ni, responderNonce: nr, initiatorSPI: spiI, responderSPI: spiR)
        }
        var current = try keys(
            try schedule.seed(
                prf: prf, initiatorNonce: ni, responderNonce: nr, shared: crypto.secret(hex(vector.secrets[0]))))
        var auth = IntermediateAuthentication()
        for (index, message) in vector.messages.enumerated() {
            let id = UInt32(index) + 1
            for (isResponse, data) in [(false, message.keyI), (true, message.keyR)] {
                let header = IKEHeader(
                    initiatorSPI: spiI, responderSPI: spiR, exchange: .ikeIntermediate, isFromInitiator: !isResponse,
                    isResponse: isResponse, messageID: id)
                let content = ProtectedContent(header: header, payloads: [.keyExchange(method: 36, data: hex(data))])
                let octets = IntermediateAuthentication.messageOctets(content)
                if isResponse {
                    try auth.addResponse(octets, key: current.responderAuthentication, prf: prf, crypto: crypto)
                } else {
                    try auth.addRequest(octets, key: current.initiatorAuthentication, prf: prf, crypto: crypto)
                }
            }
            current = try keys(
                try schedule.rekeySeed(
                    oldPRF: prf, oldDerivation: current.derivation, shared: crypto.secret(hex(vector.secrets[index + 1])),
                    initiatorNonce: ni, responderNonce: nr))
        }
        return (suite, current, auth)
    }

    @Test func `keys after every number of exchanges, IntAuth and AUTH are the formulas'`() throws {
        let cases = try Self.cases()
        #expect(cases.count == 9 && Set(cases.map(\.messages.count)) == [0, 1, 3])
        for vector in cases {
            let (suite, keys, auth) = try run(vector)
            #expect(keys.derivation.octets == hex(vector.keys["d"] ?? ""))
            #expect(keys.initiator.encryption.octets == hex(vector.keys["ei"] ?? ""))
            #expect(keys.responder.encryption.octets == hex(vector.keys["er"] ?? ""))
            #expect(keys.initiatorAuthentication.octets == hex(vector.keys["pi"] ?? ""))
            #expect(keys.responderAuthentication.octets == hex(vector.keys["pr"] ?? ""))
            #expect(auth.octets == hex(vector.intAuth))
            let value = try KeySchedule(crypto: crypto).authentication(
                prf: suite.prf, presharedKey: crypto.secret(hex(vector.psk)), message: hex(vector.realMessage),
                nonce: hex(vector.nr), identity: hex(vector.identity), authenticationKey: keys.initiatorAuthentication,
                intermediate: auth.octets)
            #expect(value == hex(vector.auth))
        }
    }

    @Test func `IntAuth is the same for a message in fragments, whatever stood in their length fields`() throws {
        let header = IKEHeader(
            initiatorSPI: 1, responderSPI: 2, exchange: .ikeIntermediate, isFromInitiator: true, isResponse: false, messageID: 1)
        let payloads: [Payload] = [.keyExchange(method: 36, data: [UInt8](repeating: 5, count: 100))]
        let whole = ProtectedContent(header: header, payloads: payloads)
        let expected = IntermediateAuthentication.messageOctets(whole)
        #expect(expected.count == 28 + 4 + 108 && expected[16] == 46 && expected[28] == 34)
        #expect(expected[24..<28].bigEndianValue == 140 && expected[30..<32].bigEndianValue == 112)
        var fragmented = whole
        var carrier = header
        (carrier.nextPayload, carrier.length) = (.encryptedFragment, 99)
        fragmented.associatedData = carrier.encoded + [34, 0, 0, 71]
        #expect(IntermediateAuthentication.messageOctets(fragmented) == expected)
        // The reserved bits of the generic header and of the flags are authenticated as they came.
        fragmented.associatedData?[29] = 1
        #expect(IntermediateAuthentication.messageOctets(fragmented) != expected)
    }
}
