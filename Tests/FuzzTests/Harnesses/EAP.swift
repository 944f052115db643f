import IKE

/// EAP packets and what they carry: EAP-MSCHAPv2, EAP-TLS pieces, RADIUS packets, configuration payloads; and conversations. The
/// first octet says which. What parses must encode, and what then parses must be the same.
func eapHarness(_ bytes: [UInt8]) {
    guard let selector = bytes.first else { return }
    let body = bytes.dropFirst()
    switch selector % 12 {
    case 0:
        if let packet = EAPPacket(parsing: Array(body)) { precondition(packet.encoded == Array(body), "\(packet)") }
    case 1, 2:
        let isFromServer = selector % 12 == 1
        guard let packet = try? MSCHAPv2Packet(parsing: body, isFromServer: isFromServer) else { return }
        precondition((try? MSCHAPv2Packet(parsing: packet.encoded[...], isFromServer: isFromServer)) == packet, "\(packet)")
    case 3:
        guard let failure = MSCHAPv2Failure(message: Array(body)) else { return }
        precondition(MSCHAPv2Failure(message: failure.encoded) == failure, "\(failure)")
    case 4: feedPieces(Array(body))
    case 5:
        guard let packet = try? RADIUSPacket(parsing: body) else { return }
        _ = (packet.eapMessage, packet.vendor(RADIUSType.microsoft, RADIUSType.receiveKey))
        precondition((try? RADIUSPacket(parsing: packet.encoded[...])) == packet, "\(packet)")
    case 6:
        guard let configuration = try? WireConfiguration(parsing: body) else { return }
        precondition((try? WireConfiguration(parsing: configuration.encoded[...])) == configuration, "\(configuration)")
    case 7: converse(.server, usesTLS: false, body)
    case 8: converse(.server, usesTLS: true, body)
    case 9: converse(.client, usesTLS: false, body)
    case 10: converse(.client, usesTLS: true, body)
    default: converse(.radius, usesTLS: body.first.map { $0 & 1 == 1 } ?? false, body.dropFirst())
    }
}

private func converse(_ role: EAPConversation.Role, usesTLS: Bool, _ bytes: ArraySlice<UInt8>) {
    var script = Script(bytes: Array(bytes))
    EAPConversation(role, usesTLS: usesTLS).run(&script)
}

/// Many EAP-TLS packets, each with an octet of length in front: no message grows past its bound.
func feedPieces(_ bytes: [UInt8]) {
    var framing = EAPTLSFraming()
    var rest = bytes[...]
    while let length = rest.popFirst() {
        let piece = rest.prefix(Int(length))
        rest = rest.dropFirst(piece.count)
        guard let packet = try? EAPTLSPacket(parsing: piece), let outcome = try? framing.receive(packet) else { return }
        if case .message(let message) = outcome {
            precondition(message.count <= EAPTLSFraming.messageBytesMost, "a message of \(message.count) octets")
            if !message.isEmpty { _ = framing.send(message) }
        }
    }
}
