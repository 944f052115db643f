// Which authentication method and signature scheme to use with a key. RFC 7296 §2.15, RFC 4754, RFC 7427 §5, RFC 8247 §3.
package struct SignatureChoice: Hashable, Sendable {
    package var method: UInt8
    package var scheme: SignatureScheme

    /// How we sign: by method 14 when the peer announced hashes, with the hash that suits the key best; else by the older
    /// methods.
    /// - Parameter allowsSHA1: peers without RFC 7427 know RSA with SHA-1 only.
    package static func make(
        _ kind: PublicKeyKind, peerHashes: Set<SignatureHash>?, padding: RSAPadding, allowsSHA1: Bool
    ) throws(IKEFault) -> SignatureChoice {
        guard let peerHashes else { return try older(kind, allowsSHA1: allowsSHA1) }
        let method = AuthenticationMethod.digitalSignature
        func hash(_ preferred: [SignatureHash]) throws(IKEFault) -> SignatureHash {
            let usable = preferred + (allowsSHA1 ? [.sha1] : [])
            guard let hash = usable.first(where: { peerHashes.contains($0) }) else {
                let names = peerHashes.sorted { $0.rawValue < $1.rawValue }.map(\.name).joined(separator: ", ")
                throw .ours("the peer takes signatures over \(names.isEmpty ? "no hash that is known here" : names) only")
            }
            return hash
        }
        switch kind {
        case .rsa:
            let chosen = try hash([.sha256, .sha384, .sha512])
            return Self(method: method, scheme: padding == .pss ? .rsaPSS(chosen) : .rsaPKCS1(chosen))
        // RFC 4754 pairs curves and hashes; another one only where the peer lacks the right one.
        case .ecdsaP256: return Self(method: method, scheme: .ecdsa(try hash([.sha256, .sha384, .sha512])))
        case .ecdsaP384: return Self(method: method, scheme: .ecdsa(try hash([.sha384, .sha512, .sha256])))
        case .ecdsaP521: return Self(method: method, scheme: .ecdsa(try hash([.sha512, .sha384, .sha256])))
        case .ed25519, .ed448:
            // The "Identity" hash announces EdDSA. RFC 8420 §2.
            guard peerHashes.contains(.identity) else {
                throw .ours("the peer does not announce EdDSA signatures (RFC 8420); use an ECDSA or RSA key")
            }
            return Self(method: method, scheme: kind == .ed25519 ? .ed25519 : .ed448)
        }
    }

    private static func older(_ kind: PublicKeyKind, allowsSHA1: Bool) throws(IKEFault) -> SignatureChoice {
        switch kind {
        case .rsa: return Self(method: AuthenticationMethod.rsa, scheme: .rsaPKCS1(allowsSHA1 ? .sha1 : .sha256))
        case .ecdsaP256: return Self(method: AuthenticationMethod.ecdsaP256, scheme: .ecdsa(.sha256))
        case .ecdsaP384: return Self(method: AuthenticationMethod.ecdsaP384, scheme: .ecdsa(.sha384))
        case .ecdsaP521: return Self(method: AuthenticationMethod.ecdsaP521, scheme: .ecdsa(.sha512))
        case .ed25519, .ed448:
            throw .ours("the peer does not speak RFC 7427, which EdDSA signatures need; use an ECDSA or RSA key")
        }
    }

    /// The data of our AUTH payload.
    package func sign(_ octets: [UInt8], _ key: any SigningKey) throws(IKEFault) -> [UInt8] {
        let signature: [UInt8]
        do throws(IKECryptoError) { signature = try key.sign(octets, scheme) } catch {
            throw .ours("signing failed: \(error)")
        }
        if method == AuthenticationMethod.digitalSignature { return DigitalSignature.encode(scheme, signature) }
        guard let width = Self.width(method) else { return signature }
        guard let pair = ECDSASignature.concatenated(signature, width: width) else { throw .ours("signing failed: no signature") }
        return pair
    }

    /// Octets of r and of s. RFC 4754 §7.
    private static func width(_ method: UInt8) -> Int? {
        switch method {
        case AuthenticationMethod.ecdsaP256: 32
        case AuthenticationMethod.ecdsaP384: 48
        case AuthenticationMethod.ecdsaP521: 66
        default: nil
        }
    }

    /// What the peer's AUTH data may be: schemes to try, and the signature in the form that verifies.
    static func read(_ method: UInt8, _ data: [UInt8]) throws(SignatureRefusal) -> (
        schemes: [SignatureScheme], signature: [UInt8]
    ) {
        switch method {
        case AuthenticationMethod.digitalSignature:
            guard let (identifier, signature) = DigitalSignature.parse(data) else { throw .malformed }
            guard let scheme = SignatureScheme(algorithmIdentifier: identifier) else { throw .unknownScheme }
            return ([scheme], signature)
        // The hash stands inside the signature. Older peers "SHOULD use SHA-1 as the default hash function when generating
        // signatures" (RFC 7296 §3.8), but may use another.
        case AuthenticationMethod.rsa: return ([.sha256, .sha384, .sha512, .sha1].map { .rsaPKCS1($0) }, data)
        default:
            guard let width = width(method), let der = ECDSASignature.der(data, width: width) else { throw .malformed }
            return ([.ecdsa(width == 32 ? .sha256 : width == 48 ? .sha384 : .sha512)], der)
        }
    }

    /// The scheme of the peer's signature, once it verifies.
    package static func verify(
        _ method: UInt8, _ data: [UInt8], of octets: [UInt8], with key: any VerifyingKey, allowsSHA1: Bool
    ) throws(SignatureRefusal) -> SignatureScheme {
        let (schemes, signature) = try read(method, data)
        guard let scheme = schemes.first(where: { fits($0, key.kind, method) && key.verify(signature, of: octets, $0) }) else {
            throw .invalid
        }
        guard allowsSHA1 || !scheme.isSHA1 else { throw .weak(scheme) }
        return scheme
    }

    /// The older ECDSA methods are each tied to one curve.
    private static func fits(_ scheme: SignatureScheme, _ kind: PublicKeyKind, _ method: UInt8) -> Bool {
        switch method {
        case AuthenticationMethod.ecdsaP256: kind == .ecdsaP256
        case AuthenticationMethod.ecdsaP384: kind == .ecdsaP384
        case AuthenticationMethod.ecdsaP521: kind == .ecdsaP521
        default: true
        }
    }
}

/// Why a signature is not accepted.
package enum SignatureRefusal: Error, Hashable {
    case malformed, unknownScheme, invalid
    case weak(SignatureScheme)

    /// Goes after "its signature".
    var sentence: String {
        switch self {
        case .malformed: "is malformed"
        case .unknownScheme:
            "is of an algorithm that is not supported (RSA PKCS #1 and PSS with SHA-2, ECDSA with SHA-2, Ed25519, Ed448 are)"
        case .invalid: "does not verify: the peer holds another private key than the one of its certificate or public key"
        case .weak(let scheme):
            "is \(scheme.sentence), which is weak: let the peer use SHA-2 (RFC 7427), or set allow_weak: [sha1] here"
        }
    }
}
