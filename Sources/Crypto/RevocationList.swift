internal import COpenSSL
internal import Synchronization

/// A certificate revocation list. RFC 5280 §5. Immutable but for what is remembered of its signature.
public final class RevocationList: @unchecked Sendable {
    /// Lists in one file.
    public static let maxPerFile = 64
    /// Keys that its signature was tried with, and that are remembered.
    private static let maxSigners = 16

    public let issuer: String
    public let der: [UInt8]
    /// Seconds since 1970; `nextUpdate` is nil when the list does not say.
    public let thisUpdate: Int64
    public let nextUpdate: Int64?
    /// It says only what has changed since the list of the number `baseNumber`. RFC 5280 §5.2.4.
    public let isDelta: Bool
    /// cRLNumber, big-endian without leading zeros; nil when there is none.
    public let number: [UInt8]?
    let baseNumber: [UInt8]?
    /// X.501 Name in DER.
    let issuerName: [UInt8]
    /// What the issuing distribution point says, in DER; nil: everything that the issuer has issued.
    let scope: [UInt8]?
    let authorityKeyIdentifier: [UInt8]?
    /// Why it cannot be used at all, to go on after its name; nil when it can.
    public let fault: String?
    /// X509_CRL, not changed after `init`.
    let handle: OpaquePointer
    /// Verifying takes as long as the list is: once per key. SubjectPublicKeyInfo to verdict.
    private let signers = Mutex<[[UInt8]: Bool]>([:])

    /// From DER with nothing behind it. The signature is checked where the list is used.
    public init(der: [UInt8]) throws(CredentialError) {
        let handle = decoded(der) {
            d2i_X509_CRL(nil, $0, $1)
        } free: {
            X509_CRL_free($0)
        }
        guard let handle else { throw CredentialError("holds no revocation list that can be read") }
        (self.der, self.handle) = (der, handle)
        issuer = nameText(X509_CRL_get_issuer(handle))
        issuerName = nameDER(X509_CRL_get_issuer(handle))
        thisUpdate = culvert_time(X509_CRL_get0_lastUpdate(handle))
        let next = culvert_time(X509_CRL_get0_nextUpdate(handle))
        nextUpdate = next == Int64.min ? nil : next
        isDelta = culvert_list_is_delta(handle) == 1
        number = Self.octets { culvert_list_number(handle, 0, $0) }.map(Self.normalized)
        baseNumber = Self.octets { culvert_list_number(handle, 1, $0) }.map(Self.normalized)
        scope = Self.octets { culvert_list_scope(handle, $0) }
        authorityKeyIdentifier = Self.octets { culvert_list_authority(handle, $0) }
        switch culvert_list_check(handle) {
        case culvert_list_good: fault = nil
        case culvert_list_unknown_extension: fault = "has a critical extension that is not understood here"
        case culvert_list_unknown_entry_extension: fault = "has entries with a critical extension that is not understood here"
        default: fault = "has an extension that cannot be read"
        }
    }

    deinit { X509_CRL_free(handle) }

    private static func octets(_ read: (UnsafeMutablePointer<Int32>) -> UnsafeMutablePointer<UInt8>?) -> [UInt8]? {
        var count: Int32 = 0
        guard let start = read(&count) else { return nil }
        defer { culvert_openssl_free(start) }
        return Array(UnsafeBufferPointer(start: start, count: Int(max(0, count))))
    }

    private static func normalized(_ number: [UInt8]) -> [UInt8] { Array(number.drop { $0 == 0 }) }

    /// The lists of a PEM file, or the one of a DER file.
    public static func read(file path: String) throws(CredentialError) -> [RevocationList] {
        try readAll(file: path).lists
    }

    /// With the certificates of those who signed the lists, when they are others than the CAs: a PEM file may have them.
    static func readAll(file path: String) throws(CredentialError) -> (lists: [RevocationList], signers: [Certificate]) {
        let contents = try CredentialFile.contents(path: path, maxBytes: CredentialFile.maxRevocationListBytes)
        let isDER = contents.first == 0x30
        let encoded = isDER ? [contents] : PEM.blocks(contents, label: "X509 CRL")
        guard !encoded.isEmpty else { throw CredentialError("holds no `X509 CRL`") }
        guard encoded.count <= maxPerFile else { throw CredentialError("holds more than \(maxPerFile) revocation lists") }
        var result: (lists: [RevocationList], signers: [Certificate]) = ([], [])
        for der in encoded { result.lists.append(try RevocationList(der: der)) }
        let certificates = isDER ? [] : PEM.blocks(contents, label: "CERTIFICATE")
        guard certificates.count <= maxPerFile else { throw CredentialError("holds more than \(maxPerFile) certificates") }
        for der in certificates { result.signers.append(try Certificate(der: der)) }
        return result
    }

    /// One revoked certificate.
    public struct Entry: Hashable, Sendable {
        /// Hexadecimal digits.
        public var serialNumber: String
        /// Seconds since 1970.
        public var revokedAt: Int64
        public var reason: RevocationReason?
        public init(serialNumber: String, revokedAt: Int64, reason: RevocationReason?) {
            (self.serialNumber, self.revokedAt, self.reason) = (serialNumber, revokedAt, reason)
        }
    }

