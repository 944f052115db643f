import Platform
import Wire

/// All routes that the kernel has, keyed as it keys them: several to one prefix differ in table, TOS, metric, then in anything.
/// The first that can be used decides. Where the kernel's words and what is known do not fit together, a change returns nil:
/// everything must be read again.
struct RouteAlternatives {
    /// Where a new route stands among those of its prefix, table, TOS and metric.
    enum Place { case first, last, inPlace }

    /// In the order in which the kernel looks at them.
    private var byPrefix: [IPPrefix: [NetlinkRoute]] = [:]
    private var nexthops: [UInt32: NetlinkNexthop] = [:]
    /// Links that are known to lead nowhere now.
    private var unusableLinks: Set<Int> = []
    private var byLink = PrefixIndex<Int>()
    private var byNexthop = PrefixIndex<UInt32>()
    /// Preferred sources that somebody wrote: the kernel's own routes go with a word.
    private var bySource = PrefixIndex<IPAddress>()
    private var groupsOf: [UInt32: Set<UInt32>] = [:]
    /// Prefixes of the local table that are no single address: they come before longer ones of the main table.
    private var localNetworks: Set<IPPrefix> = []
    private var withTOS: Set<IPPrefix> = []
    private var withSource: Set<IPPrefix> = []

    static let localTable: UInt32 = 255
    private static let kernelProtocol: UInt8 = 2

    /// Of the main table; and what the local one says of IPv4: addresses, broadcasts, networks that are this machine's.
    static func isFollowed(_ route: NetlinkRoute) -> Bool {
        switch route.prefix.address {
        case .v4: route.table == NetlinkRoute.mainTable || route.table == localTable
        // Link-local and multicast networks are on every link, and nobody is reached by them.
        case .v6(let address): route.table == NetlinkRoute.mainTable && !address.isLinkLocal && !address.isMulticast
        }
    }

    // MARK: Changes

    /// The prefixes that may be decided otherwise now; nil: read again.
    mutating func insert(_ route: NetlinkRoute, _ place: Place) -> Set<IPPrefix>? {
        let ways = Self.split(route)
        var list = byPrefix[route.prefix] ?? []
        if place == .inPlace {
            let same = list.indices.filter { list[$0].hasKey(of: route) }
            // IPv6 replaces one of several, or all of its ways at once: the kernel knows which.
            if same.count > 1, !route.prefix.address.isIPv4 { return nil }
            if let first = same.first { list.remove(at: first) }
        }
        let isKnown = { (way: NetlinkRoute) in list.contains { $0.isSame(as: way) } }
        var place = place
        for way in ways where !isKnown(way) {
            list.insert(way, at: Self.position(of: way, in: list, place))
            // Further ways of one route stand behind each other.
            place = .last
        }
        store(list, for: route.prefix)
        guard keepLocalNetwork(route, isThere: true) else { return nil }
        return [route.prefix]
    }

    mutating func remove(_ route: NetlinkRoute) -> Set<IPPrefix>? {
        var list = byPrefix[route.prefix] ?? []
        for way in Self.split(route) {
            if let index = list.firstIndex(where: { $0.isSame(as: way) }) {
                list.remove(at: index)
            } else if list.contains(where: { $0.hasKey(of: way) }) {
                // The late word about one that was replaced, or one that was never told of.
                guard !isReplacement(list, of: way) else { continue }
                return nil
            }
        }
        store(list, for: route.prefix)
        guard keepLocalNetwork(route, isThere: false) else { return nil }
        return [route.prefix]
    }

    mutating func take(_ nexthop: NetlinkNexthop) -> Set<IPPrefix> {
        let known = nexthops.updateValue(nexthop, forKey: nexthop.id)
        for member in known?.group ?? [] { groupsOf[member]?.remove(nexthop.id) }
        for member in nexthop.group { groupsOf[member, default: []].insert(nexthop.id) }
        return prefixes(usingNexthop: nexthop.id)
    }

