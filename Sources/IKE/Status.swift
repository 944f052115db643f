import IPsec

// How everything stands.
extension IKECore {
    /// One entry per connection, in the order of configuration.
    public func status(now: Instant) -> [ConnectionStatus] {
        let refused = Dictionary(grouping: refusedPeers.recent(now)) { $0.connection ?? "" }
        return connectionOrder.compactMap { connections[$0] }.map { status($0, refused, now: now) }
    }

    /// One connection's, which costs the same whatever others there are; nil when there is none of this name.
    public func status(connection: String, now: Instant) -> ConnectionStatus? {
        connections[connection].map {
            status($0, [connection: refusedPeers.recent(now).filter { $0.connection == connection }], now: now)
        }
    }

    /// Peers that were refused lately and that no connection is for, the newest first.
    public func refusedStrangers(now: Instant) -> [RefusedPeer] { refusedPeers.recent(now).filter { $0.connection == nil } }

    private func status(
        _ state: ConnectionState, _ refused: [String: [RefusedPeer]], now: Instant
    ) -> ConnectionStatus {
        let plan = state.plan
        let sa = current(state)
        let children = plan.children.map { status($0, state, now: now) }
        guard let sa, let established = sa.established else {
            let isConnecting = state.attempt != nil
            // One that takes anybody has not failed because one of them did: it listens, and the reason says what was.
            let hasFailed = state.hasFailed && plan.remoteAddress != nil
            let result = ConnectionStatus(
                name: plan.name, state: isConnecting ? .connecting : hasFailed ? .failed : .down,
                reason: reason(state, now: now), ike: nil, children: children, refusals: refused[plan.name] ?? [])
            return withHistory(result, state, now: now)
        }
        var ike = ConnectionStatus.IKE(
            initiatorSPI: sa.initiatorSPI, responderSPI: sa.responderSPI, isInitiator: sa.isInitiator,
            proposal: sa.suite?.keywords ?? "", establishedAt: established.establishedAt, rekeyAt: established.rekeyAt,
            localNAT: sa.localNAT, remoteNAT: sa.remoteNAT, localIdentity: established.localIdentity,
            remoteIdentity: established.remoteIdentity, path: sa.path, localMethod: established.localMethod,
            remoteMethod: established.peer.method, remoteSubject: established.peer.subject,
            remoteCertificateExpires: established.peer.certificateExpires, warnings: established.peer.warnings)
        (ike.mobike, ike.moves) = (sa.mobility.isNegotiated, sa.mobility.moves)
        ike.fragmentation = sa.fragmentation.isNegotiated
        ike.usesPostquantumKey = sa.postquantum.isUsed
        var result = ConnectionStatus(name: plan.name, state: .established, reason: nil, ike: ike, children: children)
        result.refusals = refused[plan.name] ?? []
        result.virtualAddresses = established.settled.received?.addresses ?? []
        if plan.remoteAddress == nil { result.peers = state.sas.compactMap { sas[$0] }.compactMap(peer) }
        result.liveness = liveness(sa, established)
        return withHistory(result, state, now: now)
    }

    private func liveness(_ sa: IKESA, _ established: EstablishedSA) -> ConnectionStatus.Liveness {
        guard let request = sa.outstanding, request.plainTransmissions > 0 else {
            return .init(lastHeard: established.lastHeard)
        }
        return .init(
            lastHeard: established.lastHeard, pendingSince: request.firstSent, unanswered: request.plainTransmissions,
            planned: plannedTransmissions(request) - request.transmissions + request.plainTransmissions)
    }

    private func withHistory(_ status: ConnectionStatus, _ state: ConnectionState, now: Instant) -> ConnectionStatus {
        var status = status
        (status.changedAt, status.lastFailure) = (state.history.changedAt, state.history.lastFailure)
        (status.losses, status.sharedIdentities) = (state.history.recentLosses(now: now), state.history.shared(now: now))
        status.pathProbe = state.pathProbe.map {
            .init(
                largest: $0.largest, passed: $0.passed, failed: $0.failed, isLossy: $0.isLossy, finishedAt: $0.finishedAt)
        }
        return status
    }

    private func peer(_ sa: IKESA) -> ConnectionStatus.Peer? {
        guard let established = sa.established, established.supersededBy == nil else { return nil }
        return ConnectionStatus.Peer(
            identity: established.remoteIdentity, endpoint: sa.path.remote, virtualAddresses: established.settled.granted,
            establishedAt: established.establishedAt, children: established.children.filter(\.isInstalled).map(\.name),
            method: established.peer.method)
    }

