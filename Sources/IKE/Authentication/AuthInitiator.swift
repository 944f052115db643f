import IPsec

// IKE_AUTH as initiator, the first round and the end. RFC 7296 §1.2, §2.15, §2.21.2.
//
//   HDR(A,B), SK {IDi, [CERT,] [N(INITIAL_CONTACT),] [CERTREQ,] [IDr,] AUTH, [SAi2, TSi, TSr]} -->
//                                        <-- HDR(A,B), SK {IDr, [CERT,] AUTH, [SAr2, TSi, TSr]}
//
// With EAP the first request has no AUTH; `EAPInitiator` does the rounds that follow.
extension IKECore {
    func beginAuth(
        _ sa: IKESA, _ initiation: InitiatingSA, responderNonce: [UInt8], responderMessage: [UInt8], _ plan: ConnectionPlan,
        now: Instant
    ) {
        guard let connection = connections[plan.name] else { return }
        let transcript = InitTranscript(
            initiatorMessage: initiation.message, responderMessage: responderMessage, initiatorNonce: initiation.nonce,
            responderNonce: responderNonce)
        let state = AuthenticatingSA(transcript, child: firstChild(sa, connection), replaces: initiation.replaces)
        sa.phase = .authenticating(state)
        if waitsForOwnStatus(sa, [plan], now: now) { state.isPutOff = true } else { sendAuth(sa, state, plan, now: now) }
    }

    func sendAuth(_ sa: IKESA, _ state: AuthenticatingSA, _ plan: ConnectionPlan, now: Instant) {
        do throws(IKEFault) {
            let payloads = try authRequest(sa, state, plan)
            send(.authenticate, .ikeAuth, payloads, on: sa, now: now)
            guard sa.outstanding != nil else {
                throw .ours("the message would be longer than \(Bounds.messageBytes) octets: send fewer or smaller certificates")
            }
        } catch {
            drop(sa, reason: "IKE_AUTH could not be prepared: \(error.sentence).", failed: true, now: now)
        }
    }

    /// The child to ask for along with authentication; nil: "without the piggy-backed Child SA negotiation" (RFC 6023 §3).
    private func firstChild(_ sa: IKESA, _ connection: ConnectionState) -> ChildOffer? {
        if connection.plan.childless == .prefer, sa.peerAllowsChildless { return nil }
        let moving = childrenToReplace(connection, sa.replaces)
        let open = connection.plan.children.filter { connection.slots[$0.name]?.isTakenDown != true }
        // What the peer does not renew in CREATE_CHILD_SA has only this exchange.
        let first = moving.first { connection.slots[$0.name]?.rekeyProblem != nil } ?? moving.first
        guard let plan = first ?? connection.wantedChildren.first ?? open.first else { return nil }
        return makeOffer(plan, selectors: nil, withMethods: false)
    }

    private func authRequest(_ sa: IKESA, _ state: AuthenticatingSA, _ plan: ConnectionPlan) throws(IKEFault) -> [Payload] {
        let identity = WireIdentity(plan.localIdentity)
        var payloads: [Payload] = [.identityInitiator(identity)]
        var authentication: [Payload] = []
        if case .eap(let client) = plan.localAuthentication {
            // "An initiator indicates a desire to use EAP by leaving out the AUTH payload from the first message in the IKE_AUTH
            // exchange." (§2.16)
            if plan.offersEAPOnly(client) { payloads.append(.notify(Notify(.eapOnlyAuthentication))) }
        } else {
            let ppk = try beginPPK(sa, plan) { () throws(IKEFault) in
                try prove(sa, state.transcript, identity, plan, peer: nil).authentication.authenticationData
            }
            let proof = try prove(sa, state.transcript, identity, plan, peer: nil)
            payloads += proof.certificates
            authentication = [proof.authentication] + ppk
            state.localMethod = proof.method
        }
        if isOnlyContact(sa, plan) { payloads.append(.notify(Notify(.initialContact))) }
        payloads += RemoteAuthentication.requests([plan.remoteAuthentication])
        if let remote = plan.remoteIdentity { payloads.append(.identityResponder(WireIdentity(remote))) }
        payloads += authentication
        payloads += connections[plan.name].map(configurationRequest) ?? []
        if let child = state.child { payloads += childPayloads(child) }
        return payloads + mobilityPayloads(sa, plan)
    }

