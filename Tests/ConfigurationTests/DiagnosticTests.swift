import Configuration
import Testing

/// One change of the good file and the only diagnostic it must give: position, severity, and words of the text.
struct Fault: Sendable, CustomTestStringConvertible {
    var what: String
    var old: String
    var new: String
    var place: String
    var words: String
    var isWarning = false
    var testDescription: String { what }

    init(_ what: String, _ old: String, _ new: String, _ place: String, _ words: String, isWarning: Bool = false) {
        (self.what, self.old, self.new, self.place, self.words, self.isWarning) = (what, old, new, place, words, isWarning)
    }
}

private let keys: [Fault] = [
    Fault("unknown key, near", "remote_subnets:", "remote_subnet: ", "12:9", "did you mean `remote_subnets`?"),
    Fault("swapped letters", "children:", "chidlren:", "9:5", "did you mean `children`?"),
    Fault("unknown key, far", "psk:", "zzzzzzzz: 1\n    psk:", "8:5", "the nearest known key is"),
    Fault("key of another place", "psk:", "esp_proposals: [aes256gcm16]\n    psk:", "8:5", "it belongs in a child"),
    Fault(
        "key given again", "        local_subnets:", "        name: other\n        local_subnets:", "11:9",
        "`name` is given again; it stands in line 10"),
    Fault(
        "missing remote", "    remote: { address: 192.0.2.2, id: west.example, auth: psk }\n", "", "5:5", "`remote` is missing"),
    Fault("missing name of a child", "name: net\n        ", "", "10:9", "`name` is missing"),
    Fault("missing address", "address: 192.0.2.2, ", "", "7:13", "`address` is missing"),
    Fault("missing secret", "    psk: \"a-secret-of-more-than-twenty-characters\"\n", "", "5:5", "`psk_file` is missing"),
    Fault("missing role", "name: wan0, role: underlay", "name: wan0", "2:5", "`role` is missing"),
    Fault("key without a value", "name: west", "name:", "5:5", "`name` must be text, not nothing"),
    Fault("name given twice", "lan0", "wan0", "3:13", "interface `wan0` is given again; it stands in line 2"),
]

private let types: [Fault] = [
    Fault("text for a list", "[10.2.0.0/24]", "10.2.0.0/24", "12:25", "`remote_subnets` must be a list"),
    Fault("list for text", "name: west", "name: [west]", "5:11", "`name` must be text, not a list"),
    Fault(
        "text for a mapping", "{ address: 192.0.2.1, id: east.example, auth: psk }", "192.0.2.1", "6:13",
        "`local` must be keys with values"),
    Fault("mapping for an item", "[10.2.0.0/24]", "[{ a: b }]", "12:26", "each item of `remote_subnets` must be text"),
    Fault("empty list", "[10.2.0.0/24]", "[]", "12:25", "`remote_subnets` is empty"),
    Fault("empty text", "name: net", "name: \"\"", "10:15", "`name` must be text, not empty text"),
    Fault("name with a slash", "name: net", "name: a/b", "10:15", "`a/b` is not a name"),
    Fault("interface name too long", "wan0", "interfacename123", "2:13", "is not an interface name"),
]

