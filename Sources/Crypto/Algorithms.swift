internal import COpenSSL
internal import IKE

/// The hash under a PRF or an integrity algorithm.
enum HashFunction: Int, CaseIterable {
    case sha256, sha384, sha512

    init(_ prf: PseudoRandomFunction) {
        switch prf {
        case .hmacSHA256: self = .sha256
        case .hmacSHA384: self = .sha384
        case .hmacSHA512: self = .sha512
        }
    }

    init(_ integrity: IntegrityAlgorithm) {
        switch integrity {
        case .hmacSHA256_128: self = .sha256
        case .hmacSHA384_192: self = .sha384
        case .hmacSHA512_256: self = .sha512
        }
    }

    var name: String {
        switch self {
        case .sha256: "SHA2-256"
        case .sha384: "SHA2-384"
        case .sha512: "SHA2-512"
        }
    }

    var outputBytes: Int { [32, 48, 64][rawValue] }
}

/// Everything fetched from libcrypto's providers, once per process: a fetch costs more than most operations.
///
/// The objects are immutable (templates are only duplicated or read), so that all threads share them; they live as long as the
/// process. An algorithm that the provider lacks is nil here and an error where it is used.
struct Algorithms: @unchecked Sendable {
    static let shared = Algorithms()

    private let gcm: [Int: OpaquePointer]
    private let cbc: [Int: OpaquePointer]
    private let keyedHash: [HashFunction: OpaquePointer]
    private let groups: [KeyExchangeMethod: OpaquePointer]
    let sha1: OpaquePointer?
    /// What libcrypto has of ML-KEM: all of it from OpenSSL 3.5 on, nothing before.
    let encapsulations: Set<KeyExchangeMethod>

    private init() {
        // The heap comes first: private values that libcrypto makes from here on go there.
        _ = SecureHeap.size
        var gcm: [Int: OpaquePointer] = [:]
        var cbc: [Int: OpaquePointer] = [:]
        for bits in [128, 192, 256] {
            gcm[bits] = EVP_CIPHER_fetch(nil, "AES-\(bits)-GCM", nil)
            cbc[bits] = EVP_CIPHER_fetch(nil, "AES-\(bits)-CBC", nil)
        }
        var keyedHash: [HashFunction: OpaquePointer] = [:]
        for hash in HashFunction.allCases { keyedHash[hash] = Self.hmacTemplate(hash) }
        var groups: [KeyExchangeMethod: OpaquePointer] = [:]
        for method in KeyExchangeMethod.allCases {
            guard let (type, name) = Self.groupName(method) else { continue }
            groups[method] = Self.groupTemplate(type: type, name: name)
        }
        (self.gcm, self.cbc, self.keyedHash, self.groups) = (gcm, cbc, keyedHash, groups)
        sha1 = EVP_MD_fetch(nil, "SHA1", nil)
        encapsulations = Set(KeyExchangeMethod.allCases.filter { method in
            guard let kem = method.encapsulationName.flatMap({ EVP_KEM_fetch(nil, $0, nil) }) else { return false }
            EVP_KEM_free(kem)
            return true
        })
        ERR_clear_error()
    }

    func gcm(keyBits: Int) throws(IKECryptoError) -> OpaquePointer { try found(gcm[keyBits], "AES-\(keyBits)-GCM") }
    func cbc(keyBits: Int) throws(IKECryptoError) -> OpaquePointer { try found(cbc[keyBits], "AES-\(keyBits)-CBC") }

    /// A keyed EVP_MAC_CTX to duplicate; its key is not secret and is replaced by EVP_MAC_init.
    func hmac(_ hash: HashFunction) throws(IKECryptoError) -> OpaquePointer { try found(keyedHash[hash], "HMAC \(hash.name)") }

    /// An EVP_PKEY that holds the group's parameters only. x25519 has none.
    func group(_ method: KeyExchangeMethod) throws(IKECryptoError) -> OpaquePointer { try found(groups[method], "\(method)") }

    private func found(_ object: OpaquePointer?, _ name: String) throws(IKECryptoError) -> OpaquePointer {
        guard let object else { throw .library("libcrypto does not provide \(name)") }
        return object
    }

    private static func hmacTemplate(_ hash: HashFunction) -> OpaquePointer? {
        guard let mac = EVP_MAC_fetch(nil, "HMAC", nil) else { return nil }
        defer { EVP_MAC_free(mac) }
        let zeros = [UInt8](repeating: 0, count: hash.outputBytes)
        return culvert_hmac_context(mac, hash.name, zeros, zeros.count)
    }

    /// libcrypto's names of the RFC 3526 and RFC 5903 groups.
    private static func groupName(_ method: KeyExchangeMethod) -> (type: String, name: String)? {
        switch method {
        case .modp2048: ("DH", "modp_2048")
        case .modp3072: ("DH", "modp_3072")
        case .modp4096: ("DH", "modp_4096")
        case .ecp256: ("EC", "P-256")
        case .ecp384: ("EC", "P-384")
        case .ecp521: ("EC", "P-521")
        case .x25519, .mlkem512, .mlkem768, .mlkem1024: nil
        }
    }

    private static func groupTemplate(type: String, name: String) -> OpaquePointer? {
        guard let context = EVP_PKEY_CTX_new_from_name(nil, type, nil) else { return nil }
        defer { EVP_PKEY_CTX_free(context) }
        var parameters: OpaquePointer?
        guard EVP_PKEY_paramgen_init(context) == 1, EVP_PKEY_CTX_set_group_name(context, name) == 1,
            EVP_PKEY_paramgen(context, &parameters) == 1
        else { return nil }
        return parameters
    }
}

/// The library's own account of what failed; it names no data. The thread's error queue is empty afterwards.
func libraryError(_ what: String) -> IKECryptoError {
    let code = ERR_peek_last_error()
    ERR_clear_error()
    guard code != 0, let reason = ERR_reason_error_string(code) else { return .library("\(what) failed in libcrypto") }
    return .library("\(what) failed in libcrypto: \(String(cString: reason))")
}
