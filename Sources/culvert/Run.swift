import ArgumentParser
import Configuration
import Gateway

/// `culvert run`
struct Run: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Run the gateway in the foreground.",
        discussion: """
            SIGTERM ends it cleanly: protected prefixes stay blackholed unless --release is given. SIGHUP reloads the file.
            """)

    @Option(name: .long, help: ArgumentHelp("The configuration.", valueName: "file"), completion: .file())
    var config: String

    @Option(
        name: .long, help: ArgumentHelp("The control socket, in place of the file's.", valueName: "path"), completion: .file())
    var socket: String?

    @Flag(help: "Remove routes at the end: protected prefixes may then leave in the clear.")
    var release = false

    func run() async throws {
        let reloadRequests = await GatewayService.ReloadRequests()
        let loaded = ConfigurationReader.load(path: config, inspector: CredentialInspection())
        for diagnostic in loaded.diagnostics { complain(diagnostic.description) }
        guard let configuration = loaded.configuration else {
            complain("The configuration is refused; `culvert check \(config)` shows the same.")
            throw Exit.configuration
        }
        do {
            try await GatewayService.run(
                configuration, options: .init(socketPath: socket, releaseOnExit: release, configurationPath: config),
                reloadRequests: reloadRequests)
        } catch let failure as GatewayStartError {
            complain(failure.sentence)
            throw ExitCode(failure.exitCode)
        } catch {
            complain("The gateway cannot go on: \(error)")
            throw Exit.no
        }
    }
}
