import IPsec

// A new IKE SA in place of another, made before that one is broken. RFC 7296 §2.8, §2.8.3.
//
// "Reauthentication is done by creating a new IKE SA from scratch (using IKE_SA_INIT/IKE_AUTH exchanges, without any REKEY_SA
// Notify payloads), creating new Child SAs within the new IKE SA …, and finally deleting the old IKE SA (which deletes the old
// Child SAs as well)." (§2.8.3)
extension IKECore {
    // MARK: When

    /// The time that an authentication is good for: near its end a new one begins; at its end the SA goes, whatever came of that.
    func checkReauthentication(_ sa: IKESA, _ established: EstablishedSA, now: Instant) {
        completeReplacement(sa, established, now: now)
        guard established.supersededBy == nil, established.closeAt == nil else { return }
        if let end = established.authenticationEndsAt, end <= now {
            close(
                sa,
                reason: Reason(
                    .expired,
                    "The peer \(established.remoteIdentity) was not authenticated anew in time (reauth_time, or what RADIUS "
                        + "grants)."),
                now: now)
            return
        }
        guard checkCertificate(sa, established, now: now), let due = established.reauthAt, due <= now else { return }
        established.reauthAt = nil
        guard let connection = connection(of: sa), connection.plan.remoteAddress != nil else { return }
        // Should this attempt fail, there is another one before the old SA ends.
        established.reauthAt = now + Bounds.replacementWait + jitter(Bounds.replacementWait / 4)
        guard successorUnderWay(sa) == nil else { return }
        log(.info, connection.plan.name, "Authenticating anew: \(established.remoteIdentity) is due (reauth_time).")
        replace(sa, connection, now: now)
    }

    /// Sets up a new IKE SA in place of the current one, whenever that would be due. False: there is none, or its peer's address
    /// is `any`.
    @discardableResult
    package func authenticateAnew(connection: String, now: Instant) -> Bool {
        guard let state = connections[connection], let sa = current(state), let established = sa.established,
            state.plan.remoteAddress != nil
        else { return false }
        established.reauthAt = now
        checkReauthentication(sa, established, now: now)
        touch(sa)
        settle(now)
        return true
    }

    func reauthenticationDeadlines(_ established: EstablishedSA) -> [Instant] {
        let isOver = established.supersededBy != nil || established.closeAt != nil
        let patience = established.replaces == nil ? nil : established.establishedAt + Bounds.replacementWait
        let ends = [
            established.reauthAt, established.authenticationEndsAt, established.certificateNoticeAt,
            established.certificateEndsAt,
        ]
        return ((isOver ? [] : ends) + [patience, established.coverCheckAt]).compactMap { $0 }
    }

    // MARK: When the peer's certificate runs out

    func noteCertificateEnd(_ established: EstablishedSA, _ seconds: Int64, now: Instant) {
        // An Instant has no room for more than some centuries.
        let left = Duration.seconds(min(max(0, seconds), Bounds.longestValiditySeconds))
        established.certificateEndsAt = now + left
        // Only once: a peer that comes with the same certificate again is not asked again.
        let notice = Bounds.certificateNotice + jitter(Bounds.certificateNotice / 4)
        established.certificateNoticeAt = left > Bounds.certificateNotice * 2 ? now + (left - notice) : nil
    }

    /// Some minutes before the end the peer gets the chance to show a newer certificate: it is authenticated anew, by us or, with
    /// AUTH_LIFETIME (RFC 4478), at our wish. At the end its IKE SA ends. False: it has.
    private func checkCertificate(_ sa: IKESA, _ established: EstablishedSA, now: Instant) -> Bool {
        if let notice = established.certificateNoticeAt, notice <= now {
            established.certificateNoticeAt = nil
            if connection(of: sa)?.plan.remoteAddress != nil, sa.isInitiator {
                established.reauthAt = min(established.reauthAt ?? now, now)
            } else if let end = established.certificateEndsAt {
                enqueue(.notify(.authLifetime, [UInt8](u32: UInt32(clamping: (end - now).components.seconds))), on: sa)
            }
        }
        guard let end = established.certificateEndsAt, end <= now else { return true }
        // The clock may have been set meanwhile.
        if let left = established.peer.review?.validSeconds, left > 0 {
            noteCertificateEnd(established, left, now: now)
            return true
        }
        established.certificateEndsAt = nil
        let why = established.peer.review?.objection()?.sentence ?? "The peer's certificate has run out; a new one is needed."
        let name = connection(of: sa)?.plan.name ?? ""
        close(sa, reason: "The peer \(established.remoteIdentity) is shut out of connection \(name): \(why)", now: now)
        return false
    }

    /// "The Responder MUST send this information to the Initiator in an AUTH_LIFETIME notification either in the last message of
    /// an IKE_AUTH exchange, or in an INFORMATIONAL request" (RFC 4478 §2): seconds until the peer should authenticate again.
    func authenticationLifetime(_ established: EstablishedSA) -> [Payload] {
        guard let end = established.authenticationEndsAt else { return [] }
        let lifetime = end - established.establishedAt
        return [.notify(Notify(.authLifetime, data: [UInt8](u32: UInt32(clamping: lifetime.components.seconds))))]
    }

