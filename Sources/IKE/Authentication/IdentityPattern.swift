/// Which identities of the peer are accepted: the value of `remote.id`, and of an entry of `secrets`.
public enum IdentityPattern: Hashable, Sendable, CustomStringConvertible {
    /// Any identity that authenticates.
    case any
    case exactly(Identity)
    /// `*.example`: names below a domain. The text starts with the dot.
    case namesBelow(String)
    /// `*@example`: addresses of a domain. The text starts with the `@`.
    case mailboxesOf(String)
    /// A distinguished name with `*` for values that may be anything: as many parts, of the same types.
    case distinguishedName(X501Name)

    /// The only identity that fits; nil when there are several.
    public var exact: Identity? { if case .exactly(let identity) = self { identity } else { nil } }

    public func matches(_ identity: Identity) -> Bool {
        switch (self, identity) {
        case (.any, _): return true
        case (.exactly(let wanted), _): return Self.isSame(wanted, identity)
        case (.namesBelow(let suffix), .fqdn(let name)): return Self.ends(name, with: suffix)
        case (.mailboxesOf(let suffix), .email(let name)): return Self.ends(name, with: suffix)
        case (.distinguishedName(let pattern), .distinguishedName(let der)):
            return X501Name(der).map { pattern.matches($0) } ?? false
        case (.namesBelow, _), (.mailboxesOf, _), (.distinguishedName, _): return false
        }
    }

    /// How much it says: of several patterns that match, the one that says most counts.
    public var specificity: Int {
        switch self {
        case .any: 0
        case .distinguishedName: 1
        case .namesBelow(let suffix), .mailboxesOf(let suffix): 1 + suffix.utf8.count
        case .exactly: Int.max
        }
    }

    /// Names and mail addresses are compared without case (RFC 4343), distinguished names part by part, the rest octet by octet.
    private static func isSame(_ a: Identity, _ b: Identity) -> Bool {
        switch (a, b) {
        case (.fqdn(let a), .fqdn(let b)), (.email(let a), .email(let b)): return lowercase(a) == lowercase(b)
        case (.distinguishedName(let a), .distinguishedName(let b)):
            if a == b { return true }
            guard let a = X501Name(a), let b = X501Name(b) else { return false }
            return !a.hasWildcard && a.matches(b)
        default: return a == b
        }
    }

    private static func ends(_ name: String, with suffix: String) -> Bool {
        let (name, suffix) = (lowercase(name), lowercase(suffix))
        return name.count > suffix.count && name.suffix(suffix.count).elementsEqual(suffix)
    }

    /// ASCII only: nothing else is in a name that DNS knows.
    private static func lowercase(_ text: String) -> [UInt8] {
        text.utf8.map { (0x41...0x5A).contains($0) ? $0 | 0x20 : $0 }
    }

    public var description: String {
        switch self {
        case .any: "any"
        case .exactly(let identity): identity.description
        case .namesBelow(let suffix), .mailboxesOf(let suffix): "*" + suffix
        case .distinguishedName(let name): name.description
        }
    }
}
