@testable import IKE
import IPsec
import Wire

/// Two gateways whose messages are delivered in every order that a network can make of them.
///
/// Messages wait on the wire until the order under test picks one; no time passes meanwhile. Cores cannot be copied, so each
/// order is a run of its own from the start: `Orders` counts through the choices as an odometer does.
final class Choreography {
    /// Messages on the wire at once, and deliveries in one run: beyond lies an exchange that does not end.
    static let mostWaiting = 12
    static let mostDeliveries = 60

    let world: World
    let east: SimulatedGateway
    let west: SimulatedGateway
    private var waiting: [(datagram: Datagram, sender: Int)] = []
    private(set) var deliveries = 0

    /// - Parameter children: how many children the connection has.
    init(seed: UInt64, children: Int = 1, lifetime: Duration = .seconds(3600), tracer: ((String) -> Void)? = nil) throws {
        world = World(seed: seed)
        world.tracer = tracer
        east = SimulatedGateway("east", ["192.0.2.1"], seed: seed &* 2 &+ 101, world: world)
        west = SimulatedGateway("west", ["192.0.2.2"], seed: seed &* 2 &+ 102, world: world)
        var sides = [Side(), Side()]
        sides[1].start = .manual
        for index in 0..<2 {
            (sides[index].lifetime, sides[index].ikeLifetime) = (lifetime, lifetime * 4)
        }
        let plans = try (0..<2).map { index in
            try Choreography.plan(sides[index], index, here: index == 0 ? east : west, there: index == 0 ? west : east, children)
        }
        west.configure([plans[1]])
        east.configure([plans[0]])
        world.run(for: .seconds(20)) { self.world.quietFault == nil }
    }

    static func plan(
        _ side: Side, _ index: Int, here: SimulatedGateway, there: SimulatedGateway, _ children: Int
    ) throws -> ConnectionPlan {
        let names = ["east", "west"]
        return ConnectionPlan(
            name: "c", localAddress: here.home, remoteAddress: there.home,
            localIdentity: .fqdn("\(names[index]).example"), remoteIdentity: .fqdn("\(names[1 - index]).example"),
            presharedKey: here.crypto.secret(Array("a pre-shared key of some length".utf8)),
            proposals: try side.ike.map { try IKEProposal(keywords: $0) }, lifetime: side.ikeLifetime, dpdInterval: side.dpd,
            natTraversal: side.nat,
            children: try (0..<children).map { number in
                ChildPlan(
                    name: "net\(number)", localSelectors: [selector(site: index, number)],
                    remoteSelectors: [selector(site: 1 - index, number)],
                    proposals: try side.esp.map { try ESPProposal(keywords: $0) }, lifetime: side.lifetime, start: side.start)
            })
    }

    static func selector(site: Int, _ number: Int) -> TrafficSelector {
        TrafficSelector(IPPrefix("10.\(site + 1).\(number).0/24")!)
    }

    // MARK: Steps

    /// From here on messages wait to be picked.
    func hold() {
        world.interceptor = { [unowned self] datagram, sender in
            waiting.append((datagram, sender))
            return true
        }
    }

    /// Delivers what waits in the order that `choose` says, until nothing does. False: it did not end.
    func drain(_ choose: (Int) -> Int, atMost most: Int = .max) -> Bool {
        letInstallationsFinish()
        let end = most == .max ? .max : deliveries + most
        while !waiting.isEmpty, deliveries < end {
            deliveries += 1
            guard waiting.count <= Self.mostWaiting, deliveries <= Self.mostDeliveries else { return false }
            let picked = waiting.remove(at: choose(waiting.count))
            world.deliverNow(picked.datagram)
            letInstallationsFinish()
            if world.violation != nil { return true }
        }
        return true
    }

    /// Loses one of the messages that wait.
    func lose(_ position: Int) { if waiting.indices.contains(position) { waiting.remove(at: position) } }
    func double(_ position: Int) { if waiting.indices.contains(position) { waiting.append(waiting[position]) } }

    private func letInstallationsFinish() { world.run(for: .milliseconds(2)) }

    /// The wire is as usual again.
    func release() {
        world.interceptor = nil
        waiting = []
    }
}

/// Counts through all sequences of choices: each run asks `choose` and tells how many there were.
struct Orders {
    private var digits: [(chosen: Int, of: Int)] = []
    private var position = 0
    private(set) var count = 0
    private var isDone = false

    /// Begins the next sequence; false when all were.
    mutating func next() -> Bool {
        if count > 0 {
            digits.removeLast(digits.count - position)
            while let last = digits.last, last.chosen + 1 >= last.of { digits.removeLast() }
            guard let last = digits.last else { return false }
            digits[digits.count - 1].chosen = last.chosen + 1
        }
        count += 1
        position = 0
        return true
    }

    mutating func choose(_ options: Int) -> Int {
        guard options > 1 else { return 0 }
        defer { position += 1 }
        if position < digits.count { return min(digits[position].chosen, options - 1) }
        digits.append((0, options))
        return 0
    }

    var current: [Int] { digits.prefix(position).map(\.chosen) }
}
