import Gateway
import Glibc
import Platform
import Wire

/// What a gateway that does not run has left: since when, and what is blackholed on purpose. Looks only.
struct GatewayAbsence {
    /// Prefixes that lead nowhere until a gateway runs again.
    var blackholed: [String]
    /// Since its last sign of life; nil: it ended in order, or nobody knows.
    var secondsSilent: Double?
    /// What the service manager says of the unit, in one clause; nil: there is none.
    var unit: String?
    /// The last error in the journal.
    var lastError: String?

    static let shownPrefixes = 6

    /// Nil when nothing is left: no gateway was here, or it was released.
    static func look(_ options: SocketOptions) -> GatewayAbsence? {
        let blackholed = RoutingLeftovers.blackholedPrefixes()
        var information = stat()
        let path = try? options.path()
        let isThere = path.map { stat($0, &information) == 0 && information.st_mode & S_IFMT == S_IFSOCK } ?? false
        let silent = isThere ? Double(time(nil) - information.st_mtim.tv_sec) : nil
        guard !blackholed.isEmpty || isThere else { return nil }
        return GatewayAbsence(
            blackholed: blackholed, secondsSilent: silent.map { max(0, $0) }, unit: unitState(), lastError: lastError())
    }

    /// Without the remedy.
    var sentence: String {
        var parts: [String] = []
        if let secondsSilent {
            parts.append("It has been dead for \(Readable.duration(secondsSilent)) (its socket was left behind).")
        }
        if !blackholed.isEmpty {
            let shown = blackholed.prefix(Self.shownPrefixes).joined(separator: ", ")
            let more = blackholed.count > Self.shownPrefixes ? " and \(blackholed.count - Self.shownPrefixes) more" : ""
            parts.append(
                "Until it runs again, packets to \(shown)\(more) are blackholed on purpose, so that none leaves in the clear.")
        }
        if let unit { parts.append("The unit culvert.service is \(unit).") }
        if let lastError { parts.append("Its last error: \(lastError)") }
        return parts.joined(separator: " ")
    }

    var remedy: String {
        unit == nil
            ? "start it with `culvert run --config FILE`; `culvert run --release` once, and its end, gives the prefixes free"
            : "`systemctl status culvert` and `journalctl -u culvert` tell why; `systemctl start culvert`"
    }

    var finding: Finding { Finding(verdict: .fail, subject: "gateway", found: "does not run. \(sentence)", remedy: remedy) }

    // MARK: systemd

    private static func unitState() -> String? {
        let text = output("systemctl show culvert --property=LoadState,ActiveState,SubState,StateChangeTimestamp 2>/dev/null")
        var values: [String: String] = [:]
        for line in text.split(separator: "\n") {
            let parts = line.split(separator: "=", maxSplits: 1)
            if parts.count == 2 { values[String(parts[0])] = String(parts[1]) }
        }
        guard values["LoadState"] == "loaded", let active = values["ActiveState"] else { return nil }
        let since = values["StateChangeTimestamp"].map { " since \($0)" } ?? ""
        return "\(active) (\(values["SubState"] ?? "-"))\(since)"
    }

    private static func lastError() -> String? {
        guard Machine.exists("/run/systemd/system") else { return nil }
        let line = output("journalctl -u culvert -p err -n 1 -o cat --no-pager 2>/dev/null").split(separator: "\n").last
        return line.map(String.init)
    }

    /// Of a command that is written here, never of anybody's words.
    private static func output(_ command: StaticString) -> String {
        guard Machine.exists("/run/systemd/system"), let pipe = popen("\(command)", "r") else { return "" }
        defer { pclose(pipe) }
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 4096)
        while bytes.count < 65_536 {
            let count = fread(&buffer, 1, buffer.count, pipe)
            guard count > 0 else { break }
            bytes += buffer[..<count]
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}
