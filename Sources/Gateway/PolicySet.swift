import Configuration
import Dataplane
import IPsec
import Wire

/// The policy of a configuration in the form that steering, forwarding and routing are computed from (IPv4).
struct PolicySet: Sendable {
    struct Protection: Sendable {
        var childIndex: Int
        var local: [IPPrefix]
        var remote: [IPPrefix]
    }

    /// Written by the operator; first match wins, before any protection.
    var policies: [SecurityPolicy]
    /// One per configured child, in file order.
    var protections: [Protection]

    /// IPv6 that peers may have from pools: this version does not carry it, so it goes nowhere.
    var uncarried: [IPPrefix] = []

    /// What single peers of connections that take several have negotiated: inside the protections, and before them.
    var peerRules: [PeerRule]

    init(policies: [SecurityPolicy], protections: [Protection], peerRules: [PeerRule] = []) {
        (self.policies, self.protections, self.peerRules) = (policies, protections, peerRules)
    }

    /// - Parameters:
    ///   - virtual: addresses that peers gave to us, by connection: the local side of children with `local_subnets: dynamic`.
    init(
        _ configuration: GatewayConfiguration, children: ChildTable, virtual: [String: [IPAddress]] = [:],
        peerRules: [PeerRule] = []
    ) {
        policies = configuration.policies
        self.peerRules = peerRules
        uncarried = Set(configuration.connections.flatMap(\.children).flatMap(\.remoteSubnets).filter { !$0.address.isIPv4 })
            .sorted { $0.description < $1.description }
        protections = configuration.connections.flatMap { connection in
            connection.children.compactMap { child in
                children.index(of: ChildKey(connection.name, child.name)).map { index in
                    let own = (virtual[connection.name] ?? []).compactMap { IPPrefix($0, length: $0.isIPv4 ? 32 : 128) }
                    let local = child.localIsDynamic ? own : child.localSubnets
                    return Protection(
                        childIndex: index, local: local.filter(\.address.isIPv4),
                        remote: child.remoteSubnets.filter(\.address.isIPv4))
                }
            }
        }
    }

    /// Destinations that leave through a tunnel or not at all, each once.
    var protectedPrefixes: [IPPrefix] {
        var seen: Set<IPPrefix> = []
        return protections.flatMap(\.remote).filter { seen.insert($0).inserted }
    }

    /// Whether some child claims traffic from this address.
    func isProtectedSource(_ address: IPv4Address) -> Bool {
        protections.contains { $0.local.contains { $0.contains(.v4(address)) } }
    }

    /// Whether `prefix`, connected or local, is an exception inside a wider protected prefix: one that contains it, none that
    /// equals it. A protected prefix inside of it stays protected, being the longer match.
    func needsException(_ prefix: IPPrefix) -> Bool {
        let protected = protectedPrefixes
        return protected.contains { $0.length < prefix.length && $0.contains(prefix) } && !protected.contains(prefix)
    }

    /// Bypass policies for any protocol and port that no earlier discard policy cuts into: they can be obeyed by whoever sees
    /// only addresses (XDP, kernel rules).
    var addressOnlyBypasses: [SecurityPolicy] {
        addressOnly(.bypass) { earlier, policy in earlier.action == .discard && earlier.overlaps(policy) }
    }

    /// Discard policies for any protocol and port that can be obeyed by kernel rules, which put every one of
    /// `addressOnlyBypasses` first: no earlier bypass of another kind cuts into them.
    var addressOnlyDiscards: [SecurityPolicy] {
        let bypasses = Set(addressOnlyBypasses)
        return addressOnly(.discard) { earlier, policy in
            earlier.action == .bypass && !bypasses.contains(earlier) && earlier.overlaps(policy)
        }
    }

    private func addressOnly(
        _ action: SecurityPolicy.Action, cutBy isCut: (SecurityPolicy, SecurityPolicy) -> Bool
    ) -> [SecurityPolicy] {
        policies.enumerated().filter { position, policy in
            guard policy.action == action, policy.isAddressOnly, policy.source.first.isIPv4, policy.destination.first.isIPv4
            else { return false }
            return !policies[..<position].contains { isCut($0, policy) }
        }.map(\.element)
    }
}

/// Destinations that are never a tunnel's business although `0.0.0.0/0` covers them: multicast and the limited broadcast.
enum NeverProtected {
    static let prefixes: [IPPrefix] = ["224.0.0.0/4", "255.255.255.255/32"].compactMap { IPPrefix($0) }
}
