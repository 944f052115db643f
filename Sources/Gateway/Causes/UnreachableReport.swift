import IKE
import Wire

/// An ICMP "destination unreachable" about IKE of ours, other than those about path MTU. RFC 792, RFC 1812 §5.2.7.1,
/// RFC 4443 §3.1. Anybody can send one: it explains a silence, and ends nothing.
struct UnreachableReport: Hashable, Sendable {
    enum Kind: Hashable, Sendable {
        /// The machine is there, and nobody listens.
        case port
        /// A router has no way there.
        case noWay
        /// A firewall refuses.
        case prohibited
    }

    var kind: Kind
    /// Where our datagram went, and its port.
    var remote: IPAddress
    var port: UInt16
    var local: IPAddress
    /// Who says so.
    var reporter: IPAddress
    var at: Instant

    /// From a whole IPv4 packet; nil when it is anything else, or not about a datagram from one of our ports.
    init?(_ packet: [UInt8], ports: [UInt16], now: Instant) {
        guard let outer = ICMPQuote(packet), outer.type == 3, let kind = Self.kind(ipv4: outer.code),
            let quoted = outer.quotedUDP, ports.contains(quoted.source.port)
        else { return nil }
        self.init(
            kind: kind, remote: quoted.destination.address, port: quoted.destination.port, local: quoted.source.address,
            reporter: outer.reporter, at: now)
    }

    /// From an ICMPv6 message without its IPv6 header.
    init?(icmpv6 message: [UInt8], from reporter: IPv6Address, ports: [UInt16], now: Instant) {
        guard message.count >= ICMPv6.headerBytes, message[0] == ICMPv6.destinationUnreachable,
            let kind = Self.kind(ipv6: message[1])
        else { return nil }
        let quoted = Array(message.dropFirst(ICMPv6.headerBytes))
        guard let header = IPv6Header(quoted.span), header.nextHeader == IPv6.nextHeaderUDP,
            quoted.count >= IPv6.headerBytes + 4
        else { return nil }
        let source = Octets16.word(quoted, IPv6.headerBytes)
        guard ports.contains(source) else { return nil }
        self.init(
            kind: kind, remote: .v6(header.destination), port: Octets16.word(quoted, IPv6.headerBytes + 2),
            local: .v6(header.source), reporter: .v6(reporter), at: now)
    }

    init(kind: Kind, remote: IPAddress, port: UInt16, local: IPAddress, reporter: IPAddress, at: Instant) {
        (self.kind, self.remote, self.port, self.local) = (kind, remote, port, local)
        (self.reporter, self.at) = (reporter, at)
    }

    private static func kind(ipv4 code: UInt8) -> Kind? {
        switch code {
        case 3: .port
        case 0, 1, 5, 6, 7, 8, 11, 12: .noWay
        case 9, 10, 13: .prohibited
        default: nil
        }
    }

    private static func kind(ipv6 code: UInt8) -> Kind? {
        switch code {
        case 4: .port
        case 0, 2, 3, 6: .noWay
        case 1, 5: .prohibited
        default: nil
        }
    }
}

/// Of an ICMP error over IPv4: who sent it, and the UDP datagram that it quotes.
private struct ICMPQuote {
    var type: UInt8
    var code: UInt8
    var reporter: IPAddress
    var quotedUDP: (source: Endpoint, destination: Endpoint)?

    init?(_ packet: [UInt8]) {
        guard let outer = Self.headerBytes(packet, at: 0), packet[IPv4.protocolOffset] == IPv4.protocolICMP,
            packet.count >= outer + 8
        else { return nil }
        (type, code) = (packet[outer], packet[outer + 1])
        reporter = Self.address(packet, IPv4.sourceOffset)
        let quoted = outer + 8
        guard let inner = Self.headerBytes(packet, at: quoted), packet.count >= quoted + inner + 4,
            packet[quoted + IPv4.protocolOffset] == IPv4.protocolUDP
        else { return }
        quotedUDP = (
            Endpoint(Self.address(packet, quoted + IPv4.sourceOffset), Octets16.word(packet, quoted + inner)),
            Endpoint(Self.address(packet, quoted + IPv4.destinationOffset), Octets16.word(packet, quoted + inner + 2))
        )
    }

    private static func headerBytes(_ packet: [UInt8], at start: Int) -> Int? {
        guard packet.count >= start + IPv4.minimumHeaderBytes, packet[start] >> 4 == 4 else { return nil }
        let bytes = Int(packet[start] & 15) * 4
        return bytes >= IPv4.minimumHeaderBytes && packet.count >= start + bytes ? bytes : nil
    }

    private static func address(_ packet: [UInt8], _ at: Int) -> IPAddress {
        .v4(IPv4Address(bits: UInt32(Octets16.word(packet, at)) << 16 | UInt32(Octets16.word(packet, at + 2))))
    }
}

private enum Octets16 {
    static func word(_ bytes: [UInt8], _ at: Int) -> UInt16 { UInt16(bytes[at]) << 8 | UInt16(bytes[at + 1]) }
}
