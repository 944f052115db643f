internal import COpenSSL
internal import IKE
internal import Synchronization

/// Certificates, revocation lists and OCSP responses that a peer brought, in DER.
struct PeerEvidence: Sendable {
    /// The end entity's first.
    var certificates: [[UInt8]]
    var revocationLists: [[UInt8]] = []
    var ocspResponses: [[UInt8]] = []

    /// SHA-256.
    var digest: [UInt8] {
        var octets: [UInt8] = []
        octets.reserveCapacity(certificates.reduce(1024) { $0 + $1.count })
        for (kind, values) in [certificates, revocationLists, ocspResponses].enumerated() {
            for value in values {
                octets.append(UInt8(kind))
                withUnsafeBytes(of: UInt32(clamping: value.count)) { octets += $0 }
                octets += value
            }
        }
        return sha256(octets)
    }

    /// About what judging it takes, in microseconds: parsing and one verification each, with keys that are in use.
    var workMicroseconds: Int { 150 + 150 * certificates.count + 100 * (revocationLists.count + ocspResponses.count) }
}

/// What became of a peer's evidence: the same for every connection with these trust anchors and revocation lists.
struct Judgement: Sendable {
    /// A chain to a trust anchor, and what is known of revocation.
    struct Proof: Sendable {
        var chain: [Certificate]
        var key: OpenSSLVerifyingKey
        /// By depth, the trust anchor left out.
        var findings: [RevocationFinding]
        /// Of the carried OCSP responses about the end entity.
        var responses: [OCSP.Finding]
        /// The operator has revocation lists.
        var hasLists: Bool
    }

    var result: Result<Proof, CertificateRefusal>
    /// Seconds since 1970: as long as it holds.
    var from: Int64
    var until: Int64
    /// Of the revocation lists that it was made with.
    var versions: [Int]
}

/// Trust anchors and revocation lists, one for all connections that name the same: the one place where certificates are judged.
///
/// The order is: size and number, keys that cost too much to compute with, the chain (whose first signature is one by a trust
/// anchor), usage, revocation lists, carried OCSP responses. Whoever does not come from a trust anchor has cost no more than the
/// reading of what was sent. What comes out is kept, for a while and bounded.
final class TrustStore: @unchecked Sendable {
    /// Kept judgements: of chains that a trust anchor stands behind, and of others.
    static let mostProofs = 512
    static let mostRefusals = 64
    /// How long one is kept at most. Seconds.
    static let lifetime: Int64 = 600
    /// With OCSP responses, whose times are many.
    static let responseLifetime: Int64 = 30
    /// Issuers and certificates whose newest list or response is remembered.
    static let mostRemembered = 4096

    let anchors: [Certificate]
    let lists: RevocationLists
    private let ocsp = OCSP()
    /// X509_STORE and an OPENSSL_STACK of its X509, not changed after `init`.
    private let store: OpaquePointer
    private let anchorStack: OpaquePointer?
    private let kept = Mutex(Kept())

    private struct Kept {
        var proofs: [[UInt8]: Judgement] = [:]
        var refusals: [[UInt8]: Judgement] = [:]
        /// Digest of whom and what a carried list was about, to number and date of the newest one.
        var newestLists: [[UInt8]: (number: [UInt8], thisUpdate: Int64)] = [:]
        /// Digest of a certificate, to the date of the newest OCSP response about it.
        var newestResponses: [[UInt8]: Int64] = [:]
        var judgements = 0
    }

    private struct Key: Hashable {
        var anchors: [[UInt8]]
        var lists: [String]
    }
    private struct Shared { weak var store: TrustStore? }
    private static let stores = Mutex<[Key: Shared]>([:])

    /// The one for these trust anchors and files of revocation lists.
    static func shared(anchors: [Certificate], lists: [String]) -> TrustStore {
        let key = Key(anchors: anchors.map { sha256($0.der) }, lists: lists)
        return stores.withLock { stores in
            if let store = stores[key]?.store { return store }
            stores = stores.filter { $0.value.store != nil }
            let store = TrustStore(anchors: anchors, lists: lists)
            stores[key] = Shared(store: store)
            return store
        }
    }

    private init(anchors: [Certificate], lists: [String]) {
        guard let store = culvert_store_new() else { fatalError("no memory left for a certificate store") }
        for anchor in anchors { X509_STORE_add_cert(store, anchor.handle) }
        ERR_clear_error()
        (self.anchors, self.store) = (anchors, store)
        self.lists = RevocationLists(paths: lists)
        anchorStack = Self.stack(anchors.map(\.handle))
    }

    deinit {
        OPENSSL_sk_free(anchorStack)
        X509_STORE_free(store)
    }

    /// How many were made, for tests.
    var judgementsMade: Int { kept.withLock { $0.judgements } }

