import IKE
import IPsec
import Wire

/// Messages in a few words, for the trace of a replayed seed.
enum Trace {
    static func describe(_ datagram: Datagram, _ world: World) -> String {
        var bytes = datagram.bytes
        if bytes == [0xFF] { return "keepalive to \(datagram.destination)" }
        if bytes.prefix(4) == [0, 0, 0, 0] { bytes.removeFirst(4) }
        guard let header = try? IKEHeader(parsing: bytes[...]) else { return "\(bytes.count) octets" }
        let kind = header.isResponse ? "response" : "request"
        return
            "\(header.exchange) \(kind) \(header.messageID) of "
                + "\(hex(header.initiatorSPI >> 48))-\(hex(header.responderSPI >> 48))"
            + " (\(bytes.count) octets, \(datagram.source) to \(datagram.destination))"
    }
}
