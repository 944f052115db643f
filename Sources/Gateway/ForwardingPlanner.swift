import Dataplane
import IPsec
import Wire

/// The workers' plan, kept up change by change: what is told on costs as much as what changed, whatever else there is.
///
/// A protected prefix leads to the kernel, whose own table sends it back through the TUN device to be protected: so a packet that
/// came out of one tunnel and is for another (a hub's spokes) is never forwarded in the clear.
struct ForwardingPlanner {
    private let policy: PolicySet
    private let ports: [Int: AttachedInterface]
    private let protected: PrefixSet
    /// Local subnets that no other one contains.
    private let sites: PrefixSet
    private var siteAddresses = SortedAddresses()
    private var siteOf: [IPAddress: IPPrefix] = [:]
    /// IPv4 peers inside a protected prefix: ESP goes to them, never into a tunnel.
    private var coveredPeers = SortedAddresses()
    private var ipv6Peers = SortedAddresses()
    private var peers: Set<IPAddress> = []

    private(set) var rules: [ForwardingPlan.Rule]
    private(set) var localAddresses: [IPv4Address]
    private(set) var portAddresses: [ForwardingPlan.PortAddress]
    private(set) var routes: [IPPrefix: ForwardingPlan.Route] = [:]
    private(set) var neighbours: [ForwardingPlan.Neighbour.Key: [UInt8]] = [:]
    private(set) var peerWays: [IPv6Address: ForwardingPlan.Peer] = [:]
    /// Routes, neighbours and peers looked at so far: what changes have cost.
    private(set) var looks = 0

    /// All of it.
    init(_ policy: PolicySet, view: KernelView, ports: [AttachedInterface], peers: Set<IPAddress>) {
        self.policy = policy
        self.ports = Dictionary(ports.map { ($0.linkIndex, $0) }, uniquingKeysWith: { first, _ in first })
        protected = PrefixSet(policy.protectedPrefixes)
        sites = PrefixSet(policy.outermostSites)
        rules = Steering.rules(policy)
        var seen: Set<IPv4Address> = []
        localAddresses = view.addresses.map(\.address).filter { seen.insert($0).inserted }
        portAddresses = ports.compactMap { port in
            view.addresses(of: port.linkIndex).first.map { .init(portIndex: port.portIndex, address: $0) }
        }
        for site in policy.outermostSites {
            siteAddresses.set(site.address, true)
            siteOf[site.address] = site
        }
        for prefix in policy.protectedPrefixes { refresh(prefix, view) }
        for route in view.routes { refresh(route.prefix, view) }
        for site in policy.outermostSites { refresh(site, view) }
        for neighbour in view.neighbours { refresh(neighbour.key, view) }
        for neighbour in view.ipv6.neighbours { refresh(neighbour.key, view) }
        _ = follow(peers: Dictionary(uniqueKeysWithValues: peers.map { ($0, true) }), view)
    }

    var plan: ForwardingPlan {
        ForwardingPlan(
            rules: rules, routes: routes.values.sorted { Steering.inTableOrder($0.prefix, $1.prefix) },
            neighbours: neighbours.map { .init(address: $0.key.address, portIndex: $0.key.portIndex, mac: $0.value) },
            localAddresses: localAddresses, portAddresses: portAddresses,
            peers: peerWays.values.sorted { $0.address < $1.address })
    }

    // MARK: Changes

    /// What is to be told on after routes or neighbours changed, and nothing else.
    mutating func follow(_ changes: KernelChanges, _ view: KernelView) -> ForwardingUpdate {
        var update = ForwardingUpdate()
        for prefix in changes.routes {
            if prefix.address.isIPv4 { refresh(prefix, view, &update) }
            for peer in affectedPeers(prefix) { refresh(peer, view, &update) }
        }
        // Their floors depend on shorter prefixes.
        for prefix in changes.routes where prefix.address.isIPv4 {
            for address in siteAddresses.inside(prefix) { if let site = siteOf[address] { refresh(site, view, &update) } }
        }
        for key in changes.neighbours { refresh(key, view, &update) }
        return update
    }

    /// After peers came (true) or went.
    mutating func follow(peers changed: [IPAddress: Bool], _ view: KernelView) -> ForwardingUpdate {
        var update = ForwardingUpdate()
        for (peer, isThere) in changed {
            if isThere { peers.insert(peer) } else { peers.remove(peer) }
            if peer.isIPv4 { coveredPeers.set(peer, isThere && protected.covers(peer)) } else { ipv6Peers.set(peer, isThere) }
            refresh(peer, view, &update)
        }
        return update
    }

