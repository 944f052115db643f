import Foundation
import IKE

/// How the two sides prove who they are: `auth` and the files that it needs, on `local`, `remote` or the connection.
struct Authentication {
    var local = LocalCredentials()
    var remote = RemoteCredentials()
    /// For everybody; empty when there is none.
    var presharedKey: [UInt8] = []
    var secrets: [PeerSecret] = []
}

extension Reader {
    static var maxCredentialFiles: Int { 64 }
    static var maxSecrets: Int { 4096 }
    /// What only the one side's proof needs.
    private static var localKeys: [String] { ["private_key", "ocsp_response"] }
    private static var remoteKeys: [String] { ["ca", "crl", "public_key", "ocsp", "revocation"] }

    /// - Returns: nil when something that is needed is missing; an error says so.
    func authentication(_ mapping: Mapping, localIdentity: Identity?) -> Authentication? {
        let (local, remote) = (side("local", of: mapping), side("remote", of: mapping))
        var result = Authentication()
        refuseMisplaced(local, remote)
        guard let localMethod = method(local), let remoteMethod = method(remote) else { return nil }
        (result.local.method, result.remote.method) = (localMethod, remoteMethod)
        var marks = CredentialMarks()
        let errorsBefore = errorCount
        readLocal(&result.local, own: local, shared: mapping, remote: result.remote.method, &marks)
        readRemote(&result.remote, own: remote, shared: mapping, local: result.local.method, &marks)
        let needsKey = result.local.method == .psk || result.remote.method == .psk
        let knowsSecrets = mapping["secrets"] != nil
        let key = presharedKey(mapping, isRequired: needsKey && !knowsSecrets)
        result.presharedKey = key ?? []
        result.secrets = mapping["secrets"].map { secrets($0) } ?? []
        warnUnused(mapping, local, remote, result, needsKey: needsKey)
        if needsKey, key == nil, result.secrets.isEmpty { return nil }
        guard errorCount == errorsBefore else { return nil }
        inspect(result, localIdentity, marks, idMark: local["id"]?.mark ?? local.mark)
        return result
    }

    /// The side's own keys; none when it is missing or malformed, which is told elsewhere.
    private func side(_ name: String, of mapping: Mapping) -> Mapping {
        if case .mapping(let side)? = mapping[name]?.value.content { return side }
        return Mapping(mark: mapping.mark)
    }

    /// nil: refused.
    private func method(_ side: Mapping) -> AuthenticationMethod? {
        guard let entry = side["auth"] else { return .psk }
        return choice(entry, from: AuthenticationMethod.allCases)
    }

    /// How signatures are made and taken, and whether an IKE SA may come without a child.
    func readSigning(_ mapping: Mapping, into connection: inout Connection) {
        if let entry = mapping["rsa_padding"], let padding = choice(entry, from: [RSAPadding.pss, .pkcs1]) {
            connection.rsaPadding = padding
        }
        if let entry = mapping["childless"], let value = choice(entry, from: [Childless.never, .allow, .prefer]) {
            connection.childless = value
        }
        connection.allowsSHA1Signatures = mapping["allow_weak"].map { weakNames($0).contains("sha1") } ?? false
    }

    private func refuseMisplaced(_ local: Mapping, _ remote: Mapping) {
        for key in Self.remoteKeys {
            if let entry = local[key] {
                error(entry.keyMark, "`\(key)` says what the peer is believed by; it belongs in `remote` or in the connection")
            }
        }
        for key in Self.localKeys {
            if let entry = remote[key] {
                error(entry.keyMark, "`\(key)` is this gateway's own; it belongs in `local` or in the connection")
            }
        }
    }

    // MARK: Local

    private func readLocal(
        _ local: inout LocalCredentials, own: Mapping, shared: Mapping, remote: AuthenticationMethod,
        _ marks: inout CredentialMarks
    ) {
        // The server of EAP-TLS has a certificate for that, however it proves itself in IKE.
        let needsCertificate = local.method == .certificate || local.method == .eapTLS || remote == .eapTLS
        guard needsCertificate || local.method == .publicKey else { return }
        let word = local.method == .psk || local.method == .publicKey ? remote.rawValue : local.method.rawValue
        if needsCertificate {
            local.certificate = file(own["certificate"] ?? shared["certificate"], in: .local, &marks)
            if own["certificate"] == nil, shared["certificate"] == nil {
                missing("certificate", of: own, "`certificate` is missing; `auth: \(word)` needs the PEM file of ours")
            }
        }
        if needsCertificate, let entry = own["ocsp_response"] ?? shared["ocsp_response"] {
            readOCSPResponse(entry, into: &local, &marks)
        }
        local.privateKey = file(own["private_key"] ?? shared["private_key"], in: .local, &marks)
        if own["private_key"] == nil, shared["private_key"] == nil {
            missing(
                "private_key", of: own, "`private_key` is missing; `auth: \(word)` needs the PEM file of ours")
        }
    }

