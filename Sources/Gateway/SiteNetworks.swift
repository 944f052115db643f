import Wire

/// Networks that are this site's own, with the links that lead there: what is inside a child's local subnets, and what a wider
/// protected prefix covers although it is reached without a tunnel.
struct SiteNetworks {
    struct Network: Hashable {
        var prefix: IPPrefix
        var link: Int
    }

    /// Inside a local subnet: connected, or with a route at least as specific as the subnet.
    private(set) var inside: [Network] = []
    /// Inside a wider protected prefix, and none themselves: connected networks and those of `inside`. The longer prefix decides.
    private(set) var exceptions: [Network] = []
    /// Multicast and broadcast, which are no tunnel's business either.
    private(set) var neverProtected: [IPPrefix] = []

    /// Links of the underlay alone have no network of the site.
    init(_ policy: PolicySet, view: KernelView, outside: OutsideLinks) {
        let sites = PrefixSet(policy.sites)
        let protected = policy.protectedPrefixes
        let isProtected = Set(protected)
        let isException = { (prefix: IPPrefix) in
            protected.contains { $0.length < prefix.length && $0.contains(prefix) } && !isProtected.contains(prefix)
        }
        neverProtected = NeverProtected.prefixes.filter(isException)
        let connected = view.addresses.compactMap { address in
            address.connected.map { Network(prefix: $0, link: address.linkIndex) }
        }
        let routed = view.routes.compactMap { route in route.linkIndex.map { Network(prefix: route.prefix, link: $0) } }
        var seen: Set<Network> = []
        let isNew = { (network: Network) in outside.isLocalNetwork(network.link) && seen.insert(network).inserted }
        for network in connected where isNew(network) {
            if sites.covers(network.prefix) { inside.append(network) }
            if isException(network.prefix) { exceptions.append(network) }
        }
        for network in routed where sites.covers(network.prefix) && isNew(network) {
            inside.append(network)
            if isException(network.prefix) { exceptions.append(network) }
        }
    }
}

extension PolicySet {
    /// Local subnets, each once, without `0.0.0.0/0`: that is whoever asks a hub, and no network of the site.
    var sites: [IPPrefix] {
        var seen: Set<IPPrefix> = []
        return protections.flatMap(\.local).filter { $0.length > 0 && seen.insert($0).inserted }
    }

    /// Those that no other one contains.
    var outermostSites: [IPPrefix] {
        let all = sites
        return all.filter { site in !all.contains { $0 != site && $0.contains(site) } }
    }
}
