internal import COpenSSL
public import IKE

/// How far a peer's certificate is believed when nobody can say whether it was revoked.
public struct RevocationPolicy: Hashable, Sendable {
    public enum OCSP: String, CaseIterable, Sendable {
        /// Responders are not asked, and responses are not looked at.
        case off
        /// The responder that the certificate names is asked when no list or carried response settles it.
        case auto
        /// Without a good response the peer is refused.
        case require
    }
    public enum Lists: String, CaseIterable, Sendable {
        /// A missing list says nothing, an old one is a warning.
        case relaxed
        /// Every certificate of the chain needs a current list, or a good OCSP response.
        case strict
    }
    public var ocsp: OCSP
    public var lists: Lists
    public init(ocsp: OCSP = .auto, lists: Lists = .relaxed) { (self.ocsp, self.lists) = (ocsp, lists) }
}

/// What one connection trusts: certificate authorities, peers' own certificates, revocation lists, and how strictly. What is the
/// same for other connections too is judged by `TrustStore`.
public final class CertificateTrust: PeerTrust, Sendable {
    /// Certificates and lists of one peer; more are refused.
    static let maxCertificates = 16
    static let maxCarried = 16
    /// A certificate that ends sooner is told about. Seconds.
    public static let expiryNotice: Int64 = 30 * 86_400

    public let authorityKeyHashes: [[UInt8]]
    private let pinned: [Certificate]
    private let policy: RevocationPolicy
    private let now: @Sendable () -> Int64
    private let ocsp = OCSP()
    private let store: TrustStore
    /// How often certificates were judged for these trust anchors and lists, for tests.
    package var judgementsMade: Int { store.judgementsMade }

    /// - Parameters:
    ///   - authorities: trust anchors, also such as another CA issued.
    ///   - pinned: when there are any, the peer's certificate must be one of these; it then needs no authority.
    ///   - revocationLists: paths of CRL files; read again when they change.
    ///   - now: seconds since 1970.
    public init(
        authorities: [Certificate], pinned: [Certificate] = [], revocationLists: [String] = [],
        policy: RevocationPolicy = RevocationPolicy(), now: @escaping @Sendable () -> Int64
    ) {
        (self.pinned, self.policy, self.now) = (pinned, policy, now)
        store = TrustStore.shared(anchors: authorities + pinned, lists: revocationLists)
        // RFC 7296 §3.7: "a concatenated list of SHA-1 hashes of the public keys of trusted Certification Authorities".
        authorityKeyHashes = authorities.map { OpenSSLCrypto().sha1($0.subjectPublicKeyInfo) }
    }

    /// Asking costs the peer nothing that it does not want to give. RFC 4806 §4.1.
    public var wantsOCSP: Bool { policy.ocsp != .off }

    public func rawKey(_ subjectPublicKeyInfo: [UInt8]) -> (any VerifyingKey)? {
        try? OpenSSLVerifyingKey(subjectPublicKeyInfo: subjectPublicKeyInfo)
    }

    public func pendingWork(
        certificates: [[UInt8]], revocationLists: [[UInt8]], ocspResponses: OCSPResponses
    ) -> CertificateWork? {
        // What is refused at a glance is refused at once.
        guard (try? check(certificates, revocationLists, ocspResponses)) != nil else { return nil }
        let evidence = evidence(certificates, revocationLists, ocspResponses)
        let digest = evidence.digest
        guard !store.knows(digest, now: now()) else { return nil }
        let (store, now) = (store, now)
        return CertificateWork(
            id: CertificateWork.ID(store: ObjectIdentifier(store), evidence: digest), microseconds: evidence.workMicroseconds
        ) { _ = store.judgement(evidence, digest: digest, now: now()) }
    }

    public func evaluate(
        certificates: [[UInt8]], identity: Identity, revocationLists: [[UInt8]], ocspResponses: OCSPResponses
    ) throws(CertificateRefusal) -> TrustedPeer {
        try check(certificates, revocationLists, ocspResponses)
        let now = now()
        let evidence = evidence(certificates, revocationLists, ocspResponses)
        let proof = try store.judgement(evidence, digest: evidence.digest, now: now).result.get()
        let (chain, leaf) = (proof.chain, proof.chain[0])
        let sentences = Sentences(chain: chain, leaf: leaf, authorities: store.anchors, now: now)
        // "It is there" is no proof that somebody vouches for it.
        if chain.count == 1, !pinned.contains(leaf) { throw sentences.ownAuthority() }
        for (depth, finding) in proof.findings.enumerated() {
            if let (at, reason) = finding.revoked { throw sentences.revoked(depth: depth, at: at, reason: reason) }
        }
        if let refusal = sentences.refusal(speaksFor: identity) { throw refusal }
        var warnings = store.lists.current().problems
        let check = try revocationCheck(proof, ocspResponses, sentences, now, &warnings)
        if leaf.notAfter - now < Self.expiryNotice { warnings.append(sentences.expiresSoon) }
        return TrustedPeer(
            key: proof.key, subject: leaf.subject, expires: leaf.notAfter, revocationCheck: check, warnings: warnings,
            validSeconds: chain.reduce(Int64.max) { min($0, $1.notAfter) } - now)
    }

