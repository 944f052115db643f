import Wire

/// Configuration payload. RFC 7296 §3.15.
///
///   CFG Type (1) | RESERVED (3) | attributes: R and Attribute Type (2) | Length (2) | Value …
package struct WireConfiguration: Hashable, Sendable {
    package enum Kind {
        package static let request: UInt8 = 1
        package static let reply: UInt8 = 2
        package static let set: UInt8 = 3
        package static let acknowledge: UInt8 = 4
    }

    package struct Attribute: Hashable, Sendable {
        package var type: UInt16
        package var value: [UInt8]
        package init(_ type: UInt16, _ value: [UInt8] = []) { (self.type, self.value) = (type, value) }
    }

    /// RFC 7296 §3.15.1.
    package enum AttributeType {
        package static let address4: UInt16 = 1
        package static let netmask4: UInt16 = 2
        package static let dns4: UInt16 = 3
        package static let address6: UInt16 = 8
        package static let dns6: UInt16 = 10
        package static let subnet4: UInt16 = 13
        package static let supported: UInt16 = 14
        package static let subnet6: UInt16 = 15
        /// All that we understand, for SUPPORTED_ATTRIBUTES.
        package static let known: [UInt16] = [address4, netmask4, dns4, address6, dns6, subnet4, supported, subnet6]
    }

    package var kind: UInt8
    package var attributes: [Attribute]

    package init(kind: UInt8, attributes: [Attribute]) { (self.kind, self.attributes) = (kind, attributes) }

    package init(parsing body: ArraySlice<UInt8>) throws(IKEFault) {
        var reader = OctetReader(body)
        kind = try reader.u8("CP: type")
        _ = try reader.take(3, "CP: reserved")
        attributes = []
        while !reader.isAtEnd {
            guard attributes.count < Bounds.configurationAttributes else { throw .malformed("CP: too many attributes") }
            let type = try reader.u16("CP: attribute type") & 0x7FFF
            let length = Int(try reader.u16("CP: attribute length"))
            attributes.append(Attribute(type, Array(try reader.take(length, "CP: attribute"))))
        }
    }

    package var encoded: [UInt8] {
        var bytes: [UInt8] = [kind, 0, 0, 0]
        for attribute in attributes {
            bytes.append(u16: attribute.type & 0x7FFF)
            bytes.append(u16: UInt16(clamping: attribute.value.count))
            bytes += attribute.value
        }
        return bytes
    }

    package var payload: Payload { .opaque(.configuration, encoded) }

    func all(_ type: UInt16) -> [[UInt8]] { attributes.filter { $0.type == type }.map(\.value) }
    func has(_ type: UInt16) -> Bool { attributes.contains { $0.type == type } }

    /// Addresses in attributes of a family's type; an IPv6 address has its prefix length behind it. Empty values and values of
    /// another length name none.
    func addresses(_ type: UInt16) -> [IPAddress] {
        all(type).compactMap { value in
            switch (type, value.count) {
            case (AttributeType.address4, 4), (AttributeType.dns4, 4), (AttributeType.dns6, 16): IPAddress(bytes: value)
            case (AttributeType.address6, 17): IPAddress(bytes: value.prefix(16))
            default: nil
            }
        }
    }

    /// INTERNAL_IP4_SUBNET has address and mask, INTERNAL_IP6_SUBNET address and prefix length.
    var subnets: [IPPrefix] {
        all(AttributeType.subnet4).compactMap { value in
            guard value.count == 8, let address = IPAddress(bytes: value.prefix(4)) else { return nil }
            let mask = UInt32(truncatingIfNeeded: value.suffix(4).bigEndianValue)
            let length = (~mask).leadingZeroBitCount
            return mask == (length == 0 ? 0 : ~UInt32(0) << UInt32(32 - length)) ? IPPrefix(address, length: length) : nil
        }
            + all(AttributeType.subnet6).compactMap { value in
                guard value.count == 17, let address = IPAddress(bytes: value.prefix(16)) else { return nil }
                return IPPrefix(address, length: Int(value[16]))
            }
    }

    static func address(_ address: IPAddress) -> Attribute {
        address.isIPv4
            ? Attribute(AttributeType.address4, address.bytes) : Attribute(AttributeType.address6, address.bytes + [128])
    }

    static func dns(_ address: IPAddress) -> Attribute {
        Attribute(address.isIPv4 ? AttributeType.dns4 : AttributeType.dns6, address.bytes)
    }

    static func subnet(_ prefix: IPPrefix) -> Attribute {
        guard prefix.address.isIPv4 else {
            return Attribute(AttributeType.subnet6, prefix.address.bytes + [UInt8(clamping: prefix.length)])
        }
        let mask = prefix.length == 0 ? 0 : ~UInt32(0) << UInt32(32 - prefix.length)
        return Attribute(AttributeType.subnet4, prefix.address.bytes + [UInt8](u32: mask))
    }
}

extension PayloadList {
    /// The Configuration payload, decoded; nil when there is none.
    func configuration() throws(IKEFault) -> WireConfiguration? {
        for case .opaque(.configuration, let body) in all { return try WireConfiguration(parsing: body[...]) }
        return nil
    }
}

extension Bounds {
    package static let configurationAttributes = 64
}
