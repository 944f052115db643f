import Configuration
import Crypto
import IKE
import IPsec

/// How the two ends of a benchmark authenticate: by a secret that both know, or each by a key with a certificate of a CA that is
/// made for the run and that the other end trusts.
public struct IKEBenchmarkCredentials: Sendable {
    public enum Method: String, Sendable, CaseIterable {
        case psk, rsa2048, rsa3072, ecdsa256, ecdsa384, ed25519

        /// Of both ends and of the CA; nil without certificates.
        var keyKind: PublicKeyKind? {
            switch self {
            case .psk: nil
            case .rsa2048: .rsa(bits: 2048)
            case .rsa3072: .rsa(bits: 3072)
            case .ecdsa256: .ecdsaP256
            case .ecdsa384: .ecdsaP384
            case .ed25519: .ed25519
            }
        }
    }

    /// A certificate authority, and the key of each end. Certificates are issued per connection: each has an identity of its own.
    struct Authority: Sendable {
        static let validSeconds: Int64 = 86_400
        /// Clocks are the same, but a second may pass between making and checking.
        static let backdatedSeconds: Int64 = 300

        let key: OpenSSLSigningKey
        let certificate: Certificate
        let initiatorKey: OpenSSLSigningKey
        let responderKey: OpenSSLSigningKey

        init(_ kind: PublicKeyKind) throws {
            key = try OpenSSLSigningKey(generating: kind)
            initiatorKey = try OpenSSLSigningKey(generating: kind)
            responderKey = try OpenSSLSigningKey(generating: kind)
            var template = Self.template("Benchmark CA")
            (template.authority, template.keyUsage) = (.init(), ["keyCertSign", "cRLSign"])
            certificate = try template.issue(subjectPublicKeyInfo: key.subjectPublicKeyInfo, issuer: nil, key: key)
        }

        private static func template(_ name: String) -> CertificateTemplate {
            let now = CredentialInspection.timeOfDay()
            return CertificateTemplate(
                subject: DistinguishedName("O=Culvert, CN=\(name)")?.der ?? [], notBefore: now - backdatedSeconds,
                notAfter: now + validSeconds)
        }

        /// What one end proves `name` with.
        func identity(_ name: String, key: OpenSSLSigningKey) throws -> SigningIdentity {
            var template = Self.template(name)
            template.alternativeNames = [.dns(name)]
            let leaf = try template.issue(subjectPublicKeyInfo: key.subjectPublicKeyInfo, issuer: certificate, key: self.key)
            return SigningIdentity(
                key: key, certificates: [leaf.der], issuerKeyHashes: [OpenSSLCrypto().sha1(certificate.subjectPublicKeyInfo)])
        }
    }

    private static let secret = Array("a pre-shared key for benchmarks only".utf8)

    let method: Method
    private let authority: Authority?
    /// Whom both ends trust: as a connection with `ca` and nothing else about revocation does.
    var trust: CertificateTrust?

    /// - Throws: `CredentialError`.
    init(_ method: Method) throws {
        self.method = method
        authority = try method.keyKind.map(Authority.init)
        trust = authority.map {
            CertificateTrust(authorities: [$0.certificate], now: { CredentialInspection.timeOfDay() })
        }
    }

    /// What one end proves `name` with, and what it asks of the other.
    func ends(_ name: String, isInitiator: Bool) throws -> (local: LocalAuthentication, remote: RemoteAuthentication) {
        guard let authority, let trust else {
            let keys = PresharedKeys(OpenSSLCrypto().secret(Self.secret))
            return (.presharedKey(keys), .presharedKey(keys))
        }
        let key = isInitiator ? authority.initiatorKey : authority.responderKey
        return (.signature(try authority.identity(name, key: key)), .certificate(trust))
    }
}
