public import IPsec
public import Wire

/// The RADIUS servers of a gateway, and what it says about itself.
public struct RADIUSPlan: Sendable {
    public struct Server: Sendable {
        public var endpoint: Endpoint
        public var secret: Secret
        public init(endpoint: Endpoint, secret: Secret) { (self.endpoint, self.secret) = (endpoint, secret) }
    }
    /// In order of preference.
    public var servers: [Server]
    /// NAS-Identifier: the gateway's name.
    public var identifier: String
    /// NAS-IP-Address or NAS-IPv6-Address.
    public var address: IPAddress
    public var retransmitInterval: Duration
    public var tries: Int
    /// Whether the peer is asked for its name; otherwise its IDi is its name.
    public var asksIdentity: Bool
    public init(
        servers: [Server], identifier: String, address: IPAddress, retransmitInterval: Duration = .seconds(2), tries: Int = 3,
        asksIdentity: Bool = true
    ) {
        (self.servers, self.identifier, self.address) = (servers, identifier, address)
        (self.retransmitInterval, self.tries, self.asksIdentity) = (retransmitInterval, tries, asksIdentity)
    }

    /// EAP is passed through to these servers.
    public func serverPlan(acceptsEAPOnly: Bool, crypto: any EAPCrypto) -> EAPServerPlan {
        EAPServerPlan(acceptsEAPOnly: acceptsEAPOnly) { context in RADIUSSession(self, context: context, crypto: crypto) }
    }
}

/// One EAP conversation whose method runs in a RADIUS server. RFC 3579 §2.
///
/// ```
/// peer ── EAP response ──► Access-Request (EAP-Message, State) ──► server
///      ◄── EAP request ─── Access-Challenge (EAP-Message, State)
///      ◄── EAP-Success ─── Access-Accept (keys, address, lifetime)
///      ◄── EAP-Failure ─── Access-Reject
/// ```
final class RADIUSSession: EAPServerSession {
    /// Questions of one conversation: EAP-TLS with long chains takes some twenty.
    static let questionsMost = 100
    /// Octets of the EAP packets that the server may make (Framed-MTU): IKE messages then stay below 1280 octets.
    static let framedMTU: UInt32 = 1020

    private let plan: RADIUSPlan
    private let context: EAPContext
    private let crypto: any EAPCrypto
    private var name: [UInt8]
    private var state: [UInt8]?
    /// The server that knows the conversation; nil before the first answer.
    private var chosen: Int?
    private var asked: [(server: Int, authenticator: [UInt8])] = []
    private var questions = 0
    private var lastIdentifier: UInt8 = 0
    private var awaitsName = false

    init(_ plan: RADIUSPlan, context: EAPContext, crypto: any EAPCrypto) {
        (self.plan, self.context, self.crypto, name) = (plan, context, crypto, context.name)
    }

    func begin() -> EAPServerStep {
        guard plan.asksIdentity else {
            return ask(EAPPacket(.response, identifier: 0, type: .identity, data: name).encoded)
        }
        awaitsName = true
        lastIdentifier = context.random.bytes(1)[0]
        return .send(EAPPacket(.request, identifier: lastIdentifier, type: .identity).encoded)
    }

    func receive(_ packet: [UInt8]) -> EAPServerStep {
        guard let response = EAPPacket(parsing: packet), response.code == .response else {
            return fail("the peer's EAP packet is malformed or no response")
        }
        guard response.identifier == lastIdentifier else {
            return fail("the peer answers another EAP request than the last one")
        }
        if awaitsName {
            guard response.type == .identity, response.data.count <= RADIUSPacket.valueBytesMost, !response.data.isEmpty else {
                return fail("the peer does not answer the question for its EAP identity")
            }
            awaitsName = false
            name = response.data
        }
        return ask(packet)
    }

    // MARK: Asking

