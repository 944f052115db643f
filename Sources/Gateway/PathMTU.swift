import IKE
import IPsec
import Wire

/// "Fragmentation needed" or "packet too big" about a packet of ours, as read from an ICMP message. RFC 1191 §4, RFC 8201 §4.
struct PathMTUReport: Hashable, Sendable {
    /// Where our packet went.
    var remote: IPAddress
    /// Where it came from.
    var local: IPAddress
    /// Octets, as the router says, or the next plateau below the packet that did not fit when the router does not say.
    var mtu: Int
    /// The SPI of the ESP packet that did not fit.
    var spi: UInt32

    /// Steps for routers that do not tell their MTU. RFC 1191 §7.1.
    static let plateaus = [32_000, 17_914, 8_166, 4_352, 2_002, 1_492, 1_006, 576]

    /// From a whole IPv4 packet; nil when it is anything else, or quotes too little to tell that the packet was ours.
    init?(_ packet: [UInt8], natTraversalPort: UInt16) {
        guard let outer = Self.headerBytes(packet, at: 0), packet[9] == IPv4.protocolICMP, packet.count >= outer + 8 else {
            return nil
        }
        guard packet[outer] == 3, packet[outer + 1] == 4 else { return nil }
        let quoted = outer + 8
        guard let inner = Self.headerBytes(packet, at: quoted) else { return nil }
        let announced = Int(Self.word16(packet, outer + 6))
        let length = Int(Self.word16(packet, quoted + IPv4.totalLengthOffset))
        let payload = quoted + inner
        switch packet[quoted + IPv4.protocolOffset] {
        case IPv4.protocolESP:
            guard packet.count >= payload + 4 else { return nil }
            spi = Self.word32(packet, payload)
        case IPv4.protocolUDP:
            guard packet.count >= payload + UDP.headerBytes + 4, Self.word16(packet, payload) == natTraversalPort else {
                return nil
            }
            spi = Self.word32(packet, payload + UDP.headerBytes)
        default: return nil
        }
        local = .v4(IPv4Address(bits: Self.word32(packet, quoted + IPv4.sourceOffset)))
        remote = .v4(IPv4Address(bits: Self.word32(packet, quoted + IPv4.destinationOffset)))
        // A packet that is no longer than that would have passed: whoever says so has not seen it dropped.
        guard announced < length else { return nil }
        mtu = announced > 0 ? announced : (Self.plateaus.first { $0 < length } ?? PathMTUTable.leastMTU)
    }

    /// From an ICMPv6 message without its IPv6 header, whose checksum the kernel has verified; nil as above.
    init?(icmpv6 message: [UInt8], natTraversalPort: UInt16) {
        guard message.count >= ICMPv6.headerBytes, message[0] == ICMPv6.packetTooBig, message[1] == 0 else { return nil }
        let quoted = Array(message.dropFirst(ICMPv6.headerBytes))
        guard let header = IPv6Header(quoted.span) else { return nil }
        let payload = IPv6.headerBytes
        switch header.nextHeader {
        case IPv6.nextHeaderESP:
            guard quoted.count >= payload + 4 else { return nil }
            spi = Self.word32(quoted, payload)
        case IPv6.nextHeaderUDP:
            guard quoted.count >= payload + UDP.headerBytes + 4, Self.word16(quoted, payload) == natTraversalPort else {
                return nil
            }
            spi = Self.word32(quoted, payload + UDP.headerBytes)
        default: return nil
        }
        (local, remote) = (.v6(header.source), .v6(header.destination))
        mtu = Int(Self.word32(message, 4))
        guard mtu < Int(header.payloadBytes) + IPv6.headerBytes else { return nil }
    }

    /// Octets of the IPv4 header at `start`; nil when there is none, whole.
    private static func headerBytes(_ packet: [UInt8], at start: Int) -> Int? {
        guard packet.count >= start + IPv4.minimumHeaderBytes, packet[start] >> 4 == 4 else { return nil }
        let bytes = Int(packet[start] & 15) * 4
        guard bytes >= IPv4.minimumHeaderBytes, packet.count >= start + bytes else { return nil }
        return bytes
    }

    private static func word16(_ bytes: [UInt8], _ at: Int) -> UInt16 { UInt16(bytes[at]) << 8 | UInt16(bytes[at + 1]) }
    private static func word32(_ bytes: [UInt8], _ at: Int) -> UInt32 {
        UInt32(word16(bytes, at)) << 16 | UInt32(word16(bytes, at + 2))
    }
}

/// Path MTUs that were learnt, each for a limited time.
struct PathMTUTable: Sendable {
    /// Less than this is never believed: every host must take 576 octets (RFC 791), and ESP must fit something.
    static let leastMTU = 576
    /// RFC 8201 §4: "A node MUST NOT reduce its estimate of the Path MTU below the IPv6 minimum link MTU."
    static let leastMTUOfIPv6 = IPv6.minimumMTU
    /// After this a larger MTU is tried again. RFC 1191 §6.3.
    static let lifetime: Duration = .seconds(600)
    /// What a forgotten entry is set to: no limit but the port's.
    static let unlimited = 65_535
    /// One entry per peer; a report for one more is ignored.
    static let limit = 4096

    private var entries: [IPAddress: (mtu: Int, expires: Instant)] = [:]

    subscript(remote: IPAddress) -> Int? { entries[remote]?.mtu }

    /// The MTU to use from now on; nil when nothing changes. A report only ever lowers it.
    mutating func learn(_ report: PathMTUReport, now: Instant) -> Int? {
        let mtu = max(report.remote.isIPv4 ? Self.leastMTU : Self.leastMTUOfIPv6, report.mtu)
        let known = entries[report.remote]
        guard mtu < known?.mtu ?? Self.unlimited, known != nil || entries.count < Self.limit else { return nil }
        entries[report.remote] = (mtu, now + Self.lifetime)
        return mtu
    }

    /// Peers whose entry has ended.
    mutating func expire(now: Instant) -> [IPAddress] {
        let ended = entries.filter { $0.value.expires <= now }.map(\.key)
        for remote in ended { entries[remote] = nil }
        return ended
    }
}
