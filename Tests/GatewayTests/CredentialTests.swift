@testable import Gateway
import Configuration
import Crypto
import Foundation
import IKE
import IPsec
import Testing

/// Keys and certificates in files, made for the test.
final class CredentialFolder {
    /// 2026-01-01 00:00:00 UTC.
    static let now: Int64 = 1_767_225_600
    static let day: Int64 = 86_400
    let path: String
    let authority: Certificate
    let authorityKey: OpenSSLSigningKey

    init() throws {
        path = NSTemporaryDirectory() + "culvert-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        authorityKey = try OpenSSLSigningKey(generating: .ecdsaP256)
        authority = try CertificateTemplate(
            subject: Self.name("CA"), notBefore: Self.now - Self.day, notAfter: Self.now + 1000 * Self.day, authority: .init()
        ).issue(subjectPublicKeyInfo: authorityKey.subjectPublicKeyInfo, issuer: nil, key: authorityKey)
        try write("ca.pem", PEM.text("CERTIFICATE", authority.der))
        try issue("east")
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    static func name(_ common: String) -> [UInt8] { DistinguishedName("O=Example, CN=\(common)")?.der ?? [] }

    func file(_ name: String) -> String { "\(path)/\(name)" }

    func write(_ name: String, _ text: String, mode: Int = 0o600) throws {
        try Data(text.utf8).write(to: URL(fileURLWithPath: file(name)))
        try FileManager.default.setAttributes([.posixPermissions: mode], ofItemAtPath: file(name))
    }

    /// NAME.pem and NAME.key, for NAME.example.
    @discardableResult
    func issue(_ name: String, days: Int64 = 365, usage: [String] = []) throws -> OpenSSLSigningKey {
        let key = try OpenSSLSigningKey(generating: .ecdsaP256)
        var template = CertificateTemplate(
            subject: Self.name(name), notBefore: Self.now - 10 * Self.day, notAfter: Self.now + days * Self.day)
        template.alternativeNames = [.dns("\(name).example")]
        template.extendedKeyUsage = usage
        let certificate = try template.issue(
            subjectPublicKeyInfo: key.subjectPublicKeyInfo, issuer: authority, key: authorityKey)
        try write("\(name).pem", PEM.text("CERTIFICATE", certificate.der))
        let pem = try key.privatePEM().withBytes { span in span.withUnsafeBytes { String(decoding: $0, as: UTF8.self) } }
        try write("\(name).key", pem)
        return key
    }

    var local: LocalCredentials {
        LocalCredentials(method: .certificate, certificate: file("east.pem"), privateKey: file("east.key"))
    }

    func connection() -> Connection {
        var result = plainConnection()
        (result.presharedKey, result.local) = ([], local)
        result.remote = RemoteCredentials(method: .certificate, authorities: [file("ca.pem")])
        return result
    }
}

/// The connection of the other tests.
private func plainConnection() -> Connection { connection() }

@Suite("Keys and certificates in files") struct CredentialTests {
    let folder: CredentialFolder
    let inspection = CredentialInspection(now: { CredentialFolder.now })
    let loading = CredentialLoading(secret: { PlainSecret($0) }, now: { CredentialFolder.now })

    init() throws { folder = try CredentialFolder() }

    private func told(_ credentials: LocalCredentials, _ identity: Identity = .fqdn("east.example")) -> [String] {
        inspection.inspect(credentials, identity: identity).map { "\($0.key) \($0.severity.rawValue) \($0.text)" }
    }

    // MARK: What `culvert check` finds

    @Test func `Good files give no cause for words`() {
        #expect(told(folder.local) == [])
        #expect(inspection.inspect(folder.connection().remote) == [])
    }

    @Test func `A certificate for another key, or without the identity, is refused`() throws {
        try folder.issue("other")
        var mixed = folder.local
        mixed.privateKey = folder.file("other.key")
        #expect(told(mixed).count == 1 && told(mixed)[0].hasPrefix("certificate error is not for the key"))
        let strangers = told(folder.local, .fqdn("west.example"))
        #expect(strangers.count == 1 && strangers[0].hasPrefix("id error west.example is not in our certificate"))
        #expect(strangers[0].contains("east.example"))
        #expect(told(folder.local, .distinguishedName(CredentialFolder.name("east"))) == [])
    }

