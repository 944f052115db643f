public import IPsec

/// What EAP methods and RADIUS compute with, injected as `IKECrypto` is. The algorithms are old and broken ones (MD4, DES, MD5,
/// SHA-1): the protocols are defined by them, and nothing else here may use them.
public protocol EAPCrypto: Sendable {
    /// False also when the lengths differ. The time tells nothing about the contents.
    func constantTimeEqual(_ a: [UInt8], _ b: [UInt8]) -> Bool
    /// NtPasswordHash of a password in UTF-8: MD4 of its UTF-16LE form, 16 octets. RFC 2759 §8.3.
    func mschapPasswordHash(_ password: Secret) throws(IKECryptoError) -> Secret
    /// GenerateNTResponse, 24 octets. RFC 2759 §8.1.
    /// - Parameter userName: without a domain in front.
    func mschapResponse(
        passwordHash: Secret, authenticatorChallenge: [UInt8], peerChallenge: [UInt8], userName: [UInt8]
    ) throws(IKECryptoError) -> [UInt8]
    /// GenerateAuthenticatorResponse, the 20 octets behind `S=`. RFC 2759 §8.7.
    func mschapAuthenticatorResponse(
        passwordHash: Secret, response: [UInt8], authenticatorChallenge: [UInt8], peerChallenge: [UInt8], userName: [UInt8]
    ) throws(IKECryptoError) -> [UInt8]
    /// The 64 octets of the MSK: the server's receive key, its send key (RFC 3079 §3.3, 16 octets each), zeros.
    func mschapSessionKey(passwordHash: Secret, response: [UInt8]) throws(IKECryptoError) -> Secret

    /// MD5 over parts, 16 octets. RFC 2865 §3 and RFC 2548 only.
    func md5(_ parts: [SeedPart]) throws(IKECryptoError) -> [UInt8]
    /// HMAC-MD5, 16 octets: RADIUS Message-Authenticator. RFC 3579 §3.2.
    func hmacMD5(key: Secret, data: [UInt8]) throws(IKECryptoError) -> [UInt8]
    /// Undoes the encryption of MS-MPPE-Send-Key and MS-MPPE-Recv-Key. RFC 2548 §2.4.2.
    /// - Parameters:
    ///   - salted: two octets of salt, then the ciphertext.
    ///   - authenticator: of the Access-Request, 16 octets.
    func openMPPEKey(_ salted: [UInt8], secret: Secret, authenticator: [UInt8]) throws(IKECryptoError) -> Secret
    /// The concatenation, itself a secret.
    func joined(_ parts: [Secret], paddedTo count: Int) -> Secret
}
