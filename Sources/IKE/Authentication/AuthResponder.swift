import IPsec

// IKE_AUTH as responder: who the peer is, by what proof, and the end. RFC 7296 §1.2, §2.4, §2.15, §2.21.2. What takes more than
// one step (EAP, a revocation check) goes on in `AuthResponderRounds`.
extension IKECore {
    func answerAuth(_ sa: IKESA, _ state: HalfOpenSA, _ payloads: PayloadList, path: Path, now: Instant) {
        // A NAT may have moved it since its first message; without one an address that is not authenticated is not believed.
        if sa.encapsulates || path.remote.address == sa.path.remote.address { sa.path = path }
        if let auth = state.auth {
            answerFurtherAuth(sa, state, auth, payloads, path: path, now: now)
            return
        }
        let candidates = self.candidates(path)
        guard let identity = payloads.identityInitiator, let best = candidates.first else {
            respond(sa, .ikeAuth, [.notify(Notify(.invalidSyntax))], path: path)
            finishClosed(sa, reason: nil, failed: false, now: now)
            return
        }
        sa.wishes.add(payloads)
        if waitsForOwnStatus(sa, candidates.map(\.plan), now: now) {
            state.putOff = (payloads, path)
            return
        }
        if waitsForJudgement(sa, state, payloads, candidates, path: path, now: now) { return }
        do throws(Refusal) {
            let connections = try known(identity, candidates, wanted: payloads.identityResponder, path: path)
            guard let claimed = identity.identity else { return }
            let (connection, next) = try identify(sa, state, payloads, identity, claimed, connections, path: path)
            guard !connection.isTakenDown else {
                throw Refusal(
                    connection: connection.plan.name, notify: .temporaryFailure,
                    reason: Reasons.refusedAsTakenDown(connection.plan.name, remote: path.remote))
            }
            try checkSuite(sa, identity, connection, path: path)
            try checkChild(payloads, connection, path: path)
            guard obeysNATProhibition(payloads, path: path) else {
                throw Refusal(
                    connection: connection.plan.name, notify: .unexpectedNATDetected,
                    reason: Reason(
                        .nat, "The peer \(path.remote) forbids NATs (NO_NATS_ALLOWED), and there is one on the path."))
            }
            switch next {
            case .proven(let peer):
                admit(sa, state, payloads, identity, connection, peer, proof: nil, path: path, now: now)
            case .ask(let proof, let check):
                let auth = ResponderAuth(
                    request: payloads, identity: identity, claimed: claimed, connection: connection, step: .revocation(proof),
                    path: path, givesUp: now + Bounds.authenticationLifetime)
                state.auth = auth
                state.expires = auth.givesUp
                wait(sa, now: now) { .checkRevocation(check, token: $0) }
            case .eap(let server):
                beginEAP(sa, state, payloads, identity, claimed, connection, server, path: path, now: now)
            }
        } catch {
            let connection = error.connection.flatMap { connections[$0] } ?? best
            refuseAuth(sa, connection, [.notify(Notify(error.notify))], reason: error.reason, path: path, now: now)
        }
    }

    /// The same answer for whatever is wrong: one that is not authenticated does not learn which identities or methods exist.
    func refuseAuth(
        _ sa: IKESA, _ connection: ConnectionState, _ payloads: [Payload], reason: Reason, path: Path, now: Instant
    ) {
        counters.authenticationsRefused &+= 1
        respond(sa, .ikeAuth, payloads, path: path)
        finishClosed(sa, reason: nil, failed: false, now: now)
        refused(connection, reason, from: path.remote, now: now)
    }

    struct Refusal: Error {
        /// The name of the connection that the peer most likely meant.
        var connection: String?
        var notify: NotifyType
        var reason: Reason
    }

    /// What the first request comes to.
    private enum Next {
        case proven(ProvenPeer)
        case ask(PeerProof, RevocationCheck)
        case eap(EAPServerPlan)
    }

    private func checkSuite(_ sa: IKESA, _ identity: WireIdentity, _ connection: ConnectionState, path: Path) throws(Refusal) {
        // What was settled on, as if it were offered: to see whether this connection accepts it too.
        let offer = [WireProposal(number: 1, protocolID: ProtocolID.ike, transforms: sa.suite?.transforms ?? [])]
        guard connection.plan.proposals.contains(where: { Negotiation.choose([$0], from: offer) != nil }) else {
            throw Refusal(
                connection: connection.plan.name, notify: .noProposalChosen,
                reason: Reasons.wrongSuite(sa.suite, identity: identity, plan: connection.plan, remote: path.remote))
        }
    }

