internal import COpenSSL
internal import Wire

/// An X.509 certificate (RFC 5280). Immutable; libcrypto parsed it, and every octet of it is somebody else's.
public final class Certificate: @unchecked Sendable, Hashable {
    /// A longer one is refused unread; real ones take one to three KiB.
    public static let maxBytes = 16 * 1024
    /// Certificates in one file.
    public static let maxPerFile = 1024

    public let der: [UInt8]
    /// Subject and issuer as `C=DE, O=Example, CN=west`, everything but printable ASCII escaped, bounded.
    public let subject: String
    public let issuer: String
    /// Seconds since 1970.
    public let notBefore: Int64
    public let notAfter: Int64
    public let alternativeNames: [AlternativeName]
    /// X509, not changed after `init`.
    let handle: OpaquePointer

    /// From DER with nothing behind it.
    public init(der: [UInt8]) throws(CredentialError) {
        guard der.count <= Self.maxBytes else { throw CredentialError("holds a certificate of more than \(Self.maxBytes) bytes") }
        let handle = decoded(der) {
            d2i_X509(nil, $0, $1)
        } free: {
            X509_free($0)
        }
        guard let handle else { throw CredentialError("holds no certificate that can be read") }
        do throws(CredentialError) {
            // libcrypto reads extensions when it is first asked for one, and then says whether they can be read.
            guard X509_get_extension_flags(handle) & UInt32(EXFLAG_INVALID) == 0 else {
                throw CredentialError("holds a certificate whose extensions cannot be read")
            }
            (notBefore, notAfter) = (culvert_time(X509_get0_notBefore(handle)), culvert_time(X509_get0_notAfter(handle)))
            guard notBefore != Int64.min, notAfter != Int64.min else {
                throw CredentialError("holds a certificate whose validity cannot be read")
            }
            alternativeNames = try AlternativeName.all(of: handle)
        } catch {
            X509_free(handle)
            throw error
        }
        (self.der, self.handle) = (der, handle)
        subject = nameText(X509_get_subject_name(handle))
        issuer = nameText(X509_get_issuer_name(handle))
    }

    deinit { X509_free(handle) }

    /// The certificates of a PEM file, or the one of a DER file.
    public static func read(file path: String) throws(CredentialError) -> [Certificate] {
        let contents = try CredentialFile.contents(path: path, maxBytes: CredentialFile.maxCertificateBytes)
        let encoded = contents.first == 0x30 ? [contents] : PEM.blocks(contents, label: "CERTIFICATE")
        guard !encoded.isEmpty else { throw CredentialError("holds no `CERTIFICATE`") }
        guard encoded.count <= maxPerFile else { throw CredentialError("holds more than \(maxPerFile) certificates") }
        var result: [Certificate] = []
        for der in encoded { result.append(try Certificate(der: der)) }
        return result
    }

    public static func == (a: Certificate, b: Certificate) -> Bool { a.der == b.der }
    public func hash(into hasher: inout Hasher) { hasher.combine(der) }

    // MARK: What it says

    /// The public key, if it is one that signs and is not weak.
    public func publicKey() throws(CredentialError) -> OpenSSLVerifyingKey {
        guard let key = X509_get0_pubkey(handle) else {
            ERR_clear_error()
            throw CredentialError("holds a key that cannot be read")
        }
        return try OpenSSLVerifyingKey(sharing: key)
    }

    /// SubjectPublicKeyInfo, DER.
    public var subjectPublicKeyInfo: [UInt8] {
        let key = X509_get_X509_PUBKEY(handle)
        return encoded { i2d_X509_PUBKEY(key, $0) } ?? []
    }

    /// X.501 Name, DER: what ID_DER_ASN1_DN carries.
    public var subjectName: [UInt8] { nameDER(X509_get_subject_name(handle)) }
    public var issuerName: [UInt8] { nameDER(X509_get_issuer_name(handle)) }

    /// Hexadecimal digits, two per octet.
    public var serialNumber: String { hexadecimal(string(X509_get0_serialNumber(handle))) }

    /// basicConstraints says that it is a CA.
    public var isAuthority: Bool { X509_check_ca(handle) == 1 }

    /// Its own issuer, by name and key.
    public var isSelfSigned: Bool { X509_get_extension_flags(handle) & UInt32(EXFLAG_SS) != 0 }

    /// The bits of RFC 5280 §4.2.1.3 as libcrypto numbers them (KU_…); nil: no such extension, anything goes.
    var keyUsage: UInt32? {
        let bits = X509_get_key_usage(handle)
        return bits == UInt32.max ? nil : bits
    }

    /// Object identifiers of extendedKeyUsage in dotted form; nil: no such extension.
    public var extendedKeyUsage: [String]? {
        guard let usages = X509_get_ext_d2i(handle, NID_ext_key_usage, nil, nil) else { return nil }
        let stack = OpaquePointer(usages)
        defer { culvert_objects_free(stack) }
        return (0..<OPENSSL_sk_num(stack)).compactMap { index in
            var text = [CChar](repeating: 0, count: 128)
            let object = OPENSSL_sk_value(stack, index).map { OpaquePointer($0) }
            return OBJ_obj2txt(&text, Int32(text.count), object, 1) > 0 ? cString(text) : nil
        }
    }

    public var subjectKeyIdentifier: [UInt8]? { X509_get0_subject_key_id(handle).map { string($0) } }

    /// The `http://` addresses of OCSP responders that the issuer named, at most four. RFC 5280 §4.2.2.1.
    public var ocspResponders: [String] {
        guard let addresses = X509_get1_ocsp(handle) else { return [] }
        defer { X509_email_free(addresses) }
        let all = (0..<OPENSSL_sk_num(addresses)).compactMap { index in
            OPENSSL_sk_value(addresses, index).map { String(cString: $0.assumingMemoryBound(to: CChar.self)) }
        }
        return Array(all.filter { $0.hasPrefix("http://") && $0.utf8.count <= 256 && $0.utf8.allSatisfy(isGraphic) }.prefix(4))
    }

