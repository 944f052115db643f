import ArgumentParser
import Configuration
import Gateway
import Glibc

/// `culvert diagnose`
struct Diagnose: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Why it does not work, and what to change.",
        discussion: """
            Asks the gateway, tries how large datagrams to the peer may be (of one connection, or of all when they are few), and \
            looks at this machine. Ends with 0 when nothing is found, with 1 when something is.
            """)

    /// All are probed when no more than these are up.
    static let mostProbed = 8
    static let probePatience = 8.0
    /// Where a small datagram goes unanswered so often, nothing is learnt from large ones.
    static let silentTransmissions = 2

    @Argument(help: "Only this connection.")
    var connection: String?

    @Flag(help: "Print JSON.")
    var json = false

    @OptionGroup var gateway: SocketOptions

    func run() throws {
        var response = try gateway.askFor(AdminRequest(.status, connection: connection))
        guard response.status != nil else {
            complain("The gateway's answer has no status; are gateway and client of the same version?")
            throw Exit.unavailable
        }
        if try probePaths(response.status?.connections ?? []) {
            response = try gateway.askFor(AdminRequest(.status, connection: connection))
        }
        guard let report = response.status else { throw Exit.unavailable }
        let path = gateway.config ?? response.configuration ?? SocketOptions.usualFile
        let diagnosis = Diagnosis(report, machine: machine(path))
        print(json ? try AdminCodec.prettyJSON(diagnosis) : diagnosis.page(.output))
        if diagnosis.verdict == .found { throw Exit.no }
    }

    /// Large datagrams that vanish show by trying alone. True when something was tried.
    private func probePaths(_ connections: [StatusReport.Connection]) throws -> Bool {
        let meant = connections.filter { connection in
            connection.state == .established && connection.liveness?.pendingSeconds == nil
                && connection.ike?.fragmentation == true
        }
        guard !meant.isEmpty, connection != nil || meant.count <= Self.mostProbed else { return false }
        var names: Set<String> = []
        for one in meant where try gateway.ask(AdminRequest(.probe, connection: one.name)).ok { names.insert(one.name) }
        var waited = 0.0
        while !names.isEmpty, waited < Self.probePatience {
            usleep(50_000)
            waited += 0.05
            let now = try gateway.ask(AdminRequest(.status, connection: connection)).status?.connections ?? []
            names = names.filter { name in
                let one = now.first { $0.name == name }
                return one?.pathProbe?.running ?? false && one?.liveness?.unanswered ?? 0 < Self.silentTransmissions
            }
        }
        return true
    }

    /// What is wrong at this end; needs the file, since the gateway does not tell its interfaces.
    private func machine(_ path: String) -> [Cause] {
        var checks = DoctorChecks()
        checks.gatewayRuns = true
        let loaded = ConfigurationReader.load(path: path)
        checks.configuration = loaded.configuration
        var causes: [Cause] = []
        if checks.configuration == nil {
            let first = loaded.diagnostics.first { $0.severity == .error }
            causes.append(
                Cause(
                    .configurationRefused,
                    "\(path) cannot be read or is refused\(first.map { " (line \($0.line): \($0.text))" } ?? ""), so the "
                        + "interfaces are not looked at.", values: ["file": path], line: first?.line))
        }
        // The client's own privileges are not the gateway's.
        return causes
            + checks.all().filter { $0.verdict == .fail && !["privilege", "AF_XDP"].contains($0.subject) }
            .map { finding in
                let interface = checks.configuration?.interfaces.map(\.name).first { $0 == finding.subject }
                let code: CauseCode = interface == nil ? .machine : .interfaceUnusable
                var cause = Cause(code, "\(finding.subject): \(finding.found)", remedy: finding.remedy)
                cause.interface = interface
                return cause
            }
    }
}

/// What was found, and on what evidence: of `culvert diagnose`, as a page and as JSON. The names are a contract.
struct Diagnosis: Encodable {
    enum Verdict: String, Encodable {
        /// Something is wrong.
        case found
        /// Nothing is, and packets went both ways lately.
        case works
        /// Nothing shows, and there was no traffic that could show it.
        case noEvidence = "no-evidence"
    }

    struct Connection: Encodable {
        var name: String
        var state: StatusReport.Connection.State
        var reason: String?
        var causes: [Cause]
        /// What speaks for it, in a clause.
        var evidence: String
        var carriesTraffic: Bool
        /// Children by name with their state, for the page.
        var children: [String: StatusReport.Child.State]

        enum CodingKeys: String, CodingKey {
            case name, state, reason, causes, evidence, children
            case carriesTraffic = "carries_traffic"
        }
    }

    /// Traffic longer ago proves nothing of now.
    static let freshSeconds = 60.0

    var verdict: Verdict
    var problems: Int
    var warnings: Int
    var connections: [Connection]
    /// Of the gateway and of this machine.
    var gateway: [Cause]
    /// What was dropped since the start, by reason.
    var drops: [String: UInt64]

