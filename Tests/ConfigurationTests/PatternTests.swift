import Configuration
import IKE
import Testing

/// Identities of the peer with wildcards.
@Suite struct PatternTests {
    @Test(arguments: [
        ("\"*.branch.example\"", "*.branch.example"), ("\"*@example\"", "*@example"), ("any", "any"),
        ("\"C=DE, O=Example, CN=*\"", "C=DE, O=Example, CN=*"), ("west.example", "west.example"),
    ])
    func `remote identities may have wildcards`(written: String, shown: String) throws {
        let configuration = try accepted(try changed("id: west.example", "id: \(written)"))
        #expect(try #require(configuration.connections.first).remotePattern.description == shown)
    }

    @Test(arguments: ["\"*\"", "\"*example\"", "\"*.\"", "\"*@\"", "\"*.a b\""])
    func `what is no pattern is refused with the patterns there are`(written: String) throws {
        let errors = parse(try changed("id: west.example", "id: \(written)")).diagnostics
        #expect(errors.contains { $0.severity == .error && $0.text.contains("*.branch.example") && $0.column == 39 })
    }
}
