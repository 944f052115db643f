import Foundation
import IKE
import IPsec
import Testing
import Wire

/// Whole pairs of gateways over a wire that loses, doubles, delays and reorders, one run per seed.
///
/// `CULVERT_SEEDS` sets which: `5000` runs seeds 1 to 5000, `17` with a leading `=` (`=17`) runs that one alone, `100-200` a
/// range.
enum Seeds {
    static func range(_ standard: Int) -> ClosedRange<UInt64> {
        guard let text = ProcessInfo.processInfo.environment["CULVERT_SEEDS"] else { return 1...UInt64(standard) }
        if text.hasPrefix("="), let one = UInt64(text.dropFirst()) { return one...one }
        let ends = text.split(separator: "-").compactMap { UInt64($0) }
        if ends.count == 2, ends[0] <= ends[1] { return ends[0]...ends[1] }
        return 1...max(1, ends.first ?? UInt64(standard))
    }

    /// Runs every seed and prints those that fail, so that each can be run again alone.
    static func each(_ standard: Int, _ name: String, _ run: (UInt64) throws -> String?) {
        for seed in range(standard) {
            var fault: String?
            do { fault = try run(seed) } catch { fault = "\(error)" }
            if let fault {
                print("\(name): seed \(seed) failed: \(fault). Run it alone with CULVERT_SEEDS==\(seed)")
                Issue.record("\(name): seed \(seed): \(fault)")
            }
        }
    }
}

@Suite struct SimulationTests {
    @Test func `a thousand lossy, doubling, reordering wires establish a tunnel with equal keys on both ends`() {
        Seeds.each(1000, "establish") { seed in
            let pair = Pair(seed: seed)
            pair.network.keepsHistory = false
            let dice = SeededRandom(seed: seed &+ 1_000_003)
            pair.network.faults = Network.Faults(
                loss: dice.unit() * 0.35, duplication: dice.unit() * 0.3, spread: .milliseconds(Int64(dice.unit() * 900)))
            pair.network.latency = .milliseconds(Int64(1 + dice.unit() * 100))
            if dice.unit() < 0.3 { pair.westSide.start = .immediately }
            if dice.unit() < 0.3 { pair.eastSide.ike = ["aes256gcm16-prfsha384-ecp256-x25519"] }
            if dice.unit() < 0.3 {
                pair.eastSide.children.append(("extra", ["10.1.9.0/24"], ["10.2.9.0/24"]))
                pair.westSide.children.append(("extra", ["10.2.9.0/24"], ["10.1.9.0/24"]))
            }
            try pair.start()
            guard pair.network.run(for: .seconds(300), until: { pair.isUp && pair.mismatch == nil }) else {
                return "no tunnel: \(pair.mismatch ?? pair.east.status(now: pair.now)?.reason ?? "")"
            }
            // Once the wire is quiet, one IKE SA and one pair per child are left, with equal keys.
            pair.network.faults = .none
            pair.run(90)
            return Self.quietFault(pair)
        }
    }

    /// What must hold when a pair has come to rest; nil when it does.
    static func quietFault(_ pair: Pair) -> String? {
        if let mismatch = pair.mismatch { return mismatch }
        guard pair.isUp else { return "not up: \(pair.east.status(now: pair.now)?.reason ?? "")" }
        for node in [pair.east, pair.west] {
            let sizes = node.core.tableSizes
            if sizes["sas"] != 1 { return "\(node.name) holds \(sizes["sas"] ?? 0) IKE SAs" }
            if sizes["halfOpen"] != 0 || sizes["installs"] != 0 { return "\(node.name) holds on to what is over: \(sizes)" }
            let names = node.installed.map(\.child)
            if Set(names).count != names.count { return "\(node.name) has a child twice" }
        }
        return nil
    }

    @Test func `rekeying every few seconds on a lossy wire leaves keys equal and nothing behind`() {
        Seeds.each(100, "rekey") { seed in
            let pair = Pair(seed: seed)
            pair.network.keepsHistory = false
            for side in [\Pair.eastSide, \Pair.westSide] {
                pair[keyPath: side].lifetime = .seconds(30)
                pair[keyPath: side].ikeLifetime = .seconds(70)
            }
            try pair.start()
            guard pair.network.run(for: .seconds(60), until: { pair.isUp }) else { return "no tunnel at first" }
            let dice = SeededRandom(seed: seed &+ 77)
            pair.network.faults = Network.Faults(
                loss: dice.unit() * 0.2, duplication: dice.unit() * 0.3, spread: .milliseconds(Int64(dice.unit() * 600)))
            for _ in 0..<20 {
                pair.run(1 + dice.unit() * 10)
                let node = dice.unit() < 0.5 ? pair.east : pair.west
                let isBoth = dice.unit() < 0.3
                let ike = dice.unit() < 0.4
                for node in isBoth ? [pair.east, pair.west] : [node] {
                    _ = node.core.rekey(connection: "c", child: nil, ike: ike, now: pair.now)
                }
            }
            pair.network.faults = .none
            guard pair.network.run(for: .seconds(120), until: { Self.quietFault(pair) == nil }) else {
                return Self.quietFault(pair) ?? "not quiet"
            }
            return pair.east.faults.first ?? pair.west.faults.first
        }
    }

    @Test func `restarts and silences of either side end with a working tunnel`() {
        Seeds.each(100, "restart") { seed in
            let pair = Pair(seed: seed)
            pair.network.keepsHistory = false
            let dice = SeededRandom(seed: seed &+ 4242)
            if dice.unit() < 0.5 { pair.westSide.start = .immediately }
            (pair.eastSide.dpd, pair.westSide.dpd) = (.seconds(2), .seconds(2))
            try pair.start()
            pair.network.faults = .hostile
            for _ in 0..<6 {
                pair.run(dice.unit() * 20)
                let isEast = dice.unit() < 0.5
                let node = isEast ? pair.east : pair.west
                switch Int(dice.unit() * 4) {
                case 0:
                    node.restart()
                    if isEast { try pair.configureEast() } else { try pair.configureWest() }
                case 1:
                    node.isAlive = false
                    pair.run(dice.unit() * 30)
                    node.isAlive = true
                case 2: _ = node.core.terminate(connection: "c", child: nil, now: pair.now)
                default: _ = node.core.rekey(connection: "c", child: nil, ike: dice.unit() < 0.5, now: pair.now)
                }
                if isEast || node.status(now: pair.now)?.state == .down {
                    _ = node.core.initiate(connection: "c", child: nil, now: pair.now)
                }
            }
            pair.network.faults = .none
            _ = pair.east.core.initiate(connection: "c", child: nil, now: pair.now)
            guard pair.network.run(for: .seconds(300), until: { Self.quietFault(pair) == nil }) else {
                return Self.quietFault(pair) ?? "not quiet"
            }
            return nil
        }
    }
}