    /// "The INITIAL_CONTACT notification asserts that this IKE SA is the only IKE SA currently active between the authenticated
    /// identities." (§2.4) Half-open SAs with the same address count: they may be the peer's half of a simultaneous initiation.
    private func isOnlyContact(_ sa: IKESA, _ plan: ConnectionPlan) -> Bool {
        let site = sa.path.remote.address.site
        if halfOpenByAddress[site] != nil || unverifiedByAddress[site] != nil { return false }
        return !contacts(plan, at: sa.path.remote.address).contains { spi in
            guard let other = sas[spi], other !== sa else { return false }
            switch other.phase {
            case .established(let state):
                return state.localIdentity == plan.localIdentity
                    && (state.remoteIdentity == plan.remoteIdentity || other.path.remote.address == sa.path.remote.address)
            case .authenticating:
                guard let theirs = self.plan(of: other) else { return false }
                return theirs.localIdentity == plan.localIdentity && other.path.remote.address == sa.path.remote.address
            case .halfOpen, .initiating, .intermediate, .closing, .closed: return false
            }
        }
    }

    // MARK: The answer

    func finishAuth(_ sa: IKESA, _ state: AuthenticatingSA, _ payloads: PayloadList, now: Instant) {
        guard !state.isAbandoned, let plan = plan(of: sa), let connection = connections[plan.name] else {
            sa.phase = .closing
            sa.tasks = payloads.authentication == nil ? [] : [.deleteIKE]
            if sa.tasks.isEmpty { drop(sa, reason: nil, failed: false, now: now) }
            return
        }
        switch state.step {
        case .first: finishFirstRound(sa, state, connection, payloads, now: now)
        case .eap(let peer): finishEAPRound(sa, state, connection, peer, payloads, now: now)
        case .proof(let outcome): finishEAPProof(sa, state, connection, outcome, payloads, now: now)
        }
    }

    private func finishFirstRound(
        _ sa: IKESA, _ state: AuthenticatingSA, _ connection: ConnectionState, _ payloads: PayloadList, now: Instant
    ) {
        let plan = connection.plan
        let isEAPRound = plan.localAuthentication.isEAP && payloads.extensibleAuthentication != nil
        guard let identity = payloads.identityResponder, isEAPRound || payloads.authentication != nil else {
            let reason =
                payloads.firstError.map { Reasons.authRefused($0, plan: plan, sa: sa) }
                ?? Reasons.noProof(payloads, plan: plan, remote: sa.path.remote)
            drop(sa, reason: reason, failed: true, now: now)
            return
        }
        guard let claimed = identity.identity else {
            let reason = Reason(
                .identity,
                "The peer \(sa.path.remote) identifies by \(identity.sentence), which this version does not understand.")
            refuseAuthenticated(sa, reason: reason, now: now)
            return
        }
        guard plan.remotePattern.matches(claimed) else {
            let reason = Reasons.wrongResponder(identity, plan: plan, remote: sa.path.remote)
            refuseAuthenticated(sa, reason: reason, now: now)
            return
        }
        state.responderIdentity = (identity, claimed)
        if let proof = PeerProof(payloads, identity, claimed: claimed) {
            believe(sa, state, connection, proof, payloads, isAsked: false, now: now)
        } else if case .eap(let client) = plan.localAuthentication, plan.offersEAPOnly(client) {
            // The server will prove itself within the method. RFC 5998 §3.
            startEAP(sa, state, connection, payloads, now: now)
        } else {
            refuseAuthenticated(sa, reason: Reasons.noProof(payloads, plan: plan, remote: sa.path.remote), now: now)
        }
    }

