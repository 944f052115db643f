import Crypto
@testable import Gateway
import IKE
import IPsec
import Wire

/// One gateway: the IKE core and the SA lifecycle as they run in production, on a simulated data plane, with a clock of its own.
/// What `ControlThread` does between them is done here in the same order.
final class SimulatedGateway {
    /// A pair of ESP SAs that was once installed here, for good.
    struct PastPair {
        var child: ChildKey
        var outboundSPI: UInt32
        var inboundKey: UInt64
        var outboundKey: UInt64
        var transform: ESPTransform
        var local: [TrafficSelector]
        var remote: [TrafficSelector]
        var isReady = false
    }

    static let tick: Duration = .milliseconds(500)
    static let hurriedTick: Duration = .milliseconds(50)
    /// What an OCSP responder takes for its answer.
    static let responderTime: Duration = .milliseconds(700)
    /// Deadlines served at one moment: more is a deadline that stays in the past.
    static let servingsAtOnce = 32

    unowned let world: World
    let index: Int
    let name: String
    /// The addresses that it has at this moment; `home` is the one it began with.
    private(set) var addresses: Set<IPAddress>
    let home: IPAddress
    var nat: NATBox?
    let settings: CoreSettings
    let crypto: WatchedCrypto
    private let random: SeededRandom
    private(set) var core: IKECore
    private(set) var plane: SimulatedPlane!
    private(set) var lifecycle: SALifecycle!
    /// What is configured, in order; children have their position in it as number.
    private(set) var plans: [ConnectionPlan] = []
    private(set) var children: [ChildKey] = []
    private var peerNumbers: [ChildKey: Int] = [:]
    private static let firstPeerNumber = 1000

    /// False: the machine is off or suspended; nothing is sent, received or timed.
    private(set) var isRunning = true
    /// Counts starts of the process: what belongs to an earlier one is void.
    private(set) var life = 0
    /// The gateway's clock minus the world's, in nanoseconds.
    private var clockOffset: Int64
    private var pendingWake: UInt64?
    private var servings: (at: UInt64, count: Int) = (0, 0)

    /// More IKE SAs than two gateways and one connection can give reason for.
    var mostSAs = 24
    /// Tables are looked at after every so many events.
    var inspectionInterval = 1
    var inspections = 0

    var refusesInstallations = false
    var installationDelay: Duration = .milliseconds(1)

    /// Every pair ever installed here, by inbound SPI, whatever restart came after.
    private(set) var past: [UInt32: PastPair] = [:]
    private var outboundKeys: Set<UInt64> = []
    /// What the core has had installed and not removed.
    private(set) var known: Set<UInt32> = []
    private(set) var downs: [String] = []
    private(set) var ups = 0
    private(set) var datagramsSent = 0

    init(_ name: String, _ addresses: [String], seed: UInt64, world: World, settings: CoreSettings = CoreSettings()) {
        (self.name, self.world, self.settings, index) = (name, world, settings, world.gateways.count)
        self.addresses = Set(addresses.compactMap { IPAddress($0) })
        home = IPAddress(addresses[0])!
        random = SeededRandom(seed: seed)
        crypto = WatchedCrypto(world.usesToyCrypto ? ToyCrypto(seed: seed ^ 0xC0FFEE) : OpenSSLCrypto())
        // Clocks have nothing to do with each other.
        clockOffset = Int64(clamping: 3_000_000_000 &* (Int64(world.gateways.count) &+ 1))
        core = IKECore(settings: settings, crypto: crypto, random: random)
        plane = SimulatedPlane(self)
        lifecycle = SALifecycle(dataplane: plane)
        core.setLocalAddresses(self.addresses, now: now)
        world.gateways.append(self)
        world.schedule(.tick(index, life: life), after: Self.tick)
    }

    /// The time on this gateway's clock.
    var now: Instant { Instant(nanoseconds: UInt64(clamping: Int64(clamping: world.now) &+ clockOffset)) }

    // MARK: The operator

    func configure(_ plans: [ConnectionPlan]) {
        self.plans = plans
        children = plans.flatMap { plan in plan.children.map { ChildKey(plan.name, $0.name) } }
        for plan in plans { core.addConnection(plan, now: now) }
        settle()
    }

