import IPsec

// The life of an IKE SA: up, watched, ended. RFC 7296 §2.4, §2.8.
extension IKECore {
    func plan(of sa: IKESA) -> ConnectionPlan? { connection(of: sa)?.plan }
    func connection(of sa: IKESA) -> ConnectionState? { sa.connection.flatMap { connections[$0] } }

    /// The established IKE SA that speaks for a connection: the newest that is neither redundant nor replaced.
    func current(_ state: ConnectionState) -> IKESA? {
        var second: IKESA?
        for spi in state.sas.newestFirst {
            guard let sa = sas[spi], let established = sa.established, established.supersededBy == nil else { continue }
            if established.closeAt == nil, !isBeingReplaced(sa, state) { return sa }
            second = second ?? sa
        }
        return second
    }

    /// One that is being replaced may be newer than the one that replaces it: it was rekeyed meanwhile. Only who can begin
    /// replaces, which leaves out the connections that have many peers.
    private func isBeingReplaced(_ sa: IKESA, _ state: ConnectionState) -> Bool {
        guard state.plan.remoteAddress != nil else { return false }
        return state.sas.contains { spi in
            guard let other = sas[spi]?.established, other.supersededBy == nil else { return false }
            return other.replaces == sa.localSPI
        }
    }

    // MARK: Up

    /// Both ends are authenticated.
    func establish(
        _ sa: IKESA, _ connection: ConnectionState, _ peer: ProvenPeer, localMethod: String, lowestNonce: [UInt8], now: Instant
    ) -> EstablishedSA {
        let plan = connection.plan
        uncountHalfOpen(sa)
        sa.postquantum.plainKeys = nil
        let established = EstablishedSA(
            localIdentity: plan.localIdentity, peer: peer, localMethod: localMethod, establishedAt: now,
            rekeyAt: now + softLifetime(plan.lifetime, weInitiated: sa.isInitiator), expiresAt: now + plan.lifetime,
            lowestNonce: lowestNonce)
        if plan.remoteAddress == nil {
            lastInstance &+= 1
            established.settled.instance = max(1, lastInstance)
        }
        if let time = authenticationTime(plan, peer) {
            established.reauthAt = now + softLifetime(time, weInitiated: sa.isInitiator)
            established.authenticationEndsAt = now + time
        }
        if let seconds = peer.validSeconds { noteCertificateEnd(established, seconds, now: now) }
        // Before redundancy is looked at: the SA that this one replaces is no rival.
        established.replaces = sa.replaces
        sa.phase = .established(established)
        index(sa)
        if sa.localNAT { established.nextKeepalive = nextKeepalive(plan, now: now) }
        if connection.attempt == sa.localSPI { connection.attempt = nil }
        (connection.failure, connection.hasFailed, connection.refusal) = (nil, false, nil)
        connection.failedAttempts = 0
        sa.lastAuthID = sa.isInitiator ? nil : sa.expectedRequestID
        let certificate = peer.subject.map { " (\($0))" } ?? ""
        // Whether anything goes through is the children's matter: an IKE SA that comes and goes without one is no news each time.
        sayEstablished(
            plan.name, "\(peer.identity)",
            "IKE SA established with \(peer.identity)\(certificate) at \(sa.path.remote), \(sa.suite?.keywords ?? ""); the peer "
                + "proved itself by \(peer.method), we by \(localMethod)"
                + "\(sa.postquantum.isUsed ? ", with the postquantum key" : "").", now: now)
        for warning in peer.warnings { say(.warning, plan.name, part: "warning", Reason(.other, warning), now: now) }
        connection.history.arrived(peer.identity, from: sa.path.remote.address, now: now)
        if !connection.isReportedUp {
            connection.isReportedUp = true
            connection.history.cameUp(now: now)
            emit(.connectionEstablished(connection: plan.name))
        }
        abandonOwnAttempt(connection, besides: sa, now: now)
        settleRedundancy(of: sa, connection, now: now)
        touch(connection: plan.name)
        touch(sa)
        return established
    }

    /// The peer's initiation came through first: ours, if it has not got past its first message, is not needed any more.
    private func abandonOwnAttempt(_ connection: ConnectionState, besides sa: IKESA, now: Instant) {
        guard let spi = connection.attempt, spi != sa.localSPI, let attempt = sas[spi],
            case .initiating(let state) = attempt.phase,
            state.replaces == nil
        else { return }
        forget(attempt)
        connection.attempt = nil
    }

