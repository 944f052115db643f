import Configuration
import Crypto
import Dataplane
import IKE
import IPsec
import Logging
import NIOCore
import Platform
import Wire

/// The control thread: joins IKE core, data plane, kernel state and admin socket. One event loop, and everything here is
/// confined to it; nothing blocks it for longer than a system call.
///
/// What flows where:
/// ```
/// sockets ─► core.handleDatagram ┐                        ┌─► SALifecycle ─► data plane (install, switch, retire)
/// timer   ─► core.handleTimeout  ├─► pump: events of core ┼─► sockets (transmits)
/// admin   ─► core.initiate …     ┘                        └─► log, waiting `up` requests
/// data plane events ─► SALifecycle, core, kernel (neighbours), TUN (packets for the gateway itself)
/// netlink ─► KernelView ─► ports, sockets, routes, filter, SteeringPlan, ForwardingPlan (each only when it changed)
/// TUN     ─► data plane (packets from the gateway itself, and what XDP did not catch)
/// ```
final class ControlThread {
    /// Changes of kernel state are gathered for this long before plans are made anew.
    static let settleTime: TimeAmount = .milliseconds(5)
    static let tick: TimeAmount = .milliseconds(500)
    /// Between ticks while a new SA waits for its first packet.
    static let hurriedTick: TimeAmount = .milliseconds(20)
    /// Packets taken from the TUN device before others have their turn.
    static let tunBurst = 64
    /// How long peers get to hear that the gateway goes.
    static let farewell: TimeAmount = .milliseconds(200)

    let loop: any EventLoop
    let surroundings: GatewaySurroundings
    let core: IKECore
    let lifecycle: SALifecycle
    let ports: PortKeeper
    let publisher: PlanPublisher
    private let neighbours: NeighbourKeeper
    let startedAt: Instant
    var nextKernelCheck = Instant(nanoseconds: 0)
    /// What is wrong with the kernel's state for all connections; told in the status.
    var kernelCauses: [Cause] = []
    private let logger: Logger
    let coreSettings: CoreSettings

    var configuration: GatewayConfiguration { didSet { notePeers() } }
    var children: ChildTable
    /// Tells secrets and key files apart on reload, without keeping them: connection name to a digest.
    var keyFingerprints: [String: [UInt8]] = [:]
    /// Connections that the core does not have because their files cannot be used: why.
    var credentialProblems: [String: String] = [:]
    /// The certificates that connections need.
    var watched: [String: [CredentialLoading.Watched]] = [:]
    var nextExpiryCheck: Instant?
    /// Of the revocation lists of each connection, as they were looked at last.
    var listStamps: [String: [CredentialFile.Stamp?]] = [:]
    var nextListCheck = Instant(nanoseconds: 0)
    lazy var ocsp = OCSPClient(loop: loop, mark: SocketOptionValue(RoutingPlan.socketMark))
    let ownStatuses = OwnStatusKeeper()
    /// Where certificates are judged and revocation lists read: what takes long, off this thread.
    lazy var longWork = LongWork(loop: loop)
    var waiting: [UpRequest] = []
    var localProblems: [String: String] = [:]
    /// What peers gave to us, by connection.
    var virtualAddresses: [String: VirtualConfiguration] = [:]
    var publishedPeerRules: [PeerRule] = []
    /// `peerRulesVersion` of the lifecycle when they were looked at last.
    var followedPeerRules = 0
    var radius: RADIUSServers
    private var pathMTUs = PathMTUTable()
    /// Packets for the gateway itself that the TUN device refused.
    private(set) var tunnelDrops: UInt64 = 0

    private var applied = AppliedPlans()
    /// As they were when the connections' problems were looked for.
    private var knownPortProblems: [String: String] = [:]
    /// The kernel has refused a part of them.
    private var kernelPlansAreOwed = false
    /// The addresses of peers that connections name.
    private var namedPeers: Set<IPAddress> = []
    /// Nobody can rightly come from another address: neither is a peer's address unknown, nor may it change (MOBIKE, NAT).
    private var hasFixedPeers = false
    /// Peers of IKE SAs at addresses that no connection names, by our SPI.
    private var redirectedTo: [UInt64: IPAddress] = [:]
    private var complaints = Complaints()
    var evidence = EvidenceKeeper()
    private var timer: (deadline: Instant, task: Scheduled<Void>)?
    private var settle: Scheduled<Void>?
    private var ticking: Scheduled<Void>?
    private var retry: Scheduled<Void>?
    private var isPumping = false
    private(set) var isStopping = false

