/// Offsets and constants of the headers on the packet path, in octets from the start of each header.
public enum Ethernet {
    public static let headerBytes = 14
    public static let typeOffset = 12
    public static let typeIPv4: UInt16 = 0x0800
    public static let typeIPv6: UInt16 = 0x86DD
}

/// RFC 791 §3.1.
public enum IPv4 {
    public static let minimumHeaderBytes = 20
    public static let tosOffset = 1
    public static let totalLengthOffset = 2
    public static let identificationOffset = 4
    public static let fragmentOffset = 6
    public static let ttlOffset = 8
    public static let protocolOffset = 9
    public static let checksumOffset = 10
    public static let sourceOffset = 12
    public static let destinationOffset = 16
    public static let dontFragment: UInt16 = 0x4000
    public static let moreFragments: UInt16 = 0x2000
    public static let fragmentMask: UInt16 = 0x1FFF
    public static let protocolICMP: UInt8 = 1
    public static let protocolTCP: UInt8 = 6
    public static let protocolUDP: UInt8 = 17

    /// TCP, UDP, DCCP, SCTP and UDP-Lite: their headers begin with a source and a destination port.
    @inlinable public static func hasPorts(_ protocolNumber: UInt8) -> Bool {
        switch protocolNumber {
        case 6, 17, 33, 132, 136: true
        default: false
        }
    }
    public static let protocolESP: UInt8 = 50
    public static let defaultTTL: UInt8 = 64
}

public enum UDP {
    public static let headerBytes = 8
    public static let checksumOffset = 6
    public static let portNATTraversal: UInt16 = 4500
}

/// The Internet checksum. RFC 1071.
public enum Checksum {
    /// Folds carries into 16 bits; the result is not complemented.
    @inlinable public static func fold(_ sum: UInt32) -> UInt16 {
        let once = (sum & 0xFFFF) &+ (sum >> 16)
        return UInt16(truncatingIfNeeded: (once & 0xFFFF) &+ (once >> 16))
    }

    /// One's complement sum of big-endian 16-bit words; an odd last octet is padded with zero.
    @inlinable public static func sum(_ bytes: Span<UInt8>, initial: UInt32 = 0) -> UInt32 {
        var total = UInt64(initial)
        var index = 0
        while index &+ 1 < bytes.count {
            total &+= UInt64(bytes[index]) << 8 &+ UInt64(bytes[index &+ 1])
            index &+= 2
        }
        if index < bytes.count { total &+= UInt64(bytes[index]) << 8 }
        while total > 0xFFFF_FFFF { total = (total & 0xFFFF_FFFF) &+ (total >> 32) }
        return UInt32(total)
    }

    /// The checksum field's new value after one 16-bit word changed. RFC 1624 equation 3; all values in host order.
    @inlinable public static func adjusted(_ checksum: UInt16, from old: UInt16, to new: UInt16) -> UInt16 {
        ~fold(UInt32(~checksum) &+ UInt32(~old) &+ UInt32(new))
    }
}

/// Explicit congestion notification through tunnels. RFC 6040.
public enum ECN {
    public static let notCapable: UInt8 = 0
    public static let congestionExperienced: UInt8 = 3

    /// The inner packet's ECN field after decapsulation, RFC 6040 figure 4; nil: drop.
    @inlinable public static func decapsulated(inner: UInt8, outer: UInt8) -> UInt8? {
        switch (inner, outer) {
        case (0, 3): nil
        case (0, _): 0
        case (3, _), (_, 3): 3
        case (2, 1): 1
        default: inner
        }
    }
}
