import IKE
import Testing

@Suite struct KeywordTests {
    @Test(arguments: [
        ("aes256gcm16-prfsha384-ecp384", "aes256gcm16-prfsha384-ecp384"),
        ("aes128gcm128-prfsha2_256-curve25519", "aes128gcm16-prfsha256-x25519"),
        ("aes256-sha256-modp2048", "aes256-sha256-modp2048"), ("aes-sha2_512-modp4096", "aes128-sha512-modp4096"),
        ("aes192-sha384-prfsha512-ecp521", "aes192-sha384-prfsha512-ecp521"),
        ("aes256gcm16-sha384-ecp384", "aes256gcm16-prfsha384-ecp384"),
        ("AES256GCM16-PRFSHA256-MODP3072", "aes256gcm16-prfsha256-modp3072"),
        ("aes128-aes256-sha256-sha512-ecp256-x25519", "aes128-aes256-sha256-sha512-ecp256-x25519"),
        ("aes256gcm16-prfsha384-x25519-ke1_mlkem768", "aes256gcm16-prfsha384-x25519-ke1_mlkem768"),
        (
            "aes256gcm16-prfsha384-KE2_MLKEM1024-ke1_none-x25519-ke1_curve25519-ke1_mlkem768-ecp384",
            "aes256gcm16-prfsha384-x25519-ecp384-ke1_x25519-ke1_mlkem768-ke1_none-ke2_mlkem1024"
        ),
        ("aes256gcm16-prfsha256-mlkem768", "aes256gcm16-prfsha256-mlkem768"),
        (" aes256gcm16 - prfsha384 - ecp384 ", "aes256gcm16-prfsha384-ecp384"),
    ])
    func `IKE proposals are read, and written in one way`(_ text: String, _ canonical: String) throws {
        let proposal = try IKEProposal(keywords: text)
        #expect(proposal.keywords == canonical)
        #expect(try IKEProposal(keywords: proposal.keywords) == proposal)
    }

    @Test func `a PRF that is not named follows the integrity algorithm`() throws {
        #expect(try IKEProposal(keywords: "aes256-sha384-ecp384").prfs == [.hmacSHA384])
        #expect(try IKEProposal(keywords: "aes256-sha384-prfsha256-ecp384").prfs == [.hmacSHA256])
        #expect(try IKEProposal(keywords: "aes128-aes256-sha256-ecp256").ciphers.count == 2)
    }

    @Test(arguments: [
        ("aes256gcm16", [256], [false]), ("aes256gcm16-esn", [256], [true]),
        ("aes128gcm16-aes256gcm16-noesn-esn-ecp384", [128, 256], [false, true]),
        ("aes256gcm16-noesn", [256], [false]), ("aes256gcm16-x25519-ke1_mlkem768-ke1_none-esn", [256], [true]),
    ])
    func `ESP proposals are read`(_ text: String, _ bits: [Int], _ esn: [Bool]) throws {
        let proposal = try ESPProposal(keywords: text)
        #expect(proposal.keyBits == bits && proposal.extendedSequenceNumbers == esn)
        #expect(try ESPProposal(keywords: proposal.keywords) == proposal)
    }

