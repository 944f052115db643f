import Crypto
import IPsec
import Testing
import Wire

@testable import Dataplane

/// Spans cannot be made inside an expectation.
private func outer(_ bytes: [UInt8]) -> IPv6Header? { IPv6Header(bytes.span) }

/// The same worker over an IPv6 underlay: 2001:db8::1 here, 2001:db8::2 there.
@Suite("Over an IPv6 underlay")
struct IPv6UnderlayTests {
    struct Mode: Sendable, CustomStringConvertible {
        var engine: EngineKind
        var extended: Bool
        var udp: Bool
        var description: String { "\(engine.rawValue)\(extended ? " ESN" : "")\(udp ? " UDP" : "")" }
    }
    static let modes = EngineKind.available.flatMap { engine in
        [false, true].flatMap { esn in [false, true].map { Mode(engine: engine, extended: esn, udp: $0) } }
    }

    @Test("a packet comes out as it went in, two hops older, in every size", arguments: modes)
    func roundTrip(_ mode: Mode) throws {
        let ends = try TwoEnds(engine: mode.engine, extended: mode.extended, udp: mode.udp, ipv6: true)
        let largest = ESPLayout.largestPayload(mtu: 1500, udp: mode.udp, ipv6: true)
        #expect(largest == (mode.udp ? 1418 : 1426))
        for size in Array(28...70) + [127, 128, 129, 512, 1000, 1399, 1400, largest] {
            let packet = inner(size)
            let sealed = ends.seal(packet)
            try #require(sealed.count == 1, "size \(size)")
            let header = try #require(outer(sealed[0]))
            #expect(sealed[0].count == ESPLayout.totalBytes(payloadBytes: size, udp: mode.udp, ipv6: true))
            #expect(Int(header.payloadBytes) + IPv6.headerBytes == sealed[0].count && sealed[0].count <= 1500)
            #expect(header.source == IPv6Address("2001:db8::1") && header.destination == IPv6Address("2001:db8::2"))
            #expect(header.nextHeader == (mode.udp ? 17 : 50) && header.hopLimit == 64)
            #expect(!sealed[0].contains(packet[20...]), "the payload is on the wire in the clear")
            let opened = ends.open(sealed[0])
            try #require(opened.count == 1, "size \(size)")
            #expect(opened[0] == aged(packet, hops: 2))
        }
        #expect(ends.pair.near.counters.packetsOut == ends.pair.far.counters.packetsIn)
    }

    @Test("the frame says IPv6 and goes to the next hop's link-layer address")
    func linkLayer() throws {
        let ends = try TwoEnds(ipv6: true)
        ends.near.feed(inner(64), port: MemoryRig.protectedPort, worker: 0)
        _ = ends.nearWorker.runOnce()
        let ready = ends.near.queues[MemoryRig.underlayPort][0].transmit.ready(1)
        try #require(ready == 1)
        let place = ends.near.queues[MemoryRig.underlayPort][0].transmit.descriptor(ahead: 0)
        let frame = [UInt8](UnsafeRawBufferPointer(start: ends.near.umem + Int(place.address), count: 14))
        #expect(frame == MemoryRig.remoteMAC + MemoryRig.localMAC + [0x86, 0xDD])
    }

    @Test("every UDP datagram has a right checksum, which is never zero")
    func udpChecksum() throws {
        let ends = try TwoEnds(udp: true, ipv6: true)
        for size in 28..<300 {
            let sealed = ends.seal(inner(size))[0]
            let datagram = Array(sealed[40...])
            #expect(Array(datagram[0..<4]) == [0x11, 0x94, 0x11, 0x94])
            #expect(Int(datagram[4]) << 8 | Int(datagram[5]) == datagram.count)
            #expect(datagram[6] != 0 || datagram[7] != 0)
            let pseudo = Checksum.pseudoHeaderIPv6(
                source: IPv6Address("2001:db8::1")!, destination: IPv6Address("2001:db8::2")!, nextHeader: 17,
                length: UInt32(datagram.count))
            let sum = Checksum.fold(Checksum.sum(datagram.span, initial: pseudo))
            #expect(sum == 0xFFFF, "size \(size)")
        }
    }