    /// The plans that kernel and data plane have now.
    private struct AppliedPlans {
        var routing: RoutingPlan?
        var filter: FilterRules?
    }

    lazy var backend = BackendClient(loop: loop) { [self] level, text in log(level, text) }

    lazy var sockets = IKESockets(
        loop: loop, ikePort: coreSettings.ikePort, natTraversalPort: coreSettings.natTraversalPort, mark: RoutingPlan.socketMark,
        receivers: DatagramReceivers(
            listens: { [self] interface in listens(on: interface) },
            ike: { [self] bytes, path in
                core.handleDatagram(bytes, path: path, now: now)
                pump()
            },
            encapsulatedESP: { [self] bytes, path in
                surroundings.dataplane.inject(
                    udpEncapsulated: bytes, from: path.remote.address, port: path.remote.port, to: path.local.address,
                    localPort: path.local.port)
            },
            esp: { [self] packet in surroundings.dataplane.inject(espPacket: packet) },
            espOverIPv6: { [self] packet, from in surroundings.dataplane.inject(esp: packet, from: from) },
            icmp: { [self] packet in
                learnPathMTU(PathMTUReport(packet, natTraversalPort: coreSettings.natTraversalPort))
                note(UnreachableReport(packet, ports: ikePorts, now: now))
            },
            icmpv6: { [self] message, from in
                learnPathMTU(PathMTUReport(icmpv6: message, natTraversalPort: coreSettings.natTraversalPort))
                note(UnreachableReport(icmpv6: message, from: from, ports: ikePorts, now: now))
            },
            log: { [self] level, text in log(level, text) }))

    init(loop: any EventLoop, configuration: GatewayConfiguration, surroundings: GatewaySurroundings, logger: Logger) {
        let table = ChildTable(configuration.connections)
        self.loop = loop
        self.configuration = configuration
        self.surroundings = surroundings
        self.logger = logger
        self.coreSettings = surroundings.coreSettings
        children = table
        radius = RADIUSServers(configuration, secret: surroundings.crypto.secret)
        self.configuration.radius?.wipe()
        startedAt = Self.clock()
        core = IKECore(settings: surroundings.coreSettings, crypto: surroundings.crypto, random: surroundings.random)
        lifecycle = SALifecycle(dataplane: surroundings.dataplane)
        ports = PortKeeper(
            configuration.interfaces, dataplane: surroundings.dataplane, kernel: surroundings.kernel,
            log: { level, text in logger.log(level: GatewayLogHandler.level(level), "\(text)") })
        publisher = PlanPublisher(kernel: surroundings.kernel, dataplane: surroundings.dataplane, ports: ports)
        neighbours = NeighbourKeeper(kernel: surroundings.kernel)
        notePeers()
    }

    private var ikePorts: [UInt16] { [coreSettings.ikePort, coreSettings.natTraversalPort] }

    static func clock() -> Instant { Instant(nanoseconds: UInt64(clamping: NIODeadline.now().uptimeNanoseconds)) }
    var now: Instant { Self.clock() }

    var policy: PolicySet {
        PolicySet(
            configuration, children: children, virtual: virtualAddresses.mapValues(\.addresses), peerRules: publishedPeerRules)
    }

    // MARK: Start and stop

    /// In the order that leaves no moment in the clear: routes and filter, then XDP, then IKE.
    func start() throws(GatewayStartError) {
        // What a gateway that was killed has left.
        for problem in surroundings.kernel.setVirtualAddresses([]) { complain(problem) }
        applyKernelPlans()
        if let problem = complaints.latest, applied.routing == nil {
            throw GatewayStartError(exitCode: 1, sentence: problem)
        }
        for name in surroundings.kernel.detachLeftovers(except: Set(configuration.interfaces.map(\.name))) {
            log(
                .warning,
                "interface \(name) is not configured any more and still had the XDP program of an earlier run: it is detached")
        }
        do throws(DataplaneError) {
            try publisher.publishAll(inputs)
            if let failure = ports.synchronize(now: now) { throw failure }
            try publisher.publishAll(inputs)
            try surroundings.dataplane.start()
        } catch {
            throw GatewayStartError(exitCode: error.isPrivilege ? 77 : 1, sentence: error.sentence)
        }
        sockets.want(localAddresses)
        sockets.openMissing(present: surroundings.kernel.view.isLocal)
        findLocalProblems()
        core.setPools(configuration.pools)
        for connection in configuration.connections.indices { add(connection) }
        log(.info, "gateway \(configuration.name) \(CulvertVersion.current) is running, children configured: \(children.count)")
        scheduleTick()
        scheduleRetry()
        pump()
    }

