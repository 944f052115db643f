import Configuration
import IKE
import IPsec
import Wire

/// Several peers of one connection, each with children of its own, and the addresses that a peer gives to us.
///
/// A connection that takes any peer has one child number per configured child for what nobody has claimed yet (its traffic is
/// protected, and goes nowhere), and one more per child of each peer that is there. The rules of a peer's child come before.
struct PeerRule: Hashable, Sendable {
    var childIndex: Int
    var local: [TrafficSelector]
    var remote: [TrafficSelector]
}

extension ControlThread {
    /// The number under which the workers know the child; a new one for a peer that just came, or for one of several SAs.
    func childIndex(for key: ChildKey) -> Int? {
        guard let configured = children.index(of: key.configured) else { return nil }
        return key.hasOwnRules ? children.assign(key) : configured
    }

    /// Nil when the peer assigns what the child carries, or the child is gone.
    func configuredSelectors(of sa: ChildSA) -> (local: [TrafficSelector], remote: [TrafficSelector])? {
        let connection = configuration.connections.first { $0.name == sa.connection }
        guard let child = connection?.children.first(where: { $0.name == sa.child }), !child.localIsDynamic,
            !child.remoteIsDynamic
        else { return nil }
        return (child.localSubnets.map { TrafficSelector($0) }, child.remoteSubnets.map { TrafficSelector($0) })
    }

    /// Publishes the rules of peers that came or went, and gives numbers back that nobody uses.
    func followPeers() {
        for key in lifecycle.takeAbandoned() { children.release(key) }
        guard lifecycle.peerRulesVersion != followedPeerRules else { return }
        followedPeerRules = lifecycle.peerRulesVersion
        let rules = lifecycle.peerRules
        guard rules != publishedPeerRules else { return }
        publishedPeerRules = rules
        publishChangedPlans()
    }

    /// The peer gave us addresses, or took them back.
    func take(_ offered: VirtualConfiguration?, of connection: String) {
        var given = offered
        given?.addresses.removeAll { address in
            guard let use = foreignUse(of: address) else { return false }
            log(
                .error,
                "the peer gives us \(address), \(use): it is not taken; let the peer's pool have addresses of their own",
                connection: connection)
            return true
        }
        virtualAddresses[connection] = given
        let all = configuration.connections.compactMap { virtualAddresses[$0.name]?.addresses }.flatMap { $0 }.compactMap(\.v4)
        for problem in surroundings.kernel.setVirtualAddresses(all) { log(.error, problem, connection: connection) }
        if let given {
            let dns = given.dns.isEmpty ? "none" : given.dns.map(\.description).joined(separator: ", ")
            log(
                .info, "virtual addresses \(given.addresses.map(\.description).joined(separator: ", ")), name servers \(dns)",
                connection: connection)
        }
        // The kernel tells of the address in a moment, too; the policy changes now.
        _ = surroundings.kernel.takeChanges()
        followAll()
    }

    /// Who has the address already: a peer could otherwise take a host of the site, or a next hop, away from us.
    private func foreignUse(of address: IPAddress) -> String? {
        if configuration.connections.contains(where: { $0.remoteAddresses.contains(address) }) { return "the address of a peer" }
        let others = surroundings.kernel.view.addresses.filter { $0.linkIndex != surroundings.kernel.tunLinkIndex }
        if others.contains(where: { .v4($0.address) == address }) { return "an address of this gateway" }
        return others.compactMap(\.connected).first { $0.contains(address) }.map { "an address in our own network \($0)" }
    }
}

extension SettingsMapping {
    /// Pools, what is asked for, and what children with a dynamic local side propose before they know their address.
    static func address(_ plan: inout ConnectionPlan, as connection: Connection) {
        (plan.pools, plan.virtualAddress) = (connection.pools, connection.virtualAddress)
        let families =
            (connection.virtualAddress.wantsIPv4 ? ["0.0.0.0/0"] : []) + (connection.virtualAddress.wantsIPv6 ? ["::/0"] : [])
        let everything = families.compactMap { IPPrefix($0) }.map { TrafficSelector($0) }
        for index in plan.children.indices where plan.children[index].localIsAssigned {
            plan.children[index].localSelectors = everything
        }
    }
}