    /// `auto`, `off`, or a file.
    private func readOCSPResponse(_ entry: Entry, into local: inout LocalCredentials, _ marks: inout CredentialMarks) {
        if isWord("auto", entry.value) {
            local.ocspResponse = .auto
        } else if isWord("off", entry.value) {
            local.ocspResponse = .off
        } else if let path = file(entry, in: .local, &marks) {
            local.ocspResponse = .file(path)
        }
    }

    // MARK: Remote

    private func readRemote(
        _ remote: inout RemoteCredentials, own: Mapping, shared: Mapping, local: AuthenticationMethod,
        _ marks: inout CredentialMarks
    ) {
        let word = remote.method.usesAuthorities ? remote.method.rawValue : local.rawValue
        switch remote.method {
        case .psk where local != .eapTLS, .eapMSCHAPv2, .eapRADIUS: return
        case .publicKey:
            let entry = own["public_key"] ?? shared["public_key"]
            remote.publicKeys = entry.map { files($0, in: .remote, &marks) } ?? []
            if entry == nil {
                missing("public_key", of: own, "`public_key` is missing; `auth: public-key` needs the PEM file of the peer's")
            }
        case .certificate, .eapTLS, .eapOnly, .psk:
            let authorities = own["ca"] ?? shared["ca"]
            remote.authorities = authorities.map { files($0, in: .remote, &marks) } ?? []
            remote.certificate = own["certificate"].flatMap { file($0, in: .remote, &marks) }
            if authorities == nil, own["certificate"] == nil {
                missing(
                    "ca", of: own,
                    "`ca` is missing; `auth: \(word)` needs the CA's certificate (or the peer's own as `certificate`)")
            }
            remote.revocationLists = (own["crl"] ?? shared["crl"]).map { files($0, in: .remote, &marks) } ?? []
            if let entry = own["ocsp"] ?? shared["ocsp"], let ocsp = choice(entry, from: RemoteCredentials.OCSP.allCases) {
                remote.ocsp = ocsp
            }
            if let entry = own["revocation"] ?? shared["revocation"],
                let value = choice(entry, from: RemoteCredentials.Revocation.allCases)
            {
                remote.revocation = value
            }
            if authorities == nil, own["certificate"] != nil { refuseRevocation(of: remote, own: own, shared: shared) }
        }
    }

    /// Without its CA nothing that is said about a certificate can be verified.
    private func refuseRevocation(of remote: RemoteCredentials, own: Mapping, shared: Mapping) {
        let asked = [
            ("crl", !remote.revocationLists.isEmpty), ("ocsp", remote.ocsp == .require),
            ("revocation", remote.revocation == .strict),
        ]
        for (key, isAsked) in asked where isAsked {
            guard let entry = own[key] ?? shared[key] else { continue }
            error(
                entry.mark,
                "`\(key)` needs the CA that issued the peer's `certificate`, which verifies what is said of it; add `ca`, or "
                    + "leave `\(key)` out: exchanging the file revokes it")
        }
    }

    /// What stands there and does nothing is most likely a forgotten `auth`.
    private func warnUnused(
        _ mapping: Mapping, _ local: Mapping, _ remote: Mapping, _ read: Authentication, needsKey: Bool
    ) {
        let usesSignature = ![.psk, .eapMSCHAPv2].contains(read.local.method) || read.remote.method == .eapTLS
        for key in ["certificate", "private_key", "ocsp_response"] where !usesSignature {
            if let entry = local[key] ?? mapping[key] {
                let word = read.local.method.rawValue
                warning(entry.keyMark, "`\(key)` is not used: `local` says `auth: \(word)`; write `auth: certificate` there")
            }
        }
        let judgesCertificates = read.remote.method.usesAuthorities || read.local.method == .eapTLS
        let used: [String] =
            judgesCertificates
            ? ["ca", "crl", "ocsp", "revocation", "certificate"] : read.remote.method == .publicKey ? ["public_key"] : []
        for key in Self.remoteKeys + ["certificate"] where !used.contains(key) {
            guard let entry = remote[key] ?? (key == "certificate" ? nil : mapping[key]) else { continue }
            warning(entry.keyMark, "`\(key)` is not used: `remote` says `auth: \(read.remote.method.rawValue)`")
        }
        for key in ["psk", "psk_file", "secrets"] where !needsKey {
            if let entry = mapping[key] { warning(entry.keyMark, "`\(key)` is not used: no side says `auth: psk`") }
        }
    }

