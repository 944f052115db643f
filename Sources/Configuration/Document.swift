import Yams

/// A value of the file with its position: what YAML calls a node, without what Culvert's file does not use.
struct Value {
    indirect enum Content {
        /// Text as written, and whether it stood in quotes.
        case scalar(String, isQuoted: Bool)
        case sequence([Value])
        case mapping(Mapping)
        /// Nothing behind the colon, `~` or `null`.
        case null
    }
    var mark: Mark
    var content: Content

    /// For messages that say what was found.
    var kind: String {
        switch content {
        case .scalar: "text"
        case .sequence: "a list"
        case .mapping: "keys with values"
        case .null: "nothing"
        }
    }
}

struct Entry {
    var key: String
    var keyMark: Mark
    var value: Value

    /// Where a complaint about the value belongs: the value, or its key when there is no value.
    var mark: Mark { if case .null = value.content { keyMark } else { value.mark } }
}

struct Mapping {
    var mark: Mark
    var entries: [Entry] = []

    subscript(key: String) -> Entry? { entries.first { $0.key == key } }
}

/// Text to values, by way of the YAML library.
enum Document {
    /// Mappings and lists inside each other. The schema needs 7.
    static let maxDepth = 24
    /// Keys of one mapping. `profiles` may have many, everything else has a dozen.
    static let maxKeys = 512
    /// The library stops at the first key that is given twice. The first of the two is then marked and the text read
    /// again, so that one reading tells about all of them; so often at most.
    static let maxDuplicateKeys = 24
    /// And at most so many characters are read in all of these readings.
    static let maxCharactersRead = 1 << 20
    /// First of the private-use scalars that mark such keys: the column of everything behind stays what it was.
    private static let firstMarker: UInt32 = 0xF0000

    /// The file's root; nil with errors when there is none.
    static func compose(_ text: String, reader: Reader) -> Value? {
        var scalars = Array(text.unicodeScalars)
        let markers = firstMarker..<firstMarker + UInt32(maxDuplicateKeys)
        if let index = scalars.firstIndex(where: { markers.contains($0.value) }) {
            reader.error(position(of: index, in: scalars), "a private-use character; this file is plain text")
            return nil
        }
        var marked: [Unicode.Scalar] = []
        while true {
            do {
                guard let node = try node(scalars) else {
                    reader.error(
                        Mark(line: 1, column: 1), "the configuration is empty; `interfaces` and `connections` are required")
                    return nil
                }
                var builder = DocumentBuilder(reader: reader, originals: marked, firstMarker: firstMarker)
                return builder.value(node, depth: 0)
            } catch let failure as YamlError {
                guard let original = markDuplicate(failure, in: &scalars, count: marked.count) else {
                    report(failure, text: scalars, reader: reader)
                    return nil
                }
                marked.append(original)
            } catch {
                reader.error(Mark(line: 1, column: 1), "the configuration cannot be read as YAML")
                return nil
            }
        }
    }

    private static func node(_ scalars: [Unicode.Scalar]) throws -> Node? {
        var view = String.UnicodeScalarView()
        view.append(contentsOf: scalars)
        // The library keeps a pointer to the text's storage; very short strings have none of their own.
        let minimumBytes = 32
        var text = String(view)
        if text.utf8.count < minimumBytes { text += String(repeating: "\n", count: minimumBytes) }
        text.makeContiguousUTF8()
        // The basic resolver has no rules: `on`, `1_000` or `2024-01-01` stay the text that was written.
        return try Parser(yaml: text, resolver: .basic, encoding: .utf8).singleRoot()
    }

    /// Replaces the first scalar of the key that `failure` says is given again; returns what stood there, nil when
    /// `failure` is another one or the bound is reached.
    private static func markDuplicate(_ failure: YamlError, in scalars: inout [Unicode.Scalar], count: Int) -> Unicode.Scalar? {
        guard case .duplicatedKeysInMapping(_, let context) = failure, count < maxDuplicateKeys,
            scalars.count * (count + 2) < maxCharactersRead,
            var index = index(of: Mark(line: context.mark.line, column: context.mark.column), in: scalars),
            let marker = Unicode.Scalar(firstMarker + UInt32(count))
        else { return nil }
        if scalars[index] == "\"" || scalars[index] == "'" { index += 1 }
        guard index < scalars.count, scalars[index].properties.isAlphabetic || scalars[index].properties.numericType != nil else {
            return nil
        }
        let original = scalars[index]
        scalars[index] = marker
        return original
    }

    private static func index(of mark: Mark, in scalars: [Unicode.Scalar]) -> Int? {
        var line = 1
        var index = 0
        while line < mark.line {
            guard let end = scalars[index...].firstIndex(of: "\n") else { return nil }
            (line, index) = (line + 1, end + 1)
        }
        index += mark.column - 1
        return index < scalars.count ? index : nil
    }

