import Crypto
import Foundation
import IKE
import IPsec
import Testing

@Suite struct PRFTests {
    static let crypto = OpenSSLCrypto()

    struct HMACFile: Decodable {
        struct Case: Decodable {
            var key: String
            var correctedKey: String?
            var data: String
            var sha256, sha384, sha512, truncated512: String?

            enum CodingKeys: String, CodingKey {
                case key = "Key"
                case correctedKey = "Key_corrected"
                case data = "Data"
                case sha256 = "PRF-HMAC-SHA-256"
                case sha384 = "PRF-HMAC-SHA-384"
                case sha512 = "PRF-HMAC-SHA-512"
                case truncated512 = "HMAC-SHA-512-256"
            }
        }
        var cases: [Case]
    }

    @Test("RFC 4868 §2.7: HMAC-SHA-2, as bytes and as secrets")
    func rfc4868() throws {
        let cases = try vectors("rfc/rfc4868-hmac-sha2.json", as: HMACFile.self).cases
        #expect(cases.count == 10)
        for vector in cases {
            let key = secret(hex: vector.correctedKey ?? vector.key)
            let data = bytes(hex: vector.data)
            for (prf, expected) in [
                (PseudoRandomFunction.hmacSHA256, vector.sha256), (.hmacSHA384, vector.sha384), (.hmacSHA512, vector.sha512),
            ] {
                guard let expected else { continue }
                let output = try Self.crypto.prf(prf, key: key, data: data)
                #expect(output == bytes(hex: expected))
                #expect(output.count == prf.outputBytes)
                let half = data.count / 2
                let parts: [SeedPart] = [.bytes(Array(data[..<half])), .secret(SecureBytes(Array(data[half...]))), .bytes([])]
                #expect(try Self.crypto.prfSecret(prf, key: key, data: parts).exposed == output)
                if let truncated = vector.truncated512 { #expect(Array(output.prefix(32)) == bytes(hex: truncated)) }
            }
        }
    }

    /// The cases of a CAVS answer file: the hash in brackets, then `name = hex` lines.
    static func cavsCases() throws -> [(prf: PseudoRandomFunction, values: [String: [UInt8]])] {
        let text = try String(contentsOf: vectorFolder.appending(path: "nist-cavs-ike/ikev2-first-cases.txt"), encoding: .utf8)
        let hashes: [String: PseudoRandomFunction] = [
            "[SHA-256]": .hmacSHA256, "[SHA-384]": .hmacSHA384, "[SHA-512]": .hmacSHA512,
        ]
        var cases: [(PseudoRandomFunction, [String: [UInt8]])] = []
        var prf: PseudoRandomFunction?
        for line in text.split(whereSeparator: \.isNewline) {
            if line.hasPrefix("[SHA-") { prf = hashes[String(line)] }
            guard let prf, let equals = line.range(of: " = "), !line.hasPrefix("[") else { continue }
            let name = String(line[..<equals.lowerBound])
            if name == "COUNT" {
                cases.append((prf, [:]))
            } else {
                cases[cases.count - 1].1[name] = bytes(hex: String(line[equals.upperBound...]))
            }
        }
        return cases
    }

    @Test("NIST: SKEYSEED, SK_*, child keys and rekeying by prf and prf+")
    func nist() throws {
        let cases = try Self.cavsCases()
        #expect(cases.count == 6)
        for (prf, values) in cases {
            func value(_ name: String) throws -> [UInt8] { try #require(values[name], "\(name)") }
            let (ni, nr) = (try value("Ni"), try value("Nr"))
            let spis = try value("SPIi") + value("SPIr")
            let shared = SecureBytes(try value("g^ir"))
            let newShared = SecureBytes(try value("g^ir (new)"))
            let seed = try Self.crypto.prfSecret(prf, key: SecureBytes(ni + nr), data: [.secret(shared)])
            #expect(seed.exposed == (try value("SKEYSEED")))

            let expected = try value("DKM")
            let keys = try Self.crypto.prfPlus(prf, key: seed, seed: [.bytes(ni + nr), .bytes(spis)], count: expected.count)
            #expect(keys.exposed == expected)
            let skD = Self.crypto.slice(keys, 0..<prf.outputBytes)

            let child = try value("DKM(Child SA)")
            #expect(
                try Self.crypto.prfPlus(prf, key: skD, seed: [.bytes(ni), .bytes(nr)], count: child.count).exposed == child)
            let childWithExchange = try value("DKM(Child SA D-H)")
            #expect(
                try Self.crypto.prfPlus(
                    prf, key: skD, seed: [.secret(newShared), .bytes(ni + nr)], count: childWithExchange.count
                ).exposed
                    == childWithExchange)
            #expect(
                try Self.crypto.prfSecret(prf, key: skD, data: [.secret(newShared), .bytes(ni + nr)]).exposed
                    == (try value("SKEYSEED(Rekey)")))
        }
    }

    @Test(
        "prf+ gives every length up to 255 blocks, and each is the beginning of the longer ones",
        arguments: PseudoRandomFunction.allCases)
    func prfPlusLengths(_ prf: PseudoRandomFunction) throws {
        let key = SecureBytes([1, 2, 3])
        let most = 255 * prf.outputBytes
        let longest = try Self.crypto.prfPlus(prf, key: key, seed: [.bytes([9])], count: most).exposed
        for count in [1, prf.outputBytes - 1, prf.outputBytes, prf.outputBytes + 1, 3 * prf.outputBytes, most - 1] {
            #expect(
                try Self.crypto.prfPlus(prf, key: key, seed: [.bytes([9])], count: count).exposed
                    == Array(longest.prefix(count)))
        }
        for count in [Int.min, -1, 0, most + 1, Int.max] {
            #expect(throws: IKECryptoError.self) { try Self.crypto.prfPlus(prf, key: key, seed: [], count: count) }
        }
    }

    @Test("SHA-1 and comparison")
    func digestAndComparison() {
        // FIPS 180-2 appendix A.1.
        #expect(Self.crypto.sha1(Array("abc".utf8)) == bytes(hex: "a9993e364706816aba3e25717850c26c9cd0d89d"))
        #expect(Self.crypto.sha1([]) == bytes(hex: "da39a3ee5e6b4b0d3255bfef95601890afd80709"))
        #expect(Self.crypto.constantTimeEqual([], []))
        #expect(Self.crypto.constantTimeEqual([1, 2], [1, 2]))
        #expect(!Self.crypto.constantTimeEqual([1, 2], [1, 3]))
        #expect(!Self.crypto.constantTimeEqual([1, 2], [1, 2, 3]))
    }

    @Test("randomness has the length asked for and does not repeat")
    func randomness() {
        let random = SystemRandom()
        #expect(random.bytes(0).isEmpty)
        #expect(random.bytes(-1).isEmpty)
        var seen: Set<[UInt8]> = []
        for _ in 0..<1000 { seen.insert(random.bytes(16)) }
        #expect(seen.count == 1000)
    }
}
