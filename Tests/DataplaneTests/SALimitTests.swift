import Crypto
import IPsec
import Testing
import Wire

@testable import Dataplane

/// What one SA may carry, and what happens between two SAs of one child.
@Suite struct SALimitTests {
    /// What the near worker told control, in words.
    static func told(_ rig: MemoryRig) -> [String] {
        var result: [String] = []
        while let slot = rig.threads[0].answers.next() {
            let answer = slot.load(as: WorkerAnswer.self)
            rig.threads[0].answers.release()
            switch WorkerAnswer.Kind(rawValue: answer.kind) {
            case .limitReached: result.append(answer.low == 0 ? "soft" : "hard")
            case .sequenceNumbersRunningOut: result.append("running out")
            case .wantsTunnel: result.append("wants \(answer.first)")
            default: break
            }
        }
        return result
    }

    static func limited(_ limits: SALimits, extended: Bool = true) throws -> TwoEnds {
        let ends = try TwoEnds(extended: extended)
        ends.pair.near.outbound.pointee.apply(limits)
        _ = told(ends.near)
        return ends
    }

    @Test("packets: a rekey is asked for at the soft limit, and the hard one is exact", arguments: [false, true])
    func packets(_ extended: Bool) throws {
        var limits = SALimits()
        (limits.softPackets, limits.hardPackets) = (7, 10)
        let ends = try Self.limited(limits, extended: extended)
        for _ in 0..<6 { #expect(ends.seal(inner(64)).count == 1) }
        #expect(Self.told(ends.near).isEmpty)
        #expect(ends.seal(inner(64)).count == 1)
        #expect(Self.told(ends.near) == ["soft"])
        for _ in 0..<3 { #expect(ends.seal(inner(64)).count == 1) }
        #expect(Self.told(ends.near).isEmpty)
        for _ in 0..<5 { #expect(ends.seal(inner(64)).isEmpty) }
        #expect(Self.told(ends.near) == ["hard"], "once, not for every packet")
        #expect(ends.near.drops(.lifetimeEnded) == 5 && ends.near.drops(.sequenceExhausted) == 0)
        #expect(ends.pair.near.counters.packetsOut == 10)
    }

    @Test("octets: the packet that crosses the limit is the last")
    func octets() throws {
        var limits = SALimits()
        (limits.softBytes, limits.hardBytes) = (700, 1000)
        let ends = try Self.limited(limits)
        for _ in 0..<7 { #expect(ends.seal(inner(100)).count == 1) }
        #expect(Self.told(ends.near).isEmpty)
        #expect(ends.seal(inner(100)).count == 1)
        #expect(Self.told(ends.near) == ["soft"])
        // What control answers with.
        ends.near.command(.setHardLimit, to: 0, pointer: UnsafeMutableRawPointer(ends.pair.near.outbound), first: 1000)
        for _ in 0..<2 { #expect(ends.seal(inner(100)).count == 1) }
        for _ in 0..<3 { #expect(ends.seal(inner(100)).isEmpty) }
        #expect(Self.told(ends.near) == ["hard"])
        #expect(ends.near.drops(.lifetimeEnded) == 3)
        #expect(ends.pair.near.counters.bytesOut == 1000)
    }

    @Test("without ESN a rekey is asked for with a sixteenth of the numbers to go, and the end is reported")
    func exhaustion() throws {
        let ends = try Self.limited(SALimits(), extended: false)
        ends.pair.near.outbound.pointee.sequence = 0xEFFF_FFFE
        #expect(ends.seal(inner(64)).count == 1)
        #expect(Self.told(ends.near).isEmpty)
        #expect(ends.seal(inner(64)).count == 1)
        #expect(Self.told(ends.near) == ["running out"])
        #expect(ends.seal(inner(64)).count == 1)
        #expect(Self.told(ends.near).isEmpty, "not for every packet")
        // Nobody listened: it is repeated.
        ends.pair.near.outbound.pointee.sequence = 0xF00F_FFFF
        #expect(ends.seal(inner(64)).count == 1)
        #expect(Self.told(ends.near) == ["running out"])
        ends.pair.near.outbound.pointee.sequence = 0xFFFF_FFFE
        #expect(ends.seal(inner(64)).count == 1)
        for _ in 0..<3 { #expect(ends.seal(inner(64)).isEmpty) }
        #expect(Self.told(ends.near) == ["hard"])
        #expect(ends.near.drops(.sequenceExhausted) == 3 && ends.near.drops(.lifetimeEnded) == 0)
    }

    @Test("with ESN the numbers of 32 bits are no limit")
    func extended() throws {
        let ends = try Self.limited(SALimits())
        ends.pair.near.outbound.pointee.sequence = 0xFFFF_FFFD
        for _ in 0..<5 { #expect(ends.seal(inner(64)).count == 1) }
        #expect(Self.told(ends.near).isEmpty)
    }

    // MARK: Packets that open a tunnel

    /// A gateway whose child 0 has no SA yet.
    static func waiting(holds: Bool) throws -> (TwoEnds, SAPair) {
        let ends = try TwoEnds()
        ends.near.command(.setOutbound, to: 0, first: 0)
        ends.near.command(.setHolding, to: 0, first: 0, second: holds ? 1 : 0)
        _ = ends.nearWorker.runOnce()
        _ = told(ends.near)
        return (ends, ends.pair.near)
    }

    static func use(_ ends: TwoEnds, _ pair: SAPair) {
        ends.near.command(.setOutbound, to: 0, pointer: UnsafeMutableRawPointer(pair.outbound), first: 0, second: 0)
        _ = ends.nearWorker.runOnce()
    }

    @Test("packets that find the tunnel down open it and are delivered by it, in order")
    func held() throws {
        let (ends, pair) = try Self.waiting(holds: true)
        let packets = (0..<3).map { inner(60 + $0) }
        for packet in packets { #expect(ends.seal(packet).isEmpty) }
        #expect(Self.told(ends.near) == ["wants 0"])
        #expect(ends.near.drops(.noSA) == 0)
        Self.use(ends, pair)
        let sealed = ends.near.takeSent(port: MemoryRig.underlayPort, worker: 0)
        #expect(sealed.flatMap { ends.open($0) } == packets.map { aged($0, hops: 2) })
        #expect(ends.nearWorker.tunnelHoldsInUse == 0)
        #expect(ends.seal(inner(64)).count == 1)
    }

    @Test("no more wait than there is room for, and not for ever; what is lost is counted as no-sa")
    func bounds() throws {
        let (ends, pair) = try Self.waiting(holds: true)
        for size in 0..<20 { #expect(ends.seal(inner(60 + size)).isEmpty) }
        #expect(ends.near.drops(.noSA) == 4)
        let free = ends.nearWorker.poolCount
        ends.nearWorker.expireTunnelHolds(ends.nearWorker.tunnelHolds[0].since + TunnelHold.lifetimeNanoseconds)
        #expect(ends.near.drops(.noSA) == 4)
        ends.nearWorker.expireTunnelHolds(ends.nearWorker.tunnelHolds[0].since + TunnelHold.lifetimeNanoseconds + 1)
        #expect(ends.near.drops(.noSA) == 20)
        #expect(ends.nearWorker.poolCount == free + 16, "every frame came home")
        Self.use(ends, pair)
        #expect(ends.near.takeSent(port: MemoryRig.underlayPort, worker: 0).isEmpty)
        // The place is free again.
        ends.near.command(.setOutbound, to: 0, first: 0)
        _ = ends.nearWorker.runOnce()
        #expect(ends.seal(inner(64)).isEmpty && ends.near.drops(.noSA) == 20)
    }

    @Test("a child that does not open on traffic holds nothing")
    func dropped() throws {
        let (ends, pair) = try Self.waiting(holds: false)
        #expect(ends.seal(inner(64)).isEmpty)
        #expect(ends.near.drops(.noSA) == 1)
        Self.use(ends, pair)
        #expect(ends.near.takeSent(port: MemoryRig.underlayPort, worker: 0).isEmpty)
    }

    // MARK: From one SA to the next

    @Test("a packet on its way to the old SA's owner finds the new SA's owner")
    func handedOn() throws {
        let rig = try MemoryRig(workers: 2, framesPerWorker: 512, ringEntries: 128, plan: MemoryRig.plan())
        let manager = EngineManager(.openssl)
        var first = rig.makeWorker(0, manager: manager.handle, fillTarget: 96)
        var second = rig.makeWorker(1, manager: manager.handle, fillTarget: 96)
        let old = try MemoryRig.pairs(engine: .openssl, outboundOwner: 1, inboundOwner: 0).near
        let new = try MemoryRig.pairs(engine: .openssl, outboundOwner: 0, inboundOwner: 1).near
        rig.install(old)
        _ = first.runOnce()
        _ = second.runOnce()
        for size in 0..<5 { _ = rig.feed(inner(60 + size), port: MemoryRig.protectedPort, worker: 0) }
        _ = first.runOnce()
        // The rekey comes through while the frames are between the workers.
        for worker in 0..<2 {
            rig.command(
                .setOutbound, to: worker, pointer: UnsafeMutableRawPointer(new.outbound), first: 0,
                second: UInt64(new.outboundOwner))
        }
        _ = second.runOnce()
        _ = first.runOnce()
        let sent = (0..<2).flatMap { rig.takeSent(port: MemoryRig.underlayPort, worker: $0) }
        #expect(sent.count == 5)
        #expect(rig.drops(.noSA) == 0)
        #expect(new.counters.packetsOut == 5 && old.counters.packetsOut == 0)
    }
}
