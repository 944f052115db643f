import CLinux
import Wire

/// A network interface.
public struct NetlinkLink: Hashable, Sendable {
    public var index: Int
    public var name: String
    /// Administratively up.
    public var isUp: Bool
    /// Up and with a carrier.
    public var isRunning: Bool
    public var mtu: Int
    /// Six octets for Ethernet; empty for devices without link-layer addresses.
    public var mac: [UInt8]
    public var receiveQueues: Int
    public var transmitQueues: Int
    /// The bridge, bond or VRF it belongs to.
    public var masterIndex: Int?
    /// sysctl net.ipv4.conf.NAME.ignore_routes_with_linkdown: without a carrier its routes are as if they were not there.
    public var ignoresRoutesWithoutCarrier: Bool = false
    /// Such as `veth`, `tun`, `vlan`; empty for hardware.
    public var kind: String
}

/// Which addresses, routes or neighbours are meant.
public enum AddressFamily: Sendable, Hashable, CaseIterable {
    case ipv4, ipv6

    init(_ address: IPAddress) { self = address.isIPv4 ? .ipv4 : .ipv6 }
    var number: UInt8 { self == .ipv4 ? UInt8(AF_INET) : UInt8(AF_INET6) }
    var unspecified: IPAddress { self == .ipv4 ? .v4(IPv4Address(bits: 0)) : .v6(IPv6Address(high: 0, low: 0)) }
}

/// An address of an interface.
public struct NetlinkAddress: Hashable, Sendable {
    public var address: IPAddress
    public var prefixLength: Int
    public var linkIndex: Int
    /// False while the kernel looks whether somebody else has it (RFC 4862 §5.4), and when somebody has.
    public var isUsable: Bool
    /// The far end of a point-to-point address: what is on link instead of the prefix around `address`.
    public var peer: IPAddress?

    public init(address: IPAddress, prefixLength: Int, linkIndex: Int, isUsable: Bool = true) {
        (self.address, self.prefixLength, self.linkIndex, self.isUsable) = (address, prefixLength, linkIndex, isUsable)
    }
}

/// One of the ways that a route leads.
public struct NetlinkHop: Hashable, Sendable {
    /// nil: the destination is on link. May be of the other family than the route (RFC 8950).
    public var gateway: IPAddress?
    public var linkIndex: Int?
    /// It puts more around the packet than a link-layer header (MPLS, segment routing, a tunnel).
    public var isEncapsulated: Bool
    /// The kernel does not use it now: its interface is down.
    public var isDead: Bool

    public init(gateway: IPAddress? = nil, linkIndex: Int?, isEncapsulated: Bool = false, isDead: Bool = false) {
        (self.gateway, self.linkIndex, self.isEncapsulated, self.isDead) = (gateway, linkIndex, isEncapsulated, isDead)
    }
}

/// A route, with the key by which the kernel tells it from others: table, prefix, TOS, metric, and then everything else.
public struct NetlinkRoute: Hashable, Sendable {
    public enum Kind: UInt8, Hashable, Sendable {
        case unicast = 1
        case local = 2
        case broadcast = 3
        case anycast = 4
        case multicast = 5
        case blackhole = 6
        case unreachable = 7
        case prohibit = 8
        /// The next rule decides.
        case `throw` = 9
        /// A kind we do not know.
        case other = 255
    }

    /// The main table.
    public static let mainTable: UInt32 = 254
    /// The mark by which routes of ours are known among others' (`ip route show proto 84`).
    public static let ownProtocol: UInt8 = 84

    public var prefix: IPPrefix
    public var kind: Kind
    public var table: UInt32
    /// Several for a multipath route; none for `blackhole` and its like, and where `nexthopID` alone tells.
    public var hops: [NetlinkHop]
    /// The nexthop object that leads on (`ip nexthop`), which the kernel may change without a word about the route.
    public var nexthopID: UInt32?
    public var preferredSource: IPAddress?
    public var metric: UInt32
    /// IPv4: for packets with this type of service alone; zero: for all.
    public var tos: UInt8 = 0
    /// IPv6: for packets from there alone.
    public var source: IPPrefix?
    /// Who made it: 2 kernel, 3 boot, 4 static, 84 Culvert.
    public var protocolNumber: UInt8