    @Test(arguments: [
        ("aes256gmc16-prfsha384-ecp384", "aes256gmc16", ProposalKeywordError.Reason.unknown(suggestion: "aes256gcm16")),
        ("aes256gcm16-prfsha348-ecp384", "prfsha348", .unknown(suggestion: "prfsha384")),
        ("aes256gcm16-prfsha384-xyzzyxyzzy", "xyzzyxyzzy", .unknown(suggestion: nil)),
        ("chacha20poly1305-prfsha256-x25519", "chacha20poly1305", .unsupported(instead: "aes256gcm16")),
        ("aes192gcm16-prfsha256-x25519", "aes192gcm16", .unsupported(instead: "aes256gcm16")),
        ("aes256gcm16-prfsha256-x25519-ke1_mlkem76", "ke1_mlkem76", .unknown(suggestion: "ke1_mlkem768")),
        ("aes256gcm16-prfsha256-x25519-ke8_mlkem768", "ke8_mlkem768", .unknown(suggestion: nil)),
        ("aes256gcm16-prfsha256-x25519-ke1_kyber3", "ke1_kyber3", .unsupported(instead: "ke1_mlkem768")),
        ("aes256gcm16-prfsha256-x25519-ke1_aes256", "ke1_aes256", .unknown(suggestion: "ke1_ecp256")),
        (
            "aes256gcm16-prfsha256-x25519-ke1_modp1024", "ke1_modp1024",
            .weak("a 1024-bit group is within reach of states; use x25519")
        ),
        ("aes256gcm16-prfsha256-x25519-ke1_mlkem768-ke1_mlkem768", "ke1_mlkem768", .duplicate),
        (
            "aes256gcm16-prfsha256-x25519-ke1_none", "aes256gcm16-prfsha256-x25519-ke1_none",
            .missing("a method beside ke1_none")
        ),
        (
            "aes256gcm16-prfsha256-x25519-ke1_x25519", "ke1_x25519",
            .misplaced("x25519 is done before already, and each additional key exchange must differ")
        ),
        (
            "aes256gcm16-prfsha256-x25519-ke1_mlkem768-ke3_mlkem768", "ke3_mlkem768",
            .misplaced("mlkem768 is done before already, and each additional key exchange must differ")
        ),
        (
            "aes256gcm16-prfsha256-ke1_mlkem768", "aes256gcm16-prfsha256-ke1_mlkem768",
            .missing("a key exchange group such as x25519 or ecp384")
        ),
        ("aes256gcm16-ecp384", "aes256gcm16-ecp384", .missing("a pseudo-random function such as prfsha384")),
        ("aes256-ecp384", "aes256-ecp384", .missing("an integrity algorithm such as sha256, which AES-CBC needs")),
        ("aes256gcm16-prfsha256", "aes256gcm16-prfsha256", .missing("a key exchange group such as x25519 or ecp384")),
        ("prfsha256-ecp256", "prfsha256-ecp256", .missing("an encryption algorithm such as aes256gcm16")),
        ("aes256gcm16-aes256gcm128-prfsha256-ecp256", "aes256gcm128", .duplicate),
        ("aes256gcm16-prfsha256-ecp256-esn", "esn", .misplaced("sequence numbers belong to ESP proposals")),
        ("aes256gcm16--ecp256", "aes256gcm16--ecp256", .empty), ("", "", .empty),
    ])
    func `a wrong IKE proposal names the keyword and the remedy`(
        _ text: String, _ token: String, _ reason: ProposalKeywordError.Reason
    ) {
        let error = #expect(throws: ProposalKeywordError.self) { try IKEProposal(keywords: text) }
        #expect(error?.token == token)
        #expect(error?.reason == reason)
        #expect(error?.sentence.contains(reason == .empty ? "empty" : token) == true)
    }

    @Test(arguments: [
        "des", "3des", "md5", "sha1", "sha", "prfmd5", "prfsha1", "modp768", "modp1024", "modp1536", "null", "ecp192",
    ])
    func `weak keywords are known as weak`(_ keyword: String) {
        for text in ["aes256gcm16-prfsha256-\(keyword)-ecp256"] {
            let error = #expect(throws: ProposalKeywordError.self) { try IKEProposal(keywords: text) }
            guard case .weak(let why)? = error?.reason else { Issue.record("\(keyword) is not weak"); continue }
            #expect(!why.isEmpty && error?.token == keyword)
        }
        let error = #expect(throws: ProposalKeywordError.self) { try ESPProposal(keywords: "aes256gcm16-\(keyword)") }
        if case .weak? = error?.reason {} else { Issue.record("\(keyword) is not weak in ESP") }
    }

    @Test(arguments: [
        ("aes256-sha256", "aes256"), ("aes256gcm16-sha256", "sha256"), ("aes256gcm16-prfsha256", "prfsha256"),
        ("ecp384", "ecp384"), ("aes256gcm16-ke1_mlkem768", "aes256gcm16-ke1_mlkem768"),
    ])
    func `a wrong ESP proposal names the keyword`(_ text: String, _ token: String) {
        let error = #expect(throws: ProposalKeywordError.self) { try ESPProposal(keywords: text) }
        #expect(error?.token == token)
    }

    @Test func `AES-CBC and AES-GCM do not mix in one proposal`() {
        let error = #expect(throws: ProposalKeywordError.self) { try IKEProposal(keywords: "aes256gcm16-aes256-sha256-ecp256") }
        if case .misplaced? = error?.reason {} else { Issue.record("not refused as misplaced") }
    }

    @Test func `the defaults ask for x25519 with ML-KEM-768 first, and take classical exchanges too`() throws {
        let first = try #require(IKEProposal.defaults.first)
        #expect(first.methods.first == .x25519 && first.additional.first?.slot == 1)
        #expect(first.additional.first?.methods.first == .mlkem768 && first.additional.first?.isOptional == false)
        #expect(IKEProposal.defaults.contains { $0.additional.isEmpty && !$0.methods.contains(where: \.isEncapsulation) })
    }

    @Test func `the defaults are their own keywords`() throws {
        for proposal in IKEProposal.defaults { #expect(try IKEProposal(keywords: proposal.keywords).methods == proposal.methods) }
        for proposal in ESPProposal.defaults { #expect(try ESPProposal(keywords: proposal.keywords) == proposal) }
    }
}