    /// Says goodbye to peers; completes when they have had time to hear it. `finish` comes after.
    func stop(release: Bool) -> EventLoopFuture<Void> {
        isStopping = true
        log(.info, release ? "ending, and releasing protected prefixes" : "ending; protected prefixes stay blackholed")
        core.shutdown(now: now)
        pump()
        for request in waiting { request.reply(.refused("The gateway is ending.")) }
        waiting = []
        for task in [settle, ticking, retry, timer?.task] { task?.cancel() }
        return loop.scheduleTask(in: Self.farewell) {}.futureResult
    }

    /// Takes the data plane down. Routes, rules and filter stay unless `release`.
    func finish(release: Bool) {
        sockets.closeAll()
        backend.closeAll()
        longWork.stop()
        surroundings.dataplane.stop()
        surroundings.kernel.letGoOfNeighbours()
        if release { surroundings.kernel.release() }
        log(.info, "ended")
    }

    // MARK: Logging

    func log(_ level: LogLevel, _ text: String, connection: String? = nil) {
        logger.log(
            level: GatewayLogHandler.level(level), "\(text)", metadata: connection.map { ["connection": .string($0)] })
    }

    // MARK: The core

    /// Takes everything the core wants done until it wants nothing more, then looks at its next deadline.
    func pump() {
        guard !isPumping else { return }
        isPumping = true
        while true {
            if let event = core.pollEvent() {
                handle(event)
            } else if let transmit = core.pollTransmit() {
                send(transmit)
            } else {
                break
            }
        }
        isPumping = false
        followPeers()
        scheduleTimer()
        if !waiting.isEmpty { checkWaiting() }
    }

    private func send(_ transmit: Transmit) {
        // The socket would fail, and close: a path that is being tried may have no route.
        guard surroundings.kernel.view.hasRoute(to: transmit.path.remote.address) else {
            core.transmitFailed(transmit, SendFailure(.noRoute), now: now)
            return
        }
        _ = sockets.send(transmit) { [self] number in
            guard !isStopping else { return }
            core.transmitFailed(transmit, SendFailures.failure(number), now: now)
            pump()
        }
    }

    private func handle(_ event: Event) {
        switch event {
        case .installChild(let sa, let token):
            let key = lifecycle.key(for: sa, configured: configuredSelectors(of: sa))
            guard let problem = lifecycle.install(sa, as: key, childIndex: childIndex(for: key), token: token) else {
                publishForNewPeer()
                applyPathMTU(sa.path.remote)
                return
            }
            if key.hasOwnRules, !lifecycle.hasPairs(key) { children.release(key) }
            log(.error, "child \(sa.child) cannot be installed: \(problem)", connection: sa.connection)
            core.childInstallFailed(token: token, reason: problem, now: now)
        case .removeChild(let connection, let child, let inboundSPI, _):
            log(
                .debug, "child \(child): SA \(inboundSPI.hexadecimal) ends",
                connection: connection)
            lifecycle.remove(inboundSPI: inboundSPI, now: now)
        case .useChild(let inboundSPI):
            lifecycle.use(inboundSPI: inboundSPI, peerReceives: true)
        case .movePath(let connection, let inboundSPIs, let path):
            log(.debug, "children move to \(path.local) - \(path.remote), port \(path.remotePort)", connection: connection)
            lifecycle.move(inboundSPIs: inboundSPIs, path: path)
            publishForNewPeer()
            applyPathMTU(path.remote)
        case .connectionEstablished(let connection):
            // The core has logged both, with more to say.
            log(.debug, "connection established", connection: connection)
        case .connectionDown(let connection, let reason):
            log(.debug, "connection down: \(reason)", connection: connection)
        case .ikeSA(let spi, let remote, let isLive):
            surroundings.dataplane.setIKESA(spi: spi, isLive: isLive)
            if !isLive || core.isInitiator(spi: spi) { followRedirect(spi: spi, remote: remote, isLive: isLive) }
        case .askBackend(let request, let token):
            backend.ask(request) { [self] answer in
                core.backendAnswered(token: token, answer: answer, now: now)
                pump()
            }
        case .virtualAddresses(let connection, let given): take(given, of: connection)
        case .checkRevocation(let check, let token): checkRevocation(check, token: token)
        case .awaitOwnStatus(let status, let token): awaitOwnStatus(status, token: token)
        case .judgeCertificates(let works, let token): judge(works, token: token)
        case .log(let level, let connection, let text):
            log(level, text, connection: connection)
        }
    }

