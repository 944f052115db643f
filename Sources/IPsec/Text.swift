// How numbers are written for people, in every sentence the same.

extension FixedWidthInteger where Self: UnsignedInteger {
    /// With its leading zeros and without a prefix: an SPI of `00c0ffee` is found in a capture as it stands.
    package var hexadecimal: String {
        let text = String(self, radix: 16)
        return String(repeating: "0", count: Self.bitWidth / 4 - text.count) + text
    }
}

extension Int {
    /// `1st`, `12th`, `23rd`
    package var ordinal: String {
        let ending =
            switch (self % 100, self % 10) {
            case (11...13, _): "th"
            case (_, 1): "st"
            case (_, 2): "nd"
            case (_, 3): "rd"
            default: "th"
            }
        return "\(self)\(ending)"
    }
}

extension Duration {
    /// `12s`, `3m 20s`, `7h 46m`, `4d 2h`
    package var forPeople: String {
        let total = Swift.max(0, components.seconds)
        return switch total {
        case ..<60: "\(total)s"
        case ..<3600: "\(total / 60)m \(total % 60)s"
        case ..<86_400: "\(total / 3600)h \(total / 60 % 60)m"
        default: "\(total / 86_400)d \(total / 3600 % 24)h"
        }
    }
}
