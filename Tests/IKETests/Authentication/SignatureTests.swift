import Crypto
import IKE
import Testing

/// How signatures are named and laid out. The octets are those of RFC 7427 appendix A and RFC 8420 appendix A.
@Suite struct SignatureTests {
    static let identifiers: [(SignatureScheme, String)] = [
        (.rsaPKCS1(.sha1), "300d06092a864886f70d0101050500"), (.rsaPKCS1(.sha256), "300d06092a864886f70d01010b0500"),
        (.rsaPKCS1(.sha384), "300d06092a864886f70d01010c0500"), (.rsaPKCS1(.sha512), "300d06092a864886f70d01010d0500"),
        (.ecdsa(.sha1), "300906072a8648ce3d0401"), (.ecdsa(.sha256), "300a06082a8648ce3d040302"),
        (.ecdsa(.sha384), "300a06082a8648ce3d040303"), (.ecdsa(.sha512), "300a06082a8648ce3d040304"),
        (
            .rsaPSS(.sha256),
            "304606092a864886f70d01010a3039a00f300d06096086480165030402010500a11c301a06092a864886f70d010108300d0609608648016503"
                + "04020105 00a203020120a303020101"
        ),
        (
            .rsaPSS(.sha1),
            "303e06092a864886f70d01010a3031a00b300906052b0e03021a0500a118301606092a864886f70d010108300906052b0e03021a0500a203"
                + "020114a303020101"
        ),
        (.ed25519, "300506032b6570"), (.ed448, "300506032b6571"),
    ]

    static func octets(_ text: String) -> [UInt8] {
        let digits = text.filter { $0 != " " }
        return stride(from: 0, to: digits.count, by: 2).map { offset in
            let start = digits.index(digits.startIndex, offsetBy: offset)
            return UInt8(digits[start..<digits.index(start, offsetBy: 2)], radix: 16)!
        }
    }

    @Test(arguments: identifiers)
    func `schemes have the AlgorithmIdentifiers of the RFCs`(scheme: SignatureScheme, text: String) {
        #expect(scheme.algorithmIdentifier == Self.octets(text))
        #expect(SignatureScheme(algorithmIdentifier: Self.octets(text)[...]) == scheme)
        for count in 0..<Self.octets(text).count {
            #expect(SignatureScheme(algorithmIdentifier: Self.octets(text)[..<count]) == nil)
        }
    }

    @Test func `parameters that mean something else are refused, those that mean the same are not`() {
        let pss = SignatureScheme.rsaPSS(.sha256).algorithmIdentifier
        func changed(_ offset: Int, _ value: UInt8) -> SignatureScheme? {
            var octets = pss
            octets[offset] = value
            return SignatureScheme(algorithmIdentifier: octets[...])
        }
        #expect(pss.count == 72 && changed(66, 0x20) == .rsaPSS(.sha256))
        #expect(changed(66, 0x14) == nil, "a salt of another length")
        #expect(changed(59, 0x02) == nil, "another hash for the mask")
        #expect(changed(71, 0x02) == nil, "another trailer")
        #expect(SignatureScheme(algorithmIdentifier: Self.octets("300d06092a864886f70d01010a3000")[...]) == nil, "defaults")
        // Without the trailer, which is its default; and PKCS #1 without NULL.
        var short = Array(pss.dropLast(5))
        (short[1], short[14]) = (short[1] - 5, short[14] - 5)
        #expect(SignatureScheme(algorithmIdentifier: short[...]) == .rsaPSS(.sha256))
        #expect(SignatureScheme(algorithmIdentifier: Self.octets("300b06092a864886f70d01010b")[...]) == .rsaPKCS1(.sha256))
        #expect(SignatureScheme(algorithmIdentifier: Self.octets("300c06082a8648ce3d0403020500")[...]) == nil)
        #expect(SignatureScheme(algorithmIdentifier: Self.octets("30050603 2a6570")[...]) == nil)
    }