    public init(
        prefix: IPPrefix, kind: Kind = .unicast, table: UInt32 = mainTable, gateway: IPAddress? = nil, linkIndex: Int? = nil,
        preferredSource: IPAddress? = nil, metric: UInt32 = 0, protocolNumber: UInt8 = ownProtocol
    ) {
        (self.prefix, self.kind, self.table) = (prefix, kind, table)
        hops = linkIndex == nil && gateway == nil ? [] : [NetlinkHop(gateway: gateway, linkIndex: linkIndex)]
        (self.preferredSource, self.metric, self.protocolNumber) = (preferredSource, metric, protocolNumber)
    }

    /// Of the first hop.
    public var gateway: IPAddress? { hops.first?.gateway }
    public var linkIndex: Int? { hops.first?.linkIndex }
}

/// A nexthop object: one hop, or a group of others.
public struct NetlinkNexthop: Hashable, Sendable {
    public var id: UInt32
    /// nil for groups and blackholes.
    public var hop: NetlinkHop?
    /// The members' numbers.
    public var group: [UInt32]

    public init(id: UInt32, hop: NetlinkHop? = nil, group: [UInt32] = []) {
        (self.id, self.hop, self.group) = (id, hop, group)
    }
}

/// A neighbour entry.
public struct NetlinkNeighbour: Hashable, Sendable {
    public var address: IPAddress
    public var linkIndex: Int
    /// Six octets, or empty while unknown.
    public var mac: [UInt8]
    /// NUD_… bits of linux/neighbour.h.
    public var state: UInt16
    public var isManaged: Bool
    /// IPv6: it said that it is a router; default routes by it depend on that.
    public var isRouter = false

    /// True when packets can be sent to `mac`: reachable, stale, in delay or probe, permanent, without ARP.
    public var isUsable: Bool { state & (0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80) != 0 && mac.count == 6 }
    /// True when the kernel has given up on it.
    public var hasFailed: Bool { state & 0x20 != 0 }
}

/// A policy routing rule (IPv4).
public struct NetlinkRule: Hashable, Sendable {
    public var priority: UInt32
    public var table: UInt32
    public var source: IPPrefix?
    public var destination: IPPrefix?
    /// Compared under `markMask`.
    public var mark: UInt32?
    public var markMask: UInt32
    /// True: the rule holds for packets that do *not* match.
    public var isInverted: Bool
    public var inputInterface: String?
    /// Routes with a shorter prefix are as if they were not there (`suppress_prefixlength`, less one); 0: all count.
    public var shortestPrefixLength: Int
    /// FR_ACT_… of linux/fib_rules.h; 1: look into the table.
    public var action: UInt8 = 1
    /// The table is that of the packet's VRF.
    public var isVRF = false

    public init(
        priority: UInt32, table: UInt32, source: IPPrefix? = nil, destination: IPPrefix? = nil, mark: UInt32? = nil,
        markMask: UInt32 = .max, isInverted: Bool = false, inputInterface: String? = nil, shortestPrefixLength: Int = 0
    ) {
        (self.priority, self.table, self.source, self.destination) = (priority, table, source, destination)
        (self.mark, self.markMask, self.isInverted, self.inputInterface) = (mark, markMask, isInverted, inputInterface)
        self.shortestPrefixLength = shortestPrefixLength
    }
}

/// A change the kernel told.
public enum NetlinkEvent: Hashable, Sendable {
    case link(NetlinkLink)
    case linkRemoved(index: Int)
    case address(NetlinkAddress)
    case addressRemoved(NetlinkAddress)
    /// In front of others of its prefix, TOS and metric.
    case route(NetlinkRoute)
    /// Behind them.
    case routeAppended(NetlinkRoute)
    /// In place of the first of them.
    case routeReplaced(NetlinkRoute)
    case routeRemoved(NetlinkRoute)
    case nexthop(NetlinkNexthop)
    case nexthopRemoved(id: UInt32)
    case rule(NetlinkRule)
    case ruleRemoved(NetlinkRule)
    case neighbour(NetlinkNeighbour)
    case neighbourRemoved(NetlinkNeighbour)
    /// The kernel had more to tell than the socket could hold: read everything again.
    case overrun
}

