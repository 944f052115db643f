import IPsec

// INFORMATIONAL: DELETE, liveness, notifies. RFC 7296 §1.4, §2.4, §2.25.
extension IKECore {
    // MARK: The peer's requests

    func answerInformational(_ sa: IKESA, _ payloads: PayloadList, path: Path, now: Instant) {
        if payloads.deletes.contains(where: { $0.protocolID == ProtocolID.ike }) {
            answerDeleteIKE(sa, path: path, now: now)
            return
        }
        // "UNSUPPORTED_CRITICAL_PAYLOAD, INVALID_SYNTAX, and AUTHENTICATION_FAILED notifications are the only ones to cause the
        // IKE SA to be deleted … without a Delete payload", in the INFORMATIONAL exchange that immediately follows IKE_AUTH
        // (§2.21.2).
        let fatal: Set<NotifyType> = [.authenticationFailed, .invalidSyntax, .unsupportedCriticalPayload]
        if let last = sa.lastAuthID, sa.expectedRequestID == last &+ 1,
            let notify = payloads.notifies.first(where: { fatal.contains($0.type) })
        {
            respond(sa, .informational, [], path: path)
            let connection = connection(of: sa)
            // With our own pre-shared key, when that is what it was judged by.
            let provesSecret = if case .presharedKey = connection?.plan.remoteAuthentication { true } else { false }
            let reason = connection.map {
                Reasons.initiatorRefusedUs(
                    notify, wanted: sa.requestedIdentity, plan: $0.plan, wishes: sa.wishes, hasProvenSecret: provesSecret,
                    remote: sa.path.remote)
            }
            finishClosed(sa, reason: reason, failed: true, now: now)
            if let connection, let reason {
                refusedPeers.note(reason, from: sa.path.remote, connection: connection.plan.name, now: now)
                connection.refusal = (reason, now)
            }
            return
        }
        for notify in payloads.notifies where notify.type.isError {
            let reason = Reason(.other, "The peer reports \(notify.type).")
            say(.info, sa.connection, part: "from \(sa.path.remote.address)", reason, now: now)
        }
        noteWindow(sa, payloads)
        noteAuthenticationLifetime(sa, payloads, now: now)
        let about = answerMobility(sa, payloads, path: path, now: now)
        respond(sa, .informational, about + deleteChildren(sa, payloads, now: now), path: path)
        if let redirect = payloads.notify(.redirect) { obeyRedirect(sa, redirect, now: now) }
    }

    /// "The response to a request that deletes the IKE SA is an empty INFORMATIONAL response." (§1.4.1)
    private func answerDeleteIKE(_ sa: IKESA, path: Path, now: Instant) {
        respond(sa, .informational, [], path: path)
        guard let established = sa.established else { finishClosed(sa, reason: nil, failed: false, now: now); return }
        if case .rekeyIKE(let ours) = sa.outstanding?.kind.creates, let rival = ours.collision.flatMap({ sas[$0] }) {
            // "it knows that the other peer did not detect the simultaneous rekey, and the first peer can forget its own rekey
            // attempt."
            inherit(from: sa, to: rival, now: now)
        }
        if established.supersededBy != nil {
            finishClosed(sa, reason: nil, failed: false, now: now)
        } else {
            let reason = Reason(.peerClosed, "The peer \(sa.path.remote) deleted the IKE SA.")
            finishClosed(sa, reason: reason, failed: false, now: now)
        }
    }

    /// "Normally, the response in the INFORMATIONAL exchange will contain Delete payloads for the paired SAs going in the other
    /// direction." When both ends delete the same pair at once, "the responses MUST NOT include Delete payloads for the deleted
    /// SAs".
    private func deleteChildren(_ sa: IKESA, _ payloads: PayloadList, now: Instant) -> [Payload] {
        guard let established = sa.established else { return [] }
        var ours: [UInt32] = []
        for delete in payloads.deletes where delete.protocolID == ProtocolID.esp {
            for spi in delete.spis {
                guard let record = established.child(outbound: spi) else { noteEarlyDelete(spi, on: sa); continue }
                switch record.state {
                case .draining: continue
                case .deleting: break
                case .installing, .installed: ours.append(record.inboundSPI)
                }
                endChild(record, of: sa, established, now: now)
            }
        }
        return ours.isEmpty ? [] : [.delete(Delete(protocolID: ProtocolID.esp, spis: ours))]
    }

    /// The response that would tell us of the child may still be under way.
    private func noteEarlyDelete(_ spi: UInt32, on sa: IKESA) {
        guard case .child(let state) = sa.outstanding?.kind.creates, state.endedByPeer.count < Bounds.earlyDeletes else { return }
        state.endedByPeer.append(spi)
    }

    private func endChild(_ record: ChildRecord, of sa: IKESA, _ established: EstablishedSA, now: Instant) {
        if sa.withheld?.inboundSPI == record.inboundSPI { return }
        let wasCurrent = established.current(record.name) === record
        // Whoever deletes the old one has the new one.
        record.replacedBy.flatMap { established.child(inbound: $0) }?.isConfirmed = true
        retire(record, of: sa, established, now: now)
        if record.replacedBy == nil { lostPart(record, of: sa, established, now: now) }
        guard wasCurrent, established.current(record.name) == nil, let connection = connection(of: sa) else { return }
        let sentence = "The peer deleted child \(record.name)."
        let reason =
            record.wasAskedForTransportMode
            ? Reason(
                .transportMode,
                "\(sentence) It had asked for transport mode, which this end does not do: set tunnel mode there (with "
                    + "strongSwan: mode = tunnel).")
            : Reason(.peerClosed, sentence)
        say(.info, connection.plan.name, part: record.name, reason, now: now)
        childWentDown(connection, record.name, reason: reason, retryAt: now + settings.reconnectInterval + jitter(.seconds(1)))
    }

    // MARK: Our requests

    func startDeleteChild(_ spi: UInt32, on sa: IKESA, _ established: EstablishedSA, now: Instant) {
        if let record = established.child(inbound: spi) {
            switch record.state {
            case .deleting, .draining: return
            case .installing, .installed: record.state = .deleting
            }
        }
        send(
            .deleteChildren([spi]), .informational, [.delete(Delete(protocolID: ProtocolID.esp, spis: [spi]))], on: sa, now: now)
    }

    /// Whatever the peer answered, our inbound SA is gone now: "it MUST delete the outgoing SAs while processing the request and
    /// the incoming SAs while processing the response" (§1.4.1).
    func finishDeleteChildren(_ sa: IKESA, _ established: EstablishedSA, _ spis: [UInt32], now: Instant) {
        for spi in spis {
            if let record = established.child(inbound: spi) { retire(record, of: sa, established, now: now) }
        }
    }
}
