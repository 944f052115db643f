import Glibc

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

    /// Standard output: colour on a terminal only, and not when somebody asked for none (https://no-color.org).
    static var output: Terminal {
        let refused = getenv("NO_COLOR").map { $0[0] != 0 } ?? false
        let isDumb = getenv("TERM").map { String(cString: $0) == "dumb" } ?? false
        return Terminal(hasColour: isInteractive && !refused && !isDumb)
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

    /// The lines; without a first one of headings when they are all empty.
    func text(_ terminal: Terminal) -> String {
        let hasHeadings = headings.contains { !$0.isEmpty }
        let all = (hasHeadings ? [headings.map { Cell($0, .dim) }] : []) + rows
        let widths = headings.indices.map { column in all.map { $0[column].text.count }.max() ?? 0 }
        return all.map { line($0, widths, terminal) }.joined(separator: "\n")
    }

    private func line(_ row: [Cell], _ widths: [Int], _ terminal: Terminal) -> String {
        var line = ""
        for (column, cell) in row.enumerated() {
            let blanks = String(repeating: " ", count: widths[column] - cell.text.count)
            let painted = terminal.paint(cell.text, cell.colour)
            let isLast = column == row.count - 1
            line += alignments[column] == .right ? blanks + painted : painted + (isLast ? "" : blanks)
            if !isLast { line += "  " }
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
        let total = Int(seconds)
        switch total {
        case ..<60: return "\(total)s"
        case ..<3600: return "\(total / 60)m \(total % 60)s"
        case ..<86_400: return "\(total / 3600)h \(total / 60 % 60)m"
        default: return "\(total / 86_400)d \(total / 3600 % 24)h"
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
