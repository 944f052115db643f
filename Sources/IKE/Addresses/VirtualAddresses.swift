import IPsec
public import Wire

// Addresses for single hosts behind IKE: given as responder, asked for as initiator. RFC 7296 §2.19, §3.15.

/// Which virtual addresses an initiator asks for.
public struct VirtualAddressRequest: Hashable, Sendable {
    public var wantsIPv4: Bool
    public var wantsIPv6: Bool
    public init(wantsIPv4: Bool = false, wantsIPv6: Bool = false) { (self.wantsIPv4, self.wantsIPv6) = (wantsIPv4, wantsIPv6) }
    public var isEmpty: Bool { !wantsIPv4 && !wantsIPv6 }
}

/// What a responder has given to us.
public struct VirtualConfiguration: Hashable, Sendable {
    public var addresses: [IPAddress]
    public var dns: [IPAddress]
    /// What is behind the responder, as far as it says: INTERNAL_IP4_SUBNET, INTERNAL_IP6_SUBNET.
    public var subnets: [IPPrefix]
    public init(addresses: [IPAddress], dns: [IPAddress] = [], subnets: [IPPrefix] = []) {
        (self.addresses, self.dns, self.subnets) = (addresses, dns, subnets)
    }
}

/// What configuration payloads and a backend have settled for an IKE SA and those that follow it.
package struct SettledConfiguration {
    /// Addresses of the peer that we gave it.
    package var granted: [IPAddress] = []
    /// What we got.
    package var received: VirtualConfiguration?
    /// Tells apart the peers of a connection that takes any number of them; zero for a connection with one peer.
    package var instance: UInt32 = 0
}

extension IKECore {
    /// The pools that connections name. Leases of a pool that stays the same are kept.
    public func setPools(_ new: [AddressPool]) {
        let old = pools
        pools = [:]
        for leases in old.values { claim(leases.pool, isGone: true) }
        for pool in new { claim(pool, isGone: false) }
        for pool in new { pools[pool.name] = old[pool.name]?.pool == pool ? old[pool.name] : AddressLeases(pool) }
        // What hosts have now stays theirs in a pool that was changed.
        let changed = new.map(\.name).filter { old[$0]?.pool != pools[$0]?.pool }
        for sa in sas.values.sorted(by: { $0.localSPI < $1.localSPI }) {
            guard let established = sa.established else { continue }
            for address in established.settled.granted {
                for name in changed where pools[name]?.pool.contains(address) == true {
                    _ = pools[name]?.assign(
                        to: established.remoteIdentity.holder, owner: sa.localSPI, wanted: address)
                }
            }
        }
    }

    /// Addresses in use per pool, for status.
    public var poolUse: [String: Int] { pools.mapValues(\.usedCount) }

    // MARK: Responder

    /// The answer to CFG_REQUEST; empty when the peer asked for nothing. Throws INTERNAL_ADDRESS_FAILURE when no address is left
    /// and FAILED_CP_REQUIRED when the peer should have asked: "The IKE SA is still created even if the initial Child SA cannot
    /// be created because of this failure." (§3.15.4)
    func answerConfiguration(
        _ sa: IKESA, _ established: EstablishedSA, _ connection: ConnectionState, _ payloads: PayloadList
    ) throws(IKEFault) -> [Payload] {
        let plan = connection.plan
        guard let request = try payloads.configuration(), request.kind == WireConfiguration.Kind.request else {
            let needsAddress = !plan.children.isEmpty && plan.children.allSatisfy(\.remoteIsAssigned)
            guard needsAddress, established.settled.granted.isEmpty else { return [] }
            let reason =
                "The peer \(established.remoteIdentity) at \(sa.path.remote) asks for no address, but connection \(plan.name) "
                + "gives each peer one from its pool: let the peer request a virtual address."
            try refuseAddress(connection, .failedCPRequired, reason)
        }
        let wanted = [WireConfiguration.AttributeType.address4, WireConfiguration.AttributeType.address6].filter(request.has)
        var granted: [IPAddress] = []
        var exhausted: [String] = []
        for type in wanted {
            let isIPv4 = type == WireConfiguration.AttributeType.address4
            let wish = request.addresses(type).first { !$0.isUnspecified }
            if let address = address(for: sa, established, plan, isIPv4: isIPv4, wish: wish) {
                granted.append(address)
            } else {
                exhausted += plan.pools.filter { pools[$0]?.pool.isIPv4 == isIPv4 }
            }
        }
        if granted.isEmpty, !wanted.isEmpty {
            try refuseAddress(connection, .internalAddressFailure, exhaustion(established, sa, plan, exhausted))
        }
        established.settled.granted = granted
        if !granted.isEmpty {
            log(
                .info, plan.name,
                "The peer \(established.remoteIdentity) gets \(granted.map(\.description).joined(separator: " and ")).",
                from: sa.path.remote.address)
        }
        return [
            WireConfiguration(kind: WireConfiguration.Kind.reply, attributes: reply(request, granted, established, plan)).payload
        ]
    }

