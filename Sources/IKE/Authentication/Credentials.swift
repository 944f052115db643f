// What AUTH payloads are signed and verified with, when it is not a pre-shared key. RFC 7296 §2.15, §3.6, §3.8; RFC 7427;
// RFC 8420. The core hands octets in and gets signatures and verdicts out; keys and certificates stay outside.

/// The public keys that IKE signs with.
public enum PublicKeyKind: Hashable, Sendable {
    case rsa(bits: Int)
    case ecdsaP256, ecdsaP384, ecdsaP521
    case ed25519, ed448
}

/// Hash functions of RFC 7427 §4 and RFC 8420 §2; raw values are the numbers in SIGNATURE_HASH_ALGORITHMS.
public enum SignatureHash: UInt16, CaseIterable, Sendable {
    case sha1 = 1
    case sha256 = 2
    case sha384 = 3
    case sha512 = 4
    /// Ed25519 and Ed448 sign the octets themselves.
    case identity = 5
}

/// One way to sign. RFC 7427 §3 and appendix A, RFC 8420 §2, RFC 4754.
public enum SignatureScheme: Hashable, Sendable {
    case rsaPKCS1(SignatureHash)
    /// RSASSA-PSS, MGF1 with the same hash, salt as long as the hash.
    case rsaPSS(SignatureHash)
    /// DER-encoded Ecdsa-Sig-Value, as RFC 7427 has it; the older methods 9 to 11 have r and s side by side (RFC 4754 §7).
    case ecdsa(SignatureHash)
    case ed25519, ed448
}

/// A private key of ours. Its private half is wiped on release.
public protocol SigningKey: AnyObject, Sendable {
    var kind: PublicKeyKind { get }
    /// SubjectPublicKeyInfo, DER. RFC 7670 §3.
    var subjectPublicKeyInfo: [UInt8] { get }
    /// - Returns: the signature; for ECDSA an Ecdsa-Sig-Value in DER.
    func sign(_ octets: [UInt8], _ scheme: SignatureScheme) throws(IKECryptoError) -> [UInt8]
}

/// A public key of the peer.
public protocol VerifyingKey: AnyObject, Sendable {
    var kind: PublicKeyKind { get }
    /// SubjectPublicKeyInfo, DER.
    var subjectPublicKeyInfo: [UInt8] { get }
    /// False also when the scheme does not fit the key. ECDSA signatures are in DER.
    func verify(_ signature: [UInt8], of octets: [UInt8], _ scheme: SignatureScheme) -> Bool
}

/// Why a certificate is not accepted.
public struct CertificateRefusal: Error, Hashable, Sendable {
    public enum Kind: String, Sendable {
        case malformed, expired, notYetValid, untrusted, revoked, nameMismatch, keyUsage, weak, revocationUnknown
    }
    public var kind: Kind
    /// One sentence for the operator: which certificate, what is wrong, what to do.
    public var sentence: String
    public init(_ kind: Kind, _ sentence: String) { (self.kind, self.sentence) = (kind, sentence) }
}

/// A certificate of the peer that was found good.
public struct TrustedPeer: Sendable {
    public var key: any VerifyingKey
    /// Subject as text, for log and status.
    public var subject: String
    /// Seconds since 1970.
    public var expires: Int64
    /// What to ask an OCSP responder before the peer is believed; nil when revocation is settled or not asked for. The answers
    /// are given to `evaluate` once more; when it asks again (no answer, or none that helps), `isRequired` decides.
    public var revocationCheck: RevocationCheck?
    /// Sentences for log and status: a revocation list that has expired, a certificate that soon will.
    public var warnings: [String]
    /// Until the first certificate of its chain runs out, and with it what it proves; nil: not known.
    public var validSeconds: Int64?
    public init(
        key: any VerifyingKey, subject: String, expires: Int64, revocationCheck: RevocationCheck?, warnings: [String] = [],
        validSeconds: Int64? = nil
    ) {
        (self.key, self.subject, self.expires, self.revocationCheck) = (key, subject, expires, revocationCheck)
        (self.warnings, self.validSeconds) = (warnings, validSeconds)
    }
}

/// The part of judging a peer's certificates that takes long, to be done elsewhere than where messages are answered. Afterwards
/// `PeerTrust.evaluate` has it ready, for every connection that trusts the same.
public struct CertificateWork: Sendable, Identifiable {
    /// Two works of one identity come to the same.
    public struct ID: Hashable, Sendable {
        private let store: ObjectIdentifier
        private let evidence: [UInt8]
        public init(store: ObjectIdentifier, evidence: [UInt8]) { (self.store, self.evidence) = (store, evidence) }
    }
    public let id: ID
    /// About what it takes of one core.
    public let microseconds: Int
    /// To be called once, on any thread.
    public let run: @Sendable () -> Void
    public init(id: ID, microseconds: Int, run: @escaping @Sendable () -> Void) {
        (self.id, self.microseconds, self.run) = (id, microseconds, run)
    }
}

/// An OCSP request for the surroundings to send. RFC 6960.
public struct RevocationCheck: Hashable, Sendable {
    /// `http://` addresses of responders, best first.
    public var responders: [String]
    /// OCSPRequest, DER.
    public var request: [UInt8]
    /// Whether the peer is refused (`revocationUnknown`, with `sentence`) when no responder settles it: `ocsp: require` or
    /// `revocation: strict`. Otherwise it is believed, and `sentence` is a warning.
    public var isRequired: Bool
    /// What to say when no responder settles it.
    public var sentence: String
    public init(responders: [String], request: [UInt8], isRequired: Bool = false, sentence: String = "") {
        (self.responders, self.request) = (responders, request)
        (self.isRequired, self.sentence) = (isRequired, sentence)
    }
}

