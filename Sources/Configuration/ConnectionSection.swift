import IKE
import IPsec
import Wire

/// A connection with the positions that checks across connections need.
struct CheckedConnection {
    var connection: Connection
    var nameMark: Mark
    var children: [CheckedChild]
}

/// One side of a connection.
private struct Peer {
    /// Empty: `any`, or refused.
    var addresses: [IPAddress] = []
    var address: IPAddress? { addresses.first }
    var addressEntry: Entry?
    var isAnyAddress = false
    /// Of the local side.
    var identity: Identity?
    /// Of the remote side.
    var pattern = IdentityPattern.any
    /// It is written.
    var namesPattern = false
}

/// `connections`.
extension Reader {
    static var maxConnections: Int { 4096 }
    /// Of the whole gateway: the data plane numbers them.
    static var maxChildrenTotal: Int { GatewayLimits.children }
    /// A rekey takes round trips and retransmissions; below this there is no time for them.
    static var lifetimes: ClosedRange<Duration> { .seconds(5)...(.seconds(30 * 86_400)) }
    static var dpdIntervals: ClosedRange<Duration> { .milliseconds(500)...(.seconds(86_400)) }

    func connections(
        _ entry: Entry?, top: Mapping, profiles: Profiles, gatewayRedirect: PathPlan.Gateway?
    ) -> [CheckedConnection] {
        var profiles = profiles
        defer { checkUnused(profiles) }
        guard let entry else {
            missing(
                "connections", of: top, "`connections` is missing: name the peers and what to protect, or write `connections: []`"
            )
            return []
        }
        guard let values = list(entry) else { return [] }
        if values.isEmpty { warning(entry.mark, "`connections` is empty; nothing will be protected") }
        if values.count > Self.maxConnections { error(entry.mark, "more than \(Self.maxConnections) connections") }
        var result: [CheckedConnection] = []
        var lines: [String: Int] = [:]
        for value in values.prefix(Self.maxConnections) {
            guard let mapping = mapping(value, "a connection") else { continue }
            if let connection = connection(mapping, profiles: &profiles, lines: &lines, gatewayRedirect: gatewayRedirect) {
                result.append(connection)
            }
        }
        let children = result.reduce(0) { $0 + $1.children.count }
        if children > Self.maxChildrenTotal {
            error(entry.keyMark, "\(children) children in all connections; this version carries at most \(Self.maxChildrenTotal)")
        }
        return result
    }

    private func connection(
        _ own: Mapping, profiles: inout Profiles, lines: inout [String: Int], gatewayRedirect: PathPlan.Gateway?
    ) -> CheckedConnection? {
        checkKeys(own, in: .connection)
        let nameEntry = require("name", of: own, for: "a connection")
        let name = nameEntry.flatMap { uniqueName($0, of: "connection", lines: &lines) }
        let layers = layers(for: own, profiles: &profiles)
        let mapping = merged(own, layers: layers, keys: Scope.profileConnectionKeys)
        refuseUnavailable(mapping)

        let local = require("local", of: mapping, for: "a connection").map { peer($0, isLocal: true) } ?? Peer()
        let remote = require("remote", of: mapping, for: "a connection").map { peer($0, isLocal: false) } ?? Peer()
        if let address = local.addresses.first(where: remote.addresses.contains), let entry = mapping["remote"] {
            error(entry.mark, "`local` and `remote` have the same address \(address); a tunnel needs two ends")
        }
        checkFamilies(local, remote)
        let authentication = authentication(mapping, localIdentity: local.identity)
        let settings = settings(mapping)
        let postquantumKey = postquantumSecret(mapping)
        let children = children(
            mapping["children"], of: own, layers: layers, remoteIsAny: remote.isAnyAddress,
            pattern: remote.namesPattern ? remote.pattern : nil)

        guard let nameEntry, let name, let localAddress = local.address, let authentication,
            remote.address != nil || remote.isAnyAddress
        else { return nil }
        var connection = Connection(
            name: name, localAddress: localAddress, remoteAddress: remote.address,
            localIdentity: local.identity ?? .address(localAddress), remoteIdentity: nil,
            presharedKey: authentication.presharedKey,
            ikeProposals: settings.ikeProposals, ikeLifetime: settings.ikeLifetime, dpdInterval: settings.dpdInterval,
            natTraversal: settings.natTraversal, children: children.map(\.child))
        connection.remotePattern = remote.pattern
        connection.postquantumKey = postquantumKey
        connection.paths = pathPlan(mapping, gatewayRedirect: gatewayRedirect)
        connection.paths.otherLocalAddresses = Array(local.addresses.dropFirst())
        connection.paths.otherRemoteAddresses = Array(remote.addresses.dropFirst())
        connection.pools = mapping["pools"].map(poolNames) ?? []
        connection.virtualAddress = mapping["virtual_address"].map(virtualAddress) ?? VirtualAddressRequest()
        settleDynamicSides(&connection, mapping: mapping, marks: children.map(\.nameMark))
        (connection.dpdAction, connection.reauthTime) = (settings.dpdAction, settings.reauthTime)
        warnOfIdleInitiation(mapping, connection)
        (connection.local, connection.remote) = (authentication.local, authentication.remote)
        connection.secrets = authentication.secrets
        readSigning(mapping, into: &connection)
        connection.eap = eapSettings(
            mapping, client: EAPSettings.Method(rawValue: connection.local.method.rawValue),
            server: EAPSettings.Method(rawValue: connection.remote.method.rawValue),
            serverIsEAPOnly: connection.remote.method == .eapOnly)
        checkEAPSides(connection, mapping)
        connection.places = places(nameEntry.mark.line, mapping, children)
        return CheckedConnection(connection: connection, nameMark: nameEntry.mark, children: children)
    }

