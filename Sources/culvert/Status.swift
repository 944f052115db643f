import ArgumentParser
import Gateway
import Glibc

/// `culvert status`
struct Status: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "What is up, what is down and why, traffic, drops.",
        discussion: """
            What is in trouble comes first. With --check it ends with 0 when all that should be up is up, with 1 when not, and \
            with 69 when no gateway answers: for a monitor.
            """)

    @Argument(help: "Only this connection.")
    var connection: String?

    @Flag(help: "Print JSON.")
    var json = false

    @Flag(help: "One line per connection: state, ages, and the code of what is wrong.")
    var short = false

    @Flag(help: "Only connections in trouble.")
    var failed = false

    @Flag(help: "End with 1 unless all that should be up is up.")
    var check = false

    @Flag(help: "Show it again every second, with rates, until Ctrl-C.")
    var watch = false

    @OptionGroup var gateway: SocketOptions

    func validate() throws {
        if watch, check { throw ValidationError("--watch goes on for ever: take --check without it.") }
    }

    func run() throws {
        guard watch else {
            let response = try gateway.askFor(request)
            try show(response, since: nil)
            if check, response.status?.connections.contains(where: { !$0.isAsItShouldBe }) ?? true { throw Exit.no }
            return
        }
        // Ctrl-C is how this is meant to end.
        signal(SIGINT) { _ in _exit(0) }
        var before: StatusReport?
        while true {
            before = try refresh(since: before)
            flushOutput()
            sleep(1)
        }
    }

    private var request: AdminRequest { AdminRequest(.status, connection: connection) }

    /// A gateway that is gone may come back; a connection that does not exist will not.
    private func refresh(since before: StatusReport?) throws -> StatusReport? {
        let response: AdminResponse
        do {
            response = try gateway.exchange(request, answerWithinSeconds: 5)
        } catch {
            if !json { clear(); print(error.sentence) } else { complain(error.sentence) }
            return nil
        }
        guard response.ok else {
            complain(response.message ?? "The gateway refused the request.")
            throw ExitCode(response.code ?? Exit.no.rawValue)
        }
        if !json { clear() }
        try show(response, since: before)
        return response.status
    }

    private func show(_ response: AdminResponse, since before: StatusReport?) throws {
        guard let report = response.status else {
            complain("The gateway's answer has no status; are gateway and client of the same version?")
            throw Exit.unavailable
        }
        if json {
            var report = report
            if failed { report.connections.removeAll { !$0.isTroubled } }
            let text =
                watch
                ? String(decoding: try AdminCodec.line(report).dropLast(), as: UTF8.self) : try AdminCodec.prettyJSON(report)
            print(text)
        } else {
            print(
                StatusPage(report: report, before: before, terminal: .output, isShort: short, onlyFailed: failed).text)
        }
    }

    private func clear() {
        // Cursor home, then erase: less flicker than erasing first.
        print(Terminal.isInteractive ? "\u{1B}[H\u{1B}[2J" : "", terminator: Terminal.isInteractive ? "" : "\n")
    }
}
