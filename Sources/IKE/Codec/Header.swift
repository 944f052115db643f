/// The 28 octets in front of every message. RFC 7296 §3.1.
package struct IKEHeader: Hashable, Sendable {
    package static let byteCount = 28
    package static let majorVersion: UInt8 = 2

    package var initiatorSPI: UInt64
    package var responderSPI: UInt64
    package var nextPayload: PayloadType
    /// High nibble major, low nibble minor.
    package var version: UInt8
    package var exchange: ExchangeType
    /// Set in messages sent by the original initiator of the IKE SA.
    package var isFromInitiator: Bool
    package var isResponse: Bool
    package var messageID: UInt32
    /// Octets of the whole message, header included.
    package var length: UInt32

    package init(
        initiatorSPI: UInt64, responderSPI: UInt64, exchange: ExchangeType, isFromInitiator: Bool, isResponse: Bool,
        messageID: UInt32
    ) {
        (self.initiatorSPI, self.responderSPI, self.exchange) = (initiatorSPI, responderSPI, exchange)
        (self.isFromInitiator, self.isResponse, self.messageID) = (isFromInitiator, isResponse, messageID)
        (nextPayload, version, length) = (.none, Self.majorVersion << 4, UInt32(Self.byteCount))
    }

    package init(parsing bytes: ArraySlice<UInt8>) throws(IKEFault) {
        var reader = OctetReader(bytes)
        initiatorSPI = try reader.u64("header: initiator SPI")
        responderSPI = try reader.u64("header: responder SPI")
        nextPayload = PayloadType(rawValue: try reader.u8("header: next payload"))
        version = try reader.u8("header: version")
        exchange = ExchangeType(rawValue: try reader.u8("header: exchange type"))
        // "'X' bits MUST be cleared when sending and MUST be ignored on receipt", and so is the Version bit.
        let flags = try reader.u8("header: flags")
        isFromInitiator = flags & 0x08 != 0
        isResponse = flags & 0x20 != 0
        messageID = try reader.u32("header: message ID")
        length = try reader.u32("header: length")
        guard length == UInt32(clamping: bytes.count) else { throw .malformed("header: length differs from the datagram's") }
    }

    package var encoded: [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(Self.byteCount)
        bytes.append(u64: initiatorSPI)
        bytes.append(u64: responderSPI)
        bytes.append(nextPayload.rawValue)
        bytes.append(version)
        bytes.append(exchange.rawValue)
        bytes.append((isFromInitiator ? 0x08 : 0) | (isResponse ? 0x20 : 0))
        bytes.append(u32: messageID)
        bytes.append(u32: length)
        return bytes
    }

    package var major: UInt8 { version >> 4 }

    /// The header of the response to this request.
    package func response(responderSPI: UInt64? = nil) -> IKEHeader {
        IKEHeader(
            initiatorSPI: initiatorSPI, responderSPI: responderSPI ?? self.responderSPI, exchange: exchange,
            isFromInitiator: !isFromInitiator, isResponse: true, messageID: messageID)
    }
}
