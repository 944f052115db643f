import IPsec

// CREATE_CHILD_SA for a child, new or rekeyed, as initiator. RFC 7296 §1.3.1, §1.3.3, §2.8, §2.25.
//
//   HDR, SK {[N(REKEY_SA),] SA, Ni, [KEi,] TSi, TSr} -->
//                              <-- HDR, SK {SA, Nr, [KEr,] TSi, TSr}
extension IKECore {
    func startCreateChild(_ name: String, on sa: IKESA, _ established: EstablishedSA, now: Instant) {
        guard let connection = connection(of: sa), let plan = connection.childPlan(name) else { return }
        guard established.current(name) == nil else { connection.slots[name]?.isCreating = false; return }
        requestChild(plan, on: sa, selectors: nil, rekeys: nil, method: nil, retries: 0, now: now)
    }

    func startRekeyChild(_ spi: UInt32, on sa: IKESA, _ established: EstablishedSA, now: Instant) {
        guard let record = established.child(inbound: spi), record.isInstalled, record.replacedBy == nil,
            let plan = connection(of: sa)?.childPlan(record.name)
        else { return }
        if let series = sa.answered.first(where: { $0.rekeyedChild === record }) {
            // The peer is at it; should it not finish, it is our turn.
            record.rekeyAt = series.expires + jitter(Bounds.temporaryFailureWait)
            return
        }
        requestChild(
            plan, on: sa, selectors: (record.localSelectors, record.remoteSelectors), rekeys: spi, method: nil, retries: 0,
            now: now)
    }

    func requestChild(
        _ plan: ChildPlan, on sa: IKESA, selectors: (local: [TrafficSelector], remote: [TrafficSelector])?, rekeys: UInt32?,
        method: KeyExchangeMethod?, retries: Int, isRest: Bool = false, now: Instant
    ) {
        let plan = sa.established.map { effective(plan, $0) } ?? plan
        let offer = makeOffer(plan, selectors: selectors, withMethods: true)
        let nonce = random.bytes(Bounds.ourNonceBytes)
        var keyExchange: (any KeyExchange)?
        if let method = method ?? plan.proposals.first?.methods.first {
            keyExchange = try? crypto.makeKeyExchange(method)
            guard keyExchange != nil else {
                if let connection = connection(of: sa) {
                    childFailed(connection, plan.name, reason: "A key exchange could not be prepared.", now: now)
                }
                return
            }
        }
        var payloads: [Payload] = []
        if let rekeys {
            // "The Protocol ID field of the REKEY_SA notification is set to match the protocol of the SA we are rekeying … the
            // SPI field … the SPI which the exchange initiator would expect in inbound ESP packets" (§1.3.3).
            payloads.append(.notify(Notify(.rekeySA, protocolID: ProtocolID.esp, spi: [UInt8](u32: rekeys))))
        }
        payloads += [.securityAssociation(offer.proposals), .nonce(nonce)]
        if let keyExchange { payloads.append(.keyExchange(method: keyExchange.method.rawValue, data: keyExchange.publicValue)) }
        payloads += childPayloads(offer).dropFirst()
        let state = CreatingChild(
            offer: offer, nonce: nonce, keyExchange: keyExchange, rekeys: rekeys, retries: retries, isRest: isRest)
        send(.child(state), .createChildSA, payloads, on: sa, now: now)
    }

    func finishCreateChild(
        _ sa: IKESA, _ established: EstablishedSA, _ state: CreatingChild, _ payloads: PayloadList, now: Instant
    ) {
        guard let connection = connection(of: sa) else { return }
        if state.rekeys == nil { connection.slots[state.offer.name]?.isCreating = false }
        touch(connection: connection.plan.name)
        if payloads.agreedProposals == nil {
            refusedChild(sa, established, connection, state, payloads, now: now)
            return
        }
        do throws(IKEFault) {
            let (suite, shared, lowest) = try agreed(state, payloads)
            guard let shared, !suite.additionalMethods.isEmpty else {
                completeChildRequest(sa, established, state, payloads, shared: shared, additional: [], now: now)
                return
            }
            if let old = state.rekeys.flatMap({ established.child(inbound: $0) }),
                losesRekey(sa, established, child: old, ours: lowest, now: now)
            {
                return
            }
            let series = FollowUpSeries(
                purpose: .child(state), answer: payloads, shared: shared, pending: suite.additionalMethods)
            beginFollowUp(sa, established, series, now: now)
        } catch {
            unusableChild(sa, connection, state, error, now: now)
        }
    }