private let addresses: [Fault] = [
    Fault("bad address", "192.0.2.2", "192.0.2.256", "7:24", "`192.0.2.256` is not an IP address"),
    Fault("host name", "address: 192.0.2.2", "address: gw.example", "7:24", "names are not resolved"),
    Fault("multicast address", "192.0.2.2", "224.0.0.1", "7:24", "not the address of one host"),
    Fault("addresses of two families", "192.0.2.2", "2001:db8::2", "7:24", "both ends need one family"),
    Fault("link-local address", "192.0.2.2", "\"fe80::2\"", "7:24", "is a link-local address"),
    Fault("IPv4 address in IPv6 form", "192.0.2.2", "\"::ffff:192.0.2.2\"", "7:24", "write 192.0.2.2"),
    Fault("IPv6 multicast address", "192.0.2.2", "\"ff02::1\"", "7:24", "not the address of one host"),
    Fault("IPv6 address of no host", "192.0.2.2", "\"::\"", "7:24", "not the address of one host"),
    Fault("IPv6 subnet", "[10.2.0.0/24]", "[\"2001:db8::/64\"]", "12:26", "IPv6 is not available in this version"),
    Fault("prefix too long", "10.2.0.0/24", "10.2.0.0/33", "12:26", "`10.2.0.0/33` in `remote_subnets` is not an address prefix"),
    Fault("host bits", "10.2.0.0/24", "10.2.0.9/24", "12:26", "10.2.0.0/24 is used", isWarning: true),
    Fault("same address on both sides", "192.0.2.2", "192.0.2.1", "7:13", "the same address 192.0.2.1"),
    Fault("local any", "192.0.2.1", "any", "6:24", "only `remote` may be `any`"),
    Fault("any address without identity", "address: 192.0.2.2, id: west.example", "address: any", "7:13", "`id` is missing"),
    Fault("subnet on both sides", "10.2.0.0/24", "10.1.0.0/24", "12:26", "10.1.0.0/24 is in `local_subnets` as well"),
    Fault(
        "subnet inside the other side's", "10.2.0.0/24", "10.1.0.128/25", "12:26", "the longer prefix decides", isWarning: true),
    Fault("subnet twice", "[10.2.0.0/24]", "[10.2.0.0/24, 10.2.0.0/24]", "12:39", "10.2.0.0/24 is given twice"),
    Fault(
        "subnet in a subnet", "[10.2.0.0/24]", "[10.2.0.0/24, 10.2.0.8/29]", "12:39", "the wider one is enough", isWarning: true),
    Fault("mistyped identity", "id: west.example", "id: 192.0.2.300", "7:39", "looks like an address and is none"),
    Fault("identity with @ in front", "id: west.example", "id: \"@west\"", "7:39", "write a name without `@` in front"),
    Fault("identity of an unknown type", "id: west.example", "id: { type: keyid, value: x }", "7:47", "did you mean `key-id`?"),
]

private let choices: [Fault] = [
    Fault("unknown role", "role: underlay", "role: overlay", "2:25", "did you mean `underlay`?"),
    Fault(
        "unknown start", "local_subnets:", "start: now\n        local_subnets:", "11:16", "known: immediately, on-traffic, manual"
    ),
    Fault("unknown nat_traversal", "psk:", "nat_traversal: yes\n    psk:", "8:20", "known: auto, force, off"),
    Fault("unknown auth", "auth: psk }\n    remote", "auth: pks }\n    remote", "6:59", "did you mean `psk`?"),
    Fault("no protected interface", "role: protected", "role: underlay", "1:1", "the role `protected` or `both`"),
]

private let amounts: [Fault] = [
    Fault("duration in words", "psk:", "dpd_interval: soon\n    psk:", "8:19", "not `soon`"),
    Fault("duration without a unit", "psk:", "dpd_interval: 10\n    psk:", "8:19", "`dpd_interval` needs a unit: `10s`"),
    Fault("lifetime too short", "psk:", "ike_lifetime: 4s\n    psk:", "8:19", "it must lie in 5s…30d"),
    Fault("lifetime beyond all numbers", "psk:", "ike_lifetime: 9223372036854775807d\n    psk:", "8:19", "it must lie in 5s…30d"),
    Fault("liveness off", "psk:", "dpd_interval: 0\n    psk:", "8:19", "`dpd_interval` is off", isWarning: true),
    Fault("window too small", "local_subnets:", "replay_window: 31\n        local_subnets:", "11:24", "it must lie in 32…65536"),
    Fault("window off", "local_subnets:", "replay_window: 0\n        local_subnets:", "11:24", "would accept replayed packets"),
    Fault("window in words", "local_subnets:", "replay_window: big\n        local_subnets:", "11:24", "must be a whole number"),
    Fault("size with a wrong unit", "local_subnets:", "lifetime_bytes: 10T\n        local_subnets:", "11:25", "with K, M or G"),
    Fault(
        "size beyond all numbers", "local_subnets:", "lifetime_bytes: 9999999999G\n        local_subnets:", "11:25",
        "with K, M or G"),
    Fault(
        "size that is tiny", "local_subnets:", "lifetime_bytes: 1K\n        local_subnets:", "11:25", "rekeyed all the time",
        isWarning: true),
]

