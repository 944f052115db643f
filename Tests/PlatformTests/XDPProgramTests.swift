import Platform
import Testing
import Wire

private func prefix(_ text: String) throws -> IPPrefix { try #require(IPPrefix(text)) }
private func address(_ text: String) throws -> IPAddress { try #require(IPAddress(text)) }

/// The verdicts of an XDP program.
private enum Verdict: UInt32 { case aborted, drop, pass, transmit, redirect }

/// A frame, the port it comes in on, and what becomes of it.
struct Case: CustomTestStringConvertible, Sendable {
    let testDescription: String
    let port: String
    let frame: [UInt8]
    /// By raw value: 1 drop, 2 pass, 4 redirect.
    let verdict: UInt32
    let counter: XDPCounter

    init(_ what: String, _ port: String, _ verdict: UInt32, _ counter: XDPCounter, _ frame: Frame) {
        (testDescription, self.port, self.frame, self.verdict, self.counter) = (what, port, frame.bytes, verdict, counter)
    }

    init(_ what: String, _ port: String, _ verdict: UInt32, _ counter: XDPCounter, ipv6: [UInt8]) {
        (testDescription, self.port, self.frame, self.verdict, self.counter) = (what, port, ipv6, verdict, counter)
    }
}

/// The XDP program with two children: 0 joins 10.1.0.0/24 to 10.2.0.0/16, 1 joins 10.9.0.0/24 to 10.3.0.0/24; a bypass rule
/// from 10.1.0.0/24 to 10.2.9.0/24. Ports: wan0 (underlay), lan0 (protected), arm0 (both), of which wan0 and lan0 have sockets.
private struct Rig {
    let program: XDPProgram
    let sockets: Sockets
    let ports: [String: Int]

    init(withSockets: Bool = true) throws {
        program = try XDPProgram()
        var ports: [String: Int] = [:]
        for (index, (name, roles)) in [("wan0", 1), ("lan0", 2), ("arm0", 3)].enumerated() {
            try shell("ip link add \(name) type veth peer name \(name)p; ip link set \(name) up; ip link set \(name)p up")
            let link = try PlatformTests.index(of: name)
            try program.setPort(interfaceIndex: link, index: index, roles: UInt32(roles), mac: Frame.portMAC)
            ports[name] = link
        }
        self.ports = ports
        sockets = try Sockets()
        if withSockets {
            for (index, name) in ["wan0", "lan0"].enumerated() {
                let number = try sockets.open(interfaceIndex: try #require(ports[name]))
                try program.setSocket(portIndex: index, queue: 0, descriptor: number)
            }
        }
        try program.setLocalAddresses([address("192.0.2.1"), address("10.1.0.1"), address("2001:db8::1")])
        try program.setPrefixes([
            (prefix("10.1.0.0/24"), PrefixPolicy(steer: 1, localSets: 1, bypassSource: 1)),
            (prefix("10.2.0.0/16"), PrefixPolicy(steer: 2, remoteSets: 1)),
            (prefix("10.2.9.0/24"), PrefixPolicy(steer: 2, remoteSets: 1, bypassDestination: 1)),
            (prefix("10.9.0.0/24"), PrefixPolicy(steer: 0, localSets: 2)),
            (prefix("10.3.0.0/24"), PrefixPolicy(steer: 2, remoteSets: 2)),
            // Local to a child whose remote subnets are everywhere.
            (prefix("10.4.0.0/24"), PrefixPolicy(steer: 1, localSets: 4, remoteSets: 4)),
        ])
    }

    /// The verdict, and the one counter that moved.
    func run(_ frame: [UInt8], on port: String, queue: UInt32 = 0) throws -> (Verdict, XDPCounter) {
        let before = try program.counters()
        let verdict = try program.testRun(frame: frame, interfaceIndex: try #require(ports[port]), queue: queue)
        let after = try program.counters()
        let moved = XDPCounter.allCases.filter { after[$0] != before[$0] }
        #expect(after.total == before.total + 1, "each packet is counted exactly once")
        return (try #require(Verdict(rawValue: verdict)), try #require(moved.first))
    }
}

@Suite struct XDPProgramTests {
    static let underlay: [Case] = [
        Case("ESP for us", "wan0", 4, .redirectedESP, Frame(protocolNumber: 50, payload: Frame.esp)),
        Case(
            "ESP for us behind IPv4 options", "wan0", 4, .redirectedESP,
            Frame(protocolNumber: 50, options: 8, payload: Frame.esp)),
        Case("AH for us", "wan0", 4, .redirectedESP, Frame(protocolNumber: 51, payload: Frame.esp)),
        Case("ESP for another host", "wan0", 2, .passed, Frame(destination: "192.0.2.7", protocolNumber: 50, payload: Frame.esp)),
        Case("ESP in UDP", "wan0", 4, .redirectedUDPESP, Frame(payload: Frame.udp(to: 4500, Frame.esp))),
        Case("IKE", "wan0", 2, .passedIKE, Frame(payload: Frame.udp(to: 500, Frame.ikeHeader))),
        Case("IKE on 4500", "wan0", 2, .passedIKE, Frame(payload: Frame.udp(to: 4500, Frame.nonESPMarker + Frame.ikeHeader))),
        Case("a NAT keepalive", "wan0", 1, .droppedNATKeepalive, Frame(payload: Frame.udp(to: 4500, [0xFF]))),
        Case("one octet that is no keepalive", "wan0", 1, .droppedMalformed, Frame(payload: Frame.udp(to: 4500, [0xFE]))),
        Case("an empty datagram to 4500", "wan0", 1, .droppedMalformed, Frame(payload: Frame.udp(to: 4500, []))),
        Case(
            "a first fragment of ESP", "wan0", 2, .passedFragment,
            Frame(protocolNumber: 50, moreFragments: true, payload: Frame.esp)),
        Case(
            "a last fragment of ESP", "wan0", 2, .passedFragment,
            Frame(protocolNumber: 50, fragmentOffset: 64, payload: Frame.esp)),
        Case(
            "a first fragment to 4500", "wan0", 2, .passedFragment,
            Frame(moreFragments: true, payload: Frame.udp(to: 4500, Frame.esp))),
        Case(
            "a first fragment of IKE", "wan0", 2, .passedIKE,
            Frame(moreFragments: true, payload: Frame.udp(to: 500, Frame.ikeHeader))),
        Case(
            "a first fragment of IKE on 4500", "wan0", 2, .passedIKE,
            Frame(moreFragments: true, payload: Frame.udp(to: 4500, Frame.nonESPMarker))),
        Case(
            "a first fragment to 4500 that does not say what it is", "wan0", 2, .passedIKE,
            Frame(moreFragments: true, payload: Frame.udp(to: 4500, []))),
        Case("a later fragment of UDP", "wan0", 2, .passedFragment, Frame(fragmentOffset: 1480, payload: Frame.esp)),
        Case("SSH to us", "wan0", 2, .passedLocal, Frame(protocolNumber: 6, payload: Frame.esp)),
        Case("what is not IPv4", "wan0", 2, .passedNotIPv4, Frame(etherType: 0x0806)),
        Case("a tagged frame", "wan0", 2, .passedVLAN, Frame(vlanTags: [100], protocolNumber: 50, payload: Frame.esp)),
        Case("another host's frame", "wan0", 2, .passedOtherHost, Frame(destinationMAC: Frame.otherMAC, protocolNumber: 50)),
        Case(
            "ESP by link-layer broadcast", "wan0", 2, .passedNoSocket,
            Frame(destinationMAC: Frame.broadcast, protocolNumber: 50, payload: Frame.esp)),
        Case("transit that is no concern of ours", "wan0", 2, .passed, Frame(destination: "198.51.100.1")),
    ]

    static let clearInbound: [Case] = [
        Case("from remote to local subnets", "wan0", 1, .droppedClearInbound, Frame(source: "10.2.0.5", destination: "10.1.0.5")),
        Case(
            "to an address of ours inside the local subnets", "wan0", 1, .droppedClearInbound,
            Frame(source: "10.2.0.5", destination: "10.1.0.1")),
        Case(
            "ESP to a host behind us", "wan0", 1, .droppedClearInbound,
            Frame(source: "10.2.0.5", destination: "10.1.0.5", protocolNumber: 50, payload: Frame.esp)),
        Case(
            "IKE to a host behind us", "wan0", 1, .droppedClearInbound,
            Frame(source: "10.2.0.5", destination: "10.1.0.5", payload: Frame.udp(to: 500, Frame.ikeHeader))),
        Case(
            "a fragment", "wan0", 1, .droppedClearInbound,
            Frame(source: "10.2.0.5", destination: "10.1.0.5", fragmentOffset: 8)),
        Case(
            "a first fragment of UDP to an address of ours", "wan0", 1, .droppedClearInbound,
            Frame(source: "10.2.0.5", destination: "10.1.0.1", moreFragments: true, payload: Frame.udp(to: 53, Frame.esp))),
        Case(
            "UDP to us too short for its ports", "wan0", 1, .droppedClearInbound,
            Frame(source: "10.2.0.5", destination: "10.1.0.1", payload: [0, 1, 2])),
        Case(
            "with a priority tag", "wan0", 1, .droppedClearInbound,
            Frame(vlanTags: [0xE000], source: "10.2.0.5", destination: "10.1.0.5")),
        Case(
            "with two priority tags", "wan0", 1, .droppedClearInbound,
            Frame(vlanTags: [0, 0], source: "10.2.0.5", destination: "10.1.0.5")),
        Case(
            "by link-layer broadcast", "wan0", 1, .droppedClearInbound,
            Frame(destinationMAC: Frame.broadcast, source: "10.2.0.5", destination: "10.1.0.1")),
        Case("of the second child", "wan0", 1, .droppedClearInbound, Frame(source: "10.3.0.5", destination: "10.9.0.5")),
        Case("between two children's subnets", "wan0", 2, .passed, Frame(source: "10.3.0.5", destination: "10.1.0.5")),
        Case("to somewhere else", "wan0", 2, .passed, Frame(source: "10.2.0.5", destination: "10.8.0.5")),
        Case("that answers a bypassed packet", "wan0", 2, .passed, Frame(source: "10.2.9.5", destination: "10.1.0.5")),
        Case("on a port with both roles", "arm0", 1, .droppedClearInbound, Frame(source: "10.2.0.5", destination: "10.1.0.5")),
        Case(
            "between our own subnets on the underlay, when everything else is the peer's", "wan0", 1, .droppedClearInbound,
            Frame(source: "10.4.0.5", destination: "10.4.0.6")),
        Case(
            "between our own subnets on a port with both roles", "arm0", 2, .passed,
            Frame(source: "10.4.0.5", destination: "10.4.0.6")),
        Case("not on a protected port", "lan0", 2, .passed, Frame(source: "10.2.0.5", destination: "10.1.0.5")),
    ]

    static let protected: [Case] = [
        Case("to a protected prefix", "lan0", 4, .redirectedProtected, Frame(source: "10.1.0.5", destination: "10.2.0.5")),
        Case(
            "a fragment to one", "lan0", 4, .redirectedProtected,
            Frame(source: "10.1.0.5", destination: "10.2.0.5", fragmentOffset: 8)),
        Case("to an address of ours", "lan0", 2, .passedLocal, Frame(source: "10.1.0.5", destination: "10.1.0.1")),
        Case("to a neighbour", "lan0", 2, .passed, Frame(source: "10.1.0.5", destination: "10.1.0.7")),
        Case("to the internet", "lan0", 2, .passed, Frame(source: "10.1.0.5", destination: "198.51.100.1")),
        Case("by a bypass rule", "lan0", 2, .passedBypass, Frame(source: "10.1.0.5", destination: "10.2.9.5")),
        Case(
            "where the bypass rule names another source", "lan0", 4, .redirectedProtected,
            Frame(source: "10.8.0.5", destination: "10.2.9.5")),
        Case("by multicast", "lan0", 2, .passed, Frame(source: "10.1.0.5", destination: "224.0.0.5")),
        Case(
            "by link-layer broadcast", "lan0", 2, .passed,
            Frame(destinationMAC: Frame.broadcast, source: "10.1.0.5", destination: "10.2.0.5")),
        Case(
            "for another host's MAC", "lan0", 2, .passedOtherHost,
            Frame(destinationMAC: Frame.otherMAC, source: "10.1.0.5", destination: "10.2.0.5")),
        Case("on a port without a socket", "arm0", 1, .droppedNoSocket, Frame(source: "10.1.0.5", destination: "10.2.0.5")),
        Case("ESP for us on a protected port", "lan0", 2, .passedLocal, Frame(protocolNumber: 50, payload: Frame.esp)),
        Case("ESP for us on a port without a socket", "arm0", 2, .passedNoSocket, Frame(protocolNumber: 50, payload: Frame.esp)),
    ]

    static let ipv6: [Case] = [
        Case("ESP for us", "wan0", 4, .redirectedESP, ipv6: Frame.ipv6(nextHeader: 50, payload: Frame.esp)),
        Case(
            "ESP for another host", "wan0", 2, .passedNotIPv4,
            ipv6: Frame.ipv6(to: "2001:db8::7", nextHeader: 50, payload: Frame.esp)),
        Case(
            "ESP for an address that differs in its first half", "wan0", 2, .passedNotIPv4,
            ipv6: Frame.ipv6(to: "2001:db8:1::1", nextHeader: 50, payload: Frame.esp)),
        Case("AH for us", "wan0", 2, .passedFragment, ipv6: Frame.ipv6(nextHeader: 51, payload: Frame.esp)),
        Case(
            "ESP in UDP", "wan0", 4, .redirectedUDPESP,
            ipv6: Frame.ipv6(nextHeader: 17, payload: Frame.udp(to: 4500, Frame.esp))),
        Case("IKE", "wan0", 2, .passedIKE, ipv6: Frame.ipv6(nextHeader: 17, payload: Frame.udp(to: 500, Frame.ikeHeader))),
        Case(
            "IKE on 4500", "wan0", 2, .passedIKE,
            ipv6: Frame.ipv6(nextHeader: 17, payload: Frame.udp(to: 4500, Frame.nonESPMarker + Frame.ikeHeader))),
        Case(
            "a NAT keepalive", "wan0", 1, .droppedNATKeepalive,
            ipv6: Frame.ipv6(nextHeader: 17, payload: Frame.udp(to: 4500, [0xFF]))),
        Case(
            "an empty datagram to 4500", "wan0", 1, .droppedMalformed,
            ipv6: Frame.ipv6(nextHeader: 17, payload: Frame.udp(to: 4500, []))),
        Case(
            "a fragment", "wan0", 2, .passedFragment,
            ipv6: Frame.ipv6(nextHeader: 44, payload: [50, 0, 0, 1, 0, 0, 0, 9] + Frame.esp)),
        Case(
            "ESP behind a destination options header", "wan0", 2, .passedFragment,
            ipv6: Frame.ipv6(nextHeader: 60, payload: [50, 0, 1, 4, 0, 0, 0, 0] + Frame.esp)),
        Case(
            "IKE behind hop-by-hop, destination options and an atomic fragment header", "wan0", 2, .passedIKE,
            ipv6: Frame.ipv6(
                nextHeader: 0,
                payload: [60, 0, 1, 4, 0, 0, 0, 0] + [44, 0, 1, 4, 0, 0, 0, 0] + [17, 0, 0, 0, 0, 0, 0, 9]
                    + Frame.udp(to: 500, Frame.ikeHeader))),
        Case(
            "a later fragment", "wan0", 2, .passedFragment,
            ipv6: Frame.ipv6(nextHeader: 44, payload: [17, 0, 0, 9, 0, 0, 0, 9] + Frame.esp)),
        Case(
            "a ping behind destination options", "wan0", 2, .passedLocal,
            ipv6: Frame.ipv6(nextHeader: 60, payload: [58, 0, 1, 4, 0, 0, 0, 0] + [128, 0, 0, 0, 0, 0, 0, 0])),
        Case(
            "neighbour discovery for us", "wan0", 2, .passedLocal,
            ipv6: Frame.ipv6(nextHeader: 58, payload: [136, 0, 0, 0, 0x60, 0, 0, 0] + [UInt8](repeating: 0, count: 16))),
        Case(
            "neighbour discovery by multicast", "wan0", 2, .passedNotIPv4,
            ipv6: Frame.ipv6(
                to: "ff02::1:ff00:1", nextHeader: 58, payload: [135, 0, 0, 0] + [UInt8](repeating: 0, count: 20),
                mac: [0x33, 0x33, 0xFF, 0, 0, 1])),
        Case("DNS to us", "wan0", 2, .passedLocal, ipv6: Frame.ipv6(nextHeader: 17, payload: Frame.udp(to: 53, Frame.esp))),
        Case("UDP too short for its ports", "wan0", 2, .passedLocal, ipv6: Frame.ipv6(nextHeader: 17, payload: [0, 1, 2])),
        Case(
            "IPv6 by its type alone", "wan0", 2, .passedMalformed,
            ipv6: Frame.ipv6(nextHeader: 50, payload: Frame.esp, version: 4)),
        Case(
            "with a priority tag", "wan0", 2, .passedNoSocket,
            ipv6: Frame.ipv6(nextHeader: 50, payload: Frame.esp, vlanTags: [0xE000])),
        Case("in a VLAN", "wan0", 2, .passedVLAN, ipv6: Frame.ipv6(nextHeader: 50, payload: Frame.esp, vlanTags: [5])),
        Case(
            "for another host's MAC", "wan0", 2, .passedOtherHost,
            ipv6: Frame.ipv6(nextHeader: 50, payload: Frame.esp, mac: Frame.otherMAC)),
        Case("ESP for us on a protected port", "lan0", 2, .passedNotIPv4, ipv6: Frame.ipv6(nextHeader: 50, payload: Frame.esp)),
        Case(
            "ESP for us on a port without a socket", "arm0", 2, .passedNoSocket,
            ipv6: Frame.ipv6(nextHeader: 50, payload: Frame.esp)),
    ]

    private func check(_ cases: [Case]) async throws {
        try await inNewNetworkNamespace {
            let rig = try Rig()
            for one in cases {
                let (verdict, counter) = try rig.run(one.frame, on: one.port)
                #expect(verdict.rawValue == one.verdict, "\(one.testDescription)")
                #expect(counter == one.counter, "\(one.testDescription)")
            }
        }
    }

    @Test func `What comes in on the underlay goes where it should`() async throws { try await check(Self.underlay) }
    @Test func `IPsec and IKE over IPv6 go where they should, and the rest to the kernel`() async throws {
        try await check(Self.ipv6)
    }
    @Test func `Clear packets that policy wants protected do not come in`() async throws { try await check(Self.clearInbound) }
    @Test func `What comes in on the protected side goes where it should`() async throws { try await check(Self.protected) }

    /// One child from 10.1.0.0/24 to everywhere.
    @Test func `A child for all destinations does not swallow the gateway, its networks or multicast`() async throws {
        try await inNewNetworkNamespace {
            let rig = try Rig()
            try rig.program.setPrefixes([
                (prefix("0.0.0.0/0"), PrefixPolicy(steer: 2, remoteSets: 1)),
                (prefix("10.1.0.0/24"), PrefixPolicy(steer: 1, localSets: 1, remoteSets: 1)),
                (prefix("192.0.2.0/24"), PrefixPolicy(steer: 1, remoteSets: 1)),
            ])
            func expect(_ frame: Frame, on port: String, _ verdict: Verdict, _ counter: XDPCounter) throws {
                #expect(try rig.run(frame.bytes, on: port) == (verdict, counter), "\(frame.source) to \(frame.destination)")
            }
            try expect(Frame(source: "10.1.0.5", destination: "198.51.100.1"), on: "lan0", .redirect, .redirectedProtected)
            for multicast in ["224.0.0.5", "239.1.2.3", "255.255.255.255"] {
                try expect(Frame(source: "10.1.0.5", destination: multicast), on: "lan0", .pass, .passed)
            }
            try expect(Frame(source: "10.1.0.5", destination: "10.1.0.7"), on: "lan0", .pass, .passed)
            try expect(Frame(source: "10.1.0.5", destination: "192.0.2.7"), on: "lan0", .pass, .passed)
            try expect(Frame(source: "10.1.0.5", destination: "10.1.0.1"), on: "lan0", .pass, .passedLocal)
            try expect(Frame(protocolNumber: 50, payload: Frame.esp), on: "wan0", .redirect, .redirectedESP)
            try expect(Frame(payload: Frame.udp(to: 500, Frame.ikeHeader)), on: "wan0", .pass, .passedIKE)
            // SSH to the gateway's own address, which no child has among its local subnets.
            try expect(Frame(protocolNumber: 6, payload: Frame.esp), on: "wan0", .pass, .passedLocal)
            try expect(Frame(destination: "10.1.0.5"), on: "wan0", .drop, .droppedClearInbound)
        }
    }

    @Test func `Every length of a cut frame gets a verdict`() async throws {
        try await inNewNetworkNamespace {
            let rig = try Rig()
            let whole = Frame(vlanTags: [0], options: 4, payload: Frame.udp(to: 4500, Frame.esp)).bytes
            // The kernel's test run accepts no frame shorter than an Ethernet header.
            for length in 14...whole.count {
                let (verdict, _) = try rig.run(Array(whole.prefix(length)), on: "wan0")
                #expect(verdict != .aborted)
            }
        }
    }

    @Test func `Without a socket ESP goes to the kernel and protected traffic nowhere`() async throws {
        try await inNewNetworkNamespace {
            let rig = try Rig(withSockets: false)
            #expect(try rig.run(Frame(protocolNumber: 50, payload: Frame.esp).bytes, on: "wan0") == (.pass, .passedNoSocket))
            let clear = Frame(source: "10.1.0.5", destination: "10.2.0.5").bytes
            #expect(try rig.run(clear, on: "lan0") == (.drop, .droppedNoSocket))
        }
    }

    @Test func `An interface that is no port passes everything`() async throws {
        try await inNewNetworkNamespace {
            let rig = try Rig()
            rig.program.removePort(interfaceIndex: try #require(rig.ports["lan0"]))
            let frame = Frame(source: "10.1.0.5", destination: "10.2.0.5").bytes
            #expect(try rig.run(frame, on: "lan0") == (.pass, .passedUnknownPort))
        }
    }

    @Test func `IKE from one source is limited to its burst and its rate`() async throws {
        try await inNewNetworkNamespace {
            let rig = try Rig()
            try rig.program.setIKE(packetsPerSecond: 1, burst: 5)
            func count(from source: String, packets: Int) throws -> Int {
                let frame = Frame(source: source, payload: Frame.udp(to: 500, Frame.ikeHeader)).bytes
                return try (0..<packets).filter { _ in try rig.run(frame, on: "wan0").0 == .pass }.count
            }
            // A slow machine may earn a packet or two while it sends.
            #expect((5...7).contains(try count(from: "203.0.113.1", packets: 20)))
            #expect((5...7).contains(try count(from: "203.0.113.2", packets: 20)), "another source has its own bucket")
            let piece = Frame(source: "203.0.113.2", moreFragments: true, payload: Frame.udp(to: 500, Frame.ikeHeader)).bytes
            #expect(try rig.run(piece, on: "wan0").0 == .drop, "fragments are no way round")
            try rig.program.setIKE(packetsPerSecond: 0, burst: 0)
            #expect(try count(from: "203.0.113.1", packets: 20) == 20, "zero is no limit")
        }
    }

    /// RFC 7296 §2.6.
    @Test func `who floods from a peer's address leaves it what first messages with a cookie have`() async throws {
        try await inNewNetworkNamespace {
            let rig = try Rig()
            try rig.program.setIKE(packetsPerSecond: 1, burst: 5)
            /// SPIs, next payload, version, exchange, flags, message ID, length; then a Notify payload as far as its type.
            func message(next: UInt8, exchange: UInt8 = 34, notify: [UInt8] = [0x40, 0x06], flags: UInt8 = 8) -> [UInt8] {
                [1, 1, 1, 1, 1, 1, 1, 1] + [UInt8](repeating: 0, count: 8) + [next, 0x20, exchange, flags]
                    + [0, 0, 0, 0, 0, 0, 0, 64, 33, 0, 0, 36, 0, 0] + notify + [UInt8](repeating: 7, count: 28)
            }
            func passed(_ bytes: [UInt8], _ packets: Int, ipv6: Bool = false) throws -> Int {
                let udp = Frame.udp(to: 500, bytes)
                let frame =
                    ipv6
                    ? Frame.ipv6(source: "2001:db8:9::1", nextHeader: 17, payload: udp)
                    : Frame(source: "203.0.113.9", payload: udp).bytes
                return try (0..<packets).filter { _ in try rig.run(frame, on: "wan0").0 == .pass }.count
            }
            for ipv6 in [false, true] {
                // Each kind has its own, first messages several times as much as noise.
                #expect((25...32).contains(try passed(message(next: 33), 60, ipv6: ipv6)))
                #expect((5...8).contains(try passed(message(next: 33, exchange: 35), 20, ipv6: ipv6)))
                #expect(try passed(message(next: 33, flags: 0x20), 3, ipv6: ipv6) <= 1, "an answer is no first message")
                #expect(try passed(message(next: 41, notify: [0x40, 0x07]), 3, ipv6: ipv6) <= 2, "nor is any notify a cookie")
                #expect((50...60).contains(try passed(message(next: 41), 100, ipv6: ipv6)))
            }
        }
    }

    @Test func `IKE over IPv6 is limited by network, since a host has all of its addresses`() async throws {
        try await inNewNetworkNamespace {
            let rig = try Rig()
            try rig.program.setIKE(packetsPerSecond: 1, burst: 5)
            func count(_ sources: (Int) -> String) throws -> Int {
                try (0..<20).filter {
                    let frame = Frame.ipv6(
                        source: sources($0), nextHeader: 17, payload: Frame.udp(to: 500, Frame.ikeHeader))
                    return try rig.run(frame, on: "wan0").0 == .pass
                }.count
            }
            // A slow machine may earn a packet or two while it sends.
            #expect((5...7).contains(try count { "2001:db8:5::\($0 + 1)" }))
            #expect((5...7).contains(try count { "2001:db8:6:0:\($0 + 1)::1" }))
            #expect(try count { "2001:db8:7:\($0)::1" } == 20, "other networks have their own buckets")
        }
    }

    @Test func `An IKE SA of ours has a share of its own, whatever is sent from its peer's address`() async throws {
        try await inNewNetworkNamespace {
            let rig = try Rig()
            try rig.program.setIKE(packetsPerSecond: 1, burst: 5)
            let spi: [UInt8] = [1, 2, 3, 4, 5, 6, 7, 8]
            func passed(_ header: [UInt8], port: UInt16 = 500, packets: Int) throws -> Int {
                let data = (port == 4500 ? Frame.nonESPMarker : []) + header + [UInt8](repeating: 0, count: 12)
                let frame = Frame(source: "203.0.113.1", payload: Frame.udp(to: port, data)).bytes
                return try (0..<packets).filter { _ in try rig.run(frame, on: "wan0").0 == .pass }.count
            }
            let other: [UInt8] = [9, 9, 9, 9, 9, 9, 9, 9]
            #expect((5...7).contains(try passed(other + other, packets: 20)))
            #expect(try passed(spi + other, packets: 2) == 0, "the source has used up its share, and nobody knows the SPI")
            rig.program.setIKESA(spi: 0x0102_0304_0506_0708, isLive: true)
            // As initiator or as responder, on either port: one share.
            #expect(try passed(spi + other, packets: 2) == 2)
            #expect(try passed(other + spi, port: 4500, packets: 2) == 2)
            #expect((1...3).contains(try passed(spi + other, packets: 20)), "its share has an end as well")
            rig.program.setIKESA(spi: 0x0102_0304_0506_0708, isLive: false)
            #expect(try passed(spi + other, packets: 2) <= 1)
        }
    }

    @Test func `When all peers are known, IKE and ESP of others is dropped, and nothing else`() async throws {
        try await inNewNetworkNamespace {
            let rig = try Rig()
            let peers = ["203.0.113.9", "2001:db8:9::9"].compactMap { IPAddress($0) }
            try rig.program.setIKE(packetsPerSecond: 0, burst: 0, onlyPeers: peers)
            let ours: [(UInt8, [UInt8])] = [
                (50, Frame.esp), (17, Frame.udp(to: 500, Frame.ikeHeader)),
                (17, Frame.udp(to: 4500, Frame.nonESPMarker + Frame.ikeHeader)), (17, Frame.udp(to: 4500, Frame.esp)),
            ]
            for (number, payload) in ours {
                for (source, isPeer) in [("203.0.113.9", true), ("203.0.113.10", false)] {
                    let verdict = try rig.run(Frame(source: source, protocolNumber: number, payload: payload).bytes, on: "wan0")
                    #expect((verdict.1 == .droppedStranger) == !isPeer, "\(source) protocol \(number)")
                    #expect((verdict.0 == .drop) == !isPeer)
                }
                for (source, isPeer) in [("2001:db8:9::9", true), ("2001:db8:9::8", false)] {
                    let verdict = try rig.run(Frame.ipv6(source: source, nextHeader: number, payload: payload), on: "wan0")
                    #expect((verdict.1 == .droppedStranger) == !isPeer, "\(source) next header \(number)")
                }
            }
            // No way round it: fragments, and extension headers, more of them than anybody needs too.
            let options: [UInt8] = [60, 0, 1, 4, 0, 0, 0, 0]
            for (next, payload): (UInt8, [UInt8]) in [
                (44, [17, 0, 0, 1, 0, 0, 0, 9] + Frame.udp(to: 500, Frame.ikeHeader)),
                (60, [50, 0, 1, 4, 0, 0, 0, 0] + Frame.esp), (51, Frame.esp),
                (60, [17, 0, 1, 4, 0, 0, 0, 0] + Frame.udp(to: 500, Frame.ikeHeader)),
                (60, options + options + options + options + [17, 0, 1, 4, 0, 0, 0, 0] + Frame.udp(to: 500, Frame.ikeHeader)),
            ] {
                let verdict = try rig.run(Frame.ipv6(source: "2001:db8:9::8", nextHeader: next, payload: payload), on: "wan0")
                #expect(verdict == (.drop, .droppedStranger), "next header \(next), \(payload.count) octets")
            }
            let first = Frame(source: "203.0.113.10", moreFragments: true, payload: Frame.udp(to: 500, Frame.ikeHeader)).bytes
            #expect(try rig.run(first, on: "wan0") == (.drop, .droppedStranger))
            let stranger = Frame(source: "203.0.113.10", protocolNumber: 17, payload: Frame.udp(to: 53, [1, 2, 3, 4])).bytes
            #expect(try rig.run(stranger, on: "wan0") == (.pass, .passedLocal))
            // One more peer, then everybody again.
            let more = peers + [try #require(IPAddress("203.0.113.10"))]
            let ike = Frame(source: "203.0.113.10", payload: Frame.udp(to: 500, Frame.ikeHeader)).bytes
            try rig.program.setIKE(packetsPerSecond: 0, burst: 0, onlyPeers: more)
            #expect(try rig.run(ike, on: "wan0") == (.pass, .passedIKE))
            try rig.program.setIKE(packetsPerSecond: 0, burst: 0, onlyPeers: peers)
            #expect(try rig.run(ike, on: "wan0") == (.drop, .droppedStranger))
            try rig.program.setIKE(packetsPerSecond: 0, burst: 0)
            #expect(try rig.run(ike, on: "wan0") == (.pass, .passedIKE))
        }
    }

    @Test func `Every length of a cut IPv6 frame gets a verdict`() async throws {
        try await inNewNetworkNamespace {
            let rig = try Rig()
            for payload in [Frame.udp(to: 4500, Frame.esp), Frame.esp] {
                let whole = Frame.ipv6(nextHeader: payload.count == Frame.esp.count ? 50 : 17, payload: payload)
                for length in 14...whole.count {
                    let (verdict, _) = try rig.run(Array(whole.prefix(length)), on: "wan0")
                    #expect(verdict != .aborted)
                }
            }
        }
    }

    @Test func `Prefixes and addresses that are no longer given are forgotten`() async throws {
        try await inNewNetworkNamespace {
            let rig = try Rig()
            let frame = Frame(source: "10.1.0.5", destination: "10.2.0.5").bytes
            #expect(try rig.run(frame, on: "lan0").0 == .redirect)
            try rig.program.setPrefixes([(try prefix("10.3.0.0/24"), PrefixPolicy(steer: 2))])
            #expect(try rig.run(frame, on: "lan0") == (.pass, .passed))
            #expect(try rig.run(Frame(destination: "10.3.0.5").bytes, on: "lan0").0 == .redirect)
            try rig.program.setPrefixes([(try prefix("0.0.0.0/0"), PrefixPolicy(steer: 2))])
            #expect(try rig.run(frame, on: "lan0").0 == .redirect, "a default route's prefix covers all")
            try rig.program.setLocalAddresses([try address("10.2.0.5")])
            #expect(try rig.run(frame, on: "lan0") == (.pass, .passedLocal))
            let ipv6 = Frame.ipv6(nextHeader: 50, payload: Frame.esp)
            #expect(try rig.run(ipv6, on: "wan0") == (.pass, .passedNotIPv4))
            try rig.program.setLocalAddresses([try address("2001:db8::1")])
            #expect(try rig.run(ipv6, on: "wan0") == (.redirect, .redirectedESP))
            #expect(try rig.run(frame, on: "lan0").1 != .passedLocal)
        }
    }

    @Test func `It attaches, names what is there, replaces its own leftovers and leaves others alone`() async throws {
        try await inNewNetworkNamespace {
            try shell("ip link add a0 type veth peer name a1; ip link set a0 up; ip link set a1 up")
            let link = try PlatformTests.index(of: "a0")
            let first = try XDPProgram()
            #expect(try first.attach(interfaceIndex: link, mode: .auto) == .native)
            let before = try #require(try XDPProgram.attachment(interfaceIndex: link))
            #expect(before.name == "culvert_xdp" && before.mode == .native)

            let second = try XDPProgram()
            #expect(try second.attach(interfaceIndex: link, mode: .native) == .native)
            let after = try #require(try XDPProgram.attachment(interfaceIndex: link))
            #expect(after.programID != before.programID)
            #expect(try second.attach(interfaceIndex: link, mode: .generic) == .generic)
            #expect(try XDPProgram.attachment(interfaceIndex: link)?.mode == .generic)
            second.detach(interfaceIndex: link)
            #expect(try XDPProgram.attachment(interfaceIndex: link) == nil)
            second.detach(interfaceIndex: link)
            second.detach(interfaceIndex: 9999)
        }
    }

    @Test func `A foreign program is named in the error and stays`() async throws {
        try await inNewNetworkNamespace {
            try shell("ip link add a0 type veth peer name a1; ip link set a0 up; ip link set a1 up")
            // A program that passes all, called "stranger", assembled here: mov r0, 2; exit.
            let link = try PlatformTests.index(of: "a0")
            try Stranger.attach(interfaceIndex: link)
            let program = try XDPProgram()
            let error = #expect(throws: SystemError.self) { try program.attach(interfaceIndex: link, mode: .auto) }
            #expect(error?.code == 16 /* EBUSY */)
            #expect(error?.description.contains("stranger") == true)
            #expect(try XDPProgram.attachment(interfaceIndex: link)?.name == "stranger")
        }
    }

    @Test func `An interface that does not exist is an error that says so`() async throws {
        try await inNewNetworkNamespace {
            let program = try XDPProgram()
            let error = #expect(throws: SystemError.self) { try program.attach(interfaceIndex: 9999, mode: .auto) }
            #expect(error?.code == 19 /* ENODEV */, "\(String(describing: error))")
        }
    }
}
