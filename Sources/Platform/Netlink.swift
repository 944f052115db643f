import CLinux
import Glibc
import Wire

/// Questions to the kernel's routing netlink, and changes to it. One request at a time, each answered within five seconds; the
/// socket belongs to the network namespace of the thread that made it. Not for use from two threads at once.
public final class Netlink {
    private let socket: NetlinkSocket

    public init() throws(SystemError) { socket = try NetlinkSocket(protocol: NETLINK_ROUTE, name: "rtnetlink") }

    // MARK: Reading

    public func links() throws(SystemError) -> [NetlinkLink] {
        var message = NetlinkMessage(type: RTM_GETLINK, flags: NLM_F_DUMP)
        message.append(ifinfomsg())
        return try socket.dump(message, "links").compactMap(NetlinkLink.init)
    }

    public func link(named name: String) throws(SystemError) -> NetlinkLink? { try links().first { $0.name == name } }

    public func addresses(_ family: AddressFamily = .ipv4) throws(SystemError) -> [NetlinkAddress] {
        var message = NetlinkMessage(type: RTM_GETADDR, flags: NLM_F_DUMP)
        var header = ifaddrmsg()
        header.ifa_family = family.number
        message.append(header)
        // A kernel without IPv6 answers with what it has: the other family's.
        return try socket.dump(message, "addresses").compactMap(NetlinkAddress.init).filter {
            AddressFamily($0.address) == family
        }
    }

    /// Routes of one table, or of all. A table that is not there has none.
    /// - Parameter madeBy: those with this protocol number alone; nil: all.
    public func routes(
        _ family: AddressFamily = .ipv4, table: UInt32? = NetlinkRoute.mainTable, madeBy: UInt8? = nil
    ) throws(SystemError) -> [NetlinkRoute] {
        var message = NetlinkMessage(type: RTM_GETROUTE, flags: NLM_F_DUMP)
        var header = rtmsg()
        header.rtm_family = family.number
        header.rtm_protocol = madeBy ?? 0
        message.append(header)
        if let table { message.attribute(RTA_TABLE.rawValue, u32: table) }
        let routes: [NetlinkRoute]
        do throws(SystemError) {
            routes = try socket.dump(message, "routes").compactMap { reply in NetlinkRoute(reply) }
                .filter { AddressFamily($0.prefix.address) == family }
        } catch {
            guard error.code == ENOENT else { throw error }
            return []
        }
        // Kernels before 4.20 send all whatever they are asked.
        return routes.filter { (table == nil || $0.table == table) && (madeBy == nil || $0.protocolNumber == madeBy) }
    }

    /// Nexthop objects of both families and groups; none on kernels that have none (before Linux 5.3).
    public func nexthops() throws(SystemError) -> [NetlinkNexthop] {
        var message = NetlinkMessage(type: RTM_GETNEXTHOP, flags: NLM_F_DUMP)
        message.append(nhmsg())
        do throws(SystemError) {
            return try socket.dump(message, "nexthops").compactMap(NetlinkNexthop.init)
        } catch {
            guard error.code == EOPNOTSUPP else { throw error }
            return []
        }
    }

    public func neighbours(_ family: AddressFamily = .ipv4) throws(SystemError) -> [NetlinkNeighbour] {
        var message = NetlinkMessage(type: RTM_GETNEIGH, flags: NLM_F_DUMP)
        var header = ndmsg()
        header.ndm_family = family.number
        message.append(header)
        return try socket.dump(message, "neighbours").compactMap(NetlinkNeighbour.init)
            .filter { AddressFamily($0.address) == family }
    }

    /// IPv4 only, in order of priority.
    public func rules() throws(SystemError) -> [NetlinkRule] {
        var message = NetlinkMessage(type: RTM_GETRULE, flags: NLM_F_DUMP)
        var header = fib_rule_hdr()
        header.family = UInt8(AF_INET)
        message.append(header)
        return try socket.dump(message, "rules").compactMap(NetlinkRule.init)
    }

    /// The route the kernel would take to one destination, with the table it was found in. Throws ENETUNREACH or EHOSTUNREACH
    /// where there is none, EINVAL for a blackhole, EACCES for prohibit.
    public func lookup(
        _ destination: IPAddress, source: IPAddress? = nil, mark: UInt32 = 0
    ) throws(SystemError) -> NetlinkRoute {
        var message = NetlinkMessage(type: RTM_GETROUTE, flags: 0)
        var header = rtmsg()
        header.rtm_family = AddressFamily(destination).number
        header.rtm_dst_len = destination.isIPv4 ? 32 : 128
        header.rtm_src_len = source == nil ? 0 : header.rtm_dst_len
        // IPv6 tells the table by itself, and refuses to be asked.
        header.rtm_flags = destination.isIPv4 ? UInt32(RTM_F_LOOKUP_TABLE) : 0
        message.append(header)
        message.attribute(RTA_DST.rawValue, destination.bytes)
        if let source { message.attribute(RTA_SRC.rawValue, source.bytes) }
        if mark != 0 { message.attribute(RTA_MARK.rawValue, u32: mark) }
        let reply = try socket.get(message, "the route to \(destination)")
        guard let reply, let route = NetlinkRoute(lookup: reply) else {
            throw SystemError(call: "rtnetlink", code: EPROTO, subject: "the route to \(destination)")
        }
        return route
    }

