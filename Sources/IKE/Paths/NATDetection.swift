/// NAT_DETECTION_SOURCE_IP and NAT_DETECTION_DESTINATION_IP. RFC 7296 §2.23.
package struct NATDetection {
    let crypto: any IKECrypto
    package init(crypto: any IKECrypto) { self.crypto = crypto }

    /// "a SHA-1 digest of the SPIs (in the order they appear in the header), IP address, and port".
    package func hash(initiatorSPI: UInt64, responderSPI: UInt64, endpoint: Endpoint) -> [UInt8] {
        var data = [UInt8](u64: initiatorSPI) + [UInt8](u64: responderSPI) + endpoint.address.bytes
        data.append(u16: endpoint.port)
        return crypto.sha1(data)
    }

    /// The two notifies of a message that travels `path`.
    /// - Parameter forged: a digest that fits no address, sent as the source's so that the peer encapsulates in UDP although
    ///   there is no NAT (`nat_traversal: force`).
    package func notifies(initiatorSPI: UInt64, responderSPI: UInt64, path: Path, forged: [UInt8]?) -> [Payload] {
        let source = forged ?? hash(initiatorSPI: initiatorSPI, responderSPI: responderSPI, endpoint: path.local)
        let destination = hash(initiatorSPI: initiatorSPI, responderSPI: responderSPI, endpoint: path.remote)
        return [
            .notify(Notify(.natDetectionSourceIP, data: source)), .notify(Notify(.natDetectionDestinationIP, data: destination)),
        ]
    }

    package struct Finding: Hashable, Sendable {
        package var localNAT = false
        package var remoteNAT = false
        package var isSupportedByPeer = false
    }

    /// What the peer's notifies say about the path on which they arrived.
    package func examine(_ payloads: PayloadList, initiatorSPI: UInt64, responderSPI: UInt64, path: Path) -> Finding {
        let sources = payloads.notifies.filter { $0.type == .natDetectionSourceIP }
        let destinations = payloads.notifies.filter { $0.type == .natDetectionDestinationIP }
        guard !sources.isEmpty, !destinations.isEmpty else { return Finding() }
        let remote = hash(initiatorSPI: initiatorSPI, responderSPI: responderSPI, endpoint: path.remote)
        let local = hash(initiatorSPI: initiatorSPI, responderSPI: responderSPI, endpoint: path.local)
        // "If none of the NAT_DETECTION_SOURCE_IP payload(s) received matches … the system sending those payloads is behind a
        // NAT".
        return Finding(
            localNAT: !destinations.contains { $0.data == local }, remoteNAT: !sources.contains { $0.data == remote },
            isSupportedByPeer: true)
    }
}
