import ArgumentParser
import Configuration
import Gateway
import IPsec

/// `culvert diagnose`
struct Diagnose: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Why it does not work, and what to change.",
        discussion: "Asks the gateway and looks at this machine. Ends with 1 when something is wrong.")

    @Argument(help: "Only this connection.")
    var connection: String?

    @OptionGroup var gateway: SocketOptions

    func run() throws {
        let response = try gateway.askFor(AdminRequest(.status, connection: connection))
        guard let report = response.status else {
            complain("The gateway's answer has no status; are gateway and client of the same version?")
            throw Exit.unavailable
        }
        let terminal = Terminal.output
        var problems = 0
        for connection in report.connections { problems += show(connection, terminal) }
        showDrops(report, terminal)
        problems += showMachine(terminal)
        print(problems == 0 ? "\nNothing is wrong." : "\n\(counted(problems, "problem")) found.")
        if problems > 0 { throw Exit.no }
    }

    /// The count of problems it found.
    private func show(_ connection: StatusReport.Connection, _ terminal: Terminal) -> Int {
        let broken = connection.children.filter { $0.state != .installed }
        guard connection.state != .established || !broken.isEmpty else {
            print("\(terminal.paint("ok", .green))    \(connection.name): established, every child is installed")
            return 0
        }
        print("\(terminal.paint("fail", .red))  \(connection.name): \(connection.state.rawValue)")
        if let reason = connection.reason { print("      \(reason)") }
        if connection.state == .connecting {
            print(
                "      -> look for a firewall between \(connection.local.address) and \(connection.remote.address): "
                    + "UDP 500 and 4500, protocol 50"
            )
        }
        for child in broken {
            print("      child \(child.name): \(child.state.rawValue)\(child.reason.map { ": \($0)" } ?? "")")
        }
        if connection.state == .established {
            print("      -> `culvert up \(connection.name)` tries the missing children again and tells why they fail")
        }
        // A connection that waits to be asked (start: manual, on-traffic) is down and in order.
        return connection.state == .down && broken.allSatisfy({ $0.reason == nil }) && !hasLocalProblem(connection) ? 0 : 1
    }

    private func hasLocalProblem(_ connection: StatusReport.Connection) -> Bool {
        let reason = connection.reason ?? ""
        return !(reason.isEmpty || reason.hasPrefix("Waiting for"))
    }

    private func showDrops(_ report: StatusReport, _ terminal: Terminal) {
        for (name, count) in report.drops.filter({ $0.value > 0 }).sorted(by: { $0.key < $1.key }) {
            guard let reason = DropReason(name: name) else { continue }
            print("\(terminal.paint("drop", .yellow))  \(name), \(Readable.count(count)) packets: \(reason.text)")
            print("      -> \(reason.remedy)")
        }
    }

    /// What is wrong at this end; needs the file, since the gateway does not tell its interfaces.
    private func showMachine(_ terminal: Terminal) -> Int {
        var checks = DoctorChecks()
        checks.gatewayRuns = true
        let path = gateway.config ?? SocketOptions.usualFile
        if Machine.exists(path) { checks.configuration = ConfigurationReader.load(path: path).configuration }
        // The client's own privileges are not the gateway's.
        let failed = checks.all().filter { $0.verdict == .fail && !["privilege", "AF_XDP"].contains($0.subject) }
        for finding in failed {
            print("\(terminal.paint("fail", .red))  \(finding.subject): \(finding.found)")
            if !finding.remedy.isEmpty { print("      -> \(finding.remedy)") }
        }
        return failed.count
    }
}
