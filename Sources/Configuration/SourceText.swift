/// What is checked before the YAML library sees the text. Culvert's file needs a small part of YAML, and the rest is
/// where surprises live: aliases that expand without bound, tags, directives, block scalars, text over several lines.
/// Each is refused with its position, so that what remains is read by everybody the same way.
struct SourceText {
    /// Brackets and braces inside each other.
    static let maxFlowDepth = 16

    private let reader: Reader
    private var flowDepth = 0
    /// The last line ended inside an unquoted text within brackets.
    private var plainIsOpen = false

    /// The text, with line ends as LF and without a byte order mark; nil when it was refused.
    static func checked(_ bytes: [UInt8], reader: Reader) -> String? {
        guard bytes.count <= ConfigurationReader.maxFileBytes else {
            reader.error(
                Mark(line: 1, column: 1),
                "the configuration is larger than \(ConfigurationReader.maxFileBytes) bytes, the most that is read")
            return nil
        }
        guard let scalars = decode(bytes, reader: reader) else { return nil }
        let before = reader.errorCount
        var source = SourceText(reader: reader)
        var lineNumber = 1
        var line: [Unicode.Scalar] = []
        var isScanning = true
        for scalar in scalars {
            guard scalar == "\n" else { line.append(scalar); continue }
            isScanning = isScanning && source.scan(line, number: lineNumber)
            line.removeAll(keepingCapacity: true)
            lineNumber += 1
        }
        if isScanning { _ = source.scan(line, number: lineNumber) }
        guard reader.errorCount == before else { return nil }
        var view = String.UnicodeScalarView()
        view.append(contentsOf: scalars)
        return String(view)
    }

    private init(reader: Reader) { self.reader = reader }

    /// UTF-8 to scalars; the first octet that is not, or the first control character, is an error with its position.
    private static func decode(_ bytes: [UInt8], reader: Reader) -> [Unicode.Scalar]? {
        var scalars: [Unicode.Scalar] = []
        scalars.reserveCapacity(bytes.count)
        var parser = Unicode.UTF8.ForwardParser()
        var iterator = bytes.makeIterator()
        var mark = Mark(line: 1, column: 1)
        var sawReturn = false
        while true {
            switch parser.parseScalar(from: &iterator) {
            case .emptyInput:
                guard !sawReturn else { return refuse(mark, "a lone carriage return; end lines with LF or CR LF") }
                return scalars
            case .error:
                return refuse(mark, "an octet that is not UTF-8; save the file as UTF-8 text")
            case .valid(let encoded):
                let scalar = Unicode.UTF8.decode(encoded)
                if sawReturn, scalar != "\n" { return refuse(mark, "a lone carriage return; end lines with LF or CR LF") }
                sawReturn = scalar == "\r"
                if scalar == "\u{FEFF}", scalars.isEmpty, mark.column == 1 { continue }
                if scalar == "\r" { continue }
                if isInvisible(scalar) {
                    return refuse(
                        mark,
                        "an invisible character (U+\(hexadecimal(scalar))), as copying from a page may leave behind; remove it")
                }
                if isRefused(scalar) {
                    return refuse(mark, "a control character (U+\(hexadecimal(scalar))); this file is plain text")
                }
                scalars.append(scalar)
                mark = scalar == "\n" ? Mark(line: mark.line + 1, column: 1) : Mark(line: mark.line, column: mark.column + 1)
            }
        }
        func refuse(_ mark: Mark, _ text: String) -> [Unicode.Scalar]? {
            reader.error(mark, text)
            return nil
        }
    }

    /// Control characters, and the line separators that editors and YAML count differently.
    private static func isRefused(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.value {
        case 0x09, 0x0A: false
        case 0..<0x20, 0x7F...0x9F, 0x2028, 0x2029, 0xFEFF, 0xFFFE...0xFFFF: true
        default: false
        }
    }

    /// Without a glyph and without a width: nobody sees it in the file, and what holds it is not what is read there. Those that
    /// turn the direction of text are among them.
    private static func isInvisible(_ scalar: Unicode.Scalar) -> Bool {
        scalar.properties.generalCategory == .format && scalar != "\u{FEFF}"
    }

    static func hexadecimal(_ scalar: Unicode.Scalar) -> String {
        let digits = String(scalar.value, radix: 16, uppercase: true)
        return String(repeating: "0", count: max(0, 4 - digits.count)) + digits
    }

    // MARK: One line

