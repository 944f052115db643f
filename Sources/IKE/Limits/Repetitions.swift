/// What the log has said already. A line is written when it is news, then at growing intervals while it goes on, each time with
/// the count of what was not written. Whoever causes lines from outside can so cause a handful per hour and subject.
package struct Repetitions: Sendable {
    /// What is the same although its words differ: a count of seconds, a port.
    package struct Subject: Hashable, Sendable {
        package var connection: String?
        /// A child, or a source address; empty: the connection itself.
        package var part: String
        package var code: Reason.Code
        /// Of reasons that have no code of their own.
        package var text: String

        package init(_ connection: String?, part: String = "", _ reason: Reason) {
            (self.connection, self.part, code) = (connection, part, reason.code)
            text = reason.code == .other ? reason.sentence : ""
        }
    }

    package enum Verdict: Hashable, Sendable {
        case isNews
        /// It is the so-and-so-many-th time, since then.
        case goesOn(count: Int, since: Instant)
        /// Not to be written now.
        case isKnown
    }

    /// From the first line to the second; twice as long each time, up to the last.
    package static let firstInterval: Duration = .seconds(60)
    package static let longestInterval: Duration = .seconds(3600)
    /// What has not happened for so long is news again.
    package static let memory: Duration = .seconds(3600)
    /// What was over for so long is news again; sooner it only comes and goes.
    package static let calm: Duration = .seconds(60)
    /// Subjects remembered; past it the one that has been quiet for longest is forgotten, and may be told early.
    package static let limit = 4096

    private struct Record {
        var count = 1
        var since: Instant
        var last: Instant
        var nextSaid: Instant
        var interval: Duration
        /// When it was over, and how often it had been by then.
        var ended: (at: Instant, count: Int)?
    }

    /// By connection, so that the end of one looks at its own alone.
    private var records: [String?: [Subject: Record]] = [:]
    package private(set) var count = 0
    /// When the last trouble of a connection was news.
    private var troubles: [String: Instant] = [:]

    package init() {}

    /// Of what went wrong.
    package mutating func note(_ subject: Subject, now: Instant) -> Verdict {
        let verdict = note(subject, memory: Self.memory, now: now)
        if verdict == .isNews, let connection = subject.connection { troubles[connection] = now }
        return verdict
    }

    /// Of what is up: news after trouble that was news, and when it has not been so for a while.
    package mutating func noteUp(_ subject: Subject, now: Instant) -> Verdict {
        if let connection = subject.connection, let trouble = troubles[connection],
            let known = records[subject.connection]?[subject], known.last <= trouble
        {
            records[subject.connection]?[subject] = nil
            count -= 1
        }
        return note(subject, memory: Self.calm, now: now)
    }

    /// - Parameter memory: news again when it has not happened for so long.
    private mutating func note(_ subject: Subject, memory: Duration, now: Instant) -> Verdict {
        let known = records[subject.connection]?[subject]
        guard var record = known, now < record.last + memory, record.ended.map({ now < $0.at + Self.calm }) ?? true else {
            if known == nil {
                if count >= Self.limit { makeRoom() }
                count += 1
            }
            records[subject.connection, default: [:]][subject] = Record(
                since: now, last: now, nextSaid: now + Self.firstInterval, interval: Self.firstInterval)
            return .isNews
        }
        record.count += 1
        record.last = now
        let isDue = now >= record.nextSaid
        if isDue {
            record.interval = min(record.interval * 2, Self.longestInterval)
            record.nextSaid = now + record.interval
        }
        records[subject.connection]?[subject] = record
        return isDue ? .goesOn(count: record.count, since: record.since) : .isKnown
    }

    /// A quarter at once, so that a flood of new subjects does not look at all of them for each.
    private mutating func makeRoom() {
        let oldest = records.values.flatMap { $0 }.sorted { $0.value.last < $1.value.last }.prefix(Self.limit / 4)
        for (subject, _) in oldest {
            guard records[subject.connection]?.removeValue(forKey: subject) != nil else { continue }
            count -= 1
            if records[subject.connection]?.isEmpty == true { records[subject.connection] = nil }
        }
    }

    /// It is over: how often it was since it was over last, and since when; nil when it was not.
    /// - Parameter parts: of the connection.
    package mutating func end(connection: String, parts: Set<String>, now: Instant) -> (count: Int, since: Instant)? {
        var total: (count: Int, since: Instant)?
        for (subject, record) in records[connection] ?? [:] where parts.contains(subject.part) && subject.code != .peerClosed {
            let fresh = record.count - (record.ended?.count ?? 0)
            guard fresh > 0 else { continue }
            let since = record.ended?.at ?? record.since
            total = ((total?.count ?? 0) + fresh, min(total?.since ?? since, since))
            records[connection]?[subject]?.ended = (now, record.count)
        }
        return total
    }

    package mutating func forget(connection: String) {
        count -= records.removeValue(forKey: connection)?.count ?? 0
        troubles[connection] = nil
    }
}