    /// The keys of the connection, of its two sides and of its children, in lines.
    private func places(_ line: Int, _ mapping: Mapping, _ children: [CheckedChild]) -> ConfigurationPlaces {
        var places = ConfigurationPlaces(line: line)
        for entry in mapping.entries {
            places.lines[entry.key] = entry.keyMark.line
            guard entry.key == "local" || entry.key == "remote", case .mapping(let side) = entry.value.content else { continue }
            for inner in side.entries { places.lines["\(entry.key).\(inner.key)"] = inner.keyMark.line }
        }
        for child in children {
            for (key, line) in child.lines { places.lines["\(child.child.name)/\(key)"] = line }
        }
        return places
    }

    func uniqueName(_ entry: Entry, of what: String, lines: inout [String: Int]) -> String? {
        guard let name = name(entry) else { return nil }
        if let line = lines[name] {
            error(entry.mark, "\(what) \(quoted(name)) is given again; it stands in line \(line) already")
            return nil
        }
        lines[name] = entry.mark.line
        return name
    }

    /// Keys of the schema that this version does not serve, where going on without them would be unsafe or wrong.
    private func refuseUnavailable(_ mapping: Mapping) {
        if let entry = mapping["version"], let version = text(entry), version != "2" {
            error(
                entry.mark,
                version == "1"
                    ? "IKEv1 is not available in this version; use `version: 2`" : "`version` is \(quoted(version)); it must be 2"
            )
        }
    }

    // MARK: The two sides

    private func peer(_ entry: Entry, isLocal: Bool) -> Peer {
        var peer = Peer()
        guard let mapping = mapping(entry) else { return peer }
        checkKeys(mapping, in: .peer)
        if let address = require("address", of: mapping, for: "`\(entry.key)`") {
            peer.isAnyAddress = !isLocal && isWord("any", address.value)
            if isLocal, isWord("any", address.value) {
                error(address.mark, "`local` needs an address of this gateway; only `remote` may be `any`")
            } else if !peer.isAnyAddress {
                peer.addresses = addresses(address)
                peer.addressEntry = address
            }
        }
        guard let id = mapping["id"] else {
            peer.identity = peer.address.map { .address($0) }
            peer.pattern = peer.address.map { .exactly(.address($0)) } ?? .any
            if peer.isAnyAddress {
                error(
                    mapping.mark,
                    "`id` is missing; a peer from `any` address needs one, or `id: any` for whoever knows the secret")
            }
            return peer
        }
        if isLocal {
            if isWord("any", id.value) {
                error(id.mark, "`local` needs an identity of its own; only `remote` may be `any`")
            } else {
                peer.identity = identity(id)
            }
        } else {
            peer.pattern = identityPattern(id) ?? .any
            peer.namesPattern = true
        }
        return peer
    }

