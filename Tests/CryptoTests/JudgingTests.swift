import COpenSSL
import Crypto
import Foundation
import IKE
import Testing

/// Who gets in with which evidence, and what it costs to find out.
@Suite("Judging certificates") struct JudgingTests {
    // MARK: Evidence of the peer's own

    @Test("A delta list of the peer's does not stand for the complete one that names it")
    func carriedDelta() throws {
        let root = try PKITSTests.certificate("TrustAnchorRootCertificate")
        let folder = PKITSTests.folder.appending(path: "crls").path
        let (base, root0) = ("\(folder)/deltaCRLCA1CRL.crl", "\(folder)/TrustAnchorRootCRL.crl")
        let delta = try RevocationList.read(file: "\(folder)/deltaCRLCA1deltaCRL.crl")
        let chain = [try PKITSTests.certificate("InvaliddeltaCRLTest3EE"), try PKITSTests.certificate("deltaCRLCA1Cert")]
        let identity = Identity.distinguishedName(chain[0].subjectName)
        for policy in RevocationPolicy.Lists.allCases {
            let trust = CertificateTrust(
                authorities: [root], revocationLists: [base, root0], policy: .init(ocsp: .off, lists: policy),
                now: { 1_340_000_000 })
            #expect(trust.refusal(chain, identity) == .revoked)
            #expect(trust.refusal(chain, identity, lists: delta) == .revoked)
        }
        // What a delta list of the peer's says against it counts.
        let other = [try PKITSTests.certificate("InvaliddeltaCRLTest4EE"), chain[1]]
        let name = Identity.distinguishedName(other[0].subjectName)
        let trust = CertificateTrust(authorities: [root], revocationLists: [base, root0], now: { 1_340_000_000 })
        #expect(trust.refusal(other, name, lists: delta) == .revoked)
    }

    @Test("An older list of the peer's, still in date, does not stand for a newer one that is not")
    func rejuvenated() throws {
        let (authority, folder) = (try Authority(), try Folder())
        let (bad, good) = (try authority.issue("bad"), try authority.issue())
        let newest = try authority.revocationList([(bad, nil)], number: 7, at: testTime - 2 * day, until: testTime - day)
        let file = try folder.write("crl", newest.der)
        let older = try authority.revocationList(number: 6, at: testTime - 3 * day, until: testTime + day)
        for policy in RevocationPolicy.Lists.allCases {
            let trust = authority.trust(lists: [file], revocation: policy)
            #expect(trust.refusal([bad], .fqdn("bad.example"), lists: [older]) == .revoked)
        }
        let strict = authority.trust(lists: [file], revocation: .strict)
        #expect(strict.refusal([good], lists: [older], says: "out of date") == .revocationUnknown)
        // By number or by date: neither goes back.
        let renumbered = try authority.revocationList(number: 9, at: testTime - 3 * day, until: testTime + day)
        let redated = try authority.revocationList(number: 6, at: testTime - day, until: testTime + day)
        for list in [renumbered, redated] {
            #expect(strict.refusal([good], lists: [list]) == .revocationUnknown)
        }
        // A newer one of the CA's is what the peer may bring, for itself and not for whom the older one named.
        let newer = try authority.revocationList(number: 8, at: testTime - 100, until: testTime + day)
        #expect(strict.refusal([good], lists: [newer]) == nil)
        #expect(strict.refusal([bad], .fqdn("bad.example"), lists: [newer]) == .revoked)
    }

    @Test("A list that a peer brought is remembered: an older one does not settle anything after it")
    func remembered() throws {
        let authority = try Authority()
        let (west, east) = (try authority.issue(), try authority.issue("east"))
        let newer = try authority.revocationList([(east, nil)], number: 5, at: testTime - 100, until: testTime + day)
        let older = try authority.revocationList(number: 4, at: testTime - 200, until: testTime + day)
        let strict = authority.trust(revocation: .strict)
        #expect(strict.refusal([west], lists: [newer]) == nil)
        #expect(strict.refusal([east], .fqdn("east.example"), lists: [older]) == .revocationUnknown)
    }

    @Test("Of two lists of the operator's the newer one counts, though the older one is still in date")
    func ownOlder() throws {
        let (authority, folder) = (try Authority(), try Folder())
        let bad = try authority.issue()
        let newest = try authority.revocationList([(bad, nil)], number: 2, at: testTime - 2 * day, until: testTime - day)
        let older = try authority.revocationList(number: 1, at: testTime - 3 * day, until: testTime + day)
        let files = [try folder.write("old", older.der), try folder.write("new", newest.der)]
        for order in [files, files.reversed()] {
            #expect(authority.trust(lists: order, revocation: .strict).refusal([bad]) == .revoked)
        }
    }

