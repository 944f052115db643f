import Configuration
import IPsec
import Testing

@Suite struct SizeKeyTests {
    private func sizes(_ lines: String) throws -> TunnelSizes {
        try accepted(changed("local_subnets:", "\(lines)\n        local_subnets:")).connections[0].children[0].sizes
    }

    @Test func `df, mtu and mss arrive in the model`() throws {
        let plain = try accepted(good).connections[0].children[0].sizes
        #expect(plain == TunnelSizes() && plain.dontFragment == .set && plain.mtu == 0 && plain.mss == .automatic)
        #expect(try sizes("df: copy").dontFragment == .copy)
        #expect(try sizes("df: clear").dontFragment == .clear)
        #expect(try sizes("mtu: 1300").mtu == 1300)
        #expect(try sizes("mss: 1200").mss == .at(1200))
        #expect(try sizes("mss: off").mss == .untouched)
        #expect(try sizes("mss: \"off\"").mss == .untouched)
        #expect(try sizes("mss: auto").mss == .automatic)
    }

    @Test func `a profile may have them`() throws {
        let profile = try accepted(changed("connections:", "profiles: { default: { df: clear, mss: off } }\nconnections:"))
        let sizes = profile.connections[0].children[0].sizes
        #expect(sizes.dontFragment == .clear && sizes.mss == .untouched)
    }

    @Test(arguments: [
        ("df: maybe", "known: copy, set, clear"), ("mtu: 500", "it must lie in 576…9000"), ("mtu: big", "whole number"),
        ("mss: 10", "it must lie in 88…8960"), ("mss: none", "whole number"),
    ])
    func `a value that cannot be is told`(_ line: String, _ words: String) throws {
        let loaded = try parse(changed("local_subnets:", "\(line)\n        local_subnets:"))
        #expect(told(loaded).contains { $0.contains(words) }, "\(told(loaded))")
        #expect(loaded.configuration == nil)
    }
}