// MARK: From the kernel's octets

extension IPAddress {
    /// 4 or 16 octets.
    init?(_ reader: NetlinkReader?) {
        guard let bytes = reader?.bytes else { return nil }
        self.init(bytes: bytes)
    }
}

extension AddressFamily {
    /// From the header of an address, route or neighbour; nil for families that are not ours.
    fileprivate init?(number: UInt8) {
        switch Int32(number) {
        case AF_INET: self = .ipv4
        case AF_INET6: self = .ipv6
        default: return nil
        }
    }
}

extension NetlinkLink {
    /// nil for what is no interface report (a bridge port's own, say).
    init?(_ reply: NetlinkReply) {
        guard let header = reply.body.value(ifinfomsg.self), header.ifi_family == 0 else { return nil }
        let attributes = reply.body.dropping(MemoryLayout<ifinfomsg>.size).attributes
        let u32 = { (type: Int) in attributes[UInt16(type)]?.u32.map(Int.init) }
        index = Int(header.ifi_index)
        name = attributes[UInt16(IFLA_IFNAME)]?.text ?? ""
        isUp = header.ifi_flags & UInt32(0x1) != 0
        isRunning = isUp && header.ifi_flags & UInt32(0x10000) != 0  // IFF_LOWER_UP
        mtu = u32(Int(IFLA_MTU)) ?? 0
        let address = attributes[UInt16(IFLA_ADDRESS)].map { Array($0.bytes) } ?? []
        mac = address.count == 6 ? address : []
        receiveQueues = u32(Int(IFLA_NUM_RX_QUEUES)) ?? 1
        transmitQueues = u32(Int(IFLA_NUM_TX_QUEUES)) ?? 1
        masterIndex = u32(Int(IFLA_MASTER))
        kind = attributes[UInt16(IFLA_LINKINFO)]?.attributes[UInt16(IFLA_INFO_KIND)]?.text ?? ""
        // An array of 32-bit words, the first of them number 1 of linux/ip.h.
        let perFamily = attributes[UInt16(IFLA_AF_SPEC)]?.attributes[UInt16(AF_INET)]?.attributes
        let sysctls = perFamily?[UInt16(IFLA_INET_CONF)]
        ignoresRoutesWithoutCarrier = sysctls?.value(UInt32.self, at: 4 * (Self.ignoreRoutesWithLinkdown - 1)) ?? 0 != 0
    }
}

extension NetlinkLink {
    /// IPV4_DEVCONF_IGNORE_ROUTES_WITH_LINKDOWN of linux/ip.h.
    fileprivate static let ignoreRoutesWithLinkdown = 29
}

extension NetlinkAddress {
    init?(_ reply: NetlinkReply) {
        guard let header = reply.body.value(ifaddrmsg.self), let family = AddressFamily(number: header.ifa_family) else {
            return nil
        }
        let attributes = reply.body.dropping(MemoryLayout<ifaddrmsg>.size).attributes
        // On a point-to-point link IFA_ADDRESS is the far end.
        guard let own = IPAddress(attributes[UInt16(IFA_LOCAL)] ?? attributes[UInt16(IFA_ADDRESS)]),
            AddressFamily(own) == family
        else { return nil }
        let flags = attributes[UInt16(IFA_FLAGS)]?.u32 ?? UInt32(header.ifa_flags)
        let isTentative = flags & UInt32(IFA_F_TENTATIVE) != 0 && flags & UInt32(IFA_F_OPTIMISTIC) == 0
        self.init(
            address: own, prefixLength: Int(header.ifa_prefixlen), linkIndex: Int(header.ifa_index),
            isUsable: !isTentative && flags & UInt32(IFA_F_DADFAILED) == 0)
        if let far = IPAddress(attributes[UInt16(IFA_ADDRESS)]), far != own { peer = far }
    }
}

