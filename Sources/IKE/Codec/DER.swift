/// Reads DER, one element after another: definite lengths in their shortest form only, nothing that does not fit. X.690 §10.1.
package struct DERReader {
    private let bytes: ArraySlice<UInt8>
    private var position: Int

    package init(_ bytes: ArraySlice<UInt8>) { (self.bytes, position) = (bytes, bytes.startIndex) }

    package var isAtEnd: Bool { position == bytes.endIndex }
    /// The tag of the next element; nil at the end.
    package var nextTag: UInt8? { isAtEnd ? nil : bytes[position] }

    /// The contents of the next element; nil when it has another tag or is not DER.
    package mutating func take(_ tag: UInt8) -> ArraySlice<UInt8>? { takeElement(tag)?.contents }

    /// The next element, whatever its tag (low tag numbers only).
    package mutating func takeAny() -> (tag: UInt8, contents: ArraySlice<UInt8>, whole: ArraySlice<UInt8>)? {
        guard let tag = nextTag, tag & 0x1F != 0x1F, let element = takeElement(tag) else { return nil }
        return (tag, element.contents, element.whole)
    }

    private mutating func takeElement(_ tag: UInt8) -> (contents: ArraySlice<UInt8>, whole: ArraySlice<UInt8>)? {
        let start = position
        guard nextTag == tag, bytes.endIndex - position >= 2 else { return nil }
        let first = bytes[position + 1]
        var contents = position + 2
        var length = Int(first)
        if first >= 0x80 {
            let octets = Int(first & 0x7F)
            guard (1...3).contains(octets), bytes.endIndex - contents >= octets else { return nil }
            length = Int(bytes[contents..<contents + octets].bigEndianValue)
            contents += octets
            guard length >= 0x80, octets == 1 || length >= 1 << (8 * (octets - 1)) else { return nil }
        }
        guard length <= bytes.endIndex - contents else { return nil }
        position = contents + length
        return (bytes[contents..<position], bytes[start..<position])
    }
}

/// Writes DER.
package enum DER {
    package static let sequence: UInt8 = 0x30, set: UInt8 = 0x31, objectIdentifier: UInt8 = 0x06, integer: UInt8 = 0x02
    package static let null: UInt8 = 0x05

    /// Tag, length in its shortest form, contents (at most 2^24 - 1 octets).
    package static func encode(_ tag: UInt8, _ contents: [UInt8]) -> [UInt8] {
        let count = contents.count
        if count < 0x80 { return [tag, UInt8(truncatingIfNeeded: count)] + contents }
        let octets = [UInt8](u32: UInt32(clamping: count)).drop { $0 == 0 }
        return [tag, 0x80 | UInt8(truncatingIfNeeded: octets.count)] + octets + contents
    }

    /// The dotted text of an object identifier's contents; nil when it is malformed or longer than anybody needs.
    package static func dotted(_ contents: some BidirectionalCollection<UInt8>) -> String? {
        guard let last = contents.last, last < 0x80, contents.count <= 32 else { return nil }
        var arcs: [UInt64] = []
        var arc: UInt64 = 0
        for octet in contents {
            guard arc < 1 << 56 else { return nil }
            arc = arc << 7 | UInt64(octet & 0x7F)
            if octet < 0x80 { arcs.append(arc); arc = 0 }
        }
        let first = min(arcs[0] / 40, 2)
        return ([first, arcs[0] - first * 40] + arcs.dropFirst()).map(String.init).joined(separator: ".")
    }
}
