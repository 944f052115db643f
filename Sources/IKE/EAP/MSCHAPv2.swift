public import IPsec

/// What a method wants after a packet of its own type. Type data is what follows the EAP type octet.
package enum EAPMethodStep: Sendable {
    case send([UInt8])
    /// An OCSP responder has to be asked about the other end first.
    case ask(RevocationCheck)
    /// This end is content; `send` still goes out first when it is there.
    case success(send: [UInt8]?, key: Secret?)
    /// One clause for the operator, without a full stop.
    case failure(send: [UInt8]?, reason: String)
}

/// The user names and passwords of a server. RFC 2759 compares names without a domain in front.
public struct EAPUsers: Sendable {
    private var passwords: [String: Secret]

    public init(_ passwords: [String: Secret]) { self.passwords = passwords }

    public var isEmpty: Bool { passwords.isEmpty }

    /// `DOMAIN\name` is looked up as it is and without the domain. The user is what the entry says: two domains may have the
    /// same name.
    func entry(of name: [UInt8]) -> (user: [UInt8], password: Secret)? {
        for candidate in [name, MSCHAPv2.withoutDomain(name)] {
            if let text = String(validating: candidate, as: UTF8.self), let found = passwords[text] { return (candidate, found) }
        }
        return nil
    }
}

package enum MSCHAPv2 {
    /// Wrong answers that one conversation may give.
    package static let triesMost = 3

    /// "NAME … without the domain" (RFC 2759 §8.2): what follows the last backslash.
    package static func withoutDomain(_ name: [UInt8]) -> [UInt8] {
        guard let slash = name.lastIndex(of: UInt8(ascii: "\\")) else { return name }
        return Array(name[(slash + 1)...])
    }
}

/// The server's side: challenge, response, success or failure, agreement.
///
/// ```
/// challenge ──► response ─► right: success ──► agreement ─► done
///                        └► wrong: failure, may retry with a new challenge ──► response …
///                                  failure for good ──► agreement ─► refused
/// ```
package final class MSCHAPv2Server {
    private enum State {
        case idle
        case challenged([UInt8])
        case proven(Secret)
        case refused(String)
        case ended
    }

    private let crypto: any EAPCrypto
    private let random: any IKERandom
    private let users: EAPUsers
    private let name: [UInt8]
    private var state = State.idle
    private var id: UInt8 = 0
    private var tries = 0
    /// The user name that was proven, without its domain.
    package private(set) var userName: [UInt8]?
    /// What was wrong with the last answer.
    package private(set) var refusal: String?

    /// - Parameter name: of this server, shown by clients to their users.
    package init(users: EAPUsers, name: String, crypto: any EAPCrypto, random: any IKERandom) {
        (self.users, self.name, self.crypto, self.random) = (users, Array(name.utf8.prefix(255)), crypto, random)
    }

    /// The first request.
    package func begin() -> [UInt8] {
        id = random.bytes(1)[0]
        let challenge = random.bytes(MSCHAPv2Packet.challengeBytes)
        state = .challenged(challenge)
        return MSCHAPv2Packet.challenge(id: id, challenge: challenge, name: name).encoded
    }

    package func receive(_ data: ArraySlice<UInt8>) -> EAPMethodStep {
        let packet: MSCHAPv2Packet
        do throws(IKEFault) { packet = try MSCHAPv2Packet(parsing: data, isFromServer: false) } catch {
            return end("the peer's EAP-MSCHAPv2 packet is unusable: \(error.sentence)")
        }
        switch (state, packet) {
        case (.challenged(let challenge), .response(let id, let peerChallenge, let response, let name)):
            guard id == self.id else { return end("the peer answers another EAP-MSCHAPv2 challenge than ours") }
            return judge(challenge, peerChallenge, response, name)
        case (.challenged, .acknowledgement(isSuccess: false)):
            return end(refusal ?? "the peer gave up")
        case (.proven(let key), .acknowledgement(isSuccess: true)):
            state = .ended
            return .success(send: nil, key: key)
        case (.proven, .acknowledgement(isSuccess: false)):
            return end("the peer does not accept our proof that we know its password")
        case (.refused(let reason), .acknowledgement): return end(reason)
        default: return end("the peer's EAP-MSCHAPv2 packet is out of turn")
        }
    }

    private func end(_ reason: String) -> EAPMethodStep {
        state = .ended
        return .failure(send: nil, reason: reason)
    }

    private func judge(_ challenge: [UInt8], _ peerChallenge: [UInt8], _ response: [UInt8], _ name: [UInt8]) -> EAPMethodStep {
        let plain = MSCHAPv2.withoutDomain(name)
        let entry = users.entry(of: name)
        do throws(IKECryptoError) {
            // An unknown name costs the same work and gives the same answer as a wrong password.
            let hash = try crypto.mschapPasswordHash(entry?.password ?? crypto.joined([], paddedTo: 8))
            let expected = try crypto.mschapResponse(
                passwordHash: hash, authenticatorChallenge: challenge, peerChallenge: peerChallenge, userName: plain)
            let isRight = crypto.constantTimeEqual(expected, response)
            guard let entry, isRight else { return refuse(name, isKnown: entry != nil) }
            let proof = try crypto.mschapAuthenticatorResponse(
                passwordHash: hash, response: response, authenticatorChallenge: challenge, peerChallenge: peerChallenge,
                userName: plain)
            state = .proven(try crypto.mschapSessionKey(passwordHash: hash, response: response))
            (userName, refusal) = (entry.user, nil)
            let message = Array("S=\(Hexadecimal.text(proof)) M=".utf8)
            return .send(MSCHAPv2Packet.success(id: id, message: message).encoded)
        } catch {
            return end("EAP-MSCHAPv2 cannot be computed: \(error.clause)")
        }
    }

    private func refuse(_ name: [UInt8], isKnown: Bool) -> EAPMethodStep {
        tries += 1
        let shown = Identity.keyID(name).description.dropFirst("key-id:".count)
        let reason =
            isKnown
            ? "the password of user \(shown) is wrong: compare it with the one configured here"
            : "user \(shown) is not configured here: add it to eap.users"
        refusal = reason
        let mayRetry = tries < MSCHAPv2.triesMost
        let challenge = random.bytes(MSCHAPv2Packet.challengeBytes)
        let message = MSCHAPv2Failure(error: 691, mayRetry: mayRetry, challenge: challenge).encoded
        let packet = MSCHAPv2Packet.failure(id: id, message: message).encoded
        // draft-kamath §2.5: the answer to a failure that may be retried carries the next identifier.
        id &+= 1
        state = mayRetry ? .challenged(challenge) : .refused(reason)
        return .send(packet)
    }
}