extension NetlinkRoute {
    init?(_ reply: NetlinkReply) {
        guard let header = reply.body.value(rtmsg.self) else { return nil }
        // Cached clones (of one flow) are no routes.
        guard header.rtm_flags & UInt32(RTM_F_CLONED) == 0 else { return nil }
        self.init(header, reply.body.dropping(MemoryLayout<rtmsg>.size).attributes)
    }

    /// The answer to a lookup, which is such a clone.
    init?(lookup reply: NetlinkReply) {
        guard let header = reply.body.value(rtmsg.self) else { return nil }
        self.init(header, reply.body.dropping(MemoryLayout<rtmsg>.size).attributes)
    }

    private init?(_ header: rtmsg, _ attributes: [UInt16: NetlinkReader]) {
        guard let family = AddressFamily(number: header.rtm_family) else { return nil }
        let destination = IPAddress(attributes[UInt16(RTA_DST.rawValue)]) ?? family.unspecified
        guard AddressFamily(destination) == family,
            let prefix = IPPrefix(destination, length: Int(header.rtm_dst_len))
        else { return nil }
        self.init(
            prefix: prefix, kind: Kind(rawValue: header.rtm_type) ?? .other,
            table: attributes[UInt16(RTA_TABLE.rawValue)]?.u32 ?? UInt32(header.rtm_table),
            preferredSource: IPAddress(attributes[UInt16(RTA_PREFSRC.rawValue)]),
            metric: attributes[UInt16(RTA_PRIORITY.rawValue)]?.u32 ?? 0, protocolNumber: header.rtm_protocol)
        nexthopID = attributes[UInt16(RTA_NH_ID.rawValue)]?.u32
        tos = header.rtm_tos
        if header.rtm_src_len > 0 {
            source = IPAddress(attributes[UInt16(RTA_SRC.rawValue)]).flatMap { IPPrefix($0, length: Int(header.rtm_src_len)) }
        }
        if let list = attributes[UInt16(RTA_MULTIPATH.rawValue)] {
            hops = NetlinkHop.list(list)
        } else if attributes[UInt16(RTA_OIF.rawValue)] != nil {
            let link = attributes[UInt16(RTA_OIF.rawValue)]?.u32.map(Int.init)
            hops = [NetlinkHop(attributes, linkIndex: link, flags: header.rtm_flags)]
        }
    }
}

extension NetlinkHop {
    fileprivate init(_ attributes: [UInt16: NetlinkReader], linkIndex: Int?, flags: UInt32) {
        // struct rtvia: the family, then the address.
        let via = attributes[UInt16(RTA_VIA.rawValue)].flatMap { IPAddress(NetlinkReader(bytes: $0.bytes.dropFirst(2))) }
        self.init(
            gateway: IPAddress(attributes[UInt16(RTA_GATEWAY.rawValue)]) ?? via, linkIndex: linkIndex,
            // A gateway that cannot be read is not plain either.
            isEncapsulated: attributes[UInt16(RTA_ENCAP_TYPE.rawValue)] != nil
                || (via == nil && attributes[UInt16(RTA_VIA.rawValue)] != nil),
            isDead: flags & UInt32(RTNH_F_DEAD) != 0)
    }

    /// RTA_MULTIPATH: `rtnexthop` headers, each with attributes of its own.
    fileprivate static func list(_ reader: NetlinkReader) -> [NetlinkHop] {
        var hops: [NetlinkHop] = []
        var rest = reader
        while let hop = rest.value(rtnexthop.self), hop.rtnh_len >= MemoryLayout<rtnexthop>.size,
            Int(hop.rtnh_len) <= rest.bytes.count
        {
            let length = Int(hop.rtnh_len)
            let attributes = NetlinkReader(bytes: rest.bytes.prefix(length)).dropping(MemoryLayout<rtnexthop>.size).attributes
            hops.append(NetlinkHop(attributes, linkIndex: Int(hop.rtnh_ifindex), flags: UInt32(hop.rtnh_flags)))
            rest = rest.dropping(length)
        }
        return hops
    }
}

