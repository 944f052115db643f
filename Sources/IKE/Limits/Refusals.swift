import Wire

/// Peers that were refused lately, and why: what `culvert status` shows of them.
public struct RefusedPeer: Hashable, Sendable {
    /// Nobody has authenticated it: the last one of several, where a network of 64 bits counts as one.
    public var from: Endpoint
    /// The connection that it most likely meant; nil when none fits its address.
    public var connection: String?
    /// The last one's.
    public var reason: Reason
    public var count: Int
    public var last: Instant

    public init(from: Endpoint, connection: String?, reason: Reason, count: Int, last: Instant) {
        (self.from, self.connection, self.reason, self.count, self.last) = (from, connection, reason, count, last)
    }
}

/// The last refusals, one entry per source, connection and cause, so that who repeats himself is counted and takes no more room.
/// Each cause has its own few entries: a flood of one cannot push out another. Of one cause the entry that was heard of least
/// gives way, and the oldest among equals: addresses that are made up come once each, a peer that is configured wrongly comes
/// again and again.
package struct RefusedPeers: Sendable {
    package static let entriesPerCause = 8
    package static let lifetime: Duration = .seconds(3600)

    private struct Source: Hashable {
        var site: IPAddress
        var connection: String?
    }

    private var entries: [Reason.Code: [Source: RefusedPeer]] = [:]

    package init() {}

    package mutating func note(_ reason: Reason, from: Endpoint, connection: String?, now: Instant) {
        let source = Source(site: from.address.site, connection: connection)
        var entry =
            entries[reason.code]?[source]
            ?? RefusedPeer(from: from, connection: connection, reason: reason, count: 0, last: now)
        (entry.from, entry.reason, entry.last) = (from, reason, now)
        entry.count += 1
        if entry.count == 1 { makeRoom(reason.code, now: now) }
        entries[reason.code, default: [:]][source] = entry
    }

    private mutating func makeRoom(_ code: Reason.Code, now: Instant) {
        guard var known = entries[code], known.count >= Self.entriesPerCause else { return }
        known = known.filter { now < $0.value.last + Self.lifetime }
        if known.count >= Self.entriesPerCause,
            let least = known.min(by: { ($0.value.count, $0.value.last) < ($1.value.count, $1.value.last) })
        {
            known[least.key] = nil
        }
        entries[code] = known
    }

    /// A connection is up, or gone: what was refused for it before is over.
    package mutating func forget(connection: String) {
        for code in entries.keys { entries[code] = entries[code]?.filter { $0.key.connection != connection } }
    }

    /// The newest first.
    package func recent(_ now: Instant) -> [RefusedPeer] {
        entries.values.flatMap(\.values).filter { now < $0.last + Self.lifetime }
            .sorted { ($1.last, $1.count, $0.from.description) < ($0.last, $0.count, $1.from.description) }
    }
}
