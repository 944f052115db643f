internal import COpenSSL
public import IKE

/// What a new certificate is to say. RFC 5280, with what RFC 4945 asks of certificates for IKE.
public struct CertificateTemplate: Sendable {
    /// X.501 Name, DER.
    public var subject: [UInt8]
    public var alternativeNames: [AlternativeName] = []
    /// Seconds since 1970.
    public var notBefore: Int64
    public var notAfter: Int64
    /// nil: an end entity.
    public var authority: Authority?
    /// Names of RFC 5280 §4.2.1.3 as in x509v3_config(5); empty: no keyUsage.
    public var keyUsage: [String]
    /// Names or object identifiers; empty: no extendedKeyUsage, which RFC 4945 §5.1.3.12 prefers.
    public var extendedKeyUsage: [String] = []
    /// `http://` address of an OCSP responder.
    public var ocspResponder: String?
    /// URL of the revocation list.
    public var revocationListURL: String?
    /// Further extensions: libcrypto's names, values as in x509v3_config(5).
    public var extensions: [(name: String, value: String)] = []
    /// nil: the one that fits the issuer's key.
    public var hash: SignatureHash?
    /// Network order, at most 20 octets; nil: 16 random ones.
    public var serialNumber: [UInt8]?

    public struct Authority: Hashable, Sendable {
        /// How many further CAs may stand between this one and an end entity; nil: any number.
        public var pathLength: Int?
        public init(pathLength: Int? = nil) { self.pathLength = pathLength }
    }

    public init(subject: [UInt8], notBefore: Int64, notAfter: Int64, authority: Authority? = nil) {
        (self.subject, self.notBefore, self.notAfter, self.authority) = (subject, notBefore, notAfter, authority)
        keyUsage = authority == nil ? ["digitalSignature"] : ["keyCertSign", "cRLSign"]
    }

    /// A certificate for the public key `subjectPublicKeyInfo`.
    /// - Parameter issuer: nil: it signs itself with `key`.
    public func issue(
        subjectPublicKeyInfo: [UInt8], issuer: Certificate?, key: OpenSSLSigningKey
    ) throws(CredentialError) -> Certificate {
        let failure = { CredentialError(libraryClause("cannot be made")) }
        guard let certificate = X509_new() else { throw failure() }
        defer { X509_free(certificate) }
        let publicKey = try OpenSSLVerifyingKey(subjectPublicKeyInfo: subjectPublicKeyInfo)
        let name = decoded(subject, { d2i_X509_NAME(nil, $0, $1) }, free: { X509_NAME_free($0) })
        defer { X509_NAME_free(name) }
        guard let name, X509_set_version(certificate, Int(X509_VERSION_3)) == 1, X509_set_subject_name(certificate, name) == 1,
            X509_set_issuer_name(certificate, issuer.map { X509_get_subject_name($0.handle) } ?? name) == 1,
            culvert_set_validity(certificate, notBefore, notAfter) == 1, X509_set_pubkey(certificate, publicKey.key) == 1,
            setSerialNumber(of: certificate)
        else { throw failure() }
        try addExtensions(to: certificate, issuer: issuer?.handle ?? certificate)
        guard X509_sign(certificate, key.key, digest(for: key)) > 0, let der = encoded({ i2d_X509(certificate, $0) }) else {
            throw failure()
        }
        return try Certificate(der: der)
    }

    private func setSerialNumber(of certificate: OpaquePointer) -> Bool {
        // RFC 5280 §4.1.2.2: positive, at most 20 octets; unpredictable ones make forged collisions useless.
        var octets = serialNumber ?? SystemRandom().bytes(16)
        if serialNumber == nil { octets[0] = octets[0] & 0x3F | 0x40 }
        guard (1...20).contains(octets.count), let number = culvert_integer(octets, Int32(octets.count)) else { return false }
        defer { ASN1_INTEGER_free(number) }
        return X509_set_serialNumber(certificate, number) == 1
    }

    private func addExtensions(to certificate: OpaquePointer, issuer: OpaquePointer) throws(CredentialError) {
        var wanted: [(Int32, String)] = []
        if let authority {
            wanted.append((NID_basic_constraints, "critical,CA:TRUE" + (authority.pathLength.map { ",pathlen:\($0)" } ?? "")))
        }
        if !keyUsage.isEmpty { wanted.append((NID_key_usage, "critical," + keyUsage.joined(separator: ","))) }
        if !extendedKeyUsage.isEmpty { wanted.append((NID_ext_key_usage, extendedKeyUsage.joined(separator: ","))) }
        wanted.append((NID_subject_key_identifier, "hash"))
        if issuer != certificate { wanted.append((NID_authority_key_identifier, "keyid")) }
        if let ocspResponder { wanted.append((NID_info_access, "OCSP;URI:\(try Self.checked(ocspResponder))")) }
        if let url = revocationListURL { wanted.append((NID_crl_distribution_points, "URI:\(try Self.checked(url))")) }
        for (name, value) in extensions { wanted.append((OBJ_txt2nid(name), value)) }
        for (identifier, value) in wanted where culvert_add_extension(certificate, issuer, identifier, value) != 1 {
            throw CredentialError(libraryClause("cannot have the extension \(value)"))
        }
        try addAlternativeNames(to: certificate)
    }