    public var entries: [Entry] {
        guard let revoked = X509_CRL_get_REVOKED(handle) else { return [] }
        return (0..<OPENSSL_sk_num(revoked)).compactMap { index in
            guard let entry = OPENSSL_sk_value(revoked, index).map({ OpaquePointer($0) }) else { return nil }
            return Entry(
                serialNumber: hexadecimal(string(X509_REVOKED_get0_serialNumber(entry))),
                revokedAt: culvert_time(X509_REVOKED_get0_revocationDate(entry)),
                reason: RevocationReason(rawValue: culvert_crl_reason(entry)))
        }
    }

    /// Named and signed by this CA.
    public func isIssued(by issuer: Certificate) -> Bool {
        guard X509_NAME_cmp(X509_CRL_get_issuer(handle), X509_get_subject_name(issuer.handle)) == 0 else { return false }
        return isSigned(by: issuer)
    }

    /// Whether the signature is one by this certificate's key, whatever its name.
    func isSigned(by signer: Certificate) -> Bool {
        let key = signer.subjectPublicKeyInfo
        if let known = signers.withLock({ $0[key] }) { return known }
        let isGood = X509_CRL_verify(handle, X509_get0_pubkey(signer.handle)) == 1
        ERR_clear_error()
        signers.withLock { if $0.count < Self.maxSigners { $0[key] = isGood } }
        return isGood
    }

    /// By name, key identifier and key usage; the signature is not looked at.
    func mayBeSigned(by signer: Certificate) -> Bool { culvert_list_may_be_signed(handle, signer.handle) == 1 }

    /// It is of the certificate's issuer, or of whom the certificate names for its revocation.
    func concerns(_ certificate: Certificate) -> Bool { culvert_list_concerns(handle, certificate.handle) == 1 }

    /// The reasons for which it would name the certificate, as bits; none when the certificate is not in its scope.
    func reasons(for certificate: Certificate) -> UInt32 { culvert_list_reasons(handle, certificate.handle) }
    static let allReasons = UInt32(culvert_all_reasons)

    enum Mention { case none, removed, revoked(at: Int64, reason: Int32) }

    func mention(of certificate: Certificate) -> Mention {
        var (reason, revokedAt) = (Int32(-1), Int64.min)
        switch culvert_list_entry(handle, certificate.handle, &reason, &revokedAt) {
        case 0: return .none
        case 2: return .removed
        default: return .revoked(at: revokedAt, reason: reason)
        }
    }

    func isCurrent(_ now: Int64) -> Bool { thisUpdate <= now && nextUpdate.map { now < $0 } ?? true }

    /// Of two lists about the same, this is the one from before: by number, or without one by date.
    func precedes(_ other: RevocationList) -> Bool {
        if let number, let theirs = other.number, number != theirs { return Self.isLess(number, theirs) }
        return thisUpdate < other.thisUpdate
    }

    /// In number or date: an issuer lets neither go back.
    func isBehind(_ other: RevocationList) -> Bool {
        if let number, let theirs = other.number, Self.isLess(number, theirs) { return true }
        return thisUpdate < other.thisUpdate
    }

    /// "the CRL number of the complete CRL is equal to or greater than the BaseCRLNumber specified in the delta CRL … [and] less
    /// than the CRL number of the delta CRL". RFC 5280 §5.2.4 (c) and (d).
    func completes(_ base: RevocationList) -> Bool {
        guard let ours = number, let needed = baseNumber, let theirs = base.number, isAboutTheSame(as: base) else { return false }
        return !Self.isLess(theirs, needed) && Self.isLess(theirs, ours)
    }

    /// The same issuer, signing key and scope.
    func isAboutTheSame(as other: RevocationList) -> Bool {
        issuerName == other.issuerName && scope == other.scope && authorityKeyIdentifier == other.authorityKeyIdentifier
    }

    static func isLess(_ a: [UInt8], _ b: [UInt8]) -> Bool {
        a.count != b.count ? a.count < b.count : a.lexicographicallyPrecedes(b)
    }

    public var thisUpdateText: String { CalendarTime.text(thisUpdate) }
    public var nextUpdateText: String { nextUpdate.map { CalendarTime.text($0) } ?? "never" }
}

/// Why a certificate was revoked. RFC 5280 §5.3.1.
public enum RevocationReason: Int32, CaseIterable, Sendable {
    case unspecified = 0
    case keyCompromise = 1
    case caCompromise = 2
    case affiliationChanged = 3
    case superseded = 4
    case cessationOfOperation = 5
    case certificateHold = 6
    case privilegeWithdrawn = 9

    public var text: String {
        switch self {
        case .unspecified: "unspecified"
        case .keyCompromise: "key-compromise"
        case .caCompromise: "ca-compromise"
        case .affiliationChanged: "affiliation-changed"
        case .superseded: "superseded"
        case .cessationOfOperation: "cessation-of-operation"
        case .certificateHold: "certificate-hold"
        case .privilegeWithdrawn: "privilege-withdrawn"
        }
    }
}
