import IPsec

/// The keys that protect one direction of an IKE SA. RFC 7296 §2.14.
package struct DirectionKeys: Sendable {
    package var encryption: Secret
    package var integrity: Secret
    package init(encryption: Secret, integrity: Secret) { (self.encryption, self.integrity) = (encryption, integrity) }
}

/// Sealing and opening of the Encrypted payload. RFC 7296 §3.14, RFC 5282 §3.
package struct MessageSealer {
    let crypto: any IKECrypto
    let cipher: IKECipher

    package init(crypto: any IKECrypto, cipher: IKECipher) { (self.crypto, self.cipher) = (crypto, cipher) }

    /// 1. encode the inner payloads; 2. pad to the block size, the last octet saying how much; 3. write the header and the
    /// Encrypted payload's generic header with their final lengths; 4. seal, with those as associated data.
    package func seal(_ header: IKEHeader, _ payloads: [Payload], keys: DirectionKeys, iv: [UInt8]) throws(IKEFault) -> [UInt8] {
        try seal(header, first: payloads.first?.type ?? .none, inner: PayloadChain.encode(payloads), keys: keys, iv: iv)
    }

    /// As above with inner payloads already encoded, which tests use to seal what no encoder writes.
    package func seal(
        _ header: IKEHeader, first: PayloadType, inner: [UInt8], keys: DirectionKeys, iv: [UInt8]
    ) throws(IKEFault) -> [UInt8] {
        let plaintext = padded(inner)
        let total = messageBytes(innerBytes: inner.count)
        let payloadBytes = total - IKEHeader.byteCount
        guard total <= Bounds.messageBytes else { throw .ours("a message to send is longer than \(Bounds.messageBytes) octets") }
        var header = header
        header.nextPayload = .encrypted
        header.length = UInt32(clamping: total)
        var associated = header.encoded
        associated += [first.rawValue, 0]
        associated.append(u16: UInt16(clamping: payloadBytes))
        return try seal(plaintext, after: associated, keys: keys, iv: iv)
    }

    /// One Encrypted Fragment payload: as above, with the fragment's numbers behind the generic header and in the associated
    /// data. "The cryptographic processing of the Encrypted Fragment payload is identical" (RFC 7383 §2.5).
    package func sealFragment(
        _ header: IKEHeader, first: PayloadType, chunk: [UInt8], _ fragment: FragmentNumber, keys: DirectionKeys, iv: [UInt8]
    ) throws(IKEFault) -> [UInt8] {
        let total = messageBytes(innerBytes: chunk.count) + FragmentNumber.byteCount
        guard total <= Bounds.messageBytes else { throw .ours("a fragment to send is longer than \(Bounds.messageBytes) octets") }
        // "When prepending the IKE header to the IKE Fragment messages, it MUST be taken intact from the original message, except
        // for the Length and Next Payload fields."
        var header = header
        header.nextPayload = .encryptedFragment
        header.length = UInt32(clamping: total)
        var associated = header.encoded
        associated += [first.rawValue, 0]
        associated.append(u16: UInt16(clamping: total - IKEHeader.byteCount))
        associated.append(u16: fragment.number)
        associated.append(u16: fragment.total)
        return try seal(padded(chunk), after: associated, keys: keys, iv: iv)
    }

    /// Octets of a message with one Encrypted payload of this content.
    package func messageBytes(innerBytes: Int) -> Int {
        let blocks = innerBytes / cipher.blockBytes + 1
        let plaintextBytes = cipher.blockBytes == 1 ? innerBytes + 1 : blocks * cipher.blockBytes
        return IKEHeader.byteCount + 4 + cipher.ivBytes + plaintextBytes + cipher.icvBytes
    }

    /// Octets of content in fragments that make messages no longer than this; one at least.
    package func chunkBytes(messageBytes: Int) -> Int {
        let room = messageBytes - IKEHeader.byteCount - 4 - FragmentNumber.byteCount - cipher.ivBytes - cipher.icvBytes
        return max(1, room / cipher.blockBytes * cipher.blockBytes - 1)
    }

    private func padded(_ inner: [UInt8]) -> [UInt8] {
        let padding = (cipher.blockBytes - (inner.count + 1) % cipher.blockBytes) % cipher.blockBytes
        return inner + [UInt8](repeating: 0, count: padding) + [UInt8(padding)]
    }

    private func seal(_ plaintext: [UInt8], after associated: [UInt8], keys: DirectionKeys, iv: [UInt8]) throws(IKEFault)
        -> [UInt8]
    {
        do throws(IKECryptoError) {
            return associated
                + (try crypto.seal(
                    cipher, encryptionKey: keys.encryption, integrityKey: keys.integrity, associatedData: associated,
                    plaintext: plaintext, iv: iv))
        } catch {
            throw .ours("sealing a message failed: \(error)")
        }
    }

    /// The octets inside, padding removed. `peerMisbehaved` when the ICV does not verify: such a message is dropped unanswered.
    package func open(_ encrypted: WireMessage.Encrypted, keys: DirectionKeys) throws(IKEFault) -> [UInt8] {
        let overhead = cipher.ivBytes + cipher.icvBytes
        guard encrypted.sealed.count > overhead, (encrypted.sealed.count - overhead) % cipher.blockBytes == 0 else {
            throw .peerMisbehaved("an Encrypted payload has an impossible length")
        }
        var plaintext: [UInt8]
        do throws(IKECryptoError) {
            plaintext = try crypto.open(
                cipher, encryptionKey: keys.encryption, integrityKey: keys.integrity, associatedData: encrypted.associatedData,
                sealed: encrypted.sealed)
        } catch {
            throw .peerMisbehaved("an Encrypted payload does not verify")
        }
        guard let padding = plaintext.last, Int(padding) < plaintext.count else { throw .malformed("SK: pad length") }
        plaintext.removeLast(Int(padding) + 1)
        return plaintext
    }
}
