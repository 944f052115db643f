import IPsec

// What a peer has left out of what is configured for a child: asked for with further child SAs, or told. RFC 7296 §2.9: the
// responder narrows to what it allows, or to what it wants in one SA; one that makes an SA of each pair of networks takes the
// others when they are asked for by themselves.
extension IKECore {
    struct SelectorPair: Hashable {
        var local: TrafficSelector
        var remote: TrafficSelector
    }

    /// Pairs of configured selectors of which no live SA of the child carries anything, as one request: the first local
    /// selector that lacks some, what it lacks, and all other local selectors that lack the same.
    /// - Parameter skipped: pairs that the peer has refused.
    func uncovered(
        _ plan: ChildPlan, _ established: EstablishedSA, skipping skipped: Set<SelectorPair> = []
    ) -> (local: [TrafficSelector], remote: [TrafficSelector])? {
        // Who has one address from the other end has nothing that could be left out.
        guard !plan.localIsAssigned, !plan.remoteIsAssigned else { return nil }
        let records = established.children.filter { $0.name == plan.name && $0.isLive }
        if records.contains(where: { $0.localSelectors == plan.localSelectors && $0.remoteSelectors == plan.remoteSelectors }) {
            return nil
        }
        var missing = plan.localSelectors.map { _ in plan.remoteSelectors.map { _ in true } }
        for record in records {
            let local = plan.localSelectors.map { Self.touches(record.localSelectors, $0) }
            let remote = plan.remoteSelectors.map { Self.touches(record.remoteSelectors, $0) }
            for (l, isLocal) in local.enumerated() where isLocal {
                for (r, isRemote) in remote.enumerated() where isRemote { missing[l][r] = false }
            }
        }
        if !skipped.isEmpty {
            for (l, local) in plan.localSelectors.enumerated() {
                for (r, remote) in plan.remoteSelectors.enumerated() where missing[l][r] {
                    missing[l][r] = !skipped.contains(SelectorPair(local: local, remote: remote))
                }
            }
        }
        guard let first = missing.firstIndex(where: { $0.contains(true) }) else { return nil }
        let local = missing.indices.filter { missing[$0] == missing[first] }.prefix(Bounds.selectorsPerPayload)
        let remote = plan.remoteSelectors.indices.filter { missing[first][$0] }.prefix(Bounds.selectorsPerPayload)
        return (local.map { plan.localSelectors[$0] }, remote.map { plan.remoteSelectors[$0] })
    }

    private static func touches(_ selectors: [TrafficSelector], _ one: TrafficSelector) -> Bool {
        selectors.contains { $0.intersection(one) != nil }
    }

    // MARK: Asking for it

    /// A child SA that we asked for is up, or one of several is gone: whether more is to be asked for.
    func wantRest(_ name: String, _ connection: ConnectionState, _ established: EstablishedSA) {
        guard let plan = connection.childPlan(name), let slot = connection.slots[name] else { return }
        let wanted = uncovered(plan, established, skipping: slot.refusedPairs) != nil
        guard slot.wantsRest != wanted else { return }
        connection.slots[name]?.wantsRest = wanted
        touch(connection: connection.plan.name)
    }

    /// One of several SAs of a child is gone that we had asked for, and none in its place: a part of the child is missing again.
    func lostPart(_ record: ChildRecord, of sa: IKESA, _ established: EstablishedSA, now: Instant) {
        guard record.weInitiated, established.current(record.name) != nil, let connection = connection(of: sa) else { return }
        connection.slots[record.name]?.restAt = now + settings.reconnectInterval
        wantRest(record.name, connection, established)
    }

    /// When the rest of a child is to be asked for; nil: not at all.
    func restDue(_ name: String, _ state: ConnectionState, _ established: EstablishedSA) -> Instant? {
        guard let slot = state.slots[name], slot.wantsRest, !slot.isCreating,
            established.current(name)?.isInstalled == true
        else { return nil }
        return slot.restAt ?? established.establishedAt
    }