    init(_ report: StatusReport, machine: [Cause]) {
        connections = StatusPage.ordered(report.connections).map(Self.judged)
        let causes = report.causes ?? []
        // The gateway and the look at the machine see the same interfaces: what both tell is told once.
        let interfaces = Set(machine.compactMap(\.interface))
        gateway = causes.filter { $0.interface.map { !interfaces.contains($0) } ?? true } + machine
        drops = report.drops.filter { $0.value > 0 }
        let all = connections.flatMap(\.causes) + gateway
        (problems, warnings) = (all.count { $0.severity == .problem }, all.count { $0.severity == .warning })
        verdict = problems + warnings > 0 ? .found : connections.contains(where: \.carriesTraffic) ? .works : .noEvidence
    }

    private static func judged(_ connection: StatusReport.Connection) -> Connection {
        let children = Dictionary(connection.children.map { ($0.name, $0.state) }, uniquingKeysWith: { first, _ in first })
        let lastIn = connection.children.compactMap(\.lastInSeconds).min()
        let lastOut = connection.children.compactMap(\.lastOutSeconds).min()
        let carries = connection.state == .established && connection.children.contains {
            ($0.lastInSeconds ?? .infinity) < freshSeconds && ($0.lastOutSeconds ?? .infinity) < freshSeconds
        }
        return Connection(
            name: connection.name, state: connection.state, reason: connection.reason, causes: connection.causes,
            evidence: evidence(connection, lastIn, lastOut), carriesTraffic: carries, children: children)
    }

    private static func evidence(_ connection: StatusReport.Connection, _ lastIn: Double?, _ lastOut: Double?) -> String {
        guard connection.state == .established else {
            let last = connection.reason ?? ""
            if connection.peers != nil { return "listening, nobody is connected\(last.isEmpty ? "" : ". Last: \(last)")" }
            return connection.state == .down ? "idle. \(last)" : "\(connection.state.rawValue). \(last)"
        }
        let idle = connection.children.filter { $0.state == .down && !$0.wanted }.map(\.name)
        let waiting = idle.isEmpty ? "" : "; waiting to be asked for: \(idle.joined(separator: ", "))"
        let traffic =
            switch (lastIn, lastOut) {
            case (nil, nil): "no packet has come or gone yet, so nothing shows whether traffic passes"
            case (let came?, nil): "the last packet came \(Readable.duration(came)) ago, none has gone"
            case (nil, let went?): "the last packet went \(Readable.duration(went)) ago, none has come"
            case (let came?, let went?):
                "the last packet came \(Readable.duration(came)) ago, and went \(Readable.duration(went)) ago"
            }
        return "established; \(traffic)\(waiting)"
    }

    // MARK: The page

    /// Connections in order beyond these are counted.
    private static let mostInOrder = 20

    func page(_ terminal: Terminal) -> String {
        var lines: [String] = []
        var inOrder = 0
        for connection in connections {
            let told = connection.causes.filter { $0.severity != .notice }
            if told.isEmpty {
                inOrder += 1
                guard inOrder <= Self.mostInOrder else { continue }
                lines.append(labelled("ok", .green, "\(connection.name): \(connection.evidence)", terminal))
            } else {
                lines += failed(connection, told, terminal)
            }
        }
        if inOrder > Self.mostInOrder {
            lines.append(labelled("ok", .green, "\(inOrder - Self.mostInOrder) other connections", terminal))
        }
        for cause in gateway where cause.severity != .notice {
            lines.append(labelled(label(cause), colour(cause), cause.sentence, terminal))
            if !cause.remedy.isEmpty { lines.append(terminal.wrap(cause.remedy, indent: "      -> ")) }
        }
        return (lines + ["", terminal.wrap(conclusion)]).joined(separator: "\n")
    }

    private func failed(_ connection: Connection, _ causes: [Cause], _ terminal: Terminal) -> [String] {
        let worst = causes.first ?? causes[0]
        var lines = [labelled(label(worst), colour(worst), "\(connection.name): \(connection.state.rawValue)", terminal)]
        for cause in causes {
            let state = cause.child.flatMap { name in connection.children[name].map { "child \(name): \($0.rawValue): " } } ?? ""
            lines.append(terminal.wrap(state + cause.sentence, indent: "      "))
            if !cause.remedy.isEmpty { lines.append(terminal.wrap(cause.remedy, indent: "      -> ")) }
        }
        return lines
    }

    private func label(_ cause: Cause) -> String { cause.severity == .problem ? "fail" : "warn" }

    private func colour(_ cause: Cause) -> Terminal.Colour { cause.severity == .problem ? .red : .yellow }

    private func labelled(_ label: String, _ colour: Terminal.Colour, _ text: String, _ terminal: Terminal) -> String {
        let blanks = String(repeating: " ", count: 6 - label.count)
        let wrapped = terminal.wrap(text, indent: "      ")
        return terminal.paint(label, colour) + blanks + wrapped.dropFirst(6)
    }

    /// Never that nothing is wrong without what speaks for it.
    var conclusion: String {
        switch verdict {
        case .found:
            let counts = [(problems, "problem"), (warnings, "warning")].filter { $0.0 > 0 }.map { counted($0.0, $0.1) }
            return "\(counts.joined(separator: ", ")) found."
        case .works:
            let carrying = connections.count(where: \.carriesTraffic)
            return "Nothing is wrong: packets went both ways through \(carrying) of \(counted(connections.count, "connection")) "
                + "within the last minute."
        case .noEvidence:
            return "Nothing is wrong that shows, but no tunnel carried packets both ways within the last minute: send some and "
                + "ask again."
        }
    }
}
