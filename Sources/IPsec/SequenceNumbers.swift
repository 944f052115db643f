/// Anti-replay and extended sequence numbers as arithmetic on values the caller stores. RFC 4303 §3.4.3 and appendix A.
public enum SequenceNumbers {
    /// Without ESN "the transmitted sequence number must never be allowed to cycle" (RFC 4303 §3.3.3).
    @inlinable public static func last(extended: Bool) -> UInt64 { extended ? .max - 1 : 0xFFFF_FFFF }

    /// From this number on a rekey is asked for: the remaining 1/16 of a 32-bit space covers seconds at 100 Gb/s.
    @inlinable public static func rekeyThreshold(extended: Bool) -> UInt64 { extended ? .max - 1 << 40 : 0xF000_0000 }

    /// Recovers the full number from the 32 bits on the wire. RFC 4303 appendix A2.2, with one difference: a number less than
    /// 2^31 behind the window is an old one, not one of the next epoch. The RFC would have the ICV refuse it, at the price of a
    /// decryption for every replayed packet, to bridge the loss of more than 2^31 packets in a row; that is what resynchronising
    /// (appendix A3) is for.
    /// - Parameters:
    ///   - low: the sequence number field.
    ///   - highest: the highest number authenticated so far, 64 bits.
    ///   - windowPackets: the replay window's size, at least 1.
    /// - Returns: nil for a number that is behind the window, or would precede the first epoch.
    @inlinable public static func infer(low: UInt32, highest: UInt64, windowPackets: UInt32) -> UInt64? {
        let top = UInt32(truncatingIfNeeded: highest)
        let epoch = highest >> 32
        let bottom = top &- (windowPackets &- 1)
        if low < bottom, bottom &- low &- 1 < 0x7FFF_FFFF { return nil }
        if top >= windowPackets &- 1 {
            // Case A: the window lies within one epoch.
            return (low >= bottom ? epoch : epoch &+ 1) << 32 | UInt64(low)
        }
        // Case B: the window spans two epochs.
        guard low >= bottom else { return epoch << 32 | UInt64(low) }
        return epoch == 0 ? nil : (epoch &- 1) << 32 | UInt64(low)
    }

    /// 64-bit words of bitmap for a window: a power of two with one word to spare, so that advancing clears whole words only
    /// (the idea of RFC 6479).
    public static func words(windowPackets: Int) -> Int {
        var words = 2
        while (words - 1) * 64 < windowPackets { words *= 2 }
        return words
    }

    /// Whether `sequence` is new and inside the window. Reads only: believed after the ICV verifies.
    @inlinable public static func isAcceptable(_ sequence: UInt64, highest: UInt64, windowPackets: UInt64, bitmap: Span<UInt64>)
        -> Bool
    {
        if sequence > highest { return true }
        // RFC 4303 §3.3.3: the first packet carries 1; zero is never valid.
        if sequence == 0 || highest &- sequence >= windowPackets { return false }
        let word = Int(truncatingIfNeeded: sequence >> 6) & (bitmap.count &- 1)
        return bitmap[word] & (1 << (sequence & 63)) == 0
    }

    /// Records an authenticated number and returns the new highest.
    @inlinable public static func accept(_ sequence: UInt64, highest: UInt64, bitmap: inout MutableSpan<UInt64>) -> UInt64 {
        let mask = bitmap.count &- 1
        let target = sequence >> 6
        if sequence > highest {
            var cursor = highest >> 6
            if target &- cursor > UInt64(bitmap.count) { cursor = target &- UInt64(bitmap.count) }
            while cursor != target {
                cursor &+= 1
                bitmap[Int(truncatingIfNeeded: cursor) & mask] = 0
            }
        }
        bitmap[Int(truncatingIfNeeded: target) & mask] |= 1 << (sequence & 63)
        return max(sequence, highest)
    }
}