    @Test("a datagram without a checksum is taken as well: the ICV is what counts")
    func zeroChecksum() throws {
        let ends = try TwoEnds(udp: true, ipv6: true)
        var sealed = ends.seal(inner(100))[0]
        (sealed[46], sealed[47]) = (0, 0)
        #expect(ends.open(sealed).count == 1)
    }

    @Test("DSCP and ECN cross the tunnel by RFC 6040, in the traffic class", arguments: 0..<4, 0..<4)
    func congestion(_ innerECN: Int, _ outerECN: Int) throws {
        let ends = try TwoEnds(ipv6: true)
        let packet = inner(80, tos: 0xB8 | UInt8(innerECN))
        var sealed = ends.seal(packet)[0]
        #expect(try #require(outer(sealed)).trafficClass == 0xB8 | UInt8(innerECN))
        // The low four bits of the traffic class are the high ones of the second octet.
        sealed[1] = sealed[1] & 0x0F | (8 | UInt8(outerECN)) << 4
        let table: [[UInt8?]] = [[0, 0, 0, nil], [1, 1, 1, 3], [2, 1, 2, 3], [3, 3, 3, 3]]
        let opened = ends.open(sealed)
        if let expected = table[innerECN][outerECN] {
            #expect(opened == [aged(packet, hops: 2, tos: 0xB8 | expected)])
        } else {
            #expect(opened.isEmpty)
            #expect(ends.far.drops(.ecnIncompatible) == 1)
        }
    }