    /// Both ends initiated at once and both SAs came up. As with simultaneous rekeying (§2.8.1) the one with the lowest nonce
    /// goes, by the end that initiated it, after a pause that lets both ends learn of both. Asked again whenever an SA is
    /// established or rekeyed.
    func settleRedundancy(of sa: IKESA, _ connection: ConnectionState, now: Instant) {
        let all = (sa.indexedIdentities.flatMap { identityIndex[$0] } ?? []).sorted().compactMap { sas[$0] }.filter {
            $0.connection == connection.plan.name && $0.established != nil && $0.established?.closeAt == nil
                && $0.established?.supersededBy == nil
        }
        for loser in all where loser.isInitiator {
            guard let mine = loser.established, mine.replaces == nil else { continue }
            let isBeaten = all.contains { other in
                guard other !== loser, let theirs = other.established, theirs.remoteIdentity == mine.remoteIdentity,
                    theirs.replaces == nil
                else { return false }
                return mine.lowestNonce.lexicographicallyPrecedes(theirs.lowestNonce)
            }
            if isBeaten {
                mine.closeAt = now + Bounds.redundantSAWait
                mine.redundantSince = now
                touch(loser)
            }
        }
    }

    /// Closes a redundant SA once the surviving one has all its children; if that one died meanwhile, this one stays.
    private func closeRedundant(_ sa: IKESA, _ established: EstablishedSA, now: Instant) {
        guard let connection = connection(of: sa), let winner = current(connection), winner !== sa,
            let survivor = winner.established
        else { (established.closeAt, established.redundantSince) = (nil, nil); return }
        let names = Set(established.children.filter(\.isLive).map(\.name))
        let isCovered = names.allSatisfy { isUsable(survivor.current($0), now: now) }
        guard isCovered || now >= (established.redundantSince ?? established.establishedAt) + Bounds.redundantSAWait * 10 else {
            established.closeAt = now + Bounds.redundantSAWait
            touch(connection: connection.plan.name)
            return
        }
        close(sa, reason: "Redundant: both ends initiated at once.", now: now)
    }

    // MARK: Time

    /// What is due on one SA.
    func timeout(_ sa: IKESA, now: Instant) {
        if let waiting = sa.waiting, waiting.expires <= now {
            waitExpired(sa, now: now)
            guard sas[sa.localSPI] != nil else { return }
        }
        // In every phase: what has a deadline and is not served would be due for ever.
        expireFragments(sa, now: now)
        expireAnswered(sa, now: now)
        switch sa.phase {
        case .halfOpen(let state):
            if state.expires <= now {
                counters.halfOpenExpired &+= 1
                drop(sa, reason: nil, failed: false, now: now)
            }
            return
        case .closed(let until):
            if until <= now { forget(sa) }
            return
        default: break
        }
        if let withheld = sa.withheld, withheld.expires <= now {
            installFailed(token: withheld.token, reason: "the data plane did not answer within 10 s", now: now)
            sa.withheld = nil
        }
        retransmit(sa, now: now)
        guard sas[sa.localSPI] != nil, let established = sa.established else { return }
        keepAlive(sa, established, now: now)
        checkInstallations(sa, established, now: now)
        checkLifetimes(sa, established, now: now)
        if sas[sa.localSPI] != nil, !sa.isClosing { checkReauthentication(sa, established, now: now) }
        checkLiveness(sa, established, now: now)
    }

    /// "that system SHOULD start sending keepalive packets as defined in [UDPENCAPS]": one octet 0xFF, without the marker. RFC
    /// 3948 §2.3.
    private func keepAlive(_ sa: IKESA, _ established: EstablishedSA, now: Instant) {
        guard let next = established.nextKeepalive, next <= now else { return }
        guard let plan = plan(of: sa) else { return }
        established.nextKeepalive = nextKeepalive(plan, now: now)
        if sa.path.local.port == settings.natTraversalPort { transmitRaw([0xFF], path: sa.path) }
    }

    /// Nil when the connection wants none.
    func nextKeepalive(_ plan: ConnectionPlan, now: Instant) -> Instant? {
        let interval = plan.paths.natKeepalive ?? settings.natKeepaliveInterval
        return interval > .zero ? now + interval : nil
    }