    /// How long the authentication of this peer is good for: as configured, or as long as RADIUS grants (Session-Timeout, RFC
    /// 2865 §5.27) when that is shorter. Nil: until the IKE SA ends.
    func authenticationTime(_ plan: ConnectionPlan, _ peer: ProvenPeer) -> Duration? {
        var times = plan.reauthTime > .zero ? [plan.reauthTime] : []
        for case .lifetime(let granted) in peer.attributes { times.append(max(granted, Bounds.shortestReauthentication)) }
        return times.min()
    }

    /// "An Initiator that received an AUTH_LIFETIME notification SHOULD repeat the Initial exchange within the time indicated"
    /// (RFC 4478 §2), zero meaning at once; what we are configured for may be sooner.
    func noteAuthenticationLifetime(_ sa: IKESA, _ payloads: PayloadList, now: Instant) {
        guard let established = sa.established, let notify = payloads.notify(.authLifetime), notify.data.count == 4,
            plan(of: sa)?.remoteAddress != nil
        else { return }
        let lifetime = believable(.seconds(Int64(clamping: notify.data.bigEndianValue)), connection(of: sa))
        let due = now + softLifetime(lifetime, weInitiated: true)
        established.reauthAt = min(established.reauthAt ?? due, due)
        touch(sa)
    }

    /// A peer that says so again and again keeps nobody authenticating all the time: what is shorter than it was last believed is
    /// believed half as much the next time.
    private func believable(_ announced: Duration, _ connection: ConnectionState?) -> Duration {
        guard let connection else { return max(announced, Bounds.shortestReauthentication) }
        let shortest = connection.shortestReauthentication
        guard announced <= shortest else {
            connection.shortestReauthentication = Bounds.shortestReauthentication
            return announced
        }
        connection.shortestReauthentication = min(shortest * 2, Bounds.longestForcedReauthentication)
        return shortest
    }

    // MARK: How

    /// A new IKE SA is set up from scratch and takes the place of this one when its children are up: what §2.8 leaves when
    /// in-place rekeying is refused, and §2.8.3 calls reauthentication.
    func replace(_ sa: IKESA, _ connection: ConnectionState, now: Instant) {
        // Should this attempt fail, there is another one before the old SA ends.
        if let established = sa.established {
            let room = max(Bounds.shortestPause, (established.expiresAt - now) / 2)
            established.rekeyAt = now + min(Bounds.longestChildRetry, room)
        }
        guard connection.attempt == nil, connection.plan.remoteAddress != nil else { return }
        let pair = AddressPair(local: sa.path.local.address, remote: sa.path.remote.address)
        beginConnect(connection, replaces: sa.localSPI, pair: pair, now: now)
    }

    /// The peer does not renew a child in CREATE_CHILD_SA, most often for its key exchange: "the CREATE_CHILD_SA request MAY
    /// optionally contain a KE payload" (§1.3.1), and IKE_AUTH never does, where it was accepted before. So a new IKE SA makes
    /// it, while the old one goes on. One child per IKE SA can be made so; with more the others are not put at risk.
    func makeAnew(_ name: String, _ sa: IKESA, _ established: EstablishedSA, _ connection: ConnectionState, now: Instant) {
        let inTrouble = connection.plan.children.filter { connection.slots[$0.name]?.rekeyProblem != nil }
        guard inTrouble.count == 1, connection.plan.remoteAddress != nil, !connection.isTakenDown, successorUnderWay(sa) == nil
        else { return }
        log(.info, connection.plan.name, "Child \(name) is made anew with a new IKE SA, since the peer does not rekey it.")
        replace(sa, connection, now: now)
    }

    /// The lifetime of a child is over, and nothing has taken its place.
    func ended(
        _ record: ChildRecord, of sa: IKESA, _ established: EstablishedSA, _ connection: ConnectionState, now: Instant
    ) {
        let name = record.name
        guard let problem = connection.slots[name]?.rekeyProblem else {
            let reason = Reason(.expired, "Child \(name) reached the end of its lifetime before it was rekeyed.")
            say(.warning, connection.plan.name, part: name, reason, now: now)
            childWentDown(connection, name, reason: reason, retryAt: now)
            return
        }
        let reason = Reason(
            problem.code, "Child \(name) reached the end of its lifetime, because it could not be rekeyed. \(problem)")
        say(.warning, connection.plan.name, part: name, reason, now: now)
        childWentDown(connection, name, reason: reason, retryAt: now + Bounds.longestChildRetry)
        if connection.slots[name]?.isWanted == true { makeAnew(name, sa, established, connection, now: now) }
    }

    /// The IKE SA that is to take the place of this one, from its first message on.
    func successorUnderWay(_ sa: IKESA) -> IKESA? {
        // Only who can begin replaces: connections with many peers are not walked through.
        guard let connection = connection(of: sa), connection.plan.remoteAddress != nil else { return nil }
        return connection.sas.lazy.compactMap { self.sas[$0] }.first { $0.replaces == sa.localSPI }
    }