/// OCSPResponses in DER about a peer's certificate.
public struct OCSPResponses: Hashable, Sendable, ExpressibleByArrayLiteral {
    /// Those that came in CERT payloads of encoding 14. Nobody can have asked for them with a nonce of ours. RFC 4806 §6.
    public var carried: [[UInt8]]
    /// What a responder answered to the question of a `RevocationCheck`.
    public var answer: [UInt8]?

    public init(carried: [[UInt8]], answer: [UInt8]? = nil) { (self.carried, self.answer) = (carried, answer) }
    public init(arrayLiteral elements: [UInt8]...) { self.init(carried: elements) }

    public var all: [[UInt8]] { carried + (answer.map { [$0] } ?? []) }
}

/// What a peer's certificate was judged by, to judge it again after a revocation list has changed or its time is up.
public struct CertificateReview: Sendable {
    private let trust: any PeerTrust
    private let certificates: [[UInt8]]
    private let identity: Identity

    public init(trust: any PeerTrust, certificates: [[UInt8]], identity: Identity) {
        (self.trust, self.certificates, self.identity) = (trust, certificates, identity)
    }

    /// That it was revoked, by the lists as they are now. Besides its end, nothing else ends what has been believed.
    package func revocation() -> CertificateRefusal? {
        let refusal = objection()
        return refusal?.kind == .revoked ? refusal : nil
    }

    /// Why it would not be believed now.
    package func objection() -> CertificateRefusal? {
        do throws(CertificateRefusal) {
            _ = try evaluate()
            return nil
        } catch { return error }
    }

    /// Until the first certificate of the chain runs out, by the clock as it is now; nil: not known.
    package var validSeconds: Int64? { (try? evaluate())?.validSeconds }

    private func evaluate() throws(CertificateRefusal) -> TrustedPeer {
        try trust.evaluate(certificates: certificates, identity: identity, revocationLists: [], ocspResponses: [])
    }
}

/// The certificate authorities, revocation lists and policy that one connection trusts. Knows the time of day by itself.
public protocol PeerTrust: AnyObject, Sendable {
    /// SHA-1 of each trust anchor's SubjectPublicKeyInfo, for CERTREQ. RFC 7296 §3.7.
    var authorityKeyHashes: [[UInt8]] { get }
    /// Checks chain, validity, key usage, revocation, and that the certificate speaks for `identity`.
    /// - Parameters:
    ///   - certificates: X.509, DER, as they came in CERT payloads; the first is the end entity's. RFC 7296 §3.6.
    ///   - identity: from the peer's ID payload.
    ///   - revocationLists: CRLs in DER, from CERT payloads of encoding 7.
    ///   - ocspResponses: what the peer carried along, and what a responder said.
    func evaluate(
        certificates: [[UInt8]], identity: Identity, revocationLists: [[UInt8]], ocspResponses: OCSPResponses
    ) throws(CertificateRefusal) -> TrustedPeer
    /// What `evaluate` would have to compute for these; nil when there is nothing, or nothing worth the trouble.
    func pendingWork(
        certificates: [[UInt8]], revocationLists: [[UInt8]], ocspResponses: OCSPResponses
    ) -> CertificateWork?
    /// The key inside a SubjectPublicKeyInfo (RFC 7670), or nil when it cannot be used.
    func rawKey(_ subjectPublicKeyInfo: [UInt8]) -> (any VerifyingKey)?
    /// Whether the peer is asked to send an OCSP response along with its certificate. RFC 4806.
    var wantsOCSP: Bool { get }
}

extension PeerTrust {
    public var wantsOCSP: Bool { false }
    public func pendingWork(
        certificates: [[UInt8]], revocationLists: [[UInt8]], ocspResponses: OCSPResponses
    ) -> CertificateWork? { nil }
}

/// What an OCSP responder says about our own certificate, for peers that ask for it along with the certificate. RFC 4806.
public protocol OwnRevocationStatus: AnyObject, Sendable {
    /// OCSPResponse, DER; nil: there is none that is worth sending.
    func current() -> [UInt8]?
    /// A responder is being asked and nothing has come yet: worth a moment's wait.
    var isPending: Bool { get }
}

/// What proves our own identity by signature.
public struct SigningIdentity: Sendable {
    public var key: any SigningKey
    /// X.509 in DER, end entity first, then intermediates, without the trust anchor. Empty: the raw public key is sent.
    public var certificates: [[UInt8]]
    /// SHA-1 of the SubjectPublicKeyInfo of every issuer in the chain: which CERTREQs this identity answers.
    public var issuerKeyHashes: [[UInt8]]
    /// Nil: nobody is asked.
    public var revocationStatus: (any OwnRevocationStatus)?
    public init(
        key: any SigningKey, certificates: [[UInt8]], issuerKeyHashes: [[UInt8]] = [],
        revocationStatus: (any OwnRevocationStatus)? = nil
    ) {
        (self.key, self.certificates) = (key, certificates)
        (self.issuerKeyHashes, self.revocationStatus) = (issuerKeyHashes, revocationStatus)
    }
}
