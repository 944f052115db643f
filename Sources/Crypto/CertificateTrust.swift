internal import COpenSSL
public import IKE
internal import Wire

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

/// What one connection trusts: certificate authorities, peers' own certificates, revocation lists, and how strictly.
public final class CertificateTrust: PeerTrust, @unchecked Sendable {
    /// Certificates and lists of one peer; more are refused.
    static let maxCertificates = 16
    static let maxCarried = 16
    /// A certificate that ends sooner is told about. Seconds.
    public static let expiryNotice: Int64 = 30 * 86_400

    public let authorityKeyHashes: [[UInt8]]
    private let authorities: [Certificate]
    private let pinned: [Certificate]
    private let lists: [RevocationListFile]
    private let policy: RevocationPolicy
    private let now: @Sendable () -> Int64
    private let ocsp = OCSP()
    /// X509_STORE, not changed after `init`.
    private let store: OpaquePointer

    /// - Parameters:
    ///   - authorities: trust anchors, also such as another CA issued.
    ///   - pinned: when there are any, the peer's certificate must be one of these; it then needs no authority.
    ///   - revocationLists: paths of CRL files; read again when they change.
    ///   - now: seconds since 1970.
    public init(
        authorities: [Certificate], pinned: [Certificate] = [], revocationLists: [String] = [],
        policy: RevocationPolicy = RevocationPolicy(), now: @escaping @Sendable () -> Int64
    ) {
        guard let store = X509_STORE_new() else { fatalError("no memory left for a certificate store") }
        for anchor in authorities + pinned { X509_STORE_add_cert(store, anchor.handle) }
        ERR_clear_error()
        (self.authorities, self.pinned, self.policy, self.now, self.store) = (authorities, pinned, policy, now, store)
        lists = revocationLists.map { RevocationListFile.shared($0) }
        // RFC 7296 §3.7: "a concatenated list of SHA-1 hashes of the public keys of trusted Certification Authorities".
        authorityKeyHashes = authorities.map { OpenSSLCrypto().sha1($0.subjectPublicKeyInfo) }
    }

    deinit { X509_STORE_free(store) }

    /// Asking costs the peer nothing that it does not want to give. RFC 4806 §4.1.
    public var wantsOCSP: Bool { policy.ocsp != .off }

    public func rawKey(_ subjectPublicKeyInfo: [UInt8]) -> (any VerifyingKey)? {
        try? OpenSSLVerifyingKey(subjectPublicKeyInfo: subjectPublicKeyInfo)
    }

    public func evaluate(
        certificates: [[UInt8]], identity: Identity, revocationLists: [[UInt8]], ocspResponses: OCSPResponses
    ) throws(CertificateRefusal) -> TrustedPeer {
        let now = now()
        let sent = try parse(certificates)
        guard let leaf = sent.first else { throw CertificateRefusal(.malformed, "The peer sent no certificate.") }
        if !pinned.isEmpty, !pinned.contains(leaf) {
            throw CertificateRefusal(
                .untrusted,
                "The peer's certificate \(Sentences.shown(leaf)) is not the one that remote.certificate names; exchange the file "
                    + "there, or the certificate of the peer.")
        }
        var (known, warnings) = lists.reduce(into: ([RevocationList](), [String]())) { result, file in
            let (lists, problem) = file.current()
            result.0 += lists
            if let problem { result.1.append(problem) }
        }
        known += try carriedLists(revocationLists)

        let (chain, verdict) = try build(leaf, sent, known, now)
        let sentences = Sentences(chain: chain, leaf: leaf, authorities: authorities, now: now)
        if let refusal = sentences.refusal(of: verdict) { throw refusal }
        if let refusal = sentences.refusalOfAuthorities() ?? sentences.refusalOfUsage() { throw refusal }
        let key = try usableKey(of: leaf)
        if let refusal = sentences.refusal(speaksFor: identity) { throw refusal }

        let settled = SettledDepths(verdict: verdict, hasLists: !known.isEmpty, last: chain.count - 1)
        let check = try revocationCheck(settled, chain, ocspResponses, sentences, now, &warnings)
        if leaf.notAfter - now < Self.expiryNotice { warnings.append(sentences.expiresSoon) }
        return TrustedPeer(
            key: key, subject: leaf.subject, expires: leaf.notAfter, revocationCheck: check, warnings: warnings)
    }

    // MARK: What the peer sent

    private func parse(_ certificates: [[UInt8]]) throws(CertificateRefusal) -> [Certificate] {
        guard certificates.count <= Self.maxCertificates else {
            throw CertificateRefusal(
                .malformed, "The peer sent \(certificates.count) certificates; at most \(Self.maxCertificates) are looked at.")
        }
        var result: [Certificate] = []
        for (place, der) in certificates.enumerated() {
            do throws(CredentialError) {
                result.append(try Certificate(der: der))
            } catch {
                throw CertificateRefusal(
                    .malformed, "CERT payload \(place + 1) of the peer \(error.clause); the peer needs a proper certificate.")
            }
        }
        return result
    }

