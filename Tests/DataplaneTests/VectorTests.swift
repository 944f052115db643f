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
                source: IPv4Address("192.0.2.2")!, destination: IPv4Address("192.0.2.1")!, protocolNumber: 50, payloadBytes: esp.count) + esp
        let sequence = UInt64(vector.seq, radix: 16)!
        let outcome = try debug.run(
            .init(
                operation: .open, spi: UInt32(vector.spi, radix: 16)!, key: bytes(hex: vector.key), salt: bytes(hex: vector.salt),
                extended: vector.esn, udp: false, sequence: sequence &- 1, packet: outer))
        let plaintext = bytes(hex: vector.plaintext)
        let total = Int(plaintext[2]) << 8 | Int(plaintext[3])
        let payload = plaintext.count - 2 - Int(plaintext[plaintext.count - 2])
        if plaintext[plaintext.count - 1] == 59 || plaintext[plaintext.count - 1] == 1 && plaintext[0] >> 4 != 4 {
            #expect(outcome == .drop(plaintext.last == 59 ? .dummyPacket : .unsupportedPayload))
        } else if plaintext.last == 4, plaintext[0] >> 4 == 4, total <= payload {
            #expect(outcome == .packet(aged(Array(plaintext.prefix(total)), hops: 1)))
        } else {
            // Authentic, but not an IPv4 packet in tunnel mode: it must get past the ICV and no further.
            #expect([.drop(.unsupportedPayload), .drop(.malformed), .drop(.dummyPacket)].contains(outcome))
        }
    }
}
