import DequeModule
import IPsec
import Wire

/// The IKEv2 protocol (RFC 7296) without sockets, clocks or randomness of its own: datagrams, time and events go in; datagrams,
/// events and the next deadline come out. One instance serves all connections of a gateway. It is not thread-safe.
///
/// Exchanges, one file each: `InitInitiator`, `InitResponder`, `AuthInitiator`, `AuthResponder`, `CreateChildInitiator`,
/// `CreateChildResponder`, `RekeyIKEInitiator`, `RekeyIKEResponder`, `Informational`. `Receive` brings datagrams to them,
/// `Requests` keeps message ids and retransmissions, `Lifecycle` and `Driver` decide what to ask for.
public final class IKECore {
    let settings: CoreSettings
    let crypto: any IKECrypto
    let random: any IKERandom
    /// Looks into the tables below, for tests.
    package let meter = WorkMeter()

    var connections: CountedTable<String, ConnectionState>
    /// Names in order of configuration: the responder prefers earlier ones.
    var connectionOrder: [String] = []
    var directory = ConnectionDirectory()
    var sas: CountedTable<UInt64, IKESA>
    /// Nil until the surroundings say which addresses there are.
    var presentAddresses: Set<IPAddress>?
    var initIndex: [InitKey: UInt64] = [:]
    /// SPIs that the surroundings were told of as live.
    var announced: [UInt64: IPAddress] = [:]
    /// Peers that have begun and not authenticated yet; 0 when nobody is under way.
    package internal(set) var halfOpenCount = 0
    /// By `IPAddress.site`: those whose sender is known to be there, and those whose sender may be made up.
    var halfOpenByAddress: [IPAddress: Int] = [:]
    var unverifiedByAddress: [IPAddress: Int] = [:]
    /// Half-open SAs of addresses that the configuration does not name, oldest first; some are gone already.
    var halfOpenStrangers: Deque<UInt64> = []
    var peerWork = WorkBudget(microsecondsPerSecond: Bounds.unauthenticatedWorkMicroseconds)
    var strangerWork = WorkBudget(microsecondsPerSecond: Bounds.unauthenticatedWorkMicroseconds)
    /// IKE SAs in whose IKE_AUTH an EAP conversation was begun, oldest first; some are through already.
    var eapConversations: Deque<UInt64> = []
    /// Of the thread on which certificates are judged.
    var peerJudging = WorkBudget(microsecondsPerSecond: Bounds.judgingMicroseconds)
    var strangerJudging = WorkBudget(microsecondsPerSecond: Bounds.judgingMicroseconds)
    /// Inbound ESP SPI to the IKE SA that owns the child.
    var childIndex: CountedTable<UInt32, UInt64>
    /// Which identity has which traffic.
    let claims: SelectorClaims
    var shares = ChildShares()
    /// Children of all connections, as configured.
    var configuredChildren = 0
    /// IKE SAs by who speaks: what INITIAL_CONTACT is about.
    var identityIndex: [IdentityPair: Set<UInt64>] = [:]
    /// IKE SAs whose peers are to be judged again.
    var reviews: Deque<UInt64> = []
    /// When a list was last found changed: who began to authenticate before may have been judged by the one before.
    var lastReview: Instant?
    /// Installations under way: token to inbound SPI.
    var installs: CountedTable<UInt64, UInt32>
    var nextToken: UInt64 = 1
    /// IKE_AUTH exchanges that wait for somebody outside: token to our SPI of the IKE SA.
    var authenticationWaits: [UInt64: UInt64] = [:]
    var pools: [String: AddressLeases] = [:]
    /// Numbers for the peers of connections that take any.
    var lastInstance: UInt32 = 0
    var refusedPeers = RefusedPeers()
    /// Of the protected interfaces: they show which end has local and remote subnets the wrong way round.
    public var localNetworks: [LocalNetwork] = []
    private var repetitions = Repetitions()
    /// What the operator took down of connections that come back changed.
    private var takenDown: [String: (connection: Bool, children: Set<String>)] = [:]
    var cookies: CookieJar
    var initRefusals = RateLimiter(perSecond: Bounds.initRefusalsPerSecond)
    var unprotectedAnswers = RateLimiter(perSecond: Bounds.unprotectedAnswersPerSecond)

    var logRates = LogRates()
    /// The time that the core was last told.
    private(set) var latest = Instant(nanoseconds: 0)
    private var transmits: Deque<Transmit> = []
    private var events: Deque<Event> = []
    private var timers = TimerQueue<TimerKey>()
    private var touchedSAs: Deque<UInt64> = []
    private var touchedConnections: Deque<String> = []