    /// Judges the responder's proof; when a revocation check has to be asked for, the SA waits.
    func believe(
        _ sa: IKESA, _ state: AuthenticatingSA, _ connection: ConnectionState, _ proof: PeerProof, _ payloads: PayloadList,
        isAsked: Bool, now: Instant
    ) {
        if let reason = settlePPK(sa, connection.plan, response: payloads) {
            refuseAuthenticated(sa, reason: Reason(.authentication, reason), now: now)
            return
        }
        let works = state.isJudged ? [] : certificateWork(proof, CollectionOfOne(connection.plan))
        state.isJudged = true
        guard works.isEmpty else {
            state.waiting = (proof, payloads)
            wait(sa, for: .judgement, now: now) { .judgeCertificates(works, token: $0) }
            return
        }
        do throws(ProofRefusal) {
            var peer = try judge(sa, state.transcript, proof, connection.plan)
            if let check = try openQuestion(&peer, isAsked: isAsked) {
                state.waiting = (proof, payloads)
                wait(sa, now: now) { .checkRevocation(check, token: $0) }
                return
            }
            state.responder = peer
            if connection.plan.localAuthentication.isEAP {
                startEAP(sa, state, connection, payloads, now: now)
            } else {
                completeAuth(sa, state, connection, peer, payloads, now: now)
            }
        } catch {
            refuseAuthenticated(sa, reason: error.reason, now: now)
        }
    }

    /// Both ends have proved who they are.
    func completeAuth(
        _ sa: IKESA, _ state: AuthenticatingSA, _ connection: ConnectionState, _ peer: ProvenPeer, _ payloads: PayloadList,
        now: Instant
    ) {
        // These say that there is no IKE SA at the other end, whatever else the message has (§2.21.2).
        let fatal: Set<NotifyType> = [.authenticationFailed, .invalidSyntax, .unsupportedCriticalPayload]
        if let error = payloads.notifies.first(where: { fatal.contains($0.type) }) {
            drop(sa, reason: Reasons.authRefused(error, plan: connection.plan, sa: sa), failed: true, now: now)
            return
        }
        if obeyAuthRedirect(sa, connection, payloads, replaces: state.replaces, now: now) { return }
        noteMobility(sa, connection.plan, payloads)
        let established = establish(
            sa, connection, peer, localMethod: state.localMethod, lowestNonce: state.transcript.lowestNonce, now: now)
        noteWindow(sa, payloads)
        noteAuthenticationLifetime(sa, payloads, now: now)
        takeConfiguration(sa, established, connection, payloads)
        finishFirstChild(sa, established, connection, state, payloads, now: now)
        leaveWithoutAddress(sa, established, connection, now: now)
        completeReplacement(sa, established, now: now)
    }

    /// "If the error occurs on the initiator, the notification MAY be returned in a separate INFORMATIONAL exchange, usually with
    /// no other payloads." (§2.21.2)
    func refuseAuthenticated(_ sa: IKESA, reason: Reason, now: Instant) {
        counters.authenticationsRefused &+= 1
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
        guard let child = state.child else { return }
        guard payloads.agreedProposals != nil else {
            let error = payloads.firstError ?? Notify(.noProposalChosen)
            childFailed(
                connection, child.name,
                reason: Reasons.childRefused(
                    error, offer: child, isRekey: false, hasAgreed: payloads.proposals != nil, plan: connection.plan,
                    networks: localNetworks), now: now)
            // Whatever it has made of what it agreed to.
            if payloads.proposals != nil { deleteUnusable(child.inboundSPI, on: sa, now: now) }
            return
        }
        do throws(IKEFault) {
            let made = try completeChild(
                sa, connection, child, payloads,
                nonces: (state.transcript.initiatorNonce, state.transcript.responderNonce), shared: nil, now: now)
            install(made, on: sa, established, now: now)
        } catch {
            let reason: Reason = "The peer's answer for child \(child.name) is unusable: \(error.sentence)."
            childFailed(connection, child.name, reason: reason, now: now)
            if let spi = payloads.proposals?.first?.spi, spi.count == 4 { deleteUnusable(child.inboundSPI, on: sa, now: now) }
        }
    }

    func noteWindow(_ sa: IKESA, _ payloads: PayloadList) {
        if let window = payloads.notify(.setWindowSize), window.data.count == 4 {
            sa.peerWindow = max(sa.peerWindow, UInt32(truncatingIfNeeded: window.data.bigEndianValue))
        }
    }
}

extension LocalAuthentication {
    var isEAP: Bool { if case .eap = self { true } else { false } }
}

extension ConnectionPlan {
    /// RFC 5998 §3.
    func offersEAPOnly(_ client: EAPClientPlan) -> Bool {
        if case .eapOnly = remoteAuthentication { return true }
        return client.offersEAPOnly
    }
}
