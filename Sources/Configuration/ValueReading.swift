import IKE
import Wire

/// Values of one type each: what fits comes back, what does not leaves an error at its position and nil.
extension Reader {
    func mapping(_ value: Value, _ what: String) -> Mapping? {
        if case .mapping(let mapping) = value.content { return mapping }
        error(value.mark, "\(what) must be keys with values, not \(value.kind)")
        return nil
    }

    func mapping(_ entry: Entry) -> Mapping? {
        if case .mapping(let mapping) = entry.value.content { return mapping }
        error(entry.mark, "`\(entry.key)` must be keys with values, not \(entry.value.kind)")
        return nil
    }

    func list(_ entry: Entry) -> [Value]? {
        if case .sequence(let values) = entry.value.content { return values }
        error(entry.mark, "`\(entry.key)` must be a list, like `[a, b]`, not \(entry.value.kind)")
        return nil
    }

    func text(_ entry: Entry) -> String? {
        if case .scalar(let text, _) = entry.value.content, !text.isEmpty { return text }
        let found = if case .scalar = entry.value.content { "empty text" } else { entry.value.kind }
        error(entry.mark, "`\(entry.key)` must be text, not \(found)")
        return nil
    }

    /// The text of a list's item.
    func text(_ value: Value, in key: String) -> String? {
        if case .scalar(let text, _) = value.content, !text.isEmpty { return text }
        error(value.mark, "each item of `\(key)` must be text, not \(value.kind)")
        return nil
    }

