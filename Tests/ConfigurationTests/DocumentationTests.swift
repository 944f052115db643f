import Foundation
import Testing

@testable import Configuration

/// docs/configuration.md has a table per section of the file, and in it a row per key that the loader takes.
@Suite struct DocumentationTests {
    private static let sections: [(heading: String, scope: Scope)] = [
        ("### Top level", .root), ("### `gateway`", .gateway), ("### `log`, in `gateway`", .log),
        ("### `interfaces`", .interface),
        ("### `dataplane`", .dataplane), ("### A connection", .connection), ("### `local` and `remote`", .peer),
        ("### `id` in braces", .identity), ("### `secrets`", .secret), ("### `ppk`", .postquantumKey), ("### `eap`", .eap),
        ("### `users`, in `eap`", .eapUser), ("### A child", .child),
        ("### `peers`, in a child", .peerOfChild), ("### `policies`", .policy), ("### `pools`", .pool),
        ("### `radius`", .radius), ("### `servers`, in `radius`", .radiusServer),
    ]

    private static func document() throws -> [Substring] {
        let repository = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        let text = try String(contentsOf: repository.appendingPathComponent("docs/configuration.md"), encoding: .utf8)
        return text.split(separator: "\n", omittingEmptySubsequences: false)
    }

    /// The first cells of the table below a heading: `key`.
    private static func keys(below heading: String, _ lines: [Substring]) -> [String] {
        guard let start = lines.firstIndex(where: { $0 == heading }) else { return [] }
        return lines[(start + 1)...].prefix { !$0.hasPrefix("#") }.filter { $0.hasPrefix("| `") }.compactMap { line in
            line.split(separator: "`").dropFirst().first.map(String.init)
        }
    }

    @Test func `The reference has every key that the loader takes, in its section, and no other`() throws {
        let lines = try Self.document()
        for (heading, scope) in Self.sections {
            #expect(Self.keys(below: heading, lines).sorted() == scope.keys.sorted(), "\(heading)")
        }
    }

    @Test func `No section of the file is left out of the reference`() {
        let told = Set(Self.sections.map(\.scope.name))
        #expect(Scope.all.map(\.name).filter { !told.contains($0) } == [])
    }
}
