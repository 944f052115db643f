import Configuration
import Crypto
import IKE
import IPsec

/// From the files that a connection names to what the core authenticates with.
struct CredentialLoading {
    /// Puts octets into secret memory.
    var secret: ([UInt8]) -> Secret
    /// Seconds since 1970.
    var now: @Sendable () -> Int64
    var radius = RADIUSServers(gatewayName: "")
    /// Nil: peers get no OCSP response along with our certificate.
    var ownStatuses: OwnStatusKeeper?

    /// Why a connection cannot be used: a sentence.
    struct Problem: Error { var sentence: String }

    func localAuthentication(_ connection: Connection) throws(Problem) -> LocalAuthentication {
        switch connection.local.method {
        case .psk: return .presharedKey(presharedKeys(connection))
        case .eapMSCHAPv2, .eapTLS, .eapRADIUS, .eapOnly: return try eapClient(connection)
        case .certificate, .publicKey: return try signature(connection)
        }
    }

    /// Our key, with a certificate where the connection names one.
    func signature(_ connection: Connection) throws(Problem) -> LocalAuthentication {
        let path = connection.local.privateKey ?? ""
        let key = try read(connection, "private_key", path) { (path) throws(CredentialError) in
            try OpenSSLSigningKey(file: path)
        }
        guard connection.local.method != .publicKey, let path = connection.local.certificate else {
            return .signature(SigningIdentity(key: key, certificates: []))
        }
        let chain = try read(connection, "certificate", path) { (path) throws(CredentialError) in
            try Certificate.read(file: path)
        }
        return .signature(try identity(connection, path, chain, key))
    }

    private func identity(
        _ connection: Connection, _ path: String, _ chain: [Certificate], _ key: OpenSSLSigningKey
    ) throws(Problem) -> SigningIdentity {
        guard let leaf = chain.first, leaf.subjectPublicKeyInfo == key.subjectPublicKeyInfo else {
            throw Problem(sentence: "The certificate \(path) of connection \(connection.name) is not for its private_key.")
        }
        // A root that the file also holds is known to the peer, or not believed.
        let sent = [leaf] + chain.dropFirst().filter { !$0.isSelfSigned }
        let authorities = chain.dropFirst().map(\.subjectPublicKeyInfo)
        var hashes = authorities.map { OpenSSLCrypto().sha1($0) }
        // The root that issued the last of them is most often not in the file but among those that we trust ourselves.
        let known = connection.remote.authorities.flatMap { (try? Certificate.read(file: $0)) ?? [] }
        for authority in known where sent.contains(where: { $0.isIssued(by: authority) }) {
            hashes.append(OpenSSLCrypto().sha1(authority.subjectPublicKeyInfo))
        }
        return SigningIdentity(
            key: key, certificates: sent.map(\.der), issuerKeyHashes: hashes,
            revocationStatus: ownStatus(connection, leaf, issuers: Array(chain.dropFirst()) + known))
    }

    /// What peers get along with the certificate that ask for it (RFC 4806); nil where nobody could say anything.
    private func ownStatus(_ connection: Connection, _ leaf: Certificate, issuers: [Certificate]) -> OwnCertificateStatus? {
        guard let issuer = issuers.first(where: { leaf.isIssued(by: $0) }) else { return nil }
        switch connection.local.ocspResponse {
        case .off: return nil
        case .auto where leaf.ocspResponders.isEmpty: return nil
        case .auto: return ownStatuses?.status(of: leaf, issuer: issuer, file: nil, now: now)
        case .file(let path): return ownStatuses?.status(of: leaf, issuer: issuer, file: path, now: now)
        }
    }

    func remoteAuthentication(_ connection: Connection) throws(Problem) -> RemoteAuthentication {
        let remote = connection.remote
        switch remote.method {
        case .psk: return .presharedKey(presharedKeys(connection))
        case .eapMSCHAPv2, .eapTLS, .eapRADIUS: return try eapServer(connection)
        case .eapOnly: return .eapOnly
        case .publicKey:
            var keys: [[UInt8]] = []
            for path in remote.publicKeys {
                keys.append(
                    try read(connection, "public_key", path) { (path) throws(CredentialError) in
                        try OpenSSLVerifyingKey(file: path).subjectPublicKeyInfo
                    })
            }
            return .rawPublicKeys(keys, CertificateTrust(authorities: [], now: now))
        case .certificate: return try certificateTrust(connection)
        }
    }

