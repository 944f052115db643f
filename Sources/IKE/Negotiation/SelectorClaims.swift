import IPsec
import Wire

/// What identities of a connection that takes several are bound to: the prefixes that the configuration writes beside each.
public struct PeerSubnets: Hashable, Sendable {
    public var identity: Identity
    public var selectors: [TrafficSelector]
    public init(identity: Identity, selectors: [TrafficSelector]) { (self.identity, self.selectors) = (identity, selectors) }
}

/// Who has which traffic. Whoever authenticates may claim what the configuration lets its identity have, and nothing that is
/// somebody else's: "the identity asserted … is used to select" the entry of the peer authorization database, which "constrains
/// … the addresses" (RFC 4301 §4.4.3).
final class SelectorClaims {
    struct Holder: Hashable {
        var connection: String
        /// Nil: whoever authenticates on that connection.
        var identity: Identity?
    }

    struct Claim {
        enum Kind: Hashable {
            /// A child that is there now, by its inbound SPI.
            case live(UInt32)
            /// Written in the configuration, of this child.
            case configured(String)
            case pool(String)
        }
        var kind: Kind
        var holder: Holder
        var local: [TrafficSelector]
        var remote: TrafficSelector
    }

    private let tree: PrefixTree<Claim>

    init(_ meter: WorkMeter) { tree = PrefixTree(meter) }

    func add(_ kind: Claim.Kind, _ holder: Holder, local: [TrafficSelector], remote: [TrafficSelector]) {
        for one in remote {
            tree.insert(Claim(kind: kind, holder: holder, local: local, remote: one), first: one.first, last: one.last)
        }
    }

    func remove(_ kind: Claim.Kind, _ holder: Holder, remote: [TrafficSelector]) {
        for one in remote {
            tree.remove(first: one.first, last: one.last) { $0.kind == kind && $0.holder == holder && $0.remote == one }
        }
    }

    /// Somebody else's claim on a part of what is asked for; nil when there is none.
    func conflict(local: [TrafficSelector], remote: [TrafficSelector], where isOthers: (Claim) -> Bool) -> Claim? {
        for one in remote {
            let found = tree.first(overlapping: one.first, one.last) { claim in
                claim.remote.intersection(one) != nil && isOthers(claim)
                    && claim.local.contains { mine in local.contains { mine.intersection($0) != nil } }
            }
            if let found { return found }
        }
        return nil
    }
}

extension Identity {
    /// For comparing: names and mail addresses have no case (RFC 4343).
    var folded: Identity {
        func lower(_ text: String) -> String {
            String(decoding: text.utf8.map { (0x41...0x5A).contains($0) ? $0 | 0x20 : $0 }, as: UTF8.self)
        }
        return switch self {
        case .fqdn(let name): .fqdn(lower(name))
        case .email(let name): .email(lower(name))
        case .address, .distinguishedName, .keyID: self
        }
    }
}

extension ConnectionPlan {
    /// Whether more than one identity may authenticate: then what one has must be kept from the next.
    var takesSeveral: Bool { remotePattern.exact == nil }
}

// RFC 4301 §4.4.3: what authenticates decides what may be claimed.
extension IKECore {
    private func holder(_ connection: ConnectionPlan, _ identity: Identity) -> SelectorClaims.Holder {
        SelectorClaims.Holder(connection: connection.name, identity: identity.folded)
    }

    /// What a connection's configuration gives away, to the one identity that it takes, to whoever comes from its peer's address,
    /// or to the identities that its children name.
    private func configuredClaims(_ plan: ConnectionPlan, _ body: (ChildPlan, SelectorClaims.Holder, [TrafficSelector]) -> Void) {
        for child in plan.children where !child.remoteIsAssigned {
            for peer in child.peers { body(child, holder(plan, peer.identity), peer.selectors) }
            if plan.remoteAddress != nil || !plan.takesSeveral {
                body(child, .init(connection: plan.name, identity: plan.remoteIdentity?.folded), child.remoteSelectors)
            }
        }
    }

    func addClaims(_ plan: ConnectionPlan) {
        configuredClaims(plan) { child, holder, remote in
            claims.add(.configured(child.name), holder, local: Self.anyAddress(or: child), remote: remote)
        }
    }

    func removeClaims(_ plan: ConnectionPlan) {
        configuredClaims(plan) { child, holder, remote in claims.remove(.configured(child.name), holder, remote: remote) }
    }

