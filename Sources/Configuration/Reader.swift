import IKE

/// A position in the file. Both count from 1; columns count Unicode scalars.
struct Mark: Hashable, Comparable {
    var line: Int
    var column: Int
    static func < (a: Mark, b: Mark) -> Bool { (a.line, a.column) < (b.line, b.column) }
}

/// One reading of one file: collects what is wrong while the sections (in extensions) turn values into the model.
final class Reader {
    let file: String
    let directory: String
    /// The configuration file itself is readable by its group or the world; matters when it contains a secret.
    let readableByOthers: Bool
    /// Looks into keys and certificates; nil: only their names are read.
    let inspector: (any CredentialInspector)?
    private(set) var errorCount = 0
    /// Of the section `pools`, which is read before the connections.
    var knownPools: [AddressPool] = []
    /// Lines with a value and a comment that has no blank after its `#`: it may be meant as a part of the value.
    var closeComments: Set<Int> = []
    /// The file has RADIUS servers.
    var hasRADIUS = false
    private var diagnostics: [Diagnostic] = []
    /// A profile's value is read once per connection that uses it; its problem is told once.
    private var seen: Set<Diagnostic> = []

    init(file: String, directory: String, readableByOthers: Bool, inspector: (any CredentialInspector)? = nil) {
        (self.file, self.directory, self.readableByOthers) = (file, directory, readableByOthers)
        self.inspector = inspector
    }

    func error(_ mark: Mark, _ text: String) {
        errorCount += 1
        add(mark, .error, text)
    }

    func warning(_ mark: Mark, _ text: String) { add(mark, .warning, text) }

    private func add(_ mark: Mark, _ severity: Diagnostic.Severity, _ text: String) {
        let diagnostic = Diagnostic(file: file, line: mark.line, column: mark.column, severity: severity, text: text)
        if seen.insert(diagnostic).inserted { diagnostics.append(diagnostic) }
    }

    /// In the order of the file. Past the bound the rest is counted, errors kept in preference to warnings.
    func sortedDiagnostics() -> [Diagnostic] {
        let sorted = diagnostics.sorted { ($0.line, $0.column, $0.text) < ($1.line, $1.column, $1.text) }
        let bound = ConfigurationReader.maxDiagnostics
        guard sorted.count > bound else { return sorted }
        let hasErrors = sorted.contains { $0.severity == .error }
        let kept = (hasErrors ? sorted.filter { $0.severity == .error } : sorted).prefix(bound)
        guard let last = kept.last else { return [] }
        let rest = Diagnostic(
            file: file, line: last.line, column: last.column, severity: last.severity,
            text: "and \(sorted.count - kept.count) more problems; fix these first")
        return kept + [rest]
    }
}

/// `text` in backquotes, fit for a terminal and a log: bounded, and without control characters.
func quoted(_ text: some StringProtocol, maxScalars: Int = 60) -> String {
    var clean = String.UnicodeScalarView()
    for scalar in text.unicodeScalars.prefix(maxScalars) {
        let isControl = scalar.properties.generalCategory == .control || scalar.properties.generalCategory == .format
        clean.append(isControl || scalar == "`" ? "?" : scalar)
    }
    return "`\(String(clean))\(text.unicodeScalars.count > maxScalars ? "…" : "")`"
}
