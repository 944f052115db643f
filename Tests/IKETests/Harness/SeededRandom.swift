import IKE

/// SplitMix64: the same seed gives the same run.
final class SeededRandom: IKERandom, RandomNumberGenerator {
    private var state: UInt64
    /// Seeds are mixed first: neighbours must not be one sequence, shifted.
    init(seed: UInt64) {
        state = seed
        state = next() ^ 0x1234_5678_9ABC_DEF1
    }

    func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }

    func bytes(_ count: Int) -> [UInt8] {
        var word: UInt64 = 0
        return (0..<count).map { index in
            word = index & 7 == 0 ? next() : word >> 8
            return UInt8(truncatingIfNeeded: word)
        }
    }
    /// 0 ..< 1
    func unit() -> Double { Double(next() >> 11) / Double(1 << 53) }
}
