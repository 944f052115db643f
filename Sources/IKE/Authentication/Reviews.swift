import IPsec
import Wire

// Peers that are connected when a revocation list changes: those whose certificates it names are shut out.
extension IKECore {
    /// Puts the established peers of a connection in line to be judged again; `reviewPeers` does it.
    public func lookAgainAtPeers(of connection: String) {
        reviews += connections[connection]?.sas ?? []
    }

    /// Judges some of them, so that many do not hold up everything else, and ends the IKE SAs of those that were revoked. To be
    /// called again in a moment while `hasReviews`.
    public func reviewPeers(now: Instant) {
        for _ in 0..<Bounds.reviewsAtOnce {
            guard let spi = reviews.popFirst() else { break }
            guard let sa = sas[spi], let established = sa.established, let plan = plan(of: sa),
                let refusal = established.peer.review?.revocation()
            else { continue }
            counters.peersRevoked &+= 1
            let reason =
                "The peer \(established.remoteIdentity) at \(sa.path.remote) is shut out of connection \(plan.name): "
                + refusal.sentence
            close(sa, reason: reason, now: now)
        }
        settle(now)
    }

    public var hasReviews: Bool { !reviews.isEmpty }
}
