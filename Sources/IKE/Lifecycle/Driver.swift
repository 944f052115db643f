import IPsec

// What a connection wants, and when it asks for it.
extension IKECore {
    /// Starts what is wanted, missing and allowed now.
    func drive(_ state: ConnectionState, now: Instant) {
        guard let sa = current(state), let established = sa.established else {
            guard mayConnect(state) else { return }
            if let next = state.nextAttempt, next > now { return }
            beginConnect(state, replaces: nil, now: now)
            return
        }
        for plan in childrenDue(state, established) where needsCreating(plan.name, state, established) {
            guard let due = creationDue(plan.name, state, sa, established), due <= now else { continue }
            state.slots[plan.name]?.isCreating = enqueue(.createChild(plan.name), on: sa)
        }
        for plan in state.plan.children {
            guard let due = restDue(plan.name, state, established), due <= now else { continue }
            state.slots[plan.name]?.isCreating = enqueue(.createRest(plan.name), on: sa)
        }
    }

    private func mayConnect(_ state: ConnectionState) -> Bool {
        state.attempt == nil && !state.isTakenDown && !state.wantedChildren.isEmpty && state.plan.remoteAddress != nil
    }

    private func needsCreating(_ name: String, _ state: ConnectionState, _ established: EstablishedSA) -> Bool {
        guard let slot = state.slots[name], !slot.isCreating else { return false }
        return established.current(name) == nil
    }

    /// A responder leaves further children to the initiator for a while, so that they are not created twice.
    private func creationDue(_ name: String, _ state: ConnectionState, _ sa: IKESA, _ established: EstablishedSA) -> Instant? {
        let earliest = sa.isInitiator ? established.establishedAt : established.establishedAt + Bounds.responderChildWait
        return max(earliest, state.slots[name]?.nextAttempt ?? earliest)
    }

    func deadline(of state: ConnectionState, now: Instant) -> Instant? {
        guard let sa = current(state), let established = sa.established else {
            return mayConnect(state) ? state.nextAttempt : nil
        }
        let missing = childrenDue(state, established).filter { needsCreating($0.name, state, established) }
            .compactMap { creationDue($0.name, state, sa, established) }
        return (missing + state.plan.children.compactMap { restDue($0.name, state, established) }).min()
    }

    // MARK: What went wrong

    /// The connection has no IKE SA any more, or could not get one.
    /// - Parameters:
    ///   - deadPeersChildren: the children that were up when the peer was found dead; nil when it was not that.
    ///   - isMeant: this end wanted it: the operator, a changed file, the end of the gateway.
    func wentDown(
        _ state: ConnectionState, reason: Reason, failed: Bool, isMeant: Bool = false, deadPeersChildren: [String]? = nil,
        now: Instant
    ) {
        let wasUp = state.isReportedUp
        (state.failure, state.hasFailed, state.isReportedUp) = (reason, failed, false)
        state.history.wentDown(reason.sentence, isDeath: failed, isMeant: isMeant, wasUp: wasUp, now: now)
        for plan in state.plan.children {
            state.slots[plan.name]?.isCreating = false
            state.slots[plan.name]?.rekeyProblem = nil
            if let names = deadPeersChildren, let action = state.plan.dpdAction {
                let isWanted = state.slots[plan.name]?.isWanted == true || names.contains(plan.name)
                state.slots[plan.name]?.isWanted = action == .restart && isWanted
                state.slots[plan.name]?.waitsForTraffic = action == .wait || (action == .restart && plan.start == .onTraffic)
            } else if plan.start != .immediately {
                // Traffic or the operator asks again; only `immediately` comes back by itself.
                state.slots[plan.name]?.isWanted = false
            }
        }
        let earliest: Instant
        var spread = settings.reconnectInterval / 5
        if !wasUp, takeNextTurn(state) {
            (earliest, spread) = (now + Bounds.shortestPause, Bounds.shortestPause)
        } else if wasUp, !failed {
            // The peer closed it, so it is there and meant it: a pause before it is asked again.
            earliest = now + settings.reconnectInterval
        } else {
            let soonest = now + Bounds.shortestPause
            earliest = max(soonest, (state.attemptStarted.map { $0 + pause(after: state.failedAttempts) }) ?? soonest)
            if !wasUp { state.failedAttempts += 1 }
        }
        state.nextAttempt = earliest + jitter(spread)
        if reason.code != .takenDown || failed { say(.warning, state.plan.name, reason, now: now) }
        emit(.connectionDown(connection: state.plan.name, reason: reason.sentence))
        touch(connection: state.plan.name)
    }

