import IPsec
import Wire

/// The two authenticated ends of an IKE SA.
struct IdentityPair: Hashable, Sendable {
    var local: Identity
    var remote: Identity
    init(_ local: Identity, _ remote: Identity) { (self.local, self.remote) = (local, remote) }
}

// Established IKE SAs by who speaks, so that INITIAL_CONTACT (RFC 7296 §2.4) costs what the peer's own SAs cost, however many
// others there are.
extension IKECore {
    func index(_ sa: IKESA) {
        guard let established = sa.established else { return }
        let pair = IdentityPair(established.localIdentity, established.remoteIdentity)
        sa.indexedIdentities = pair
        identityIndex[pair, default: []].insert(sa.localSPI)
        // It may be the successor of one that waits in line, or have been judged by the list of before.
        if established.peer.review != nil, !reviews.isEmpty || lastReview.map({ sa.createdAt <= $0 }) ?? false {
            reviews.append(sa.localSPI)
        }
    }

    /// The IKE SAs that may be with the peer of a plan: those between the same identities, and those of connections with its
    /// address.
    package func contacts(_ plan: ConnectionPlan, at address: IPAddress) -> Set<UInt64> {
        var result = plan.remoteIdentity.flatMap { identityIndex[IdentityPair(plan.localIdentity, $0)] } ?? []
        for name in directory.named(address) + [plan.name] { if let state = connections[name] { result.formUnion(state.sas) } }
        return result
    }

    /// One peer cannot take the whole table: of too many IKE SAs between the same identities the oldest goes, without a word.
    func limitPeer(of sa: IKESA, now: Instant) {
        guard let pair = sa.indexedIdentities, let all = identityIndex[pair], all.count > Bounds.ikeSAsPerPeer else { return }
        let oldest = all.compactMap { sas[$0] }.filter { $0 !== sa }
            .min { ($0.established?.establishedAt ?? now, $0.localSPI) < ($1.established?.establishedAt ?? now, $1.localSPI) }
        guard let oldest, let established = oldest.established else { return }
        counters.peerSALimitReached &+= 1
        let name = connection(of: oldest)?.plan.name
        log(
            .warning, name,
            "The peer \(established.remoteIdentity) has more than \(Bounds.ikeSAsPerPeer) IKE SAs: its oldest is dropped.")
        drop(oldest, reason: "The peer has too many IKE SAs.", failed: false, now: now)
    }

    func unindex(_ sa: IKESA) {
        guard let pair = sa.indexedIdentities else { return }
        sa.indexedIdentities = nil
        identityIndex[pair]?.remove(sa.localSPI)
        if identityIndex[pair]?.isEmpty == true { identityIndex[pair] = nil }
    }
}