    /// Peers are in front of an underlay: whoever is behind a protected interface has no business with IKE.
    private func listens(on interface: Int) -> Bool {
        guard let name = ports.protectedName(linkIndex: interface) else { return true }
        complain("IKE that comes in by \(name) is not taken: the interface has role: protected. Peers there need role: both.")
        return false
    }

    private func scheduleTimer() {
        guard let deadline = core.pollTimeout(), !isStopping else {
            timer?.task.cancel()
            timer = nil
            return
        }
        if timer?.deadline == deadline { return }
        timer?.task.cancel()
        let task = loop.assumeIsolated().scheduleTask(deadline: .uptimeNanoseconds(deadline.nanoseconds)) { [self] in
            timer = nil
            core.handleTimeout(now: now)
            pump()
        }
        timer = (deadline, task)
    }

    // MARK: The data plane

    /// Called when its event descriptor is readable.
    func dataplaneReadable() {
        surroundings.dataplane.drainEvents { handle($0) }
        pump()
    }

    private func handle(_ event: DataplaneEvent) {
        switch event {
        case .inboundReady(let token):
            guard let spi = lifecycle.inboundReady(token: token, now: now) else { return }
            core.childInstalled(token: token, now: now)
            lifecycle.use(inboundSPI: spi, peerReceives: core.peerReceives(inboundSPI: spi))
            if lifecycle.awaitsSwitch { scheduleTick() }
        case .wantsTunnel(let childIndex):
            guard let key = children.key(at: childIndex) else { return }
            core.trafficWantsTunnel(connection: key.connection, child: key.child, now: now)
        case .unresolved(let address, let portIndex):
            guard let linkIndex = ports.linkIndex(ofPort: portIndex) else { return }
            neighbours.find(NeighbourKey(address: address, linkIndex: linkIndex), now: now)
        case .punt(let packet):
            if !surroundings.kernel.writeTunnelPacket(packet) { tunnelDrops &+= 1 }
        case .sequenceNumbersRunningOut(let inboundSPI):
            sequenceNumbersRunOut(inboundSPI)
        case .limitReached(let inboundSPI, let isHard):
            if isHard { lifecycle.spend(inboundSPI: inboundSPI, now: now) }
            core.childLimitReached(inboundSPI: inboundSPI, hard: isHard, now: now)
        case .pathObserved(let inboundSPI, let address, let port):
            core.pathObserved(inboundSPI: inboundSPI, remote: Endpoint(address, port), now: now)
        case .retired(let inboundSPI, let final):
            lifecycle.retired(inboundSPI: inboundSPI, final: final)
        }
    }

    private func sequenceNumbersRunOut(_ inboundSPI: UInt32) {
        guard let key = lifecycle.child(inboundSPI: inboundSPI) else { return }
        log(.warning, "child \(key.child): sequence numbers are running out, rekeying", connection: key.connection)
        core.childLimitReached(inboundSPI: inboundSPI, hard: false, now: now)
    }

    /// Called when the TUN device is readable: packets of the gateway itself, and whatever else the kernel routed there.
    /// False when there were none.
    @discardableResult
    func tunReadable() -> Bool {
        for count in 0..<Self.tunBurst {
            guard let packet = surroundings.kernel.readTunnelPacket() else { return count > 0 }
            // The kernel's own IPv6 chatter on the device is nobody's traffic.
            guard let first = packet.first, first >> 4 == 4 else { continue }
            surroundings.dataplane.inject(inner: packet)
        }
        return true
    }

    /// A new SA, or one that moved: what is known of the path holds for it too.
    private func applyPathMTU(_ remote: IPAddress) {
        if let mtu = pathMTUs[remote] { surroundings.dataplane.setPathMTU(remote: remote, mtu: mtu) }
    }

