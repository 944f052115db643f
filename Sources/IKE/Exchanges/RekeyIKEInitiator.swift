import IPsec

// CREATE_CHILD_SA for a new IKE SA, as initiator. RFC 7296 §1.3.2, §2.8, §2.18.
//
//   HDR, SK {SA, Ni, KEi} -->
//                         <-- HDR, SK {SA, Nr, KEr}
extension IKECore {
    func startRekeyIKE(on sa: IKESA, _ established: EstablishedSA, retries: Int, method: KeyExchangeMethod?, now: Instant) {
        guard established.supersededBy == nil, let plan = plan(of: sa), let suite = sa.suite else { return }
        if let series = sa.answered.first(where: \.isForIKE) {
            // The peer is at it; should it not finish, it is our turn.
            established.rekeyAt = series.expires + jitter(Bounds.temporaryFailureWait)
            return
        }
        guard let keyExchange = try? crypto.makeKeyExchange(method ?? suite.method) else {
            established.rekeyAt = now + Bounds.longestChildRetry
            log(.error, sa.connection, "Rekeying the IKE SA failed: a key exchange could not be prepared.")
            return
        }
        let spi = freshSPI()
        let state = RekeyingIKE(
            localSPI: spi, offered: Offer.ike(plan.proposals, spi: [UInt8](u64: spi)),
            nonce: random.bytes(Bounds.ourNonceBytes),
            keyExchange: keyExchange, retries: retries)
        send(
            .rekeyIKE(state), .createChildSA,
            [
                .securityAssociation(state.offered), .nonce(state.nonce),
                .keyExchange(method: keyExchange.method.rawValue, data: keyExchange.publicValue),
            ], on: sa, now: now)
    }

    func finishRekeyIKE(_ sa: IKESA, _ established: EstablishedSA, _ state: RekeyingIKE, _ payloads: PayloadList, now: Instant) {
        guard let connection = connection(of: sa) else { return }
        let rival = state.collision.flatMap { sas[$0] }
        guard let answer = payloads.agreedProposals else {
            refusedRekeyIKE(sa, established, connection, state, payloads.firstError ?? Notify(.noProposalChosen), rival, now: now)
            return
        }
        do throws(IKEFault) {
            let (choice, nonce, shared) = try agreed(state, answer, payloads)
            guard !choice.suite.additionalMethods.isEmpty else {
                completeRekeyIKE(sa, established, state, payloads, shared: shared, additional: [], now: now)
                return
            }
            if losesRekeyIKE(sa, established, state, ours: lowerNonce(state.nonce, nonce), now: now) { return }
            let series = FollowUpSeries(
                purpose: .rekeyIKE(state), answer: payloads, shared: shared, pending: choice.suite.additionalMethods)
            beginFollowUp(sa, established, series, now: now)
        } catch {
            unusableRekeyIKE(sa, state, error, now: now)
        }
    }

    /// The suite, the responder's nonce, and SK(0).
    func agreed(
        _ state: RekeyingIKE, _ answer: [WireProposal], _ payloads: PayloadList
    ) throws(IKEFault) -> (choice: Negotiation.Choice<IKESuite>, nonce: [UInt8], shared: Secret) {
        let choice = try Negotiation.verify(answer, offered: state.offered)
        guard choice.spi.count == 8, choice.spi.bigEndianValue != 0, let nonce = payloads.nonce,
            let theirs = payloads.keyExchange,
            theirs.method == choice.suite.method.rawValue, choice.suite.method == state.keyExchange.method
        else { throw .peerMisbehaved("it lacks an SPI, a nonce or the key exchange") }
        return (choice, nonce, try agree(state.keyExchange, theirs.data))
    }

