import ArgumentParser
import Configuration

/// `culvert`: the gateway, its clients and its tools in one command. Alone it prints its help.
@main
struct Culvert: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "culvert",
        abstract: "An IPsec gateway over AF_XDP: between sites, for single hosts, or as one of them.",
        discussion: """
            Ends with 0: done; 1: it ran and the answer is no; 64: wrong usage; 69: no gateway answers on the socket; \
            77: privileges missing; 78: configuration refused.
            """,
        version: CulvertVersion.current,
        subcommands: [
            Run.self, Check.self, Status.self, Up.self, Down.self, Rekey.self, Redirect.self, Reload.self, Bench.self,
            Doctor.self, Diagnose.self, PKI.self,
            Version.self, Debug.self,
        ])

    static func main() async {
        let words = Array(CommandLine.arguments.dropFirst())
        if let complaint = Suggestion.complaint(words, root: Self.self) {
            complain(complaint)
            Self.exit(withError: ExitCode.validationFailure)
        }
        await main(words)
    }
}

/// `culvert version`
struct Version: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Print the version.")

    func run() { print("culvert \(CulvertVersion.current)") }
}
