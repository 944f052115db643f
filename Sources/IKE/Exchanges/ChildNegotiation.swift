import IPsec

/// A request for a child, in IKE_AUTH or CREATE_CHILD_SA, with what the exchange around it knows.
struct ChildRequest {
    var payloads: PayloadList
    var initiatorNonce: [UInt8]
    var responderNonce: [UInt8]
    /// false in IKE_AUTH: the child's keys come from the IKE SA's own exchange.
    var withMethods: Bool
    /// The child that the peer wants replaced.
    var rekeyed: ChildRecord?
}

/// A child that both ends agreed on: the record that stays here, the SA that goes to be installed, and the payloads of our
/// answer.
struct MadeChild {
    var record: ChildRecord
    var sa: ChildSA
    var payloads: [Payload] = []
}

/// What we agreed to as responder, before every key exchange is done.
struct AgreedChild {
    var plan: ChildPlan
    var choice: Negotiation.Choice<ESPSuite>
    var selectors: Narrowing.Result
    var request: ChildRequest
    var inboundSPI: UInt32
    /// SK(0); nil without perfect forward secrecy.
    var shared: Secret?
    /// Of our answer to CREATE_CHILD_SA or IKE_AUTH.
    var payloads: [Payload]
}

// What the exchanges that create child SAs share. RFC 7296 §1.3, §2.9, §2.17.
extension IKECore {
    // MARK: Initiator

    /// - Parameter selectors: those of the child that is replaced: "the proposed Traffic Selectors SHOULD be either the same as,
    ///   or a superset of, the Traffic Selectors used in the old Child SA" (§2.9.2). Nil: as configured.
    func makeOffer(
        _ plan: ChildPlan, selectors: (local: [TrafficSelector], remote: [TrafficSelector])?, withMethods: Bool
    ) -> ChildOffer {
        let spi = freshInboundSPI()
        return ChildOffer(
            name: plan.name, inboundSPI: spi,
            proposals: Offer.esp(plan.proposals, spi: spi, withMethods: withMethods),
            localSelectors: selectors?.local ?? Array(plan.localSelectors.prefix(Bounds.selectorsPerPayload)),
            remoteSelectors: selectors?.remote ?? Array(plan.remoteSelectors.prefix(Bounds.selectorsPerPayload)))
    }

    /// SA, TSi and TSr of an IKE_AUTH request.
    func childPayloads(_ offer: ChildOffer) -> [Payload] {
        [
            .securityAssociation(offer.proposals), .trafficSelectorsInitiator(WireSelectors(offer.localSelectors)),
            .trafficSelectorsResponder(WireSelectors(offer.remoteSelectors)),
        ]
    }

    /// Values 1 to 255 are reserved (RFC 4303 §2.1); no other child of ours has it.
    func freshInboundSPI() -> UInt32 {
        while true {
            let spi = UInt32(truncatingIfNeeded: random.bytes(4).bigEndianValue)
            if spi > 255, childIndex[spi] == nil { return spi }
        }
    }

    /// Checks the peer's choice against our offer and derives the keys.
    /// - Parameter nonces: of the exchange, initiator's (ours) first.
    func completeChild(
        _ sa: IKESA, _ connection: ConnectionState, _ offer: ChildOffer, _ payloads: PayloadList,
        nonces: (initiator: [UInt8], responder: [UInt8]), shared: Secret?, additional: [Secret] = [], now: Instant
    ) throws(IKEFault) -> MadeChild {
        guard let answer = payloads.proposals, let initiator = payloads.selectorsInitiator,
            let responder = payloads.selectorsResponder
        else { throw .peerMisbehaved("it lacks SA, TSi or TSr") }
        let choice = try Negotiation.verifyESP(answer, offered: offer.proposals)
        if let established = sa.established { try checkOutboundSPI(choice.spi, established) }
        guard !initiator.selectors.isEmpty, !responder.selectors.isEmpty,
            Narrowing.covers(offer.localSelectors, initiator.selectors),
            Narrowing.covers(offer.remoteSelectors, responder.selectors)
        else { throw .peerMisbehaved("its traffic selectors are not among those proposed") }
        guard let plan = connection.childPlan(offer.name), let keys = sa.keys, let suite = sa.suite else {
            throw .ours("the child is no longer configured")
        }
        var local = initiator.selectors
        if plan.localIsAssigned, let established = sa.established {
            local = Narrowing.intersect(local, effective(plan, established).localSelectors)
            guard !local.isEmpty else { throw .peerMisbehaved("its traffic selectors leave out the address that it gave us") }
        }
        if let established = sa.established {
            try checkClaims(
                sa, established, connection, effective(plan, established), local: local, remote: responder.selectors, now: now)
        }
        let material = try KeySchedule(crypto: crypto).childKeys(
            prf: suite.prf, derivation: keys.derivation, shared: shared, additional: additional,
            initiatorNonce: nonces.initiator, responderNonce: nonces.responder, transform: choice.suite.transform)
        return make(
            sa, connection, plan, inboundSPI: offer.inboundSPI,
            outboundSPI: UInt32(truncatingIfNeeded: choice.spi.bigEndianValue),
            suite: choice.suite, inboundKey: material.fromResponder, outboundKey: material.fromInitiator,
            local: local, remote: responder.selectors, weInitiated: true,
            lowestNonce: lowerNonce(nonces.initiator, nonces.responder), now: now)
    }

