import Crypto
import Foundation
import IKE
import IPsec
import Testing

/// One group of the NIST answer file.
struct DerivationCase: Sendable, CustomStringConvertible {
    var prf: PseudoRandomFunction
    var fields: [String: [UInt8]]
    var description: String { "\(prf), Ni of \(fields["Ni"]?.count ?? 0) octets, g^ir of \(fields["g^ir"]?.count ?? 0)" }
    subscript(_ name: String) -> [UInt8] { fields[name] ?? [] }

    /// The groups with a hash that this gateway uses.
    static let all: [DerivationCase] = {
        guard let text = try? String(contentsOf: Vectors.url("nist-cavs-ike/ikev2-first-cases.txt"), encoding: .utf8) else {
            return []
        }
        var cases: [DerivationCase] = []
        var prf: PseudoRandomFunction?
        for line in text.split(whereSeparator: \.isNewline) {
            if line.hasPrefix("[SHA-") {
                prf = ["[SHA-256]": .hmacSHA256, "[SHA-384]": .hmacSHA384, "[SHA-512]": .hmacSHA512][String(line)]
            } else if line.hasPrefix("COUNT"), let prf {
                cases.append(DerivationCase(prf: prf, fields: [:]))
            } else if prf != nil, !cases.isEmpty, let split = line.range(of: " = ") {
                cases[cases.count - 1].fields[String(line[..<split.lowerBound])] = Vectors.hex(line[split.upperBound...])
            }
        }
        return cases.filter { $0.fields["SKEYSEED"] != nil }
    }()
}

@Suite struct KeyScheduleTests {
    let crypto = OpenSSLCrypto()

    @Test func `the answer file was read`() { #expect(DerivationCase.all.count == 6) }

    @Test(arguments: DerivationCase.all)
    func `NIST's keys come out`(_ vector: DerivationCase) throws {
        let schedule = KeySchedule(crypto: crypto)
        let seed = try schedule.seed(
            prf: vector.prf, initiatorNonce: vector["Ni"], responderNonce: vector["Nr"], shared: crypto.secret(vector["g^ir"]))
        #expect(seed.octets == vector["SKEYSEED"])
        // SK_d and SK_a* and SK_e* in their order, as far as NIST's stream of key material reaches.
        let suite = IKESuite(cipher: .aesGCM16(keyBits: 128), prf: vector.prf, method: .x25519)
        let keys = try schedule.keys(
            suite: suite, seed: seed, initiatorNonce: vector["Ni"], responderNonce: vector["Nr"],
            initiatorSPI: vector["SPIi"].bigEndianValue, responderSPI: vector["SPIr"].bigEndianValue)
        let stream = vector["DKM"]
        let prfBytes = vector.prf.outputBytes
        let parts = [
            keys.derivation, keys.initiator.encryption, keys.responder.encryption, keys.initiatorAuthentication,
            keys.responderAuthentication,
        ].map(\.octets)
        let mine = Array(parts.joined())
        #expect(parts.map(\.count) == [prfBytes, 20, 20, prfBytes, prfBytes])
        #expect(Array(mine.prefix(stream.count)) == Array(stream.prefix(mine.count)))
        // Child keys without and with an exchange of their own, and the seed of a rekeyed IKE SA.
        let derivation = crypto.secret(Array(stream.prefix(prfBytes)))
        for (shared, name) in [(nil, "DKM(Child SA)"), (crypto.secret(vector["g^ir (new)"]), "DKM(Child SA D-H)")]
            as [(Secret?, String)]
        {
            let child = try schedule.childKeys(
                prf: vector.prf, derivation: derivation, shared: shared, initiatorNonce: vector["Ni"],
                responderNonce: vector["Nr"],
                transform: ESPTransform(keyBits: 256, extendedSequenceNumbers: false))
            #expect(child.fromInitiator.octets == Array(vector[name][..<36]))
            #expect(child.fromResponder.octets == Array(vector[name][36..<72]))
        }
        let rekeyed = try schedule.rekeySeed(
            oldPRF: vector.prf, oldDerivation: derivation, shared: crypto.secret(vector["g^ir (new)"]),
            initiatorNonce: vector["Ni"],
            responderNonce: vector["Nr"])
        #expect(rekeyed.octets == vector["SKEYSEED(Rekey)"])
    }

    @Test func `with CBC the integrity keys come before the encryption keys`() throws {
        let vector = try #require(DerivationCase.all.first { $0["DKM"].count >= 256 })
        let schedule = KeySchedule(crypto: crypto)
        let suite = IKESuite(cipher: .aesCBC(keyBits: 128, .hmacSHA256_128), prf: vector.prf, method: .x25519)
        let keys = try schedule.keys(
            suite: suite, seed: crypto.secret(vector["SKEYSEED"]), initiatorNonce: vector["Ni"], responderNonce: vector["Nr"],
            initiatorSPI: vector["SPIi"].bigEndianValue, responderSPI: vector["SPIr"].bigEndianValue)
        let parts = [
            keys.derivation, keys.initiator.integrity, keys.responder.integrity, keys.initiator.encryption,
            keys.responder.encryption,
            keys.initiatorAuthentication, keys.responderAuthentication,
        ].flatMap(\.octets)
        #expect(parts == Array(vector["DKM"].prefix(parts.count)))
    }

    @Test func `nonces compare octet by octet, and the shorter of two equal beginnings is lower`() {
        #expect(lowerNonce([1, 2], [1, 3]) == [1, 2])
        #expect(lowerNonce([1, 2, 0], [1, 2]) == [1, 2])
        #expect(lowerNonce([0xFF], [0x01, 0xFF]) == [0x01, 0xFF])
    }
}
