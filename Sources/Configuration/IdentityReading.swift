import IKE
import Wire

/// Identities: typed by their shape, or outright with `{ type: …, value: … }`. RFC 7296 §3.5.
extension Reader {
    static var maxIdentityBytes: Int { 255 }

    private enum IdentityType: String, CaseIterable {
        case address, fqdn, email, dn
        case keyID = "key-id"
    }

    func identity(_ entry: Entry) -> Identity? {
        guard case .mapping(let mapping) = entry.value.content else {
            guard let text = text(entry), isBounded(text, entry) else { return nil }
            return shaped(text, entry)
        }
        checkKeys(mapping, in: .identity)
        guard let typeEntry = require("type", of: mapping, for: "an `id` in braces"),
            let valueEntry = require("value", of: mapping, for: "an `id` in braces"),
            let type = choice(typeEntry, from: IdentityType.allCases), let text = text(valueEntry), isBounded(text, valueEntry)
        else { return nil }
        return typed(text, as: type, valueEntry, isForced: true)
    }

    /// What a peer may call itself: `any`, an identity, or one with a wildcard: `*.branch.example` for names below a domain,
    /// `*@example` for mail addresses, a distinguished name with `*` for values (`O=Example, CN=*`).
    func identityPattern(_ entry: Entry) -> IdentityPattern? {
        if isWord("any", entry.value) { return .any }
        if case .scalar = entry.value.content, let text = text(entry), text.hasPrefix("*") {
            guard isBounded(text, entry) else { return nil }
            return wildcard(text, entry)
        }
        guard let identity = identity(entry) else { return nil }
        if case .distinguishedName(let der) = identity, let name = X501Name(der), name.hasWildcard {
            return .distinguishedName(name)
        }
        return .exactly(identity)
    }

    private func wildcard(_ text: String, _ entry: Entry) -> IdentityPattern? {
        let suffix = String(text.dropFirst())
        let separator = suffix.first
        guard separator == "." || separator == "@", isDomainName(String(suffix.dropFirst())) else {
            error(
                entry.mark,
                "\(quoted(text)) is not a pattern: write `*.branch.example`, `*@example`, a distinguished name with `*` as a "
                    + "value, or `any`")
            return nil
        }
        return separator == "." ? .namesBelow(suffix) : .mailboxesOf(suffix)
    }

    private func isBounded(_ text: String, _ entry: Entry) -> Bool {
        guard text.utf8.count > Self.maxIdentityBytes else { return true }
        error(entry.mark, "an identity is longer than \(Self.maxIdentityBytes) bytes")
        return false
    }

    private func shaped(_ text: String, _ entry: Entry) -> Identity? {
        if let address = IPAddress(text) { return .address(address) }
        if text.contains("=") { return typed(text, as: .dn, entry) }
        if text.hasPrefix("@") {
            error(entry.mark, "\(quoted(text)): write a name without `@` in front; other kinds as `{ type: key-id, value: … }`")
            return nil
        }
        if text.contains("@") { return typed(text, as: .email, entry) }
        if text.utf8.allSatisfy({ (48...57).contains($0) || $0 == UInt8(ascii: ".") }), text.contains(".") {
            error(
                entry.mark,
                "\(quoted(text)) looks like an address and is none; for the text itself write `{ type: key-id, value: … }`")
            return nil
        }
        return typed(text, as: .fqdn, entry)
    }

    /// - Parameter isForced: the type was written: then it is what the peer sends, whatever DNS would say of it.
    private func typed(_ text: String, as type: IdentityType, _ entry: Entry, isForced: Bool = false) -> Identity? {
        switch type {
        case .address:
            if let address = IPAddress(text) { return .address(address) }
            error(entry.mark, "\(quoted(text)) is not an IP address\(leadingZeros(text))")
        case .fqdn:
            if isDomainName(text) || isForced && isName(text) { return .fqdn(text) }
            error(
                entry.mark,
                "\(quoted(text)) is not a name like `west.example`; if the peer sends it as a name all the same write "
                    + "`{ type: fqdn, value: … }`, for any other text `{ type: key-id, value: … }`")
        case .email:
            let parts = text.split(separator: "@", omittingEmptySubsequences: false)
            if parts.count == 2, !parts[0].isEmpty, isPrintable(parts[0]), isDomainName(String(parts[1])) { return .email(text) }
            error(entry.mark, "\(quoted(text)) is not of the form `user@host`")
        case .dn:
            if let name = DistinguishedName(text) { return .distinguishedName(name.der) }
            error(entry.mark, "\(quoted(text)) is not a distinguished name like `C=DE, O=Example, CN=west`")
        case .keyID:
            return .keyID(Array(text.utf8))
        }
        return nil
    }

