import IPsec
import Wire

// Peers that are connected when a revocation list changes: those whose certificates it names are shut out.
extension IKECore {
    /// Puts the established peers of a connection in line to be judged again; `reviewPeer` does it.
    public func lookAgainAtPeers(of connection: String, now: Instant) {
        lastReview = now
        let inLine = Set(reviews)
        if let state = connections[connection] { reviews += state.sas.filter { !inLine.contains($0) } }
    }

    /// Judges the next of them, and ends its IKE SA when it was revoked. Each may take a millisecond: to be called while
    /// `hasReviews`, but not for long at a time.
    public func reviewPeer(now: Instant) {
        guard let spi = reviews.popFirst(), let sa = sas[spi], let established = sa.established, let plan = plan(of: sa),
            let refusal = established.peer.review?.revocation()
        else { return }
        counters.peersRevoked &+= 1
        let sentence =
            "The peer \(established.remoteIdentity) at \(sa.path.remote) is shut out of connection \(plan.name): "
            + refusal.sentence
        close(sa, reason: Reason(.certificate, sentence), now: now)
        settle(now)
    }

    public var hasReviews: Bool { !reviews.isEmpty }
}
