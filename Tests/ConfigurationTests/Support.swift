import Configuration
import Foundation
import Testing

/// A configuration without problems that the tests change piece by piece. Its line numbers are counted upon.
let good = """
    interfaces:
      - { name: wan0, role: underlay }
      - { name: lan0, role: protected }
    connections:
      - name: west
        local:  { address: 192.0.2.1, id: east.example, auth: psk }
        remote: { address: 192.0.2.2, id: west.example, auth: psk }
        psk: "a-secret-of-more-than-twenty-characters"
        children:
          - name: net
            local_subnets:  [10.1.0.0/24]
            remote_subnets: [10.2.0.0/24]

    """

func parse(_ text: String) -> LoadedConfiguration {
    ConfigurationReader.parse(text: text, file: "test.yaml", directory: "/nonexistent")
}

/// `LINE:COLUMN severity text`, as the tests compare them.
func told(_ loaded: LoadedConfiguration) -> [String] {
    loaded.diagnostics.map { "\($0.line):\($0.column) \($0.severity.rawValue) \($0.text)" }
}

/// `good` with the first occurrence of `old` replaced.
func changed(_ old: String, _ new: String) throws -> String {
    let range = try #require(good.range(of: old), "the piece to replace is not there")
    return good.replacingCharacters(in: range, with: new)
}

/// The configuration of a text that must be accepted without a word.
func accepted(_ text: String, sourceLocation: SourceLocation = #_sourceLocation) throws -> GatewayConfiguration {
    let loaded = parse(text)
    #expect(told(loaded) == [], sourceLocation: sourceLocation)
    return try #require(loaded.configuration, sourceLocation: sourceLocation)
}

/// A folder that goes away with the test.
final class Folder {
    let path: String

    init() throws {
        path = NSTemporaryDirectory() + "culvert-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    @discardableResult
    func write(_ name: String, _ bytes: some Sequence<UInt8>, mode: Int = 0o600) throws -> String {
        let file = "\(path)/\(name)"
        try Data(bytes).write(to: URL(fileURLWithPath: file))
        try FileManager.default.setAttributes([.posixPermissions: mode], ofItemAtPath: file)
        return file
    }
}
