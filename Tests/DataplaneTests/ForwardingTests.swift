import Crypto
import IPsec
import Testing
import Wire

@testable import Dataplane

@Suite struct ForwardingTests {
    /// RFC 6040: DSCP and ECN are copied out; on the way in the outer mark counts as figure 4 says.
    @Test("DSCP and ECN cross the tunnel by RFC 6040", arguments: 0..<4, 0..<4)
    func congestion(_ innerECN: Int, _ outerECN: Int) throws {
        let ends = try TwoEnds()
        let packet = inner(80, tos: 0xB8 | UInt8(innerECN))
        var sealed = ends.seal(packet)[0]
        #expect(sealed[1] == 0xB8 | UInt8(innerECN))
        sealed[1] = 0xB8 | UInt8(outerECN)
        // Rows inner, columns outer; nil is a drop.
        let table: [[UInt8?]] = [[0, 0, 0, nil], [1, 1, 1, 3], [2, 1, 2, 3], [3, 3, 3, 3]]
        let opened = ends.open(sealed)
        if let expected = table[innerECN][outerECN] {
            #expect(opened == [aged(packet, hops: 2, tos: 0xB8 | expected)])
        } else {
            #expect(opened.isEmpty)
            #expect(ends.far.drops(.ecnIncompatible) == 1)
        }
    }

    @Test("what does not fit and may not be fragmented is answered with the MTU that fits", arguments: [false, true])
    func fragmentationNeeded(_ udp: Bool) throws {
        let ends = try TwoEnds(udp: udp)
        let packet = inner(1480, fragmentField: IPv4.dontFragment)
        #expect(ends.seal(packet).isEmpty)
        let back = ends.backToSender()
        try #require(back.count == 1)
        #expect(back[0][9] == IPv4.protocolICMP)
        #expect(Array(back[0][16..<20]) == [10, 1, 0, 2])
        #expect(back[0][20] == 3 && back[0][21] == 4)
        let mtu = Int(back[0][26]) << 8 | Int(back[0][27])
        #expect(mtu == (udp ? 1438 : 1446))
        #expect(headerChecksumResidue(back[0]) == 0)
        #expect(Checksum.fold(Checksum.sum(Array(back[0][20...]).span)) == 0xFFFF)
        #expect(ends.near.drops(.tooBig) == 1)
        // The MTU told is one that works.
        #expect(ends.seal(inner(mtu, fragmentField: IPv4.dontFragment)).count == 1)
        #expect(ends.seal(inner(mtu + 1, fragmentField: IPv4.dontFragment)).isEmpty)
    }

    @Test("what does not fit is fragmented inside the tunnel when it may be")
    func fragmentation() throws {
        let ends = try TwoEnds()
        let packet = inner(1500)
        let pieces = ends.seal(packet).flatMap { ends.open($0) }
        try #require(pieces.count == 2)
        var payload: [UInt8] = []
        for piece in pieces {
            #expect(headerChecksumResidue(piece) == 0)
            #expect(piece[8] == 62)
            #expect(Int(UInt16(piece[6] & 0x1F) << 8 | UInt16(piece[7])) * 8 == payload.count)
            payload += piece[20...]
        }
        #expect(pieces[0][6] & 0x20 != 0 && pieces[1][6] & 0x20 == 0)
        #expect(payload == Array(packet[20...]))
    }

    @Test("a packet whose TTL runs out is answered with time exceeded")
    func timeExceeded() throws {
        let ends = try TwoEnds()
        #expect(ends.seal(inner(64, ttl: 1)).isEmpty)
        let back = ends.backToSender()
        try #require(back.count == 1)
        #expect(back[0][20] == 11)
        #expect(Array(back[0][12..<16]) == [10, 1, 0, 1])
        #expect(ends.near.drops(.ttlExpired) == 1)
        // One more, and it dies at the far end.
        #expect(ends.open(ends.seal(inner(64, ttl: 2))[0]).isEmpty)
        #expect(ends.far.drops(.ttlExpired) == 1)
    }

