public import IPsec
public import Wire

// The Extensible Authentication Protocol as IKE_AUTH carries it: packets, and what methods have to be. RFC 3748, RFC 7296 §2.16
// and §3.16. Sans-IO: packets go in and come out; what a method needs of the network it asks for with `EAPBackendRequest`.

/// EAP method types. RFC 3748 §5 and the registry that continues it.
public struct EAPType: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
    public var rawValue: UInt8
    public init(rawValue: UInt8) { self.rawValue = rawValue }
    public static let identity = Self(rawValue: 1)
    public static let notification = Self(rawValue: 2)
    /// "Legacy Nak": in responses only.
    public static let nak = Self(rawValue: 3)
    public static let md5Challenge = Self(rawValue: 4)
    public static let genericTokenCard = Self(rawValue: 6)
    public static let tls = Self(rawValue: 13)
    public static let ttls = Self(rawValue: 21)
    public static let peap = Self(rawValue: 25)
    public static let mschapv2 = Self(rawValue: 26)
    public static let expanded = Self(rawValue: 254)

    private static let names: [UInt8: String] = [
        1: "Identity", 2: "Notification", 3: "Nak", 4: "MD5-Challenge", 6: "GTC", 13: "EAP-TLS", 18: "EAP-SIM", 21: "EAP-TTLS",
        23: "EAP-AKA", 25: "PEAP", 26: "EAP-MSCHAPv2", 50: "EAP-AKA'", 52: "EAP-PWD", 55: "TEAP",
    ]
    public var description: String { Self.names[rawValue] ?? "EAP type \(rawValue)" }
}

/// One EAP packet: Code, Identifier, Length, and in requests and responses Type and Type-Data. RFC 3748 §4.
public struct EAPPacket: Hashable, Sendable {
    public enum Code: UInt8, Sendable { case request = 1, response = 2, success = 3, failure = 4 }

    public var code: Code
    public var identifier: UInt8
    /// Nil in Success and Failure only.
    public var type: EAPType?
    /// Type-Data.
    public var data: [UInt8]

    public init(_ code: Code, identifier: UInt8, type: EAPType? = nil, data: [UInt8] = []) {
        (self.code, self.identifier, self.type, self.data) = (code, identifier, type, data)
    }

    /// Nil when the octets are not one whole packet: IKE wants the Length field to fit the payload exactly (RFC 7296 §3.16).
    public init?(parsing bytes: [UInt8]) {
        guard bytes.count >= 4, bytes.count <= Bounds.messageBytes, let code = Code(rawValue: bytes[0]),
            Int(bytes[2]) << 8 | Int(bytes[3]) == bytes.count
        else { return nil }
        (self.code, identifier) = (code, bytes[1])
        switch code {
        case .success, .failure:
            guard bytes.count == 4 else { return nil }
            (type, data) = (nil, [])
        case .request, .response:
            guard bytes.count >= 5 else { return nil }
            (type, data) = (EAPType(rawValue: bytes[4]), Array(bytes[5...]))
        }
    }

    public var encoded: [UInt8] {
        let body = type.map { [$0.rawValue] + data } ?? []
        var bytes = [code.rawValue, identifier]
        bytes.append(u16: UInt16(clamping: body.count + 4))
        return bytes + body
    }
}

/// What a method may use: no clock, no socket, no randomness of its own.
public struct EAPContext {
    public var crypto: any IKECrypto
    public var random: any IKERandom
    /// The identity that the initiator claims in IDi.
    public var peer: Identity
    /// The peer's name for the method: what it answered to EAP-Identity, else its IDi as text.
    public var name: [UInt8]
    /// Where the peer's messages come from (Calling-Station-Id).
    public var remote: Endpoint
    public init(crypto: any IKECrypto, random: any IKERandom, peer: Identity, name: [UInt8], remote: Endpoint) {
        (self.crypto, self.random, self.peer, self.name, self.remote) = (crypto, random, peer, name, remote)
    }
}

// MARK: Peer (our client)

/// Everything needed to authenticate to an EAP server. Which methods it accepts is the client's order of preference.
public struct EAPClientPlan: Sendable {
    /// The answer to EAP-Identity; nil: IDi as text.
    public var identity: [UInt8]?
    public var methods: [Method]
    /// Offer EAP_ONLY_AUTHENTICATION (RFC 5998); implied by `RemoteAuthentication.eapOnly`.
    public var offersEAPOnly: Bool