    /// "A supporting responder that has been configured not to support this extension … SHOULD reply with an INVALID_SYNTAX
    /// Notify payload if the client sends an IKE_AUTH request that is modified". RFC 6023 §3.
    private func checkChild(_ payloads: PayloadList, _ connection: ConnectionState, path: Path) throws(Refusal) {
        guard connection.plan.childless == .never, payloads.proposals == nil, payloads.selectorsInitiator == nil else { return }
        throw Refusal(
            connection: connection.plan.name, notify: .invalidSyntax,
            reason: Reason(
                .other,
                "The peer \(path.remote) asks for no child along with IKE_AUTH (RFC 6023), which connection "
                    + "\(connection.plan.name) does not allow: set childless: allow here, or let the peer ask for a child."))
    }

    /// The connections that the peer may mean, by address (the candidates) and by identities, the best match first.
    private func known(
        _ identity: WireIdentity, _ candidates: [ConnectionState], wanted: WireIdentity?, path: Path
    ) throws(Refusal) -> [ConnectionState] {
        // "If the IDr proposed by the initiator is not acceptable to the responder, the responder might use some other IDr to
        // finish the exchange." (§3.5) So it is a preference: the initiator then says itself what it minds, naming both.
        let claimed = identity.identity
        let known = candidates.filter { candidate in claimed.map { candidate.plan.remotePattern.matches($0) } ?? false }
        guard !known.isEmpty else {
            // Whom it wants to talk to says which connection it most likely means.
            let likely = candidates.filter { $0.plan.localIdentity == wanted?.identity }
            let plans = (likely + candidates.filter { other in !likely.contains { $0 === other } }).map(\.plan)
            throw Refusal(
                connection: plans.first?.name, notify: .authenticationFailed,
                reason: Reasons.wrongIdentity(identity, candidates: plans, remote: path.remote))
        }
        let meant = known.filter { $0.plan.localIdentity == wanted?.identity }
        return meant + known.filter { other in !meant.contains { $0 === other } }
    }

    /// The connection that the peer may use, by its proof.
    private func identify(
        _ sa: IKESA, _ state: HalfOpenSA, _ payloads: PayloadList, _ identity: WireIdentity, _ claimed: Identity,
        _ matching: [ConnectionState], path: Path
    ) throws(Refusal) -> (ConnectionState, Next) {
        let first = matching[0]
        guard var proof = PeerProof(payloads, identity, claimed: claimed) else {
            // "An initiator indicates a desire to use EAP by leaving out the AUTH payload" (§2.16).
            for candidate in matching {
                if case .eap(let server) = candidate.plan.remoteAuthentication { return (candidate, .eap(server)) }
            }
            throw Refusal(
                connection: first.plan.name, notify: .authenticationFailed,
                reason: Reasons.unwantedEAP(identity, plan: first.plan, remote: path.remote))
        }
        let data = proof.data
        var refusal: (proof: ProofRefusal, connection: ConnectionState)?
        for candidate in matching.prefix(Bounds.connectionsTried) where !candidate.plan.localAuthentication.isEAP {
            do throws(ProofRefusal) {
                proof.data = try settlePPK(sa, candidate.plan, request: payloads) ?? data
                var peer = try judge(sa, state.transcript, proof, candidate.plan, known: state.signatures)
                if let check = try openQuestion(&peer, isAsked: false) { return (candidate, .ask(proof, check)) }
                return (candidate, .proven(peer))
            } catch {
                if let refusal, refusal.proof.depth.rawValue >= error.depth.rawValue { continue }
                refusal = (error, candidate)
            }
        }
        throw Refusal(
            connection: (refusal?.connection ?? first).plan.name, notify: .authenticationFailed,
            reason: refusal?.proof.reason
                ?? "Connection \(first.plan.name) authenticates by EAP here, so it can only initiate, never answer.")
    }

