/// TCP maximum segment size in SYN segments. RFC 9293 §3.7.1; lowered so that full segments fit the tunnel.
public enum TCP {
    public static let minimumHeaderBytes = 20
    public static let flagsOffset = 13
    public static let synFlag: UInt8 = 0x02
    public static let checksumOffset = 16
    static let optionEnd: UInt8 = 0
    static let optionNoOperation: UInt8 = 1
    static let optionMSS: UInt8 = 2

    /// Lowers the MSS option of a SYN segment to `mss` and mends the checksum. Anything malformed is left alone.
    /// - Parameter segment: the TCP header and what follows.
    /// - Returns: whether the segment was changed.
    @discardableResult
    public static func clampMSS(_ segment: inout MutableSpan<UInt8>, to mss: UInt16) -> Bool {
        guard segment.count >= minimumHeaderBytes, segment[flagsOffset] & synFlag != 0 else { return false }
        let headerBytes = Int(segment[12] >> 4) * 4
        guard headerBytes >= minimumHeaderBytes, headerBytes <= segment.count else { return false }
        var index = minimumHeaderBytes
        while index < headerBytes {
            let kind = segment[index]
            if kind == optionEnd { return false }
            if kind == optionNoOperation { index += 1; continue }
            guard index + 1 < headerBytes else { return false }
            let length = Int(segment[index + 1])
            guard length >= 2, index + length <= headerBytes else { return false }
            if kind == optionMSS, length == 4 { return lower(&segment, at: index + 2, to: mss) }
            index += length
        }
        return false
    }

    private static func lower(_ segment: inout MutableSpan<UInt8>, at offset: Int, to mss: UInt16) -> Bool {
        let old = UInt16(segment[offset]) << 8 | UInt16(segment[offset + 1])
        guard old > mss else { return false }
        segment[offset] = UInt8(mss >> 8)
        segment[offset + 1] = UInt8(truncatingIfNeeded: mss)
        let checksum = UInt16(segment[checksumOffset]) << 8 | UInt16(segment[checksumOffset + 1])
        // An option may start at an odd offset; the words that the checksum adds are then swapped.
        let swapped = offset & 1 == 1
        let new = Checksum.adjusted(checksum, from: swapped ? old.byteSwapped : old, to: swapped ? mss.byteSwapped : mss)
        segment[checksumOffset] = UInt8(new >> 8)
        segment[checksumOffset + 1] = UInt8(truncatingIfNeeded: new)
        return true
    }
}
