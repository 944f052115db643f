import IKE
import IPsec
import Wire

/// A wire with a virtual clock: latency, loss, duplication, reordering, NAT boxes, all from one seed.
final class Network {
    struct Faults {
        var loss = 0.0
        var duplication = 0.0
        /// Each datagram takes the latency and up to this much more.
        var spread: Duration = .zero
        static let none = Faults()
        static let hostile = Faults(loss: 0.2, duplication: 0.15, spread: .milliseconds(400))
    }

    private struct InFlight {
        var arrives: Instant
        var order: Int
        var bytes: [UInt8]
        var source: Endpoint
        var destination: Endpoint
    }

    /// A source NAT: everything from `inside` leaves as `outside` with a port of its own.
    final class NATBox {
        let inside: IPAddress
        let outside: IPAddress
        var mappings: [Endpoint: UInt16] = [:]
        var nextPort: UInt16 = 40_001
        init(inside: String, outside: String) { (self.inside, self.outside) = (IPAddress(inside)!, IPAddress(outside)!) }
    }

    var now = Instant(nanoseconds: 1_000_000_000)
    var latency: Duration = .milliseconds(10)
    var faults = Faults.none
    var nodes: [Node] = []
    var natBoxes: [NATBox] = []
    /// Every datagram put on the wire, for tests that look at or repeat them.
    var history: [(bytes: [UInt8], source: Endpoint, destination: Endpoint)] = []
    var keepsHistory = true
    /// Returns false to drop a datagram.
    var filter: ((_ bytes: [UInt8], _ source: Endpoint, _ destination: Endpoint) -> Bool)?
    /// Datagrams that must not be fragmented are lost when they are longer, 28 octets of IP and UDP header included.
    var wholeLimit: Int?
    private var inFlight: [InFlight] = []
    private var counter = 0
    private let random: SeededRandom

    init(seed: UInt64 = 1) { random = SeededRandom(seed: seed &+ 99) }

    // MARK: Time

    /// Runs until nothing happens before `end`, or until the condition holds. Returns whether it held.
    @discardableResult
    func run(for duration: Duration, until condition: (() -> Bool)? = nil) -> Bool {
        let end = now + duration
        collect()
        while true {
            if let condition, condition() { return true }
            guard let next = nextMoment, next <= end else { break }
            now = max(now, next)
            deliver()
            for node in nodes where node.isAlive {
                if let deadline = node.core.pollTimeout(), deadline <= now { node.core.handleTimeout(now: now) }
            }
            collect()
        }
        now = end
        return condition?() ?? true
    }

    private var nextMoment: Instant? {
        (inFlight.map(\.arrives) + nodes.filter(\.isAlive).compactMap { $0.core.pollTimeout() }).min()
    }

    /// Takes transmits and events off all cores until none has any.
    func collect() {
        var busy = true
        while busy {
            busy = false
            for node in nodes where node.isAlive {
                node.takeEvents(now: now)
                while let transmit = node.core.pollTransmit() {
                    busy = true
                    guard node.addresses.contains(transmit.path.local.address) else { continue }
                    if let wholeLimit, transmit.isWhole, transmit.bytes.count + 28 > wholeLimit { continue }
                    put(transmit.bytes, from: transmit.path.local, to: transmit.path.remote)
                }
            }
        }
    }

    // MARK: The wire

    func put(_ bytes: [UInt8], from source: Endpoint, to destination: Endpoint) {
        if keepsHistory { history.append((bytes, source, destination)) }
        if let filter, !filter(bytes, source, destination) { return }
        if random.unit() < faults.loss { return }
        let copies = random.unit() < faults.duplication ? 2 : 1
        for _ in 0..<copies {
            counter += 1
            let extra = faults.spread * Int(random.unit() * 1000) / 1000
            inFlight.append(
                InFlight(arrives: now + latency + extra, order: counter, bytes: bytes, source: source, destination: destination))
        }
    }

    private func deliver() {
        let due = inFlight.filter { $0.arrives <= now }.sorted { ($0.arrives, $0.order) < ($1.arrives, $1.order) }
        inFlight.removeAll { $0.arrives <= now }
        for datagram in due {
            var (source, destination) = (datagram.source, datagram.destination)
            if let box = natBoxes.first(where: { $0.inside == source.address }) {
                let port = box.mappings[source] ?? box.nextPort
                if box.mappings[source] == nil { box.mappings[source] = port; box.nextPort += 1 }
                source = Endpoint(box.outside, port)
            }
            if let box = natBoxes.first(where: { $0.outside == destination.address }) {
                guard let inside = box.mappings.first(where: { $0.value == destination.port })?.key else { continue }
                destination = inside
            }
            guard let node = nodes.first(where: { $0.addresses.contains(destination.address) }), node.isAlive else { continue }
            node.core.handleDatagram(datagram.bytes, path: Path(local: destination, remote: source), now: now)
        }
    }
}