    private func refuseAddress(
        _ connection: ConnectionState, _ notify: NotifyType, _ reason: String
    ) throws(IKEFault) -> Never {
        for child in connection.plan.children where child.remoteIsAssigned {
            connection.slots[child.name]?.reason = Reason(.virtualAddress, reason)
        }
        log(.warning, connection.plan.name, reason)
        throw .incompatible(notify, data: [], reason)
    }

    private func exhaustion(
        _ established: EstablishedSA, _ sa: IKESA, _ plan: ConnectionPlan, _ exhausted: [String]
    ) -> String {
        let who = "The peer \(established.remoteIdentity) at \(sa.path.remote)"
        for case .address(let address) in established.peer.attributes {
            let isOurs = plan.pools.contains { pools[$0]?.pool.contains(address) == true }
            return isOurs
                ? "\(who) gets no virtual address: RADIUS gives it \(address), which another peer has now."
                : "\(who) gets no virtual address: RADIUS gives it \(address), which is in no pool of connection \(plan.name); "
                    + "widen one, so that the address is protected."
        }
        guard !exhausted.isEmpty else {
            return plan.pools.isEmpty
                ? "\(who) asks for a virtual address, but connection \(plan.name) has no pool: name one in pools."
                : "\(who) asks for a virtual address of a kind that no pool of connection \(plan.name) has."
        }
        let names = exhausted.map { "\($0) (\(pools[$0]?.usedCount ?? 0) in use)" }.joined(separator: ", ")
        return "\(who) gets no virtual address: no address is left in pool \(names). Widen it, or wait until peers leave."
    }

    /// RADIUS decides before the pools do, among their addresses.
    private func address(
        for sa: IKESA, _ established: EstablishedSA, _ plan: ConnectionPlan, isIPv4: Bool, wish: IPAddress?
    ) -> IPAddress? {
        let holder = established.remoteIdentity.holder
        for case .address(let address) in established.peer.attributes where address.isIPv4 == isIPv4 {
            // Policy protects what the pools hold and nothing else.
            guard let name = plan.pools.first(where: { pools[$0]?.pool.contains(address) == true }) else { return nil }
            return pools[name]?.reserve(address, for: holder, owner: sa.localSPI) == true ? address : nil
        }
        for name in plan.pools where pools[name]?.pool.isIPv4 == isIPv4 {
            if let address = pools[name]?.assign(to: holder, owner: sa.localSPI, wanted: wish) { return address }
        }
        return nil
    }

    /// "the IRAS MAY also send other attributes that were not included in CP(CFG_REQUEST)" (§2.19).
    private func reply(
        _ request: WireConfiguration, _ granted: [IPAddress], _ established: EstablishedSA, _ plan: ConnectionPlan
    ) -> [WireConfiguration.Attribute] {
        typealias AttributeType = WireConfiguration.AttributeType
        var attributes = granted.map(WireConfiguration.address)
        if granted.contains(where: \.isIPv4), request.has(AttributeType.netmask4) {
            // One address, no network of its own.
            attributes.append(.init(AttributeType.netmask4, [255, 255, 255, 255]))
        }
        var servers: [IPAddress] = []
        for case .dns(let address) in established.peer.attributes { servers.append(address) }
        if servers.isEmpty {
            for name in plan.pools { servers += (pools[name]?.pool.dns ?? []).filter { !servers.contains($0) } }
        }
        let families = Set(granted.map(\.isIPv4))
        attributes += servers.prefix(8).map(WireConfiguration.dns)
        let subnets = plan.children.filter(\.remoteIsAssigned).flatMap(\.localSelectors).flatMap(\.prefixes)
        for prefix in subnets.prefix(16) where families.contains(prefix.address.isIPv4) {
            let type = prefix.address.isIPv4 ? AttributeType.subnet4 : AttributeType.subnet6
            if request.has(type) { attributes.append(WireConfiguration.subnet(prefix)) }
        }
        if request.has(AttributeType.supported) {
            var known: [UInt8] = []
            for type in AttributeType.known { known.append(u16: type) }
            attributes.append(.init(AttributeType.supported, known))
        }
        return attributes
    }

    /// The addresses of an IKE SA that has ended go back.
    func releaseAddresses(of sa: IKESA) {
        for name in pools.keys { pools[name]?.release(owner: sa.localSPI) }
    }

    /// An IKE SA that follows another has its addresses and whatever else was settled.
    func inheritConfiguration(from old: IKESA, to new: IKESA) {
        guard let settled = old.established?.settled else { return }
        new.established?.settled = settled
        for name in pools.keys { pools[name]?.share(from: old.localSPI, to: new.localSPI) }
    }

    // MARK: Initiator

    /// CFG_REQUEST of an IKE_AUTH request; empty when the connection wants no address.
    func configurationRequest(_ connection: ConnectionState) -> [Payload] {
        typealias AttributeType = WireConfiguration.AttributeType
        let request = connection.plan.virtualAddress
        guard !request.isEmpty else { return [] }
        // What we had before: on reauthentication the old SA's children live on with it for a moment.
        let former = connection.formerAddresses
        var attributes: [WireConfiguration.Attribute] = []
        if request.wantsIPv4 {
            attributes.append(former.first(where: \.isIPv4).map(WireConfiguration.address) ?? .init(AttributeType.address4))
            attributes += [.init(AttributeType.dns4), .init(AttributeType.subnet4)]
        }
        if request.wantsIPv6 {
            attributes.append(former.first { !$0.isIPv4 }.map(WireConfiguration.address) ?? .init(AttributeType.address6))
            attributes += [.init(AttributeType.dns6), .init(AttributeType.subnet6)]
        }
        return [WireConfiguration(kind: WireConfiguration.Kind.request, attributes: attributes).payload]
    }