    @Test func `What expires within 30 days or has expired is a warning`() throws {
        try folder.issue("east", days: 29)
        #expect(
            told(folder.local).count == 1 && told(folder.local)[0].hasPrefix("certificate warning holds `O=Example, CN=east`"))
        #expect(told(folder.local)[0].contains("expires on 2026-01-30 00:00:00 UTC, in 29 days"))
        try folder.issue("east", days: -1)
        #expect(told(folder.local).count == 1 && told(folder.local)[0].contains("warning"))
        #expect(told(folder.local)[0].contains("expired on 2025-12-31"))
    }

    @Test func `A key that others can read is a warning, missing and odd files are errors`() throws {
        try FileManager.default.setAttributes([.posixPermissions: 0o640], ofItemAtPath: folder.file("east.key"))
        #expect(told(folder.local) == ["private_key warning can be read by others; `chmod 600` it"])
        try folder.write("east.key", "rubbish")
        try FileManager.default.removeItem(atPath: folder.file("east.pem"))
        #expect(told(folder.local).count == 2 && told(folder.local).allSatisfy { $0.contains(" error ") })
        try folder.issue("east", usage: ["codeSigning"])
        #expect(
            told(folder.local) == [
                "certificate error may not be used to sign for IKE (keyUsage, extendedKeyUsage); issue it anew"
            ])
    }

    @Test func `What the peer is believed by is looked into`() throws {
        try folder.write("key.pub", PEM.text("PUBLIC KEY", folder.authorityKey.subjectPublicKeyInfo))
        let old = try RevocationList.issue(
            by: folder.authority, key: folder.authorityKey, entries: [], number: 1,
            thisUpdate: CredentialFolder.now - 9 * CredentialFolder.day, nextUpdate: CredentialFolder.now - CredentialFolder.day)
        try folder.write("old.crl", PEM.text("X509 CRL", old.der))
        let findings = inspection.inspect(
            RemoteCredentials(
                method: .certificate, authorities: [folder.file("ca.pem"), folder.file("east.pem"), folder.file("key.pub")],
                certificate: folder.file("absent.pem"), publicKeys: [folder.file("key.pub"), folder.file("ca.pem")],
                revocationLists: [folder.file("old.crl"), folder.file("ca.pem")]))
        #expect(findings.count { $0.severity == .error } == 4)
        #expect(findings.contains { $0.key == "ca" && $0.severity == .warning && $0.text.contains("is not a CA") })
        #expect(findings.contains { $0.key == "crl" && $0.severity == .warning && $0.text.contains("out of date") })
        #expect(findings.contains { $0.key == "ca" && $0.severity == .error && $0.text == "holds no `CERTIFICATE`" })
        #expect(findings.contains { $0.key == "certificate" && $0.text.contains("does not exist") })
    }

    // MARK: What the core gets

    @Test func `A chain is sent without its root, and its issuers answer CERTREQ`() throws {
        let own = try String(contentsOfFile: folder.file("east.pem"), encoding: .utf8)
        try folder.write("east.pem", own + PEM.text("CERTIFICATE", folder.authority.der))
        let authentication = try loading.localAuthentication(folder.connection())
        guard case .signature(let identity) = authentication else { Issue.record("\(authentication)"); return }
        #expect(identity.certificates.count == 1 && identity.certificates[0] != folder.authority.der)
        let hash = OpenSSLCrypto().sha1(folder.authority.subjectPublicKeyInfo)
        #expect(identity.issuerKeyHashes.contains(hash))
        guard case .certificate(let trust) = try loading.remoteAuthentication(folder.connection()) else {
            Issue.record("no trust")
            return
        }
        #expect(trust.authorityKeyHashes == [hash])
        let peer = try trust.evaluate(
            certificates: identity.certificates, identity: .fqdn("east.example"), revocationLists: [], ocspResponses: [])
        #expect(peer.key.subjectPublicKeyInfo == identity.key.subjectPublicKeyInfo)
    }

    @Test func `Raw public keys and secrets by identity`() throws {
        var connection = folder.connection()
        try folder.write("peer.pub", PEM.text("PUBLIC KEY", folder.authorityKey.subjectPublicKeyInfo))
        connection.local.method = .publicKey
        connection.remote = RemoteCredentials(method: .publicKey, publicKeys: [folder.file("peer.pub")])
        guard case .signature(let identity) = try loading.localAuthentication(connection),
            case .rawPublicKeys(let keys, let trust) = try loading.remoteAuthentication(connection)
        else { Issue.record("other methods"); return }
        #expect(identity.certificates.isEmpty && keys == [folder.authorityKey.subjectPublicKeyInfo])
        #expect(trust.rawKey(keys[0])?.kind == .ecdsaP256 && trust.rawKey([1]) == nil)
        connection.local.method = .psk
        connection.presharedKey = [9]
        connection.secrets = [PeerSecret(identity: .namesBelow(".branch.example"), key: [1, 2, 3])]
        guard case .presharedKey(let secrets) = try loading.localAuthentication(connection) else {
            Issue.record("no secrets")
            return
        }
        #expect(secrets.secret(for: .fqdn("a.branch.example"))?.count == 3)
        #expect(secrets.secret(for: .fqdn("a.example"))?.count == 1)
    }

    @Test func `A connection whose files went away is told, not trapped`() throws {
        try FileManager.default.removeItem(atPath: folder.file("east.key"))
        #expect(throws: CredentialLoading.Problem.self) { try loading.localAuthentication(folder.connection()) }
        try FileManager.default.removeItem(atPath: folder.file("ca.pem"))
        do throws(CredentialLoading.Problem) {
            _ = try loading.remoteAuthentication(folder.connection())
            Issue.record("it was loaded")
        } catch {
            #expect(error.sentence.contains("west") && error.sentence.contains("ca.pem does not exist"), "\(error.sentence)")
        }
    }

    @Test func `A changed file or secret changes the fingerprint, and nothing else does`() throws {
        let crypto = OpenSSLCrypto()
        var connection = folder.connection()
        let before = loading.fingerprint(connection, crypto)
        #expect(before.count == 32 && loading.fingerprint(connection, crypto) == before)
        var seen: Set<[UInt8]> = [before]
        try folder.issue("east")
        #expect(seen.insert(loading.fingerprint(connection, crypto)).inserted)
        try folder.write("ca.pem", PEM.text("CERTIFICATE", try CredentialFolder().authority.der))
        #expect(seen.insert(loading.fingerprint(connection, crypto)).inserted)
        connection.presharedKey = [1]
        #expect(seen.insert(loading.fingerprint(connection, crypto)).inserted)
        connection.secrets = [PeerSecret(identity: .any, key: [1])]
        #expect(seen.insert(loading.fingerprint(connection, crypto)).inserted)
        connection.secrets[0].key = [2]
        #expect(seen.insert(loading.fingerprint(connection, crypto)).inserted)
        connection.secrets[0] = PeerSecret(identity: .namesBelow(".x"), key: [2])
        #expect(seen.insert(loading.fingerprint(connection, crypto)).inserted)
    }

    @Test func `The certificates that a connection needs are watched`() throws {
        try folder.issue("east", days: 20)
        let watched = loading.watched(folder.connection())
        #expect(watched.map(\.role) == ["local", "ca"] && watched.map(\.subject) == ["O=Example, CN=east", "O=Example, CN=CA"])
        #expect(watched[0].notAfterText == "2026-01-21 00:00:00 UTC")
        #expect(watched[0].notice(now: CredentialFolder.now)?.contains("in 20 days") == true)
        #expect(watched[1].notice(now: CredentialFolder.now) == nil)
    }
}
