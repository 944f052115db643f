import Crypto
import IKE
import IPsec
import Testing
import Wire

/// IKE_AUTH with certificates and raw public keys: who is believed, who is not, and what is said about it.
@Suite struct CertificateTests {
    @Test(arguments: TestKeys.all)
    func `every kind of key proves its owner, and the method is shown`(kind: PublicKeyKind) throws {
        let pair = Pair()
        pair.useCertificates(kind)
        #expect(try pair.establish())
        #expect(pair.mismatch == nil)
        let expected: [PublicKeyKind: String] = [
            .rsa(bits: 2048): "RSA-PSS with SHA-256", .ecdsaP256: "ECDSA with SHA-256", .ecdsaP384: "ECDSA with SHA-384",
            .ecdsaP521: "ECDSA with SHA-512", .ed25519: "Ed25519", .ed448: "Ed448",
        ]
        for node in [pair.east, pair.west] {
            let ike = try #require(pair.ike(node))
            #expect(ike.localMethod == expected[kind] && ike.remoteMethod == expected[kind])
            #expect(ike.remoteSubject == (node === pair.east ? "CN=west.example" : "CN=east.example"))
            #expect(ike.remoteCertificateExpires == 1_900_000_000)
        }
    }

    @Test func `RSA signs with PKCS 1 when it is told to`() throws {
        let pair = Pair()
        pair.useCertificates(.rsa(bits: 2048), padding: .pkcs1)
        #expect(try pair.establish())
        #expect(pair.ike(pair.west)?.remoteMethod == "RSA PKCS #1 with SHA-256")
    }

    @Test func `a rekeyed IKE SA still knows how its peer was authenticated`() throws {
        let pair = Pair()
        pair.useCertificates(.ed25519)
        try pair.establish()
        let before = pair.ike(pair.east)?.initiatorSPI
        #expect(pair.east.core.rekey(connection: "c", child: nil, ike: true, now: pair.now))
        pair.run(2)
        #expect(pair.ike(pair.east)?.initiatorSPI != before && pair.isUp && pair.mismatch == nil)
        #expect(pair.ike(pair.west)?.remoteSubject == "CN=east.example" && pair.ike(pair.west)?.remoteMethod == "Ed25519")
    }

    /// The file of the revocation list has changed. Only that ends what has been believed, and also what was rekeyed meanwhile.
    @Test(arguments: [CertificateRefusal.Kind.revoked, .expired], [false, true])
    func `a connected peer that is revoked is shut out`(_ kind: CertificateRefusal.Kind, isRekeyed: Bool) throws {
        let pair = Pair()
        let trust = TestTrust()
        pair.useCertificates(.ed25519, westTrust: trust)
        try pair.establish()
        trust.refusal = CertificateRefusal(kind, "It is no good any more.")
        pair.west.core.lookAgainAtPeers(of: "c", now: pair.now)
        #expect(pair.west.core.hasReviews)
        if isRekeyed {
            #expect(pair.east.core.rekey(connection: "c", child: nil, ike: true, now: pair.now))
            pair.run(2)
        }
        while pair.west.core.hasReviews { pair.west.core.reviewPeer(now: pair.now) }
        pair.run(2)
        #expect(!pair.west.core.hasReviews)
        #expect(pair.isUp == (kind == .expired))
        #expect(pair.west.installed.isEmpty == (kind == .revoked) && pair.east.installed.isEmpty == (kind == .revoked))
        #expect(pair.west.core.counters.peersRevoked == (kind == .revoked ? 1 : 0))
        guard kind == .revoked else { return }
        #expect(pair.west.logs.contains { $0.contains("shut out") && $0.contains("east.example") && $0.contains("no good") })
        pair.run(20)
        #expect(pair.west.core.counters.certificatesRefused >= 1 && !pair.isUp, "it came again")
    }

    /// EAP may take minutes, and so may a responder: what was judged before the list changed is judged again.
    @Test func `a peer that was being authenticated when the list changed is looked at too`() throws {
        let pair = Pair()
        let trust = TestTrust()
        trust.check = RevocationTests.check
        pair.useCertificates(.ed25519, westTrust: trust)
        try pair.start()
        #expect(pair.network.run(for: .seconds(2)) { !pair.west.heldTokens.isEmpty })
        pair.west.core.lookAgainAtPeers(of: "c", now: pair.now)
        #expect(!pair.west.core.hasReviews)
        pair.west.core.revocationAnswered(token: pair.west.heldTokens[0], response: Array("good".utf8), now: pair.now)
        pair.run(1)
        #expect(pair.isUp && pair.west.core.hasReviews)
        pair.west.core.reviewPeer(now: pair.now)
        #expect(pair.isUp && !pair.west.core.hasReviews)
        // One that comes later was judged by the new list.
        #expect(pair.east.core.rekey(connection: "c", child: nil, ike: true, now: pair.now))
        pair.run(2)
        #expect(!pair.west.core.hasReviews)
    }

