public import Configuration
import Crypto
import Glibc
public import IKE

/// Looks into the files that a configuration names, for `culvert check` and everybody who loads a configuration.
public struct CredentialInspection: CredentialInspector {
    /// Seconds since 1970.
    private let now: @Sendable () -> Int64

    public init(now: @escaping @Sendable () -> Int64 = CredentialInspection.timeOfDay) { self.now = now }

    public static func timeOfDay() -> Int64 { Int64(time(nil)) }

    public func inspect(_ credentials: LocalCredentials, identity: Identity) -> [CredentialFinding] {
        var findings: [CredentialFinding] = []
        var key: OpenSSLSigningKey?
        if let path = credentials.privateKey {
            findings += Self.finding("private_key", path) { () throws(CredentialError) in
                key = try OpenSSLSigningKey(file: path)
            }
            if key != nil, CredentialFile.isReadableByOthers(path: path) {
                findings.append(
                    .init(key: "private_key", path: path, severity: .warning, text: "can be read by others; `chmod 600` it"))
            }
        }
        if let path = credentials.certificate {
            var chain: [Certificate] = []
            findings += Self.finding("certificate", path) { () throws(CredentialError) in chain = try Certificate.read(file: path)
            }
            if let leaf = chain.first { findings += own(leaf, path, key, identity) }
        }
        // Something else writes it, perhaps later: peers are served without it until then.
        if case .file(let path) = credentials.ocspResponse {
            do throws(CredentialError) {
                _ = try CredentialFile.contents(path: path, maxBytes: OwnCertificateStatus.maxBytes)
            } catch {
                findings.append(.init(key: "ocsp_response", path: path, severity: .warning, text: error.clause))
            }
        }
        return findings
    }

    private func own(_ leaf: Certificate, _ path: String, _ key: OpenSSLSigningKey?, _ identity: Identity) -> [CredentialFinding]
    {
        var findings = validity(leaf, "certificate", path)
        if let key, key.subjectPublicKeyInfo != leaf.subjectPublicKeyInfo {
            findings.append(
                .init(
                    key: "certificate", path: path, severity: .error,
                    text: "is not for the key in `private_key`; put the certificate that was issued for this key there"))
        }
        if !leaf.speaks(for: identity) {
            let names = leaf.alternativeNames.prefix(8).map(\.description) + ["`\(leaf.subject)`"]
            findings.append(
                .init(
                    key: "id", path: nil, severity: .error,
                    text: "\(identity) is not in our certificate, so that no peer would believe it; its names are "
                        + names.joined(separator: ", ")))
        }
        if let fault = leaf.usageFault { findings.append(.init(key: "certificate", path: path, severity: .error, text: fault)) }
        return findings
    }

    public func inspect(_ credentials: RemoteCredentials) -> [CredentialFinding] {
        var findings: [CredentialFinding] = []
        for path in credentials.authorities {
            var authorities: [Certificate] = []
            findings += Self.finding("ca", path) { () throws(CredentialError) in authorities = try Certificate.read(file: path) }
            for authority in authorities {
                findings += validity(authority, "ca", path)
                guard !authority.isAuthority else { continue }
                findings.append(
                    .init(
                        key: "ca", path: path, severity: .warning,
                        text: "holds `\(authority.subject)`, which is not a CA; a peer's own certificate belongs in "
                            + "`certificate` of `remote`"))
            }
        }
        if let path = credentials.certificate {
            var pinned: [Certificate] = []
            findings += Self.finding("certificate", path) { () throws(CredentialError) in
                pinned = try Certificate.read(file: path)
            }
            if let leaf = pinned.first { findings += validity(leaf, "certificate", path) }
        }
        for path in credentials.publicKeys {
            findings += Self.finding("public_key", path) { () throws(CredentialError) in _ = try OpenSSLVerifyingKey(file: path) }
        }
        for path in credentials.revocationLists {
            findings += Self.finding("crl", path) { () throws(CredentialError) in _ = try RevocationList.read(file: path) }
        }
        let authorities = credentials.authorities.flatMap { (try? Certificate.read(file: $0)) ?? [] }
        for (path, clause) in RevocationListReview.findings(
            paths: credentials.revocationLists, authorities: authorities, now: now())
        {
            findings.append(.init(key: "crl", path: path, severity: .warning, text: clause))
        }
        return findings
    }

    /// What is wrong with the revocation lists of a connection that runs, in sentences for the log.
    static func lists(_ remote: RemoteCredentials, now: Int64) -> [(LogLevel, String)] {
        var found: [(LogLevel, String)] = []
        for path in remote.revocationLists {
            do throws(CredentialError) { _ = try RevocationList.read(file: path) } catch {
                found.append((.error, "the revocation list \(path) \(error.clause); the last good one is used"))
            }
        }
        let authorities = remote.authorities.flatMap { (try? Certificate.read(file: $0)) ?? [] }
        for (path, clause) in RevocationListReview.findings(
            paths: remote.revocationLists, authorities: authorities, now: now)
        {
            found.append((.warning, "\(path) \(clause)."))
        }
        return found
    }

    /// An expired certificate is a warning: the other connections of the file shall run all the same.
    private func validity(_ certificate: Certificate, _ key: String, _ path: String) -> [CredentialFinding] {
        certificate.validity.notice(now: now()).map { [.init(key: key, path: path, severity: .warning, text: $0)] } ?? []
    }

    private static func finding(
        _ key: String, _ path: String, _ read: () throws(CredentialError) -> Void
    ) -> [CredentialFinding] {
        do throws(CredentialError) {
            try read()
            return []
        } catch {
            return [.init(key: key, path: path, severity: .error, text: error.clause)]
        }
    }
}