    /// What was seen, refused and dropped so far.
    public internal(set) var counters = CoreCounters()

    enum TimerKey: Hashable, Sendable { case sa(UInt64), connection(String) }

    /// - Parameters:
    ///   - crypto: algorithms; stateless.
    ///   - random: nonces, SPIs, IVs and jitter: the same sequence gives the same run.
    public init(settings: CoreSettings, crypto: any IKECrypto, random: any IKERandom) {
        (self.settings, self.crypto, self.random) = (settings, crypto, random)
        cookies = CookieJar(crypto: crypto, random: random)
        (connections, sas) = (CountedTable(meter), CountedTable(meter))
        (childIndex, installs) = (CountedTable(meter), CountedTable(meter))
        claims = SelectorClaims(meter)
    }

    // MARK: Configuration

    /// Adds a connection; children with `start: immediately` begin to connect at once. One of the same name is removed first.
    public func addConnection(_ plan: ConnectionPlan, now: Instant) {
        if connections[plan.name] != nil { removeConnection(plan.name, now: now) }
        let state = ConnectionState(plan: supported(plan))
        if let before = takenDown.removeValue(forKey: plan.name) { state.restore(before) }
        connections[plan.name] = state
        connectionOrder.append(plan.name)
        directory.add(plan)
        addClaims(plan)
        configuredChildren += plan.children.count
        touch(connection: plan.name)
        settle(now)
    }

    /// Without what this machine's libraries cannot do (ML-KEM-512 before OpenSSL 3.5), which is logged.
    private func supported(_ plan: ConnectionPlan) -> ConnectionPlan {
        var supported = plan
        supported.proposals = plan.proposals.compactMap { $0.supported(by: crypto) }
        for index in plan.children.indices {
            supported.children[index].proposals = plan.children[index].proposals.compactMap { $0.supported(by: crypto) }
        }
        if supported.proposals != plan.proposals || supported.children.map(\.proposals) != plan.children.map(\.proposals) {
            log(
                .warning, plan.name,
                "Some key exchange methods of the proposals are not available on this machine and are left out (mlkem512 needs "
                    + "OpenSSL 3.5).")
        }
        return supported
    }

    /// Deletes the connection's SAs (DELETE is sent, events are emitted) and forgets it.
    /// - Parameter isChanged: it comes back with other settings; for the log.
    public func removeConnection(_ name: String, isChanged: Bool = false, now: Instant) {
        guard let connection = connections[name] else { return }
        let reason =
            isChanged
            ? Reason(.configurationChanged, "The connection was changed in the configuration: it begins anew.")
            : Reason(.configurationChanged, "The connection was removed from the configuration.")
        for spi in connection.sas { if let sa = sas[spi] { close(sa, reason: reason, now: now) } }
        let down = connection.takenDown
        takenDown[name] = isChanged && (down.connection || !down.children.isEmpty) ? down : nil
        refusedPeers.forget(connection: name)
        repetitions.forget(connection: name)
        connections[name] = nil
        connectionOrder.removeAll { $0 == name }
        directory.remove(connection.plan)
        removeClaims(connection.plan)
        configuredChildren -= connection.plan.children.count
        setTimer(.connection(name), nil)
        settle(now)
    }

    // MARK: The five verbs

    /// Takes one UDP payload as received; on the NAT traversal port the four-octet non-ESP marker is still there.
    public func handleDatagram(_ bytes: [UInt8], path: Path, now: Instant) {
        latest = max(latest, now)
        counters.datagrams &+= 1
        receive(bytes, path: path, now: now)
        settle(now)
    }

    /// Does what is due: retransmissions, keepalives, liveness checks, rekeying, expiry, new attempts.
    public func handleTimeout(now: Instant) {
        latest = max(latest, now)
        for key in timers.takeDue(now) {
            switch key {
            case .sa(let spi):
                guard let sa = sas[spi] else { continue }
                timeout(sa, now: now)
                touch(sa)
            case .connection(let name): touch(connection: name)
            }
        }
        settle(now)
    }

    /// The next datagram to send, oldest first.
    public func pollTransmit() -> Transmit? { transmits.popFirst() }

    /// The next thing the surroundings should do or know, oldest first.
    public func pollEvent() -> Event? { events.popFirst() }

    /// When `handleTimeout` is due; nil when nothing waits.
    public func pollTimeout() -> Instant? { timers.first }

    // MARK: What the surroundings tell

    /// Both directions of the child are installed: the response that lets the peer send is released.
    public func childInstalled(token: UInt64, now: Instant) {
        installed(token: token, now: now)
        settle(now)
    }

