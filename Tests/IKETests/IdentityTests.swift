import IKE
import Testing

@Suite struct IdentityTests {
    @Test("an identity is shown octet by octet, so that it cannot play tricks with a terminal")
    func shown() {
        #expect(Identity.fqdn("east.example").description == "east.example")
        #expect(Identity.keyID([0x1B, 0x5D, 0x30, 0x07]).description == "key-id:\\x1b]0\\x07")
        #expect(Identity.fqdn("a\u{9B}31mb\u{202E}\\").description == "a\\xc2\\x9b31mb\\xe2\\x80\\xae\\x5c")
        let long = Identity.keyID([UInt8](repeating: 0x41, count: 1000)).description
        #expect(long.count < 200 && long.hasSuffix("(1000 octets)"))
    }
}

/// Distinguished names and patterns. The names were encoded with `openssl asn1parse -genconf`-like hands: see each.
@Suite struct PatternTests {
    /// C=DE (PrintableString), O=Example (UTF8String), CN= a text of one of the string types.
    static func name(_ commonName: String, tag: UInt8 = 0x0C) -> [UInt8] {
        func element(_ tag: UInt8, _ contents: [UInt8]) -> [UInt8] { [tag, UInt8(contents.count)] + contents }
        func part(_ oid: [UInt8], _ tag: UInt8, _ text: String) -> [UInt8] {
            element(0x31, element(0x30, element(0x06, oid) + element(tag, Array(text.utf8))))
        }
        return element(
            0x30,
            part([0x55, 4, 6], 0x13, "DE") + part([0x55, 4, 10], 0x0C, "Example") + part([0x55, 4, 3], tag, commonName))
    }

    @Test func `a distinguished name is shown as people write it, with nothing that plays tricks`() {
        #expect(Identity.distinguishedName(Self.name("west")).description == "C=DE, O=Example, CN=west")
        #expect(Identity.distinguishedName(Self.name("a, b=\"c\\\u{1B}")).description == #"C=DE, O=Example, CN=a\, b\=\"c\\\x1b"#)
        #expect(Identity.distinguishedName([0x30, 3, 1]).description == "DN(3 octets)")
        #expect(Identity.distinguishedName([]).description == "DN(0 octets)")
    }

    @Test func `no prefix of a name is read as a name, and no octet of it crashes the reader`() {
        let name = Self.name("west")
        for count in 0..<name.count { #expect(X501Name(Array(name[..<count])) == nil) }
        for offset in name.indices {
            for value in stride(from: 0, through: 255, by: 15) {
                var changed = name
                changed[offset] = UInt8(value)
                _ = X501Name(changed)?.description
            }
        }
        #expect(X501Name([0x30, 0x81, 0x00]) == nil, "a length that is not the shortest")
        #expect(X501Name([0x30, 0x84, 0, 0, 0, 0]) == nil)
        #expect(X501Name([0x30, 0x80, 0, 0]) == nil, "an indefinite length")
    }

    @Test func `names are compared without case, whatever type holds them`() {
        let west = IdentityPattern.exactly(.distinguishedName(Self.name("West  Gate")))
        #expect(west.matches(.distinguishedName(Self.name("west gate", tag: 0x13))))
        #expect(!west.matches(.distinguishedName(Self.name("westgate"))))
        #expect(!west.matches(.distinguishedName(Self.name("West  Gate", tag: 0x04))))
        #expect(!west.matches(.fqdn("west")) && !west.matches(.distinguishedName([])))
    }

    @Test func `wildcards match what they say and no more`() throws {
        let pattern = IdentityPattern.distinguishedName(try #require(X501Name(Self.name("*"))))
        #expect(pattern.matches(.distinguishedName(Self.name("anybody"))) && !pattern.matches(.fqdn("anybody")))
        let below = IdentityPattern.namesBelow(".example")
        #expect(below.matches(.fqdn("west.example")) && below.matches(.fqdn("a.b.EXAMPLE")))
        #expect(!below.matches(.fqdn("example")) && !below.matches(.fqdn(".example")) && !below.matches(.fqdn("westexample")))
        #expect(!below.matches(.email("west@x.example")) && !below.matches(.fqdn("west.example.org")))
        #expect(IdentityPattern.mailboxesOf("@example").matches(.email("a@example")))
        #expect(!IdentityPattern.mailboxesOf("@example").matches(.email("@example")))
        #expect(IdentityPattern.any.matches(.keyID([])) && IdentityPattern.exactly(.keyID([1])).matches(.keyID([1])))
        // A peer that calls itself `*` is no pattern.
        #expect(!IdentityPattern.exactly(.distinguishedName(Self.name("west"))).matches(.distinguishedName(Self.name("*"))))
        #expect(!IdentityPattern.exactly(.distinguishedName(Self.name("*"))).matches(.distinguishedName(Self.name("west"))))
    }
}
