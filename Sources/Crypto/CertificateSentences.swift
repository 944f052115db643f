internal import COpenSSL
public import IKE
internal import Wire

/// What is wrong with a chain, in a sentence for the operator. All text of the certificates is escaped already.
struct Sentences {
    /// As it was built, end entity first; perhaps without a trust anchor.
    var chain: [Certificate]
    var leaf: Certificate
    var authorities: [Certificate]
    var now: Int64

    static func shown(_ certificate: Certificate) -> String { "`\(certificate.subject)`" }

    /// The subject of a sentence.
    private func subject(_ depth: Int) -> String {
        guard depth > 0, depth < chain.count else { return "The peer's certificate \(Self.shown(leaf))" }
        return "The CA certificate \(Self.shown(chain[depth])) in the peer's chain"
    }

    private func certificate(_ depth: Int) -> Certificate { chain.indices.contains(depth) ? chain[depth] : leaf }

    // MARK: What libcrypto found

    func refusal(of verdict: culvert_verdict) -> CertificateRefusal? {
        let depth = Int(verdict.errorDepth)
        switch verdict.error {
        case X509_V_OK: return nil
        case X509_V_ERR_CERT_HAS_EXPIRED: return expired(depth)
        case X509_V_ERR_CERT_NOT_YET_VALID: return notYetValid(depth)
        case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY,
            X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE, X509_V_ERR_CERT_UNTRUSTED:
            return untrusted(depth)
        case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT, X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN: return selfSigned(depth)
        case X509_V_ERR_EE_KEY_TOO_SMALL, X509_V_ERR_CA_KEY_TOO_SMALL:
            return CertificateRefusal(
                .weak,
                "\(subject(depth)) has a key with less than 112 bits of security; issue it anew with ECDSA or RSA 3072.")
        case X509_V_ERR_CA_MD_TOO_WEAK:
            return CertificateRefusal(
                .weak,
                "\(subject(depth)) is signed with \(certificate(depth).signatureAlgorithm), which is too weak; issue it anew "
                    + "with SHA-256 or better.")
        default: return refusal(ofForm: verdict.error, depth)
        }
    }

    private func refusal(ofForm error: Int32, _ depth: Int) -> CertificateRefusal {
        switch error {
        case X509_V_ERR_CERT_SIGNATURE_FAILURE, X509_V_ERR_UNABLE_TO_DECRYPT_CERT_SIGNATURE:
            return wronglySigned(depth)
        case X509_V_ERR_INVALID_CA, X509_V_ERR_KEYUSAGE_NO_CERTSIGN, X509_V_ERR_NO_ISSUER_PUBLIC_KEY:
            return CertificateRefusal(
                .keyUsage, "\(subject(depth)) issued another certificate but is not a CA (basicConstraints, keyUsage).")
        case X509_V_ERR_PATH_LENGTH_EXCEEDED, X509_V_ERR_CERT_CHAIN_TOO_LONG:
            return CertificateRefusal(
                .untrusted, "\(subject(depth)) is further from its CA than the CA (or eight intermediates) allows.")
        case X509_V_ERR_PERMITTED_VIOLATION, X509_V_ERR_EXCLUDED_VIOLATION, X509_V_ERR_SUBTREE_MINMAX,
            X509_V_ERR_UNSUPPORTED_CONSTRAINT_TYPE, X509_V_ERR_UNSUPPORTED_CONSTRAINT_SYNTAX,
            X509_V_ERR_UNSUPPORTED_NAME_SYNTAX:
            return CertificateRefusal(
                .untrusted, "\(subject(depth)) has a name that its CA may not issue certificates for (nameConstraints).")
        case X509_V_ERR_UNHANDLED_CRITICAL_EXTENSION:
            return CertificateRefusal(.malformed, "\(subject(depth)) has a critical extension that is not understood here.")
        case X509_V_ERR_INVALID_POLICY_EXTENSION:
            return CertificateRefusal(.malformed, "\(subject(depth)) has certificate policies that contradict each other.")
        case X509_V_ERR_NO_EXPLICIT_POLICY:
            return CertificateRefusal(
                .untrusted,
                "\(subject(0)) is issued under no certificate policy that all CAs above it allow, and one of them requires one "
                    + "(policyConstraints); let its CA issue it anew with the right certificatePolicies.")
        default: return CertificateRefusal(.malformed, "\(subject(depth)) cannot be accepted: \(reason(error)).")
        }
    }