    /// A data plane that never answers must not keep a child half made: the one that we asked for is deleted, the one that the
    /// peer asked for is refused (`withheld`).
    private func checkInstallations(_ sa: IKESA, _ established: EstablishedSA, now: Instant) {
        for record in established.children {
            guard case .installing = record.state, let due = record.installBy, due <= now,
                sa.withheld?.inboundSPI != record.inboundSPI
            else { continue }
            record.installBy = nil
            if let token = record.token {
                installFailed(token: token, reason: "the data plane did not answer within 10 s", now: now)
            }
        }
    }

    private func checkLifetimes(_ sa: IKESA, _ established: EstablishedSA, now: Instant) {
        for record in established.children {
            if case .draining(let until) = record.state {
                if until <= now { remove(record, of: sa, established) }
            } else if record.expiresAt <= now {
                expire(record, of: sa, now: now)
            } else if record.rekeyAt <= now {
                record.rekeyAt = record.expiresAt
                if record.isInstalled, record.replacedBy == nil, established.current(record.name) === record {
                    enqueue(.rekeyChild(inboundSPI: record.inboundSPI), on: sa)
                }
            }
        }
        if established.expiresAt <= now {
            if established.supersededBy != nil { drop(sa, reason: nil, failed: false, now: now); return }
            let expired = Reason(.expired, "The IKE SA reached the end of its lifetime before it was rekeyed.")
            let reason = established.endReason ?? expired
            close(sa, reason: reason, now: now)
        } else if established.rekeyAt <= now {
            let isOver = established.supersededBy != nil || established.closeAt != nil
            if !isOver, successorUnderWay(sa) != nil {
                // Should that one come to nothing, there is still a rekey.
                let wait = temporaryFailureWait(until: established.expiresAt, now: now)
                established.rekeyAt = min(established.expiresAt, now + wait)
            } else {
                established.rekeyAt = established.expiresAt
                if !isOver { enqueue(.rekeyIKE, on: sa) }
            }
        }
        if let closeAt = established.closeAt, closeAt <= now { closeRedundant(sa, established, now: now) }
    }

    /// "When the lifetime of a Security Association expires, the Security Association MUST NOT be used." (§2.8)
    func expire(_ record: ChildRecord, of sa: IKESA, now: Instant) {
        guard let established = sa.established else { return }
        let spi = record.inboundSPI
        let wasCurrent = established.current(record.name) === record
        if !record.isDeleting { enqueue(.deleteChild(inboundSPI: spi), on: sa) }
        remove(record, of: sa, established)
        if record.replacedBy == nil { lostPart(record, of: sa, established, now: now) }
        if wasCurrent, established.current(record.name) == nil, let connection = connection(of: sa) {
            ended(record, of: sa, established, connection, now: now)
        }
    }

    /// "If no cryptographically protected messages have been received on an IKE SA or any of its Child SAs recently, the system
    /// needs to perform a liveness check in order to prevent sending messages to a dead peer." (§2.4)
    private func checkLiveness(_ sa: IKESA, _ established: EstablishedSA, now: Instant) {
        guard let due = livenessDue(sa, established), due <= now else { return }
        enqueue(.liveness, on: sa)
    }

    private func livenessDue(_ sa: IKESA, _ established: EstablishedSA) -> Instant? {
        guard let plan = plan(of: sa), plan.dpdInterval > .zero, sa.outstanding == nil, sa.tasks.isEmpty,
            established.supersededBy == nil
        else { return nil }
        return established.lastHeard + plan.dpdInterval
    }

    /// The next moment at which something is due on an SA.
    func deadline(of sa: IKESA) -> Instant? {
        var deadlines: [Instant] = []
        if let request = sa.outstanding { deadlines.append(min(request.nextTransmit, request.giveUpAt)) }
        if let withheld = sa.withheld { deadlines.append(withheld.expires) }
        if let expires = sa.answered.map(\.expires).min() { deadlines.append(expires) }
        if let waiting = sa.waiting { deadlines.append(waiting.expires) }
        if let expires = fragmentsDeadline(sa) { deadlines.append(expires) }
        switch sa.phase {
        case .halfOpen(let state): deadlines.append(state.expires)
        case .closed(let until): deadlines.append(until)
        case .established(let established):
            deadlines += [established.rekeyAt, established.expiresAt]
            deadlines += [established.closeAt, established.nextKeepalive, livenessDue(sa, established)].compactMap { $0 }
            deadlines += reauthenticationDeadlines(established)
            for record in established.children {
                if case .installing = record.state, let due = record.installBy { deadlines.append(due) }
                if case .draining(let until) = record.state {
                    deadlines.append(until)
                } else {
                    deadlines.append(min(record.rekeyAt, record.expiresAt))
                }
            }
        case .initiating, .intermediate, .authenticating, .closing: break
        }
        return deadlines.min()
    }

