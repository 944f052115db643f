/// Sizes of an ESP packet with AES-GCM-16 in tunnel mode. RFC 4303 §2, RFC 4106.
public enum ESPLayout {
    /// SPI and sequence number.
    public static let headerBytes = 8
    public static let ivBytes = 8
    public static let icvBytes = 16
    /// Pad length and next header.
    public static let trailerBytes = 2
    public static let nextHeaderIPv4: UInt8 = 4
    /// RFC 4303 §2.6: "no next header" marks a dummy packet.
    public static let nextHeaderNone: UInt8 = 59
    /// Outer IP header, and with UDP encapsulation (RFC 3948) the UDP header.
    @inlinable public static func outerBytes(udp: Bool, ipv6: Bool = false) -> Int { (ipv6 ? 40 : 20) &+ (udp ? 8 : 0) }

    /// Padding so that payload, padding and trailer end on a 4-octet boundary. RFC 4303 §2.4.
    @inlinable public static func padBytes(payloadBytes: Int) -> Int { (0 &- (payloadBytes &+ trailerBytes)) & 3 }

    /// Octets from the outer IP header through the ICV.
    @inlinable public static func totalBytes(payloadBytes: Int, udp: Bool, ipv6: Bool = false) -> Int {
        outerBytes(udp: udp, ipv6: ipv6) &+ headerBytes &+ ivBytes &+ payloadBytes &+ padBytes(payloadBytes: payloadBytes)
            &+ trailerBytes
            &+ icvBytes
    }

    /// The largest inner packet whose ESP packet fits `mtu`.
    @inlinable public static func largestPayload(mtu: Int, udp: Bool, ipv6: Bool = false) -> Int {
        let room = mtu &- outerBytes(udp: udp, ipv6: ipv6) &- headerBytes &- ivBytes &- icvBytes
        return (room & ~3) &- trailerBytes
    }
}
