import IKE
import IPsec
import Wire

/// `peers` of a child: which subnets belong to which identity, where a connection takes several.
extension Reader {
    static var maxPeersOfChild: Int { 4096 }

    /// - Parameter pattern: who may authenticate as the peer; nil: that is told elsewhere.
    func peers(
        _ entry: Entry?, of child: CheckedChild, pattern: IdentityPattern?, isFromAnywhere: Bool
    ) -> [PeerSubnets] {
        guard let entry else {
            if isFromAnywhere { warnOfFirstCome(child, pattern) }
            return []
        }
        if let exact = pattern?.exact {
            error(
                entry.keyMark,
                "`peers` tells apart the identities of a connection that takes several; this one takes \(exact) only")
            return []
        }
        if child.child.remoteIsDynamic {
            error(entry.keyMark, "`peers` is of no use beside `remote_subnets: dynamic`, where each peer has its own address")
            return []
        }
        guard let values = list(entry) else { return [] }
        if values.count > Self.maxPeersOfChild { error(entry.mark, "more than \(Self.maxPeersOfChild) entries in `peers`") }
        var result: [PeerSubnets] = []
        var seen: Set<Identity> = []
        var owners = PrefixOwners()
        for value in values.prefix(Self.maxPeersOfChild) {
            guard let mapping = mapping(value, "an entry of `peers`") else { continue }
            checkKeys(mapping, in: .peerOfChild)
            guard let idEntry = require("id", of: mapping, for: "an entry of `peers`"),
                let subnetsEntry = require("remote_subnets", of: mapping, for: "an entry of `peers`"),
                let identity = identity(idEntry)
            else { continue }
            if let pattern, !pattern.matches(identity) {
                error(
                    idEntry.mark,
                    "\(identity) does not fit the connection's `remote.id` \(pattern), so it can never authenticate")
            }
            if !seen.insert(identity).inserted { error(idEntry.mark, "\(identity) is named twice in `peers`") }
            let own = subnets(subnetsEntry, of: child, identity, &owners)
            result.append(PeerSubnets(identity: identity, selectors: own.map { TrafficSelector($0) }))
        }
        return result
    }

    private func subnets(
        _ entry: Entry, of child: CheckedChild, _ identity: Identity, _ owners: inout PrefixOwners
    ) -> [IPPrefix] {
        guard let values = list(entry) else { return [] }
        if values.isEmpty { error(entry.mark, "`remote_subnets` is empty; name at least one subnet") }
        if values.count > Self.maxSubnets { error(entry.mark, "more than \(Self.maxSubnets) subnets in `remote_subnets`") }
        var result: [IPPrefix] = []
        for value in values.prefix(Self.maxSubnets) {
            guard let prefix = prefix(value, in: entry.key) else { continue }
            if !child.child.remoteSubnets.contains(where: { $0.length <= prefix.length && $0.contains(prefix) }) {
                error(value.mark, "\(prefix) is not inside `remote_subnets` of child \(quoted(child.child.name))")
            }
            if let other = owners.claim(prefix, for: identity) {
                error(value.mark, "\(prefix) overlaps what \(other) has; a subnet belongs to one identity")
            }
            result.append(prefix)
        }
        return result
    }

    /// What a peer holds nobody takes from it; but who comes first is served first.
    private func warnOfFirstCome(_ child: CheckedChild, _ pattern: IdentityPattern?) {
        guard let pattern, pattern.exact == nil, !child.child.remoteIsDynamic, let mark = child.remoteMarks.first,
            child.child.remoteSubnets.contains(where: { $0.length < ($0.address.isIPv4 ? 32 : 128) })
        else { return }
        warning(
            mark,
            "whoever authenticates as \(pattern) may have any part of these `remote_subnets` that nobody else has at the moment; "
                + "say in `peers` of the child which identity has which, or use `remote_subnets: dynamic`")
    }
}

/// Who has which prefix, so far.
private struct PrefixOwners {
    private let tree = PrefixTree<(prefix: IPPrefix, owner: Identity)>(WorkMeter())

    /// Another identity that has a part of it.
    mutating func claim(_ prefix: IPPrefix, for owner: Identity) -> Identity? {
        let other = tree.first(overlapping: prefix.address, prefix.last) { $0.prefix.overlaps(prefix) && $0.owner != owner }
        tree.insert((prefix, owner), first: prefix.address, last: prefix.last)
        return other?.owner
    }
}
