internal import IPsec

// EAP-TLS (type 13): TLS handshakes cut into pieces that fit EAP. RFC 5216 §3, RFC 9190.
//
//   Flags (1): L M S R R R R R | TLS Message Length (4, with L) | TLS data

/// One EAP-TLS packet, from its flags on.
package struct EAPTLSPacket: Hashable, Sendable {
    package static let lengthFlag: UInt8 = 0x80
    package static let moreFlag: UInt8 = 0x40
    package static let startFlag: UInt8 = 0x20

    package var isStart = false
    /// More of the same TLS message follows.
    package var hasMore = false
    /// Octets of the whole TLS message, where it is told.
    package var totalBytes: Int?
    package var data: [UInt8] = []

    package init(isStart: Bool = false, hasMore: Bool = false, totalBytes: Int? = nil, data: [UInt8] = []) {
        (self.isStart, self.hasMore, self.totalBytes, self.data) = (isStart, hasMore, totalBytes, data)
    }

    package init(parsing bytes: ArraySlice<UInt8>) throws(IKEFault) {
        // A response of no octets at all, which some peers send for an acknowledgement, means the same as flags of zero.
        guard !bytes.isEmpty else { return }
        var reader = OctetReader(bytes)
        let flags = try reader.u8("EAP-TLS: flags")
        isStart = flags & Self.startFlag != 0
        hasMore = flags & Self.moreFlag != 0
        if flags & Self.lengthFlag != 0 { totalBytes = Int(try reader.u32("EAP-TLS: message length")) }
        data = Array(reader.rest())
    }

    package var encoded: [UInt8] {
        var bytes: [UInt8] = [
            (totalBytes == nil ? 0 : Self.lengthFlag) | (hasMore ? Self.moreFlag : 0) | (isStart ? Self.startFlag : 0)
        ]
        if let totalBytes { bytes.append(u32: UInt32(clamping: totalBytes)) }
        return bytes + data
    }

    package var isAcknowledgement: Bool { !isStart && !hasMore && data.isEmpty }
}

/// Puts TLS messages together from pieces, and cuts ours. "EAP is a simple ACK-NAK protocol": one side sends pieces, the other an
/// empty packet for each. RFC 5216 §2.1.5.
package struct EAPTLSFraming {
    /// Octets of one TLS flight. RFC 5216 §2.1.5 needs 64 KB for the longest message; certificate chains take a tenth.
    package static let messageBytesMost = 65_536
    /// TLS octets in one packet. IKE messages stay below 1280 octets with it, so that no IP fragment is needed.
    package static let pieceBytes = 1000

    package enum Outcome: Equatable {
        /// A whole message; empty when the peer acknowledged our last piece and has nothing to say.
        case message([UInt8])
        /// To be sent: the next piece of ours, or the acknowledgement of the peer's.
        case reply(EAPTLSPacket)
    }

    private var incoming: [UInt8] = []
    private var announced: Int?
    private var outgoing: ArraySlice<UInt8> = []

    package init() {}

    /// Begins to send a message; the first piece. An empty one makes an acknowledgement.
    package mutating func send(_ message: [UInt8]) -> EAPTLSPacket {
        outgoing = message[...]
        return next(totalBytes: message.count > Self.pieceBytes ? message.count : nil)
    }

    private mutating func next(totalBytes: Int?) -> EAPTLSPacket {
        let piece = Array(outgoing.prefix(Self.pieceBytes))
        outgoing = outgoing.dropFirst(piece.count)
        return EAPTLSPacket(hasMore: !outgoing.isEmpty, totalBytes: totalBytes, data: piece)
    }

    package mutating func receive(_ packet: EAPTLSPacket) throws(IKEFault) -> Outcome {
        if !outgoing.isEmpty {
            guard packet.isAcknowledgement else { throw .peerMisbehaved("EAP-TLS: data between the pieces of a message of ours") }
            return .reply(next(totalBytes: nil))
        }
        if let total = packet.totalBytes {
            guard total <= Self.messageBytesMost else { throw .malformed("EAP-TLS: message longer than 65536 octets") }
            // Only the first piece must have it; some peers repeat it.
            guard announced == nil || announced == total else { throw .malformed("EAP-TLS: message length changed") }
            announced = total
        }
        guard incoming.count + packet.data.count <= announced ?? Self.messageBytesMost else {
            throw .malformed("EAP-TLS: message longer than announced")
        }
        incoming += packet.data
        if packet.hasMore {
            guard !packet.data.isEmpty else { throw .malformed("EAP-TLS: empty piece") }
            return .reply(EAPTLSPacket())
        }
        guard announced == nil || announced == incoming.count else { throw .malformed("EAP-TLS: message shorter than announced") }
        defer { (incoming, announced) = ([], nil) }
        return .message(incoming)
    }
}

