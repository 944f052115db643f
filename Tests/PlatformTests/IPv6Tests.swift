import CLinux
import Glibc
import Testing
import Wire

@testable import Platform

/// Routing netlink and raw sockets where addresses are IPv6; with the interfaces of `withVethPair`: `wan0` and `far0`.
@Suite("IPv6 in the kernel")
struct IPv6Tests {
    /// Lets IPv6 live on wan0, without router advertisements; `pause` for duplicate address detection.
    private static func enable(pause: Bool = false) throws {
        try shell(
            """
            sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.wan0.disable_ipv6=0 net.ipv6.conf.wan0.accept_ra=0
            sysctl -qw net.ipv6.conf.wan0.accept_dad=\(pause ? 1 : 0) net.ipv6.conf.wan0.dad_transmits=\(pause ? 1 : 0)
            """)
    }

    @Test("reads and writes addresses of either family, and neither lists the other's")
    func addresses() async throws {
        try await withVethPair {
            try Self.enable()
            let netlink = try Netlink()
            let link = try index(of: "wan0")
            let six = NetlinkAddress(address: IPAddress("2001:db8::1")!, prefixLength: 64, linkIndex: link)
            let four = NetlinkAddress(address: IPAddress("192.0.2.1")!, prefixLength: 24, linkIndex: link)
            for address in [six, four] { try netlink.addAddress(address) }
            let listed = try netlink.addresses(.ipv6).filter { $0.linkIndex == link && $0.address.v6?.isLinkLocal == false }
            #expect(listed.map(\.address) == [six.address] && listed.first?.prefixLength == 64)
            #expect(try netlink.addresses().filter { $0.linkIndex == link } == [four])
            try netlink.deleteAddress(six)
            #expect(try !netlink.addresses(.ipv6).contains { $0.address == six.address })
        }
    }

    @Test("an address is not usable until duplicate detection has ended, and the monitor tells when")
    func duplicateDetection() async throws {
        try await withVethPair {
            try Self.enable(pause: true)
            let netlink = try Netlink()
            let monitor = try NetlinkMonitor()
            try shell("ip -6 addr add 2001:db8::1/64 dev wan0")
            let own = IPAddress("2001:db8::1")!
            #expect(try netlink.addresses(.ipv6).first { $0.address == own }?.isUsable == false)
            var told: [Bool] = []
            let ended = try eventually {
                for case .address(let address) in try monitor.read() where address.address == own {
                    told.append(address.isUsable)
                }
                return told.last == true
            }
            #expect(ended)
            #expect(told.first == false)
            #expect(try netlink.addresses(.ipv6).first { $0.address == own }?.isUsable == true)
        }
    }

    @Test("reads routes: on link, by a router, blackholes, several hops, and those of one table only")
    func routes() async throws {
        try await withVethPair {
            try Self.enable()
            try shell(
                """
                ip -6 addr add 2001:db8::1/64 dev wan0 nodad
                ip -6 route add default via fe80::99 dev wan0
                ip -6 route add 2001:db8:7::/48 via 2001:db8::7 metric 5
                ip -6 route add blackhole 2001:db8:dead::/48
                ip -6 route add 2001:db8:9::/48 nexthop via 2001:db8::9 nexthop via 2001:db8::10
                ip -6 route add 2001:db8:8::/48 via 2001:db8::8 table 77
                """)
            let netlink = try Netlink()
            let link = try index(of: "wan0")
            let routes = try netlink.routes(.ipv6)
            let find = { (text: String) in routes.first { $0.prefix == IPPrefix(text) } }
            #expect(find("2001:db8::/64")?.linkIndex == link && find("2001:db8::/64")?.gateway == nil)
            #expect(find("::/0")?.gateway == IPAddress("fe80::99") && find("::/0")?.linkIndex == link)
            #expect(find("2001:db8:7::/48")?.gateway == IPAddress("2001:db8::7") && find("2001:db8:7::/48")?.metric == 5)
            #expect(find("2001:db8:dead::/48")?.kind == .blackhole)
            #expect(find("2001:db8:9::/48")?.gateway != nil)
            #expect(find("2001:db8:8::/48") == nil)
            #expect(try netlink.routes(.ipv6, table: 77).map(\.prefix) == [IPPrefix("2001:db8:8::/48")!])
            #expect(try netlink.routes().allSatisfy(\.prefix.address.isIPv4))
            #expect(try netlink.lookup(IPAddress("2001:db8:7::1")!).gateway == IPAddress("2001:db8::7"))
        }
    }

