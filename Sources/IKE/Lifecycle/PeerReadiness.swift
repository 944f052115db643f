/// When a new child may carry outbound traffic.
extension IKECore {
    /// Whether the peer is known to have installed its inbound SA: the exchange was ours, and "the responder … MUST be prepared
    /// to accept messages on an SA before sending its response to the creation request" (RFC 7296 §2.8). False for a child that
    /// the peer made (its first packet, or its DELETE of the child before, will tell), and for the redundant one of a collision.
    public func peerReceives(inboundSPI: UInt32) -> Bool {
        guard let spi = childIndex[inboundSPI], let record = sas[spi]?.established?.child(inbound: inboundSPI) else {
            return false
        }
        return isReceived(record)
    }

    private func isReceived(_ record: ChildRecord) -> Bool { !record.isRedundant && (record.weInitiated || record.isConfirmed) }

    /// Whether a child can take the traffic of another one that is about to go. One of which nothing is known counts after a
    /// while: the response that the peer waits for has come through by then, or comes no more.
    func isUsable(_ record: ChildRecord?, now: Instant) -> Bool {
        guard let record, record.isInstalled else { return false }
        return isReceived(record) || record.createdAt + Bounds.redundantSAWait <= now
    }

    /// The peer sends its next request, so it has our response to the one before, and the child that it brought.
    /// One that closes the IKE SA says nothing: it may have come too late for the child.
    func confirmChildren(of sa: IKESA, _ payloads: PayloadList) {
        guard let established = sa.established, !payloads.deletes.contains(where: { $0.protocolID == ProtocolID.ike }) else {
            return
        }
        let ending = Set(payloads.deletes.filter { $0.protocolID == ProtocolID.esp }.flatMap(\.spis))
        for record in established.children
        where !record.weInitiated && !record.isConfirmed && record.isInstalled && !ending.contains(record.outboundSPI) {
            record.isConfirmed = true
            guard connection(of: sa).map({ current($0) === sa }) ?? false else { continue }
            // One of several SAs of a child goes on for itself: what it replaces tells that it is not a mere twin.
            if established.current(record.name) === record || record.replaces != nil {
                emit(.useChild(inboundSPI: record.inboundSPI))
            }
        }
    }

    /// Our next request tells the peer that we have what its last response brought: it waits until that is in place.
    /// The end of that child, or of the IKE SA, does not wait.
    func isInstallingOwn(_ sa: IKESA, before task: SATask) -> Bool {
        if case .deleteIKE = task { return false }
        return sa.established?.children.contains { record in
            guard case .installing = record.state, record.weInitiated else { return false }
            return task != .deleteChild(inboundSPI: record.inboundSPI)
        } ?? false
    }
}
