import Platform
import Wire

/// What of a view may be another than before.
struct KernelChanges: Equatable {
    /// All of it may be: after a whole reading.
    var isEverything = false
    var links: Set<Int> = []
    var addresses = false
    /// Prefixes whose route is another, came or went, of both families.
    var routes: Set<IPPrefix> = []
    var neighbours: Set<NeighbourKey> = []

    static let everything = KernelChanges(isEverything: true)

    var isEmpty: Bool { !isEverything && !addresses && links.isEmpty && routes.isEmpty && neighbours.isEmpty }

    mutating func formUnion(_ other: KernelChanges) {
        (isEverything, addresses) = (isEverything || other.isEverything, addresses || other.addresses)
        links.formUnion(other.links)
        routes.formUnion(other.routes)
        neighbours.formUnion(other.neighbours)
    }
}

/// The kernel's state as its notifications tell it, event by event. An event costs the same whatever else there is, but for
/// those that make the kernel forget routes without a word: then they are read again.
struct KernelMirror {
    /// What an event means for whoever follows.
    enum Effect: Int, Comparable {
        /// Not ours to care about.
        case nothing
        /// The view has changed.
        case view
        /// Routes may have gone without being told: they, nexthop objects and the addresses must be read again.
        case routes
        /// Events were lost.
        case everything
        static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }
    }

    private var links: [Int: NetlinkLink] = [:]
    private var addresses: [NetlinkAddress] = []
    private var routes = RouteAlternatives()
    private var neighboursOfLink: [Int: Set<NeighbourKey>] = [:]
    private(set) var view = KernelView()
    private(set) var changes = KernelChanges()
    /// Kept by the kernel on our behalf, and not answering: it asks for them for ever unless they are forgotten.
    private(set) var lost: Set<NeighbourKey> = []

    init() {}

    mutating func takeChanges() -> KernelChanges {
        defer { changes = KernelChanges() }
        return changes
    }

    mutating func forgetRoutes() {
        addresses = []
        (view.addresses, view.ipv6.addresses) = ([], [])
        (view.routes, view.ipv6.routes) = ([], [])
        routes = RouteAlternatives()
        for link in links.values { _ = routes.setLink(link.index, isUsable: link.isUsable) }
        changes.isEverything = true
    }

    /// What the operator has made that is not obeyed here, a sentence each.
    var unsupported: [String] { routes.unsupported }

    var receiveQueues: [String: Int] {
        Dictionary(links.values.map { ($0.name, $0.receiveQueues) }, uniquingKeysWith: { first, _ in first })
    }

    @discardableResult
    mutating func take(_ event: NetlinkEvent) -> Effect {
        switch event {
        case .link(let link): return take(link)
        case .linkRemoved(let index): return removeLink(index)
        case .address(let address): return take(address)
        case .addressRemoved(let address): return remove(address)
        case .route(let route): return take(route, .first)
        case .routeAppended(let route): return take(route, .last)
        case .routeReplaced(let route): return take(route, .inPlace)
        case .routeRemoved(let route): return remove(route)
        case .nexthop(let nexthop): return settle(routes.take(nexthop))
        // What led there went with it, and nothing is said about that.
        case .nexthopRemoved(let id): return routes.remove(nexthop: id) ? .routes : .nothing
        case .neighbour(let neighbour): return take(neighbour)
        case .neighbourRemoved(let neighbour):
            let key = NeighbourKey(address: neighbour.address, linkIndex: neighbour.linkIndex)
            lost.remove(key)
            return set(key, nil)
        // As with routes of ours: `apply` compares again.
        case .ruleRemoved(let rule): return RoutingPlan.priorities.contains(rule.priority) ? .routes : .nothing
        case .rule: return .nothing
        case .overrun: return .everything
        }
    }

    // MARK: Links and addresses

    private mutating func take(_ link: NetlinkLink) -> Effect {
        let known = links.updateValue(link, forKey: link.index)
        if known == link { return .nothing }
        view.links[link.index] = KernelView.Link(
            index: link.index, name: link.name, isUp: link.isUp, isRunning: link.isRunning, mtu: link.mtu, mac: link.mac,
            kind: link.kind, masterIndex: link.masterIndex)
        changes.links.insert(link.index)
        // "The kernel drops the routes of a link that goes down, without a word"; those of several ways come back by themselves.
        if known?.isUp == true, !link.isUp, routes.lead(by: link.index) { return .routes }
        settle(routes.setLink(link.index, isUsable: link.isUsable))
        // A link that moves to another VRF has its routes and addresses made anew, in the VRF's table.
        return known != nil && known?.masterIndex != link.masterIndex ? .routes : .view
    }

    private mutating func removeLink(_ index: Int) -> Effect {
        let isKnown = links.removeValue(forKey: index) != nil
        view.links[index] = nil
        let hadAddresses = addresses.contains { $0.linkIndex == index }
        addresses.removeAll { $0.linkIndex == index }
        if hadAddresses { viewAddresses() }
        for key in neighboursOfLink[index] ?? [] { set(key, nil) }
        changes.links.insert(index)
        return routes.lead(by: index) || hadAddresses ? .routes : isKnown ? .view : .nothing
    }

    private mutating func take(_ address: NetlinkAddress) -> Effect {
        if addresses.contains(address) { return .nothing }
        // The same once more: the kernel has made sure that nobody else has it.
        addresses.removeAll { $0.isSame(as: address) }
        addresses.append(address)
        viewAddresses()
        return .view
    }

    /// The routes that say `src` with it go in silence, and all of the link's with its last address.
    private mutating func remove(_ address: NetlinkAddress) -> Effect {
        addresses.removeAll { $0.isSame(as: address) }
        viewAddresses()
        guard address.address.isIPv4 else { return .view }
        let isLast = !addresses.contains { $0.linkIndex == address.linkIndex && $0.address.isIPv4 }
        return routes.prefer(address.address) || (isLast && routes.lead(by: address.linkIndex)) ? .routes : .view
    }

    private mutating func viewAddresses() {
        changes.addresses = true
        view.addresses = addresses.compactMap { address in
            address.address.v4.map {
                .init(address: $0, prefixLength: address.prefixLength, linkIndex: address.linkIndex, peer: address.peer?.v4)
            }
        }
        view.ipv6.addresses = addresses.compactMap { address in
            guard let own = address.address.v6, !own.isLinkLocal, !own.isLoopback else { return nil }
            return .init(address: own, linkIndex: address.linkIndex, isUsable: address.isUsable)
        }
    }

    // MARK: Routes

    private mutating func take(_ route: NetlinkRoute, _ place: RouteAlternatives.Place) -> Effect {
        guard RouteAlternatives.isFollowed(route) else { return .nothing }
        guard let changed = routes.insert(route, place) else { return .routes }
        return settle(changed)
    }

    private mutating func remove(_ route: NetlinkRoute) -> Effect {
        // Somebody else took away what keeps packets in: `apply` compares again.
        if RoutingPlan.tables.contains(route.table) { return .routes }
        guard RouteAlternatives.isFollowed(route) else { return .nothing }
        guard let changed = routes.remove(route) else { return .routes }
        return settle(changed)
    }

    /// Brings the view up to date for prefixes whose alternatives have changed.
    @discardableResult
    private mutating func settle(_ prefixes: Set<IPPrefix>) -> Effect {
        var effect = Effect.nothing
        for prefix in prefixes {
            let best = routes.best(prefix)
            let isIPv4 = prefix.address.isIPv4
            guard best != (isIPv4 ? view.routes[prefix] : view.ipv6.routes[prefix]) else { continue }
            if isIPv4 { view.routes[prefix] = best } else { view.ipv6.routes[prefix] = best }
            changes.routes.insert(prefix)
            effect = .view
        }
        return effect
    }

    // MARK: Neighbours

    private mutating func take(_ neighbour: NetlinkNeighbour) -> Effect {
        let key = NeighbourKey(address: neighbour.address, linkIndex: neighbour.linkIndex)
        if neighbour.hasFailed && neighbour.isManaged { lost.insert(key) } else { lost.remove(key) }
        // An entry for a broadcast address has the link's broadcast address: nothing is forwarded there (RFC 2644), and no
        // single host has it.
        let isOneHost = neighbour.mac.first.map { $0 & 1 == 0 } ?? false
        guard neighbour.isUsable, isOneHost, !(neighbour.address.v6?.isMulticast ?? false) else { return set(key, nil) }
        // Reachable, stale, probing: all the same to those who send.
        return set(
            key,
            .init(
                address: neighbour.address, linkIndex: neighbour.linkIndex, mac: neighbour.mac, isKept: neighbour.isManaged))
    }

    @discardableResult
    private mutating func set(_ key: NeighbourKey, _ neighbour: KernelView.Neighbour?) -> Effect {
        let known = key.address.isIPv4 ? view.neighbours[key] : view.ipv6.neighbours[key]
        guard known != neighbour else { return .nothing }
        if key.address.isIPv4 { view.neighbours[key] = neighbour } else { view.ipv6.neighbours[key] = neighbour }
        if neighbour == nil {
            neighboursOfLink[key.linkIndex]?.remove(key)
        } else {
            neighboursOfLink[key.linkIndex, default: []].insert(key)
        }
        changes.neighbours.insert(key)
        return .view
    }
}

extension NetlinkAddress {
    /// The kernel keeps one entry for these.
    fileprivate func isSame(as other: NetlinkAddress) -> Bool {
        address == other.address && linkIndex == other.linkIndex && prefixLength == other.prefixLength && peer == other.peer
    }
}

extension NetlinkLink {
    /// Whether routes by it lead anywhere.
    fileprivate var isUsable: Bool { isUp && (isRunning || !ignoresRoutesWithoutCarrier) }
}