    // MARK: What the peer sent

    private func evidence(_ certificates: [[UInt8]], _ lists: [[UInt8]], _ responses: OCSPResponses) -> PeerEvidence {
        PeerEvidence(
            certificates: certificates, revocationLists: lists, ocspResponses: policy.ocsp == .off ? [] : responses.carried)
    }

    /// What costs nothing.
    private func check(
        _ certificates: [[UInt8]], _ lists: [[UInt8]], _ responses: OCSPResponses
    ) throws(CertificateRefusal) {
        guard certificates.count <= Self.maxCertificates else {
            throw CertificateRefusal(
                .malformed, "The peer sent \(certificates.count) certificates; at most \(Self.maxCertificates) are looked at.")
        }
        guard let first = certificates.first else { throw CertificateRefusal(.malformed, "The peer sent no certificate.") }
        guard lists.count <= Self.maxCarried else {
            throw CertificateRefusal(.malformed, "The peer sent more than \(Self.maxCarried) revocation lists.")
        }
        guard policy.ocsp == .off || responses.carried.count <= Self.maxCarried else {
            throw CertificateRefusal(.malformed, "The peer sent more than \(Self.maxCarried) OCSP responses.")
        }
        if !pinned.isEmpty, !pinned.contains(where: { $0.der == first }) {
            let shown = (try? Certificate(der: first)).map(Sentences.shown) ?? "(which cannot be read)"
            throw CertificateRefusal(
                .untrusted,
                "The peer's certificate \(shown) is not the one that remote.certificate names; exchange the file there, or the "
                    + "certificate of the peer.")
        }
    }

    // MARK: Revocation

    /// What is left to ask; throws when nothing can settle it and policy wants it settled.
    private func revocationCheck(
        _ proof: Judgement.Proof, _ responses: OCSPResponses, _ sentences: Sentences, _ now: Int64, _ warnings: inout [String]
    ) throws(CertificateRefusal) -> RevocationCheck? {
        try judgeLists(proof, sentences, &warnings)
        guard let finding = proof.findings.first else { return nil }
        let (leaf, issuer) = (proof.chain[0], proof.chain[1])
        let isStrict = policy.lists == .strict
        var because = finding.problems.first
        if policy.ocsp != .off {
            var verdicts = proof.responses.map(\.verdict)
            if let answer = responses.answer {
                let answered = ocsp.inspect(answer, leaf, issuer: issuer, isAnswer: true, now: now)
                _ = store.isNewest(answered, leaf)
                verdicts.append(answered.verdict)
            }
            for case .revoked(let at, let reason) in verdicts { throw sentences.revoked(depth: 0, at: at, reason: reason) }
            if verdicts.contains(.good) { return nil }
            for case .unusable(let reason) in verdicts { because = reason }
        }
        let isOpen = finding.state != .current
        let isRequired = policy.ocsp == .require || (isStrict && isOpen)
        guard isRequired || (isOpen && policy.ocsp == .auto) else { return nil }
        let refusal =
            policy.ocsp == .require
            ? sentences.noResponse(because: because)
            : sentences.unknown(depth: 0, isStale: finding.state == .stale, because: because)
        let responders = policy.ocsp == .off ? [] : leaf.ocspResponders
        guard !responders.isEmpty, let request = ocsp.request(leaf, issuer: issuer, now: now) else {
            if isRequired { throw refusal }
            return nil
        }
        return RevocationCheck(
            responders: responders, request: request, isRequired: isRequired,
            sentence: isRequired ? refusal.sentence : sentences.unsettled(because: because))
    }

    /// By the lists alone. What is not settled is refused with `strict`, but for the end entity's, about which a responder may
    /// still be asked; else it is told.
    private func judgeLists(
        _ proof: Judgement.Proof, _ sentences: Sentences, _ warnings: inout [String]
    ) throws(CertificateRefusal) {
        let isStrict = policy.lists == .strict
        for (depth, finding) in proof.findings.enumerated() {
            let isSettled = finding.state == .current
            if finding.isForged, !isSettled { throw sentences.forgedList(depth: depth) }
            if isStrict, depth > 0, !isSettled {
                throw sentences.unknown(depth: depth, isStale: finding.state == .stale, because: finding.problems.first)
            }
            for problem in finding.problems { warnings.append(sentences.unusedList(problem)) }
            guard !isStrict || depth > 0 else { continue }
            switch finding.state {
            case .current: break
            case .stale: warnings.append(sentences.staleList(depth: depth))
            case .uncovered:
                if proof.hasLists, finding.problems.isEmpty { warnings.append(sentences.missingList(depth: depth)) }
            }
        }
    }
}
