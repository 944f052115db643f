import IPsec
import Testing
import Wire

@testable import Dataplane

/// Policy is judged where packets leave, too: `ForwardingPlan.Clear`.
@Suite struct ExitTests {
    private static let remote = IPPrefix("10.2.0.0/16")!

    /// Decrypted packets for 10.2.0.0/16 find the underlay's default route, and what it lets out in the clear.
    private func ends(_ clear: ForwardingPlan.Clear) throws -> TwoEnds {
        try TwoEnds(farPlan: { plan in
            plan.routes.removeAll { $0.prefix == Self.remote }
            plan.routes.append(
                .init(
                    prefix: Self.remote, gateway: IPAddress("192.0.2.2"), portIndex: MemoryRig.underlayPort, clear: clear))
        })
    }

    private func punted(_ rig: MemoryRig) -> [UInt8]? {
        var punts = rig.threads[0].punts
        guard let slot = punts.next() else { return nil }
        return [UInt8](UnsafeRawBufferPointer(start: slot + 8, count: Int(slot.load(as: UInt64.self))))
    }

    @Test("a decrypted packet that would leave by the underlay is dropped and counted")
    func refused() throws {
        let ends = try ends(.refused)
        for ttl: UInt8 in [64, 2] { #expect(ends.open(ends.seal(inner(100, ttl: ttl))[0]).isEmpty) }
        #expect(ends.far.takeSent(port: MemoryRig.underlayPort, worker: 0).isEmpty)
        #expect(ends.far.drops(.clearOutbound) == 1 && ends.far.drops(.ttlExpired) == 1)
        #expect(punted(ends.far) == nil)
    }

    @Test("one that is everybody's on a hub goes to the kernel, untouched")
    func byKernel() throws {
        let ends = try ends(.byKernel)
        let packet = inner(100)
        #expect(ends.open(ends.seal(packet)[0]).isEmpty)
        #expect(ends.far.takeSent(port: MemoryRig.underlayPort, worker: 0).isEmpty)
        #expect(punted(ends.far) == aged(packet, hops: 1))
        #expect(ends.far.drops(.clearOutbound) == 0)
    }

    @Test("ESP goes out by the same route", arguments: [ForwardingPlan.Clear.refused, .byKernel])
    func protected(_ clear: ForwardingPlan.Clear) throws {
        let ends = try TwoEnds(nearPlan: { plan in
            for index in plan.routes.indices where plan.routes[index].portIndex == MemoryRig.underlayPort {
                plan.routes[index].clear = clear
            }
        })
        #expect(ends.seal(inner(100)).count == 1)
    }

    @Test("packets that wait for a neighbour are judged again when they leave")
    func held() throws {
        let ends = try TwoEnds(farPlan: { $0.neighbours.removeAll { $0.address == IPAddress("10.1.0.2") } })
        #expect(ends.open(ends.seal(inner(100))[0]).isEmpty)
        var plan = MemoryRig.plan()
        plan.routes.append(
            .init(prefix: Self.remote, gateway: IPAddress("192.0.2.2"), portIndex: MemoryRig.underlayPort, clear: .refused))
        publish(plan, ends)
        #expect(ends.far.takeSent(port: MemoryRig.protectedPort, worker: 0).isEmpty)
        #expect(ends.far.takeSent(port: MemoryRig.underlayPort, worker: 0).isEmpty)
        #expect(ends.far.drops(.clearOutbound) == 1)
    }

    private func publish(_ plan: ForwardingPlan, _ ends: TwoEnds) {
        let mac = MemoryRig.localMAC
        let port = TablesView.Port(
            mac: (mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]), attached: true, mtuBytes: 1500, address: 0)
        let tables = Tables(plan, ports: [port, port], generation: 2)
        var view = tables.view
        withUnsafeMutablePointer(to: &view) {
            ends.far.command(.publish, to: 0, pointer: UnsafeMutableRawPointer($0))
            _ = ends.farWorker.runOnce()
        }
        withExtendedLifetime(tables) {}
    }

