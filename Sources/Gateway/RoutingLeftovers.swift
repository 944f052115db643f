import Platform

/// What the kernel keeps of a gateway that does not run.
public enum RoutingLeftovers {
    /// Protected prefixes that are blackholed, whoever made them so; empty also when the kernel does not answer.
    public static func blackholedPrefixes() -> [String] {
        guard let netlink = try? Netlink(), let routes = try? netlink.routes(table: RoutingPlan.table) else { return [] }
        return routes.filter { $0.kind == .blackhole && $0.protocolNumber == NetlinkRoute.ownProtocol }.map { "\($0.prefix)" }
    }
}
