import DequeModule
import IKE
import Wire

/// Neighbours that packets wait for, while the kernel looks for them. A scan through a tunnel asks for one address after the
/// other: the kernel's table is not filled with them, and who asks last is looked for too. Which packets may ask is the workers'
/// to judge.
struct NeighbourProbes {
    /// Looked for at once. The kernel's whole table has 1024 entries as it comes (`gc_thresh3`).
    static let limit = 256
    /// The kernel asks three times, one second apart.
    static let patience: Duration = .milliseconds(3_500)
    /// Not more often about one address.
    static let pause: Duration = .milliseconds(400)

    private struct Probe {
        var since: Instant
        var askedAt: Instant
    }

    private var probes: [NeighbourKey: Probe] = [:]
    /// The oldest first; with some that are over.
    private var order: Deque<(key: NeighbourKey, since: Instant)> = []

    var count: Int { probes.count }

    /// - Returns: whether the kernel is to be asked, and which entry it may forget for that.
    mutating func ask(_ key: NeighbourKey, now: Instant) -> (asks: Bool, forgotten: NeighbourKey?) {
        if let probe = probes[key] {
            guard probe.askedAt + Self.pause <= now else { return (false, nil) }
            probes[key]?.askedAt = now
            return (true, nil)
        }
        let forgotten = probes.count < Self.limit ? nil : removeOldest()
        probes[key] = Probe(since: now, askedAt: now)
        order.append((key, now))
        return (true, forgotten)
    }

    mutating func end(_ key: NeighbourKey) { probes[key] = nil }

    /// Those that have not answered: nobody waits for them any more.
    mutating func takeExpired(now: Instant) -> [NeighbourKey] {
        var result: [NeighbourKey] = []
        while let first = order.first, first.since + Self.patience <= now {
            order.removeFirst()
            if probes[first.key]?.since == first.since {
                probes[first.key] = nil
                result.append(first.key)
            }
        }
        return result
    }

    private mutating func removeOldest() -> NeighbourKey? {
        while let first = order.popFirst() {
            guard probes[first.key]?.since == first.since else { continue }
            probes[first.key] = nil
            return first.key
        }
        return nil
    }
}
