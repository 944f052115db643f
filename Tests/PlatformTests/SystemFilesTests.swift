import Glibc
import Testing

@testable import Platform

@Suite("Files, errors and octets")
struct SystemFilesTests {
    private static func withFolder(_ body: (String) throws -> Void) throws {
        var template = Array("/tmp/culvert-test-XXXXXX".utf8CString)
        try #require(mkdtemp(&template) != nil)
        let folder = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        defer { _ = system("rm -rf \(folder)") }
        try body(folder)
    }

    private static func mode(_ path: String) -> UInt32? {
        var information = stat()
        return stat(path, &information) == 0 ? information.st_mode & 0o7777 : nil
    }

    @Test("makes directories with those above them, twice over")
    func makeDirectory() throws {
        try Self.withFolder { folder in
            for _ in 0..<2 { try SystemFiles.makeDirectory(folder + "/a/b//c/", mode: 0o700) }
            #expect(SystemFiles.isDirectory(folder + "/a/b/c"))
            #expect(Self.mode(folder + "/a/b/c") == 0o700)
        }
    }

    @Test("says which path is in the way of a directory")
    func directoryInTheWay() throws {
        try Self.withFolder { folder in
            close(open(folder + "/file", O_CREAT | O_WRONLY, 0o600))
            for path in ["/file", "/file/below"] {
                let error = #expect(throws: SystemError.self) { try SystemFiles.makeDirectory(folder + path, mode: 0o700) }
                #expect(error?.code == ENOTDIR)
                #expect(error?.subject.hasPrefix(folder + "/file") == true)
            }
        }
    }

    @Test("sets modes and removes files; one that is gone is no error")
    func modesAndRemoval() throws {
        try Self.withFolder { folder in
            let path = folder + "/file"
            close(open(path, O_CREAT | O_WRONLY, 0o644))
            try SystemFiles.setMode(path, 0o600)
            #expect(Self.mode(path) == 0o600)
            #expect(!SystemFiles.isSocket(path))
            try SystemFiles.remove(path)
            try SystemFiles.remove(path)
            let error = #expect(throws: SystemError.self) { try SystemFiles.setMode(path, 0o600) }
            #expect(error?.code == ENOENT)
        }
    }

    @Test("an error is one sentence with call, subject, cause and remedy")
    func sentence() {
        let error = SystemError(call: "bind(AF_XDP)", code: EBUSY, subject: "wan0 queue 3", remedy: "end the other program")
        #expect("\(error)" == "bind(AF_XDP) for wan0 queue 3 failed: Device or resource busy (errno 16); end the other program")
    }

    @Test(
        "base64 is what RFC 4648 §10 says",
        arguments: [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYg==", "foob"), ("Zm9vYmE=", "fooba")])
    func base64(text: String, plain: String) {
        #expect(Self.decode(text) == Array(plain.utf8))
    }

    @Test("base64 with anything wrong is refused", arguments: ["Z", "Zg=", "Zg=a", "Z===", "====", "Zm9 ", "Zm9vZ", "=Zm9"])
    func base64Refused(text: String) {
        #expect(Self.decode(text) == nil)
    }

    private static func decode(_ text: String) -> [UInt8]? {
        var text = text
        return text.withUTF8 { Base64.decode($0) }
    }

    @Test("an event signal is readable from raise to clear")
    func eventSignal() throws {
        let signal = try EventSignal()
        #expect(!Poll.readable(signal.descriptor.number, timeoutMilliseconds: 0))
        signal.raise()
        signal.raise()
        #expect(Poll.readable(signal.descriptor.number, timeoutMilliseconds: 0))
        let (first, second) = (signal.clear(), signal.clear())
        #expect(first && !second)
        #expect(!Poll.readable(signal.descriptor.number, timeoutMilliseconds: 0))
    }

    @Test("names each missing capability with its purpose")
    func capabilities() {
        #expect(Capability.missing(effective: .max).isEmpty)
        let none = Capability.missing(effective: 0)
        #expect(none == Capability.allCases)
        let sentence = Capability.problem(none)
        for capability in Capability.allCases { #expect(sentence?.contains(capability.name) == true) }
        #expect(Capability.problem([]) == nil)
        // CAP_SYS_ADMIN includes CAP_BPF.
        #expect(!Capability.missing(effective: 1 << 21).contains(.bpf))
    }
}

@Suite("Netlink octets")
struct NetlinkMessageTests {
    @Test("attributes that are cut short read as nothing, at every length")
    func truncated() {
        var message = NetlinkMessage(type: 16, flags: 0)
        message.attribute(3, text: "culvert0")
        message.nested(4) { $0.attribute(1, u32: 7) }
        let whole = message.finished(sequence: 1)
        for length in 0..<whole.count {
            let cut = Array(whole[..<length])
            #expect(NetlinkReply.split(cut).isEmpty)
            let attributes = NetlinkReader(bytes: cut.dropFirst(16)).attributes
            if length < 16 + 13 { #expect(attributes[3] == nil) }
            if length < whole.count { #expect(attributes[4]?.attributes[1]?.u32 == nil) }
        }
        let reply = NetlinkReply.split(whole)
        #expect(reply.count == 1 && reply[0].body.attributes[3]?.text == "culvert0")
        #expect(reply.first?.body.attributes[4]?.attributes[1]?.u32 == 7)
    }

    @Test("random octets never trap a parser")
    func random() {
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<20_000 {
            var bytes = (0..<Int.random(in: 0...120, using: &generator)).map { _ in UInt8.random(in: 0...255, using: &generator) }
            // A length that fits, so that the message is looked into.
            if bytes.count >= 16 { withUnsafeBytes(of: UInt32(bytes.count)) { bytes.replaceSubrange(0..<4, with: $0) } }
            for reply in NetlinkReply.split(bytes) {
                _ = reply.outcome
                _ = NetlinkLink(reply)
                _ = NetlinkAddress(reply)
                _ = NetlinkRoute(reply)
                _ = NetlinkRoute(lookup: reply)
                _ = NetlinkNeighbour(reply)
                _ = NetlinkRule(reply)
            }
        }
    }
}