    // MARK: Judging

    /// Whether the judgement is there already: nothing has to be computed, nor read from disk.
    func knows(_ digest: [UInt8], now: Int64) -> Bool {
        guard lists.isCurrent else { return false }
        return known(digest, versions: lists.current().snapshot.versions, now: now) != nil
    }

    func judgement(_ evidence: PeerEvidence, digest: [UInt8], now: Int64) -> Judgement {
        let snapshot = lists.current().snapshot
        if let known = known(digest, versions: snapshot.versions, now: now) { return known }
        var until = now + (evidence.ocspResponses.isEmpty ? Self.lifetime : Self.responseLifetime)
        let result: Result<Judgement.Proof, CertificateRefusal>
        do throws(CertificateRefusal) {
            let proof = try prove(evidence, snapshot, now, until: &until)
            result = .success(proof)
        } catch { result = .failure(error) }
        let judgement = Judgement(result: result, from: now, until: until, versions: snapshot.versions)
        kept.withLock { kept in
            kept.judgements += 1
            if case .success = result {
                Self.insert(judgement, digest, into: &kept.proofs, most: Self.mostProofs)
            } else {
                Self.insert(judgement, digest, into: &kept.refusals, most: Self.mostRefusals)
            }
        }
        return judgement
    }

    private func known(_ digest: [UInt8], versions: [Int], now: Int64) -> Judgement? {
        kept.withLock { kept in
            guard let known = kept.proofs[digest] ?? kept.refusals[digest], known.versions == versions,
                known.from <= now, now < known.until
            else { return nil }
            return known
        }
    }

    private static func insert(_ judgement: Judgement, _ digest: [UInt8], into table: inout [[UInt8]: Judgement], most: Int) {
        // Any other gives way: the order of a dictionary is as good as random.
        if table.count >= most, table[digest] == nil, let some = table.keys.first { table[some] = nil }
        table[digest] = judgement
    }

    private func prove(
        _ evidence: PeerEvidence, _ snapshot: RevocationLists.Snapshot, _ now: Int64, until: inout Int64
    ) throws(CertificateRefusal) -> Judgement.Proof {
        let sent = try parse(evidence.certificates)
        guard let leaf = sent.first else { throw CertificateRefusal(.malformed, "The peer sent no certificate.") }
        let (chain, verdict) = try build(leaf, sent + snapshot.signers, now)
        let sentences = Sentences(chain: chain, leaf: leaf, authorities: anchors, now: now)
        if let refusal = sentences.refusal(of: verdict) { throw refusal }
        if let refusal = sentences.refusalOfAuthorities() ?? sentences.refusalOfUsage() { throw refusal }
        let key = try usableKey(of: leaf)
        until = chain.reduce(until) { min($0, $1.notAfter) }

        let carried = evidence.revocationLists.compactMap { try? RevocationList(der: $0) }
        let judge = RevocationJudge(
            own: snapshot, carried: carried, anchors: anchors, sent: sent, now: now,
            path: { [self] in path(of: $0, sent + snapshot.signers, now) }, isNewest: { [self] in isNewest($0) })
        let findings = judge.findings(chain)
        until = min(until, snapshot.nextChange(after: now))
        for list in carried { until = min(until, [list.thisUpdate, list.nextUpdate ?? .max].filter { $0 > now }.min() ?? .max) }
        // A certificate that is its own trust anchor has nobody who could revoke it.
        let responses =
            chain.count < 2
            ? []
            : evidence.ocspResponses.map { response in
                inspect(response, leaf, issuer: chain[1], after: findings[0].newestUpdate, now)
            }
        return Judgement.Proof(
            chain: chain, key: key, findings: findings, responses: responses, hasLists: !snapshot.isEmpty)
    }

    // MARK: What the peer sent

    private func parse(_ certificates: [[UInt8]]) throws(CertificateRefusal) -> [Certificate] {
        var result: [Certificate] = []
        for (place, der) in certificates.enumerated() {
            do throws(CredentialError) {
                result.append(try Certificate(der: der))
            } catch {
                throw CertificateRefusal(
                    .malformed, "CERT payload \(place + 1) of the peer \(error.clause); the peer needs a proper certificate.")
            }
        }
        if let costly = result.first(where: { culvert_key_is_costly($0.handle) == 1 }) {
            throw CertificateRefusal(
                .malformed,
                "The certificate \(Sentences.shown(costly)) in the peer's chain has a key that is not computed with: RSA of more "
                    + "than 8192 bits or with a public exponent of more than 33, or a curve without a name; issue it anew.")
        }
        return result
    }