    /// As `culvert reload` does with a file in which the connection changed.
    func reload(_ plans: [ConnectionPlan]) {
        for plan in self.plans { core.removeConnection(plan.name, now: now) }
        pump()
        configure(plans)
    }

    /// Anything that is asked of the core from outside, with what follows from it.
    func command(_ text: @autoclosure () -> String, _ body: (IKECore) -> Void) {
        guard isRunning else { return }
        world.trace("\(name): \(text())")
        body(core)
        settle()
    }

    // MARK: Power and clock

    /// The process dies and starts again without memory; the data plane's SAs die with it.
    func restart() {
        life += 1
        core = IKECore(settings: settings, crypto: crypto, random: random)
        plane = SimulatedPlane(self)
        lifecycle = SALifecycle(dataplane: plane)
        (known, pendingWake, isRunning) = ([], nil, true)
        core.setLocalAddresses(addresses, now: now)
        world.schedule(.tick(index, life: life), after: Self.tick)
        configure(plans)
    }

    func halt() { isRunning = false }

    /// - Parameter stalled: how much of the time away this gateway's clock has not seen.
    func resume(stalled: Duration) {
        clockOffset &-= Int64(clamping: stalled.nanoseconds)
        isRunning = true
        pendingWake = nil
        core.setLocalAddresses(addresses, now: now)
        settle()
    }

    /// Its addresses are others now.
    func move(to addresses: [IPAddress]) {
        self.addresses = Set(addresses)
        guard isRunning else { return }
        core.setLocalAddresses(self.addresses, now: now)
        settle()
    }

    /// The clock leaps ahead.
    func leap(_ duration: Duration) {
        clockOffset &+= Int64(clamping: duration.nanoseconds)
        pendingWake = nil
        settle()
    }

    // MARK: What happens to it

    func receive(_ bytes: [UInt8], path: Path) {
        core.handleDatagram(bytes, path: path, now: now)
        settle()
    }

    /// Whether the packet could be opened.
    func receive(_ packet: ESPPacket) -> Bool {
        guard let entry = plane.open(packet) else { return false }
        let path = entry.sa.path
        if packet.isEncapsulated, path.isUDPEncapsulated, packet.source != Endpoint(path.remote, path.remotePort) {
            core.pathObserved(inboundSPI: packet.spi, remote: packet.source, now: now)
            settle()
        }
        return true
    }

    func wake() {
        guard isRunning, let pending = pendingWake, pending <= world.now else { return }
        pendingWake = nil
        guard let deadline = core.pollTimeout() else { return }
        if deadline <= now {
            servings = servings.at == world.now ? (world.now, servings.count + 1) : (world.now, 1)
            if servings.count > Self.servingsAtOnce { world.fail("\(name) has a deadline that stays in the past: \(overdue)") }
            core.handleTimeout(now: now)
        }
        settle()
    }

    func tick(life: Int) {
        guard life == self.life else { return }
        if isRunning {
            let alive = lifecycle.poll(now: now).sorted()
            for spi in alive { core.inboundTraffic(inboundSPI: spi, now: now) }
            // Without traffic the core has not been asked anything, and its tables are what they were.
            if alive.isEmpty { checkSwitches() } else { settle() }
        }
        world.schedule(.tick(index, life: life), after: lifecycle.awaitsSwitch ? Self.hurriedTick : Self.tick)
    }

    func answerLater(_ answer: SimulatedPlane.Answer, after delay: Duration) {
        world.schedule(.plane(index, life: life, answer), after: delay)
    }

    func hear(_ answer: SimulatedPlane.Answer, life: Int) {
        guard life == self.life else { return }
        guard isRunning else { answerLater(answer, after: .milliseconds(100)); return }
        switch answer {
        case .ready(let token, let spi):
            guard plane.entries[spi] != nil else { return }
            plane.becomeReady(spi)
            past[spi]?.isReady = true
            guard let spi = lifecycle.inboundReady(token: token, now: now) else { return }
            core.childInstalled(token: token, now: now)
            lifecycle.use(inboundSPI: spi, peerReceives: core.peerReceives(inboundSPI: spi))
        case .retired(let spi): lifecycle.retired(inboundSPI: spi, final: .init())
        }
        settle()
    }

