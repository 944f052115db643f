import IPsec

// Additional key exchanges of CREATE_CHILD_SA, as initiator. RFC 9370 §2.2.4.
//
//   HDR(CREATE_CHILD_SA), SK {SA, Ni, KEi, …} -->
//                         <-- HDR(CREATE_CHILD_SA), SK {SA, Nr, KEr, …, N(ADDITIONAL_KEY_EXCHANGE)(link1)}
//   HDR(IKE_FOLLOWUP_KE), SK {KEi(1), N(ADDITIONAL_KEY_EXCHANGE)(link1)} -->
//                                <-- HDR(IKE_FOLLOWUP_KE), SK {KEr(1), [N(ADDITIONAL_KEY_EXCHANGE)(link2)]}

/// A series of ours: the CREATE_CHILD_SA exchange is answered, and the SA comes when every additional key exchange is done.
package final class FollowUpSeries {
    enum Purpose { case child(CreatingChild), rekeyIKE(RekeyingIKE) }

    let purpose: Purpose
    /// The answer to CREATE_CHILD_SA.
    let answer: PayloadList
    /// SK(0), SK(1), …
    var secrets: [Secret]
    /// Methods still to be done; the first is under way with `keyExchange`.
    var pending: [KeyExchangeMethod]
    var keyExchange: (any KeyExchange)?

    init(purpose: Purpose, answer: PayloadList, shared: Secret, pending: [KeyExchangeMethod]) {
        (self.purpose, self.answer, secrets, self.pending) = (purpose, answer, [shared], pending)
    }

    /// The child that our series is about to replace, by its inbound SPI.
    var rekeyedChild: UInt32? { if case .child(let state) = purpose { state.rekeys } else { nil } }
    var isForIKE: Bool { if case .rekeyIKE = purpose { true } else { false } }
}

extension OutstandingRequest.Kind {
    /// What our request, or series of requests, is to create.
    var creates: FollowUpSeries.Purpose? {
        switch self {
        case .child(let state): .child(state)
        case .rekeyIKE(let state): .rekeyIKE(state)
        case .followUp(let series): series.purpose
        default: nil
        }
    }
}

extension IKECore {
    /// The peer agreed to additional key exchanges: they are done now, unless the peer's own exchange for the same thing wins.
    func beginFollowUp(_ sa: IKESA, _ established: EstablishedSA, _ series: FollowUpSeries, now: Instant) {
        if case .child(let state) = series.purpose, state.rekeys == nil {
            connection(of: sa)?.slots[state.offer.name]?.isCreating = true
        }
        sendFollowUp(sa, established, series, after: series.answer, now: now)
    }

    private func sendFollowUp(
        _ sa: IKESA, _ established: EstablishedSA, _ series: FollowUpSeries, after payloads: PayloadList, now: Instant
    ) {
        do throws(IKEFault) {
            guard let method = series.pending.first else { throw .ours("no key exchange is left to do") }
            // "The responder MUST include this notification in a CREATE_CHILD_SA or IKE_FOLLOWUP_KE response message in case the
            // next IKE_FOLLOWUP_KE exchange is expected", and "The initiator MUST send back this notification intact".
            guard let link = payloads.notify(.additionalKeyExchange)?.data, link.count <= Bounds.followUpLinkBytes else {
                throw .peerMisbehaved("it does not say how its additional key exchanges go on")
            }
            let keyExchange: any KeyExchange
            do throws(IKECryptoError) { keyExchange = try crypto.makeKeyExchange(method) } catch {
                throw .ours("a key exchange could not be prepared: \(error)")
            }
            series.keyExchange = keyExchange
            send(
                .followUp(series), .ikeFollowUpKE,
                [
                    .keyExchange(method: method.rawValue, data: keyExchange.publicValue),
                    .notify(Notify(.additionalKeyExchange, data: link)),
                ], on: sa, now: now)
        } catch {
            unusableFollowUp(sa, series, error, now: now)
        }
    }

    func finishFollowUp(
        _ sa: IKESA, _ established: EstablishedSA, _ series: FollowUpSeries, _ payloads: PayloadList, now: Instant
    ) {
        guard let theirs = payloads.keyExchange, payloads.firstError == nil else {
            refusedFollowUp(sa, established, series, payloads.firstError ?? Notify(.invalidSyntax), now: now)
            return
        }
        do throws(IKEFault) {
            guard let method = series.pending.first, let ours = series.keyExchange, theirs.method == method.rawValue else {
                throw .peerMisbehaved("its key exchange is not the one that is next")
            }
            series.secrets.append(try agree(ours, theirs.data))
            series.pending.removeFirst()
        } catch {
            unusableFollowUp(sa, series, error, now: now)
            return
        }
        guard series.pending.isEmpty else {
            sendFollowUp(sa, established, series, after: payloads, now: now)
            return
        }
        established.followUpFailures = 0
        let (shared, additional) = (series.secrets[0], Array(series.secrets.dropFirst()))
        switch series.purpose {
        case .child(let state):
            completeChildRequest(
                sa, established, state, series.answer, shared: shared, additional: additional, now: now)
        case .rekeyIKE(let state):
            completeRekeyIKE(sa, established, state, series.answer, shared: shared, additional: additional, now: now)
        }
    }

