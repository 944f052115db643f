import Wire

/// The SA pairs by inbound SPI, and found by whatever else they are asked for, so that no event walks all of them.
struct SAIndex {
    typealias Pair = SALifecycle.Pair

    private struct Outbound: Hashable {
        var spi: UInt32
        var remote: IPAddress
    }

    private var pairs: [UInt32: Pair] = [:]
    private var byToken: [UInt64: UInt32] = [:]
    private var byOutbound: [Outbound: Int] = [:]
    private var byChild: [ChildKey: Set<UInt32>] = [:]
    /// Of all peers of a configured child.
    private var byConfiguredChild: [ChildKey: Set<UInt32>] = [:]
    private var readyByChild: [ChildKey: Int] = [:]
    private var readyByConfiguredChild: [ChildKey: Int] = [:]
    private var byRemote: [IPAddress: Int] = [:]
    /// Every SPI once, in no order, and where: for readings that go round.
    private var round: [UInt32] = []
    private var placeInRound: [UInt32: Int] = [:]
    private var nextInRound = 0

    /// Remotes that the first pair came with, or the last one went from, since this was emptied.
    var changedRemotes: Set<IPAddress> = []
    /// Rises when a pair that has rules of its own is known to carry traffic, or is so no more.
    private(set) var receivedVersion = 0
    /// Children with rules of their own whose last pair went since this was emptied.
    var abandoned: Set<ChildKey> = []

    init() {}

    var count: Int { pairs.count }
    /// All of them, for tests.
    var values: some Collection<Pair> { pairs.values }
    /// The peers' ends of all SAs.
    var remotes: some Collection<IPAddress> { byRemote.keys }

    subscript(spi: UInt32) -> Pair? {
        get { pairs[spi] }
        set {
            let old = pairs[spi]
            pairs[spi] = newValue
            if Self.links(old) != Self.links(newValue) {
                if let old { unlink(old) }
                if let newValue { link(newValue) }
            }
            if (old == nil) != (newValue == nil) { keepRound(spi, isThere: newValue != nil) }
            if let old, newValue == nil, old.key.hasOwnRules, byChild[old.key] == nil { abandoned.insert(old.key) }
            if (newValue ?? old)?.key.hasOwnRules == true, old?.isReceived != newValue?.isReceived { receivedVersion += 1 }
        }
    }

    /// The pairs of one child of one peer.
    func of(_ key: ChildKey) -> [Pair] { (byChild[key] ?? []).compactMap { pairs[$0] } }
    /// Those of all peers of a configured child.
    func inboundSPIs(ofConfigured key: ChildKey) -> Set<UInt32> { byConfiguredChild[key] ?? [] }
    func hasRemote(_ remote: IPAddress) -> Bool { byRemote[remote] != nil }
    func contains(_ key: ChildKey) -> Bool { byChild[key] != nil }
    func withToken(_ token: UInt64) -> Pair? { byToken[token].flatMap { pairs[$0] } }
    func hasOutbound(spi: UInt32, remote: IPAddress) -> Bool { byOutbound[Outbound(spi: spi, remote: remote)] != nil }
    /// Whether another peer of the same configured child has a pair in use.
    func isReadyElsewhere(_ key: ChildKey) -> Bool {
        readyByConfiguredChild[key.configured, default: 0] > readyByChild[key, default: 0]
    }

    /// The next so many in turn, each once at most.
    mutating func nextRound(_ limit: Int) -> [UInt32] {
        let count = min(limit, round.count)
        if nextInRound >= round.count { nextInRound = 0 }
        let turn = (0..<count).map { round[(nextInRound + $0) % round.count] }
        nextInRound += count
        return turn
    }

    /// What the indices depend on.
    private struct Links: Equatable {
        var key: ChildKey
        var token: UInt64
        var outboundSPI: UInt32
        var remote: IPAddress
        var isReady: Bool
    }

    private static func links(_ pair: Pair?) -> Links? {
        pair.map {
            Links(
                key: $0.key, token: $0.token, outboundSPI: $0.outboundSPI, remote: $0.remote, isReady: $0.state == .ready)
        }
    }

    private mutating func link(_ pair: Pair) {
        byToken[pair.token] = pair.inboundSPI
        byChild[pair.key, default: []].insert(pair.inboundSPI)
        byConfiguredChild[pair.key.configured, default: []].insert(pair.inboundSPI)
        Self.tally(&byOutbound, Outbound(spi: pair.outboundSPI, remote: pair.remote), 1)
        Self.tally(&byRemote, pair.remote, 1)
        if byRemote[pair.remote] == 1 { changedRemotes.insert(pair.remote) }
        guard pair.state == .ready else { return }
        Self.tally(&readyByChild, pair.key, 1)
        Self.tally(&readyByConfiguredChild, pair.key.configured, 1)
    }

    private mutating func unlink(_ pair: Pair) {
        byToken[pair.token] = nil
        Self.remove(pair.inboundSPI, from: &byChild, pair.key)
        Self.remove(pair.inboundSPI, from: &byConfiguredChild, pair.key.configured)
        Self.tally(&byOutbound, Outbound(spi: pair.outboundSPI, remote: pair.remote), -1)
        Self.tally(&byRemote, pair.remote, -1)
        if byRemote[pair.remote] == nil { changedRemotes.insert(pair.remote) }
        guard pair.state == .ready else { return }
        Self.tally(&readyByChild, pair.key, -1)
        Self.tally(&readyByConfiguredChild, pair.key.configured, -1)
    }

    private mutating func keepRound(_ spi: UInt32, isThere: Bool) {
        if isThere {
            placeInRound[spi] = round.count
            round.append(spi)
        } else if let place = placeInRound.removeValue(forKey: spi), let last = round.popLast(), last != spi {
            round[place] = last
            placeInRound[last] = place
        }
    }

    private static func remove(_ spi: UInt32, from index: inout [ChildKey: Set<UInt32>], _ key: ChildKey) {
        index[key]?.remove(spi)
        if index[key]?.isEmpty == true { index[key] = nil }
    }

    private static func tally<Key: Hashable>(_ counts: inout [Key: Int], _ key: Key, _ step: Int) {
        let count = counts[key, default: 0] + step
        counts[key] = count > 0 ? count : nil
    }
}
