import IPsec
import Testing

/// A window over `SequenceNumbers`, as a worker keeps it.
final class Window {
    let packets: UInt32
    let extended: Bool
    var highest: UInt64
    private let words: UnsafeMutableBufferPointer<UInt64>

    init(_ packets: Int, extended: Bool = true, highest: UInt64 = 0) {
        (self.packets, self.extended, self.highest) = (UInt32(packets), extended, highest)
        words = .allocate(capacity: SequenceNumbers.words(windowPackets: packets))
        words.initialize(repeating: 0)
    }

    deinit { words.deallocate() }

    /// What a packet with this sequence number field stands for, when it would be opened.
    func candidate(_ low: UInt32) -> UInt64? {
        let full = extended ? SequenceNumbers.infer(low: low, highest: highest, windowPackets: packets) : UInt64(low)
        guard let full,
            SequenceNumbers.isAcceptable(
                full, highest: highest, windowPackets: UInt64(packets), bitmap: Span(_unsafeElements: UnsafeBufferPointer(words)))
        else { return nil }
        return full
    }

    /// Whether the packet is taken; marks it.
    func take(_ number: UInt64) -> Bool {
        guard candidate(UInt32(truncatingIfNeeded: number)) == number else { return false }
        var bitmap = MutableSpan(_unsafeElements: words)
        highest = SequenceNumbers.accept(number, highest: highest, bitmap: &bitmap)
        return true
    }
}

@Suite("Sequence numbers and replay window, RFC 4303")
struct SequenceNumberTests {
    static let sizes = [32, 33, 63, 64, 65, 128, 1000, 4096, 65_536]

    @Test("a number is taken once, and only inside the window", arguments: sizes)
    func once(_ size: Int) {
        let window = Window(size)
        let newest = UInt64(3 * size)
        #expect(window.take(newest))
        #expect(!window.take(newest))
        #expect(window.take(newest - UInt64(size) + 1), "the oldest inside")
        #expect(!window.take(newest - UInt64(size) + 1))
        #expect(!window.take(newest - UInt64(size)), "the first outside")
        #expect(window.take(newest - 1))
    }

    @Test("zero is never valid, one is the first")
    func first() {
        let window = Window(64, extended: false)
        #expect(!window.take(0))
        #expect(window.take(1))
        #expect(!window.take(1))
        #expect(window.highest == 1)
    }

    @Test("every number of a shuffled run is taken exactly once", arguments: sizes)
    func shuffled(_ size: Int) {
        var random = SystemRandomNumberGenerator()
        let window = Window(size)
        // Shuffled within half a window, so that nothing falls out; across several turns of the bitmap.
        let block = max(1, size / 2)
        var taken = 0
        var next = UInt64(1)
        for _ in 0..<12 {
            let run = (0..<UInt64(block)).map { next + $0 }.shuffled(using: &random)
            next += UInt64(block)
            for number in run {
                if window.take(number) { taken += 1 }
                #expect(!window.take(number))
            }
        }
        #expect(taken == 12 * block)
        #expect(window.highest == next - 1)
    }