    public struct Method: Sendable {
        public var type: EAPType
        public var make: @Sendable (EAPContext) -> any EAPClientMethod
        public init(_ type: EAPType, make: @escaping @Sendable (EAPContext) -> any EAPClientMethod) {
            (self.type, self.make) = (type, make)
        }
    }

    public init(identity: [UInt8]? = nil, methods: [Method], offersEAPOnly: Bool = false) {
        (self.identity, self.methods, self.offersEAPOnly) = (identity, methods, offersEAPOnly)
    }
}

public enum EAPClientStep: Sendable {
    /// Type-Data of the response to the request in hand.
    case respond([UInt8])
    /// An OCSP responder has to be asked about the server first: the method goes on with `resume`.
    case ask(RevocationCheck)
    /// It cannot go on; one sentence for the operator.
    case failed(String)
}

/// One run of a method as EAP peer. The core reads Identity, Notification, Success and Failure by itself.
public protocol EAPClientMethod: AnyObject {
    /// - Parameter data: Type-Data of a request of this method.
    func receive(_ data: [UInt8]) -> EAPClientStep
    /// - Parameter response: OCSPResponse, DER; nil when no responder answered.
    func resume(_ response: [UInt8]?) -> EAPClientStep
    /// Whether EAP-Success may be believed now: the server has proved what the method lets it prove. RFC 3748 §4.2.
    var isDone: Bool { get }
    /// The MSK (at least 64 octets) once `isDone`; nil for methods that make no key.
    var masterSessionKey: Secret? { get }
    /// The server proved who it is, safely enough to stand for it alone. RFC 5998 §4.
    var authenticatesServer: Bool { get }
    /// Why EAP-Failure may have come, for the operator: what the server said before it.
    var failureSentence: String? { get }
    /// What was not perfect about the server's proof, in sentences.
    var warnings: [String] { get }
    /// Of a server that proved itself by a certificate within the method.
    var review: CertificateReview? { get }
}

extension EAPClientMethod {
    public var review: CertificateReview? { nil }
    public var warnings: [String] { [] }
    public func resume(_ response: [UInt8]?) -> EAPClientStep { .failed("nobody was asked") }
}

// MARK: Authenticator (our server)

/// Everything needed to authenticate EAP peers.
public struct EAPServerPlan: Sendable {
    /// A new session for a peer; `EAPContext.name` is IDi as text. `EAPMethodServer` runs methods here, others pass through.
    public var makeSession: @Sendable (EAPContext) -> any EAPServerSession
    /// Leave out our own AUTH when the peer offers EAP_ONLY_AUTHENTICATION. RFC 5998 §3; only with methods that authenticate the
    /// server and make keys.
    public var acceptsEAPOnly: Bool
    public init(acceptsEAPOnly: Bool = false, makeSession: @escaping @Sendable (EAPContext) -> any EAPServerSession) {
        (self.acceptsEAPOnly, self.makeSession) = (acceptsEAPOnly, makeSession)
    }
}

/// What a peer has proved by EAP.
public struct EAPOutcome: Sendable {
    /// The MSK; nil for methods that make no key.
    public var masterSessionKey: Secret?
    /// The name that was authenticated, for log and status. As server it is the peer's; it takes the place of IDi when it
    /// differs, and `remote.id` has to accept it.
    public var name: [UInt8]
    /// Nil: the session cannot tell.
    public var method: EAPType?
    /// What a backend said besides: opaque to the core, kept with the IKE SA.
    public var attributes: [EAPAttribute]
    /// What was not perfect about the proof, in sentences.
    public var warnings: [String]
    /// Of a peer that proved itself by a certificate within the method.
    public var review: CertificateReview?
    public init(
        masterSessionKey: Secret?, name: [UInt8], method: EAPType? = nil, attributes: [EAPAttribute] = [],
        warnings: [String] = [], review: CertificateReview? = nil
    ) {
        (self.warnings, self.review) = (warnings, review)
        (self.masterSessionKey, self.name, self.method, self.attributes) = (masterSessionKey, name, method, attributes)
    }
}

/// What a backend grants to a peer beyond admitting it.
public enum EAPAttribute: Hashable, Sendable {
    /// Framed-IP-Address and the like: the address to assign.
    case address(IPAddress)
    case dns(IPAddress)
    /// Session-Timeout: the peer has to authenticate again after this.
    case lifetime(Duration)
}