private let proposals: [Fault] = [
    Fault("unknown algorithm", "psk:", "ike_proposals: [aes257gcm16-prfsha256-x25519]\n    psk:", "8:21", "aes257gcm16"),
    Fault("weak group", "psk:", "ike_proposals: [aes256-sha256-modp1024]\n    psk:", "8:21", "`allow_weak: [modp1024]`"),
    Fault("weak hash", "psk:", "ike_proposals: [aes256-sha1-modp2048]\n    psk:", "8:21", "SHA-1 is broken"),
    Fault(
        "allowed weak group", "psk:", "allow_weak: [modp1024]\n    ike_proposals: [aes256-sha256-modp1024]\n    psk:", "9:21",
        "not available in this version"),
    Fault("unknown weak name", "psk:", "allow_weak: [modp1025]\n    psk:", "8:18", "did you mean `modp1024`?"),
    Fault("no group", "psk:", "ike_proposals: [aes256gcm16-prfsha256]\n    psk:", "8:21", "key exchange"),
    Fault(
        "second item", "psk:", "ike_proposals: [aes256gcm16-prfsha256-x25519, 3des-md5-modp2048]\n    psk:", "8:51",
        "allow_weak: [3des]"),
    Fault(
        "ESP item", "local_subnets:",
        "esp_proposals: [aes256gcm16, aes256gcm17]\n        "
            + "local_subnets:", "11:38", "aes256gcm17"),
    Fault(
        "same proposal twice", "local_subnets:", "esp_proposals: [aes256gcm16, aes256gcm16]\n        local_subnets:", "11:38",
        "says the same", isWarning: true),
    Fault("no proposals", "psk:", "ike_proposals: []\n    psk:", "8:20", "remove it to get the defaults"),
]

private let unavailable: [Fault] = [
    Fault("IKEv1", "psk:", "version: 1\n    psk:", "8:14", "IKEv1 is not available in this version"),
    Fault("IKEv3", "psk:", "version: 3\n    psk:", "8:14", "it must be 2"),
    Fault(
        "transport mode", "local_subnets:", "mode: transport\n        local_subnets:", "11:15", "not available in this version"),
    Fault(
        "tunnel interface", "local_subnets:", "tunnel_interface: cv0\n        local_subnets:", "11:9",
        "not available in this version"),
    Fault(
        "metrics", "interfaces:", "gateway: { metrics_listen: \"127.0.0.1:9472\" }\ninterfaces:", "1:12", "no metrics are served",
        isWarning: true),
]

private let secrets: [Fault] = [
    Fault(
        "short secret", "a-secret-of-more-than-twenty-characters", "short", "8:10",
        "shorter than 20 "
            + "characters", isWarning: true),
    Fault("empty secret", "\"a-secret-of-more-than-twenty-characters\"", "\"\"", "8:10", "`psk` is empty"),
    Fault("both secrets", "    psk:", "    psk_file: west.psk\n    psk:", "9:5", "`psk` and `psk_file` are both given"),
    Fault(
        "absent file", "psk: \"a-secret-of-more-than-twenty-characters\"", "psk_file: west.psk", "8:15",
        "`/nonexistent/west.psk` does not exist"),
    Fault("secret that is a list", "\"a-secret-of-more-than-twenty-characters\"", "[hunter2]", "8:10", "`psk` must be text"),
]

private let machine: [Fault] = [
    Fault(
        "frames not a power of two", "interfaces:", "dataplane: { frames_per_worker: 5000 }\ninterfaces:", "1:33",
        "such as 4096 or 8192"),
    Fault(
        "too few frames", "interfaces:", "dataplane: { frames_per_worker: 64 }\ninterfaces:", "1:33",
        "it must lie in 1024…1048576"),
    Fault("CPU twice", "interfaces:", "dataplane: { workers: [2, 3, 2] }\ninterfaces:", "1:30", "CPU 2 is given twice"),
    Fault("no workers", "interfaces:", "dataplane: { workers: 0 }\ninterfaces:", "1:23", "it must lie in 1…64"),
    Fault("workers in words", "interfaces:", "dataplane: { workers: many }\ninterfaces:", "1:23", "`workers` must be `auto`"),
    Fault("engine", "interfaces:", "dataplane: { engine: openssk }\ninterfaces:", "1:22", "did you mean `openssl`?"),
    Fault(
        "bad endpoint", "interfaces:", "gateway: { metrics_listen: 9472 }\ninterfaces:", "1:28", "is not an address and a port"),
    Fault(
        "log level", "interfaces:", "gateway: { log: { level: verbose } }\ninterfaces:", "1:26",
        "known: debug, info, warning, error"),
]