    /// The old SA was rekeyed meanwhile: it is its successor now that is to be replaced.
    func follow(_ old: IKESA, to new: IKESA) {
        successorUnderWay(old)?.replaces = new.localSPI
    }

    /// Children that carry traffic on the IKE SA that is being replaced, in the order of configuration.
    func childrenToReplace(_ state: ConnectionState, _ replaces: UInt64?) -> [ChildPlan] {
        guard let old = replaces.flatMap({ sas[$0] })?.established else { return [] }
        return state.plan.children.filter { old.current($0.name) != nil }
    }

    /// What the current IKE SA should have: what is wanted, and while it replaces another what that one has.
    func childrenDue(_ state: ConnectionState, _ established: EstablishedSA) -> [ChildPlan] {
        guard established.replaces != nil else { return state.wantedChildren }
        let names = Set(childrenToReplace(state, established.replaces).map(\.name))
        return state.plan.children.filter { state.slots[$0.name]?.isWanted == true || names.contains($0.name) }
    }

    /// Closes the old IKE SA once every child that it has is installed on the new one; one that the peer refuses is not waited
    /// for longer than `Bounds.replacementWait`.
    func completeReplacement(_ sa: IKESA, _ established: EstablishedSA, now: Instant) {
        established.coverCheckAt = nil
        guard let old = established.replaces, let connection = connection(of: sa) else { return }
        if let predecessor = sas[old], predecessor.established != nil {
            let children = childrenToReplace(connection, old).map { established.current($0.name) }
            let isWhole = !connection.slots.values.contains { $0.wantsRest }
            let isCovered = isWhole && children.allSatisfy { isUsable($0, now: now) }
            guard isCovered || established.establishedAt + Bounds.replacementWait <= now else {
                if children.allSatisfy({ $0?.isInstalled == true }) { established.coverCheckAt = now + Bounds.redundantSAWait }
                touch(connection: connection.plan.name)
                return
            }
            established.replaces = nil
            close(predecessor, reason: "Replaced by a new IKE SA.", now: now)
        }
        established.replaces = nil
        // Both ends may have done it at once.
        settleRedundancy(of: sa, connection, now: now)
        touch(sa)
    }

    // MARK: What a closing SA leaves behind

    /// The peer answered our rekey of an IKE SA that we were closing meanwhile: it has the new SA, and our children moved there
    /// with it. Nobody wants it, so it is deleted at once, rather than left to the peer's liveness check.
    func endOrphan(of sa: IKESA, _ state: RekeyingIKE, _ payloads: PayloadList, now: Instant) {
        guard let answer = payloads.proposals else { return }
        do throws(IKEFault) {
            let (choice, _, shared) = try agreed(state, answer, payloads)
            // With additional key exchanges to come the peer has no SA yet, and forgets what it has (RFC 9370 §2.2.4).
            guard choice.suite.additionalMethods.isEmpty else { return }
            let orphan = try succeed(sa, nil, state, payloads, shared: shared, additional: [], now: now)
            orphan.tasks = [.deleteIKE]
        } catch {
            log(.debug, sa.connection, "The peer's answer to rekeying a closing IKE SA is unusable: \(error.sentence).")
        }
    }
}

extension IKECore {
    /// As above, when it was the last additional key exchange that the peer answered.
    func endOrphan(of sa: IKESA, _ series: FollowUpSeries, _ payloads: PayloadList, now: Instant) {
        guard case .rekeyIKE(let state) = series.purpose, series.pending.count == 1, let ours = series.keyExchange,
            let theirs = payloads.keyExchange, theirs.method == ours.method.rawValue
        else { return }
        do throws(IKEFault) {
            let additional = series.secrets.dropFirst() + [try agree(ours, theirs.data)]
            let orphan = try succeed(
                sa, nil, state, series.answer, shared: series.secrets[0], additional: Array(additional), now: now)
            orphan.tasks = [.deleteIKE]
        } catch {
            log(.debug, sa.connection, "The peer's answer to rekeying a closing IKE SA is unusable: \(error.sentence).")
        }
    }
}

extension IKESA {
    /// The IKE SA that this one is to take the place of.
    var replaces: UInt64? {
        get {
            switch phase {
            case .initiating(let state): state.replaces
            case .intermediate(let state): state.initiation.replaces
            case .authenticating(let state): state.replaces
            case .established(let state): state.replaces
            case .halfOpen, .closing, .closed: nil
            }
        }
        set {
            switch phase {
            case .initiating(let state): state.replaces = newValue
            case .intermediate(let state): state.initiation.replaces = newValue
            case .authenticating(let state): state.replaces = newValue
            case .established(let state): state.replaces = newValue
            case .halfOpen, .closing, .closed: break
            }
        }
    }
}

extension ConnectionPlan {
    /// Whether a packet that finds the child down opens it, from the start.
    func opensOnTraffic(_ child: ChildPlan) -> Bool { child.start == .onTraffic }

    /// The same, now or after the peer died: what such a packet is then held for.
    public func mayOpenOnTraffic(_ child: ChildPlan) -> Bool { opensOnTraffic(child) || dpdAction == .wait }
}
