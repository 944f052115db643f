@testable import Gateway
import IKE
import IPsec
import Wire

/// What the network does to datagrams.
struct Weather: CustomStringConvertible {
    var loss = 0.0
    var duplication = 0.0
    var latency: Duration = .milliseconds(10)
    /// Each datagram takes the latency and up to this much more, so they overtake each other.
    var spread: Duration = .zero

    var description: String {
        "loss \(Int(loss * 100)) %, duplication \(Int(duplication * 100)) %, latency \(latency), spread \(spread)"
    }
}

struct Datagram {
    var bytes: [UInt8]
    var source: Endpoint
    var destination: Endpoint
}

/// An ESP packet: the SPI it carries, and what says whether the receiver could open it.
struct ESPPacket {
    var spi: UInt32
    var key: UInt64
    var source: Endpoint
    var destination: Endpoint
    var isEncapsulated: Bool
    var sender: Int
    var child: ChildKey
    /// Its loss is a fault: nothing in the schedule excuses it.
    var mustArrive: Bool
}

/// Gateways on a network in virtual time. Everything that happens is an item of one queue; all chance comes from one seed; after
/// each item the invariants are looked at. The first violation is kept.
final class World {
    enum Item {
        case datagram(Datagram)
        case packet(ESPPacket)
        case wake(Int)
        case tick(Int, life: Int)
        case plane(Int, life: Int, SimulatedPlane.Answer)
        /// Whatever the scenario has to do at that moment.
        case act(() -> Void)
    }

    /// Nanoseconds of the world's own clock; gateways have theirs.
    private(set) var now: UInt64 = 1_000_000_000_000
    let start: UInt64 = 1_000_000_000_000
    private var queue = EventQueue<Item>()
    var gateways: [SimulatedGateway] = []
    var natBoxes: [NATBox] = []
    var weather = Weather()
    /// Directions that carry nothing: indices of sending gateways.
    var cut: Set<Int> = []
    let dice: SeededRandom
    let usesToyCrypto: Bool
    private(set) var violation: String?
    private(set) var steps = 0
    private(set) var datagramsSent = 0
    private(set) var packetsSent = 0
    private(set) var packetsArrived = 0
    /// When responses get lost, an end that has to choose between pairs of which it knows nothing may choose wrong.
    var forgivesGuesses = false
    /// Takes datagrams off the wire before anything happens to them; false leaves one alone.
    var interceptor: ((Datagram, Int) -> Bool)?
    var eavesdropper: Eavesdropper?
    /// Hears datagrams to addresses that no gateway has.
    var outlet: ((Datagram) -> Void)?
    /// Called for each line of the trace; nil: nothing is written.
    var tracer: ((String) -> Void)?
    /// Looked at after every item, beside what `inspect` looks at always.
    var watch: (() -> String?)?
    /// A digest of everything that happened: equal for equal seeds.
    private(set) var history = Mixer()

    init(seed: UInt64, usesToyCrypto: Bool = true) {
        dice = SeededRandom(seed: seed &* 3 &+ 1)
        self.usesToyCrypto = usesToyCrypto
    }

    var secondsPassed: Double { Double(now - start) / 1e9 }

    func fail(_ text: @autoclosure () -> String) {
        guard violation == nil else { return }
        violation = "after \(World.seconds(now - start)) s: \(text())"
        trace("VIOLATION: \(violation ?? "")")
    }

    static func seconds(_ nanoseconds: UInt64) -> String {
        let milliseconds = nanoseconds / 1_000_000
        let fraction = String(milliseconds % 1000)
        return "\(milliseconds / 1000).\(String(repeating: "0", count: 3 - fraction.count))\(fraction)"
    }

    func trace(_ text: @autoclosure () -> String) {
        guard let tracer else { return }
        tracer("\(World.seconds(now - start)) \(text())")
    }

    func note(_ word: UInt64) { history.absorb(word) }

    // MARK: Time

    func schedule(_ item: Item, after delay: Duration = .zero) { schedule(item, at: now &+ delay.nanoseconds) }
    func schedule(_ item: Item, at: UInt64) { queue.push(item, at: max(at, now)) }

    /// Runs for a while, until the condition holds or an invariant breaks. Returns whether the condition held.
    @discardableResult
    func run(for duration: Duration, until condition: (() -> Bool)? = nil) -> Bool {
        let end = now &+ duration.nanoseconds
        if let condition, condition() { return true }
        while violation == nil, let next = queue.first, next <= end, let (at, item) = queue.pop() {
            now = at
            steps += 1
            perform(item)
            if let text = watch?() { fail(text) }
            if let condition, condition() { return true }
        }
        guard violation == nil else { return false }
        now = end
        return condition?() ?? true
    }

    private func perform(_ item: Item) {
        switch item {
        case .datagram(let datagram): deliver(datagram)
        case .packet(let packet): deliver(packet)
        case .wake(let index): gateways[index].wake()
        case .tick(let index, let life): gateways[index].tick(life: life)
        case .plane(let index, let life, let answer): gateways[index].hear(answer, life: life)
        case .act(let body): body()
        }
    }

