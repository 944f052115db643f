internal import COpenSSL
public import IKE
public import IPsec

/// A private key of ours. libcrypto keeps its private half in the secure heap and wipes it on release.
public final class OpenSSLSigningKey: SigningKey, @unchecked Sendable {
    public let kind: PublicKeyKind
    public let subjectPublicKeyInfo: [UInt8]
    /// EVP_PKEY, not changed after `init`.
    let key: OpaquePointer

    /// Takes over `key`, an EVP_PKEY with both halves.
    init(adopting key: OpaquePointer) throws(CredentialError) {
        do throws(CredentialError) {
            kind = try PublicKeyKind(of: key)
            subjectPublicKeyInfo = try encodedPublicKey(key)
        } catch {
            EVP_PKEY_free(key)
            throw error
        }
        self.key = key
    }

    deinit { EVP_PKEY_free(key) }

    /// The first private key of a PEM text: PKCS #8 (RFC 5958) or the older forms `RSA PRIVATE KEY` and `EC PRIVATE KEY`. A key
    /// that needs a password is refused: nobody is there to type it when the gateway starts.
    public convenience init(pem: Secret) throws(CredentialError) {
        let decoded = pem.withPointer { Self.decode($0, $1) }
        guard let key = try decoded.get() else { throw CredentialError("holds no private key that can be read") }
        try self.init(adopting: key)
    }

    public convenience init(file path: String) throws(CredentialError) {
        try self.init(pem: try CredentialFile.secret(path: path))
    }

    /// A new key. RSA takes up to seconds.
    public convenience init(generating kind: PublicKeyKind) throws(CredentialError) {
        let key: OpaquePointer? =
            switch kind {
            case .rsa(let bits): Self.generate("RSA") { EVP_PKEY_CTX_set_rsa_keygen_bits($0, Int32(clamping: bits)) }
            case .ecdsaP256: Self.generate("EC") { EVP_PKEY_CTX_set_group_name($0, "P-256") }
            case .ecdsaP384: Self.generate("EC") { EVP_PKEY_CTX_set_group_name($0, "P-384") }
            case .ecdsaP521: Self.generate("EC") { EVP_PKEY_CTX_set_group_name($0, "P-521") }
            case .ed25519: Self.generate("ED25519") { _ in 1 }
            case .ed448: Self.generate("ED448") { _ in 1 }
            }
        guard let key else { throw CredentialError(libraryClause("cannot be made")) }
        try self.init(adopting: key)
    }

    public func sign(_ octets: [UInt8], _ scheme: SignatureScheme) throws(IKECryptoError) -> [UInt8] {
        guard scheme.fits(kind) else { throw .library("a key of \(kind) cannot sign with \(scheme)") }
        guard let context = EVP_MD_CTX_new() else { throw libraryError("signing") }
        defer { EVP_MD_CTX_free(context) }
        var parameters: OpaquePointer?
        guard EVP_DigestSignInit_ex(context, &parameters, scheme.digestName, nil, nil, key, nil) == 1,
            scheme.setPadding(parameters)
        else { throw libraryError("signing") }
        var count = 0
        guard EVP_DigestSign(context, nil, &count, octets, octets.count) == 1 else { throw libraryError("signing") }
        var signature = [UInt8](repeating: 0, count: count)
        guard EVP_DigestSign(context, &signature, &count, octets, octets.count) == 1 else { throw libraryError("signing") }
        return Array(signature.prefix(count))
    }

    /// The key as a PEM text (PKCS #8, not encrypted), in secret memory.
    public func privatePEM() throws(CredentialError) -> SecureBytes {
        guard let bio = BIO_new(BIO_s_secmem()) else { throw CredentialError(libraryClause("cannot be written")) }
        defer { BIO_free(bio) }
        guard PEM_write_bio_PKCS8PrivateKey(bio, key, nil, nil, 0, nil, nil) == 1 else {
            throw CredentialError(libraryClause("cannot be written"))
        }
        var start: UnsafeMutablePointer<CChar>?
        let count = culvert_bio_memory(bio, &start)
        guard let start, count > 0 else { throw CredentialError(libraryClause("cannot be written")) }
        return SecureBytes(count: count) { $0.copyMemory(from: UnsafeRawBufferPointer(start: start, count: count)) }
    }

    private static func generate(_ name: String, _ set: (OpaquePointer) -> Int32) -> OpaquePointer? {
        // libcrypto keeps private values in the secure heap once there is one.
        _ = SecureHeap.size
        guard let context = EVP_PKEY_CTX_new_from_name(nil, name, nil) else { return nil }
        defer { EVP_PKEY_CTX_free(context) }
        var key: OpaquePointer?
        guard EVP_PKEY_keygen_init(context) == 1, set(context) > 0, EVP_PKEY_generate(context, &key) == 1 else { return nil }
        return key
    }

