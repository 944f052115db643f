import IPsec

// What the operator asks for: up, down, rekey. What is taken down stays down until it is wanted up again, whoever asks.
extension IKECore {
    /// Brings a connection or one child of it up, and lets its peer in again. False: no such connection or child, or one whose
    /// peer's address is `any` and that nobody is connected with.
    public func initiate(connection: String, child: String?, now: Instant) -> Bool {
        guard let state = connections[connection] else { return false }
        if let child, state.childPlan(child) == nil { return false }
        state.isTakenDown = false
        let canBegin = state.plan.remoteAddress != nil || current(state) != nil
        for plan in state.plan.children where child == nil || plan.name == child {
            state.slots[plan.name]?.isTakenDown = false
            if canBegin { state.slots[plan.name]?.isWanted = true }
            state.slots[plan.name]?.nextAttempt = nil
            state.slots[plan.name]?.retryWait = nil
            // What was before is no outcome of this.
            state.slots[plan.name]?.reason = nil
            state.slots[plan.name]?.rekeyProblem = nil
        }
        defer { settle(now) }
        touch(connection: connection)
        (state.nextAttempt, state.failedAttempts) = (nil, 0)
        if current(state) == nil { (state.failure, state.hasFailed, state.refusal) = (nil, false, nil) }
        return canBegin
    }

    /// Takes a connection or one child of it down, until the operator wants it again: neither traffic nor the peer brings it up.
    public func terminate(connection: String, child: String?, now: Instant) -> Bool {
        guard let state = connections[connection] else { return false }
        if let child {
            guard state.childPlan(child) != nil else { return false }
            takeDown(child, of: state, now: now)
        } else {
            takeDown(state, now: now)
        }
        settle(now)
        return true
    }

    private func takeDown(_ state: ConnectionState, now: Instant) {
        state.isTakenDown = true
        for plan in state.plan.children { state.slots[plan.name]?.isWanted = false }
        let reason = Reasons.takenDown(state.plan.name)
        // The peer is told of each; one line tells the log.
        log(.info, state.plan.name, reason.sentence)
        for spi in state.sas { if let sa = sas[spi] { close(sa, reason: reason, now: now) } }
        (state.failure, state.hasFailed, state.refusal) = (reason, false, nil)
        touch(connection: state.plan.name)
    }

    /// The IKE SA stays for the other children.
    private func takeDown(_ name: String, of state: ConnectionState, now: Instant) {
        let reason = Reasons.takenDown("\(state.plan.name)/\(name)")
        state.slots[name]?.isTakenDown = true
        state.slots[name]?.isWanted = false
        state.slots[name]?.wantsRest = false
        state.slots[name]?.reason = reason
        log(.info, state.plan.name, reason.sentence)
        for spi in state.sas {
            guard let sa = sas[spi], let established = sa.established else { continue }
            sa.tasks.removeAll { $0 == .createChild(name) || $0 == .createRest(name) }
            for record in established.children where record.name == name {
                enqueue(.deleteChild(inboundSPI: record.inboundSPI), on: sa)
            }
        }
        state.slots[name]?.isCreating = false
    }

    /// Rekeys a child, every child (nil), or with `ike` the IKE SA itself. False: there is nothing to rekey.
    public func rekey(connection: String, child: String?, ike: Bool, now: Instant) -> Bool {
        guard let state = connections[connection], let sa = current(state), let established = sa.established else { return false }
        var found = ike
        if ike { enqueue(.rekeyIKE, on: sa) }
        for record in established.children where !ike && record.isInstalled && (child == nil || record.name == child) {
            found = true
            // The peer was faster: its rekey is under way.
            guard record.replacedBy == nil else { continue }
            enqueue(.rekeyChild(inboundSPI: record.inboundSPI), on: sa)
        }
        settle(now)
        return found
    }
}

extension Reasons {
    /// - Parameter target: as `culvert up` takes it.
    static func takenDown(_ target: String) -> Reason {
        Reason(
            .takenDown,
            "\(target) was taken down by the operator. It stays down until `culvert up \(target)` or a restart of the gateway.")
    }

    /// The peer knocks at what is taken down.
    static func refusedAsTakenDown(_ target: String, remote: Endpoint) -> Reason {
        Reason(
            .takenDown,
            "The peer \(remote) asked for \(target) and was refused, because the operator took it down; `culvert up \(target)` "
                + "lets it in again.")
    }
}
