internal import COpenSSL
package import IKE
package import IPsec

/// Our half of one Diffie-Hellman exchange. libcrypto keeps the private value in its secure heap and wipes it on release.
package final class OpenSSLKeyExchange: KeyExchange, @unchecked Sendable {
    package let method: KeyExchangeMethod
    package let publicValue: [UInt8]
    /// EVP_PKEY, not changed after `init`.
    private let key: OpaquePointer

    init(_ method: KeyExchangeMethod) throws(IKECryptoError) {
        let key = try Self.generate(method)
        do throws(IKECryptoError) {
            publicValue = try Self.publicValue(of: key, method)
        } catch {
            EVP_PKEY_free(key)
            throw error
        }
        (self.method, self.key) = (method, key)
    }

    /// Takes over `key`, an EVP_PKEY with both halves: for vectors whose private value is known.
    package init(adopting key: OpaquePointer, _ method: KeyExchangeMethod) throws(IKECryptoError) {
        do throws(IKECryptoError) {
            publicValue = try Self.publicValue(of: key, method)
        } catch {
            EVP_PKEY_free(key)
            throw error
        }
        (self.method, self.key) = (method, key)
    }

    deinit { EVP_PKEY_free(key) }

    package func sharedSecret(peerPublicValue: [UInt8]) throws(IKECryptoError) -> Secret {
        let peer = try peerKey(peerPublicValue)
        defer { EVP_PKEY_free(peer) }
        guard let context = EVP_PKEY_CTX_new_from_pkey(nil, key, nil) else { throw libraryError("key agreement") }
        defer { EVP_PKEY_CTX_free(context) }
        guard EVP_PKEY_derive_init(context) == 1 else { throw libraryError("key agreement") }
        // RFC 7296 §2.14: "g^ir is represented as a string of octets in big endian order padded with zeros if necessary to
        // make it the length of the modulus."
        if method.isModP, EVP_PKEY_CTX_set_dh_pad(context, 1) != 1 { throw libraryError("key agreement") }
        // The peer's value was checked as RFC 6989 asks. libcrypto's own further check multiplies by the group's order, which
        // proves nothing more for curves of cofactor 1 and for safe primes with a fresh exponent, and doubles the cost.
        guard EVP_PKEY_derive_set_peer_ex(context, peer, 0) == 1 else { throw libraryError("key agreement") }
        var derivedBytes = method.sharedSecretBytes
        var derived = false
        let secret = SecureBytes(count: method.sharedSecretBytes) { buffer in
            let output = buffer.baseAddress?.assumingMemoryBound(to: UInt8.self)
            derived = EVP_PKEY_derive(context, output, &derivedBytes) == 1
        }
        guard derived, derivedBytes == secret.count else {
            let error = libraryError("key agreement")
            // RFC 8031 §2: all-zero output, which libcrypto refuses, means that the peer sent a point of small order.
            throw method == .x25519 ? .invalidPublicValue : error
        }
        return secret
    }

    /// The peer's public value as a key, checked: RFC 6989 §2.1 (1 < r < p - 1), §2.3 (coordinates in range, on the curve).
    private func peerKey(_ value: [UInt8]) throws(IKECryptoError) -> OpaquePointer {
        guard value.count == method.publicValueBytes else { throw .invalidPublicValue }
        if method == .x25519 {
            guard let peer = EVP_PKEY_new_raw_public_key_ex(nil, "X25519", nil, value, value.count) else {
                throw libraryError("key agreement")
            }
            return peer
        }
        // RFC 5903 §7: the wire has X and Y without the octet that says "uncompressed".
        let encoded = method.isModP ? value : [0x04] + value
        let group = try Algorithms.shared.group(method)
        guard let peer = EVP_PKEY_new() else { throw libraryError("key agreement") }
        guard EVP_PKEY_copy_parameters(peer, group) == 1 else {
            EVP_PKEY_free(peer)
            throw libraryError("key agreement")
        }
        guard EVP_PKEY_set1_encoded_public_key(peer, encoded, encoded.count) == 1 else {
            EVP_PKEY_free(peer)
            ERR_clear_error()
            throw .invalidPublicValue
        }
        return peer
    }

    private static func generate(_ method: KeyExchangeMethod) throws(IKECryptoError) -> OpaquePointer {
        let context =
            method == .x25519
            ? EVP_PKEY_CTX_new_from_name(nil, "X25519", nil)
            : EVP_PKEY_CTX_new_from_pkey(nil, try Algorithms.shared.group(method), nil)
        guard let context else { throw libraryError("key generation") }
        defer { EVP_PKEY_CTX_free(context) }
        var key: OpaquePointer?
        guard EVP_PKEY_keygen_init(context) == 1, EVP_PKEY_generate(context, &key) == 1, let key else {
            throw libraryError("key generation")
        }
        return key
    }

    private static func publicValue(of key: OpaquePointer, _ method: KeyExchangeMethod) throws(IKECryptoError) -> [UInt8] {
        var encoded: UnsafeMutablePointer<UInt8>?
        let count = EVP_PKEY_get1_encoded_public_key(key, &encoded)
        defer { culvert_openssl_free(encoded) }
        let prefixBytes = method.isElliptic ? 1 : 0
        guard let encoded, count == method.publicValueBytes + prefixBytes else { throw libraryError("key generation") }
        return Array(UnsafeBufferPointer(start: encoded + prefixBytes, count: method.publicValueBytes))
    }
}

extension KeyExchangeMethod {
    var isModP: Bool {
        switch self {
        case .modp2048, .modp3072, .modp4096: true
        case .ecp256, .ecp384, .ecp521, .x25519, .mlkem512, .mlkem768, .mlkem1024: false
        }
    }

    /// The curves of RFC 5903.
    var isElliptic: Bool {
        switch self {
        case .ecp256, .ecp384, .ecp521: true
        case .modp2048, .modp3072, .modp4096, .x25519, .mlkem512, .mlkem768, .mlkem1024: false
        }
    }

    /// RFC 7296 §2.14 (the modulus), RFC 5903 §7 (the X coordinate), RFC 8031 §2, FIPS 203 §3.3.
    var sharedSecretBytes: Int {
        isEncapsulation ? Encapsulation.sharedSecretBytes : isElliptic ? publicValueBytes / 2 : publicValueBytes
    }
}
