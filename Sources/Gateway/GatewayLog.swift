import Configuration
import FoundationEssentials
import IKE
import Logging
import Platform

/// Writes log lines to standard error, as text for people or as JSON for collectors. One line per event, in one write.
struct GatewayLogHandler: LogHandler {
    var metadata: Logger.Metadata = [:]
    var metadataProvider: Logger.MetadataProvider?
    var logLevel: Logger.Level
    let format: GatewayConfiguration.Log.Format
    let gateway: String

    init(_ log: GatewayConfiguration.Log, gateway: String) {
        logLevel = Self.level(log.level)
        format = log.format
        self.gateway = gateway
    }

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
        let connection = (event.metadata?["connection"] ?? metadata["connection"]).map { "\($0)" }
        let time = Date.now.ISO8601Format(.iso8601WithFractionalSeconds)
        let line = Self.line(
            time: time, level: event.level, gateway: gateway, connection: connection, message: "\(event.message)", format: format)
        LineWriter.standardError.write(Array(line.utf8)) { lost in
            let message = "\(lost) log line\(lost == 1 ? "" : "s") lost: whoever reads them had stopped"
            return Array(
                Self.line(time: time, level: .warning, gateway: gateway, connection: nil, message: message, format: format).utf8)
        }
    }

    static func line(
        time: String, level: Logger.Level, gateway: String, connection: String?, message: String,
        format: GatewayConfiguration.Log.Format
    ) -> String {
        switch format {
        case .text:
            // A peer's octets may be quoted in a message: they must not make lines of their own.
            let text = String(message.unicodeScalars.map { $0.properties.generalCategory == .control ? " " : Character($0) })
            return "\(time) \(level.rawValue) " + (connection.map { "[\($0)] " } ?? "") + text + "\n"
        case .json:
            var fields = [("time", time), ("level", level.rawValue), ("gateway", gateway)]
            if let connection { fields.append(("connection", connection)) }
            fields.append(("message", message))
            return "{" + fields.map { "\"\($0.0)\":\(quoted($0.1))" }.joined(separator: ",") + "}\n"
        }
    }

    /// RFC 8259 §7.
    private static func quoted(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": result += "\\\""
            case "\\": result += "\\\\"
            case _ where scalar.value < 0x20:
                let hex = String(scalar.value, radix: 16)
                result += "\\u" + String(repeating: "0", count: 4 - hex.count) + hex
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }

    static func level(_ level: LogLevel) -> Logger.Level {
        switch level {
        case .debug: .debug
        case .info: .info
        case .warning: .warning
        case .error: .error
        }
    }
}

extension Date.ISO8601FormatStyle {
    /// UTC, milliseconds.
    fileprivate static let iso8601WithFractionalSeconds = Date.ISO8601FormatStyle(includingFractionalSeconds: true)
}
