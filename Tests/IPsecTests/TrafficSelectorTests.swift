import IPsec
import Testing
import Wire

private func address(_ text: String) -> IPAddress { IPAddress(text)! }
private func range(_ first: String, _ last: String, _ number: UInt8 = 0, _ ports: ClosedRange<UInt16> = 0...65535)
    -> TrafficSelector
{
    TrafficSelector(first: address(first), last: address(last), ipProtocol: number, ports: ports)
}
private func prefix(_ text: String, _ number: UInt8 = 0, _ ports: ClosedRange<UInt16> = 0...65535) -> TrafficSelector {
    TrafficSelector(IPPrefix(text)!, ipProtocol: number, ports: ports)
}

@Suite("Traffic selectors, RFC 4301 §4.4.1.1 and RFC 7296 §2.9")
struct TrafficSelectorTests {
    @Test(
        "a prefix is the range from its first to its last address",
        arguments: [
            ("10.1.0.0/16", "10.1.0.0", "10.1.255.255"), ("0.0.0.0/0", "0.0.0.0", "255.255.255.255"),
            ("192.0.2.7/32", "192.0.2.7", "192.0.2.7"), ("2001:db8::/32", "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
        ])
    func prefixes(_ text: String, _ first: String, _ last: String) {
        #expect(prefix(text) == range(first, last))
        #expect(prefix(text).prefixes == [IPPrefix(text)!])
    }

    @Test(
        "a range is covered by the least prefixes, without a gap or an overlap",
        arguments: [
            ("10.0.0.0", "10.0.0.255", 1), ("10.0.0.1", "10.0.0.6", 4), ("10.0.0.0", "10.0.1.127", 2),
            ("0.0.0.0", "255.255.255.255", 1), ("255.255.255.255", "255.255.255.255", 1), ("0.0.0.1", "255.255.255.254", 62),
        ])
    func cover(_ first: String, _ last: String, _ count: Int) {
        let prefixes = range(first, last).prefixes
        #expect(prefixes.count == count)
        #expect(prefixes.first?.address == address(first) && prefixes.last?.last == address(last))
        for (one, next) in zip(prefixes, prefixes.dropFirst()) {
            #expect(UInt64(one.last.v4!.bits) + 1 == UInt64(next.address.v4!.bits))
        }
    }

    @Test("the intersection is what both allow, whichever is asked")
    func intersection() {
        let cases: [(TrafficSelector, TrafficSelector, TrafficSelector?)] = [
            (prefix("10.1.0.0/16"), prefix("10.1.2.0/24"), prefix("10.1.2.0/24")),
            (range("10.0.0.5", "10.0.0.20"), range("10.0.0.10", "10.0.0.30"), range("10.0.0.10", "10.0.0.20")),
            (prefix("10.1.0.0/16"), prefix("10.2.0.0/16"), nil),
            (prefix("10.0.0.0/8", 6), prefix("10.1.0.0/16"), prefix("10.1.0.0/16", 6)),
            (prefix("10.0.0.0/8", 6), prefix("10.1.0.0/16", 17), nil),
            (prefix("10.0.0.0/8", 6, 80...443), prefix("10.0.0.0/8", 6, 100...500), prefix("10.0.0.0/8", 6, 100...443)),
            (prefix("10.0.0.0/8", 6, 80...80), prefix("10.0.0.0/8", 6, 81...90), nil),
            (prefix("0.0.0.0/0"), prefix("::/0"), nil),
            (prefix("2001:db8::/32"), prefix("2001:db8:1::/48", 17, 53...53), prefix("2001:db8:1::/48", 17, 53...53)),
        ]
        for (a, b, expected) in cases {
            #expect(a.intersection(b) == expected)
            #expect(b.intersection(a) == expected)
        }
    }

    @Test("what contains what")
    func containing() {
        #expect(prefix("10.0.0.0/8").contains(prefix("10.1.0.0/16", 17, 53...53)))
        #expect(!prefix("10.1.0.0/16", 17, 53...53).contains(prefix("10.1.0.0/16")))
        #expect(!prefix("10.1.0.0/16").contains(range("10.1.255.255", "10.2.0.0")))
        #expect(prefix("10.1.0.0/16").contains(address("10.1.255.255")))
        #expect(!prefix("10.1.0.0/16").contains(address("10.2.0.0")))
        #expect(!prefix("0.0.0.0/0").contains(address("::1")))
    }

    @Test(
        "selectors are written as an operator would",
        arguments: [
            (prefix("10.1.0.0/24"), "10.1.0.0/24"), (range("10.1.0.5", "10.1.0.9"), "10.1.0.5-10.1.0.9"),
            (prefix("10.1.0.0/24", 17, 53...53), "10.1.0.0/24[udp/53]"),
            (prefix("10.1.0.0/24", 6, 1...1023), "10.1.0.0/24[tcp/1-1023]"), (prefix("10.1.0.0/24", 1), "10.1.0.0/24[icmp]"),
            (prefix("10.1.0.0/24", 132), "10.1.0.0/24[132]"), (prefix("10.1.0.0/24", 0, 7...7), "10.1.0.0/24[any/7]"),
        ])
    func description(_ selector: TrafficSelector, _ text: String) {
        #expect(selector.description == text)
    }
}