    // MARK: Files

    enum Side { case local, remote }

    /// Where the file's name stands, for what is found in it.
    struct CredentialMarks {
        private var byPlace: [String: Mark] = [:]
        private func place(_ side: Side, _ key: String, _ path: String?) -> String { "\(side) \(key) \(path ?? "")" }
        mutating func note(_ mark: Mark, _ side: Side, _ key: String, _ path: String) {
            byPlace[place(side, key, path)] = mark
            if byPlace[place(side, key, nil)] == nil { byPlace[place(side, key, nil)] = mark }
        }
        func mark(_ side: Side, _ key: String, _ path: String?) -> Mark? {
            byPlace[place(side, key, path)] ?? byPlace[place(side, key, nil)]
        }
    }

    private func file(_ entry: Entry?, in side: Side, _ marks: inout CredentialMarks) -> String? {
        guard let entry, let text = text(entry) else { return nil }
        let path = absolutePath(text)
        marks.note(entry.mark, side, entry.key, path)
        return path
    }

    /// One file, or a list of them.
    private func files(_ entry: Entry, in side: Side, _ marks: inout CredentialMarks) -> [String] {
        if case .scalar = entry.value.content { return file(entry, in: side, &marks).map { [$0] } ?? [] }
        guard let values = list(entry) else { return [] }
        if values.isEmpty { error(entry.mark, "`\(entry.key)` is empty; name at least one file") }
        if values.count > Self.maxCredentialFiles {
            error(entry.mark, "more than \(Self.maxCredentialFiles) files in `\(entry.key)`")
        }
        return values.prefix(Self.maxCredentialFiles).compactMap { value in
            guard let text = text(value, in: entry.key) else { return nil }
            let path = absolutePath(text)
            marks.note(value.mark, side, entry.key, path)
            return path
        }
    }

    private func inspect(_ read: Authentication, _ identity: Identity?, _ marks: CredentialMarks, idMark: Mark) {
        guard let inspector else { return }
        let tell = { [self] (finding: CredentialFinding, side: Side) in
            let mark = finding.key == "id" ? idMark : marks.mark(side, finding.key, finding.path) ?? idMark
            let file = finding.path.map { " \(quoted(shortened($0)))" } ?? ""
            let text = "`\(finding.key)`\(file) \(finding.text)"
            if finding.severity == .error { error(mark, text) } else { warning(mark, text) }
        }
        if read.local.privateKey != nil, let identity {
            for finding in inspector.inspect(read.local, identity: identity) { tell(finding, .local) }
        }
        if read.remote.method != .psk {
            for finding in inspector.inspect(read.remote) { tell(finding, .remote) }
        }
    }

    /// As it stands in the file, where that is shorter.
    private func shortened(_ path: String) -> String {
        let prefix = directory.hasSuffix("/") ? directory : directory + "/"
        return path.hasPrefix(prefix) ? String(path.dropFirst(prefix.count)) : path
    }

    // MARK: Secrets

    /// `secrets: [{ id: PATTERN, psk_file: FILE }]`.
    private func secrets(_ entry: Entry) -> [PeerSecret] {
        guard let values = list(entry) else { return [] }
        if values.isEmpty { error(entry.mark, "`secrets` is empty; name at least one peer and its secret") }
        if values.count > Self.maxSecrets { error(entry.mark, "more than \(Self.maxSecrets) secrets in one connection") }
        var lines: [IdentityPattern: Int] = [:]
        return values.prefix(Self.maxSecrets).compactMap { value in
            guard let mapping = mapping(value, "an entry of `secrets`") else { return nil }
            checkKeys(mapping, in: .secret)
            guard let id = require("id", of: mapping, for: "an entry of `secrets`"), let pattern = identityPattern(id) else {
                return nil
            }
            if let line = lines[pattern] {
                error(id.mark, "\(pattern) has a secret in line \(line) already; keep one of them")
                return nil
            }
            lines[pattern] = id.mark.line
            return presharedKey(mapping, isRequired: true).map { PeerSecret(identity: pattern, key: $0) }
        }
    }
}
