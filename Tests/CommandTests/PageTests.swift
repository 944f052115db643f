import Gateway
import Testing

@testable import culvert

/// What `status` and `diagnose` print at 80 columns.
@Suite("Pages at 80 columns")
struct PageTests {
    private let terminal = Terminal(hasColour: false, width: 80)

    private func connection(
        _ name: String, _ state: StatusReport.Connection.State = .established, causes: [Cause] = [],
        lastIn: Double? = 3, lastOut: Double? = 1
    ) -> StatusReport.Connection {
        let isUp = state == .established
        var child = StatusReport.Child(
            name: "net", state: isUp ? .installed : .connecting, reason: nil, spiIn: isUp ? "c0ffee01" : nil,
            spiOut: isUp ? "0badcafe" : nil, proposal: isUp ? "aes256gcm16-esn" : nil, localSubnets: ["10.1.0.0/24"],
            remoteSubnets: ["10.2.0.0/24"], packetsIn: 1200, bytesIn: 1_600_000, packetsOut: 900, bytesOut: 800_000,
            rekeyInSeconds: isUp ? 3000 : nil)
        (child.lastInSeconds, child.lastOutSeconds, child.wanted) = (lastIn, lastOut, true)
        var connection = StatusReport.Connection(
            name: name, state: state, reason: isUp ? nil : "No answer from 192.0.2.2:500 to IKE_SA_INIT after 3 transmissions.",
            local: .init(address: "192.0.2.1", port: 500, id: "east.example", nat: false),
            remote: .init(address: "192.0.2.2", port: 500, id: "\(name).example", nat: false),
            ike: isUp
                ? .init(
                    spiInitiator: "00", spiResponder: "11", initiator: true, proposal: "aes256gcm16-prfsha384-ecp384",
                    establishedSeconds: 8000, rekeyInSeconds: 20_000) : nil, children: [child])
        connection.causes = causes
        connection.changedSeconds = 8000
        return connection
    }

    private func report(_ connections: [StatusReport.Connection]) -> StatusReport {
        StatusReport(version: "1.0", gateway: "east", uptimeSeconds: 9000, connections: connections)
    }

    private var silent: Cause {
        Cause(
            .peerSilent, "Nothing has come from 192.0.2.2 for 12 s; 3 of 8 checks of the last 3 s are unanswered.",
            values: ["remote": "192.0.2.2"], line: 8)
    }

    private func fits(_ text: String) -> Bool { text.split(separator: "\n").allSatisfy { $0.count <= 80 } }

