import Dataplane
import IKE

/// What a child's packets did lately, from counters that are read at every tick: when the last one came and left, and whether
/// one direction goes on without the other. A pure value.
struct TrafficRecord: Hashable, Sendable {
    /// Packets of one direction since the last of the other one, from the tick that saw the first of them.
    struct OneWay: Hashable, Sendable {
        var since: Instant
        var packets: UInt64
    }

    var installedAt: Instant
    private(set) var lastIn: Instant?
    private(set) var lastOut: Instant?
    /// Left since the last one came; nil when nothing has.
    private(set) var unansweredOut: OneWay?
    /// Came since the last one left.
    private(set) var unansweredIn: OneWay?

    init(installedAt: Instant) { self.installedAt = installedAt }

    /// - Parameters:
    ///   - packetsIn: that came since the last call.
    ///   - packetsOut: that left.
    mutating func observe(packetsIn: UInt64, packetsOut: UInt64, now: Instant) {
        if packetsIn > 0 { (lastIn, unansweredOut) = (now, nil) }
        if packetsOut > 0 { (lastOut, unansweredIn) = (now, nil) }
        if packetsIn > 0, packetsOut == 0 {
            unansweredIn = OneWay(since: unansweredIn?.since ?? now, packets: (unansweredIn?.packets ?? 0) &+ packetsIn)
        }
        if packetsOut > 0, packetsIn == 0 {
            unansweredOut = OneWay(since: unansweredOut?.since ?? now, packets: (unansweredOut?.packets ?? 0) &+ packetsOut)
        }
    }
}

/// Loss between the peer's encryption and here, from the sequence numbers of one inbound SA: the highest that came against the
/// packets that verified. Over the last five to ten seconds with traffic; what came too late for the replay window counts as
/// lost.
struct LossMeter: Hashable, Sendable {
    static let blockDuration: Duration = .seconds(5)
    /// Fewer packets say nothing.
    static let fewestPackets: UInt64 = 20

    struct Block: Hashable, Sendable {
        var expected: UInt64 = 0
        var lost: UInt64 = 0
        static func + (a: Self, b: Self) -> Self { Block(expected: a.expected &+ b.expected, lost: a.lost &+ b.lost) }
    }

    private var base: (sequence: UInt64, authentic: UInt64)
    private var beganAt: Instant
    private var previous = Block()
    private var current = Block()

    init(now: Instant) { (base, beganAt) = ((0, 0), now) }

    /// - Parameters:
    ///   - sequence: the highest authenticated number so far.
    ///   - authentic: packets that verified so far.
    mutating func observe(sequence: UInt64, authentic: UInt64, now: Instant) {
        guard sequence >= base.sequence, authentic >= base.authentic else { return }
        let expected = sequence - base.sequence
        let came = authentic - base.authentic
        current = Block(expected: expected, lost: expected > came ? expected - came : 0)
        guard now >= beganAt + Self.blockDuration, current.expected >= Self.fewestPackets else { return }
        (previous, current) = (current, Block())
        (base, beganAt) = ((sequence, authentic), now)
    }

    var recent: Block { previous + current }

    static func == (a: Self, b: Self) -> Bool {
        a.base == b.base && a.beganAt == b.beganAt && a.previous == b.previous && a.current == b.current
    }

    func hash(into hasher: inout Hasher) { hasher.combine(beganAt) }
}

/// What is known of the traffic of one child with one peer, for whoever judges it.
struct ChildTraffic: Hashable, Sendable {
    var record: TrafficRecord
    var loss = LossMeter.Block()
    /// What a whole ESP packet to the peer may be long; zero: not known.
    var pathMTU = 0

    /// Of packets that the peer has sent; nil when too few came to tell.
    var lossPercent: Double? {
        guard loss.expected >= LossMeter.fewestPackets else { return nil }
        return Double(loss.lost) * 100 / Double(loss.expected)
    }
}
