internal import COpenSSL
package import IKE
package import IPsec

/// ML-KEM (FIPS 203) by whichever library has it. A key is kept as its 64-octet seed in secret memory and expanded when the
/// peer's answer comes.
package struct Encapsulation: Sendable {
    package enum Provider: CaseIterable, Sendable { case openSSL, swiftCrypto }

    static let sharedSecretBytes = 32
    /// d || z, FIPS 203 §7.1.
    package static let seedBytes = 64

    let method: KeyExchangeMethod
    /// nil: no library has it.
    let provider: Provider?

    /// OpenSSL's where there is one; nil when the method is not ML-KEM.
    init?(_ method: KeyExchangeMethod) {
        guard method.isEncapsulation else { return nil }
        self.method = method
        provider = Provider.allCases.first { $0.has(method) }
    }

    package init(_ method: KeyExchangeMethod, by provider: Provider) { (self.method, self.provider) = (method, provider) }

    package var isAvailable: Bool { provider?.has(method) == true }

    func makeKeyExchange() throws(IKECryptoError) -> any KeyExchange {
        var made = false
        let seed = SecureBytes(count: Self.seedBytes) { buffer in
            guard let base = buffer.baseAddress else { return }
            made = RAND_priv_bytes(base.assumingMemoryBound(to: UInt8.self), Int32(buffer.count)) == 1
        }
        guard made else { throw libraryError("key generation") }
        return try keyExchange(seed: seed)
    }

    /// The key pair of a seed: for vectors.
    package func keyExchange(seed: Secret) throws(IKECryptoError) -> any KeyExchange {
        EncapsulationKeyExchange(self, seed: seed, publicValue: try publicValue(seed: seed))
    }

    /// "Responders MUST perform the checks on the initiator public key specified in section 7.2 of [FIPS203] before the
    /// Encaps(pk)
    /// operation": the length here, the coefficients' range in the libraries, which refuse a key that is not in canonical form.
    package func answer(_ peerPublicValue: [UInt8]) throws(IKECryptoError) -> any KeyExchangeAnswer {
        guard peerPublicValue.count == method.publicValueBytes else { throw .invalidPublicValue }
        let (ciphertext, secret) = try encapsulate(to: peerPublicValue)
        guard ciphertext.count == method.answerBytes, secret.count == Self.sharedSecretBytes else {
            throw .library("\(method.keyword) gave a ciphertext of \(ciphertext.count) octets")
        }
        return EncapsulationAnswer(method: method, publicValue: ciphertext, secret: secret)
    }

    // MARK: The three operations

    private func publicValue(seed: Secret) throws(IKECryptoError) -> [UInt8] {
        switch provider {
        case .openSSL: try OpenSSLEncapsulation.publicValue(method, seed: seed)
        case .swiftCrypto: try SwiftEncapsulation.publicValue(method, seed: seed)
        case nil: throw unavailable
        }
    }

    private func encapsulate(to key: [UInt8]) throws(IKECryptoError) -> (ciphertext: [UInt8], secret: Secret) {
        switch provider {
        case .openSSL: try OpenSSLEncapsulation.encapsulate(method, to: key)
        case .swiftCrypto: try SwiftEncapsulation.encapsulate(method, to: key)
        case nil: throw unavailable
        }
    }

    fileprivate func decapsulate(_ ciphertext: [UInt8], seed: Secret) throws(IKECryptoError) -> Secret {
        switch provider {
        case .openSSL: try OpenSSLEncapsulation.decapsulate(method, ciphertext, seed: seed)
        case .swiftCrypto: try SwiftEncapsulation.decapsulate(method, ciphertext, seed: seed)
        case nil: throw unavailable
        }
    }

    private var unavailable: IKECryptoError { .library("\(method.keyword) needs OpenSSL 3.5") }
}

extension Encapsulation.Provider {
    package func has(_ method: KeyExchangeMethod) -> Bool {
        switch self {
        case .openSSL: Algorithms.shared.encapsulations.contains(method)
        case .swiftCrypto: method == .mlkem768 || method == .mlkem1024
        }
    }
}

private final class EncapsulationKeyExchange: KeyExchange {
    private let kem: Encapsulation
    private let seed: Secret
    let publicValue: [UInt8]

    init(_ kem: Encapsulation, seed: Secret, publicValue: [UInt8]) {
        (self.kem, self.seed, self.publicValue) = (kem, seed, publicValue)
    }

    var method: KeyExchangeMethod { kem.method }

