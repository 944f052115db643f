import IPsec
import Wire

/// The kernel routes and rules that keep protected prefixes away from the clear, as they should be now. A pure function of
/// policy and kernel state; `Routing` makes the kernel agree.
///
/// ```
/// priority  rule                                             why
/// 21980     from S to D          lookup main                 bypass policies for any protocol
/// 21982     fwmark 0x…           lookup main                 Culvert's own sockets, where anything is discarded
/// 21983     from S to D          lookup 22001                discard policies for any protocol
/// 21985     from 0.0.0.0 to N    lookup main                 the gateway itself to its neighbours on the underlay networks N
/// 21990     from A/32            lookup main                 answers of the gateway's own services (SSH) to off-link hosts
/// 22000     not fwmark 0x…       lookup 22000                everything but Culvert's own sockets
/// 22010     iif culvert0         lookup main, no short ones  decrypted packets for a local subnet by a route of its own …
/// 22011     iif culvert0         lookup 22002                … or not at all: never by the default route
///
/// table 22000
/// 10.2.0.0/24  dev culvert0 src 10.1.0.1  metric 100         what XDP did not catch ends in Culvert
/// 10.2.0.0/24  blackhole                  metric 4000        … or nowhere
/// 10.1.0.0/24  throw                      metric 100         local networks inside a wider protected prefix, also those
///                                                            behind routers of the site
///
/// table 22001
/// 203.0.113.0/24  blackhole               metric 4000        destinations of discard policies
/// 203.0.113.9/32  throw                   metric 100         local networks inside a wider discarded prefix
///
/// table 22002
/// 10.1.0.0/16  unreachable                metric 4000        local subnets
///
/// main table, IPv6
/// 2001:db8:9::/64  blackhole              metric 1           addresses of pools, which no tunnel carries yet
/// ```
struct RoutingPlan: Hashable, Sendable {
    /// The table of protected prefixes. Nothing else may use it.
    static let table: UInt32 = 22_000
    /// The table of discarded prefixes.
    static let discardTable: UInt32 = 22_001
    /// The table of local subnets, where a decrypted packet ends that no route of its own leads on.
    static let siteTable: UInt32 = 22_002
    static let bypassPriority: UInt32 = 21_980
    static let markedPriority: UInt32 = 21_982
    static let discardPriority: UInt32 = 21_983
    static let neighbourPriority: UInt32 = 21_985
    static let localSourcePriority: UInt32 = 21_990
    static let protectedPriority: UInt32 = 22_000
    static let sitePriority: UInt32 = 22_010
    static let siteFloorPriority: UInt32 = 22_011
    /// Whatever rule has one of these is ours.
    static let priorities: Set<UInt32> = [
        bypassPriority, markedPriority, discardPriority, neighbourPriority, localSourcePriority, protectedPriority,
        sitePriority, siteFloorPriority,
    ]
    static let tables: Set<UInt32> = [table, discardTable, siteTable]
    /// Set on the packets of Culvert's own sockets, which never enter a tunnel.
    static let socketMark: UInt32 = 0xC0_17E7
    static let tunMetric: UInt32 = 100
    static let blackholeMetric: UInt32 = 4_000
    static let ipv6Metric: UInt32 = 1

    struct Rule: Hashable, Sendable {
        var priority: UInt32
        var source: IPPrefix?
        var destination: IPPrefix?
        var mark = Mark.any
        /// nil: the main table.
        var table: UInt32?
        /// Packets from the TUN device alone: decrypted ones.
        var fromTunnel = false
        /// Routes with a shorter prefix do not count.
        var shortestPrefixLength = 0

        /// Which packets, by `socketMark`.
        enum Mark: Hashable, Sendable { case any, marked, unmarked }
    }
    struct Route: Hashable, Sendable {
        enum Kind: Hashable, Sendable { case tunnel(source: IPv4Address?), blackhole, unreachable, `throw` }
        var prefix: IPPrefix
        var kind: Kind
        var metric: UInt32
        var table = RoutingPlan.table
    }

    var rules: [Rule]
    var routes: [Route]
    /// Blackholes of the main table, metric `ipv6Metric`.
    var ipv6Blackholes: [IPPrefix]