    func certificateTrust(_ connection: Connection) throws(Problem) -> RemoteAuthentication {
        let remote = connection.remote
        var authorities: [Certificate] = []
        for path in remote.authorities {
            authorities += try read(connection, "ca", path) { (path) throws(CredentialError) in
                try Certificate.read(file: path)
            }
        }
        var pinned: [Certificate] = []
        if let path = remote.certificate {
            let read = try read(connection, "remote.certificate", path) { (path) throws(CredentialError) in
                try Certificate.read(file: path)
            }
            pinned = Array(read.prefix(1))
        }
        return .certificate(
            CertificateTrust(
                authorities: authorities, pinned: pinned, revocationLists: remote.revocationLists,
                policy: RevocationPolicy(
                    ocsp: RevocationPolicy.OCSP(rawValue: remote.ocsp.rawValue) ?? .auto,
                    lists: RevocationPolicy.Lists(rawValue: remote.revocation.rawValue) ?? .relaxed), now: now))
    }

    private func presharedKeys(_ connection: Connection) -> PresharedKeys {
        var entries = connection.secrets.map { PresharedKeys.Entry(identity: $0.identity, secret: secret($0.key)) }
        if !connection.presharedKey.isEmpty {
            entries.append(.init(identity: .any, secret: secret(connection.presharedKey)))
        }
        return PresharedKeys(entries)
    }

    private func read<Value>(
        _ connection: Connection, _ key: String, _ path: String, _ body: (String) throws(CredentialError) -> Value
    ) throws(Problem) -> Value {
        do throws(CredentialError) {
            return try body(path)
        } catch {
            throw Problem(sentence: "Connection \(connection.name) cannot be used: its \(key) \(path) \(error.clause).")
        }
    }

    // MARK: What has changed

    /// A digest that two readings of a connection share when its secrets and the files that it names are the same. Revocation
    /// lists are not part of it: they are read again whenever they change.
    func fingerprint(_ connection: Connection, _ crypto: any IKECrypto) -> [UInt8] {
        var state = Array("culvert reload".utf8)
        let mix = { (piece: Secret) in state = (try? crypto.prf(.hmacSHA256, key: piece, data: state)) ?? [] }
        mix(secret(connection.presharedKey))
        mix(secret(Self.eapSecrets(connection)))
        for server in connection.remote.method == .eapRADIUS ? radius.servers : [] {
            mix(secret(Array("\(radius.timeout) \(radius.tries)".utf8)))
            mix(secret(Array(server.endpoint.description.utf8)))
            mix(server.secret)
        }
        for entry in connection.secrets {
            mix(secret(Array(entry.identity.description.utf8)))
            mix(secret(entry.key))
        }
        if let ppk = connection.postquantumKey {
            mix(secret(Array("ppk \(ppk.isRequired) \(ppk.identifier)".utf8)))
            mix(secret(ppk.secret))
        }
        if let path = connection.local.privateKey { mix((try? CredentialFile.secret(path: path)) ?? secret([])) }
        let remote = connection.remote
        let files = [connection.local.certificate, remote.certificate].compactMap { $0 } + remote.authorities + remote.publicKeys
        for path in files {
            let limit = CredentialFile.maxCertificateBytes
            mix(secret((try? CredentialFile.contents(path: path, maxBytes: limit)) ?? []))
        }
        return state
    }

    // MARK: Expiry

    /// A certificate that a connection needs, for status and for the log.
    struct Watched: Hashable {
        /// `local`, `remote` or `ca`.
        var role: String
        var path: String
        var subject: String
        var validity: Certificate.Validity
        /// Seconds since 1970.
        var notAfter: Int64 { validity.notAfter }
        var notAfterText: String { validity.notAfterText }
        /// What is to be told about it, to go on after the file's name.
        func notice(now: Int64) -> String? { validity.notice(now: now) }
    }

    /// Of the certificate that an established peer has shown.
    static func peerValidity(_ ike: ConnectionStatus.IKE) -> Certificate.Validity? {
        guard let subject = ike.remoteSubject, let end = ike.remoteCertificateExpires else { return nil }
        return Certificate.Validity(subject: subject, notBefore: .min, notAfter: end)
    }

    func watched(_ connection: Connection) -> [Watched] {
        var named: [(String, String)] = []
        if connection.local.method != .publicKey, let path = connection.local.certificate { named.append(("local", path)) }
        if connection.remote.method.usesAuthorities {
            if let path = connection.remote.certificate { named.append(("remote", path)) }
            named += connection.remote.authorities.map { ("ca", $0) }
        }
        return named.flatMap { role, path in
            ((try? Certificate.read(file: path)) ?? []).map {
                Watched(role: role, path: path, subject: $0.subject, validity: $0.validity)
            }
        }
    }
}
