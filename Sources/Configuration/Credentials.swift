public import IKE

/// How one side of a connection proves who it is: `auth`.
public enum AuthenticationMethod: String, CaseIterable, Sendable {
    case psk, certificate
    case publicKey = "public-key"
    /// As `local.auth` we are the EAP peer, as `remote.auth` the server (RFC 7296 §2.16).
    case eapMSCHAPv2 = "eap-mschapv2"
    case eapTLS = "eap-tls"
    /// As `remote.auth`: the peer's EAP goes through to RADIUS servers.
    case eapRADIUS = "eap-radius"
    /// As `remote.auth`: the server proves itself within EAP alone (RFC 5998).
    case eapOnly = "eap-only"

    public var isEAP: Bool {
        switch self {
        case .psk, .certificate, .publicKey: false
        case .eapMSCHAPv2, .eapTLS, .eapRADIUS, .eapOnly: true
        }
    }
    /// Certificates of the peer are judged.
    public var usesAuthorities: Bool { self == .certificate || self == .eapTLS || self == .eapOnly }
}

/// What this gateway proves itself with. Paths are absolute.
public struct LocalCredentials: Hashable, Sendable {
    public var method: AuthenticationMethod
    /// PEM or DER: our certificate first, intermediates behind it.
    public var certificate: String?
    /// PEM.
    public var privateKey: String?
    /// `ocsp_response`: what goes along with our certificate to peers that ask whether it is revoked (RFC 4806).
    public enum OCSPResponse: Hashable, Sendable {
        /// The responders that the certificate names are asked.
        case auto
        case off
        /// A response in DER that something else keeps up to date.
        case file(String)
    }
    public var ocspResponse = OCSPResponse.auto
    public init(method: AuthenticationMethod = .psk, certificate: String? = nil, privateKey: String? = nil) {
        (self.method, self.certificate, self.privateKey) = (method, certificate, privateKey)
    }
}

/// What the peer is believed by. Paths are absolute.
public struct RemoteCredentials: Hashable, Sendable {
    /// `ocsp`: are responders asked whether the peer's certificate is revoked?
    public enum OCSP: String, CaseIterable, Sendable { case off, auto, require }
    /// `revocation`: is a current list needed?
    public enum Revocation: String, CaseIterable, Sendable { case relaxed, strict }

    public var method: AuthenticationMethod
    /// Certificates of the CAs that may issue the peer's certificate.
    public var authorities: [String]
    /// The peer's own certificate, when only this one is accepted.
    public var certificate: String?
    /// Files with a PEM `PUBLIC KEY` each.
    public var publicKeys: [String]
    public var revocationLists: [String]
    public var ocsp: OCSP
    public var revocation: Revocation
    public init(
        method: AuthenticationMethod = .psk, authorities: [String] = [], certificate: String? = nil, publicKeys: [String] = [],
        revocationLists: [String] = [], ocsp: OCSP = .auto, revocation: Revocation = .relaxed
    ) {
        (self.method, self.authorities, self.certificate, self.publicKeys) = (method, authorities, certificate, publicKeys)
        (self.revocationLists, self.ocsp, self.revocation) = (revocationLists, ocsp, revocation)
    }
}

/// An entry of `secrets`: a pre-shared key for peers with certain identities. The octets are wiped when the gateway has them in
/// secret memory.
public struct PeerSecret: Hashable, Sendable {
    public var identity: IdentityPattern
    public var key: [UInt8]
    public init(identity: IdentityPattern, key: [UInt8]) { (self.identity, self.key) = (identity, key) }
}

/// Looks into the files that a connection names. Injected: this target knows no cryptography.
public protocol CredentialInspector: Sendable {
    /// - Parameter identity: the certificate has to speak for it.
    func inspect(_ credentials: LocalCredentials, identity: Identity) -> [CredentialFinding]
    func inspect(_ credentials: RemoteCredentials) -> [CredentialFinding]
}

/// Something about a file with a key, a certificate or a list.
public struct CredentialFinding: Hashable, Sendable {
    /// The configuration's key, such as `private_key`; `id` for an identity that the certificate lacks.
    public var key: String
    /// The file, where the key may name several.
    public var path: String?
    public var severity: Diagnostic.Severity
    /// What comes after the key's and the file's names: "does not exist …".
    public var text: String
    public init(key: String, path: String?, severity: Diagnostic.Severity, text: String) {
        (self.key, self.path, self.severity, self.text) = (key, path, severity, text)
    }
}
