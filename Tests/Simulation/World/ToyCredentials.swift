import IKE
import IPsec

// How gateways of the simulation prove who they are, when it is not by a pre-shared key. The core's side of it is as in
// production; keys, certificates and the EAP method only keep the promises that it relies on.

/// A key pair whose halves are the same: what is signed can be told from what is not.
final class ToyKey: SigningKey, VerifyingKey, Sendable {
    let kind = PublicKeyKind.ed25519
    let subjectPublicKeyInfo: [UInt8]
    init(_ subjectPublicKeyInfo: [UInt8]) { self.subjectPublicKeyInfo = subjectPublicKeyInfo }

    private func signature(_ octets: [UInt8]) -> [UInt8] {
        var mixer = Mixer()
        mixer.absorb(subjectPublicKeyInfo)
        mixer.absorb(octets)
        return mixer.octets(64)
    }

    func sign(_ octets: [UInt8], _ scheme: SignatureScheme) throws(IKECryptoError) -> [UInt8] { signature(octets) }

    func verify(_ signature: [UInt8], of octets: [UInt8], _ scheme: SignatureScheme) -> Bool {
        signature == self.signature(octets)
    }
}

/// Certificates are a name, and the rest of them the key. With `asksResponder` they are good when an OCSP responder says so.
final class ToyTrust: PeerTrust {
    /// As long as real ones of two links: messages with them have to be split.
    static let certificateBytes = 1400
    static let good = Array("good".utf8)

    let authorityKeyHashes = [[UInt8](repeating: 7, count: 20)]
    let asksResponder: Bool
    init(asksResponder: Bool) { self.asksResponder = asksResponder }

    static func identity(_ name: String) -> SigningIdentity {
        let key = ToyKey(Array("key of \(name)".utf8) + [UInt8](repeating: 1, count: certificateBytes))
        return SigningIdentity(
            key: key, certificates: [Array(name.utf8) + [0] + key.subjectPublicKeyInfo],
            issuerKeyHashes: [[UInt8](repeating: 7, count: 20)])
    }

    func evaluate(
        certificates: [[UInt8]], identity: Identity, revocationLists: [[UInt8]], ocspResponses: OCSPResponses
    ) throws(CertificateRefusal) -> TrustedPeer {
        guard let certificate = certificates.first, let end = certificate.firstIndex(of: 0) else {
            throw CertificateRefusal(.malformed, "There is no certificate.")
        }
        let name = String(decoding: certificate[..<end], as: UTF8.self)
        guard identity.description == name else { throw CertificateRefusal(.nameMismatch, "It is for \(name).") }
        let isSettled = !asksResponder || ocspResponses.all.contains(Self.good)
        let check = RevocationCheck(
            responders: ["http://192.0.2.99/"], request: [1], isRequired: true, sentence: "No responder answered.")
        return TrustedPeer(
            key: ToyKey(Array(certificate[(end + 1)...])), subject: "CN=\(name)", expires: 4_000_000_000,
            revocationCheck: isSettled ? nil : check)
    }

    func rawKey(_ subjectPublicKeyInfo: [UInt8]) -> (any VerifyingKey)? { ToyKey(subjectPublicKeyInfo) }
}

/// An EAP method of several rounds, some of them long, that proves both ends and makes a key.
enum ToyEAP {
    static let type = EAPType(rawValue: 255)
    static let rounds = 4
    static let octetsPerRound = 900

    static func plan(_ key: Secret) -> EAPClientPlan {
        EAPClientPlan(methods: [.init(type) { _ in Client(key) }])
    }

    static func server(_ key: Secret, asksIdentity: Bool, name: String) -> EAPServerPlan {
        EAPServerPlan { context in
            EAPMethodServer(context, methods: [.init(type) { _ in Server(key, name) }], asksIdentity: asksIdentity)
        }
    }

    private static func body(_ round: Int) -> [UInt8] {
        [UInt8(clamping: round)] + [UInt8](repeating: UInt8(clamping: round), count: octetsPerRound)
    }

    final class Client: EAPClientMethod {
        let masterSessionKey: Secret?
        private var seen = 0
        init(_ key: Secret) { masterSessionKey = key }
        func receive(_ data: [UInt8]) -> EAPClientStep {
            guard data == body(seen) else { return .failed("round \(seen) came out of turn") }
            seen += 1
            return .respond(body(seen))
        }
        var isDone: Bool { seen == rounds }
        var authenticatesServer: Bool { true }
        var failureSentence: String? { nil }
    }

    final class Server: EAPServerMethod {
        private let key: Secret
        private let name: String
        private var sent = 0
        init(_ key: Secret, _ name: String) { (self.key, self.name) = (key, name) }
        func begin() -> EAPServerMethodStep { .request(body(0)) }
        func receive(_ data: [UInt8]) -> EAPServerMethodStep {
            guard data == body(sent + 1) else { return .failure("round \(sent) came out of turn") }
            sent += 1
            if sent < rounds { return .request(body(sent)) }
            return .success(EAPOutcome(masterSessionKey: key, name: Array(name.utf8)))
        }
    }
}
