import Crypto
import IKE
import IPsec
import Testing

/// Project Wycheproof: valid cases must match both ways, invalid ones must be refused.
@Suite struct WycheproofTests {
    struct File<Test: Decodable>: Decodable {
        struct Group: Decodable {
            var keySize: Int?
            var ivSize: Int?
            var tagSize: Int?
            var tests: [Test]
        }
        var testGroups: [Group]
    }

    struct AEADCase: Decodable {
        var tcId: Int
        var key, iv, aad, msg, ct, tag, result: String
    }

    static func gcmCases() throws -> [AEADCase] {
        try vectors("wycheproof/aes_gcm_test.json", as: File<AEADCase>.self).testGroups
            .filter { $0.ivSize == 96 && $0.tagSize == 128 }.flatMap(\.tests)
    }

    @Test("AES-GCM through the packet engines", arguments: EngineKind.available)
    func packetEngine(_ engine: EngineKind) throws {
        let cases = try Self.gcmCases().filter { [32, 64].contains($0.key.count) }
        #expect(cases.count > 120)
        #expect(cases.contains { $0.result == "invalid" })
        for vector in cases {
            let keyed = try KeyedEngine(engine, key: bytes(hex: vector.key))
            let (nonce, aad) = (bytes(hex: vector.iv), bytes(hex: vector.aad))
            let (text, sealed) = (bytes(hex: vector.msg), bytes(hex: vector.ct + vector.tag))
            let opened = keyed.open(nonce: nonce, aad: aad, sealed)
            #expect(opened == (vector.result == "valid" ? text : nil), "case \(vector.tcId)")
            if vector.result == "valid" { #expect(keyed.seal(nonce: nonce, aad: aad, text) == sealed, "case \(vector.tcId)") }
        }
    }

    @Test("AES-GCM as IKE messages use it, also with 192-bit keys")
    func messageProtection() throws {
        let crypto = OpenSSLCrypto()
        let none = crypto.secret([])
        for vector in try Self.gcmCases() {
            let cipher = IKECipher.aesGCM16(keyBits: vector.key.count * 4)
            let key = secret(hex: vector.key + vector.iv.prefix(8))
            let (iv, aad) = (bytes(hex: String(vector.iv.dropFirst(8))), bytes(hex: vector.aad))
            let (text, sealed) = (bytes(hex: vector.msg), iv + bytes(hex: vector.ct + vector.tag))
            if vector.result == "valid" {
                #expect(
                    try crypto.seal(
                        cipher, encryptionKey: key, integrityKey: none, associatedData: aad, plaintext: text, iv: iv) == sealed)
                #expect(
                    try crypto.open(cipher, encryptionKey: key, integrityKey: none, associatedData: aad, sealed: sealed) == text
                )
            } else {
                #expect(throws: IKECryptoError.authenticationFailed, "case \(vector.tcId)") {
                    try crypto.open(cipher, encryptionKey: key, integrityKey: none, associatedData: aad, sealed: sealed)
                }
            }
        }
    }

    struct ExchangeCase: Decodable {
        var tcId: Int
        var `public`, `private`, shared, result: String
        var flags: [String]
    }

    @Test("X25519 gives the shared secret, and refuses points that give all zeros")
    func x25519() throws {
        let cases = try vectors("wycheproof/x25519_test.json", as: File<ExchangeCase>.self).testGroups.flatMap(\.tests)
        #expect(cases.count == 518)
        var zeros = 0
        for vector in cases {
            let ours = try keyExchange(.x25519, privateValue: bytes(hex: vector.private))
            let peer = bytes(hex: vector.public)
            // RFC 8031 §2 with RFC 7748 §6.1: an all-zero secret is refused; Wycheproof calls these cases acceptable.
            if bytes(hex: vector.shared).allSatisfy({ $0 == 0 }) {
                zeros += 1
                #expect(throws: IKECryptoError.invalidPublicValue, "case \(vector.tcId)") {
                    try ours.sharedSecret(peerPublicValue: peer)
                }
            } else {
                #expect(
                    try ours.sharedSecret(peerPublicValue: peer).exposed == bytes(hex: vector.shared), "case \(vector.tcId)")
            }
        }
        #expect(zeros > 10)
    }

    @Test(
        "ECDH gives the X coordinate, and refuses points that are not on the curve",
        arguments: [(KeyExchangeMethod.ecp256, "256"), (.ecp384, "384"), (.ecp521, "521")])
    func elliptic(_ method: KeyExchangeMethod, _ size: String) throws {
        let file = "wycheproof/ecdh_secp\(size)r1_ecpoint_test.json"
        let cases = try vectors(file, as: File<ExchangeCase>.self).testGroups.flatMap(\.tests)
        #expect(cases.count > 300)
        var refused = 0
        for vector in cases {
            let scalarBytes = method.publicValueBytes / 2
            let digits = bytes(hex: vector.private.count % 2 == 0 ? vector.private : "0" + vector.private)
            let ours = try keyExchange(method, privateValue: Array(digits.suffix(scalarBytes)))
            let point = bytes(hex: vector.public)
            // IKE has no compressed points: what is not 04 X Y cannot be said there, and its length is refused.
            let peer = point.first == 4 ? Array(point.dropFirst()) : point
            if vector.result == "valid" {
                #expect(
                    try ours.sharedSecret(peerPublicValue: peer).exposed == bytes(hex: vector.shared), "case \(vector.tcId)")
            } else {
                refused += 1
                #expect(throws: IKECryptoError.invalidPublicValue, "case \(vector.tcId)") {
                    try ours.sharedSecret(peerPublicValue: peer)
                }
            }
        }
        #expect(refused >= 19)
    }

    struct MACCase: Decodable {
        var tcId: Int
        var key, msg, tag, result: String
    }

    @Test("HMAC-SHA-2", arguments: [(PseudoRandomFunction.hmacSHA256, "256"), (.hmacSHA384, "384"), (.hmacSHA512, "512")])
    func hmac(_ prf: PseudoRandomFunction, _ size: String) throws {
        let crypto = OpenSSLCrypto()
        let groups = try vectors("wycheproof/hmac_sha\(size)_test.json", as: File<MACCase>.self).testGroups
        var count = 0
        for group in groups {
            for vector in group.tests {
                let output = try crypto.prf(prf, key: secret(hex: vector.key), data: bytes(hex: vector.msg))
                let truncated = Array(output.prefix((group.tagSize ?? 0) / 8))
                #expect(
                    crypto.constantTimeEqual(truncated, bytes(hex: vector.tag)) == (vector.result == "valid"),
                    "case \(vector.tcId)")
                count += 1
            }
        }
        #expect(count > 100)
    }
}
