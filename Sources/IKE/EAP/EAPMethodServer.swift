import IPsec

/// An EAP server that runs its methods here: asks for the identity if told to, offers its methods in order, takes a Nak.
/// RFC 3748.
public final class EAPMethodServer: EAPServerSession {
    public struct Method: Sendable {
        public var type: EAPType
        /// `EAPContext.name` is what the peer answered to EAP-Identity, if it was asked.
        public var make: @Sendable (EAPContext) -> any EAPServerMethod
        public init(_ type: EAPType, make: @escaping @Sendable (EAPContext) -> any EAPServerMethod) {
            (self.type, self.make) = (type, make)
        }
    }

    private enum State {
        case idle, identity
        /// - isBegun: the peer has answered, so it cannot ask for another method any more.
        case method(EAPType, any EAPServerMethod, isBegun: Bool)
        case ended
    }

    private var context: EAPContext
    private let methods: [Method]
    private let asksIdentity: Bool
    private var state = State.idle
    private var refused: Set<UInt8> = []
    private var identifier: UInt8
    private var rounds = 0

    /// - Parameters:
    ///   - methods: the best first.
    ///   - asksIdentity: false: IDi serves: "the responder SHOULD NOT send EAP Identity requests" (RFC 7296 §3.16); true for
    ///     peers whose IDi says nothing to the method.
    public init(_ context: EAPContext, methods: [Method], asksIdentity: Bool) {
        (self.context, self.methods, self.asksIdentity) = (context, methods, asksIdentity)
        identifier = context.random.bytes(1).first ?? 0
    }

    public func begin() -> EAPServerStep {
        guard asksIdentity else { return propose() }
        state = .identity
        return request(.identity, [])
    }

    public func receive(_ packet: [UInt8]) -> EAPServerStep {
        rounds += 1
        guard rounds <= Bounds.eapRounds else { return fail("the EAP peer took more than \(Bounds.eapRounds) rounds") }
        guard let packet = EAPPacket(parsing: packet), packet.code == .response, let type = packet.type,
            packet.identifier == identifier
        else { return fail("an EAP packet of the peer is malformed or answers nothing") }
        switch state {
        case .identity:
            guard type == .identity, !packet.data.isEmpty, packet.data.count <= Bounds.identityBytes else {
                return fail("the EAP peer did not answer with its identity")
            }
            context.name = packet.data
            return propose()
        case .method(let current, let method, let isBegun):
            if type == .nak, !isBegun { return choose(after: packet.data, current) }
            guard type == current else { return fail("the EAP peer answered \(current) with \(type)") }
            state = .method(current, method, isBegun: true)
            return advance(method.receive(packet.data), current)
        case .idle, .ended: return fail("an EAP packet came when none was due")
        }
    }

    public var refusal: String? { if case .method(_, let method, _) = state { method.refusal } else { nil } }

    public func workMicroseconds(_ packet: [UInt8]) -> Int {
        guard case .method(let current, let method, _) = state, let packet = EAPPacket(parsing: packet), packet.type == current
        else { return 0 }
        return method.workMicroseconds(packet.data)
    }

    public func resume(_ answer: EAPBackendAnswer?) -> EAPServerStep { fail("nobody was asked") }

    public func resumeRevocation(_ response: [UInt8]?) -> EAPServerStep {
        guard case .method(let type, let method, _) = state else { return fail("nobody was asked") }
        return advance(method.resume(response), type)
    }

    /// The best method that the peer has not refused.
    private func propose() -> EAPServerStep {
        guard let method = methods.first(where: { !refused.contains($0.type.rawValue) }) else {
            return fail("no EAP method is configured that the peer takes")
        }
        return start(method)
    }

    private func start(_ method: Method) -> EAPServerStep {
        let run = method.make(context)
        state = .method(method.type, run, isBegun: false)
        return advance(run.begin(), method.type)
    }

    private func choose(after wanted: [UInt8], _ current: EAPType) -> EAPServerStep {
        refused.insert(current.rawValue)
        guard let method = methods.first(where: { wanted.contains($0.type.rawValue) && !refused.contains($0.type.rawValue) })
        else {
            let theirs = wanted.prefix(8).map { EAPType(rawValue: $0).description }.joined(separator: ", ")
            let ours = methods.map(\.type.description).joined(separator: ", ")
            let places = "(see remote.auth here and local.auth there)"
            return fail("the EAP peer refuses \(ours) and wants \(theirs.isEmpty ? "nothing else" : theirs) \(places)")
        }
        return start(method)
    }

    private func advance(_ step: EAPServerMethodStep, _ type: EAPType) -> EAPServerStep {
        switch step {
        case .request(let data): return request(type, data)
        case .ask(let check): return .checkRevocation(check)
        case .success(var outcome):
            state = .ended
            if outcome.method == nil { outcome.method = type }
            return .success(EAPPacket(.success, identifier: identifier).encoded, outcome)
        case .failure(let sentence): return fail(sentence)
        }
    }

    /// "Any new (non-retransmission) Requests MUST modify the Identifier field" (§4.1); Success and Failure carry that of the
    /// response before them (§4.2).
    private func request(_ type: EAPType, _ data: [UInt8]) -> EAPServerStep {
        identifier &+= 1
        return .send(EAPPacket(.request, identifier: identifier, type: type, data: data).encoded)
    }

    private func fail(_ sentence: String) -> EAPServerStep {
        state = .ended
        return .failure(EAPPacket(.failure, identifier: identifier).encoded, sentence)
    }
}
