import Crypto
import IKE
import IPsec
import Testing

@Suite struct KeyExchangeTests {
    /// Those that this machine's libraries have.
    static let methods = KeyExchangeMethod.allCases.filter(OpenSSLCrypto().supports)

    @Test("both sides agree, with the sizes that the wire has", arguments: methods)
    func agreement(_ method: KeyExchangeMethod) throws {
        let crypto = OpenSSLCrypto()
        let (a, other) = (try crypto.makeKeyExchange(method), try crypto.makeKeyExchange(method))
        let b = try crypto.answerKeyExchange(method, peerPublicValue: a.publicValue)
        #expect(a.method == method && b.method == method)
        #expect(a.publicValue.count == method.publicValueBytes && b.publicValue.count == method.answerBytes)
        #expect(a.publicValue != b.publicValue && a.publicValue != other.publicValue)
        let shared = try a.sharedSecret(peerPublicValue: b.publicValue)
        #expect(shared.exposed == (try b.sharedSecret()).exposed)
        let expectedBytes: [KeyExchangeMethod: Int] = [
            .ecp256: 32, .ecp384: 48, .ecp521: 66, .mlkem512: 32, .mlkem768: 32, .mlkem1024: 32,
        ]
        #expect(shared.count == expectedBytes[method] ?? method.publicValueBytes)
        let again = try crypto.answerKeyExchange(method, peerPublicValue: a.publicValue)
        #expect(again.publicValue != b.publicValue)
    }