    @Test func `intermediates go along, and the authorities that are trusted are announced`() throws {
        let pair = Pair()
        let trust = TestTrust()
        pair.useCertificates(.ecdsaP256, westTrust: trust)
        let change = pair.eastSide.change
        pair.eastSide.change = { plan in
            change?(&plan)
            guard case .signature(var identity) = plan.localAuthentication else { return }
            identity.certificates += [[1, 2, 3], [4, 5, 6]]
            identity.revocationStatus = TestStatus(Array("good".utf8))
            plan.localAuthentication = .signature(identity)
        }
        #expect(try pair.establish())
        #expect(trust.seenCertificates == 3 && trust.seenOCSP.isEmpty, "nobody asked for an OCSP response")
        // The last of those to a first message: one so long waits for the cookie.
        let response = try #require(
            pair.network.history.last {
                $0.source.address == pair.west.address && $0.bytes[18] == ExchangeType.ikeSAInit.rawValue
            })
        let requests = try WireMessage(parsing: response.bytes).payloads.certificateRequests
        #expect(requests == [CertificatePayload(encoding: 4, data: [UInt8](repeating: 7, count: 20))])
    }

    @Test(arguments: [
        (CertificateRefusal.Kind.expired, "It expired on 2026-01-01."), (.untrusted, "Its issuer CN=Other is not in ca."),
        (.revoked, "It was revoked on 2026-02-02."),
    ])
    func `a refused certificate is explained where it was refused, and guessed at on the other end`(
        kind: CertificateRefusal.Kind, sentence: String
    ) throws {
        for refuser in ["west", "east"] {
            let pair = Pair()
            let trust = TestTrust()
            trust.refusal = CertificateRefusal(kind, sentence)
            pair.useCertificates(
                .ecdsaP256, eastTrust: refuser == "east" ? trust : TestTrust(), westTrust: refuser == "west" ? trust : TestTrust()
            )
            try pair.start()
            pair.run(8)
            let (here, there) = refuser == "west" ? (pair.west, pair.east) : (pair.east, pair.west)
            #expect(pair.reason(here).contains(sentence) && pair.reason(here).contains("connection c"))
            #expect(pair.reason(there).contains("AUTHENTICATION_FAILED") && pair.reason(there).contains("ca there"))
            #expect(!pair.reason(there).contains(sentence), "the wire must not carry the reason")
            #expect(here.core.counters.certificatesRefused > 0)
            #expect(pair.east.installed.isEmpty && pair.west.installed.isEmpty)
        }
    }

    @Test func `a certificate that speaks for somebody else is refused`() throws {
        let pair = Pair()
        pair.useCertificates(.ecdsaP256)
        let change = pair.eastSide.change
        pair.eastSide.change = { plan in
            change?(&plan)
            let key = TestKeys.east(.ecdsaP256)
            plan.localAuthentication = .signature(
                SigningIdentity(key: key, certificates: [TestTrust.certificate("north.example", key)]))
        }
        try pair.start()
        pair.run(5)
        #expect(pair.reason(pair.west).contains("It is for north.example, not for east.example"))
        #expect(pair.west.installed.isEmpty)
    }

    @Test func `somebody else's certificate without its key gets nobody in`() throws {
        let pair = Pair()
        pair.useCertificates(.ecdsaP256)
        let change = pair.eastSide.change
        pair.eastSide.change = { plan in
            change?(&plan)
            let (thief, owner) = (TestKeys.west(.ecdsaP256), TestKeys.east(.ecdsaP256))
            plan.localAuthentication = .signature(
                SigningIdentity(key: thief, certificates: [TestTrust.certificate("east.example", owner)]))
        }
        try pair.start()
        pair.run(5)
        #expect(pair.reason(pair.west).contains("does not verify"))
        #expect(pair.west.installed.isEmpty && pair.east.installed.isEmpty)
    }

    @Test(arguments: [
        [UInt8](), [0], [255], [UInt8](repeating: 0x30, count: 300), [UInt8](repeating: 0xFF, count: 5000),
    ])
    func `hostile signatures and certificates are refused like any other`(garbage: [UInt8]) throws {
        for garblesCertificate in [false, true] {
            let pair = Pair()
            pair.useCertificates(.ecdsaP256)
            let change = pair.eastSide.change
            pair.eastSide.change = { plan in
                change?(&plan)
                let key = TestKeys.east(.ecdsaP256)
                let certificate = garblesCertificate ? garbage : TestTrust.certificate("east.example", key)
                plan.localAuthentication = .signature(
                    SigningIdentity(
                        key: garblesCertificate ? key : ForgedKey(key) { _ in garbage },
                        certificates: [certificate]
                            + (garblesCertificate ? [[UInt8]](repeating: garbage, count: garbage.count > 1000 ? 1 : 15) : [])))
            }
            try pair.start()
            pair.run(5)
            #expect(pair.reason(pair.east).contains("AUTHENTICATION_FAILED"))
            #expect(pair.west.installed.isEmpty && pair.west.core.counters.authenticationsRefused > 0)
        }
    }

    @Test func `certificates that no message holds are our own fault, and said so`() throws {
        let pair = Pair()
        pair.useCertificates(.ecdsaP256)
        let change = pair.eastSide.change
        pair.eastSide.change = { plan in
            change?(&plan)
            let chain = [[UInt8]](repeating: [UInt8](repeating: 1, count: 5000), count: 15)
            plan.localAuthentication = .signature(SigningIdentity(key: TestKeys.east(.ecdsaP256), certificates: chain))
        }
        try pair.start()
        pair.run(1)
        #expect(pair.reason(pair.east).contains("longer than 16384 octets"))
        #expect(pair.east.status(now: pair.now)?.state == .failed && pair.isEmpty(pair.east))
    }

    @Test func `a peer without a certificate is told to send one`() throws {
        let pair = Pair()
        pair.useCertificates(.ed25519)
        let change = pair.eastSide.change
        pair.eastSide.change = { plan in
            change?(&plan)
            plan.localAuthentication = .signature(SigningIdentity(key: TestKeys.east(.ed25519), certificates: []))
        }
        try pair.start()
        pair.run(5)
        #expect(pair.reason(pair.west).contains("bare public key"))
    }

    // MARK: Raw public keys

    @Test(arguments: [PublicKeyKind.ed25519, .rsa(bits: 2048)])
    func `known public keys need no certificates`(kind: PublicKeyKind) throws {
        let pair = Pair()
        useRawKeys(pair, kind, known: TestKeys.east(kind))
        #expect(try pair.establish())
        #expect(pair.mismatch == nil)
        #expect(pair.ike(pair.west)?.remoteMethod.hasPrefix("public key, ") == true)
        #expect(pair.ike(pair.west)?.remoteSubject == nil)
    }

    @Test func `an unknown public key is refused`() throws {
        let pair = Pair()
        useRawKeys(pair, .ed25519, known: TestKeys.west(.ed25519))
        try pair.start()
        pair.run(5)
        #expect(pair.reason(pair.west).contains("another public key") && pair.reason(pair.west).contains("remote.public_key"))
        #expect(pair.reason(pair.east).contains("does not know our public key"))
    }

    @Test func `a peer that signs with its known key and shows a certificate is believed for the key`() throws {
        let pair = Pair()
        useRawKeys(pair, .ed25519, known: TestKeys.east(.ed25519))
        let change = pair.eastSide.change
        pair.eastSide.change = { plan in
            change?(&plan)
            plan.localAuthentication = .signature(
                SigningIdentity(key: TestKeys.east(.ed25519), certificates: [[1, 2, 3]]))
        }
        #expect(try pair.establish())
    }

    private func useRawKeys(_ pair: Pair, _ kind: PublicKeyKind, known: any SigningKey) {
        pair.eastSide.change = { plan in
            plan.localAuthentication = .signature(SigningIdentity(key: TestKeys.east(kind), certificates: []))
            plan.remoteAuthentication = .rawPublicKeys([TestKeys.west(kind).subjectPublicKeyInfo], TestTrust())
        }
        pair.westSide.change = { plan in
            plan.localAuthentication = .signature(SigningIdentity(key: TestKeys.west(kind), certificates: []))
            plan.remoteAuthentication = .rawPublicKeys([known.subjectPublicKeyInfo], TestTrust())
        }
    }
}
