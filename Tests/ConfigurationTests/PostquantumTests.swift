import Configuration
import Testing

/// `ppk` of a connection.
@Suite struct PostquantumTests {
    private static let anchor = "psk: \"a-secret-of-more-than-twenty-characters\""
    private static let long = "a-postquantum-secret-of-more-than-32-characters"

    private func with(_ ppk: String) throws -> String { try changed(Self.anchor, Self.anchor + "\n    ppk: " + ppk) }

    @Test func `id, secret and whether it is required are read; optional is the default`() throws {
        #expect(try accepted(good).connections[0].postquantumKey == nil)
        for (text, isRequired) in [("", false), (", required: false", false), (", required: true", true)] {
            let ppk = try accepted(with("{ id: link-1, secret: \(Self.long)\(text) }")).connections[0].postquantumKey
            #expect(ppk?.identifier == "link-1" && ppk?.secret == Array(Self.long.utf8) && ppk?.isRequired == isRequired)
        }
    }

    @Test func `the secret may stand in a file, and a profile may set it`() throws {
        let folder = try Folder()
        try folder.write("link.ppk", Array((Self.long + "\n").utf8))
        let file = try folder.write("culvert.yaml", with("{ id: link-1, file: link.ppk }").utf8)
        #expect(
            ConfigurationReader.load(path: file).configuration?.connections[0].postquantumKey?.secret == Array(Self.long.utf8))
        let profile = "profiles:\n  default: { ppk: { id: all, secret: \(Self.long), required: true } }\n" + good
        #expect(try accepted(profile).connections[0].postquantumKey?.identifier == "all")
        try folder.write("link.ppk", Array(Self.long.utf8), mode: 0o644)
        let all = told(ConfigurationReader.load(path: file))
        #expect(all == ["9:30 warning `link.ppk` holds a secret and others can read it; `chmod 600` it"])
    }

    @Test(arguments: [
        ("{ secret: a-postquantum-secret-of-more-than-32-characters }", "9:10 error", "`id` is missing"),
        ("{ id: link-1 }", "9:10 error", "`file` is missing (or `secret`); `ppk` needs one of them"),
        ("{ id: a b, secret: a-postquantum-secret-of-more-than-32-characters }", "9:16 error", "printable ASCII"),
        ("{ id: link-1, secret: too-short-for-quantum-computers }", "9:32 warning", "holds less than 256 bits"),
        ("{ id: link-1, secret: x, file: y }", "9:35 error", "`secret` and `file` are both given"),
        ("{ id: link-1, file: absent.ppk }", "9:30 error", "`file`"),
        ("{ id: a, secret: a-postquantum-secret-of-more-than-32-characters, required: maybe }", "error", "`required`"),
        (
            "{ id: a, secret: a-postquantum-secret-of-more-than-32-characters, mandatory: true }", "error",
            "unknown key `mandatory`"
        ),
        ("link-1", "9:10 error", "`ppk`"),
    ])
    func `what is wrong is told where it stands`(_ ppk: String, _ place: String, _ words: String) throws {
        let all = try told(parse(with(ppk)))
        #expect(all.contains { $0.contains(place) && $0.contains(words) }, "\(all)")
    }
}