    private func reason(_ error: Int32) -> String { String(cString: X509_verify_cert_error_string(Int(error))) }

    private func expired(_ depth: Int) -> CertificateRefusal {
        let end = certificate(depth).notAfter
        return CertificateRefusal(
            .expired,
            "\(subject(depth)) expired on \(CalendarTime.text(end)), \(CalendarTime.span(now - end)) ago; a new one is needed "
                + "(if the clock here, \(CalendarTime.text(now)), is right).")
    }

    private func notYetValid(_ depth: Int) -> CertificateRefusal {
        CertificateRefusal(
            .notYetValid,
            "\(subject(depth)) is valid from \(CalendarTime.text(certificate(depth).notBefore)) on, and the clock here says "
                + "\(CalendarTime.text(now)); compare the clocks of both ends.")
    }

    private func wronglySigned(_ depth: Int) -> CertificateRefusal {
        CertificateRefusal(
            .untrusted,
            "\(subject(depth)) names `\(certificate(depth).issuer)` as its issuer, but is not signed with that CA's key; "
                + "a CA that was made anew under its old name needs its new certificate in `ca`.")
    }

    private func untrusted(_ depth: Int) -> CertificateRefusal {
        let last = certificate(depth)
        // Name and key identifier fit, so that only the signature can be wrong.
        if authorities.contains(where: { last.isIssued(by: $0) }) { return wronglySigned(depth) }
        let hasName = authorities.contains { $0.subjectName == last.issuerName }
        let advice =
            hasName
            ? "a CA of that name is in `ca`, but with another key: put the one that issued it there"
            : "which is neither in `ca` nor among the certificates that the peer sent; add the CA's certificate to `ca`, or "
                + "let the peer send its intermediates"
        return CertificateRefusal(.untrusted, "\(subject(depth)) is issued by `\(last.issuer)`, \(advice).")
    }

    private func selfSigned(_ depth: Int) -> CertificateRefusal {
        CertificateRefusal(
            .untrusted,
            depth == 0
                ? "\(subject(0)) is self-signed and not trusted here; put it into remote.certificate, or let a CA in `ca` "
                    + "issue one."
                : "\(subject(depth)) is the root of the peer's chain and not in `ca`; add it there if that CA is to be trusted.")
    }

    // MARK: What libcrypto lets pass

    /// RFC 5280 §4.2.1.9: an intermediate without basicConstraints is not a CA, whatever its other extensions suggest.
    func refusalOfAuthorities() -> CertificateRefusal? {
        guard let depth = chain.indices.dropFirst().dropLast().first(where: { !chain[$0].isAuthority }) else { return nil }
        return CertificateRefusal(
            .keyUsage, "\(subject(depth)) issued another certificate but is not a CA (basicConstraints, keyUsage).")
    }

    /// RFC 4945 §5.1.3.2 and §5.1.3.12.
    func refusalOfUsage() -> CertificateRefusal? {
        let signing = UInt32(KU_DIGITAL_SIGNATURE | KU_NON_REPUDIATION)
        if let bits = leaf.keyUsage, bits & signing == 0 {
            return CertificateRefusal(
                .keyUsage,
                "\(subject(0)) may not be used to sign: its keyUsage has neither digitalSignature nor nonRepudiation; "
                    + "issue it anew."
            )
        }
        if let usages = leaf.extendedKeyUsage, !usages.contains(where: { Self.acceptedUsages.contains($0) }) {
            return CertificateRefusal(
                .keyUsage,
                "\(subject(0)) is for other purposes: its extendedKeyUsage (\(bounded(usages.joined(separator: ", ")))) has "
                    + "none of ipsecIKE, ikeIntermediate, serverAuth, clientAuth and anyExtendedKeyUsage; issue it anew.")
        }
        return nil
    }