    /// Packets of a tunnel have both addresses in one header: each needs one of its family on the other side.
    private func checkFamilies(_ local: Peer, _ remote: Peer) {
        guard !remote.isAnyAddress, !local.addresses.isEmpty, !remote.addresses.isEmpty else { return }
        for (side, other, name) in [(remote, local, "local"), (local, remote, "remote")] {
            let alone = side.addresses.first { address in !other.addresses.contains { $0.isIPv4 == address.isIPv4 } }
            guard let alone, let entry = side.addressEntry else { continue }
            let family = alone.isIPv4 ? "IPv4" : "IPv6"
            error(
                mark(of: alone, in: entry), "\(alone) is an \(family) address and `\(name)` has none; both ends need one family")
            return
        }
    }

    /// Where an address stands in one value or a list of them.
    private func mark(of address: IPAddress, in entry: Entry) -> Mark {
        guard case .sequence(let values) = entry.value.content else { return entry.mark }
        let found = values.first { value in
            if case .scalar(let text, _) = value.content { IPAddress(text) == address } else { false }
        }
        return found?.mark ?? entry.mark
    }

    func isWord(_ word: String, _ value: Value) -> Bool {
        if case .scalar(word, isQuoted: false) = value.content { true } else { false }
    }

    // MARK: What a profile may say as well

    private typealias Settings = (
        ikeProposals: [IKEProposal], ikeLifetime: Duration, dpdInterval: Duration, natTraversal: NATTraversal,
        dpdAction: DPDAction?, reauthTime: Duration
    )

    private func settings(_ mapping: Mapping) -> Settings {
        var result: Settings = (IKEProposal.defaults, .seconds(4 * 3600), .seconds(10), .auto, nil, .zero)
        let allowed = mapping["allow_weak"].map { weakNames($0) } ?? []
        if let entry = mapping["ike_proposals"] {
            result.ikeProposals = proposals(entry, allowed: allowed) { (text) throws(ProposalKeywordError) in
                try IKEProposal(keywords: text)
            }
        }
        if let entry = mapping["ike_lifetime"], let lifetime = duration(entry, in: Self.lifetimes) {
            result.ikeLifetime = lifetime
        }
        if let entry = mapping["dpd_interval"], let interval = duration(entry, in: Self.dpdIntervals, allowsZero: true) {
            result.dpdInterval = interval
            if interval == .zero {
                warning(entry.mark, "`dpd_interval` is off; a peer that dies is noticed only when the IKE SA is rekeyed")
            }
        }
        if let entry = mapping["dpd_action"], let action = choice(entry, from: DPDAction.allCases) {
            result.dpdAction = action
            if result.dpdInterval == .zero {
                warning(entry.mark, "`dpd_action` has no effect with `dpd_interval: 0`; nothing finds out that the peer is dead")
            }
        }
        if let entry = mapping["reauth_time"], let time = duration(entry, in: Self.lifetimes, allowsZero: true) {
            result.reauthTime = time
        }
        if let entry = mapping["nat_traversal"], let value = choice(entry, from: [NATTraversal.auto, .force, .off]) {
            result.natTraversal = value
        }
        return result
    }

    /// What needs an address to begin at, with a peer that has none.
    private func warnOfIdleInitiation(_ mapping: Mapping, _ connection: Connection) {
        guard connection.remoteAddress == nil else { return }
        if let entry = mapping["dpd_action"], let action = connection.dpdAction, action != .clear {
            warning(
                entry.mark,
                "a peer from `any` address cannot be initiated to; after its death `dpd_action: clear` is what happens")
        }
        if let entry = mapping["reauth_time"], connection.reauthTime > .zero {
            warning(
                entry.mark,
                "a peer from `any` address cannot be initiated to; it is told `reauth_time` and cut off when it does not "
                    + "authenticate anew by then")
        }
    }

    /// A profile that no connection names would otherwise be checked on the day that somebody uses it.
    private func checkUnused(_ profiles: Profiles) {
        for (name, mapping) in profiles.byName where !profiles.used.contains(name) {
            refuseUnavailable(mapping)
            _ = settings(mapping)
            _ = postquantumSecret(mapping)
            _ = pathPlan(mapping, gatewayRedirect: nil)
            checkChildSettings(mapping)
            for key in ["local", "remote"] {
                guard let entry = mapping[key], let side = self.mapping(entry) else { continue }
                checkKeys(side, in: .peer)
            }
        }
    }
}
