import ArgumentParser
import Gateway
import Glibc

/// `culvert status`
struct Status: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "What is up, what is down and why, traffic, drops.")

    @Argument(help: "Only this connection.")
    var connection: String?

    @Flag(help: "Print JSON.")
    var json = false

    @Flag(help: "Show it again every second, with rates, until Ctrl-C.")
    var watch = false

    @OptionGroup var gateway: SocketOptions

    func run() throws {
        guard watch else {
            try show(try gateway.askFor(request), since: nil)
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
            let text =
                watch
                ? String(decoding: try AdminCodec.line(report).dropLast(), as: UTF8.self) : try AdminCodec.prettyJSON(report)
            print(text)
        } else {
            print(StatusPage(report: report, before: before, terminal: .output).text)
        }
    }

    private func clear() {
        // Cursor home, then erase: less flicker than erasing first.
        print(Terminal.isInteractive ? "\u{1B}[H\u{1B}[2J" : "", terminator: Terminal.isInteractive ? "" : "\n")
    }
}
