@testable import Gateway
import Dataplane
import IKE
import IPsec
import Testing
import Wire

@Suite("SA lifecycle: make before break, drain, counters")
struct SALifecycleTests {
    let dataplane = FakeDataplane()
    let key = ChildKey("west", "net")

    private func established() -> SALifecycle {
        let lifecycle = SALifecycle(dataplane: dataplane)
        #expect(lifecycle.install(childSA(0x100, 0x200), childIndex: 0, token: 1) == nil)
        #expect(lifecycle.inboundReady(token: 1, now: at(0)) == 0x100)
        lifecycle.use(inboundSPI: 0x100, peerReceives: false)
        return lifecycle
    }

    @Test func `a first SA is used as soon as the core has been told that it receives`() {
        let lifecycle = SALifecycle(dataplane: dataplane)
        #expect(lifecycle.install(childSA(0x100, 0x200), childIndex: 7, token: 1) == nil)
        #expect(dataplane.takeCalls() == [.install(0x100, childIndex: 7, token: 1)])
        #expect(!lifecycle.isActive(key))
        #expect(lifecycle.inboundReady(token: 1, now: at(0)) == 0x100)
        #expect(dataplane.takeCalls().isEmpty)
        lifecycle.use(inboundSPI: 0x100, peerReceives: false)
        #expect(dataplane.takeCalls() == [.switchOutbound(childIndex: 7, 0x100)])
        #expect(lifecycle.isActive(key))
    }

    @Test func `a refusal of the data plane is a sentence`() {
        let lifecycle = SALifecycle(dataplane: dataplane)
        dataplane.refuses = "No room for another SA."
        #expect(lifecycle.install(childSA(0x100, 0x200), childIndex: 0, token: 1) == "No room for another SA.")
        #expect(lifecycle.install(childSA(0x100, 0x200), childIndex: nil, token: 2) != nil)
        #expect(lifecycle.inboundReady(token: 1, now: at(0)) == nil)
    }

    @Test func `a rekeyed SA is used when its first packet comes in`() {
        let lifecycle = established()
        _ = lifecycle.install(childSA(0x101, 0x201), childIndex: 0, token: 2)
        _ = lifecycle.inboundReady(token: 2, now: at(10))
        _ = dataplane.takeCalls()
        lifecycle.use(inboundSPI: 0x101, peerReceives: false)
        _ = lifecycle.poll(now: at(10.1))
        #expect(dataplane.takeCalls().isEmpty)
        #expect(lifecycle.awaitsSwitch)
        dataplane.byInboundSPI[0x101] = carried(1, 0)
        #expect(lifecycle.poll(now: at(10.2)) == [0x101])
        #expect(dataplane.takeCalls() == [.switchOutbound(childIndex: 0, 0x101)])
        #expect(!lifecycle.awaitsSwitch || lifecycle.pairs[0x100]?.state == .ready)
    }

    @Test func `a rekeyed SA that we asked for is used at once`() {
        let lifecycle = established()
        _ = lifecycle.install(childSA(0x101, 0x201), childIndex: 0, token: 2)
        _ = lifecycle.inboundReady(token: 2, now: at(10))
        _ = dataplane.takeCalls()
        lifecycle.use(inboundSPI: 0x101, peerReceives: true)
        #expect(dataplane.takeCalls() == [.switchOutbound(childIndex: 0, 0x101)])
    }

    @Test func `limits are told once each, the fuller direction decides`() {
        let lifecycle = SALifecycle(dataplane: dataplane)
        var sa = childSA(0x100, 0x200)
        (sa.limits.softBytes, sa.limits.hardBytes) = (9_000, 10_000)
        #expect(lifecycle.install(sa, childIndex: 0, token: 1) == nil)
        #expect(lifecycle.inboundReady(token: 1, now: at(0)) == 0x100)
        func reached(_ packetsIn: UInt64, _ packetsOut: UInt64) -> [SALifecycle.Limit] {
            dataplane.byInboundSPI[0x100] = carried(packetsIn, packetsOut)
            _ = lifecycle.poll(now: at(1))
            return lifecycle.limitsReached().map(\.limit)
        }
        #expect(reached(89, 1).isEmpty)
        #expect(reached(89, 90) == [.soft])
        #expect(reached(95, 90).isEmpty)
        #expect(reached(100, 90) == [.hard])
        #expect(reached(200, 200).isEmpty)
    }

