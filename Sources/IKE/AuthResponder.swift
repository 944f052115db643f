import IPsec

// IKE_AUTH as responder. RFC 7296 §1.2, §2.4, §2.15, §2.21.2.
extension IKECore {
    func answerAuth(_ sa: IKESA, _ state: HalfOpenSA, _ payloads: PayloadList, path: Path, now: Instant) {
        // A NAT may have moved it since its first message; without one an address that is not authenticated is not believed.
        if sa.encapsulates || path.remote.address == sa.path.remote.address { sa.path = path }
        let candidates = self.candidates(path)
        guard let identity = payloads.identityInitiator, let best = candidates.first else {
            respond(sa, .ikeAuth, [.notify(Notify(.invalidSyntax))], path: path)
            finishClosed(sa, reason: nil, failed: false, now: now)
            return
        }
        do throws(Refusal) {
            let connection = try identify(sa, state, payloads, identity, candidates, path: path)
            guard connection.plan.proposals.contains(where: { Negotiation.choose([$0], from: offerOf(sa)) != nil }) else {
                throw Refusal(
                    connection: connection.plan.name, notify: .noProposalChosen,
                    reason: Reasons.wrongSuite(sa.suite, identity: identity, plan: connection.plan, remote: path.remote))
            }
            guard obeysNATProhibition(payloads, path: path) else {
                throw Refusal(
                    connection: connection.plan.name, notify: .unexpectedNATDetected,
                    reason: "The peer \(path.remote) forbids NATs (NO_NATS_ALLOWED), and there is one on the path.")
            }
            admit(sa, state, payloads, identity, connection, path: path, now: now)
        } catch {
            counters.authenticationsRefused &+= 1
            let connection = error.connection.flatMap { connections[$0] } ?? best
            respond(sa, .ikeAuth, [.notify(Notify(error.notify))], path: path)
            finishClosed(sa, reason: nil, failed: false, now: now)
            refused(connection, reason: error.reason, now: now)
        }
    }

    struct Refusal: Error {
        /// The name of the connection that the peer most likely meant.
        var connection: String?
        var notify: NotifyType
        var reason: String
    }

    /// What was settled on, as if it were offered: to see whether another connection accepts it too.
    private func offerOf(_ sa: IKESA) -> [WireProposal] {
        [WireProposal(number: 1, protocolID: ProtocolID.ike, transforms: sa.suite?.transforms ?? [])]
    }

    /// The connection that the peer means and may use: by address (the candidates), by identities, by the secret.
    private func identify(
        _ sa: IKESA, _ state: HalfOpenSA, _ payloads: PayloadList, _ identity: WireIdentity, _ candidates: [ConnectionState],
        path: Path
    ) throws(Refusal) -> ConnectionState {
        // "If the IDr proposed by the initiator is not acceptable to the responder, the responder might use some other IDr to
        // finish the exchange." (§3.5) So it is a preference: the initiator then says itself what it minds, naming both.
        let wanted = payloads.identityResponder
        let known = candidates.filter { candidate in
            guard let theirs = identity.identity else { return false }
            return candidate.plan.remotePattern.matches(theirs)
        }
        let meant = known.filter { $0.plan.localIdentity == wanted?.identity }
        let matching = meant + known.filter { other in !meant.contains { $0 === other } }
        guard let first = matching.first else {
            throw Refusal(
                connection: candidates.first?.plan.name, notify: .authenticationFailed,
                reason: Reasons.wrongIdentity(identity, candidates: candidates.map(\.plan), remote: path.remote))
        }
        guard let authentication = payloads.authentication else {
            throw Refusal(
                connection: first.plan.name, notify: .authenticationFailed,
                reason: "The peer \(path.remote) (\(identity.sentence)) wants to authenticate with EAP, but connection "
                    + "\(first.plan.name) uses a pre-shared key: set auth: psk on the peer.")
        }
        guard authentication.method == AuthenticationMethod.sharedKey else {
            throw Refusal(
                connection: first.plan.name, notify: .authenticationFailed,
                reason: Reasons.wrongMethod(authentication.method, plan: first.plan, remote: path.remote))
        }
        guard let proven = matching.first(where: { proves(sa, state, identity, authentication.data, $0.plan) }) else {
            throw Refusal(
                connection: first.plan.name, notify: .authenticationFailed,
                reason: Reasons.wrongSecret(plan: first.plan, remote: path.remote, identity: identity))
        }
        return proven
    }

