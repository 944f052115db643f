import Configuration
import IKE
import IPsec
import Testing
import Wire

/// `peers` of a child, and the warning where it is missing.
@Suite struct PeerSubnetsTests {
    private static func file(_ id: String, peers: String, subnets: String = "[10.9.0.0/16]") throws -> String {
        let remote = "remote: { address: any, id: \(id), auth: psk }"
        return try changed("remote: { address: 192.0.2.2, id: west.example, auth: psk }", remote)
            .replacing("remote_subnets: [10.2.0.0/24]\n", with: "remote_subnets: \(subnets)\n\(peers)")
    }

    @Test func `identities have subnets of their own`() throws {
        let peers = """
                    peers:
                      - { id: a.road.example, remote_subnets: [10.9.1.0/24] }
                      - { id: b.road.example, remote_subnets: [10.9.2.0/24, 10.9.4.0/22] }

            """
        let child = try accepted(Self.file("\"*.road.example\"", peers: peers)).connections[0].children[0]
        #expect(child.peers.map(\.identity) == [.fqdn("a.road.example"), .fqdn("b.road.example")])
        #expect(child.peers[1].selectors == ["10.9.2.0/24", "10.9.4.0/22"].map { TrafficSelector(IPPrefix($0)!) })
    }

    @Test func `what cannot be meant is an error with its place`() throws {
        let peers = """
                    peers:
                      - { id: a.road.example, remote_subnets: [10.9.1.0/24] }
                      - { id: b.road.example, remote_subnets: [10.9.0.0/20] }
                      - { id: c.other.example, remote_subnets: [10.9.200.0/24] }
                      - { id: a.road.example, remote_subnets: [10.8.0.0/24] }
                      - { id: d.road.example }

            """
        let found = told(parse(try Self.file("\"*.road.example\"", peers: peers)))
        #expect(found.contains { $0.hasPrefix("15:") && $0.contains("10.9.0.0/20 overlaps what a.road.example has") })
        #expect(found.contains { $0.hasPrefix("16:") && $0.contains("c.other.example does not fit") })
        #expect(found.contains { $0.hasPrefix("17:") && $0.contains("named twice") })
        #expect(found.contains { $0.hasPrefix("17:") && $0.contains("10.8.0.0/24 is not inside `remote_subnets`") })
        #expect(found.contains { $0.hasPrefix("18:") && $0.contains("remote_subnets") })
        let exact = told(parse(try Self.file("west.example", peers: peers)))
        #expect(exact.contains { $0.contains("this one takes west.example only") })
    }

    @Test func `where the first who comes is served first check warns, and only there`() throws {
        func warnings(_ text: String) -> [String] { told(parse(text)).filter { $0.contains("nobody else has at the moment") } }
        let wide = try Self.file("\"*.road.example\"", peers: "")
        #expect(warnings(wide).count == 1 && warnings(wide)[0].contains("warning"))
        #expect(warnings(wide)[0].contains("peers") && warnings(wide)[0].contains("dynamic"))
        #expect(try warnings(Self.file("any", peers: "")).count == 1)
        #expect(try warnings(Self.file("west.example", peers: "")).isEmpty && warnings(good).isEmpty)
    }

    /// What is accepted here is negotiated: RFC 7296 §3.13 would count 255.
    @Test func `a name with blanks can be written with its type`() throws {
        let named = try changed("id: west.example", "id: { type: fqdn, value: \"East Gateway 1\" }")
        #expect(try accepted(named).connections[0].remoteIdentity == .fqdn("East Gateway 1"))
        let dotted = try changed("id: west.example", "id: { type: fqdn, value: 192.0.2.2 }")
        #expect(try accepted(dotted).connections[0].remoteIdentity == .fqdn("192.0.2.2"))
        let bare = told(parse(try changed("id: west.example", "id: East Gateway 1")))
        #expect(bare.contains { $0.contains("{ type: fqdn, value: … }") })
    }
}
