import Crypto
import IKE
import IPsec
import Testing

/// The Encrypted payload: AES-GCM, and AES-CBC with HMAC.
@Suite struct MessageProtectionTests {
    static let crypto = OpenSSLCrypto()
    static let ciphers: [IKECipher] = [128, 192, 256].flatMap { bits in
        [.aesGCM16(keyBits: bits)] + IntegrityAlgorithm.allCases.map { .aesCBC(keyBits: bits, $0) }
    }

    struct Keys {
        var encryption: Secret
        var integrity: Secret

        init(_ cipher: IKECipher) {
            encryption = SecureBytes((0..<cipher.encryptionKeyBytes).map { UInt8(truncatingIfNeeded: $0 &* 7) })
            integrity = SecureBytes((0..<cipher.integrityKeyBytes).map { UInt8(truncatingIfNeeded: $0 &* 13 &+ 1) })
        }
    }

    static func seal(_ cipher: IKECipher, _ keys: Keys, _ associatedData: [UInt8], _ text: [UInt8]) throws -> [UInt8] {
        try crypto.seal(
            cipher, encryptionKey: keys.encryption, integrityKey: keys.integrity, associatedData: associatedData,
            plaintext: text,
            iv: (0..<cipher.ivBytes).map { UInt8($0 + 1) })
    }

    static func open(_ cipher: IKECipher, _ keys: Keys, _ associatedData: [UInt8], _ sealed: [UInt8]) throws -> [UInt8] {
        try crypto.open(
            cipher, encryptionKey: keys.encryption, integrityKey: keys.integrity, associatedData: associatedData, sealed: sealed
        )
    }

    @Test("what is sealed opens, and has the size that the layout says", arguments: ciphers)
    func roundTrip(_ cipher: IKECipher) throws {
        let keys = Keys(cipher)
        let header = [UInt8](repeating: 0x20, count: 32)
        for blocks in [1, 2, 5, 100, 4000] {
            let text = (0..<blocks * 16).map { UInt8(truncatingIfNeeded: $0) }
            let sealed = try Self.seal(cipher, keys, header, text)
            #expect(sealed.count == cipher.ivBytes + text.count + cipher.icvBytes)
            #expect(Array(sealed.prefix(cipher.ivBytes)) == (0..<cipher.ivBytes).map { UInt8($0 + 1) })
            #expect(try Self.open(cipher, keys, header, sealed) == text)
        }
    }

    @Test("a changed bit anywhere is refused", arguments: ciphers)
    func tampering(_ cipher: IKECipher) throws {
        let keys = Keys(cipher)
        let header = [UInt8](repeating: 0x20, count: 32)
        let sealed = try Self.seal(cipher, keys, header, [UInt8](repeating: 5, count: 48))
        for index in sealed.indices {
            var changed = sealed
            changed[index] ^= 1 << UInt8(index % 8)
            #expect(throws: IKECryptoError.authenticationFailed) { try Self.open(cipher, keys, header, changed) }
        }
        for index in header.indices {
            var changed = header
            changed[index] ^= 0x80
            #expect(throws: IKECryptoError.authenticationFailed) { try Self.open(cipher, keys, changed, sealed) }
        }
        for count in 0..<sealed.count {
            #expect(throws: IKECryptoError.authenticationFailed) {
                try Self.open(cipher, keys, header, Array(sealed.prefix(count)))
            }
        }
        #expect(try Self.open(cipher, keys, header, sealed).count == 48)
    }

    @Test("keys, IVs and texts that do not fit are our own error, never a trap", arguments: ciphers)
    func misuse(_ cipher: IKECipher) throws {
        let keys = Keys(cipher)
        var short = keys
        short.encryption = SecureBytes([1, 2, 3])
        #expect(throws: IKECryptoError.self) { try Self.seal(cipher, short, [], [UInt8](repeating: 0, count: 16)) }
        #expect(throws: IKECryptoError.self) { try Self.open(cipher, short, [], [UInt8](repeating: 0, count: 96)) }
        #expect(throws: IKECryptoError.self) {
            try Self.crypto.seal(
                cipher, encryptionKey: keys.encryption, integrityKey: keys.integrity, associatedData: [],
                plaintext: [UInt8](repeating: 0, count: 16), iv: [1])
        }
        if cipher.blockBytes > 1 { #expect(throws: IKECryptoError.self) { try Self.seal(cipher, keys, [], [1, 2, 3]) } }
        #expect(throws: IKECryptoError.self) { try Self.seal(.aesGCM16(keyBits: 64), Keys(.aesGCM16(keyBits: 64)), [], []) }
    }

    struct CBCFile: Decodable {
        struct Case: Decodable { var key, iv, plaintext, ciphertext: String }
        var cases: [Case]
    }

    @Test("RFC 3602 §4: AES-CBC ciphertext, with the HMAC of RFC 4868 after it")
    func rfc3602() throws {
        let cases = try vectors("rfc/rfc3602-aes-cbc-esp.json", as: CBCFile.self).cases
        #expect(cases.count == 8)
        let header: [UInt8] = [1, 2, 3, 4]
        for vector in cases {
            for integrity in IntegrityAlgorithm.allCases {
                let cipher = IKECipher.aesCBC(keyBits: 128, integrity)
                let keys = Keys(cipher)
                let (key, iv, text) = (secret(hex: vector.key), bytes(hex: vector.iv), bytes(hex: vector.plaintext))
                let sealed = try Self.crypto.seal(
                    cipher, encryptionKey: key, integrityKey: keys.integrity, associatedData: header, plaintext: text, iv: iv)
                let body = iv + bytes(hex: vector.ciphertext)
                #expect(Array(sealed.dropLast(cipher.icvBytes)) == body)
                let prf: [IntegrityAlgorithm: PseudoRandomFunction] = [
                    .hmacSHA256_128: .hmacSHA256, .hmacSHA384_192: .hmacSHA384, .hmacSHA512_256: .hmacSHA512,
                ]
                let mac = try Self.crypto.prf(try #require(prf[integrity]), key: keys.integrity, data: header + body)
                #expect(Array(sealed.suffix(cipher.icvBytes)) == Array(mac.prefix(integrity.icvBytes)))
            }
        }
    }
}