/// One end of an EAP-TLS conversation. RFC 5216 §2.1, RFC 9190 §2.1.
package final class EAPTLSConversation {
    /// Packets of the peer in one conversation: 64 KB each way in pieces of 100 octets would still fit.
    package static let packetsMost = 200

    private let engine: any TLSEngine
    private let isServer: Bool
    private var framing = EAPTLSFraming()
    private var outcome: TLSOutcome?
    private var failure: String?
    private var packets = 0
    private var hasBegun = false
    private var hasAdvanced = false
    /// What the handshake settled on, once it has.
    package var settled: TLSOutcome? { outcome }

    /// Why the handshake failed, while the peer is still being told.
    package var refusal: String? { failure }

    package init(_ engine: any TLSEngine, isServer: Bool) { (self.engine, self.isServer) = (engine, isServer) }

    /// The server's first request.
    package func begin() -> [UInt8] {
        hasBegun = true
        return EAPTLSPacket(isStart: true).encoded
    }

    package func receive(_ data: ArraySlice<UInt8>) -> EAPMethodStep {
        packets += 1
        guard packets <= Self.packetsMost else { return .failure(send: nil, reason: "EAP-TLS goes on for too long") }
        do throws(IKEFault) {
            let packet = try EAPTLSPacket(parsing: data)
            if packet.isStart {
                guard !isServer, !hasBegun else { return .failure(send: nil, reason: "the peer begins EAP-TLS out of turn") }
                hasBegun = true
                return advance([])
            }
            guard hasBegun else { return .failure(send: nil, reason: "the server does not begin EAP-TLS with a start packet") }
            switch try framing.receive(packet) {
            case .reply(let reply): return .send(reply.encoded)
            case .message(let message): return take(message)
            }
        } catch {
            return .failure(send: nil, reason: "the peer's EAP-TLS packet is unusable: \(error.sentence)")
        }
    }

    /// About what `receive` would cost: the server's flight has a key exchange and a signature (RSA 3072), the client's a chain
    /// of certificates and a signature to verify. Pieces of a flight only cost with the last one.
    package func workMicroseconds(_ data: ArraySlice<UInt8>) -> Int {
        guard outcome == nil, failure == nil, let packet = try? EAPTLSPacket(parsing: data), !packet.hasMore,
            !packet.data.isEmpty
        else { return 0 }
        return hasAdvanced ? 1500 : 3000
    }

    private func take(_ message: [UInt8]) -> EAPMethodStep {
        if let failure { return .failure(send: nil, reason: failure) }
        if isServer, let outcome, message.isEmpty { return .success(send: nil, key: outcome.masterSessionKey) }
        // An empty message where TLS wants octets is the peer's way to wait; TLS decides.
        guard outcome == nil, !message.isEmpty else {
            return .failure(send: nil, reason: "the peer's EAP-TLS packet is out of turn")
        }
        return advance(message)
    }

    /// After `ask`.
    package func resume(_ response: [UInt8]?) -> EAPMethodStep { step(engine.resume(response)) }

    private func advance(_ message: [UInt8]) -> EAPMethodStep {
        hasAdvanced = true
        return step(engine.advance(message))
    }

    private func step(_ progress: TLSProgress) -> EAPMethodStep {
        switch progress {
        case .undecided(let check): return .ask(check)
        case .going(let output): return .send(framing.send(output).encoded)
        case .established(let output, let outcome):
            self.outcome = outcome
            let packet = framing.send(output).encoded
            // The server is sure when the client has agreed to its last flight; the client has nothing to wait for but the end.
            return isServer ? .send(packet) : .success(send: packet, key: outcome.masterSessionKey)
        case .failed(let output, let reason):
            failure = reason
            guard !output.isEmpty else { return .failure(send: nil, reason: reason) }
            // "the EAP server MUST … send a … fatal alert … [and] wait for … the peer to reply" (RFC 5216 §2.1.3, in substance).
            let packet = framing.send(output).encoded
            return isServer ? .send(packet) : .failure(send: packet, reason: reason)
        }
    }
}
