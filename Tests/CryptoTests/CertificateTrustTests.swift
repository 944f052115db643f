import COpenSSL
import Crypto
import Foundation
import IKE
import IPsec
import Testing
import Wire

@Suite("Certificates of peers") struct CertificateTrustTests {
    @Test("A good certificate is believed, whatever its key", arguments: SignatureTests.kinds)
    func good(_ kind: PublicKeyKind) throws {
        let authority = try Authority(kind: kind)
        let key = try OpenSSLSigningKey(generating: kind)
        let peer = try authority.trust().peer([try authority.issue(key: key)])
        #expect(peer.key.kind == kind && peer.key.subjectPublicKeyInfo == key.subjectPublicKeyInfo)
        #expect(peer.subject == "C=DE, O=Example, CN=west")
        #expect(peer.expires == testTime + 355 * day)
        #expect(peer.revocationCheck == nil && peer.warnings.isEmpty)
    }

    @Test("Chains with intermediates, in any order, also from an intermediate that is a trust anchor itself")
    func chains() throws {
        let root = try Authority("Root")
        let middle = try Authority("Middle", under: root)
        let low = try Authority("Low", under: middle)
        let leaf = try low.issue()
        for chain in [[leaf, low.certificate, middle.certificate], [leaf, middle.certificate, low.certificate]] {
            #expect(throws: Never.self) { try root.trust().peer(chain) }
            #expect(throws: Never.self) { try root.trust().peer(chain + [root.certificate]) }
        }
        #expect(throws: Never.self) { try middle.trust().peer([leaf, low.certificate]) }
        #expect(throws: Never.self) { try low.trust().peer([leaf]) }
        #expect(root.trust().refusal([leaf, low.certificate], says: "CN=Low", "is issued by", "CN=Middle", "`ca`") == .untrusted)
        #expect(root.trust().refusal([leaf], says: "CN=west", "CN=Low") == .untrusted)
    }

    @Test("CERTREQ names the trust anchors by the SHA-1 of their keys")
    func authorityHashes() throws {
        let authority = try Authority()
        #expect(authority.trust().authorityKeyHashes == [OpenSSLCrypto().sha1(authority.certificate.subjectPublicKeyInfo)])
        #expect(authority.trust().authorityKeyHashes.first?.count == 20)
    }

    // MARK: Validity

