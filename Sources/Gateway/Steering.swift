import Dataplane
import IPsec
import Wire

/// A port that Culvert has attached: its row in the data plane's tables and its interface now.
struct AttachedInterface: Hashable, Sendable {
    var portIndex: Int
    var linkIndex: Int
    var name: String
    var role: PortRole
}

/// Pure functions from policy and kernel state to what the XDP program and the workers are given.
enum Steering {
    /// Bits of a set in the XDP program's prefix map.
    static let setBits = 64
    /// IKE packets allowed per second and source (an IPv4 address, an IPv6 network of 64 bits), and at once after a silence. A
    /// peer's handshake with all its retransmissions and liveness checks stays far below.
    static let ikePacketsPerSecond = 200
    static let ikeBurst = 100

    /// What the XDP program decides by. Its longest-prefix match sees one entry only, so each entry carries the sets of every
    /// prefix that covers it.
    /// - Parameter onlyPeers: IKE and ESP from other addresses is dropped unanswered; nil: anybody may be a peer.
    static func steeringPlan(
        _ policy: PolicySet, view: KernelView, outside: OutsideLinks, onlyPeers: [IPAddress]? = nil
    ) -> SteeringPlan {
        let own = SiteNetworks(policy, view: view, outside: outside).exceptions.map(\.prefix)
        let connected = unique(view.connectedPrefixes(outside.isLocalNetwork) + own + NeverProtected.prefixes)
        let discards = policy.policies.filter { $0.action == .discard }.flatMap(\.destination.prefixes).filter(\.address.isIPv4)
        // Those beyond the last bit are obeyed by the workers alone. Answers have the addresses swapped; the program knows.
        let bypasses = policy.addressOnlyBypasses.prefix(setBits)

        var prefixes: Set<IPPrefix> = Set(policy.protectedPrefixes)
        prefixes.formUnion(policy.protections.flatMap(\.local))
        prefixes.formUnion(discards)
        prefixes.formUnion(bypasses.flatMap { $0.source.prefixes + $0.destination.prefixes })
        prefixes.formUnion(connected.filter { c in prefixes.contains { $0.contains(c) } })

        let entries = prefixes.sorted(by: inTableOrder).map { prefix in
            let covers = { (list: [IPPrefix]) in list.contains { $0.contains(prefix) } }
            var entry = SteeringPlan.Prefix(
                prefix: prefix, steer: steer(prefix, policy: policy, connected: connected, discards: discards),
                localSets: 0, remoteSets: 0, bypassSource: 0, bypassDestination: 0)
            for protection in policy.protections {
                // More children than bits share them: a clear packet may then be refused for the wrong pair, never let in.
                let bit = UInt64(1) << UInt64(protection.childIndex % setBits)
                if covers(protection.local) { entry.localSets |= bit }
                if covers(protection.remote) { entry.remoteSets |= bit }
            }
            for (index, bypass) in bypasses.enumerated() {
                let bit = UInt64(1) << UInt64(index)
                if covers(bypass.source.prefixes) { entry.bypassSource |= bit }
                if covers(bypass.destination.prefixes) { entry.bypassDestination |= bit }
            }
            return entry
        }
        return SteeringPlan(
            localAddresses: unique(view.addresses.map(\.address)),
            localAddressesIPv6: unique(view.ipv6.addresses.filter(\.isUsable).map(\.address)), prefixes: entries,
            ikePacketsPerSecond: ikePacketsPerSecond, ikeBurst: ikeBurst, onlyPeers: onlyPeers)
    }

    /// What happens to a packet for `prefix` that arrives on a protected port. The longest of protected, discarded and connected
    /// prefixes that cover it decides; among equals the tunnel wins.
    private static func steer(
        _ prefix: IPPrefix, policy: PolicySet, connected: [IPPrefix], discards: [IPPrefix]
    ) -> SteeringPlan.Steer {
        let longest = { (list: [IPPrefix]) in list.filter { $0.contains(prefix) }.map(\.length).max() ?? -1 }
        let claimed = max(longest(policy.protectedPrefixes), longest(discards))
        let onLink = longest(connected)
        if claimed < 0 { return onLink < 0 ? .none : .pass }
        return onLink > claimed ? .pass : .protect
    }

    /// What the workers decide by: policy in order, the main table, neighbours on our ports.
    /// - Parameter peers: where ESP packets go: never into a tunnel, also when `0.0.0.0/0` covers them. Of IPv6 these are the
    ///   only destinations.
    static func forwardingPlan(
        _ policy: PolicySet, view: KernelView, ports: [AttachedInterface], peers: [IPAddress] = []
    ) -> ForwardingPlan {
        ForwardingPlanner(policy, view: view, ports: ports, peers: Set(peers)).plan
    }

    /// First match wins: the operator's policies, then each child's pairs. What a discard policy's prefix steers to the workers
    /// without being meant by it goes on in the clear, unless its destination is protected: then nothing matches, and it is
    /// dropped as without a policy.
    static func rules(_ policy: PolicySet) -> [ForwardingPlan.Rule] {
        var rules = policy.policies.filter { $0.source.first.isIPv4 }.map { policy in
            ForwardingPlan.Rule(
                source: policy.source, destination: policy.destination, action: policy.action == .bypass ? .bypass : .discard)
        }
        for peer in policy.peerRules {
            for local in peer.local where local.first.isIPv4 {
                for remote in peer.remote where remote.first.isIPv4 {
                    rules.append(.init(source: local, destination: remote, action: .protect(childIndex: peer.childIndex)))
                }
            }
        }
        for protection in policy.protections {
            for local in protection.local {
                for remote in protection.remote {
                    rules.append(
                        .init(
                            source: TrafficSelector(local), destination: TrafficSelector(remote),
                            action: .protect(childIndex: protection.childIndex)))
                }
            }
        }
        guard let everywhere = IPPrefix("0.0.0.0/0") else { return rules }
        let protected = policy.protectedPrefixes
        let discards = policy.policies.filter { $0.action == .discard && $0.destination.first.isIPv4 }
        let open = discards.filter { discard in
            !discard.destination.prefixes.allSatisfy { prefix in protected.contains { $0.contains(prefix) } }
        }
        guard !open.isEmpty else { return rules }
        rules += protected.map { .init(source: TrafficSelector(everywhere), destination: TrafficSelector($0), action: .discard) }
        for discard in open {
            for prefix in discard.destination.prefixes {
                rules.append(.init(source: TrafficSelector(everywhere), destination: TrafficSelector(prefix), action: .bypass))
            }
        }
        return rules
    }

    /// A fixed order, so that equal inputs give equal plans and nothing is published twice.
    static func inTableOrder(_ a: IPPrefix, _ b: IPPrefix) -> Bool {
        let (x, y) = (a.address.v4?.bits ?? 0, b.address.v4?.bits ?? 0)
        return (x, a.length) < (y, b.length)
    }

    private static func unique<T: Hashable>(_ items: [T]) -> [T] {
        var seen: Set<T> = []
        return items.filter { seen.insert($0).inserted }
    }
}
