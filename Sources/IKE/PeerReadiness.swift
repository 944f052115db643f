/// When a new child may carry outbound traffic.
extension IKECore {
    /// Whether the peer is known to have installed its inbound SA: the exchange was ours, and "the responder … MUST be prepared
    /// to accept messages on an SA before sending its response to the creation request" (RFC 7296 §2.8). False for a child that
    /// the peer made (its first packet, or its DELETE of the child before, will tell), and for the redundant one of a collision.
    public func peerReceives(inboundSPI: UInt32) -> Bool {
        guard let spi = childIndex[inboundSPI], let record = sas[spi]?.established?.child(inbound: inboundSPI) else {
            return false
        }
        return !record.isRedundant && (record.weInitiated || record.isConfirmed)
    }
}
