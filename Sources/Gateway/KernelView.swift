import Configuration
import Wire

/// What the kernel last said about links, addresses, routes and neighbours, reduced to what decisions need.
struct KernelView: Hashable, Sendable {
    struct Link: Hashable, Sendable {
        var index: Int
        var name: String
        /// Administratively up.
        var isUp: Bool
        /// Has a carrier.
        var isRunning: Bool
        var mtu: Int
        /// Six octets, or none for devices without link-layer addresses.
        var mac: [UInt8]
        /// Such as `veth`, `macvlan`; empty for hardware.
        var kind = ""
        /// The bridge, bond or VRF it belongs to.
        var masterIndex: Int?
    }
    struct Address: Hashable, Sendable {
        var address: IPv4Address
        var prefixLength: Int
        var linkIndex: Int
        /// 127.0.0.0/8, which never leaves the machine.
        var isLoopback: Bool { address.bits >> 24 == 127 }
        /// The far end, where a point-to-point address has one.
        var peer: IPv4Address?
        /// What is on link; nil for a host address.
        var connected: IPPrefix? {
            if let peer { return IPPrefix(.v4(peer), length: prefixLength) }
            return prefixLength < 32 ? IPPrefix(.v4(address), length: prefixLength) : nil
        }
    }
    struct Route: Hashable, Sendable {
        var prefix: IPPrefix
        /// Of either family (RFC 8950). A link-local one means something together with the link alone.
        var gateway: IPAddress?
        /// nil: blackhole, unreachable, prohibit or throw, unless `isKernels`.
        var linkIndex: Int?
        var metric: UInt32
        /// The kernel alone can take a packet there: this machine's own addresses and broadcasts, MPLS, tunnels.
        var isKernels = false
    }
    struct Neighbour: Hashable, Sendable {
        var address: IPAddress
        var linkIndex: Int
        var mac: [UInt8]
        /// The kernel keeps it fresh by itself, although it does not see the traffic that uses it.
        var isKept = false

        var key: NeighbourKey { NeighbourKey(address: address, linkIndex: linkIndex) }
    }

    var links: [Int: Link] = [:]
    var addresses: [Address] = []
    /// What decides per prefix, of the main and the local table.
    var routes = RouteTable()
    /// Those with a usable link-layer address.
    var neighbours = NeighbourTable()
    var ipv6 = IPv6View()

    init() {}

    init(addresses: [Address]) { self.addresses = addresses }

    func link(named name: String) -> Link? { links.values.first { $0.name == name } }

    func isLocal(_ address: IPv4Address) -> Bool { addresses.contains { $0.address == address } }

    /// Of either family; an IPv6 address counts once it may be used.
    func isLocal(_ address: IPAddress) -> Bool { link(of: address) != nil }

    /// The index of the link that has the address.
    func link(of address: IPAddress) -> Int? {
        switch address {
        case .v4(let address): addresses.first { $0.address == address }?.linkIndex
        case .v6(let address): ipv6.addresses.first { $0.address == address && $0.isUsable }?.linkIndex
        }
    }

    /// Whether the main table leads anywhere with this destination. What is on this machine needs no route.
    func hasRoute(to address: IPAddress) -> Bool {
        if isLocal(address) { return true }
        if let v4 = address.v4, v4.bits >> 24 == 127 { return true }
        guard let route = address.isIPv4 ? routes.route(to: address) : ipv6.routes.route(to: address) else { return false }
        return route.linkIndex != nil || route.isKernels
    }

    /// Addresses of one link, in the order the kernel keeps them: the primary one first.
    func addresses(of linkIndex: Int) -> [IPv4Address] { addresses.filter { $0.linkIndex == linkIndex }.map(\.address) }

    /// Prefixes on link, of the links that `isMeant`, each once.
    func connectedPrefixes(_ isMeant: (Int) -> Bool) -> [IPPrefix] {
        var seen: Set<IPPrefix> = []
        return addresses.filter { isMeant($0.linkIndex) }.compactMap(\.connected).filter { seen.insert($0).inserted }
    }
}

/// The IPv6 half, which the underlay alone needs: our addresses there and the ways to peers.
struct IPv6View: Hashable, Sendable {
    struct Address: Hashable, Sendable {
        var address: IPv6Address
        var linkIndex: Int
        /// The kernel has made sure that nobody else has it.
        var isUsable: Bool
    }
    /// Without link-local ones.
    var addresses: [Address] = []
    /// Of the main table. RFC 4191's preferences are the kernel's, and show in what it lists.
    var routes = RouteTable()
    /// Those with a usable link-layer address; no multicast groups.
    var neighbours = NeighbourTable()
}

/// Interfaces that are no local networks: their connected prefixes are no exception to `0.0.0.0/0`.
struct OutsideLinks: Hashable, Sendable {
    var tun: Int?
    /// Those with the role `underlay` alone: a host behind the gateway that talks to the gateway's neighbours out there talks to
    /// the far side.
    var underlay: Set<Int>

    init(tun: Int?, underlay: Set<Int>) { (self.tun, self.underlay) = (tun, underlay) }

    init(_ configuration: GatewayConfiguration, _ kernel: any KernelControlling) {
        let names = configuration.interfaces.filter { $0.role == .underlay }.map(\.name)
        self.init(tun: kernel.tunLinkIndex, underlay: Set(names.compactMap { kernel.view.link(named: $0)?.index }))
    }

    func isLocalNetwork(_ linkIndex: Int) -> Bool { linkIndex != tun && !underlay.contains(linkIndex) }
}
