import IKE
import IPsec

/// A secret in ordinary memory: for the simulation only.
final class PlainSecret: SecretMemory {
    let bytes: [UInt8]
    init(_ bytes: [UInt8]) { self.bytes = bytes }
    var count: Int { bytes.count }
    func withBytes<R>(_ body: (RawSpan) throws -> R) rethrows -> R { try bytes.withUnsafeBytes { try body($0.bytes) } }
}

extension SecretMemory {
    /// 64 bits that equal secrets share and others, in a simulation, do not.
    var fingerprint: UInt64 {
        var mixer = Mixer()
        withBytes { span in
            for index in 0..<span.byteCount { mixer.absorb(UInt64(span.unsafeLoad(fromByteOffset: index, as: UInt8.self))) }
        }
        return mixer.value
    }
}

/// A fast 128-bit hash without any strength against people who want to break it.
struct Mixer {
    private var a: UInt64 = 0x243F_6A88_85A3_08D3
    private var b: UInt64 = 0x1319_8A2E_0370_7344

    mutating func absorb(_ word: UInt64) {
        a = (a ^ word) &* 0x9E37_79B9_7F4A_7C15
        a ^= a >> 32
        b = (b &+ a) &* 0xBF58_476D_1CE4_E5B9
        b ^= b >> 29
    }

    /// The length goes in too: parts cannot run into each other.
    mutating func absorb(_ bytes: some Collection<UInt8>) {
        absorb(UInt64(bytes.count))
        _ = bytes.withContiguousStorageIfAvailable { storage in
            let raw = UnsafeRawBufferPointer(storage)
            var offset = 0
            while offset + 8 <= raw.count {
                absorb(raw.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
                offset += 8
            }
            var tail: UInt64 = 0
            while offset < raw.count { tail = tail << 8 | UInt64(raw[offset]); offset += 1 }
            absorb(tail)
        }
    }

    var value: UInt64 { (a ^ (b >> 31)) &* 0x94D0_49BB_1331_11EB ^ b }

    /// As many octets as wanted.
    func octets(_ count: Int) -> [UInt8] {
        var (state, increment) = (a, b | 1)
        return [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
            var word: UInt64 = 0
            for index in 0..<count {
                if index & 7 == 0 {
                    state &+= increment
                    word = (state ^ (state >> 30)) &* 0xBF58_476D_1CE4_E5B9
                    word ^= word >> 27
                    increment = increment &+ (word << 1)
                }
                buffer[index] = UInt8(truncatingIfNeeded: word >> UInt64(8 * (index & 7)))
            }
            filled = count
        }
    }
}

/// Cryptography that keeps the promises which the protocol logic relies on (two ends that did the same get the same, others do
/// not; what was changed on the way does not open) in a hundredth of the time, and from a seed. It protects nothing.
final class ToyCrypto: IKECrypto, @unchecked Sendable {
    private let dice: SeededRandom
    init(seed: UInt64) { dice = SeededRandom(seed: seed) }

    func makeKeyExchange(_ method: KeyExchangeMethod) throws(IKECryptoError) -> any KeyExchange {
        ToyKeyExchange(method, privateValue: dice.next())
    }

    func answerKeyExchange(
        _ method: KeyExchangeMethod, peerPublicValue: [UInt8]
    ) throws(IKECryptoError) -> any KeyExchangeAnswer {
        guard peerPublicValue.count == method.publicValueBytes else { throw .invalidPublicValue }
        let ours = ToyKeyExchange(method, privateValue: dice.next(), octets: method.answerBytes)
        return ToyAnswer(ours, peerPublicValue: peerPublicValue)
    }

    private func keyed(_ key: Secret) -> Mixer {
        var mixer = Mixer()
        Self.absorb(key, &mixer)
        return mixer
    }

    private static func absorb(_ secret: Secret, _ mixer: inout Mixer) {
        if let plain = secret as? PlainSecret { mixer.absorb(plain.bytes) }
    }

    /// Several parts are one concatenation, as in the real ones.
    private func mix(_ prf: PseudoRandomFunction, _ key: Secret, _ parts: [SeedPart]) -> Mixer {
        var mixer = keyed(key)
        mixer.absorb(UInt64(prf.rawValue))
        var whole: [UInt8] = []
        for part in parts {
            switch part {
            case .bytes(let bytes): whole += bytes
            case .secret(let secret): if let plain = secret as? PlainSecret { whole += plain.bytes }
            }
        }
        mixer.absorb(whole)
        return mixer
    }

