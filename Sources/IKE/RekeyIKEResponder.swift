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
            guard let choice = Negotiation.choose(connection.plan.proposals.map(\.withoutAdditional), from: offer),
                choice.spi.count == 8,
                choice.spi.bigEndianValue != 0
            else {
                counters.proposalsRefused &+= 1
                let reason = NegotiationReport.ike(
                    ours: connection.plan.proposals, offer: offer, connection: connection.plan.name)
                log(.warning, connection.plan.name, "Refused to rekey the IKE SA. \(reason)")
                throw .incompatible(.noProposalChosen, data: [], reason)
            }
            let exchange = try exchange(choice.suite.method, payloads)
            let responderNonce = random.bytes(Bounds.ourNonceBytes)
            let spi = freshSPI()
            let successor = try makeSuccessor(
                of: sa, established, localSPI: spi, remoteSPI: choice.spi.bigEndianValue, weInitiate: false, suite: choice.suite,
                shared: exchange.shared, initiatorNonce: nonce, responderNonce: responderNonce, now: now)
            let proposal = WireProposal(
                number: choice.number, protocolID: ProtocolID.ike, spi: [UInt8](u64: spi), transforms: choice.suite.transforms)
            respond(
                sa, .createChildSA,
                [
                    .securityAssociation([proposal]), .nonce(responderNonce),
                    .keyExchange(method: choice.suite.method.rawValue, data: exchange.publicValue),
                ], path: path)
            if case .rekeyIKE(let ours) = sa.outstanding?.kind {
                // "If a peer receives a request to rekey an IKE SA that it is currently rekeying, it SHOULD reply as usual, and
                // SHOULD prepare to close redundant SAs and move inherited Child SAs later based on the nonces" (§2.25.2).
                ours.collision = successor.localSPI
            } else {
                inherit(from: sa, to: successor, now: now)
            }
        } catch {
            respond(sa, .createChildSA, error: error, path: path)
            if case .malformed = error {
                finishClosed(
                    sa, reason: "The peer's request to rekey the IKE SA is unusable: \(error.sentence).", failed: true, now: now)
            }
        }
    }

    /// One rekey of the peer's beside ours is a collision; a second one is not answered with a third SA.
    private func hasCollided(_ sa: IKESA) -> Bool {
        if case .rekeyIKE(let ours) = sa.outstanding?.kind { ours.collision != nil } else { false }
    }

    /// "If a peer receives a request to rekey the IKE SA, and it is currently creating, rekeying, or closing a Child SA of that
    /// IKE SA, it SHOULD reply with TEMPORARY_FAILURE." (§2.25.1)
    private func isBusyWithChildren(_ sa: IKESA) -> Bool {
        switch sa.outstanding?.kind {
        case .child, .deleteChildren: true
        default: false
        }
    }
}
