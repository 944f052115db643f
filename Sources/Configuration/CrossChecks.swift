import IKE
import IPsec
import Wire

/// What only shows when connections and policies are seen together.
extension Reader {
    /// Comparing everything with everything stops being instant somewhere; past this many pairs it is left out.
    static var maxComparedSelectors: Int { 2048 }

    /// Of policies with children and with each other.
    static var maxPolicyComparisons: Int { 2_000_000 }

    func crossCheck(connections: [CheckedConnection], policies: [CheckedPolicy]) {
        checkSelectors(connections)
        checkPeers(connections)
        checkBypasses(policies, connections)
        checkWholePrefixes(policies, connections)
    }

    // MARK: Children

    private struct Selector {
        var local: IPPrefix
        var remote: IPPrefix
        var owner: String
        var connection: String
        var mark: Mark
    }

    /// Two children for the same packets: equal pairs are an error, since the second could never be chosen. Pairs that
    /// overlap in part are a warning that says who wins.
    private func checkSelectors(_ connections: [CheckedConnection]) {
        var seen: [Selector] = []
        for connection in connections {
            for child in connection.children {
                let owner = "\(connection.connection.name)/\(child.child.name)"
                let mine = selectors(of: child, owner: owner, connection: connection.connection.name)
                guard seen.count + mine.count <= Self.maxComparedSelectors else { return }
                compare(mine, with: seen)
                seen += mine
            }
        }
    }

    private func selectors(of child: CheckedChild, owner: String, connection: String) -> [Selector] {
        zip(child.child.remoteSubnets, child.remoteMarks).flatMap { remote, mark in
            child.child.localSubnets.map { Selector(local: $0, remote: remote, owner: owner, connection: connection, mark: mark) }
        }
    }

    private func compare(_ mine: [Selector], with seen: [Selector]) {
        for selector in mine {
            guard let other = seen.first(where: { $0.local.overlaps(selector.local) && $0.remote.overlaps(selector.remote) })
            else { continue }
            let pair = "\(selector.local) to \(selector.remote)"
            if other.local == selector.local, other.remote == selector.remote {
                error(
                    selector.mark, "\(pair) belongs to \(quoted(other.owner)) already; two children cannot carry the same traffic"
                )
            } else {
                warning(
                    selector.mark,
                    "\(pair) overlaps \(other.local) to \(other.remote) of \(quoted(other.owner)); what both cover "
                        + "goes to \(quoted(other.owner)), which comes first"
                )
            }
        }
    }

    // MARK: Peers

    /// A responder tells connections apart by addresses and identities alone.
    private func checkPeers(_ connections: [CheckedConnection]) {
        struct Ends: Hashable {
            var localAddresses: [IPAddress], remoteAddresses: [IPAddress]
            var localIdentity: Identity, remotePattern: IdentityPattern
        }
        var first: [Ends: String] = [:]
        for checked in connections {
            let connection = checked.connection
            let ends = Ends(
                localAddresses: connection.localAddresses, remoteAddresses: connection.remoteAddresses,
                localIdentity: connection.localIdentity, remotePattern: connection.remotePattern)
            guard let other = first[ends] else { first[ends] = connection.name; continue }
            warning(
                checked.nameMark,
                "connection \(quoted(connection.name)) has the same addresses and identities as \(quoted(other)); a "
                    + "peer that calls always gets the first. One connection with two children serves better"
            )
        }
    }

    // MARK: Policies

    /// Policies come before the connections' own: a bypass that covers a protected pair sends it out in the clear.
    private func checkBypasses(_ policies: [CheckedPolicy], _ connections: [CheckedConnection]) {
        for rule in policies {
            for policy in rule.policies where policy.action == .bypass && policy.destination.ipProtocol == 0 {
                guard let covered = pairCovered(by: policy, in: connections) else { continue }
                warning(rule.mark, "this bypass covers all of \(covered); that traffic will leave in the clear, past its tunnel")
                break
            }
        }
    }

    private func pairCovered(by policy: SecurityPolicy, in connections: [CheckedConnection]) -> String? {
        for connection in connections {
            for child in connection.connection.children {
                for local in child.localSubnets where policy.source.contains(TrafficSelector(local)) {
                    for remote in child.remoteSubnets where policy.destination.contains(TrafficSelector(remote)) {
                        return "\(local) to \(remote) of \(quoted("\(connection.connection.name)/\(child.name)"))"
                    }
                }
            }
        }
        return nil
    }

    /// XDP, the kernel's rules and the packet filter tell what goes past a tunnel by addresses alone. A bypass inside a protected
    /// prefix that needs more than them (protocol, ports, the rest of what an earlier discard takes) could not be obeyed: its
    /// packets would end at the tunnel's routes, and the answers at the filter.
    private func checkWholePrefixes(_ policies: [CheckedPolicy], _ connections: [CheckedConnection]) {
        let protections = connections.flatMap { checked in
            checked.connection.children.map { Protection($0, owner: "\(checked.connection.name)/\($0.name)") }
        }
        var discards: [SecurityPolicy] = []
        var comparisons = 0
        for rule in policies {
            var isTold = false
            for policy in rule.policies where policy.source.first.isIPv4 && !isTold {
                if policy.action == .discard { discards.append(policy); continue }
                comparisons += protections.count
                guard let owner = protections.first(where: { $0.isTouched(by: policy) })?.owner else { continue }
                if !policy.isAddressOnly {
                    error(
                        rule.mark,
                        "this bypass is for a protocol or for ports inside what \(quoted(owner)) protects, and only whole "
                            + "prefixes can go past a tunnel: remove `protocol` and the ports, or narrow the child's "
                            + "`remote_subnets`")
                    isTold = true
                } else if discards.contains(where: { $0.overlaps(policy) }) {
                    error(
                        rule.mark,
                        "an earlier discard takes a part of this bypass inside what \(quoted(owner)) protects, and only whole "
                            + "prefixes can go past a tunnel: put the bypass first, or name prefixes that no discard has")
                    isTold = true
                }
                comparisons += discards.count
            }
            guard comparisons <= Self.maxPolicyComparisons else { return }
        }
    }

    /// The prefixes of a child, as policies meet them.
    private struct Protection {
        var owner: String
        var local: [TrafficSelector]
        var remote: [TrafficSelector]

        init(_ child: Child, owner: String) {
            self.owner = owner
            // `0.0.0.0/0` is whoever asks, not a network of the site.
            local = child.localSubnets.filter { $0.length > 0 && $0.address.isIPv4 }.map { TrafficSelector($0) }
            remote = child.remoteSubnets.filter(\.address.isIPv4).map { TrafficSelector($0) }
        }

        /// Whether packets that the policy is for, or their answers, are on the way to a protected prefix. The site's own
        /// networks inside a wider one are not.
        func isTouched(by policy: SecurityPolicy) -> Bool {
            let meets = { (list: [TrafficSelector], side: TrafficSelector) in
                list.contains { TrafficSelector(first: side.first, last: side.last).intersection($0) != nil }
            }
            let addresses = TrafficSelector(first: policy.destination.first, last: policy.destination.last)
            if meets(remote, policy.destination) { return !local.contains { $0.contains(addresses) } }
            return meets(remote, policy.source) && meets(local, policy.destination)
        }
    }
}