    @Test("makes the kernel look for a neighbour by discovery, and leaves a router a router")
    func neighbours() async throws {
        try await withVethPair {
            try Self.enable()
            try shell(
                """
                ip -6 addr add 2001:db8::1/64 dev wan0 nodad
                ip -6 neigh add 2001:db8::99 lladdr 02:00:00:00:00:99 dev wan0 router nud stale
                """)
            let netlink = try Netlink()
            let link = try index(of: "wan0")
            let far = try FramePort("far0")
            let stranger = IPAddress("2001:db8::9")!
            try netlink.resolve(stranger, linkIndex: link)
            // A neighbour solicitation: ICMPv6 type 135 whose target is the stranger.
            let asked = try far.receive {
                $0.count >= 78 && $0[12...13] == [0x86, 0xDD] && $0[20] == 58 && $0[54] == 135
                    && Array($0[62..<78]) == stranger.bytes
            }
            #expect(asked != nil)
            let entry = try #require(try netlink.neighbours(.ipv6).first { $0.address == stranger })
            #expect(entry.isManaged && !entry.isUsable && entry.linkIndex == link)
            let router = IPAddress("2001:db8::99")!
            #expect(try netlink.neighbour(router, linkIndex: link)?.isRouter == true)
            try netlink.resolve(router, linkIndex: link)
            let kept = try #require(try netlink.neighbour(router, linkIndex: link))
            #expect(kept.isManaged && kept.isRouter)
            try netlink.deleteNeighbour(stranger, linkIndex: link)
            #expect(try !netlink.neighbours(.ipv6).contains { $0.address == stranger && $0.isUsable })
            #expect(try netlink.neighbours().isEmpty)
        }
    }

    @Test("the monitor hears of IPv6 routes and neighbours")
    func monitor() async throws {
        try await withVethPair {
            try Self.enable()
            try shell("ip -6 addr add 2001:db8::1/64 dev wan0 nodad")
            let monitor = try NetlinkMonitor()
            try shell(
                """
                ip -6 route add 2001:db8:7::/48 via 2001:db8::7
                ip -6 route del 2001:db8:7::/48
                ip -6 neigh add 2001:db8::9 lladdr 02:00:00:00:00:99 dev wan0
                """)
            var events: [NetlinkEvent] = []
            let prefix = IPPrefix("2001:db8:7::/48")!
            let heard = try eventually {
                events += try monitor.read()
                return events.contains { if case .neighbour(let n) = $0 { n.address == IPAddress("2001:db8::9") } else { false } }
            }
            #expect(heard)
            #expect(events.contains { if case .routeAppended(let route) = $0 { route.prefix == prefix } else { false } })
            #expect(events.contains { if case .routeRemoved(let route) = $0 { route.prefix == prefix } else { false } })
        }
    }

    @Test("a raw socket gives ESP without its header, one for ICMPv6 the types asked for alone")
    func rawSockets() async throws {
        try await withVethPair {
            try Self.enable()
            try shell(
                """
                ip -6 addr add 2001:db8::1/64 dev wan0 nodad
                ip -6 neigh add 2001:db8::9 lladdr 02:00:00:00:00:99 dev wan0
                """)
            let esp = try RawSocket.ipv6(protocolNumber: 50)
            let icmp = try RawSocket.ipv6(protocolNumber: 58, icmpTypes: [2])
            let far = try FramePort("far0")
            func send(_ nextHeader: UInt8, _ payload: [UInt8]) throws {
                try far.send(Frame.ipv6(source: "2001:db8::9", nextHeader: nextHeader, payload: payload))
            }
            func icmpv6(_ type: UInt8) throws -> [UInt8] {
                var message = [type, 0, 0, 0, 0, 0, 5, 0] + [UInt8](repeating: 0x60, count: 48)
                let pseudo = Checksum.pseudoHeaderIPv6(
                    source: IPv6Address("2001:db8::9")!, destination: IPv6Address("2001:db8::1")!, nextHeader: 58,
                    length: UInt32(message.count))
                let checksum = ~Checksum.fold(Checksum.sum(message.span, initial: pseudo))
                (message[2], message[3]) = (UInt8(checksum >> 8), UInt8(checksum & 255))
                return message
            }
            // The kernel's IPv6 may be a moment behind the interface's coming up.
            let number = esp.number
            let arrived = try eventually {
                try send(50, Frame.esp)
                return Poll.readable(number, timeoutMilliseconds: 100)
            }
            #expect(arrived)
            #expect(try esp.read(atMost: 2_000) == Frame.esp)
            // An echo request and a solicitation first: what arrives is the third.
            for type: UInt8 in [128, 135, 2] { try send(58, try icmpv6(type)) }
            #expect(Poll.readable(icmp.number, timeoutMilliseconds: 2_000))
            #expect(try icmp.read(atMost: 2_000)?.first == 2)
            #expect(try icmp.read(atMost: 2_000) == nil)
        }
    }
}
