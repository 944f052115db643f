import Configuration
import Foundation
import IKE
import Testing
import Wire

/// A gateway for single hosts. Its line numbers are counted upon.
private let road = """
    interfaces:
      - { name: wan0, role: underlay }
      - { name: lan0, role: protected }
    pools:
      - { name: road, addresses: 10.9.0.0/24, dns: [10.1.0.53] }
      - { name: few, addresses: 10.8.0.10-10.8.0.12 }
    radius:
      servers: [{ address: 10.1.0.5, secret: "sixteen characters" }]
    connections:
      - name: hosts
        local:  { address: 192.0.2.1, id: east.example, auth: psk }
        remote: { address: any, id: any, auth: eap-mschapv2 }
        psk: "a-secret-of-more-than-twenty-characters"
        eap: { users: [{ name: alice, password: "open sesame" }] }
        pools: [road, few]
        children:
          - name: net
            local_subnets:  [10.1.0.0/24]
            remote_subnets: dynamic

    """

/// A host that asks for an address.
private let host = """
    interfaces:
      - { name: wan0, role: both }
    connections:
      - name: office
        local:  { address: 192.0.2.1, id: alice@example.org, auth: eap-mschapv2 }
        remote: { address: 192.0.2.2, id: gw.example, auth: psk }
        psk: "a-secret-of-more-than-twenty-characters"
        eap: { user: alice, password: "open sesame" }
        virtual_address: auto
        children:
          - name: net
            local_subnets:  dynamic
            remote_subnets: [10.1.0.0/16]

    """

@Suite("Single hosts in the configuration") struct RoadTests {
    @Test("a gateway for single hosts")
    func gateway() throws {
        let loaded = parse(road)
        // RFC 7296 §2.16: a gateway for EAP clients should have a certificate.
        #expect(told(loaded).count == 1 && told(loaded)[0].contains("warning `local.auth: psk` beside EAP"))
        let configuration = try #require(loaded.configuration)
        #expect(configuration.pools.map(\.first) == [IPAddress("10.9.0.1")!, IPAddress("10.8.0.10")!])
        #expect(configuration.pools.map(\.last) == [IPAddress("10.9.0.254")!, IPAddress("10.8.0.12")!])
        #expect(configuration.pools[0].dns == [IPAddress("10.1.0.53")!])
        #expect(configuration.radius?.servers.first?.endpoint == Endpoint(IPAddress("10.1.0.5")!, 1812))
        let connection = try #require(configuration.connections.first)
        #expect(connection.eap?.server == .mschapv2)
        #expect(connection.eap?.users.map(\.name) == ["alice"])
        #expect(connection.pools == ["road", "few"])
        let child = try #require(connection.children.first)
        #expect(child.remoteIsDynamic && !child.localIsDynamic)
        // What the pools span is protected even when nobody has an address of it.
        #expect(child.remoteSubnets.map(\.description) == ["10.9.0.0/24", "10.8.0.10/31", "10.8.0.12/32"])
    }

    @Test("a host that asks for an address")
    func client() throws {
        let connection = try #require(try accepted(host).connections.first)
        #expect(connection.virtualAddress == VirtualAddressRequest(wantsIPv4: true))
        #expect(connection.eap?.client == .mschapv2)
        #expect(connection.eap?.user == "alice")
        #expect(connection.children.first?.localIsDynamic == true)
    }

    private static let faults: [(old: String, new: String, place: String, words: String)] = [
        ("10.9.0.0/24,", "10.9.0.0,", "5:30", "neither a prefix"),
        ("10.8.0.10-10.8.0.12", "10.8.0.12-10.8.0.10", "6:29", "neither a prefix"),
        ("10.8.0.10-10.8.0.12", "10.9.0.10-10.9.0.12", "6:29", "overlaps pool `road`"),
        ("dns: [10.1.0.53]", "dns: [ns.example]", "5:49", "not the IP address of a name server"),
        ("[road, few]", "[raod]", "15:13", "did you mean `road`?"),
        ("    pools: [road, few]\n", "", "16:15", "name it in `pools`"),
        ("auth: eap-mschapv2", "auth: eap-mschap", "12:44", "did you mean `eap-mschapv2`?"),
        ("    eap: { users: [{ name: alice, password: \"open sesame\" }] }\n", "", "10:5", "`users` is missing"),
        (", password: \"open sesame\"", "", "14:20", "`password_file` is missing"),
        ("alice, password: \"open sesame\" }", "alice, password: a }, { name: alice, password: b }", "14:58", "given again"),
        ("address: 10.1.0.5,", "address: radius.example,", "8:24", "not an IP address"),
        ("servers: [{ address: 10.1.0.5, secret: \"sixteen characters\" }]", "servers: []", "8:12", "`servers` is empty"),
    ]

    @Test("what is wrong is told at its place", arguments: faults.indices)
    func wrong(_ index: Int) throws {
        let fault = Self.faults[index]
        let range = try #require(road.range(of: fault.old), "the piece to replace is not there")
        let lines = told(parse(road.replacingCharacters(in: range, with: fault.new)))
        #expect(
            lines.contains { $0.hasPrefix("\(fault.place) error") && $0.contains(fault.words) },
            "\(fault.new): \(lines)")
        #expect(!lines.contains { $0.contains("open sesame") })
    }

    @Test("EAP through RADIUS needs servers, EAP on both sides is refused, a client needs somewhere to go")
    func sides() throws {
        let radius = road.replacing("auth: eap-mschapv2", with: "auth: eap-radius")
            .replacing("radius:\n  servers: [{ address: 10.1.0.5, secret: \"sixteen characters\" }]\n", with: "")
        #expect(told(parse(radius)).contains { $0.contains("needs the gateway's `radius` section") })
        let both = host.replacing("auth: psk", with: "auth: eap-mschapv2")
        #expect(told(parse(both)).contains { $0.contains("only one side") })
        let nowhere = host.replacing("address: 192.0.2.2", with: "address: any")
        #expect(told(parse(nowhere)).contains { $0.contains("`remote` needs an address") })
        let only = host.replacing("auth: psk", with: "auth: eap-only, ca: ca.pem")
        #expect(told(parse(only)).contains { $0.contains("needs `local.auth: eap-tls`") })
    }

    @Test("a short RADIUS secret is a warning, and an IPv6 pool says what is carried")
    func warnings() {
        let short = road.replacing("sixteen characters", with: "short")
        #expect(told(parse(short)).contains { $0.contains("warning") && $0.contains("RADIUS secret is shorter") })
        let six = road.replacing("10.8.0.10-10.8.0.12", with: "2001:db8::/64")
        #expect(told(parse(six)).contains { $0.contains("warning") && $0.contains("carries only IPv4") })
    }
}
