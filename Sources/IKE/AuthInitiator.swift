import IPsec

// IKE_AUTH as initiator. RFC 7296 §1.2, §2.15, §2.21.2.
//
//   HDR(A,B), SK {IDi, [N(INITIAL_CONTACT),] [IDr,] AUTH, SAi2, TSi, TSr} -->
//                                        <-- HDR(A,B), SK {IDr, AUTH, SAr2, TSi, TSr}
extension IKECore {
    func beginAuth(
        _ sa: IKESA, _ initiation: InitiatingSA, responderNonce: [UInt8], responderMessage: [UInt8], _ plan: ConnectionPlan,
        now: Instant
    ) {
        guard let state = connections[plan.name], let suite = sa.suite, let keys = sa.keys,
            let childPlan = state.wantedChildren.first ?? plan.children.first
        else { return }
        let offer = makeOffer(childPlan, selectors: nil, withMethods: false)
        let identity = WireIdentity(plan.localIdentity)
        do throws(IKEFault) {
            guard case .presharedKey(let keyring) = plan.localAuthentication,
                let secret = keyring.secret(expecting: plan.remotePattern)
            else { throw .ours("connection \(plan.name) has no pre-shared key for \(plan.remotePattern)") }
            let authentication = try KeySchedule(crypto: crypto).authentication(
                prf: suite.prf, presharedKey: secret, message: initiation.message, nonce: responderNonce,
                identity: identity.encoded, authenticationKey: keys.initiatorAuthentication,
                intermediate: sa.intermediateAuthentication.octets)
            var payloads: [Payload] = [.identityInitiator(identity)]
            if isOnlyContact(sa, plan) { payloads.append(.notify(Notify(.initialContact))) }
            if let remote = plan.remoteIdentity { payloads.append(.identityResponder(WireIdentity(remote))) }
            payloads.append(.authentication(method: AuthenticationMethod.sharedKey, data: authentication))
            payloads += childPayloads(offer) + mobilityPayloads(sa, plan)
            sa.phase = .authenticating(
                AuthenticatingSA(
                    initiatorNonce: initiation.nonce, responderNonce: responderNonce, responderMessage: responderMessage,
                    child: offer,
                    replaces: initiation.replaces))
            sa.nextRequestID = 1
            send(.authenticate, .ikeAuth, payloads, on: sa, now: now)
        } catch {
            drop(sa, reason: "IKE_AUTH could not be prepared: \(error.sentence).", failed: true, now: now)
        }
    }

    /// "The INITIAL_CONTACT notification asserts that this IKE SA is the only IKE SA currently active between the authenticated
    /// identities." (§2.4) Half-open SAs with the same address count: they may be the peer's half of a simultaneous initiation.
    private func isOnlyContact(_ sa: IKESA, _ plan: ConnectionPlan) -> Bool {
        !sas.values.contains { other in
            guard other !== sa else { return false }
            switch other.phase {
            case .halfOpen: return other.path.remote.address == sa.path.remote.address
            case .established(let state):
                return state.localIdentity == plan.localIdentity
                    && (state.remoteIdentity == plan.remoteIdentity || other.path.remote.address == sa.path.remote.address)
            case .authenticating:
                guard let theirs = self.plan(of: other) else { return false }
                return theirs.localIdentity == plan.localIdentity && other.path.remote.address == sa.path.remote.address
            case .initiating, .closing, .closed: return false
            }
        }
    }

    func finishAuth(_ sa: IKESA, _ state: AuthenticatingSA, _ payloads: PayloadList, now: Instant) {
        guard !state.isAbandoned, let plan = plan(of: sa), let connection = connections[plan.name] else {
            sa.phase = .closing
            sa.tasks = payloads.authentication == nil ? [] : [.deleteIKE]
            if sa.tasks.isEmpty { drop(sa, reason: nil, failed: false, now: now) }
            return
        }
        guard let authentication = payloads.authentication, let identity = payloads.identityResponder else {
            let reason =
                payloads.firstError.map { Reasons.authRefused($0, plan: plan, remote: sa.path.remote) }
                ?? "The answer of \(sa.path.remote) to IKE_AUTH has no AUTH payload: it may want EAP, which we do not speak."
            drop(sa, reason: reason, failed: true, now: now)
            return
        }
        if let reason = refuseResponder(sa, state, plan, identity, authentication) {
            counters.authenticationsRefused &+= 1
            refuseAuthenticated(sa, reason: reason, now: now)
            return
        }
        if obeyAuthRedirect(sa, connection, payloads, replaces: state.replaces, now: now) { return }
        noteMobility(sa, plan, payloads)
        let established = establish(
            sa, connection, remoteIdentity: identity.identity ?? plan.remoteIdentity ?? plan.localIdentity,
            lowestNonce: lowerNonce(state.initiatorNonce, state.responderNonce), now: now)
        established.replaces = state.replaces
        noteWindow(sa, payloads)
        finishFirstChild(sa, established, connection, state, payloads, now: now)
    }

