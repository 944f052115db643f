public import IPsec
internal import Wire

// The methods in the shape that IKE_AUTH drives: see EAP.swift.

/// Runs a client's side that answers type data with steps.
final class SteppedClient: EAPClientMethod {
    private let step: (ArraySlice<UInt8>) -> EAPMethodStep
    private(set) var isDone = false
    private(set) var masterSessionKey: Secret?
    private(set) var failureSentence: String?
    let authenticatesServer: Bool
    private let conversation: EAPTLSConversation?

    init(
        authenticatesServer: Bool, conversation: EAPTLSConversation? = nil,
        step: @escaping (ArraySlice<UInt8>) -> EAPMethodStep
    ) {
        (self.authenticatesServer, self.conversation, self.step) = (authenticatesServer, conversation, step)
    }

    var warnings: [String] { conversation?.settled?.warnings ?? [] }
    var review: CertificateReview? { conversation?.settled?.review }

    func receive(_ data: [UInt8]) -> EAPClientStep { translated(step(data[...])) }

    func resume(_ response: [UInt8]?) -> EAPClientStep {
        conversation.map { translated($0.resume(response)) } ?? .failed("nobody was asked")
    }

    private func translated(_ step: EAPMethodStep) -> EAPClientStep {
        switch step {
        case .send(let data): return .respond(data)
        case .ask(let check): return .ask(check)
        case .success(let data, let key):
            (isDone, masterSessionKey) = (true, key)
            return .respond(data ?? [])
        case .failure(let data, let reason):
            failureSentence = reason
            // The peer is told why, and ends it; without anything to tell, we do.
            return data.map(EAPClientStep.respond) ?? .failed(reason)
        }
    }
}

/// The server's side of the same.
final class SteppedServer: EAPServerMethod {
    private let first: () -> EAPMethodStep
    private let step: (ArraySlice<UInt8>) -> EAPMethodStep
    private let name: () -> [UInt8]
    private let refused: () -> String?
    private let conversation: EAPTLSConversation?

    init(
        conversation: EAPTLSConversation? = nil, refused: @escaping () -> String? = { nil }, name: @escaping () -> [UInt8],
        first: @escaping () -> EAPMethodStep,
        step: @escaping (ArraySlice<UInt8>) -> EAPMethodStep
    ) {
        (self.name, self.first, self.step, self.refused, self.conversation) = (name, first, step, refused, conversation)
    }

    var refusal: String? { refused() }
    func workMicroseconds(_ data: [UInt8]) -> Int { conversation?.workMicroseconds(data[...]) ?? 0 }

    func begin() -> EAPServerMethodStep { translated(first()) }
    func receive(_ data: [UInt8]) -> EAPServerMethodStep { translated(step(data[...])) }
    func resume(_ response: [UInt8]?) -> EAPServerMethodStep {
        conversation.map { translated($0.resume(response)) } ?? .failure("nobody was asked")
    }

    private func translated(_ step: EAPMethodStep) -> EAPServerMethodStep {
        switch step {
        case .send(let data): .request(data)
        case .ask(let check): .ask(check)
        case .success(_, let key):
            .success(
                EAPOutcome(
                    masterSessionKey: key, name: name(), warnings: conversation?.settled?.warnings ?? [],
                    review: conversation?.settled?.review))
        case .failure(_, let reason): .failure(reason)
        }
    }
}

extension EAPClientPlan.Method {
    /// EAP-MSCHAPv2. It proves to each end that the other knows the password, and to nobody else; RFC 5998 §4 does not list it
    /// among the methods that may stand for the server alone, and a password can be guessed from one recorded run.
    public static func mschapv2(userName: String, password: Secret, crypto: any EAPCrypto) -> Self {
        Self(.mschapv2) { context in
            let client = MSCHAPv2Client(userName: userName, password: password, crypto: crypto, random: context.random)
            return SteppedClient(authenticatesServer: false) { client.receive($0) }
        }
    }

    /// EAP-TLS.
    /// - Parameter server: who the server's certificate must speak for.
    public static func tls(_ maker: any TLSEngineMaker, server: Identity) -> Self {
        Self(.tls) { _ in
            do throws(IKECryptoError) {
                let conversation = EAPTLSConversation(try maker.makeEngine(isServer: false, peer: server), isServer: false)
                return SteppedClient(authenticatesServer: true, conversation: conversation) { conversation.receive($0) }
            } catch {
                let reason = "EAP-TLS cannot be begun: \(error.clause)"
                return SteppedClient(authenticatesServer: true) { _ in .failure(send: nil, reason: reason) }
            }
        }
    }
}

extension EAPMethodServer.Method {
    /// - Parameter serverName: shown by clients to their users.
    public static func mschapv2(users: EAPUsers, serverName: String, crypto: any EAPCrypto) -> Self {
        Self(.mschapv2) { context in
            let server = MSCHAPv2Server(users: users, name: serverName, crypto: crypto, random: context.random)
            return SteppedServer(
                refused: { server.refusal }, name: { server.userName ?? context.name }, first: { .send(server.begin()) },
                step: { server.receive($0) })
        }
    }

    /// The client's certificate must speak for the name that it gave to EAP-Identity, or for its IDi.
    public static func tls(_ maker: any TLSEngineMaker) -> Self {
        Self(.tls) { context in
            let peer = Identity(eapName: context.name) ?? context.peer
            do throws(IKECryptoError) {
                let conversation = EAPTLSConversation(try maker.makeEngine(isServer: true, peer: peer), isServer: true)
                return SteppedServer(
                    conversation: conversation, refused: { conversation.refusal }, name: { context.name },
                    first: { .send(conversation.begin()) },
                    step: { conversation.receive($0) })
            } catch {
                let reason = "EAP-TLS cannot be begun: \(error.clause)"
                return SteppedServer(
                    name: { context.name }, first: { .failure(send: nil, reason: reason) },
                    step: { _ in .failure(send: nil, reason: reason) })
            }
        }
    }
}

extension Identity {
    /// The identity that an EAP name stands for, by its shape; nil for an empty name or one that is no printable text.
    package init?(eapName name: [UInt8]) {
        guard !name.isEmpty, name.count <= Bounds.identityBytes, name.allSatisfy({ $0 >= 0x20 && $0 != 0x7F }),
            let text = String(validating: name, as: UTF8.self)
        else { return nil }
        if let address = IPAddress(text) {
            self = .address(address)
        } else {
            self = text.contains("@") ? .email(text) : .fqdn(text)
        }
    }
}