    // MARK: Routes and rules

    /// Adds the route, in place of one with the same prefix, table and metric.
    public func replaceRoute(_ route: NetlinkRoute) throws(SystemError) {
        try socket.request(
            Self.message(RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, route), Self.sentence(route))
    }

    /// Removes the route with this prefix, table, metric and kind. One that is not there is no error.
    public func deleteRoute(_ route: NetlinkRoute) throws(SystemError) {
        do throws(SystemError) {
            try socket.request(Self.message(RTM_DELROUTE, NLM_F_ACK, route), Self.sentence(route))
        } catch {
            // ENODEV: the interface is gone, and took its routes along.
            guard error.code == ESRCH || error.code == ENODEV || error.code == ENOENT else { throw error }
        }
    }

    private static func sentence(_ route: NetlinkRoute) -> String {
        "the \(route.kind) route to \(route.prefix) in table \(route.table)"
    }

    private static func message(_ type: some BinaryInteger, _ flags: Int32, _ route: NetlinkRoute) -> NetlinkMessage {
        var message = NetlinkMessage(type: type, flags: flags)
        var header = rtmsg()
        header.rtm_family = AddressFamily(route.prefix.address).number
        header.rtm_dst_len = UInt8(truncatingIfNeeded: route.prefix.length)
        header.rtm_table = route.table < 256 ? UInt8(route.table) : 0
        header.rtm_protocol = route.protocolNumber
        header.rtm_type = route.kind.rawValue
        // A host on the link, or anything farther: the kernel insists. When it looks for the interface of somebody's gateway it
        // sees routes with the scope of a link alone: a `throw` without it would leave that to the wider route around it.
        let onLink = route.kind == .throw || (route.kind == .unicast && route.gateway == nil)
        // To be deleted: whatever scope it has.
        header.rtm_scope = Int(type) == Int(RTM_DELROUTE) ? 255 : route.kind == .local ? 254 : onLink ? 253 : 0
        message.append(header)
        message.attribute(RTA_DST.rawValue, route.prefix.address.bytes)
        message.attribute(RTA_TABLE.rawValue, u32: route.table)
        if let gateway = route.gateway {
            if gateway.isIPv4 == route.prefix.address.isIPv4 {
                message.attribute(RTA_GATEWAY.rawValue, gateway.bytes)
            } else {
                let family = UInt16(AddressFamily(gateway).number)
                message.attribute(RTA_VIA.rawValue, withUnsafeBytes(of: family) { Array($0) } + gateway.bytes)
            }
        }
        if let index = route.linkIndex { message.attribute(RTA_OIF.rawValue, u32: UInt32(truncatingIfNeeded: index)) }
        if let source = route.preferredSource { message.attribute(RTA_PREFSRC.rawValue, source.bytes) }
        if route.metric != 0 { message.attribute(RTA_PRIORITY.rawValue, u32: route.metric) }
        return message
    }

    /// Adds the rule. One that is there already is no error.
    public func addRule(_ rule: NetlinkRule) throws(SystemError) {
        do throws(SystemError) {
            try socket.request(
                Self.message(RTM_NEWRULE, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, rule), "the rule \(rule.priority)")
        } catch { guard error.code == EEXIST else { throw error } }
    }

    /// Removes the rule. One that is not there is no error.
    public func deleteRule(_ rule: NetlinkRule) throws(SystemError) {
        do throws(SystemError) {
            try socket.request(Self.message(RTM_DELRULE, NLM_F_ACK, rule), "the rule \(rule.priority)")
        } catch { guard error.code == ENOENT || error.code == ESRCH else { throw error } }
    }