    /// A sentence for every state but `established`. What we know about the peer's own attempt shows both sides, so it comes
    /// first while it is fresh; then the silence of the attempt under way; then the last failure.
    private func reason(_ state: ConnectionState, now: Instant) -> Reason {
        if let refusal = state.refusal, now < refusal.at + Bounds.refusalShown { return refusal.reason }
        if let sa = state.attempt.flatMap({ sas[$0] }), let waiting = sa.waiting {
            switch waiting.purpose {
            case .ownStatus: return Reason(.connecting, "Waiting for an OCSP responder's word about our own certificate.")
            case .judgement: return Reason(.connecting, "The certificate of \(sa.path.remote) is being judged.")
            case .answer:
                return Reason(
                    .connecting, "Waiting for an OCSP responder to say whether the certificate of \(sa.path.remote) is revoked.")
            }
        }
        if let sa = state.attempt.flatMap({ sas[$0] }), let request = sa.outstanding {
            if case .initiating(let initiating) = sa.phase, let refusal = initiating.refusal { return refusal.reason }
            if request.transmissions > 1 || sa.sendFailure != nil { return silence(sa, request, now: now) }
            return state.failure
                ?? Reason(.connecting, "Waiting for the answer of \(sa.path.remote) to \(request.exchange).")
        }
        if let failure = state.failure { return failure }
        if state.plan.remoteAddress == nil {
            return Reason(.waitingForPeer, "Waiting for a peer: remote.address is any, so this end cannot begin.")
        }
        if state.wantedChildren.isEmpty {
            return state.plan.children.contains { $0.start == .onTraffic }
                ? Reason(.waitingForTraffic, "Waiting for traffic (start: on-traffic).")
                : Reason(.waitingForOperator, "Waiting for the peer or for `culvert up` (start: manual).")
        }
        return Reason(.connecting, "About to connect to \(state.plan.remoteAddress?.description ?? "the peer").")
    }

    private func newestChild(
        _ name: String, _ state: ConnectionState, where isMeant: (ChildRecord) -> Bool
    ) -> (IKESA, ChildRecord)? {
        for spi in state.sas.newestFirst {
            guard let sa = sas[spi], let children = sa.established?.children else { continue }
            if let record = children.last(where: { $0.name == name && isMeant($0) }) { return (sa, record) }
        }
        return nil
    }

    /// What another peer was refused, for a while.
    private func conflict(_ slot: ConnectionState.Slot?, now: Instant) -> Reason? {
        slot?.conflict.flatMap { now < $0.at + Bounds.conflictShown ? $0.reason : nil }
    }

    private func status(_ plan: ChildPlan, _ state: ConnectionState, now: Instant) -> ConnectionStatus.Child {
        let slot = state.slots[plan.name]
        let newest =
            newestChild(plan.name, state, where: \.isInstalled) ?? newestChild(plan.name, state, where: \.isLive)
        if let (sa, record) = newest {
            let records = (sa.established?.children ?? []).filter { $0.name == plan.name }
            var status = ConnectionStatus.Child(
                name: plan.name, state: record.isInstalled ? .installed : .connecting,
                reason: record.isInstalled ? nil : slot?.reason,
                inboundSPI: record.inboundSPI, outboundSPI: record.outboundSPI, transform: record.suite.transform,
                path: sa.tunnelPath(settings), localSelectors: Self.all(records, \.localSelectors),
                remoteSelectors: Self.all(records, \.remoteSelectors),
                rekeys: slot?.rekeys ?? 0, rekeyAt: record.rekeyAt)
            status.isWanted = slot?.isWanted == true
            status.pfsGroup = record.suite.method.map { "\($0)" }
            let local = sa.path.local.address
            status.problem =
                isPresent(local)
                ? slot?.rekeyProblem.map { Reason($0.code, "The last rekey failed. \($0)") } ?? conflict(slot, now: now)
                    ?? sa.established.flatMap { restProblem(effective(plan, $0), $0, slot) }
                : Reason(
                    .localPath,
                    "Nothing goes through: the address \(local) is not on this machine any more, or its interface is down.")
            return status
        }
        let isConnecting = slot?.isCreating == true || (state.attempt != nil && slot?.isWanted == true)
        var status = ConnectionStatus.Child(
            name: plan.name, state: isConnecting ? .connecting : .down, reason: slot?.reason, localSelectors: plan.localSelectors,
            remoteSelectors: plan.remoteSelectors, rekeys: slot?.rekeys ?? 0)
        status.isWanted = slot?.isWanted == true
        return status
    }
}

extension IKECore {
    /// Of all SAs of a child that are in use, each once.
    private static func all(_ records: [ChildRecord], _ side: (ChildRecord) -> [TrafficSelector]) -> [TrafficSelector] {
        let live = records.filter(\.isInstalled)
        return (live.isEmpty ? records : live).flatMap(side).uniqued
    }
}

extension Bounds {
    /// How long the sentence about a refused peer stays in front of our own attempts' sentences.
    static let refusalShown: Duration = .seconds(60)
    /// How long a child shows that a peer was refused what another one has.
    static let conflictShown: Duration = .seconds(600)
}
