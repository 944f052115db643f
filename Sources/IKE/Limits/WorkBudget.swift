/// So much computing per second for peers that have not authenticated yet: Diffie-Hellman with strangers must not take the time
/// that the peers we know need. A bucket of microseconds that fills with time.
package struct WorkBudget: Sendable {
    private let microsecondsPerSecond: Int
    private var available: Int
    private var filledAt: Instant?

    package init(microsecondsPerSecond: Int) {
        (self.microsecondsPerSecond, available) = (microsecondsPerSecond, microsecondsPerSecond)
    }

    /// False when the work has to wait. One piece of work is always possible with a full bucket, whatever it costs.
    package mutating func take(_ microseconds: Int, now: Instant) -> Bool {
        if let last = filledAt, now > last {
            // A day is more than any debt, and keeps the product small.
            let passed = min((now.nanoseconds &- last.nanoseconds) / 1000, 86_400_000_000)
            let filled = Int(passed) * microsecondsPerSecond / 1_000_000
            // What is too little to add yet stays in the time that is left.
            if filled > 0 { (available, filledAt) = (min(available + filled, microsecondsPerSecond), now) }
        } else if filledAt == nil {
            filledAt = now
        }
        guard available >= min(microseconds, microsecondsPerSecond) else { return false }
        available -= microseconds
        return true
    }
}

extension KeyExchangeMethod {
    /// About what a key pair and a shared secret take together on one core of 2025, in microseconds: measured with OpenSSL 3.0 on
    /// 2.7 GHz; only the proportions matter.
    package var workMicroseconds: Int {
        switch self {
        case .x25519: 120
        case .ecp256: 160
        case .ecp384: 1300
        case .ecp521: 1700
        case .modp2048: 1600
        case .modp3072: 4600
        case .modp4096: 10_000
        case .mlkem512: 60
        case .mlkem768: 90
        case .mlkem1024: 130
        }
    }
}

extension LocalAuthentication {
    /// About what a proof of ours takes: an RSA signature of 3072 bits; the others are cheaper.
    package var workMicroseconds: Int {
        if case .signature = self { 2500 } else { 20 }
    }
}

extension IKESuite {
    /// Of all the key exchanges that lead to its IKE SA.
    package var workMicroseconds: Int { additionalMethods.reduce(method.workMicroseconds) { $0 + $1.workMicroseconds } }
}
