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
