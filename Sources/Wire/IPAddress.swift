/// An IPv4 address. `bits` is in host order: 192.0.2.1 is 0xC0000201.
public struct IPv4Address: Hashable, Comparable, Sendable, CustomStringConvertible {
    public var bits: UInt32

    @inlinable public init(bits: UInt32) { self.bits = bits }

    /// Dotted-quad text, exactly four decimal octets without leading zeros, which others read as octal (RFC 6943 §3.1.1);
    /// anything else is nil.
    public init?(_ text: some StringProtocol) {
        let parts = text.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count == 4 else { return nil }
        var bits: UInt32 = 0
        for part in parts {
            guard (1...3).contains(part.utf8.count), part.utf8.allSatisfy({ (48...57).contains($0) }), let octet = UInt8(part),
                part == "0" || part.first != "0"
            else { return nil }
            bits = bits << 8 | UInt32(octet)
        }
        self.bits = bits
    }

    public var description: String {
        "\(bits >> 24).\(bits >> 16 & 255).\(bits >> 8 & 255).\(bits & 255)"
    }

    @inlinable public static func < (a: Self, b: Self) -> Bool { a.bits < b.bits }
}

/// An IPv6 address as two host-order halves (RFC 4291).
public struct IPv6Address: Hashable, Comparable, Sendable, CustomStringConvertible {
    public var high: UInt64
    public var low: UInt64

    @inlinable public init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    /// RFC 4291 §2.2 text, with `::` and with a trailing dotted quad; zone identifiers are refused.
    public init?(_ text: some StringProtocol) {
        guard let groups = Self.parseGroups(String(text)) else { return nil }
        high = groups[0..<4].reduce(0) { $0 << 16 | UInt64($1) }
        low = groups[4..<8].reduce(0) { $0 << 16 | UInt64($1) }
    }

    private static func parseGroups(_ text: String) -> [UInt16]? {
        let halves = text.components(separatedByDoubleColon: ())
        guard let halves else { return nil }
        guard let head = parseHalf(halves.0, lastHalf: halves.1 == nil) else { return nil }
        guard let tailText = halves.1 else { return head.count == 8 ? head : nil }
        guard let tail = parseHalf(tailText, lastHalf: true), head.count + tail.count <= 7 else { return nil }
        return head + Array(repeating: 0, count: 8 - head.count - tail.count) + tail
    }

    private static func parseHalf(_ text: String, lastHalf: Bool) -> [UInt16]? {
        if text.isEmpty { return [] }
        var groups: [UInt16] = []
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        for (index, part) in parts.enumerated() {
            if lastHalf, index == parts.count - 1, part.contains(".") {
                guard let quad = IPv4Address(part) else { return nil }
                groups += [UInt16(quad.bits >> 16), UInt16(truncatingIfNeeded: quad.bits)]
            } else {
                guard (1...4).contains(part.utf8.count), part.first != "+", part.first != "-", let group = UInt16(part, radix: 16)
                else { return nil }
                groups.append(group)
            }
        }
        return groups.count <= 8 ? groups : nil
    }

    /// RFC 5952: lower case, no leading zeros, the longest run of two or more zero groups becomes `::`.
    public var description: String {
        let groups = (0..<8).map { i in UInt16(truncatingIfNeeded: (i < 4 ? high : low) >> UInt64(48 - 16 * (i % 4))) }
        var best = 0..<0
        var start = 0
        while start < 8 {
            var end = start
            while end < 8, groups[end] == 0 { end += 1 }
            if end - start >= 2, end - start > best.count { best = start..<end }
            start = max(end, start + 1)
        }
        let hex = { (range: Range<Int>) in groups[range].map { String($0, radix: 16) }.joined(separator: ":") }
        return best.isEmpty ? hex(0..<8) : hex(0..<best.lowerBound) + "::" + hex(best.upperBound..<8)
    }

    @inlinable public static func < (a: Self, b: Self) -> Bool { (a.high, a.low) < (b.high, b.low) }
}

extension String {
    /// Splits at the only `::`; nil when there are two of them. The second half is nil when there is none.
    fileprivate func components(separatedByDoubleColon: Void) -> (String, String?)? {
        guard let range = firstDoubleColon(from: startIndex) else { return (self, nil) }
        guard firstDoubleColon(from: range.upperBound) == nil, self[range.upperBound...].first != ":" else { return nil }
        return (String(self[..<range.lowerBound]), String(self[range.upperBound...]))
    }