    // MARK: The network

    func put(_ datagram: Datagram, from sender: Int?) {
        datagramsSent += 1
        trace("\(name(sender)) sends \(Trace.describe(datagram, self))")
        note(UInt64(datagram.bytes.count))
        if let sender, let interceptor, interceptor(datagram, sender) { return }
        guard let datagram = translated(datagram, from: sender) else { trace("  goes nowhere"); return }
        guard !isLost(from: sender) else { trace("  lost"); return }
        for delay in delays() { schedule(.datagram(datagram), after: delay) }
    }

    func put(_ packet: ESPPacket) {
        packetsSent += 1
        var packet = packet
        guard gateways[packet.sender].addresses.contains(packet.source.address), !isLost(from: packet.sender) else { return }
        if gateways[packet.sender].nat != nil {
            // Native ESP does not get through a port translation.
            guard packet.isEncapsulated, let outside = outside(of: packet.source, from: packet.sender) else { return }
            packet.source = outside
        }
        for delay in delays() { schedule(.packet(packet), after: delay) }
    }

    private func isLost(from sender: Int?) -> Bool {
        if let sender, cut.contains(sender) { return true }
        return weather.loss > 0 && dice.unit() < weather.loss
    }

    private func delays() -> [Duration] {
        func one() -> Duration {
            weather.spread == .zero ? weather.latency : weather.latency + weather.spread * Int(dice.unit() * 1024) / 1024
        }
        guard weather.duplication > 0, dice.unit() < weather.duplication else { return [one()] }
        return [one(), one()]
    }

    private func translated(_ datagram: Datagram, from sender: Int?) -> Datagram? {
        guard let sender else { return datagram }
        guard gateways[sender].addresses.contains(datagram.source.address) else { return nil }
        guard gateways[sender].nat != nil else { return datagram }
        guard let outside = outside(of: datagram.source, from: sender) else { return nil }
        var datagram = datagram
        datagram.source = outside
        return datagram
    }

    private func outside(of source: Endpoint, from sender: Int) -> Endpoint? {
        gateways[sender].nat?.outside(of: source)
    }

    /// Where a datagram comes out: behind the NAT, when its port is mapped.
    private func receiver(of destination: Endpoint) -> (gateway: SimulatedGateway, endpoint: Endpoint)? {
        var destination = destination
        if let box = gateways.compactMap(\.nat).first(where: { $0.address == destination.address }) {
            guard let inside = box.inside(of: destination) else { return nil }
            destination = inside
        }
        guard let gateway = gateways.first(where: { $0.addresses.contains(destination.address) }), gateway.isRunning else {
            return nil
        }
        return (gateway, destination)
    }

    func deliverNow(_ datagram: Datagram) { deliver(datagram) }

    private func deliver(_ datagram: Datagram) {
        guard let (gateway, endpoint) = receiver(of: datagram.destination) else { outlet?(datagram); return }
        eavesdropper?.hear(datagram)
        trace("\(gateway.name) gets \(Trace.describe(datagram, self))")
        gateway.receive(datagram.bytes, path: Path(local: endpoint, remote: datagram.source))
    }

    private func deliver(_ packet: ESPPacket) {
        guard let (gateway, _) = receiver(of: packet.destination) else {
            if packet.mustArrive { fail("an ESP packet of \(packet.child) went nowhere") }
            return
        }
        if gateway.receive(packet) {
            packetsArrived += 1
        } else if packet.mustArrive {
            fail("\(gateway.name) has no SA \(hex(packet.spi)) for an ESP packet of \(packet.child)")
        } else {
            trace("\(gateway.name) drops ESP with SPI \(hex(packet.spi))")
        }
    }

    func name(_ index: Int?) -> String { index.map { gateways[$0].name } ?? "somebody" }
}

/// A source NAT with port translation in front of one gateway.
final class NATBox {
    var address: IPAddress
    private var mappings: [Endpoint: UInt16] = [:]
    private var nextPort: UInt16 = 40_001

    init(_ address: IPAddress) { self.address = address }

    func outside(of inside: Endpoint) -> Endpoint {
        if let port = mappings[inside] { return Endpoint(address, port) }
        defer { nextPort &+= 1 }
        mappings[inside] = nextPort
        return Endpoint(address, nextPort)
    }

    func inside(of outside: Endpoint) -> Endpoint? { mappings.first { $0.value == outside.port }?.key }

    /// It rebooted: every mapping is another from here on.
    func forget() { mappings = [:] }
}

func hex(_ value: some BinaryInteger) -> String { String(value, radix: 16) }

extension Duration {
    /// Rounded down, never below zero.
    var nanoseconds: UInt64 {
        UInt64(clamping: components.seconds) &* 1_000_000_000 &+ UInt64(clamping: components.attoseconds / 1_000_000_000)
    }
}