    func prf(_ prf: PseudoRandomFunction, key: Secret, data: [UInt8]) throws(IKECryptoError) -> [UInt8] {
        mix(prf, key, [.bytes(data)]).octets(prf.outputBytes)
    }

    func prfSecret(_ prf: PseudoRandomFunction, key: Secret, data: [SeedPart]) throws(IKECryptoError) -> Secret {
        PlainSecret(mix(prf, key, data).octets(prf.outputBytes))
    }

    func prfPlus(_ prf: PseudoRandomFunction, key: Secret, seed: [SeedPart], count: Int) throws(IKECryptoError) -> Secret {
        var mixer = mix(prf, key, seed)
        mixer.absorb(1)
        return PlainSecret(mixer.octets(count))
    }

    func slice(_ secret: Secret, _ range: Range<Int>) -> Secret {
        guard let plain = secret as? PlainSecret else { return PlainSecret([]) }
        return PlainSecret(Array(plain.bytes[range.clamped(to: 0..<plain.bytes.count)]))
    }

    func secret(_ bytes: [UInt8]) -> Secret { PlainSecret(bytes) }

    private func stream(_ encryption: Secret, _ iv: ArraySlice<UInt8>, _ text: ArraySlice<UInt8>) -> [UInt8] {
        var mixer = keyed(encryption)
        mixer.absorb(iv)
        var octets = mixer.octets(text.count)
        for (index, octet) in text.enumerated() { octets[index] ^= octet }
        return octets
    }

    private func tag(
        _ encryption: Secret, _ integrity: Secret, _ associated: [UInt8], _ sealed: ArraySlice<UInt8>, _ count: Int
    ) -> [UInt8] {
        var mixer = keyed(encryption)
        Self.absorb(integrity, &mixer)
        mixer.absorb(associated)
        mixer.absorb(sealed)
        return mixer.octets(count)
    }

    func seal(
        _ cipher: IKECipher, encryptionKey: Secret, integrityKey: Secret, associatedData: [UInt8], plaintext: [UInt8], iv: [UInt8]
    ) throws(IKECryptoError) -> [UInt8] {
        let sealed = iv + stream(encryptionKey, iv[...], plaintext[...])
        return sealed + tag(encryptionKey, integrityKey, associatedData, sealed[...], cipher.icvBytes)
    }

    func open(
        _ cipher: IKECipher, encryptionKey: Secret, integrityKey: Secret, associatedData: [UInt8], sealed: [UInt8]
    ) throws(IKECryptoError) -> [UInt8] {
        guard sealed.count >= cipher.ivBytes + cipher.icvBytes else { throw .authenticationFailed }
        let body = sealed[..<(sealed.count - cipher.icvBytes)]
        guard tag(encryptionKey, integrityKey, associatedData, body, cipher.icvBytes) == Array(sealed[body.endIndex...]) else {
            throw .authenticationFailed
        }
        return stream(encryptionKey, body[..<cipher.ivBytes], body[cipher.ivBytes...])
    }

    func sha1(_ data: [UInt8]) -> [UInt8] {
        var mixer = Mixer()
        mixer.absorb(data)
        return mixer.octets(20)
    }

    func constantTimeEqual(_ a: [UInt8], _ b: [UInt8]) -> Bool { a == b }
}

/// Diffie-Hellman modulo the Mersenne prime 2^61 - 1, in as many octets as the real group or encapsulation has.
final class ToyKeyExchange: KeyExchange {
    private static let prime: UInt64 = (1 << 61) - 1
    let method: KeyExchangeMethod
    let publicValue: [UInt8]
    private let exponent: UInt64

    init(_ method: KeyExchangeMethod, privateValue: UInt64, octets: Int? = nil) {
        self.method = method
        exponent = privateValue % (Self.prime - 2) + 1
        let value = Self.power(37, exponent)
        publicValue = [UInt8](repeating: 0, count: (octets ?? method.publicValueBytes) - 8) + [UInt8](u64: value)
    }

    private static func power(_ base: UInt64, _ exponent: UInt64) -> UInt64 {
        var (result, square, left) = (UInt64(1), base % prime, exponent)
        while left > 0 {
            if left & 1 == 1 { result = prime.dividingFullWidth(result.multipliedFullWidth(by: square)).remainder }
            square = prime.dividingFullWidth(square.multipliedFullWidth(by: square)).remainder
            left >>= 1
        }
        return result
    }