    private func ask(_ packet: [UInt8]) -> EAPServerStep {
        questions += 1
        guard questions <= Self.questionsMost else { return fail("the EAP conversation goes on for too long") }
        let order = chosen.map { [$0] } ?? Array(plan.servers.indices)
        asked = []
        var candidates: [EAPBackendRequest.Candidate] = []
        do throws(IKECryptoError) {
            for index in order { candidates.append(try candidate(index, packet)) }
        } catch {
            return fail("a RADIUS request cannot be made: \(error.clause)")
        }
        return .ask(
            EAPBackendRequest(candidates: candidates, retransmitInterval: plan.retransmitInterval, tries: plan.tries))
    }

    private func candidate(_ index: Int, _ packet: [UInt8]) throws(IKECryptoError) -> EAPBackendRequest.Candidate {
        let server = plan.servers[index]
        let authenticator = context.random.bytes(16)
        let identifier = context.random.bytes(1)[0]
        let request = RADIUSPacket(
            code: .accessRequest, identifier: identifier, authenticator: authenticator, attributes: attributes(packet))
        asked.append((index, authenticator))
        let proofs = RADIUSProofs(crypto)
        let secret = server.secret
        return EAPBackendRequest.Candidate(
            server: server.endpoint, octets: try proofs.seal(request, secret: secret),
            isAnswer: { octets in
                guard let answer = try? RADIUSPacket(parsing: octets[...]), answer.identifier == identifier else { return false }
                let isOurs = try? proofs.isAuthentic(
                    answer, bytes: octets, requestAuthenticator: authenticator, secret: secret)
                return isOurs == true
            })
    }

    private func attributes(_ packet: [UInt8]) -> [RADIUSAttribute] {
        let four = { (value: UInt32) in [UInt8](u32: value) }
        let bounded = { (text: String) in Array(text.utf8.prefix(RADIUSPacket.valueBytesMost)) }
        var list = [
            RADIUSAttribute(RADIUSType.userName, Array(name.prefix(RADIUSPacket.valueBytesMost))),
            RADIUSAttribute(
                plan.address.isIPv4 ? RADIUSType.nasAddress : RADIUSType.nasAddress6, plan.address.bytes),
            RADIUSAttribute(RADIUSType.nasIdentifier, bounded(plan.identifier)),
            // Framed, over something virtual.
            RADIUSAttribute(RADIUSType.serviceType, four(2)), RADIUSAttribute(RADIUSType.nasPortType, four(5)),
            RADIUSAttribute(RADIUSType.framedMTU, four(Self.framedMTU)),
            RADIUSAttribute(RADIUSType.callingStation, bounded(context.remote.address.description)),
        ]
        if let state { list.append(RADIUSAttribute(RADIUSType.state, state)) }
        return list + RADIUSPacket.eapAttributes(packet)
    }

    // MARK: Answers

    func resume(_ answer: EAPBackendAnswer?) -> EAPServerStep {
        guard let answer, asked.indices.contains(answer.candidate), let packet = try? RADIUSPacket(parsing: answer.octets[...])
        else {
            let servers = asked.map { plan.servers[$0.server].endpoint.description }.joined(separator: ", ")
            return fail(
                "no RADIUS server answered (\(servers)): it may be down, not know this gateway as a client, or have another "
                    + "secret")
        }
        let (server, authenticator) = asked[answer.candidate]
        chosen = server
        switch RADIUSCode(rawValue: packet.code) {
        case .accessChallenge:
            guard let message = packet.eapMessage, let request = EAPPacket(parsing: message), request.code == .request else {
                return fail("the RADIUS server's challenge holds no EAP request")
            }
            state = packet.first(RADIUSType.state)
            lastIdentifier = request.identifier
            return .send(message)
        case .accessAccept: return accept(packet, server: plan.servers[server], authenticator: authenticator)
        case .accessReject:
            let reply = packet.first(RADIUSType.replyMessage).map { " and says: \(Self.shown($0))" } ?? ""
            return fail(
                "the RADIUS server \(plan.servers[server].endpoint) refuses user \(Self.shown(name))\(reply)",
                packet: packet.eapMessage)
        default: return fail("the RADIUS server answers with code \(packet.code)")
        }
    }

