@testable import Gateway
import IKE
import IPsec
import Wire

/// Plays one scenario to its end.
final class Run {
    /// How long the pair may take to come to rest when the mishaps are over.
    static let recovery: Duration = .seconds(400)
    static let aftermath: Duration = .seconds(30)
    /// Datagrams per gateway and second, on average: more is a storm of retries.
    static let mostDatagramsPerSecond = 20.0

    let scenario: Scenario
    let world: World
    let east: SimulatedGateway
    let west: SimulatedGateway
    /// Children that have worked once: in a gentle scenario they never stop.
    private var hasWorked: Set<Int> = []
    /// Attempts that came to nothing before: the other end may not have been there yet.
    private var earlyDowns = (east: 0, west: 0)
    private var isOver = false

    init(_ scenario: Scenario, tracer: ((String) -> Void)? = nil) {
        self.scenario = scenario
        world = World(seed: scenario.seed, usesToyCrypto: scenario.usesToyCrypto)
        world.tracer = tracer
        world.weather = scenario.weather
        world.eavesdropper = Eavesdropper(world, seed: scenario.seed &* 5 &+ 3, replaysFromElsewhere: scenario.profile == .gentle)
        world.forgivesGuesses = scenario.profile != .gentle
        east = SimulatedGateway("east", ["192.0.2.1"], seed: scenario.seed &* 2 &+ 11, world: world, settings: scenario.settings)
        west = SimulatedGateway("west", ["192.0.2.2"], seed: scenario.seed &* 2 &+ 12, world: world, settings: scenario.settings)
        if scenario.isBehindNAT { east.nat = IPAddress("203.0.113.7").map(NATBox.init) }
        world.watch = { [unowned self] in fault }
    }

    /// The first violation, or what did not come to rest; nil when all is well.
    func play() throws -> String? {
        let plans = try [0, 1].map { try plan($0) }
        west.configure([plans[1]])
        world.schedule(.act { [self] in east.configure([plans[0]]) }, after: .milliseconds(Int64(world.dice.unit() * 2000)))
        for mishap in scenario.mishaps { world.schedule(.act { [self] in happen(mishap.what) }, after: mishap.at) }
        schedulePacket()
        world.run(for: scenario.length)
        if let violation = world.violation { return violation }
        makePeace()
        // What the mishaps set in motion plays out first.
        world.run(for: Self.aftermath)
        guard world.run(for: Self.recovery, until: { self.world.quietFault == nil }) else {
            return world.violation ?? "not at rest \(Self.recovery) after the last mishap: \(world.quietFault ?? "")"
        }
        let seconds = world.secondsPassed
        for gateway in world.gateways where Double(gateway.datagramsSent) > seconds * Self.mostDatagramsPerSecond {
            return "\(gateway.name) sent \(gateway.datagramsSent) datagrams in \(Int(seconds)) s"
        }
        return checkService()
    }

    /// Quiet, and with nothing wrong any more: every packet arrives for a while.
    private func checkService() -> String? {
        for index in east.children.indices { hasWorked.insert(index) }
        isStrict = true
        world.run(for: .seconds(15))
        guard world.violation == nil else { return world.violation }
        guard world.run(for: .seconds(60), until: { self.world.quietFault == nil }) else {
            return world.violation ?? "did not stay at rest: \(world.quietFault ?? "")"
        }
        return nil
    }

    private lazy var isStrict = scenario.profile == .gentle

    // MARK: Configuration

