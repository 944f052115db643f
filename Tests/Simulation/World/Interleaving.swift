@testable import IKE
import IPsec
import Wire

/// Two gateways whose messages are delivered in every order that a network can make of them.
///
/// Messages wait on the wire until the order under test picks one; no time passes meanwhile. Cores cannot be copied, so each
/// order is a run of its own from the start: `Orders` counts through the choices as an odometer does.
///
/// Deliveries to different ends commute: neither end can tell which came first. With `skipsEquivalentOrders` only one of the
/// orders is played that each end sees alike (sleep sets: P. Godefroid, Partial-Order Methods for the Verification of Concurrent
/// Systems, LNCS 1032, chapter 5).
final class Choreography {
    /// Messages on the wire at once, and deliveries in one run: beyond lies an exchange that does not end.
    static let mostWaiting = 12
    static let mostDeliveries = 60
    /// Seldom: a liveness check every few seconds would be most of the work, and tells nothing after the first.
    static let dpd: Duration = .seconds(20)

    let world: World
    let east: SimulatedGateway
    let west: SimulatedGateway
    private var waiting: [(number: Int, datagram: Datagram, sender: Int)] = []
    private var sent = 0
    private(set) var deliveries = 0
    private let skipsEquivalentOrders: Bool
    /// Messages whose delivery at this point leads to what another order has shown already.
    private var asleep: Set<Int> = []
    /// Every message that waits is asleep: the rest of this order has been seen.
    private(set) var isRedundant = false

    /// - Parameter children: how many children the connection has.
    init(
        seed: UInt64, children: Int = 1, lifetime: Duration = .seconds(3600), skipsEquivalentOrders: Bool = false,
        tracer: ((String) -> Void)? = nil
    ) throws {
        self.skipsEquivalentOrders = skipsEquivalentOrders
        world = World(seed: seed)
        world.tracer = tracer
        east = SimulatedGateway("east", ["192.0.2.1"], seed: seed &* 2 &+ 101, world: world)
        west = SimulatedGateway("west", ["192.0.2.2"], seed: seed &* 2 &+ 102, world: world)
        var sides = [Side(), Side()]
        sides[1].start = .manual
        for index in 0..<2 {
            (sides[index].lifetime, sides[index].ikeLifetime, sides[index].dpd) = (lifetime, lifetime * 4, Self.dpd)
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
            append(datagram, sender)
            return true
        }
    }

    private func append(_ datagram: Datagram, _ sender: Int) {
        waiting.append((sent, datagram, sender))
        sent += 1
    }

    /// Delivers what waits in the order that `choose` says, until nothing does. False: it did not end.
    func drain(_ choose: (Int) -> Int, atMost most: Int = .max) -> Bool {
        letInstallationsFinish()
        asleep = []
        let end = most == .max ? .max : deliveries + most
        while !waiting.isEmpty, deliveries < end {
            deliveries += 1
            guard waiting.count <= Self.mostWaiting, deliveries <= Self.mostDeliveries else { return false }
            guard let position = pick(choose) else { isRedundant = true; return true }
            let picked = waiting.remove(at: position)
            world.deliverNow(picked.datagram)
            letInstallationsFinish()
            if world.violation != nil { return true }
        }
        return true
    }

    /// A position in `waiting`; nil: whatever comes next has been seen.
    private func pick(_ choose: (Int) -> Int) -> Int? {
        guard skipsEquivalentOrders else { return choose(waiting.count) }
        let candidates = waiting.indices.filter { !asleep.contains(waiting[$0].number) }
        guard !candidates.isEmpty else { return nil }
        let choice = choose(candidates.count)
        // What was picked here in earlier runs need not be picked next, unless this delivery is to the same end.
        for position in candidates.prefix(choice) { asleep.insert(waiting[position].number) }
        let picked = waiting[candidates[choice]]
        for other in waiting where other.sender == picked.sender { asleep.remove(other.number) }
        return candidates[choice]
    }

    /// Loses one of the messages that wait.
    func lose(_ position: Int) { if waiting.indices.contains(position) { waiting.remove(at: position) } }

    func double(_ position: Int) {
        guard waiting.indices.contains(position) else { return }
        append(waiting[position].datagram, waiting[position].sender)
    }

    private func letInstallationsFinish() { world.run(for: .milliseconds(2)) }

    /// The wire is as usual again.
    func release() {
        world.interceptor = nil
        waiting = []
    }
}

/// Counts through all sequences of choices: each run asks `choose` and tells how many there were.
struct Orders {
    /// Where choices come from that are drawn instead of counted through.
    private(set) var dice: SeededRandom?
    private var digits: [(chosen: Int, of: Int)] = []
    private var position = 0
    private(set) var count = 0
    private var isDone = false

    /// Begins the next sequence; false when all were.
    mutating func next() -> Bool {
        if dice != nil {
            digits = []
        } else if count > 0 {
            digits.removeLast(digits.count - position)
            while let last = digits.last, last.chosen + 1 >= last.of { digits.removeLast() }
            guard let last = digits.last else { return false }
            digits[digits.count - 1].chosen = last.chosen + 1
        }
        count += 1
        position = 0
        return true
    }

    /// From this sequence on choices are drawn.
    mutating func draw(_ dice: SeededRandom) { (self.dice, digits) = (dice, []) }

    mutating func choose(_ options: Int) -> Int {
        guard options > 1 else { return 0 }
        defer { position += 1 }
        if position < digits.count { return min(digits[position].chosen, options - 1) }
        let chosen = dice.map { Int($0.unit() * Double(options)) } ?? 0
        digits.append((chosen, options))
        return chosen
    }

    var current: [Int] { digits.prefix(position).map(\.chosen) }
}