extension NetlinkNexthop {
    init?(_ reply: NetlinkReply) {
        guard let header = reply.body.value(nhmsg.self) else { return nil }
        let attributes = reply.body.dropping(MemoryLayout<nhmsg>.size).attributes
        guard let id = attributes[UInt16(NHA_ID)]?.u32 else { return nil }
        var group: [UInt32] = []
        if var rest = attributes[UInt16(NHA_GROUP)] {
            while let member = rest.value(nexthop_grp.self) {
                group.append(member.id)
                rest = rest.dropping(MemoryLayout<nexthop_grp>.size)
            }
        }
        var hop: NetlinkHop?
        if group.isEmpty, attributes[UInt16(NHA_BLACKHOLE)] == nil, attributes[UInt16(NHA_FDB)] == nil {
            hop = NetlinkHop(
                gateway: IPAddress(attributes[UInt16(NHA_GATEWAY)]),
                linkIndex: attributes[UInt16(NHA_OIF)]?.u32.map(Int.init),
                isEncapsulated: attributes[UInt16(NHA_ENCAP_TYPE)] != nil,
                isDead: header.nh_flags & UInt32(RTNH_F_DEAD) != 0)
        }
        self.init(id: id, hop: hop, group: group)
    }
}

extension NetlinkNeighbour {
    init?(_ reply: NetlinkReply) {
        guard let header = reply.body.value(ndmsg.self), let family = AddressFamily(number: header.ndm_family) else { return nil }
        let attributes = reply.body.dropping(MemoryLayout<ndmsg>.size).attributes
        guard let address = IPAddress(attributes[UInt16(NDA_DST)]), AddressFamily(address) == family else { return nil }
        self.address = address
        linkIndex = Int(header.ndm_ifindex)
        mac = attributes[UInt16(NDA_LLADDR)].map { Array($0.bytes) } ?? []
        state = header.ndm_state
        isRouter = header.ndm_flags & UInt8(NTF_ROUTER) != 0
        isManaged = (attributes[UInt16(NDA_FLAGS_EXT)]?.u32 ?? 0) & UInt32(NTF_EXT_MANAGED) != 0
    }
}

extension NetlinkRule {
    /// The kernel tells what it suppresses, -1 for nothing.
    private static func shortest(_ attributes: [UInt16: NetlinkReader]) -> Int {
        let suppressed = attributes[UInt16(FRA_SUPPRESS_PREFIXLEN)]?.u32.map { Int32(bitPattern: $0) } ?? -1
        return Int(max(-1, suppressed)) + 1
    }

    init?(_ reply: NetlinkReply) {
        guard let header = reply.body.value(fib_rule_hdr.self), header.family == UInt8(AF_INET) else { return nil }
        let attributes = reply.body.dropping(MemoryLayout<fib_rule_hdr>.size).attributes
        let prefix = { (type: Int, length: UInt8) -> IPPrefix? in
            IPAddress(attributes[UInt16(type)]).flatMap { IPPrefix($0, length: Int(length)) }
        }
        self.init(
            priority: attributes[UInt16(FRA_PRIORITY)]?.u32 ?? 0,
            table: attributes[UInt16(FRA_TABLE)]?.u32 ?? UInt32(header.table),
            source: prefix(Int(FRA_SRC), header.src_len), destination: prefix(Int(FRA_DST), header.dst_len),
            mark: attributes[UInt16(FRA_FWMARK)]?.u32, markMask: attributes[UInt16(FRA_FWMASK)]?.u32 ?? .max,
            isInverted: header.flags & UInt32(FIB_RULE_INVERT) != 0,
            inputInterface: attributes[UInt16(FRA_IIFNAME)]?.text, shortestPrefixLength: Self.shortest(attributes))
        action = header.action
        isVRF = attributes[UInt16(FRA_L3MDEV)] != nil
    }
}