private let policies: [Fault] = [
    Fault("everything bypasses", "interfaces:", "policies: [{ action: bypass }]\ninterfaces:", "1:12", "let everything bypass"),
    Fault(
        "ports without a protocol", "interfaces:", "policies: [{ action: discard, destination_ports: 53 }]\ninterfaces:", "1:31",
        "needs `protocol: tcp`"),
    Fault(
        "ports upside down", "interfaces:", "policies: [{ action: discard, protocol: udp, source_ports: 9-1 }]\ninterfaces:",
        "1:60", "is not a port or a range"),
    Fault(
        "unknown protocol", "interfaces:", "policies: [{ action: discard, protocol: tpc }]\ninterfaces:", "1:41",
        "did you mean `tcp`?"),
    Fault("unknown action", "interfaces:", "policies: [{ action: drop }]\ninterfaces:", "1:22", "known: bypass, discard"),
    Fault(
        "bypass past the tunnel", "interfaces:", "policies: [{ action: bypass, destination: 10.0.0.0/8 }]\ninterfaces:", "1:12",
        "in the clear", isWarning: true),
    Fault(
        "a bypass for ports of a protected prefix", "interfaces:",
        "policies: [{ action: bypass, destination: 10.2.0.0/16, protocol: udp, destination_ports: 53 }]\ninterfaces:", "1:12",
        "a protocol or for ports inside what `west/net` protects"),
    Fault(
        "a bypass for a protocol anywhere", "interfaces:", "policies: [{ action: bypass, protocol: icmp }]\ninterfaces:", "1:12",
        "only whole prefixes can go past a tunnel"),
    Fault(
        "a bypass for the answers' ports", "interfaces:",
        "policies: [{ action: bypass, source: 10.2.0.9/32, destination: 10.1.0.0/24, protocol: tcp, source_ports: 80 }]\n"
            + "interfaces:", "1:12", "remove `protocol` and the ports"),
    Fault(
        "a bypass that a discard cuts into", "interfaces:",
        "policies: [{ action: discard, destination: 10.2.0.9/32 }, { action: bypass, destination: 10.2.0.0/28 }]\ninterfaces:",
        "1:59", "put the bypass first"),
]

@Suite struct DiagnosticTests {
    @Test(arguments: keys + types + addresses + choices + amounts)
    func `A faulty value is told at its place`(_ fault: Fault) throws { try check(fault) }

    @Test(arguments: proposals + unavailable + secrets + machine + policies)
    func `A refused choice is told at its place`(_ fault: Fault) throws { try check(fault) }

    private func check(_ fault: Fault) throws {
        let loaded = try parse(changed(fault.old, fault.new))
        let all = told(loaded)
        #expect(all.count == 1, "\(all)")
        let only = all.first ?? ""
        #expect(only.hasPrefix("\(fault.place) \(fault.isWarning ? "warning" : "error") "), "\(only)")
        #expect(only.contains(fault.words), "\(only)")
        #expect((loaded.configuration != nil) == fault.isWarning)
    }

    @Test func `The good file has no problems`() throws { _ = try accepted(good) }

    @Test func `Every problem is told at once and in the file's order`() throws {
        let text = try changed("underlay", "overlay").replacing("192.0.2.2,", with: "192.0.2.256,").replacing(
            "name: net", with: "nam: net")
        let places = told(parse(text)).map { $0.split(separator: " ")[0] }
        #expect(places == ["2:25", "7:24", "10:9"])
    }