    /// Every key exchange is done: the new IKE SA comes into being.
    /// - Parameter payloads: the answer to CREATE_CHILD_SA.
    func completeRekeyIKE(
        _ sa: IKESA, _ established: EstablishedSA, _ state: RekeyingIKE, _ payloads: PayloadList, shared: Secret,
        additional: [Secret], now: Instant
    ) {
        let rival = state.collision.flatMap { sas[$0] }
        do throws(IKEFault) {
            let successor = try succeed(sa, established, state, payloads, shared: shared, additional: additional, now: now)
            let ours = lowerNonce(state.nonce, payloads.nonce ?? [])
            if let rival, let rivalState = rival.established,
                established.supersededBy == rival.localSPI || ours.lexicographicallyPrecedes(rivalState.lowestNonce)
            {
                // "The new IKE SA containing the lowest nonce SHOULD be deleted by the node that created it, and the other
                // surviving new IKE SA MUST inherit all the Child SAs." (§2.8.2)
                inherit(from: sa, to: rival, now: now)
                close(successor, reason: "Redundant after a simultaneous rekey.", now: now)
            } else if rival == nil, losesRekeyIKE(sa, established, state, ours: ours, now: now) {
                // The surviving one is not made yet: the peer's additional key exchanges are under way.
                close(successor, reason: "Redundant after a simultaneous rekey.", now: now)
            } else {
                inherit(from: sa, to: successor, now: now)
                retireIKE(sa)
                if let rival, let rivalState = rival.established {
                    // Its creator deletes it, unless our response never reached it: then it is forgotten without a word.
                    (rivalState.contestedOf, rivalState.supersededBy) = (nil, successor.localSPI)
                    rivalState.expiresAt = min(rivalState.expiresAt, now + Bounds.closedLinger)
                    touch(rival)
                }
            }
        } catch {
            unusableRekeyIKE(sa, state, error, now: now)
        }
    }

    private func unusableRekeyIKE(_ sa: IKESA, _ state: RekeyingIKE, _ fault: IKEFault, now: Instant) {
        if let rival = state.collision.flatMap({ sas[$0] }) { inherit(from: sa, to: rival, now: now); return }
        close(sa, reason: "The peer's answer to rekeying the IKE SA is unusable: \(fault.sentence).", now: now)
    }

    /// - Parameters:
    ///   - established: nil when the new SA is only made to be deleted.
    ///   - payloads: the answer to CREATE_CHILD_SA.
    func succeed(
        _ sa: IKESA, _ established: EstablishedSA?, _ state: RekeyingIKE, _ payloads: PayloadList, shared: Secret,
        additional: [Secret], now: Instant
    ) throws(IKEFault) -> IKESA {
        let choice = try Negotiation.verify(payloads.proposals ?? [], offered: state.offered)
        guard let nonce = payloads.nonce else { throw .peerMisbehaved("it lacks a nonce") }
        return try makeSuccessor(
            of: sa, established, localSPI: state.localSPI, remoteSPI: choice.spi.bigEndianValue, weInitiate: true,
            suite: choice.suite, shared: shared, additional: additional, initiatorNonce: state.nonce, responderNonce: nonce,
            now: now)
    }

    private func refusedRekeyIKE(
        _ sa: IKESA, _ established: EstablishedSA, _ connection: ConnectionState, _ state: RekeyingIKE, _ error: Notify,
        _ rival: IKESA?,
        now: Instant
    ) {
        if let rival {
            // The peer finished its own rekey before it noticed ours (§2.8.2): its new SA stands.
            inherit(from: sa, to: rival, now: now)
            return
        }
        switch error.type {
        case .temporaryFailure:
            guard countTemporaryFailure(sa, established, now: now) else { return }
            established.rekeyAt = now + temporaryFailureWait(until: established.expiresAt, now: now)
        case .invalidKEPayload:
            guard error.data.count == 2, let method = KeyExchangeMethod(rawValue: UInt16(error.data.bigEndianValue)),
                connection.plan.proposals.contains(where: { $0.methods.contains(method) }), method != state.keyExchange.method,
                state.retries < Bounds.initRetries
            else { replace(sa, connection, now: now); return }
            startRekeyIKE(on: sa, established, retries: state.retries + 1, method: method, now: now)
        default:
            log(
                .warning, connection.plan.name,
                "The peer refused to rekey the IKE SA (\(error.type)): a new one is set up instead.")
            replace(sa, connection, now: now)
        }
    }

    // MARK: Both roles

