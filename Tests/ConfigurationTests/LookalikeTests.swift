import Configuration
import Foundation
import Testing

/// What a person does not see in a file, or takes for something else.
@Suite struct LookalikeTests {
    private let inline = "psk: \"a-secret-of-more-than-twenty-characters\""

    @Test(arguments: ["\u{200B}", "\u{200D}", "\u{2060}", "\u{00AD}", "\u{202E}", "\u{2066}"])
    func `an invisible character is refused with its place`(character: String) throws {
        let all = told(parse(try changed("id: east.example", "id: east\(character).example")))
        let number = String(try #require(character.unicodeScalars.first).value, radix: 16, uppercase: true)
        #expect(all.count == 1 && all[0].hasPrefix("6:43 error an invisible character (U+"), "\(all)")
        #expect(all[0].contains(number))
    }

    @Test(arguments: ["\u{201C}", "\u{201D}", "\u{2018}", "\u{201E}", "\u{00AB}", "\u{00A0}", "\u{2003}"])
    func `a secret with typographic quotes or blanks is a warning`(character: String) throws {
        let all = told(parse(try changed(inline, "psk: \(character)a-secret-of-more-than-twenty\(character)x")))
        #expect(all.count == 1 && all[0].hasPrefix("8:10 warning `psk` holds U+"), "\(all)")
        #expect(!all[0].contains("more-than-twenty"))
        let folder = try Folder()
        try folder.write("west.psk", Array("\(character)a-secret-of-more-than-twenty\u{200B}".utf8))
        let file = try folder.write("culvert.yaml", changed(inline, "psk_file: west.psk").utf8)
        let ofFile = told(ConfigurationReader.load(path: file))
        #expect(ofFile.count == 1 && ofFile[0].contains("the secret in `west.psk` holds U+"), "\(ofFile)")
    }

    @Test func `a secret that is no text is taken as it is`() throws {
        let folder = try Folder()
        try folder.write("west.psk", [UInt8](128..<160))
        let file = try folder.write("culvert.yaml", changed(inline, "psk_file: west.psk").utf8)
        #expect(ConfigurationReader.load(path: file).diagnostics == [])
    }

    @Test func `a secret that a comment cuts short is a warning, a comment behind it is not`() throws {
        let cut = told(parse(try changed(inline, "psk: a-secret-of-more-than-twenty #characters")))
        #expect(cut.count == 1 && cut[0].hasPrefix("8:10 warning `psk` ends before the `#`, which begins a comment"), "\(cut)")
        for harmless in [
            "\(inline) #rotated", "psk: a-secret-of-more-than-twenty # rotated in May", "psk: a-secret-of-more-than#twenty",
        ] {
            #expect(told(parse(try changed(inline, harmless))) == [], "\(harmless)")
        }
    }

    @Test func `leading zeros of an address are refused, with what was meant most likely`() throws {
        let subnet = told(parse(try changed("10.2.0.0/24", "010.002.0.0/24")))
        #expect(subnet.count == 1 && subnet[0].contains("write 10.2.0.0 if that is meant"), "\(subnet)")
        let address = told(parse(try changed("address: 192.0.2.2", "address: 192.00.2.2")))
        #expect(address.count == 1 && address[0].contains("write 192.0.2.2 if that is meant"), "\(address)")
    }

    @Test(arguments: [
        ("127.0.0.0/8", "loopback"), ("224.0.0.0/4", "multicast"), ("239.1.0.0/16", "multicast"),
        ("169.254.1.0/24", "link-local"),
        ("255.255.255.255/32", "reserved"), ("0.1.0.0/16", "unusable"),
    ])
    func `a subnet that nobody forwards is a warning`(subnet: String, kind: String) throws {
        let all = told(parse(try changed("10.2.0.0/24", subnet)))
        #expect(all.count == 1 && all[0].contains("warning \(subnet) holds \(kind) addresses"), "\(all)")
    }

    @Test func `the default route as a subnet is none of them`() throws {
        #expect(told(parse(try changed("10.2.0.0/24", "0.0.0.0/0"))).allSatisfy { !$0.contains("are not forwarded") })
    }

    @Test func `a tab in the indentation is called a tab`() throws {
        let all = told(parse(try changed("    psk:", "\tpsk:")))
        #expect(all == ["8:1 error a tab in the indentation; YAML takes spaces there"])
        // Elsewhere it is a blank.
        #expect(told(parse(try changed("    psk:", "    psk:\t"))) == [])
        #expect(told(parse(good + "# a\tcomment\n")) == [])
    }
}