    @Test func `what is in trouble comes first, with its evidence and its remedy, and no word is cut`() {
        let two = report([connection("north"), connection("west", causes: [silent])])
        let page = StatusPage(report: two, terminal: terminal).text
        #expect(
            page == """
                east  culvert 1.0, up 2h 30m
                2 connections: 2 established; 2 of 2 children installed; 1 in trouble

                west  established for 2h 13m
                  192.0.2.1 (east.example) <-> 192.0.2.2 (west.example)
                  the peer is silent
                    Nothing has come from 192.0.2.2 for 12 s; 3 of 8 checks of the last 3 s are
                    unanswered.
                    -> see whether 192.0.2.2 is up and the path to it whole; it is set up anew
                       when it answers
                  ike  aes256gcm16-prfsha384-ecp384, initiator, up 2h 13m, rekey in 5h 33m
                  net  installed  10.1.0.0/24 <-> 10.2.0.0/24
                    esp aes256gcm16-esn, spi in c0ffee01 out 0badcafe, 0 rekeys, rekey in 50m 0s
                    in   1,200 packets, 1.5 MiB, last 3s ago
                    out  900 packets, 781.3 KiB, last 1s ago

                north  established for 2h 13m
                  192.0.2.1 (east.example) <-> 192.0.2.2 (north.example)
                  ike  aes256gcm16-prfsha384-ecp384, initiator, up 2h 13m, rekey in 5h 33m
                  net  installed  10.1.0.0/24 <-> 10.2.0.0/24
                    esp aes256gcm16-esn, spi in c0ffee01 out 0badcafe, 0 rekeys, rekey in 50m 0s
                    in   1,200 packets, 1.5 MiB, last 3s ago
                    out  900 packets, 781.3 KiB, last 1s ago
                """)
    }

    @Test func `200 connections are 200 lines, trouble first, and --failed shows it alone`() {
        var all = (1...199).map { connection("site-\($0)") }
        all.append(connection("west", .failed, causes: [Cause(.ikeNoAnswer, "No answer.")], lastIn: nil, lastOut: nil))
        let page = StatusPage(report: report(all), terminal: terminal, isShort: true).text
        let lines = page.split(separator: "\n")
        #expect(lines.count == 204 && fits(page))
        #expect(lines[1] == "200 connections: 199 established, 1 failed; 199 of 200 children installed; 1 in")
        #expect(lines[4].hasPrefix("west") && lines[4].hasSuffix("ike-no-answer"))
        let failed = StatusPage(report: report(all), terminal: terminal, isShort: true, onlyFailed: true).text
        #expect(failed.split(separator: "\n").count == 5)
        #expect(StatusPage(report: report(all), terminal: terminal).text.split(separator: "\n").count < 230)
        let none = StatusPage(report: report([connection("a")]), terminal: terminal, isShort: true, onlyFailed: true).text
        #expect(none.hasSuffix("Nothing is in trouble."))
    }

    @Test func `nothing is wrong is said with its evidence, or without any it says so`() {
        let works = Diagnosis(report([connection("west")]), machine: [])
        #expect(works.verdict == .works)
        #expect(
            works.page(terminal) == """
                ok    west: established; the last packet came 3s ago, and went 1s ago

                Nothing is wrong: packets went both ways through 1 of 1 connection within the
                last minute.
                """)
        for (lastIn, lastOut) in [(nil, nil), (3, nil), (nil, 3), (90, 90), (3, 90)] as [(Double?, Double?)] {
            let quiet = Diagnosis(report([connection("west", lastIn: lastIn, lastOut: lastOut)]), machine: [])
            #expect(quiet.verdict == .noEvidence && quiet.conclusion.contains("no tunnel carried packets both ways"))
        }
    }

    @Test func `what is found is told with what to do, and counted`() {
        let machine = [Cause(.machine, "wan9: there is no such interface", remedy: "create it")]
        let found = Diagnosis(report([connection("west", causes: [silent]), connection("north")]), machine: machine)
        #expect(found.verdict == .found && found.problems == 2)
        #expect(
            found.page(terminal) == """
                fail  west: established
                      Nothing has come from 192.0.2.2 for 12 s; 3 of 8 checks of the last 3 s
                      are unanswered.
                      -> see whether 192.0.2.2 is up and the path to it whole; it is set up anew
                         when it answers
                ok    north: established; the last packet came 3s ago, and went 1s ago
                fail  wan9: there is no such interface
                      -> create it

                2 problems found.
                """)
        let notice = Cause(.takenDown, "Taken down by the operator.")
        #expect(Diagnosis(report([connection("west", .down, causes: [notice])]), machine: []).verdict == .noEvidence)
    }

    @Test func `a monitor is told whether all that should be up is up`() {
        #expect(connection("a").isAsItShouldBe && !connection("a", .connecting).isAsItShouldBe)
        var idle = connection("a", .down)
        (idle.children[0].state, idle.children[0].wanted) = (.down, false)
        #expect(idle.isAsItShouldBe)
        idle.state = .failed
        #expect(!idle.isAsItShouldBe)
    }

    @Test func `a table that is too wide says once what all rows have in common, and wraps its last column`() {
        var table = Table(
            headings: [
                "engine", "direction", "bytes", "workers", "SAs", "clocks/packet", "raw engine", "above raw", "Mpps", "Gbit/s",
            ],
            alignments: [.left, .left, .right, .right, .right, .right, .right, .right, .right, .right])
        for size in ["64", "1400"] {
            table.rows.append(
                ["ipsec-mb", "outbound", size, "1", "1", "1000", "900", "100", "2.50", "28.00"].map { Table.Cell($0) })
        }
        let text = table.text(terminal)
        #expect(fits(text) && text.hasPrefix("engine ipsec-mb, direction outbound, workers 1, SAs 1, "))
        var drops = Table(headings: ["dropped", "because"], alignments: [.left, .left])
        drops.rows = [[Table.Cell("no-neighbour"), Table.Cell(String(repeating: "word ", count: 30))]]
        #expect(fits(drops.text(terminal)) && drops.text(Terminal(hasColour: false)).split(separator: "\n").count == 2)
        #expect(Terminal.lines("a bb ccc", width: 4) == ["a bb", "ccc"] && Terminal.lines("longer", width: 3) == ["longer"])
    }
}
