internal import COpenSSL
public import IKE
public import IPsec

/// The cryptography of the IKE core on OpenSSL 3 (libcrypto). Stateless; any thread may call it.
public struct OpenSSLCrypto: IKECrypto {
    /// RFC 7296 §2.13: prf+ ends after 255 blocks, since its counter is one octet.
    static let prfPlusMostBlocks = 255

    public init() {
        // Fetching happens here, in the control thread's start-up, not in the first handshake.
        _ = Algorithms.shared
    }

    public func makeKeyExchange(_ method: KeyExchangeMethod) throws(IKECryptoError) -> any KeyExchange {
        if let kem = Encapsulation(method) { return try kem.makeKeyExchange() }
        return try OpenSSLKeyExchange(method)
    }

    public func answerKeyExchange(
        _ method: KeyExchangeMethod, peerPublicValue: [UInt8]
    ) throws(IKECryptoError) -> any KeyExchangeAnswer {
        if let kem = Encapsulation(method) { return try kem.answer(peerPublicValue) }
        guard peerPublicValue.count == method.publicValueBytes else { throw .invalidPublicValue }
        return DiffieHellmanAnswer(try OpenSSLKeyExchange(method), peerPublicValue: peerPublicValue)
    }

    /// ML-KEM-512 is there from OpenSSL 3.5 on; swift-crypto has only the two larger ones.
    public func supports(_ method: KeyExchangeMethod) -> Bool { Encapsulation(method)?.isAvailable ?? true }

    public func prf(_ prf: PseudoRandomFunction, key: Secret, data: [UInt8]) throws(IKECryptoError) -> [UInt8] {
        let hash = try KeyedHash(HashFunction(prf), key: key)
        try hash.update(data[...])
        return try hash.finish()
    }

    public func prfSecret(_ prf: PseudoRandomFunction, key: Secret, data: [SeedPart]) throws(IKECryptoError) -> Secret {
        let hash = try KeyedHash(HashFunction(prf), key: key)
        for part in data { try hash.update(part) }
        var done = false
        let output = SecureBytes(count: prf.outputBytes) { buffer in
            if let base = buffer.baseAddress { done = hash.finish(into: base) }
        }
        guard done else { throw libraryError("HMAC") }
        return output
    }

    /// RFC 7296 §2.13: prf+ (K,S) = T1 | T2 | …, T1 = prf (K, S | 0x01), Tn = prf (K, Tn-1 | S | n).
    public func prfPlus(
        _ prf: PseudoRandomFunction, key: Secret, seed: [SeedPart], count: Int
    ) throws(IKECryptoError) -> Secret {
        let blockBytes = prf.outputBytes
        guard count > 0, count <= Self.prfPlusMostBlocks * blockBytes else {
            throw .library("prf+ of \(count) octets is outside of 1...\(Self.prfPlusMostBlocks * blockBytes)")
        }
        let blocks = (count + blockBytes - 1) / blockBytes
        let hash = try KeyedHash(HashFunction(prf), key: key)
        var failure: IKECryptoError?
        let stream = SecureBytes(count: blocks * blockBytes) { buffer in
            do throws(IKECryptoError) {
                for n in 0..<blocks { try Self.prfPlusBlock(n, of: buffer, hash, key, seed) }
            } catch { failure = error }
        }
        if let failure { throw failure }
        return count == stream.count ? stream : slice(stream, 0..<count)
    }

    private static func prfPlusBlock(
        _ n: Int, of stream: UnsafeMutableRawBufferPointer, _ hash: borrowing KeyedHash, _ key: Secret, _ seed: [SeedPart]
    ) throws(IKECryptoError) {
        let blockBytes = hash.hash.outputBytes
        guard let base = stream.baseAddress else { return }
        if n > 0 {
            try hash.restart(key: key)
            try hash.update(UnsafeRawBufferPointer(rebasing: stream[(n - 1) * blockBytes..<n * blockBytes]))
        }
        for part in seed { try hash.update(part) }
        try hash.update([UInt8(truncatingIfNeeded: n + 1)])
        guard hash.finish(into: base + n * blockBytes) else { throw libraryError("HMAC") }
    }

    /// The octets of `range` that the secret has; a range beyond its end gives a shorter secret, never a trap.
    public func slice(_ secret: Secret, _ range: Range<Int>) -> Secret {
        let range = range.clamped(to: 0..<secret.count)
        return SecureBytes(count: range.count) { buffer in
            secret.withPointer { start, _ in
                buffer.copyMemory(from: UnsafeRawBufferPointer(start: start + range.lowerBound, count: range.count))
            }
        }
    }

    public func secret(_ bytes: [UInt8]) -> Secret { SecureBytes(bytes) }

    /// All zeros when the provider has no SHA-1: the peers then see a NAT between them and encapsulate, which works.
    public func sha1(_ data: [UInt8]) -> [UInt8] {
        let outputBytes = 20
        var output = [UInt8](repeating: 0, count: outputBytes)
        guard let sha1 = Algorithms.shared.sha1 else { return output }
        var written: UInt32 = 0
        guard EVP_Digest(data, data.count, &output, &written, sha1, nil) == 1 else {
            ERR_clear_error()
            return [UInt8](repeating: 0, count: outputBytes)
        }
        return output
    }

    /// Lengths are public: different ones are unequal at once.
    public func constantTimeEqual(_ a: [UInt8], _ b: [UInt8]) -> Bool {
        a.count == b.count && CRYPTO_memcmp(a, b, a.count) == 0
    }
}