    /// The suite, SK(0), and the lower of the two nonces.
    private func agreed(
        _ state: CreatingChild, _ payloads: PayloadList
    ) throws(IKEFault) -> (suite: ESPSuite, shared: Secret?, lowestNonce: [UInt8]) {
        guard let nonce = payloads.nonce else { throw .peerMisbehaved("it has no nonce") }
        let suite = try Negotiation.verifyESP(payloads.proposals ?? [], offered: state.offer.proposals).suite
        let lowest = lowerNonce(state.nonce, nonce)
        guard let method = suite.method else { return (suite, nil, lowest) }
        guard let ours = state.keyExchange, ours.method == method, let theirs = payloads.keyExchange,
            theirs.method == method.rawValue
        else { throw .peerMisbehaved("its key exchange is not of the group that it chose") }
        return (suite, try agree(ours, theirs.data), lowest)
    }

    /// Every key exchange is done: the child comes into being.
    /// - Parameters:
    ///   - payloads: the answer to CREATE_CHILD_SA.
    ///   - additional: SK(1) to SK(n). RFC 9370 §2.2.4.
    func completeChildRequest(
        _ sa: IKESA, _ established: EstablishedSA, _ state: CreatingChild, _ payloads: PayloadList, shared: Secret?,
        additional: [Secret], now: Instant
    ) {
        guard let connection = connection(of: sa) else { return }
        let made: MadeChild
        do throws(IKEFault) {
            made = try completeChild(
                sa, connection, state.offer, payloads, nonces: (state.nonce, payloads.nonce ?? []), shared: shared,
                additional: additional, now: now)
        } catch {
            unusableChild(sa, connection, state, error, now: now)
            return
        }
        guard !state.endedByPeer.contains(made.record.outboundSPI) else {
            endedBeforeItBegan(established, connection, state, now: now)
            return
        }
        if let rekeys = state.rekeys {
            replaceChild(rekeys, by: made.record, sa, established, connection, now: now)
        } else {
            connection.slots[state.offer.name]?.isCreating = false
            // The peer may have created the same child at the same time: the one with the lowest nonce goes, by its creator
            // (§2.8.1).
            if let other = established.current(state.offer.name), other.weInitiated == false,
                other.localSelectors == made.record.localSelectors, other.remoteSelectors == made.record.remoteSelectors,
                made.record.lowestNonce.lexicographicallyPrecedes(other.lowestNonce)
            {
                made.record.isRedundant = true
            }
        }
        install(made, on: sa, established, now: now)
    }

    /// The peer's DELETE for the child overtook the response that tells us of it.
    private func endedBeforeItBegan(
        _ established: EstablishedSA, _ connection: ConnectionState, _ state: CreatingChild, now: Instant
    ) {
        let name = state.offer.name
        connection.slots[name]?.isCreating = false
        if state.isRest { connection.slots[name]?.restAt = now + settings.reconnectInterval }
        if let old = state.rekeys.flatMap({ established.child(inbound: $0) }), old.isLive {
            old.rekeyAt = now + temporaryFailureWait(until: old.expiresAt, now: now)
        } else if established.current(name) == nil {
            let again = now + settings.reconnectInterval + jitter(.seconds(1))
            childWentDown(connection, name, reason: Reason(.peerClosed, "The peer deleted child \(name)."), retryAt: again)
        }
        log(.info, connection.plan.name, "The peer deleted child \(name) as soon as it was made.")
    }

    private func replaceChild(
        _ spi: UInt32, by new: ChildRecord, _ sa: IKESA, _ established: EstablishedSA, _ connection: ConnectionState,
        now: Instant
    ) {
        let old = established.child(inbound: spi)
        new.replaces = spi
        connection.slots[new.name]?.rekeys += 1
        if let old, losesRekey(sa, established, child: old, ours: new.lowestNonce, now: now) {
            // "the SA created with the lowest of the four nonces used in the two exchanges SHOULD be closed by the endpoint that
            // created it." (§2.8.1) Ours is it; the peer deletes the old one.
            new.isRedundant = true
        } else {
            old?.replacedBy = new.inboundSPI
        }
    }

    private func unusableChild(
        _ sa: IKESA, _ connection: ConnectionState, _ state: CreatingChild, _ fault: IKEFault, now: Instant
    ) {
        let reason: Reason = "The peer's answer for child \(state.offer.name) is unusable: \(fault.sentence)."
        if state.isRest {
            restRefused(state, connection, reason: reason, now: now)
        } else {
            childFailed(connection, state.offer.name, reason: reason, now: now)
        }
        deleteUnusable(state.offer.inboundSPI, on: sa, now: now)
    }

    /// "Such errors … should still cause the recipient to clean up the IKE state (for example, by sending a Delete for a bad
    /// SA)."
    func deleteUnusable(_ spi: UInt32, on sa: IKESA, now: Instant) { enqueue(.deleteChild(inboundSPI: spi), on: sa) }

