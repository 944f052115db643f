@testable import Gateway
@testable import IKE
import IPsec
import Testing

/// The collisions of RFC 7296 §2.8.1, §2.8.2, §2.25.1 and §2.25.2, in every order in which the messages can arrive, with nonces
/// that make either end win, without loss and with any one message lost.
@Suite struct InterleavingTests {
    /// What one end does at the same time as the other.
    enum Act: String, CaseIterable {
        case rekeyChild, rekeyIKE, deleteChild, deleteIKE, createChild, hardLimit, reauthenticate
    }

    /// What happens on the way beside the order: nothing, or one of the messages that wait at first is lost or comes twice.
    enum Accident: Hashable { case none, loses(Int), doubles(Int) }

    struct Case {
        /// East's act, and west's.
        var acts: (Act, Act)
        var seed: UInt64
        /// West begins after so many deliveries.
        var lag: Int
        var accident: Accident
    }

    /// Orders looked at per case without an accident; more is a failure, so that none is left out unseen.
    static let mostOrders = 4000
    #if DEBUG
        static let seeds: ClosedRange<UInt64> = 1...1
        static let lags = [0, 1]
        /// With an accident there are thousands: none counted through, so many drawn.
        static let ordersWithAccident = (counted: 0, drawn: 8)
        /// Of the orders that each end sees alike one is played; in release all are.
        static let skipsEquivalentOrders = true
    #else
        static let seeds: ClosedRange<UInt64> = 1...4
        static let lags = [0, 1, 2, 3]
        static let ordersWithAccident = (counted: 120, drawn: 80)
        static let skipsEquivalentOrders = false
    #endif

    /// Both ways round: who is original initiator of the IKE SA makes a difference.
    static let pairs: [(Act, Act)] = Act.allCases.flatMap { first in Act.allCases.map { (first, $0) } }

    static func cases(_ acts: (Act, Act)) -> [Case] {
        let peaceful = seeds.flatMap { seed in lags.map { Case(acts: acts, seed: seed, lag: $0, accident: .none) } }
        let accidents = [Accident.loses(0), .loses(1), .doubles(0), .doubles(1)]
        return peaceful
            + seeds.prefix(3).flatMap { seed in accidents.map { Case(acts: acts, seed: seed, lag: 0, accident: $0) } }
    }

    static func perform(_ act: Act, _ gateway: SimulatedGateway) {
        if act == .hardLimit { gateway.reachLimit(hard: true); return }
        gateway.command(act.rawValue) { core in
            switch act {
            case .rekeyChild: _ = core.rekey(connection: "c", child: "net0", ike: false, now: gateway.now)
            case .rekeyIKE: _ = core.rekey(connection: "c", child: nil, ike: true, now: gateway.now)
            case .deleteChild: _ = core.deleteAsPeer(connection: "c", child: "net0", now: gateway.now)
            case .deleteIKE: _ = core.deleteAsPeer(connection: "c", child: nil, now: gateway.now)
            case .createChild: _ = core.initiate(connection: "c", child: "net1", now: gateway.now)
            case .reauthenticate: _ = core.authenticateAnew(connection: "c", now: gateway.now)
            case .hardLimit: break
            }
        }
    }

    /// One order of one collision. Nil: it ended well.
    static func fault(_ one: Case, _ choose: (Int) -> Int, tracer: ((String) -> Void)? = nil) throws -> String? {
        let acts = [one.acts.0, one.acts.1]
        let play = try Choreography(
            seed: one.seed, children: acts.contains(.createChild) ? 2 : 1,
            skipsEquivalentOrders: skipsEquivalentOrders && one.accident == .none, tracer: tracer)
        if acts.contains(.createChild) {
            // What is created is what was taken down before.
            for gateway in [play.east, play.west] {
                gateway.command("down") { _ = $0.deleteAsPeer(connection: "c", child: "net1", now: gateway.now) }
            }
            play.world.run(for: .seconds(20))
        }
        play.hold()
        perform(one.acts.0, play.east)
        guard play.drain(choose, atMost: one.lag) else { return "messages without end" }
        if play.isRedundant { return nil }
        perform(one.acts.1, play.west)
        switch one.accident {
        case .none: break
        case .loses(let position): play.lose(position)
        case .doubles(let position): play.double(position)
        }
        guard play.drain(choose) else { return "messages without end" }
        if play.isRedundant { return nil }
        play.release()
        let endsTunnel = acts.contains { $0 == .deleteChild || $0 == .deleteIKE || $0 == .hardLimit }
        if !endsTunnel, !play.world.works(child: 0, between: play.east, play.west) { return "the child is interrupted" }
        // Peace: retransmissions, waits, and an operator who wants it up.
        play.world.run(for: .seconds(40))
        play.east.command("up") { _ = $0.initiate(connection: "c", child: nil, now: play.east.now) }
        _ = play.world.run(for: .seconds(200)) { play.world.quietFault == nil }
        return play.world.violation ?? play.world.quietFault.map { "not at rest: \($0)" }
    }

    @Test(arguments: pairs.indices)
    func `every order of a collision ends with one tunnel`(_ index: Int) throws {
        var runs = 0
        for one in Self.cases(Self.pairs[index]) {
            var orders = Orders()
            while orders.next() {
                if one.accident != .none {
                    if orders.count > Self.ordersWithAccident.counted + Self.ordersWithAccident.drawn { break }
                    if orders.count > Self.ordersWithAccident.counted, orders.dice == nil {
                        orders.draw(SeededRandom(seed: one.seed &* 1000 &+ UInt64(index)))
                    }
                }
                runs += 1
                #expect(orders.count < Self.mostOrders, "not all orders were looked at")
                guard orders.count < Self.mostOrders else { return }
                guard let fault = try Self.fault(one, { orders.choose($0) }) else { continue }
                Issue.record("\(one), order \(orders.current): \(fault)")
                return
            }
        }
        #expect(runs > Self.cases(Self.pairs[index]).count)
    }
}
