import IKE
import IPsec
import Wire

/// `pools`, and what connections and children say about virtual addresses.
extension Reader {
    static var maxPools: Int { 256 }
    static var maxPoolsOfConnection: Int { 16 }
    static var maxNameServers: Int { 4 }

    /// Pools by name, in file order.
    func pools(_ entry: Entry?) -> [AddressPool] {
        guard let entry, let values = list(entry) else { return [] }
        if values.count > Self.maxPools { error(entry.mark, "more than \(Self.maxPools) pools") }
        var result: [AddressPool] = []
        var lines: [String: Int] = [:]
        for value in values.prefix(Self.maxPools) {
            guard let mapping = mapping(value, "a pool") else { continue }
            checkKeys(mapping, in: .pool)
            let name = require("name", of: mapping, for: "a pool").flatMap { uniqueName($0, of: "pool", lines: &lines) }
            let addresses = require("addresses", of: mapping, for: "a pool")
            let range = addresses.flatMap(addressRange)
            let dns = mapping["dns"].map(nameServers) ?? []
            guard let name, let range, let addresses else { continue }
            let pool = AddressPool(name: name, first: range.first, last: range.last, dns: dns)
            if let other = result.first(where: { $0.overlaps(pool) }) {
                error(addresses.mark, "pool \(quoted(name)) overlaps pool \(quoted(other.name)); two hosts would get one address")
            }
            if !pool.isIPv4 {
                warning(
                    addresses.mark,
                    "IPv6 addresses of a pool are assigned to peers, but this version carries only IPv4 inside tunnels")
            }
            result.append(pool)
        }
        return result
    }

    /// `10.9.0.0/24` without its network and broadcast addresses, or `10.9.0.10-10.9.0.99`.
    private func addressRange(_ entry: Entry) -> (first: IPAddress, last: IPAddress)? {
        guard let text = text(entry) else { return nil }
        let fault = "\(quoted(text)) is neither a prefix like `10.9.0.0/24` nor a range like `10.9.0.10-10.9.0.99`"
        let ends = text.split(separator: "-", omittingEmptySubsequences: false)
        if ends.count == 2 {
            guard let first = IPAddress(ends[0]), let last = IPAddress(ends[1]), first.isIPv4 == last.isIPv4,
                TrafficSelector(first: first, last: last).contains(first)
            else { error(entry.mark, fault); return nil }
            return (first, last)
        }
        guard text.contains("/"), let prefix = IPPrefix(text) else { error(entry.mark, fault); return nil }
        let whole = AddressPool(name: "", first: prefix.address, last: prefix.last)
        switch (prefix.address, prefix.last) {
        case (.v4(let a), .v4(let b)):
            guard prefix.length <= 30 else { return (whole.first, whole.last) }
            return (.v4(IPv4Address(bits: a.bits + 1)), .v4(IPv4Address(bits: b.bits - 1)))
        case (.v6(let a), _):
            // RFC 4291 §2.6.1: the first one is the routers'.
            guard prefix.length <= 126 else { return (whole.first, whole.last) }
            return (.v6(IPv6Address(high: a.high, low: a.low + 1)), whole.last)
        default: return nil
        }
    }

    private func nameServers(_ entry: Entry) -> [IPAddress] {
        guard let values = list(entry) else { return [] }
        if values.count > Self.maxNameServers { error(entry.mark, "more than \(Self.maxNameServers) name servers") }
        return values.prefix(Self.maxNameServers).compactMap { value in
            guard let text = text(value, in: entry.key) else { return nil }
            if let address = IPAddress(text) { return address }
            error(value.mark, "\(quoted(text)) is not the IP address of a name server")
            return nil
        }
    }

    // MARK: Connections