    private func accept(_ packet: RADIUSPacket, server: RADIUSPlan.Server, authenticator: [UInt8]) -> EAPServerStep {
        // RFC 3579 §2.6.3 wants EAP-Success in an Access-Accept; a packet that contradicts it is not believed.
        let message = packet.eapMessage ?? EAPPacket(.success, identifier: lastIdentifier).encoded
        guard let success = EAPPacket(parsing: message), success.code == .success else {
            return fail("the RADIUS server accepts the user without EAP-Success")
        }
        let key: Secret?
        do throws(IKECryptoError) {
            key = try sessionKey(packet, secret: server.secret, authenticator: authenticator)
        } catch {
            return fail("the keys of the RADIUS server cannot be read: \(error.clause)")
        }
        // What the peer said of itself outside of the method proves nothing: it may be "anonymous", or somebody else's.
        guard let user = packet.first(RADIUSType.userName), !user.isEmpty else {
            return fail(
                "the RADIUS server \(server.endpoint) accepts the user without telling its name; let its Access-Accept have "
                    + "User-Name (RFC 2869 §2.3.1)")
        }
        return .success(message, EAPOutcome(masterSessionKey: key, name: user, attributes: Self.granted(packet)))
    }

    /// "the MSK … MS-MPPE-Recv-Key … MS-MPPE-Send-Key" in that order (RFC 3748 §7.10 with RFC 2548 §2.4), zeros to 64 octets.
    private func sessionKey(
        _ packet: RADIUSPacket, secret: Secret, authenticator: [UInt8]
    ) throws(IKECryptoError) -> Secret? {
        guard let receive = packet.vendor(RADIUSType.microsoft, RADIUSType.receiveKey).first,
            let send = packet.vendor(RADIUSType.microsoft, RADIUSType.sendKey).first
        else { return nil }
        let parts = [
            try crypto.openMPPEKey(receive, secret: secret, authenticator: authenticator),
            try crypto.openMPPEKey(send, secret: secret, authenticator: authenticator),
        ]
        return crypto.joined(parts, paddedTo: 64)
    }

    /// Addresses and lifetime. 255.255.255.255 and …254 mean "as the NAS likes" (RFC 2865 §5.8).
    private static func granted(_ packet: RADIUSPacket) -> [EAPAttribute] {
        var list: [EAPAttribute] = []
        let addresses = packet.all(RADIUSType.framedAddress).filter { $0.count == 4 && $0.bigEndianValue < 0xFFFF_FFFE }
        for octets in addresses.prefix(1) + packet.all(RADIUSType.framedAddress6).filter({ $0.count == 16 }).prefix(1) {
            if let address = IPAddress(bytes: octets) { list.append(.address(address)) }
        }
        let microsoft = [RADIUSType.primaryDNS, RADIUSType.secondaryDNS].flatMap {
            packet.vendor(RADIUSType.microsoft, $0).filter { $0.count == 4 }.prefix(1)
        }
        for octets in microsoft + packet.all(RADIUSType.dnsServer6).filter({ $0.count == 16 }).prefix(2) {
            if let address = IPAddress(bytes: octets) { list.append(.dns(address)) }
        }
        if let timeout = packet.first(RADIUSType.sessionTimeout), timeout.count == 4, timeout.bigEndianValue > 0 {
            list.append(.lifetime(.seconds(Int64(timeout.bigEndianValue))))
        }
        return list
    }

    private func fail(_ sentence: String, packet: [UInt8]? = nil) -> EAPServerStep {
        let told = packet.flatMap { EAPPacket(parsing: $0) }
        let failure = told?.code == .failure ? packet : nil
        return .failure(failure ?? EAPPacket(.failure, identifier: lastIdentifier).encoded, sentence)
    }

    /// What somebody else chose, fit for a log.
    private static func shown(_ octets: [UInt8]) -> String {
        String(Identity.keyID(octets).description.dropFirst("key-id:".count))
    }
}
