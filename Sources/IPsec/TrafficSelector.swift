public import Wire

/// One traffic selector: an address range, an IP protocol and a port range. RFC 7296 §3.13.1, RFC 4301 §4.4.1.1.
public struct TrafficSelector: Hashable, Sendable, CustomStringConvertible {
    /// 0 stands for any protocol.
    public var ipProtocol: UInt8
    /// 0...65535 stands for any port. RFC 7296's OPAQUE (65535...0) is not representable and is refused when parsed.
    public var ports: ClosedRange<UInt16>
    public var first: IPAddress
    public var last: IPAddress

    public init(first: IPAddress, last: IPAddress, ipProtocol: UInt8 = 0, ports: ClosedRange<UInt16> = 0...65535) {
        (self.first, self.last, self.ipProtocol, self.ports) = (first, last, ipProtocol, ports)
    }

    public init(_ prefix: IPPrefix, ipProtocol: UInt8 = 0, ports: ClosedRange<UInt16> = 0...65535) {
        self.init(first: prefix.address, last: prefix.last, ipProtocol: ipProtocol, ports: ports)
    }

    /// What both selectors allow; nil when they share nothing. RFC 7296 §2.9.
    public func intersection(_ other: TrafficSelector) -> TrafficSelector? {
        guard first.isIPv4 == other.first.isIPv4 else { return nil }
        let low = Self.order(first, other.first) ? other.first : first
        let high = Self.order(last, other.last) ? last : other.last
        guard !Self.order(high, low) else { return nil }
        guard ipProtocol == 0 || other.ipProtocol == 0 || ipProtocol == other.ipProtocol else { return nil }
        let lowPort = max(ports.lowerBound, other.ports.lowerBound)
        let highPort = min(ports.upperBound, other.ports.upperBound)
        guard lowPort <= highPort else { return nil }
        return TrafficSelector(first: low, last: high, ipProtocol: max(ipProtocol, other.ipProtocol), ports: lowPort...highPort)
    }

    public func contains(_ other: TrafficSelector) -> Bool { intersection(other) == other }

    public func contains(_ address: IPAddress) -> Bool {
        address.isIPv4 == first.isIPv4 && !Self.order(address, first) && !Self.order(last, address)
    }

    /// The minimal prefixes that cover the range exactly, for routes and longest-prefix maps.
    public var prefixes: [IPPrefix] {
        switch (first, last) {
        case (.v4(let a), .v4(let b)): return Self.prefixes(from: a.bits, through: b.bits)
        default:
            // An IPv6 range that is a prefix is the only one that configuration can express.
            for length in 0...128 {
                if let p = IPPrefix(first, length: length), p.address == first, p.last == last { return [p] }
            }
            return []
        }
    }

    private static func prefixes(from first: UInt32, through last: UInt32) -> [IPPrefix] {
        var result: [IPPrefix] = []
        var low = UInt64(first)
        let end = UInt64(last)
        while low <= end {
            var bits = low == 0 ? 32 : min(32, low.trailingZeroBitCount)
            while low + (UInt64(1) << UInt64(bits)) - 1 > end { bits -= 1 }
            if let p = IPPrefix(.v4(IPv4Address(bits: UInt32(low))), length: 32 - bits) { result.append(p) }
            low += UInt64(1) << UInt64(bits)
        }
        return result
    }

    private static func order(_ a: IPAddress, _ b: IPAddress) -> Bool {
        switch (a, b) {
        case (.v4(let x), .v4(let y)): x < y
        case (.v6(let x), .v6(let y)): x < y
        case (.v4, .v6): true
        case (.v6, .v4): false
        }
    }

    /// `10.1.0.0/24`, `10.1.0.5-10.1.0.9`, `10.1.0.0/24[udp/53]`, `10.1.0.0/24[6/1-1023]`.
    public var description: String {
        let list = prefixes
        let range = list.count == 1 ? list[0].description : "\(first)-\(last)"
        guard ipProtocol != 0 || ports != 0...65535 else { return range }
        let name = [1: "icmp", 6: "tcp", 17: "udp"][ipProtocol] ?? (ipProtocol == 0 ? "any" : String(ipProtocol))
        if ports == 0...65535 { return "\(range)[\(name)]" }
        let text = ports.count == 1 ? "\(ports.lowerBound)" : "\(ports.lowerBound)-\(ports.upperBound)"
        return "\(range)[\(name)/\(text)]"
    }
}
