import Configuration
import Foundation
import Testing

@Suite struct SecretTests {
    private let inline = "psk: \"a-secret-of-more-than-twenty-characters\""
    private let secret = Array("file-secret-of-more-than-twenty-octets".utf8)

    @Test func `A secret file is found beside the configuration and loses its line end`() throws {
        for end in ["", "\n", "\r\n"] {
            let folder = try Folder()
            try folder.write("west.psk", secret + Array(end.utf8))
            let file = try folder.write("culvert.yaml", changed(inline, "psk_file: west.psk").utf8)
            let loaded = ConfigurationReader.load(path: file)
            #expect(loaded.diagnostics == [])
            #expect(loaded.configuration?.connections.first?.presharedKey == secret)
        }
    }

    @Test func `A secret that others can read is a warning, in its file and in the configuration`() throws {
        let folder = try Folder()
        try folder.write("west.psk", secret, mode: 0o640)
        let file = try folder.write("culvert.yaml", changed(inline, "psk_file: west.psk").utf8, mode: 0o644)
        #expect(
            told(ConfigurationReader.load(path: file)) == [
                "8:15 warning `west.psk` holds a secret and others can read it; `chmod 600` it"
            ])
        let open = try folder.write("open.yaml", good.utf8, mode: 0o604)
        let all = told(ConfigurationReader.load(path: open))
        #expect(all.count == 1 && all[0].hasPrefix("8:5 warning this file holds a secret and others can read it"))
    }

    @Test func `A secret file may be a link, and nothing but a regular file`() throws {
        let folder = try Folder()
        try folder.write("real.psk", secret)
        try FileManager.default.createSymbolicLink(atPath: folder.path + "/link.psk", withDestinationPath: "real.psk")
        let file = try folder.write("culvert.yaml", changed(inline, "psk_file: link.psk").utf8)
        #expect(ConfigurationReader.load(path: file).diagnostics == [])
        for path in [folder.path, "/dev/zero"] {
            let other = try folder.write("other.yaml", changed(inline, "psk_file: \(path)").utf8)
            let all = told(ConfigurationReader.load(path: other))
            #expect(all.count == 1 && all[0].hasPrefix("8:15 error") && all[0].contains("is not a regular file"), "\(all)")
        }
    }

    @Test func `A secret file that is empty or huge is refused`() throws {
        for (bytes, words) in [([UInt8](), "is empty"), ([UInt8](repeating: 65, count: 5000), "is larger than")] {
            let folder = try Folder()
            try folder.write("west.psk", bytes)
            let file = try folder.write("culvert.yaml", changed(inline, "psk_file: west.psk").utf8)
            let all = told(ConfigurationReader.load(path: file))
            #expect(all.count == 1 && all[0].contains(words), "\(all)")
        }
    }

    @Test func `No diagnostic shows a secret`() throws {
        let shown = "hunter2-hunter2"
        for wrong in [
            "psk: \(shown)", "psk: [\(shown)]", "psk: { \(shown): x }", "psk: \"\(shown)", "psk: \(shown)\n    psk_file: x",
            "psk: !x \(shown)",
        ] {
            let all = try told(parse(changed(inline, wrong)))
            #expect(!all.isEmpty)
            #expect(!all.contains { $0.contains(shown) }, "\(all)")
        }
    }

    @Test func `Clients find the control socket even in a file with problems`() throws {
        let folder = try Folder()
        let file = try folder.write("culvert.yaml", "gateway: { control_socket: /run/east.sock }\nnonsense: 1\n".utf8)
        #expect(ConfigurationReader.controlSocket(path: file) == "/run/east.sock")
        #expect(ConfigurationReader.controlSocket(path: folder.path + "/absent") == nil)
    }
}