    /// `pools` of a connection: names of pools, in order of preference.
    func poolNames(_ entry: Entry) -> [String] {
        guard let values = list(entry) else { return [] }
        if values.count > Self.maxPoolsOfConnection { error(entry.mark, "more than \(Self.maxPoolsOfConnection) pools") }
        return values.prefix(Self.maxPoolsOfConnection).compactMap { value in
            guard let name = text(value, in: entry.key) else { return nil }
            if knownPools.contains(where: { $0.name == name }) { return name }
            let names = knownPools.map(\.name)
            let hint = names.isEmpty ? "the file has no `pools`" : "did you mean `\(nearest(to: name, among: names).candidate)`?"
            error(value.mark, "there is no pool \(quoted(name)); \(hint)")
            return nil
        }
    }

    /// `virtual_address: auto`, `ipv4`, `ipv6` or a list of the latter two.
    func virtualAddress(_ entry: Entry) -> VirtualAddressRequest {
        enum Word: String, CaseIterable { case auto, ipv4, ipv6 }
        var values = [entry.value]
        if case .sequence(let items) = entry.value.content { values = items }
        var request = VirtualAddressRequest()
        for value in values {
            let one = Entry(key: entry.key, keyMark: entry.keyMark, value: value)
            switch choice(one, from: Word.allCases) {
            case .auto, .ipv4: request.wantsIPv4 = true
            case .ipv6:
                request.wantsIPv6 = true
                warning(value.mark, "an IPv6 address is asked for, but this version carries only IPv4 inside tunnels")
            case nil: break
            }
        }
        return request
    }

    /// Fills in the dynamic sides of a connection's children, and complains where the two do not fit.
    func settleDynamicSides(_ connection: inout Connection, mapping: Mapping, marks: [Mark]) {
        let pools = connection.pools.compactMap { name in knownPools.first { $0.name == name } }
        var hasDynamicRemote = false
        var hasDynamicLocal = false
        for index in connection.children.indices {
            let mark = marks.indices.contains(index) ? marks[index] : mapping.mark
            if connection.children[index].remoteIsDynamic {
                hasDynamicRemote = true
                connection.children[index].remoteSubnets = pools.flatMap(\.span)
                if pools.isEmpty {
                    error(mark, "`remote_subnets: dynamic` is the address that the peer gets from a pool; name it in `pools`")
                }
            }
            if connection.children[index].localIsDynamic {
                hasDynamicLocal = true
                if connection.virtualAddress.isEmpty {
                    error(
                        mark,
                        "`local_subnets: dynamic` is the address that the peer gives; ask for it with `virtual_address: auto`")
                }
            }
        }
        if let entry = mapping["pools"], !pools.isEmpty, !hasDynamicRemote {
            warning(entry.keyMark, "no child has `remote_subnets: dynamic`, so the addresses of `pools` are of no use")
        }
        if let entry = mapping["virtual_address"], !connection.virtualAddress.isEmpty, !hasDynamicLocal {
            warning(entry.keyMark, "no child has `local_subnets: dynamic`, so the virtual address is of no use")
        }
    }
}

extension AddressPool {
    /// Prefixes that hold all addresses and no others, except the network and broadcast address that were left out.
    fileprivate var span: [IPPrefix] {
        for length in (0...(isIPv4 ? 30 : 126)).reversed() {
            guard let prefix = IPPrefix(first, length: length), prefix.contains(last) else { continue }
            let inner = AddressPool(name: "", first: prefix.address, last: prefix.last)
            let isWhole = inner.address(1) == first && (isIPv4 ? inner.address(inner.count - 2) == last : prefix.last == last)
            if isWhole { return [prefix] }
            break
        }
        return TrafficSelector(first: first, last: last).prefixes
    }

    fileprivate func overlaps(_ other: AddressPool) -> Bool {
        TrafficSelector(first: first, last: last).intersection(TrafficSelector(first: other.first, last: other.last)) != nil
    }
}

extension Scope {
    static let pool = Scope(name: "a pool", keys: ["name", "addresses", "dns"])
    static let addressingKeys = ["pools", "virtual_address"]
}