    private func usableKey(of leaf: Certificate) throws(CertificateRefusal) -> OpenSSLVerifyingKey {
        do throws(CredentialError) {
            return try leaf.publicKey()
        } catch {
            throw CertificateRefusal(
                .weak, "The peer's certificate \(Sentences.shown(leaf)) \(error.clause); the peer needs another.")
        }
    }

    // MARK: The chain

    /// - Parameter pool: whatever may stand between `leaf` and a trust anchor.
    private func build(
        _ leaf: Certificate, _ pool: [Certificate], _ now: Int64
    ) throws(CertificateRefusal) -> ([Certificate], culvert_verdict) {
        var verdict = culvert_verdict()
        let untrusted = Self.stack(pool.filter { $0 !== leaf }.map(\.handle))
        defer { OPENSSL_sk_free(untrusted) }
        let built = culvert_verify_chain(store, anchorStack, leaf.handle, untrusted, now, &verdict)
        defer { culvert_certificates_free(built) }
        guard let built else { throw CertificateRefusal(.malformed, "The peer's certificates could not be checked.") }
        // The chain is made of what was given to it. Parsing is what takes longest: nothing is parsed twice.
        let parsed = [leaf] + pool + anchors
        var chain: [Certificate] = []
        for index in 0..<max(0, OPENSSL_sk_num(built)) {
            let handle = OPENSSL_sk_value(built, index).map { OpaquePointer($0) }
            guard let certificate = parsed.first(where: { $0.handle == handle }) else {
                throw CertificateRefusal(.malformed, "The peer's certificates could not be checked.")
            }
            chain.append(certificate)
        }
        return (chain.isEmpty ? [leaf] : chain, verdict)
    }

    private func path(of certificate: Certificate, _ pool: [Certificate], _ now: Int64) -> [Certificate]? {
        guard let (chain, verdict) = try? build(certificate, pool, now), verdict.error == X509_V_OK else { return nil }
        return Sentences(chain: chain, leaf: certificate, authorities: anchors, now: now).refusalOfAuthorities() == nil
            ? chain : nil
    }

    private static func stack(_ handles: [OpaquePointer]) -> OpaquePointer? {
        guard let stack = OPENSSL_sk_new_null() else { return nil }
        for handle in handles { OPENSSL_sk_push(stack, UnsafeRawPointer(handle)) }
        return stack
    }

    // MARK: What was seen before

    /// Of what peers carry, an issuer's newest list is remembered; an older one says nothing any more.
    private func isNewest(_ list: RevocationList) -> Bool {
        let subject = sha256(list.issuerName + (list.scope ?? []) + (list.authorityKeyIdentifier ?? []))
        let number = list.number ?? []
        return kept.withLock { kept in
            if let seen = kept.newestLists[subject] {
                if RevocationList.isLess(number, seen.number) || list.thisUpdate < seen.thisUpdate { return false }
            } else if kept.newestLists.count >= Self.mostRemembered, let some = kept.newestLists.keys.first {
                kept.newestLists[some] = nil
            }
            kept.newestLists[subject] = (number, list.thisUpdate)
            return true
        }
    }

    /// A response that the peer carries.
    private func inspect(
        _ response: [UInt8], _ leaf: Certificate, issuer: Certificate, after newestList: Int64, _ now: Int64
    ) -> OCSP.Finding {
        var finding = ocsp.inspect(response, leaf, issuer: issuer, isAnswer: false, now: now)
        if case .good = finding.verdict {
            if finding.thisUpdate < newestList {
                finding.verdict = .unusable("the OCSP response that the peer brings is older than the revocation list here")
            } else if !isNewest(finding, leaf) {
                finding.verdict = .unusable("the OCSP response that the peer brings is older than one that was seen before")
            }
        } else {
            _ = isNewest(finding, leaf)
        }
        return finding
    }

    /// Notes a response about a certificate; false when a newer one was seen.
    func isNewest(_ finding: OCSP.Finding, _ leaf: Certificate) -> Bool {
        guard finding.thisUpdate != Int64.min else { return true }
        let subject = sha256(leaf.der)
        return kept.withLock { kept in
            if let seen = kept.newestResponses[subject], finding.thisUpdate < seen { return false }
            if kept.newestResponses[subject] == nil, kept.newestResponses.count >= Self.mostRemembered,
                let some = kept.newestResponses.keys.first
            {
                kept.newestResponses[some] = nil
            }
            kept.newestResponses[subject] = finding.thisUpdate
            return true
        }
    }
}

func sha256(_ octets: [UInt8]) -> [UInt8] {
    var count = 0
    return [UInt8](unsafeUninitializedCapacity: 32) { buffer, initialized in
        let isDone = EVP_Q_digest(nil, "SHA256", nil, octets, octets.count, buffer.baseAddress, &count) == 1
        precondition(isDone, "libcrypto has no SHA-256")
        initialized = count
    }
}