    /// "If the error occurs in the CREATE_CHILD_SA or IKE_FOLLOWUP_KE exchanges, the initiator MUST delete the existing IKE
    /// SA and send a Delete payload" (draft-ietf-ipsecme-ikev2-mlkem §2.3).
    private func unusableFollowUp(_ sa: IKESA, _ series: FollowUpSeries, _ fault: IKEFault, now: Instant) {
        if case .child(let state) = series.purpose { connection(of: sa)?.slots[state.offer.name]?.isCreating = false }
        close(sa, reason: "The peer's answer to an additional key exchange is unusable: \(fault.sentence).", now: now)
    }

    /// "it MUST cancel this exchange and MUST treat the whole series of exchanges started from the CREATE_CHILD_SA exchange as
    /// having failed. … If the initiator continues to receive STATE_NOT_FOUND notifications after several retries, it MUST treat
    /// this situation as a fatal error and delete the IKE SA".
    private func refusedFollowUp(
        _ sa: IKESA, _ established: EstablishedSA, _ series: FollowUpSeries, _ error: Notify, now: Instant
    ) {
        guard let connection = connection(of: sa) else { return }
        established.followUpFailures += 1
        guard established.followUpFailures <= Bounds.followUpRetries else {
            close(
                sa, reason: "The peer kept refusing additional key exchanges (\(error.type)): a new IKE SA is set up.", now: now)
            return
        }
        let again = now + Bounds.temporaryFailureWait + jitter(Bounds.temporaryFailureWait)
        switch series.purpose {
        case .child(let state):
            connection.slots[state.offer.name]?.isCreating = false
            guard let rekeys = state.rekeys else {
                childFailed(
                    connection, state.offer.name,
                    reason: Reasons.childRefused(error, offer: state.offer, isRekey: false, plan: connection.plan), now: now)
                return
            }
            established.child(inbound: rekeys)?.rekeyAt = again
        case .rekeyIKE(let state):
            if let rival = state.collision.flatMap({ sas[$0] }) { inherit(from: sa, to: rival, now: now); return }
            established.rekeyAt = again
        }
        log(
            .warning, connection.plan.name,
            "The peer refused an additional key exchange with \(error.type): rekeying starts anew.")
        touch(sa)
    }

    // MARK: Collisions

    /// "if additional key exchanges are negotiated in the CREATE_CHILD_SA exchange in which the smallest nonce is used, then,
    /// because there is nothing to delete yet, the initiator of this exchange just stops the rekeying process, and it MUST NOT
    /// initiate the IKE_FOLLOWUP_KE exchange."
    /// - Parameter ours: the lower nonce of our exchange.
    /// - Returns: whether we stop. When the peer has to, what we keep for its series is freed.
    func losesRekey(_ sa: IKESA, _ established: EstablishedSA, child old: ChildRecord, ours: [UInt8], now: Instant) -> Bool {
        var theirs = old.replacedBy.flatMap { established.child(inbound: $0) }.map(\.lowestNonce)
        let series = sa.answered.first { $0.rekeyedChild === old }
        if let series { theirs = series.lowestNonce }
        guard let theirs else { return false }
        if ours.lexicographicallyPrecedes(theirs) {
            // Should the peer not finish, there is another attempt.
            if let series { old.rekeyAt = series.expires + jitter(Bounds.temporaryFailureWait) }
            return true
        }
        sa.answered.removeAll { $0.rekeyedChild === old }
        return false
    }

    /// As above for the IKE SA.
    func losesRekeyIKE(
        _ sa: IKESA, _ established: EstablishedSA, _ state: RekeyingIKE, ours: [UInt8], now: Instant
    ) -> Bool {
        if let rival = state.collision.flatMap({ sas[$0] }), let theirs = rival.established?.lowestNonce {
            guard ours.lexicographicallyPrecedes(theirs) else { return false }
            inherit(from: sa, to: rival, now: now)
            return true
        }
        guard let series = sa.answered.first(where: \.isForIKE) else { return false }
        if ours.lexicographicallyPrecedes(series.lowestNonce) {
            established.rekeyAt = series.expires + jitter(Bounds.temporaryFailureWait)
            return true
        }
        sa.answered.removeAll(where: \.isForIKE)
        return false
    }
}

extension Bounds {
    /// Links are opaque to us; strongSwan's and ours have a few octets.
    static let followUpLinkBytes = 256
    /// "after several retries".
    static let followUpRetries = 3
    /// Series of a peer under way on one IKE SA.
    static let followUpSeries = 4
    /// "In general, 5-20 seconds of waiting time should be appropriate in most cases." RFC 9370 §2.2.4.
    static let followUpLifetime: Duration = .seconds(20)
    static let ourFollowUpLinkBytes = 8
}
