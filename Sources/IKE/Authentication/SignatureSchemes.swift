// How signatures are named and laid out in AUTH payloads. RFC 7296 §3.8, RFC 4754, RFC 7427, RFC 8420.

extension SignatureScheme {
    /// The AlgorithmIdentifier in DER. RFC 7427 appendix A, RFC 8410 §3.
    package var algorithmIdentifier: [UInt8] {
        let null = DER.encode(DER.null, [])
        switch self {
        case .rsaPKCS1(let hash): return Self.sequence(oid(Self.rsa + [hash.rsaArc ?? 0]), null)
        case .rsaPSS(let hash):
            let function = Self.sequence(oid(hash.objectIdentifier ?? []), null)
            let mask = Self.sequence(oid(Self.rsa + [8]), function)
            let salt = DER.encode(DER.integer, [UInt8(truncatingIfNeeded: hash.outputBytes ?? 0)])
            // The trailer field is its default and would be left out of DER; the RFC's example has it, and peers compare octets.
            let trailer = DER.encode(DER.integer, [1])
            let parameters =
                DER.encode(0xA0, function) + DER.encode(0xA1, mask) + DER.encode(0xA2, salt) + DER.encode(0xA3, trailer)
            return Self.sequence(oid(Self.rsa + [10]), DER.encode(DER.sequence, parameters))
        case .ecdsa(let hash): return Self.sequence(oid(Self.ecdsaIdentifier(hash) ?? []), [])
        case .ed25519: return Self.sequence(oid([0x2B, 0x65, 0x70]), [])
        case .ed448: return Self.sequence(oid([0x2B, 0x65, 0x71]), [])
        }
    }

    /// The scheme that an AlgorithmIdentifier names; nil when it is none of ours or its parameters are not what they must be.
    package init?(algorithmIdentifier der: ArraySlice<UInt8>) {
        var outer = DERReader(der)
        guard let content = outer.take(DER.sequence), outer.isAtEnd else { return nil }
        var reader = DERReader(content)
        guard let identifier = reader.take(DER.objectIdentifier).map(Array.init) else { return nil }
        if identifier == Self.rsa + [10] {
            guard let hash = Self.pssHash(&reader), reader.isAtEnd else { return nil }
            self = .rsaPSS(hash)
            return
        }
        for scheme in Self.plain where Self.isNamed(scheme, identifier) {
            // Parameters are NULL with PKCS #1 (some leave it out), and absent with the others.
            if case .rsaPKCS1 = scheme, !reader.isAtEnd { guard reader.take(DER.null)?.isEmpty == true else { return nil } }
            guard reader.isAtEnd else { return nil }
            self = scheme
            return
        }
        return nil
    }

    /// RSASSA-PSS-params with everything said outright: hash, MGF1 with the same hash, a salt as long as the hash, trailer 1. The
    /// defaults mean SHA-1. RFC 4055 §3.1, RFC 8247 §3.2.1.
    private static func pssHash(_ reader: inout DERReader) -> SignatureHash? {
        guard let parameters = reader.take(DER.sequence) else { return nil }
        var inner = DERReader(parameters)
        guard let hash = inner.take(0xA0).flatMap(hashFunction), let mask = inner.take(0xA1), let salt = inner.take(0xA2) else {
            return nil
        }
        var maskReader = DERReader(mask)
        guard let generator = maskReader.take(DER.sequence), maskReader.isAtEnd else { return nil }
        var generatorReader = DERReader(generator)
        guard generatorReader.take(DER.objectIdentifier).map(Array.init) == rsa + [8] else { return nil }
        var rest: ArraySlice<UInt8> = []
        if let function = generatorReader.takeAny(), generatorReader.isAtEnd { rest = function.whole }
        var saltReader = DERReader(salt)
        guard hashFunction(rest) == hash, let length = saltReader.take(DER.integer), saltReader.isAtEnd,
            length.elementsEqual([UInt8(truncatingIfNeeded: hash.outputBytes ?? 0)])
        else { return nil }
        if !inner.isAtEnd {
            guard let trailer = inner.take(0xA3), inner.isAtEnd, trailer.elementsEqual([0x02, 0x01, 0x01]) else { return nil }
        }
        return hash
    }

    private static func hashFunction(_ der: ArraySlice<UInt8>) -> SignatureHash? {
        var reader = DERReader(der)
        guard let content = reader.take(DER.sequence), reader.isAtEnd else { return nil }
        var inner = DERReader(content)
        guard let identifier = inner.take(DER.objectIdentifier).map(Array.init) else { return nil }
        if !inner.isAtEnd { guard inner.take(DER.null)?.isEmpty == true, inner.isAtEnd else { return nil } }
        return SignatureHash.allCases.first { $0.objectIdentifier == identifier }
    }

    private static let plain: [SignatureScheme] =
        [.sha1, .sha256, .sha384, .sha512].flatMap { [SignatureScheme.rsaPKCS1($0), .ecdsa($0)] } + [.ed25519, .ed448]

