@testable import Gateway
import Configuration
@testable import Dataplane
import Foundation
import IKE
import IPsec
import Testing
import Wire

@Suite("Status")
struct StatusTests {
    private func builder(
        _ statuses: [ConnectionStatus] = [], problems: [String: String] = [:],
        configuration: GatewayConfiguration = gatewayConfiguration()
    ) -> StatusBuilder {
        StatusBuilder(
            configuration: configuration, statuses: statuses,
            counters: DataplaneCounters(
                workers: [
                    .init(
                        id: 0, cpu: 2, numaNode: 0, engine: "openssl", xdpMode: "native", packetsIn: 1, packetsOut: 2,
                        busyPercent: .nan,
                        drops: [.replay: 0, .malformed: 4])
                ],
                drops: [.clearInbound: 9], hugePages: false),
            childCounters: { _ in
                ChildCounters(packetsIn: 1, bytesIn: 2, packetsOut: 3, bytesOut: 4, drops: [.selectorMismatch: 5])
            },
            localProblems: problems, startedAt: at(0), now: at(12.5), ikePort: 500)
    }

    private var established: ConnectionStatus {
        ConnectionStatus(
            name: "west", state: .established, reason: "left over",
            ike: .init(
                initiatorSPI: 0xAB, responderSPI: 0xFFFF_0000_0000_0001, isInitiator: true,
                proposal: "aes256gcm16-prfsha384-ecp384",
                establishedAt: at(0.5), rekeyAt: at(100), localNAT: true, remoteNAT: false, localIdentity: .fqdn("east.example"),
                remoteIdentity: .fqdn("west.example"),
                path: Path(local: Endpoint(IPAddress("192.0.2.1")!, 4500), remote: Endpoint(IPAddress("192.0.2.2")!, 4501))),
            children: [
                .init(
                    name: "net", state: .installed, reason: nil, inboundSPI: 0xC0FFEE, outboundSPI: 0x1234_5678,
                    transform: ESPTransform(keyBits: 256, extendedSequenceNumbers: true),
                    path: TunnelPath(
                        local: IPAddress("192.0.2.1")!, remote: IPAddress("192.0.2.2")!, localPort: 4500, remotePort: 4501),
                    localSelectors: [selector("10.1.0.0/25")], remoteSelectors: [selector("10.2.0.0/24")], rekeys: 2,
                    rekeyAt: at(50))
            ])
    }

    @Test func `a child that could not be rekeyed is installed, and says so`() throws {
        var status = established
        status.children[0].problem = "The last rekey failed. No common ESP proposal."
        let net = try #require(builder([status]).report().connections.first?.children.first)
        #expect(net.state == .installed && net.reason == "The last rekey failed. No common ESP proposal.")
    }

    @Test(arguments: [10, 10_000])
    func `the status of one connection asks for nothing about the others`(count: Int) {
        var asked = 0
        var subject = builder(configuration: gatewayConfiguration((0..<count).map { connection("c\($0)") }))
        subject.childCounters = { _ in
            asked += 1
            return ChildCounters()
        }
        #expect(subject.report(only: "c7").connections.map(\.name) == ["c7"])
        #expect(asked == 1)
        #expect(subject.report(only: "nobody").connections.isEmpty && asked == 1)
        #expect(subject.report().connections.count == count && asked == 1 + count)
    }

    @Test func `an established connection shows what was negotiated, and no reason`() throws {
        let report = builder([established]).report()
        let west = try #require(report.connections.first)
        #expect(west.state == .established && west.reason == nil)
        #expect(west.local == .init(address: "192.0.2.1", port: 4500, id: "east.example", nat: true))
        #expect(west.remote.port == 4501)
        #expect(west.ike?.spiInitiator == "00000000000000ab" && west.ike?.spiResponder == "ffff000000000001")
        #expect(west.ike?.establishedSeconds == 12 && west.ike?.rekeyInSeconds == 87.5)
        let net = try #require(west.children.first)
        #expect(net.state == .installed && net.reason == nil && net.encapsulation == .udp)
        #expect(net.spiIn == "00c0ffee" && net.spiOut == "12345678" && net.proposal == "aes256gcm16-esn")
        #expect(net.localSubnets == ["10.1.0.0/25"] && net.rekeys == 2 && net.rekeyInSeconds == 37.5)
        #expect(net.packetsIn == 1 && net.bytesOut == 4 && net.drops == ["replay": 0, "selector-mismatch": 5])
        #expect(report.uptimeSeconds == 12.5)
    }

    @Test func `a connection that is not up always has a reason, ours before the peer's silence`() {
        #expect(builder().report().connections.first?.reason == "No attempt has been made yet.")
        let silent = ConnectionStatus(
            name: "west", state: .connecting, reason: "The peer does not answer.", ike: nil, children: [])
        #expect(builder([silent]).report().connections.first?.reason == "The peer does not answer.")
        #expect(builder([silent], problems: ["west": "wan0 is down."]).report().connections.first?.reason == "wan0 is down.")
        let beginning = ConnectionStatus(name: "west", state: .connecting, reason: nil, ike: nil, children: [])
        #expect(builder([beginning]).report().connections.first?.reason == "Negotiating with the peer.")
        for start in [StartAction.onTraffic, .manual] {
            let waiting = gatewayConfiguration([connection(children: [child(start: start)])])
            #expect(builder(configuration: waiting).report().connections.first?.reason?.contains(start.rawValue) == true)
        }
        let anybody = gatewayConfiguration([connection(remote: nil)])
        #expect(builder(configuration: anybody).report().connections.first?.remote.address == "any")
    }

    @Test func `every configured child has an entry, and every drop reason a number`() {
        let two = gatewayConfiguration([connection(children: [child("net"), child("voice", remote: ["10.3.0.0/24"])])])
        let report = builder([established], configuration: two).report()
        #expect(report.connections.first?.children.map(\.name) == ["net", "voice"])
        #expect(report.connections.first?.children.last?.state == .down)
        #expect(report.drops.count == DropReason.allCases.count)
        #expect(report.drops["clear-inbound"] == 9 && report.drops["no-policy"] == 0)
        #expect(report.workers.first?.busyPercent == 0 && report.workers.first?.drops == ["malformed": 4])
    }

    @Test func `the report is JSON, with null where there is nothing`() throws {
        let line = try AdminCodec.line(AdminResponse.status(builder().report()))
        let text = String(decoding: line, as: UTF8.self)
        #expect(text.contains(#""ike":null"#) && text.contains(#""spi_in":null"#))
        #expect(try AdminCodec.response(line).status?.gateway == "east")
    }
}

@Suite("Log lines")
struct LogTests {
    @Test func `text keeps one event on one line whatever a peer put into it`() {
        let line = GatewayLogHandler.line(
            time: "T", level: .warning, gateway: "east", connection: "west", message: "id \"a\nb\u{7}\"", format: .text)
        #expect(line == "T warning [west] id \"a b \"\n")
    }

    @Test func `JSON is JSON`() throws {
        let line = GatewayLogHandler.line(
            time: "T", level: .info, gateway: "ea\"st", connection: nil, message: "a\nb\\", format: .json)
        let object = try #require(JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: String])
        #expect(object == ["time": "T", "level": "info", "gateway": "ea\"st", "message": "a\nb\\"])
    }
}