    // MARK: Down

    /// Ends an SA in order: its children go at once, the peer is told, and what is under way is waited for.
    func close(_ sa: IKESA, reason: Reason, now: Instant) {
        switch sa.phase {
        case .established(let established):
            let isSuperseded = established.supersededBy != nil
            leave(sa, reason: isSuperseded ? nil : reason, failed: false, isMeant: true, now: now)
            sa.phase = .closing
            sa.tasks = [.deleteIKE]
            touch(sa)
        case .authenticating(let state):
            leave(sa, reason: reason, failed: false, isMeant: true, now: now)
            state.isAbandoned = true
            if state.isPutOff {
                drop(sa, reason: reason, failed: false, now: now)
                return
            }
            // The peer has answered already, and counts the SA as established: it is told.
            if sa.waiting != nil {
                cancelWait(sa)
                sa.phase = .closing
                sa.tasks = [.deleteIKE]
                touch(sa)
            }
        case .initiating, .intermediate, .halfOpen: drop(sa, reason: reason, failed: false, now: now)
        case .closing, .closed: break
        }
    }

    /// Ends an SA after the peer's request that ended it was answered; the answer is kept for its retransmissions.
    func finishClosed(_ sa: IKESA, reason: Reason?, failed: Bool, now: Instant) {
        leave(sa, reason: reason, failed: failed, now: now)
        cancelWait(sa)
        sa.phase = .closed(until: now + Bounds.closedLinger)
        sa.outstanding = nil
        sa.withheld = nil
        sa.tasks = []
        touch(sa)
    }

    /// Forgets an SA at once, without a word to the peer.
    /// - Parameter isDead: the peer does not answer any more.
    func drop(_ sa: IKESA, reason: Reason?, failed: Bool, isDead: Bool = false, now: Instant) {
        leave(sa, reason: reason, failed: failed, isDead: isDead, now: now)
        forget(sa)
    }

    /// Takes an SA out of all tables.
    private func forget(_ sa: IKESA) {
        cancelWait(sa)
        detach(sa)
        releaseAddresses(of: sa)
        uncountHalfOpen(sa)
        if let key = sa.initKey, initIndex[key] == sa.localSPI { initIndex[key] = nil }
        unindex(sa)
        sas[sa.localSPI] = nil
        setTimer(.sa(sa.localSPI), nil)
        touch(sa)
    }

    /// Takes an SA away from its connection.
    func detach(_ sa: IKESA) {
        guard let connection = connection(of: sa) else { return }
        connection.sas.remove(sa.localSPI)
        if connection.attempt == sa.localSPI { connection.attempt = nil }
        touch(connection: connection.plan.name)
    }

    /// Removes an SA's children and tells its connection.
    /// - Parameters:
    ///   - reason: nil when its end means nothing to the connection.
    ///   - isMeant: this end wanted it.
    func leave(
        _ sa: IKESA, reason: Reason?, failed: Bool, isDead: Bool = false, isMeant: Bool = false, now: Instant
    ) {
        let wasAttempt = connection(of: sa)?.attempt == sa.localSPI
        var names: [String] = []
        if let established = sa.established {
            names = established.children.map(\.name)
            // The newest first: what carries the traffic is most often the oldest, and shall not go to one that goes next.
            for record in established.children.reversed() { remove(record, of: sa, established) }
        }
        guard let connection = connection(of: sa) else { return }
        let wasUp = sa.established != nil
        detach(sa)
        releaseAddresses(of: sa)
        forgetReceived(sa.established?.settled.received, connection)
        for task in sa.tasks {
            switch task {
            case .createChild(let name), .createRest(let name): connection.slots[name]?.isCreating = false
            default: break
            }
        }
        if case .child(let state) = sa.outstanding?.kind.creates { connection.slots[state.offer.name]?.isCreating = false }
        guard let reason, wasUp || wasAttempt else { return }
        guard current(connection) == nil else {
            if let established = sa.established, connection.plan.remoteAddress == nil {
                log(
                    .info, connection.plan.name, "The peer \(established.remoteIdentity) at \(sa.path.remote) is gone: \(reason)",
                    from: sa.path.remote.address)
            }
            return
        }
        wentDown(
            connection, reason: reason, failed: failed, isMeant: isMeant, deadPeersChildren: isDead ? names : nil, now: now)
    }
}