    private func learnPathMTU(_ report: PathMTUReport?) {
        guard let report, surroundings.kernel.view.isLocal(report.local),
            lifecycle.isOutbound(spi: report.spi, remote: report.remote), let mtu = pathMTUs.learn(report, now: now)
        else { return }
        log(.info, "path MTU to \(report.remote) is \(mtu)")
        surroundings.dataplane.setPathMTU(remote: report.remote, mtu: mtu)
    }

    // MARK: The kernel

    /// Called when netlink is readable.
    func kernelReadable() {
        guard surroundings.kernel.takeChanges(), settle == nil, !isStopping else { return }
        settle = loop.assumeIsolated().scheduleTask(in: Self.settleTime) { [self] in
            settle = nil
            followKernel()
        }
    }

    /// Makes everything that depends on kernel state agree with it, and looks only at what may have changed.
    func followKernel() {
        follow(surroundings.kernel.takeViewChanges())
        pump()
    }

    /// The same after the configuration changed: everything.
    func followAll() {
        _ = surroundings.kernel.takeViewChanges()
        follow(.everything)
        pump()
    }

    private func follow(_ changes: KernelChanges) {
        let isWide = publisher.isWide(changes)
        do throws(DataplaneError) {
            if isWide {
                applyKernelPlans()
                _ = ports.synchronize(now: now)
                try publisher.publishAll(inputs)
            } else {
                if publisher.concernsSite(changes) {
                    applyKernelPlans()
                    try publisher.steer(inputs)
                }
                publisher.publish(changes)
            }
        } catch {
            complain(error.sentence)
        }
        if isWide {
            neighbours.followAll(needs: publisher.needs)
            sockets.want(localAddresses)
            sockets.openMissing(present: surroundings.kernel.view.isLocal)
            findLocalProblems()
        } else {
            neighbours.follow(changes.neighbours, needs: publisher.needs)
        }
        scheduleRetry()
    }

    private var inputs: PlanPublisher.Inputs {
        PlanPublisher.Inputs(policy: policy, outside: outside, peers: peers, onlyPeers: hasFixedPeers ? Self.sorted(peers) : nil)
    }

    private var outside: OutsideLinks { OutsideLinks(configuration, surroundings.kernel) }

    /// The routes and the packet filter that keep what is protected in, before anything else that may fail. A sentence for each
    /// that is missing.
    static func protect(_ configuration: GatewayConfiguration, _ kernel: any KernelControlling) -> [String] {
        let policy = PolicySet(configuration, children: ChildTable(configuration.connections), virtual: [:], peerRules: [])
        let outside = OutsideLinks(configuration, kernel)
        let filter = FilterRules(policy, view: kernel.view, interfaces: configuration.interfaces, outside: outside)
        return kernel.apply(RoutingPlan(policy, view: kernel.view, outside: outside)) + [kernel.apply(filter)].compactMap(\.self)
    }

    private func applyKernelPlans() {
        let kernel = surroundings.kernel
        if let sentence = kernel.keepTunnelDevice() { complain(sentence) }
        let routing = RoutingPlan(policy, view: kernel.view, outside: outside)
        // Also when the plan is as before: the kernel drops routes by itself when an address or link goes.
        let problems = kernel.apply(routing)
        for problem in problems { complain(problem) }
        if problems.isEmpty { applied.routing = routing }
        kernelPlansAreOwed = !problems.isEmpty
        let filter = FilterRules(policy, view: kernel.view, interfaces: configuration.interfaces, outside: outside)
        if filter != applied.filter {
            if let problem = kernel.apply(filter) { complain(problem) } else { applied.filter = filter }
            kernelPlansAreOwed = kernelPlansAreOwed || applied.filter != filter
        }
    }

    func publishChangedPlans() {
        do throws(DataplaneError) { try publisher.publishAll(inputs) } catch { complain(error.sentence) }
    }

    /// Where ESP packets go.
    private var peers: Set<IPAddress> { namedPeers.union(lifecycle.remotes).union(redirectedTo.values) }

    /// A fixed order, so that equal peers give equal plans.
    private static func sorted(_ peers: Set<IPAddress>) -> [IPAddress] {
        peers.compactMap(\.v4).sorted().map { .v4($0) } + peers.compactMap(\.v6).sorted().map { .v6($0) }
    }

    private func notePeers() {
        namedPeers = Set(configuration.connections.flatMap(\.remoteAddresses))
        hasFixedPeers =
            !configuration.connections.isEmpty
            && configuration.connections.allSatisfy { connection in
                connection.remoteAddress != nil && connection.natTraversal == .off && !connection.paths.mobike
            }
    }