    @Test("the MSS of a SYN is lowered so that full segments fit", arguments: [false, true])
    func maximumSegmentSize(_ udp: Bool) throws {
        let ends = try TwoEnds(udp: udp)
        var segment: [UInt8] = [0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x60, 0x02, 0xFF, 0xFF, 0, 0, 0, 0, 2, 4, 0x05, 0xB4]
        let pseudo: [UInt8] = [10, 1, 0, 2, 10, 2, 0, 2, 0, 6, 0, 24]
        let checksum = ~Checksum.fold(Checksum.sum((pseudo + segment).span))
        segment[16] = UInt8(checksum >> 8)
        segment[17] = UInt8(truncatingIfNeeded: checksum)
        let opened = ends.open(ends.seal(inner(0, protocolNumber: 6, payload: segment))[0])
        try #require(opened.count == 1)
        let mss = Int(opened[0][42]) << 8 | Int(opened[0][43])
        #expect(mss == (udp ? 1438 : 1446) - 40)
        #expect(Checksum.fold(Checksum.sum((pseudo + Array(opened[0][20...])).span)) == 0xFFFF)
    }

    @Test("packets wait for their next hop's address and leave in order; beyond 16 they are counted")
    func holding() throws {
        let ends = try TwoEnds(farPlan: { $0.neighbours.removeAll { $0.address == IPAddress("10.1.0.2") } })
        for index in 0..<18 { #expect(ends.open(ends.seal(inner(100 + index))[0]).isEmpty) }
        #expect(ends.far.drops(.noNeighbour) == 2)
        var plan = MemoryRig.plan()
        plan.routes.append(
            .init(prefix: IPPrefix("10.2.0.0/16")!, gateway: IPAddress("10.1.0.2"), portIndex: MemoryRig.protectedPort))
        let mac = MemoryRig.localMAC
        let port = TablesView.Port(
            mac: (mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]), attached: true, mtuBytes: 1500, address: 0)
        let tables = Tables(plan, ports: [port, port], generation: 2)
        var view = tables.view
        withUnsafeMutablePointer(to: &view) {
            ends.far.command(.publish, to: 0, pointer: UnsafeMutableRawPointer($0))
            _ = ends.farWorker.runOnce()
        }
        let released = ends.far.takeSent(port: MemoryRig.protectedPort, worker: 0)
        #expect(released.map(\.count) == Array(100..<116))
        withExtendedLifetime(tables) {}
    }

    @Test("a packet for the gateway itself goes to control")
    func forTheGateway() throws {
        let ends = try TwoEnds(farPlan: { $0.localAddresses.append(IPv4Address("10.2.0.1")!) })
        let packet = inner(90, destination: "10.2.0.1")
        #expect(ends.open(ends.seal(packet)[0]).isEmpty)
        var punts = ends.far.threads[0].punts
        let told = punts.next()
        let slot = try #require(told)
        let length = Int(slot.load(as: UInt64.self))
        #expect([UInt8](UnsafeRawBufferPointer(start: slot + 8, count: length)) == aged(packet, hops: 1))
    }

    @Test("no frame is lost, whatever happens to the packets")
    func frames() throws {
        let ends = try TwoEnds()
        let before = (ends.nearWorker.poolCount, ends.farWorker.poolCount)
        for index in 0..<2000 {
            for sealed in ends.seal(inner(40 + index % 1400, ttl: index % 9 == 0 ? 1 : 64)) {
                _ = ends.open(sealed)
                if index % 5 == 0 { _ = ends.open(sealed) }
            }
            _ = ends.backToSender()
        }
        for _ in 0..<4 {
            _ = ends.nearWorker.runOnce()
            _ = ends.farWorker.runOnce()
        }
        let held = { (worker: borrowing Worker) in
            (0..<worker.queueCount).reduce(worker.poolCount) { $0 + Int(worker.queues[$1].filled) }
        }
        #expect(held(ends.nearWorker) == 512 && held(ends.farWorker) == 512)
        #expect(before.0 > 0)
    }

    @Test("a port that goes gives back every frame, those the kernel had too, and once only")
    func detaching() throws {
        let ends = try TwoEnds()
        for index in 0..<10 { ends.near.feed(inner(60 + index), port: MemoryRig.protectedPort, worker: 0) }
        ends.near.command(.detachPort, to: 0, first: UInt64(MemoryRig.protectedPort))
        _ = ends.nearWorker.runOnce()
        #expect(ends.nearWorker.queueCount == 1)
        #expect(ends.near.drops(.portDown) == 10, "received and never looked at")
        let owner = UInt64(FrameOwner.firstPort) + UInt64(MemoryRig.protectedPort)
        for _ in 0..<2 {
            ends.near.command(.recoverFrames, to: 0, first: owner)
            _ = ends.nearWorker.runOnce()
            #expect(ends.nearWorker.poolCount + Int(ends.nearWorker.queues[0].filled) == 512)
        }
        ends.nearWorker.release(ends.nearWorker.pool[0])
        #expect(ends.nearWorker.poolCount + Int(ends.nearWorker.queues[0].filled) == 512, "a frame that is home stays one")
    }

