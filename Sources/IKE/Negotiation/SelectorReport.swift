import IPsec
public import Wire

/// Why the traffic selectors of a request for a child fit none of ours, for the responder's operator.
enum SelectorReport {
    /// - Parameters:
    ///   - initiator: what the peer proposed on its side, and `responder` on ours.
    ///   - networks: of the protected interfaces of this end; empty when they are not known.
    static func refusal(
        initiator: [TrafficSelector], responder: [TrafficSelector], plans: [ChildPlan], connection: ConnectionPlan,
        networks: [LocalNetwork] = []
    ) -> Reason {
        let proposed = "the peer proposed \(initiator.sentence) on its side and \(responder.sentence) on ours"
        if let swapped = plans.first(where: { isSwapped($0, initiator, responder) }) {
            return Reason(.trafficSelectors, exchanged(swapped, connection, proposed, networks))
        }
        let ours = plans.prefix(4).map {
            "child \(connection.name)/\($0.name) has remote_subnets \($0.remoteSelectors.sentence)"
                + "\(connection.line("\($0.name)/remote_subnets")) and local_subnets \($0.localSelectors.sentence)"
                + connection.line("\($0.name)/local_subnets")
        }.joined(separator: "; ")
        return Reason(
            .trafficSelectors,
            "Traffic selectors do not overlap: \(proposed); \(ours.isEmpty ? "no child is configured" : ours). Change "
                + "\(change(plans, initiator, responder))")
    }

    /// The side that differs, when one does: what overlaps already is no cause.
    private static func change(
        _ plans: [ChildPlan], _ initiator: [TrafficSelector], _ responder: [TrafficSelector]
    ) -> String {
        let remoteFits = plans.contains { !Narrowing.intersect(initiator, $0.remoteSelectors).isEmpty }
        let localFits = plans.contains { !Narrowing.intersect(responder, $0.localSelectors).isEmpty }
        if remoteFits, !localFits { return "local_subnets here or remote_subnets there, so that they overlap." }
        if localFits, !remoteFits { return "remote_subnets here or local_subnets there, so that they overlap." }
        return "remote_subnets and local_subnets here, or local_subnets and remote_subnets there, so that they overlap."
    }

    private static func isSwapped(_ plan: ChildPlan, _ initiator: [TrafficSelector], _ responder: [TrafficSelector]) -> Bool {
        !initiator.isEmpty && Set(initiator) == Set(plan.localSelectors) && Set(responder) == Set(plan.remoteSelectors)
    }

    /// Which end has them the wrong way round is seen where the networks are: at the end whose own addresses are in what it
    /// calls remote.
    private static func exchanged(
        _ plan: ChildPlan, _ connection: ConnectionPlan, _ proposed: String, _ networks: [LocalNetwork]
    ) -> String {
        let head =
            "Local and remote are exchanged between the two ends: \(proposed), which is exactly what child "
            + "\(connection.name)/\(plan.name) has the other way round. "
        let lines =
            "local_subnets\(connection.line("\(plan.name)/local_subnets")) and remote_subnets"
            + connection.line("\(plan.name)/remote_subnets")
        switch (networks.first(in: plan.localSelectors), networks.first(in: plan.remoteSelectors)) {
        case (nil, let network?):
            return head + "Change this end, because \(network) is in remote_subnets: exchange \(lines)."
        case (let network?, nil):
            return head + "This end is right, because \(network) is in local_subnets: exchange the two at the peer."
        default: return head + "Exchange \(lines) at one of the ends."
        }
    }
}

/// An address of an interface behind which the hosts of this end are.
public struct LocalNetwork: Hashable, Sendable, CustomStringConvertible {
    public var interface: String
    public var address: IPAddress
    public init(interface: String, address: IPAddress) { (self.interface, self.address) = (interface, address) }
    public var description: String { "\(interface) (\(address))" }
}

extension [LocalNetwork] {
    func first(in selectors: [TrafficSelector]) -> LocalNetwork? {
        first { network in selectors.contains { $0.contains(network.address) } }
    }
}
