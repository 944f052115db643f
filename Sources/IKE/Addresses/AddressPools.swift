public import Wire

/// Addresses that a responder hands out to single hosts. RFC 7296 §2.19.
public struct AddressPool: Hashable, Sendable {
    public var name: String
    /// Both ends belong to it; one family.
    public var first: IPAddress
    public var last: IPAddress
    /// Told to the hosts: INTERNAL_IP4_DNS, INTERNAL_IP6_DNS.
    public var dns: [IPAddress]
    public init(name: String, first: IPAddress, last: IPAddress, dns: [IPAddress] = []) {
        (self.name, self.first, self.last, self.dns) = (name, first, last, dns)
    }

    public var isIPv4: Bool { first.isIPv4 }

    /// How many there are, 2^32 at most: nobody comes to the end of more.
    package var count: UInt64 {
        let most = UInt64(1) << 32
        switch (first, last) {
        case (.v4(let a), .v4(let b)): return b.bits >= a.bits ? UInt64(b.bits - a.bits) + 1 : 0
        case (.v6(let a), .v6(let b)):
            guard a.high == b.high else { return b.high > a.high ? most : 0 }
            return b.low >= a.low ? min(most, (b.low - a.low).addingReportingOverflow(1).overflow ? most : b.low - a.low + 1) : 0
        default: return 0
        }
    }

    package func address(_ offset: UInt64) -> IPAddress {
        switch first {
        case .v4(let a): return .v4(IPv4Address(bits: a.bits &+ UInt32(truncatingIfNeeded: offset)))
        case .v6(let a):
            let (low, carry) = a.low.addingReportingOverflow(offset)
            return .v6(IPv6Address(high: a.high &+ (carry ? 1 : 0), low: low))
        }
    }

    package func contains(_ address: IPAddress) -> Bool {
        switch (first, last, address) {
        case (.v4(let a), .v4(let b), .v4(let x)): a <= x && x <= b
        case (.v6(let a), .v6(let b), .v6(let x)): a <= x && x <= b
        default: false
        }
    }
}

/// Who has which address of a pool, and who had it last. The same host gets the same address again as long as nobody else needed
/// it: an address that was let go is given away only when all others have been used.
package struct AddressLeases {
    /// Addresses remembered for hosts that are gone; also what bounds the memory of a large IPv6 pool.
    package static let idleMost = 65_536

    private struct Lease {
        var holder: String
        /// Local SPIs of the IKE SAs that use it: two while one is rekeyed or a host reauthenticates.
        var owners: Set<UInt64>
    }

    package private(set) var pool: AddressPool
    private var leases: [IPAddress: Lease] = [:]
    private var byHolder: [String: [IPAddress]] = [:]
    private var byOwner: [UInt64: [IPAddress]] = [:]
    /// Nobody's now, the longest ago first.
    private var idle = OrderedList<IPAddress>()
    private var next: UInt64 = 0

    package init(_ pool: AddressPool) { self.pool = pool }

    /// Addresses in use now.
    package var usedCount: Int { leases.count - idle.count }

    /// Something that is the host's own is given back first, then what it wishes for, then what nobody has had yet.
    /// - Parameters:
    ///   - holder: who asks, by authenticated identity.
    ///   - owner: the IKE SA's local SPI.
    ///   - wanted: the address that the host would like: its own of before, or any free one.
    /// - Returns: nil when all are in use, or the host has `Bounds.addressesPerIdentity` already.
    package mutating func assign(to holder: String, owner: UInt64, wanted: IPAddress?) -> IPAddress? {
        let known = byHolder[holder] ?? []
        if let wanted, known.contains(wanted) { return take(wanted, holder, owner) }
        if let free = known.first(where: { leases[$0]?.owners.isEmpty == true }) { return take(free, holder, owner) }
        guard known.count < Bounds.addressesPerIdentity else { return nil }
        if let wanted, pool.contains(wanted), leases[wanted] == nil, idle.count < Self.idleMost {
            return take(wanted, holder, owner)
        }
        if idle.count < Self.idleMost, let fresh = fresh() { return take(fresh, holder, owner) }
        return idle.first.map { take($0, holder, owner) }
    }

    /// Somebody else decided: the address of the pool is the host's, unless another host uses it now.
    package mutating func reserve(_ address: IPAddress, for holder: String, owner: UInt64) -> Bool {
        guard pool.contains(address) else { return false }
        if let lease = leases[address], lease.holder != holder, !lease.owners.isEmpty { return false }
        _ = take(address, holder, owner)
        return true
    }

    /// An IKE SA has ended.
    package mutating func release(owner: UInt64) {
        for address in byOwner.removeValue(forKey: owner) ?? [] {
            leases[address]?.owners.remove(owner)
            if leases[address]?.owners.isEmpty == true { idle.append(address) }
        }
    }

    /// An IKE SA is rekeyed: the new one has the addresses too.
    package mutating func share(from old: UInt64, to new: UInt64) {
        for address in byOwner[old] ?? [] {
            leases[address]?.owners.insert(new)
            byOwner[new, default: []].append(address)
        }
    }

    private mutating func take(_ address: IPAddress, _ holder: String, _ owner: UInt64) -> IPAddress {
        var lease = leases[address] ?? Lease(holder: holder, owners: [])
        if leases[address] != nil, lease.owners.isEmpty { idle.remove(address) }
        if lease.holder != holder {
            byHolder[lease.holder]?.removeAll { $0 == address }
            if byHolder[lease.holder]?.isEmpty == true { byHolder[lease.holder] = nil }
            lease.holder = holder
        }
        if lease.owners.insert(owner).inserted { byOwner[owner, default: []].append(address) }
        if leases.updateValue(lease, forKey: address) == nil || byHolder[holder]?.contains(address) != true {
            byHolder[holder, default: []].append(address)
        }
        return address
    }

    private mutating func fresh() -> IPAddress? {
        let count = pool.count
        while next < count {
            let address = pool.address(next)
            next += 1
            if leases[address] == nil { return address }
        }
        return nil
    }
}