    // MARK: Responder

    func acceptChild(
        _ sa: IKESA, _ established: EstablishedSA, _ connection: ConnectionState, _ request: ChildRequest, now: Instant
    ) throws(IKEFault) -> MadeChild {
        let agreed = try agreeOnChild(sa, established, connection, request, now: now)
        return try makeChild(sa, connection, agreed, additional: [], now: now)
    }

    /// Chooses child, selectors and suite for a request, and does our half of its key exchange. Throws the notify to answer with,
    /// after the reason is noted where the operator looks for it.
    func agreeOnChild(
        _ sa: IKESA, _ established: EstablishedSA, _ connection: ConnectionState, _ request: ChildRequest, now: Instant
    ) throws(IKEFault) -> AgreedChild {
        guard let offer = request.payloads.proposals, let initiator = request.payloads.selectorsInitiator,
            let responder = request.payloads.selectorsResponder
        else { throw .incompatible(.invalidSyntax, data: [], "the request lacks SA, TSi or TSr") }
        let most = request.rekeyed == nil ? Bounds.childrenPerIKESA : 2 * Bounds.childrenPerIKESA
        guard established.children.count < most else {
            counters.childLimitReached &+= 1
            throw .incompatible(.noAdditionalSAs, data: [], "the IKE SA has \(established.children.count) children, its limit")
        }
        if request.rekeyed == nil { try checkShare(established, connection) }
        let (plan, selectors) = try chooseChild(sa, established, connection, initiator, responder, request, now: now)
        guard Negotiation.isOffer(offer),
            let choice = Negotiation.choose(
                plan.proposals, from: offer, withMethods: request.withMethods),
            choice.spi.bigEndianValue > 255
        else {
            counters.proposalsRefused &+= 1
            let reason = NegotiationReport.esp(
                ours: plan.proposals, offer: offer, withMethods: request.withMethods, connection: connection.plan.name,
                child: plan.name, line: connection.plan.line("\(plan.name)/esp_proposals"))
            childRefused(
                connection, plan.name, isRekey: request.rekeyed != nil, Reason(.espProposals, reason), from: sa.path.remote,
                now: now)
            throw .incompatible(.noProposalChosen, data: [], reason)
        }
        try checkOutboundSPI(choice.spi, established)
        if request.payloads.notify(.useTransportMode) != nil { declineTransportMode(sa, connection, plan, now: now) }
        let exchange = try exchangeForChild(choice.suite.method, request)
        let inboundSPI = freshInboundSPI()
        return AgreedChild(
            plan: plan, choice: choice, selectors: selectors, request: request, inboundSPI: inboundSPI, shared: exchange?.shared,
            payloads: answerPayloads(choice, inboundSPI: inboundSPI, request, exchange?.publicValue, selectors))
    }

