/// How many children there are in all, of each connection and of each identity of one: whoever authenticates may have a share of
/// the gateway, and what exists can always be rekeyed.
struct ChildShares {
    struct Owner: Hashable {
        var connection: String
        var identity: Identity
    }

    private(set) var total = 0
    private var byConnection: [String: Int] = [:]
    private var byOwner: [Owner: Int] = [:]

    subscript(connection: String) -> Int { byConnection[connection] ?? 0 }
    subscript(owner: Owner) -> Int { byOwner[owner] ?? 0 }

    mutating func add(_ owner: Owner) {
        total += 1
        byConnection[owner.connection, default: 0] += 1
        byOwner[owner, default: 0] += 1
    }

    mutating func remove(_ owner: Owner) {
        total -= 1
        byConnection[owner.connection] = self[owner.connection] > 1 ? self[owner.connection] - 1 : nil
        byOwner[owner] = self[owner] > 1 ? self[owner] - 1 : nil
    }
}

extension IKECore {
    func countChild(_ record: ChildRecord, _ sa: IKESA, _ established: EstablishedSA) {
        guard let name = sa.connection else { return }
        let owner = ChildShares.Owner(connection: name, identity: established.remoteIdentity.folded)
        record.owner = owner
        shares.add(owner)
    }

    func uncountChild(_ record: ChildRecord) {
        guard let owner = record.owner else { return }
        record.owner = nil
        shares.remove(owner)
    }

    /// Room for one more child, besides what a rekey of all the others takes. What a connection is configured for it always gets;
    /// beyond that an identity has a share, and a connection what the others are not configured for.
    func checkShare(_ established: EstablishedSA, _ connection: ConnectionState) throws(IKEFault) {
        let plan = connection.plan
        let most = plan.remoteAddress == nil ? min(settings.maxChildren, settings.maxPeerChildren) : settings.maxChildren
        let free = most - most / 4
        let owner = ChildShares.Owner(connection: plan.name, identity: established.remoteIdentity.folded)
        let configured = plan.children.count
        let ofIdentity = max(configured, most / Bounds.identitiesShare)
        let ofConnection = max(configured, free - (configuredChildren - configured))
        let ofAll = shares[plan.name] < configured ? settings.maxChildren * 7 / 8 : settings.maxChildren * 3 / 4
        let limit: String
        if shares[owner] >= ofIdentity {
            limit = "\(established.remoteIdentity) has \(shares[owner]) children, the most for one identity"
        } else if shares[plan.name] >= ofConnection {
            limit = "connection \(plan.name) has \(shares[plan.name]) children, the most that leaves room for the others"
        } else if shares.total >= ofAll {
            limit = "there are \(shares.total) children in all; the rest of the table is for rekeying them"
        } else {
            return
        }
        counters.childLimitReached &+= 1
        log(.warning, plan.name, "Refused another child: \(limit).")
        throw .incompatible(.noAdditionalSAs, data: [], limit)
    }
}
