import Testing
import Wire

/// Spans cannot be made inside an expectation.
private func header(_ bytes: [UInt8]) -> IPv6Header? { IPv6Header(bytes.span) }
private func sum(_ bytes: [UInt8], initial: UInt32 = 0) -> UInt16 { Checksum.fold(Checksum.sum(bytes.span, initial: initial)) }
private func v6(_ text: String) throws -> IPv6Address { try #require(IPv6Address(text)) }

@Suite("IPv6 headers and addresses")
struct IPv6Tests {
    /// Laid out by hand from the figure in RFC 8200 §3.
    private static let laidOut: [UInt8] =
        [0x6B, 0x91, 0x23, 0x45, 0x05, 0x78, 50, 64]
        + [0x20, 0x01, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
        + [0x20, 0x01, 0x0D, 0xB8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xFF, 2]

    @Test("a header is written as RFC 8200's figure has it, and read back")
    func layout() throws {
        let written = IPv6Header(
            source: try v6("2001:db8::1"), destination: try v6("2001:db8:0:1::ff02"), nextHeader: IPv6.nextHeaderESP,
            payloadBytes: 1400, trafficClass: 0xB9, flowLabel: 0x1_2345)
        #expect(written.bytes == Self.laidOut)
        #expect(header(Self.laidOut) == written)
    }

    @Test("the offsets are those of the figure")
    func offsets() {
        #expect(Self.laidOut[IPv6.nextHeaderOffset] == 50 && Self.laidOut[IPv6.hopLimitOffset] == 64)
        #expect(Self.laidOut[IPv6.payloadLengthOffset] == 0x05 && Self.laidOut[IPv6.payloadLengthOffset + 1] == 0x78)
        #expect(Self.laidOut[IPv6.sourceOffset + 15] == 1 && Self.laidOut[IPv6.destinationOffset + 15] == 2)
        #expect(Self.laidOut.count == IPv6.headerBytes)
    }

    @Test("what is cut short, or of another version, is no header")
    func refused() {
        for length in 0..<IPv6.headerBytes { #expect(header(Array(Self.laidOut.prefix(length))) == nil) }
        var four = Self.laidOut
        four[0] = 0x45
        #expect(header(four) == nil)
        #expect(header(Self.laidOut + [1, 2, 3]) != nil, "what follows is the payload")
    }

    @Test("a flow label has twenty bits, whatever it is made from")
    func flowLabel() throws {
        let header = IPv6Header(
            source: try v6("::1"), destination: try v6("::1"), nextHeader: 59, payloadBytes: 0, flowLabel: .max)
        #expect(header.bytes[0..<4] == [0x60, 0x0F, 0xFF, 0xFF])
    }

    /// An echo request from fe80::2 to fe80::1 with identifier 1 and sequence 2; summed by hand: addresses fe80+2+fe80+1, length
    /// 8, next header 3a, message 8000+1+2 give 27d48 without the carries and 7d4a with them.
    @Test("a checksum over the pseudo-header is what RFC 8200 says it is")
    func pseudoHeader() throws {
        let message: [UInt8] = [0x80, 0, 0, 0, 0, 1, 0, 2]
        let pseudo = Checksum.pseudoHeaderIPv6(
            source: try v6("fe80::2"), destination: try v6("fe80::1"), nextHeader: IPv6.nextHeaderICMP, length: 8)
        let total = 0xFE80 + 2 + 0xFE80 + 1 + 8 + 0x3A + 0x8000 + 1 + 2
        let folded = (total & 0xFFFF) + (total >> 16)
        #expect(folded == 0x7D4A)
        #expect(sum(message, initial: pseudo) == UInt16(folded))
    }

    @Test("every word of both addresses counts in the pseudo-header, and so does a long length")
    func everyWord() throws {
        let source = try v6("1:2:3:4:5:6:7:8")
        let destination = try v6("100:200:300:400:500:600:700:800")
        let sum = Checksum.pseudoHeaderIPv6(source: source, destination: destination, nextHeader: 17, length: 0x1_0002)
        #expect(sum == 36 + 36 * 0x100 + 17 + 1 + 2)
    }

    /// Unspecified, loopback, link-local, multicast, IPv4-mapped.
    private static let specials: [(String, [Bool])] = [
        ("::", [true, false, false, false, false]), ("::1", [false, true, false, false, false]),
        ("fe80::1", [false, false, true, false, false]), ("febf:ffff::1", [false, false, true, false, false]),
        ("fec0::1", [false, false, false, false, false]), ("ff02::1", [false, false, false, true, false]),
        ("::ffff:192.0.2.1", [false, false, false, false, true]), ("::fffe:192.0.2.1", [false, false, false, false, false]),
        ("2001:db8::1", [false, false, false, false, false]), ("fd00::1", [false, false, false, false, false]),
    ]

    @Test("special addresses are known for what they are")
    func special() throws {
        for (text, expected) in Self.specials {
            let address = try v6(text)
            let found = [
                address.isUnspecified, address.isLoopback, address.isLinkLocal, address.isMulticast, address.isIPv4Mapped,
            ]
            #expect(found == expected, "\(text)")
        }
    }

    @Test("an address of either family gives its own and not the other")
    func families() throws {
        let six = IPAddress.v6(try v6("2001:db8::1"))
        let four = IPAddress.v4(try #require(IPv4Address("192.0.2.1")))
        #expect(six.v6 != nil && six.v4 == nil && four.v4 != nil && four.v6 == nil)
        #expect(IPAddress(bytes: six.bytes) == six)
    }
}
