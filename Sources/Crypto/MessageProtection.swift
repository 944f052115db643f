internal import COpenSSL
public import IKE
public import IPsec

// The Encrypted payload of IKE messages. RFC 7296 §3.14, RFC 5282 (AES-GCM), RFC 3602 with RFC 4868 (AES-CBC, then HMAC).

extension OpenSSLCrypto {
    static let gcmSaltBytes = 4
    static let gcmNonceBytes = 12
    /// Octets of the longest message either function takes: far above a UDP datagram, far below what libcrypto's `int` counts.
    static let mostMessageBytes = 1 << 20

    public func seal(
        _ cipher: IKECipher, encryptionKey: Secret, integrityKey: Secret, associatedData: [UInt8], plaintext: [UInt8],
        iv: [UInt8]
    ) throws(IKECryptoError) -> [UInt8] {
        try Self.check(cipher, encryptionKey, integrityKey)
        guard iv.count == cipher.ivBytes, plaintext.count % cipher.blockBytes == 0 else {
            throw .library("IV or plaintext does not fit \(cipher)")
        }
        guard associatedData.count + plaintext.count <= Self.mostMessageBytes else { throw .library("message too long") }
        switch cipher {
        case .aesGCM16(let keyBits):
            return try Self.sealGCM(keyBits, encryptionKey, associatedData, plaintext, iv)
        case .aesCBC(let keyBits, let integrity):
            var sealed = iv
            sealed += try Self.cbc(keyBits, encryptionKey, iv, plaintext[...], encrypt: true)
            sealed += try Self.icv(integrity, integrityKey, associatedData, sealed[...])
            return sealed
        }
    }

    public func open(
        _ cipher: IKECipher, encryptionKey: Secret, integrityKey: Secret, associatedData: [UInt8], sealed: [UInt8]
    ) throws(IKECryptoError) -> [UInt8] {
        try Self.check(cipher, encryptionKey, integrityKey)
        let textBytes = sealed.count - cipher.ivBytes - cipher.icvBytes
        guard textBytes >= 0, textBytes % cipher.blockBytes == 0, associatedData.count + sealed.count <= Self.mostMessageBytes
        else { throw .authenticationFailed }
        let iv = Array(sealed[..<cipher.ivBytes])
        let text = sealed[cipher.ivBytes..<cipher.ivBytes + textBytes]
        let received = sealed[(cipher.ivBytes + textBytes)...]
        switch cipher {
        case .aesGCM16(let keyBits):
            return try Self.openGCM(keyBits, encryptionKey, associatedData, text, iv, tag: Array(received))
        case .aesCBC(let keyBits, let integrity):
            let expected = try Self.icv(integrity, integrityKey, associatedData, sealed.dropLast(cipher.icvBytes))
            guard constantTimeEqual(expected, Array(received)) else { throw .authenticationFailed }
            return try Self.cbc(keyBits, encryptionKey, iv, text, encrypt: false)
        }
    }

    private static func check(_ cipher: IKECipher, _ encryptionKey: Secret, _ integrityKey: Secret) throws(IKECryptoError) {
        guard encryptionKey.count == cipher.encryptionKeyBytes, integrityKey.count >= cipher.integrityKeyBytes else {
            throw .library("keys do not fit \(cipher)")
        }
    }

    /// RFC 4868 §2.3: the output is truncated to its first half. Computed over associated data, IV and ciphertext.
    private static func icv(
        _ integrity: IntegrityAlgorithm, _ key: Secret, _ associatedData: [UInt8], _ sealed: ArraySlice<UInt8>
    ) throws(IKECryptoError) -> [UInt8] {
        let hash = try KeyedHash(HashFunction(integrity), key: key)
        try hash.update(associatedData[...])
        try hash.update(sealed)
        return Array(try hash.finish().prefix(integrity.icvBytes))
    }

    private static func cbc(
        _ keyBits: Int, _ key: Secret, _ iv: [UInt8], _ text: ArraySlice<UInt8>, encrypt: Bool
    ) throws(IKECryptoError) -> [UInt8] {
        let context = try CipherContext()
        let cipher = try Algorithms.shared.cbc(keyBits: keyBits)
        let keyed = key.withPointer { key, _ in
            EVP_CipherInit_ex2(context.pointer, cipher, key.assumingMemoryBound(to: UInt8.self), iv, encrypt ? 1 : 0, nil)
        }
        guard keyed == 1, EVP_CIPHER_CTX_set_padding(context.pointer, 0) == 1 else { throw libraryError("AES-CBC") }
        return try context.update(text)
    }