    private static let acceptedUsages: Set<String> = [
        "1.3.6.1.5.5.7.3.17", "1.3.6.1.5.5.8.2.2", "1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2", "2.5.29.37.0",
        // ipsecEndSystem, ipsecTunnel, ipsecUser: what certificates for IPsec had before ipsecIKE.
        "1.3.6.1.5.5.7.3.5", "1.3.6.1.5.5.7.3.6", "1.3.6.1.5.5.7.3.7",
    ]

    // MARK: Names

    func refusal(speaksFor identity: Identity) -> CertificateRefusal? {
        guard !leaf.speaks(for: identity) else { return nil }
        let names = leaf.alternativeNames
        let has =
            names.isEmpty
            ? "it has no subjectAltName, only its subject"
            : "its names are \(bounded(names.map(\.description).joined(separator: ", "))) and its subject"
        return CertificateRefusal(
            .nameMismatch,
            "\(subject(0)) does not speak for \(identity): \(has); set remote.id here and local.id there to one of its "
                + "names, or issue it anew with that subjectAltName.")
    }

    // MARK: Revocation

    func revoked(depth: Int, at: Int64, reason: Int32) -> CertificateRefusal {
        let when = at == Int64.min ? "" : " on \(CalendarTime.text(at))"
        let why = RevocationReason(rawValue: reason).map { $0 == .unspecified ? "" : " (\($0.text))" } ?? ""
        return CertificateRefusal(
            .revoked, "\(subject(depth)) was revoked by its CA\(when)\(why); a new one is needed.")
    }

    /// Whom nobody vouches for but the operator, and not as a peer.
    func ownAuthority() -> CertificateRefusal {
        CertificateRefusal(
            .untrusted,
            "\(subject(0)) is itself in `ca`, and nobody vouches for it: put a peer's own certificate into remote.certificate, "
                + "and the CA that issued it into `ca`.")
    }

    func forgedList(depth: Int) -> CertificateRefusal {
        CertificateRefusal(
            .revocationUnknown,
            "\(subject(depth)) cannot be looked up: the revocation list of `\(certificate(depth).issuer)` is not properly signed "
                + "by that CA; get a new one.")
    }

    /// - Parameter problem: a clause that names the list.
    func unusedList(_ problem: String) -> String {
        "\(problem.prefix(1).uppercased() + problem.dropFirst()): it does not settle whether certificates are revoked."
    }

    func missingList(depth: Int) -> String {
        "None of the revocation lists in `crl` is of `\(certificate(depth).issuer)`: nobody says whether "
            + "\(lowered(subject(depth))) is revoked."
    }

    func staleList(depth: Int) -> String {
        "The revocation list of `\(certificate(depth).issuer)` is out of date; get a new one."
    }

    func unknown(depth: Int, isStale: Bool, because: String?) -> CertificateRefusal {
        let list = isStale ? "out of date" : "not there"
        let more = because.map { ", and \($0)" } ?? ""
        return CertificateRefusal(
            .revocationUnknown,
            "Nobody says whether \(lowered(subject(depth))) is revoked: the revocation list of `\(certificate(depth).issuer)` is "
                + "\(list)\(more); put a current one into `crl`, or set `revocation: relaxed`.")
    }

    /// With `ocsp: auto`, when nothing settles it and nothing needs to.
    func unsettled(because: String?) -> String {
        "Nobody says whether \(lowered(subject(0))) is revoked (\(because ?? "no OCSP responder answered")); it is believed all "
            + "the same. See to the responder, or set `ocsp: off`, or `ocsp: require` to refuse it then."
    }

    func noResponse(because: String?) -> CertificateRefusal {
        let nobody =
            leaf.ocspResponders.isEmpty ? "it names no responder and the peer sent no response" : "no responder answered"
        return CertificateRefusal(
            .revocationUnknown,
            "No OCSP response says that \(lowered(subject(0))) is good: \(because ?? nobody); see to the responder, or set "
                + "`ocsp: auto`.")
    }

    var expiresSoon: String {
        "\(subject(0)) expires on \(CalendarTime.text(leaf.notAfter)), in \(CalendarTime.span(leaf.notAfter - now)); the peer "
            + "needs a new one by then."
    }

