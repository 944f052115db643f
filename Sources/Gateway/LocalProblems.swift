import Configuration
import IKE
import Wire

/// Why connections cannot work at this end: a pure function of configuration and kernel state.
enum LocalProblems {
    /// A sentence per connection that has one.
    /// - Parameter interfaceProblems: of configured interfaces that are not in use, by name.
    static func find(_ connections: [Connection], view: KernelView, interfaceProblems: [String: String], underlay: [String])
        -> [String: String]
    {
        var result: [String: String] = [:]
        let underlayProblem = underlay.compactMap { interfaceProblems[$0] }.first
        for connection in connections {
            // One usable address of several is enough.
            let problems = connection.localAddresses.map {
                problem($0, view, interfaceProblems, underlayProblem)
            }
            if let problem = problems.first, !problems.contains(nil) { result[connection.name] = problem }
        }
        return result
    }

    /// Nil when the address can be used.
    private static func problem(
        _ local: IPAddress, _ view: KernelView, _ interfaceProblems: [String: String], _ underlayProblem: String?
    ) -> String? {
        guard let index = view.link(of: local) else {
            if view.ipv6.addresses.contains(where: { .v6($0.address) == local }) {
                return
                    "The local address \(local) cannot be used: the kernel still looks, or has found, whether another host has "
                    + "it (duplicate address detection; see `ip -6 address`)."
            }
            let hint = underlayProblem.map { " " + $0 } ?? " Add it to the underlay interface, or correct local.address."
            return "The local address \(local) is on no interface." + hint
        }
        guard let link = view.links[index] else { return nil }
        if let problem = interfaceProblems[link.name] { return problem }
        guard link.isUp else { return "The interface \(link.name), which has the local address \(local), is down; bring it up." }
        return nil
    }

    /// Where hosts of this end are: the addresses of the protected interfaces.
    static func protectedNetworks(_ interfaces: [GatewayConfiguration.Interface], _ view: KernelView) -> [LocalNetwork] {
        let names = Set(interfaces.filter { $0.role == .protected }.map(\.name))
        return view.addresses.compactMap { address in
            guard let name = view.links[address.linkIndex]?.name, names.contains(name) else { return nil }
            return LocalNetwork(interface: name, address: .v4(address.address))
        }.sorted { ($0.interface, $0.address.description) < ($1.interface, $1.address.description) }
    }

    /// Addresses on links that are up and have a carrier: what packets can leave from.
    static func usableAddresses(_ view: KernelView) -> Set<IPAddress> {
        let isRunning = { (index: Int) in view.links[index].map { $0.isUp && $0.isRunning } ?? false }
        let ipv4 = view.addresses.filter { isRunning($0.linkIndex) }.map { IPAddress.v4($0.address) }
        let ipv6 = view.ipv6.addresses.filter { $0.isUsable && isRunning($0.linkIndex) }.map { IPAddress.v6($0.address) }
        return Set(ipv4 + ipv6)
    }
}
