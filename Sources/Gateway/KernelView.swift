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
    }
    struct Address: Hashable, Sendable {
        var address: IPv4Address
        var prefixLength: Int
        var linkIndex: Int
        /// 127.0.0.0/8, which never leaves the machine.
        var isLoopback: Bool { address.bits >> 24 == 127 }
        /// The connected prefix; nil for a host address.
        var connected: IPPrefix? { prefixLength < 32 ? IPPrefix(.v4(address), length: prefixLength) : nil }
    }
    struct Route: Hashable, Sendable {
        var prefix: IPPrefix
        var gateway: IPv4Address?
        /// nil: blackhole, unreachable or prohibit.
        var linkIndex: Int?
        var metric: UInt32
    }
    struct Neighbour: Hashable, Sendable {
        var address: IPv4Address
        var linkIndex: Int
        var mac: [UInt8]
        /// The kernel keeps it fresh by itself, although it does not see the traffic that uses it.
        var isKept = false
    }

    var links: [Int: Link] = [:]
    var addresses: [Address] = []
    /// Of the main table.
    var routes: [Route] = []
    /// Those with a usable link-layer address.
    var neighbours: [Neighbour] = []
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
        guard let v4 = address.v4 else {
            guard case .v6(let v6) = address else { return false }
            return ipv6.route(to: v6)?.linkIndex != nil
        }
        if v4.bits >> 24 == 127 { return true }
        let matching = routes.filter { $0.prefix.contains(address) }
        return matching.max { ($0.prefix.length, $1.metric) < ($1.prefix.length, $0.metric) }?.linkIndex != nil
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
    struct Route: Hashable, Sendable {
        var prefix: IPPrefix
        /// Often link-local: it means something together with the link alone.
        var gateway: IPv6Address?
        /// nil: blackhole, unreachable or prohibit.
        var linkIndex: Int?
        var metric: UInt32
    }
    struct Neighbour: Hashable, Sendable {
        var address: IPv6Address
        var linkIndex: Int
        var mac: [UInt8]
        var isKept = false
    }

    /// Without link-local ones.
    var addresses: [Address] = []
    /// Of the main table.
    var routes: [Route] = []
    /// Those with a usable link-layer address; no multicast groups.
    var neighbours: [Neighbour] = []

    /// The longest prefix that covers the address, of equal ones the least metric. RFC 4191's preferences are the kernel's, and
    /// show in what it lists.
    func route(to address: IPv6Address) -> Route? {
        routes.filter { $0.prefix.contains(.v6(address)) }.min {
            ($1.prefix.length, $0.metric) < ($0.prefix.length, $1.metric)
        }
    }

    func neighbour(_ address: IPv6Address, linkIndex: Int) -> Neighbour? {
        neighbours.first { $0.address == address && $0.linkIndex == linkIndex }
    }
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
