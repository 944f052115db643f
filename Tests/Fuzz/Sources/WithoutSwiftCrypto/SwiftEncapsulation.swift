internal import IKE
internal import IPsec

/// In place of Sources/Crypto/SwiftEncapsulation.swift: no harness reaches ML-KEM, and swift-crypto's BoringSSL would take longer
/// to build than everything else here together.
enum SwiftEncapsulation {
    private static let missing = IKECryptoError.library("the fuzzing harnesses are built without swift-crypto")

    static func publicValue(_ method: KeyExchangeMethod, seed: Secret) throws(IKECryptoError) -> [UInt8] { throw missing }

    static func encapsulate(
        _ method: KeyExchangeMethod, to peer: [UInt8]
    ) throws(IKECryptoError) -> (ciphertext: [UInt8], secret: Secret) { throw missing }

    static func decapsulate(
        _ method: KeyExchangeMethod, _ ciphertext: [UInt8], seed: Secret
    ) throws(IKECryptoError) -> Secret { throw missing }
}