    // MARK: Trust anchors

    @Test("An issuing CA in `ca` and its root's list in `crl`: nobody revokes a trust anchor")
    func partialChain() throws {
        let (root, folder) = (try Authority("Root"), try Folder())
        let issuing = try Authority("Issuing", under: root)
        let leaf = try issuing.issue()
        let rootList = try folder.write("root.crl", try root.revocationList([(issuing.certificate, nil)]).der)
        let ownList = try folder.write("issuing.crl", try issuing.revocationList().der)
        #expect(issuing.trust(lists: [rootList]).refusal([leaf]) == nil)
        #expect(issuing.trust(lists: [rootList, ownList], revocation: .strict).refusal([leaf]) == nil)
        #expect(issuing.trust(lists: [rootList], revocation: .strict).refusal([leaf]) == .revocationUnknown)
        // Where the root is the anchor, its list counts.
        #expect(root.trust(lists: [rootList]).refusal([leaf, issuing.certificate]) == .revoked)
    }

    @Test("Two CAs of one name without key identifiers: each one's peers come in, whatever the order")
    func twins() throws {
        let (one, other) = (try Authority("Twin"), try Authority("Twin"))
        let (first, second) = (try one.certificate.withoutIdentifiers(one), try other.certificate.withoutIdentifiers(other))
        let leaves = [try one.issue().withoutIdentifiers(one), try other.issue().withoutIdentifiers(other)]
        for authorities in [[first, second], [second, first]] {
            let trust = CertificateTrust(authorities: authorities, policy: .init(ocsp: .off), now: { testTime })
            for leaf in leaves { #expect(trust.refusal([leaf]) == nil) }
        }
        // A list of the one says nothing about the other's.
        let folder = try Folder()
        let list = try folder.write("one.crl", try one.revocationList([(leaves[0], nil)]).der)
        let trust = CertificateTrust(
            authorities: [first, second], revocationLists: [list], policy: .init(ocsp: .off), now: { testTime })
        #expect(trust.refusal([leaves[0]]) == .revoked)
        #expect(trust.refusal([leaves[1]]) == nil)
    }

    @Test("A peer's certificate in `ca` is no authority for itself")
    func ownAuthority() throws {
        let authority = try Authority()
        let leaf = try authority.issue()
        let trust = CertificateTrust(authorities: [leaf], policy: .init(ocsp: .off), now: { testTime })
        #expect(trust.refusal([leaf], says: "itself in `ca`", "remote.certificate") == .untrusted)
        #expect(trust.refusal([authority.certificate, leaf]) != nil)
        // As `remote.certificate` it is meant.
        #expect(authority.trust(pinned: [leaf]).refusal([leaf]) == nil)
    }

    // MARK: Lists that cannot be used

    @Test("A list that settles nothing is told, and whom it names is refused")
    func unusable() throws {
        let root = try PKITSTests.certificate("TrustAnchorRootCertificate")
        let folder = PKITSTests.folder.appending(path: "crls").path
        let lists = ["\(folder)/TrustAnchorRootCRL.crl", "\(folder)/deltaCRLCA1deltaCRL.crl"]
        let trust = CertificateTrust(
            authorities: [root], revocationLists: lists, policy: .init(ocsp: .off), now: { 1_340_000_000 })
        let middle = try PKITSTests.certificate("deltaCRLCA1Cert")
        let good = try PKITSTests.certificate("ValiddeltaCRLTest2EE")
        let peer = try trust.peer([good, middle], .distinguishedName(good.subjectName))
        #expect(peer.warnings.contains { $0.contains("without the complete list") && $0.contains("deltaCRLCA1deltaCRL.crl") })
        let named = try PKITSTests.certificate("InvaliddeltaCRLTest4EE")
        #expect(trust.refusal([named, middle], .distinguishedName(named.subjectName)) == .revoked)
        // Another CA's list alone.
        let (authority, files) = (try Authority(), try Folder())
        let foreign = try files.write("other.crl", try Authority("Other").revocationList().der)
        let warnings = try authority.trust(lists: [foreign]).peer([try authority.issue()]).warnings
        #expect(warnings.contains { $0.contains("None of the revocation lists") && $0.contains("CN=Test CA") })
    }

    @Test("`check` and the log tell what no list will do")
    func review() throws {
        let (authority, folder) = (try Authority(), try Folder())
        let delta = PKITSTests.folder.appending(path: "crls/deltaCRLCA1deltaCRL.crl").path
        let old = try folder.write("old.crl", try authority.revocationList(number: 1, at: testTime - 2 * day).der)
        let new = try folder.write("new.crl", try authority.revocationList(number: 2).der)
        let foreign = try folder.write("other.crl", try Authority("Other").revocationList().der)
        let forged = try folder.write("forged.crl", try Authority().revocationList(number: 3).der)
        func clauses(_ paths: String...) -> [String] {
            RevocationListReview.findings(paths: paths, authorities: [authority.certificate], now: testTime).map(\.clause)
        }
        #expect(clauses(new).isEmpty)
        #expect(clauses(old, new).contains { $0.contains("older than another") })
        #expect(clauses(delta).contains { $0.contains("without the complete list") })
        #expect(clauses(foreign).contains { $0.contains("no CA of `ca`") })
        #expect(clauses(forged).contains { $0.contains("not signed by") })
    }

    // MARK: What it costs

    @Test("A stranger's chain of costly keys is refused before anything is computed with them")
    func costlyKeys() throws {
        let file = vectorFolder.appending(path: "computed/costly-chain.pem").path
        let chain = try Certificate.read(file: file)
        let lists = try RevocationList.read(file: file)
        #expect(chain.count == 8 && lists.count == 7)
        let trust = try Authority().trust(revocation: .strict)
        let clock = ContinuousClock()
        let time = clock.measure {
            #expect(trust.refusal(chain, lists: lists, says: "not computed with") == .malformed)
        }
        // One verification with such a key takes 6 ms where reading all of this takes less than one.
        #expect(time < .milliseconds(50), "\(time)")
    }

    @Test("One judgement for all connections that trust the same, as often as the peer comes")
    func once() throws {
        let (authority, folder) = (try Authority(), try Folder())
        let leaf = try authority.issue()
        let file = try folder.write("crl", try authority.revocationList().der)
        let trusts = (0..<64).map { authority.trust(lists: [file], revocation: $0.isMultiple(of: 2) ? .strict : .relaxed) }
        let stranger = try Authority().issue()
        for trust in trusts {
            #expect(trust.refusal([leaf]) == nil)
            #expect(trust.refusal([stranger]) == .untrusted)
        }
        #expect(trusts[0].judgementsMade == 2)
        // A list that has changed asks for another one.
        try folder.write("crl", try authority.revocationList([(leaf, nil)], number: 2).der)
        for trust in trusts { #expect(trust.refusal([leaf]) == .revoked) }
        #expect(trusts[0].judgementsMade == 3)
    }

    @Test("What is judged beforehand is ready afterwards, and charged by what was sent")
    func work() throws {
        let authority = try Authority()
        let leaf = try authority.issue()
        let (one, other) = (authority.trust(), authority.trust(revocation: .strict))
        func work(_ trust: CertificateTrust) -> CertificateWork? {
            trust.pendingWork(certificates: [leaf.der], revocationLists: [], ocspResponses: [])
        }
        let first = try #require(work(one))
        #expect(work(other)?.id == first.id)
        #expect(first.microseconds >= 200)
        first.run()
        #expect(work(one) == nil && work(other) == nil)
        // What is refused at a glance needs none.
        #expect(authority.trust(pinned: [try authority.issue()]).pendingWork(
            certificates: [leaf.der], revocationLists: [], ocspResponses: []) == nil)
    }