    /// False when the rest of the file cannot be followed.
    private mutating func scan(_ line: [Unicode.Scalar], number: Int) -> Bool {
        var index = 0
        // A token may begin here: quotes and indicators mean something.
        var atStart = true
        var inPlain = false
        // A colon right behind a quoted key or a bracket needs no blank.
        var afterClosed = false
        let continuesPlain = plainIsOpen
        var isFirst = true
        while index < line.count {
            let c = line[index]
            let next: Unicode.Scalar? = index + 1 < line.count ? line[index + 1] : nil
            if c == "\t", isFirst, flowDepth == 0, line[index...].contains(where: { !isBlank($0) }) {
                reader.error(Mark(line: number, column: index + 1), "a tab in the indentation; YAML takes spaces there")
                return false
            }
            if c == " " || c == "\t" { index += 1; continue }
            if c == "#", index == 0 || isBlank(line[index - 1]) {
                if !isFirst, !isBlank(next) { reader.closeComments.insert(number) }
                break
            }
            if atStart {
                let mark = Mark(line: number, column: index + 1)
                if c == "\"" || c == "'" {
                    if isFirst, continuesPlain {
                        reader.error(mark, "a quote in the middle of unquoted text; keep each value on one line")
                        return false
                    }
                    guard let end = closingQuote(line, from: index, number: number) else { return false }
                    (index, atStart, inPlain, afterClosed, isFirst) = (end + 1, false, false, true, false)
                    continue
                }
                if refuseIndicator(c, next: next, column: index + 1, line: number) { return false }
                if (c == "-" || c == "?" || c == ":") && isBlank(next), flowDepth == 0 || c != "-" {
                    (index, isFirst) = (index + 1, false)
                    continue
                }
            }
            isFirst = false
            if c == "[" || c == "{", atStart || flowDepth > 0 {
                flowDepth += 1
                guard flowDepth <= Self.maxFlowDepth else {
                    reader.error(Mark(line: number, column: index + 1), "brackets nested deeper than \(Self.maxFlowDepth)")
                    return false
                }
                (atStart, inPlain, afterClosed) = (true, false, false)
            } else if flowDepth > 0, c == "]" || c == "}" {
                flowDepth -= 1
                (atStart, inPlain, afterClosed) = (false, false, true)
            } else if flowDepth > 0, c == "," {
                (atStart, inPlain, afterClosed) = (true, false, false)
            } else if c == ":", isBlank(next) || afterClosed || (flowDepth > 0 && isFlowIndicator(next)) {
                (atStart, inPlain, afterClosed) = (true, false, false)
            } else {
                (atStart, inPlain, afterClosed) = (false, true, false)
            }
            index += 1
        }
        plainIsOpen = flowDepth > 0 && inPlain
        return true
    }

    private func isBlank(_ c: Unicode.Scalar?) -> Bool { c == nil || c == " " || c == "\t" }

    private func isFlowIndicator(_ c: Unicode.Scalar?) -> Bool {
        guard let c else { return false }
        return [",", "[", "]", "{", "}", "?"].contains(c)
    }

    /// Whether `c`, where a value may begin, starts a part of YAML that is refused here.
    private func refuseIndicator(_ c: Unicode.Scalar, next: Unicode.Scalar?, column: Int, line: Int) -> Bool {
        let mark = Mark(line: line, column: column)
        switch c {
        case "&", "*":
            reader.error(mark, "YAML anchors and aliases are not used in this file; put shared keys into a profile")
        case "!":
            reader.error(mark, "YAML tags are not used in this file; write the plain value")
        case "|", ">":
            reader.error(mark, "YAML block text is not used in this file; write the value on one line, in quotes")
        case "%" where column == 1:
            reader.error(mark, "YAML directives are not used in this file; remove the line")
        default:
            return false
        }
        return true
    }

    /// The index of the quote that closes the one at `start`; nil with an error when the line ends first.
    private func closingQuote(_ line: [Unicode.Scalar], from start: Int, number: Int) -> Int? {
        let quote = line[start]
        var index = start + 1
        while index < line.count {
            if quote == "\"", line[index] == "\\" {
                index += 2
            } else if line[index] == quote {
                guard quote == "'", index + 1 < line.count, line[index + 1] == quote else { return index }
                index += 2
            } else {
                index += 1
            }
        }
        reader.error(Mark(line: number, column: start + 1), "a quote that is not closed on its line")
        return nil
    }
}
