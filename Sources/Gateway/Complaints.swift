import IKE

/// Which complaints were told when: the log says each once, and again while it goes on, but not with every attempt.
struct Complaints {
    /// The same sentence is told again after this.
    static let interval: Duration = .seconds(600)
    /// Different sentences remembered. Past it the oldest is forgotten, and may be told early.
    static let limit = 1_000

    private var told: [String: Instant] = [:]
    /// The last sentence that was complained of, told or not.
    private(set) var latest: String?

    /// True when the sentence is to be told now.
    mutating func mayTell(_ sentence: String, now: Instant) -> Bool {
        latest = sentence
        if let before = told[sentence], now < before + Self.interval { return false }
        if told[sentence] == nil, told.count >= Self.limit { forget(now: now) }
        told[sentence] = now
        return true
    }

    private mutating func forget(now: Instant) {
        told = told.filter { now < $0.value + Self.interval }
        guard told.count >= Self.limit, let oldest = told.min(by: { $0.value < $1.value }) else { return }
        told[oldest.key] = nil
    }
}
