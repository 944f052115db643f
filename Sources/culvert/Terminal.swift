import Glibc
import IPsec

/// Where output goes, and whether it takes colour.
struct Terminal {
    enum Colour: String {
        case bold = "1"
        case dim = "2"
        case red = "31"
        case green = "32"
        case yellow = "33"
        case cyan = "36"
    }

    var hasColour: Bool
    /// Columns that text is fitted to; nil: as long as it is, for pipes and files.
    var width: Int?

    /// Standard output: colour on a terminal only, and not when somebody asked for none (https://no-color.org).
    static var output: Terminal {
        let refused = getenv("NO_COLOR").map { $0[0] != 0 } ?? false
        let isDumb = getenv("TERM").map { String(cString: $0) == "dumb" } ?? false
        return Terminal(hasColour: isInteractive && !refused && !isDumb, width: columns)
    }

    /// Narrower than this nothing can be fitted.
    private static let leastWidth = 40

    /// COLUMNS, else what the terminal says. What goes into a pipe is read by programs, one line each.
    private static var columns: Int? {
        guard isInteractive else { return nil }
        if let told = getenv("COLUMNS").flatMap({ Int(String(cString: $0)) }), told > 0 { return max(leastWidth, told) }
        var size = winsize()
        guard ioctl(STDOUT_FILENO, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0 else { return nil }
        return max(leastWidth, Int(size.ws_col))
    }

    /// The text in lines that fit, none cut inside a word; the first begins with `indent`, the others with as many blanks.
    func wrap(_ text: String, indent: String = "") -> String {
        let blanks = String(repeating: " ", count: indent.count)
        guard let width else { return indent + text }
        return Self.lines(text, width: max(Self.leastWidth / 2, width - indent.count)).enumerated()
            .map { ($0.offset == 0 ? indent : blanks) + $0.element }.joined(separator: "\n")
    }

    /// Broken at blanks. A word that is longer than a line has a line of its own.
    static func lines(_ text: String, width: Int) -> [String] {
        var lines: [String] = []
        var line = ""
        for word in text.split(separator: " ", omittingEmptySubsequences: false) {
            if line.isEmpty {
                line = String(word)
            } else if line.count + 1 + word.count <= width {
                line += " " + word
            } else {
                lines.append(line)
                line = String(word)
            }
        }
        return lines + [line]
    }

    static var isInteractive: Bool { isatty(STDOUT_FILENO) == 1 }

    func paint(_ text: String, _ colour: Colour?) -> String {
        guard hasColour, let colour, !text.isEmpty else { return text }
        return "\u{1B}[\(colour.rawValue)m\(text)\u{1B}[0m"
    }
}

/// Rows of cells in aligned columns, two blanks between them.
struct Table {
    enum Alignment { case left, right }

    struct Cell {
        var text: String
        var colour: Terminal.Colour?
        init(_ text: String, _ colour: Terminal.Colour? = nil) { (self.text, self.colour) = (text, colour) }
    }

    var headings: [String]
    var alignments: [Alignment]
    var rows: [[Cell]] = []

    init(headings: [String], alignments: [Alignment]) { (self.headings, self.alignments) = (headings, alignments) }

    /// The lines; without a first one of headings when they are all empty. Where the terminal is too narrow, columns that say the
    /// same in every row go above the table, and the text of a last column that is aligned left is wrapped.
    func text(_ terminal: Terminal) -> String {
        if let width = terminal.width, lineWidth > width, rows.count > 0, let (common, rest) = factored {
            return terminal.wrap(common) + "\n" + rest.text(terminal)
        }
        let hasHeadings = headings.contains { !$0.isEmpty }
        let all = (hasHeadings ? [headings.map { Cell($0, .dim) }] : []) + rows
        let widths = widths
        return all.map { line($0, widths, terminal) }.joined(separator: "\n")
    }

    private var widths: [Int] {
        headings.indices.map { column in max(headings[column].count, rows.map { $0[column].text.count }.max() ?? 0) }
    }

    private var lineWidth: Int { widths.reduce(0, +) + 2 * max(0, headings.count - 1) }

