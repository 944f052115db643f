/// An X.501 Name, read as far as showing and comparing it needs. RFC 5280 §4.1.2.4.
public struct X501Name: Hashable, Sendable, CustomStringConvertible {
    public struct Attribute: Hashable, Sendable {
        /// Contents of the object identifier.
        public var type: [UInt8]
        /// Tag and contents of the value.
        public var tag: UInt8
        public var value: [UInt8]
    }

    /// The attributes of each relative distinguished name, the most significant first.
    public var parts: [[Attribute]]

    private static let mostParts = 32
    private static let mostAttributes = 8

    /// - Parameter der: the Name in DER, as in an ID payload of type ID_DER_ASN1_DN. Nil when it is not one.
    public init?(_ der: [UInt8]) {
        var outer = DERReader(der[...])
        guard let names = outer.take(DER.sequence), outer.isAtEnd else { return nil }
        parts = []
        var reader = DERReader(names)
        while !reader.isAtEnd {
            guard parts.count < Self.mostParts, let set = reader.take(DER.set), let part = Self.attributes(set) else {
                return nil
            }
            parts.append(part)
        }
    }

    private static func attributes(_ set: ArraySlice<UInt8>) -> [Attribute]? {
        var result: [Attribute] = []
        var reader = DERReader(set)
        while !reader.isAtEnd {
            guard result.count < mostAttributes, let pair = reader.take(DER.sequence) else { return nil }
            var inner = DERReader(pair)
            guard let type = inner.take(DER.objectIdentifier), !type.isEmpty, let value = inner.takeAny(), inner.isAtEnd else {
                return nil
            }
            result.append(Attribute(type: Array(type), tag: value.tag, value: Array(value.contents)))
        }
        return result.isEmpty ? nil : result
    }

    // MARK: Comparing

    /// Whether a name is this one, part by part. A part of ours whose value is `*` fits any value of that type.
    public func matches(_ name: X501Name) -> Bool {
        guard parts.count == name.parts.count else { return false }
        return zip(parts, name.parts).allSatisfy { ours, theirs in
            ours.count == theirs.count
                && ours.allSatisfy { wanted in theirs.contains { wanted.type == $0.type && wanted.accepts($0) } }
        }
    }

    /// Whether a value of it is `*`.
    public var hasWildcard: Bool { parts.contains { $0.contains { $0.value == [UInt8(ascii: "*")] } } }

    // MARK: Showing

    /// `C=DE, O=Example, CN=west`: in the order of the Name, special characters after a backslash (RFC 4514 §2.4), octets that
    /// are not printable ASCII as \xNN.
    public var description: String {
        parts.map { $0.map(\.description).joined(separator: "+") }.joined(separator: ", ")
    }
}

extension X501Name.Attribute: CustomStringConvertible {
    private static let names: [[UInt8]: String] = [
        [0x55, 0x04, 0x03]: "CN", [0x55, 0x04, 0x04]: "SN", [0x55, 0x04, 0x05]: "serialNumber", [0x55, 0x04, 0x06]: "C",
        [0x55, 0x04, 0x07]: "L", [0x55, 0x04, 0x08]: "ST", [0x55, 0x04, 0x0A]: "O", [0x55, 0x04, 0x0B]: "OU",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xF2, 0x2C, 0x64, 0x01, 0x01]: "UID",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xF2, 0x2C, 0x64, 0x01, 0x19]: "DC",
        [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x09, 0x01]: "E",
    ]

    public var description: String {
        let name = Self.names[type] ?? DER.dotted(type) ?? "?"
        var octets: [UInt8] = []
        for octet in value.prefix(128) {
            if #",+"\<>;="#.utf8.contains(octet) { octets.append(UInt8(ascii: "\\")) }
            octets.append(octet)
        }
        return name + "=" + Identity.printable(octets) + (value.count > 128 ? "…" : "")
    }

    /// Values of the string types are compared without case and without needless spaces, whichever of the types holds them.
    /// RFC 5280 §7.1.
    fileprivate func accepts(_ other: Self) -> Bool {
        if value == [UInt8(ascii: "*")] { return true }
        guard let ours = folded, let theirs = other.folded else { return tag == other.tag && value == other.value }
        return ours == theirs
    }

    /// UTF8String, PrintableString and IA5String; nil for other types.
    private var folded: [UInt8]? {
        guard tag == 0x0C || tag == 0x13 || tag == 0x16 else { return nil }
        var result: [UInt8] = []
        for octet in value {
            if octet == 0x20, result.isEmpty || result.last == 0x20 { continue }
            result.append((0x41...0x5A).contains(octet) ? octet | 0x20 : octet)
        }
        if result.last == 0x20 { result.removeLast() }
        return result
    }
}
