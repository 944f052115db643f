import IPsec
import Wire

/// The kernel routes and rules that keep protected prefixes away from the clear, as they should be now. A pure function of
/// policy and kernel state; `Routing` makes the kernel agree.
///
/// ```
/// priority  rule                                             why
/// 21980     from S to D          lookup main                 bypass policies for any protocol
/// 21985     from 0.0.0.0 to N    lookup main                 the gateway itself to its neighbours on the underlay networks N
/// 21990     from A/32            lookup main                 answers of the gateway's own services (SSH) to off-link hosts
/// 22000     not fwmark 0x…       lookup 22000                everything but Culvert's own sockets
///
/// table 22000
/// 10.2.0.0/24  dev culvert0 src 10.1.0.1  metric 100         what XDP did not catch ends in Culvert
/// 10.2.0.0/24  blackhole                  metric 4000        … or nowhere
/// 10.1.0.0/24  throw                      metric 100         local networks inside a wider protected prefix
/// ```
struct RoutingPlan: Hashable, Sendable {
    /// The table of protected prefixes. Nothing else may use it.
    static let table: UInt32 = 22_000
    static let bypassPriority: UInt32 = 21_980
    static let neighbourPriority: UInt32 = 21_985
    static let localSourcePriority: UInt32 = 21_990
    static let protectedPriority: UInt32 = 22_000
    /// Whatever rule has one of these is ours.
    static let priorities: Set<UInt32> = [bypassPriority, neighbourPriority, localSourcePriority, protectedPriority]
    /// Set on the packets of Culvert's own sockets, which never enter a tunnel.
    static let socketMark: UInt32 = 0xC0_17E7
    static let tunMetric: UInt32 = 100
    static let blackholeMetric: UInt32 = 4_000

    struct Rule: Hashable, Sendable {
        var priority: UInt32
        var source: IPPrefix?
        var destination: IPPrefix?
        /// True: matches what does not carry `socketMark`.
        var exceptMarked: Bool
        /// `RoutingPlan.table`, or nil for the main table.
        var toProtectedTable: Bool
    }
    struct Route: Hashable, Sendable {
        enum Kind: Hashable, Sendable { case tunnel(source: IPv4Address?), blackhole, `throw` }
        var prefix: IPPrefix
        var kind: Kind
        var metric: UInt32
    }

    var rules: [Rule]
    var routes: [Route]

    init(_ policy: PolicySet, view: KernelView, outside: OutsideLinks) {
        rules = []
        routes = []
        let protected = policy.protectedPrefixes.sorted(by: Steering.inTableOrder)
        guard !protected.isEmpty else { return }

        for bypass in policy.addressOnlyBypasses {
            for source in bypass.source.prefixes {
                for destination in bypass.destination.prefixes {
                    addRule(
                        .init(
                            priority: Self.bypassPriority, source: source, destination: destination, exceptMarked: false,
                            toProtectedTable: false))
                }
            }
        }
        // A packet without a source is the gateway's own, on its way to get one; forwarded packets always have theirs.
        let unspecified = IPPrefix(.v4(IPv4Address(bits: 0)), length: 32)
        for network in view.connectedPrefixes(outside.underlay.contains) where policy.needsException(network) {
            addRule(
                .init(
                    priority: Self.neighbourPriority, source: unspecified, destination: network, exceptMarked: false,
                    toProtectedTable: false))
        }
        // An address inside a child's local subnets is a tunnel's: its answers must go through the tunnel.
        for address in view.addresses where !policy.isProtectedSource(address.address) && !address.isLoopback {
            addRule(
                .init(
                    priority: Self.localSourcePriority, source: IPPrefix(.v4(address.address), length: 32), destination: nil,
                    exceptMarked: false, toProtectedTable: false))
        }
        addRule(
            .init(
                priority: Self.protectedPriority, source: nil, destination: nil, exceptMarked: true, toProtectedTable: true))

        for prefix in protected {
            let source = Self.source(for: prefix, policy: policy, view: view)
            routes.append(.init(prefix: prefix, kind: .tunnel(source: source), metric: Self.tunMetric))
            routes.append(.init(prefix: prefix, kind: .blackhole, metric: Self.blackholeMetric))
        }
        let exceptions = view.connectedPrefixes(outside.isLocalNetwork) + NeverProtected.prefixes
        for prefix in Set(exceptions).sorted(by: Steering.inTableOrder) where policy.needsException(prefix) {
            routes.append(.init(prefix: prefix, kind: .throw, metric: Self.tunMetric))
        }
    }

    private mutating func addRule(_ rule: Rule) {
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
