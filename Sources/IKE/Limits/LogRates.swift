import Wire

/// How often one cause may be told of one source: whatever a remote party does again and again is written a bounded number of
/// times, and counted. The next line that is written says how many were left out.
package struct LogRates {
    /// What a line is about: the place that writes it, and on whose behalf.
    package struct Key: Hashable {
        var place: String
        var line: UInt
        var connection: String?
        var source: IPAddress?
    }

    private struct Bucket {
        var tokens: Int
        var filledAt: Instant
        var unsaid = 0
    }

    /// Lines at once, and after that one per so long.
    package static let burst = 64
    package static let interval: Duration = .seconds(2)
    /// Causes and sources that are told apart; beyond, all others share what is left.
    package static let most = 4096

    private var buckets: [Key: Bucket] = [:]
    private var order = OrderedList<Key>()

    package init() {}

    /// Nil: nothing is to be written. Otherwise how many lines like it were left out since the last.
    package mutating func take(_ key: Key, now: Instant) -> Int? {
        var bucket = buckets[key] ?? Bucket(tokens: Self.burst, filledAt: now)
        if buckets[key] == nil {
            order.append(key)
            if order.count > Self.most, let oldest = order.first {
                order.remove(oldest)
                buckets[oldest] = nil
            }
        }
        let passed = now - bucket.filledAt
        if passed >= Self.interval {
            let refills = Int(clamping: passed.components.seconds / Self.interval.components.seconds)
            bucket.tokens = min(Self.burst, bucket.tokens + refills)
            bucket.filledAt = now
        }
        defer { buckets[key] = bucket }
        guard bucket.tokens > 0 else { bucket.unsaid += 1; return nil }
        bucket.tokens -= 1
        defer { bucket.unsaid = 0 }
        return bucket.unsaid
    }
}

extension IKECore {
    /// Tells the operator, as often as `LogRates` allows.
    /// - Parameters:
    ///   - source: of the messages that led to it, where a connection has several peers.
    ///   - place, line: what tells one cause from another.
    func log(
        _ level: LogLevel, _ connection: String?, _ text: @autoclosure () -> String, from source: IPAddress? = nil,
        place: String = #fileID, line: UInt = #line
    ) {
        let key = LogRates.Key(place: place, line: line, connection: connection, source: source)
        guard let unsaid = logRates.take(key, now: latest) else { counters.linesUnsaid &+= 1; return }
        let more = unsaid == 0 ? "" : " (\(unsaid) more like it were left out)"
        emit(.log(level, connection: connection, text() + more))
    }
}
