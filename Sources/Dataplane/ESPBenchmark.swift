import CLinux
public import Crypto
import Glibc
import IPsec
import Platform
import Wire

/// Measures the real worker code over packet I/O in plain memory, and the bare engine over the same buffers in the same run.
///
/// A round gives the worker a ring full of packets and times it until they are all on the transmit ring: receive, policy or
/// SPI lookup, replay check, ESP, next hop, link-layer header, frame bookkeeping. Preparing packets, and playing the kernel,
/// is not timed. Rounds of worker and engine alternate; figures are medians over rounds.
public enum ESPBenchmark {
    public enum Direction: String, Sendable, CaseIterable { case out, `in` }
    /// What carries the ESP packets.
    public enum Outer: String, Sendable, CaseIterable {
        case ipv4, ipv6
        case udpIPv4 = "udp-ipv4"
        case udpIPv6 = "udp-ipv6"
        var isIPv6: Bool { self == .ipv6 || self == .udpIPv6 }
        var isUDP: Bool { self == .udpIPv4 || self == .udpIPv6 }
    }

    public struct Options: Sendable {
        public var engine: EngineKind
        /// Inner IP packets, octets.
        public var sizes: [Int]
        public var directions: [Direction]
        /// Threads, each with its own SAs, rings and memory.
        public var workers: Int
        /// SAs per worker, used in turn.
        public var sas: Int
        /// Time spent per size and direction, about.
        public var seconds: Double
        public var outer: Outer
        public init(
            engine: EngineKind, sizes: [Int] = [64, 512, 1400], directions: [Direction] = [.out, .in], workers: Int = 1,
            sas: Int = 1, seconds: Double = 1, outer: Outer = .ipv4
        ) {
            (self.engine, self.sizes, self.directions, self.workers, self.sas, self.seconds, self.outer) = (
                engine, sizes, directions, workers, sas, seconds, outer
            )
        }
    }

    public struct Result: Sendable, Hashable {
        public var engine: String
        public var direction: String
        public var packetBytes: Int
        public var workers: Int
        public var sas: Int
        /// Time-stamp counter ticks, median over rounds.
        public var clocksPerPacket: Double
        public var rawClocksPerPacket: Double
        /// Of all workers together, at the time-stamp counter's rate.
        public var mpps: Double
        public var gbps: Double
    }

    static let packetsPerRound = 512
    /// What fits an underlay of 1500 octets.
    static func sizeRange(_ outer: Outer) -> ClosedRange<Int> {
        28...ESPLayout.largestPayload(mtu: 1500, udp: outer.isUDP, ipv6: outer.isIPv6)
    }

    public static func run(_ options: Options, progress: (String) -> Void) throws -> [Result] {
        guard options.workers >= 1, options.workers <= 64, options.sas >= 1, options.sas <= 128 else {
            throw DataplaneError("workers must be 1 to 64 and sas 1 to 128")
        }
        let sizeRange = sizeRange(options.outer)
        for size in options.sizes where !sizeRange.contains(size) {
            throw DataplaneError(
                "packets of \(size) octets do not fit: sizes are \(sizeRange.lowerBound) to \(sizeRange.upperBound)")
        }
        let ticksPerSecond = measureTickRate()
        var results: [Result] = []
        for direction in options.directions {
            for size in options.sizes {
                progress("\(options.engine.rawValue) \(direction.rawValue) \(size) B")
                let runs = try runThreads(options, direction, size, ticksPerSecond)
                let clocks = runs.map(\.worker).reduce(0, +) / Double(runs.count)
                let raw = runs.map(\.raw).reduce(0, +) / Double(runs.count)
                let mpps = runs.map { ticksPerSecond / $0.worker / 1e6 }.reduce(0, +)
                results.append(
                    Result(
                        engine: options.engine.rawValue, direction: direction.rawValue, packetBytes: size,
                        workers: options.workers,
                        sas: options.sas, clocksPerPacket: clocks, rawClocksPerPacket: raw, mpps: mpps,
                        gbps: mpps * Double(size) * 8 / 1000))
            }
        }
        return results
    }

    private struct Medians: Sendable { var worker: Double; var raw: Double }

    private static func runThreads(_ options: Options, _ direction: Direction, _ size: Int, _ ticksPerSecond: Double) throws
        -> [Medians]
    {
        try PinnedThreads.run(options.workers) { _ in
            try measure(options, direction, size, deadline: options.seconds * ticksPerSecond)
        }
    }

    private static func measureTickRate() -> Double {
        let start = (culvert_rdtsc(), culvert_monotonic_ns())
        usleep(50_000)
        let end = (culvert_rdtsc(), culvert_monotonic_ns())
        return Double(end.0 &- start.0) * 1e9 / Double(end.1 &- start.1)
    }

    private static func measure(_ options: Options, _ direction: Direction, _ size: Int, deadline: Double) throws -> Medians {
        let bench = try BenchmarkRound(
            engine: options.engine, size: size, sas: options.sas, packets: packetsPerRound, outer: options.outer)
        var worker: [Double] = []
        var raw: [Double] = []
        let begin = culvert_rdtsc()
        var rounds = 0
        while rounds < 20 || Double(culvert_rdtsc() &- begin) < deadline {
            rounds += 1
            let ticks = try direction == .out ? bench.outbound() : bench.inbound()
            let rawTicks = try direction == .out ? bench.rawOutbound() : bench.rawInbound()
            // The first rounds fill caches and learn flows.
            guard rounds > 5 else { continue }
            worker.append(Double(ticks) / Double(packetsPerRound))
            raw.append(Double(rawTicks) / Double(packetsPerRound))
        }
        return Medians(worker: median(worker), raw: median(raw))
    }

    private static func median(_ values: [Double]) -> Double {
        let sorted = values.sorted()
        return sorted.isEmpty ? 0 : sorted[sorted.count / 2]
    }
}
