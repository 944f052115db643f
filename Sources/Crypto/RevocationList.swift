internal import COpenSSL
internal import Synchronization

/// A certificate revocation list. RFC 5280 §5. Immutable.
public final class RevocationList: @unchecked Sendable {
    /// Lists in one file.
    public static let maxPerFile = 64

    public let issuer: String
    public let der: [UInt8]
    /// Seconds since 1970; `nextUpdate` is nil when the list does not say.
    public let thisUpdate: Int64
    public let nextUpdate: Int64?
    /// X509_CRL, not changed after `init`.
    let handle: OpaquePointer

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
        thisUpdate = culvert_time(X509_CRL_get0_lastUpdate(handle))
        let next = culvert_time(X509_CRL_get0_nextUpdate(handle))
        nextUpdate = next == Int64.min ? nil : next
    }

    deinit { X509_CRL_free(handle) }

    /// The lists of a PEM file, or the one of a DER file.
    public static func read(file path: String) throws(CredentialError) -> [RevocationList] {
        let contents = try CredentialFile.contents(path: path, maxBytes: CredentialFile.maxRevocationListBytes)
        let encoded = contents.first == 0x30 ? [contents] : PEM.blocks(contents, label: "X509 CRL")
        guard !encoded.isEmpty else { throw CredentialError("holds no `X509 CRL`") }
        guard encoded.count <= maxPerFile else { throw CredentialError("holds more than \(maxPerFile) revocation lists") }
        var result: [RevocationList] = []
        for der in encoded { result.append(try RevocationList(der: der)) }
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
        defer { ERR_clear_error() }
        guard X509_NAME_cmp(X509_CRL_get_issuer(handle), X509_get_subject_name(issuer.handle)) == 0 else { return false }
        return X509_CRL_verify(handle, X509_get0_pubkey(issuer.handle)) == 1
    }

    public var thisUpdateText: String { CalendarTime.text(thisUpdate) }
    public var nextUpdateText: String { nextUpdate.map { CalendarTime.text($0) } ?? "never" }

    /// cRLNumber; nil when there is none.
    public var number: [UInt8]? {
        guard let value = X509_CRL_get_ext_d2i(handle, NID_crl_number, nil, nil) else { return nil }
        let number = value.assumingMemoryBound(to: ASN1_INTEGER.self)
        defer { ASN1_INTEGER_free(number) }
        return string(number)
    }
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

/// A file of revocation lists that is read again when it has changed.
final class RevocationListFile: Sendable {
    let path: String
    private struct State {
        var stamp: CredentialFile.Stamp?
        var lists: [RevocationList]
        var problem: String?
    }
    private let state: Mutex<State>

    private struct Shared { weak var file: RevocationListFile? }
    private static let files = Mutex<[String: Shared]>([:])

    /// The one for a path: a list that many connections name is read and kept once.
    static func shared(_ path: String) -> RevocationListFile {
        files.withLock { files in
            if let file = files[path]?.file { return file }
            files = files.filter { $0.value.file != nil }
            let file = RevocationListFile(path: path)
            files[path] = Shared(file: file)
            return file
        }
    }

    init(path: String) {
        self.path = path
        state = Mutex(State(stamp: nil, lists: [], problem: nil))
    }

    /// What the file holds now. When a new version cannot be read, the lists of the last good one, with a sentence.
    func current() -> (lists: [RevocationList], problem: String?) {
        state.withLock { state in
            guard let stamp = CredentialFile.Stamp(path: path) else {
                state.stamp = nil
                return (state.lists, "The revocation list \(path) is gone; put it back, or remove it from `crl`.")
            }
            guard stamp != state.stamp else { return (state.lists, state.problem) }
            do throws(CredentialError) {
                state.lists = try RevocationList.read(file: path)
                state.problem = nil
            } catch {
                state.problem = "The revocation list \(path) \(error.clause); the last good one is used."
            }
            state.stamp = stamp
            return (state.lists, state.problem)
        }
    }
}
