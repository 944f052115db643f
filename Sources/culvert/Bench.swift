import ArgumentParser
import Crypto
import Dataplane
import Gateway
import Glibc

extension EngineKind: ExpressibleByArgument {}
extension ESPBenchmark.Direction: ExpressibleByArgument {}
extension ESPBenchmark.Outer: ExpressibleByArgument {}

/// `culvert bench`
struct Bench: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Throughput benchmarks.", subcommands: [BenchESP.self, BenchIKE.self])
}

/// `64,512,1400`
struct PacketSizes: ExpressibleByArgument, CustomStringConvertible {
    static let mostSizes = 32
    var bytes: [Int]

    init(_ bytes: [Int]) { self.bytes = bytes }

    init?(argument: String) {
        let parts = argument.split(separator: ",", omittingEmptySubsequences: false).map { Int($0) }
        guard (1...Self.mostSizes).contains(parts.count), parts.allSatisfy({ $0.map { $0 > 0 } ?? false }) else { return nil }
        bytes = parts.compactMap { $0 }
    }

    var description: String { bytes.map(String.init).joined(separator: ",") }
}

/// `culvert bench esp`
struct BenchESP: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "esp",
        abstract: "The worker's whole ESP path over packets in memory, beside the bare crypto engine.",
        discussion: """
            AES-256-GCM with ESN in tunnel mode. Sizes are those of the inner IP packets. Clocks are the time-stamp \
            counter's; both columns are medians of one run, taken in turn. What the path costs is the difference.
            """)

    @Option(help: "openssl or ipsec-mb; unless told the best one of this machine.")
    var engine: EngineKind?

    @Option(help: ArgumentHelp("Inner packet sizes in bytes.", valueName: "list"))
    var sizes = PacketSizes([64, 512, 1400])

    @Option(help: "out (seal) or in (open); both unless told.")
    var direction: ESPBenchmark.Direction?

    @Option(help: "Worker threads, each with its own SAs.")
    var workers = 1

    @Option(help: "SAs per worker.")
    var sas = 1

    @Option(help: "What carries ESP: ipv4, ipv6, udp-ipv4 or udp-ipv6.")
    var outer = ESPBenchmark.Outer.ipv4

    @Option(help: "Seconds per size and direction, about.")
    var seconds = 1.0

    @Flag(help: "Print JSON.")
    var json = false

    func validate() throws {
        if !(1...64).contains(workers) { throw ValidationError("--workers must be 1 to 64.") }
        if !(1...128).contains(sas) { throw ValidationError("--sas must be 1 to 128.") }
        if !(0.01...600).contains(seconds) { throw ValidationError("--seconds must be 0.01 to 600.") }
    }

    func run() throws {
        let options = ESPBenchmark.Options(
            engine: engine ?? .best, sizes: sizes.bytes, directions: direction.map { [$0] } ?? ESPBenchmark.Direction.allCases,
            workers: workers, sas: sas, seconds: seconds, outer: outer)
        let showsProgress = isatty(STDERR_FILENO) == 1
        let results: [ESPBenchmark.Result]
        do {
            results = try ESPBenchmark.run(options) { step in
                // Each step replaces the one before it.
                if showsProgress { writeError("\r\u{1B}[K\(step)") }
            }
        } catch {
            if showsProgress { writeError("\r\u{1B}[K") }
            complain("The benchmark cannot run: \((error as? DataplaneError)?.sentence ?? "\(error)")")
            throw Exit.no
        }
        if showsProgress { writeError("\r\u{1B}[K") }
        print(json ? try AdminCodec.prettyJSON(Report(results: results.map(Report.Line.init))) : table(results))
    }

    private func table(_ results: [ESPBenchmark.Result]) -> String {
        var table = Table(
            headings: [
                "engine", "direction", "bytes", "workers", "SAs", "clocks/packet", "raw engine", "above raw", "Mpps", "Gbit/s",
            ],
            alignments: [.left, .left, .right, .right, .right, .right, .right, .right, .right, .right])
        for result in results {
            table.rows.append(
                [
                    result.engine, result.direction, "\(result.packetBytes)", "\(result.workers)", "\(result.sas)",
                    Readable.fixed(result.clocksPerPacket, 0), Readable.fixed(result.rawClocksPerPacket, 0),
                    Readable.fixed(result.clocksPerPacket - result.rawClocksPerPacket, 0), Readable.fixed(result.mpps, 2),
                    Readable.fixed(result.gbps, 2),
                ].map { Table.Cell($0) })
        }
        return table.text(.output)
    }

    /// What `--json` prints; the names are a contract.
    private struct Report: Encodable {
        struct Line: Encodable {
            var engine: String
            var direction: String
            var packetBytes: Int
            var workers: Int
            var sas: Int
            var clocksPerPacket: Double
            var rawClocksPerPacket: Double
            var mpps: Double
            var gbps: Double

            enum CodingKeys: String, CodingKey {
                case engine, direction, workers, sas, mpps, gbps
                case packetBytes = "packet_bytes"
                case clocksPerPacket = "clocks_per_packet"
                case rawClocksPerPacket = "raw_clocks_per_packet"
            }

            init(_ result: ESPBenchmark.Result) {
                (engine, direction, packetBytes) = (result.engine, result.direction, result.packetBytes)
                (workers, sas, mpps, gbps) = (result.workers, result.sas, result.mpps, result.gbps)
                (clocksPerPacket, rawClocksPerPacket) = (result.clocksPerPacket, result.rawClocksPerPacket)
            }
        }
        var results: [Line]
    }
}
