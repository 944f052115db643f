import ArgumentParser
import Gateway
import Glibc

/// `CONNECTION` or `CONNECTION/CHILD`.
struct Target: ExpressibleByArgument {
    var connection: String
    var child: String?

    init?(argument: String) {
        let parts = argument.split(separator: "/", omittingEmptySubsequences: false)
        guard (1...2).contains(parts.count), parts.allSatisfy({ !$0.isEmpty }) else { return nil }
        connection = String(parts[0])
        child = parts.count == 2 ? String(parts[1]) : nil
    }
}

/// `30s`, `500ms`, `2m`, `1h`; a bare number is seconds.
struct Timeout: ExpressibleByArgument, CustomStringConvertible {
    static let mostSeconds = 3600.0
    var seconds: Double

    init(seconds: Double) { self.seconds = seconds }

    init?(argument: String) {
        let digits = argument.prefix { $0.isASCII && $0.isNumber }
        let perUnit: Double? =
            switch argument.dropFirst(digits.count) {
            case "ms": 0.001
            case "s", "": 1
            case "m": 60
            case "h": 3600
            default: nil
            }
        guard let perUnit, let count = Double(digits), (0...Self.mostSeconds).contains(count * perUnit) else { return nil }
        seconds = count * perUnit
    }

    var description: String { "\(Int(seconds))s" }
}

/// `culvert up`
struct Up: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Establish a connection or one of its children now, and tell the outcome.",
        discussion: "Ends with 1 unless every child asked for is installed in time.")

    @Argument(help: "CONNECTION or CONNECTION/CHILD.")
    var target: Target

    @Option(help: ArgumentHelp("How long to wait, at most an hour.", valueName: "time"))
    var timeout = Timeout(seconds: 30)

    @Flag(help: "Print the outcome as JSON.")
    var json = false

    @OptionGroup var gateway: SocketOptions

    func run() throws {
        let request = AdminRequest(.up, connection: target.connection, child: target.child, timeoutSeconds: timeout.seconds)
        var progress = UpProgress(target: target, gateway: gateway)
        let isWatched = !json && isatty(STDERR_FILENO) == 1
        // The gateway answers at its own timeout; only then is a silent socket a fault.
        try gateway.act(
            request, asJSON: json, otherwise: "Up.", answerWithinSeconds: Int(timeout.seconds) + 10,
            whileWaiting: isWatched ? { progress.tell() } : nil)
    }
}

/// Tells the person at a terminal what `up` waits for, a line whenever that changes.
private struct UpProgress {
    let target: Target
    let gateway: SocketOptions
    private var told: String?

    init(target: Target, gateway: SocketOptions) { (self.target, self.gateway) = (target, gateway) }

    mutating func tell() {
        let answer = try? gateway.exchange(AdminRequest(.status, connection: target.connection), answerWithinSeconds: 2)
        guard let connection = answer?.status?.connections.first else { return }
        let child = connection.children.first { $0.name == target.child && $0.state != .installed }
        let reason = child?.reason ?? connection.reason
        let line = "\(target.connection) is \(connection.state.rawValue)" + (reason.map { ": \($0)" } ?? " ...")
        // Counts and times in a sentence are no news.
        let shape = line.filter { !$0.isNumber }
        guard shape != told else { return }
        told = shape
        complain(line)
    }
}

/// `culvert down`
struct Down: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "End a connection or one of its children, and tell the peer.",
        discussion: "It stays down, whatever the peer or traffic asks for, until `culvert up` or a restart of the gateway.")

    @Argument(help: "CONNECTION or CONNECTION/CHILD.")
    var target: Target

    @Flag(help: "Print the outcome as JSON.")
    var json = false

    @OptionGroup var gateway: SocketOptions

    func run() throws {
        let request = AdminRequest(.down, connection: target.connection, child: target.child)
        try gateway.act(request, asJSON: json, otherwise: "Down.")
    }
}

/// `culvert rekey`
struct Rekey: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Replace the keys of a connection's children now, without losing packets.")

    @Argument(help: "CONNECTION or CONNECTION/CHILD.")
    var target: Target

    @Flag(help: "Rekey the IKE SA instead of its children.")
    var ike = false

    @Flag(help: "Print the outcome as JSON.")
    var json = false

    @OptionGroup var gateway: SocketOptions

    func validate() throws {
        if ike, target.child != nil { throw ValidationError("--ike rekeys a whole connection; leave the child out.") }
    }

    func run() throws {
        let request = AdminRequest(.rekey, connection: target.connection, child: target.child, ike: ike)
        try gateway.act(request, asJSON: json, otherwise: "Rekeying.")
    }
}

/// `culvert redirect`
struct Redirect: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Send the peer of a live connection to another gateway (RFC 5685).",
        discussion: "Works on connections that the peer began, and only when it supports being redirected.")

    @Argument(help: "The connection.")
    var connection: String

    @Argument(help: ArgumentHelp("Address or host name of the other gateway.", valueName: "gateway"))
    var target: String

    @Flag(help: "Print the outcome as JSON.")
    var json = false

    @OptionGroup var gateway: SocketOptions

    func run() throws {
        let request = AdminRequest(.redirect, connection: connection, target: target)
        try gateway.act(request, asJSON: json, otherwise: "Redirecting.")
    }
}

/// `culvert reload`
struct Reload: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Apply the changed configuration; untouched connections keep their SAs.")

    @Flag(help: "Print the outcome as JSON.")
    var json = false

    @OptionGroup var gateway: SocketOptions

    func run() throws {
        try gateway.act(AdminRequest(.reload), asJSON: json, otherwise: "Reloaded.")
    }
}