    /// `sha256WithRSAEncryption`, `ecdsa-with-SHA384`, `ED25519`.
    public var signatureAlgorithm: String {
        guard let name = OBJ_nid2ln(X509_get_signature_nid(handle)) else { return "unknown" }
        return String(cString: name)
    }

    /// Whether the subject is this X.501 Name: attribute by attribute, strings without regard to case and repeated blanks
    /// (RFC 5280 §7.1).
    func hasSubject(_ name: [UInt8]) -> Bool {
        guard let other = decoded(name, { d2i_X509_NAME(nil, $0, $1) }, free: { X509_NAME_free($0) }) else { return false }
        defer { X509_NAME_free(other) }
        return X509_NAME_cmp(X509_get_subject_name(handle), other) == 0
    }

    /// By name and key identifiers; the signature is not looked at.
    public func isIssued(by issuer: Certificate) -> Bool { X509_check_issued(issuer.handle, handle) == X509_V_OK }
}

/// One entry of subjectAltName. RFC 5280 §4.2.1.6.
public enum AlternativeName: Hashable, Sendable, CustomStringConvertible {
    static let most = 256

    case dns(String)
    case email(String)
    case uri(String)
    /// 4 or 16 octets.
    case address([UInt8])
    /// X.501 Name in DER, and as text.
    case directory([UInt8], text: String)

    static func all(of certificate: OpaquePointer) throws(CredentialError) -> [AlternativeName] {
        var critical: Int32 = 0
        guard let value = X509_get_ext_d2i(certificate, NID_subject_alt_name, &critical, nil) else {
            ERR_clear_error()
            // -1: there is none; otherwise it is malformed or there are several.
            guard critical == -1 else { throw CredentialError("holds a certificate whose subjectAltName cannot be read") }
            return []
        }
        let names = OpaquePointer(value)
        defer { GENERAL_NAMES_free(names) }
        guard OPENSSL_sk_num(names) <= most else { throw CredentialError("holds a certificate with more than \(most) names") }
        return (0..<OPENSSL_sk_num(names)).compactMap { one(names, $0) }
    }

    private static func one(_ names: OpaquePointer, _ index: Int32) -> AlternativeName? {
        var start: UnsafePointer<UInt8>?
        var count: Int32 = 0
        var directory: OpaquePointer?
        let type = culvert_general_name(names, index, &start, &count, &directory)
        if let directory { return .directory(nameDER(directory), text: nameText(directory)) }
        guard let start, count > 0 else { return nil }
        let octets = Array(UnsafeBufferPointer(start: start, count: Int(count)))
        if type == GEN_IPADD { return octets.count == 4 || octets.count == 16 ? .address(octets) : nil }
        // IA5String. A zero octet or a blank inside a name is a trick, never a name.
        guard octets.allSatisfy(isGraphic) else { return nil }
        let text = String(decoding: octets, as: UTF8.self)
        switch type {
        case GEN_DNS: return .dns(text)
        case GEN_EMAIL: return .email(text)
        case GEN_URI: return .uri(text)
        default: return nil
        }
    }

    public var description: String {
        switch self {
        case .dns(let text), .email(let text), .uri(let text): bounded(text)
        case .address(let octets): addressText(octets)
        case .directory(_, let text): text
        }
    }
}

// MARK: Small change

/// Runs a `d2i_…` function; nil also when octets are left over.
func decoded(
    _ der: [UInt8], _ decode: (UnsafeMutablePointer<UnsafePointer<UInt8>?>, Int) -> OpaquePointer?, free: (OpaquePointer) -> Void
) -> OpaquePointer? {
    defer { ERR_clear_error() }
    return der.withUnsafeBufferPointer { buffer in
        var cursor = buffer.baseAddress
        guard let start = cursor, let object = decode(&cursor, buffer.count) else { return nil }
        guard cursor == start + buffer.count else { free(object); return nil }
        return object
    }
}

/// The octets of an ASN1_STRING.
func string(_ string: UnsafePointer<ASN1_STRING>?) -> [UInt8] {
    var count: Int32 = 0
    guard let start = culvert_string(string, &count), count > 0 else { return [] }
    return Array(UnsafeBufferPointer(start: start, count: Int(count)))
}

func nameDER(_ name: OpaquePointer?) -> [UInt8] { encoded { i2d_X509_NAME(name, $0) } ?? [] }

/// The name for people; `(empty)` when it has no parts.
func nameText(_ name: OpaquePointer?) -> String {
    guard let name, X509_NAME_entry_count(name) > 0, let bio = BIO_new(BIO_s_mem()) else { return "(empty)" }
    defer {
        BIO_free(bio)
        ERR_clear_error()
    }
    guard culvert_print_name(bio, name) >= 0 else { return "(unreadable)" }
    var start: UnsafeMutablePointer<CChar>?
    let count = culvert_bio_memory(bio, &start)
    guard let start, count > 0 else { return "(empty)" }
    return bounded(String(decoding: UnsafeRawBufferPointer(start: start, count: count), as: UTF8.self))
}

func bounded(_ text: String) -> String {
    let most = 256
    return text.utf8.count <= most ? text : String(decoding: text.utf8.prefix(most), as: UTF8.self) + "…"
}

func isGraphic(_ octet: UInt8) -> Bool { octet > 0x20 && octet < 0x7F }

func cString(_ text: [CChar]) -> String {
    String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
}

func hexadecimal(_ octets: [UInt8]) -> String {
    let digits = Array("0123456789abcdef")
    return String(octets.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] })
}