    /// What is another than in an older planner: after policy, ports or addresses changed.
    func difference(from old: ForwardingPlanner?) -> ForwardingUpdate {
        guard let old else { return ForwardingUpdate(plan) }
        var update = ForwardingUpdate()
        if rules != old.rules { update.rules = rules }
        if localAddresses != old.localAddresses { update.localAddresses = localAddresses }
        if portAddresses != old.portAddresses { update.portAddresses = portAddresses }
        update.routes = Self.difference(routes, old.routes)
        update.neighbours = Self.difference(neighbours, old.neighbours)
        update.peers = Self.difference(peerWays, old.peerWays)
        return update
    }

    private static func difference<Key: Hashable, Value: Equatable>(_ new: [Key: Value], _ old: [Key: Value]) -> [Key: Value?] {
        var result: [Key: Value?] = [:]
        for (key, value) in new where old[key] != value { result[key] = .some(value) }
        for key in old.keys where new[key] == nil { result[key] = .some(nil) }
        return result
    }

    func isOfSite(_ prefix: IPPrefix) -> Bool { sites.covers(prefix) }

    /// Whether the workers send by this neighbour because of a peer, so that it is worth keeping.
    func needs(_ key: NeighbourKey) -> Bool {
        guard let port = ports[key.linkIndex]?.portIndex else { return false }
        guard let address = key.address.v6 else { return true }
        return nextHopUse[ForwardingPlan.Neighbour.Key(address: .v6(address), portIndex: port)] != nil
    }
    private var nextHopUse: [ForwardingPlan.Neighbour.Key: Int] = [:]

    // MARK: One at a time

    private mutating func refresh(_ prefix: IPPrefix, _ view: KernelView) {
        var ignored = ForwardingUpdate()
        refresh(prefix, view, &ignored)
    }
    private mutating func refresh(_ key: NeighbourKey, _ view: KernelView) {
        var ignored = ForwardingUpdate()
        refresh(key, view, &ignored)
    }

    private mutating func refresh(_ prefix: IPPrefix, _ view: KernelView, _ update: inout ForwardingUpdate) {
        looks += 1
        let new = route(prefix, view)
        guard routes[prefix] != new else { return }
        count(routes[prefix], -1)
        count(new, 1)
        routes[prefix] = new
        update.routes[prefix] = .some(new)
    }

    private mutating func refresh(_ key: NeighbourKey, _ view: KernelView, _ update: inout ForwardingUpdate) {
        looks += 1
        guard let port = ports[key.linkIndex] else { return }
        let place = ForwardingPlan.Neighbour.Key(address: key.address, portIndex: port.portIndex)
        let mac = (key.address.isIPv4 ? view.neighbours[key] : view.ipv6.neighbours[key])?.mac
        guard neighbours[place] != mac else { return }
        neighbours[place] = mac
        update.neighbours[place] = .some(mac)
    }

    private mutating func refresh(_ peer: IPAddress, _ view: KernelView, _ update: inout ForwardingUpdate) {
        guard let address = peer.v6 else {
            if let host = IPPrefix(peer, length: 32) { refresh(host, view, &update) }
            return
        }
        looks += 1
        let new = peers.contains(peer) ? way(address, view) : nil
        guard peerWays[address] != new else { return }
        count(peerWays[address], -1)
        count(new, 1)
        peerWays[address] = new
        update.peers[address] = .some(new)
    }

    /// Those whose way a route may be.
    private func affectedPeers(_ prefix: IPPrefix) -> ArraySlice<IPAddress> {
        prefix.address.isIPv4 ? coveredPeers.inside(prefix) : ipv6Peers.inside(prefix)
    }

    private func route(_ prefix: IPPrefix, _ view: KernelView) -> ForwardingPlan.Route? {
        if prefix.length == 32, coveredPeers.contains(prefix.address) {
            return view.routes.route(to: prefix.address).map { plan($0, for: prefix) }
        }
        if protected.contains(prefix) { return .init(prefix: prefix, gateway: nil, portIndex: nil) }
        guard let main = view.routes[prefix] else { return sites.contains(prefix) ? floor(prefix) : nil }
        // What lies inside a protected prefix is protected too, except the sites' own networks: the kernel's table does not know
        // the main table's longer prefixes either.
        if protected.covers(prefix), !sites.covers(prefix) { return .init(prefix: prefix, gateway: nil, portIndex: nil) }
        return plan(main, for: prefix)
    }

    private func plan(_ route: KernelView.Route, for prefix: IPPrefix) -> ForwardingPlan.Route {
        let port = route.isKernels ? nil : route.linkIndex.flatMap { ports[$0] }
        return .init(
            prefix: prefix, gateway: port == nil ? nil : route.gateway, portIndex: port?.portIndex,
            clear: clear(port, route: route.prefix, prefix))
    }