    private func proves(_ sa: IKESA, _ state: HalfOpenSA, _ identity: WireIdentity, _ value: [UInt8], _ plan: ConnectionPlan)
        -> Bool
    {
        guard let suite = sa.suite, let keys = sa.keys, let claimed = identity.identity,
            case .presharedKey(let keyring) = plan.remoteAuthentication, let secret = keyring.secret(for: claimed)
        else { return false }
        let expected = try? KeySchedule(crypto: crypto).authentication(
            prf: suite.prf, presharedKey: secret, message: state.initiatorMessage, nonce: state.responderNonce,
            identity: identity.encoded, authenticationKey: keys.initiatorAuthentication,
            intermediate: sa.intermediateAuthentication.octets)
        guard let expected else { return false }
        return crypto.constantTimeEqual(expected, value)
    }

    /// The peer is who it says: the IKE SA is up, whatever becomes of the child.
    private func admit(
        _ sa: IKESA, _ state: HalfOpenSA, _ payloads: PayloadList, _ identity: WireIdentity, _ connection: ConnectionState,
        path: Path,
        now: Instant
    ) {
        let plan = connection.plan
        let ours = WireIdentity(plan.localIdentity)
        guard let suite = sa.suite, let keys = sa.keys, let remoteIdentity = identity.identity,
            case .presharedKey(let keyring) = plan.localAuthentication, let secret = keyring.secret(for: remoteIdentity),
            let authentication = try? KeySchedule(crypto: crypto).authentication(
                prf: suite.prf, presharedKey: secret, message: state.responderMessage, nonce: state.initiatorNonce,
                identity: ours.encoded, authenticationKey: keys.responderAuthentication,
                intermediate: sa.intermediateAuthentication.octets)
        else {
            respond(sa, .ikeAuth, [.notify(Notify(.authenticationFailed))], path: path)
            finishClosed(sa, reason: nil, failed: false, now: now)
            return
        }
        sa.connection = plan.name
        sa.requestedIdentity = payloads.identityResponder
        connection.sas.append(sa.localSPI)
        if payloads.notify(.initialContact) != nil { dropPredecessors(of: sa, plan, remoteIdentity, now: now) }
        let established = establish(
            sa, connection, remoteIdentity: remoteIdentity, lowestNonce: lowerNonce(state.initiatorNonce, state.responderNonce),
            now: now)
        noteWindow(sa, payloads)
        noteMobility(sa, plan, payloads)
        var head: [Payload] = [
            .identityResponder(ours), .authentication(method: AuthenticationMethod.sharedKey, data: authentication),
        ]
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
        for other in sas.values.sorted(by: { $0.localSPI < $1.localSPI }) where other !== sa {
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
        // A peer may authenticate without asking for a child (RFC 6023).
        guard payloads.proposals != nil || payloads.selectorsInitiator != nil else {
            respond(sa, .ikeAuth, head, path: path)
            return
        }
        do throws(IKEFault) {
            let request = ChildRequest(
                payloads: payloads, initiatorNonce: state.initiatorNonce, responderNonce: state.responderNonce,
                withMethods: false,
                rekeyed: nil)
            let made = try acceptChild(sa, established, connection, request, now: now)
            withhold(
                made, on: sa, established, exchange: .ikeAuth, payloads: head + made.payloads,
                failure: head + [.notify(Notify(.temporaryFailure))], path: path, now: now)
        } catch {
            // "a responder may include all the payloads associated with authentication … while sending error notifications for
            // the piggybacked exchanges" (§2.21.2).
            respond(sa, .ikeAuth, head + [.notify(error.notify)], path: path)
        }
    }
}