    @Test("a public value of another length is refused", arguments: methods)
    func lengths(_ method: KeyExchangeMethod) throws {
        let crypto = OpenSSLCrypto()
        let ours = try crypto.makeKeyExchange(method)
        let peer = try crypto.answerKeyExchange(method, peerPublicValue: ours.publicValue).publicValue
        for wrong in [[], Array(peer.dropLast()), peer + [0], [0] + peer, [4] + peer] {
            #expect(throws: IKECryptoError.invalidPublicValue) { try ours.sharedSecret(peerPublicValue: wrong) }
        }
        let value = ours.publicValue
        for wrong in [[], Array(value.dropLast()), value + [0], [4] + value] {
            #expect(throws: IKECryptoError.invalidPublicValue) {
                try crypto.answerKeyExchange(method, peerPublicValue: wrong)
            }
        }
    }

    @Test("points off the curve are refused", arguments: [KeyExchangeMethod.ecp256, .ecp384, .ecp521])
    func offTheCurve(_ method: KeyExchangeMethod) throws {
        let crypto = OpenSSLCrypto()
        let ours = try crypto.makeKeyExchange(method)
        let peer = try crypto.makeKeyExchange(method).publicValue
        var changed = peer
        changed[peer.count - 1] ^= 1
        let half = peer.count / 2
        for wrong in [
            changed, [UInt8](repeating: 0, count: peer.count), [UInt8](repeating: 0xFF, count: peer.count),
            Array(peer[half...] + peer[..<half]),
        ] {
            #expect(throws: IKECryptoError.invalidPublicValue) { try ours.sharedSecret(peerPublicValue: wrong) }
        }
    }

    struct Groups: Decodable {
        struct Group: Decodable {
            var group: UInt16
            var prime: String
        }
        var groups: [Group]
    }

    static func primes() throws -> [(method: KeyExchangeMethod, prime: [UInt8])] {
        try vectors("rfc/modp-groups.json", as: Groups.self).groups.compactMap { entry in
            KeyExchangeMethod(rawValue: entry.group).map { ($0, bytes(hex: entry.prime)) }
        }
    }

    @Test("libcrypto's MODP groups are those of RFC 3526")
    func modpPrimes() throws {
        let primes = try Self.primes()
        #expect(primes.map(\.method) == [.modp2048, .modp3072, .modp4096])
        for (method, prime) in primes { #expect(modulus(ofGroup: "modp_\(method.publicValueBytes * 8)") == prime) }
    }

    @Test("RFC 6989 §2.1: 0, 1, p-1, p and what is above are refused; 2 and p-2 are not")
    func modpRange() throws {
        for (method, prime) in try Self.primes() {
            let ours = try OpenSSLCrypto().makeKeyExchange(method)
            let zero = [UInt8](repeating: 0, count: prime.count)
            func plus(_ value: [UInt8], _ small: Int) -> [UInt8] {
                // The last octet of these primes is FF and of zero is 00: no carry.
                var value = value
                value[value.count - 1] = UInt8(Int(value[value.count - 1]) + small)
                return value
            }
            for wrong in [zero, plus(zero, 1), plus(prime, -1), prime, [UInt8](repeating: 0xFF, count: prime.count)] {
                #expect(throws: IKECryptoError.invalidPublicValue) { try ours.sharedSecret(peerPublicValue: wrong) }
            }
            for right in [plus(zero, 2), plus(prime, -2)] {
                #expect(try ours.sharedSecret(peerPublicValue: right).count == prime.count)
            }
        }
    }

    struct PaddingFile: Decodable {
        struct Case: Decodable {
            var group: UInt16
            var `private`, `public`, peer, shared: String
        }
        var cases: [Case]
    }

    @Test("RFC 7296 §2.14: a shared secret that begins with zeros keeps the length of the modulus")
    func padding() throws {
        let cases = try vectors("computed/modp-leading-zero.json", as: PaddingFile.self).cases
        #expect(cases.count == 3)
        for vector in cases {
            let method = try #require(KeyExchangeMethod(rawValue: vector.group))
            let ours = try keyExchange(method, privateValue: bytes(hex: vector.private))
            #expect(ours.publicValue == bytes(hex: vector.public))
            #expect(try ours.sharedSecret(peerPublicValue: bytes(hex: vector.peer)).exposed == bytes(hex: vector.shared))
        }
    }

    struct EllipticFile: Decodable {
        struct Case: Decodable {
            var group: UInt16
            var i, r, gix, giy, grx, gry, girx: String
        }
        var cases: [Case]
    }

    @Test("RFC 5903 §8: public values and shared secrets of the ECP groups")
    func rfc5903() throws {
        let cases = try vectors("rfc/rfc5903-ecp-ke-payloads.json", as: EllipticFile.self).cases
        #expect(cases.map(\.group) == [19, 20, 21])
        for vector in cases {
            let method = try #require(KeyExchangeMethod(rawValue: vector.group))
            let initiator = try keyExchange(method, privateValue: bytes(hex: vector.i))
            let responder = try keyExchange(method, privateValue: bytes(hex: vector.r))
            #expect(initiator.publicValue == bytes(hex: vector.gix + vector.giy))
            #expect(responder.publicValue == bytes(hex: vector.grx + vector.gry))
            #expect(try initiator.sharedSecret(peerPublicValue: responder.publicValue).exposed == bytes(hex: vector.girx))
            #expect(try responder.sharedSecret(peerPublicValue: initiator.publicValue).exposed == bytes(hex: vector.girx))
        }
    }

    struct CurveFile: Decodable {
        struct Case: Decodable { var random_i, random_r, pub_i, pub_r, shared: String }
        var cases: [Case]
    }

    @Test("RFC 8031 appendix A: X25519")
    func rfc8031() throws {
        let cases = try vectors("rfc/rfc8031-x25519-ke.json", as: CurveFile.self).cases
        #expect(!cases.isEmpty)
        for vector in cases {
            let initiator = try keyExchange(.x25519, privateValue: bytes(hex: vector.random_i))
            let responder = try keyExchange(.x25519, privateValue: bytes(hex: vector.random_r))
            #expect(initiator.publicValue == bytes(hex: vector.pub_i))
            #expect(responder.publicValue == bytes(hex: vector.pub_r))
            #expect(try initiator.sharedSecret(peerPublicValue: responder.publicValue).exposed == bytes(hex: vector.shared))
        }
    }
}