public enum EAPServerStep: Sendable {
    /// An EAP packet (a request) for the peer.
    case send([UInt8])
    /// A backend has to be asked first: the session goes on with `resume`.
    case ask(EAPBackendRequest)
    /// An OCSP responder has to be asked about the peer first: the session goes on with `resumeRevocation`.
    case checkRevocation(RevocationCheck)
    /// EAP-Success, and what was proved.
    case success([UInt8], EAPOutcome)
    /// EAP-Failure, and one sentence for the operator.
    case failure([UInt8], String)
}

/// One EAP conversation as authenticator, from the first request to Success or Failure.
public protocol EAPServerSession: AnyObject {
    /// The first step, when the peer's IKE_AUTH request without AUTH is in.
    func begin() -> EAPServerStep
    /// - Parameter packet: an EAP packet as it came; checked for nothing but its size.
    func receive(_ packet: [UInt8]) -> EAPServerStep
    /// - Parameter answer: nil when no candidate answered in time.
    func resume(_ answer: EAPBackendAnswer?) -> EAPServerStep
    /// - Parameter response: OCSPResponse, DER; nil when no responder answered.
    func resumeRevocation(_ response: [UInt8]?) -> EAPServerStep
    /// Why the peer has been refused already, though it has not been told for good: it may break off before that.
    var refusal: String? { get }
    /// About what taking this packet costs of one core.
    func workMicroseconds(_ packet: [UInt8]) -> Int
}

extension EAPServerSession {
    public func workMicroseconds(_ packet: [UInt8]) -> Int { 0 }
    public func resumeRevocation(_ response: [UInt8]?) -> EAPServerStep {
        .failure(EAPPacket(.failure, identifier: 0).encoded, "nobody was asked")
    }
    public var refusal: String? { nil }
}

/// A question to a backend (RADIUS): the surroundings send it to one candidate after the other until an answer comes.
public struct EAPBackendRequest: Sendable {
    public struct Candidate: Sendable {
        public var server: Endpoint
        public var octets: [UInt8]
        /// Whether a datagram from the server is its authentic answer to these octets; anything else is ignored.
        public var isAnswer: @Sendable ([UInt8]) -> Bool
        public init(server: Endpoint, octets: [UInt8], isAnswer: @escaping @Sendable ([UInt8]) -> Bool) {
            (self.server, self.octets, self.isAnswer) = (server, octets, isAnswer)
        }
    }
    public var candidates: [Candidate]
    /// Between transmissions to one candidate, and how many before the next one's turn.
    public var retransmitInterval: Duration
    public var tries: Int
    public init(candidates: [Candidate], retransmitInterval: Duration = .seconds(2), tries: Int = 3) {
        (self.candidates, self.retransmitInterval, self.tries) = (candidates, retransmitInterval, tries)
    }
}

public struct EAPBackendAnswer: Sendable {
    /// Index of the candidate that answered.
    public var candidate: Int
    public var octets: [UInt8]
    public init(candidate: Int, octets: [UInt8]) { (self.candidate, self.octets) = (candidate, octets) }
}

/// A method that runs here, in `EAPMethodServer`.
public protocol EAPServerMethod: AnyObject {
    /// The first request's Type-Data.
    func begin() -> EAPServerMethodStep
    /// - Parameter data: Type-Data of a response of this method.
    func receive(_ data: [UInt8]) -> EAPServerMethodStep
    /// - Parameter response: OCSPResponse, DER; nil when no responder answered.
    func resume(_ response: [UInt8]?) -> EAPServerMethodStep
    /// See `EAPServerSession`.
    var refusal: String? { get }
    /// The same of Type-Data.
    func workMicroseconds(_ data: [UInt8]) -> Int
}

extension EAPServerMethod {
    public func workMicroseconds(_ data: [UInt8]) -> Int { 0 }
    public func resume(_ response: [UInt8]?) -> EAPServerMethodStep { .failure("nobody was asked") }
    public var refusal: String? { nil }
}

public enum EAPServerMethodStep: Sendable {
    /// Type-Data of the next request.
    case request([UInt8])
    /// An OCSP responder has to be asked about the peer first: the method goes on with `resume`.
    case ask(RevocationCheck)
    case success(EAPOutcome)
    /// One sentence for the operator.
    case failure(String)
}
