/// What can be wrong with a message or an exchange, split by who is to blame.
package enum IKEFault: Error, Hashable, Sendable {
    /// The octets cannot be read as what they claim to be; the text names the field. RFC 7296 §3.
    case malformed(StaticText)
    /// RFC 7296 §2.5: an unknown payload type with the critical bit set.
    case unsupportedCriticalPayload(UInt8)
    /// Well-formed, but not something both ends support: the notify that says so, its data, and a sentence for the operator.
    case incompatible(NotifyType, data: [UInt8], String)
    /// The peer broke a rule that it could have kept.
    case peerMisbehaved(String)
    /// This end failed: a library, a bound, an installation.
    case ours(String)

    /// One sentence for a reason or a log line. It holds no secret.
    package var sentence: String {
        switch self {
        case .malformed(let text): "the message is malformed: \(text)"
        case .unsupportedCriticalPayload(let type): "the message has a critical payload of unknown type \(type)"
        case .incompatible(_, _, let text), .peerMisbehaved(let text), .ours(let text): text
        }
    }

    /// The notify that answers a request with this fault. RFC 7296 §2.21.
    package var notify: Notify {
        switch self {
        case .malformed: Notify(.invalidSyntax)
        case .unsupportedCriticalPayload(let type): Notify(.unsupportedCriticalPayload, data: [type])
        case .incompatible(let type, let data, _): Notify(type, data: data)
        case .peerMisbehaved: Notify(.invalidSyntax)
        case .ours: Notify(.temporaryFailure)
        }
    }
}

/// A string literal: texts of malformed input are written here, never taken from the input.
package struct StaticText: Hashable, Sendable, ExpressibleByStringLiteral, CustomStringConvertible {
    private let text: String
    package init(stringLiteral value: String) { text = value }
    package var description: String { text }
}
