import Configuration
import Foundation
import Testing

/// The configuration that the interface's description shows, whole.
private let published = """
    gateway:
      name: east                          # in logs and metrics
      control_socket: /run/culvert/east.sock
      metrics_listen: 127.0.0.1:9472      # absent: no metrics server
      log: { level: info, format: text }  # text | json

    interfaces:
      - { name: wan0, role: underlay }    # underlay | protected | both
      - { name: lan0, role: protected }

    dataplane:
      workers: auto                       # auto | count | [cpu, …]
      engine: auto                        # auto | openssl | ipsec-mb
      xdp_mode: auto                      # auto | zero-copy | native | generic
      poll: adaptive                      # adaptive | busy
      huge_pages: auto                    # auto | require | off
      frames_per_worker: 8192

    profiles:                             # named sets of any connection or child keys; `default` applies to all
      default: { dpd_interval: 10s }
      strong:  { ike_proposals: [aes256gcm16-prfsha384-ecp384], ike_lifetime: 8h }

    connections:
      - name: west
        profile: strong
        version: 2
        local:  { address: 192.0.2.1, id: east.example, auth: psk }
        remote: { address: 192.0.2.2, id: west.example, auth: psk }
        psk_file: /etc/culvert/west.psk   # or  psk: "…"
        ike_proposals: [aes256gcm16-prfsha384-ecp384]
        ike_lifetime: 8h
        dpd_interval: 10s
        nat_traversal: auto               # auto | force | off
        children:
          - name: net
            mode: tunnel                  # tunnel | transport
            local_subnets:  [10.1.0.0/24]
            remote_subnets: [10.2.0.0/24]
            esp_proposals: [aes256gcm16-ecp384-esn, aes256gcm16]
            lifetime: 1h
            lifetime_bytes: 0             # 0: no limit
            lifetime_packets: 0
            replay_window: 4096
            start: immediately            # immediately | on-traffic | manual (answers, never initiates)
            tunnel_interface: cv0         # present: route-based, selectors may be 0.0.0.0/0

    policies:                             # before the connections' own, first match wins
      - { action: bypass, source: 10.1.0.0/24, destination: 10.1.9.0/24 }
      - { action: discard, destination: 203.0.113.0/24, protocol: udp, destination_ports: 1-1023 }

    """

@Suite struct InterfaceExampleTests {
    @Test func `The published example is valid without the parts of later versions`() throws {
        let text = published.split(separator: "\n", omittingEmptySubsequences: false)
            .filter { !$0.contains("metrics_listen") && !$0.contains("tunnel_interface") }.joined(separator: "\n")
            .replacing("psk_file: /etc/culvert/west.psk", with: "psk: \"a-secret-of-more-than-twenty-characters\"")
        let configuration = try accepted(text)
        #expect(configuration.name == "east" && configuration.policies.count == 2)
        #expect(configuration.connections.first?.ikeLifetime == .seconds(8 * 3600))
    }

    @Test func `The whole published example tells what this version lacks, and nothing else`() throws {
        let folder = try Folder()
        let secret = try folder.write("west.psk", "a-secret-of-more-than-twenty-characters".utf8)
        let loaded = parse(published.replacing("/etc/culvert/west.psk", with: secret))
        #expect(loaded.diagnostics.map { "\($0.line):\($0.column) \($0.severity.rawValue)" } == ["4:3 warning", "45:9 error"])
        #expect(loaded.diagnostics.allSatisfy { $0.text.contains("is not available in this version") })
        #expect(loaded.configuration == nil)
    }

    private static let repository = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()

    @Test func `Every example of the repository is valid`() throws {
        let examples = Self.repository.appendingPathComponent("examples").resolvingSymlinksInPath()
        let files = try #require(FileManager.default.enumerator(atPath: examples.path)).compactMap { $0 as? String }
            .filter { $0.hasSuffix(".yaml") }
        #expect(!files.isEmpty)
        for name in files {
            let file = examples.appendingPathComponent(name)
            let loaded = parse(try String(contentsOf: file, encoding: .utf8))
            #expect(told(loaded) == [], "\(name)")
            // As safe as the defaults: a rekeyed child has keys of its own (perfect forward secrecy).
            for child in loaded.configuration?.connections.flatMap(\.children) ?? [] {
                #expect(child.espProposals.contains { !$0.methods.isEmpty }, "\(name)")
            }
        }
    }
}