    /// RFC 8950, as BGP unnumbered has it: an IPv4 packet, an IPv6 next hop's link-layer address.
    @Test("an IPv4 route by an IPv6 next hop waits for that neighbour, then leaves to it as IPv4")
    func nextHopOfAnotherFamily() throws {
        let router = IPAddress("fe80::77")!
        let change = { (plan: inout ForwardingPlan) in
            plan.routes.removeAll { $0.prefix == IPPrefix("10.2.0.0/16") }
            plan.routes.append(.init(prefix: IPPrefix("10.2.0.0/16")!, gateway: router, portIndex: MemoryRig.protectedPort))
        }
        let ends = try TwoEnds(farPlan: change)
        for index in 0..<3 { #expect(ends.open(ends.seal(inner(100 + index))[0]).isEmpty) }
        var answers = ends.far.threads[0].answers
        var asked: [IPAddress] = []
        while let slot = answers.next() {
            let told = slot.load(as: WorkerAnswer.self)
            if told.kind == WorkerAnswer.Kind.unresolved.rawValue { asked.append(told.address) }
            answers.release()
        }
        #expect(asked == [router])
        var plan = MemoryRig.plan()
        change(&plan)
        let mac: [UInt8] = [2, 0, 0, 0, 0, 0x77]
        plan.neighbours.append(.init(address: router, portIndex: MemoryRig.protectedPort, mac: mac))
        let m = MemoryRig.localMAC
        let port = TablesView.Port(mac: (m[0], m[1], m[2], m[3], m[4], m[5]), attached: true, mtuBytes: 1500, address: 0)
        let tables = Tables(plan, ports: [port, port], generation: 2)
        var view = tables.view
        withUnsafeMutablePointer(to: &view) {
            ends.far.command(.publish, to: 0, pointer: UnsafeMutableRawPointer($0))
            _ = ends.farWorker.runOnce()
        }
        #expect(ends.far.takeSent(port: MemoryRig.protectedPort, worker: 0).map(\.count) == [100, 101, 102])
        let hop = ends.farWorker.hop(IPv4Address("10.2.7.2")!.bits).pointee
        let header = withUnsafeBytes(of: hop.headerFirst) { Array($0) }
        #expect(hop.kind == .forward && Array(header[0..<6]) == mac)
        #expect(withUnsafeBytes(of: hop.headerLast) { Array($0.suffix(2)) } == [8, 0])
        withExtendedLifetime(tables) {}
    }

    @Test("a longest prefix wins, and a gateway's address is looked up instead of the destination's")
    func routes() {
        let plan = ForwardingPlan(routes: [
            .init(prefix: IPPrefix("0.0.0.0/0")!, gateway: IPAddress("192.0.2.9"), portIndex: 1),
            .init(prefix: IPPrefix("10.0.0.0/8")!, gateway: nil, portIndex: 2),
            .init(prefix: IPPrefix("10.1.0.0/16")!, gateway: nil, portIndex: 3),
            .init(prefix: IPPrefix("10.1.2.3/32")!, gateway: nil, portIndex: nil),
        ])
        let tables = Tables(plan, ports: [], generation: 1)
        let port = { (text: String) in tables.view.route(to: IPv4Address(text)!.bits)?.portIndex }
        #expect(
            port("8.8.8.8") == 1 && port("10.9.9.9") == 2 && port("10.1.2.4") == 3 && port("10.1.2.3") == TablesView.kernelPort)
        withExtendedLifetime(tables) {}
        let empty = Tables(ForwardingPlan(), ports: [], generation: 1)
        #expect(empty.view.route(to: 1) == nil)
        withExtendedLifetime(empty) {}
    }
}

