public import IPsec

/// Pseudo-random functions of an IKE SA; raw values are transform ids (type 2). RFC 7296 §3.3.2.
public enum PseudoRandomFunction: UInt16, CaseIterable, Sendable {
    case hmacSHA256 = 5
    case hmacSHA384 = 6
    case hmacSHA512 = 7

    /// Octets of output, and of the preferred key.
    public var outputBytes: Int { [5: 32, 6: 48, 7: 64][rawValue]! }
}

/// Integrity algorithms of an IKE SA that is not AEAD; raw values are transform ids (type 3). RFC 4868.
public enum IntegrityAlgorithm: UInt16, CaseIterable, Sendable {
    case hmacSHA256_128 = 12
    case hmacSHA384_192 = 13
    case hmacSHA512_256 = 14

    public var keyBytes: Int { [12: 32, 13: 48, 14: 64][rawValue]! }
    public var icvBytes: Int { keyBytes / 2 }
}

/// Key exchange methods; raw values are transform ids (type 4).
public enum KeyExchangeMethod: UInt16, CaseIterable, Sendable {
    case modp2048 = 14
    case modp3072 = 15
    case modp4096 = 16
    case ecp256 = 19
    case ecp384 = 20
    case ecp521 = 21
    case x25519 = 31

    /// Octets of Key Exchange Data on the wire, either direction. RFC 3526, RFC 5903 §7 (X and Y, no 04 prefix), RFC 8031.
    public var publicValueBytes: Int { [14: 256, 15: 384, 16: 512, 19: 64, 20: 96, 21: 132, 31: 32][rawValue]! }
}

/// The cipher that protects an IKE SA's messages. RFC 5282 (AEAD), RFC 3602 with RFC 4868 (CBC then HMAC).
public enum IKECipher: Hashable, Sendable {
    case aesGCM16(keyBits: Int)
    case aesCBC(keyBits: Int, IntegrityAlgorithm)

    /// Octets of one SK_e: the key, and the 4-octet salt when AEAD (RFC 5282 §7.1).
    public var encryptionKeyBytes: Int {
        switch self {
        case .aesGCM16(let bits): bits / 8 + 4
        case .aesCBC(let bits, _): bits / 8
        }
    }
    /// Octets of one SK_a; zero when AEAD.
    public var integrityKeyBytes: Int { if case .aesCBC(_, let integ) = self { integ.keyBytes } else { 0 } }
    /// Octets of the explicit IV in the Encrypted payload.
    public var ivBytes: Int { if case .aesCBC = self { 16 } else { 8 } }
    public var icvBytes: Int { if case .aesCBC(_, let integ) = self { integ.icvBytes } else { 16 } }
    /// The plaintext, padding and pad-length octet together are a multiple of this.
    public var blockBytes: Int { if case .aesCBC = self { 16 } else { 1 } }
}

public enum IKECryptoError: Error, Hashable, Sendable {
    /// The peer's public value has the wrong length or is not a valid member of the group (RFC 6989, RFC 7748 §6.1 zero check).
    case invalidPublicValue
    /// The ICV does not verify.
    case authenticationFailed
    /// The library failed; the text is for the log and holds no secret.
    case library(String)
}

/// Our half of one key exchange. Its private value is wiped on release.
public protocol KeyExchange: AnyObject, Sendable {
    var method: KeyExchangeMethod { get }
    /// Key Exchange Data as sent on the wire.
    var publicValue: [UInt8] { get }
    /// The shared secret g^ir, encoded as RFC 7296 §2.14 says (padded to the modulus; X coordinate only for ECP, RFC 5903 §7).
    func sharedSecret(peerPublicValue: [UInt8]) throws(IKECryptoError) -> Secret
}

/// All cryptography the IKE core needs, injected. Implementations are stateless and may be called from any thread.
public protocol IKECrypto: Sendable {
    func makeKeyExchange(_ method: KeyExchangeMethod) throws(IKECryptoError) -> any KeyExchange

    /// prf(key, data) whose output is public (AUTH values, cookies).
    func prf(_ prf: PseudoRandomFunction, key: Secret, data: [UInt8]) throws(IKECryptoError) -> [UInt8]
    /// prf(key, data) whose output is a secret. `data` is a concatenation of parts, so that secrets can be part of the seed.
    func prfSecret(_ prf: PseudoRandomFunction, key: Secret, data: [SeedPart]) throws(IKECryptoError) -> Secret
    /// prf+ (RFC 7296 §2.13), `count` octets.
    func prfPlus(_ prf: PseudoRandomFunction, key: Secret, seed: [SeedPart], count: Int) throws(IKECryptoError) -> Secret

    /// A copy of part of a secret, itself a secret.
    func slice(_ secret: Secret, _ range: Range<Int>) -> Secret
    /// A secret with these octets (nonces used as a PRF key, a PSK read from a file, test vectors).
    func secret(_ bytes: [UInt8]) -> Secret

    /// Encrypts and authenticates the content of an SK payload. RFC 7296 §3.14, RFC 5282 §3.
    /// - Parameters:
    ///   - associatedData: the message from the IKE header through the SK payload's generic header.
    ///   - plaintext: inner payloads, padding and pad-length octet: a multiple of `cipher.blockBytes`.
    ///   - iv: `cipher.ivBytes` octets.
    /// - Returns: IV, ciphertext and ICV, ready to follow `associatedData`.
    func seal(
        _ cipher: IKECipher, encryptionKey: Secret, integrityKey: Secret, associatedData: [UInt8], plaintext: [UInt8], iv: [UInt8]
    ) throws(IKECryptoError) -> [UInt8]
    /// The reverse of `seal`; `sealed` is IV, ciphertext and ICV. Throws `authenticationFailed` before anything is decrypted.
    func open(
        _ cipher: IKECipher, encryptionKey: Secret, integrityKey: Secret, associatedData: [UInt8], sealed: [UInt8]
    ) throws(IKECryptoError) -> [UInt8]

    /// SHA-1, only for NAT_DETECTION_*_IP (RFC 7296 §2.23).
    func sha1(_ data: [UInt8]) -> [UInt8]
    /// Equal in time that does not depend on where they differ.
    func constantTimeEqual(_ a: [UInt8], _ b: [UInt8]) -> Bool
}

/// A piece of a PRF's seed.
public enum SeedPart: Sendable {
    case bytes([UInt8])
    case secret(Secret)
}

/// Randomness for nonces, SPIs, IVs, jitter: the system's in production, a seeded generator in simulation.
public protocol IKERandom: AnyObject {
    func bytes(_ count: Int) -> [UInt8]
}
