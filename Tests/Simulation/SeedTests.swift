import Foundation
import Synchronization
import Testing

/// Which seeds run, and how a failing one is told.
///
/// `CULVERT_SEEDS` (what `scripts/test --seeds` sets): `5000` runs seeds 1 to 5000, `100-200` a range, `=17` that one alone with
/// a trace of everything that happens, `=17,40,90` those.
struct SeedList {
    #if DEBUG
        static let standard: UInt64 = 300
    #else
        static let standard: UInt64 = 10_000
    #endif

    var seeds: [UInt64]
    var isTraced = false

    init(_ text: String?) {
        guard let text else { seeds = Array(1...Self.standard); return }
        if text.hasPrefix("=") {
            seeds = text.dropFirst().split(separator: ",").compactMap { UInt64($0) }
            isTraced = seeds.count == 1
            return
        }
        let ends = text.split(separator: "-").compactMap { UInt64($0) }
        if ends.count == 2, ends[0] <= ends[1] {
            seeds = Array(ends[0]...ends[1])
        } else {
            seeds = Array(1...max(1, ends.first ?? Self.standard))
        }
    }

    static var asked: SeedList { SeedList(ProcessInfo.processInfo.environment["CULVERT_SEEDS"]) }
}

@Suite struct SeedTests {
    /// Failures told in full; the others by number.
    static let toldInFull = 3

    /// What went wrong in one seed; nil when nothing did.
    static func fault(_ seed: UInt64, isTraced: Bool = false) -> String? {
        let run = Run(Scenario(seed: seed), tracer: isTraced ? { print($0) } : nil)
        do { return try run.play() } catch { return "\(error)" }
    }

    @Test func `two gateways survive every seed's mishaps and come to rest with one tunnel`() {
        let list = SeedList.asked
        let next = Atomic(0)
        let faults = Mutex<[(seed: UInt64, fault: String)]>([])
        let start = ContinuousClock.now
        DispatchQueue.concurrentPerform(iterations: ProcessInfo.processInfo.activeProcessorCount) { _ in
            while true {
                let position = next.add(1, ordering: .relaxed).oldValue
                guard position < list.seeds.count else { return }
                let seed = list.seeds[position]
                if let fault = Self.fault(seed, isTraced: list.isTraced) { faults.withLock { $0.append((seed, fault)) } }
            }
        }
        let failed = faults.withLock { $0.sorted { $0.seed < $1.seed } }
        print("\(list.seeds.count) seeds in \(ContinuousClock.now - start), \(failed.count) failed")
        for (position, failure) in failed.enumerated() {
            if position < Self.toldInFull { print(Scenario(seed: failure.seed)) }
            print("seed \(failure.seed): \(failure.fault)")
            print("  replay: CULVERT_SEEDS==\(failure.seed) swift test --filter SeedTests")
        }
        #expect(failed.isEmpty, "seeds \(failed.prefix(20).map(\.seed)) failed")
    }
}
