import Crypto
import IPsec
import Testing
import Wire

@testable import Dataplane

@Suite struct TunnelTests {
    struct Mode: Sendable, CustomStringConvertible {
        var engine: EngineKind
        var keyBits: Int
        var extended: Bool
        var udp: Bool
        var description: String { "\(engine.rawValue) \(keyBits) bits\(extended ? " ESN" : "")\(udp ? " UDP" : "")" }
    }
    static let modes = EngineKind.available.flatMap { engine in
        [128, 256].flatMap { bits in
            [false, true].flatMap { esn in [false, true].map { Mode(engine: engine, keyBits: bits, extended: esn, udp: $0) } }
        }
    }

    @Test("a packet comes out as it went in, two hops older, in every mode and size", arguments: modes)
    func roundTrip(_ mode: Mode) throws {
        let ends = try TwoEnds(engine: mode.engine, keyBits: mode.keyBits, extended: mode.extended, udp: mode.udp)
        for size in Array(28...70) + [127, 128, 129, 512, 1000, 1399, 1400, mode.udp ? 1438 : 1446] {
            let packet = inner(size)
            let sealed = ends.seal(packet)
            try #require(sealed.count == 1, "size \(size)")
            #expect(headerChecksumResidue(sealed[0]) == 0)
            #expect(sealed[0].count == ESPLayout.totalBytes(payloadBytes: size, udp: mode.udp))
            #expect(Int(sealed[0][2]) << 8 | Int(sealed[0][3]) == sealed[0].count)
            #expect(sealed[0][9] == (mode.udp ? 17 : 50))
            #expect(!sealed[0].contains(packet[20...]), "the payload is on the wire in the clear")
            let opened = ends.open(sealed[0])
            try #require(opened.count == 1, "size \(size)")
            #expect(opened[0] == aged(packet, hops: 2))
        }
        #expect(ends.pair.near.counters.packetsOut == ends.pair.far.counters.packetsIn)
    }

    @Test("one flipped bit anywhere after the outer header is refused and leaves the window alone")
    func tampering() throws {
        let ends = try TwoEnds()
        let sealed = ends.seal(inner(100))[0]
        for index in 20..<sealed.count where index < 24 || index % 7 == 0 {
            var bad = sealed
            bad[index] ^= 0x10
            #expect(ends.open(bad).isEmpty, "octet \(index)")
        }
        #expect(ends.far.drops(.authenticationFailed) > 0)
        #expect(ends.far.drops(.unknownSPI) > 0)
        #expect(ends.open(sealed).count == 1, "the untouched packet is still welcome")
    }

