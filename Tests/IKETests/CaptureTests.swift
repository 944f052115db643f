import Foundation
import IKE
import IPsec
import Testing
import Wire

/// UDP payloads of a classic pcap file with Ethernet or raw IPv4 frames.
struct Capture {
    var datagrams: [(bytes: [UInt8], port: UInt16)] = []

    init(_ name: String) throws {
        let file = try [UInt8](Data(contentsOf: Vectors.url("tcpdump/\(name)")))
        let isLittle = file[0] == 0xD4
        func word(_ offset: Int) -> Int {
            let octets = file[offset..<offset + 4]
            return Int((isLittle ? Array(octets.reversed()) : Array(octets)).bigEndianValue)
        }
        // LINKTYPE_NULL, LINKTYPE_ETHERNET, LINKTYPE_RAW.
        let linkBytes = [0: 4, 1: 14, 101: 0][word(20)] ?? 0
        var offset = 24
        while offset + 16 <= file.count {
            let length = word(offset + 8)
            let frame = Array(file[(offset + 16 + linkBytes)..<(offset + 16 + length)])
            offset += 16 + length
            let headerBytes = Int(frame[0] & 15) * 4
            guard frame[0] >> 4 == 4, frame[9] == 17 else { continue }
            let udpBytes = Int(frame[(headerBytes + 4)..<(headerBytes + 6)].bigEndianValue)
            let port = UInt16(frame[(headerBytes + 2)..<(headerBytes + 4)].bigEndianValue)
            datagrams.append((Array(frame[(headerBytes + 8)..<(headerBytes + udpBytes)]), port))
        }
    }
}

enum Vectors {
    static func url(_ path: String) -> URL {
        URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().appendingPathComponent(
            "Vectors/\(path)")
    }
    static func hex(_ text: some StringProtocol) -> [UInt8] {
        let digits = Array(text.utf8)
        return stride(from: 0, to: digits.count - 1, by: 2).compactMap {
            UInt8(String(decoding: digits[$0...$0 + 1], as: UTF8.self), radix: 16)
        }
    }
}

@Suite struct CaptureTests {
    @Test func `a whole captured exchange with a cookie parses`() throws {
        let messages = try Capture("ikev2four.pcap").datagrams.map { datagram in
            try WireMessage(parsing: datagram.port == 4500 ? Array(datagram.bytes.dropFirst(4)) : datagram.bytes)
        }
        #expect(messages.count > 6)
        let first = try #require(messages.first)
        #expect(first.header.exchange == .ikeSAInit && !first.header.isResponse && first.header.isFromInitiator)
        #expect(first.payloads.proposals?.first?.transforms.count == 12)
        #expect(first.payloads.proposals?.first?.transforms(TransformType.encryption).map(\.keyLength) == [128, 256, 192, nil])
        #expect(first.payloads.keyExchange?.method == 2 && first.payloads.nonce?.count == 32)
        #expect(first.payloads.notify(.natDetectionSourceIP)?.data.count == 20)
        #expect(messages[1].payloads.notify(.cookie)?.data.count == 24)
        #expect(messages[1].header.responderSPI == 0)
        #expect(messages[2].payloads.notify(.cookie)?.data == messages[1].payloads.notify(.cookie)?.data)
        #expect(messages[3].payloads.proposals?.first?.transforms.count == 4)
        #expect(messages[4].header.exchange == .ikeAuth && messages[4].encrypted?.firstPayload == .identityInitiator)
        for (message, datagram) in zip(messages, try Capture("ikev2four.pcap").datagrams) where message.encrypted == nil {
            // What was read is written back octet for octet.
            let bytes = datagram.port == 4500 ? Array(datagram.bytes.dropFirst(4)) : datagram.bytes
            #expect(WireMessage.encodeClear(message.header, message.payloads.all) == bytes)
        }
    }

    @Test func `messages with the critical bit on known payloads parse`() throws {
        let messages = try Capture("ikev2pI2.pcap").datagrams.map { try WireMessage(parsing: $0.bytes) }
        #expect(messages.count == 2)
        #expect(messages[0].payloads.proposals?.count == 6)
        #expect(messages[0].payloads.nonce == Vectors.hex("b5ce8419095c6e2b6b62d3055305b3c4"))
        #expect(messages[1].encrypted != nil)
        #expect(messages[1].header.responderSPI == 0xC02E_7A30_31A0_3188)
    }

    @Test func `proposals of the capture are too weak for us, and the report says so`() throws {
        let message = try WireMessage(parsing: try Capture("ikev2pI2.pcap").datagrams[0].bytes)
        let offer = try #require(message.payloads.proposals)
        #expect(Negotiation.choose(IKEProposal.defaults, from: offer) == nil)
        let report = NegotiationReport.ike(ours: IKEProposal.defaults, offer: offer, connection: "west")
        #expect(report.contains("modp1536") && report.contains("3des") && report.contains("ike_proposals of connection west"))
    }
}
