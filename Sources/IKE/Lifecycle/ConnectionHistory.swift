import Wire

/// What became of a connection lately: for whoever asks why it comes and goes. Bounded, whatever peers do.
package struct ConnectionHistory {
    /// Times that an established connection ended without being asked to here, the newest last.
    private var losses: [(at: Instant, isDeath: Bool)] = []
    private(set) var lastFailure: ConnectionStatus.Failure?
    /// When it came up or went down last.
    private(set) var changedAt: Instant?
    private var homes: [Identity: PeerHome] = [:]
    /// Identities that two addresses hold in turns.
    private var contested: Set<Identity> = []

    /// Where an identity authenticated from.
    private struct PeerHome {
        var current: IPAddress
        var former: IPAddress?
        /// How often one of the two addresses followed the other.
        var turns = 0
        var at: Instant
    }

    /// A peer has authenticated, from this address.
    mutating func arrived(_ identity: Identity, from address: IPAddress, now: Instant) {
        if homes[identity] == nil, homes.count >= Bounds.rememberedPeers {
            homes = homes.filter { now < $0.value.at + Bounds.historyPeriod }
            guard homes.count < Bounds.rememberedPeers else { return }
        }
        var home = homes[identity] ?? PeerHome(current: address, at: now)
        if now >= home.at + Bounds.historyPeriod { home = PeerHome(current: address, at: now) }
        if address != home.current {
            home.turns = address == home.former ? home.turns + 1 : 1
            (home.former, home.current) = (home.current, address)
        }
        home.at = now
        homes[identity] = home
        if home.turns >= Bounds.turnsOfOneIdentity {
            if contested.count < Bounds.contestedIdentities { contested.insert(identity) }
        } else {
            contested.remove(identity)
        }
    }

    mutating func cameUp(now: Instant) { changedAt = now }

    /// - Parameters:
    ///   - isDeath: it failed; otherwise the peer ended it in order.
    ///   - isMeant: this end wanted it.
    mutating func wentDown(_ reason: String, isDeath: Bool, isMeant: Bool, wasUp: Bool, now: Instant) {
        if wasUp { changedAt = now }
        lastFailure = ConnectionStatus.Failure(reason: reason, at: now)
        guard wasUp, !isMeant else { return }
        losses = losses.suffix(Bounds.rememberedLosses - 1) + [(now, isDeath)]
    }

    /// What two addresses did with one identity within the last while.
    func shared(now: Instant) -> [ConnectionStatus.SharedIdentity] {
        contested.compactMap { identity in
            guard let home = homes[identity], let former = home.former, now < home.at + Bounds.historyPeriod else { return nil }
            return ConnectionStatus.SharedIdentity(
                identity: identity, addresses: [home.current, former].sorted { $0.description < $1.description },
                turns: home.turns, at: home.at)
        }.sorted { $0.identity.description < $1.identity.description }
    }

    func recentLosses(now: Instant) -> (deaths: Int, deletions: Int) {
        let recent = losses.filter { now < $0.at + Bounds.historyPeriod }
        return (recent.count(where: \.isDeath), recent.count { !$0.isDeath })
    }
}

extension Bounds {
    /// What happened longer ago does not explain what happens now.
    package static let historyPeriod: Duration = .seconds(600)
    /// Identities of one connection whose addresses are remembered.
    package static let rememberedPeers = 1024
    static let rememberedLosses = 16
    /// A, B, A, B: one device that moved would not go back and forth.
    package static let turnsOfOneIdentity = 3
    /// Identities that are told of at once.
    static let contestedIdentities = 16
}
