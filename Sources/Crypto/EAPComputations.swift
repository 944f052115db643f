internal import COpenSSL
public import IKE
public import IPsec

/// RFC 2759, RFC 3079, RFC 2865 and RFC 2548 on OpenSSL.
extension OpenSSLCrypto: EAPCrypto {
    private static let digestBytes = 16
    private static let sha1Bytes = 20
    private static let responseBytes = 24
    private static let challengeBytes = 8

    // MARK: RFC 2759

    public func mschapPasswordHash(_ password: Secret) throws(IKECryptoError) -> Secret {
        // RFC 2759 §8.3: "IN 0-to-256-unicode-char Password". At most two octets of UTF-16 come from one of UTF-8.
        let units = SecureBytes(count: password.count * 2 + 2) { _ in }
        var count = 0
        var isText = true
        password.withPointer { start, length in
            units.withPointer { target, _ in
                let octets = UnsafeRawBufferPointer(start: start, count: length)
                let output = UnsafeMutableRawPointer(mutating: target)
                isText = !transcode(octets.makeIterator(), from: UTF8.self, to: UTF16.self, stoppingOnError: true) { unit in
                    output.storeBytes(of: UInt8(truncatingIfNeeded: unit), toByteOffset: count, as: UInt8.self)
                    output.storeBytes(of: UInt8(truncatingIfNeeded: unit >> 8), toByteOffset: count + 1, as: UInt8.self)
                    count += 2
                }
            }
        }
        guard isText else { throw .library("the password is not text in UTF-8") }
        return try secretDigest(bytes: Self.digestBytes) { output throws(IKECryptoError) in
            try LegacyDigests.shared.md4(
                { context in units.withPointer { start, _ in EVP_DigestUpdate(context, start, count) == 1 } }, into: output)
        }
    }

    public func mschapResponse(
        passwordHash: Secret, authenticatorChallenge: [UInt8], peerChallenge: [UInt8], userName: [UInt8]
    ) throws(IKECryptoError) -> [UInt8] {
        let challenge = try challengeHash(authenticatorChallenge, peerChallenge, userName)
        // "ZPasswordHash = 21 octets, PasswordHash padded with zeros": three keys of 7 octets. RFC 2759 §8.5.
        let padded = joined([passwordHash], paddedTo: 21)
        var response = [UInt8](repeating: 0, count: Self.responseBytes)
        for part in 0..<3 {
            var block = [UInt8](repeating: 0, count: 8)
            var failure: IKECryptoError?
            padded.withPointer { key, _ in
                do throws(IKECryptoError) {
                    try LegacyDigests.shared.desBlock(
                        challenge, key: key.assumingMemoryBound(to: UInt8.self) + part * 7, into: &block)
                } catch { failure = error }
            }
            if let failure { throw failure }
            response.replaceSubrange(part * 8..<part * 8 + 8, with: block)
        }
        return response
    }

    public func mschapAuthenticatorResponse(
        passwordHash: Secret, response: [UInt8], authenticatorChallenge: [UInt8], peerChallenge: [UInt8], userName: [UInt8]
    ) throws(IKECryptoError) -> [UInt8] {
        let hashHash = try doubled(passwordHash)
        let first = try sha1([.secret(hashHash), .bytes(response), .bytes(Self.signingConstant)])
        let challenge = try challengeHash(authenticatorChallenge, peerChallenge, userName)
        return try sha1([.bytes(first), .bytes(challenge), .bytes(Self.iterationPad)])
    }

    /// RFC 2759 §8.2: the first 8 octets of SHA-1 over both challenges and the name.
    private func challengeHash(
        _ authenticatorChallenge: [UInt8], _ peerChallenge: [UInt8], _ userName: [UInt8]
    ) throws(IKECryptoError) -> [UInt8] {
        let digest = try sha1([.bytes(peerChallenge), .bytes(authenticatorChallenge), .bytes(userName)])
        return Array(digest.prefix(Self.challengeBytes))
    }

    /// HashNtPasswordHash. RFC 2759 §8.4.
    private func doubled(_ passwordHash: Secret) throws(IKECryptoError) -> Secret {
        try secretDigest(bytes: Self.digestBytes) { output throws(IKECryptoError) in
            try LegacyDigests.shared.md4({ update($0, passwordHash) }, into: output)
        }
    }

    /// RFC 2759 §8.7.
    private static let signingConstant = Array("Magic server to client signing constant".utf8)
    private static let iterationPad = Array("Pad to make it do more than one iteration".utf8)

    // MARK: RFC 3079

    public func mschapSessionKey(passwordHash: Secret, response: [UInt8]) throws(IKECryptoError) -> Secret {
        let hashHash = try doubled(passwordHash)
        let master = try secretSHA1([.secret(hashHash), .bytes(response), .bytes(Self.masterConstant)], keeping: 16)
        let receive = try startKey(master, Self.clientSends)
        let send = try startKey(master, Self.serverSends)
        return joined([receive, send], paddedTo: 64)
    }

    /// GetAsymmetricStartKey. RFC 3079 §3.3.
    private func startKey(_ master: Secret, _ magic: [UInt8]) throws(IKECryptoError) -> Secret {
        let zeros = [UInt8](repeating: 0, count: 40)
        let pad = [UInt8](repeating: 0xF2, count: 40)
        return try secretSHA1([.secret(master), .bytes(zeros), .bytes(magic), .bytes(pad)], keeping: 16)
    }