@Suite struct HeldPacketTests {
    @Test("packets that wait for a tunnel leave by the SA that new rules give them")
    func judgedAgain() throws {
        let ends = try TwoEnds(nearPlan: { plan in
            plan.rules = [
                .init(
                    source: TrafficSelector(IPPrefix("10.1.0.0/16")!), destination: TrafficSelector(IPPrefix("10.0.0.0/8")!),
                    action: .protect(childIndex: 7))
            ]
        })
        ends.near.command(.setHolding, to: 0, first: 7, second: 1)
        _ = ends.nearWorker.runOnce()
        #expect(ends.seal(inner(100)).isEmpty && ends.seal(inner(101, destination: "10.3.0.2")).isEmpty)
        // The peer agreed to a part: child 0 has rules of its own now.
        let port = TablesView.Port(mac: (2, 0, 0, 0, 0, 1), attached: true, mtuBytes: 1500, address: 0)
        var plan = MemoryRig.plan()
        plan.rules.append(
            .init(
                source: TrafficSelector(IPPrefix("10.1.0.0/16")!), destination: TrafficSelector(IPPrefix("10.0.0.0/8")!),
                action: .protect(childIndex: 7)))
        let tables = Tables(plan, ports: [port, port], generation: 2)
        var view = tables.view
        withUnsafeMutablePointer(to: &view) {
            ends.near.command(.publish, to: 0, pointer: UnsafeMutableRawPointer($0))
            _ = ends.nearWorker.runOnce()
        }
        let sent = ends.near.takeSent(port: MemoryRig.underlayPort, worker: 0)
        #expect(sent.flatMap { ends.open($0) } == [aged(inner(100), hops: 2)])
        #expect(ends.nearWorker.tunnelHoldsInUse == 1, "the other goes on waiting")
        #expect(DropReason.allCases.reduce(0) { $0 + ends.near.drops($1) } == 0)
        withExtendedLifetime(tables) {}
    }

    @Test("what a port's transmit ring still holds when it goes is counted")
    func inTheRing() throws {
        let ends = try TwoEnds()
        for index in 0..<5 { ends.near.feed(inner(60 + index), port: MemoryRig.protectedPort, worker: 0) }
        _ = ends.nearWorker.runOnce()
        ends.near.command(.detachPort, to: 0, first: UInt64(MemoryRig.underlayPort))
        _ = ends.nearWorker.runOnce()
        #expect(ends.near.drops(.portDown) == 5)
    }

    @Test("a port that refuses to transmit takes nothing more, and what comes is counted")
    func downPort() throws {
        let ends = try TwoEnds()
        ends.farWorker.queues[ends.farWorker.queueOfPort[MemoryRig.protectedPort]].broken = true
        for index in 0..<5 { #expect(ends.open(ends.seal(inner(60 + index))[0]).isEmpty) }
        #expect(ends.far.drops(.portDown) == 5)
        #expect(ends.isAtHome)
    }
}

@Suite struct NeighbourTests {
    /// 10.2.0.0/16 is on link.
    private static func wide(_ plan: inout ForwardingPlan) {
        plan.routes.removeAll { $0.prefix == IPPrefix("10.2.0.0/16") }
        plan.routes.append(.init(prefix: IPPrefix("10.2.0.0/16")!, gateway: nil, portIndex: MemoryRig.protectedPort))
    }

    @Test("one that looks for hosts that are not there does not take the place of others' packets")
    func scan() throws {
        let ends = try TwoEnds(farPlan: Self.wide)
        for host in 0..<200 { _ = ends.open(ends.seal(inner(60, source: "10.1.0.66", destination: "10.2.1.\(host + 1)"))[0]) }
        #expect(ends.farWorker.holdsInUse == Hold.perSource)
        let before = ends.far.drops(.noNeighbour)
        #expect(before == 200 - UInt64(Hold.perSource))
        for host in 0..<20 { _ = ends.open(ends.seal(inner(60, source: "10.1.0.9", destination: "10.2.2.\(host + 1)"))[0]) }
        #expect(ends.far.drops(.noNeighbour) == before, "twenty new hosts of somebody else all wait")
        #expect(ends.farWorker.heldPackets <= 512 / 8)
    }

    @Test(
        "a directed broadcast is not forwarded, even when the neighbour table knows its address",
        arguments: ["10.2.255.255", "10.2.0.0"])
    func broadcasts(_ destination: String) throws {
        let ends = try TwoEnds(farPlan: { plan in
            Self.wide(&plan)
            for address in [destination, "10.2.0.2"] {
                plan.neighbours.append(
                    .init(
                        address: .v4(IPv4Address(address)!), portIndex: MemoryRig.protectedPort,
                        mac: [UInt8](repeating: 0xFF, count: 6)))
            }
        })
        #expect(ends.open(ends.seal(inner(60, destination: destination))[0]).isEmpty)
        #expect(ends.far.drops(.directedBroadcast) == 1)
        #expect(ends.open(ends.seal(inner(60))[0]).count == 1)
    }
}
