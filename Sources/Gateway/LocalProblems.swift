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
            let problems = connection.localAddresses.compactMap(\.v4).map {
                problem($0, view, interfaceProblems, underlayProblem)
            }
            if let problem = problems.first, !problems.contains(nil) { result[connection.name] = problem }
        }
        return result
    }

    /// Nil when the address can be used.
    private static func problem(
        _ local: IPv4Address, _ view: KernelView, _ interfaceProblems: [String: String], _ underlayProblem: String?
    ) -> String? {
        guard let address = view.addresses.first(where: { $0.address == local }) else {
            let hint = underlayProblem.map { " " + $0 } ?? " Add it to the underlay interface, or correct local.address."
            return "The local address \(local) is on no interface." + hint
        }
        guard let link = view.links[address.linkIndex] else { return nil }
        if let problem = interfaceProblems[link.name] { return problem }
        guard link.isUp else { return "The interface \(link.name), which has the local address \(local), is down; bring it up." }
        return nil
    }

    /// Addresses on links that are up and have a carrier: what packets can leave from.
    static func usableAddresses(_ view: KernelView) -> Set<IPAddress> {
        Set(
            view.addresses.filter { address in view.links[address.linkIndex].map { $0.isUp && $0.isRunning } ?? false }
                .map { .v4($0.address) })
    }
}