    /// "Initiators MUST perform the Ciphertext type check specified in section 7.3 of [FIPS203] before the Decaps(sk, ct)
    /// operation": its length.
    func sharedSecret(peerPublicValue: [UInt8]) throws(IKECryptoError) -> Secret {
        guard peerPublicValue.count == method.answerBytes else { throw .invalidPublicValue }
        let secret = try kem.decapsulate(peerPublicValue, seed: seed)
        guard secret.count == Encapsulation.sharedSecretBytes else { throw .library("\(method.keyword) failed") }
        return secret
    }
}

private final class EncapsulationAnswer: KeyExchangeAnswer {
    let method: KeyExchangeMethod
    let publicValue: [UInt8]
    private let secret: Secret

    init(method: KeyExchangeMethod, publicValue: [UInt8], secret: Secret) {
        (self.method, self.publicValue, self.secret) = (method, publicValue, secret)
    }

    func sharedSecret() throws(IKECryptoError) -> Secret { secret }
}

extension KeyExchangeMethod {
    /// libcrypto's name, nil when it is not ML-KEM.
    var encapsulationName: String? {
        switch self {
        case .mlkem512: "ML-KEM-512"
        case .mlkem768: "ML-KEM-768"
        case .mlkem1024: "ML-KEM-1024"
        default: nil
        }
    }
}

/// ML-KEM of libcrypto, from OpenSSL 3.5 on.
private enum OpenSSLEncapsulation {
    static func publicValue(_ method: KeyExchangeMethod, seed: Secret) throws(IKECryptoError) -> [UInt8] {
        let key = try keyPair(method, seed: seed)
        defer { EVP_PKEY_free(key) }
        var encoded: UnsafeMutablePointer<UInt8>?
        let count = EVP_PKEY_get1_encoded_public_key(key, &encoded)
        defer { culvert_openssl_free(encoded) }
        guard let encoded, count == method.publicValueBytes else { throw libraryError("key generation") }
        return Array(UnsafeBufferPointer(start: encoded, count: count))
    }

    static func encapsulate(
        _ method: KeyExchangeMethod, to peer: [UInt8]
    ) throws(IKECryptoError) -> (ciphertext: [UInt8], secret: Secret) {
        guard let key = EVP_PKEY_new_raw_public_key_ex(nil, method.encapsulationName, nil, peer, peer.count) else {
            ERR_clear_error()
            throw .invalidPublicValue
        }
        defer { EVP_PKEY_free(key) }
        guard let context = EVP_PKEY_CTX_new_from_pkey(nil, key, nil) else { throw libraryError("encapsulation") }
        defer { EVP_PKEY_CTX_free(context) }
        var (ciphertext, done) = ([UInt8](repeating: 0, count: method.answerBytes), false)
        let secret = SecureBytes(count: Encapsulation.sharedSecretBytes) { buffer in
            var (ciphertextBytes, secretBytes) = (ciphertext.count, buffer.count)
            let output = buffer.baseAddress?.assumingMemoryBound(to: UInt8.self)
            done =
                EVP_PKEY_encapsulate_init(context, nil) == 1
                && EVP_PKEY_encapsulate(context, &ciphertext, &ciphertextBytes, output, &secretBytes) == 1
                && ciphertextBytes == ciphertext.count && secretBytes == buffer.count
        }
        guard done else { throw libraryError("encapsulation") }
        return (ciphertext, secret)
    }

    static func decapsulate(
        _ method: KeyExchangeMethod, _ ciphertext: [UInt8], seed: Secret
    ) throws(IKECryptoError) -> Secret {
        let key = try keyPair(method, seed: seed)
        defer { EVP_PKEY_free(key) }
        guard let context = EVP_PKEY_CTX_new_from_pkey(nil, key, nil) else { throw libraryError("decapsulation") }
        defer { EVP_PKEY_CTX_free(context) }
        var done = false
        let secret = SecureBytes(count: Encapsulation.sharedSecretBytes) { buffer in
            var secretBytes = buffer.count
            let output = buffer.baseAddress?.assumingMemoryBound(to: UInt8.self)
            done =
                EVP_PKEY_decapsulate_init(context, nil) == 1
                && EVP_PKEY_decapsulate(context, output, &secretBytes, ciphertext, ciphertext.count) == 1
                && secretBytes == buffer.count
        }
        guard done else { throw libraryError("decapsulation") }
        return secret
    }

    private static func keyPair(_ method: KeyExchangeMethod, seed: Secret) throws(IKECryptoError) -> OpaquePointer {
        guard let name = method.encapsulationName,
            let key = seed.withPointer({ culvert_mlkem_from_seed(name, $0.assumingMemoryBound(to: UInt8.self), $1) })
        else { throw libraryError("key generation") }
        return key
    }
}
