import IPsec
import Wire

/// One payload, decoded. RFC 7296 §3.2 to §3.16.
package enum Payload: Hashable, Sendable {
    case securityAssociation([WireProposal])
    case keyExchange(method: UInt16, data: [UInt8])
    case identityInitiator(WireIdentity)
    case identityResponder(WireIdentity)
    case authentication(method: UInt8, data: [UInt8])
    case nonce([UInt8])
    case certificate(CertificatePayload)
    case certificateRequest(CertificatePayload)
    /// An EAP packet. RFC 7296 §3.16.
    case extensibleAuthentication([UInt8])
    case notify(Notify)
    case delete(Delete)
    case vendorID([UInt8])
    case trafficSelectorsInitiator(WireSelectors)
    case trafficSelectorsResponder(WireSelectors)
    /// A payload whose content nothing here reads: CP, and unknown types that are not critical.
    case opaque(PayloadType, [UInt8])

    package var type: PayloadType {
        switch self {
        case .securityAssociation: .securityAssociation
        case .keyExchange: .keyExchange
        case .identityInitiator: .identityInitiator
        case .identityResponder: .identityResponder
        case .authentication: .authentication
        case .nonce: .nonce
        case .certificate: .certificate
        case .certificateRequest: .certificateRequest
        case .extensibleAuthentication: .extensibleAuthentication
        case .notify: .notify
        case .delete: .delete
        case .vendorID: .vendorID
        case .trafficSelectorsInitiator: .trafficSelectorsInitiator
        case .trafficSelectorsResponder: .trafficSelectorsResponder
        case .opaque(let type, _): type
        }
    }

    /// Of an AUTH payload.
    var authenticationData: [UInt8] { if case .authentication(_, let data) = self { data } else { [] } }

    /// The body, without the generic header.
    package var encodedBody: [UInt8] {
        var bytes: [UInt8] = []
        switch self {
        case .securityAssociation(let proposals): bytes = WireProposal.encode(proposals)
        case .keyExchange(let method, let data):
            bytes.append(u16: method)
            bytes.append(u16: 0)
            bytes += data
        case .identityInitiator(let identity), .identityResponder(let identity): bytes = identity.encoded
        case .authentication(let method, let data): bytes = [method, 0, 0, 0] + data
        case .nonce(let data), .vendorID(let data), .opaque(_, let data), .extensibleAuthentication(let data): bytes = data
        case .certificate(let payload), .certificateRequest(let payload): bytes = payload.encoded
        case .notify(let notify): bytes = notify.encoded
        case .delete(let delete): bytes = delete.encoded
        case .trafficSelectorsInitiator(let selectors), .trafficSelectorsResponder(let selectors): bytes = selectors.encoded
        }
        return bytes
    }

    init(type: PayloadType, body: ArraySlice<UInt8>) throws(IKEFault) {
        var reader = OctetReader(body)
        switch type {
        case .securityAssociation: self = .securityAssociation(try WireProposal.parse(body))
        case .keyExchange:
            let method = try reader.u16("KE: method")
            _ = try reader.u16("KE: reserved")
            guard !reader.isAtEnd else { throw .malformed("KE: no data") }
            self = .keyExchange(method: method, data: Array(reader.rest()))
        case .identityInitiator: self = .identityInitiator(try WireIdentity(parsing: body))
        case .identityResponder: self = .identityResponder(try WireIdentity(parsing: body))
        case .authentication:
            let method = try reader.u8("AUTH: method")
            _ = try reader.take(3, "AUTH: reserved")
            self = .authentication(method: method, data: Array(reader.rest()))
        case .nonce:
            // "The size of the Nonce Data MUST be between 16 and 256 octets, inclusive." RFC 7296 §3.9.
            guard Bounds.nonceBytes.contains(body.count) else { throw .malformed("nonce: length outside 16 to 256 octets") }
            self = .nonce(Array(body))
        case .certificate: self = .certificate(try CertificatePayload(parsing: body))
        case .certificateRequest: self = .certificateRequest(try CertificatePayload(parsing: body))
        case .extensibleAuthentication: self = .extensibleAuthentication(Array(body))
        case .notify: self = .notify(try Notify(parsing: body))
        case .delete: self = .delete(try Delete(parsing: body))
        case .vendorID: self = .vendorID(Array(body))
        case .trafficSelectorsInitiator: self = .trafficSelectorsInitiator(try WireSelectors(parsing: body))
        case .trafficSelectorsResponder: self = .trafficSelectorsResponder(try WireSelectors(parsing: body))
        default: self = .opaque(type, Array(body))
        }
    }
}

