import Wire

/// Routes of one family by prefix, one each: what decides for addresses that no longer prefix covers.
struct RouteTable: Hashable, Sendable, Collection, ExpressibleByArrayLiteral {
    typealias Route = KernelView.Route
    typealias Index = Dictionary<IPPrefix, Route>.Index

    private var routes: [IPPrefix: Route] = [:]
    /// How many routes there are per prefix length.
    private var lengths: [Int: Int] = [:]

    init() {}

    init(arrayLiteral elements: Route...) { for route in elements { append(route) } }

    var startIndex: Index { routes.startIndex }
    var endIndex: Index { routes.endIndex }
    func index(after index: Index) -> Index { routes.index(after: index) }
    subscript(position: Index) -> Route { routes[position].value }

    subscript(prefix: IPPrefix) -> Route? {
        get { routes[prefix] }
        set {
            let old = routes.updateOptional(newValue, forKey: prefix)
            let step = (newValue == nil ? 0 : 1) - (old == nil ? 0 : 1)
            guard step != 0 else { return }
            lengths[prefix.length, default: 0] += step
            if lengths[prefix.length] == 0 { lengths[prefix.length] = nil }
        }
    }

    /// Of two routes to one prefix the one with the lesser metric stays.
    mutating func append(_ route: Route) {
        if let known = self[route.prefix], known.metric <= route.metric { return }
        self[route.prefix] = route
    }

    static func += (table: inout RouteTable, routes: [Route]) { for route in routes { table.append(route) } }

    /// The longest prefix that covers the address: one look per prefix length that there is.
    func route(to address: IPAddress) -> Route? {
        for length in lengths.keys.sorted(by: >) {
            if let prefix = IPPrefix(address, length: length), let route = routes[prefix] { return route }
        }
        return nil
    }
}

extension Dictionary {
    /// The value before.
    fileprivate mutating func updateOptional(_ value: Value?, forKey key: Key) -> Value? {
        guard let value else { return removeValue(forKey: key) }
        return updateValue(value, forKey: key)
    }
}

/// Neighbours of one family by address and link.
struct NeighbourTable: Hashable, Sendable, Collection, ExpressibleByArrayLiteral {
    typealias Neighbour = KernelView.Neighbour
    typealias Index = Dictionary<NeighbourKey, Neighbour>.Index

    private var neighbours: [NeighbourKey: Neighbour] = [:]

    init() {}

    init(arrayLiteral elements: Neighbour...) { for neighbour in elements { self[neighbour.key] = neighbour } }

    var startIndex: Index { neighbours.startIndex }
    var endIndex: Index { neighbours.endIndex }
    func index(after index: Index) -> Index { neighbours.index(after: index) }
    subscript(position: Index) -> Neighbour { neighbours[position].value }

    subscript(key: NeighbourKey) -> Neighbour? {
        get { neighbours[key] }
        set { neighbours[key] = newValue }
    }
}

struct NeighbourKey: Hashable, Sendable {
    var address: IPAddress
    var linkIndex: Int
}