    @Test func `Every duplicate key is told with the line of the first`() throws {
        let text = """
            interfaces: [{ name: a, role: both, name: b }]
            interfaces: []
            connections: []
            "connections": []
            """
        #expect(
            told(parse(text)) == [
                "1:37 error `name` is given again; it stands in line 1 already",
                "2:1 error `interfaces` is given again; it stands in line 1 already",
                "3:14 warning `connections` is empty; nothing will be protected",
                "4:1 error `connections` is given again; it stands in line 3 already",
            ])
    }

    @Test func `What is missing at the top is told at the top`() {
        #expect(
            told(parse("gateway: { name: x }\n")) == [
                "1:1 error `connections` is missing: name the peers and what to protect, or write `connections: []`",
                "1:1 error `interfaces` is missing: name the ports and their roles, like `- { name: wan0, role: underlay }`",
            ])
    }

    @Test func `The same traffic in two connections is an error, overlapping traffic a warning`() throws {
        let second = """
              - name: north
                local:  { address: 192.0.2.1 }
                remote: { address: 192.0.2.3 }
                psk: "another-secret-of-more-than-twenty"
                children:
                  - { name: net, local_subnets: [10.1.0.0/24], remote_subnets: [SUBNET] }

            """
        let same = told(parse(good + second.replacing("SUBNET", with: "10.2.0.0/24")))
        #expect(
            same == [
                "18:69 error 10.1.0.0/24 to 10.2.0.0/24 belongs to `west/net` already; two children cannot carry the same traffic"
            ])
        let partly = told(parse(good + second.replacing("SUBNET", with: "10.2.0.0/16")))
        #expect(partly.count == 1 && partly[0].hasPrefix("18:69 warning ") && partly[0].contains("west/net"))
        #expect(told(parse(good + second.replacing("SUBNET", with: "10.3.0.0/24"))) == [])
    }

    @Test func `Two connections that a caller cannot tell apart are a warning`() throws {
        let second = """
              - name: again
                local:  { address: 192.0.2.1, id: east.example }
                remote: { address: 192.0.2.2, id: west.example }
                psk: "another-secret-of-more-than-twenty"
                children:
                  - { name: net, local_subnets: [10.1.0.0/24], remote_subnets: [10.3.0.0/24] }

            """
        let all = told(parse(good + second))
        #expect(all.count == 1 && all[0].hasPrefix("13:11 warning ") && all[0].contains("`west`"))
    }

    @Test func `A connection's name is given once`() throws {
        let all = told(parse(good + good.split(separator: "\n")[4...].joined(separator: "\n")))
        #expect(all.contains("13:11 error connection `west` is given again; it stands in line 5 already"))
    }

    @Test func `Diagnostics are bounded`() {
        let text = good + "policies: [" + Array(repeating: "{ action: x }", count: 1000).joined(separator: ",\n") + "]\n"
        let all = parse(text).diagnostics
        #expect(all.count == ConfigurationReader.maxDiagnostics + 1)
        #expect(all.last?.text.contains("more problems") == true)
    }

    @Test(arguments: [
        "{ action: bypass, destination: 10.3.0.0/16, protocol: udp }",
        "{ action: bypass, source: 10.1.0.0/24, destination: 10.1.0.9/32, protocol: icmp }",
        "{ action: bypass, source: 10.2.0.0/24, destination: 10.9.0.0/24, protocol: tcp }",
        "{ action: bypass, destination: 10.2.0.0/28 }, { action: discard, destination: 10.2.0.9/32 }",
        "{ action: discard, destination: 10.3.0.9/32 }, { action: bypass, destination: 10.3.0.0/28 }",
        "{ action: discard, destination: 10.2.0.0/24, protocol: udp, destination_ports: 53 }",
    ])
    func `A policy that can be obeyed is taken`(_ policies: String) throws {
        _ = try accepted("policies: [\(policies)]\n" + good)
    }

    @Test func `Bypasses inside a tunnel for everything may not touch more than the site's own networks`() throws {
        let wide = good.replacingOccurrences(of: "[10.2.0.0/24]", with: "[0.0.0.0/0]")
        _ = try accepted("policies: [{ action: bypass, destination: 10.1.0.128/25, protocol: icmp }]\n" + wide)
        let all = told(parse("policies: [{ action: bypass, destination: 203.0.113.0/24, protocol: icmp }]\n" + wide))
        #expect(all.count == 1 && all[0].contains("only whole prefixes"), "\(all)")
    }
}