    /// EVP_PKEY; nil when there is none.
    private static func decode(_ text: UnsafeRawPointer, _ count: Int) -> Result<OpaquePointer?, CredentialError> {
        guard let bio = BIO_new_mem_buf(text, Int32(clamping: count)) else { return .success(nil) }
        defer { BIO_free(bio) }
        var data: UnsafeMutablePointer<UInt8>?
        var length = 0
        var name: UnsafeMutablePointer<CChar>?
        // Without a function that declines, libcrypto would ask for a password on the terminal.
        let found = PEM_bytes_read_bio_secmem(&data, &length, &name, "ANY PRIVATE KEY", bio, { _, _, _, _ in -1 }, nil)
        defer {
            ERR_clear_error()
            // The name lies in the secure heap too.
            if let name { culvert_secure_clear_free(name, 1) }
            if let data { culvert_secure_clear_free(data, length) }
        }
        let encrypted = CredentialError(
            "holds an encrypted private key, and nobody is there to type the password; decrypt it with `openssl pkey -in FILE "
                + "-out NEW` and keep the new file readable by its owner alone (`chmod 600`)")
        guard found == 1, let data, length > 0, let name else {
            let reason = ERR_peek_last_error()
            return culvert_is_password_error(reason) == 1 ? .failure(encrypted) : .success(nil)
        }
        guard String(cString: name) != "ENCRYPTED PRIVATE KEY" else { return .failure(encrypted) }
        var cursor: UnsafePointer<UInt8>? = UnsafePointer(data)
        return .success(d2i_AutoPrivateKey_ex(nil, &cursor, length, nil, nil))
    }
}

/// A public key of a peer.
public final class OpenSSLVerifyingKey: VerifyingKey, @unchecked Sendable {
    /// A SubjectPublicKeyInfo longer than this is refused unread: RSA with 8192 bits takes 1,062 octets.
    public static let maxSubjectPublicKeyInfoBytes = 4096

    public let kind: PublicKeyKind
    public let subjectPublicKeyInfo: [UInt8]
    /// EVP_PKEY, not changed after `init`.
    let key: OpaquePointer

    /// Shares `key`, an EVP_PKEY.
    init(sharing key: OpaquePointer) throws(CredentialError) {
        kind = try PublicKeyKind(of: key)
        subjectPublicKeyInfo = try encodedPublicKey(key)
        EVP_PKEY_up_ref(key)
        self.key = key
    }

    /// From a SubjectPublicKeyInfo in DER, with nothing behind it.
    public convenience init(subjectPublicKeyInfo der: [UInt8]) throws(CredentialError) {
        guard der.count <= Self.maxSubjectPublicKeyInfoBytes else { throw CredentialError("is too long for a public key") }
        let key = der.withUnsafeBufferPointer { buffer -> OpaquePointer? in
            var cursor = buffer.baseAddress
            guard let key = d2i_PUBKEY_ex(nil, &cursor, buffer.count, nil, nil) else { return nil }
            guard cursor == buffer.baseAddress.map({ $0 + buffer.count }) else { EVP_PKEY_free(key); return nil }
            return key
        }
        guard let key else { ERR_clear_error(); throw CredentialError("holds no public key that can be read") }
        defer { EVP_PKEY_free(key) }
        try self.init(sharing: key)
        // DER has one encoding per key: what is written otherwise would be another key to whoever compares octets.
        guard subjectPublicKeyInfo == der else { throw CredentialError("holds a public key that is not encoded as DER") }
    }

    /// The first `PUBLIC KEY` of a PEM text, or DER.
    public convenience init(file path: String) throws(CredentialError) {
        let contents = try CredentialFile.contents(path: path, maxBytes: CredentialFile.maxKeyBytes)
        let der = contents.first == 0x30 ? contents : PEM.blocks(contents, label: "PUBLIC KEY").first
        guard let der else { throw CredentialError("holds no `PUBLIC KEY`") }
        try self.init(subjectPublicKeyInfo: der)
    }

    deinit { EVP_PKEY_free(key) }

    public func verify(_ signature: [UInt8], of octets: [UInt8], _ scheme: SignatureScheme) -> Bool {
        guard scheme.fits(kind), let context = EVP_MD_CTX_new() else { return false }
        defer {
            EVP_MD_CTX_free(context)
            ERR_clear_error()
        }
        var parameters: OpaquePointer?
        guard EVP_DigestVerifyInit_ex(context, &parameters, scheme.digestName, nil, nil, key, nil) == 1,
            scheme.setPadding(parameters)
        else { return false }
        return EVP_DigestVerify(context, signature, signature.count, octets, octets.count) == 1
    }
}

extension PublicKeyKind {
    /// NIST SP 800-131A: RSA below 2048 bits gives less than 112 bits of security.
    public static let leastRSABits = 2048
    /// What a peer may make us compute with.
    public static let mostRSABits = 8192

