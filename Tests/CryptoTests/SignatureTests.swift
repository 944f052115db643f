import Crypto
import IKE
import IPsec
import Testing

/// What AUTH payloads and certificates are signed with.
@Suite("Signatures") struct SignatureTests {
    struct File: Decodable {
        struct Group: Decodable {
            var publicKeyDer: String
            var tests: [Case]
        }
        struct Case: Decodable {
            var tcId: Int
            var msg, sig, result: String
        }
        var testGroups: [Group]
    }

    @Test(
        "Project Wycheproof: valid signatures verify, others do not",
        arguments: [
            ("ecdsa_secp256r1_sha256", SignatureScheme.ecdsa(.sha256), PublicKeyKind.ecdsaP256),
            ("ecdsa_secp384r1_sha384", .ecdsa(.sha384), .ecdsaP384), ("ecdsa_secp521r1_sha512", .ecdsa(.sha512), .ecdsaP521),
            ("ed25519", .ed25519, .ed25519), ("ed448", .ed448, .ed448),
            ("rsa_signature_2048_sha256", .rsaPKCS1(.sha256), .rsa(bits: 2048)),
            ("rsa_signature_3072_sha512", .rsaPKCS1(.sha512), .rsa(bits: 3072)),
            ("rsa_pss_2048_sha256_mgf1_32", .rsaPSS(.sha256), .rsa(bits: 2048)),
            ("rsa_pss_2048_sha384_mgf1_48", .rsaPSS(.sha384), .rsa(bits: 2048)),
        ])
    func wycheproof(_ name: String, _ scheme: SignatureScheme, _ kind: PublicKeyKind) throws {
        let groups = try vectors("wycheproof/\(name)_test.json", as: File.self).testGroups
        var counts = (valid: 0, invalid: 0)
        for group in groups {
            let key = try OpenSSLVerifyingKey(subjectPublicKeyInfo: bytes(hex: group.publicKeyDer))
            #expect(key.kind == kind)
            for vector in group.tests where vector.result != "acceptable" {
                let isValid = vector.result == "valid"
                let verified = key.verify(bytes(hex: vector.sig), of: bytes(hex: vector.msg), scheme)
                #expect(verified == isValid, "case \(vector.tcId)")
                if isValid { counts.valid += 1 } else { counts.invalid += 1 }
            }
        }
        #expect(counts.valid > 5 && counts.invalid > 5)
    }

    static let kinds: [PublicKeyKind] = [
        .rsa(bits: 2048), .ecdsaP256, .ecdsaP384, .ecdsaP521, .ed25519, .ed448,
    ]

    static let hashes: [SignatureHash] = [.sha1, .sha256, .sha384, .sha512]
    static let schemes: [SignatureScheme] =
        hashes.map { .rsaPKCS1($0) } + hashes.map { .rsaPSS($0) } + hashes.map { .ecdsa($0) } + [.ed25519, .ed448]

    /// The schemes that a key of this kind can sign with.
    static func fitting(_ kind: PublicKeyKind) -> [SignatureScheme] {
        switch kind {
        case .rsa: hashes.map { .rsaPKCS1($0) } + hashes.map { .rsaPSS($0) }
        case .ecdsaP256, .ecdsaP384, .ecdsaP521: hashes.map { .ecdsa($0) }
        case .ed25519: [.ed25519]
        case .ed448: [.ed448]
        }
    }

    @Test("Each kind of key signs with its schemes and no other, and what it signs verifies", arguments: kinds)
    func roundTrip(_ kind: PublicKeyKind) throws {
        let key = try OpenSSLSigningKey(generating: kind)
        #expect(key.kind == kind)
        let peer = try OpenSSLVerifyingKey(subjectPublicKeyInfo: key.subjectPublicKeyInfo)
        #expect(peer.kind == kind && peer.subjectPublicKeyInfo == key.subjectPublicKeyInfo)
        let octets = Array("signed octets".utf8)
        for scheme in Self.schemes {
            guard Self.fitting(kind).contains(scheme) else {
                #expect(throws: IKECryptoError.self) { try key.sign(octets, scheme) }
                #expect(!peer.verify([UInt8](repeating: 1, count: 64), of: octets, scheme))
                continue
            }
            let signature = try key.sign(octets, scheme)
            #expect(peer.verify(signature, of: octets, scheme))
            #expect(!peer.verify(signature, of: octets + [0], scheme))
            var broken = signature
            broken[broken.count / 2] ^= 1
            #expect(!peer.verify(broken, of: octets, scheme))
            #expect(!peer.verify([], of: octets, scheme))
            for other in Self.schemes where other != scheme { #expect(!peer.verify(signature, of: octets, other)) }
        }
        #expect(throws: IKECryptoError.self) { try key.sign(octets, .rsaPSS(.identity)) }
        #expect(throws: IKECryptoError.self) { try key.sign(octets, .ecdsa(.identity)) }
    }

    @Test("A PSS salt of another length than the hash's is refused")
    func saltLength() throws {
        let groups = try vectors("wycheproof/rsa_pss_2048_sha256_mgf1_0_test.json", as: File.self).testGroups
        let group = try #require(groups.first)
        let key = try OpenSSLVerifyingKey(subjectPublicKeyInfo: bytes(hex: group.publicKeyDer))
        let valid = group.tests.filter { $0.result == "valid" }
        #expect(valid.count > 5)
        for vector in valid { #expect(!key.verify(bytes(hex: vector.sig), of: bytes(hex: vector.msg), .rsaPSS(.sha256))) }
    }
}