    /// A name that appears in commands (`CONNECTION/CHILD`), logs and metrics.
    func name(_ entry: Entry) -> String? {
        guard let text = text(entry) else { return nil }
        let maxNameBytes = 64
        let isSound =
            text.utf8.count <= maxNameBytes
            && text.utf8.allSatisfy {
                isLetterOrDigit($0) || [UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: ".")].contains($0)
            }
        guard isSound, text.first != "-" else {
            error(
                entry.mark,
                "\(quoted(text)) is not a name: letters, digits, `-`, `_` and `.`, at most \(maxNameBytes), no `-` in front")
            return nil
        }
        return text
    }

    func isLetterOrDigit(_ octet: UInt8) -> Bool {
        switch octet {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "0")...UInt8(ascii: "9"):
            true
        default: false
        }
    }

    /// One of the raw values of `cases`.
    func choice<T: RawRepresentable<String>>(_ entry: Entry, from cases: [T]) -> T? {
        guard let text = text(entry) else { return nil }
        if let found = cases.first(where: { $0.rawValue == text }) { return found }
        error(entry.mark, unknownChoice(text, for: entry.key, among: cases.map(\.rawValue)))
        return nil
    }

    func unknownChoice(_ text: String, for key: String, among known: [String]) -> String {
        let (nearest, distance) = nearest(to: text, among: known)
        let hint = distance <= max(1, text.count / 2) ? "did you mean `\(nearest)`? " : ""
        return "\(quoted(text)) is not a value of `\(key)`; \(hint)known: \(known.joined(separator: ", "))"
    }

    /// A plain decimal number in `range`.
    func integer(_ entry: Entry, in range: ClosedRange<Int>) -> Int? {
        guard let text = text(entry) else { return nil }
        guard let number = decimal(text).flatMap({ Int(exactly: $0) }) else {
            error(entry.mark, "`\(entry.key)` must be a whole number, not \(quoted(text))")
            return nil
        }
        guard range.contains(number) else {
            error(entry.mark, "`\(entry.key)` is \(number); it must lie in \(range.lowerBound)…\(range.upperBound)")
            return nil
        }
        return number
    }

    /// Digits only; nil when there are others or the number does not fit.
    func decimal(_ text: some StringProtocol) -> UInt64? {
        guard !text.isEmpty, text.utf8.allSatisfy({ (48...57).contains($0) }) else { return nil }
        return UInt64(text)
    }

    /// `10s`, `500ms`, `8h`. Zero needs no unit and is let through only when `allowsZero`.
    func duration(_ entry: Entry, in range: ClosedRange<Duration>, allowsZero: Bool = false) -> Duration? {
        guard let text = text(entry) else { return nil }
        guard let duration = parseDuration(text) else {
            let hint =
                decimal(text) == nil
                ? "a number and one of ms, s, m, h, d, like `10s`" : "a unit: `\(text)s`, `\(text)m` or `\(text)h`"
            error(entry.mark, "`\(entry.key)` needs \(hint)\(decimal(text) == nil ? ", not \(quoted(text))" : "")")
            return nil
        }
        if duration == .zero, allowsZero { return duration }
        guard range.contains(duration) else {
            let zero = allowsZero ? ", or 0 for off" : ""
            error(
                entry.mark,
                "`\(entry.key)` is \(text); it must lie in \(shortText(range.lowerBound))…\(shortText(range.upperBound))\(zero)")
            return nil
        }
        return duration
    }

    private func parseDuration(_ text: String) -> Duration? {
        let digits = text.prefix { $0.isASCII && $0.isNumber }
        guard let number = decimal(digits), let count = Int64(exactly: number) else { return nil }
        let perUnit: Int64? =
            switch text.dropFirst(digits.count) {
            case "ms": 1
            case "s": 1_000
            case "m": 60_000
            case "h": 3_600_000
            case "d": 86_400_000
            case "": count == 0 ? 1 : nil
            default: nil
            }
        guard let perUnit else { return nil }
        // A count that overflows is longer than every bound: any duration past them says so.
        let (milliseconds, isTooLong) = count.multipliedReportingOverflow(by: perUnit)
        return .milliseconds(isTooLong ? Int64.max / 1_000 : milliseconds)
    }

    private func shortText(_ duration: Duration) -> String {
        let milliseconds = duration.components.seconds * 1_000 + duration.components.attoseconds / 1_000_000_000_000_000
        for (unit, length) in [("d", Int64(86_400_000)), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)]
        where milliseconds % length == 0 {
            return "\(milliseconds / length)\(unit)"
        }
        return "\(milliseconds)ms"
    }

    /// Octets: `0`, `1500`, `64K`, `10M`, `2G` (1024 each).
    func size(_ entry: Entry) -> UInt64? {
        guard let text = text(entry) else { return nil }
        let digits = text.prefix { $0.isASCII && $0.isNumber }
        let shift: UInt64? =
            switch text.dropFirst(digits.count) {
            case "": 0
            case "K": 10
            case "M": 20
            case "G": 30
            default: nil
            }
        guard let shift, let count = decimal(digits), count <= UInt64(Int64.max) >> shift else {
            error(
                entry.mark,
                "`\(entry.key)` must be a number of bytes, with K, M or G for larger ones, like `10G`; not \(quoted(text))")
            return nil
        }
        return count << shift
    }

    /// A count without a unit.
    func count(_ entry: Entry) -> UInt64? {
        guard let text = text(entry) else { return nil }
        guard let number = decimal(text), number <= UInt64(Int64.max) else {
            error(entry.mark, "`\(entry.key)` must be a whole number, not \(quoted(text))")
            return nil
        }
        return number
    }

    /// `ADDRESS:PORT`, an IPv6 address in brackets.
    func endpoint(_ entry: Entry) -> Endpoint? {
        guard let text = text(entry) else { return nil }
        let fault = "\(quoted(text)) is not an address and a port, like `127.0.0.1:9472` or `[::1]:9472`"
        guard let colon = text.lastIndex(of: ":") else { error(entry.mark, fault); return nil }
        var host = text[..<colon]
        let isBracketed = host.first == "[" && host.last == "]"
        if isBracketed { host = host.dropFirst().dropLast() }
        guard let address = IPAddress(host), address.isIPv4 != isBracketed,
            let number = decimal(text[text.index(after: colon)...]),
            let port = UInt16(exactly: number), port != 0
        else { error(entry.mark, fault); return nil }
        return Endpoint(address, port)
    }

    /// A prefix of IPv4 addresses. Host bits are cleared with a warning.
    func prefix(_ value: Value, in key: String) -> IPPrefix? {
        guard let text = text(value, in: key) else { return nil }
        guard let prefix = IPPrefix(text) else {
            error(value.mark, "\(quoted(text)) in `\(key)` is not an address prefix, like `10.1.0.0/24`\(leadingZeros(text))")
            return nil
        }
        guard prefix.address.isIPv4 else {
            error(value.mark, "\(quoted(text)): IPv6 is not available in this version; `\(key)` takes IPv4 prefixes")
            return nil
        }
        if let slash = text.firstIndex(of: "/"), IPAddress(text[..<slash]) != prefix.address {
            warning(value.mark, "\(quoted(text)) has bits behind the prefix length; \(prefix) is used")
        }
        return prefix
    }

    func refuseAddress(_ text: String, _ mark: Mark) {
        error(mark, "\(quoted(text)) is not an IP address; names are not resolved, write the address\(leadingZeros(text))")
    }

    /// What to say about `010.001.0.0`; empty where that is not the fault.
    func leadingZeros(_ text: String) -> String {
        let octets = text.prefix { $0 != "/" }.split(separator: ".", omittingEmptySubsequences: false)
        let isDotted = octets.count == 4 && octets.allSatisfy { !$0.isEmpty && $0.allSatisfy(\.isWholeNumber) }
        guard isDotted, octets.contains(where: { $0.count > 1 && $0.first == "0" }) else { return "" }
        let plain = octets.map { String($0.drop { $0 == "0" }) }.map { $0.isEmpty ? "0" : $0 }.joined(separator: ".")
        return "; leading zeros are decimal to some programs and octal to others: write \(plain) if that is meant"
    }

    /// An address of this gateway or of a peer on the underlay.
    func unicastAddress(_ entry: Entry) -> IPAddress? {
        guard let text = text(entry) else { return nil }
        guard let address = IPAddress(text) else {
            refuseAddress(text, entry.mark)
            return nil
        }
        if let fault = Self.fault(of: address) {
            error(entry.mark, "\(quoted(text)) \(fault)")
            return nil
        }
        return address
    }

    /// Why an address cannot be a gateway's on the underlay, as the end of a sentence.
    private static func fault(of address: IPAddress) -> String? {
        let noHost = "is not the address of one host"
        switch address {
        case .v4(let v4):
            // 0.0.0.0/8, and multicast with everything behind it.
            return v4.bits >> 24 == 0 || v4.bits >> 28 >= 0xE ? noHost : nil
        case .v6(let v6):
            // RFC 4007 §6: which link a link-local address is on, the address alone does not say.
            if v6.isLinkLocal { return "is a link-local address, which means nothing beyond its link; use a global one" }
            if v6.isIPv4Mapped {
                return "is an IPv4 address in IPv6 form; write \(IPv4Address(bits: UInt32(truncatingIfNeeded: v6.low)))"
            }
            return v6.isUnspecified || v6.isLoopback || v6.isMulticast ? noHost : nil
        }
    }
}
