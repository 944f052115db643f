import Crypto
import IKE
import IPsec

/// Keys and a trust for tests of the IKE core: the signatures are real, the certificates are not. What X.509 says is tested where
/// it is read; here a certificate is the name it speaks for, a zero octet, and the public key.
enum TestKeys {
    static let all: [PublicKeyKind] = [.rsa(bits: 2048), .ecdsaP256, .ecdsaP384, .ecdsaP521, .ed25519, .ed448]
    private static let made = Dictionary(
        uniqueKeysWithValues: all.map { kind in
            (kind, (try! OpenSSLSigningKey(generating: kind), try! OpenSSLSigningKey(generating: kind)))
        })

    static func east(_ kind: PublicKeyKind) -> OpenSSLSigningKey { made[kind]!.0 }
    static func west(_ kind: PublicKeyKind) -> OpenSSLSigningKey { made[kind]!.1 }
}

/// Signs whatever a test makes of it.
final class ForgedKey: SigningKey, @unchecked Sendable {
    let inner: any SigningKey
    let forge: ([UInt8]) -> [UInt8]
    init(_ inner: any SigningKey, forge: @escaping ([UInt8]) -> [UInt8]) { (self.inner, self.forge) = (inner, forge) }
    var kind: PublicKeyKind { inner.kind }
    var subjectPublicKeyInfo: [UInt8] { inner.subjectPublicKeyInfo }
    func sign(_ octets: [UInt8], _ scheme: SignatureScheme) throws(IKECryptoError) -> [UInt8] {
        forge(try inner.sign(octets, scheme))
    }
}

final class TestTrust: PeerTrust, @unchecked Sendable {
    var authorityKeyHashes: [[UInt8]] = [[UInt8](repeating: 7, count: 20)]
    var refusal: CertificateRefusal?
    /// Asked for until an answer says `good`.
    var check: RevocationCheck?
    var wantsOCSP = false
    var evaluations = 0
    var seenOCSP: [[UInt8]] = []
    var seenCertificates = 0
    var validSeconds: Int64?
    /// There is something to compute before it can be evaluated.
    var pending: CertificateWork?

    static func certificate(_ name: String, _ key: any SigningKey) -> [UInt8] {
        Array(name.utf8) + [0] + key.subjectPublicKeyInfo
    }

    func evaluate(
        certificates: [[UInt8]], identity: Identity, revocationLists: [[UInt8]], ocspResponses: OCSPResponses
    ) throws(CertificateRefusal) -> TrustedPeer {
        evaluations += 1
        seenOCSP = ocspResponses.all
        seenCertificates = certificates.count
        if let refusal { throw refusal }
        let certificate = certificates[0]
        guard let end = certificate.firstIndex(of: 0),
            let key = try? OpenSSLVerifyingKey(subjectPublicKeyInfo: Array(certificate[(end + 1)...]))
        else { throw CertificateRefusal(.malformed, "The certificate cannot be read.") }
        let name = String(decoding: certificate[..<end], as: UTF8.self)
        guard identity.description == name else {
            throw CertificateRefusal(.nameMismatch, "It is for \(name), not for \(identity).")
        }
        if ocspResponses.all.contains(Array("revoked".utf8)) {
            throw CertificateRefusal(.revoked, "It was revoked on 2026-01-01; issue a new one.")
        }
        let settled = ocspResponses.all.contains(Array("good".utf8))
        return TrustedPeer(
            key: key, subject: "CN=\(name)", expires: 1_900_000_000, revocationCheck: settled ? nil : check, warnings: [],
            validSeconds: validSeconds)
    }

    func pendingWork(
        certificates: [[UInt8]], revocationLists: [[UInt8]], ocspResponses: OCSPResponses
    ) -> CertificateWork? { pending }

    func rawKey(_ subjectPublicKeyInfo: [UInt8]) -> (any VerifyingKey)? {
        try? OpenSSLVerifyingKey(subjectPublicKeyInfo: subjectPublicKeyInfo)
    }
}

extension Pair {
    /// Both sides show a certificate of a key of this kind. West trusts by `westTrust`, east by `eastTrust`.
    func useCertificates(
        _ kind: PublicKeyKind, padding: RSAPadding = .pss, eastTrust: TestTrust = TestTrust(), westTrust: TestTrust = TestTrust()
    ) {
        eastSide.change = { plan in
            let key = TestKeys.east(kind)
            plan.localAuthentication = .signature(
                SigningIdentity(key: key, certificates: [TestTrust.certificate("east.example", key)]))
            plan.remoteAuthentication = .certificate(eastTrust)
            plan.rsaPadding = padding
        }
        westSide.change = { plan in
            let key = TestKeys.west(kind)
            plan.localAuthentication = .signature(
                SigningIdentity(key: key, certificates: [TestTrust.certificate("west.example", key)]))
            plan.remoteAuthentication = .certificate(westTrust)
            plan.rsaPadding = padding
        }
    }

    func ike(_ node: Node) -> ConnectionStatus.IKE? { node.status(now: now)?.ike }
    func reason(_ node: Node) -> String { node.status(now: now)?.reason?.sentence ?? "" }

    /// Nothing that belongs to an IKE SA is left anywhere.
    func isEmpty(_ node: Node) -> Bool {
        ["sas", "children", "installs", "waits", "halfOpen"].allSatisfy { node.core.tableSizes[$0] == 0 }
    }
}