    private static func message(_ type: some BinaryInteger, _ flags: Int32, _ rule: NetlinkRule) -> NetlinkMessage {
        var message = NetlinkMessage(type: type, flags: flags)
        var header = fib_rule_hdr()
        header.family = UInt8(AF_INET)
        header.src_len = UInt8(truncatingIfNeeded: rule.source?.length ?? 0)
        header.dst_len = UInt8(truncatingIfNeeded: rule.destination?.length ?? 0)
        header.table = rule.table < 256 ? UInt8(rule.table) : 0
        header.action = UInt8(FR_ACT_TO_TBL)
        header.flags = rule.isInverted ? UInt32(FIB_RULE_INVERT) : 0
        message.append(header)
        message.attribute(FRA_PRIORITY, u32: rule.priority)
        message.attribute(FRA_TABLE, u32: rule.table)
        if let source = rule.source { message.attribute(FRA_SRC, source.address.bytes) }
        if let destination = rule.destination { message.attribute(FRA_DST, destination.address.bytes) }
        if let mark = rule.mark {
            message.attribute(FRA_FWMARK, u32: mark)
            message.attribute(FRA_FWMASK, u32: rule.markMask)
        }
        if let name = rule.inputInterface { message.attribute(FRA_IIFNAME, text: name) }
        if rule.shortestPrefixLength > 0 {
            message.attribute(FRA_SUPPRESS_PREFIXLEN, u32: UInt32(truncatingIfNeeded: rule.shortestPrefixLength - 1))
        }
        return message
    }

    // MARK: Neighbours, links, addresses

    /// Makes the kernel find the neighbour's link-layer address now, and with `keep` keep it fresh while the entry exists
    /// (NTF_EXT_MANAGED, Linux 5.16). Older kernels find it once: ask again while it is in use.
    ///
    /// An entry that the administrator made permanent, or one that needs no resolving, is left as it is: the kernel would
    /// forget it.
    public func resolve(_ address: IPAddress, linkIndex: Int, keep: Bool = true) throws(SystemError) {
        let entry = try neighbour(address, linkIndex: linkIndex)
        if let entry, entry.state & Self.fixedStates != 0 { return }
        // The kernel takes the whole entry anew: one that was a router stays one.
        let flags = UInt8(NTF_USE) | (entry?.isRouter == true ? UInt8(NTF_ROUTER) : 0)
        do throws(SystemError) {
            try resolve(address, linkIndex, flags: flags, managed: keep)
        } catch {
            guard error.code == EINVAL || error.code == EOPNOTSUPP else { throw error }
            try resolve(address, linkIndex, flags: flags, managed: false)
        }
    }

    private func resolve(_ address: IPAddress, _ linkIndex: Int, flags: UInt8, managed: Bool) throws(SystemError) {
        var message = NetlinkMessage(type: RTM_NEWNEIGH, flags: NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE)
        message.append(Self.neighbourHeader(address, linkIndex, flags: flags))
        message.attribute(NDA_DST, address.bytes)
        if managed { message.attribute(NDA_FLAGS_EXT, u32: UInt32(NTF_EXT_MANAGED)) }
        try socket.request(message, "the neighbour \(address)")
    }

    private static let fixedStates: UInt16 = 0x80 | 0x40  // NUD_PERMANENT, NUD_NOARP

    /// One entry; nil when there is none, or the kernel is too old to be asked for one (before Linux 5.0).
    public func neighbour(_ address: IPAddress, linkIndex: Int) throws(SystemError) -> NetlinkNeighbour? {
        var message = NetlinkMessage(type: RTM_GETNEIGH, flags: 0)
        message.append(Self.neighbourHeader(address, linkIndex, flags: 0))
        message.attribute(NDA_DST, address.bytes)
        do throws(SystemError) {
            return try socket.get(message, "the neighbour \(address)").flatMap(NetlinkNeighbour.init)
        } catch {
            guard error.code == ENOENT || error.code == EOPNOTSUPP else { throw error }
            return nil
        }
    }

    /// Forgets the entry. One that is not there is no error.
    public func deleteNeighbour(_ address: IPAddress, linkIndex: Int) throws(SystemError) {
        var message = NetlinkMessage(type: RTM_DELNEIGH, flags: NLM_F_ACK)
        message.append(Self.neighbourHeader(address, linkIndex, flags: 0))
        message.attribute(NDA_DST, address.bytes)
        do throws(SystemError) { try socket.request(message, "the neighbour \(address)") } catch {
            guard error.code == ENOENT || error.code == ENODEV else { throw error }
        }
    }

    private static func neighbourHeader(_ address: IPAddress, _ linkIndex: Int, flags: UInt8) -> ndmsg {
        var header = ndmsg()
        header.ndm_family = AddressFamily(address).number
        header.ndm_ifindex = Int32(truncatingIfNeeded: linkIndex)
        header.ndm_flags = flags
        return header
    }

    /// Sets the interface up or down, its MTU, or both.
    public func setLink(index: Int, up: Bool? = nil, mtu: Int? = nil) throws(SystemError) {
        var message = NetlinkMessage(type: RTM_NEWLINK, flags: NLM_F_ACK)
        var header = ifinfomsg()
        header.ifi_index = Int32(truncatingIfNeeded: index)
        if let up {
            header.ifi_flags = up ? 1 : 0
            header.ifi_change = 1
        }
        message.append(header)
        if let mtu { message.attribute(IFLA_MTU, u32: UInt32(truncatingIfNeeded: mtu)) }
        try socket.request(message, "interface \(index)")
    }