    private static func isNamed(_ scheme: SignatureScheme, _ identifier: [UInt8]) -> Bool {
        switch scheme {
        case .rsaPKCS1(let hash): hash.rsaArc.map { rsa + [$0] } == identifier
        case .ecdsa(let hash): ecdsaIdentifier(hash) == identifier
        case .ed25519: identifier == [0x2B, 0x65, 0x70]
        case .ed448: identifier == [0x2B, 0x65, 0x71]
        case .rsaPSS: false
        }
    }

    /// 1.2.840.113549.1.1
    private static let rsa: [UInt8] = [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01]

    /// ecdsa-with-SHA1, and ecdsa-with-SHA2. RFC 5758 §3.2.
    private static func ecdsaIdentifier(_ hash: SignatureHash) -> [UInt8]? {
        let base: [UInt8] = [0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04]
        return switch hash {
        case .sha1: base + [1]
        case .sha256: base + [3, 2]
        case .sha384: base + [3, 3]
        case .sha512: base + [3, 4]
        case .identity: nil
        }
    }

    private func oid(_ contents: [UInt8]) -> [UInt8] { DER.encode(DER.objectIdentifier, contents) }
    private static func sequence(_ parts: [UInt8]...) -> [UInt8] { DER.encode(DER.sequence, parts.flatMap(\.self)) }

    // MARK: For people

    var isSHA1: Bool {
        switch self {
        case .rsaPKCS1(.sha1), .rsaPSS(.sha1), .ecdsa(.sha1): true
        default: false
        }
    }

    package var sentence: String {
        switch self {
        case .rsaPKCS1(let hash): "RSA PKCS #1 with \(hash.name)"
        case .rsaPSS(let hash): "RSA-PSS with \(hash.name)"
        case .ecdsa(let hash): "ECDSA with \(hash.name)"
        case .ed25519: "Ed25519"
        case .ed448: "Ed448"
        }
    }
}

extension SignatureHash {
    var name: String {
        switch self {
        case .sha1: "SHA-1"
        case .sha256: "SHA-256"
        case .sha384: "SHA-384"
        case .sha512: "SHA-512"
        case .identity: "identity"
        }
    }
    fileprivate var outputBytes: Int? {
        switch self {
        case .sha1: 20
        case .sha256: 32
        case .sha384: 48
        case .sha512: 64
        case .identity: nil
        }
    }
    /// The last arc of sha…WithRSAEncryption.
    fileprivate var rsaArc: UInt8? {
        switch self {
        case .sha1: 5
        case .sha256: 11
        case .sha384: 12
        case .sha512: 13
        case .identity: nil
        }
    }
    fileprivate var objectIdentifier: [UInt8]? {
        switch self {
        case .sha1: [0x2B, 0x0E, 0x03, 0x02, 0x1A]
        case .sha256: [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01]
        case .sha384: [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02]
        case .sha512: [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03]
        case .identity: nil
        }
    }
}

/// Ecdsa-Sig-Value in DER, and r and s side by side. RFC 3279 §2.2.3, RFC 4754 §7.
package enum ECDSASignature {
    /// - Parameter width: octets of r, and of s.
    package static func concatenated(_ der: [UInt8], width: Int) -> [UInt8]? {
        var outer = DERReader(der[...])
        guard let pair = outer.take(DER.sequence), outer.isAtEnd else { return nil }
        var reader = DERReader(pair)
        var result: [UInt8] = []
        for _ in 0..<2 {
            guard let number = reader.take(DER.integer)?.drop(while: { $0 == 0 }), number.count <= width else { return nil }
            result += [UInt8](repeating: 0, count: width - number.count) + number
        }
        return reader.isAtEnd ? result : nil
    }

    package static func der(_ concatenated: [UInt8], width: Int) -> [UInt8]? {
        guard concatenated.count == 2 * width else { return nil }
        let numbers = [concatenated[..<width], concatenated[width...]].map { half -> [UInt8] in
            let digits = Array(half.drop { $0 == 0 })
            return DER.encode(DER.integer, (digits.first ?? 0x80) >= 0x80 ? [0] + digits : digits)
        }
        return DER.encode(DER.sequence, numbers[0] + numbers[1])
    }
}

/// The AUTH payload of method 14: "ASN.1 Length (1 octet), AlgorithmIdentifier, Signature Value". RFC 7427 §3.
package enum DigitalSignature {
    package static func encode(_ scheme: SignatureScheme, _ signature: [UInt8]) -> [UInt8] {
        let identifier = scheme.algorithmIdentifier
        return [UInt8(clamping: identifier.count)] + identifier + signature
    }

    /// Nil when the octets do not fit each other.
    package static func parse(_ data: [UInt8]) -> (algorithmIdentifier: ArraySlice<UInt8>, signature: [UInt8])? {
        guard let length = data.first.map(Int.init), data.count > 1 + length else { return nil }
        return (data[1..<1 + length], Array(data[(1 + length)...]))
    }
}
