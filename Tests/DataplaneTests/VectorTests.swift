import Crypto
import Foundation
import IPsec
import Testing
import Wire

@testable import Dataplane

/// Whole ESP packets of draft-mcgrew-gcm-test-01 through the worker: what it opens must be the draft's plaintext.
@Suite struct VectorTests {
    struct File: Decodable { var cases: [Case] }
    struct Case: Decodable, Sendable, CustomStringConvertible {
        var `case`: Int
        var key: String
        var salt: String
        var spi: String
        var seq: String
        var esn: Bool
        var plaintext: String
        var esp_packet: String
        var description: String { "case \(`case`)" }
    }
    static let cases: [Case] = {
        let file = vectorFolder.appending(path: "rfc/draft-mcgrew-gcm-test-01-aes-gcm-esp.json")
        return (try? JSONDecoder().decode(File.self, from: Data(contentsOf: file)).cases) ?? []
    }()

    @Test("the file of vectors is there")
    func present() { #expect(Self.cases.count == 14) }

    @Test("the draft's ESP packets open to its plaintexts", arguments: cases, EngineKind.available)
    func opening(_ vector: Case, _ engine: EngineKind) throws {
        // 192-bit keys are not offered.
        guard [32, 64].contains(vector.key.count) else { return }
        let debug = try ESPDebug(engine: engine, near: "0.0.0.0/0", far: "0.0.0.0/0")
        let esp = bytes(hex: vector.esp_packet)
        let outer =
            IPv4Header.bytes(
                source: IPv4Address("192.0.2.2")!, destination: IPv4Address("192.0.2.1")!, protocolNumber: 50,
                payloadBytes: esp.count) + esp
        let sequence = UInt64(vector.seq, radix: 16)!
        let outcome = try debug.run(
            .init(
                operation: .open, spi: UInt32(vector.spi, radix: 16)!, key: bytes(hex: vector.key), salt: bytes(hex: vector.salt),
                extended: vector.esn, udp: false, sequence: sequence &- 1, packet: outer))
        // RFC 4303 §2.1: SPI zero is never on the wire, whatever a vector says.
        guard vector.spi != "00000000" else {
            #expect(outcome == .drop(.unknownSPI))
            return
        }
        let plaintext = bytes(hex: vector.plaintext)
        // Next header 1 or 59: authentic, but no IPv4 packet in tunnel mode. It must get past the ICV and no further.
        #expect(plaintext.last != 4)
        #expect(outcome == .drop(plaintext.last == 59 ? .dummyPacket : .unsupportedPayload))
    }

    struct Packets: Decodable { var cases: [Packet] }
    struct Packet: Decodable, Sendable, CustomStringConvertible {
        var name: String
        var key: String?
        var salt: String?
        var spi: UInt32
        var esn: Int
        var seq: UInt64
        var input_text: String
        var output_text: String
        var mode: String
        var outer: String?
        var aead_algo: String?
        var udp_encap: Int?
        var description: String { name }
    }
    static let packets: [Packet] = {
        let file = vectorFolder.appending(path: "dpdk/packets.json")
        let all = (try? JSONDecoder().decode(Packets.self, from: Data(contentsOf: file)).cases) ?? []
        return all.filter {
            $0.aead_algo == "AES_GCM" && $0.mode == "TUNNEL" && $0.outer == "IPV4" && $0.input_text.hasPrefix("4")
                && [32, 64].contains($0.key?.count)
        }
    }()

    @Test("there are whole packets of the kind we carry")
    func packetsPresent() { #expect(Self.packets.count >= 1) }

    @Test("whole outer packets made elsewhere give the inner ones", arguments: packets, EngineKind.available)
    func wholePackets(_ vector: Packet, _ engine: EngineKind) throws {
        let debug = try ESPDebug(engine: engine, near: "0.0.0.0/0", far: "0.0.0.0/0")
        let outcome = try debug.run(
            .init(
                operation: .open, spi: vector.spi, key: bytes(hex: vector.key ?? ""), salt: bytes(hex: vector.salt ?? ""),
                extended: vector.esn == 1,
                udp: vector.udp_encap == 1, sequence: vector.seq &- 1, packet: bytes(hex: vector.output_text)))
        #expect(outcome == .packet(aged(bytes(hex: vector.input_text), hops: 1)))
    }
}