    /// The child could not be installed; the sentence becomes its reason.
    public func childInstallFailed(token: UInt64, reason: String, now: Instant) {
        installFailed(token: token, reason: reason, now: now)
        settle(now)
    }

    /// Authenticated ESP arrived: the peer is alive, which postpones the liveness check. RFC 7296 §2.4.
    /// - Parameter inboundSPI: of the child that it arrived on: a connection may have several peers.
    public func inboundTraffic(inboundSPI: UInt32, now: Instant) {
        guard let spi = childIndex[inboundSPI], let sa = sas[spi], let established = sa.established else { return }
        established.lastHeard = now
        established.lastTraffic = now
        touch(sa)
        settle(now)
    }

    /// The same for a connection with one peer.
    public func inboundTraffic(connection: String, now: Instant) {
        guard let state = connections[connection], let sa = current(state), let established = sa.established else { return }
        established.lastHeard = now
        established.lastTraffic = now
        touch(sa)
        settle(now)
    }

    /// A packet wants a child that is down: `start: on-traffic`, and re-establishment by a packet.
    public func trafficWantsTunnel(connection: String, child: String, now: Instant) {
        guard let state = connections[connection], let slot = state.slots[child] else { return }
        if trafficWantsRest(child, state, now: now) {
            settle(now)
            return
        }
        guard slot.waitsForTraffic, !slot.isWanted, !slot.isTakenDown, !state.isTakenDown else { return }
        state.slots[child]?.isWanted = true
        touch(connection: connection)
        settle(now)
    }

    /// An authenticated UDP-encapsulated ESP packet came from a new endpoint. RFC 7296 §2.23.
    public func pathObserved(inboundSPI: UInt32, remote: Endpoint, now: Instant) {
        guard let spi = childIndex[inboundSPI], let sa = sas[spi] else { return }
        follow(sa, path: Path(local: sa.path.local, remote: remote), now: now)
        settle(now)
    }

    /// The address is gone or the interface is down. RFC 7296 §2.4: routing information is a reason to suspect, never to
    /// conclude.
    public func localPathBroken(connection: String, reason: String, now: Instant) {
        guard let state = connections[connection] else { return }
        let broken = Reason(.localPath, "The local path is broken: \(reason)")
        say(.warning, connection, broken, now: now)
        if let sa = current(state) { suspect(sa, now: now) } else { state.failure = broken }
        settle(now)
    }

    /// A limit on bytes, packets or sequence numbers: soft rekeys the child, hard ends it.
    public func childLimitReached(inboundSPI: UInt32, hard: Bool, now: Instant) {
        guard let spi = childIndex[inboundSPI], let sa = sas[spi], let record = sa.established?.child(inbound: inboundSPI)
        else { return }
        if hard {
            // Also while its deletion is under way: until the peer answers, packets would still leave on it. One that drains
            // sends nothing any more, and ends in a moment.
            if case .draining = record.state { return }
            expire(record, of: sa, now: now)
        } else if record.isLive, record.replacedBy == nil {
            enqueue(.rekeyChild(inboundSPI: inboundSPI), on: sa)
        }
        settle(now)
    }

    /// DELETE on every IKE SA: one datagram each, nothing is waited for.
    public func shutdown(now: Instant) {
        for spi in sas.keys.sorted() {
            guard let sa = sas[spi] else { continue }
            if sa.established != nil || sa.isClosing {
                sa.outstanding = nil
                send(.deleteIKE, .informational, [.delete(.ikeSA)], on: sa, now: now)
            }
            drop(sa, reason: "The gateway is shutting down.", failed: false, now: now)
        }
        for name in connectionOrder { setTimer(.connection(name), nil) }
        for name in connectionOrder { if let state = connections[name] { removeClaims(state.plan) } }
        connections.removeAll()
        configuredChildren = 0
        connectionOrder = []
        directory = ConnectionDirectory()
        touchedConnections = []
    }

    // MARK: Queues

    /// Queues the IKE message for sending, with the non-ESP marker when it leaves from the NAT traversal port. RFC 3948 §2.2.
    func transmit(_ message: [UInt8], path: Path, isWhole: Bool = false) {
        let marked = path.local.port == settings.natTraversalPort
        transmitRaw(marked ? [0, 0, 0, 0] + message : message, path: path, isWhole: isWhole)
    }

    func transmitRaw(_ bytes: [UInt8], path: Path, isWhole: Bool = false) {
        guard transmits.count < Bounds.transmitQueue else { counters.transmitsDropped &+= 1; return }
        var transmit = Transmit(bytes: bytes, path: path)
        transmit.isWhole = isWhole
        transmits.append(transmit)
    }

