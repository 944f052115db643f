import IPsec

// The rounds of IKE_AUTH with EAP, as initiator. RFC 7296 §2.16, RFC 5998.
//
//   HDR, SK {EAP} -->          until the server says EAP-Success:
//                 <-- HDR, SK {EAP}
//   HDR, SK {AUTH} -->         with the key that the method made
//                 <-- HDR, SK {AUTH, [SAr2, TSi, TSr]}
extension IKECore {
    /// The responder's first answer is accepted.
    func startEAP(
        _ sa: IKESA, _ state: AuthenticatingSA, _ connection: ConnectionState, _ payloads: PayloadList, now: Instant
    ) {
        guard case .eap(let client) = connection.plan.localAuthentication, let claimed = state.responderIdentity?.claimed,
            let packet = payloads.extensibleAuthentication
        else {
            let reason =
                "The peer \(sa.path.remote) does not ask for EAP, which connection \(connection.plan.name) "
                + "authenticates by: set auth: eap for the remote side there, or another local.auth here."
            refuseAuthenticated(sa, reason: Reason(.authentication, reason), now: now)
            return
        }
        let context = EAPContext(
            crypto: crypto, random: random, peer: claimed, name: connection.plan.localIdentity.octets, remote: sa.path.remote)
        let peer = EAPPeer(client, context)
        state.step = .eap(peer)
        advance(sa, state, connection, peer, packet, now: now)
    }

    func finishEAPRound(
        _ sa: IKESA, _ state: AuthenticatingSA, _ connection: ConnectionState, _ peer: EAPPeer, _ payloads: PayloadList,
        now: Instant
    ) {
        guard let packet = payloads.extensibleAuthentication else {
            let reason =
                payloads.firstError.map { Reasons.authRefused($0, plan: connection.plan, sa: sa) }
                ?? "The peer \(sa.path.remote) broke off the EAP exchange without a reason."
            drop(sa, reason: reason, failed: true, now: now)
            return
        }
        advance(sa, state, connection, peer, packet, now: now)
    }

    private func advance(
        _ sa: IKESA, _ state: AuthenticatingSA, _ connection: ConnectionState, _ peer: EAPPeer, _ packet: [UInt8], now: Instant
    ) {
        advance(sa, state, connection, peer.receive(packet), packet, now: now)
    }

    /// The server's certificate has been asked about.
    func resumeEAP(
        _ sa: IKESA, _ state: AuthenticatingSA, _ connection: ConnectionState, _ peer: EAPPeer, _ response: [UInt8]?, now: Instant
    ) {
        advance(sa, state, connection, peer.resume(response), [], now: now)
    }

    /// - Parameter packet: what it is the answer to.
    private func advance(
        _ sa: IKESA, _ state: AuthenticatingSA, _ connection: ConnectionState, _ step: EAPPeer.Step, _ packet: [UInt8],
        now: Instant
    ) {
        switch step {
        case .ask(let check): wait(sa, now: now) { .checkRevocation(check, token: $0) }
        case .send(let bytes): send(.authenticate, .ikeAuth, [.extensibleAuthentication(bytes)], on: sa, now: now)
        case .success(let outcome, let authenticatesServer):
            prove(sa, state, connection, outcome, authenticatesServer: authenticatesServer, now: now)
        case .failure(let sentence):
            let reason =
                "EAP with \(sa.path.remote) failed: \(sentence). Our name there is "
                + "\(connection.plan.localIdentity); see user name and secret of connection \(connection.plan.name)."
            // EAP-Failure ends the IKE SA at the other end too.
            if EAPPacket(parsing: packet)?.code == .failure {
                counters.authenticationsRefused &+= 1
                drop(sa, reason: Reason(.authentication, reason), failed: true, now: now)
            } else {
                refuseAuthenticated(sa, reason: Reason(.authentication, reason), now: now)
            }
        }
    }

    private func prove(
        _ sa: IKESA, _ state: AuthenticatingSA, _ connection: ConnectionState, _ outcome: EAPOutcome, authenticatesServer: Bool,
        now: Instant
    ) {
        // "Both the initiator and responder MUST verify that the EAP method actually used provided mutual authentication and
        // established a shared secret key." RFC 5998 §3.
        if state.responder == nil, !authenticatesServer || outcome.masterSessionKey == nil {
            let method = outcome.method?.description ?? "the EAP method"
            let reason =
                "The peer \(sa.path.remote) proved itself by \(method) only, which does not authenticate a server: use "
                + "EAP-TLS, or let the server show a certificate."
            refuseAuthenticated(sa, reason: Reason(.authentication, reason), now: now)
            return
        }
        do throws(IKEFault) {
            func authenticate() throws(IKEFault) -> [UInt8] {
                guard let secret = eapSecret(sa, outcome, byInitiator: true) else { throw .ours("the IKE SA has no keys") }
                return try sharedKeyAuthentication(
                    sa, state.transcript, byInitiator: true, WireIdentity(connection.plan.localIdentity), secret: secret)
            }
            let ppk = try beginPPK(sa, connection.plan, authenticate: authenticate)
            let data = try authenticate()
            state.step = .proof(outcome)
            state.localMethod = outcome.method?.description ?? "EAP"
            send(
                .authenticate, .ikeAuth, [.authentication(method: AuthenticationMethod.sharedKey, data: data)] + ppk, on: sa,
                now: now)
        } catch {
            refuseAuthenticated(sa, reason: "IKE_AUTH could not be prepared: \(error.sentence).", now: now)
        }
    }

    func finishEAPProof(
        _ sa: IKESA, _ state: AuthenticatingSA, _ connection: ConnectionState, _ outcome: EAPOutcome, _ payloads: PayloadList,
        now: Instant
    ) {
        guard let authentication = payloads.authentication, let (identity, claimed) = state.responderIdentity else {
            let reason =
                payloads.firstError.map { Reasons.authRefused($0, plan: connection.plan, sa: sa) }
                ?? "The peer \(sa.path.remote) did not prove that it took part in the EAP exchange."
            drop(sa, reason: reason, failed: true, now: now)
            return
        }
        if let reason = settlePPK(sa, connection.plan, response: payloads) {
            refuseAuthenticated(sa, reason: Reason(.authentication, reason), now: now)
            return
        }
        guard authentication.method == AuthenticationMethod.sharedKey,
            let secret = eapSecret(sa, outcome, byInitiator: false),
            proves(sa, state.transcript, identity, secret: secret, authentication.data)
        else {
            let reason =
                "The peer \(sa.path.remote) does not know the key that EAP made: somebody is between us and the EAP "
                + "server, or its authentication server gave it another key."
            refuseAuthenticated(sa, reason: Reason(.authentication, reason), now: now)
            return
        }
        let method = outcome.method?.description ?? "EAP"
        var peer = state.responder ?? ProvenPeer(identity: claimed, method: method)
        peer.warnings += outcome.warnings
        if peer.review == nil { (peer.review, peer.validSeconds) = (outcome.review, outcome.review?.validSeconds) }
        completeAuth(sa, state, connection, peer, payloads, now: now)
    }
}

extension Identity {
    /// The octets of an ID payload: the name that EAP gets when nothing else is configured.
    var octets: [UInt8] {
        switch self {
        case .address(let address): Array(address.description.utf8)
        case .fqdn(let name), .email(let name): Array(name.utf8)
        case .distinguishedName(let octets), .keyID(let octets): octets
        }
    }
}