    @Test("a packet is accepted once, in any order within the window", arguments: [false, true])
    func replay(_ extended: Bool) throws {
        let ends = try TwoEnds(extended: extended, window: 64)
        let sealed = (0..<100).map { ends.seal(inner(40 + $0))[0] }
        for index in [0, 5, 3, 70, 10, 69] { #expect(ends.open(sealed[index]).count == 1, "packet \(index)") }
        for index in [0, 5, 3, 70, 10, 69] { #expect(ends.open(sealed[index]).isEmpty, "packet \(index) again") }
        #expect(ends.open(sealed[6]).isEmpty, "65 behind the newest")
        #expect(ends.open(sealed[7]).count == 1, "63 behind the newest")
        // With ESN, too, a number behind the window is an old one: it costs no decryption, and is not called a forgery.
        #expect(ends.far.drops(.replay) == 7)
        #expect(ends.far.drops(.authenticationFailed) == 0)
    }

    @Test("without ESN the last number is sent and none after it")
    func exhaustion() throws {
        let ends = try TwoEnds(extended: false)
        ends.pair.near.outbound.pointee.sequence = 0xFFFF_FFFE
        #expect(ends.seal(inner(64)).count == 1)
        #expect(ends.seal(inner(64)).isEmpty)
        #expect(ends.near.drops(.sequenceExhausted) == 1)
    }

    @Test("with ESN the numbers go on past 32 bits")
    func extendedNumbers() throws {
        let ends = try TwoEnds(extended: true)
        ends.pair.near.outbound.pointee.sequence = 0xFFFF_FFFD
        ends.pair.far.inbound.pointee.highest = 0xFFFF_FFFD
        for _ in 0..<5 { #expect(ends.open(ends.seal(inner(64))[0]).count == 1) }
        #expect(ends.pair.far.inbound.pointee.highest == 0x1_0000_0002)
    }

    @Test("an inner packet outside the selectors is dropped after decryption")
    func selectors() throws {
        // The near end is told to protect more than the far end agreed to, and its SA to carry it.
        let ends = try TwoEnds(nearPlan: {
            $0.rules = [
                .init(
                    source: TrafficSelector(IPPrefix("0.0.0.0/0")!), destination: TrafficSelector(IPPrefix("0.0.0.0/0")!),
                    action: .protect(childIndex: 0))
            ]
        })
        #expect(ends.seal(inner(64, source: "10.9.0.2")).isEmpty, "the sender's own selectors hold it back")
        #expect(ends.near.drops(.selectorMismatch) == 1)
        ends.pair.near.outbound.pointee.pairs.pointee.localFirst = 0
        ends.pair.near.outbound.pointee.pairs.pointee.localLast = .max
        ends.pair.near.outbound.pointee.pairs.pointee.remoteFirst = 0
        ends.pair.near.outbound.pointee.pairs.pointee.remoteLast = .max
        #expect(ends.open(ends.seal(inner(64, source: "10.9.0.2"))[0]).isEmpty)
        #expect(ends.open(ends.seal(inner(64, destination: "10.9.0.2"))[0]).isEmpty)
        #expect(ends.far.drops(.selectorMismatch) == 2)
        #expect(ends.open(ends.seal(inner(64))[0]).count == 1)
    }

    @Test("policy decides: no rule, discard, no SA; nothing leaves in the clear")
    func policy() throws {
        let ends = try TwoEnds(nearPlan: {
            let any = TrafficSelector(IPPrefix("10.1.0.0/16")!)
            $0.rules.insert(
                .init(
                    source: any, destination: TrafficSelector(IPPrefix("10.2.0.0/16")!, ipProtocol: 17, ports: 53...53),
                    action: .discard), at: 0)
            $0.rules.append(
                .init(source: any, destination: TrafficSelector(IPPrefix("10.3.0.0/16")!), action: .protect(childIndex: 7)))
        })
        let dns: [UInt8] = [0x10, 0, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4]
        #expect(ends.seal(inner(0, payload: dns)).isEmpty)
        #expect(ends.near.drops(.policyDiscard) == 1)
        var other = dns
        other[3] = 54
        #expect(ends.seal(inner(0, payload: other)).count == 1)
        #expect(ends.seal(inner(64, destination: "10.9.0.2")).isEmpty)
        #expect(ends.near.drops(.noPolicy) == 1)
        #expect(ends.seal(inner(64, destination: "10.3.0.2")).isEmpty)
        #expect(ends.near.drops(.noSA) == 1)
        let answer = ends.near.threads[0].answers
        var reader = answer
        var wants: [UInt32] = []
        while let slot = reader.next() {
            let told = slot.load(as: WorkerAnswer.self)
            if told.kind == WorkerAnswer.Kind.wantsTunnel.rawValue { wants.append(told.first) }
            reader.release()
        }
        #expect(wants == [7])
    }

    @Test("hostile lengths never reach past the frame", arguments: [0, 1, 19, 20, 21, 27, 35, 51, 52, 60])
    func lengths(_ kept: Int) throws {
        let ends = try TwoEnds()
        let sealed = ends.seal(inner(64))[0]
        #expect(ends.open(Array(sealed.prefix(kept))).isEmpty)
        // A total length that claims less or more than there is.
        var lying = sealed
        lying[2] = UInt8(kept >> 8)
        lying[3] = UInt8(truncatingIfNeeded: kept)
        #expect(ends.open(lying).isEmpty)
        var long = sealed
        long[2] = 0xFF
        #expect(ends.open(long).isEmpty)
        var short = inner(64)
        short[3] = UInt8(truncatingIfNeeded: kept)
        short = aged(short, hops: 0)
        // Less than the frame holds is padding and legal from a whole header on.
        #expect(ends.seal(short).count == (kept >= 20 ? 1 : 0))
    }
}
