import Configuration
import IKE
import Testing

@Suite struct LifetimeKeyTests {
    @Test func `reauth_time and dpd_action arrive in the model, from a profile too`() throws {
        let own = try accepted(changed("psk:", "reauth_time: 3h\n    dpd_action: wait\n    psk:"))
        #expect(own.connections[0].reauthTime == .seconds(3 * 3600) && own.connections[0].dpdAction == .wait)
        let profile = try accepted(
            changed("connections:", "profiles: { default: { reauth_time: 1d, dpd_action: restart } }\nconnections:"))
        #expect(profile.connections[0].reauthTime == .seconds(86_400) && profile.connections[0].dpdAction == .restart)
        let neither = try accepted(good)
        #expect(neither.connections[0].reauthTime == .zero && neither.connections[0].dpdAction == nil)
        #expect(try accepted(changed("psk:", "reauth_time: 0\n    psk:")).connections[0].reauthTime == .zero)
    }

    @Test(arguments: [
        ("dpd_action: hold", "8:17", "known: restart, wait, clear"), ("reauth_time: 3", "8:18", "`3s`, `3m` or `3h`"),
        ("reauth_time: 1s", "8:18", "it must lie in"), ("dpd_actoin: wait", "8:5", "did you mean `dpd_action`?"),
    ])
    func `a value that cannot be is told at its place`(_ line: String, _ place: String, _ words: String) throws {
        let loaded = try parse(changed("psk:", "\(line)\n    psk:"))
        let only = told(loaded)
        #expect(only.count == 1 && only[0].hasPrefix("\(place) error ") && only[0].contains(words), "\(only)")
        #expect(loaded.configuration == nil)
    }

    @Test func `what has no effect is warned of`() throws {
        let deaf = try parse(changed("psk:", "dpd_interval: 0\n    dpd_action: clear\n    psk:"))
        #expect(told(deaf).contains { $0.hasPrefix("9:17 warning ") && $0.contains("no effect") })
        let anywhere = try changed("address: 192.0.2.2", "address: any").replacing(
            "    psk:", with: "    reauth_time: 3h\n    dpd_action: wait\n    psk:")
        let all = told(parse(anywhere))
        #expect(all.contains { $0.hasPrefix("8:18 warning ") && $0.contains("cut off") }, "\(all)")
        #expect(all.contains { $0.hasPrefix("9:17 warning ") && $0.contains("`dpd_action: clear`") }, "\(all)")
    }
}
