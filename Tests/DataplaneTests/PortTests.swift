import Testing

@testable import Dataplane

@Suite("Ports that come and go")
struct PortTests {
    /// Without a thread, and on an interface that nobody has.
    private static func plane() throws -> Dataplane {
        try Dataplane(DataplaneSettings(workerCPUs: [0], hugePages: .off, framesPerWorker: 64), log: { _ in })
    }

    private static let nowhere = PortDescription(
        name: "nowhere0", interfaceIndex: 2_000_000_000, role: .protected, mac: [2, 0, 0, 0, 0, 1], mtu: 1500, queues: 1)

    @Test func `attachments that fail give their number back, however many there are`() throws {
        let plane = try Self.plane()
        defer { plane.stop() }
        var sentences: Set<String> = []
        for _ in 0..<(Int(UInt8.max) + 10) {
            do { _ = try plane.attach(Self.nowhere) } catch { sentences.insert(error.sentence) }
        }
        #expect(sentences.count == 1, "\(sentences)")
        #expect(plane.ownersInUse.isEmpty)
    }
}