    /// Takes over CFG_REPLY; without a usable address the children's reason says why.
    func takeConfiguration(
        _ sa: IKESA, _ established: EstablishedSA, _ connection: ConnectionState, _ payloads: PayloadList
    ) {
        let request = connection.plan.virtualAddress
        guard !request.isEmpty else { return }
        do throws(IKEFault) {
            let received = try Self.received(payloads, request)
            established.settled.received = received
            connection.formerAddresses = received.addresses
            let list = received.addresses.map(\.description).joined(separator: " and ")
            log(.info, connection.plan.name, "The peer gave us \(list).")
            emit(.virtualAddresses(connection: connection.plan.name, received))
        } catch {
            guard payloads.firstError == nil else { return }
            for child in connection.plan.children where child.localIsAssigned {
                connection.slots[child.name]?.reason = Reason(
                    .virtualAddress, "The peer's answer gives us no address: \(error.sentence).")
            }
        }
    }

    private static func received(
        _ payloads: PayloadList, _ request: VirtualAddressRequest
    ) throws(IKEFault) -> VirtualConfiguration {
        guard let reply = try payloads.configuration(), reply.kind == WireConfiguration.Kind.reply else {
            throw .peerMisbehaved("it has no configuration payload; let the peer have a pool for this connection")
        }
        typealias AttributeType = WireConfiguration.AttributeType
        var addresses: [IPAddress] = []
        if request.wantsIPv4 { addresses += reply.addresses(AttributeType.address4).prefix(1) }
        if request.wantsIPv6 { addresses += reply.addresses(AttributeType.address6).prefix(1) }
        addresses.removeAll { $0.isUnspecified || !$0.isUnicast }
        guard !addresses.isEmpty else { throw .peerMisbehaved("its configuration payload has no usable address") }
        return VirtualConfiguration(
            addresses: addresses,
            dns: Array((reply.addresses(AttributeType.dns4) + reply.addresses(AttributeType.dns6)).prefix(8)),
            subnets: Array(reply.subnets.prefix(16)))
    }

    /// An IKE SA that was to bring an address and did not is of no use: addresses are only asked for in IKE_AUTH, so another
    /// attempt has to begin anew.
    func leaveWithoutAddress(_ sa: IKESA, _ established: EstablishedSA, _ connection: ConnectionState, now: Instant) {
        guard !connection.plan.virtualAddress.isEmpty, established.settled.received == nil, sa.established === established else {
            return
        }
        let reason = connection.plan.children.lazy.compactMap { connection.slots[$0.name]?.reason }.first
        close(sa, reason: reason ?? Reason(.virtualAddress, "The peer gave us no virtual address."), now: now)
    }

    /// An IKE SA has left its connection: what it had received is void unless another one has it too.
    func forgetReceived(_ received: VirtualConfiguration?, _ connection: ConnectionState) {
        guard received != nil else { return }
        let others = connection.sas.compactMap { sas[$0]?.established?.settled.received }
        if others.isEmpty { emit(.virtualAddresses(connection: connection.plan.name, nil)) }
    }

    // MARK: Both

    /// A child with its dynamic side filled in.
    func effective(_ plan: ChildPlan, _ established: EstablishedSA) -> ChildPlan {
        var plan = plan
        if plan.remoteIsAssigned { plan.remoteSelectors = established.settled.granted.compactMap(\.hostSelector) }
        let identity = established.remoteIdentity.folded
        if let own = plan.peers.first(where: { $0.identity.folded == identity }) { plan.remoteSelectors = own.selectors }
        if plan.localIsAssigned, let received = established.settled.received {
            plan.localSelectors = received.addresses.compactMap(\.hostSelector)
        }
        return plan
    }
}

extension IPAddress {
    var hostSelector: TrafficSelector? { IPPrefix(self, length: isIPv4 ? 32 : 128).map { TrafficSelector($0) } }

    var isUnspecified: Bool { bytes.allSatisfy { $0 == 0 } }

    /// Neither multicast, loopback, link-local nor broadcast: an address that a host may use inside a tunnel.
    var isUnicast: Bool {
        switch self {
        case .v4(let address):
            let top = address.bits >> 24
            return top != 0 && top != 127 && top < 224 && address.bits >> 16 != 0xA9FE
        case .v6(let address):
            return address.high >> 56 != 0xFF && address.high >> 54 != 0x3FA && (address.high | address.low >> 1) != 0
        }
    }
}

extension Identity {
    /// The whole of it, unlike the description: type, and every octet.
    var holder: String {
        let wire = WireIdentity(self)
        return "\(wire.type):\(Hexadecimal.text(wire.data))"
    }
}
