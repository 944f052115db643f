public import IPsec

/// How a TLS conversation stands after some octets of the peer.
public enum TLSProgress: Sendable {
    /// More is to come from the peer; `output` goes to it first, and may be empty.
    case going(output: [UInt8])
    /// Both ends are sure of each other. `output` still goes to the peer.
    case established(output: [UInt8], TLSOutcome)
    /// Everything is right but for what an OCSP responder may say about the peer's certificate: it goes on with `resume`, and
    /// nothing is sent before.
    case undecided(RevocationCheck)
    /// It cannot come about. `output` is the alert that tells the peer.
    case failed(output: [UInt8], reason: String)
}

/// What a completed handshake leaves behind.
public struct TLSOutcome: Sendable {
    /// The first and second 64 octets of the exported key material. RFC 5216 §2.3, RFC 9190 §2.3.
    public var masterSessionKey: Secret
    public var extendedMasterSessionKey: Secret
    /// `TLSv1.3`, for the log.
    public var version: String
    /// The peer's certificate's subject as text, escaped.
    public var peerSubject: String
    /// What was not perfect about the peer's certificate, in sentences.
    public var warnings: [String]
    public var review: CertificateReview?
    public init(
        masterSessionKey: Secret, extendedMasterSessionKey: Secret, version: String, peerSubject: String,
        warnings: [String] = [], review: CertificateReview? = nil
    ) {
        (self.warnings, self.review) = (warnings, review)
        (self.masterSessionKey, self.extendedMasterSessionKey) = (masterSessionKey, extendedMasterSessionKey)
        (self.version, self.peerSubject) = (version, peerSubject)
    }
}

/// One end of a TLS handshake in memory, with the certificates of both ends checked. TLS 1.2 and 1.3.
///
/// With TLS 1.3 the server's end sends the protected success indication (one octet zero as application data) and the client's end
/// is established only when it has come. RFC 9190 §2.1.1, §2.5.
public protocol TLSEngine: AnyObject {
    /// Takes what came from the peer; empty for a client's beginning.
    func advance(_ input: [UInt8]) -> TLSProgress
    /// After `undecided`.
    /// - Parameter response: OCSPResponse, DER; nil: no responder answered.
    func resume(_ response: [UInt8]?) -> TLSProgress
}

/// Makes the engine of one conversation; holds certificate, key and trust.
public protocol TLSEngineMaker: AnyObject, Sendable {
    /// - Parameter peer: who the certificate of the other end must speak for.
    func makeEngine(isServer: Bool, peer: Identity) throws(IKECryptoError) -> any TLSEngine
}