    /// What must happen is never lost; what is only told is, when nobody takes the events.
    func emit(_ event: Event) {
        if case .log = event, events.count >= Bounds.eventQueue { counters.eventsDropped &+= 1; return }
        events.append(event)
    }

    /// Writes about what may happen again and again: once, and then at growing intervals with the count. The rest is `debug`.
    /// - Parameters:
    ///   - part: the child, or the source; empty: the connection itself.
    ///   - place, line: as `log` takes them.
    func say(
        _ level: LogLevel, _ connection: String?, part: String = "", _ reason: Reason, now: Instant, place: String = #fileID,
        line: UInt = #line
    ) {
        let verdict = repetitions.note(Repetitions.Subject(connection, part: part, reason), now: now)
        write(verdict, level, connection, reason.sentence, again: "Still failing", now: now, place, line)
    }

    /// What is up is news, unless it was a moment ago.
    func sayEstablished(
        _ connection: String, _ what: String, _ sentence: String, now: Instant, place: String = #fileID, line: UInt = #line
    ) {
        let subject = Repetitions.Subject(connection, part: "up: \(what)", Reason(.connecting, ""))
        let verdict = repetitions.noteUp(subject, now: now)
        write(verdict, .info, connection, sentence, again: "Again", now: now, place, line)
    }

    private func write(
        _ verdict: Repetitions.Verdict, _ level: LogLevel, _ connection: String?, _ sentence: String, again: String,
        now: Instant, _ place: String, _ line: UInt
    ) {
        switch verdict {
        case .isNews: log(level, connection, sentence, place: place, line: line)
        case .goesOn(let count, let since):
            let times = "\(again), the \(count.ordinal) time in \((now - since).forPeople)"
            log(level, connection, "\(times): \(sentence)", place: place, line: line)
        // A rate of its own: what is left out must not use up that of the news.
        case .isKnown: log(.debug, connection, sentence, place: "again \(place)", line: line)
        }
    }

    /// What failed before works: ` after 14 failed attempts in 3m 20s`; empty when nothing had failed.
    func endOfFailures(_ connection: String, child: String, now: Instant) -> String {
        guard let (count, since) = repetitions.end(connection: connection, parts: ["", child], now: now) else { return "" }
        return " after \(count) failed attempt\(count == 1 ? "" : "s") in \((now - since).forPeople)"
    }

    // MARK: Settling

    func touch(_ sa: IKESA) { touchedSAs.append(sa.localSPI) }
    func touch(connection name: String) { touchedConnections.append(name) }
    func setTimer(_ key: TimerKey, _ deadline: Instant?) { timers.set(key, deadline) }

    /// Brings everything that was touched to rest: starts what may be started, and sets the deadlines.
    func settle(_ now: Instant) {
        latest = max(latest, now)
        while true {
            if let spi = touchedSAs.popFirst() {
                guard let sa = sas[spi] else {
                    setTimer(.sa(spi), nil)
                    if let remote = announced.removeValue(forKey: spi) { emit(.ikeSA(spi: spi, remote: remote, isLive: false)) }
                    continue
                }
                pump(sa, now: now)
                setTimer(.sa(spi), sas[spi] == nil ? nil : deadline(of: sa))
                // Half-open ones too: nobody who did not hear our answer knows the SPI.
                if sas[spi] != nil, !sa.isClosed, announced[spi] == nil {
                    announced[spi] = sa.path.remote.address
                    emit(.ikeSA(spi: spi, remote: sa.path.remote.address, isLive: true))
                }
            } else if let name = touchedConnections.popFirst() {
                guard let state = connections[name] else { setTimer(.connection(name), nil); continue }
                drive(state, now: now)
                setTimer(.connection(name), deadline(of: state, now: now))
            } else {
                return
            }
        }
    }

    /// All IKE SAs, half-open ones too.
    package var saCount: Int { sas.count }

    /// Every IKE SA, for tests that play a peer with its keys.
    package var allSAs: [IKESA] { sas.values.sorted { $0.localSPI < $1.localSPI } }

    /// Sizes of all tables, for tests that watch them.
    package var tableSizes: [String: Int] {
        [
            "sas": sas.count, "reviews": reviews.count,
            "initIndex": initIndex.count, "halfOpen": halfOpenCount, "children": childIndex.count,
            "installs": installs.count, "waits": authenticationWaits.count, "timers": timers.count, "transmits": transmits.count,
            "events": events.count, "connections": connections.count, "directory": directory.count,
            "announced": announced.count,
            "identities": identityIndex.count,
        ]
    }
}
