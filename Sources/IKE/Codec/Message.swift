/// A message as it stands on the wire: the clear payloads, and the Encrypted payload still sealed. RFC 7296 §3.1, §3.14.
package struct WireMessage: Sendable {
    package struct Encrypted: Sendable {
        /// Type of the first payload inside.
        package var firstPayload: PayloadType
        /// Set when it is an Encrypted Fragment payload.
        package var fragment: FragmentNumber?
        /// From the IKE header through the Encrypted payload's generic header, and the fragment's numbers: what the ICV covers
        /// besides the ciphertext.
        package var associatedData: [UInt8]
        /// IV, ciphertext and ICV.
        package var sealed: [UInt8]
    }

    package var header: IKEHeader
    package var payloads: PayloadList
    package var encrypted: Encrypted?

    /// - Parameter bytes: the message without the non-ESP marker.
    package init(parsing bytes: [UInt8]) throws(IKEFault) {
        guard bytes.count <= Bounds.messageBytes else { throw .malformed("message: too long") }
        header = try IKEHeader(parsing: bytes[...])
        let chain = try PayloadChain(first: header.nextPayload, bytes: bytes[IKEHeader.byteCount...])
        payloads = chain.payloads
        encrypted = chain.encrypted.map { part in
            Encrypted(
                firstPayload: part.first, fragment: part.fragment,
                associatedData: Array(bytes[..<part.body.startIndex]), sealed: Array(part.body))
        }
    }

    /// A message without an Encrypted payload.
    package static func encodeClear(_ header: IKEHeader, _ payloads: [Payload]) -> [UInt8] {
        let body = PayloadChain.encode(payloads)
        var header = header
        header.nextPayload = payloads.first?.type ?? .none
        header.length = UInt32(clamping: IKEHeader.byteCount + body.count)
        return header.encoded + body
    }
}

/// The decoded payloads of a message, in order.
package struct PayloadList: Sendable {
    package var all: [Payload]
    package init(_ all: [Payload] = []) { self.all = all }

    package var proposals: [WireProposal]? {
        for case .securityAssociation(let proposals) in all { return proposals }
        return nil
    }
    package var keyExchange: (method: UInt16, data: [UInt8])? {
        for case .keyExchange(let method, let data) in all { return (method, data) }
        return nil
    }
    package var nonce: [UInt8]? {
        for case .nonce(let nonce) in all { return nonce }
        return nil
    }
    package var identityInitiator: WireIdentity? {
        for case .identityInitiator(let identity) in all { return identity }
        return nil
    }
    package var identityResponder: WireIdentity? {
        for case .identityResponder(let identity) in all { return identity }
        return nil
    }
    package var authentication: (method: UInt8, data: [UInt8])? {
        for case .authentication(let method, let data) in all { return (method, data) }
        return nil
    }
    package var selectorsInitiator: WireSelectors? {
        for case .trafficSelectorsInitiator(let selectors) in all { return selectors }
        return nil
    }
    package var selectorsResponder: WireSelectors? {
        for case .trafficSelectorsResponder(let selectors) in all { return selectors }
        return nil
    }
    package var notifies: [Notify] { all.compactMap { if case .notify(let notify) = $0 { notify } else { nil } } }
    package var deletes: [Delete] { all.compactMap { if case .delete(let delete) = $0 { delete } else { nil } } }
    package func notify(_ type: NotifyType) -> Notify? { notifies.first { $0.type == type } }
    /// "types in the range 0 - 16383 are intended for reporting errors" (§3.10.1).
    package var firstError: Notify? { notifies.first { $0.type.isError } }
    /// The SA payload of an answer that agrees: with an error beside it "the corresponding request has failed entirely" (RFC 7296
    /// §3.10.1). strongSwan 6 sends both when it cannot install what it has agreed to.
    package var agreedProposals: [WireProposal]? { firstError == nil ? proposals : nil }
    package var extensibleAuthentication: [UInt8]? {
        for case .extensibleAuthentication(let packet) in all { return packet }
        return nil
    }
    /// Certificate data of one encoding, in the order of the message.
    package func certificates(_ encoding: UInt8) -> [[UInt8]] {
        all.compactMap { if case .certificate(let payload) = $0, payload.encoding == encoding { payload.data } else { nil } }
    }
    package var certificateRequests: [CertificatePayload] {
        all.compactMap { if case .certificateRequest(let payload) = $0 { payload } else { nil } }
    }
}

/// The chain of generic payload headers. RFC 7296 §3.2.
package struct PayloadChain {
    package var payloads = PayloadList()
    package var encrypted: (first: PayloadType, fragment: FragmentNumber?, body: ArraySlice<UInt8>)?

    /// Payloads that a message holds once at most.
    private static let single: Set<PayloadType> = [
        .securityAssociation, .keyExchange, .identityInitiator, .identityResponder, .authentication, .nonce,
        .trafficSelectorsInitiator, .trafficSelectorsResponder, .extensibleAuthentication,
    ]

    package init(first: PayloadType, bytes: ArraySlice<UInt8>) throws(IKEFault) {
        var reader = OctetReader(bytes)
        var next = first
        var count = 0
        var seen: Set<PayloadType> = []
        while next != .none {
            count += 1
            guard count <= Bounds.payloadsPerMessage else { throw .malformed("message: too many payloads") }
            let type = next
            next = PayloadType(rawValue: try reader.u8("payload: next payload"))
            let critical = try reader.u8("payload: critical bit") & 0x80 != 0
            let length = Int(try reader.u16("payload: length"))
            guard length >= 4 else { throw .malformed("payload: length") }
            let body = try reader.take(length - 4, "payload: length")
            if type == .encrypted {
                // "An Encrypted payload MUST be the last payload in a packet": its next payload is the first one inside.
                guard reader.isAtEnd else { throw .malformed("message: payloads after the Encrypted payload") }
                encrypted = (next, nil, body)
                return
            }
            if type == .encryptedFragment {
                // "As is the case for the Encrypted payload, the Encrypted Fragment payload … MUST be the last payload in the
                // message." RFC 7383 §2.5.
                guard reader.isAtEnd else { throw .malformed("message: payloads after the Encrypted Fragment payload") }
                var fragment = OctetReader(body)
                let number = FragmentNumber(
                    number: try fragment.u16("SKF: fragment number"), total: try fragment.u16("SKF: total fragments"))
                encrypted = (next, number, fragment.rest())
                return
            }
            if Self.single.contains(type), !seen.insert(type).inserted { throw .malformed("message: a payload is there twice") }
            // "MUST be ignored by the recipient if the recipient understands the payload type code."
            guard type.isDefined || !critical else { throw .unsupportedCriticalPayload(type.rawValue) }
            payloads.all.append(try Payload(type: type, body: body))
        }
        guard reader.isAtEnd else { throw .malformed("message: octets after the last payload") }
    }

    package static func encode(_ payloads: [Payload]) -> [UInt8] {
        var bytes: [UInt8] = []
        for (index, payload) in payloads.enumerated() {
            let body = payload.encodedBody
            let next = index + 1 < payloads.count ? payloads[index + 1].type : .none
            bytes += [next.rawValue, 0]
            bytes.append(u16: UInt16(clamping: body.count + 4))
            bytes += body
        }
        return bytes
    }
}
