// EAP-MSCHAPv2 (type 26) as draft-kamath-pppext-eap-mschapv2-02 §2 lays it out: what follows the type octet.
//
//   OpCode (1) | MS-CHAPv2-ID (1) | MS-Length (2) | data            MS-Length counts from OpCode on

/// One EAP-MSCHAPv2 message.
package enum MSCHAPv2Packet: Hashable, Sendable {
    /// The server's 16 octets and its name.
    case challenge(id: UInt8, challenge: [UInt8], name: [UInt8])
    /// The client's 16 octets, its proof of 24, and the user name with a domain if it wrote one.
    case response(id: UInt8, peerChallenge: [UInt8], response: [UInt8], name: [UInt8])
    /// `S=<40 hexadecimal digits> M=<text>`.
    case success(id: UInt8, message: [UInt8])
    /// `E=<error> R=<0|1> C=<32 hexadecimal digits> V=3 M=<text>`.
    case failure(id: UInt8, message: [UInt8])
    /// The client agrees: one octet.
    case acknowledgement(isSuccess: Bool)

    package static let challengeBytes = 16
    package static let responseBytes = 24
    /// RFC 2759 §4: the name is at most 256 octets.
    package static let nameBytesMost = 256
    package static let messageBytesMost = 512

    private enum OpCode {
        static let challenge: UInt8 = 1
        static let response: UInt8 = 2
        static let success: UInt8 = 3
        static let failure: UInt8 = 4
    }

    /// - Parameter isFromServer: a success of one octet is a client's, one with a message a server's.
    package init(parsing data: ArraySlice<UInt8>, isFromServer: Bool) throws(IKEFault) {
        var reader = OctetReader(data)
        let code = try reader.u8("EAP-MSCHAPv2: no operation code")
        if !isFromServer, code == OpCode.success || code == OpCode.failure {
            self = .acknowledgement(isSuccess: code == OpCode.success)
            return
        }
        let id = try reader.u8("EAP-MSCHAPv2: no identifier")
        let length = Int(try reader.u16("EAP-MSCHAPv2: no length"))
        guard length == data.count else { throw .malformed("EAP-MSCHAPv2: length") }
        switch (code, isFromServer) {
        case (OpCode.challenge, true):
            let size = Int(try reader.u8("EAP-MSCHAPv2: no value size"))
            guard size == Self.challengeBytes else { throw .malformed("EAP-MSCHAPv2: challenge size") }
            let challenge = Array(try reader.take(size, "EAP-MSCHAPv2: challenge"))
            self = .challenge(id: id, challenge: challenge, name: try Self.name(&reader))
        case (OpCode.response, false):
            let size = Int(try reader.u8("EAP-MSCHAPv2: no value size"))
            // Peer challenge, eight reserved octets, response, flags. RFC 2759 §4.
            guard size == Self.challengeBytes + 8 + Self.responseBytes + 1 else {
                throw .malformed("EAP-MSCHAPv2: response size")
            }
            let challenge = Array(try reader.take(Self.challengeBytes, "EAP-MSCHAPv2: peer challenge"))
            _ = try reader.take(8, "EAP-MSCHAPv2: reserved octets")
            let response = Array(try reader.take(Self.responseBytes, "EAP-MSCHAPv2: response"))
            _ = try reader.u8("EAP-MSCHAPv2: flags")
            self = .response(id: id, peerChallenge: challenge, response: response, name: try Self.name(&reader))
        case (OpCode.success, true), (OpCode.failure, true):
            let message = Array(reader.rest())
            guard message.count <= Self.messageBytesMost else { throw .malformed("EAP-MSCHAPv2: message too long") }
            self = code == OpCode.success ? .success(id: id, message: message) : .failure(id: id, message: message)
        default: throw .malformed("EAP-MSCHAPv2: operation code")
        }
    }

    private static func name(_ reader: inout OctetReader) throws(IKEFault) -> [UInt8] {
        let name = Array(reader.rest())
        guard name.count <= Self.nameBytesMost else { throw .malformed("EAP-MSCHAPv2: name too long") }
        return name
    }

    package var encoded: [UInt8] {
        switch self {
        case .challenge(let id, let challenge, let name):
            return Self.encode(OpCode.challenge, id, [UInt8(clamping: challenge.count)] + challenge + name)
        case .response(let id, let peerChallenge, let response, let name):
            let reserved = [UInt8](repeating: 0, count: 8)
            let value = peerChallenge + reserved + response + [0]
            return Self.encode(OpCode.response, id, [UInt8(clamping: value.count)] + value + name)
        case .success(let id, let message): return Self.encode(OpCode.success, id, message)
        case .failure(let id, let message): return Self.encode(OpCode.failure, id, message)
        case .acknowledgement(let isSuccess): return [isSuccess ? OpCode.success : OpCode.failure]
        }
    }

    private static func encode(_ code: UInt8, _ id: UInt8, _ data: [UInt8]) -> [UInt8] {
        var bytes = [code, id]
        bytes.append(u16: UInt16(clamping: data.count + 4))
        return bytes + data
    }
}

