import IPsec
import Wire

/// A rule of the file with its position. Lists of prefixes and ports make several policies of one rule.
struct CheckedPolicy {
    var policies: [SecurityPolicy]
    var mark: Mark
}

/// `policies`.
extension Reader {
    static var maxPolicies: Int { 4096 }
    /// Prefixes or port ranges of one side of one rule, and policies one rule may become.
    static var maxListItems: Int { 64 }
    static var maxPoliciesOfRule: Int { 256 }
    /// Names of IP protocols, as /etc/protocols has them.
    static var ipProtocols: [String: UInt8] {
        [
            "icmp": 1, "igmp": 2, "ipip": 4, "tcp": 6, "udp": 17, "dccp": 33, "gre": 47, "esp": 50, "ah": 51, "ospf": 89,
            "pim": 103,
            "vrrp": 112, "sctp": 132, "udplite": 136,
        ]
    }
    private static var protocolsWithPorts: Set<UInt8> { [6, 17, 33, 132, 136] }

    func policies(_ entry: Entry?) -> [CheckedPolicy] {
        guard let entry, let values = list(entry) else { return [] }
        if values.count > Self.maxPolicies { error(entry.mark, "more than \(Self.maxPolicies) policies") }
        return values.prefix(Self.maxPolicies).compactMap { value in
            mapping(value, "a policy").flatMap(policy)
        }
    }

    private func policy(_ mapping: Mapping) -> CheckedPolicy? {
        let before = errorCount
        checkKeys(mapping, in: .policy)
        let action = require("action", of: mapping, for: "a policy")
            .flatMap { choice($0, from: [SecurityPolicy.Action.bypass, .discard]) }
        let sources = mapping["source"].map(prefixes) ?? []
        let destinations = mapping["destination"].map(prefixes) ?? []
        let ipProtocol = mapping["protocol"].flatMap(ipProtocol) ?? 0
        let sourcePorts = mapping["source_ports"].map(ports) ?? []
        let destinationPorts = mapping["destination_ports"].map(ports) ?? []
        for key in ["source_ports", "destination_ports"] {
            if let entry = mapping[key], errorCount == before, !Self.protocolsWithPorts.contains(ipProtocol) {
                error(entry.keyMark, "`\(key)` needs `protocol: tcp`, `udp` or another one that has ports")
            }
        }
        guard let action, errorCount == before else { return nil }
        if action == .bypass, mapping["source"] == nil, mapping["destination"] == nil, ipProtocol == 0 {
            error(
                mapping.mark,
                "this policy would let everything bypass the tunnels in the clear; name a `source`, `destination` or `protocol`")
            return nil
        }
        let sides = (expand(sources, sourcePorts, 0), expand(destinations, destinationPorts, ipProtocol))
        guard sides.0.count * sides.1.count <= Self.maxPoliciesOfRule else {
            error(
                mapping.mark,
                "the lists of this policy combine to more than \(Self.maxPoliciesOfRule) rules; write several policies")
            return nil
        }
        let all = sides.0.flatMap { source in
            sides.1.map { SecurityPolicy(action: action, source: source, destination: $0) }
        }
        return CheckedPolicy(policies: all, mark: mapping.mark)
    }

    /// Every prefix with every port range; without any, the whole of IPv4 and of the ports.
    private func expand(_ prefixes: [IPPrefix], _ ports: [ClosedRange<UInt16>], _ ipProtocol: UInt8) -> [TrafficSelector] {
        let ports = ports.isEmpty ? [0...65_535] : ports
        let everything = TrafficSelector(first: .v4(IPv4Address(bits: 0)), last: .v4(IPv4Address(bits: .max)))
        let selectors = prefixes.isEmpty ? [everything] : prefixes.map { TrafficSelector($0) }
        return selectors.flatMap { selector in
            ports.map { TrafficSelector(first: selector.first, last: selector.last, ipProtocol: ipProtocol, ports: $0) }
        }
    }

    /// The items of a list, or the one value that stands in its place.
    private func items(_ entry: Entry) -> [Value] {
        guard case .sequence(let values) = entry.value.content else {
            if case .scalar = entry.value.content { return [entry.value] }
            error(entry.mark, "`\(entry.key)` must be a value or a list, not \(entry.value.kind)")
            return []
        }
        if values.isEmpty { error(entry.mark, "`\(entry.key)` is empty; remove it to mean any") }
        if values.count > Self.maxListItems { error(entry.mark, "more than \(Self.maxListItems) items in `\(entry.key)`") }
        return Array(values.prefix(Self.maxListItems))
    }

    private func prefixes(_ entry: Entry) -> [IPPrefix] { items(entry).compactMap { prefix($0, in: entry.key) } }

    private func ipProtocol(_ entry: Entry) -> UInt8? {
        guard let text = text(entry) else { return nil }
        if text == "any" { return 0 }
        if let known = Self.ipProtocols[text.lowercased()] { return known }
        if let number = decimal(text), let value = UInt8(exactly: number), value != 0 { return value }
        error(
            entry.mark,
            unknownChoice(text, for: entry.key, among: Self.ipProtocols.keys.sorted()) + ", any, or a number from 1 to 255")
        return nil
    }

    /// `53`, `1-1023`, and lists of them.
    private func ports(_ entry: Entry) -> [ClosedRange<UInt16>] {
        items(entry).compactMap { value in
            guard let text = text(value, in: entry.key) else { return nil }
            let parts = text.split(separator: "-", omittingEmptySubsequences: false).map {
                decimal($0).flatMap { UInt16(exactly: $0) }
            }
            if parts.count == 1, let port = parts[0] { return port...port }
            if parts.count == 2, let low = parts[0], let high = parts[1], low <= high { return low...high }
            error(value.mark, "\(quoted(text)) in `\(entry.key)` is not a port or a range, like `443` or `1-1023`")
            return nil
        }
    }
}