    /// What hosts get from pools is theirs.
    func claim(_ pool: AddressPool, isGone: Bool) {
        let span = [TrafficSelector(first: pool.first, last: pool.last)]
        let holder = SelectorClaims.Holder(connection: "", identity: nil)
        if isGone {
            claims.remove(.pool(pool.name), holder, remote: span)
        } else {
            claims.add(.pool(pool.name), holder, local: Self.everything, remote: span)
        }
    }

    private static let everything = ["0.0.0.0/0", "::/0"].compactMap { IPPrefix($0) }.map { TrafficSelector($0) }

    /// Our side of a child that gets its address from the peer is not known beforehand.
    private static func anyAddress(or child: ChildPlan) -> [TrafficSelector] {
        child.localIsAssigned ? everything : child.localSelectors
    }

    /// A child that came into being is its peer's from now on, where somebody else might come and claim the same.
    func claim(_ record: ChildRecord, _ sa: IKESA, _ established: EstablishedSA) {
        guard let plan = plan(of: sa), plan.takesSeveral else { return }
        let holder = holder(plan, established.remoteIdentity)
        record.claimant = holder
        claims.add(.live(record.inboundSPI), holder, local: record.localSelectors, remote: record.remoteSelectors)
    }

    func unclaim(_ record: ChildRecord) {
        guard let holder = record.claimant else { return }
        record.claimant = nil
        claims.remove(.live(record.inboundSPI), holder, remote: record.remoteSelectors)
    }

    /// Throws TS_UNACCEPTABLE when a part of what a peer asks for is somebody else's; a sentence for the operator is kept.
    /// - Parameter allowed: what the configuration lets the peer have of the child, before it asked.
    func checkClaims(
        _ sa: IKESA, _ established: EstablishedSA, _ connection: ConnectionState, _ child: ChildPlan, local: [TrafficSelector],
        remote: [TrafficSelector], now: Instant
    ) throws(IKEFault) {
        let plan = connection.plan
        guard plan.takesSeveral else { return }
        let own = holder(plan, established.remoteIdentity)
        let found = claims.conflict(local: local, remote: remote) { claim in
            switch claim.kind {
            case .live: return claim.holder != own
            case .pool: return !child.remoteIsAssigned && Narrowing.covers(child.remoteSelectors, [claim.remote])
            case .configured:
                if claim.holder.connection == plan.name { return claim.holder.identity.map { $0 != own.identity } ?? false }
                // A wider one of another connection is what this child is cut out of.
                return Narrowing.covers(child.remoteSelectors, [claim.remote]) && !isOf(claim.holder, established.remoteIdentity)
            }
        }
        guard let found else { return }
        counters.selectorsClaimed &+= 1
        let reason = Reason(
            .trafficSelectors,
            Reasons.selectorsTaken(
                found, peer: established.remoteIdentity, remote: sa.path.remote, child: child, plan: plan))
        connection.slots[child.name]?.conflict = (reason, now)
        childRefused(connection, child.name, isRekey: false, reason, from: sa.path.remote, now: now)
        throw .incompatible(.tsUnacceptable, data: [], reason.sentence)
    }

    /// Whether the identity is one that the holder's connection takes.
    private func isOf(_ holder: SelectorClaims.Holder, _ identity: Identity) -> Bool {
        if let known = holder.identity { return known == identity.folded }
        return connections[holder.connection]?.plan.remotePattern.exact?.folded == identity.folded
    }
}

extension Reasons {
    static func selectorsTaken(
        _ claim: SelectorClaims.Claim, peer: Identity, remote: Endpoint, child: ChildPlan, plan: ConnectionPlan
    ) -> String {
        let owner =
            switch claim.kind {
            case .live: "the peer \(claim.holder.identity?.description ?? "?") of connection \(claim.holder.connection) has now"
            case .configured(let name):
                "the configuration gives to \(claim.holder.identity.map { "\($0) of " } ?? "")\(claim.holder.connection)/\(name)"
            case .pool(let name): "pool \(name) gives to hosts"
            }
        return "Refused the peer \(peer) at \(remote): it asks for \(claim.remote) of child \(plan.name)/\(child.name), which "
            + "\(owner). Let each identity have subnets of its own (`peers` of the child\(plan.line("\(child.name)/peers")))."
    }
}
