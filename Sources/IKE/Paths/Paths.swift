public import Wire

// Which addresses a connection can use, and in which order they are tried.
extension IKECore {
    /// What this gateway can send from now: addresses that are on an interface which is up and has a carrier. Until it is told
    /// the core takes every configured address for usable.
    public func setLocalAddresses(_ present: Set<IPAddress>, now: Instant) {
        guard present != presentAddresses else { return }
        let before = presentAddresses
        presentAddresses = present
        for spi in sas.keys.sorted() {
            if let sa = sas[spi] { localAddressesChanged(sa, now: now) }
        }
        for name in connectionOrder {
            guard let state = connections[name], let before, current(state) == nil,
                state.plan.localAddresses.contains(where: { present.contains($0) && !before.contains($0) })
            else { continue }
            // What kept it down may be over.
            state.nextAttempt = state.nextAttempt.map { min($0, now + Bounds.shortestPause) }
            touch(connection: name)
        }
        settle(now)
    }

    func isPresent(_ address: IPAddress) -> Bool { presentAddresses?.contains(address) ?? true }

    /// Every pair of one of our addresses with one of the peer's, of the same family: the peer's preferred address first, and for
    /// it our addresses in order of preference.
    func addressPairs(_ plan: ConnectionPlan, remotes: [IPAddress]) -> [AddressPair] {
        let locals = plan.localAddresses.filter(isPresent)
        return remotes.flatMap { remote in
            locals.filter { $0.isIPv4 == remote.isIPv4 }.map { AddressPair(local: $0, remote: remote) }
        }
    }

    /// What the next attempt uses. Without an address of ours it is made all the same: its failure says why.
    func nextPair(_ state: ConnectionState) -> AddressPair? {
        let pairs = addressPairs(state.plan, remotes: state.plan.remoteAddresses)
        guard !pairs.isEmpty else {
            return state.plan.remoteAddress.map { AddressPair(local: state.plan.localAddress, remote: $0) }
        }
        return pairs[state.pathTurn % pairs.count]
    }

    /// "the initiator SHOULD try various source and destination address combinations" (RFC 4555 §3.1): the next pair has its
    /// turn. True when there is one that this round has not tried.
    func takeNextTurn(_ state: ConnectionState) -> Bool {
        let count = addressPairs(state.plan, remotes: state.plan.remoteAddresses).count
        guard count > 1 else { state.pathTurn = 0; return false }
        state.pathTurn = (state.pathTurn + 1) % count
        return state.pathTurn != 0
    }

    /// Another pair waits for its turn: this one is not tried for long.
    func hasAlternatives(_ sa: IKESA) -> Bool {
        guard let plan = plan(of: sa) else { return false }
        return addressPairs(plan, remotes: plan.remoteAddresses).count > 1
    }
}

/// An address of ours and one of the peer's.
struct AddressPair: Hashable, Sendable {
    var local: IPAddress
    var remote: IPAddress
}

extension Bounds {
    /// Retransmissions of IKE_SA_INIT while another pair of addresses waits for its turn.
    static let triesPerAddressPair = 2
}