    private static func position(of index: Int, in scalars: [Unicode.Scalar]) -> Mark {
        let before = scalars[..<index]
        let line = before.count { $0 == "\n" } + 1
        let lineStart = before.lastIndex(of: "\n").map { $0 + 1 } ?? 0
        return Mark(line: line, column: index - lineStart + 1)
    }

    private static func report(_ failure: YamlError, text: [Unicode.Scalar], reader: Reader) {
        switch failure {
        case .scanner(let context, let problem, let mark, _), .parser(let context, let problem, let mark, _),
            .composer(let context, let problem, let mark, _):
            if problem.hasPrefix("Maximum nesting level") {
                reader.error(clamp(Mark(line: mark.line, column: mark.column), text), "nested deeper than \(maxDepth) levels")
                return
            }
            let place = context.map { ", \($0.text) that began in line \($0.mark.line)" } ?? ""
            reader.error(clamp(Mark(line: mark.line, column: mark.column), text), "not valid YAML: \(problem)\(place)")
        case .duplicatedKeysInMapping(_, let context):
            reader.error(Mark(line: context.mark.line, column: context.mark.column), "this key is given more than once")
        case .reader(_, let offset, _, _):
            let index = min(max(0, offset ?? 0), text.count)
            reader.error(position(of: index, in: text), "a character that YAML does not allow")
        default:
            reader.error(Mark(line: 1, column: 1), "the configuration cannot be read as YAML")
        }
    }

    /// Very short texts are padded for the library; its "end of text" must not lie behind the file's.
    private static func clamp(_ mark: Mark, _ text: [Unicode.Scalar]) -> Mark { min(mark, position(of: text.count, in: text)) }
}

/// One walk over the library's nodes.
private struct DocumentBuilder {
    let reader: Reader
    /// What stood where the marker of this number stands now.
    let originals: [Unicode.Scalar]
    let firstMarker: UInt32

    mutating func value(_ node: Node, depth: Int) -> Value {
        let mark = node.mark.map { Mark(line: $0.line, column: $0.column) } ?? Mark(line: 1, column: 1)
        guard depth <= Document.maxDepth else {
            reader.error(mark, "nested deeper than \(Document.maxDepth) levels")
            return Value(mark: mark, content: .null)
        }
        switch node {
        case .scalar(let scalar):
            let isQuoted = scalar.style == .singleQuoted || scalar.style == .doubleQuoted
            if scalar.string.unicodeScalars.contains(where: { $0.value < 0x20 || $0.value == 0x7F }) {
                reader.error(mark, "text with an escaped control character")
                return Value(mark: mark, content: .null)
            }
            let isNull = !isQuoted && ["", "~", "null", "Null", "NULL"].contains(scalar.string)
            return Value(mark: mark, content: isNull ? .null : .scalar(scalar.string, isQuoted: isQuoted))
        case .sequence(let sequence):
            return Value(mark: mark, content: .sequence(sequence.map { value($0, depth: depth + 1) }))
        case .mapping(let mapping):
            return Value(mark: mark, content: .mapping(self.mapping(mapping, mark: mark, depth: depth)))
        case .alias:
            reader.error(mark, "YAML anchors and aliases are not used in this file; put shared keys into a profile")
            return Value(mark: mark, content: .null)
        }
    }

    private mutating func mapping(_ mapping: Node.Mapping, mark: Mark, depth: Int) -> Mapping {
        var result = Mapping(mark: mark)
        var lines: [String: Int] = [:]
        if mapping.count > Document.maxKeys { reader.error(mark, "more than \(Document.maxKeys) keys in one place") }
        for (keyNode, valueNode) in mapping.prefix(Document.maxKeys) {
            let key = value(keyNode, depth: depth + 1)
            let value = value(valueNode, depth: depth + 1)
            guard case .scalar(let written, _) = key.content else {
                reader.error(key.mark, "a key must be a word, not \(key.kind)")
                continue
            }
            let name = unmarked(written)
            if let line = lines[name] {
                reader.error(key.mark, "\(quoted(name)) is given again; it stands in line \(line) already")
                continue
            }
            lines[name] = key.mark.line
            result.entries.append(Entry(key: name, keyMark: key.mark, value: value))
        }
        return result
    }

    /// The key as written, when its first scalar was replaced by a marker.
    private func unmarked(_ key: String) -> String {
        guard let first = key.unicodeScalars.first, first.value >= firstMarker else { return key }
        let number = Int(first.value - firstMarker)
        guard number < originals.count else { return key }
        return String(Character(originals[number])) + String(String.UnicodeScalarView(key.unicodeScalars.dropFirst()))
    }
}