    /// A packet from inside wants to go through a child. False: it cannot.
    @discardableResult
    func sendPacket(child number: Int, mustArrive: Bool) -> Bool {
        guard isRunning else { return true }
        let key = children[number]
        guard let entry = departing(child: number) else {
            core.trafficWantsTunnel(connection: key.connection, child: key.child, now: now)
            settle()
            return false
        }
        plane.countSent(entry.sa.inboundSPI)
        let path = entry.sa.path
        world.put(
            ESPPacket(
                spi: entry.sa.outboundSPI, key: entry.outboundKey, source: Endpoint(path.local, path.localPort),
                destination: Endpoint(path.remote, path.remotePort), isEncapsulated: path.isUDPEncapsulated, sender: index,
                child: key, mustArrive: mustArrive))
        return true
    }

    /// The pair that a configured child's next packet leaves on: by the peers' rules, which come first, or by the child's own.
    func departing(child number: Int) -> SimulatedPlane.Entry? {
        guard children.indices.contains(number) else { return nil }
        let rule = lifecycle.peerRules.first { rule in
            peerNumbers.contains { $0.value == rule.childIndex && $0.key.configured == children[number] }
        }
        return plane.departing(childIndex: rule?.childIndex ?? number)
    }

    /// The number by which the data plane knows a child: its position in the configuration, or one for each peer of a connection
    /// that takes several.
    private func number(of key: ChildKey) -> Int? {
        guard key.instance != 0 else { return children.firstIndex(of: key) }
        if let known = peerNumbers[key] { return known }
        peerNumbers[key] = Self.firstPeerNumber + peerNumbers.count
        return peerNumbers[key]
    }

    // MARK: What ControlThread does

    /// Brings everything to rest, sets the timer, and looks at the invariants.
    func settle() {
        pump()
        arm()
        checkSwitches()
        inspect()
    }

    private func pump() {
        while true {
            if let event = core.pollEvent() {
                handle(event)
            } else if let transmit = core.pollTransmit() {
                datagramsSent += 1
                world.put(
                    Datagram(bytes: transmit.bytes, source: transmit.path.local, destination: transmit.path.remote), from: index)
            } else {
                return
            }
        }
    }

    private func arm() {
        guard let deadline = core.pollTimeout() else { return }
        let due = UInt64(clamping: max(Int64(clamping: deadline.nanoseconds) &- clockOffset, Int64(clamping: world.now)))
        if let pendingWake, pendingWake <= due { return }
        pendingWake = due
        world.schedule(.wake(index), at: due)
    }

    private func handle(_ event: Event) {
        switch event {
        case .installChild(let sa, let token):
            world.trace("\(name) installs \(sa.child) in \(hex(sa.inboundSPI)) out \(hex(sa.outboundSPI))")
            if !known.insert(sa.inboundSPI).inserted { world.fail("\(name) is told to install \(hex(sa.inboundSPI)) twice") }
            let key = ChildKey(sa.connection, sa.child, instance: sa.instance)
            guard let problem = lifecycle.install(sa, childIndex: number(of: key), token: token) else { return }
            core.childInstallFailed(token: token, reason: problem, now: now)
        case .removeChild(_, let child, let inboundSPI, _):
            world.trace("\(name) removes \(child) in \(hex(inboundSPI))")
            if known.remove(inboundSPI) == nil { world.fail("\(name) is told to remove \(hex(inboundSPI)), which it has not") }
            lifecycle.remove(inboundSPI: inboundSPI, now: now)
        case .useChild(let inboundSPI):
            world.trace("\(name) knows that the peer receives on the pair of \(hex(inboundSPI))")
            lifecycle.use(inboundSPI: inboundSPI, peerReceives: true)
        case .movePath(_, let inboundSPIs, let path):
            world.trace("\(name) moves to \(path)")
            lifecycle.move(inboundSPIs: inboundSPIs, path: path)
        case .checkRevocation(_, let token):
            let life = life
            world.schedule(.act { [unowned self] in self.answerRevocation(token, life: life) }, after: Self.responderTime)
        case .judgeCertificates(let works, let token):
            for work in works { work.run() }
            core.certificatesJudged(token: token, now: now)
        case .connectionEstablished: ups += 1
        case .connectionDown(_, let reason): downs.append(reason)
        case .log(_, _, let text): world.trace("\(name) says: \(text)")
        default: break
        }
    }

    private func answerRevocation(_ token: UInt64, life: Int) {
        guard life == self.life, isRunning else { return }
        core.revocationAnswered(token: token, response: ToyTrust.good, now: now)
        settle()
    }

