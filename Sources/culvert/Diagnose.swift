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
        let path = gateway.config ?? response.configuration ?? SocketOptions.usualFile
        var checks = DoctorChecks()
        checks.gatewayRuns = true
        checks.configuration = ConfigurationReader.load(path: path).configuration
        var problems = 0
        for connection in report.connections {
            problems += show(connection, checks.configuration?.connections.first { $0.name == connection.name }, terminal)
        }
        for warning in report.warnings ?? [] {
            problems += 1
            print("\(terminal.paint("fail", .red))  \(warning)")
        }
        let interfaces = checks.configuration == nil ? [] : checks.interfaces().filter { $0.verdict == .fail }
        showDrops(report, interfaces, terminal)
        problems += showMachine(checks, path, terminal)
        print(problems == 0 ? "\nNothing is wrong." : "\n\(counted(problems, "problem")) found.")
        if problems > 0 { throw Exit.no }
    }

    /// The count of problems it found.
    private func show(_ connection: StatusReport.Connection, _ configured: Connection?, _ terminal: Terminal) -> Int {
        let missing = connection.children.filter { $0.state != .installed }
        let idle = missing.filter { child in
            guard child.state == .down, child.reason == nil else { return false }
            return configured?.children.first { $0.name == child.name }.map { $0.start != .immediately } ?? false
        }
        // An installed child with a reason could not be renewed, or nothing goes through it.
        let broken = connection.children.filter { ($0.state != .installed || $0.reason != nil) && !idle.contains($0) }
        if connection.state == .established, broken.isEmpty {
            let rest =
                idle.isEmpty ? "every child is installed" : "waiting to be asked for: \(idle.map(\.name).joined(separator: ", "))"
            print("\(terminal.paint("ok", .green))    \(connection.name): established, \(rest)")
            return 0
        }
        // A connection that waits to be asked (start: manual, on-traffic) is down and in order.
        if connection.state == .down, missing.allSatisfy({ $0.reason == nil }), isWaiting(connection) {
            print("\(terminal.paint("ok", .green))    \(connection.name): idle. \(connection.reason ?? "")")
            return 0
        }
        // One that takes any peer listens; what it tells is of a peer that is not there any more, or of a stranger.
        if connection.state == .down, configured?.remoteAddresses.isEmpty == true {
            let last = connection.reason.map { ". Last: \($0)" } ?? ""
            print("\(terminal.paint("ok", .green))    \(connection.name): listening, nobody is connected\(last)")
            return 0
        }
        print("\(terminal.paint("fail", .red))  \(connection.name): \(connection.state.rawValue)")
        if let reason = connection.reason { print("      \(reason)") }
        if connection.reason?.hasPrefix("No answer") == true {
            print(
                "      -> look for a firewall between \(connection.local.address) and \(connection.remote.address): "
                    + "UDP 500 and 4500, protocol 50"
            )
        }
        for child in broken {
            print("      child \(child.name): \(child.state.rawValue)\(child.reason.map { ": \($0)" } ?? "")")
        }
        if connection.state == .established, broken.contains(where: { $0.state != .installed }) {
            print("      -> `culvert up \(connection.name)` tries the missing children again and tells why they fail")
        }
        return 1
    }

    private func isWaiting(_ connection: StatusReport.Connection) -> Bool {
        let reason = connection.reason ?? ""
        return reason.isEmpty || reason.hasPrefix("Waiting for")
    }

    /// - Parameter interfaces: those that are not in order: packets find no way out of them, and a route would not help.
    private func showDrops(_ report: StatusReport, _ interfaces: [Finding], _ terminal: Terminal) {
        for (name, count) in report.drops.filter({ $0.value > 0 }).sorted(by: { $0.key < $1.key }) {
            guard let reason = DropReason(name: name) else { continue }
            print("\(terminal.paint("drop", .yellow))  \(name), \(Readable.count(count)) packets: \(reason.text)")
            let isOfInterfaces = reason == .noRoute && !interfaces.isEmpty
            let names = interfaces.map(\.subject).joined(separator: ", ")
            print("      -> \(isOfInterfaces ? "first mend what is told below of \(names)" : reason.remedy)")
        }
    }

    /// What is wrong at this end; needs the file, since the gateway does not tell its interfaces.
    private func showMachine(_ checks: DoctorChecks, _ path: String, _ terminal: Terminal) -> Int {
        if checks.configuration == nil {
            print(
                "\(terminal.paint("warn", .yellow))  \(path) cannot be read or is refused, so the interfaces are not looked at: "
                    + "see `culvert check \(path)`")
        }
        // The client's own privileges are not the gateway's.
        let failed = checks.all().filter { $0.verdict == .fail && !["privilege", "AF_XDP"].contains($0.subject) }
        for finding in failed {
            print("\(terminal.paint("fail", .red))  \(finding.subject): \(finding.found)")
            if !finding.remedy.isEmpty { print("      -> \(finding.remedy)") }
        }
        return failed.count
    }
}