    @Test("An expired certificate is refused, and one that is not valid yet")
    func validity() throws {
        let authority = try Authority()
        let leaf = try authority.issue()
        let end = leaf.notAfter
        #expect(throws: Never.self) { try authority.trust(now: end - 1).peer([leaf]) }
        #expect(
            authority.trust(now: end + 3 * 3600).refusal([leaf], says: "CN=west", "expired on 2026-12-22 00:00:00 UTC", "3 hours")
                == .expired)
        #expect(
            authority.trust(now: leaf.notBefore - 1).refusal([leaf], says: "valid from 2025-12-22 00:00:00 UTC", "clocks")
                == .notYetValid)
        let old = try Authority("Old CA") { $0.notAfter = testTime - day }
        #expect(old.trust().refusal([try old.issue()], says: "CN=Old CA", "expired on 2025-12-31", "24 hours") == .expired)
    }

    @Test("What ends within 30 days is told")
    func expiresSoon() throws {
        let authority = try Authority()
        let leaf = try authority.issue()
        #expect(try authority.trust(now: leaf.notAfter - 30 * day).peer([leaf]).warnings.isEmpty)
        let warnings = try authority.trust(now: leaf.notAfter - 29 * day).peer([leaf]).warnings
        #expect(warnings.count == 1 && warnings[0].contains("2026-12-22") && warnings[0].contains("29 days"))
    }

    // MARK: Trust

    @Test("A CA that was made anew under its old name is told apart")
    func sameName() throws {
        let (old, new) = (try Authority("CA"), try Authority("CA"))
        #expect(new.trust().refusal([try old.issue()], says: "another key") == .untrusted)
        // Without key identifiers only the signature tells.
        let plain = try Authority("CA") { $0.extensions = [] }
        #expect(plain.trust().refusal([try old.issue(), old.certificate]) == .untrusted)
    }

    @Test("A broken signature is refused")
    func brokenSignature() throws {
        let authority = try Authority(kind: .ed25519)
        var der = try authority.issue().der
        der[der.count - 3] ^= 1
        #expect(authority.trust().refusal([try Certificate(der: der)], says: "not signed with that CA's key") == .untrusted)
    }

    @Test("Self-signed certificates need to be named")
    func selfSigned() throws {
        let other = try Authority("Other")
        let lone = try Authority("lone") {
            $0.authority = nil
            $0.keyUsage = ["digitalSignature"]
            $0.alternativeNames = [.dns("west.example")]
        }
        #expect(other.trust().refusal([lone.certificate], says: "self-signed", "remote.certificate") == .untrusted)
        #expect(throws: Never.self) { try other.trust(pinned: [lone.certificate]).peer([lone.certificate]) }
        #expect(other.trust(pinned: [lone.certificate]).refusal([try other.issue()], says: "remote.certificate") == .untrusted)
        let chain = [try other.issue(), other.certificate]
        #expect(lone.trust().refusal(chain, says: "CN=Other", "root of the peer's chain") == .untrusted)
    }

    @Test("Who is no CA issues nothing")
    func notAuthority() throws {
        let root = try Authority("Root")
        let usurper = try Authority("usurper", under: root) {
            $0.authority = nil
            $0.keyUsage = ["digitalSignature"]
        }
        #expect(root.trust().refusal([try usurper.issue(), usurper.certificate], says: "CN=usurper", "not a CA") == .keyUsage)
        // keyUsage alone makes no CA, although libcrypto would let it pass.
        let sly = try Authority("sly", under: root) {
            $0.authority = nil
            $0.keyUsage = ["keyCertSign"]
        }
        #expect(root.trust().refusal([try sly.issue(), sly.certificate], says: "CN=sly", "not a CA") == .keyUsage)
        let tied = try Authority("tied", under: root) { $0.keyUsage = ["cRLSign"] }
        #expect(root.trust().refusal([try tied.issue(), tied.certificate], says: "CN=tied") == .keyUsage)
    }

    @Test("Path lengths and name constraints hold")
    func constraints() throws {
        let short = try Authority("Short") { $0.authority = .init(pathLength: 0) }
        let middle = try Authority("Middle", under: short)
        #expect(short.trust().refusal([try middle.issue(), middle.certificate], says: "further") == .untrusted)
        let narrow = try Authority("Narrow") { $0.extensions = [("nameConstraints", "critical,permitted;DNS:south.example")] }
        #expect(narrow.trust().refusal([try narrow.issue()], says: "nameConstraints") == .untrusted)
        let south = try narrow.issue { $0.alternativeNames = [.dns("a.south.example")] }
        #expect(throws: Never.self) { try narrow.trust().peer([south], .fqdn("a.south.example")) }
        let strange = try Authority("Strange")
        let odd = try strange.issue { $0.extensions = [("authorityInfoAccess", "critical,OCSP;URI:http://a.example")] }
        #expect(strange.trust().refusal([odd], says: "critical extension") == .malformed)
    }

    @Test("SHA-1 and short keys are refused")
    func weak() throws {
        let authority = try Authority(kind: .rsa(bits: 2048))
        #expect(authority.trust().refusal([try authority.issue { $0.hash = .sha1 }], says: "sha1WithRSA", "too weak") == .weak)
        let curve = try Certificate(der: weakCertificate(authority))
        #expect(authority.trust().refusal([curve], says: "112 bits") == .weak)
        // On a trust anchor's own signature nothing depends.
        let old = try Authority(kind: .rsa(bits: 2048)) { $0.hash = .sha1 }
        #expect(throws: Never.self) { try old.trust().peer([try old.issue()]) }
        // Strong enough for libcrypto, but no key that IKE signs with.
        let other = try Certificate(der: weakCertificate(authority, group: "secp256k1"))
        #expect(authority.trust().refusal([other], says: "secp256k1") == .weak)
    }

    /// The library refuses to issue for such keys, so libcrypto does.
    private func weakCertificate(_ authority: Authority, group: String = "secp192k1") throws -> [UInt8] {
        let context = EVP_PKEY_CTX_new_from_name(nil, "EC", nil)
        defer { EVP_PKEY_CTX_free(context) }
        var key: OpaquePointer?
        EVP_PKEY_keygen_init(context)
        EVP_PKEY_CTX_set_group_name(context, group)
        EVP_PKEY_generate(context, &key)
        defer { EVP_PKEY_free(key) }
        var cursor: UnsafePointer<UInt8>?
        let good = try authority.issue().der
        let certificate = good.withUnsafeBufferPointer { buffer in
            cursor = buffer.baseAddress
            return d2i_X509(nil, &cursor, buffer.count)
        }
        defer { X509_free(certificate) }
        X509_set_pubkey(certificate, key)
        let pem = try authority.key.privatePEM().exposed
        // The BIO reads from where the text lies.
        let signer = pem.withUnsafeBytes { text in
            let bio = BIO_new_mem_buf(text.baseAddress, Int32(text.count))
            defer { BIO_free(bio) }
            return PEM_read_bio_PrivateKey(bio, nil, nil, nil)
        }
        defer { EVP_PKEY_free(signer) }
        X509_sign(certificate, signer, EVP_sha256())
        var start: UnsafeMutablePointer<UInt8>?
        let count = i2d_X509(certificate, &start)
        defer { culvert_openssl_free(start) }
        return Array(UnsafeBufferPointer(start: start, count: Int(count)))
    }

    // MARK: Usage and names

    @Test(
        "Key usage: to sign, and for IKE or TLS or anything (RFC 4945 §5.1.3)",
        arguments: [
            (["digitalSignature"], [], true), (["nonRepudiation"], [], true), ([], [], true), (["keyEncipherment"], [], false),
            (["keyAgreement", "digitalSignature"], [], true), ([], ["serverAuth"], true), ([], ["clientAuth"], true),
            ([], ["1.3.6.1.5.5.7.3.17"], true), ([], ["1.3.6.1.5.5.8.2.2"], true), ([], ["anyExtendedKeyUsage"], true),
            ([], ["codeSigning"], false), (["keyEncipherment"], ["serverAuth"], false),
            ([], ["codeSigning", "serverAuth"], true),
        ] as [([String], [String], Bool)])
    func usage(_ usage: [String], _ extended: [String], _ isGood: Bool) throws {
        let authority = try Authority()
        let leaf = try authority.issue {
            $0.keyUsage = usage
            $0.extendedKeyUsage = extended
        }
        #expect(authority.trust().refusal([leaf], says: "CN=west") == (isGood ? nil : .keyUsage))
    }

    static let fits: [Identity] = [
        .fqdn("west.example"), .fqdn("WEST.example"), .email("admin@west.example"), .email("admin@West.Example"),
        .address(IPAddress("192.0.2.2")!),
        .distinguishedName(distinguishedName([("C", "DE"), ("O", "Example"), ("CN", "west")])),
        .distinguishedName(distinguishedName([("C", "DE"), ("O", "EXAMPLE"), ("CN", "West")])),
    ]

    static let misfits: [Identity] = [
        .fqdn("est.example"), .fqdn("west.example."), .fqdn("west"), .fqdn(""), .fqdn("admin@west.example"),
        .email("Admin@west.example"), .email("admin@east.example"), .email("west.example"), .address(IPAddress("192.0.2.3")!),
        .address(IPAddress("::ffff:192.0.2.2")!), .keyID([]), .keyID(Array("west.example".utf8)),
        .distinguishedName(distinguishedName([("O", "Example"), ("C", "DE"), ("CN", "west")])),
        .distinguishedName(distinguishedName([("C", "DE"), ("O", "Example")])), .distinguishedName([]),
        .distinguishedName([0x30, 0x80]),
    ]

    @Test("A certificate speaks for its subjectAltNames and its subject, and for nobody else")
    func identities() throws {
        let authority = try Authority()
        let leaf = try authority.issue()
        for identity in Self.fits { #expect(leaf.speaks(for: identity), "\(identity)") }
        for identity in Self.misfits { #expect(!leaf.speaks(for: identity), "\(identity)") }
        #expect(leaf.speaks(for: .keyID(try #require(leaf.subjectKeyIdentifier))))
        #expect(
            authority.trust().refusal(
                [leaf], .fqdn("east.example"), says: "east.example", "west.example", "192.0.2.2", "remote.id")
                == .nameMismatch)
    }

    @Test("A common name is no FQDN, and a wildcard is none either")
    func commonName() throws {
        let authority = try Authority()
        let bare = try authority.issue("west.example") { $0.alternativeNames = [] }
        #expect(authority.trust().refusal([bare], says: "no subjectAltName") == .nameMismatch)
        let wild = try authority.issue { $0.alternativeNames = [.dns("*.example")] }
        #expect(authority.trust().refusal([wild]) == .nameMismatch)
    }

    @Test("Names that the peer chose are shown escaped, and bounded")
    func escaping() throws {
        let authority = try Authority()
        let long = String(repeating: "x", count: 64)
        let leaf = try authority.issue("a\u{1B}[31m\n") { template in
            template.alternativeNames = (0..<100).map { .dns("\(long)\($0).example") }
        }
        #expect(!leaf.subject.contains("\u{1B}") && !leaf.subject.contains("\n"))
        do throws(CertificateRefusal) {
            _ = try authority.trust().peer([leaf])
            Issue.record("it was accepted")
        } catch {
            #expect(error.sentence.utf8.count < 1200 && error.sentence.utf8.allSatisfy { $0 >= 0x20 })
        }
    }

    // MARK: Malformed

    @Test("Nothing, too much and rubbish are refused")
    func malformed() throws {
        let authority = try Authority()
        let leaf = try authority.issue()
        #expect(authority.trust().refusal([], says: "no certificate") == .malformed)
        #expect(authority.trust().refusal([Certificate](repeating: leaf, count: 17), says: "17") == .malformed)
        for rubbish in [[], [0x30], leaf.der + [0], Array(leaf.der.dropLast()), [UInt8](repeating: 0x30, count: 20_000)] {
            #expect(throws: CertificateRefusal.self) {
                try authority.trust().evaluate(
                    certificates: [leaf.der, rubbish], identity: .fqdn("west.example"), revocationLists: [], ocspResponses: [])
            }
        }
    }

    @Test("No changed octet of a certificate goes unnoticed")
    func mutations() throws {
        let authority = try Authority(kind: .ed25519)
        let leaf = try authority.issue(kind: .ed25519)
        let trust = authority.trust()
        for index in leaf.der.indices {
            var der = leaf.der
            der[index] ^= 0x04
            #expect(throws: CertificateRefusal.self, "octet \(index)") {
                try trust.evaluate(
                    certificates: [der], identity: .fqdn("west.example"), revocationLists: [], ocspResponses: [])
            }
        }
    }
}
