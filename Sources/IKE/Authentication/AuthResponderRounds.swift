import DequeModule
import IPsec

// IKE_AUTH as responder beyond its first step: a revocation check, and EAP. RFC 7296 §2.16, RFC 5998.
extension IKECore {
    // MARK: A revocation check

    /// The peer's certificate is judged again, now with what an OCSP responder said.
    func resumeProof(_ sa: IKESA, _ state: HalfOpenSA, _ auth: ResponderAuth, _ proof: PeerProof, now: Instant) {
        guard stillConfigured(sa, auth, now: now) else { return }
        do throws(ProofRefusal) {
            var peer = try judge(sa, state.transcript, proof, auth.connection.plan)
            _ = try openQuestion(&peer, isAsked: true)
            admit(sa, state, auth.request, auth.identity, auth.connection, peer, proof: nil, path: auth.path, now: now)
        } catch {
            refuseAuth(
                sa, auth.connection, [.notify(Notify(.authenticationFailed))], reason: error.reason, path: auth.path, now: now)
        }
    }

    /// The configuration may have changed while the peer was being looked at.
    private func stillConfigured(_ sa: IKESA, _ auth: ResponderAuth, now: Instant) -> Bool {
        if connections[auth.connection.plan.name] === auth.connection { return true }
        respond(sa, .ikeAuth, [.notify(Notify(.authenticationFailed))], path: auth.path)
        finishClosed(sa, reason: nil, failed: false, now: now)
        return false
    }

    // MARK: EAP

    func beginEAP(
        _ sa: IKESA, _ state: HalfOpenSA, _ payloads: PayloadList, _ identity: WireIdentity, _ claimed: Identity,
        _ connection: ConnectionState, _ server: EAPServerPlan, path: Path, now: Instant
    ) {
        let plan = connection.plan
        // In silence, as with the key exchange: a peer that means it sends again.
        guard mayWork(plan.localAuthentication.workMicroseconds, for: path.remote.address, now: now) else {
            counters.signaturesDeferred &+= 1
            return
        }
        makeRoomForEAP(sa, now: now)
        let session = server.makeSession(
            EAPContext(crypto: crypto, random: random, peer: claimed, name: claimed.octets, remote: path.remote))
        let auth = ResponderAuth(
            request: payloads, identity: identity, claimed: claimed, connection: connection, step: .eap(session), path: path,
            givesUp: now + Bounds.authenticationLifetime)
        let ours = WireIdentity(plan.localIdentity)
        auth.head = [.identityResponder(ours)]
        auth.isEAPOnly = server.acceptsEAPOnly && payloads.notify(.eapOnlyAuthentication) != nil
        do throws(IKEFault) {
            if !auth.isEAPOnly {
                let proof = try prove(sa, state.transcript, ours, plan, peer: claimed)
                auth.head += proof.certificates + [proof.authentication]
                auth.localMethod = proof.method
            }
        } catch {
            let reason: Reason = "We cannot prove to \(path.remote) (\(identity.sentence)) who we are: \(error.sentence)."
            refuseAuth(sa, connection, [.notify(Notify(.authenticationFailed))], reason: reason, path: path, now: now)
            return
        }
        state.auth = auth
        advance(sa, state, auth, session, session.begin(), now: now)
    }

    /// Conversations take memory (a TLS handshake 165 KiB): of too many under way the oldest gives way.
    private func makeRoomForEAP(_ sa: IKESA, now: Instant) {
        if eapConversations.count >= Bounds.eapConversations {
            eapConversations = Deque(eapConversations.filter { isInEAP($0) })
        }
        while eapConversations.count >= Bounds.eapConversations, let oldest = eapConversations.popFirst() {
            guard let other = sas[oldest], other !== sa else { continue }
            counters.halfOpenEvicted &+= 1
            drop(other, reason: nil, failed: false, now: now)
        }
        eapConversations.append(sa.localSPI)
    }

    private func isInEAP(_ spi: UInt64) -> Bool {
        if let sa = sas[spi], case .halfOpen(let state) = sa.phase { state.auth != nil } else { false }
    }

    func answerFurtherAuth(
        _ sa: IKESA, _ state: HalfOpenSA, _ auth: ResponderAuth, _ payloads: PayloadList, path: Path, now: Instant
    ) {
        auth.path = path
        guard stillConfigured(sa, auth, now: now) else { return }
        switch auth.step {
        case .eap(let session):
            guard let packet = payloads.extensibleAuthentication else {
                let reason = Reason(
                    .authentication, "The peer \(path.remote) (\(auth.identity.sentence)) broke off the EAP exchange.")
                refuseAuth(
                    sa, auth.connection, [.notify(Notify(.authenticationFailed))], reason: reason, path: path, now: now)
                return
            }
            guard mayWork(session.workMicroseconds(packet), for: path.remote.address, now: now) else {
                counters.signaturesDeferred &+= 1
                return
            }
            advance(sa, state, auth, session, session.receive(packet), now: now)
        case .proof(let outcome): finishEAP(sa, state, auth, outcome, payloads, now: now)
        case .revocation, .backend, .eapRevocation: counters.unexpected &+= 1
        }
    }

