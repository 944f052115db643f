import Dataplane
import DequeModule
import IKE
import IPsec
import Wire

/// Moves SAs between the IKE core, which negotiates them, and the data plane, which uses them: make before break, drain, and
/// counters that outlive every SA. Confined to the event loop.
///
/// ```
/// installChild ──► install ──► inboundReady ──► core.childInstalled ──► first SA of the child: switch at once
///                                                                   └─► a rekey: switch when the peer is known to receive on it
/// removeChild ──► another pair is ready: switch to it, retire this one after the drain
///             └─► no other: clearOutbound (packets ask for a tunnel again), retire now
/// ```
final class SALifecycle {
    /// How long a replaced SA still takes packets that were on their way. RFC 7296 §2.8.
    static let drain: Duration = .seconds(5)
    /// A new SA whose peer neither sends on it nor deletes the one before is used after this: longer than a peer repeats the
    /// request for it, so that it has its response or has given up. RFC 7296 §2.8.
    static let switchPatience: Duration = .seconds(130)
    /// How long the first packet on a new SA is watched out for with hurry.
    static let hurry: Duration = .seconds(5)
    /// SAs whose counters one call of `poll` reads, in turn: what a tick costs does not grow with what there is.
    static let readingsPerPoll = 256

    struct Pair {
        enum State: Equatable { case installing, ready, draining(until: Instant), retiring }
        var token: UInt64
        var key: ChildKey
        var childIndex: Int
        var inboundSPI: UInt32
        var outboundSPI: UInt32
        var remote: IPAddress
        var selectors: PeerRule
        var state: State
        var readyAt: Instant?
        /// The peer is known to receive on it.
        var peerReceives = false
        /// As last read: stays when the data plane has let go of the SA.
        var seen = ChildCounters()
        /// `seen.packetsIn` when the core was last told of traffic.
        var reportedPacketsIn: UInt64 = 0
        /// What it may carry, and how much of that the core has been told of.
        var limits = SALimits()
        var reportedLimit: Limit?
        /// It came to a hard limit: nothing leaves on it any more.
        var isSpent = false
        var loss = LossMeter(now: Instant(nanoseconds: 0))
        var pathMTU = 0
        /// What `poll` has counted into the child's traffic.
        var judged: (packetsIn: UInt64, packetsOut: UInt64) = (0, 0)
        /// The peer is known to receive on it, or sends.
        var isReceived: Bool { peerReceives || seen.packetsIn > 0 }
    }

