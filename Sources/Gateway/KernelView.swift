import Wire

/// What the kernel last said about links, addresses, routes and neighbours (IPv4), reduced to what decisions need.
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

    func link(named name: String) -> Link? { links.values.first { $0.name == name } }

    func isLocal(_ address: IPv4Address) -> Bool { addresses.contains { $0.address == address } }

    /// Addresses of one link, in the order the kernel keeps them: the primary one first.
    func addresses(of linkIndex: Int) -> [IPv4Address] { addresses.filter { $0.linkIndex == linkIndex }.map(\.address) }

    /// Prefixes on link, of the links that `isMeant`, each once.
    func connectedPrefixes(_ isMeant: (Int) -> Bool) -> [IPPrefix] {
        var seen: Set<IPPrefix> = []
        return addresses.filter { isMeant($0.linkIndex) }.compactMap(\.connected).filter { seen.insert($0).inserted }
    }
}

/// Interfaces that are no local networks: their connected prefixes are no exception to `0.0.0.0/0`.
struct OutsideLinks: Hashable, Sendable {
    var tun: Int?
    /// Those with the role `underlay` alone: a host behind the gateway that talks to the gateway's neighbours out there talks to
    /// the far side.
    var underlay: Set<Int>

    func isLocalNetwork(_ linkIndex: Int) -> Bool { linkIndex != tun && !underlay.contains(linkIndex) }
}