    private func plan(_ index: Int, lifetimeFactor: Int = 1) throws -> ConnectionPlan {
        let (side, names) = (scenario.sides[index], ["east", "west"])
        let (here, there) = (index == 0 ? east : west, index == 0 ? west : east)
        let remote = there.nat?.address ?? there.home
        var plan = ConnectionPlan(
            name: "c", localAddress: here.home,
            remoteAddress: side.acceptsAnyAddress ? nil : remote, localIdentity: .fqdn("\(names[index]).example"),
            remoteIdentity: .fqdn("\(names[1 - index]).example"),
            presharedKey: here.crypto.secret(Array("a pre-shared key of some length".utf8)),
            proposals: try side.ike.map { try IKEProposal(keywords: $0) }, lifetime: side.ikeLifetime * lifetimeFactor,
            dpdInterval: side.dpd, natTraversal: side.nat,
            children: try (0..<scenario.children).map { number in
                ChildPlan(
                    name: "net\(number)", localSelectors: [Self.selector(site: index, number)],
                    remoteSelectors: [Self.selector(site: 1 - index, number)],
                    proposals: try side.esp.map { try ESPProposal(keywords: $0) }, lifetime: side.lifetime * lifetimeFactor,
                    start: side.start)
            })
        (plan.reauthTime, plan.dpdAction, plan.childless) = (side.reauthentication, side.deadPeer, side.childless)
        plan.paths.mobike = side.mobike
        if side.mobike {
            plan.paths.otherLocalAddresses = [Self.otherAddress(index)]
            plan.paths.otherRemoteAddresses = [Self.otherAddress(1 - index)]
        }
        authenticate(&plan, index, here)
        plan.paths.fragmentation = side.fragmentBytes != nil
        plan.paths.fragmentDatagramBytes = side.fragmentBytes ?? plan.paths.fragmentDatagramBytes
        return plan
    }

    /// Unless it is the pre-shared key.
    private func authenticate(_ plan: inout ConnectionPlan, _ index: Int, _ here: SimulatedGateway) {
        let names = ["east.example", "west.example"]
        switch scenario.authentication {
        case .presharedKey: return
        case .certificates, .eap:
            plan.localAuthentication = .signature(ToyTrust.identity(names[index]))
            plan.remoteAuthentication = .certificate(ToyTrust(asksResponder: scenario.asksResponder))
        }
        guard scenario.authentication == .eap else { return }
        let key = here.crypto.secret([UInt8](repeating: 5, count: 64))
        if index == 0 {
            plan.localAuthentication = .eap(ToyEAP.plan(key))
        } else {
            plan.remoteAuthentication = .eap(ToyEAP.server(key, asksIdentity: scenario.asksResponder, name: names[0]))
        }
    }

    private static func otherAddress(_ index: Int) -> IPAddress { IPAddress("198.51.100.\(index + 1)")! }

    private static func selector(site: Int, _ number: Int) -> TrafficSelector {
        TrafficSelector(IPPrefix("10.\(site + 1).\(number).0/24")!)
    }

    // MARK: Traffic

    private func schedulePacket() {
        let mean = scenario.packetInterval / (2 * max(1, scenario.children))
        world.schedule(.act { [self] in sendPacket() }, after: mean * Int(world.dice.unit() * 2048) / 1024)
    }

    private func sendPacket() {
        schedulePacket()
        let gateway = world.dice.unit() < 0.5 ? east : west
        let number = Int(world.dice.unit() * Double(scenario.children))
        guard gateway.children.indices.contains(number) else { return }
        let mustArrive = isStrict && hasWorked.contains(number)
        if !gateway.sendPacket(child: number, mustArrive: mustArrive), mustArrive {
            world.fail("\(gateway.name) has nothing to send a packet of child \(number) on")
        }
    }

    /// After every event: a child that has worked goes on working in a gentle scenario.
    private var fault: String? {
        guard isStrict else { return nil }
        for number in east.children.indices {
            if world.works(child: number, between: east, west) {
                if hasWorked.isEmpty { earlyDowns = (east.downs.count, west.downs.count) }
                hasWorked.insert(number)
            } else if hasWorked.contains(number) {
                return "child \(number) is interrupted"
            }
        }
        let downs = east.downs.dropFirst(earlyDowns.east) + west.downs.dropFirst(earlyDowns.west)
        if !hasWorked.isEmpty, let down = downs.first, scenario.profile == .gentle {
            return "a connection went down: \(down)"
        }
        return nil
    }

    // MARK: Mishaps

    private func makePeace() {
        world.trace("peace")
        isOver = true
        var weather = world.weather
        (weather.loss, weather.duplication) = (0, 0)
        weather.latency = min(weather.latency, .milliseconds(50))
        weather.spread = min(weather.spread, .milliseconds(100))
        world.weather = weather
        world.cut = []
        for gateway in world.gateways {
            gateway.refusesInstallations = false
            gateway.installationDelay = .milliseconds(1)
            if !gateway.isRunning { gateway.resume(stalled: .zero) }
        }
        raise()
    }