    private func isDomainName(_ text: String) -> Bool {
        let labels = text.split(separator: ".", omittingEmptySubsequences: false)
        return labels.allSatisfy { label in
            (1...63).contains(label.utf8.count) && label.first != "-" && label.last != "-"
                && label.utf8.allSatisfy { isLetterOrDigit($0) || $0 == UInt8(ascii: "-") || $0 == UInt8(ascii: "_") }
        }
    }

    private func isName(_ text: String) -> Bool { !text.isEmpty && text.utf8.allSatisfy { $0 >= 0x20 && $0 < 0x7F } }

    private func isPrintable(_ text: Substring) -> Bool { text.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F } }
}

/// A distinguished name as text (`C=DE, O=Example, CN=west`), encoded as X.501 Name in DER. RFC 4514 shape, in the order
/// that people write it: the most significant part first.
public struct DistinguishedName {
    static let maxParts = 16
    public let der: [UInt8]

    /// nil: a part without `=`, an unknown attribute, or an empty value. A comma in a value is written `\,`.
    public init?(_ text: String) {
        let parts = Self.split(text)
        guard (1...Self.maxParts).contains(parts.count) else { return nil }
        var names: [UInt8] = []
        for part in parts {
            guard let equals = part.firstIndex(of: "=") else { return nil }
            let key = Self.trimmed(part[..<equals])
            let value = Self.trimmed(part[part.index(after: equals)...])
            guard let attribute = Self.attributes[key.uppercased()], !value.isEmpty else { return nil }
            guard attribute.stringTag == Self.utf8String || value.utf8.allSatisfy({ $0 < 0x80 }) else { return nil }
            let pair = Self.encoded(0x06, attribute.oid) + Self.encoded(attribute.stringTag, Array(value.utf8))
            // RelativeDistinguishedName: a SET of one SEQUENCE.
            names += Self.encoded(0x31, Self.encoded(0x30, pair))
        }
        der = Self.encoded(0x30, names)
    }

    private static let utf8String: UInt8 = 0x0C
    private static let printableString: UInt8 = 0x13
    private static let ia5String: UInt8 = 0x16

    /// Object identifiers, encoded. RFC 5280 appendix A: PrintableString for countries and serial numbers, IA5String for
    /// domain components and mail addresses, UTF8String for the rest.
    private static let attributes: [String: (oid: [UInt8], stringTag: UInt8)] = [
        "CN": ([0x55, 0x04, 0x03], utf8String), "SN": ([0x55, 0x04, 0x04], utf8String),
        "SERIALNUMBER": ([0x55, 0x04, 0x05], printableString), "C": ([0x55, 0x04, 0x06], printableString),
        "L": ([0x55, 0x04, 0x07], utf8String), "ST": ([0x55, 0x04, 0x08], utf8String), "S": ([0x55, 0x04, 0x08], utf8String),
        "O": ([0x55, 0x04, 0x0A], utf8String), "OU": ([0x55, 0x04, 0x0B], utf8String),
        "UID": ([0x09, 0x92, 0x26, 0x89, 0x93, 0xF2, 0x2C, 0x64, 0x01, 0x01], utf8String),
        "DC": ([0x09, 0x92, 0x26, 0x89, 0x93, 0xF2, 0x2C, 0x64, 0x01, 0x19], ia5String),
        "E": ([0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x09, 0x01], ia5String),
        "EMAILADDRESS": ([0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x09, 0x01], ia5String),
    ]

    /// At commas that no backslash precedes; the backslashes go.
    private static func split(_ text: String) -> [String] {
        var parts = [""]
        var isEscaped = false
        for character in text {
            if isEscaped || (character != "\\" && character != ",") {
                parts[parts.count - 1].append(character)
                isEscaped = false
            } else if character == "\\" {
                isEscaped = true
            } else {
                parts.append("")
            }
        }
        return parts
    }

    private static func trimmed(_ text: Substring) -> String {
        var text = text
        while text.first == " " { text.removeFirst() }
        while text.last == " " { text.removeLast() }
        return String(text)
    }

    /// Tag, length, contents. Contents here never exceed a few thousand octets.
    private static func encoded(_ tag: UInt8, _ contents: [UInt8]) -> [UInt8] {
        let count = contents.count
        if count < 0x80 { return [tag, UInt8(truncatingIfNeeded: count)] + contents }
        if count < 0x100 { return [tag, 0x81, UInt8(truncatingIfNeeded: count)] + contents }
        return [tag, 0x82, UInt8(truncatingIfNeeded: count >> 8), UInt8(truncatingIfNeeded: count)] + contents
    }
}
