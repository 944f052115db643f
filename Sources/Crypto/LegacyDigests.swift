internal import COpenSSL
internal import IKE
internal import IPsec

/// MD4, DES, MD5 and SHA-1, for EAP-MSCHAPv2 and RADIUS alone.
///
/// MD4 and DES come from OpenSSL's legacy provider rather than from code of ours: broken as they are, somebody else keeps them
/// free of mistakes. It is loaded into a library context of its own, so that the rest of the process never sees it. Where the
/// provider is not installed (Debian 13 packs it apart) EAP-MSCHAPv2 fails with a sentence that says so, and nothing else does.
struct LegacyDigests: @unchecked Sendable {
    static let shared = LegacyDigests()

    private let md4: OpaquePointer?
    private let des: OpaquePointer?
    private let md5: OpaquePointer?
    private let sha1: OpaquePointer?

    static let missing = IKECryptoError.library(
        "OpenSSL's legacy provider is not installed, and EAP-MSCHAPv2 needs it: install the package openssl-provider-legacy")

    private init() {
        if let library = OSSL_LIB_CTX_new(), OSSL_PROVIDER_load(library, "legacy") != nil {
            md4 = EVP_MD_fetch(library, "MD4", nil)
            des = EVP_CIPHER_fetch(library, "DES-ECB", nil)
        } else {
            (md4, des) = (nil, nil)
        }
        md5 = EVP_MD_fetch(nil, "MD5", nil)
        sha1 = EVP_MD_fetch(nil, "SHA1", nil)
        ERR_clear_error()
    }

    func md4(_ body: (OpaquePointer) -> Bool, into output: UnsafeMutableRawPointer) throws(IKECryptoError) {
        guard let md4 else { throw Self.missing }
        try digest(md4, body, into: output)
    }

    func md5(_ body: (OpaquePointer) -> Bool, into output: UnsafeMutableRawPointer) throws(IKECryptoError) {
        guard let md5 else { throw .library("OpenSSL offers no MD5, which RADIUS needs") }
        try digest(md5, body, into: output)
    }

    func sha1(_ body: (OpaquePointer) -> Bool, into output: UnsafeMutableRawPointer) throws(IKECryptoError) {
        guard let sha1 else { throw .library("OpenSSL offers no SHA-1, which EAP-MSCHAPv2 needs") }
        try digest(sha1, body, into: output)
    }

    private func digest(
        _ algorithm: OpaquePointer, _ body: (OpaquePointer) -> Bool, into output: UnsafeMutableRawPointer
    ) throws(IKECryptoError) {
        guard let context = EVP_MD_CTX_new() else { throw libraryError("a digest") }
        defer { EVP_MD_CTX_free(context) }
        guard EVP_DigestInit_ex(context, algorithm, nil) == 1, body(context),
            EVP_DigestFinal_ex(context, output.assumingMemoryBound(to: UInt8.self), nil) == 1
        else { throw libraryError("a digest") }
    }

    /// One block of DES with a key of 7 octets, to which parity bits are added. RFC 2759 §8.6.
    func desBlock(
        _ clear: UnsafePointer<UInt8>, key: UnsafePointer<UInt8>, into cipher: UnsafeMutablePointer<UInt8>
    ) throws(IKECryptoError) {
        guard let des else { throw Self.missing }
        guard let context = EVP_CIPHER_CTX_new() else { throw libraryError("DES") }
        defer { EVP_CIPHER_CTX_free(context) }
        var done = false
        withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 8) { expanded in
            for index in 0..<8 {
                // Seven bits each, from bit 7·index on; the lowest bit is parity, which DES ignores.
                let first = index == 0 ? 0 : key[index - 1] << UInt8(8 - index)
                let second = index == 7 ? 0 : key[index] >> UInt8(index)
                expanded[index] = (first | second) & 0xFE
            }
            var written: CInt = 0
            done =
                EVP_EncryptInit_ex2(context, des, expanded.baseAddress, nil, nil) == 1
                && EVP_CIPHER_CTX_set_padding(context, 0) == 1
                && EVP_EncryptUpdate(context, cipher, &written, clear, 8) == 1 && written == 8
            OPENSSL_cleanse(expanded.baseAddress, expanded.count)
        }
        guard done else { throw libraryError("DES") }
    }
}

/// Feeds octets to a digest.
func update(_ context: OpaquePointer, _ bytes: [UInt8]) -> Bool { EVP_DigestUpdate(context, bytes, bytes.count) == 1 }
func update(_ context: OpaquePointer, _ secret: Secret) -> Bool {
    secret.withPointer { EVP_DigestUpdate(context, $0, $1) == 1 }
}
