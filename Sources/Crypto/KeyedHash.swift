internal import COpenSSL
internal import IKE
internal import IPsec

/// One HMAC computation (RFC 2104, RFC 4868). The key lives in libcrypto's context, which wipes it on release.
struct KeyedHash: ~Copyable {
    let hash: HashFunction
    private let context: OpaquePointer

    init(_ hash: HashFunction, key: Secret) throws(IKECryptoError) {
        guard let context = EVP_MAC_CTX_dup(try Algorithms.shared.hmac(hash)) else { throw libraryError("HMAC") }
        guard Self.start(context, key) else {
            EVP_MAC_CTX_free(context)
            throw libraryError("HMAC")
        }
        (self.hash, self.context) = (hash, context)
    }

    deinit { EVP_MAC_CTX_free(context) }

    /// Begins anew with the same or another key.
    func restart(key: Secret) throws(IKECryptoError) {
        guard Self.start(context, key) else { throw libraryError("HMAC") }
    }

    func update(_ bytes: UnsafeRawBufferPointer) throws(IKECryptoError) {
        guard let base = bytes.baseAddress else { return }
        guard EVP_MAC_update(context, base.assumingMemoryBound(to: UInt8.self), bytes.count) == 1 else {
            throw libraryError("HMAC")
        }
    }

    func update(_ bytes: ArraySlice<UInt8>) throws(IKECryptoError) {
        let done = bytes.withUnsafeBufferPointer { $0.isEmpty ? 1 : EVP_MAC_update(context, $0.baseAddress, $0.count) }
        guard done == 1 else { throw libraryError("HMAC") }
    }

    func update(_ secret: Secret) throws(IKECryptoError) {
        let done = secret.withPointer { EVP_MAC_update(context, $0.assumingMemoryBound(to: UInt8.self), $1) }
        guard done == 1 else { throw libraryError("HMAC") }
    }

    func update(_ part: SeedPart) throws(IKECryptoError) {
        switch part {
        case .bytes(let bytes): try update(bytes[...])
        case .secret(let secret): try update(secret)
        }
    }

    /// Writes `hash.outputBytes` octets at `output`.
    func finish(into output: UnsafeMutableRawPointer) -> Bool {
        var written = 0
        let done = EVP_MAC_final(context, output.assumingMemoryBound(to: UInt8.self), &written, hash.outputBytes)
        return done == 1 && written == hash.outputBytes
    }

    func finish() throws(IKECryptoError) -> [UInt8] {
        var done = false
        let output = [UInt8](unsafeUninitializedCapacity: hash.outputBytes) { buffer, count in
            guard let base = buffer.baseAddress else { return }
            done = finish(into: base)
            count = done ? hash.outputBytes : 0
        }
        guard done else { throw libraryError("HMAC") }
        return output
    }

    private static func start(_ context: OpaquePointer, _ key: Secret) -> Bool {
        key.withPointer { EVP_MAC_init(context, $0.assumingMemoryBound(to: UInt8.self), $1, nil) } == 1
    }
}