    /// The syntax of extensions knows commas and semicolons.
    private static func checked(_ url: String) throws(CredentialError) -> String {
        guard url.utf8.allSatisfy({ isGraphic($0) && $0 != UInt8(ascii: ",") && $0 != UInt8(ascii: ";") }) else {
            throw CredentialError("cannot have the address \(url): no blanks, commas and semicolons, please")
        }
        return url
    }

    private func addAlternativeNames(to certificate: OpaquePointer) throws(CredentialError) {
        guard !alternativeNames.isEmpty else { return }
        guard let names = OPENSSL_sk_new_null() else { throw CredentialError(libraryClause("cannot be made")) }
        defer { GENERAL_NAMES_free(names) }
        for name in alternativeNames {
            let (type, octets): (Int32, [UInt8]) =
                switch name {
                case .dns(let text): (GEN_DNS, Array(text.utf8))
                case .email(let text): (GEN_EMAIL, Array(text.utf8))
                case .uri(let text): (GEN_URI, Array(text.utf8))
                case .address(let octets): (GEN_IPADD, octets)
                case .directory(let der, _): (GEN_DIRNAME, der)
                }
            guard culvert_add_general_name(names, type, octets, Int32(octets.count)) == 1 else {
                throw CredentialError(libraryClause("cannot have the name \(name)"))
            }
        }
        // RFC 5280 §4.1.2.6: critical when the subject is empty.
        guard culvert_set_alternative_names(certificate, names, subject.count <= 2 ? 1 : 0) == 1 else {
            throw CredentialError(libraryClause("cannot have these names"))
        }
    }

    private func digest(for key: OpenSSLSigningKey) -> OpaquePointer? { key.digest(preferring: hash) }
}

extension OpenSSLSigningKey {
    /// EVP_MD to sign certificates and lists with: as strong as the key, nil for EdDSA.
    fileprivate func digest(preferring hash: SignatureHash?) -> OpaquePointer? {
        switch (kind, hash) {
        case (.ed25519, _), (.ed448, _): nil
        case (_, .sha1): EVP_sha1()
        case (_, .sha256), (.rsa, nil), (.ecdsaP256, nil), (.rsa, .identity), (.ecdsaP256, .identity): EVP_sha256()
        case (_, .sha384), (.ecdsaP384, _): EVP_sha384()
        case (_, .sha512), (.ecdsaP521, _): EVP_sha512()
        }
    }
}

extension RevocationList {
    /// A list of `issuer`'s, signed with its key.
    /// - Parameters:
    ///   - thisUpdate: seconds since 1970, like `nextUpdate`.
    public static func issue(
        by issuer: Certificate, key: OpenSSLSigningKey, entries: [Entry], number: UInt64, thisUpdate: Int64, nextUpdate: Int64
    ) throws(CredentialError) -> RevocationList {
        let failure = { CredentialError(libraryClause("cannot be made")) }
        guard let list = X509_CRL_new() else { throw failure() }
        defer { X509_CRL_free(list) }
        guard X509_CRL_set_version(list, Int(X509_CRL_VERSION_2)) == 1,
            X509_CRL_set_issuer_name(list, X509_get_subject_name(issuer.handle)) == 1,
            culvert_set_updates(list, thisUpdate, nextUpdate) == 1
        else { throw failure() }
        for entry in entries {
            guard let serial = octets(hexadecimal: entry.serialNumber),
                culvert_add_revoked(list, serial, Int32(serial.count), entry.revokedAt, entry.reason?.rawValue ?? -1) == 1
            else { throw failure() }
        }
        guard culvert_finish_list(list, issuer.handle, number) == 1,
            X509_CRL_sign(list, key.key, key.digest(preferring: nil)) > 0, let der = encoded({ i2d_X509_CRL(list, $0) })
        else { throw failure() }
        return try RevocationList(der: der)
    }
}

/// nil: an odd number of digits, or something else.
func octets(hexadecimal text: String) -> [UInt8]? {
    let digits = text.utf8.map { Character(Unicode.Scalar($0)).hexDigitValue }
    guard !digits.isEmpty, digits.count % 2 == 0 else { return nil }
    var result: [UInt8] = []
    for index in stride(from: 0, to: digits.count, by: 2) {
        guard let high = digits[index], let low = digits[index + 1] else { return nil }
        result.append(UInt8(high * 16 + low))
    }
    return result
}
