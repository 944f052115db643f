import IKE
import IPsec
import Wire

/// What only shows when connections and policies are seen together.
extension Reader {
    /// Comparing everything with everything stops being instant somewhere; past this many pairs it is left out.
    static var maxComparedSelectors: Int { 2048 }

    func crossCheck(connections: [CheckedConnection], policies: [CheckedPolicy]) {
        checkSelectors(connections)
        checkPeers(connections)
        checkBypasses(policies, connections)
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
}