    /// A list that cannot be read helps nobody, and its absence is judged like any other's.
    private func carriedLists(_ encoded: [[UInt8]]) throws(CertificateRefusal) -> [RevocationList] {
        guard encoded.count <= Self.maxCarried else {
            throw CertificateRefusal(.malformed, "The peer sent more than \(Self.maxCarried) revocation lists.")
        }
        return encoded.compactMap { try? RevocationList(der: $0) }
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

    private func build(
        _ leaf: Certificate, _ sent: [Certificate], _ known: [RevocationList], _ now: Int64
    ) throws(CertificateRefusal) -> ([Certificate], culvert_verdict) {
        var verdict = culvert_verdict()
        let untrusted = stack(sent.dropFirst().map(\.handle))
        let lists = known.isEmpty ? nil : stack(known.map(\.handle))
        defer {
            OPENSSL_sk_free(untrusted)
            OPENSSL_sk_free(lists)
        }
        let built = culvert_verify_chain(store, leaf.handle, untrusted, lists, now, &verdict)
        defer { culvert_certificates_free(built) }
        guard let built else { throw CertificateRefusal(.malformed, "The peer's certificates could not be checked.") }
        // The chain is made of what was given to it. Parsing is what takes longest: nothing is parsed twice.
        let parsed = sent + authorities + pinned
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

    private func stack(_ handles: [OpaquePointer]) -> OpaquePointer? {
        guard let stack = OPENSSL_sk_new_null() else { return nil }
        for handle in handles { OPENSSL_sk_push(stack, UnsafeRawPointer(handle)) }
        return stack
    }

    // MARK: Revocation

    /// Which certificates of the chain a current list speaks for.
    private struct SettledDepths {
        /// Depths below the trust anchor without a list, and with one that is too old.
        var uncovered: [Int] = []
        var stale: [Int] = []

        init(verdict: culvert_verdict, hasLists: Bool, last: Int) {
            for depth in 0..<max(0, last) {
                let bit = UInt32(1) << UInt32(truncatingIfNeeded: depth)
                if !hasLists || verdict.uncovered & bit != 0 {
                    uncovered.append(depth)
                } else if verdict.stale & bit != 0 {
                    stale.append(depth)
                }
            }
        }

        var open: [Int] { (uncovered + stale).sorted() }
    }

    /// What is left to ask; throws when nothing can settle it and policy wants it settled.
    private func revocationCheck(
        _ settled: SettledDepths, _ chain: [Certificate], _ responses: OCSPResponses, _ sentences: Sentences, _ now: Int64,
        _ warnings: inout [String]
    ) throws(CertificateRefusal) -> RevocationCheck? {
        let isStrict = policy.lists == .strict
        if isStrict, let depth = settled.open.first(where: { $0 > 0 }) {
            throw sentences.unknown(depth: depth, isStale: settled.stale.contains(depth), because: nil)
        }
        for depth in settled.stale where depth > 0 || !isStrict { warnings.append(sentences.staleList(depth: depth)) }
        // A certificate that is its own trust anchor has nobody who could revoke it.
        guard chain.count > 1 else { return nil }
        let (leaf, issuer) = (chain[0], chain[1])
        var because: String?
        if policy.ocsp != .off {
            guard responses.carried.count <= Self.maxCarried else {
                throw CertificateRefusal(.malformed, "The peer sent more than \(Self.maxCarried) OCSP responses.")
            }
            let verdicts = responses.all.enumerated().map { index, response in
                ocsp.judge(response, leaf, issuer: issuer, isAnswer: index >= responses.carried.count, now: now)
            }
            for case .revoked(let at, let reason) in verdicts { throw sentences.revoked(depth: 0, at: at, reason: reason) }
            if verdicts.contains(.good) { return nil }
            for case .unusable(let reason) in verdicts { because = reason }
        }
        let isOpen = settled.open.contains(0)
        let isRequired = policy.ocsp == .require || (isStrict && isOpen)
        guard isRequired || (isOpen && policy.ocsp == .auto) else { return nil }
        let refusal =
            policy.ocsp == .require
            ? sentences.noResponse(because: because)
            : sentences.unknown(depth: 0, isStale: settled.stale.contains(0), because: because)
        let responders = policy.ocsp == .off ? [] : leaf.ocspResponders
        guard !responders.isEmpty, let request = ocsp.request(leaf, issuer: issuer, now: now) else {
            if isRequired { throw refusal }
            return nil
        }
        return RevocationCheck(
            responders: responders, request: request, isRequired: isRequired,
            sentence: isRequired ? refusal.sentence : sentences.unsettled(because: because))
    }
}
