import COpenSSL
import Crypto
import Foundation
import IKE
import IPsec

let vectorFolder = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent().appending(path: "Vectors")

/// The file's content, decoded; a missing or unreadable file is a test failure where it is used.
func vectors<T: Decodable>(_ path: String, as type: T.Type) throws -> T {
    try JSONDecoder().decode(type, from: Data(contentsOf: vectorFolder.appending(path: path)))
}

func bytes(hex: String) -> [UInt8] {
    let digits = Array(hex.utf8)
    return stride(from: 0, to: digits.count - 1, by: 2).map { index in
        UInt8(String(decoding: digits[index...index + 1], as: UTF8.self), radix: 16) ?? 0
    }
}

extension SecretMemory {
    /// What a test compares; the code under test never does this.
    var exposed: [UInt8] { withBytes { span in span.withUnsafeBytes { Array($0) } } }
}

func secret(hex: String) -> Secret { SecureBytes(bytes(hex: hex)) }

/// One engine with both directions keyed, as a worker has it.
final class KeyedEngine {
    private let engine: EngineKind
    private let keyIs256: Bool
    private let manager: EngineManager
    private let sealing: AEADContext
    private let opening: AEADContext

    init(_ engine: EngineKind, key: [UInt8]) throws {
        (self.engine, keyIs256) = (engine, key.count == 32)
        manager = EngineManager(engine)
        sealing = try AEADContext(engine: engine, key: SecureBytes(key), keyBits: key.count * 8, direction: .seal)
        opening = try AEADContext(engine: engine, key: SecureBytes(key), keyBits: key.count * 8, direction: .open)
    }

    /// Ciphertext and tag; nil when the library failed.
    func seal(nonce: [UInt8], aad: [UInt8], _ text: [UInt8]) -> [UInt8]? {
        run(sealing.handle, nonce, aad, text + [UInt8](repeating: 0, count: 16), textBytes: text.count) {
            PacketEngine.seal(
                engine, keyIs256: keyIs256, handle: $0, manager: manager.handle, nonce: $1, aad: $2, aadBytes: aad.count,
                data: $3,
                length: text.count, tag: $3 + text.count)
        }
    }

    /// The plaintext; nil when the tag does not verify.
    func open(nonce: [UInt8], aad: [UInt8], _ sealed: [UInt8]) -> [UInt8]? {
        guard sealed.count >= 16 else { return nil }
        let textBytes = sealed.count - 16
        let opened = run(opening.handle, nonce, aad, sealed, textBytes: textBytes) {
            PacketEngine.open(
                engine, keyIs256: keyIs256, handle: $0, manager: manager.handle, nonce: $1, aad: $2, aadBytes: aad.count,
                data: $3,
                length: textBytes, tag: $3 + textBytes)
        }
        return opened.map { Array($0.prefix(textBytes)) }
    }

    private func run(
        _ handle: UnsafeMutableRawPointer, _ nonce: [UInt8], _ aad: [UInt8], _ data: [UInt8], textBytes: Int,
        _ body: (UnsafeMutableRawPointer, UnsafeMutableRawPointer, UnsafeMutableRawPointer, UnsafeMutableRawPointer) -> Bool
    ) -> [UInt8]? {
        var (nonce, aad, data) = (nonce, aad + [0], data)
        let done = nonce.withUnsafeMutableBytes { nonce in
            aad.withUnsafeMutableBytes { aad in
                data.withUnsafeMutableBytes { body(handle, nonce.baseAddress!, aad.baseAddress!, $0.baseAddress!) }
            }
        }
        return done ? data : nil
    }
}

/// A key exchange whose private value is known.
func keyExchange(_ method: KeyExchangeMethod, privateValue: [UInt8]) throws -> OpenSSLKeyExchange {
    let key: OpaquePointer?
    switch method {
    case .x25519: key = EVP_PKEY_new_raw_private_key_ex(nil, "X25519", nil, privateValue, privateValue.count)
    case .ecp256: key = ellipticKey("P-256", NID_X9_62_prime256v1, privateValue)
    case .ecp384: key = ellipticKey("P-384", NID_secp384r1, privateValue)
    case .ecp521: key = ellipticKey("P-521", NID_secp521r1, privateValue)
    case .modp2048: key = modpKey("modp_2048", privateValue)
    case .modp3072: key = modpKey("modp_3072", privateValue)
    case .modp4096: key = modpKey("modp_4096", privateValue)
    case .mlkem512, .mlkem768, .mlkem1024: key = nil
    }
    guard let key else { throw IKECryptoError.library("no key of \(method)") }
    return try OpenSSLKeyExchange(adopting: key, method)
}