    /// The keys, when every key exchange is done.
    /// - Parameter additional: SK(1) to SK(n) of RFC 9370 §2.2.4.
    func makeChild(
        _ sa: IKESA, _ connection: ConnectionState, _ agreed: AgreedChild, additional: [Secret], now: Instant
    ) throws(IKEFault) -> MadeChild {
        guard let keys = sa.keys, let ikeSuite = sa.suite else { throw .ours("the IKE SA has no keys") }
        let (request, suite) = (agreed.request, agreed.choice.suite)
        let material = try KeySchedule(crypto: crypto).childKeys(
            prf: ikeSuite.prf, derivation: keys.derivation, shared: agreed.shared, additional: additional,
            initiatorNonce: request.initiatorNonce, responderNonce: request.responderNonce, transform: suite.transform)
        var made = make(
            sa, connection, agreed.plan, inboundSPI: agreed.inboundSPI,
            outboundSPI: UInt32(truncatingIfNeeded: agreed.choice.spi.bigEndianValue), suite: suite,
            inboundKey: material.fromInitiator, outboundKey: material.fromResponder, local: agreed.selectors.responder,
            remote: agreed.selectors.initiator, weInitiated: false,
            lowestNonce: lowerNonce(request.initiatorNonce, request.responderNonce), now: now)
        made.payloads = agreed.payloads
        made.record.wasAskedForTransportMode = request.payloads.notify(.useTransportMode) != nil
        return made
    }

    /// The peer's SPIs tell its SAs apart (RFC 4303 §2.1): two with the same one could neither be told apart by its DELETE.
    private func checkOutboundSPI(_ octets: [UInt8], _ established: EstablishedSA) throws(IKEFault) {
        let spi = UInt32(truncatingIfNeeded: octets.bigEndianValue)
        guard let other = established.child(outbound: spi) else { return }
        if case .draining = other.state { return }
        throw .incompatible(.noProposalChosen, data: [], "the peer's SPI is that of its child \(other.name) already")
    }

    private func answerPayloads(
        _ choice: Negotiation.Choice<ESPSuite>, inboundSPI: UInt32, _ request: ChildRequest, _ publicValue: [UInt8]?,
        _ selectors: Narrowing.Result
    ) -> [Payload] {
        var payloads: [Payload] = [
            .securityAssociation([
                WireProposal(
                    number: choice.number, protocolID: ProtocolID.esp, spi: [UInt8](u32: inboundSPI),
                    transforms: choice.suite.transforms)
            ])
        ]
        if request.withMethods {
            payloads.append(.nonce(request.responderNonce))
            if let method = choice.suite.method, let publicValue {
                payloads.append(.keyExchange(method: method.rawValue, data: publicValue))
            }
        }
        payloads.append(.trafficSelectorsInitiator(WireSelectors(selectors.initiator)))
        payloads.append(.trafficSelectorsResponder(WireSelectors(selectors.responder)))
        return payloads
    }

    private func chooseChild(
        _ sa: IKESA, _ established: EstablishedSA, _ connection: ConnectionState, _ initiator: WireSelectors,
        _ responder: WireSelectors, _ request: ChildRequest, now: Instant
    ) throws(IKEFault) -> (ChildPlan, Narrowing.Result) {
        let all = connection.plan.children.map { effective($0, established) }
        var plans = all.filter { connection.slots[$0.name]?.isTakenDown != true }
        if let rekeyed = request.rekeyed { plans = plans.filter { $0.name == rekeyed.name } }
        let best = Narrowing.bestChild(
            plans, offeredInitiator: initiator.selectors, offeredResponder: responder.selectors, weInitiate: false,
            isFree: { established.current($0) == nil })
        guard let best else {
            try refuseTakenDown(sa, connection, all, initiator, responder, now: now)
            counters.selectorsRefused &+= 1
            var reason = SelectorReport.refusal(
                initiator: initiator.selectors, responder: responder.selectors, plans: plans, connection: connection.plan,
                networks: localNetworks)
            if request.payloads.notify(.useTransportMode) != nil {
                reason = Reasons.transportModeRefused(reason, remote: sa.path.remote)
            }
            if let name = (plans.first { established.current($0.name) == nil } ?? plans.first)?.name {
                childRefused(
                    connection, name, isRekey: request.rekeyed != nil, reason, from: sa.path.remote, now: now)
            }
            throw .incompatible(.tsUnacceptable, data: [], reason.sentence)
        }
        // "The responder MUST NOT narrow down the Traffic Selectors narrower than the scope currently in use." (§2.9.2)
        if let rekeyed = request.rekeyed,
            !Narrowing.covers(best.result.initiator, rekeyed.remoteSelectors)
                || !Narrowing.covers(best.result.responder, rekeyed.localSelectors)
        {
            throw .incompatible(.tsUnacceptable, data: [], "the new selectors are narrower than those of the child to replace")
        }
        try checkClaims(
            sa, established, connection, best.plan, local: best.result.responder, remote: best.result.initiator, now: now)
        return best
    }