    @Test func `an SA that the peer is known to receive on is used, once`() {
        let lifecycle = established()
        _ = lifecycle.install(childSA(0x101, 0x201), childIndex: 0, token: 2)
        _ = lifecycle.inboundReady(token: 2, now: at(10))
        lifecycle.use(inboundSPI: 0x101, peerReceives: false)
        _ = dataplane.takeCalls()
        lifecycle.use(inboundSPI: 0x101, peerReceives: true)
        #expect(dataplane.takeCalls() == [.switchOutbound(childIndex: 0, 0x101)])
        lifecycle.use(inboundSPI: 0x101, peerReceives: true)
        #expect(dataplane.takeCalls().isEmpty)
        #expect(!lifecycle.awaitsSwitch, "the old one waits for nothing")
    }

    @Test func `a rekeyed SA whose peer is silent is used when the one before ends, or after a while`() {
        let lifecycle = established()
        _ = lifecycle.install(childSA(0x101, 0x201), childIndex: 0, token: 2)
        _ = lifecycle.inboundReady(token: 2, now: at(10))
        _ = dataplane.takeCalls()
        _ = lifecycle.poll(now: at(10.1))
        #expect(lifecycle.awaitsSwitch)
        _ = lifecycle.poll(now: at(139.9))
        #expect(dataplane.takeCalls().isEmpty && !lifecycle.awaitsSwitch)
        _ = lifecycle.poll(now: at(140))
        #expect(dataplane.takeCalls() == [.switchOutbound(childIndex: 0, 0x101)])
    }

    @Test func `of several successors the one on which the peer is known to receive is taken`() {
        let lifecycle = established()
        for (spi, token) in [(UInt32(0x101), UInt64(2)), (0x102, 3)] {
            _ = lifecycle.install(childSA(spi, spi + 0x100), childIndex: 0, token: token)
            _ = lifecycle.inboundReady(token: token, now: at(Double(token)))
        }
        dataplane.byInboundSPI[0x101] = carried(1, 0)
        _ = dataplane.takeCalls()
        lifecycle.remove(inboundSPI: 0x100, now: at(10))
        #expect(dataplane.takeCalls() == [.switchOutbound(childIndex: 0, 0x101)], "not the newest, of which nothing is known")
    }

    @Test func `ending the old SA switches first and retires after the drain`() {
        let lifecycle = established()
        _ = lifecycle.install(childSA(0x101, 0x201), childIndex: 0, token: 2)
        _ = lifecycle.inboundReady(token: 2, now: at(10))
        _ = dataplane.takeCalls()
        lifecycle.remove(inboundSPI: 0x100, now: at(10.1))
        #expect(dataplane.takeCalls() == [.switchOutbound(childIndex: 0, 0x101)])
        _ = lifecycle.poll(now: at(14))
        #expect(dataplane.takeCalls().isEmpty, "packets on their way still find the old SA")
        _ = lifecycle.poll(now: at(15.1))
        #expect(dataplane.takeCalls() == [.retire(0x100)])
        lifecycle.retired(inboundSPI: 0x100, final: carried(5, 6))
        #expect(lifecycle.pairs.count == 1)
        #expect(lifecycle.isActive(key))
    }

    @Test func `an old SA that ends before the new one is ready is replaced the moment it is`() {
        let lifecycle = established()
        _ = lifecycle.install(childSA(0x101, 0x201), childIndex: 0, token: 2)
        _ = dataplane.takeCalls()
        lifecycle.remove(inboundSPI: 0x100, now: at(10))
        #expect(dataplane.takeCalls().isEmpty)
        _ = lifecycle.inboundReady(token: 2, now: at(10.1))
        lifecycle.use(inboundSPI: 0x101, peerReceives: false)
        #expect(dataplane.takeCalls() == [.switchOutbound(childIndex: 0, 0x101)])
    }