    /// A redirect may lead to an address that no connection names: where strangers are dropped, it is none.
    private func followRedirect(spi: UInt64, remote: IPAddress, isLive: Bool) {
        if isLive {
            guard hasFixedPeers, !namedPeers.contains(remote) else { return }
            redirectedTo[spi] = remote
            publish(peers: [remote])
        } else if let remote = redirectedTo.removeValue(forKey: spi) {
            publish(peers: [remote])
        }
    }

    private func publishForNewPeer() { publish(peers: lifecycle.takeChangedRemotes()) }

    /// These may be peers now, or no more.
    private func publish(peers told: Set<IPAddress>) {
        // What a connection names is a peer all the time.
        let changed = told.subtracting(namedPeers)
        guard !changed.isEmpty else { return }
        // XDP knows them too.
        guard !hasFixedPeers else { return publishChangedPlans() }
        publisher.publish(peers: Dictionary(uniqueKeysWithValues: changed.map { ($0, lifecycle.hasRemote($0)) }))
    }

    /// Logs each sentence now and then.
    func complain(_ sentence: String) {
        if complaints.mayTell(sentence, now: now) { log(.error, sentence) }
    }

    var localAddresses: [IPAddress] {
        var seen: Set<IPAddress> = []
        return configuration.connections.flatMap(\.localAddresses).filter { seen.insert($0).inserted }
    }

    private func findLocalProblems() {
        knownPortProblems = ports.problems
        core.setLocalAddresses(LocalProblems.usableAddresses(surroundings.kernel.view), now: now)
        core.localNetworks = LocalProblems.protectedNetworks(configuration.interfaces, surroundings.kernel.view)
        let found = LocalProblems.find(
            configuration.connections, view: surroundings.kernel.view, interfaceProblems: ports.problems,
            underlay: ports.underlayNames)
        for (connection, problem) in found where localProblems[connection] != problem {
            log(.warning, problem, connection: connection)
            core.localPathBroken(connection: connection, reason: problem, now: now)
        }
        localProblems = found
    }

    // MARK: Time

    private func scheduleTick() {
        ticking?.cancel()
        guard !isStopping else { return }
        let pause = lifecycle.awaitsSwitch || core.hasReviews ? Self.hurriedTick : Self.tick
        ticking = loop.assumeIsolated().scheduleTask(in: pause) { [self] in
            tickNow()
            scheduleTick()
        }
    }

    /// A port that could not be attached, or was just detached, has its time to be tried again.
    private func scheduleRetry() {
        guard let due = ports.nextRetry, retry == nil, !isStopping else { return }
        retry = loop.assumeIsolated().scheduleTask(deadline: .uptimeNanoseconds(due.nanoseconds)) { [self] in
            retry = nil
            followAll()
        }
    }

    private func tickNow() {
        for spi in lifecycle.poll(now: now).sorted() { core.inboundTraffic(inboundSPI: spi, now: now) }
        for (spi, limit) in lifecycle.limitsReached() {
            if limit == .hard { lifecycle.spend(inboundSPI: spi, now: now) }
            core.childLimitReached(inboundSPI: spi, hard: limit == .hard, now: now)
        }
        for remote in pathMTUs.expire(now: now) {
            surroundings.dataplane.setPathMTU(remote: remote, mtu: PathMTUTable.unlimited)
        }
        neighbours.tick(now: now)
        if kernelPlansAreOwed { applyKernelPlans() }
        keepFilter()
        watchKernel()
        if ports.problems != knownPortProblems { findLocalProblems() }
        if evidence.isDue(now) { evidence.take(drops().drops, now: now) }
        if surroundings.kernel.mustReadAgain { kernelReadable() }
        tellExpiry()
        followRevocationLists()
        keepOwnStatuses()
        sockets.openMissing(present: surroundings.kernel.view.isLocal)
        pump()
    }

    /// Looks with every tick whether somebody took the packet filter away, and puts it back.
    private func keepFilter() {
        guard let wanted = applied.filter, !surroundings.kernel.isFilterInPlace() else { return }
        complain("The packet filter against protected packets in the clear was removed or changed (nft flush?); it is put back.")
        if let problem = surroundings.kernel.apply(wanted) { complain(problem) }
    }
}
