import Foundation
import IKE
import Testing

/// Every input of the corpora, and changed copies of them, through the harnesses: what libFuzzer does for hours (scripts/fuzz),
/// for seconds and the same every time. Real messages, and what once trapped, are among the inputs.
@Suite(.serialized) struct CorpusTests {
    /// Changed inputs per harness, by what one costs.
    private static func changes(_ harness: Harness) -> UInt64 {
        switch harness {
        case .message, .packet: 20_000
        case .eap, .certificate, .esp: 2_000
        case .session: 500
        }
    }

    @Test(arguments: Harness.allCases)
    func `no input of the corpus and no change of one makes a harness trap`(_ harness: Harness) async throws {
        let inputs = try Corpus.inputs(harness)
        // The least that a corpus of real messages can have: an empty folder proves nothing.
        try #require(inputs.count >= 8)
        let note = FileManager.default.temporaryDirectory.appendingPathComponent("culvert-fuzz-\(UUID().uuidString)")
        try Data().write(to: note)
        defer { try? FileManager.default.removeItem(at: note) }
        let path = note.path
        let changes = Self.changes(harness)
        let isFine = await #expect(processExitsWith: .success) {
            [harness, path = path as String, changes = changes as UInt64] in
            let note = try #require(FileHandle(forWritingAtPath: path))
            try Corpus.run(harness, changes: changes, note: note)
        }
        if isFine == nil { try Self.report(harness, note: note) }
    }

    /// Puts the input that was being run beside libFuzzer's findings.
    private static func report(_ harness: Harness, note: URL) throws {
        let words = String(decoding: try Data(contentsOf: note), as: UTF8.self).split(separator: " ")
        guard words.count == 2, let seed = UInt64(words[1]) else { return }
        let input = try Corpus.inputs(harness).first { $0.name == words[0] }
        let octets = Corpus.changed(try #require(input).octets, seed: seed)
        let folder = Corpus.place.appendingPathComponent("Findings")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        let file = folder.appendingPathComponent("\(harness.rawValue)-\(words[0])-\(seed)")
        try Data(octets).write(to: file)
        Issue.record(
            """
            \(harness.rawValue) trapped on \(words[0]), change \(seed); look at it with \
            scripts/fuzz \(harness.rawValue) --replay Tests/Fuzz/Findings/\(file.lastPathComponent)
            """)
    }
}

extension Harness: Codable {}

/// Inputs and how they are changed.
private enum Corpus {
    static let place = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .appendingPathComponent("Fuzz")
    static let mostBytes = 4096

    /// In the order of their names.
    static func inputs(_ harness: Harness) throws -> [(name: String, octets: [UInt8])] {
        let folder = place.appendingPathComponent("Corpus").appendingPathComponent(harness.rawValue)
        return try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted().map { name in
            (name, [UInt8](try Data(contentsOf: folder.appendingPathComponent(name))))
        }
    }

    /// Notes before each input which it is: "name seed", seed 0 unchanged.
    static func run(_ harness: Harness, changes: UInt64, note: FileHandle) throws {
        let inputs = try inputs(harness)
        let random = SeededRandom(seed: 1)
        for (name, octets) in inputs { try run(harness, name, octets, seed: 0, note) }
        for seed in 1...changes {
            let (name, octets) = inputs[Int(random.next() % UInt64(inputs.count))]
            try run(harness, name, octets, seed: seed, note)
        }
    }

    private static func run(
        _ harness: Harness, _ name: String, _ octets: [UInt8], seed: UInt64, _ note: FileHandle
    ) throws {
        try note.truncate(atOffset: 0)
        try note.write(contentsOf: Data("\(name) \(seed)".utf8))
        harness.run(changed(octets, seed: seed))
    }

    /// One to four changes: octets replaced, flipped, taken out, put in, doubled, cut off, and numbers at their limits.
    static func changed(_ octets: [UInt8], seed: UInt64) -> [UInt8] {
        guard seed > 0 else { return octets }
        let random = SeededRandom(seed: seed)
        func below(_ bound: Int) -> Int { Int(random.next() % UInt64(max(bound, 1))) }
        var octets = octets
        for _ in 0...below(4) {
            let place = below(octets.count)
            let end = min(octets.count, place + 1 + below(16))
            switch octets.isEmpty ? 5 : below(8) {
            case 0: octets[place] = UInt8(below(256))
            case 1: octets[place] ^= 1 << UInt8(below(8))
            case 2: octets[place] = [0, 1, 0x7F, 0x80, 0xFF][below(5)]
            case 3: octets.removeSubrange(place..<end)
            case 4: octets.insert(contentsOf: octets[place..<end], at: below(octets.count + 1))
            case 5: octets.insert(contentsOf: random.bytes(1 + below(8)), at: place)
            case 6: octets.removeLast(octets.count - place)
            default: for index in place..<end { octets[index] = 0xFF }
            }
        }
        return Array(octets.prefix(mostBytes))
    }
}