    func advance(
        _ sa: IKESA, _ state: HalfOpenSA, _ auth: ResponderAuth, _ session: any EAPServerSession, _ step: EAPServerStep,
        now: Instant
    ) {
        guard stillConfigured(sa, auth, now: now) else { return }
        // Every round buys the peer time, up to a limit.
        state.expires = min(auth.givesUp, now + Bounds.halfOpenLifetime)
        switch step {
        case .send(let packet):
            auth.step = .eap(session)
            send(packet, sa, auth)
        case .checkRevocation(let check):
            auth.step = .eapRevocation(session)
            state.expires = auth.givesUp
            wait(sa, now: now) { .checkRevocation(check, token: $0) }
        case .ask(let request):
            auth.step = .backend(session)
            state.expires = auth.givesUp
            wait(sa, now: now) { .askBackend(request, token: $0) }
        case .success(let packet, let outcome):
            auth.step = .proof(outcome)
            send(packet, sa, auth)
        case .failure(let packet, let sentence):
            let plan = auth.connection.plan
            let reason = Reason(
                .authentication,
                "The peer \(auth.path.remote) (\(auth.identity.sentence)) failed EAP: \(sentence)."
                    + (plan.places == nil ? "" : " See remote.auth\(plan.line("remote.auth")) here."))
            // IDr goes along only when nothing has been said yet: the peer has to know whose answer it is.
            refuseAuth(
                sa, auth.connection, auth.head + [.extensibleAuthentication(packet)], reason: reason, path: auth.path, now: now)
        }
        touch(sa)
    }

    /// The first packet takes our own proof along: `IDr, [CERT,] AUTH, EAP`.
    private func send(_ packet: [UInt8], _ sa: IKESA, _ auth: ResponderAuth) {
        let payloads = auth.head + [.extensibleAuthentication(packet)]
        auth.head = []
        respond(sa, .ikeAuth, payloads, path: auth.path)
    }

    /// "Following such an extended exchange, the EAP AUTH payloads MUST be included in the two messages following the one
    /// containing the EAP Success message." (§2.16)
    private func finishEAP(
        _ sa: IKESA, _ state: HalfOpenSA, _ auth: ResponderAuth, _ outcome: EAPOutcome, _ payloads: PayloadList, now: Instant
    ) {
        let plan = auth.connection.plan
        let transcript = state.transcript
        do throws(ProofRefusal) {
            if auth.isEAPOnly, outcome.masterSessionKey == nil {
                throw refusal(auth, "its EAP method makes no key, which EAP-only authentication (RFC 5998) needs")
            }
            let withoutPPK = try settlePPK(sa, plan, request: payloads)
            guard let authentication = payloads.authentication, authentication.method == AuthenticationMethod.sharedKey,
                let secret = eapSecret(sa, outcome, byInitiator: true),
                proves(sa, transcript, auth.identity, secret: secret, withoutPPK ?? authentication.data)
            else { throw refusal(auth, "it does not know the key that EAP made: somebody is between it and us") }
            let peer = try admitted(auth, outcome)
            guard let ours = eapSecret(sa, outcome, byInitiator: false),
                let data = try? sharedKeyAuthentication(
                    sa, transcript, byInitiator: false, WireIdentity(plan.localIdentity), secret: ours)
            else { throw refusal(auth, "computing our AUTH failed") }
            let method = auth.isEAPOnly ? peer.method : auth.localMethod
            admit(
                sa, state, auth.request, auth.identity, auth.connection, peer,
                proof: ([.authentication(method: AuthenticationMethod.sharedKey, data: data)], method), path: auth.path, now: now)
        } catch {
            refuseAuth(
                sa, auth.connection, [.notify(Notify(.authenticationFailed))], reason: error.reason, path: auth.path, now: now)
        }
    }

    /// "It is important that policy lookups and access control decisions use the actual authenticated identity." (§2.16) What EAP
    /// authenticated counts, not IDi, which anybody may claim.
    private func admitted(_ auth: ResponderAuth, _ outcome: EAPOutcome) throws(ProofRefusal) -> ProvenPeer {
        // Not IDi, even when its octets are the same: its type is the peer's choice.
        let identity = Identity(eapName: outcome.name) ?? .keyID(outcome.name)
        guard auth.connection.plan.remotePattern.matches(identity) else {
            throw refusal(
                auth, "EAP authenticated it as \(identity), which remote.id \(auth.connection.plan.remotePattern) does not accept"
            )
        }
        return ProvenPeer(
            identity: identity, method: outcome.method?.description ?? "EAP", warnings: outcome.warnings,
            validSeconds: outcome.review?.validSeconds, eapName: outcome.name, attributes: outcome.attributes,
            review: outcome.review)
    }

    private func refusal(_ auth: ResponderAuth, _ sentence: String) -> ProofRefusal {
        ProofRefusal(
            depth: .secret, sentence: "The peer \(auth.path.remote) (\(auth.identity.sentence)) is refused: \(sentence).")
    }

    /// A message outside IKE_AUTH before authentication has ended: only that the peer breaks it off.
    func answerBreakOff(_ sa: IKESA, _ auth: ResponderAuth, _ payloads: PayloadList, path: Path, now: Instant) {
        respond(sa, .informational, [], path: path)
        let isDeleted = payloads.deletes.contains { $0.protocolID == ProtocolID.ike }
        guard isDeleted || payloads.firstError != nil else { return }
        finishClosed(sa, reason: nil, failed: false, now: now)
        if case .eap(let session) = auth.step, let why = session.refusal {
            let sentence = "The peer \(path.remote) (\(auth.identity.sentence)) failed EAP: \(why)."
            refused(auth.connection, Reason(.authentication, sentence), from: path.remote, now: now)
            return
        }
        let notify = payloads.firstError ?? Notify(.authenticationFailed)
        refused(
            auth.connection,
            Reasons.initiatorRefusedUs(
                notify, wanted: auth.request.identityResponder, plan: auth.connection.plan, wishes: sa.wishes,
                hasProvenSecret: false, remote: path.remote), from: path.remote, now: now)
    }
}