    /// The new IKE SA: "the initiator's and responder's SPIs from the new IKE SA", message ids from zero. §2.18: "SKEYSEED =
    /// prf(SK_d (old), g^ir (new) | Ni | Nr)".
    func makeSuccessor(
        of sa: IKESA, _ established: EstablishedSA?, localSPI: UInt64, remoteSPI: UInt64, weInitiate: Bool, suite: IKESuite,
        shared: Secret, additional: [Secret] = [], initiatorNonce: [UInt8], responderNonce: [UInt8], now: Instant
    ) throws(IKEFault) -> IKESA {
        guard let oldKeys = sa.keys, let oldSuite = sa.suite else {
            throw .ours("the IKE SA has no keys")
        }
        let schedule = KeySchedule(crypto: crypto)
        let (initiatorSPI, responderSPI) = weInitiate ? (localSPI, remoteSPI) : (remoteSPI, localSPI)
        let seed = try schedule.rekeySeed(
            oldPRF: oldSuite.prf, oldDerivation: oldKeys.derivation, shared: shared, additional: additional,
            initiatorNonce: initiatorNonce, responderNonce: responderNonce)
        let keys = try schedule.keys(
            suite: suite, seed: seed, initiatorNonce: initiatorNonce, responderNonce: responderNonce, initiatorSPI: initiatorSPI,
            responderSPI: responderSPI)
        let successor = IKESA(
            localSPI: localSPI, initiatorSPI: initiatorSPI, responderSPI: responderSPI, isInitiator: weInitiate, path: sa.path,
            phase: .closing, now: now)
        (successor.suite, successor.keys, successor.connection) = (suite, keys, sa.connection)
        (successor.localNAT, successor.remoteNAT, successor.encapsulates) = (sa.localNAT, sa.remoteNAT, sa.encapsulates)
        successor.isOriginalInitiator = sa.isOriginalInitiator
        (successor.peerFollowsRedirects, successor.redirectedFrom) = (sa.peerFollowsRedirects, sa.redirectedFrom)
        successor.postquantum.isUsed = sa.postquantum.isUsed
        successor.fragmentation.isNegotiated = sa.fragmentation.isNegotiated
        successor.fragmentation.datagramBytes = sa.fragmentation.datagramBytes
        sas[localSPI] = successor
        touch(successor)
        guard let established, let connection = connection(of: sa) else { return successor }
        let lifetime = connection.plan.lifetime
        let state = EstablishedSA(
            localIdentity: established.localIdentity, peer: established.peer, localMethod: established.localMethod,
            establishedAt: now, rekeyAt: now + softLifetime(lifetime, weInitiated: weInitiate), expiresAt: now + lifetime,
            lowestNonce: lowerNonce(initiatorNonce, responderNonce))
        state.nextKeepalive = established.nextKeepalive
        (state.reauthAt, state.authenticationEndsAt) = (established.reauthAt, established.authenticationEndsAt)
        (state.certificateNoticeAt, state.certificateEndsAt) = (established.certificateNoticeAt, established.certificateEndsAt)
        successor.phase = .established(state)
        inheritConfiguration(from: sa, to: successor)
        index(successor)
        connection.sas.append(localSPI)
        return successor
    }

    /// "An IKE SA so created inherits all of the original IKE SA's Child SAs, and the new IKE SA is used for all control messages
    /// needed to maintain those Child SAs." (§2.8)
    func inherit(from old: IKESA, to new: IKESA, now: Instant) {
        guard let from = old.established, let to = new.established, from.supersededBy == nil else { return }
        to.children += from.children
        (to.closeAt, to.contestedOf) = (nil, nil)
        (to.replaces, from.replaces) = (from.replaces, nil)
        follow(old, to: new)
        for record in from.children { childIndex[record.inboundSPI] = new.localSPI }
        from.children = []
        old.answered = []
        from.supersededBy = new.localSPI
        inheritAddresses(from: old, to: new)
        // The initiator of the rekey deletes the old SA; one that does not is not waited for.
        from.expiresAt = min(from.expiresAt, now + Bounds.supersededWait)
        for task in old.tasks where task != .rekeyIKE && task != .liveness { enqueue(task, on: new) }
        old.tasks = []
        if let connection = connection(of: new) {
            log(.info, connection.plan.name, "The IKE SA was rekeyed.")
            settleRedundancy(of: new, connection, now: now)
        }
        touch(old)
        touch(new)
    }

    /// "After the new equivalent IKE SA is created, the initiator deletes the old IKE SA, and the Delete payload to delete itself
    /// MUST be the last request sent over the old IKE SA." (§2.8)
    private func retireIKE(_ sa: IKESA) {
        detach(sa)
        sa.phase = .closing
        sa.tasks = [.deleteIKE]
        touch(sa)
    }
}