/// Notify payload. RFC 7296 §3.10.
package struct Notify: Hashable, Sendable {
    package var protocolID: UInt8
    package var spi: [UInt8]
    package var type: NotifyType
    package var data: [UInt8]

    package init(_ type: NotifyType, data: [UInt8] = [], protocolID: UInt8 = ProtocolID.none, spi: [UInt8] = []) {
        (self.protocolID, self.spi, self.type, self.data) = (protocolID, spi, type, data)
    }

    init(parsing body: ArraySlice<UInt8>) throws(IKEFault) {
        var reader = OctetReader(body)
        protocolID = try reader.u8("notify: protocol")
        let spiBytes = Int(try reader.u8("notify: SPI size"))
        type = NotifyType(rawValue: try reader.u16("notify: type"))
        guard spiBytes <= Bounds.spiBytes else { throw .malformed("notify: SPI size") }
        spi = Array(try reader.take(spiBytes, "notify: SPI"))
        data = Array(reader.rest())
    }

    var encoded: [UInt8] {
        var bytes: [UInt8] = [protocolID, UInt8(clamping: spi.count)]
        bytes.append(u16: type.rawValue)
        return bytes + spi + data
    }
}

/// Delete payload: SPIs as the sender expects them in inbound packets; none for the IKE SA itself. RFC 7296 §3.11.
package struct Delete: Hashable, Sendable {
    package var protocolID: UInt8
    package var spis: [UInt32]

    package static let ikeSA = Delete(protocolID: ProtocolID.ike, spis: [])

    package init(protocolID: UInt8, spis: [UInt32]) { (self.protocolID, self.spis) = (protocolID, spis) }

    init(parsing body: ArraySlice<UInt8>) throws(IKEFault) {
        var reader = OctetReader(body)
        protocolID = try reader.u8("delete: protocol")
        let size = Int(try reader.u8("delete: SPI size"))
        let count = Int(try reader.u16("delete: number of SPIs"))
        // "It MUST be zero for IKE (SPI is in message header) or four for AH and ESP."
        guard size == (protocolID == ProtocolID.ike ? 0 : 4) else { throw .malformed("delete: SPI size") }
        guard protocolID != ProtocolID.ike || count == 0 else { throw .malformed("delete: SPIs for the IKE SA") }
        guard count <= Bounds.spisPerDelete else { throw .malformed("delete: too many SPIs") }
        spis = []
        for _ in 0..<count { spis.append(try reader.u32("delete: SPI")) }
        guard reader.isAtEnd else { throw .malformed("delete: octets after the SPIs") }
    }

    var encoded: [UInt8] {
        var bytes: [UInt8] = [protocolID, protocolID == ProtocolID.ike ? 0 : 4]
        bytes.append(u16: UInt16(clamping: spis.count))
        for spi in spis { bytes.append(u32: spi) }
        return bytes
    }
}

