package import IPsec

// RADIUS packets. RFC 2865 §3, §5; RFC 2869 §5; RFC 3579 §3; RFC 3162; RFC 6911; RFC 2548.
//
//   Code (1) | Identifier (1) | Length (2) | Authenticator (16) | attributes: Type (1) Length (1) Value (0 to 253) …

/// RFC 2865 §3.
public enum RADIUSCode: UInt8, Sendable {
    case accessRequest = 1
    case accessAccept = 2
    case accessReject = 3
    case accessChallenge = 11
}

/// Attribute types.
package enum RADIUSType {
    package static let userName: UInt8 = 1
    package static let nasAddress: UInt8 = 4
    package static let serviceType: UInt8 = 6
    package static let framedAddress: UInt8 = 8
    package static let framedNetmask: UInt8 = 9
    package static let framedMTU: UInt8 = 12
    package static let replyMessage: UInt8 = 18
    package static let state: UInt8 = 24
    package static let classValue: UInt8 = 25
    package static let vendorSpecific: UInt8 = 26
    package static let sessionTimeout: UInt8 = 27
    package static let calledStation: UInt8 = 30
    package static let callingStation: UInt8 = 31
    package static let nasIdentifier: UInt8 = 32
    package static let nasPortType: UInt8 = 61
    package static let eapMessage: UInt8 = 79
    package static let messageAuthenticator: UInt8 = 80
    package static let nasAddress6: UInt8 = 95
    package static let framedAddress6: UInt8 = 168
    package static let dnsServer6: UInt8 = 169

    /// RFC 2548: vendor 311 and its types.
    package static let microsoft: UInt32 = 311
    package static let sendKey: UInt8 = 16
    package static let receiveKey: UInt8 = 17
    package static let primaryDNS: UInt8 = 28
    package static let secondaryDNS: UInt8 = 29
}

package struct RADIUSAttribute: Hashable, Sendable {
    package var type: UInt8
    package var value: [UInt8]
    package init(_ type: UInt8, _ value: [UInt8]) { (self.type, self.value) = (type, value) }
}

package struct RADIUSPacket: Hashable, Sendable {
    package static let headerBytes = 20
    /// RFC 2865 §3: "maximum length is 4096".
    package static let bytesMost = 4096
    package static let valueBytesMost = 253

    package var code: UInt8
    package var identifier: UInt8
    package var authenticator: [UInt8]
    package var attributes: [RADIUSAttribute]

    package init(code: RADIUSCode, identifier: UInt8, authenticator: [UInt8], attributes: [RADIUSAttribute]) {
        (self.code, self.identifier) = (code.rawValue, identifier)
        (self.authenticator, self.attributes) = (authenticator, attributes)
    }

    /// "Octets outside the range of the Length field MUST be treated as padding and ignored on reception." RFC 2865 §3.
    package init(parsing bytes: ArraySlice<UInt8>) throws(IKEFault) {
        var reader = OctetReader(bytes)
        code = try reader.u8("RADIUS: code")
        identifier = try reader.u8("RADIUS: identifier")
        let length = Int(try reader.u16("RADIUS: length"))
        guard length >= Self.headerBytes, length <= Self.bytesMost, length <= bytes.count else {
            throw .malformed("RADIUS: length")
        }
        authenticator = Array(try reader.take(16, "RADIUS: authenticator"))
        var body = OctetReader(try reader.take(length - Self.headerBytes, "RADIUS: attributes"))
        attributes = []
        while !body.isAtEnd {
            let type = try body.u8("RADIUS: attribute type")
            let size = Int(try body.u8("RADIUS: attribute length"))
            guard size >= 2 else { throw .malformed("RADIUS: attribute length") }
            attributes.append(RADIUSAttribute(type, Array(try body.take(size - 2, "RADIUS: attribute"))))
        }
    }

    package var encoded: [UInt8] {
        var bytes: [UInt8] = [code, identifier, 0, 0] + authenticator
        for attribute in attributes {
            let value = attribute.value.prefix(Self.valueBytesMost)
            bytes += [attribute.type, UInt8(clamping: value.count + 2)] + value
        }
        bytes.store(u16: UInt16(clamping: bytes.count), at: 2)
        return bytes
    }

    package func first(_ type: UInt8) -> [UInt8]? { attributes.first { $0.type == type }?.value }
    package func all(_ type: UInt8) -> [[UInt8]] { attributes.filter { $0.type == type }.map(\.value) }

    /// Values of one vendor's type. RFC 2865 §5.26: vendor (4), then type, length, value, repeated.
    package func vendor(_ vendor: UInt32, _ type: UInt8) -> [[UInt8]] {
        var found: [[UInt8]] = []
        for value in all(RADIUSType.vendorSpecific) {
            var reader = OctetReader(value[...])
            guard let id = try? reader.u32("RADIUS: vendor"), id == vendor else { continue }
            while let kind = try? reader.u8("RADIUS: vendor type"), let size = try? reader.u8("RADIUS: vendor length"), size >= 2,
                let content = try? reader.take(Int(size) - 2, "RADIUS: vendor value")
            {
                if kind == type { found.append(Array(content)) }
            }
        }
        return found
    }

    /// "the EAP-Message attributes … are concatenated in order". RFC 3579 §3.1.
    package var eapMessage: [UInt8]? {
        let parts = all(RADIUSType.eapMessage)
        return parts.isEmpty ? nil : parts.flatMap { $0 }
    }

    package static func eapAttributes(_ packet: [UInt8]) -> [RADIUSAttribute] {
        stride(from: 0, to: packet.count, by: valueBytesMost).map { start in
            RADIUSAttribute(RADIUSType.eapMessage, Array(packet[start..<min(start + valueBytesMost, packet.count)]))
        }
    }
}