    private func firstDoubleColon(from start: Index) -> Range<Index>? {
        var i = start
        while i < endIndex {
            let next = index(after: i)
            if self[i] == ":", next < endIndex, self[next] == ":" { return i..<index(after: next) }
            i = next
        }
        return nil
    }
}

/// An address of either family.
public enum IPAddress: Hashable, Sendable, CustomStringConvertible {
    case v4(IPv4Address)
    case v6(IPv6Address)

    public init?(_ text: some StringProtocol) {
        if let v4 = IPv4Address(text) { self = .v4(v4) } else if let v6 = IPv6Address(text) { self = .v6(v6) } else { return nil }
    }

    /// Network-order octets: 4 or 16, nothing else.
    public init?(bytes: some Collection<UInt8>) {
        switch bytes.count {
        case 4: self = .v4(IPv4Address(bits: bytes.reduce(0) { $0 << 8 | UInt32($1) }))
        case 16:
            self = .v6(
                IPv6Address(
                    high: bytes.prefix(8).reduce(0) { $0 << 8 | UInt64($1) },
                    low: bytes.dropFirst(8).reduce(0) { $0 << 8 | UInt64($1) }))
        default: return nil
        }
    }

    /// Network-order octets.
    public var bytes: [UInt8] {
        switch self {
        case .v4(let a): return (0..<4).map { UInt8(truncatingIfNeeded: a.bits >> UInt32(24 - 8 * $0)) }
        case .v6(let a):
            return (0..<16).map { UInt8(truncatingIfNeeded: ($0 < 8 ? a.high : a.low) >> UInt64(56 - 8 * ($0 % 8))) }
        }
    }

    public var isIPv4: Bool { if case .v4 = self { true } else { false } }
    public var v4: IPv4Address? { if case .v4(let a) = self { a } else { nil } }
    public var v6: IPv6Address? { if case .v6(let a) = self { a } else { nil } }

    public var description: String {
        switch self {
        case .v4(let a): a.description
        case .v6(let a): a.description
        }
    }
}

/// An address prefix such as 10.1.0.0/24; host bits are zero by construction.
public struct IPPrefix: Hashable, Sendable, CustomStringConvertible {
    public let address: IPAddress
    public let length: Int

    /// Host bits of `address` are cleared. Nil when `length` exceeds the family's width.
    public init?(_ address: IPAddress, length: Int) {
        switch address {
        case .v4(let a):
            guard (0...32).contains(length) else { return nil }
            self.address = .v4(IPv4Address(bits: length == 0 ? 0 : a.bits & ~UInt32(0) << UInt32(32 - length)))
        case .v6(let a):
            guard (0...128).contains(length) else { return nil }
            let high = length >= 64 ? a.high : (length == 0 ? 0 : a.high & ~UInt64(0) << UInt64(64 - length))
            let low = length <= 64 ? 0 : a.low & ~UInt64(0) << UInt64(128 - length)
            self.address = .v6(IPv6Address(high: high, low: low))
        }
        self.length = length
    }

    /// `address/length`, or a bare address as a host prefix.
    public init?(_ text: some StringProtocol) {
        let parts = text.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count <= 2, let address = IPAddress(parts[0]) else { return nil }
        let width = address.isIPv4 ? 32 : 128
        guard parts.count == 2 else { self.init(address, length: width); return }
        guard parts[1].utf8.allSatisfy({ (48...57).contains($0) }), let length = Int(parts[1]) else { return nil }
        self.init(address, length: length)
    }

    public func contains(_ other: IPAddress) -> Bool { IPPrefix(other, length: length)?.address == address && sameFamily(other) }
    public func contains(_ other: IPPrefix) -> Bool { other.length >= length && contains(other.address) }
    public func overlaps(_ other: IPPrefix) -> Bool { contains(other) || other.contains(self) }

    private func sameFamily(_ other: IPAddress) -> Bool { other.isIPv4 == address.isIPv4 }

    /// The highest address of the prefix.
    public var last: IPAddress {
        switch address {
        case .v4(let a): .v4(IPv4Address(bits: length == 32 ? a.bits : a.bits | (~UInt32(0) >> UInt32(length))))
        case .v6(let a):
            .v6(
                IPv6Address(
                    high: length >= 64 ? a.high : a.high | (~UInt64(0) >> UInt64(length)),
                    low: length == 128 ? a.low : (length <= 64 ? ~0 : a.low | (~UInt64(0) >> UInt64(length - 64)))))
        }
    }

    public var description: String { "\(address)/\(length)" }
}
