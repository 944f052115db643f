import IPsec

// CREATE_CHILD_SA for a new IKE SA, as responder. RFC 7296 §1.3.2, §2.8.2, §2.18, §2.25.2.
extension IKECore {
    func answerRekeyIKE(
        _ sa: IKESA, _ established: EstablishedSA, _ payloads: PayloadList, nonce: [UInt8], path: Path, now: Instant
    ) {
        guard let connection = connection(of: sa), established.supersededBy == nil, !isBusyWithChildren(sa), !hasCollided(sa)
        else {
            respond(sa, .createChildSA, [.notify(Notify(.temporaryFailure))], path: path)
            return
        }
        guard sas.count < Bounds.countLimit(settings.maxIKESAs) else {
            counters.saLimitReached &+= 1
            respond(sa, .createChildSA, [.notify(Notify(.noAdditionalSAs))], path: path)
            return
        }
        do throws(IKEFault) {
            let offer = payloads.proposals ?? []
            guard Negotiation.isOffer(offer), let choice = Negotiation.choose(connection.plan.proposals, from: offer),
                choice.spi.count == 8,
                choice.spi.bigEndianValue != 0
            else {
                counters.proposalsRefused &+= 1
                let reason = NegotiationReport.ike(
                    ours: connection.plan.proposals, offer: offer, connection: connection.plan.name,
                    line: connection.plan.line("ike_proposals"))
                log(.warning, connection.plan.name, "Refused to rekey the IKE SA. \(reason)")
                throw .incompatible(.noProposalChosen, data: [], reason)
            }
            let exchange = try exchange(choice.suite.method, payloads)
            let agreed = AgreedRekey(
                suite: choice.suite, localSPI: freshSPI(), remoteSPI: choice.spi.bigEndianValue, initiatorNonce: nonce,
                responderNonce: random.bytes(Bounds.ourNonceBytes), shared: exchange.shared)
            let proposal = WireProposal(
                number: choice.number, protocolID: ProtocolID.ike, spi: [UInt8](u64: agreed.localSPI),
                transforms: choice.suite.transforms)
            let answer: [Payload] = [
                .securityAssociation([proposal]), .nonce(agreed.responderNonce),
                .keyExchange(method: choice.suite.method.rawValue, data: exchange.publicValue),
            ]
            let methods = choice.suite.additionalMethods
            guard methods.isEmpty else {
                try answerWithLink(
                    sa, .rekeyIKE(agreed), answer, methods: methods, lowestNonce: lowerNonce(nonce, agreed.responderNonce),
                    path: path, now: now)
                return
            }
            let successor = try makeSuccessor(
                of: sa, established, localSPI: agreed.localSPI, remoteSPI: agreed.remoteSPI, weInitiate: false,
                suite: agreed.suite, shared: agreed.shared, initiatorNonce: nonce, responderNonce: agreed.responderNonce,
                now: now)
            respond(sa, .createChildSA, answer, path: path)
            adoptSuccessor(successor, of: sa, now: now)
        } catch {
            respond(sa, .createChildSA, error: error, path: path)
            closeAfter(error, sa, "request to rekey the IKE SA", now: now)
        }
    }

    /// The peer's new IKE SA takes over, or waits for the end of ours.
    func adoptSuccessor(_ successor: IKESA, of sa: IKESA, now: Instant) {
        defer { limitPeer(of: successor, now: now) }
        if case .rekeyIKE(let ours) = sa.outstanding?.kind.creates {
            // "If a peer receives a request to rekey an IKE SA that it is currently rekeying, it SHOULD reply as usual, and
            // SHOULD prepare to close redundant SAs and move inherited Child SAs later based on the nonces" (§2.25.2).
            ours.collision = successor.localSPI
            // Nothing is done on it before that is known; should nobody decide, it ends.
            successor.established?.closeAt = now + Bounds.supersededWait
            successor.established?.contestedOf = sa.localSPI
        } else {
            inherit(from: sa, to: successor, now: now)
        }
    }

    /// The peer, which made this IKE SA while we were making another one, uses it: whatever it knows of ours, this one stays. Had
    /// it lost, the peer would delete it.
    func settleContest(_ sa: IKESA, _ payloads: PayloadList, now: Instant) {
        guard let old = sa.established?.contestedOf.flatMap({ sas[$0] }),
            !payloads.deletes.contains(where: { $0.protocolID == ProtocolID.ike })
        else { return }
        inherit(from: old, to: sa, now: now)
    }

    /// One rekey of the peer's beside ours is a collision; a second one is not answered with a third SA. Once our own additional
    /// key exchanges are under way, the peer has to wait (RFC 9370 §2.2.4).
    private func hasCollided(_ sa: IKESA) -> Bool {
        switch sa.outstanding?.kind {
        case .rekeyIKE(let ours): return ours.collision != nil || sa.answered.contains(where: \.isForIKE)
        case .followUp(let series): return series.isForIKE
        default:
            // A second request without the end of the first: the peer has given that up.
            sa.answered.removeAll(where: \.isForIKE)
            return false
        }
    }

    /// "If a peer receives a request to rekey the IKE SA, and it is currently creating, rekeying, or closing a Child SA of that
    /// IKE SA, it SHOULD reply with TEMPORARY_FAILURE." (§2.25.1)
    func isBusyWithChildren(_ sa: IKESA) -> Bool {
        switch sa.outstanding?.kind {
        case .child, .deleteChildren: true
        case .followUp(let series): !series.isForIKE
        default: false
        }
    }
}
