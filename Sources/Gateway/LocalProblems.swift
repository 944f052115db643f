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
            guard let local = connection.localAddress.v4 else { continue }
            if let address = view.addresses.first(where: { $0.address == local }) {
                guard let link = view.links[address.linkIndex] else { continue }
                if let problem = interfaceProblems[link.name] {
                    result[connection.name] = problem
                } else if !link.isUp {
                    result[connection.name] =
                        "The interface \(link.name), which has the local address \(local), is down; bring it up."
                }
            } else {
                let hint = underlayProblem.map { " " + $0 } ?? " Add it to the underlay interface, or correct local.address."
                result[connection.name] = "The local address \(local) is on no interface." + hint
            }
        }
        return result
    }
}
