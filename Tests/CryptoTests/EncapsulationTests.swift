import Crypto
import IKE
import IPsec
import Testing

/// ML-KEM, by every library that has it.
@Suite struct EncapsulationTests {
    struct Variant: Sendable, CustomTestStringConvertible {
        var kem: Encapsulation
        var method: KeyExchangeMethod
        var testDescription: String
    }

    static let variants: [Variant] = Encapsulation.Provider.allCases.flatMap { provider in
        KeyExchangeMethod.allCases.filter { $0.isEncapsulation && provider.has($0) }.map {
            Variant(kem: Encapsulation($0, by: provider), method: $0, testDescription: "\($0.keyword) by \(provider)")
        }
    }

    @Test("ML-KEM-768 and 1024 are always there, and 512 says what it needs")
    func availability() {
        let crypto = OpenSSLCrypto()
        #expect(crypto.supports(.mlkem768) && crypto.supports(.mlkem1024) && crypto.supports(.x25519))
        #expect(crypto.supports(.mlkem512) == Encapsulation.Provider.openSSL.has(.mlkem512))
        if !crypto.supports(.mlkem512) {
            #expect(throws: IKECryptoError.library("mlkem512 needs OpenSSL 3.5")) { try crypto.makeKeyExchange(.mlkem512) }
        }
    }

    struct ComputedFile: Decodable {
        struct Case: Decodable {
            var method: UInt16
            var seed, key, ciphertext, secret: String
            var isChanged: Bool
        }
        var cases: [Case]
    }

    @Test("keys, secrets and implicit rejection are those of another implementation", arguments: variants)
    func computed(_ variant: Variant) throws {
        let cases = try vectors("computed/mlkem.json", as: ComputedFile.self).cases
            .filter { $0.method == variant.method.rawValue }
        #expect(cases.count == 3 && cases.contains(where: \.isChanged))
        for vector in cases {
            let ours = try variant.kem.keyExchange(seed: secret(hex: vector.seed))
            #expect(ours.publicValue == bytes(hex: vector.key))
            #expect(try ours.sharedSecret(peerPublicValue: bytes(hex: vector.ciphertext)).exposed == bytes(hex: vector.secret))
        }
    }

    struct DecapsulationFile: Decodable {
        struct Group: Decodable {
            struct Test: Decodable {
                var tcId: Int
                var seed, c, K, result: String
                var ek: String?
            }
            var tests: [Test]
        }
        var testGroups: [Group]
    }

    @Test("Wycheproof: decapsulation", arguments: variants.filter { $0.method == .mlkem768 })
    func decapsulation(_ variant: Variant) throws {
        let cases = try vectors("wycheproof/mlkem_768_test.json", as: DecapsulationFile.self).testGroups.flatMap(\.tests)
        #expect(cases.count > 35)
        // Seeds of other lengths are no input here: they are ours.
        for vector in cases where vector.seed.count == 2 * Encapsulation.seedBytes {
            let ours = try variant.kem.keyExchange(seed: secret(hex: vector.seed))
            if vector.result == "invalid" {
                #expect(throws: IKECryptoError.invalidPublicValue, "case \(vector.tcId)") {
                    try ours.sharedSecret(peerPublicValue: bytes(hex: vector.c))
                }
            } else {
                #expect(ours.publicValue == bytes(hex: vector.ek ?? ""), "case \(vector.tcId)")
                #expect(
                    try ours.sharedSecret(peerPublicValue: bytes(hex: vector.c)).exposed == bytes(hex: vector.K),
                    "case \(vector.tcId)")
            }
        }
    }

    struct EncapsulationFile: Decodable {
        struct Group: Decodable {
            struct Test: Decodable {
                var tcId: Int
                var ek, result: String
            }
            var tests: [Test]
        }
        var testGroups: [Group]
    }

    @Test(
        "Wycheproof, FIPS 203 §7.2: keys that are not reduced are refused", arguments: variants.filter { $0.method == .mlkem768 })
    func modulus(_ variant: Variant) throws {
        let cases = try vectors("wycheproof/mlkem_768_encaps_test.json", as: EncapsulationFile.self).testGroups.flatMap(\.tests)
        #expect(cases.contains { $0.result == "valid" } && cases.contains { $0.result == "invalid" })
        for vector in cases {
            if vector.result == "invalid" {
                #expect(throws: IKECryptoError.invalidPublicValue, "case \(vector.tcId)") {
                    try variant.kem.answer(bytes(hex: vector.ek))
                }
            } else {
                #expect(try variant.kem.answer(bytes(hex: vector.ek)).publicValue.count == variant.method.answerBytes)
            }
        }
    }
}
