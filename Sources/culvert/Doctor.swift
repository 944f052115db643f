import ArgumentParser
import Configuration
import Gateway

/// `culvert doctor`
struct Doctor: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Is this machine ready: kernel, privileges, NICs, queues, NUMA, huge pages.",
        discussion: "With --config also that file and its interfaces and addresses. Ends with 1 when something fails.")

    @Flag(help: "Print JSON.")
    var json = false

    @OptionGroup var gateway: SocketOptions

    func run() throws {
        var findings: [Finding] = []
        var checks = DoctorChecks()
        if let path = gateway.config {
            let loaded = ConfigurationReader.load(path: path, inspector: CredentialInspection())
            checks.configuration = loaded.configuration
            findings += loaded.diagnostics.map { diagnostic in
                Finding(
                    verdict: diagnostic.severity == .error ? .fail : .warn, subject: "configuration",
                    found: "\(diagnostic.file):\(diagnostic.line):\(diagnostic.column): \(diagnostic.text)")
            }
            if loaded.diagnostics.isEmpty { findings.append(Finding(verdict: .ok, subject: "configuration", found: path)) }
        }
        checks.gatewayRuns = (try? gateway.exchange(AdminRequest(.version), answerWithinSeconds: 2))?.ok ?? false
        findings += checks.all()
        if !checks.gatewayRuns, let left = GatewayAbsence.look(gateway) { findings.append(left.finding) }
        print(json ? try AdminCodec.prettyJSON(Report(findings)) : Self.page(findings, .output))
        if findings.contains(where: { $0.verdict == .fail }) { throw Exit.no }
    }

    /// What `--json` prints; the names are a contract.
    struct Report: Encodable {
        var ready: Bool
        var findings: [Finding]
        init(_ findings: [Finding]) {
            self.findings = findings
            ready = !findings.contains { $0.verdict == .fail }
        }
    }

    static func page(_ findings: [Finding], _ terminal: Terminal) -> String {
        var table = Table(headings: ["", "", ""], alignments: [.left, .left, .left])
        for finding in findings {
            let colour: Terminal.Colour =
                switch finding.verdict {
                case .ok: .green
                case .warn: .yellow
                case .fail: .red
                }
            table.rows.append([
                Table.Cell(finding.verdict.rawValue, colour), Table.Cell(finding.subject), Table.Cell(finding.found),
            ])
            if !finding.remedy.isEmpty {
                table.rows.append([Table.Cell(""), Table.Cell(""), Table.Cell("-> \(finding.remedy)")])
            }
        }
        let failed = findings.count { $0.verdict == .fail }
        let warned = findings.count { $0.verdict == .warn }
        let verdict = failed > 0 ? "Not ready: \(counted(failed, "problem"))" : "Ready"
        return "\(table.text(terminal))\n\n\(verdict)\(warned > 0 ? ", \(counted(warned, "warning"))" : "")."
    }
}
