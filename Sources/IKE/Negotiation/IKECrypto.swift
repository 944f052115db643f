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
    // FIPS 203, draft-ietf-ipsecme-ikev2-mlkem.
    case mlkem512 = 35
    case mlkem768 = 36
    case mlkem1024 = 37

    /// Octets of Key Exchange Data that an initiator sends. RFC 3526, RFC 5903 §7 (X and Y, no 04 prefix), RFC 8031; the
    /// encapsulation key of ML-KEM.
    public var publicValueBytes: Int {
        [14: 256, 15: 384, 16: 512, 19: 64, 20: 96, 21: 132, 31: 32, 35: 800, 36: 1184, 37: 1568][rawValue]!
    }
    /// Octets that a responder sends: as many with Diffie-Hellman, the ciphertext with ML-KEM.
    public var answerBytes: Int { [35: 768, 36: 1088, 37: 1568][rawValue] ?? publicValueBytes }
    /// Whether the responder's value depends on the initiator's, so that the two cannot be exchanged for each other.
    public var isEncapsulation: Bool { rawValue >= 35 }
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
    /// The peer's public value has the wrong length or is not a valid member of the group (RFC 6989, RFC 7748 §6.1 zero check,
    /// FIPS 203 §7.2 and §7.3).
    case invalidPublicValue
    /// The ICV does not verify.
    case authenticationFailed
    /// The library failed; the text is for the log and holds no secret.
    case library(String)
}

/// Our half of one key exchange, as the one who begins it. Its private value is wiped on release.
public protocol KeyExchange: AnyObject, Sendable {
    var method: KeyExchangeMethod { get }
    /// Key Exchange Data as sent on the wire.
    var publicValue: [UInt8] { get }
    /// The shared secret g^ir, encoded as RFC 7296 §2.14 says (padded to the modulus; X coordinate only for ECP, RFC 5903 §7).
    ///
    /// With ML-KEM, `peerPublicValue` is the ciphertext and the secret has 32 octets. A ciphertext of the right length is never
    /// refused: one that was not made for our key gives an unrelated secret (FIPS 203 §7.3, implicit rejection).
    func sharedSecret(peerPublicValue: [UInt8]) throws(IKECryptoError) -> Secret
}

/// Our half of a key exchange that the peer began.
public protocol KeyExchangeAnswer: AnyObject, Sendable {
    var method: KeyExchangeMethod { get }
    /// Key Exchange Data as sent on the wire.
    var publicValue: [UInt8] { get }
    /// As `KeyExchange.sharedSecret`. Diffie-Hellman computes it when asked, so that a peer who never comes back costs no secret.
    func sharedSecret() throws(IKECryptoError) -> Secret
}

/// A Diffie-Hellman answer: a key pair of our own beside the peer's value.
public final class DiffieHellmanAnswer: KeyExchangeAnswer {
    private let exchange: any KeyExchange
    private let peerPublicValue: [UInt8]

    public init(_ exchange: any KeyExchange, peerPublicValue: [UInt8]) {
        (self.exchange, self.peerPublicValue) = (exchange, peerPublicValue)
    }

    public var method: KeyExchangeMethod { exchange.method }
    public var publicValue: [UInt8] { exchange.publicValue }
    public func sharedSecret() throws(IKECryptoError) -> Secret { try exchange.sharedSecret(peerPublicValue: peerPublicValue) }
}

/// All cryptography the IKE core needs, injected. Implementations are stateless and may be called from any thread.
public protocol IKECrypto: Sendable {
    func makeKeyExchange(_ method: KeyExchangeMethod) throws(IKECryptoError) -> any KeyExchange
    /// Answers a peer's value. `invalidPublicValue`: its length is wrong, or an encapsulation key fails the check of FIPS 203
    /// §7.2. Members of Diffie-Hellman groups are checked when the secret is computed.
    func answerKeyExchange(
        _ method: KeyExchangeMethod, peerPublicValue: [UInt8]
    ) throws(IKECryptoError) -> any KeyExchangeAnswer
    /// Whether this machine's libraries have the method.
    func supports(_ method: KeyExchangeMethod) -> Bool

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

extension IKECrypto {
    /// Right for Diffie-Hellman; an implementation that has ML-KEM answers it by itself.
    public func answerKeyExchange(
        _ method: KeyExchangeMethod, peerPublicValue: [UInt8]
    ) throws(IKECryptoError) -> any KeyExchangeAnswer {
        guard !method.isEncapsulation else { throw .library("\(method.keyword) cannot be answered like Diffie-Hellman") }
        guard peerPublicValue.count == method.publicValueBytes else { throw .invalidPublicValue }
        return DiffieHellmanAnswer(try makeKeyExchange(method), peerPublicValue: peerPublicValue)
    }

    public func supports(_ method: KeyExchangeMethod) -> Bool { true }
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