    /// What is for a local subnet leaves by a protected port, or by a one-armed one where a route as specific as the subnet leads
    /// there. The rest, a hub's way to everybody, is the kernel's unless the port is the protected side's alone.
    private func clear(_ port: AttachedInterface?, route: IPPrefix, _ prefix: IPPrefix) -> ForwardingPlan.Clear {
        guard let site = sites.cover(of: prefix) else {
            return port?.role.contains(.underlay) == true ? .byKernel : .allowed
        }
        if port?.role == .protected { return .allowed }
        return port?.role == .underlay || !site.contains(route) ? .refused : .allowed
    }

    /// A local subnet without a route of its own is not served by a shorter one: the default route takes over when the protected
    /// network's goes, or was all there ever was. ESP may go there all the same.
    private func floor(_ site: IPPrefix) -> ForwardingPlan.Route? {
        for length in (0..<site.length).reversed() {
            guard let prefix = IPPrefix(site.address, length: length), var floor = routes[prefix] else { continue }
            let port = ports.values.first { $0.portIndex == floor.portIndex }
            if port?.role == .protected, !protected.contains(prefix) { return nil }
            (floor.prefix, floor.clear) = (site, .refused)
            return floor
        }
        return nil
    }

    /// The way to a peer on an IPv6 underlay, looked up here so that workers need no table of such routes.
    private func way(_ address: IPv6Address, _ view: KernelView) -> ForwardingPlan.Peer {
        guard let route = view.ipv6.routes.route(to: .v6(address)), !route.isKernels, let link = route.linkIndex else {
            return .init(address: address, nextHop: address, portIndex: nil)
        }
        return .init(address: address, nextHop: route.gateway?.v6 ?? address, portIndex: ports[link]?.portIndex)
    }

    private mutating func count(_ route: ForwardingPlan.Route?, _ step: Int) {
        guard let route, case .v6(let gateway) = route.gateway, let port = route.portIndex else { return }
        countUse(.init(address: .v6(gateway), portIndex: port), step)
    }
    private mutating func count(_ peer: ForwardingPlan.Peer?, _ step: Int) {
        guard let peer, let port = peer.portIndex else { return }
        countUse(.init(address: .v6(peer.nextHop), portIndex: port), step)
    }
    private mutating func countUse(_ key: ForwardingPlan.Neighbour.Key, _ step: Int) {
        let use = nextHopUse[key, default: 0] + step
        nextHopUse[key] = use > 0 ? use : nil
    }
}

/// Prefixes that are asked whether one of them covers something: one look per prefix length that there is.
struct PrefixSet: Sendable {
    private var prefixes: Set<IPPrefix> = []
    private var lengths: Set<Int> = []

    init(_ list: some Sequence<IPPrefix>) {
        prefixes = Set(list)
        lengths = Set(prefixes.map(\.length))
    }

    func contains(_ prefix: IPPrefix) -> Bool { prefixes.contains(prefix) }

    func covers(_ prefix: IPPrefix) -> Bool { cover(of: prefix) != nil }

    /// One that contains it; any, where several do.
    func cover(of prefix: IPPrefix) -> IPPrefix? {
        for length in lengths where length <= prefix.length {
            if let cover = IPPrefix(prefix.address, length: length), prefixes.contains(cover) { return cover }
        }
        return nil
    }
    func covers(_ address: IPAddress) -> Bool {
        IPPrefix(address, length: address.isIPv4 ? 32 : 128).map(covers) ?? false
    }
}

/// Addresses of one family in order, so that those inside a prefix are found without looking at the others.
struct SortedAddresses: Sendable {
    private var addresses: [IPAddress] = []

    func contains(_ address: IPAddress) -> Bool {
        let place = place(of: address)
        return place < addresses.count && addresses[place] == address
    }

    mutating func set(_ address: IPAddress, _ isThere: Bool) {
        let place = place(of: address)
        let isKnown = place < addresses.count && addresses[place] == address
        if isThere, !isKnown { addresses.insert(address, at: place) }
        if !isThere, isKnown { addresses.remove(at: place) }
    }

    func inside(_ prefix: IPPrefix) -> ArraySlice<IPAddress> {
        let first = place(of: prefix.address)
        var end = place(of: prefix.last)
        if end < addresses.count, addresses[end] == prefix.last { end += 1 }
        return addresses[first..<max(first, end)]
    }

    /// The first place that is not before the address.
    private func place(of address: IPAddress) -> Int {
        var (low, high) = (0, addresses.count)
        while low < high {
            let middle = (low + high) / 2
            if Self.precedes(addresses[middle], address) { low = middle + 1 } else { high = middle }
        }
        return low
    }

    private static func precedes(_ a: IPAddress, _ b: IPAddress) -> Bool {
        switch (a, b) {
        case (.v4(let a), .v4(let b)): a < b
        case (.v6(let a), .v6(let b)): a < b
        case (.v4, .v6): true
        case (.v6, .v4): false
        }
    }
}
