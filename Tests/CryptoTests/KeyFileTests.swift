import Crypto
import Foundation
import IKE
import IPsec
import Testing

@Suite("Key files") struct KeyFileTests {
    static func path(_ name: String) -> String { vectorFolder.appending(path: "computed/keys/\(name).pem").path }

    @Test(
        "Private keys are read in every form",
        arguments: [
            ("rsa-pkcs8", PublicKeyKind.rsa(bits: 2048)), ("rsa-traditional", .rsa(bits: 2048)), ("rsa-pss", .rsa(bits: 2048)),
            ("ec-with-parameters", .ecdsaP256), ("ec-traditional", .ecdsaP384), ("ed448-pkcs8", .ed448),
        ])
    func forms(_ name: String, _ kind: PublicKeyKind) throws {
        let key = try OpenSSLSigningKey(file: Self.path(name))
        #expect(key.kind == kind)
        let octets: [UInt8] = [1, 2, 3]
        let scheme: SignatureScheme =
            switch kind {
            case .rsa: .rsaPSS(.sha256)
            case .ed448: .ed448
            default: .ecdsa(.sha384)
            }
        let peer = try OpenSSLVerifyingKey(subjectPublicKeyInfo: key.subjectPublicKeyInfo)
        #expect(peer.verify(try key.sign(octets, scheme), of: octets, scheme))
    }

    @Test("The public half is the one that openssl writes", arguments: ["rsa-traditional", "ec-with-parameters", "ed448-pkcs8"])
    func publicHalf(_ name: String) throws {
        let key = try OpenSSLSigningKey(file: Self.path(name))
        #expect(try OpenSSLVerifyingKey(file: Self.path(name + ".pub")).subjectPublicKeyInfo == key.subjectPublicKeyInfo)
    }

    @Test(
        "What cannot be used is refused with its reason",
        arguments: [
            ("encrypted-pkcs8", "encrypted"), ("encrypted-traditional", "encrypted"), ("weak-rsa-1024", "1024 bits"),
            ("unknown-curve", "secp256k1"), ("explicit-curve", "without a name"), ("not-for-signing", "neither RSA"),
            ("rsa-traditional.pub", "no private key"), ("absent", "does not exist"),
        ])
    func refusals(_ name: String, _ words: String) throws {
        do throws(CredentialError) {
            _ = try OpenSSLSigningKey(file: Self.path(name))
            Issue.record("\(name) was read")
        } catch {
            #expect(error.clause.contains(words), "\(error.clause)")
        }
    }

    @Test("A key that was written is read again", arguments: SignatureTests.kinds)
    func written(_ kind: PublicKeyKind) throws {
        let key = try OpenSSLSigningKey(generating: kind)
        let pem = try key.privatePEM()
        #expect(String(decoding: pem.exposed, as: UTF8.self).hasPrefix("-----BEGIN PRIVATE KEY-----\n"))
        #expect(try OpenSSLSigningKey(pem: pem).subjectPublicKeyInfo == key.subjectPublicKeyInfo)
    }

    @Test("Nothing but a whole SubjectPublicKeyInfo is a public key")
    func hostileKeys() throws {
        let good = try OpenSSLSigningKey(generating: .ecdsaP256).subjectPublicKeyInfo
        for bad in [[], [0x30], good + [0], Array(good.dropLast()), [UInt8](repeating: 0x30, count: 5000)] {
            #expect(throws: CredentialError.self) { try OpenSSLVerifyingKey(subjectPublicKeyInfo: bad) }
        }
        for index in good.indices {
            var broken = good
            broken[index] ^= 0x01
            // Most are refused; what is read must at least not be the same key.
            let key = try? OpenSSLVerifyingKey(subjectPublicKeyInfo: broken)
            #expect(key?.subjectPublicKeyInfo != good)
        }
    }

    @Test("PEM blocks come out as they went in, at any length")
    func pem() {
        for count in 0..<130 {
            let octets = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 37) }
            let text = Array(("# a comment\n" + PEM.text("THING", octets)).utf8)
            #expect(PEM.blocks(text, label: "THING") == [octets])
            #expect(PEM.blocks(text, label: "OTHER").isEmpty)
        }
        #expect(PEM.blocks(Array("-----BEGIN A-----\nAAA\n-----END A-----\n".utf8)).isEmpty)
        #expect(PEM.blocks(Array("-----BEGIN A-----\nAA=A\n-----END A-----\n".utf8)).isEmpty)
        #expect(PEM.blocks(Array("-----BEGIN A-----\r\nAQID\r\n-----END A-----\r\n".utf8), label: "A") == [[1, 2, 3]])
    }
}