    /// A lifetime in bytes or packets: near its end (rekey), or at it (the SA must go). RFC 4301 §4.4.2.1.
    enum Limit: Int, Comparable {
        case soft, hard
        static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }
    }

    private struct Selection: Equatable {
        var local: Set<TrafficSelector>
        var remote: Set<TrafficSelector>
    }

    private let dataplane: any SAControlling
    private(set) var pairs = SAIndex()
    /// The pair whose outbound SA the child uses.
    private(set) var active: [ChildKey: UInt32] = [:] { didSet { activeVersion += 1 } }
    private var activeVersion = 0
    /// New pairs that are not in use yet: watched at every poll.
    private var successors: Set<UInt32> = []
    /// In the order in which they are due.
    private var drains: Deque<(until: Instant, inboundSPI: UInt32)> = []
    private var limits: [(inboundSPI: UInt32, limit: Limit)] = []
    private var rules: (version: Int, list: [PeerRule])?
    private var lastPoll: Instant?
    /// SAs whose counters `poll` has read so far.
    private(set) var readings = 0
    /// Selectors that SAs of a child carry side by side, by `ChildKey.selection`.
    private var selections: [ChildKey: [UInt32: Selection]] = [:]
    /// What SAs that are gone have carried.
    private var retired: [ChildKey: ChildCounters] = [:]
    /// Of children that have an SA.
    private var records: [ChildKey: TrafficRecord] = [:]

    init(dataplane: any SAControlling) { self.dataplane = dataplane }

    // MARK: What the core asks

    /// Which child of the workers an SA is one of: with others of the same selectors, which it replaces or stands beside, or one
    /// of its own. RFC 4301 §5.1: each outbound packet goes to an SA whose selectors fit, so that several SAs of one configured
    /// child carry traffic side by side, and one that the peer narrowed leaves the rest to others.
    /// - Parameter configured: selectors of the configured child; nil when they are what the peer assigns.
    func key(for sa: ChildSA, configured: (local: [TrafficSelector], remote: [TrafficSelector])?) -> ChildKey {
        let base = ChildKey(sa.connection, sa.child, instance: sa.instance)
        let known = selections[base] ?? [:]
        var isWhole = sa.instance == 0
        if isWhole, let configured {
            isWhole = Self.covers(sa.localSelectors, configured.local) && Self.covers(sa.remoteSelectors, configured.remote)
        }
        if isWhole { return base }
        let own = Selection(local: Set(sa.localSelectors), remote: Set(sa.remoteSelectors))
        if let replaced = sa.replaces.flatMap({ pairs[$0] })?.key, replaced.configured == base.configured,
            replaced.instance == base.instance, replaced.hasOwnRules
        {
            return replaced
        }
        if let same = known.first(where: { $0.value == own })?.key { return base.selecting(same) }
        return base.selecting(known.keys.max().map { $0 + 1 } ?? (sa.instance == 0 ? 1 : 0))
    }

    private static func covers(_ whole: [TrafficSelector], _ part: [TrafficSelector]) -> Bool {
        whole == part || part.allSatisfy { one in whole.contains { $0.contains(one) } }
    }

    /// A sentence when the SA cannot be installed; the caller tells the core.
    /// - Parameters:
    ///   - key: of `key(for:configured:)`; nil: the configured child's, or the peer's.
    ///   - childIndex: nil for a child that is gone from the configuration.
    func install(_ sa: ChildSA, as key: ChildKey? = nil, childIndex: Int?, token: UInt64) -> String? {
        let base = ChildKey(sa.connection, sa.child, instance: sa.instance)
        let key = key ?? base
        guard let index = childIndex else {
            return !key.hasOwnRules
                ? "The child \(key) is not in the configuration any more."
                : "There is no room for the child of another peer, or for another SA of it: this version carries "
                    + "\(ChildTable.limit) in all."
        }
        guard pairs[sa.inboundSPI] == nil else { return "The inbound SPI is in use; negotiate again." }
        do {
            try dataplane.install(sa, childIndex: index, token: token)
        } catch {
            return error.sentence
        }
        pairs[sa.inboundSPI] = Pair(
            token: token, key: key, childIndex: index, inboundSPI: sa.inboundSPI, outboundSPI: sa.outboundSPI,
            remote: sa.path.remote, selectors: .init(childIndex: index, local: sa.localSelectors, remote: sa.remoteSelectors),
            state: .installing, limits: sa.limits)
        if key.hasOwnRules {
            selections[base, default: [:]][key.selection] = Selection(
                local: Set(sa.localSelectors), remote: Set(sa.remoteSelectors))
        }
        return nil
    }

    /// The peer or we ended this pair. The child goes on with another one when there is one.
    func remove(inboundSPI: UInt32, now: Instant) {
        guard let pair = pairs[inboundSPI] else { return }
        switch pair.state {
        case .retiring, .draining: return
        case .installing, .ready: break
        }
        let others = pairs.of(pair.key).filter { $0.inboundSPI != inboundSPI }
        let successor = successor(of: pair, now: now)
        if active[pair.key] == inboundSPI {
            if let successor {
                switchOutbound(to: successor.inboundSPI)
            } else if !others.contains(where: { $0.state == .installing }) {
                clearOutbound(pair)
            }
        }
        // Another peer's number may stand for the same peer, authenticated anew.
        let isContinued = pairs.isReadyElsewhere(pair.key)
        if successor != nil || isContinued || others.contains(where: { $0.state == .installing }) {
            pairs[inboundSPI]?.state = .draining(until: now + Self.drain)
            drains.append((now + Self.drain, inboundSPI))
        } else {
            retire(inboundSPI)
        }
    }

    /// The newest of those that the peer receives on; when that is not known of any, the one it has had the most time for.
    private func successor(of pair: Pair, now: Instant) -> Pair? {
        let ready = pairs.of(pair.key).filter { $0.inboundSPI != pair.inboundSPI && $0.state == .ready && !$0.isSpent }
        let received = ready.filter { pair in
            pair.peerReceives || dataplane.counters(inboundSPI: pair.inboundSPI).map { $0.packetsIn > 0 } ?? false
        }
        return received.max { ($0.readyAt ?? now, $0.inboundSPI) < ($1.readyAt ?? now, $1.inboundSPI) }
            ?? ready.min { ($0.readyAt ?? now, $0.inboundSPI) < ($1.readyAt ?? now, $1.inboundSPI) }
    }

    /// A pair has come to a hard limit: what waits for its successor waits without it. The workers stop it by themselves too.
    func spend(inboundSPI: UInt32, now: Instant) {
        guard let pair = pairs[inboundSPI], !pair.isSpent else { return }
        pairs[inboundSPI]?.isSpent = true
        guard active[pair.key] == inboundSPI else { return }
        if let successor = successor(of: pair, now: now) {
            switchOutbound(to: successor.inboundSPI)
        } else {
            clearOutbound(pair)
        }
    }

    private func clearOutbound(_ pair: Pair) {
        active[pair.key] = nil
        dataplane.clearOutbound(childIndex: pair.childIndex)
    }

    func move(inboundSPIs: [UInt32], path: TunnelPath) {
        for spi in inboundSPIs where pairs[spi] != nil {
            pairs[spi]?.remote = path.remote
            dataplane.movePath(inboundSPI: spi, path: path)
        }
    }

    // MARK: What the data plane says

    /// Every worker has the inbound SA. Its SPI, when the core is to be told (`childInstalled`).
    func inboundReady(token: UInt64, now: Instant) -> UInt32? {
        guard let pair = pairs.withToken(token), pair.state == .installing else { return nil }
        pairs[pair.inboundSPI]?.state = .ready
        pairs[pair.inboundSPI]?.readyAt = now
        pairs[pair.inboundSPI]?.loss = LossMeter(now: now)
        if records[pair.key] == nil { records[pair.key] = TrafficRecord(installedAt: now) }
        successors.insert(pair.inboundSPI)
        return pair.inboundSPI
    }

    /// After the core has been told: an SA is used at once when it is the child's first, when the one before is on its way
    /// out, or when the peer is known to receive on it.
    func use(inboundSPI: UInt32, peerReceives: Bool) {
        guard let pair = pairs[inboundSPI], pair.state == .ready, !pair.isSpent else { return }
        if peerReceives { pairs[inboundSPI]?.peerReceives = true }
        guard active[pair.key] != inboundSPI else { return }
        if peerReceives, let current = active[pair.key].flatMap({ pairs[$0] }), current.state == .ready, current.peerReceives,
            let since = current.readyAt, let readyAt = pair.readyAt, readyAt < since
        {
            // News of an older one: the newer one that carries the traffic is received too.
            return
        }
        if !peerReceives, let current = active[pair.key], pairs[current]?.state == .ready { return }
        switchOutbound(to: inboundSPI)
    }

    func retired(inboundSPI: UInt32, final: SACounters) {
        guard var pair = pairs[inboundSPI] else { return }
        pairs[inboundSPI] = nil
        pair.seen.raise(to: final)
        retired[pair.key.configured, default: .init()].add(pair.seen)
        if active[pair.key] == inboundSPI { active[pair.key] = nil }
        if pair.key.hasOwnRules, !pairs.contains(pair.key) {
            let base = pair.key.selecting(0)
            selections[base]?[pair.key.selection] = nil
            if selections[base]?.isEmpty == true { selections[base] = nil }
        }
        if !hasPairs(pair.key) { records[pair.key] = nil }
    }

    // MARK: Time

    /// Reads the counters of some, switches to new SAs that carry traffic or have waited long enough, retires what has drained.
    /// Returns the inbound SPIs of SAs on which authenticated packets arrived since they were read before.
    func poll(now: Instant) -> Set<UInt32> {
        lastPoll = now
        var alive: Set<UInt32> = []
        let turn = pairs.nextRound(Self.readingsPerPoll)
        for spi in successors.union(turn).sorted() { if read(spi, now: now) { alive.insert(spi) } }
        for spi in successors.sorted() {
            guard let pair = pairs[spi], pair.state == .ready, isSuccessor(pair) else {
                successors.remove(spi)
                continue
            }
            switchWhenDue(pair, now: now)
        }
        while let first = drains.first, first.until <= now {
            drains.removeFirst()
            if case .draining = pairs[first.inboundSPI]?.state { retire(first.inboundSPI) }
        }
        return alive
    }

    private func observe(_ pair: inout Pair, _ counters: SACounters, now: Instant) {
        let before = pair.judged
        pair.seen.raise(to: counters)
        // Whatever verifies has come by the path, also when a selector refuses it.
        pair.judged = (max(before.packetsIn, pair.seen.packetsIn, counters.authenticIn), pair.seen.packetsOut)
        pair.pathMTU = counters.pathMTU
        let packetsIn = pair.judged.packetsIn - before.packetsIn
        let packetsOut = pair.judged.packetsOut - before.packetsOut
        guard packetsIn > 0 || packetsOut > 0 else { return }
        records[pair.key]?.observe(packetsIn: packetsIn, packetsOut: packetsOut, now: now)
        pair.loss.observe(sequence: counters.sequenceIn, authentic: counters.authenticIn, now: now)
    }

    /// True when authenticated packets arrived since.
    private func read(_ spi: UInt32, now: Instant) -> Bool {
        guard var pair = pairs[spi], let counters = dataplane.counters(inboundSPI: spi) else { return false }
        readings += 1
        observe(&pair, counters, now: now)
        let isAlive = pair.seen.packetsIn > pair.reportedPacketsIn
        pair.reportedPacketsIn = pair.seen.packetsIn
        if pair.state == .ready, let limit = Self.reached(pair), limit.rawValue > pair.reportedLimit?.rawValue ?? -1 {
            pair.reportedLimit = limit
            limits.append((spi, limit))
        }
        pairs[spi] = pair
        return isAlive
    }

    /// SAs that were found at a limit since the last call; the fuller direction counts. The workers stop an outbound SA exactly
    /// at its hard limits and tell at once; this is about what the peer sent, and a hint that was lost.
    func limitsReached() -> [(inboundSPI: UInt32, limit: Limit)] {
        defer { limits = [] }
        return limits
    }

    private static func reached(_ pair: Pair) -> Limit? {
        let bytes = max(pair.seen.bytesIn, pair.seen.bytesOut)
        let packets = max(pair.seen.packetsIn, pair.seen.packetsOut)
        return Limit(
            rawValue: max(
                limit(bytes, soft: pair.limits.softBytes, hard: pair.limits.hardBytes),
                limit(packets, soft: pair.limits.softPackets, hard: pair.limits.hardPackets)))
    }

    /// The raw value of `Limit`, or -1.
    private static func limit(_ used: UInt64, soft: UInt64, hard: UInt64) -> Int {
        if hard == 0 { return -1 }
        if used >= hard { return Limit.hard.rawValue }
        return used >= soft ? Limit.soft.rawValue : -1
    }

    /// A newer pair than the active one is taken into use by its first inbound packet, or by patience: "When rekeying an SA, the
    /// responder continues to send traffic on the old SA until one of those events occurs." (RFC 7296 §2.8) The other event is
    /// the end of the old one.
    private func switchWhenDue(_ pair: Pair, now: Instant) {
        guard let readyAt = pair.readyAt else { return }
        if pair.seen.packetsIn > 0 || readyAt + Self.switchPatience <= now { switchOutbound(to: pair.inboundSPI) }
    }

    /// Whether the pair is to replace the one in use, which is older.
    private func isSuccessor(_ pair: Pair) -> Bool {
        guard let current = active[pair.key], current != pair.inboundSPI, let readyAt = pair.readyAt else { return false }
        return pairs[current]?.readyAt.map { $0 < readyAt } ?? false
    }

    /// True while a new SA waits for its first packet: poll more often then.
    var awaitsSwitch: Bool {
        successors.contains { spi in
            guard let pair = pairs[spi], pair.state == .ready, isSuccessor(pair), let readyAt = pair.readyAt else { return false }
            return lastPoll.map { $0 < readyAt + Self.hurry } ?? true
        }
    }

    // MARK: What status asks

    /// What went through a configured child that has an SA: one entry per peer of its connection.
    func traffic(of key: ChildKey) -> [ChildTraffic] {
        var result: [ChildKey: ChildTraffic] = [:]
        for pair in pairs.inboundSPIs(ofConfigured: key).compactMap({ pairs[$0] }) {
            guard let record = records[pair.key] else { continue }
            var traffic = result[pair.key] ?? ChildTraffic(record: record)
            traffic.loss = traffic.loss + pair.loss.recent
            traffic.pathMTU = max(traffic.pathMTU, pair.pathMTU)
            result[pair.key] = traffic
        }
        return result.sorted { $0.key < $1.key }.map(\.value)
    }

    /// Never goes backwards: what is gone, and what each SA has carried so far.
    func counters(of key: ChildKey) -> ChildCounters {
        var sum = retired[key] ?? ChildCounters()
        for spi in pairs.inboundSPIs(ofConfigured: key) {
            if let counters = dataplane.counters(inboundSPI: spi) { pairs[spi]?.seen.raise(to: counters) }
            if let pair = pairs[spi] { sum.add(pair.seen) }
        }
        return sum
    }

    /// What was negotiated, where that decides which SA carries a packet: by the peers of connections that take several, and in
    /// several child SAs of one configured child. Where two claim the same the newest wins, as soon as its peer is known to
    /// receive: a peer that authenticates anew is a second one until it gives up what it had.
    var peerRules: [PeerRule] {
        if let rules, rules.version == peerRulesVersion { return rules.list }
        let peers = active.filter { $0.key.hasOwnRules || selections[$0.key] != nil }.sorted {
            ($0.key.instance, $0.key) > ($1.key.instance, $1.key)
        }
        .compactMap { pairs[$0.value] }
        let list = (peers.filter(Self.isSettled) + peers.reversed().filter { !Self.isSettled($0) }).map(\.selectors)
        rules = (peerRulesVersion, list)
        return list
    }
    /// The peer receives on it; one that carries all that is configured was there before those beside it.
    private static func isSettled(_ pair: Pair) -> Bool { pair.isReceived || !pair.key.hasOwnRules }
    /// Another number when `peerRules` may have changed.
    var peerRulesVersion: Int { activeVersion + pairs.receivedVersion }

    /// Children of single peers that have no pair any more, each told once.
    func takeAbandoned() -> Set<ChildKey> {
        defer { pairs.abandoned = [] }
        return pairs.abandoned.filter { !pairs.contains($0) }
    }

    func hasPairs(_ key: ChildKey) -> Bool { pairs.contains(key) }

    func isActive(_ key: ChildKey) -> Bool { active[key] != nil }

    /// Whether a child as configured carries the traffic of any of the connection's peers.
    func isActive(configured key: ChildKey) -> Bool { isActive(key) || active.keys.contains { $0.configured == key } }

    /// Whether a packet with this SPI to this peer was ours: to believe ICMP errors that quote it.
    func isOutbound(spi: UInt32, remote: IPAddress) -> Bool { pairs.hasOutbound(spi: spi, remote: remote) }

    /// The peers' ends of all SAs.
    var remotes: Set<IPAddress> { Set(pairs.remotes) }
    func hasRemote(_ remote: IPAddress) -> Bool { pairs.hasRemote(remote) }
    /// Addresses that came to `remotes`, or went, each told once.
    func takeChangedRemotes() -> Set<IPAddress> {
        defer { pairs.changedRemotes = [] }
        return pairs.changedRemotes
    }

    func child(inboundSPI: UInt32) -> ChildKey? { pairs[inboundSPI]?.key }

    // MARK: Parts

    private func switchOutbound(to spi: UInt32) {
        guard let pair = pairs[spi] else { return }
        active[pair.key] = spi
        successors.remove(spi)
        dataplane.switchOutbound(childIndex: pair.childIndex, inboundSPI: spi)
    }

    private func retire(_ spi: UInt32) {
        pairs[spi]?.state = .retiring
        dataplane.retire(inboundSPI: spi)
    }
}

/// What one child's SAs have carried.
struct ChildCounters: Hashable, Sendable {
    var packetsIn: UInt64 = 0
    var bytesIn: UInt64 = 0
    var packetsOut: UInt64 = 0
    var bytesOut: UInt64 = 0
    var drops: [DropReason: UInt64] = [:]

    /// Takes over newer values of the same SA; a counter that reads lower than before keeps what was seen.
    mutating func raise(to counters: SACounters) {
        packetsIn = max(packetsIn, counters.packetsIn)
        bytesIn = max(bytesIn, counters.bytesIn)
        packetsOut = max(packetsOut, counters.packetsOut)
        bytesOut = max(bytesOut, counters.bytesOut)
        drops.merge(counters.drops) { max($0, $1) }
    }

    mutating func add(_ other: ChildCounters) {
        packetsIn &+= other.packetsIn
        bytesIn &+= other.bytesIn
        packetsOut &+= other.packetsOut
        bytesOut &+= other.bytesOut
        drops.merge(other.drops) { $0 &+ $1 }
    }
}