    /// What every row has in common, as `heading value`, and the table without it; nil when there is no such column.
    private var factored: (String, Table)? {
        let common = headings.indices.filter { column in
            !headings[column].isEmpty && column < headings.count - 1 && Set(rows.map { $0[column].text }).count == 1
        }
        guard !common.isEmpty else { return nil }
        let kept = headings.indices.filter { !common.contains($0) }
        var rest = Table(headings: kept.map { headings[$0] }, alignments: kept.map { alignments[$0] })
        rest.rows = rows.map { row in kept.map { row[$0] } }
        return (common.map { "\(headings[$0]) \(rows[0][$0].text)" }.joined(separator: ", "), rest)
    }

    private func line(_ row: [Cell], _ widths: [Int], _ terminal: Terminal) -> String {
        var line = ""
        var used = 0
        for (column, cell) in row.enumerated() {
            let isLast = column == row.count - 1
            if isLast, alignments[column] == .left, let width = terminal.width, used + cell.text.count > width {
                let broken = Terminal.lines(cell.text, width: max(20, width - used))
                return line
                    + broken.map { terminal.paint($0, cell.colour) }.joined(
                        separator: "\n" + String(repeating: " ", count: used))
            }
            let blanks = String(repeating: " ", count: widths[column] - cell.text.count)
            let painted = terminal.paint(cell.text, cell.colour)
            line += alignments[column] == .right ? blanks + painted : painted + (isLast ? "" : blanks)
            if !isLast { line += "  " }
            used += widths[column] + 2
        }
        return line
    }
}

/// Numbers as people read them.
enum Readable {
    /// `1,234,567`
    static func count(_ value: UInt64) -> String {
        let digits = Array(String(value))
        var result = ""
        for (index, digit) in digits.enumerated() {
            if index > 0, (digits.count - index).isMultiple(of: 3) { result += "," }
            result.append(digit)
        }
        return result
    }

    /// `0 B`, `1.4 KiB`, `3.0 GiB`
    static func bytes(_ value: UInt64) -> String {
        guard value >= 1024 else { return "\(value) B" }
        return scaled(Double(value), by: 1024, units: ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
    }

    /// `0 bit/s`, `940.1 Mbit/s`
    static func bitRate(_ value: Double) -> String {
        guard value >= 1000 else { return "\(fixed(value, 0)) bit/s" }
        return scaled(value, by: 1000, units: ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"])
    }

    private static func scaled(_ value: Double, by factor: Double, units: [String]) -> String {
        var (value, index) = (value, 0)
        while value >= factor, index < units.count - 1 { (value, index) = (value / factor, index + 1) }
        return "\(fixed(value, 1)) \(units[index])"
    }

    /// `12s`, `3m 20s`, `7h 46m`, `4d 2h`
    static func duration(_ seconds: Double) -> String {
        guard seconds.isFinite, seconds >= 0, seconds < 1e12 else { return "-" }
        return Duration.seconds(Int64(seconds)).forPeople
    }

    /// One unit: `12s`, `3m`, `7h`, `4d`
    static func age(_ seconds: Double?) -> String {
        guard let seconds, seconds.isFinite, seconds >= 0, seconds < 1e12 else { return "-" }
        let total = Int(seconds)
        switch total {
        case ..<60: return "\(total)s"
        case ..<3600: return "\(total / 60)m"
        case ..<86_400: return "\(total / 3600)h"
        default: return "\(total / 86_400)d"
        }
    }

    /// `value` with so many digits behind the point.
    static func fixed(_ value: Double, _ digits: Int) -> String {
        guard value.isFinite, abs(value) < 1e12 else { return "-" }
        var factor: Int64 = 1
        for _ in 0..<digits { factor *= 10 }
        let scaled = Int64((abs(value) * Double(factor)).rounded())
        let sign = value < 0 && scaled > 0 ? "-" : ""
        guard digits > 0 else { return "\(sign)\(scaled)" }
        let fraction = String(scaled % factor)
        return "\(sign)\(scaled / factor).\(String(repeating: "0", count: digits - fraction.count))\(fraction)"
    }
}