    @Test("a jump clears what lay before it, also one longer than the bitmap", arguments: sizes, [1, 63, 64, 65, 1 << 20])
    func jumps(_ size: Int, _ jump: Int) {
        let window = Window(size)
        for number in UInt64(1)...200 { #expect(window.take(number)) }
        let newest = 200 + UInt64(jump)
        #expect(window.take(newest))
        // What was taken stays taken, what was jumped over is new while it is inside.
        for back in 0..<UInt64(min(size, 300)) where newest > back {
            let number = newest - back
            let isNew = number > 200 && number != newest
            #expect((window.candidate(UInt32(number)) == number) == isNew, "\(number)")
        }
    }

    @Test("a bitmap has a power of two of words, and one to spare", arguments: sizes)
    func words(_ size: Int) {
        let words = SequenceNumbers.words(windowPackets: size)
        #expect(words.nonzeroBitCount == 1)
        #expect((words - 1) * 64 >= size)
        #expect(words == 2 || (words / 2 - 1) * 64 < size, "no larger than needed")
    }

    @Test("the last number without ESN is 2^32 - 1, with it 2^64 - 2")
    func last() {
        #expect(SequenceNumbers.last(extended: false) == 0xFFFF_FFFF)
        #expect(SequenceNumbers.last(extended: true) == UInt64.max - 1)
        #expect(SequenceNumbers.rekeyThreshold(extended: false) < SequenceNumbers.last(extended: false))
        #expect(SequenceNumbers.rekeyThreshold(extended: true) < SequenceNumbers.last(extended: true))
    }
}

@Suite("Extended sequence numbers, RFC 4303 appendix A")
struct ExtendedSequenceNumberTests {
    @Test("numbers go on across 2^32, in order and out of it", arguments: [32, 64, 4096, 65_536])
    func across(_ size: Int) {
        let border: UInt64 = 1 << 32
        let window = Window(size, highest: border - UInt64(size))
        let half = UInt64(size / 2)
        for number in stride(from: border - half, through: border + half - 1, by: 2) { #expect(window.take(number)) }
        // The window spans two epochs now: the odd ones of both are still welcome, none of the even ones.
        for number in (border - half)..<(border + half - 1) {
            let isNew = number % 2 != (border - half) % 2
            #expect((window.candidate(UInt32(truncatingIfNeeded: number)) == number) == isNew, "\(number)")
        }
    }

    @Test("case A: inside one epoch, below the window is old, far below is the next epoch")
    func oneEpoch() {
        let infer = { SequenceNumbers.infer(low: $0, highest: 0x1_8000_0000, windowPackets: 64) }
        #expect(infer(0x8000_0000) == 0x1_8000_0000)
        #expect(infer(0x7FFF_FFC1) == 0x1_7FFF_FFC1, "the oldest inside")
        #expect(infer(0x7FFF_FFC0) == nil, "the first outside")
        #expect(infer(0) == nil)
        #expect(infer(0xFFFF_FFFF) == 0x1_FFFF_FFFF)
        let high = { SequenceNumbers.infer(low: $0, highest: 0x1_F000_0000, windowPackets: 64) }
        #expect(high(0x10) == 0x2_0000_0010, "the next epoch is nearer")
        #expect(high(0xE000_0000) == nil)
    }

    @Test("case B: a window across two epochs tells them apart; before the first there is none")
    func twoEpochs() {
        let infer = { SequenceNumbers.infer(low: $0, highest: 0x2_0000_0010, windowPackets: 64) }
        #expect(infer(0x10) == 0x2_0000_0010)
        #expect(infer(0xFFFF_FFF0) == 0x1_FFFF_FFF0)
        #expect(infer(0xFFFF_FFD1) == 0x1_FFFF_FFD1, "the oldest inside")
        #expect(infer(0xFFFF_FFD0) == nil)
        #expect(infer(0x1000) == 0x2_0000_1000)
        #expect(SequenceNumbers.infer(low: 0xFFFF_FFF0, highest: 0x10, windowPackets: 64) == nil)
        #expect(SequenceNumbers.infer(low: 1, highest: 0, windowPackets: 64) == 1)
    }

    @Test("every number within reach of the window is recovered", arguments: [32, 64, 4096, 65_536])
    func recovered(_ size: UInt32) {
        let edges: [UInt64] = [0xFFFF_FFFE, 0xFFFF_FFFF, 0x1_0000_0000, 0x1_0000_0005, 0x5_7FFF_FFFF, 0x5_8000_0000]
        func infer(_ number: UInt64, _ highest: UInt64) -> UInt64? {
            SequenceNumbers.infer(low: UInt32(truncatingIfNeeded: number), highest: highest, windowPackets: size)
        }
        for highest in [1, 31, UInt64(size)] + edges {
            for step in [0, 1, 17, UInt64(size) - 1] where step < highest {
                #expect(infer(highest - step, highest) == highest - step)
            }
            for step in [1, 2, UInt64(size), 1 << 20, (1 << 31) - UInt64(size)] {
                #expect(infer(highest + step, highest) == highest + step)
            }
        }
    }
}