    @Test func `the last SA of a child goes at once, and its packets ask for a tunnel again`() {
        let lifecycle = established()
        _ = dataplane.takeCalls()
        lifecycle.remove(inboundSPI: 0x100, now: at(10))
        #expect(dataplane.takeCalls() == [.clearOutbound(0), .retire(0x100)])
        #expect(!lifecycle.isActive(key))
        lifecycle.remove(inboundSPI: 0x100, now: at(10))
        #expect(dataplane.takeCalls().isEmpty)
    }

    @Test func `counters of a child never go backwards over rekeys and a restart of the tunnel`() {
        let lifecycle = established()
        dataplane.byInboundSPI[0x100] = carried(10, 20, drops: [.replay: 1])
        #expect(lifecycle.counters(of: key).packetsIn == 10)
        _ = lifecycle.install(childSA(0x101, 0x201), childIndex: 0, token: 2)
        _ = lifecycle.inboundReady(token: 2, now: at(10))
        dataplane.byInboundSPI[0x101] = carried(3, 4)
        #expect(lifecycle.counters(of: key).packetsIn == 13)
        lifecycle.remove(inboundSPI: 0x100, now: at(10))
        _ = lifecycle.poll(now: at(20))
        dataplane.byInboundSPI[0x100] = nil
        #expect(lifecycle.counters(of: key).packetsOut == 24, "between retire and its answer the last reading counts")
        lifecycle.retired(inboundSPI: 0x100, final: carried(11, 20, drops: [.replay: 2]))
        #expect(lifecycle.counters(of: key).packetsIn == 14)
        #expect(lifecycle.counters(of: key).drops[.replay] == 2)
        lifecycle.remove(inboundSPI: 0x101, now: at(30))
        lifecycle.retired(inboundSPI: 0x101, final: carried(3, 4))
        #expect(lifecycle.counters(of: key).packetsIn == 14)
        #expect(lifecycle.counters(of: key).bytesOut == 2400)
    }

    @Test func `traffic is reported once per growth`() {
        let lifecycle = established()
        dataplane.byInboundSPI[0x100] = carried(1, 0)
        #expect(lifecycle.poll(now: at(1)) == [0x100])
        #expect(lifecycle.poll(now: at(2)).isEmpty)
    }

    @Test func `a move of the path reaches the SAs that are there`() {
        let lifecycle = established()
        _ = dataplane.takeCalls()
        lifecycle.move(
            inboundSPIs: [0x100, 0x999], path: TunnelPath(local: IPAddress("192.0.2.1")!, remote: IPAddress("198.51.100.7")!))
        #expect(dataplane.takeCalls() == [.move(0x100)])
        #expect(lifecycle.isOutbound(spi: 0x200, remote: IPAddress("198.51.100.7")!))
        #expect(!lifecycle.isOutbound(spi: 0x200, remote: IPAddress("192.0.2.2")!))
    }

    // MARK: Several SAs of one child

    private static let whole = (local: [selector("10.1.0.0/24")], remote: [selector("10.2.0.0/24"), selector("10.3.0.0/24")])

    /// Installs an SA to `remote` as the control thread does; the number of its key is its place in `numbers`.
    private func add(
        _ inbound: UInt32, _ remote: [String], to lifecycle: SALifecycle, numbers: inout [ChildKey], replaces: UInt32? = nil,
        peerReceives: Bool = true
    ) -> ChildKey {
        var sa = childSA(inbound, inbound + 0x1000)
        sa.remoteSelectors = remote.map { selector($0) }
        sa.replaces = replaces
        let key = lifecycle.key(for: sa, configured: Self.whole)
        if !numbers.contains(key) { numbers.append(key) }
        #expect(lifecycle.install(sa, as: key, childIndex: numbers.firstIndex(of: key), token: UInt64(inbound)) == nil)
        _ = lifecycle.inboundReady(token: UInt64(inbound), now: at(Double(inbound) / 100))
        lifecycle.use(inboundSPI: inbound, peerReceives: peerReceives)
        return key
    }

