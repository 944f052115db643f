import IPsec

/// What the IKE_INTERMEDIATE exchanges of one IKE SA add to the octets that AUTH covers. RFC 9242 §3.3.2.
///
/// ```
/// IntAuth    = IntAuth_iN | IntAuth_rN | IKE_AUTH_MID
/// IntAuth_iN = prf(SK_piN, IntAuth_iN-1 | IntAuth_iNA [| IntAuth_iNP])    and the same with r
/// ```
package struct IntermediateAuthentication: Sendable {
    /// IntAuth_iN and IntAuth_rN; empty before the first exchange.
    private var initiator: [UInt8] = []
    private var responder: [UInt8] = []
    /// Exchanges that are complete.
    private var exchanges: UInt32 = 0

    package init() {}

    /// IntAuth, for `KeySchedule.signedOctets`; empty when there was no IKE_INTERMEDIATE exchange. "The IKE_AUTH_MID chunk is a
    /// value of the Message ID field from the IKE Header of the first round of the IKE_AUTH exchange": one more than the last
    /// IKE_INTERMEDIATE exchange's, the first of which has 1.
    package var octets: [UInt8] { exchanges == 0 ? [] : initiator + responder + [UInt8](u32: exchanges &+ 1) }

    /// - Parameters:
    ///   - message: of `messageOctets`.
    ///   - key: SK_pi, "the most recently updated SK_p[i/r] keys available before the corresponded IKE_INTERMEDIATE exchange".
    mutating func addRequest(
        _ message: [UInt8], key: Secret, prf: PseudoRandomFunction, crypto: any IKECrypto
    ) throws(IKEFault) {
        initiator = try Self.chain(initiator, message, key, prf, crypto)
    }

    /// The exchange is complete with this.
    /// - Parameter key: SK_pr of before the exchange.
    mutating func addResponse(
        _ message: [UInt8], key: Secret, prf: PseudoRandomFunction, crypto: any IKECrypto
    ) throws(IKEFault) {
        responder = try Self.chain(responder, message, key, prf, crypto)
        exchanges &+= 1
    }

    private static func chain(
        _ previous: [UInt8], _ message: [UInt8], _ key: Secret, _ prf: PseudoRandomFunction, _ crypto: any IKECrypto
    ) throws(IKEFault) -> [UInt8] {
        do throws(IKECryptoError) { return try crypto.prf(prf, key: key, data: previous + message) } catch {
            throw .ours("computing IntAuth failed: \(error)")
        }
    }

    /// IntAuth_*A | IntAuth_*P of one message: from the first octet of the IKE header through the Encrypted payload's generic
    /// header, and the inner payloads in the clear; with both length fields "adjusted so that they don't count the lengths of
    /// Initialization Vector, Integrity Checksum Data, Padding, and Pad Length fields".
    ///
    /// A message that came in fragments counts as if it had come whole: `associatedData` is then the header of fragment 1 with
    /// Next Payload 46 (what stands in front of the Encrypted payload stays), the generic header of the Encrypted payload with
    /// the first inner payload's type, and "the RESERVED field … set to the value … from the first fragment"; what the two length
    /// fields hold does not matter, they are overwritten here.
    package static func messageOctets(associatedData: [UInt8], inner: [UInt8]) -> [UInt8] {
        guard associatedData.count >= IKEHeader.byteCount + 4 else { return associatedData + inner }
        var octets = associatedData + inner
        octets.store(u32: UInt32(clamping: octets.count), at: 24)
        octets.store(u16: UInt16(clamping: inner.count + 4), at: associatedData.count - 2)
        return octets
    }

    /// The same for a message as it was before it was sealed, or after it was opened and put together.
    static func messageOctets(_ content: ProtectedContent) -> [UInt8] {
        var associatedData = content.associatedData ?? (content.header.encoded + [content.firstPayload.rawValue, 0, 0, 0])
        // Of a first fragment, and of a message of ours before it had a length: the type of the payload that follows the header.
        let nextPayloadOffset = 16
        if content.associatedData == nil || associatedData[nextPayloadOffset] == PayloadType.encryptedFragment.rawValue {
            associatedData[nextPayloadOffset] = PayloadType.encrypted.rawValue
        }
        return messageOctets(associatedData: associatedData, inner: content.inner)
    }
}