    /// Between the beginnings of two attempts: half as long again each time, up to a bound. A gateway whose peers all went away
    /// at once does not ask them all at once: the jitter spreads the attempts.
    private func pause(after failures: Int) -> Duration {
        var pause = settings.reconnectInterval
        for _ in 0..<min(failures, 16) where pause < Bounds.longestReconnect { pause = pause * 3 / 2 }
        return min(pause, max(Bounds.longestReconnect, settings.reconnectInterval))
    }

    /// An attempt ended before it had an IKE SA.
    func attemptFailed(_ state: ConnectionState, reason: Reason, now: Instant) {
        guard current(state) == nil else { say(.warning, state.plan.name, reason, now: now); return }
        wentDown(state, reason: reason, failed: true, now: now)
    }

    /// For status, while an attempt goes on; the log has it when the attempt ends.
    func note(_ name: String?, failure: Reason) {
        guard let state = name.flatMap({ connections[$0] }), current(state) == nil, state.failure != failure else { return }
        state.failure = failure
    }

    /// We refused a peer: kept where the operator looks, on the connection that it most likely meant.
    func refused(_ state: ConnectionState, _ reason: Reason, from: Endpoint, now: Instant) {
        let name = state.plan.name
        refusedPeers.note(reason, from: from, connection: name, now: now)
        // One that nobody has authenticated must not fill the log.
        let isNews = state.refusal.map { $0.reason != reason || now >= $0.at + Bounds.sameRefusalInterval } ?? true
        guard isNews else { return }
        state.refusal = (reason, now)
        if now >= state.refusalsLogged.since + Bounds.sameRefusalInterval { state.refusalsLogged = (0, now) }
        state.refusalsLogged.count += 1
        guard state.refusalsLogged.count <= Bounds.refusalsLogged else { counters.refusalsUnsaid &+= 1; return }
        let source = state.plan.remoteAddress == nil ? "from \(from.address.site)" : ""
        say(.warning, name, part: source, reason, now: now)
        guard current(state) == nil, !state.isTakenDown else { return }
        (state.failure, state.hasFailed) = (reason, true)
        emit(.connectionDown(connection: name, reason: reason.sentence))
    }

    /// We refused somebody whom no connection is for.
    func refusedStranger(_ reason: Reason, from: Endpoint, now: Instant) {
        refusedPeers.note(reason, from: from, connection: nil, now: now)
        say(.warning, nil, part: "from \(from.address.site)", reason, now: now)
    }

    /// Our request for a child was refused or went wrong: it is asked for again, at growing intervals.
    func childFailed(_ state: ConnectionState, _ name: String, reason: Reason, now: Instant) {
        let wait = state.slots[name]?.retryWait ?? settings.reconnectInterval
        state.slots[name]?.retryWait = min(wait * 2, Bounds.longestChildRetry)
        state.slots[name]?.isCreating = false
        say(.warning, state.plan.name, part: name, reason, now: now)
        childWentDown(state, name, reason: reason, retryAt: now + wait)
    }

    /// We refused the peer's request for a child.
    /// - Parameter isRekey: the child that it was to replace goes on.
    func childRefused(
        _ state: ConnectionState, _ name: String, isRekey: Bool, _ reason: Reason, from: Endpoint, now: Instant
    ) {
        if isRekey { state.slots[name]?.rekeyProblem = reason } else { state.slots[name]?.reason = reason }
        refusedPeers.note(reason, from: from, connection: state.plan.name, now: now)
        say(.warning, state.plan.name, part: name, reason, now: now)
    }

    func childWentDown(_ state: ConnectionState, _ name: String, reason: Reason, retryAt: Instant) {
        state.slots[name]?.reason = reason
        state.slots[name]?.nextAttempt = retryAt
        if state.childPlan(name)?.start != .immediately { state.slots[name]?.isWanted = false }
        touch(connection: state.plan.name)
    }
}