    /// Nil when the responder is who it should be.
    private func refuseResponder(
        _ sa: IKESA, _ state: AuthenticatingSA, _ plan: ConnectionPlan, _ identity: WireIdentity,
        _ authentication: (method: UInt8, data: [UInt8])
    ) -> String? {
        guard let claimed = identity.identity else {
            return "The peer \(sa.path.remote) identifies by \(identity.sentence), which this version does not understand."
        }
        guard plan.remotePattern.matches(claimed) else {
            return Reasons.wrongResponder(identity, plan: plan, remote: sa.path.remote)
        }
        guard authentication.method == AuthenticationMethod.sharedKey else {
            return Reasons.wrongMethod(authentication.method, plan: plan, remote: sa.path.remote)
        }
        guard let suite = sa.suite, let keys = sa.keys else { return "The IKE SA has no keys." }
        guard case .presharedKey(let keyring) = plan.remoteAuthentication, let secret = keyring.secret(for: claimed) else {
            return "Connection \(plan.name) has no pre-shared key for \(claimed)."
        }
        let expected = try? KeySchedule(crypto: crypto).authentication(
            prf: suite.prf, presharedKey: secret, message: state.responderMessage, nonce: state.initiatorNonce,
            identity: identity.encoded, authenticationKey: keys.responderAuthentication,
            intermediate: sa.intermediateAuthentication.octets)
        guard let expected, crypto.constantTimeEqual(expected, authentication.data) else {
            return Reasons.wrongSecret(plan: plan, remote: sa.path.remote, identity: identity)
        }
        return nil
    }

    /// "If the error occurs on the initiator, the notification MAY be returned in a separate INFORMATIONAL exchange, usually with
    /// no other payloads." (§2.21.2)
    private func refuseAuthenticated(_ sa: IKESA, reason: String, now: Instant) {
        leave(sa, reason: reason, failed: true, now: now)
        sa.phase = .closing
        sa.tasks = []
        send(.deleteIKE, .informational, [.notify(Notify(.authenticationFailed))], on: sa, now: now)
    }

    /// "This failure does not automatically cause the IKE SA to be deleted … and the initiator MUST NOT fail the authentication
    /// because of this." (§2.21.2)
    private func finishFirstChild(
        _ sa: IKESA, _ established: EstablishedSA, _ connection: ConnectionState, _ state: AuthenticatingSA,
        _ payloads: PayloadList,
        now: Instant
    ) {
        let name = state.child.name
        guard payloads.proposals != nil else {
            let error = payloads.firstError ?? Notify(.noProposalChosen)
            childFailed(
                connection, name, reason: Reasons.childRefused(error, offer: state.child, plan: connection.plan), now: now)
            return
        }
        do throws(IKEFault) {
            let made = try completeChild(
                sa, connection, state.child, payloads,
                nonces: (state.initiatorNonce, state.responderNonce), shared: nil, now: now)
            install(made, on: sa, established, now: now)
        } catch {
            childFailed(connection, name, reason: "The peer's answer for child \(name) is unusable: \(error.sentence).", now: now)
            if let spi = payloads.proposals?.first?.spi, spi.count == 4 {
                deleteUnusable(state.child.inboundSPI, on: sa, now: now)
            }
        }
    }

    func noteWindow(_ sa: IKESA, _ payloads: PayloadList) {
        if let window = payloads.notify(.setWindowSize), window.data.count == 4 {
            sa.peerWindow = max(sa.peerWindow, UInt32(truncatingIfNeeded: window.data.bigEndianValue))
        }
    }
}
