import Wire

/// The names of the connections by the addresses of their peers, in order of configuration: a first message costs one look,
/// however many connections there are.
package struct ConnectionDirectory: Sendable {
    private var byRemote: [IPAddress: [String]] = [:]
    private var fromAnywhere: [String] = []

    package init() {}

    mutating func add(_ plan: ConnectionPlan) {
        if plan.remoteAddress == nil { fromAnywhere.append(plan.name) }
        for address in plan.remoteAddresses.uniqued { byRemote[address, default: []].append(plan.name) }
    }

    mutating func remove(_ plan: ConnectionPlan) {
        fromAnywhere.removeAll { $0 == plan.name }
        for address in plan.remoteAddresses.uniqued {
            byRemote[address]?.removeAll { $0 == plan.name }
            if byRemote[address]?.isEmpty == true { byRemote[address] = nil }
        }
    }

    /// Whether some connection names this address as its peer's.
    func names(_ address: IPAddress) -> Bool { byRemote[address] != nil }

    /// Those that name this address.
    func named(_ address: IPAddress) -> [String] { byRemote[address] ?? [] }

    /// Those that name the address before those that take any.
    func candidates(_ address: IPAddress) -> [String] { (byRemote[address] ?? []) + fromAnywhere }

    /// Entries of all kinds, for tests that watch them.
    var count: Int { byRemote.count + fromAnywhere.count }
}