    /// RFC 5282 §4: the nonce is the salt, which is the end of SK_e, and the explicit IV.
    private static func gcmContext(_ keyBits: Int, _ key: Secret, _ iv: [UInt8], encrypt: Bool) throws(IKECryptoError)
        -> CipherContext
    {
        let context = try CipherContext()
        let cipher = try Algorithms.shared.gcm(keyBits: keyBits)
        let keyed = key.withPointer { key, keyBytes in
            withUnsafeTemporaryAllocation(of: UInt8.self, capacity: gcmNonceBytes) { nonce in
                let salt = UnsafeRawBufferPointer(start: key + keyBytes - gcmSaltBytes, count: gcmSaltBytes)
                _ = nonce.initialize(from: salt)
                _ = nonce[gcmSaltBytes...].initialize(from: iv)
                let key = key.assumingMemoryBound(to: UInt8.self)
                return EVP_CipherInit_ex2(context.pointer, cipher, key, nonce.baseAddress, encrypt ? 1 : 0, nil)
            }
        }
        guard keyed == 1 else { throw libraryError("AES-GCM") }
        return context
    }

    private static func sealGCM(
        _ keyBits: Int, _ key: Secret, _ associatedData: [UInt8], _ plaintext: [UInt8], _ iv: [UInt8]
    ) throws(IKECryptoError) -> [UInt8] {
        let context = try gcmContext(keyBits, key, iv, encrypt: true)
        try context.authenticate(associatedData)
        var sealed = iv
        sealed += try context.update(plaintext[...])
        guard context.finish() else { throw libraryError("AES-GCM") }
        var tag = [UInt8](repeating: 0, count: 16)
        guard EVP_CIPHER_CTX_ctrl(context.pointer, EVP_CTRL_AEAD_GET_TAG, 16, &tag) == 1 else { throw libraryError("AES-GCM") }
        return sealed + tag
    }

    private static func openGCM(
        _ keyBits: Int, _ key: Secret, _ associatedData: [UInt8], _ text: ArraySlice<UInt8>, _ iv: [UInt8], tag: [UInt8]
    ) throws(IKECryptoError) -> [UInt8] {
        let context = try gcmContext(keyBits, key, iv, encrypt: false)
        var tag = tag
        guard EVP_CIPHER_CTX_ctrl(context.pointer, EVP_CTRL_AEAD_SET_TAG, Int32(tag.count), &tag) == 1 else {
            throw libraryError("AES-GCM")
        }
        try context.authenticate(associatedData)
        let plaintext = try context.update(text)
        // The tag is compared in constant time there; what was decrypted so far is never handed out before it.
        guard context.finish() else {
            ERR_clear_error()
            throw .authenticationFailed
        }
        return plaintext
    }
}

/// An EVP_CIPHER_CTX for one message, wiped on release.
private struct CipherContext: ~Copyable {
    let pointer: OpaquePointer

    init() throws(IKECryptoError) {
        guard let pointer = EVP_CIPHER_CTX_new() else { throw libraryError("AES") }
        self.pointer = pointer
    }

    deinit { EVP_CIPHER_CTX_free(pointer) }

    func authenticate(_ associatedData: [UInt8]) throws(IKECryptoError) {
        var written: Int32 = 0
        guard
            associatedData.isEmpty
                || EVP_CipherUpdate(pointer, nil, &written, associatedData, Int32(clamping: associatedData.count)) == 1
        else { throw libraryError("AES-GCM") }
    }

    /// Whole blocks only (CBC) or any length (GCM): as much comes out as went in.
    func update(_ text: ArraySlice<UInt8>) throws(IKECryptoError) -> [UInt8] {
        guard !text.isEmpty else { return [] }
        var written: Int32 = 0
        var done: Int32 = 0
        let output = [UInt8](unsafeUninitializedCapacity: text.count) { output, count in
            text.withUnsafeBufferPointer { input in
                done = EVP_CipherUpdate(pointer, output.baseAddress, &written, input.baseAddress, Int32(clamping: input.count))
            }
            count = done == 1 ? Int(written) : 0
        }
        guard done == 1, output.count == text.count else { throw libraryError("AES") }
        return output
    }

    /// Ends an AEAD operation; false when the tag does not verify.
    func finish() -> Bool {
        var written: Int32 = 0
        return withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 16) {
            EVP_CipherFinal_ex(pointer, $0.baseAddress, &written) == 1
        }
    }
}
