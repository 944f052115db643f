import Crypto
import IKE
import IPsec
import Platform
import Wire

/// Measures the IKE core with the real cryptography: two cores on one thread hand each other their datagrams, and the time that
/// each end spends is added up. What the kernel takes to carry the datagrams, and installing SAs, is not in it.
public enum IKEBenchmark {
    public enum Operation: String, Sendable, CaseIterable {
        /// IKE_SA_INIT and IKE_AUTH with one child, and the DELETE that ends it.
        case handshake
        /// CREATE_CHILD_SA for a child, and the DELETE of the old one.
        case rekeyChild = "rekey-child"
        /// CREATE_CHILD_SA for the IKE SA, and the DELETE of the old one.
        case rekeyIKE = "rekey-ike"
    }

    public struct Options: Sendable {
        /// Keywords, as in `ike_proposals`.
        public var proposals: [String]
        public var authentications: [IKEBenchmarkCredentials.Method]
        public var operations: [Operation]
        /// Each thread has both ends, and one CPU.
        public var threads: Int
        /// Time spent per line, about.
        public var seconds: Double
        public init(
            proposals: [String], authentications: [IKEBenchmarkCredentials.Method], operations: [Operation], threads: Int,
            seconds: Double
        ) {
            (self.proposals, self.authentications, self.operations) = (proposals, authentications, operations)
            (self.threads, self.seconds) = (threads, seconds)
        }
    }

    public struct Result: Sendable, Hashable {
        public var operation: String
        public var proposal: String
        public var authentication: String
        public var threads: Int
        /// Both ends together, on all threads.
        public var perSecond: Double
        /// Both ends together, per second of a core's time: what others take of the machine meanwhile is not in it.
        public var perCPUSecond: Double
        /// What one core does when it is one end only: median over threads of the inverse of that end's mean time.
        public var initiatorPerSecond: Double
        public var responderPerSecond: Double
    }

    public struct Memory: Sendable, Hashable {
        public var sas: Int
        /// Octets of resident memory per IKE SA with one child, at one end: what both ends grew by, over two.
        public var bytesPerSA: Double
        /// Handshakes per second while they were set up.
        public var establishedPerSecond: Double
    }

    public struct Failure: Error, Sendable, CustomStringConvertible {
        public var description: String
        init(_ description: String) { self.description = description }
    }

    /// - Throws: `Failure`, `ProposalKeywordError`, `CredentialError`: a proposal that cannot be read, ends that do not come
    ///   together, keys or certificates that cannot be made.
    public static func run(_ options: Options, progress: (String) -> Void) throws -> [Result] {
        var results: [Result] = []
        for authentication in options.authentications {
            progress("keys and certificates for \(authentication.rawValue)")
            // A key of their own for each thread: threads that share one wait for each other.
            let credentials = try (0..<options.threads).map { _ in try IKEBenchmarkCredentials(authentication) }
            for proposal in options.proposals {
                _ = try IKEProposal(keywords: proposal)
                for operation in options.operations {
                    progress("\(operation.rawValue) \(proposal) \(authentication.rawValue)")
                    let runs = try PinnedThreads.run(options.threads) { number in
                        let bench = try IKEBenchmarkPair(connections: 1, proposal: proposal, credentials: credentials[number])
                        return try bench.measure(operation, seconds: options.seconds)
                    }
                    results.append(
                        Result(
                            operation: operation.rawValue, proposal: proposal, authentication: authentication.rawValue,
                            threads: options.threads, perSecond: runs.map { 1e9 / $0.both }.reduce(0, +),
                            perCPUSecond: 1e9 / median(runs.map(\.cpu)),
                            initiatorPerSecond: 1e9 / median(runs.map(\.initiator)),
                            responderPerSecond: 1e9 / median(runs.map(\.responder))))
                }
            }
        }
        return results
    }

    /// Holds so many IKE SAs at once, between as many connections, and says what each takes.
    public static func memory(
        sas: Int, proposal: String, authentication: IKEBenchmarkCredentials.Method, progress: (String) -> Void
    ) throws -> Memory {
        _ = try IKEProposal(keywords: proposal)
        return try IKEBenchmarkPair.crowd(
            sas: sas, proposal: proposal, credentials: IKEBenchmarkCredentials(authentication), progress: progress)
    }

    static func median(_ values: [Double]) -> Double {
        let sorted = values.sorted()
        return sorted.isEmpty ? 0 : sorted[sorted.count / 2]
    }
}
