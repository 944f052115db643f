import Dataplane
import Wire

/// The routes of the workers: the main table, of several routes to one prefix the one with the least metric, and what policy
/// makes of it. Each says what a packet in the clear may do there.
///
/// A protected prefix leads to the kernel, whose own table sends it back through the TUN device to be protected: so a packet that
/// came out of one tunnel and is for another (a hub's spokes) is never forwarded in the clear.
struct ForwardingRoutes {
    private let ports: [Int: AttachedInterface]
    private let sites: [IPPrefix]
    private var routes: [IPPrefix: ForwardingPlan.Route] = [:]

    /// - Parameter peers: where ESP goes, whatever covers them.
    init(_ policy: PolicySet, view: KernelView, ports: [AttachedInterface], peers: [IPv4Address]) {
        self.ports = Dictionary(ports.map { ($0.linkIndex, $0) }, uniquingKeysWith: { first, _ in first })
        sites = policy.outermostSites
        var main: [IPPrefix: KernelView.Route] = [:]
        for route in view.routes {
            if let known = main[route.prefix], known.metric <= route.metric { continue }
            main[route.prefix] = route
        }
        routes = main.mapValues { plan($0, for: $0.prefix) }
        let protected = policy.protectedPrefixes
        // The same for what lies inside one, except the sites' own networks: the kernel's table does not know the main table's
        // longer prefixes either.
        for prefix in main.keys where protected.contains(where: { $0.contains(prefix) }) && !isOfSite(prefix) {
            routes[prefix] = .init(prefix: prefix, gateway: nil, portIndex: nil)
        }
        for prefix in protected { routes[prefix] = .init(prefix: prefix, gateway: nil, portIndex: nil) }
        addFloors(protected)
        for peer in peers where protected.contains(where: { $0.contains(.v4(peer)) }) {
            guard let host = IPPrefix(.v4(peer), length: 32) else { continue }
            let real = main.values.filter { $0.prefix.contains(.v4(peer)) }.max { $0.prefix.length < $1.prefix.length }
            routes[host] = real.map { plan($0, for: host) }
        }
    }

    var list: [ForwardingPlan.Route] { routes.values.sorted { Steering.inTableOrder($0.prefix, $1.prefix) } }

    private func isOfSite(_ prefix: IPPrefix) -> Bool { sites.contains { $0.contains(prefix) } }

    /// - Parameter prefix: the route's, or one inside of it.
    private func plan(_ route: KernelView.Route, for prefix: IPPrefix) -> ForwardingPlan.Route {
        // A way that the workers do not know is the kernel's.
        let isPlain = route.gateway?.isIPv4 ?? true
        let port = isPlain ? route.linkIndex.flatMap { ports[$0] } : nil
        return .init(
            prefix: prefix, gateway: route.gateway?.v4, portIndex: port?.portIndex, clear: clear(port, route: route.prefix, prefix))
    }

    /// What is for a local subnet leaves by a protected port, or by a one-armed one where a route as specific as the subnet leads
    /// there. The rest, a hub's way to everybody, is the kernel's unless the port is the protected side's alone.
    private func clear(_ port: AttachedInterface?, route: IPPrefix, _ prefix: IPPrefix) -> ForwardingPlan.Clear {
        guard let site = sites.first(where: { $0.contains(prefix) }) else {
            return port?.role.contains(.underlay) == true ? .byKernel : .allowed
        }
        if port?.role == .protected { return .allowed }
        return port?.role == .underlay || !site.contains(route) ? .refused : .allowed
    }

    /// A local subnet without a route of its own is not served by a shorter one: the default route takes over when the protected
    /// network's goes, or was all there ever was. ESP may go there all the same.
    private mutating func addFloors(_ protected: [IPPrefix]) {
        for site in sites where routes[site] == nil {
            var length = site.length - 1
            var covering: ForwardingPlan.Route?
            while covering == nil, length >= 0, let prefix = IPPrefix(site.address, length: length) {
                covering = routes[prefix]
                length -= 1
            }
            guard var floor = covering else { continue }
            let port = ports.values.first { $0.portIndex == floor.portIndex }
            if port?.role == .protected, !protected.contains(floor.prefix) { continue }
            (floor.prefix, floor.clear) = (site, .refused)
            routes[site] = floor
        }
    }
}
