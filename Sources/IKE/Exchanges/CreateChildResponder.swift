import IPsec

// CREATE_CHILD_SA as responder: further children, rekeyed children, a rekeyed IKE SA. RFC 7296 §1.3, §2.8, §2.25.
extension IKECore {
    func answerCreateChild(_ sa: IKESA, _ established: EstablishedSA, _ payloads: PayloadList, path: Path, now: Instant) {
        guard let offer = payloads.proposals, let nonce = payloads.nonce else {
            answerMissing(sa, path: path, now: now)
            return
        }
        // Only a request for a new IKE SA proposes protocol IKE, and it has no traffic selectors (§1.3.2).
        if offer.contains(where: { $0.protocolID == ProtocolID.ike }) {
            answerRekeyIKE(sa, established, payloads, nonce: nonce, path: path, now: now)
            return
        }
        guard let connection = connection(of: sa), established.supersededBy == nil, !isRekeyingIKE(sa) else {
            // "If a peer receives a request to create or rekey a Child SA when it is currently rekeying the IKE SA, it SHOULD
            // reply with TEMPORARY_FAILURE." (§2.25.2)
            respond(sa, .createChildSA, [.notify(Notify(.temporaryFailure))], path: path)
            return
        }
        do throws(IKEFault) {
            let old = try childToRekey(sa, established, payloads)
            let request = ChildRequest(
                payloads: payloads, initiatorNonce: nonce, responderNonce: random.bytes(Bounds.ourNonceBytes), withMethods: true,
                rekeyed: old)
            let agreed = try agreeOnChild(sa, established, connection, request, now: now)
            let methods = agreed.choice.suite.additionalMethods
            guard methods.isEmpty else {
                try answerWithLink(
                    sa, .child(agreed, old: old), agreed.payloads, methods: methods,
                    lowestNonce: lowerNonce(nonce, request.responderNonce), path: path, now: now)
                return
            }
            let made = try makeChild(sa, connection, agreed, additional: [], now: now)
            linkChild(made, old, established, connection, now: now)
            withhold(
                made, on: sa, established, exchange: .createChildSA, payloads: made.payloads,
                failure: [.notify(Notify(.temporaryFailure))], path: path, now: now)
        } catch {
            respond(sa, .createChildSA, [.notify(childNotify(error, payloads))], path: path)
            closeAfter(error, sa, "CREATE_CHILD_SA request", now: now)
        }
    }

    /// A child that we created moments ago and that the peer, not knowing, now asks for: of the two the one with the lowest nonce
    /// goes, by its creator, as after simultaneous rekeying (§2.8.1). Older children are left alone: a peer may want parallel
    /// ones (§2.8).
    private func crossed(_ established: EstablishedSA, _ new: ChildRecord, now: Instant) -> ChildRecord? {
        established.children.last { mine in
            mine.name == new.name && mine.weInitiated && mine.isLive && mine.replacedBy == nil
                && now < mine.createdAt + Bounds.crossingTime && mine.localSelectors == new.localSelectors
                && mine.remoteSelectors == new.remoteSelectors && mine.lowestNonce.lexicographicallyPrecedes(new.lowestNonce)
        }
    }

    /// "The SA that the initiator attempted to rekey is indicated by the SPI field in the Notify payload, which is copied from
    /// the SPI field in the REKEY_SA notification." (§2.25)
    private func childNotify(_ fault: IKEFault, _ payloads: PayloadList) -> Notify {
        var notify = fault.notify
        if notify.type == .childSANotFound, let rekey = payloads.notify(.rekeySA) {
            (notify.protocolID, notify.spi) = (rekey.protocolID, rekey.spi)
        }
        return notify
    }

    /// Payloads that the exchange cannot do without are missing: the message "is malformed … (rather than just bad payload
    /// contents)".
    private func answerMissing(_ sa: IKESA, path: Path, now: Instant) {
        counters.malformed &+= 1
        respond(sa, .createChildSA, [.notify(Notify(.invalidSyntax))], path: path)
        finishClosed(sa, reason: "The peer's CREATE_CHILD_SA request lacks SA or nonce.", failed: true, now: now)
    }

    func isRekeyingIKE(_ sa: IKESA) -> Bool {
        if case .rekeyIKE = sa.outstanding?.kind.creates { true } else { false }
    }

    /// What a child that the peer made takes the place of.
    func linkChild(
        _ made: MadeChild, _ old: ChildRecord?, _ established: EstablishedSA, _ connection: ConnectionState, now: Instant
    ) {
        if let old {
            made.record.replaces = old.inboundSPI
            old.replacedBy = made.record.inboundSPI
            connection.slots[old.name]?.rekeys += 1
        } else {
            made.record.ousts = crossed(established, made.record, now: now)?.inboundSPI
        }
    }

    /// The child that REKEY_SA names, by the SPI of the peer's inbound packets: our outbound one.
    private func childToRekey(
        _ sa: IKESA, _ established: EstablishedSA, _ payloads: PayloadList
    ) throws(IKEFault) -> ChildRecord? {
        guard let notify = payloads.notify(.rekeySA) else { return nil }
        let notFound = IKEFault.incompatible(.childSANotFound, data: [], "the child to rekey does not exist")
        guard notify.spi.count == 4,
            let record = established.child(outbound: UInt32(truncatingIfNeeded: notify.spi.bigEndianValue))
        else { throw notFound }
        switch record.state {
        case .draining: throw notFound
        case .deleting:
            // "a request to rekey a Child SA that it is currently trying to close, it SHOULD reply with TEMPORARY_FAILURE"
            // (§2.25.1).
            throw .incompatible(.temporaryFailure, data: [], "the child to rekey is being deleted")
        case .installing, .installed:
            // Replaced already, so on its way out.
            guard record.replacedBy == nil else {
                throw .incompatible(.temporaryFailure, data: [], "the child to rekey has been replaced")
            }
            // "the CREATE_CHILD_SA exchange initiated by this peer has already been completed, and the series of IKE_FOLLOWUP_KE
            // exchanges is in progress … In this case, a TEMPORARY_FAILURE notification MUST be sent". RFC 9370 §2.2.4.
            if case .followUp(let series) = sa.outstanding?.kind, series.rekeyedChild == record.inboundSPI {
                throw .incompatible(.temporaryFailure, data: [], "the child to rekey is being rekeyed by us")
            }
            // A second request for the same: the peer has given up its first.
            sa.answered.removeAll { $0.rekeyedChild === record }
            return record
        }
    }
}