    /// A limit on what a pair may carry: at a hard one it is not used any more.
    func reachLimit(hard: Bool) {
        guard let spi = lifecycle.active.min(by: { $0.key < $1.key })?.value else { return }
        command(hard ? "hard limit" : "soft limit") {
            if hard { lifecycle.spend(inboundSPI: spi, now: now) }
            $0.childLimitReached(inboundSPI: spi, hard: hard, now: now)
        }
        if hard, isRunning, lifecycle.active.values.contains(spi) { world.fail("\(name) sends beyond a hard limit") }
    }

    // MARK: What is remembered

    /// Keys, transform and selectors are what the peer has on the same pair, and no key comes twice.
    func noteInstallation(_ entry: SimulatedPlane.Entry) {
        let sa = entry.sa
        world.note(UInt64(sa.inboundSPI))
        past[sa.inboundSPI] = PastPair(
            child: ChildKey(sa.connection, sa.child), outboundSPI: sa.outboundSPI, inboundKey: entry.inboundKey,
            outboundKey: entry.outboundKey, transform: sa.transform, local: sa.localSelectors, remote: sa.remoteSelectors)
        // Two counters on one AES-GCM key would repeat a nonce.
        if !outboundKeys.insert(entry.outboundKey).inserted { world.fail("\(name) has one ESP key for two SAs") }
        if entry.inboundKey == entry.outboundKey { world.fail("\(name) has one ESP key for both directions") }
        for other in world.gateways where other !== self {
            guard let theirs = other.past[sa.outboundSPI], theirs.outboundSPI == sa.inboundSPI else { continue }
            if theirs.inboundKey != entry.outboundKey || theirs.outboundKey != entry.inboundKey {
                world.fail("the keys of pair \(hex(sa.inboundSPI)) differ between \(name) and \(other.name)")
            }
            if theirs.transform != sa.transform || theirs.local != sa.remoteSelectors || theirs.remote != sa.localSelectors {
                world.fail("transform or selectors of pair \(hex(sa.inboundSPI)) differ between \(name) and \(other.name)")
            }
        }
    }

    /// "switch the outbound only when the peer is known to have its inbound ready": nobody sends on a pair that the other end has
    /// not in place while there is another that it has.
    private func checkSwitches() {
        let switched = plane.takeSwitched()
        for spi in switched where plane.outbound.values.contains(spi) {
            if let entry = plane.entries[spi] { checkSwitch(to: entry) }
        }
    }

    private func checkSwitch(to entry: SimulatedPlane.Entry) {
        for other in plane.entries.values where other.childIndex == entry.childIndex && other.isReady {
            let spi = other.sa.inboundSPI
            guard spi != entry.sa.inboundSPI, known.contains(spi), !world.forgivesGuesses || isKnownToArrive(spi),
                let peer = peer(of: other.sa), peer.isReceiving(other),
                peer.known.contains(other.sa.outboundSPI), !peer.hasReceived(entry)
            else { continue }
            world.fail(
                "\(name) sends on \(hex(entry.sa.outboundSPI)), which \(peer.name) has not in place, while it has "
                    + hex(other.sa.outboundSPI))
        }
    }

    /// Whether this end has a reason to think that packets on the pair arrive.
    private func isKnownToArrive(_ spi: UInt32) -> Bool {
        lifecycle.pairs[spi]?.peerReceives == true || plane.entries[spi].map { $0.counters.packetsIn > 0 } ?? false
    }

    /// The gateway that made the other half of the pair.
    func peer(of sa: ChildSA) -> SimulatedGateway? {
        world.gateways.first { $0 !== self && $0.past[sa.outboundSPI]?.outboundSPI == sa.inboundSPI }
    }

    /// Whether the peer's outbound packets of this pair of the peer's would be opened here at this moment.
    func isReceiving(_ theirs: SimulatedPlane.Entry) -> Bool {
        guard isRunning, let entry = plane.entries[theirs.sa.outboundSPI] else { return false }
        return entry.isReady && entry.inboundKey == theirs.outboundKey
    }

    /// Whether they would be, or would have been before something ended the pair.
    func hasReceived(_ theirs: SimulatedPlane.Entry) -> Bool { past[theirs.sa.outboundSPI]?.isReady == true }
}
