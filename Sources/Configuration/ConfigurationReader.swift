import Foundation
public import IKE

/// Reads a configuration file: every problem in one go, each with the line and column of the offending key or value.
///
/// Reading looks at the file, at the secret files that it names, and at nothing else of the machine. A diagnostic never
/// contains a secret. Whatever the file holds, the outcome is a list of diagnostics and never a trap.
public enum ConfigurationReader {
    /// A configuration larger than this is refused unread: thousands of connections fit in it.
    public static let maxFileBytes = 1 << 20
    /// Where a gateway listens when the file does not say.
    public static let defaultControlSocket = "/run/culvert/culvert.sock"
    /// Further problems are summed up in one last line.
    public static let maxDiagnostics = 200

    /// Reads the file at `path`. Relative paths inside it start from its folder.
    /// - Parameter inspector: looks into the keys and certificates that the file names.
    public static func load(path: String, inspector: (any CredentialInspector)? = nil) -> LoadedConfiguration {
        let directory = URL(fileURLWithPath: path).deletingLastPathComponent().path
        let contents: FileContents
        do {
            contents = try FileContents(path: path, maxBytes: maxFileBytes)
        } catch {
            let text = "the configuration \(error.clause)"
            return LoadedConfiguration(
                configuration: nil, diagnostics: [Diagnostic(file: path, line: 1, column: 1, severity: .error, text: text)])
        }
        return read(
            bytes: contents.bytes, file: path, directory: directory, readableByOthers: contents.isReadableByOthers,
            inspector: inspector)
    }

    /// Reads `text` as if it stood in `file`; relative paths inside it start from `directory`.
    public static func parse(
        text: String, file: String, directory: String, inspector: (any CredentialInspector)? = nil
    ) -> LoadedConfiguration {
        read(bytes: Array(text.utf8), file: file, directory: directory, readableByOthers: false, inspector: inspector)
    }

    /// `gateway.control_socket` of the file at `path`, for clients; nil when the file cannot be read or does not say.
    /// A file with problems elsewhere still answers.
    public static func controlSocket(path: String) -> String? {
        guard let contents = try? FileContents(path: path, maxBytes: maxFileBytes) else { return nil }
        let directory = URL(fileURLWithPath: path).deletingLastPathComponent().path
        let reader = Reader(file: path, directory: directory, readableByOthers: false)
        guard let text = SourceText.checked(contents.bytes, reader: reader), let root = Document.compose(text, reader: reader),
            case .mapping(let top) = root.content, case .mapping(let gateway)? = top["gateway"]?.value.content,
            let entry = gateway["control_socket"]
        else { return nil }
        return reader.socketPath(entry)
    }

    /// An identity as the file has it: a name, `user@host`, an address or a distinguished name. nil: it is none of them.
    public static func identity(text: String) -> Identity? {
        let reader = Reader(file: "", directory: "/", readableByOthers: false)
        let mark = Mark(line: 1, column: 1)
        return reader.identity(
            Entry(key: "id", keyMark: mark, value: Value(mark: mark, content: .scalar(text, isQuoted: true))))
    }

    private static func read(
        bytes: [UInt8], file: String, directory: String, readableByOthers: Bool, inspector: (any CredentialInspector)?
    ) -> LoadedConfiguration {
        let reader = Reader(file: file, directory: directory, readableByOthers: readableByOthers, inspector: inspector)
        var configuration: GatewayConfiguration?
        if let text = SourceText.checked(bytes, reader: reader), let root = Document.compose(text, reader: reader) {
            configuration = reader.gatewayConfiguration(root)
        }
        let diagnostics = reader.sortedDiagnostics()
        let isRefused = diagnostics.contains { $0.severity == .error }
        return LoadedConfiguration(configuration: isRefused ? nil : configuration, diagnostics: diagnostics)
    }
}
