import ArgumentParser
import Crypto
import Dataplane
import Foundation

/// `culvert debug`: tools for tests and second opinions, left out of the help.
struct Debug: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Tools for tests of the data plane.", shouldDisplay: false, subcommands: [DebugESP.self])
}

/// `culvert debug esp`
struct DebugESP: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "esp",
        abstract: "Seal and open single packets through the worker: one JSON object per line, one line for each.")

    @Option(help: "openssl or ipsec-mb.")
    var engine = EngineKind.openssl

    func run() throws {
        let worker: ESPDebug
        do {
            worker = try ESPDebug(engine: engine)
        } catch {
            complain("The worker cannot be made: \(error)")
            throw Exit.no
        }
        while let line = readLine() {
            print(Self.answer(line, worker))
            flushOutput()
        }
    }

    /// `{"packet": hex}`, `{"drop": reason}`, or `{"error": sentence}` for what was not understood.
    static func answer(_ line: String, _ worker: ESPDebug) -> String {
        let answer: [String: String]
        do {
            switch try worker.run(try DebugRequest(line: line).request()) {
            case .packet(let octets): answer = ["packet": hexadecimal(octets)]
            case .drop(let reason): answer = ["drop": reason.name]
            }
        } catch {
            answer = ["error": (error as? DataplaneError)?.sentence ?? "the request is not understood"]
        }
        // Strings alone always encode.
        return (try? JSONEncoder().encode(answer)).map { String(decoding: $0, as: UTF8.self) } ?? "{}"
    }

    private static func hexadecimal(_ octets: [UInt8]) -> String {
        octets.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }
}

/// One line of `culvert debug esp`, octets in hexadecimal.
private struct DebugRequest: Decodable {
    static let maxLineBytes = 16 * 1024
    static let keyBytes: Set<Int> = [16, 32]
    static let saltBytes = 4

    var op: String
    var spi: UInt32
    var key: String
    var salt: String
    var esn: Bool
    var udp: Bool
    /// Absent: false.
    var ipv6: Bool?
    /// `seal`: the number the packet is to have.
    var seq: UInt64?
    /// `open`: the highest number accepted so far.
    var highest: UInt64?
    var packet: String

    /// Throws when the line is no such object, or is longer than any can be.
    init(line: String) throws {
        guard line.utf8.count <= Self.maxLineBytes else { throw Malformed() }
        self = try JSONDecoder().decode(Self.self, from: Data(line.utf8))
    }

    func request() throws -> ESPDebug.Request {
        guard let operation = ESPDebug.Operation(rawValue: op), let number = operation == .seal ? seq : highest else {
            throw Malformed()
        }
        let (key, salt) = (try octets(key), try octets(salt))
        guard Self.keyBytes.contains(key.count), salt.count == Self.saltBytes else { throw Malformed() }
        return ESPDebug.Request(
            operation: operation, spi: spi, key: key, salt: salt, extended: esn, udp: udp, ipv6: ipv6 ?? false,
            sequence: number, packet: try octets(packet))
    }

    private func octets(_ text: String) throws -> [UInt8] {
        let digits = text.utf8.compactMap { $0 < 0x80 ? Character(UnicodeScalar($0)).hexDigitValue : nil }
        guard digits.count == text.utf8.count, digits.count.isMultiple(of: 2) else { throw Malformed() }
        return stride(from: 0, to: digits.count, by: 2).map { UInt8(digits[$0] << 4 | digits[$0 + 1]) }
    }

    struct Malformed: Error {}
}
