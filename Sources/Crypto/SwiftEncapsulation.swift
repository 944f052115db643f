internal import IKE
internal import IPsec
internal import SwiftCrypto

/// ML-KEM of swift-crypto, for as long as OpenSSL older than 3.5 is about.
///
/// It expands keys in ordinary memory: an expanded key lives for the length of one call here, and what is kept between calls is
/// the seed, in secret memory.
enum SwiftEncapsulation {
    static func publicValue(_ method: KeyExchangeMethod, seed: Secret) throws(IKECryptoError) -> [UInt8] {
        try run(
            method, seed, with768: { Array($0.publicKey.rawRepresentation) },
            with1024: { Array($0.publicKey.rawRepresentation) })
    }

    static func encapsulate(
        _ method: KeyExchangeMethod, to peer: [UInt8]
    ) throws(IKECryptoError) -> (ciphertext: [UInt8], secret: Secret) {
        let result: KEM.EncapsulationResult
        do {
            switch method {
            case .mlkem768: result = try MLKEM768.PublicKey(rawRepresentation: peer).encapsulate()
            case .mlkem1024: result = try MLKEM1024.PublicKey(rawRepresentation: peer).encapsulate()
            default: throw IKECryptoError.library("swift-crypto does not provide \(method.keyword)")
            }
        } catch let error as IKECryptoError { throw error } catch { throw .invalidPublicValue }
        return (Array(result.encapsulated), secret(result.sharedSecret))
    }

    static func decapsulate(
        _ method: KeyExchangeMethod, _ ciphertext: [UInt8], seed: Secret
    ) throws(IKECryptoError) -> Secret {
        try run(
            method, seed, with768: { secret(try $0.decapsulate(ciphertext)) },
            with1024: { secret(try $0.decapsulate(ciphertext)) })
    }

    private static func secret(_ key: SymmetricKey) -> Secret {
        key.withUnsafeBytes { bytes in SecureBytes(count: bytes.count) { $0.copyMemory(from: bytes) } }
    }

    private static func run<R>(
        _ method: KeyExchangeMethod, _ seed: Secret, with768: (MLKEM768.PrivateKey) throws -> R,
        with1024: (MLKEM1024.PrivateKey) throws -> R
    ) throws(IKECryptoError) -> R {
        do {
            return try seed.withBytes { span in
                try span.withUnsafeBytes { bytes in
                    switch method {
                    case .mlkem768: try with768(MLKEM768.PrivateKey(seedRepresentation: bytes, publicKey: nil))
                    case .mlkem1024: try with1024(MLKEM1024.PrivateKey(seedRepresentation: bytes, publicKey: nil))
                    default: throw IKECryptoError.library("swift-crypto does not provide \(method.keyword)")
                    }
                }
            }
        } catch let error as IKECryptoError { throw error } catch { throw .library("\(method.keyword) failed: \(error)") }
    }
}