    private func lowered(_ sentence: String) -> String { sentence.prefix(1).lowercased() + sentence.dropFirst() }
}

extension Certificate {
    /// Whether the certificate says that its holder is `identity`. RFC 4945 §3.1: names are looked for in subjectAltName, and a
    /// distinguished name in the subject. A common name is no FQDN here, and there are no wildcards.
    public func speaks(for identity: Identity) -> Bool {
        switch identity {
        case .fqdn(let name):
            return alternativeNames.contains {
                if case .dns(let text) = $0 { Self.equal(name, text) } else { false }
            }
        case .email(let address):
            return alternativeNames.contains {
                if case .email(let text) = $0 { Self.equalAddresses(address, text) } else { false }
            }
        case .address(let address): return alternativeNames.contains(.address(address.bytes))
        case .distinguishedName(let name):
            if hasSubject(name) { return true }
            return alternativeNames.contains { if case .directory(let der, _) = $0 { der == name } else { false } }
        case .keyID(let octets): return subjectKeyIdentifier == octets
        }
    }

    /// The identities that its subjectAltName has. By a mailbox without `@` and by an empty name it speaks for nobody.
    public var identities: [Identity] {
        alternativeNames.compactMap { name -> Identity? in
            switch name {
            case .dns(let text): .fqdn(text)
            case .email(let text): .email(text)
            case .address(let octets): IPAddress(bytes: octets).map { .address($0) }
            case .directory(let der, _): .distinguishedName(der)
            case .uri: nil
            }
        }.filter { speaks(for: $0) }
    }

    /// ASCII letters without regard to case. RFC 4343.
    private static func equal(_ a: some StringProtocol, _ b: some StringProtocol) -> Bool {
        !a.isEmpty && a.utf8.count == b.utf8.count && zip(a.utf8, b.utf8).allSatisfy { lower($0) == lower($1) }
    }

    private static func lower(_ octet: UInt8) -> UInt8 { (0x41...0x5A).contains(octet) ? octet + 0x20 : octet }

    /// RFC 5280 §7.5: the local part as it is, the host without regard to case.
    private static func equalAddresses(_ a: String, _ b: String) -> Bool {
        guard let atA = a.lastIndex(of: "@"), let atB = b.lastIndex(of: "@") else { return false }
        return a[..<atA].utf8.elementsEqual(b[..<atB].utf8) && equal(a[atA...], b[atB...])
    }
}

/// 4 or 16 octets as an address.
func addressText(_ octets: [UInt8]) -> String { IPAddress(bytes: octets)?.description ?? hexadecimal(octets) }

extension Certificate {
    /// Why peers will not accept it as an end entity's, to go on after the file's name; nil when its usage is right.
    public var usageFault: String? {
        let sentences = Sentences(chain: [self], leaf: self, authorities: [], now: 0)
        guard sentences.refusalOfUsage() != nil else { return nil }
        return "may not be used to sign for IKE (keyUsage, extendedKeyUsage); issue it anew"
    }

    public var validity: Validity { Validity(subject: subject, notBefore: notBefore, notAfter: notAfter) }

    /// From when to when, and what that means now.
    public struct Validity: Hashable, Sendable {
        public var subject: String
        /// Seconds since 1970.
        public var notBefore: Int64
        public var notAfter: Int64

        public init(subject: String, notBefore: Int64, notAfter: Int64) {
            (self.subject, self.notBefore, self.notAfter) = (subject, notBefore, notAfter)
        }

        public var notBeforeText: String { CalendarTime.text(notBefore) }
        public var notAfterText: String { CalendarTime.text(notAfter) }

        /// What is to be told, to go on after the file's name; nil when it is valid for more than 30 days.
        public func notice(now: Int64) -> String? {
            let name = "holds `\(subject)`, which"
            if now < notBefore { return "\(name) is valid from \(notBeforeText) on; compare the clock" }
            let left = notAfter - now
            if left <= 0 { return "\(name) expired on \(notAfterText); get a new one" }
            guard left < CertificateTrust.expiryNotice else { return nil }
            return "\(name) expires on \(notAfterText), in \(CalendarTime.span(left)); get a new one by then"
        }
    }
}