    private func carrier(of destination: String, _ lifecycle: SALifecycle, _ numbers: [ChildKey]) -> UInt32? {
        let address = IPAddress(destination)!
        let rule = lifecycle.peerRules.first { $0.remote.contains { $0.contains(address) } }
        return lifecycle.active[rule.map { numbers[$0.childIndex] } ?? key]
    }

    @Test func `each of several SAs carries what its selectors fit, through rekeys and deletes of any of them`() {
        let lifecycle = SALifecycle(dataplane: dataplane)
        var numbers = [key]
        let second = add(0x101, ["10.2.0.0/24"], to: lifecycle, numbers: &numbers)
        let third = add(0x102, ["10.3.0.0/24"], to: lifecycle, numbers: &numbers)
        #expect(Set([key, second, third]).count == 3, "what is not whole leaves the configured child's number free")
        #expect(carrier(of: "10.2.0.9", lifecycle, numbers) == 0x101)
        #expect(carrier(of: "10.3.0.9", lifecycle, numbers) == 0x102)
        // A rekey takes the place of its own.
        #expect(add(0x103, ["10.2.0.0/24"], to: lifecycle, numbers: &numbers, replaces: 0x101) == second)
        lifecycle.remove(inboundSPI: 0x101, now: at(20))
        #expect(carrier(of: "10.2.0.9", lifecycle, numbers) == 0x103)
        #expect(carrier(of: "10.3.0.9", lifecycle, numbers) == 0x102)
        // The peer deletes one: its traffic asks for a tunnel, the other's goes on.
        _ = dataplane.takeCalls()
        lifecycle.remove(inboundSPI: 0x102, now: at(30))
        #expect(dataplane.takeCalls().contains(.clearOutbound(numbers.firstIndex(of: third)!)))
        #expect(carrier(of: "10.3.0.9", lifecycle, numbers) == nil)
        #expect(carrier(of: "10.2.0.9", lifecycle, numbers) == 0x103)
        _ = lifecycle.poll(now: at(40))
        lifecycle.retired(inboundSPI: 0x102, final: carried(1, 1))
        lifecycle.retired(inboundSPI: 0x101, final: carried(1, 1))
        #expect(lifecycle.takeAbandoned() == [third], "its number is free again")
        #expect(lifecycle.counters(of: key).packetsIn == 2, "status counts all of them")
    }

    @Test func `an SA of the same selectors replaces the one before, a whole one stands beside the parts`() {
        let lifecycle = SALifecycle(dataplane: dataplane)
        var numbers = [key]
        let part = add(0x101, ["10.2.0.0/24"], to: lifecycle, numbers: &numbers)
        #expect(add(0x102, ["10.2.0.0/24"], to: lifecycle, numbers: &numbers) == part)
        #expect(carrier(of: "10.2.0.9", lifecycle, numbers) == 0x102)
        #expect(add(0x103, ["10.2.0.0/24", "10.3.0.0/24"], to: lifecycle, numbers: &numbers) == key)
        #expect(carrier(of: "10.3.0.9", lifecycle, numbers) == 0x103)
        #expect(carrier(of: "10.2.0.9", lifecycle, numbers) == 0x102)
        lifecycle.remove(inboundSPI: 0x102, now: at(20))
        lifecycle.remove(inboundSPI: 0x101, now: at(20))
        #expect(carrier(of: "10.2.0.9", lifecycle, numbers) == 0x103)
    }