private func ellipticKey(_ name: String, _ curve: Int32, _ privateValue: [UInt8]) -> OpaquePointer? {
    let scalar = BN_bin2bn(privateValue, Int32(privateValue.count), nil)
    let group = EC_GROUP_new_by_curve_name(curve)
    let point = EC_POINT_new(group)
    defer {
        BN_free(scalar)
        EC_POINT_free(point)
        EC_GROUP_free(group)
    }
    guard EC_POINT_mul(group, point, scalar, nil, nil, nil) == 1 else { return nil }
    var encoded = [UInt8](repeating: 0, count: 133)
    let count = EC_POINT_point2oct(group, point, POINT_CONVERSION_UNCOMPRESSED, &encoded, encoded.count, nil)
    return key("EC", group: name, publicValue: .octets(Array(encoded.prefix(count))), privateValue: scalar)
}

private func modpKey(_ name: String, _ privateValue: [UInt8]) -> OpaquePointer? {
    guard let template = key("DH", group: name, publicValue: .none, privateValue: nil) else { return nil }
    defer { EVP_PKEY_free(template) }
    var prime: OpaquePointer?
    guard EVP_PKEY_get_bn_param(template, OSSL_PKEY_PARAM_FFC_P, &prime) == 1 else { return nil }
    let (scalar, value, generator, context) = (
        BN_bin2bn(privateValue, Int32(privateValue.count), nil), BN_new(), BN_new(), BN_CTX_new()
    )
    defer {
        for number in [scalar, value, generator, prime] { BN_free(number) }
        BN_CTX_free(context)
    }
    guard BN_set_word(generator, 2) == 1, BN_mod_exp(value, generator, scalar, prime, context) == 1 else { return nil }
    return key("DH", group: name, publicValue: .number(value), privateValue: scalar)
}

/// The modulus that libcrypto uses for a group.
func modulus(ofGroup name: String) -> [UInt8] {
    guard let template = key("DH", group: name, publicValue: .none, privateValue: nil) else { return [] }
    defer { EVP_PKEY_free(template) }
    var prime: OpaquePointer?
    guard EVP_PKEY_get_bn_param(template, OSSL_PKEY_PARAM_FFC_P, &prime) == 1 else { return [] }
    defer { BN_free(prime) }
    var octets = [UInt8](repeating: 0, count: Int(BN_num_bits(prime) + 7) / 8)
    BN_bn2bin(prime, &octets)
    return octets
}

private enum PublicValue {
    case none
    case octets([UInt8])
    case number(OpaquePointer?)
}

private func key(_ type: String, group: String, publicValue: PublicValue, privateValue: OpaquePointer?) -> OpaquePointer? {
    let context = EVP_PKEY_CTX_new_from_name(nil, type, nil)
    let builder = OSSL_PARAM_BLD_new()
    defer {
        EVP_PKEY_CTX_free(context)
        OSSL_PARAM_BLD_free(builder)
    }
    // The builder keeps pointers to names, text and octets: they must outlive it.
    func name(_ text: StaticString) -> UnsafePointer<CChar> {
        UnsafeRawPointer(text.utf8Start).assumingMemoryBound(to: CChar.self)
    }
    let (groupName, publicName, privateName) = (name("group"), name("pub"), name("priv"))
    var selection = EVP_PKEY_KEY_PARAMETERS
    if let privateValue {
        selection |= OSSL_KEYMGMT_SELECT_PRIVATE_KEY | OSSL_KEYMGMT_SELECT_PUBLIC_KEY
        OSSL_PARAM_BLD_push_BN(builder, privateName, privateValue)
    }
    var octets: [UInt8] = []
    switch publicValue {
    case .none: break
    case .octets(let encoded): octets = encoded
    case .number(let number): OSSL_PARAM_BLD_push_BN(builder, publicName, number)
    }
    let parameters = group.withCString { group in
        octets.withUnsafeBytes { octets in
            OSSL_PARAM_BLD_push_utf8_string(builder, groupName, group, 0)
            if !octets.isEmpty { OSSL_PARAM_BLD_push_octet_string(builder, publicName, octets.baseAddress, octets.count) }
            return OSSL_PARAM_BLD_to_param(builder)
        }
    }
    defer { OSSL_PARAM_free(parameters) }
    var made: OpaquePointer?
    guard EVP_PKEY_fromdata_init(context) == 1, EVP_PKEY_fromdata(context, &made, selection, parameters) == 1 else {
        return nil
    }
    return made
}