    @Test(arguments: TestKeys.all)
    func `what is signed for a peer verifies, with and without RFC 7427`(kind: PublicKeyKind) throws {
        let octets = [UInt8]("what AUTH covers".utf8)
        let key = TestKeys.east(kind)
        let verifying = try OpenSSLVerifyingKey(subjectPublicKeyInfo: key.subjectPublicKeyInfo)
        let other = try OpenSSLVerifyingKey(subjectPublicKeyInfo: TestKeys.west(kind).subjectPublicKeyInfo)
        var choices: [SignatureChoice] = []
        for padding in [RSAPadding.pss, .pkcs1] {
            choices.append(
                try .make(kind, peerHashes: [.sha256, .sha384, .sha512, .identity], padding: padding, allowsSHA1: false))
        }
        if kind != .ed25519, kind != .ed448 {
            for hash in [SignatureHash.sha256, .sha384, .sha512] {
                choices.append(try .make(kind, peerHashes: [hash], padding: .pss, allowsSHA1: false))
            }
            for allowsSHA1 in [false, true] {
                choices.append(try .make(kind, peerHashes: nil, padding: .pss, allowsSHA1: allowsSHA1))
            }
        }
        for choice in choices {
            let data = try choice.sign(octets, key)
            #expect(
                try SignatureChoice.verify(choice.method, data, of: octets, with: verifying, allowsSHA1: true) == choice.scheme)
            #expect(throws: SignatureRefusal.invalid) {
                try SignatureChoice.verify(choice.method, data, of: octets + [0], with: verifying, allowsSHA1: true)
            }
            #expect(throws: SignatureRefusal.invalid) {
                try SignatureChoice.verify(choice.method, data, of: octets, with: other, allowsSHA1: true)
            }
            for count in stride(from: 0, to: data.count, by: 7) {
                #expect(throws: SignatureRefusal.self) {
                    try SignatureChoice.verify(
                        choice.method, Array(data[..<count]), of: octets, with: verifying, allowsSHA1: true)
                }
            }
        }
    }

    @Test func `the method follows the key, and SHA-1 is used and taken only when it is allowed`() throws {
        let methods = try [PublicKeyKind.rsa(bits: 2048), .ecdsaP256, .ecdsaP384, .ecdsaP521].map {
            try SignatureChoice.make($0, peerHashes: nil, padding: .pss, allowsSHA1: false).method
        }
        #expect(methods == [1, 9, 10, 11])
        let rsa = PublicKeyKind.rsa(bits: 2048)
        #expect(try SignatureChoice.make(rsa, peerHashes: nil, padding: .pss, allowsSHA1: false).scheme == .rsaPKCS1(.sha256))
        let weak = try SignatureChoice.make(rsa, peerHashes: nil, padding: .pss, allowsSHA1: true)
        #expect(weak.scheme == .rsaPKCS1(.sha1))
        let key = TestKeys.east(rsa)
        let verifying = try OpenSSLVerifyingKey(subjectPublicKeyInfo: key.subjectPublicKeyInfo)
        let data = try weak.sign([1, 2, 3], key)
        #expect(throws: SignatureRefusal.weak(.rsaPKCS1(.sha1))) {
            try SignatureChoice.verify(weak.method, data, of: [1, 2, 3], with: verifying, allowsSHA1: false)
        }
        #expect(throws: IKEFault.self) { try SignatureChoice.make(rsa, peerHashes: [.sha1], padding: .pss, allowsSHA1: false) }
        #expect(throws: IKEFault.self) { try SignatureChoice.make(.ed25519, peerHashes: nil, padding: .pss, allowsSHA1: false) }
        #expect(throws: IKEFault.self) {
            try SignatureChoice.make(.ed448, peerHashes: [.sha256], padding: .pss, allowsSHA1: false)
        }
    }

    @Test func `an older ECDSA method is tied to its curve`() throws {
        let key = TestKeys.east(.ecdsaP384)
        let verifying = try OpenSSLVerifyingKey(subjectPublicKeyInfo: key.subjectPublicKeyInfo)
        let signature = try key.sign([1], .ecdsa(.sha256))
        // 96 octets do not fit method 9, and a curve of 384 bits is none of its.
        let pair = try #require(ECDSASignature.concatenated(signature, width: 48))
        #expect(throws: SignatureRefusal.malformed) {
            try SignatureChoice.verify(9, pair, of: [1], with: verifying, allowsSHA1: false)
        }
        #expect(ECDSASignature.der(pair, width: 48) == signature)
        #expect(ECDSASignature.concatenated(signature, width: 32) == nil)
        #expect(ECDSASignature.concatenated(signature + [0], width: 48) == nil)
    }
}