    /// RFC 3079 §3.4.
    private static let masterConstant = Array("This is the MPPE Master Key".utf8)
    private static let clientSends = Array(
        "On the client side, this is the send key; on the server side, it is the receive key.".utf8)
    private static let serverSends = Array(
        "On the client side, this is the receive key; on the server side, it is the send key.".utf8)

    // MARK: RADIUS

    public func md5(_ parts: [SeedPart]) throws(IKECryptoError) -> [UInt8] {
        try publicDigest(bytes: Self.digestBytes) { output throws(IKECryptoError) in
            try LegacyDigests.shared.md5({ context in parts.allSatisfy { Self.feed(context, $0) } }, into: output)
        }
    }

    public func hmacMD5(key: Secret, data: [UInt8]) throws(IKECryptoError) -> [UInt8] {
        // RFC 2104. Keys above the block's 64 octets are hashed first.
        let blockBytes = 64
        var short = key
        if key.count > blockBytes {
            short = try secretDigest(bytes: Self.digestBytes) { output throws(IKECryptoError) in
                try LegacyDigests.shared.md5({ update($0, key) }, into: output)
            }
        }
        let inner = padded(short, to: blockBytes, with: 0x36)
        let outer = padded(short, to: blockBytes, with: 0x5C)
        return try md5([.secret(outer), .bytes(try md5([.secret(inner), .bytes(data)]))])
    }

    public func openMPPEKey(_ salted: [UInt8], secret: Secret, authenticator: [UInt8]) throws(IKECryptoError) -> Secret {
        let blockBytes = 16
        guard salted.count >= 2 + blockBytes, (salted.count - 2) % blockBytes == 0, salted.count <= 2 + 15 * blockBytes else {
            throw .library("the length of an encrypted MS-MPPE key is \(salted.count) octets")
        }
        let cipher = Array(salted[2...])
        var previous = authenticator + salted[..<2]
        var failure: IKECryptoError?
        let clear = SecureBytes(count: cipher.count) { output in
            for start in stride(from: 0, to: cipher.count, by: blockBytes) {
                var mask: [UInt8]
                do throws(IKECryptoError) { mask = try md5([.secret(secret), .bytes(previous)]) } catch {
                    failure = error
                    return
                }
                for index in 0..<blockBytes { output[start + index] = cipher[start + index] ^ mask[index] }
                OPENSSL_cleanse(&mask, mask.count)
                previous = Array(cipher[start..<start + blockBytes])
            }
        }
        if let failure { throw failure }
        // "Key-Length, Key, Padding": the length does not count itself.
        let length = clear.withBytes { Int($0.unsafeLoad(as: UInt8.self)) }
        guard length > 0, length < clear.count else {
            throw .library("an MS-MPPE key does not decrypt: the RADIUS secrets differ")
        }
        return slice(clear, 1..<1 + length)
    }

    public func joined(_ parts: [Secret], paddedTo count: Int) -> Secret {
        let total = parts.reduce(0) { $0 + $1.count }
        return SecureBytes(count: max(total, count)) { output in
            var position = 0
            for part in parts {
                part.withPointer { start, length in
                    if length > 0 { output.baseAddress?.advanced(by: position).copyMemory(from: start, byteCount: length) }
                }
                position += part.count
            }
        }
    }

    // MARK: Digests

    private func padded(_ key: Secret, to count: Int, with octet: UInt8) -> Secret {
        SecureBytes(count: count) { output in
            key.withPointer { start, length in
                output.baseAddress?.copyMemory(from: start, byteCount: min(length, count))
            }
            for index in 0..<count { output[index] ^= octet }
        }
    }

    private static func feed(_ context: OpaquePointer, _ part: SeedPart) -> Bool {
        switch part {
        case .bytes(let bytes): update(context, bytes)
        case .secret(let secret): update(context, secret)
        }
    }

    private func sha1(_ parts: [SeedPart]) throws(IKECryptoError) -> [UInt8] {
        try publicDigest(bytes: Self.sha1Bytes) { output throws(IKECryptoError) in
            try LegacyDigests.shared.sha1({ context in parts.allSatisfy { Self.feed(context, $0) } }, into: output)
        }
    }

    private func secretSHA1(_ parts: [SeedPart], keeping count: Int) throws(IKECryptoError) -> Secret {
        let whole = try secretDigest(bytes: Self.sha1Bytes) { output throws(IKECryptoError) in
            try LegacyDigests.shared.sha1({ context in parts.allSatisfy { Self.feed(context, $0) } }, into: output)
        }
        return slice(whole, 0..<count)
    }

    private func publicDigest(
        bytes count: Int, _ body: (UnsafeMutableRawPointer) throws(IKECryptoError) -> Void
    ) throws(IKECryptoError) -> [UInt8] {
        let secret = try secretDigest(bytes: count, body)
        return secret.withBytes { span in (0..<span.byteCount).map { span.unsafeLoad(fromByteOffset: $0, as: UInt8.self) } }
    }

    private func secretDigest(
        bytes count: Int, _ body: (UnsafeMutableRawPointer) throws(IKECryptoError) -> Void
    ) throws(IKECryptoError) -> SecureBytes {
        var failure: IKECryptoError?
        let result = SecureBytes(count: count) { buffer in
            guard let base = buffer.baseAddress else { return }
            do throws(IKECryptoError) { try body(base) } catch { failure = error }
        }
        if let failure { throw failure }
        return result
    }
}
