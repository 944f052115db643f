/// `ppk` of a connection, with the octets of its secret. RFC 8784.
public struct PostquantumSecret: Sendable {
    public var identifier: String
    public var secret: [UInt8]
    public var isRequired: Bool
    public init(identifier: String, secret: [UInt8], isRequired: Bool) {
        (self.identifier, self.secret, self.isRequired) = (identifier, secret, isRequired)
    }
}

extension Reader {
    static var maxPostquantumIDBytes: Int { 256 }
    /// "an entropy of 256 bits is required" for 128 bits against a quantum computer (RFC 8784 §6), so the text is no shorter.
    static var shortPostquantumKeyBytes: Int { 32 }

    private enum Truth: String, CaseIterable { case yes = "true", no = "false" }

    /// Nil when there is none or it is refused.
    func postquantumSecret(_ mapping: Mapping) -> PostquantumSecret? {
        guard let entry = mapping["ppk"], let own = self.mapping(entry) else { return nil }
        checkKeys(own, in: .postquantumKey)
        let identifier = require("id", of: own, for: "`ppk`").flatMap { postquantumID($0) }
        let secret = postquantumOctets(own)
        var isRequired = false
        if let required = own["required"], let value = choice(required, from: Truth.allCases) { isRequired = value == .yes }
        guard let identifier, let secret else { return nil }
        return PostquantumSecret(identifier: identifier, secret: secret, isRequired: isRequired)
    }

    private func postquantumID(_ entry: Entry) -> String? {
        guard let text = text(entry) else { return nil }
        guard !text.isEmpty, text.utf8.count <= Self.maxPostquantumIDBytes, text.utf8.allSatisfy({ (0x21...0x7E).contains($0) })
        else {
            error(
                entry.mark,
                "`id` of `ppk` must be 1 to \(Self.maxPostquantumIDBytes) printable ASCII characters without spaces; both ends "
                    + "need the same")
            return nil
        }
        return text
    }

    private func postquantumOctets(_ mapping: Mapping) -> [UInt8]? {
        let (entry, octets): (Entry, [UInt8]?)
        switch (mapping["secret"], mapping["file"]) {
        case (nil, nil):
            missing("file", of: mapping, "`file` is missing (or `secret`); `ppk` needs one of them")
            return nil
        case (let inline?, let file?):
            error(max(inline.keyMark, file.keyMark), "`secret` and `file` are both given; keep one")
            return nil
        case (let inline?, nil): (entry, octets) = (inline, inlineSecret(inline))
        case (nil, let file?): (entry, octets) = (file, secretFile(file))
        }
        if let octets, octets.count < Self.shortPostquantumKeyBytes {
            warning(
                entry.mark,
                "the secret of `ppk` is shorter than \(Self.shortPostquantumKeyBytes) characters and holds less than "
                    + "256 bits, which "
                    + "it needs against quantum computers; `openssl rand -base64 48` makes a good one")
        }
        return octets
    }
}