    /// Whether routes led there.
    mutating func remove(nexthop id: UInt32) -> Bool {
        let affected = prefixes(usingNexthop: id)
        for member in nexthops.removeValue(forKey: id)?.group ?? [] { groupsOf[member]?.remove(id) }
        return !affected.isEmpty
    }

    mutating func setLink(_ index: Int, isUsable: Bool) -> Set<IPPrefix> {
        guard unusableLinks.contains(index) == isUsable else { return [] }
        if isUsable { unusableLinks.remove(index) } else { unusableLinks.insert(index) }
        var affected = byLink[index]
        for (id, nexthop) in nexthops where nexthop.hop?.linkIndex == index { affected.formUnion(prefixes(usingNexthop: id)) }
        return affected
    }

    // MARK: Questions

    /// What decides for the prefix; nil: none of its routes can be used, and a shorter prefix decides.
    func best(_ prefix: IPPrefix) -> KernelView.Route? {
        for route in byPrefix[prefix] ?? [] where route.tos == 0 && route.source == nil {
            if let way = way(of: route) { return way }
        }
        return nil
    }

    func lead(by link: Int) -> Bool {
        !byLink[link].isEmpty || nexthops.contains { $0.value.hop?.linkIndex == link && !prefixes(usingNexthop: $0.key).isEmpty }
    }

    /// Whether a route that somebody made prefers the address as source.
    func prefer(_ source: IPAddress) -> Bool { !bySource[source].isEmpty }

    /// A sentence per kind that is there.
    var unsupported: [String] {
        let list = { (prefixes: Set<IPPrefix>) in
            let names = prefixes.map(\.description).sorted()
            return names.prefix(3).joined(separator: ", ") + (names.count > 3 ? " and \(names.count - 3) more" : "")
        }
        var result: [String] = []
        if !withTOS.isEmpty {
            result.append("Routes for one type of service alone are not obeyed by the workers: \(list(withTOS)).")
        }
        if !withSource.isEmpty {
            result.append("Routes for one source alone (`from`) are not obeyed by the workers: \(list(withSource)).")
        }
        return result
    }

    // MARK: Parts

    private func way(of route: NetlinkRoute) -> KernelView.Route? {
        var result = KernelView.Route(prefix: route.prefix, gateway: nil, linkIndex: nil, metric: route.metric)
        if route.table != Self.localTable, localNetworks.contains(where: { $0 != route.prefix && $0.contains(route.prefix) }) {
            result.isKernels = true
            return result
        }
        switch route.kind {
        case .unicast: break
        // Nothing, as far as this table is concerned. What comes after it is the kernel's to know.
        case .blackhole, .unreachable, .prohibit, .throw: return result
        case .local, .broadcast, .anycast, .multicast, .other:
            result.isKernels = true
            return result
        }
        let hops = hops(of: route)
        // A nexthop object that is a blackhole.
        guard !hops.isEmpty else { return result }
        guard let hop = hops.first(where: { $0.linkIndex.map { !unusableLinks.contains($0) } ?? true }) else { return nil }
        result.isKernels = hop.isEncapsulated
        if !hop.isEncapsulated { (result.gateway, result.linkIndex) = (hop.gateway, hop.linkIndex) }
        return result
    }

    /// Of several ways all are as good: one is taken, where the kernel spreads flows over them.
    private func hops(of route: NetlinkRoute) -> [NetlinkHop] {
        guard let id = route.nexthopID, let nexthop = nexthops[id] else { return route.hops }
        if let hop = nexthop.hop { return [hop] }
        return nexthop.group.compactMap { nexthops[$0]?.hop }
    }

    private func prefixes(usingNexthop id: UInt32) -> Set<IPPrefix> {
        var result = byNexthop[id]
        for group in groupsOf[id] ?? [] { result.formUnion(byNexthop[group]) }
        return result
    }