    /// Adds an address. One that is there already is no error.
    public func addAddress(_ address: NetlinkAddress) throws(SystemError) {
        try socket.request(
            Self.message(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, address), "the address \(address.address)")
    }

    /// Removes an address. One that is not there is no error.
    public func deleteAddress(_ address: NetlinkAddress) throws(SystemError) {
        do throws(SystemError) {
            try socket.request(Self.message(RTM_DELADDR, NLM_F_ACK, address), "the address \(address.address)")
        } catch { guard error.code == EADDRNOTAVAIL || error.code == ENODEV else { throw error } }
    }

    private static func message(_ type: some BinaryInteger, _ flags: Int32, _ address: NetlinkAddress) -> NetlinkMessage {
        var message = NetlinkMessage(type: type, flags: flags)
        var header = ifaddrmsg()
        header.ifa_family = AddressFamily(address.address).number
        header.ifa_prefixlen = UInt8(truncatingIfNeeded: address.prefixLength)
        header.ifa_index = UInt32(truncatingIfNeeded: address.linkIndex)
        message.append(header)
        message.attribute(IFA_LOCAL, address.address.bytes)
        message.attribute(IFA_ADDRESS, address.address.bytes)
        return message
    }
}

/// Hears of every change of links, addresses, routes, nexthop objects and neighbours, and of IPv4 rules. Make it before the first
/// reading by `Netlink`, so that no change falls between.
///
/// Of routes the kernel tells less than it does: those that go with an address, a link or a nexthop object are not announced.
public final class NetlinkMonitor {
    private let socket: NetlinkSocket

    public init() throws(SystemError) {
        let groups =
            RTMGRP_LINK | RTMGRP_NEIGH | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV4_RULE | RTMGRP_IPV6_IFADDR
            | RTMGRP_IPV6_ROUTE
        // Group n is bit n - 1.
        let nexthops = UInt32(1) << (RTNLGRP_NEXTHOP.rawValue - 1)
        socket = try NetlinkSocket(protocol: NETLINK_ROUTE, name: "rtnetlink monitor", groups: UInt32(groups) | nexthops)
    }

    /// Readable when there is something to `read`.
    public var descriptor: Int32 { socket.descriptor.number }

    /// At most this many datagrams are taken in one `read`, so that a storm does not hold its caller.
    public static let datagramsPerRead = 64

    /// All that waits, in order; empty when nothing does. Call again while it is not empty.
    public func read() throws(SystemError) -> [NetlinkEvent] {
        var events: [NetlinkEvent] = []
        for _ in 0..<Self.datagramsPerRead {
            do throws(SystemError) {
                guard let replies = try socket.receiveNow() else { break }
                events += replies.compactMap(Self.event)
            } catch {
                guard error.code == ENOBUFS else { throw error }
                events.append(.overrun)
            }
        }
        return events
    }

    private static func event(_ reply: NetlinkReply) -> NetlinkEvent? {
        switch Int(reply.type) {
        case Int(RTM_NEWLINK): NetlinkLink(reply).map { .link($0) }
        case Int(RTM_DELLINK): NetlinkLink(reply).map { .linkRemoved(index: $0.index) }
        case Int(RTM_NEWADDR): NetlinkAddress(reply).map { .address($0) }
        case Int(RTM_DELADDR): NetlinkAddress(reply).map { .addressRemoved($0) }
        case Int(RTM_NEWROUTE): NetlinkRoute(reply).map { placed($0, flags: Int32(reply.flags)) }
        case Int(RTM_NEWNEXTHOP): NetlinkNexthop(reply).map { .nexthop($0) }
        case Int(RTM_DELNEXTHOP): NetlinkNexthop(reply).map { .nexthopRemoved(id: $0.id) }
        case Int(RTM_DELROUTE): NetlinkRoute(reply).map { .routeRemoved($0) }
        case Int(RTM_NEWRULE): NetlinkRule(reply).map { .rule($0) }
        case Int(RTM_DELRULE): NetlinkRule(reply).map { .ruleRemoved($0) }
        case Int(RTM_NEWNEIGH): NetlinkNeighbour(reply).map { .neighbour($0) }
        case Int(RTM_DELNEIGH): NetlinkNeighbour(reply).map { .neighbourRemoved($0) }
        default: nil
        }
    }

    /// The flags of the request that made the route say where it stands. IPv6 puts what is new behind what is there.
    private static func placed(_ route: NetlinkRoute, flags: Int32) -> NetlinkEvent {
        if flags & NLM_F_REPLACE != 0 { return .routeReplaced(route) }
        let isLast = flags & NLM_F_APPEND != 0 || !route.prefix.address.isIPv4
        return isLast ? .routeAppended(route) : .route(route)
    }
}