    init(of key: OpaquePointer) throws(CredentialError) {
        switch EVP_PKEY_get_base_id(key) {
        case EVP_PKEY_RSA, culvert_pkey_rsa_pss:
            let bits = Int(EVP_PKEY_get_bits(key))
            guard bits >= Self.leastRSABits else {
                throw CredentialError(
                    "holds an RSA key of \(bits) bits, which is too weak; use at least \(Self.leastRSABits) bits or ECDSA")
            }
            guard bits <= Self.mostRSABits else {
                throw CredentialError("holds an RSA key of \(bits) bits; at most \(Self.mostRSABits) are accepted")
            }
            guard culvert_rsa_exponent_is_sound(key) == 1 else {
                throw CredentialError("holds an RSA key with an exponent that proves nothing")
            }
            self = .rsa(bits: bits)
        case culvert_pkey_ec:
            var name = [CChar](repeating: 0, count: 64)
            var count = 0
            guard culvert_ec_is_explicit(key) == 0, EVP_PKEY_get_group_name(key, &name, name.count, &count) == 1 else {
                ERR_clear_error()
                throw CredentialError("holds a key on a curve without a name")
            }
            let curve = String(decoding: name.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
            switch curve {
            case "prime256v1": self = .ecdsaP256
            case "secp384r1": self = .ecdsaP384
            case "secp521r1": self = .ecdsaP521
            default: throw CredentialError("holds a key on the curve \(curve); P-256, P-384 and P-521 are accepted")
            }
        case culvert_pkey_ed25519: self = .ed25519
        case culvert_pkey_ed448: self = .ed448
        default: throw CredentialError("holds a key that is neither RSA, ECDSA, Ed25519 nor Ed448")
        }
    }

    /// As people say it: `RSA 3072`, `ECDSA P-256`.
    public var text: String {
        switch self {
        case .rsa(let bits): "RSA \(bits)"
        case .ecdsaP256: "ECDSA P-256"
        case .ecdsaP384: "ECDSA P-384"
        case .ecdsaP521: "ECDSA P-521"
        case .ed25519: "Ed25519"
        case .ed448: "Ed448"
        }
    }
}

extension SignatureScheme {
    /// Whether a key of this kind can sign so.
    func fits(_ kind: PublicKeyKind) -> Bool {
        switch (self, kind) {
        case (.rsaPKCS1(let hash), .rsa), (.rsaPSS(let hash), .rsa): hash != .identity
        case (.ecdsa(let hash), .ecdsaP256), (.ecdsa(let hash), .ecdsaP384), (.ecdsa(let hash), .ecdsaP521): hash != .identity
        case (.ed25519, .ed25519), (.ed448, .ed448): true
        default: false
        }
    }

    /// libcrypto's name of the hash; nil where the scheme hashes by itself.
    fileprivate var digestName: String? {
        switch self {
        case .rsaPKCS1(let hash), .rsaPSS(let hash), .ecdsa(let hash):
            switch hash {
            case .sha1: "SHA1"
            case .sha256: "SHA256"
            case .sha384: "SHA384"
            case .sha512: "SHA512"
            case .identity: nil
            }
        case .ed25519, .ed448: nil
        }
    }

    /// RFC 7427 appendix A.4: the salt is as long as the hash, and MGF1 uses the same hash, which is libcrypto's default.
    fileprivate func setPadding(_ parameters: OpaquePointer?) -> Bool {
        switch self {
        case .rsaPKCS1: EVP_PKEY_CTX_set_rsa_padding(parameters, RSA_PKCS1_PADDING) > 0
        case .rsaPSS:
            EVP_PKEY_CTX_set_rsa_padding(parameters, RSA_PKCS1_PSS_PADDING) > 0
                && EVP_PKEY_CTX_set_rsa_pss_saltlen(parameters, RSA_PSS_SALTLEN_DIGEST) > 0
        case .ecdsa, .ed25519, .ed448: true
        }
    }
}

/// SubjectPublicKeyInfo in DER.
private func encodedPublicKey(_ key: OpaquePointer) throws(CredentialError) -> [UInt8] {
    guard let der = encoded({ i2d_PUBKEY(key, $0) }) else { throw CredentialError(libraryClause("holds no public key")) }
    return der
}

/// What an `i2d_…` function writes, which allocates when it is given the address of a null pointer.
func encoded(_ encode: (UnsafeMutablePointer<UnsafeMutablePointer<UInt8>?>) -> Int32) -> [UInt8]? {
    var start: UnsafeMutablePointer<UInt8>?
    let count = encode(&start)
    defer { culvert_openssl_free(start) }
    guard let start, count > 0 else { ERR_clear_error(); return nil }
    return Array(UnsafeBufferPointer(start: start, count: Int(count)))
}

/// `clause` with libcrypto's reason, when it has one.
func libraryClause(_ clause: String) -> String {
    let code = ERR_peek_last_error()
    ERR_clear_error()
    guard code != 0, let reason = ERR_reason_error_string(code) else { return clause }
    return "\(clause) (\(String(cString: reason)))"
}
