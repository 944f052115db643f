import Dataplane
import IKE
import IPsec
import Wire

/// What the control thread remembers for the judgement alone: ICMP errors about our IKE, and what was dropped lately.
struct EvidenceKeeper {
    static let snapshotInterval: Duration = .seconds(5)
    static let snapshots = 3
    /// Peers whose ICMP errors are remembered. Only addresses that connections name count, so this is never reached by strangers.
    static let unreachableLimit = 1024

    private var unreachable: [IPAddress: UnreachableReport] = [:]
    private var taken: [(at: Instant, drops: [DropReason: UInt64])] = []

    mutating func note(_ report: UnreachableReport) {
        guard unreachable[report.remote] != nil || unreachable.count < Self.unreachableLimit else { return }
        unreachable[report.remote] = report
    }

    func unreachable(_ remote: IPAddress?) -> UnreachableReport? { remote.flatMap { unreachable[$0] } }

    /// True when `take` is due.
    func isDue(_ now: Instant) -> Bool { taken.last.map { now >= $0.at + Self.snapshotInterval } ?? true }

    mutating func take(_ drops: [DropReason: UInt64], now: Instant) {
        taken = taken.suffix(Self.snapshots - 1) + [(now, drops)]
    }

    /// What was dropped within the last ten to fifteen seconds, or since the start when that is less ago.
    func recent(_ drops: [DropReason: UInt64]) -> (drops: [DropReason: UInt64], since: Instant?) {
        guard let base = taken.first else { return ([:], nil) }
        var recent: [DropReason: UInt64] = [:]
        for (reason, count) in drops where count > base.drops[reason] ?? 0 { recent[reason] = count - (base.drops[reason] ?? 0) }
        return (recent, base.at)
    }
}
