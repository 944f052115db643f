/// Textual encoding of keys, certificates and lists. RFC 7468.
public enum PEM {
    /// The contents of every block with this label, in order. What is not well-formed Base64 is left out.
    public static func blocks(_ text: [UInt8], label: String) -> [[UInt8]] {
        blocks(text).filter { $0.label == label }.map(\.contents)
    }

    /// Every block, in order. Lines of any length; text between blocks is skipped, as RFC 7468 §5.2 allows.
    public static func blocks(_ text: [UInt8]) -> [(label: String, contents: [UInt8])] {
        var result: [(String, [UInt8])] = []
        var label: String?
        var digits: [UInt8] = []
        for line in text.split(whereSeparator: { $0 == UInt8(ascii: "\n") || $0 == UInt8(ascii: "\r") }) {
            if let begun = boundary(line, "BEGIN") {
                (label, digits) = (begun, [])
            } else if let ended = boundary(line, "END") {
                if let label, label == ended, let contents = decodeBase64(digits) { result.append((label, contents)) }
                label = nil
            } else if label != nil {
                digits += line.filter { $0 != UInt8(ascii: " ") && $0 != UInt8(ascii: "\t") }
            }
        }
        return result
    }

    /// One block, 64 characters per line.
    public static func text(_ label: String, _ contents: [UInt8]) -> String {
        var lines = ["-----BEGIN \(label)-----"]
        let digits = encodeBase64(contents)
        var start = digits.startIndex
        while start < digits.endIndex {
            let end = digits.index(start, offsetBy: 64, limitedBy: digits.endIndex) ?? digits.endIndex
            lines.append(String(digits[start..<end]))
            start = end
        }
        return (lines + ["-----END \(label)-----", ""]).joined(separator: "\n")
    }

    /// The label of `-----BEGIN LABEL-----`.
    private static func boundary(_ line: ArraySlice<UInt8>, _ word: String) -> String? {
        var line = line
        while let last = line.last, last == UInt8(ascii: " ") || last == UInt8(ascii: "\t") { line.removeLast() }
        let (head, tail) = (Array("-----\(word) ".utf8), Array("-----".utf8))
        guard line.count > head.count + tail.count, line.starts(with: head), line.suffix(tail.count).elementsEqual(tail) else {
            return nil
        }
        return String(decoding: line.dropFirst(head.count).dropLast(tail.count), as: UTF8.self)
    }

    // MARK: Base64, RFC 4648 §4

    private static let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
    private static let values: [UInt8] = {
        var values = [UInt8](repeating: 0xFF, count: 256)
        for (value, digit) in alphabet.enumerated() { values[Int(digit)] = UInt8(value) }
        return values
    }()

    static func encodeBase64(_ octets: [UInt8]) -> String {
        var digits: [UInt8] = []
        digits.reserveCapacity((octets.count + 2) / 3 * 4)
        for start in stride(from: 0, to: octets.count, by: 3) {
            let group = octets[start..<min(start + 3, octets.count)]
            var bits: UInt32 = 0
            for (place, octet) in group.enumerated() { bits |= UInt32(octet) << UInt32(16 - 8 * place) }
            for place in 0..<4 {
                digits.append(place <= group.count ? alphabet[Int(bits >> UInt32(18 - 6 * place) & 63)] : UInt8(ascii: "="))
            }
        }
        return String(decoding: digits, as: UTF8.self)
    }

    static func decodeBase64(_ digits: [UInt8]) -> [UInt8]? {
        guard digits.count % 4 == 0 else { return nil }
        let padding = digits.suffix(2).count { $0 == UInt8(ascii: "=") }
        if padding == 2, digits.last != UInt8(ascii: "=") { return nil }
        if padding == 1, digits.last != UInt8(ascii: "=") { return nil }
        var result: [UInt8] = []
        result.reserveCapacity(digits.count / 4 * 3)
        var (bits, count): (UInt32, Int) = (0, 0)
        for digit in digits.dropLast(padding) {
            let value = values[Int(digit)]
            guard value < 64 else { return nil }
            bits = bits << 6 | UInt32(value)
            count += 1
            if count == 4 {
                result += [
                    UInt8(truncatingIfNeeded: bits >> 16), UInt8(truncatingIfNeeded: bits >> 8), UInt8(truncatingIfNeeded: bits),
                ]
                (bits, count) = (0, 0)
            }
        }
        if count == 3 { result += [UInt8(truncatingIfNeeded: bits >> 10), UInt8(truncatingIfNeeded: bits >> 2)] }
        if count == 2 { result.append(UInt8(truncatingIfNeeded: bits >> 4)) }
        return result
    }
}