    func startCreateRest(_ name: String, on sa: IKESA, _ established: EstablishedSA, now: Instant) {
        guard let connection = connection(of: sa), let plan = connection.childPlan(name), let slot = connection.slots[name] else {
            return
        }
        guard let rest = uncovered(plan, established, skipping: slot.refusedPairs),
            established.children.count < Bounds.childrenPerIKESA
        else {
            connection.slots[name]?.isCreating = false
            connection.slots[name]?.wantsRest = false
            return
        }
        requestChild(plan, on: sa, selectors: rest, rekeys: nil, method: nil, retries: 0, isRest: true, now: now)
    }

    /// The peer does not take what it has left out: the others are tried, and all of them again after a while.
    func restRefused(_ state: CreatingChild, _ connection: ConnectionState, reason: Reason, now: Instant) {
        let name = state.offer.name
        let (local, remote) = (state.offer.localSelectors, state.offer.remoteSelectors)
        let problem = Reason(reason.code, "Not carried: \(local.sentence) <-> \(remote.sentence). \(reason)")
        say(.warning, connection.plan.name, part: name, Reason(problem.code, "Child \(name): \(problem)"), now: now)
        connection.slots[name]?.restProblem = problem
        connection.slots[name]?.isCreating = false
        for one in local {
            for other in remote { connection.slots[name]?.refusedPairs.insert(SelectorPair(local: one, remote: other)) }
        }
        connection.slots[name]?.restAt = now + Bounds.restRequestPause
        connection.slots[name]?.forgetRefusedAt = now + Bounds.refusedRestRetry
        touch(connection: connection.plan.name)
    }

    /// A packet wants a child that is up, but no SA of which carries it.
    func trafficWantsRest(_ child: String, _ state: ConnectionState, now: Instant) -> Bool {
        guard let established = current(state)?.established, established.current(child)?.isInstalled == true else { return false }
        if let forget = state.slots[child]?.forgetRefusedAt, forget <= now {
            state.slots[child]?.refusedPairs = []
            state.slots[child]?.forgetRefusedAt = nil
        }
        wantRest(child, state, established)
        return true
    }

    // MARK: Telling

    /// For status: what of an installed child's selectors no SA carries, and why; nil when all of it is carried.
    func restProblem(_ plan: ChildPlan, _ established: EstablishedSA, _ slot: ConnectionState.Slot?) -> Reason? {
        guard let rest = uncovered(plan, established) else {
            return slot?.wantsRest == false ? narrowing(plan, established).map { Reason(.trafficSelectors, $0) } : nil
        }
        if let problem = slot?.restProblem { return problem }
        return Reason(
            .trafficSelectors,
            "Not carried: \(rest.local.sentence) <-> \(rest.remote.sentence), which the peer left out of what it agreed to.")
    }

    /// The one SA of a child carries less than is configured.
    private func narrowing(_ plan: ChildPlan, _ established: EstablishedSA) -> String? {
        let records = established.children.filter { $0.name == plan.name && $0.isLive }
        guard !plan.localIsAssigned, !plan.remoteIsAssigned, let record = records.first, records.count == 1,
            !Narrowing.covers(record.localSelectors, plan.localSelectors)
                || !Narrowing.covers(record.remoteSelectors, plan.remoteSelectors)
        else { return nil }
        return "Of \(plan.localSelectors.sentence) <-> \(plan.remoteSelectors.sentence) the two ends agreed to "
            + "\(record.localSelectors.sentence) <-> \(record.remoteSelectors.sentence); the rest is not carried."
    }
}

extension Bounds {
    /// Between a refusal and the next request for other selectors.
    static let restRequestPause: Duration = .seconds(2)
    /// After this what was refused may be asked for again, when a packet wants it.
    static let refusedRestRetry: Duration = .seconds(300)
}
