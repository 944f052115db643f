import Configuration
import Testing

@Suite struct HostileFileTests {
    private static let refused: [(String, String, String)] = [
        ("", "1:1", "is empty"),
        ("# nothing but a comment\n", "1:1", "is empty"),
        ("connections: [\n", "2:1", "not valid YAML"),
        ("a: b: c\n", "1:5", "not valid YAML"),
        ("interfaces: []\n\tconnections: []\n", "2:1", "a tab in the indentation"),
        ("just text\n", "1:1", "must be keys with values"),
        ("- a\n- b\n", "1:1", "must be keys with values"),
        ("a: 1\n---\nb: 2\n", "2:1", "another document"),
        ("a: &x 1\nb: *x\n", "1:4", "anchors and aliases"),
        ("a: [1, &x [2], *x]\n", "1:8", "anchors and aliases"),
        ("{a: 1, ? *x : 2}\n", "1:10", "anchors and aliases"),
        ("{\"a\":*x}\n", "1:6", "anchors and aliases"),
        ("<<: *default\n", "1:5", "anchors and aliases"),
        ("- - *x\n", "1:5", "anchors and aliases"),
        ("a: !include secret\n", "1:4", "tags"),
        ("psk: |\n  text\n", "1:6", "block text"),
        ("psk: >-\n  text\n", "1:6", "block text"),
        ("%YAML 1.1\n---\na: 1\n", "1:1", "directives"),
        ("a: \"over\n  two lines\"\n", "1:4", "not closed on its line"),
        ("a: 'it''s\n", "1:4", "not closed on its line"),
        ("[plain\n \"quote, *x\"]\n", "2:2", "in the middle of unquoted text"),
        ("a: \"nul \\0\"\n", "1:4", "escaped control character"),
        ("a: b\u{0}c\n", "1:5", "control character (U+0000)"),
        ("a: \u{1B}[31m\n", "1:4", "control character (U+001B)"),
        ("a: b\rc: d\n", "1:5", "lone carriage return"),
        ("a: b\u{2028}c\n", "1:5", "control character (U+2028)"),
        ("a: \u{F0001}\n", "1:4", "private-use character"),
        ("[a]: b\n", "1:1", "a key must be a word"),
        ("? {a: b}\n: c\n", "1:3", "a key must be a word"),
        ("a: [}\n", "1:5", "not valid YAML"),
        ("a: \"\\q\"\n", "1:5", "not valid YAML"),
    ]

    @Test(arguments: refused)
    func `What is no configuration is refused at its place`(_ text: String, _ place: String, _ words: String) {
        let loaded = parse(text)
        let all = told(loaded)
        #expect(loaded.configuration == nil)
        #expect(all.contains { $0.hasPrefix("\(place) error ") && $0.contains(words) }, "\(all)")
    }

    @Test(arguments: [
        "a: b # *x &y !z\n", "a: \"*x\"\nb: '&y'\n", "a: x*y\nb: [1*2, c&d]\n", "a: \"q # \\\" *x\" # '\n", "- a-b\n- -1\n",
    ])
    func `What only looks like an alias is not one`(_ text: String) {
        #expect(!told(parse(text)).contains { $0.contains("aliases") })
    }

    @Test func `An octet that is not UTF-8 is told at its place`() throws {
        let folder = try Folder()
        let file = try folder.write("culvert.yaml", Array("a: b\nc: \u{F6}".utf8) + [0xFF, 0x0A])
        #expect(
            told(ConfigurationReader.load(path: file)) == ["2:5 error an octet that is not UTF-8; save the file as UTF-8 text"])
    }

    @Test func `A file that is too large is refused unread`() throws {
        let folder = try Folder()
        let file = try folder.write("culvert.yaml", Array(repeating: UInt8(ascii: "\n"), count: 10 << 20))
        #expect(told(ConfigurationReader.load(path: file)).first?.contains("is larger than 1048576 bytes") == true)
        #expect(told(parse(String(repeating: "a", count: (1 << 20) + 1))).first?.contains("is larger than 1048576 bytes") == true)
        let absent = ConfigurationReader.load(path: folder.path + "/absent.yaml")
        #expect(absent.configuration == nil && absent.diagnostics.first?.text.contains("does not exist") == true)
        #expect(ConfigurationReader.load(path: folder.path).diagnostics.first?.text.contains("not a regular file") == true)
    }

    /// What the file is, and the piece it is made of; whole texts would drown the report.
    enum Bomb: CaseIterable {
        case brackets, braces, dashes, manyDashes, indents, questions, quotes, oneWord, oneKey, manyKeys, interfaces, aliases

        var text: String {
            func many(_ count: Int, _ piece: (Int) -> String) -> String { (0..<count).map(piece).joined() }
            switch self {
            case .brackets: return many(100_000) { _ in "[" }
            case .braces: return many(100_000) { _ in "{a: " }
            case .dashes: return many(900) { _ in "- " }
            case .manyDashes: return many(100_000) { _ in "- " }
            case .indents: return many(900) { String(repeating: " ", count: $0) + "a:\n" }
            case .questions: return many(5_000) { _ in "? " }
            case .quotes: return many(100_001) { _ in "\"" }
            case .oneWord: return "a: " + many(1_000_000) { _ in "x" }
            case .oneKey: return many(50_000) { _ in "a: 1\n" }
            case .manyKeys: return many(60_000) { "k\($0): 1\n" }
            case .interfaces: return "interfaces: [" + many(20_000) { _ in "{name: a, role: both}," } + "]"
            case .aliases: return "a: &a [x,x,x]\n" + many(30) { "b\($0): &b\($0) [*a,*a,*a,*a]\n" }
            }
        }
    }

    @Test(.timeLimit(.minutes(1)), arguments: Bomb.allCases)
    func `Deep, long and exploding files end in an error, soon`(_ bomb: Bomb) {
        let loaded = parse(bomb.text)
        #expect(loaded.configuration == nil)
        #expect(loaded.diagnostics.contains { $0.severity == .error })
    }

    @Test(.timeLimit(.minutes(2))) func `A damaged file never brings the reader down`() {
        // A small generator of its own, so that a failing seed replays exactly.
        var state: UInt64 = 0x9E37_79B9_7F4A_7C15
        func next(_ bound: Int) -> Int {
            state ^= state << 13
            state ^= state >> 7
            state ^= state << 17
            return Int(state % UInt64(bound))
        }
        let alphabet = Array("[]{}:,-?*&!|>%@`\"'#\\\n\t 0aZ\u{F6}~<=".utf8) + [0x00, 0x80, 0xFF]
        for _ in 0..<1500 {
            var bytes = Array(good.utf8)
            for _ in 0...next(6) {
                let place = next(bytes.count)
                switch next(3) {
                case 0: bytes[place] = alphabet[next(alphabet.count)]
                case 1: bytes.insert(alphabet[next(alphabet.count)], at: place)
                default: bytes.removeSubrange(place..<min(bytes.count, place + 1 + next(20)))
                }
            }
            let loaded = parse(String(decoding: bytes, as: UTF8.self))
            #expect((loaded.configuration == nil) == loaded.diagnostics.contains { $0.severity == .error })
            #expect(loaded.diagnostics.allSatisfy { $0.line >= 1 && $0.column >= 1 })
        }
    }
}