    /// The peer is who it says: the IKE SA is up, whatever becomes of the child.
    /// - Parameter proof: ours, when EAP has made it already.
    func admit(
        _ sa: IKESA, _ state: HalfOpenSA, _ payloads: PayloadList, _ identity: WireIdentity, _ connection: ConnectionState,
        _ peer: ProvenPeer, proof: (payloads: [Payload], method: String)?, path: Path, now: Instant
    ) {
        let plan = connection.plan
        var head: [Payload]
        let localMethod: String
        do throws(IKEFault) {
            if let proof {
                (head, localMethod) = proof
            } else {
                let ours = WireIdentity(plan.localIdentity)
                let made = try prove(sa, state.transcript, ours, plan, peer: identity.identity)
                (head, localMethod) = ([.identityResponder(ours)] + made.certificates + [made.authentication], made.method)
            }
        } catch {
            let reason: Reason = "We cannot prove to \(path.remote) (\(identity.sentence)) who we are: \(error.sentence)."
            refuseAuth(sa, connection, [.notify(Notify(.authenticationFailed))], reason: reason, path: path, now: now)
            return
        }
        sa.connection = plan.name
        sa.requestedIdentity = payloads.identityResponder
        connection.sas.append(sa.localSPI)
        if payloads.notify(.initialContact) != nil { dropPredecessors(of: sa, plan, peer.identity, now: now) }
        let established = establish(
            sa, connection, peer, localMethod: localMethod, lowestNonce: state.transcript.lowestNonce, now: now)
        limitPeer(of: sa, now: now)
        noteWindow(sa, payloads)
        noteMobility(sa, plan, payloads)
        // "which includes the PPK_IDENTITY notification with no data to indicate that the PPK is used". RFC 8784 §3.
        if sa.postquantum.isUsed { head.append(.notify(Notify(.ppkIdentity))) }
        if sa.postquantum.isNegotiated, !sa.postquantum.isUsed {
            log(.warning, plan.name, Reasons.ppkNotShared(payloads, plan: plan, remote: path.remote) + " It goes on without.")
        }
        head += authenticationLifetime(established)
        if sa.mobility.isNegotiated { head += mobilityPayloads(sa, plan) }
        if let redirect = authRedirect(sa, established, plan, now: now) {
            respond(sa, .ikeAuth, head + [redirect], path: path)
            return
        }
        answerFirstChild(sa, established, connection, state, payloads, head: head, path: path, now: now)
    }

    /// "the recipient MAY use this information to delete any other IKE SAs it has to the same authenticated identity without
    /// waiting for a timeout" (§2.4). Only those that were up before this one began: one that came up since is the other half of
    /// a simultaneous initiation, which the peer could not know of when it wrote the notify.
    private func dropPredecessors(of sa: IKESA, _ plan: ConnectionPlan, _ remoteIdentity: Identity, now: Instant) {
        for spi in identityIndex[IdentityPair(plan.localIdentity, remoteIdentity)]?.sorted() ?? [] {
            guard let other = sas[spi], other !== sa else { continue }
            // Only of the same connection: an identity is worth what its own secret proves.
            guard let state = other.established, other.connection == plan.name, state.remoteIdentity == remoteIdentity,
                state.localIdentity == plan.localIdentity,
                state.establishedAt < sa.createdAt
            else { continue }
            log(.info, other.connection, "The peer \(remoteIdentity) started anew (INITIAL_CONTACT): its old IKE SA is dropped.")
            drop(other, reason: "The peer started anew.", failed: false, now: now)
        }
    }

    private func answerFirstChild(
        _ sa: IKESA, _ established: EstablishedSA, _ connection: ConnectionState, _ state: HalfOpenSA, _ payloads: PayloadList,
        head: [Payload], path: Path, now: Instant
    ) {
        do throws(IKEFault) {
            let settled = try answerConfiguration(sa, established, connection, payloads)
            // A peer may authenticate without asking for a child (RFC 6023).
            guard payloads.proposals != nil || payloads.selectorsInitiator != nil else {
                respond(sa, .ikeAuth, head + settled, path: path)
                return
            }
            let request = ChildRequest(
                payloads: payloads, initiatorNonce: state.initiatorNonce, responderNonce: state.responderNonce,
                withMethods: false,
                rekeyed: nil)
            let made = try acceptChild(sa, established, connection, request, now: now)
            withhold(
                made, on: sa, established, exchange: .ikeAuth, payloads: head + settled + made.payloads,
                failure: head + [.notify(Notify(.temporaryFailure))], path: path, now: now)
        } catch {
            // "a responder may include all the payloads associated with authentication … while sending error notifications for
            // the piggybacked exchanges" (§2.21.2).
            respond(sa, .ikeAuth, head + [.notify(error.notify)], path: path)
            closeAfter(error, sa, "request for a child", now: now)
        }
    }
}
