import IPsec
import Wire

// How large a datagram to the peer may be, found out with liveness checks that are padded to a size and must not be fragmented
// on the way. What goes unanswered is sent again in fragments of the usual size (RFC 7383 §2.5.2), so that a probe never costs
// the IKE SA. Works where ICMP is dropped, which is where it is needed.

/// A search for the largest datagram that arrives.
package struct PathProbe {
    /// Sizes that are tried in their order when the largest does not arrive, in octets from the IP header on.
    static let sizes = [576, 1000, 1280, 1300, 1320, 1340, 1360, 1380, 1400, 1420, 1440, 1460, 1480, 1492]

    let largest: Int
    private(set) var passed: Int?
    private(set) var failed: Int?
    /// A small datagram was lost too: the path loses whatever comes, and size explains nothing.
    private(set) var isLossy = false
    private(set) var next: Int?
    var finishedAt: Instant?

    init(largest: Int) { (self.largest, next) = (largest, largest) }

    /// - Parameters:
    ///   - arrived: the answer came to a datagram that was not to be fragmented.
    ///   - repeats: sent again before it came.
    mutating func answered(_ bytes: Int, arrived: Bool, repeats: Int, now: Instant) {
        if arrived { passed = max(passed ?? 0, bytes) } else { failed = min(failed ?? bytes, bytes) }
        if arrived, repeats > 0 { isLossy = true }
        if bytes == largest, arrived {
            next = nil
        } else if bytes == largest {
            next = Self.sizes.first { $0 < largest }
        } else {
            next = arrived ? Self.sizes.first { $0 > bytes && $0 < largest } : nil
        }
        if next == nil { finishedAt = now }
    }
}

extension IKECore {
    /// Begins to find out how large datagrams to the peer may be. False: nothing is established, or the peer does not take
    /// fragments, without which a probe that is lost would take the IKE SA along.
    /// - Parameter largest: octets from the outer IP header on; what the children send.
    public func probePath(connection: String, largest: Int, now: Instant) -> Bool {
        guard let state = connections[connection], let sa = current(state), sa.established != nil,
            sa.fragmentation.isNegotiated, largest >= PathProbe.sizes[0]
        else { return false }
        if let probe = state.pathProbe, probe.finishedAt == nil, sa.isProbingPath { return true }
        state.pathProbe = PathProbe(largest: largest)
        guard enqueue(.probePath, on: sa) else { return false }
        settle(now)
        return true
    }

    func startPathProbe(on sa: IKESA, now: Instant) {
        guard let probe = connection(of: sa)?.pathProbe, let bytes = probe.next, let suite = sa.suite else { return }
        let sealer = MessageSealer(crypto: crypto, cipher: suite.cipher)
        // The type is of the range for private use: "Notify payloads with status types that are not recognized MUST be ignored"
        // (RFC 7296 §3.10.1). The padding of CBC rounds up to its block, so that a message may be shorter by less than that.
        let bare = PayloadChain.encode([.notify(Notify(.pathProbe, data: []))]).count
        var padding = max(0, bytes - overheadBytes(of: sa.path) - sealer.messageBytes(innerBytes: bare))
        while padding > 0, sealer.messageBytes(innerBytes: bare + padding) > bytes - overheadBytes(of: sa.path) { padding -= 1 }
        let payloads: [Payload] = [.notify(Notify(.pathProbe, data: [UInt8](repeating: 0, count: padding)))]
        guard sa.ourKeys != nil else { return }
        do throws(IKEFault) {
            let content = ProtectedContent(
                header: sa.header(.informational, isResponse: false, id: sa.nextRequestID), payloads: payloads)
            let messages = try sealed(content, on: sa, path: sa.path, datagramBytes: max(bytes, sa.fragmentation.datagramBytes))
            launch(.probePath(bytes), .informational, messages, content, on: sa, isWhole: true, now: now)
        } catch {
            log(.error, sa.connection, "A request could not be sent: \(error.sentence).")
        }
    }

    /// A probe that goes unanswered may be fragmented from now on. True when it was one.
    func relaxProbe(_ request: inout OutstandingRequest, on sa: IKESA) -> Bool {
        guard request.isWhole, request.transmissions >= Bounds.transmissionsPerFragmentSize else { return false }
        request.isWhole = false
        if let content = request.content,
            let split = try? sealed(content, on: sa, path: sa.path, datagramBytes: sa.fragmentation.datagramBytes)
        {
            request.messages = split
        }
        request.interval = settings.retransmitInitial
        return true
    }

    func finishPathProbe(_ sa: IKESA, _ request: OutstandingRequest, bytes: Int, now: Instant) {
        guard let connection = connection(of: sa), connection.pathProbe?.next == bytes else { return }
        connection.pathProbe?.answered(bytes, arrived: request.isWhole, repeats: request.transmissions - 1, now: now)
        if connection.pathProbe?.next != nil { enqueue(.probePath, on: sa) }
    }
}

extension OutstandingRequest {
    /// Those that should have arrived: a datagram that is meant to be too large for the path says nothing of the peer.
    var plainTransmissions: Int {
        guard case .probePath = kind else { return transmissions }
        return isWhole ? 0 : transmissions - Bounds.transmissionsPerFragmentSize
    }
}

extension IKESA {
    var isProbingPath: Bool {
        if case .probePath = outstanding?.kind { return true }
        return tasks.contains(.probePath)
    }
}
