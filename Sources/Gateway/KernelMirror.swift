import Platform
import Wire

/// The kernel's state as its notifications tell it, event by event.
struct KernelMirror {
    /// What an event means for whoever follows.
    enum Effect: Int, Comparable {
        /// Not ours to care about.
        case nothing
        /// The view has changed.
        case view
        /// Routes may have gone without being told: they and the addresses must be read again.
        case routes
        /// Events were lost.
        case everything
        static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }
    }

    private struct RouteKey: Hashable {
        var prefix: IPPrefix
        var metric: UInt32
    }
    struct NeighbourKey: Hashable {
        var address: IPAddress
        var linkIndex: Int
    }

    private var links: [Int: NetlinkLink] = [:]
    private var addresses: [NetlinkAddress] = []
    private var routes: [RouteKey: NetlinkRoute] = [:]
    private var neighbours: [NeighbourKey: NetlinkNeighbour] = [:]
    /// Kept by the kernel on our behalf, and not answering: it asks for them for ever unless they are forgotten.
    private(set) var lost: Set<NeighbourKey> = []

    init() {}

    mutating func forgetRoutes() {
        addresses = []
        routes = [:]
    }

    @discardableResult
    mutating func take(_ event: NetlinkEvent) -> Effect {
        switch event {
        case .link(let link):
            let known = links.updateValue(link, forKey: link.index)
            if known == link { return .nothing }
            return known?.isUp == link.isUp && known?.isRunning == link.isRunning ? .view : .routes
        case .linkRemoved(let index):
            links[index] = nil
            addresses.removeAll { $0.linkIndex == index }
            neighbours = neighbours.filter { $0.key.linkIndex != index }
            return .routes
        case .address(let address):
            if addresses.contains(address) { return .nothing }
            // The same once more: the kernel has made sure that nobody else has it.
            addresses.removeAll {
                $0.address == address.address && $0.linkIndex == address.linkIndex && $0.prefixLength == address.prefixLength
            }
            addresses.append(address)
            return .routes
        case .addressRemoved(let address):
            addresses.removeAll { $0.address == address.address && $0.linkIndex == address.linkIndex }
            return .routes
        case .route(let route): return take(route)
        case .routeRemoved(let route): return remove(route)
        case .neighbour(let neighbour): return take(neighbour)
        case .neighbourRemoved(let neighbour):
            let key = NeighbourKey(address: neighbour.address, linkIndex: neighbour.linkIndex)
            lost.remove(key)
            return neighbours.removeValue(forKey: key) == nil ? .nothing : .view
        // As with routes of ours: `apply` compares again.
        case .ruleRemoved(let rule): return RoutingPlan.priorities.contains(rule.priority) ? .routes : .nothing
        case .rule: return .nothing
        case .overrun: return .everything
        }
    }

    private mutating func take(_ route: NetlinkRoute) -> Effect {
        guard route.table == NetlinkRoute.mainTable, Self.decides(route) else { return .nothing }
        return routes.updateValue(route, forKey: RouteKey(prefix: route.prefix, metric: route.metric)) == route ? .nothing : .view
    }

    private mutating func remove(_ route: NetlinkRoute) -> Effect {
        // Somebody else took away what keeps packets in: `apply` compares again.
        if RoutingPlan.tables.contains(route.table) { return .routes }
        let key = RouteKey(prefix: route.prefix, metric: route.metric)
        guard route.table == NetlinkRoute.mainTable, let known = routes[key] else { return .nothing }
        // The notice of a replaced route's end may come after that of its successor.
        guard known.gateway == route.gateway, known.linkIndex == route.linkIndex else { return .nothing }
        routes[key] = nil
        return .view
    }

    private mutating func take(_ neighbour: NetlinkNeighbour) -> Effect {
        let key = NeighbourKey(address: neighbour.address, linkIndex: neighbour.linkIndex)
        let known = neighbours[key]
        let isLost = neighbour.hasFailed && neighbour.isManaged
        if isLost { lost.insert(key) } else { lost.remove(key) }
        guard neighbour.isUsable else {
            neighbours[key] = nil
            return known == nil ? .nothing : .view
        }
        neighbours[key] = neighbour
        // Reachable, stale, probing: all the same to those who send.
        return known?.mac == neighbour.mac && known?.isManaged == neighbour.isManaged ? .nothing : .view
    }

    private static func decides(_ route: NetlinkRoute) -> Bool {
        switch route.kind {
        case .unicast, .blackhole, .unreachable, .prohibit: true
        case .local, .broadcast, .anycast, .multicast, .throw, .other: false
        }
    }

    var receiveQueues: [String: Int] {
        Dictionary(links.values.map { ($0.name, $0.receiveQueues) }, uniquingKeysWith: { first, _ in first })
    }

    var view: KernelView {
        var view = KernelView()
        view.links = links.mapValues { link in
            .init(index: link.index, name: link.name, isUp: link.isUp, isRunning: link.isRunning, mtu: link.mtu, mac: link.mac)
        }
        view.addresses = addresses.compactMap { address in
            address.address.v4.map { .init(address: $0, prefixLength: address.prefixLength, linkIndex: address.linkIndex) }
        }
        view.routes = routes.values.filter { $0.prefix.address.isIPv4 }.map { route in
            .init(
                prefix: route.prefix, gateway: route.gateway?.v4, linkIndex: route.kind == .unicast ? route.linkIndex : nil,
                metric: route.metric)
        }
        view.neighbours = neighbours.values.compactMap { neighbour in
            neighbour.address.v4.map {
                .init(address: $0, linkIndex: neighbour.linkIndex, mac: neighbour.mac, isKept: neighbour.isManaged)
            }
        }
        view.ipv6 = ipv6View
        return view
    }

    private var ipv6View: IPv6View {
        var view = IPv6View()
        view.addresses = addresses.compactMap { address in
            guard let own = address.address.v6, !own.isLinkLocal, !own.isLoopback else { return nil }
            return .init(address: own, linkIndex: address.linkIndex, isUsable: address.isUsable)
        }
        view.routes = routes.values.filter { !$0.prefix.address.isIPv4 && $0.kind != .other }.map { route in
            .init(
                prefix: route.prefix, gateway: route.gateway?.v6, linkIndex: route.kind == .unicast ? route.linkIndex : nil,
                metric: route.metric)
        }
        view.neighbours = neighbours.values.compactMap { neighbour in
            guard let address = neighbour.address.v6, !address.isMulticast else { return nil }
            return .init(address: address, linkIndex: neighbour.linkIndex, mac: neighbour.mac, isKept: neighbour.isManaged)
        }
        return view
    }
}
