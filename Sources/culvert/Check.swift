import ArgumentParser
import Configuration
import Gateway

/// `culvert check`
struct Check: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show every problem in a configuration, as FILE:LINE:COL: error|warning: TEXT.",
        discussion: """
            Reads the file and the secrets and certificates that it names, never the machine's interfaces. Ends with 78 when the \
            file is refused; warnings alone are 0.
            """)

    @Argument(help: "The configuration.", completion: .file())
    var file: String

    @Flag(help: "Print JSON.")
    var json = false

    func run() throws {
        let loaded = ConfigurationReader.load(path: file, inspector: CredentialInspection())
        if json {
            print(try AdminCodec.prettyJSON(Report(file: file, loaded: loaded)))
        } else {
            for diagnostic in loaded.diagnostics { print(diagnostic) }
            print(summary(loaded))
        }
        if loaded.configuration == nil { throw Exit.configuration }
    }

    private func summary(_ loaded: LoadedConfiguration) -> String {
        let errors = loaded.diagnostics.count { $0.severity == .error }
        let warnings = loaded.diagnostics.count { $0.severity == .warning }
        let warned = warnings == 0 ? "" : ", \(counted(warnings, "warning"))"
        guard let configuration = loaded.configuration else { return "\(file): refused, \(counted(errors, "error"))\(warned)" }
        let children = configuration.connections.reduce(0) { $0 + $1.children.count }
        return "\(file): good\(warned) (\(counted(configuration.connections.count, "connection")), "
            + "\(counted(children, "child", plural: "children")), \(counted(configuration.interfaces.count, "interface")))"
    }

    /// What `--json` prints.
    private struct Report: Encodable {
        struct Problem: Encodable {
            var file: String
            var line: Int
            var column: Int
            var severity: String
            var text: String
        }
        var file: String
        var valid: Bool
        var errors: Int
        var warnings: Int
        var diagnostics: [Problem]

        init(file: String, loaded: LoadedConfiguration) {
            self.file = file
            valid = loaded.configuration != nil
            errors = loaded.diagnostics.count { $0.severity == .error }
            warnings = loaded.diagnostics.count { $0.severity == .warning }
            diagnostics = loaded.diagnostics.map {
                Problem(file: $0.file, line: $0.line, column: $0.column, severity: $0.severity.rawValue, text: $0.text)
            }
        }
    }
}

/// `1 error`, `2 errors`.
func counted(_ count: Int, _ noun: String, plural: String? = nil) -> String {
    "\(count) \(count == 1 ? noun : plural ?? noun + "s")"
}