    @Test("all packets of an SA have one flow label")
    func flowLabel() throws {
        let ends = try TwoEnds(ipv6: true)
        let labels = try (0..<20).map { try #require(outer(ends.seal(inner(60 + $0))[0])).flowLabel }
        #expect(Set(labels).count == 1 && labels[0] != 0)
    }

    @Test("what does not fit is answered with the MTU that does, twenty octets less than over IPv4", arguments: [false, true])
    func fragmentationNeeded(_ udp: Bool) throws {
        let ends = try TwoEnds(udp: udp, ipv6: true)
        #expect(ends.seal(inner(1450, fragmentField: IPv4.dontFragment)).isEmpty)
        let back = ends.backToSender()
        try #require(back.count == 1)
        let mtu = Int(back[0][26]) << 8 | Int(back[0][27])
        #expect(mtu == (udp ? 1418 : 1426))
        #expect(ends.seal(inner(mtu, fragmentField: IPv4.dontFragment)).count == 1)
        let pieces = ends.seal(inner(1500)).flatMap { ends.open($0) }
        #expect(pieces.count == 2, "without DF it is fragmented inside the tunnel")
    }

    @Test("one flipped bit anywhere behind the addresses is refused, and the untouched packet still welcome")
    func tampering() throws {
        let ends = try TwoEnds(ipv6: true)
        let sealed = ends.seal(inner(100))[0]
        for index in 40..<sealed.count where index < 44 || index % 7 == 0 {
            var bad = sealed
            bad[index] ^= 0x10
            #expect(ends.open(bad).isEmpty, "octet \(index)")
        }
        #expect(ends.far.drops(.authenticationFailed) > 0 && ends.far.drops(.unknownSPI) > 0)
        #expect(ends.open(sealed).count == 1)
    }

    @Test("lengths and headers that lie never reach past the frame and lose no frame", arguments: [false, true])
    func hostile(_ udp: Bool) throws {
        let ends = try TwoEnds(udp: udp, ipv6: true)
        let sealed = ends.seal(inner(64))[0]
        for kept in 0..<sealed.count { #expect(ends.open(Array(sealed.prefix(kept))).isEmpty, "\(kept) octets") }
        for length in [0, 1, 7, 15, 33, sealed.count - 39, 0xFFFF] {
            var lying = sealed
            (lying[4], lying[5]) = (UInt8(length >> 8), UInt8(truncatingIfNeeded: length))
            #expect(ends.open(lying).isEmpty, "payload length \(length)")
        }
        for next in UInt8.min ... .max where next != sealed[6] {
            var other = sealed
            other[6] = next
            #expect(ends.open(other).isEmpty, "next header \(next)")
        }
        var version = sealed
        version[0] = 0x50
        #expect(ends.open(version).isEmpty)
        #expect(ends.open(sealed).count == 1)
        let held = (0..<ends.farWorker.queueCount).reduce(ends.farWorker.poolCount) {
            $0 + Int(ends.farWorker.queues[$1].filled)
        }
        _ = ends.farWorker.runOnce()
        #expect(held >= 510, "frames: \(held)")
    }

    @Test("IPv6 on the protected side is not carried, and counted")
    func protectedSide() throws {
        let ends = try TwoEnds(ipv6: true)
        let packet = ends.seal(inner(64))[0]
        ends.near.feed(packet, port: MemoryRig.protectedPort, worker: 0)
        _ = ends.nearWorker.runOnce()
        #expect(ends.near.drops(.malformed) == 1)
    }

    @Test("packets wait for the peer's next hop and leave in order; beyond 16 they are counted")
    func holding() throws {
        let router = IPv6Address("fe80::99")!
        let unresolved = ForwardingPlan.Peer(
            address: IPv6Address("2001:db8::2")!, nextHop: router, portIndex: MemoryRig.underlayPort)
        let ends = try TwoEnds(ipv6: true, nearPlan: { $0.peers = [unresolved] })
        for index in 0..<18 { #expect(ends.seal(inner(100 + index)).isEmpty) }
        #expect(ends.near.drops(.noNeighbour) == 2)
        var answers = ends.near.threads[0].answers
        var asked: [IPAddress] = []
        while let slot = answers.next() {
            let told = slot.load(as: WorkerAnswer.self)
            if told.kind == WorkerAnswer.Kind.unresolved.rawValue, told.first == UInt32(MemoryRig.underlayPort) {
                asked.append(told.address)
            }
            answers.release()
        }
        #expect(asked == [.v6(router)], "the router is what must be found, not the peer")
        let tables = ends.publish(MemoryRig.plan())
        let released = ends.near.takeSent(port: MemoryRig.underlayPort, worker: 0)
        #expect(released.map(\.count) == (100..<116).map { ESPLayout.totalBytes(payloadBytes: $0, udp: false, ipv6: true) })
        #expect(released.flatMap { ends.open($0) }.count == 16)
        withExtendedLifetime(tables) {}
    }

    @Test("without a route to the peer packets are counted as that")
    func noRoute() throws {
        let ends = try TwoEnds(ipv6: true, nearPlan: { $0.peers = [] })
        #expect(ends.seal(inner(64)).isEmpty)
        #expect(ends.near.drops(.noRoute) == 1)
        let foreign = ForwardingPlan.Peer(
            address: IPv6Address("2001:db8::2")!, nextHop: IPv6Address("2001:db8::2")!, portIndex: nil)
        let other = try TwoEnds(ipv6: true, nearPlan: { $0.peers = [foreign] })
        #expect(other.seal(inner(64)).isEmpty)
        #expect(other.near.drops(.noRoute) == 1)
    }

    @Test("an SA moves from IPv4 to IPv6, to UDP and back, and no sequence number is used twice")
    func moving() throws {
        let ends = try TwoEnds()
        var numbers: [UInt32] = []
        func cross(ipv6: Bool, udp: Bool) throws {
            let path = MemoryRig.path(udp: udp, ipv6: ipv6)
            ends.move(to: path)
            let largest = ESPLayout.largestPayload(mtu: 1500, udp: udp, ipv6: ipv6)
            for size in [28, 100, largest] {
                let packet = inner(size, fragmentField: IPv4.dontFragment)
                let sealed = ends.seal(packet)
                try #require(sealed.count == 1, "\(path), \(size)")
                let esp = (ipv6 ? 40 : 20) + (udp ? 8 : 0)
                #expect(sealed[0][0] >> 4 == (ipv6 ? 6 : 4))
                numbers.append(sealed[0][(esp + 4)..<(esp + 8)].reduce(0) { $0 << 8 | UInt32($1) })
                #expect(ends.open(sealed[0]) == [aged(packet, hops: 2)])
            }
            #expect(ends.seal(inner(largest + 1, fragmentField: IPv4.dontFragment)).isEmpty)
        }
        for (ipv6, udp) in [(true, false), (true, true), (false, true), (true, true), (false, false)] {
            try cross(ipv6: ipv6, udp: udp)
        }
        #expect(numbers == Array(1...15))
    }

    @Test("where an authenticated datagram came from is told once, whichever family it came by")
    func pathObserved() throws {
        let ends = try TwoEnds(udp: true, ipv6: true)
        func told() -> [(IPAddress, UInt16)] {
            var result: [(IPAddress, UInt16)] = []
            while let slot = ends.far.threads[0].answers.next() {
                let answer = slot.load(as: WorkerAnswer.self)
                if answer.kind == WorkerAnswer.Kind.pathObserved.rawValue { result.append((answer.address, answer.port)) }
                ends.far.threads[0].answers.release()
            }
            return result
        }
        func deliver(_ change: (inout [UInt8]) -> Void) throws {
            var sealed = ends.seal(inner(64))[0]
            change(&sealed)
            #expect(ends.open(sealed).count == 1)
        }
        try deliver { _ in }
        #expect(told().isEmpty, "the endpoint that was negotiated")
        for _ in 0..<3 { try deliver { $0[23] = 0x77 } }
        var seen = told()
        #expect(seen.count == 1 && seen[0].0 == IPAddress("2001:db8::77") && seen[0].1 == 4500)
        try deliver { ($0[23], $0[40], $0[41]) = (0x77, 0x20, 0x00) }
        seen = told()
        #expect(seen.count == 1 && seen[0].0 == IPAddress("2001:db8::77") && seen[0].1 == 0x2000)
        // By IPv4, and back.
        try deliver { packet in
            let datagram = Array(packet[40...])
            packet =
                IPv4Header.bytes(
                    source: IPv4Address("192.0.2.50")!, destination: IPv4Address("192.0.2.2")!, protocolNumber: 17,
                    payloadBytes: datagram.count) + datagram
        }
        seen = told()
        #expect(seen.count == 1 && seen[0].0 == IPAddress("192.0.2.50") && seen[0].1 == 4500)
        try deliver { ($0[23], $0[40], $0[41]) = (0x77, 0x20, 0x00) }
        #expect(told().map(\.0) == [IPAddress("2001:db8::77")!])
        // Forged: authenticated or nothing.
        var forged = ends.seal(inner(64))[0]
        forged[23] = 0x66
        forged[60] ^= 1
        #expect(ends.open(forged).isEmpty)
        #expect(told().isEmpty)
    }
}

extension TwoEnds {
    /// New endpoints for the near end's SA, as control has them installed.
    func move(to path: TunnelPath) {
        for (rig, pair, path) in [(near, self.pair.near, path), (far, self.pair.far, path.reversed)] {
            var change = PathChange(outbound: pair.outbound, inbound: pair.inbound, path: path, mtu: 1500)
            withUnsafeMutablePointer(to: &change) {
                rig.command(.movePath, to: 0, pointer: UnsafeMutableRawPointer($0))
                _ = rig === near ? nearWorker.runOnce() : farWorker.runOnce()
            }
        }
    }

    /// Gives the near worker new tables, which the caller keeps.
    func publish(_ plan: ForwardingPlan) -> Tables {
        let m = MemoryRig.localMAC
        let port = TablesView.Port(mac: (m[0], m[1], m[2], m[3], m[4], m[5]), attached: true, mtuBytes: 1500, address: 0)
        let tables = Tables(plan, ports: [port, port], generation: 2)
        var view = tables.view
        withUnsafeMutablePointer(to: &view) {
            near.command(.publish, to: 0, pointer: UnsafeMutableRawPointer($0))
            _ = nearWorker.runOnce()
        }
        return tables
    }
}
