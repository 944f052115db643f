/// Certificate encodings that are understood; the rest, hash-and-URL among them, is passed over. RFC 7296 §3.6.
package enum CertificateEncoding {
    package static let x509: UInt8 = 4
    package static let revocationList: UInt8 = 7
    /// An OCSP response, or in a CERTREQ the wish for one. RFC 4806.
    package static let ocsp: UInt8 = 14
    /// A SubjectPublicKeyInfo. RFC 7670.
    package static let rawPublicKey: UInt8 = 15
}

/// CERT and CERTREQ have the same shape: an encoding, and what it says. RFC 7296 §3.6, §3.7.
package struct CertificatePayload: Hashable, Sendable {
    package var encoding: UInt8
    package var data: [UInt8]

    package init(encoding: UInt8, data: [UInt8]) { (self.encoding, self.data) = (encoding, data) }

    init(parsing body: ArraySlice<UInt8>) throws(IKEFault) {
        var reader = OctetReader(body)
        encoding = try reader.u8("CERT: encoding")
        data = Array(reader.rest())
    }

    var encoded: [UInt8] { [encoding] + data }
}

/// What the peer asks of our proof: its CERTREQ payloads and SIGNATURE_HASH_ALGORITHMS.
package struct PeerWishes: Sendable {
    /// Nil: it does not speak RFC 7427.
    package var hashes: Set<SignatureHash>?
    /// SHA-1 of the keys of authorities that it trusts; nil: it did not say.
    package var authorities: Set<[UInt8]>?
    package var wantsOCSP = false

    package init() {}

    /// Adds what a message says. "The Certification Authority field contains a concatenated list of SHA-1 hashes of the public
    /// keys of trusted Certification Authorities (CAs)." RFC 7296 §3.7.
    mutating func add(_ payloads: PayloadList) {
        if let notify = payloads.notify(.signatureHashAlgorithms) { hashes = SignatureHash.parse(notify.data) }
        for request in payloads.certificateRequests.prefix(Bounds.certificatesPerMessage) {
            switch request.encoding {
            case CertificateEncoding.x509:
                var known = authorities ?? []
                for start in stride(from: 0, to: request.data.count, by: 20) where request.data.count - start >= 20 {
                    guard known.count < Bounds.requestedAuthorities else { break }
                    known.insert(Array(request.data[start..<start + 20]))
                }
                authorities = known
            case CertificateEncoding.ocsp: wantsOCSP = true
            default: break
            }
        }
    }

    /// Whether the peer says that it trusts none of the issuers of a certificate of ours. It may be wrong about itself, so this
    /// is a hint for the operator only.
    func distrusts(_ identity: SigningIdentity) -> Bool {
        guard let authorities, !authorities.isEmpty, !identity.issuerKeyHashes.isEmpty else { return false }
        return authorities.isDisjoint(with: identity.issuerKeyHashes)
    }
}

extension SignatureHash {
    /// Two octets each; numbers that are not known are passed over. RFC 7427 §4.
    static func parse(_ data: [UInt8]) -> Set<SignatureHash> {
        var result: Set<SignatureHash> = []
        for start in stride(from: 0, to: data.count, by: 2) where data.count - start >= 2 {
            if let hash = SignatureHash(rawValue: UInt16(data[start]) << 8 | UInt16(data[start + 1])) { result.insert(hash) }
        }
        return result
    }

    /// The notify that says which hashes we take in signatures, always the same but for SHA-1.
    static func notify(allowsSHA1: Bool) -> Payload {
        var data: [UInt8] = []
        for hash in allCases where hash != .sha1 || allowsSHA1 { data.append(u16: hash.rawValue) }
        return .notify(Notify(.signatureHashAlgorithms, data: data))
    }
}

extension RemoteAuthentication {
    /// CERTREQ payloads: which certificates of the peer would do.
    static func requests(_ methods: [RemoteAuthentication]) -> [Payload] {
        var hashes: [[UInt8]] = []
        var (wantsX509, wantsOCSP, wantsRawKey) = (false, false, false)
        for method in methods {
            switch method {
            case .certificate(let trust):
                wantsX509 = true
                wantsOCSP = wantsOCSP || trust.wantsOCSP
                hashes += trust.authorityKeyHashes.filter { $0.count == 20 && !hashes.contains($0) }
            case .rawPublicKeys: wantsRawKey = true
            case .presharedKey, .eap, .eapOnly: break
            }
        }
        var result: [Payload] = []
        if wantsX509 {
            let listed = hashes.prefix(Bounds.announcedAuthorities).flatMap(\.self)
            result.append(.certificateRequest(CertificatePayload(encoding: CertificateEncoding.x509, data: listed)))
        }
        if wantsOCSP { result.append(.certificateRequest(CertificatePayload(encoding: CertificateEncoding.ocsp, data: []))) }
        if wantsRawKey {
            // "the Certification Authority field MUST be empty if the "Raw Public Key" certificate encoding is used."
            // RFC 7670 §3.
            result.append(.certificateRequest(CertificatePayload(encoding: CertificateEncoding.rawPublicKey, data: [])))
        }
        return result
    }
}

extension SigningIdentity {
    /// CERT payloads: "If multiple certificates are sent, the first certificate MUST contain the public key associated with the
    /// private key used to sign the AUTH payload." RFC 7296 §3.6. They are sent whether they were asked for or not: a peer that
    /// holds them already passes them over, and one that forgot to ask needs them.
    func payloads(_ wishes: PeerWishes) -> [Payload] {
        guard !certificates.isEmpty else {
            let key = CertificatePayload(encoding: CertificateEncoding.rawPublicKey, data: self.key.subjectPublicKeyInfo)
            return [.certificate(key)]
        }
        var result = certificates.prefix(Bounds.certificatesPerMessage).map {
            Payload.certificate(CertificatePayload(encoding: CertificateEncoding.x509, data: $0))
        }
        if wishes.wantsOCSP, let response = revocationStatus?.current() {
            result.append(.certificate(CertificatePayload(encoding: CertificateEncoding.ocsp, data: response)))
        }
        return result
    }
}