/// Identification payload as sent: AUTH covers these octets, so they are kept as they came. RFC 7296 §3.5.
package struct WireIdentity: Hashable, Sendable {
    package var type: UInt8
    /// The three reserved octets: ignored, but part of what AUTH signs ("RestOfInitIDPayload = IDType | RESERVED | InitIDData").
    package var reserved: [UInt8]
    package var data: [UInt8]

    init(parsing body: ArraySlice<UInt8>) throws(IKEFault) {
        var reader = OctetReader(body)
        type = try reader.u8("ID: type")
        reserved = Array(try reader.take(3, "ID: reserved"))
        data = Array(reader.rest())
        guard data.count <= Bounds.identityBytes else { throw .malformed("ID: too long") }
    }

    package init(_ identity: Identity) {
        reserved = [0, 0, 0]
        switch identity {
        case .address(let address): (type, data) = (address.isIPv4 ? 1 : 5, address.bytes)
        case .fqdn(let name): (type, data) = (2, Array(name.utf8))
        case .email(let name): (type, data) = (3, Array(name.utf8))
        case .distinguishedName(let der): (type, data) = (9, der)
        case .keyID(let key): (type, data) = (11, key)
        }
    }

    package var encoded: [UInt8] { [type] + reserved + data }

    /// Nil when the type is not one of RFC 7296's or the data does not fit it.
    package var identity: Identity? {
        switch type {
        case 1: data.count == 4 ? IPAddress(bytes: data).map(Identity.address) : nil
        case 5: data.count == 16 ? IPAddress(bytes: data).map(Identity.address) : nil
        case 2: text(from: 0x20).map(Identity.fqdn)
        case 3: text(from: 0x21).map(Identity.email)
        case 9: .distinguishedName(data)
        case 11: .keyID(data)
        default: nil
        }
    }

    /// Printable text only: identities end in logs and status.
    /// - Parameter lowest: a name may have blanks, as many devices send it, though DNS knows none.
    private func text(from lowest: UInt8) -> String? {
        guard !data.isEmpty, data.allSatisfy({ $0 >= lowest && $0 != 0x7F }) else { return nil }
        return String(validating: data, as: UTF8.self)
    }

    /// For a sentence about an identity that may not be understood.
    package var sentence: String { identity?.sentence ?? "an identity of type \(type) with \(data.count) octets" }
}

/// Traffic Selector payload. RFC 7296 §3.13.
package struct WireSelectors: Hashable, Sendable {
    package var selectors: [TrafficSelector]
    /// Selectors that were skipped: unknown types ("the responder ignores that Traffic Selector", §2.9) and OPAQUE ports.
    package var ignored: Int

    package init(_ selectors: [TrafficSelector]) { (self.selectors, ignored) = (selectors, 0) }

    init(parsing body: ArraySlice<UInt8>) throws(IKEFault) {
        var reader = OctetReader(body)
        let count = Int(try reader.u8("TS: number of selectors"))
        _ = try reader.take(3, "TS: reserved")
        guard count >= 1 else { throw .malformed("TS: number of selectors") }
        (selectors, ignored) = ([], 0)
        for _ in 0..<count {
            let type = try reader.u8("TS: type")
            let ipProtocol = try reader.u8("TS: protocol")
            let length = Int(try reader.u16("TS: selector length"))
            guard length >= 4 else { throw .malformed("TS: selector length") }
            let body = try reader.take(length - 4, "TS: selector")
            guard type == 7 || type == 8 else { ignored += 1; continue }
            if let selector = try Self.parse(type: type, ipProtocol: ipProtocol, body: body) {
                selectors.append(selector)
            } else {
                ignored += 1
            }
        }
        guard reader.isAtEnd else { throw .malformed("TS: octets after the selectors") }
    }

    private static func parse(type: UInt8, ipProtocol: UInt8, body: ArraySlice<UInt8>) throws(IKEFault) -> TrafficSelector? {
        let addressBytes = type == 7 ? 4 : 16
        guard body.count == 4 + 2 * addressBytes else { throw .malformed("TS: selector length") }
        var reader = OctetReader(body)
        let startPort = try reader.u16("TS: start port")
        let endPort = try reader.u16("TS: end port")
        guard let first = IPAddress(bytes: try reader.take(addressBytes, "TS: first address")),
            let last = IPAddress(bytes: try reader.take(addressBytes, "TS: last address"))
        else { throw .malformed("TS: address") }
        // "OPAQUE": start port 65535 and end port 0. Any other reversed range selects nothing.
        guard startPort <= endPort else { return nil }
        let selector = TrafficSelector(first: first, last: last, ipProtocol: ipProtocol, ports: startPort...endPort)
        return selector.contains(first) && selector.contains(last) ? selector : nil
    }

    var encoded: [UInt8] {
        var bytes: [UInt8] = [UInt8(clamping: selectors.count), 0, 0, 0]
        for selector in selectors.prefix(255) {
            let addresses = selector.first.bytes + selector.last.bytes
            bytes += [selector.first.isIPv4 ? 7 : 8, selector.ipProtocol]
            bytes.append(u16: UInt16(clamping: 8 + addresses.count))
            bytes.append(u16: selector.ports.lowerBound)
            bytes.append(u16: selector.ports.upperBound)
            bytes += addresses
        }
        return bytes
    }
}