/// What a failure message says. RFC 2759 §6.
package struct MSCHAPv2Failure: Hashable, Sendable {
    package var error: Int
    package var mayRetry: Bool
    /// To answer the next time; nil when the message has none.
    package var challenge: [UInt8]?

    package init(error: Int, mayRetry: Bool, challenge: [UInt8]?) {
        (self.error, self.mayRetry, self.challenge) = (error, mayRetry, challenge)
    }

    /// Nil: not of the form `E=… R=…`. Fields may come in any order and others may be among them; `M=` ends them, its text may
    /// hold blanks.
    package init?(message: [UInt8]) {
        var fields: [UInt8: ArraySlice<UInt8>] = [:]
        for word in message.split(separator: 0x20, maxSplits: 16) {
            guard word.count >= 2, word[word.startIndex + 1] == UInt8(ascii: "="), let key = word.first else { continue }
            if key == UInt8(ascii: "M") { break }
            fields[key] = word.dropFirst(2)
        }
        guard let text = fields[UInt8(ascii: "E")], (1...10).contains(text.count) else { return nil }
        error = 0
        for digit in text {
            guard (48...57).contains(digit) else { return nil }
            error = error * 10 + Int(digit - 48)
        }
        mayRetry = fields[UInt8(ascii: "R")].map { Array($0) } == [UInt8(ascii: "1")]
        challenge = fields[UInt8(ascii: "C")].flatMap { Hexadecimal.octets($0) }
        if let count = challenge?.count, count != MSCHAPv2Packet.challengeBytes { challenge = nil }
    }

    /// The message, without a text.
    package var encoded: [UInt8] {
        let digits = challenge.map { " C=" + Hexadecimal.text($0) } ?? ""
        return Array("E=\(error) R=\(mayRetry ? 1 : 0)\(digits) V=3 M=".utf8)
    }

    /// What the number means. RFC 2759 §6.
    package var meaning: String {
        switch error {
        case 646: "the account may not log in at this time"
        case 647: "the account is disabled"
        case 648: "the password has expired"
        case 649: "the account has no permission to dial in"
        case 691: "user name and password do not fit"
        case 709: "the password cannot be changed"
        default: "error \(error)"
        }
    }
}

/// Upper-case digits, as RFC 2759 §5 wants them; lower-case ones are read too.
package enum Hexadecimal {
    private static let digits = Array("0123456789ABCDEF".utf8)

    package static func text(_ octets: [UInt8]) -> String {
        String(decoding: octets.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
    }

    /// Nil when the count is odd or something else is among the digits.
    package static func octets(_ text: ArraySlice<UInt8>) -> [UInt8]? {
        guard text.count.isMultiple(of: 2) else { return nil }
        var result: [UInt8] = []
        var high: UInt8?
        for character in text {
            let value: UInt8
            switch character {
            case 48...57: value = character - 48
            case 65...70: value = character - 55
            case 97...102: value = character - 87
            default: return nil
            }
            if let first = high {
                result.append(first << 4 | value)
                high = nil
            } else {
                high = value
            }
        }
        return result
    }
}