/// The client's side. It is content only after the server has proven that it knows the password too.
package final class MSCHAPv2Client {
    private enum State {
        case idle
        case answered(challenge: [UInt8], peerChallenge: [UInt8], response: [UInt8])
        case ended
    }

    private let crypto: any EAPCrypto
    private let random: any IKERandom
    private let userName: [UInt8]
    private let password: Secret
    private var state = State.idle

    /// - Parameter userName: with a domain in front when the server wants one.
    package init(userName: String, password: Secret, crypto: any EAPCrypto, random: any IKERandom) {
        (self.userName, self.password) = (Array(userName.utf8.prefix(MSCHAPv2Packet.nameBytesMost)), password)
        (self.crypto, self.random) = (crypto, random)
    }

    package func receive(_ data: ArraySlice<UInt8>) -> EAPMethodStep {
        let packet: MSCHAPv2Packet
        do throws(IKEFault) { packet = try MSCHAPv2Packet(parsing: data, isFromServer: true) } catch {
            return end("the server's EAP-MSCHAPv2 packet is unusable: \(error.sentence)")
        }
        do throws(IKECryptoError) {
            switch (state, packet) {
            case (.idle, .challenge(let id, let challenge, _)): return try answer(challenge, id: id)
            case (.answered(let challenge, let peerChallenge, let response), .success(_, let message)):
                return try check(message, challenge: challenge, peerChallenge: peerChallenge, response: response)
            case (.answered, .failure(_, let message)):
                // We have one password, so trying again is of no use.
                state = .ended
                let meaning = MSCHAPv2Failure(message: message)?.meaning ?? "it gives no reason"
                return .failure(
                    send: MSCHAPv2Packet.acknowledgement(isSuccess: false).encoded,
                    reason: "the server refuses the user name or password: \(meaning)")
            default: return end("the server's EAP-MSCHAPv2 packet is out of turn")
            }
        } catch {
            return end("EAP-MSCHAPv2 cannot be computed: \(error.clause)")
        }
    }

    private func end(_ reason: String) -> EAPMethodStep {
        state = .ended
        return .failure(send: nil, reason: reason)
    }

    private func answer(_ challenge: [UInt8], id: UInt8) throws(IKECryptoError) -> EAPMethodStep {
        let peerChallenge = random.bytes(MSCHAPv2Packet.challengeBytes)
        let response = try crypto.mschapResponse(
            passwordHash: try crypto.mschapPasswordHash(password), authenticatorChallenge: challenge,
            peerChallenge: peerChallenge, userName: MSCHAPv2.withoutDomain(userName))
        state = .answered(challenge: challenge, peerChallenge: peerChallenge, response: response)
        return .send(
            MSCHAPv2Packet.response(id: id, peerChallenge: peerChallenge, response: response, name: userName).encoded)
    }

    /// "The peer MUST … disconnect if the authenticator response is … incorrect" (RFC 2759 §5, in substance).
    private func check(
        _ message: [UInt8], challenge: [UInt8], peerChallenge: [UInt8], response: [UInt8]
    ) throws(IKECryptoError) -> EAPMethodStep {
        let hash = try crypto.mschapPasswordHash(password)
        let expected = try crypto.mschapAuthenticatorResponse(
            passwordHash: hash, response: response, authenticatorChallenge: challenge, peerChallenge: peerChallenge,
            userName: MSCHAPv2.withoutDomain(userName))
        let proof =
            message.starts(with: [UInt8(ascii: "S"), UInt8(ascii: "=")])
            ? Hexadecimal.octets(message.dropFirst(2).prefix(40)) : nil
        guard let proof, crypto.constantTimeEqual(proof, expected) else {
            return end("the server does not prove that it knows our password: it may be somebody else")
        }
        state = .ended
        return .success(
            send: MSCHAPv2Packet.acknowledgement(isSuccess: true).encoded,
            key: try crypto.mschapSessionKey(passwordHash: hash, response: response))
    }
}

extension IKECryptoError {
    /// For the middle of a sentence.
    package var clause: String {
        switch self {
        case .invalidPublicValue: "a public value is invalid"
        case .authenticationFailed: "a checksum does not verify"
        case .library(let text): text
        }
    }
}
