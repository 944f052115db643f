import IKE
import Platform
import Wire

/// Policy rules of somebody else that come before Culvert's and take packets past the tunnels. The packet filter drops what they
/// lead out; these sentences tell why nothing goes through.
enum ForeignRules {
    /// Tables that the kernel and Culvert look into first in any case.
    private static let localTable: UInt32 = 255
    private enum Action { static let lookup: UInt8 = 1, goto: UInt8 = 2, nothing: UInt8 = 3 }

    /// A sentence per rule.
    /// - Parameters:
    ///   - routes: prefixes of the routes of a table, those that decide; nil: it could not be read.
    static func sentences(_ rules: [NetlinkRule], policy: PolicySet, routes: (UInt32) -> [IPPrefix]?) -> [String] {
        rules.filter(isInFront).compactMap { rule in
            let met = policy.protections.lazy.compactMap { pair(rule, $0) }
            guard let (local, remotes) = met.first(where: { leads(rule, to: $0.remotes, routes) }) else { return nil }
            return sentence(rule, "\(local) to \(remotes.first?.description ?? "remote subnets")")
        }
    }

    /// Whether the rule is asked before ours, and is none of ours.
    static func isInFront(_ rule: NetlinkRule) -> Bool {
        rule.priority < RoutingPlan.protectedPriority && !RoutingPlan.priorities.contains(rule.priority)
            && rule.table != localTable && !rule.isVRF && rule.action != Action.nothing
    }

    /// A local subnet, and the remote ones, that packets which the rule is for may have.
    private static func pair(_ rule: NetlinkRule, _ protection: PolicySet.Protection) -> (local: IPPrefix, remotes: [IPPrefix])? {
        let meets = { (side: IPPrefix?, prefix: IPPrefix) in rule.isInverted || side?.overlaps(prefix) ?? true }
        let remotes = protection.remote.filter { meets(rule.destination, $0) }
        guard let local = protection.local.first(where: { meets(rule.source, $0) }), !remotes.isEmpty else { return nil }
        return (local, remotes)
    }

    private static func leads(_ rule: NetlinkRule, to remotes: [IPPrefix], _ routes: (UInt32) -> [IPPrefix]?) -> Bool {
        guard rule.action == Action.lookup else { return true }
        guard let prefixes = routes(rule.table) else { return true }
        return prefixes.contains { prefix in
            prefix.length >= rule.shortestPrefixLength && remotes.contains { $0.overlaps(prefix) }
        }
    }

    private static func sentence(_ rule: NetlinkRule, _ pair: String) -> String {
        var words = [rule.isInverted ? "not" : nil, "from \(rule.source?.description ?? "all")"].compactMap(\.self)
        if let destination = rule.destination { words.append("to \(destination)") }
        if let name = rule.inputInterface { words.append("iif \(name)") }
        if let mark = rule.mark { words.append("fwmark 0x\(String(mark, radix: 16))") }
        switch rule.action {
        case Action.lookup: words.append("lookup \(rule.table == NetlinkRoute.mainTable ? "main" : "\(rule.table)")")
        case Action.goto: words.append("goto")
        default: words.append("blackhole, unreachable or prohibit")
        }
        return "The policy rule \(rule.priority) (\(words.joined(separator: " "))) comes before Culvert's and leads packets from "
            + "\(pair) past the tunnel, so that the packet filter drops them; remove it (ip rule del priority "
            + "\(rule.priority)), or give it a priority above \(RoutingPlan.protectedPriority)."
    }
}

extension ControlThread {
    static let kernelCheckInterval: Duration = .seconds(2)

    /// What others do to the kernel's state and no notification tells: XDP programs, foreign rules.
    func watchKernel() {
        guard now >= nextKernelCheck else { return }
        nextKernelCheck = now + Self.kernelCheckInterval
        ports.keepPrograms()
        let kernel = surroundings.kernel
        let policy = policy
        let foreign = ForeignRules.sentences(kernel.policyRules(), policy: policy) { table in
            table == NetlinkRoute.mainTable ? kernel.view.routes.map(\.prefix) : kernel.prefixes(ofTable: table)
        }
        var found = foreign.map { Cause(.foreignRule, $0) }
        if kernel.forwardsIPv6, policy.protectedPrefixes.contains(where: { $0.length == 0 }) {
            found.append(Cause(.ipv6Unprotected, Self.ipv6Warning))
        }
        found += kernel.unsupported.map { Cause(.routeUnsupported, $0) }
        for cause in found where !kernelCauses.contains(cause) { log(.warning, cause.sentence) }
        kernelCauses = found
    }

    private static let ipv6Warning =
        "This machine forwards IPv6, which no tunnel carries: hosts behind a tunnel to 0.0.0.0/0 that have IPv6 reach the "
        + "Internet past it, in the clear. Turn it off (sysctl net.ipv6.conf.all.forwarding=0) unless that is meant."
}
