import Configuration
import IKE
import IPsec
import Testing
import Wire

@Suite struct ModelTests {
    @Test func `What the file leaves out has a default that is safe to deploy`() throws {
        let configuration = try accepted(good)
        #expect(configuration.name == "culvert")
        #expect(configuration.controlSocket == "/run/culvert/culvert.sock")
        #expect(configuration.metricsListen == nil)
        #expect(configuration.log == GatewayConfiguration.Log(level: .info, format: .text))
        #expect(configuration.dataplane == GatewayConfiguration.Dataplane())
        #expect(configuration.dataplane.workers == .auto && configuration.dataplane.framesPerWorker == 8192)
        #expect(configuration.interfaces == [.init(name: "wan0", role: .underlay), .init(name: "lan0", role: .protected)])
        let connection = try #require(configuration.connections.first)
        #expect(connection.ikeProposals == IKEProposal.defaults && connection.ikeLifetime == .seconds(4 * 3600))
        #expect(connection.dpdInterval == .seconds(10) && connection.natTraversal == .auto)
        #expect(connection.presharedKey == Array("a-secret-of-more-than-twenty-characters".utf8))
        let child = try #require(connection.children.first)
        #expect(child.espProposals == ESPProposal.defaults && child.lifetime == .seconds(3600))
        #expect(child.lifetimeBytes == 0 && child.lifetimePackets == 0 && child.replayWindowPackets == 4096)
        #expect(child.start == .immediately && child.mode == .tunnel)
        #expect(
            child.localSubnets.map(\.description) == ["10.1.0.0/24"] && child.remoteSubnets.map(\.description) == ["10.2.0.0/24"])
        #expect(configuration.policies.isEmpty)
    }

    @Test func `What the file says arrives in the model`() throws {
        let text = """
            gateway: { name: east, control_socket: run/east.sock, log: { level: debug, format: json } }
            interfaces: [{ name: eth0.7, role: both }]
            dataplane:
              workers: [2, 5]
              engine: ipsec-mb
              xdp_mode: zero-copy
              poll: busy
              huge_pages: require
              frames_per_worker: 16384
            connections:
              - name: west
                version: 2
                local: { address: 192.0.2.1 }
                remote: { address: 192.0.2.2, id: any, auth: psk }
                psk: '0x01 "quoted" # no comment'
                ike_proposals: [aes128gcm16-prfsha256-x25519, aes256-sha512-modp4096]
                ike_lifetime: 90m
                dpd_interval: 2500ms
                nat_traversal: force
                children:
                  - name: net.1
                    mode: tunnel
                    local_subnets: [10.1.0.1, 10.9.0.0/16]
                    remote_subnets: [0.0.0.0/0]
                    esp_proposals: [aes128gcm16-esn]
                    lifetime: 5s
                    lifetime_bytes: 10G
                    lifetime_packets: 1000000
                    replay_window: 32
                    start: on-traffic
            """
        let configuration = try accepted(text)
        #expect(configuration.name == "east" && configuration.controlSocket == "/nonexistent/run/east.sock")
        #expect(configuration.log == GatewayConfiguration.Log(level: .debug, format: .json))
        #expect(configuration.interfaces == [.init(name: "eth0.7", role: .both)])
        let dataplane = configuration.dataplane
        #expect(dataplane.workers == .cpus([2, 5]) && dataplane.engine == .ipsecMB && dataplane.xdpMode == .zeroCopy)
        #expect(dataplane.poll == .busy && dataplane.hugePages == .require && dataplane.framesPerWorker == 16_384)
        let connection = try #require(configuration.connections.first)
        #expect(
            connection.localIdentity == .address(try #require(IPAddress("192.0.2.1"))), "the address is the identity unless told")
        #expect(connection.remoteIdentity == nil, "any")
        #expect(connection.presharedKey == Array(#"0x01 "quoted" # no comment"#.utf8))
        #expect(connection.ikeProposals.count == 2 && connection.ikeProposals[1].methods == [.modp4096])
        #expect(connection.ikeLifetime == .seconds(5400) && connection.dpdInterval == .milliseconds(2500))
        #expect(connection.natTraversal == .force)
        let child = try #require(connection.children.first)
        #expect(child.name == "net.1" && child.localSubnets.map(\.description) == ["10.1.0.1/32", "10.9.0.0/16"])
        #expect(child.espProposals == [ESPProposal(keyBits: [128], extendedSequenceNumbers: [true])])
        #expect(child.lifetime == .seconds(5) && child.lifetimeBytes == 10 << 30 && child.lifetimePackets == 1_000_000)
        #expect(child.replayWindowPackets == 32 && child.start == .onTraffic)
    }

    @Test(arguments: [
        ("1", GatewayConfiguration.Dataplane.Workers.count(1)), ("auto", .auto), ("[0]", .cpus([0])), ("16", .count(16)),
    ])
    func `Workers are a count, a list of CPUs, or left to the gateway`(
        _ text: String, _ expected: GatewayConfiguration.Dataplane.Workers
    ) throws {
        #expect(try accepted("dataplane: { workers: \(text) }\n" + good).dataplane.workers == expected)
    }

    @Test func `A peer from anywhere is answered and never initiated to`() throws {
        let connection = try #require(try accepted(changed("address: 192.0.2.2", "address: any")).connections.first)
        #expect(connection.remoteAddress == nil && connection.remoteIdentity == .fqdn("west.example"))
        #expect(connection.children.first?.start == .manual)
        let explicit = try changed("address: 192.0.2.2", "address: any").replacing(
            "name: net\n", with: "name: net\n        start: immediately\n")
        let loaded = parse(explicit)
        #expect(told(loaded) == ["11:16 warning a peer from `any` address cannot be initiated to; `start: manual` is used"])
        #expect(loaded.configuration?.connections.first?.children.first?.start == .manual)
    }

    @Test func `JSON is read as the YAML it is`() throws {
        let text = """
            {
              "interfaces": [ { "name": "wan0", "role": "both" } ],
              "connections": [ {
                "name": "west", "local": {"address":"192.0.2.1"}, "remote": {"address":"192.0.2.2"},
                "psk": "a-secret-of-more-than-twenty-characters", "dpd_interval": "2s",
                "children": [
                  { "name": "net", "local_subnets": ["10.1.0.0/24"], "remote_subnets": ["10.2.0.0/24"], "replay_window": 64 }
                ]
              } ]
            }
            """
        #expect(try accepted(text).connections.first?.children.first?.replayWindowPackets == 64)
    }

    @Test func `Line ends of Windows and a byte order mark change nothing`() throws {
        _ = try accepted("\u{FEFF}" + good.replacing("\n", with: "\r\n"))
        let faulty = try changed("role: underlay", "role: overlay").replacing("\n", with: "\r\n")
        #expect(told(parse("\u{FEFF}" + faulty)).first?.hasPrefix("2:25 ") == true)
    }

    @Test func `Columns count characters, not bytes`() throws {
        let text = try changed("role: underlay }", "role: über, rôle: x }")
        #expect(told(parse(text)).map { $0.split(separator: " ")[0] } == ["2:25", "2:31"])
    }

    @Test func `A remote subnet of everything needs no apology`() throws {
        _ = try accepted(changed("[10.2.0.0/24]", "[0.0.0.0/0]"))
        _ = try accepted(changed("[10.1.0.0/24]", "[0.0.0.0/0]"))
    }

    // MARK: Identities

    private static let shapes: [(String, Identity)] = [
        ("west.example", .fqdn("west.example")), ("west", .fqdn("west")), ("42", .fqdn("42")),
        ("admin@west.example", .email("admin@west.example")),
        ("192.0.2.9", .address(.v4(IPv4Address(bits: 0xC000_0209)))),
        ("\"2001:db8::1\"", .address(.v6(IPv6Address(high: 0x2001_0db8_0000_0000, low: 1)))),
        ("{ type: key-id, value: site 7 }", .keyID(Array("site 7".utf8))),
        ("{ type: fqdn, value: 10.example }", .fqdn("10.example")),
        (
            "\"C=DE, CN=w\"",
            .distinguishedName([
                0x30, 0x19, 0x31, 0x0B, 0x30, 0x09, 0x06, 0x03, 0x55, 0x04, 0x06, 0x13, 0x02, 0x44, 0x45,
                0x31, 0x0A, 0x30, 0x08, 0x06, 0x03, 0x55, 0x04, 0x03, 0x0C, 0x01, 0x77,
            ])
        ),
    ]

    @Test(arguments: shapes)
    func `An identity is typed by its shape or outright`(_ text: String, _ expected: Identity) throws {
        let configuration = try accepted(changed("id: west.example", "id: \(text)"))
        #expect(configuration.connections.first?.remoteIdentity == expected)
    }

    @Test(arguments: [
        "-bad.example", "a..b", "two words", "\"XX=1\"", "\"CN=\"", "\"C=\u{F6}\"", "@", "a@b@c", "{ type: address, value: x }",
    ])
    func `An identity of no shape is refused`(_ text: String) throws {
        #expect(try parse(changed("id: west.example", "id: \(text)")).configuration == nil)
    }

    // MARK: Policies

    @Test func `Policies carry protocol and ports, and lists make several`() throws {
        let text = """
            policies:
              - { action: bypass, source: 10.1.0.0/24, destination: 10.1.9.0/24 }
              - { action: discard, destination: 203.0.113.0/24, protocol: udp, destination_ports: 1-1023 }
              - { action: discard, source: [10.1.0.5, 10.1.0.6], protocol: 6, source_ports: [22, 80-90] }
              - { action: discard, protocol: icmp }

            """
        let policies = try accepted(text + good).policies
        #expect(policies.count == 7)
        #expect(policies[0].action == .bypass && policies[0].source.description == "10.1.0.0/24")
        #expect(policies[0].destination.description == "10.1.9.0/24")
        #expect(
            policies[1].source.description == "0.0.0.0/0" && policies[1].destination.description == "203.0.113.0/24[udp/1-1023]")
        #expect(
            policies[2...5].map { "\($0.source.first) \($0.source.ports)" } == [
                "10.1.0.5 22...22", "10.1.0.5 80...90", "10.1.0.6 22...22", "10.1.0.6 80...90",
            ])
        #expect(policies[2...5].allSatisfy { $0.destination.ipProtocol == 6 && $0.destination.ports == 0...65_535 })
        #expect(policies[6].destination.ipProtocol == 1)
    }
}
