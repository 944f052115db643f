import ArgumentParser
import Gateway
import Glibc
import IKE

extension IKEBenchmark.Operation: ExpressibleByArgument {}
extension IKEBenchmarkCredentials.Method: ExpressibleByArgument {}

/// `culvert bench ike`
struct BenchIKE: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ike",
        abstract: "IKE handshakes and rekeys per second, and what many IKE SAs take.",
        discussion: """
            Both ends run in this process and hand each other their datagrams; each thread has both ends on one CPU. \
            "both ends" is what all threads do together, "per CPU s" what one of them does per second of a core's own time, \
            whoever else uses the machine; the other two columns are what one core would do that is one end only. A \
            handshake is IKE_SA_INIT, IKE_AUTH with one child, and the DELETE. The kernel's part is not in it. With \
            rsa2048 and the like each end has a certificate with such a key and checks the other's, which one CA with such a \
            key issued.
            """)

    @Option(help: ArgumentHelp("IKE proposals, in turn.", valueName: "list"))
    var proposals = Words(["aes256gcm16-prfsha384-x25519", "aes256gcm16-prfsha384-ecp384"])

    @Option(help: ArgumentHelp("How both ends authenticate: \(Self.knownMethods).", valueName: "list"))
    var auth = Words([IKEBenchmarkCredentials.Method.psk.rawValue])

    @Option(help: "handshake, rekey-child or rekey-ike; all unless told.")
    var operation: IKEBenchmark.Operation?

    @Option(help: "Threads, each with both ends on a CPU of its own.")
    var threads = 1

    @Option(help: "Seconds per line, about.")
    var seconds = 1.0

    @Option(help: "Instead: hold so many IKE SAs at once, with one child each, and tell the memory they take.")
    var sas: Int?

    @Flag(help: "Print JSON.")
    var json = false

    private var methods: [IKEBenchmarkCredentials.Method] { auth.list.compactMap(IKEBenchmarkCredentials.Method.init) }
    private static let knownMethods = IKEBenchmarkCredentials.Method.allCases.map(\.rawValue).joined(separator: ", ")
    private static let mostSAs = 60_000

    func validate() throws {
        if !(1...64).contains(threads) { throw ValidationError("--threads must be 1 to 64.") }
        if !(0.01...600).contains(seconds) { throw ValidationError("--seconds must be 0.01 to 600.") }
        if let sas, !(1...Self.mostSAs).contains(sas) { throw ValidationError("--sas must be 1 to \(Self.mostSAs).") }
        for proposal in proposals.list {
            do { _ = try IKEProposal(keywords: proposal) } catch { throw ValidationError("--proposals: \(error).") }
        }
        for word in auth.list where IKEBenchmarkCredentials.Method(rawValue: word) == nil {
            throw ValidationError("--auth does not know \"\(word)\"; it knows \(Self.knownMethods).")
        }
    }

    func run() throws {
        let showsProgress = isatty(STDERR_FILENO) == 1
        func progress(_ step: String) { if showsProgress { writeError("\r\u{1B}[K\(step)") } }
        do {
            let text = try sas.map { try memory($0, progress) } ?? speed(progress)
            progress("")
            print(text)
        } catch {
            progress("")
            complain("The benchmark cannot run: \(error)")
            throw Exit.no
        }
    }

    private func speed(_ progress: (String) -> Void) throws -> String {
        let options = IKEBenchmark.Options(
            proposals: proposals.list, authentications: methods,
            operations: operation.map { [$0] } ?? IKEBenchmark.Operation.allCases, threads: threads, seconds: seconds)
        let results = try IKEBenchmark.run(options, progress: progress)
        if json { return try AdminCodec.prettyJSON(Report(results: results.map(Report.Line.init))) }
        var table = Table(
            headings: ["operation", "proposal", "auth", "threads", "both ends/s", "per CPU s", "initiator/s", "responder/s"],
            alignments: [.left, .left, .left, .right, .right, .right, .right, .right])
        for result in results {
            table.rows.append(
                [
                    result.operation, result.proposal, result.authentication, "\(result.threads)",
                    Readable.fixed(result.perSecond, 0), Readable.fixed(result.perCPUSecond, 0),
                    Readable.fixed(result.initiatorPerSecond, 0),
                    Readable.fixed(result.responderPerSecond, 0),
                ].map { Table.Cell($0) })
        }
        return table.text(.output)
    }

    private func memory(_ sas: Int, _ progress: (String) -> Void) throws -> String {
        let result = try IKEBenchmark.memory(
            sas: sas, proposal: proposals.list[0], authentication: methods[0], progress: progress)
        if json { return try AdminCodec.prettyJSON(MemoryReport(result)) }
        return """
            \(Readable.count(UInt64(result.sas))) IKE SAs with one child each, at both ends: \
            \(Readable.bytes(UInt64(result.bytesPerSA))) per SA and end; \
            \(Readable.fixed(result.establishedPerSecond, 0)) handshakes per second while they were set up.
            """
    }

    /// What `--json` prints; the names are a contract.
    private struct Report: Encodable {
        struct Line: Encodable {
            var operation: String
            var proposal: String
            var authentication: String
            var threads: Int
            var perSecond: Double
            var perCPUSecond: Double
            var initiatorPerSecond: Double
            var responderPerSecond: Double

            enum CodingKeys: String, CodingKey {
                case operation, proposal, authentication, threads
                case perSecond = "per_second"
                case perCPUSecond = "per_cpu_second"
                case initiatorPerSecond = "initiator_per_second"
                case responderPerSecond = "responder_per_second"
            }

            init(_ result: IKEBenchmark.Result) {
                (operation, proposal, authentication) = (result.operation, result.proposal, result.authentication)
                (threads, perSecond, perCPUSecond) = (result.threads, result.perSecond, result.perCPUSecond)
                (initiatorPerSecond, responderPerSecond) = (result.initiatorPerSecond, result.responderPerSecond)
            }
        }
        var results: [Line]
    }

    private struct MemoryReport: Encodable {
        var sas: Int
        var bytesPerSA: Double
        var establishedPerSecond: Double

        enum CodingKeys: String, CodingKey {
            case sas
            case bytesPerSA = "bytes_per_sa"
            case establishedPerSecond = "established_per_second"
        }

        init(_ memory: IKEBenchmark.Memory) {
            (sas, bytesPerSA, establishedPerSecond) = (memory.sas, memory.bytesPerSA, memory.establishedPerSecond)
        }
    }
}

/// `one,two,three`
struct Words: ExpressibleByArgument, CustomStringConvertible {
    static let most = 32
    var list: [String]

    init(_ list: [String]) { self.list = list }

    init?(argument: String) {
        list = argument.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
        guard (1...Self.most).contains(list.count), list.allSatisfy({ !$0.isEmpty }) else { return nil }
    }

    var description: String { list.joined(separator: ",") }
}