    @Test(
        "an ICMP error quotes no packet to where the packet itself could not go",
        arguments: [ForwardingPlan.Clear.refused, .byKernel])
    func quotes(_ clear: ForwardingPlan.Clear) throws {
        let ends = try TwoEnds(nearPlan: { plan in
            for index in plan.routes.indices where plan.routes[index].portIndex == MemoryRig.protectedPort {
                plan.routes[index] = .init(
                    prefix: plan.routes[index].prefix, gateway: IPAddress("192.0.2.2"), portIndex: MemoryRig.underlayPort,
                    clear: clear)
            }
        })
        #expect(ends.seal(inner(100, ttl: 1)).isEmpty)
        #expect(ends.backToSender().isEmpty)
        #expect(ends.near.drops(.ttlExpired) == 1 && ends.near.drops(.clearOutbound) == 0)
        #expect((punted(ends.near) != nil) == (clear == .byKernel))
    }

    @Test("a port without an address sends no ICMP error from a loopback address")
    func loopback() throws {
        let nameless = { (plan: inout ForwardingPlan) in
            plan.portAddresses = []
            plan.localAddresses = [IPv4Address("127.0.0.1")!]
        }
        let none = try TwoEnds(nearPlan: nameless)
        #expect(none.seal(inner(100, ttl: 1)).isEmpty)
        #expect(none.backToSender().isEmpty)
        let other = try TwoEnds(nearPlan: {
            nameless(&$0)
            $0.localAddresses.append(IPv4Address("192.0.2.1")!)
        })
        #expect(other.seal(inner(100, ttl: 1)).isEmpty)
        let back = other.backToSender()
        #expect(back.count == 1 && Array(back[0][12..<16]) == [192, 0, 2, 1])
    }
}

/// Discard policies with ports: what a packet does not tell is taken for what they are for.
@Suite struct PortPolicyTests {
    private func verdict(_ protocolNumber: UInt8, _ packet: [UInt8]) throws -> Bool {
        let ends = try TwoEnds(nearPlan: { plan in
            let everywhere = IPPrefix("0.0.0.0/0")!
            for port: ClosedRange<UInt16> in [1...1023, 7000...7999] {
                plan.rules.insert(
                    .init(
                        source: TrafficSelector(everywhere),
                        destination: TrafficSelector(IPPrefix("10.2.0.0/16")!, ipProtocol: protocolNumber, ports: port),
                        action: .discard),
                    at: 0)
            }
        })
        let sent = ends.seal(packet)
        #expect(ends.near.drops(.policyDiscard) == (sent.isEmpty ? 1 : 0))
        return !sent.isEmpty
    }

    private func packet(_ protocolNumber: UInt8, to port: UInt16, fragment: UInt16 = 0) -> [UInt8] {
        let ports: [UInt8] = [0x9C, 0x40, UInt8(port >> 8), UInt8(truncatingIfNeeded: port)]
        let payload = ports + [UInt8](repeating: 0, count: 28)
        return inner(0, protocolNumber: protocolNumber, fragmentField: fragment, payload: payload)
    }

    @Test("TCP, UDP, DCCP, SCTP and UDP-Lite are told apart by their ports", arguments: [6, 17, 33, 132, 136] as [UInt8])
    func protocols(_ number: UInt8) throws {
        #expect(try !verdict(number, packet(number, to: 53)))
        #expect(try !verdict(number, packet(number, to: 7500)))
        #expect(try verdict(number, packet(number, to: 2000)))
        #expect(try verdict(number, packet(number == 17 ? 6 : 17, to: 53)), "another protocol's")
    }

    @Test("later fragments and what is too short for ports are discarded", arguments: [17, 132] as [UInt8])
    func unknown(_ number: UInt8) throws {
        #expect(try !verdict(number, packet(number, to: 2000, fragment: 4)))
        #expect(try !verdict(number, inner(22, protocolNumber: number)))
        #expect(try verdict(number, packet(1, to: 53)), "ICMP is no protocol of the policy's")
    }
}
