import Testing
import Wire

/// Spans cannot be made inside an expectation.
private func sum(_ bytes: [UInt8], initial: UInt32 = 0) -> UInt32 { Checksum.sum(bytes.span, initial: initial) }

@Suite("IPv4 headers, checksums and prefixes")
struct HeaderTests {
    /// RFC 1071 §3's example: 0001 f203 f4f5 f6f7 sum to ddf2.
    @Test("the checksum of RFC 1071's example comes out, from an odd length too")
    func checksum() {
        let octets: [UInt8] = [0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7]
        #expect(Checksum.fold(sum(octets)) == 0xDDF2)
        #expect(sum([1, 2, 3]) == 0x0102 + 0x0300)
        #expect(sum([], initial: 7) == 7)
    }

    /// RFC 1624 §4's example: a word goes from 5555 to 3285, and DD2F becomes 0000, not FFFF.
    @Test("a checksum is adjusted as RFC 1624's example has it")
    func adjusted() { #expect(Checksum.adjusted(0xDD2F, from: 0x5555, to: 0x3285) == 0x0000) }

    @Test("an IPv4 header's checksum is right, and its length has a bound")
    func header() throws {
        let (a, b) = (try #require(IPv4Address("192.0.2.1")), try #require(IPv4Address("198.51.100.2")))
        let header = IPv4Header.bytes(source: a, destination: b, protocolNumber: 50, payloadBytes: 100, tos: 0xB8)
        #expect(header.count == 20 && Checksum.fold(sum(header)) == 0xFFFF)
        #expect(header[2] == 0 && header[3] == 120 && header[1] == 0xB8 && header[9] == 50)
        let huge = IPv4Header.bytes(source: a, destination: b, protocolNumber: 50, payloadBytes: 1 << 20)
        #expect(huge[2] == 0xFF && huge[3] == 0xFF)
    }

    /// Rows inner, columns outer, from RFC 6040 figure 4; nil is a drop.
    @Test("ECN comes out of a tunnel by RFC 6040's table")
    func ecn() {
        let table: [[UInt8?]] = [[0, 0, 0, nil], [1, 1, 1, 3], [2, 1, 2, 3], [3, 3, 3, 3]]
        for inner in 0..<UInt8(4) {
            for outer in 0..<UInt8(4) {
                #expect(ECN.decapsulated(inner: inner, outer: outer) == table[Int(inner)][Int(outer)])
            }
        }
    }

    private static let noAddresses = [
        "", ":", ":::", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1::2::3", "12345::", "g::", "fe80::1%eth0", "1:2:3:4:5:6:7:8::",
        "::1.2.3", "+1::", "1.2.3.4::", "192.0.2.1",
    ]

    @Test("text that is no IPv6 address is refused")
    func noAddress() {
        for text in Self.noAddresses { #expect(IPv6Address(text) == nil, "\(text)") }
    }

    /// Text and how RFC 5952 §4 wants it, for each of its reasons.
    private static let canonical: [(String, String)] = [
        ("2001:0db8:0:0:0:0:0:0001", "2001:db8::1"), ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"),
        ("2001:0:0:1:0:0:0:1", "2001:0:0:1::1"), ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
        ("2001:DB8::AAAA", "2001:db8::aaaa"), ("0:0:0:0:0:0:0:0", "::"), ("::FFFF:192.0.2.1", "::ffff:c000:201"),
        ("1:0:0:0:0:0:0:0", "1::"),
    ]

    @Test("IPv6 addresses are written as RFC 5952 says")
    func written() throws {
        for (text, expected) in Self.canonical {
            let address = try #require(IPv6Address(text))
            #expect(address.description == expected)
            #expect(IPv6Address(expected) == address)
        }
    }

    private static let coverage: [(String, String, Bool)] = [
        ("2001:db8::/32", "2001:db8:ffff::1", true), ("2001:db8::/32", "2001:db9::1", false),
        ("2001:db8::/64", "2001:db8::ffff:1", true), ("2001:db8::/64", "2001:db8:0:1::1", false),
        ("2001:db8::/127", "2001:db8::1", true), ("2001:db8::/127", "2001:db8::2", false), ("::/0", "ff02::1", true),
        ("::/0", "192.0.2.1", false), ("0.0.0.0/0", "::1", false),
    ]

    @Test("an IPv6 prefix covers what it should, on either side of its middle")
    func prefixes() throws {
        for (text, address, isInside) in Self.coverage {
            let prefix = try #require(IPPrefix(text))
            #expect(prefix.contains(try #require(IPAddress(address))) == isInside, "\(text) and \(address)")
            #expect(prefix.contains(prefix.last))
        }
    }
}