    /// Our half of the exchange for perfect forward secrecy; nil when the suite has none.
    private func exchangeForChild(
        _ method: KeyExchangeMethod?, _ request: ChildRequest
    ) throws(IKEFault) -> (shared: Secret, publicValue: [UInt8])? {
        guard let method else { return nil }
        return try exchange(method, request.payloads)
    }

    /// Our half of the key exchange of a CREATE_CHILD_SA request, or INVALID_KE_PAYLOAD when it brought another group.
    func exchange(_ method: KeyExchangeMethod, _ payloads: PayloadList) throws(IKEFault) -> (shared: Secret, publicValue: [UInt8])
    {
        guard let offered = payloads.keyExchange, offered.method == method.rawValue else {
            var data: [UInt8] = []
            data.append(u16: method.rawValue)
            throw .incompatible(.invalidKEPayload, data: data, "the key exchange is not \(method.keyword)")
        }
        let ours = try answerKeyExchange(method, offered.data)
        return (try agree(ours), ours.publicValue)
    }

    // MARK: Both

    private func make(
        _ sa: IKESA, _ connection: ConnectionState, _ plan: ChildPlan, inboundSPI: UInt32, outboundSPI: UInt32, suite: ESPSuite,
        inboundKey: Secret, outboundKey: Secret, local: [TrafficSelector], remote: [TrafficSelector], weInitiated: Bool,
        lowestNonce: [UInt8], now: Instant
    ) -> MadeChild {
        let record = ChildRecord(
            name: plan.name, inboundSPI: inboundSPI, outboundSPI: outboundSPI, suite: suite, localSelectors: local,
            remoteSelectors: remote, createdAt: now, rekeyAt: now + softLifetime(plan.lifetime, weInitiated: weInitiated),
            expiresAt: now + plan.lifetime, weInitiated: weInitiated, lowestNonce: lowestNonce)
        var child = ChildSA(
            connection: connection.plan.name, child: plan.name, inboundSPI: inboundSPI, outboundSPI: outboundSPI,
            transform: suite.transform, inboundKey: inboundKey, outboundKey: outboundKey, localSelectors: local,
            remoteSelectors: remote, path: sa.tunnelPath(settings), replayWindowPackets: plan.replayWindowPackets)
        child.instance = sa.established?.settled.instance ?? 0
        child.limits = limits(plan, weInitiated: weInitiated)
        child.sizes = plan.sizes
        return MadeChild(record: record, sa: child)
    }

    /// When to rekey: at 70 to 80 % of the lifetime by the end that made the SA, at 80 to 90 % by the other, which so only has to
    /// when the first one does not. "the timing of rekeying requests SHOULD be jittered (delayed by a random amount of time after
    /// the need for rekeying is noticed)" (§2.8).
    func softLifetime(_ lifetime: Duration, weInitiated: Bool) -> Duration {
        lifetime * (weInitiated ? 7 : 8) / 10 + jitter(lifetime / 10)
    }

    /// The same shares of what an SA may carry. Both ends count the same packets: without the difference they would always
    /// collide.
    private func limits(_ plan: ChildPlan, weInitiated: Bool) -> SALimits {
        func soft(_ hard: UInt64) -> UInt64 {
            if hard == 0 { return 0 }
            let share = hard.multipliedFullWidth(by: (weInitiated ? 7 : 8) * 65_536 + random.bytes(2).bigEndianValue)
            return max(1, (10 * 65_536).dividingFullWidth(share).quotient)
        }
        var limits = SALimits()
        (limits.softBytes, limits.hardBytes) = (soft(plan.lifetimeBytes), plan.lifetimeBytes)
        (limits.softPackets, limits.hardPackets) = (soft(plan.lifetimePackets), plan.lifetimePackets)
        return limits
    }

    /// A random part of a duration, in steps of a 65536th.
    func jitter(_ limit: Duration) -> Duration { limit * Int(random.bytes(2).bigEndianValue) / 65_536 }
}
