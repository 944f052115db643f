import Configuration
import Platform
import Wire

/// The kernel's packet filter, computed: what is between local and remote subnets crosses no interface in the clear, whatever
/// routed it, but for the protected side's. Interfaces that the file does not name are judged like an underlay's; the networks
/// that the main table has there, inside local subnets or connected, are the site's own. RFC 4301 §5.
extension FilterRules {
    /// - Parameter interfaces: of the file.
    init(_ policy: PolicySet, view: KernelView, interfaces: [GatewayConfiguration.Interface], outside: OutsideLinks) {
        let names = { (role: GatewayConfiguration.Interface.Role) in interfaces.filter { $0.role == role }.map(\.name) }
        let bypass = policy.addressOnlyBypasses.map {
            Pair(sources: $0.source.prefixes, destinations: $0.destination.prefixes)
        }
        self.init(
            inside: [LinuxKernel.tunName, "lo"] + names(.protected), outer: names(.underlay), bypass: bypass,
            protected: Self.grouped(policy.protections), mark: RoutingPlan.socketMark)
        guard !policy.protections.isEmpty else { return }
        // One-armed: what stays between local subnets is the site's own, also when a child protects everything else.
        for name in names(.both) {
            for protection in policy.protections {
                let local = protection.local.filter { $0.length > 0 }
                let pair = Pair(sources: local, destinations: local)
                if !local.isEmpty { onEntry.append(Exception(interface: name, pair: pair)) }
            }
        }
        addNetworks(SiteNetworks(policy, view: view, outside: outside), view: view, both: Set(names(.both)))
    }

    private mutating func addNetworks(_ networks: SiteNetworks, view: KernelView, both: Set<String>) {
        let anywhere = [IPPrefix(.v4(IPv4Address(bits: 0)), length: 0)].compactMap(\.self)
        if !networks.neverProtected.isEmpty {
            onExit.append(Exception(interface: nil, pair: Pair(sources: anywhere, destinations: networks.neverProtected)))
        }
        var byName: [String: Set<IPPrefix>] = [:]
        for network in networks.inside + networks.exceptions {
            guard let name = view.links[network.link]?.name, !inside.contains(name) else { continue }
            byName[name, default: []].insert(network.prefix)
        }
        for (name, prefixes) in byName.sorted(by: { $0.key < $1.key }) {
            let list = prefixes.sorted(by: Steering.inTableOrder)
            onExit.append(Exception(interface: name, pair: Pair(sources: anywhere, destinations: list)))
            if both.contains(name) { continue }
            onEntry.append(Exception(interface: name, pair: Pair(sources: list, destinations: anywhere)))
        }
    }

    /// As few pairs of lists as the children have in common: the kernel tries them one by one.
    private static func grouped(_ protections: [PolicySet.Protection]) -> [Pair] {
        let merged = { (pairs: [Pair], key: (Pair) -> [IPPrefix], join: ([Pair], [IPPrefix]) -> Pair) -> [Pair] in
            var order: [[IPPrefix]] = []
            var groups: [[IPPrefix]: [Pair]] = [:]
            for pair in pairs {
                if groups[key(pair)] == nil { order.append(key(pair)) }
                groups[key(pair), default: []].append(pair)
            }
            return order.map { join(groups[$0] ?? [], $0) }
        }
        let unique = { (list: [IPPrefix]) in Set(list).sorted(by: Steering.inTableOrder) }
        let pairs = protections.map { Pair(sources: unique($0.local), destinations: unique($0.remote)) }
            .filter { !$0.sources.isEmpty && !$0.destinations.isEmpty }
        let bySources = merged(pairs, \.sources) { Pair(sources: $1, destinations: unique($0.flatMap(\.destinations))) }
        return merged(bySources, \.destinations) { Pair(sources: unique($0.flatMap(\.sources)), destinations: $1) }
    }
}
