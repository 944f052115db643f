import IPsec

// What a connection wants, and when it asks for it.
extension IKECore {
    /// Starts what is wanted, missing and allowed now.
    func drive(_ state: ConnectionState, now: Instant) {
        guard let sa = current(state), let established = sa.established else {
            guard state.attempt == nil, !state.wantedChildren.isEmpty, state.plan.remoteAddress != nil else { return }
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
            guard state.attempt == nil, !state.wantedChildren.isEmpty, state.plan.remoteAddress != nil else { return nil }
            return state.nextAttempt
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
        _ state: ConnectionState, reason: String, failed: Bool, isMeant: Bool = false, deadPeersChildren: [String]? = nil,
        now: Instant
    ) {
        let wasUp = state.isReportedUp
        (state.failure, state.hasFailed, state.isReportedUp, state.failureKind) = (reason, failed, false, .other)
        state.history.wentDown(reason, isDeath: failed, isMeant: isMeant, wasUp: wasUp, now: now)
        for plan in state.plan.children {
            state.slots[plan.name]?.isCreating = false
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
        log(.warning, state.plan.name, reason)
        emit(.connectionDown(connection: state.plan.name, reason: reason))
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
    func attemptFailed(_ state: ConnectionState, reason: String, now: Instant) {
        guard current(state) == nil else { log(.warning, state.plan.name, reason); return }
        wentDown(state, reason: reason, failed: true, now: now)
    }

    /// A sentence for status while an attempt goes on.
    func note(_ name: String?, failure: String) {
        guard let state = name.flatMap({ connections[$0] }), current(state) == nil, state.failure != failure else { return }
        state.failure = failure
        log(.warning, state.plan.name, failure)
    }

    /// We refused the peer: kept on the connection that it most likely meant.
    func refused(_ state: ConnectionState, reason: String, now: Instant) {
        // One that nobody has authenticated must not fill the log: the same sentence is written once a while.
        let isNews = state.refusal.map { $0.0 != reason || now >= $0.1 + Bounds.sameRefusalInterval } ?? true
        guard isNews else { return }
        state.refusal = (reason, now)
        if now >= state.refusalsLogged.since + Bounds.sameRefusalInterval { state.refusalsLogged = (0, now) }
        state.refusalsLogged.count += 1
        guard state.refusalsLogged.count <= Bounds.refusalsLogged else { counters.refusalsUnsaid &+= 1; return }
        log(.warning, state.plan.name, reason)
        guard current(state) == nil else { return }
        (state.failure, state.hasFailed) = (reason, true)
        emit(.connectionDown(connection: state.plan.name, reason: reason))
    }

    /// Our request for a child was refused or went wrong: it is asked for again, at growing intervals.
    func childFailed(_ state: ConnectionState, _ name: String, reason: String, now: Instant) {
        let wait = state.slots[name]?.retryWait ?? settings.reconnectInterval
        state.slots[name]?.retryWait = min(wait * 2, Bounds.longestChildRetry)
        state.slots[name]?.isCreating = false
        log(.warning, state.plan.name, reason)
        childWentDown(state, name, reason: reason, retryAt: now + wait)
    }

    /// We refused the peer's request for a child.
    /// - Parameter isRekey: the child that it was to replace goes on.
    func childRefused(_ state: ConnectionState, _ name: String, isRekey: Bool, reason: String) {
        if isRekey { state.slots[name]?.rekeyProblem = reason } else { state.slots[name]?.reason = reason }
        log(.warning, state.plan.name, reason)
    }

    func childWentDown(_ state: ConnectionState, _ name: String, reason: String, retryAt: Instant) {
        state.slots[name]?.reason = reason
        state.slots[name]?.nextAttempt = retryAt
        if state.childPlan(name)?.start != .immediately { state.slots[name]?.isWanted = false }
        touch(connection: state.plan.name)
    }

    /// The operator takes one child down; the IKE SA stays for the others.
    func terminateChild(_ name: String, of state: ConnectionState, now: Instant) {
        state.slots[name]?.isWanted = false
        state.slots[name]?.wantsRest = false
        state.slots[name]?.reason = "Taken down by the operator."
        for spi in state.sas {
            guard let sa = sas[spi], let established = sa.established else { continue }
            sa.tasks.removeAll { $0 == .createChild(name) || $0 == .createRest(name) }
            for record in established.children where record.name == name {
                enqueue(.deleteChild(inboundSPI: record.inboundSPI), on: sa)
            }
        }
        state.slots[name]?.isCreating = false
    }
}
