import IPsec

// What a peer asks for of a child and does not get, besides proposals and selectors.
extension IKECore {
    /// A child that the operator took down is not made again by the peer. RFC 7296 §3.10.1: NO_ADDITIONAL_SAS says that "the
    /// responder is unwilling to accept any more Child SAs on this IKE SA".
    func refuseTakenDown(
        _ sa: IKESA, _ connection: ConnectionState, _ plans: [ChildPlan], _ initiator: WireSelectors, _ responder: WireSelectors,
        now: Instant
    ) throws(IKEFault) {
        let down = plans.filter { connection.slots[$0.name]?.isTakenDown == true }
        let meant = Narrowing.bestChild(
            down, offeredInitiator: initiator.selectors, offeredResponder: responder.selectors, weInitiate: false,
            isFree: { _ in true })
        guard let name = meant?.plan.name else { return }
        let reason = Reasons.refusedAsTakenDown("\(connection.plan.name)/\(name)", remote: sa.path.remote)
        refusedPeers.note(reason, from: sa.path.remote, connection: connection.plan.name, now: now)
        say(.info, connection.plan.name, part: name, reason, now: now)
        throw .incompatible(.noAdditionalSAs, data: [], reason.sentence)
    }

    /// "If the responder declines the request, the Child SA will be established in tunnel mode. If this is unacceptable to the
    /// initiator, the initiator MUST delete the SA." RFC 7296 §1.3.1.
    func declineTransportMode(_ sa: IKESA, _ connection: ConnectionState, _ plan: ChildPlan, now: Instant) {
        let reason = Reason(
            .transportMode,
            "The peer \(sa.path.remote) asked for transport mode for child \(plan.name) and was given tunnel mode, the only one "
                + "here. If it deletes the child, set tunnel mode there (with strongSwan: mode = tunnel).")
        refusedPeers.note(reason, from: sa.path.remote, connection: connection.plan.name, now: now)
        say(.warning, connection.plan.name, part: plan.name, reason, now: now)
    }
}

extension Reasons {
    /// Between the two gateways themselves, so that no subnets fit.
    static func transportModeRefused(_ selectors: Reason, remote: Endpoint) -> Reason {
        Reason(
            .transportMode,
            "The peer \(remote) wants transport mode, between the two gateways themselves, and this end does tunnel mode between "
                + "subnets: set tunnel mode and the subnets there (with strongSwan: mode = tunnel, local_ts, remote_ts). "
                + selectors.sentence)
    }
}