    private func refusedChild(
        _ sa: IKESA, _ established: EstablishedSA, _ connection: ConnectionState, _ state: CreatingChild, _ payloads: PayloadList,
        now: Instant
    ) {
        let error = payloads.firstError ?? Notify(.noProposalChosen)
        let old = state.rekeys.flatMap { established.child(inbound: $0) }
        switch error.type {
        case .invalidKEPayload:
            if retryChild(sa, connection, state, old, error, now: now) { return }
        case .temporaryFailure:
            waitAfterTemporaryFailure(sa, established, connection, state, old, now: now)
            return
        case .childSANotFound:
            // "A peer that receives a CHILD_SA_NOT_FOUND notification SHOULD silently delete the Child SA (if it still exists)
            // and send a request to create a new Child SA from scratch" (§2.25); after a simultaneous rekey it is no news
            // (§2.8.1).
            guard let old, old.replacedBy == nil else { return }
            if !old.weInitiated, !old.wasNotFound, now < old.createdAt + Bounds.crossingTime {
                // One that the peer asked for, and our request for its successor was there before our answer.
                old.wasNotFound = true
                old.rekeyAt = now + temporaryFailureWait(until: old.expiresAt, now: now)
                touch(sa)
                return
            }
            remove(old, of: sa, established)
            return
        case .noAdditionalSAs where old != nil:
            // The peer rekeys by starting anew, as §2.8 allows: a new IKE SA replaces this one before it ends.
            replace(sa, connection, now: now)
            return
        default: break
        }
        // Whatever the peer has made of what it agreed to.
        if payloads.proposals != nil { deleteUnusable(state.offer.inboundSPI, on: sa, now: now) }
        let reason = Reasons.childRefused(
            error, offer: state.offer, isRekey: old != nil, hasAgreed: payloads.proposals != nil, plan: connection.plan,
            networks: localNetworks)
        if old != nil {
            let told = Reason(reason.code, "Rekeying child \(state.offer.name) failed. \(reason)")
            say(.warning, connection.plan.name, part: state.offer.name, told, now: now)
            old?.rekeyAt = now + Bounds.longestChildRetry
            connection.slots[state.offer.name]?.rekeyProblem = reason
            if reason.code == .espProposals { makeAnew(state.offer.name, sa, established, connection, now: now) }
        } else if state.isRest {
            restRefused(state, connection, reason: reason, now: now)
        } else {
            childFailed(connection, state.offer.name, reason: reason, now: now)
        }
    }

    private func retryChild(
        _ sa: IKESA, _ connection: ConnectionState, _ state: CreatingChild, _ old: ChildRecord?, _ notify: Notify, now: Instant
    ) -> Bool {
        guard notify.data.count == 2, let method = KeyExchangeMethod(rawValue: UInt16(notify.data.bigEndianValue)),
            let plan = connection.childPlan(state.offer.name), plan.proposals.contains(where: { $0.methods.contains(method) }),
            method != state.keyExchange?.method, state.retries < Bounds.initRetries
        else { return false }
        connection.slots[state.offer.name]?.isCreating = state.rekeys == nil
        requestChild(
            plan, on: sa,
            selectors: old.map { ($0.localSelectors, $0.remoteSelectors) }
                ?? (state.isRest ? (state.offer.localSelectors, state.offer.remoteSelectors) : nil),
            rekeys: state.rekeys, method: method, retries: state.retries + 1, isRest: state.isRest, now: now)
        return true
    }

    private func waitAfterTemporaryFailure(
        _ sa: IKESA, _ established: EstablishedSA, _ connection: ConnectionState, _ state: CreatingChild, _ old: ChildRecord?,
        now: Instant
    ) {
        guard countTemporaryFailure(sa, established, now: now) else { return }
        let again = now + temporaryFailureWait(until: old?.expiresAt, now: now)
        if let old {
            old.rekeyAt = again
        } else if state.isRest {
            connection.slots[state.offer.name]?.restAt = again
        } else if state.rekeys == nil {
            connection.slots[state.offer.name]?.nextAttempt = again
        }
    }

    /// "must wait so that the sender may complete whatever operation caused the temporary condition" (§2.25), but not into the
    /// end of what is to be rekeyed.
    func temporaryFailureWait(until end: Instant?, now: Instant) -> Duration {
        let room = end.map { max(.zero, $0 - now) / 8 } ?? Bounds.temporaryFailureWait
        let wait = min(Bounds.temporaryFailureWait, max(Bounds.shortestPause, room))
        return wait + jitter(wait)
    }

    /// "If a peer continues to receive TEMPORARY_FAILURE on the same IKE SA after several minutes, it SHOULD conclude that the
    /// state information is out of sync and close the IKE SA." (§2.25)
    func countTemporaryFailure(_ sa: IKESA, _ established: EstablishedSA, now: Instant) -> Bool {
        established.temporaryFailures += 1
        guard established.temporaryFailures > Bounds.temporaryFailures else { return true }
        close(sa, reason: "The peer kept answering TEMPORARY_FAILURE: the two ends no longer agree on their state.", now: now)
        return false
    }
}