    /// The operator wants the tunnel and looks after it: what is configured to wait is asked for again.
    private func raise() {
        if world.quietFault != nil { east.command("up") { _ = $0.initiate(connection: "c", child: nil, now: east.now) } }
        world.schedule(.act { [self] in raise() }, after: .seconds(40))
    }

    private func happen(_ mishap: Mishap) {
        world.trace("\(mishap)")
        switch mishap {
        case .weather(let weather): world.weather = weather
        case .cut(let index, let duration): cut([index], duration)
        case .cutBoth(let duration): cut([0, 1], duration)
        case .rebind: east.nat?.forget()
        case .move(let index):
            let gateway = world.gateways[index]
            gateway.move(to: [gateway.addresses.contains(gateway.home) ? Self.otherAddress(index) : gateway.home])
        case .rekeyBoth(let ike):
            for gateway in [east, west] { rekey(gateway, child: nil, ike: ike) }
        case .restart(let index, let after):
            world.gateways[index].halt()
            later(after) { $0.world.gateways[index].restart() }
        case .pause(let index, let duration):
            world.gateways[index].halt()
            later(duration) { $0.resume(index, stalled: .zero) }
        case .suspend(let index, let duration):
            world.gateways[index].halt()
            later(duration) { $0.resume(index, stalled: duration) }
        case .meddling: world.eavesdropper?.meddle()
        case .leap(let index, let duration): world.gateways[index].leap(duration)
        default: command(mishap)
        }
    }

    private func command(_ mishap: Mishap) {
        switch mishap {
        case .up(let index, let child):
            world.gateways[index].command("up") {
                _ = $0.initiate(connection: "c", child: child, now: world.gateways[index].now)
            }
        case .down(let index, let child):
            world.gateways[index].command("down") {
                _ = $0.deleteAsPeer(connection: "c", child: child, now: world.gateways[index].now)
            }
        case .rekeyChild(let index, let child): rekey(world.gateways[index], child: child, ike: false)
        case .rekeyIKE(let index): rekey(world.gateways[index], child: nil, ike: true)
        case .reauthenticate(let index):
            let gateway = world.gateways[index]
            gateway.command("reauthenticate") { _ = $0.authenticateAnew(connection: "c", now: gateway.now) }
        case .softLimit(let index): world.gateways[index].reachLimit(hard: false)
        case .hardLimit(let index): world.gateways[index].reachLimit(hard: true)
        case .reload(let index):
            let factor = world.dice.unit() < 0.5 ? 1 : 2
            if world.gateways[index].isRunning, let plan = try? plan(index, lifetimeFactor: factor) {
                world.gateways[index].reload([plan])
            }
        case .pathBroken(let index):
            let gateway = world.gateways[index]
            gateway.command("path broken") { $0.localPathBroken(connection: "c", reason: "so they say", now: gateway.now) }
        case .installationDelay(let index, let delay): world.gateways[index].installationDelay = delay
        case .refuseInstallations(let index, let duration):
            world.gateways[index].refusesInstallations = true
            later(duration) { $0.world.gateways[index].refusesInstallations = false }
        default: break
        }
    }

    private func later(_ delay: Duration, _ body: @escaping (Run) -> Void) {
        world.schedule(.act { [self] in if !isOver { body(self) } }, after: delay)
    }

    private func resume(_ index: Int, stalled: Duration) {
        if !world.gateways[index].isRunning { world.gateways[index].resume(stalled: stalled) }
    }

    private func cut(_ indices: [Int], _ duration: Duration) {
        world.cut.formUnion(indices)
        later(duration) { $0.world.cut.subtract(indices) }
    }

    private func rekey(_ gateway: SimulatedGateway, child: String?, ike: Bool) {
        gateway.command("rekey") { _ = $0.rekey(connection: "c", child: child, ike: ike, now: gateway.now) }
    }
}
