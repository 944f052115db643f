/// ICMP errors that a router sends. RFC 792, RFC 1191, RFC 1812 §4.3.
public enum ICMP {
    public enum Failure: Sendable {
        /// Type 3 code 4 with the next-hop MTU.
        case fragmentationNeeded(mtu: UInt16)
        /// Type 11 code 0.
        case timeExceeded
    }

    /// Octets of the original datagram quoted: its header and at least 8 octets (RFC 792); RFC 1812 §4.3.2.3 allows up to 576
    /// in all.
    public static let quotedBytesLimit = 548

    /// Whether an error about `packet` may be sent at all. RFC 1812 §4.3.2.7: never about an ICMP error, a fragment other than
    /// the first, or a source that does not name a single host.
    public static func mayAnswer(_ packet: [UInt8]) -> Bool {
        guard packet.count >= 28 else { return false }
        let headerBytes = Int(packet[0] & 15) * 4
        guard headerBytes >= 20, packet.count >= headerBytes + 8 else { return false }
        guard (UInt16(packet[6]) << 8 | UInt16(packet[7])) & IPv4.fragmentMask == 0 else { return false }
        let first = packet[12]
        guard first != 0, first != 127, first < 224 else { return false }
        if packet[9] == IPv4.protocolICMP { return [0, 8, 13, 14, 17, 18].contains(packet[headerBytes]) }
        return true
    }

    /// The whole IPv4 packet with the error, from `source` to the original's sender.
    public static func error(_ failure: Failure, about packet: [UInt8], source: IPv4Address) -> [UInt8] {
        let quoted = packet.prefix(quotedBytesLimit)
        var icmp: [UInt8]
        switch failure {
        case .fragmentationNeeded(let mtu): icmp = [3, 4, 0, 0, 0, 0, UInt8(mtu >> 8), UInt8(truncatingIfNeeded: mtu)]
        case .timeExceeded: icmp = [11, 0, 0, 0, 0, 0, 0, 0]
        }
        icmp += quoted
        let checksum = ~Checksum.fold(Checksum.sum(icmp.span))
        icmp[2] = UInt8(checksum >> 8)
        icmp[3] = UInt8(truncatingIfNeeded: checksum)
        // RFC 1812 §4.3.2.5: precedence of errors may be set to 6 (internetwork control).
        return IPv4Header.bytes(
            source: source, destination: IPv4Address(bits: packet[12..<16].reduce(0) { $0 << 8 | UInt32($1) }),
            protocolNumber: IPv4.protocolICMP, payloadBytes: icmp.count, tos: 0xC0) + icmp
    }
}

/// Builds a plain 20-octet IPv4 header.
public enum IPv4Header {
    public static func bytes(
        source: IPv4Address, destination: IPv4Address, protocolNumber: UInt8, payloadBytes: Int, tos: UInt8 = 0,
        ttl: UInt8 = IPv4.defaultTTL, identification: UInt16 = 0, fragmentField: UInt16 = 0
    ) -> [UInt8] {
        let total = UInt16(clamping: IPv4.minimumHeaderBytes + payloadBytes)
        var header: [UInt8] = [
            0x45, tos, UInt8(total >> 8), UInt8(truncatingIfNeeded: total),
            UInt8(identification >> 8), UInt8(truncatingIfNeeded: identification),
            UInt8(fragmentField >> 8), UInt8(truncatingIfNeeded: fragmentField), ttl, protocolNumber, 0, 0,
        ]
        header += IPAddress.v4(source).bytes + IPAddress.v4(destination).bytes
        let checksum = ~Checksum.fold(Checksum.sum(header.span))
        header[10] = UInt8(checksum >> 8)
        header[11] = UInt8(truncatingIfNeeded: checksum)
        return header
    }
}
