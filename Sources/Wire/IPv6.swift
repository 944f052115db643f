/// The fixed header of RFC 8200 §3: offsets in octets from its start. Extension headers are the kernel's business: what has
/// one between this header and ESP or UDP never reaches a worker.
public enum IPv6 {
    public static let headerBytes = 40
    /// Octets after the fixed header.
    public static let payloadLengthOffset = 4
    public static let nextHeaderOffset = 6
    public static let hopLimitOffset = 7
    public static let sourceOffset = 8
    public static let destinationOffset = 24
    public static let nextHeaderUDP: UInt8 = 17
    public static let nextHeaderFragment: UInt8 = 44
    public static let nextHeaderESP: UInt8 = 50
    public static let nextHeaderICMP: UInt8 = 58
    public static let defaultHopLimit: UInt8 = 64
    /// RFC 8200 §5: "IPv6 requires that every link in the Internet have an MTU of 1280 octets or greater."
    public static let minimumMTU = 1280
}

/// A fixed IPv6 header, read and written whole. RFC 8200 §3.
public struct IPv6Header: Hashable, Sendable {
    public var trafficClass: UInt8
    /// 20 bits.
    public var flowLabel: UInt32
    /// Octets after this header; extension headers count.
    public var payloadBytes: UInt16
    public var nextHeader: UInt8
    public var hopLimit: UInt8
    public var source: IPv6Address
    public var destination: IPv6Address

    public init(
        source: IPv6Address, destination: IPv6Address, nextHeader: UInt8, payloadBytes: UInt16, trafficClass: UInt8 = 0,
        flowLabel: UInt32 = 0, hopLimit: UInt8 = IPv6.defaultHopLimit
    ) {
        (self.source, self.destination, self.nextHeader) = (source, destination, nextHeader)
        (self.payloadBytes, self.trafficClass, self.hopLimit) = (payloadBytes, trafficClass, hopLimit)
        self.flowLabel = flowLabel & 0xF_FFFF
    }

    /// The header that `bytes` begins with; nil when it is cut short or of another version. Whether the payload is all there is
    /// for the caller to see: an ICMP error quotes less.
    public init?(_ bytes: Span<UInt8>) {
        guard bytes.count >= IPv6.headerBytes else { return nil }
        let first = Self.word(bytes, 0)
        guard first >> 28 == 6 else { return nil }
        let second = Self.word(bytes, IPv6.payloadLengthOffset)
        self.init(
            source: Self.address(bytes, IPv6.sourceOffset), destination: Self.address(bytes, IPv6.destinationOffset),
            nextHeader: UInt8(truncatingIfNeeded: second >> 8), payloadBytes: UInt16(truncatingIfNeeded: second >> 16),
            trafficClass: UInt8(truncatingIfNeeded: first >> 20), flowLabel: first & 0xF_FFFF,
            hopLimit: UInt8(truncatingIfNeeded: second))
    }

    /// 40 octets.
    public var bytes: [UInt8] {
        let first = UInt32(6) << 28 | UInt32(trafficClass) << 20 | flowLabel & 0xF_FFFF
        let second = UInt32(payloadBytes) << 16 | UInt32(nextHeader) << 8 | UInt32(hopLimit)
        let fixed = [first, second].flatMap { word in
            (0..<4).map { UInt8(truncatingIfNeeded: word >> UInt32(24 - 8 * $0)) }
        }
        return fixed + IPAddress.v6(source).bytes + IPAddress.v6(destination).bytes
    }

    private static func word(_ bytes: Span<UInt8>, _ offset: Int) -> UInt32 {
        UInt32(bytes[offset]) << 24 | UInt32(bytes[offset + 1]) << 16 | UInt32(bytes[offset + 2]) << 8 | UInt32(bytes[offset + 3])
    }

    private static func half(_ bytes: Span<UInt8>, _ offset: Int) -> UInt64 {
        UInt64(word(bytes, offset)) << 32 | UInt64(word(bytes, offset + 4))
    }

    private static func address(_ bytes: Span<UInt8>, _ offset: Int) -> IPv6Address {
        IPv6Address(high: half(bytes, offset), low: half(bytes, offset + 8))
    }
}

extension Checksum {
    /// The sum of the pseudo-header that UDP and ICMPv6 checksums begin with. RFC 8200 §8.1.
    /// - Parameter length: octets of the upper layer, its own header included.
    @inlinable public static func pseudoHeaderIPv6(
        source: IPv6Address, destination: IPv6Address, nextHeader: UInt8, length: UInt32
    ) -> UInt32 {
        var total: UInt64 = UInt64(nextHeader) &+ UInt64(length >> 16) &+ UInt64(length & 0xFFFF)
        for half in [source.high, source.low, destination.high, destination.low] {
            total &+= (half >> 48) &+ (half >> 32 & 0xFFFF) &+ (half >> 16 & 0xFFFF) &+ (half & 0xFFFF)
        }
        return UInt32(truncatingIfNeeded: total)
    }
}

/// Errors about packets of ours that the underlay sends. RFC 4443.
public enum ICMPv6 {
    public static let headerBytes = 8
    /// RFC 4443 §3.1.
    public static let destinationUnreachable: UInt8 = 1
    /// RFC 4443 §3.2.
    public static let packetTooBig: UInt8 = 2
}

extension IPv6Address {
    /// `::`
    public var isUnspecified: Bool { high == 0 && low == 0 }
    /// `::1`
    public var isLoopback: Bool { high == 0 && low == 1 }
    /// fe80::/10: means something on one link alone.
    public var isLinkLocal: Bool { high >> 54 == 0x3FA }
    /// ff00::/8.
    public var isMulticast: Bool { high >> 56 == 0xFF }
    /// ::ffff:0:0/96, an IPv4 address in the clothes of the other family. RFC 4291 §2.5.5.2.
    public var isIPv4Mapped: Bool { high == 0 && low >> 32 == 0xFFFF }
}
