import IPsec

/// As much of IKEv1 as it takes to see that a peer begins with it and to answer. RFC 2408 §3.1, §3.14.
enum IKEv1 {
    /// What the first message of a peer begins, by its exchange type; nil when it is no first message.
    static func beginning(_ header: IKEHeader) -> String? {
        guard header.major == 1, header.initiatorSPI != 0, header.responderSPI == 0 else { return nil }
        return [2: "main mode", 4: "aggressive mode"][header.exchange.rawValue]
    }

    /// An informational exchange with a notification INVALID-MAJOR-VERSION, in IKEv1, since that is all that the peer reads.
    static func refusal(of header: IKEHeader, messageID: UInt32) -> [UInt8] {
        let (version, informational, notification): (UInt8, UInt8, UInt8) = (0x10, 5, 11)
        var bytes: [UInt8] = []
        bytes.append(u64: header.initiatorSPI)
        bytes.append(u64: header.responderSPI)
        bytes += [notification, version, informational, 0]
        bytes.append(u32: messageID)
        bytes.append(u32: 40)
        // No payload follows; length; the DOI of IPsec; protocol ISAKMP without an SPI; the type.
        bytes += [0, 0, 0, 12, 0, 0, 0, 1, 1, 0, 0, 5]
        return bytes
    }
}

// Peers that speak another version than 2. RFC 7296 §2.5.
extension IKECore {
    func refuseIKEv1(_ header: IKEHeader, _ mode: String, octets: Int, path: Path, now: Instant) {
        guard unprotectedAnswers.allows(now) else { counters.unprotectedAnswersSuppressed &+= 1; return }
        counters.unprotectedAnswers &+= 1
        let answer = IKEv1.refusal(of: header, messageID: UInt32(truncatingIfNeeded: random.bytes(4).bigEndianValue))
        // Never longer than what it answers: the address may be anybody's.
        if answer.count <= octets { transmit(answer, path: path) }
        refusedVersion("IKEv1 only (it began \(mode))", path, now: now)
    }

    func refusedVersion(_ spoken: String, _ path: Path, now: Instant) {
        let reason = Reason(
            .ikeVersion,
            "The peer \(path.remote) speaks \(spoken), and this end IKEv2: enable IKEv2 there (with strongSwan: version = 2).")
        if let meant = candidates(path).first {
            refused(meant, reason, from: path.remote, now: now)
        } else {
            refusedStranger(reason, from: path.remote, now: now)
        }
    }

    /// The marker of RFC 3948 §2.2 belongs to the NAT traversal port alone; on the other one it makes a message unreadable.
    func noteMarkerOnWrongPort(_ datagram: [UInt8], _ path: Path, now: Instant) {
        guard datagram.starts(with: [0, 0, 0, 0]), let header = try? IKEHeader(parsing: datagram.dropFirst(4)),
            header.major == IKEHeader.majorVersion, unprotectedAnswers.allows(now)
        else { return }
        let reason = Reason(
            .wrongPort,
            "The peer \(path.remote) sends to UDP port \(path.local.port) as if to port \(settings.natTraversalPort) (with the "
                + "marker of RFC 3948): correct the port there, or a port mapping on the way.")
        if let meant = candidates(path).first {
            refused(meant, reason, from: path.remote, now: now)
        } else {
            refusedStranger(reason, from: path.remote, now: now)
        }
    }
}
