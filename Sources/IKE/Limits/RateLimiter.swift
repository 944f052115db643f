/// So many per second at most, counted in whole seconds: for answers to unprotected messages. RFC 7296 §2.21.4.
package struct RateLimiter: Sendable {
    private let perSecond: Int
    private var second: UInt64 = 0
    private var used = 0

    package init(perSecond: Int) { self.perSecond = perSecond }

    package mutating func allows(_ now: Instant) -> Bool {
        let current = now.nanoseconds / 1_000_000_000
        if current != second { (second, used) = (current, 0) }
        guard used < perSecond else { return false }
        used += 1
        return true
    }
}