    func sharedSecret(peerPublicValue: [UInt8]) throws(IKECryptoError) -> Secret {
        guard peerPublicValue.count == method.publicValueBytes || peerPublicValue.count == method.answerBytes else {
            throw .invalidPublicValue
        }
        let value = Array(peerPublicValue.suffix(8)).bigEndianValue
        guard value > 1, value < Self.prime else { throw .invalidPublicValue }
        return PlainSecret([UInt8](u64: Self.power(value, exponent)))
    }
}

final class ToyAnswer: KeyExchangeAnswer {
    private let ours: ToyKeyExchange
    private let peerPublicValue: [UInt8]
    init(_ ours: ToyKeyExchange, peerPublicValue: [UInt8]) { (self.ours, self.peerPublicValue) = (ours, peerPublicValue) }
    var method: KeyExchangeMethod { ours.method }
    var publicValue: [UInt8] { ours.publicValue }
    func sharedSecret() throws(IKECryptoError) -> Secret { try ours.sharedSecret(peerPublicValue: peerPublicValue) }
}

/// Hands everything on, and notices an IV that is used twice under one key: with AES-GCM the end of that key (RFC 5282 §3.1).
final class WatchedCrypto: IKECrypto, @unchecked Sendable {
    private struct Sealing: Hashable {
        var key: UInt64
        var iv: UInt64
    }
    private let base: any IKECrypto
    private var sealings: Set<Sealing> = []
    private(set) var repeatedIV = false

    init(_ base: any IKECrypto) { self.base = base }

    func makeKeyExchange(_ method: KeyExchangeMethod) throws(IKECryptoError) -> any KeyExchange {
        try base.makeKeyExchange(method)
    }
    func answerKeyExchange(
        _ method: KeyExchangeMethod, peerPublicValue: [UInt8]
    ) throws(IKECryptoError) -> any KeyExchangeAnswer {
        try base.answerKeyExchange(method, peerPublicValue: peerPublicValue)
    }
    func supports(_ method: KeyExchangeMethod) -> Bool { base.supports(method) }
    func prf(_ prf: PseudoRandomFunction, key: Secret, data: [UInt8]) throws(IKECryptoError) -> [UInt8] {
        try base.prf(prf, key: key, data: data)
    }
    func prfSecret(_ prf: PseudoRandomFunction, key: Secret, data: [SeedPart]) throws(IKECryptoError) -> Secret {
        try base.prfSecret(prf, key: key, data: data)
    }
    func prfPlus(_ prf: PseudoRandomFunction, key: Secret, seed: [SeedPart], count: Int) throws(IKECryptoError) -> Secret {
        try base.prfPlus(prf, key: key, seed: seed, count: count)
    }
    func slice(_ secret: Secret, _ range: Range<Int>) -> Secret { base.slice(secret, range) }
    func secret(_ bytes: [UInt8]) -> Secret { base.secret(bytes) }
    func seal(
        _ cipher: IKECipher, encryptionKey: Secret, integrityKey: Secret, associatedData: [UInt8], plaintext: [UInt8], iv: [UInt8]
    ) throws(IKECryptoError) -> [UInt8] {
        var mixer = Mixer()
        mixer.absorb(iv)
        let isNew = sealings.insert(Sealing(key: encryptionKey.fingerprint, iv: mixer.value)).inserted
        if !isNew { repeatedIV = true }
        return try base.seal(
            cipher, encryptionKey: encryptionKey, integrityKey: integrityKey, associatedData: associatedData,
            plaintext: plaintext, iv: iv)
    }
    func open(
        _ cipher: IKECipher, encryptionKey: Secret, integrityKey: Secret, associatedData: [UInt8], sealed: [UInt8]
    ) throws(IKECryptoError) -> [UInt8] {
        try base.open(
            cipher, encryptionKey: encryptionKey, integrityKey: integrityKey, associatedData: associatedData, sealed: sealed)
    }
    func sha1(_ data: [UInt8]) -> [UInt8] { base.sha1(data) }
    func constantTimeEqual(_ a: [UInt8], _ b: [UInt8]) -> Bool { base.constantTimeEqual(a, b) }
}
