import COpenSSL
import Crypto
import Foundation
import IKE
import IPsec
import Testing

/// 2026-01-01 00:00:00 UTC: when it is now in these tests.
let testTime: Int64 = 1_767_225_600
let day: Int64 = 86_400

/// `[("C", "DE"), ("CN", "west")]` as an X.501 Name in DER.
func distinguishedName(_ parts: [(String, String)], type: Int32 = MBSTRING_FLAG | 0) -> [UInt8] {
    let name = X509_NAME_new()
    defer { X509_NAME_free(name) }
    for (key, value) in parts {
        X509_NAME_add_entry_by_txt(name, key, type, Array(value.utf8), Int32(value.utf8.count), -1, 0)
    }
    var start: UnsafeMutablePointer<UInt8>?
    let count = i2d_X509_NAME(name, &start)
    defer { culvert_openssl_free(start) }
    return Array(UnsafeBufferPointer(start: start, count: Int(count)))
}

/// A certificate authority of the tests: issues what its caller wants, right or wrong.
final class Authority {
    let certificate: Certificate
    let key: OpenSSLSigningKey

    init(
        _ name: String = "Test CA", kind: PublicKeyKind = .ecdsaP256, under parent: Authority? = nil,
        _ change: (inout CertificateTemplate) -> Void = { _ in }
    ) throws {
        key = try OpenSSLSigningKey(generating: kind)
        var template = CertificateTemplate(
            subject: distinguishedName([("O", "Example"), ("CN", name)]), notBefore: testTime - 100 * day,
            notAfter: testTime + 1000 * day, authority: .init())
        change(&template)
        certificate = try template.issue(
            subjectPublicKeyInfo: key.subjectPublicKeyInfo, issuer: parent?.certificate, key: parent?.key ?? key)
    }

    /// For `west.example`, valid for a year around the tests' time, unless `change` says otherwise.
    func issue(
        _ name: String = "west", kind: PublicKeyKind = .ecdsaP256, key: OpenSSLSigningKey? = nil,
        _ change: (inout CertificateTemplate) -> Void = { _ in }
    ) throws -> Certificate {
        var template = CertificateTemplate(
            subject: distinguishedName([("C", "DE"), ("O", "Example"), ("CN", name)]), notBefore: testTime - 10 * day,
            notAfter: testTime + 355 * day)
        template.alternativeNames = [.dns("\(name).example"), .email("admin@\(name).example"), .address([192, 0, 2, 2])]
        change(&template)
        let publicKey = try (key ?? OpenSSLSigningKey(generating: kind)).subjectPublicKeyInfo
        return try template.issue(subjectPublicKeyInfo: publicKey, issuer: certificate, key: self.key)
    }

    func revocationList(
        _ revoked: [(Certificate, RevocationReason?)] = [], number: UInt64 = 1, at: Int64 = testTime - day,
        until: Int64 = testTime + 7 * day
    ) throws -> RevocationList {
        try RevocationList.issue(
            by: certificate, key: key,
            entries: revoked.map { .init(serialNumber: $0.serialNumber, revokedAt: testTime - 2 * day, reason: $1) },
            number: number, thisUpdate: at, nextUpdate: until)
    }

    func trust(
        lists: [String] = [], pinned: [Certificate] = [], ocsp: RevocationPolicy.OCSP = .off,
        revocation: RevocationPolicy.Lists = .relaxed, now: Int64 = testTime
    ) -> CertificateTrust {
        CertificateTrust(
            authorities: [certificate], pinned: pinned, revocationLists: lists, policy: .init(ocsp: ocsp, lists: revocation),
            now: { now })
    }
}

extension CertificateTrust {
    func peer(
        _ chain: [Certificate], _ identity: Identity = .fqdn("west.example"), lists: [RevocationList] = [],
        answer: [UInt8]? = nil, carried: [[UInt8]] = []
    ) throws(CertificateRefusal) -> TrustedPeer {
        try evaluate(
            certificates: chain.map(\.der), identity: identity, revocationLists: lists.map(\.der),
            ocspResponses: OCSPResponses(carried: carried, answer: answer))
    }

    /// The refusal, which must be there; its sentence must have all of `words`.
    func refusal(
        _ chain: [Certificate], _ identity: Identity = .fqdn("west.example"), lists: [RevocationList] = [],
        answer: [UInt8]? = nil, says words: String..., sourceLocation: SourceLocation = #_sourceLocation
    ) -> CertificateRefusal.Kind? {
        do throws(CertificateRefusal) {
            _ = try peer(chain, identity, lists: lists, answer: answer)
            return nil
        } catch {
            for word in words { #expect(error.sentence.contains(word), "\(error.sentence)", sourceLocation: sourceLocation) }
            #expect(error.sentence.hasSuffix("."), "\(error.sentence)", sourceLocation: sourceLocation)
            return error.kind
        }
    }
}

/// A folder that goes away with the test.
final class Folder {
    let path: String

    init() throws {
        path = NSTemporaryDirectory() + "culvert-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    @discardableResult
    func write(_ name: String, _ bytes: some Sequence<UInt8>) throws -> String {
        let file = "\(path)/\(name)"
        try Data(bytes).write(to: URL(fileURLWithPath: file))
        return file
    }

    func read(_ name: String) throws -> [UInt8] { try Array(Data(contentsOf: URL(fileURLWithPath: "\(path)/\(name)"))) }
}