    init(_ policy: PolicySet, view: KernelView, outside: OutsideLinks) {
        rules = []
        routes = []
        ipv6Blackholes = policy.uncarried
        addDiscards(policy, view: view, outside: outside)
        let protected = policy.protectedPrefixes.sorted(by: Steering.inTableOrder)
        guard !protected.isEmpty || !rules.isEmpty else { return }

        for bypass in policy.addressOnlyBypasses {
            for source in bypass.source.prefixes {
                for destination in bypass.destination.prefixes {
                    addRule(.init(priority: Self.bypassPriority, source: source, destination: destination))
                }
            }
        }
        guard !protected.isEmpty else { return }
        // A packet without a source is the gateway's own, on its way to get one; forwarded packets always have theirs.
        // It gets our address there: one inside local subnets is a tunnel's.
        let unspecified = IPPrefix(.v4(IPv4Address(bits: 0)), length: 32)
        let open = KernelView(addresses: view.addresses.filter { !policy.isProtectedSource($0.address) })
        for network in open.connectedPrefixes(outside.underlay.contains) where policy.needsException(network) {
            addRule(.init(priority: Self.neighbourPriority, source: unspecified, destination: network))
        }
        // An address inside a child's local subnets is a tunnel's: its answers must go through the tunnel.
        // One on the TUN device is too, also after its tunnel is gone.
        for address in view.addresses
        where address.linkIndex != outside.tun && !policy.isProtectedSource(address.address) && !address.isLoopback {
            addRule(.init(priority: Self.localSourcePriority, source: IPPrefix(.v4(address.address), length: 32)))
        }
        addRule(.init(priority: Self.protectedPriority, mark: .unmarked, table: Self.table))

        for prefix in protected {
            let source = Self.source(for: prefix, policy: policy, view: view)
            routes.append(.init(prefix: prefix, kind: .tunnel(source: source), metric: Self.tunMetric))
            routes.append(.init(prefix: prefix, kind: .blackhole, metric: Self.blackholeMetric))
        }
        let networks = SiteNetworks(policy, view: view, outside: outside)
        let exceptions = Set(networks.exceptions.map(\.prefix) + networks.neverProtected)
        for prefix in exceptions.sorted(by: Steering.inTableOrder) {
            routes.append(.init(prefix: prefix, kind: .throw, metric: Self.tunMetric))
        }
        addSiteFloor(policy)
    }

    /// A decrypted packet that is punted to the kernel leaves by a route to the site, or not at all: when that route goes, the
    /// default route would take it out in the clear.
    private mutating func addSiteFloor(_ policy: PolicySet) {
        let sites = policy.outermostSites.sorted(by: Steering.inTableOrder)
        guard let shortest = sites.map(\.length).min() else { return }
        addRule(.init(priority: Self.sitePriority, fromTunnel: true, shortestPrefixLength: shortest))
        addRule(.init(priority: Self.siteFloorPriority, table: Self.siteTable, fromTunnel: true))
        for site in sites {
            routes.append(.init(prefix: site, kind: .unreachable, metric: Self.blackholeMetric, table: Self.siteTable))
        }
    }

    /// Discard policies hold for the gateway's own packets too, on every interface, and when the gateway has ended: workers and
    /// XDP see only what arrives on attached ports.
    private mutating func addDiscards(_ policy: PolicySet, view: KernelView, outside: OutsideLinks) {
        let discards = policy.addressOnlyDiscards
        guard !discards.isEmpty else { return }
        addRule(.init(priority: Self.markedPriority, mark: .marked))
        for discard in discards {
            for source in discard.source.prefixes {
                for destination in discard.destination.prefixes {
                    addRule(
                        .init(
                            priority: Self.discardPriority, source: source, destination: destination, table: Self.discardTable))
                }
            }
        }
        let discarded = Set(discards.flatMap(\.destination.prefixes))
        for prefix in discarded.sorted(by: Steering.inTableOrder) {
            routes.append(.init(prefix: prefix, kind: .blackhole, metric: Self.blackholeMetric, table: Self.discardTable))
        }
        // As XDP has it: the longer of a connected and a discarded prefix decides.
        let isException = { (network: IPPrefix) in
            discarded.contains { $0.length < network.length && $0.contains(network) } && !discarded.contains(network)
        }
        let exceptions = Set(view.connectedPrefixes(outside.isLocalNetwork) + NeverProtected.prefixes).filter(isException)
        for prefix in exceptions.sorted(by: Steering.inTableOrder) {
            routes.append(.init(prefix: prefix, kind: .throw, metric: Self.tunMetric, table: Self.discardTable))
        }
    }

    private mutating func addRule(_ rule: Rule) {
        var rule = rule
        // The kernel tells it so.
        if rule.source?.length == 0 { rule.source = nil }
        if rule.destination?.length == 0 { rule.destination = nil }
        if !rules.contains(rule) { rules.append(rule) }
    }

    /// A local address that fits the selectors of a child that protects `prefix`, so that the gateway's own traffic does.
    private static func source(for prefix: IPPrefix, policy: PolicySet, view: KernelView) -> IPv4Address? {
        for protection in policy.protections where protection.remote.contains(prefix) {
            for local in protection.local {
                if let found = view.addresses.first(where: { local.contains(.v4($0.address)) }) { return found.address }
            }
        }
        return nil
    }
}
