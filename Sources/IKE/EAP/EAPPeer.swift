import IPsec

/// The EAP peer's side of one conversation: Identity, Notification, Nak, Success and Failure here, the rest by methods. RFC 3748.
package final class EAPPeer {
    package enum Step: Sendable {
        /// An EAP packet (a response) for the server.
        case send([UInt8])
        /// An OCSP responder has to be asked about the server first: `resume` goes on.
        case ask(RevocationCheck)
        /// EAP-Success after a method that was done. `authenticatesServer`: see `EAPClientMethod`.
        case success(EAPOutcome, authenticatesServer: Bool)
        /// One sentence.
        case failure(String)
    }

    private let plan: EAPClientPlan
    private let context: EAPContext
    private var method: (type: EAPType, run: any EAPClientMethod)?
    private var last: (request: [UInt8], response: [UInt8])?
    /// The request that waits for an OCSP responder.
    private var asked: (packet: EAPPacket, bytes: [UInt8])?
    /// The method that the server wanted and we do not have.
    private var declined: EAPType?
    private var rounds = 0
    /// What the server wanted to be displayed. RFC 3748 §5.2.
    package private(set) var notification: String?

    package init(_ plan: EAPClientPlan, _ context: EAPContext) { (self.plan, self.context) = (plan, context) }

    /// - Parameter bytes: the contents of an EAP payload.
    package func receive(_ bytes: [UInt8]) -> Step {
        rounds += 1
        guard rounds <= Bounds.eapRounds else { return .failure("the server asked more than \(Bounds.eapRounds) times") }
        guard let packet = EAPPacket(parsing: bytes) else { return .failure("an EAP packet of the server is malformed") }
        // "If a peer receives a valid duplicate Request for which it has already sent a Response, it MUST resend its original
        // Response without reprocessing the Request." (§4.1)
        if let last, last.request == bytes { return .send(last.response) }
        switch (packet.code, packet.type) {
        case (.request, let type?): return answer(packet, type, bytes)
        case (.success, _): return succeed()
        case (.failure, _):
            let ours = plan.methods.map(\.type.description).joined(separator: ", ")
            let hint =
                method?.run.failureSentence.map { ": \($0)" }
                ?? declined.map { ": it wanted \($0), and we do \(ours) (see local.auth here and remote.auth there)" } ?? ""
            return .failure("the server answered EAP-Failure\(hint)")
        case (.response, _), (.request, nil): return .failure("the server sent an EAP response")
        }
    }

    private func answer(_ packet: EAPPacket, _ type: EAPType, _ bytes: [UInt8]) -> Step {
        switch type {
        case .identity: return respond(packet, .identity, plan.identity ?? context.name, to: bytes)
        case .notification:
            notification = Identity.keyID(packet.data).description
            return respond(packet, .notification, [], to: bytes)
        case .nak: return .failure("the server sent an EAP request of type Nak")
        default: break
        }
        if method == nil {
            guard let wanted = plan.methods.first(where: { $0.type == type }) else {
                declined = type
                // "MUST contain one or more octets indicating the desired authentication Type(s), one octet per Type, or the
                // value zero (0) to indicate no proposed alternative." RFC 3748 §5.3.1.
                let types = plan.methods.map(\.type.rawValue)
                return respond(packet, .nak, types.isEmpty ? [0] : types, to: bytes)
            }
            method = (type, wanted.make(context))
        }
        guard let method, method.type == type else {
            return .failure("the server changed from \(method?.type.description ?? "") to \(type) in the middle")
        }
        return advance(method.run.receive(packet.data), packet, type, bytes)
    }

    /// - Parameter response: OCSPResponse, DER; nil when no responder answered.
    package func resume(_ response: [UInt8]?) -> Step {
        guard let (packet, bytes) = asked, let method else { return .failure("nobody was asked") }
        asked = nil
        return advance(method.run.resume(response), packet, method.type, bytes)
    }

    private func advance(_ step: EAPClientStep, _ packet: EAPPacket, _ type: EAPType, _ bytes: [UInt8]) -> Step {
        switch step {
        case .respond(let data): return respond(packet, type, data, to: bytes)
        case .ask(let check):
            asked = (packet, bytes)
            return .ask(check)
        case .failed(let sentence): return .failure(sentence)
        }
    }

    private func respond(_ packet: EAPPacket, _ type: EAPType, _ data: [UInt8], to request: [UInt8]) -> Step {
        let response = EAPPacket(.response, identifier: packet.identifier, type: type, data: data).encoded
        last = (request, response)
        return .send(response)
    }

    private func succeed() -> Step {
        guard let method else { return .failure("the server answered EAP-Success before it asked anything") }
        guard method.run.isDone else { return .failure("the server answered EAP-Success in the middle of \(method.type)") }
        let outcome = EAPOutcome(
            masterSessionKey: method.run.masterSessionKey, name: plan.identity ?? context.name, method: method.type,
            warnings: method.run.warnings, review: method.run.review)
        return .success(outcome, authenticatesServer: method.run.authenticatesServer)
    }
}