    /// IPv6 keeps each way of a multipath route as a route, and tells of the end of each.
    private static func split(_ route: NetlinkRoute) -> [NetlinkRoute] {
        guard !route.prefix.address.isIPv4, route.nexthopID == nil, route.hops.count > 1 else { return [route] }
        return route.hops.map { hop in
            var way = route
            way.hops = [hop]
            return way
        }
    }

    /// The local table comes first, then a TOS of one's own, then the lesser metric.
    private static func position(of route: NetlinkRoute, in list: [NetlinkRoute], _ place: Place) -> Int {
        let rank = { (route: NetlinkRoute) in
            (route.table == localTable ? 0 : 1, 255 - Int(route.tos), route.metric)
        }
        let own = rank(route)
        return list.firstIndex { place == .last ? rank($0) > own : rank($0) >= own } ?? list.count
    }

    /// A single route in the old one's place: its late end is told after its successor.
    private func isReplacement(_ list: [NetlinkRoute], of route: NetlinkRoute) -> Bool {
        list.count { $0.hasKey(of: route) } == 1 && route.prefix.address.isIPv4
    }

    private mutating func store(_ list: [NetlinkRoute], for prefix: IPPrefix) {
        for route in byPrefix[prefix] ?? [] { index(route, isThere: false) }
        byPrefix[prefix] = list.isEmpty ? nil : list
        for route in list { index(route, isThere: true) }
        let set = { (prefixes: inout Set<IPPrefix>, isThere: Bool) in
            if isThere { prefixes.insert(prefix) } else { prefixes.remove(prefix) }
        }
        set(&withTOS, list.contains { $0.tos != 0 })
        set(&withSource, list.contains { $0.source != nil })
    }

    private mutating func index(_ route: NetlinkRoute, isThere: Bool) {
        for hop in route.hops { if let link = hop.linkIndex { byLink.set(link, route.prefix, isThere) } }
        if let id = route.nexthopID { byNexthop.set(id, route.prefix, isThere) }
        if let source = route.preferredSource, route.protocolNumber != Self.kernelProtocol {
            bySource.set(source, route.prefix, isThere)
        }
    }

    /// False when longer prefixes are decided otherwise now.
    private mutating func keepLocalNetwork(_ route: NetlinkRoute, isThere: Bool) -> Bool {
        guard route.table == Self.localTable, route.prefix.length < 32 else { return true }
        let isNew = isThere ? localNetworks.insert(route.prefix).inserted : localNetworks.remove(route.prefix) != nil
        return !isNew || byPrefix.isEmpty || !byPrefix.keys.contains { $0 != route.prefix && route.prefix.contains($0) }
    }
}

/// Which prefixes have something to do with a key.
struct PrefixIndex<Key: Hashable> {
    private var prefixes: [Key: Set<IPPrefix>] = [:]

    subscript(key: Key) -> Set<IPPrefix> { prefixes[key] ?? [] }

    mutating func set(_ key: Key, _ prefix: IPPrefix, _ isThere: Bool) {
        if isThere {
            prefixes[key, default: []].insert(prefix)
        } else {
            prefixes[key]?.remove(prefix)
            if prefixes[key]?.isEmpty == true { prefixes[key] = nil }
        }
    }
}

extension NetlinkRoute {
    /// The key under which several may stand.
    fileprivate func hasKey(of other: NetlinkRoute) -> Bool {
        table == other.table && tos == other.tos && metric == other.metric && source == other.source
    }

    /// One and the same, whatever its hops' state.
    fileprivate func isSame(as other: NetlinkRoute) -> Bool {
        hasKey(of: other) && kind == other.kind && nexthopID == other.nexthopID && preferredSource == other.preferredSource
            && protocolNumber == other.protocolNumber
            && (nexthopID != nil || hops.map(\.way) == other.hops.map(\.way))
    }
}

extension NetlinkHop {
    fileprivate var way: NetlinkHop {
        var way = self
        way.isDead = false
        return way
    }
}
