/// One transform of a proposal. RFC 7296 §3.3.2.
package struct Transform: Hashable, Sendable {
    package var type: UInt8
    package var id: UInt16
    /// Bits; nil when there is no Key Length attribute. RFC 7296 §3.3.5.
    package var keyLength: UInt16?
    /// "a transform that it does not understand, or one that contains a Transform Attribute it does not understand, it MUST
    /// consider this transform unacceptable" (§3.3.6).
    package var hasUnknownAttribute: Bool

    package init(_ type: UInt8, _ id: UInt16, keyLength: UInt16? = nil) {
        (self.type, self.id, self.keyLength, hasUnknownAttribute) = (type, id, keyLength, false)
    }

    init(parsing body: ArraySlice<UInt8>) throws(IKEFault) {
        var reader = OctetReader(body)
        type = try reader.u8("transform: type")
        _ = try reader.u8("transform: reserved")
        id = try reader.u16("transform: id")
        (keyLength, hasUnknownAttribute) = (nil, false)
        var attributes = 0
        while !reader.isAtEnd {
            attributes += 1
            guard attributes <= Bounds.attributesPerTransform else { throw .malformed("transform: too many attributes") }
            let head = try reader.u16("attribute: type")
            let value = try reader.u16("attribute: value or length")
            if head & 0x8000 == 0 {
                _ = try reader.take(Int(value), "attribute: value")
                hasUnknownAttribute = true
            } else if head & 0x7FFF == 14, keyLength == nil {
                keyLength = value
            } else {
                hasUnknownAttribute = true
            }
        }
    }

    func encoded(isLast: Bool) -> [UInt8] {
        var bytes: [UInt8] = [isLast ? 0 : 3, 0]
        bytes.append(u16: keyLength == nil ? 8 : 12)
        bytes += [type, 0]
        bytes.append(u16: id)
        if let keyLength {
            bytes.append(u16: 0x8000 | 14)
            bytes.append(u16: keyLength)
        }
        return bytes
    }
}

/// One proposal of an SA payload. RFC 7296 §3.3.1.
package struct WireProposal: Hashable, Sendable {
    package var number: UInt8
    package var protocolID: UInt8
    /// Empty in IKE_SA_INIT, 8 octets when an IKE SA is rekeyed, 4 for ESP.
    package var spi: [UInt8]
    package var transforms: [Transform]

    package init(number: UInt8, protocolID: UInt8, spi: [UInt8] = [], transforms: [Transform]) {
        (self.number, self.protocolID, self.spi, self.transforms) = (number, protocolID, spi, transforms)
    }

    /// RFC 9370.
    var hasAdditionalKeyExchange: Bool { transforms.contains { TransformType.additionalKeyExchanges.contains($0.type) } }

    package func transforms(_ type: UInt8) -> [Transform] { transforms.filter { $0.type == type } }

    static func parse(_ body: ArraySlice<UInt8>) throws(IKEFault) -> [WireProposal] {
        var reader = OctetReader(body)
        var proposals: [WireProposal] = []
        var more = true
        while more {
            guard proposals.count < Bounds.proposalsPerSA else { throw .malformed("SA: too many proposals") }
            let last = try reader.u8("proposal: last substructure")
            _ = try reader.u8("proposal: reserved")
            let length = Int(try reader.u16("proposal: length"))
            guard last == 0 || last == 2, length >= 8 else { throw .malformed("proposal: header") }
            more = last == 2
            proposals.append(try WireProposal(parsing: try reader.take(length - 4, "proposal: length")))
        }
        // "an implementation MUST check that the total Payload Length is consistent with the payload's internal lengths and
        // counts"
        guard reader.isAtEnd else { throw .malformed("SA: octets after the last proposal") }
        return proposals
    }

    private init(parsing body: ArraySlice<UInt8>) throws(IKEFault) {
        var reader = OctetReader(body)
        number = try reader.u8("proposal: number")
        protocolID = try reader.u8("proposal: protocol")
        let spiBytes = Int(try reader.u8("proposal: SPI size"))
        let count = Int(try reader.u8("proposal: number of transforms"))
        guard spiBytes <= Bounds.spiBytes else { throw .malformed("proposal: SPI size") }
        guard count <= Bounds.transformsPerProposal else { throw .malformed("proposal: too many transforms") }
        spi = Array(try reader.take(spiBytes, "proposal: SPI"))
        transforms = []
        for index in 0..<count {
            let last = try reader.u8("transform: last substructure")
            _ = try reader.u8("transform: reserved")
            let length = Int(try reader.u16("transform: length"))
            guard last == (index == count - 1 ? 0 : 3), length >= 8 else { throw .malformed("transform: header") }
            transforms.append(try Transform(parsing: try reader.take(length - 4, "transform: length")))
        }
        guard reader.isAtEnd else { throw .malformed("proposal: octets after the last transform") }
    }

    static func encode(_ proposals: [WireProposal]) -> [UInt8] {
        var bytes: [UInt8] = []
        for (index, proposal) in proposals.enumerated() {
            var body: [UInt8] = [proposal.number, proposal.protocolID, UInt8(clamping: proposal.spi.count)]
            body.append(UInt8(clamping: proposal.transforms.count))
            body += proposal.spi
            for (position, transform) in proposal.transforms.enumerated() {
                body += transform.encoded(isLast: position == proposal.transforms.count - 1)
            }
            bytes += [index == proposals.count - 1 ? 0 : 2, 0]
            bytes.append(u16: UInt16(clamping: body.count + 4))
            bytes += body
        }
        return bytes
    }
}
