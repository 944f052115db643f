import Foundation

/// One line from a client to the gateway on the admin socket: JSON, ended by a newline.
public struct AdminRequest: Codable, Hashable, Sendable {
    public enum Command: String, Codable, Sendable, CaseIterable {
        case status, up, down, rekey, redirect, reload, version
        /// Finds out how large datagrams to the peer may be; the outcome is in the status a little later.
        case probe
    }
    public var command: Command
    /// The connection's name; nil where the command speaks of the whole gateway.
    public var connection: String?
    /// A child of that connection; nil: all of them.
    public var child: String?
    /// `up`: how long to wait for the outcome.
    public var timeoutSeconds: Double?
    /// `rekey`: the IKE SA itself instead of its children.
    public var ike: Bool?
    /// `redirect`: the address or name of the gateway that the peer is sent to.
    public var target: String?

    enum CodingKeys: String, CodingKey {
        case command, connection, child, ike, target
        case timeoutSeconds = "timeout_seconds"
    }

    public init(
        _ command: Command, connection: String? = nil, child: String? = nil, timeoutSeconds: Double? = nil, ike: Bool? = nil,
        target: String? = nil
    ) {
        (self.command, self.connection, self.child) = (command, connection, child)
        (self.timeoutSeconds, self.ike, self.target) = (timeoutSeconds, ike, target)
    }
}

/// One line from the gateway to a client: the answer to the request of the same position.
public struct AdminResponse: Codable, Hashable, Sendable {
    public var ok: Bool
    /// The exit code the client should end with when `ok` is false.
    public var code: Int32?
    /// A sentence for the person at the client.
    public var message: String?
    /// Answer to `status`.
    public var status: StatusReport?
    /// Answer to `version`.
    public var version: String?
    /// Beside `status`: the absolute path of the file that the gateway was started with.
    public var configuration: String?

    public init(ok: Bool, code: Int32? = nil, message: String? = nil, status: StatusReport? = nil, version: String? = nil) {
        (self.ok, self.code, self.message, self.status, self.version) = (ok, code, message, status, version)
    }

    public static func status(_ report: StatusReport) -> AdminResponse { AdminResponse(ok: true, status: report) }
    public static func done(_ message: String) -> AdminResponse { AdminResponse(ok: true, message: message) }
    public static func refused(_ message: String, code: Int32 = 1) -> AdminResponse {
        AdminResponse(ok: false, code: code, message: message)
    }
}

/// The framing both ends share: one JSON value per line.
public enum AdminCodec {
    /// A request longer than this is refused and the stream closed; it protects the gateway from its clients.
    public static let maxRequestBytes = 64 * 1024
    /// A response longer than this is refused by clients: room for tens of thousands of connections.
    public static let maxResponseBytes = 64 * 1024 * 1024

    /// `value` as one line of JSON, newline included. Keys are sorted, so that equal values give equal bytes.
    public static func line(_ value: some Encodable) throws -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return Array(try encoder.encode(value)) + [UInt8(ascii: "\n")]
    }

    /// `value` over several lines, for people and for `--json` output; no final newline.
    public static func prettyJSON(_ value: some Encodable) throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes, .prettyPrinted]
        return String(decoding: try encoder.encode(value), as: UTF8.self)
    }

    /// The request on one line (with or without its newline). Throws `AdminProtocolError` with a sentence for the client.
    public static func request(_ line: some Collection<UInt8>) throws(AdminProtocolError) -> AdminRequest {
        guard line.count <= maxRequestBytes else {
            throw AdminProtocolError(
                sentence: "The request is longer than \(maxRequestBytes) bytes; send one JSON object per line.")
        }
        do {
            return try JSONDecoder().decode(AdminRequest.self, from: Data(line))
        } catch {
            let commands = AdminRequest.Command.allCases.map(\.rawValue).joined(separator: ", ")
            throw AdminProtocolError(
                sentence: "The request is not understood: send one JSON object per line whose command is one of \(commands).")
        }
    }

    /// The response on one line (with or without its newline). Throws `AdminProtocolError` with a sentence for the person.
    public static func response(_ line: some Collection<UInt8>) throws(AdminProtocolError) -> AdminResponse {
        do {
            return try JSONDecoder().decode(AdminResponse.self, from: Data(line))
        } catch {
            throw AdminProtocolError(
                sentence: "The answer on the control socket is not understood; are gateway and client of the same version?")
        }
    }
}

public struct AdminProtocolError: Error, Hashable, Sendable {
    public var sentence: String
    public init(sentence: String) { self.sentence = sentence }
}