    @Test("How long a chain holds: until its first certificate runs out")
    func validSeconds() throws {
        let root = try Authority("Root")
        let middle = try Authority("Middle", under: root) { $0.notAfter = testTime + 5 * day }
        #expect(try root.trust().peer([try middle.issue(), middle.certificate]).validSeconds == 5 * day)
    }
}

extension Certificate {
    /// The same without subjectKeyIdentifier and authorityKeyIdentifier, signed anew.
    func withoutIdentifiers(_ signer: Authority) throws -> Certificate {
        let copy = der.withUnsafeBufferPointer { buffer in
            var cursor = buffer.baseAddress
            return d2i_X509(nil, &cursor, buffer.count)
        }
        defer { X509_free(copy) }
        for identifier in [NID_subject_key_identifier, NID_authority_key_identifier] {
            let place = X509_get_ext_by_NID(copy, identifier, -1)
            if place >= 0 { X509_EXTENSION_free(X509_delete_ext(copy, place)) }
        }
        let pem = try signer.key.privatePEM().exposed
        let key = pem.withUnsafeBytes { text in
            let bio = BIO_new_mem_buf(text.baseAddress, Int32(text.count))
            defer { BIO_free(bio) }
            return PEM_read_bio_PrivateKey(bio, nil, nil, nil)
        }
        defer { EVP_PKEY_free(key) }
        X509_sign(copy, key, EVP_sha256())
        var start: UnsafeMutablePointer<UInt8>?
        let count = i2d_X509(copy, &start)
        defer { culvert_openssl_free(start) }
        return try Certificate(der: Array(UnsafeBufferPointer(start: start, count: Int(count))))
    }
}