    @Test func `a new SA that the peer is not known to receive on does not take traffic from one that works`() {
        let lifecycle = SALifecycle(dataplane: dataplane)
        var numbers = [key]
        _ = add(0x101, ["10.2.0.0/23"], to: lifecycle, numbers: &numbers)
        _ = add(0x102, ["10.2.0.0/24"], to: lifecycle, numbers: &numbers, peerReceives: false)
        #expect(carrier(of: "10.2.0.9", lifecycle, numbers) == 0x101)
        dataplane.byInboundSPI[0x102] = carried(1, 0)
        _ = lifecycle.poll(now: at(10))
        #expect(carrier(of: "10.2.0.9", lifecycle, numbers) == 0x102)
    }

    @Test func `a child that is carried whole has no rules of its own`() {
        let lifecycle = established()
        #expect(lifecycle.peerRules.isEmpty)
    }

    // MARK: What it costs

    private func many(_ count: UInt32, instance: (UInt32) -> UInt32 = { _ in 0 }) -> SALifecycle {
        let lifecycle = SALifecycle(dataplane: dataplane)
        for number in 0..<count {
            var sa = childSA(0x1_0000 + number, 0x2_0000 + number, connection: "c\(number)")
            sa.instance = instance(number)
            _ = lifecycle.install(sa, childIndex: Int(number), token: UInt64(number))
            _ = lifecycle.inboundReady(token: UInt64(number), now: at(0))
            lifecycle.use(inboundSPI: 0x1_0000 + number, peerReceives: true)
        }
        return lifecycle
    }

    @Test(arguments: [10, 10_000] as [UInt32])
    func `a tick reads as many counters whatever there is, and nobody is left out`(count: UInt32) {
        let lifecycle = many(count)
        for number in 0..<count { dataplane.byInboundSPI[0x1_0000 + number] = carried(1, 0) }
        var alive: Set<UInt32> = []
        let rounds = Int(count) / SALifecycle.readingsPerPoll + 1
        for round in 0..<rounds {
            let before = lifecycle.readings
            alive.formUnion(lifecycle.poll(now: at(2 + Double(round))))
            #expect(lifecycle.readings - before <= SALifecycle.readingsPerPoll)
        }
        #expect(alive.count == Int(count))
        #expect(!lifecycle.awaitsSwitch)
    }

    @Test func `what many peers have negotiated is put together again only when it changed`() {
        let lifecycle = many(1_000) { $0 + 1 }
        let version = lifecycle.peerRulesVersion
        #expect(lifecycle.peerRules.count == 1_000)
        for second in 1...20 { _ = lifecycle.poll(now: at(Double(second))) }
        #expect(lifecycle.peerRulesVersion == version && lifecycle.takeAbandoned().isEmpty)
        lifecycle.remove(inboundSPI: 0x1_0005, now: at(30))
        lifecycle.retired(inboundSPI: 0x1_0005, final: carried(0, 0))
        #expect(lifecycle.peerRulesVersion != version && lifecycle.peerRules.count == 999)
        #expect(lifecycle.takeAbandoned() == [ChildKey("c5", "net", instance: 6)])
        #expect(lifecycle.takeAbandoned().isEmpty)
    }

    @Test func `the peers' addresses change with pairs, not with what they carry`() {
        let lifecycle = many(3)
        #expect(lifecycle.takeChangedRemotes() == [ip("192.0.2.2")])
        dataplane.byInboundSPI[0x1_0001] = carried(9, 9)
        _ = lifecycle.poll(now: at(1))
        #expect(lifecycle.takeChangedRemotes().isEmpty && lifecycle.remotes == [ip("192.0.2.2")])
        lifecycle.move(
            inboundSPIs: [0x1_0001], path: TunnelPath(local: ip("192.0.2.1"), remote: ip("192.0.2.9")))
        #expect(lifecycle.takeChangedRemotes() == [ip("192.0.2.9")])
        #expect(lifecycle.hasRemote(ip("192.0.2.2")) && lifecycle.hasRemote(ip("192.0.2.9")))
        #expect(lifecycle.isOutbound(spi: 0x2_0001, remote: ip("192.0.2.9")))
        #expect(!lifecycle.isOutbound(spi: 0x2_0001, remote: ip("192.0.2.2")))
    }
}
