import IKE
import Wire

/// What a connection says about its paths: addresses beyond the first, fragmentation, mobility, keepalives, redirection.
extension Reader {
    /// Addresses of one side.
    static var maxAddresses: Int { 8 }
    /// IP datagrams: below the least a header of every cipher would leave no room worth the trouble.
    static var fragmentSizes: ClosedRange<Int> { Bounds.shortestFragmentDatagramBytes...9000 }
    static var natKeepalives: ClosedRange<Duration> { .seconds(1)...(.seconds(3600)) }

    private enum Switch: String, CaseIterable { case auto, off }
    private enum Redirects: String, CaseIterable { case follow, ignore }

    /// One address, or a list of them in order of preference.
    func addresses(_ entry: Entry) -> [IPAddress] {
        guard case .sequence(let values) = entry.value.content else { return unicastAddress(entry).map { [$0] } ?? [] }
        guard !values.isEmpty, values.count <= Self.maxAddresses else {
            error(entry.mark, "`\(entry.key)` must be one address or a list of 1 to \(Self.maxAddresses)")
            return []
        }
        var result: [IPAddress] = []
        for value in values {
            guard let address = unicastAddress(Entry(key: entry.key, keyMark: entry.keyMark, value: value)) else { continue }
            if result.contains(address) {
                error(value.mark, "\(address) is given twice in `\(entry.key)`")
            } else {
                result.append(address)
            }
        }
        return result
    }

    func pathPlan(_ mapping: Mapping, gatewayRedirect: PathPlan.Gateway?) -> PathPlan {
        var plan = PathPlan()
        plan.mobike = true
        plan.redirectTo = gatewayRedirect
        if let entry = mapping["fragmentation"], let value = choice(entry, from: Switch.allCases) {
            plan.fragmentation = value == .auto
        }
        if let entry = mapping["fragment_size"], let bytes = integer(entry, in: Self.fragmentSizes) {
            plan.fragmentDatagramBytes = bytes
        }
        if let entry = mapping["mobike"], let value = choice(entry, from: Switch.allCases) { plan.mobike = value == .auto }
        if let entry = mapping["nat_keepalive"],
            let interval = duration(entry, in: Self.natKeepalives, allowsZero: true)
        {
            plan.natKeepalive = interval
        }
        if let entry = mapping["redirects"], let value = choice(entry, from: Redirects.allCases) {
            plan.followsRedirects = value == .follow
        }
        if let entry = mapping["redirect_to"] { plan.redirectTo = redirectTarget(entry) ?? plan.redirectTo }
        return plan
    }

    /// `redirect_to`: an address, or a name that the peer resolves.
    func redirectTarget(_ entry: Entry) -> PathPlan.Gateway? {
        guard let text = text(entry) else { return nil }
        if IPAddress(text) != nil { return unicastAddress(entry).map { .address($0) } }
        guard let target = PathPlan.Gateway(text) else {
            error(entry.mark, "\(quoted(text)) in `redirect_to` is neither an address nor a host name like `gw2.example.com`")
            return nil
        }
        return target
    }
}
