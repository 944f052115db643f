import Configuration
import IKE
import Testing

@Suite struct ProfileTests {
    private let profiles = """
        profiles:
          default: { dpd_interval: 30s, lifetime: 2h, replay_window: 128, local: { address: 192.0.2.1, id: east.example } }
          strong:  { lifetime: 30m, ike_lifetime: 8h, esp_proposals: [aes256gcm16-esn] }

        """
    private let rest = """
        interfaces: [{ name: wan0, role: both }]
        connections:
          - name: west
            profile: strong
            local: { id: own.example }
            remote: { address: 192.0.2.2 }
            psk: "a-secret-of-more-than-twenty-characters"
            children:
              - { name: a, local_subnets: [10.1.0.0/24], remote_subnets: [10.2.0.0/24] }
              - { name: b, local_subnets: [10.1.0.0/24], remote_subnets: [10.3.0.0/24], lifetime: 10m }

        """

    @Test func `Own keys come before the named profile, and that before the default`() throws {
        let connection = try #require(try accepted(profiles + rest).connections.first)
        #expect(connection.dpdInterval == .seconds(30), "default")
        #expect(connection.ikeLifetime == .seconds(8 * 3600), "strong")
        #expect(
            connection.children.map(\.lifetime) == [.seconds(1800), .seconds(600)], "strong before default, own before strong")
        #expect(connection.children.map(\.replayWindowPackets) == [128, 128], "default reaches the children")
        #expect(
            connection.localIdentity == .fqdn("own.example") && "\(connection.localAddress)" == "192.0.2.1",
            "filled in key by key")
    }

    @Test func `The line of a key is known, also where a profile says it`() throws {
        let places = try #require(try accepted(profiles + rest).connections.first?.places)
        let lines = places.lines
        #expect(places.line == 6 && lines["psk"] == 10 && lines["ike_lifetime"] == 3 && lines["dpd_interval"] == 2)
        #expect(
            lines["local.id"] == 8 && lines["local.address"] == 2 && lines["remote.address"] == 9 && lines["remote.id"] == nil)
        #expect(lines["a/esp_proposals"] == 3 && lines["a/remote_subnets"] == 12)
        #expect(lines["a/lifetime"] == 3 && lines["b/lifetime"] == 13 && lines["lifetime"] == nil)
    }

    @Test func `An unknown profile is told with the nearest one`() {
        let all = told(parse(profiles + rest.replacing("profile: strong", with: "profile: stronk")))
        #expect(all == ["7:14 error there is no profile `stronk`; did you mean `strong`?"])
    }

    @Test func `A profile takes connection and child keys and nothing else`() {
        let all = told(parse(profiles.replacing("{ lifetime", with: "{ name: x, lifetme") + rest))
        #expect(all.map { $0.split(separator: " ")[0] } == ["3:14", "3:23"])
        #expect(all.last?.contains("did you mean `lifetime`?") == true)
    }

    @Test func `A profile's problem is told once however many use it`() {
        let text =
            profiles.replacing("30s", with: "soon") + rest + """
                  - name: north
                    remote: { address: 192.0.2.3 }
                    psk: "a-secret-of-more-than-twenty-characters"
                    children: [{ name: a, local_subnets: [10.1.0.0/24], remote_subnets: [10.4.0.0/24] }]

                """
        let all = told(parse(text))
        #expect(all.count == 1 && all[0].hasPrefix("2:28 error"), "\(all)")
    }

    @Test func `A profile that nothing uses is checked all the same`() {
        let unused = "  weak: { ike_proposals: [aes256-sha256-modp1024], mode: transport, dpd_interval: 10 }\n"
        let all = told(parse(profiles + unused + rest))
        #expect(all.map { $0.split(separator: " ")[0] } == ["4:27", "4:58", "4:83"], "\(all)")
    }

    @Test func `A connection's own secret replaces the profile's, whichever way it is given`() throws {
        let text = profiles.replacing("{ dpd", with: "{ psk_file: shared.psk, dpd") + rest
        let connection = try #require(try accepted(text).connections.first)
        #expect(connection.presharedKey.count == 39)
    }
}