/// The proofs of RADIUS packets by the secret that client and server share.
package struct RADIUSProofs {
    private let crypto: any EAPCrypto
    package init(_ crypto: any EAPCrypto) { self.crypto = crypto }

    /// Puts the Message-Authenticator, which must be the packet's first attribute: an attacker who chooses a suffix of it then
    /// gains nothing from MD5's weakness. RFC 3579 §3.2.
    package func seal(_ packet: RADIUSPacket, secret: Secret) throws(IKECryptoError) -> [UInt8] {
        var packet = packet
        packet.attributes.removeAll { $0.type == RADIUSType.messageAuthenticator }
        packet.attributes.insert(RADIUSAttribute(RADIUSType.messageAuthenticator, [UInt8](repeating: 0, count: 16)), at: 0)
        packet.attributes[0].value = try crypto.hmacMD5(key: secret, data: packet.encoded)
        return packet.encoded
    }

    /// Whether a response is from someone who knows the secret and saw our request. Both proofs are needed: MD5 alone can be
    /// forged ("Blast-RADIUS"), so a response without Message-Authenticator is nobody's.
    /// - Parameter bytes: as received, of the packet's own length.
    package func isAuthentic(
        _ packet: RADIUSPacket, bytes: [UInt8], requestAuthenticator: [UInt8], secret: Secret
    ) throws(IKECryptoError) -> Bool {
        let length = Int([bytes[2], bytes[3]].bigEndianValue)
        var signed = Array(bytes[..<length])
        signed.replaceSubrange(4..<20, with: requestAuthenticator)
        // RFC 2865 §3: MD5(Code+ID+Length+RequestAuth+Attributes+Secret).
        let expected = try crypto.md5([.bytes(signed), .secret(secret)])
        guard crypto.constantTimeEqual(expected, packet.authenticator) else { return false }
        let proofs = packet.all(RADIUSType.messageAuthenticator)
        guard proofs.count == 1, proofs[0].count == 16 else { return false }
        var cleared = packet
        cleared.authenticator = requestAuthenticator
        for index in cleared.attributes.indices where cleared.attributes[index].type == RADIUSType.messageAuthenticator {
            cleared.attributes[index].value = [UInt8](repeating: 0, count: 16)
        }
        return crypto.constantTimeEqual(try crypto.hmacMD5(key: secret, data: cleared.encoded), proofs[0])
    }
}
