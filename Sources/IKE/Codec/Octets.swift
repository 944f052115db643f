/// Reads big-endian fields off a slice; every read is checked and the error names the field.
package struct OctetReader {
    private let bytes: ArraySlice<UInt8>
    private var position: Int

    package init(_ bytes: ArraySlice<UInt8>) {
        self.bytes = bytes
        position = bytes.startIndex
    }

    package var remaining: Int { bytes.endIndex - position }
    package var isAtEnd: Bool { remaining == 0 }

    package mutating func u8(_ field: StaticText) throws(IKEFault) -> UInt8 {
        guard remaining >= 1 else { throw .malformed(field) }
        defer { position += 1 }
        return bytes[position]
    }

    package mutating func u16(_ field: StaticText) throws(IKEFault) -> UInt16 {
        UInt16(try u8(field)) << 8 | UInt16(try u8(field))
    }

    package mutating func u32(_ field: StaticText) throws(IKEFault) -> UInt32 {
        UInt32(try u16(field)) << 16 | UInt32(try u16(field))
    }

    package mutating func u64(_ field: StaticText) throws(IKEFault) -> UInt64 {
        UInt64(try u32(field)) << 32 | UInt64(try u32(field))
    }

    package mutating func take(_ count: Int, _ field: StaticText) throws(IKEFault) -> ArraySlice<UInt8> {
        guard count >= 0, count <= remaining else { throw .malformed(field) }
        defer { position += count }
        return bytes[position..<position + count]
    }

    package mutating func rest() -> ArraySlice<UInt8> {
        defer { position = bytes.endIndex }
        return bytes[position...]
    }
}

extension [UInt8] {
    package mutating func append(u16 value: UInt16) {
        append(UInt8(truncatingIfNeeded: value >> 8))
        append(UInt8(truncatingIfNeeded: value))
    }

    package mutating func append(u32 value: UInt32) {
        append(u16: UInt16(truncatingIfNeeded: value >> 16))
        append(u16: UInt16(truncatingIfNeeded: value))
    }

    package mutating func append(u64 value: UInt64) {
        append(u32: UInt32(truncatingIfNeeded: value >> 32))
        append(u32: UInt32(truncatingIfNeeded: value))
    }

    /// Overwrites the two octets at `offset`, which are there already.
    package mutating func store(u16 value: UInt16, at offset: Int) {
        self[offset] = UInt8(truncatingIfNeeded: value >> 8)
        self[offset + 1] = UInt8(truncatingIfNeeded: value)
    }

    package mutating func store(u32 value: UInt32, at offset: Int) {
        store(u16: UInt16(truncatingIfNeeded: value >> 16), at: offset)
        store(u16: UInt16(truncatingIfNeeded: value), at: offset + 2)
    }

    package init(u32 value: UInt32) {
        self = []
        append(u32: value)
    }

    package init(u64 value: UInt64) {
        self = []
        append(u64: value)
    }
}

extension Collection<UInt8> {
    /// Big-endian value of at most eight octets.
    package var bigEndianValue: UInt64 { reduce(0) { $0 << 8 | UInt64($1) } }
}
