import Crypto
import IPsec
import Testing
import Wire

@testable import Dataplane

@Suite("Fragments where selectors look at ports, RFC 4301 §7")
struct PortFragmentTests {
    /// Only UDP port 9999 goes through the tunnel: in the rules, in the SA, or in both.
    private static func ends(rules: Bool, selectors: Bool) throws -> TwoEnds {
        let far = TrafficSelector(IPPrefix("10.2.0.0/16")!, ipProtocol: 17, ports: 9999...9999)
        return try TwoEnds(
            change: { sa in
                guard selectors else { return }
                if sa.localSelectors.contains(where: { $0.contains(IPAddress("10.1.0.2")!) }) {
                    sa.remoteSelectors = [far]
                } else {
                    sa.localSelectors = [far]
                }
            },
            nearPlan: { plan in
                guard rules else { return }
                plan.rules = [
                    .init(source: TrafficSelector(IPPrefix("10.1.0.0/16")!), destination: far, action: .protect(childIndex: 0))
                ]
            })
    }

    private static func datagram(_ bytes: Int, port: UInt16 = 9999) -> [UInt8] {
        inner(bytes).prefix(20) + [0x30, 0x39, UInt8(port >> 8), UInt8(truncatingIfNeeded: port)] + inner(bytes).dropFirst(24)
    }

    @Test(
        "a datagram of any size passes a selector with its port, whoever fragments it",
        arguments: [(true, false), (false, true), (true, true)])
    func passes(_ places: (rules: Bool, selectors: Bool)) throws {
        let ends = try Self.ends(rules: places.rules, selectors: places.selectors)
        for (number, size) in [28, 600, 1440, 1446, 1447, 1500, 3000, 9000].enumerated() {
            var packet = Self.datagram(size)
            packet[5] = UInt8(number)
            packet = aged(packet, hops: 0)
            let delivered = split(packet, mtu: 1500).flatMap { ends.seal($0) }.flatMap { ends.open($0) }
            #expect(reassembled(delivered) == Array(packet[20...]), "size \(size)")
        }
        #expect(ends.near.drops(.selectorMismatch) == 0 && ends.far.drops(.selectorMismatch) == 0)
    }

    @Test("fragments of another port do not pass, and one without its first is named", arguments: [true, false])
    func refused(_ rules: Bool) throws {
        let ends = try Self.ends(rules: rules, selectors: !rules)
        let other = split(Self.datagram(3000, port: 53), mtu: 1500)
        #expect(other.flatMap { ends.seal($0) }.isEmpty)
        #expect(ends.near.drops(rules ? .noPolicy : .selectorMismatch) >= 1)
        let orphan = split(Self.datagram(4000, port: 9999).replacing(5, with: 77), mtu: 1500)[1]
        #expect(ends.seal(orphan).isEmpty)
        #expect(ends.near.drops(.fragmentUnknown) >= 1)
    }

    @Test("later fragments do not take the ports of another datagram", arguments: [4, 5, 9, 12, 16])
    func otherDatagram(_ octet: Int) throws {
        let ends = try Self.ends(rules: true, selectors: false)
        let pieces = split(Self.datagram(3000), mtu: 1500)
        #expect(ends.seal(pieces[0]).count == 2)
        var stranger = pieces[1]
        stranger[octet] = octet == 9 ? 6 : octet >= 12 ? 10 : stranger[octet] ^ 1
        if octet == 12 { (stranger[12], stranger[15]) = (10, 99) }
        if octet == 16 { (stranger[16], stranger[19]) = (10, 99) }
        #expect(ends.seal(aged(stranger, hops: 0)).isEmpty)
        #expect(ends.seal(pieces[1]).count == 2)
    }

    @Test("what is remembered is bounded: a flood of first fragments forgets, and nothing grows")
    func flood() throws {
        let ends = try Self.ends(rules: true, selectors: false)
        for number in 0..<10_000 {
            var first = split(Self.datagram(1600), mtu: 576)[0]
            (first[4], first[5]) = (UInt8(number >> 8 & 255), UInt8(number & 255))
            #expect(ends.seal(aged(first, hops: 0)).count == 1)
        }
        var last = split(Self.datagram(1600), mtu: 576)[1]
        (last[4], last[5]) = (UInt8(9999 >> 8), UInt8(9999 & 255))
        #expect(ends.seal(aged(last, hops: 0)).count == 1, "the newest is known")
    }
}

extension [UInt8] {
    /// The packet with another octet and a checksum that fits.
    fileprivate func replacing(_ index: Int, with octet: UInt8) -> [UInt8] {
        var copy = self
        copy[index] = octet
        return aged(copy, hops: 0)
    }
}

@Suite("Headers and checksums")
struct ChecksumTests {
    private static func transport(_ number: UInt8, _ body: [UInt8], isPartial: Bool) -> [UInt8] {
        var segment = body
        let offset = number == 6 ? 16 : 6
        (segment[offset], segment[offset + 1]) = (0, 0)
        let pseudo: [UInt8] = [10, 1, 0, 2, 10, 2, 0, 2, 0, number, UInt8(body.count >> 8), UInt8(body.count & 255)]
        let sum = isPartial ? Checksum.fold(Checksum.sum(pseudo.span)) : ~Checksum.fold(Checksum.sum((pseudo + segment).span))
        (segment[offset], segment[offset + 1]) = (UInt8(sum >> 8), UInt8(truncatingIfNeeded: sum))
        return segment
    }

    @Test(
        "a checksum that the sender left to a device is finished on ports where that happens", arguments: [6, 17], [40, 41, 1400])
    func finished(_ number: UInt8, _ bytes: Int) throws {
        let ends = try TwoEnds()
        let body = (0..<bytes).map { UInt8(truncatingIfNeeded: $0 * 7) }
        let whole = inner(0, protocolNumber: number, payload: Self.transport(number, body, isPartial: false))
        let partial = inner(0, protocolNumber: number, payload: Self.transport(number, body, isPartial: true))
        #expect(ends.open(ends.seal(partial)[0]) == [aged(partial, hops: 2)], "a port with hardware behind it is left alone")
        ends.nearWorker.queues[0].finishesChecksums = true
        #expect(ends.open(ends.seal(partial)[0]) == [aged(whole, hops: 2)])
        #expect(ends.open(ends.seal(whole)[0]) == [aged(whole, hops: 2)])
        // A wrong checksum stays wrong: damage is not mended.
        var damaged = whole
        damaged[20 + (number == 6 ? 17 : 7)] ^= 1
        #expect(ends.open(ends.seal(damaged)[0]) == [aged(damaged, hops: 2)])
    }

    @Test("UDP without a checksum stays without one")
    func absent() throws {
        let ends = try TwoEnds()
        ends.nearWorker.queues[0].finishesChecksums = true
        var body = [UInt8](repeating: 7, count: 60)
        (body[6], body[7]) = (0, 0)
        let packet = inner(0, payload: body)
        #expect(ends.open(ends.seal(packet)[0]) == [aged(packet, hops: 2)])
    }

    @Test("a header whose checksum is wrong is not forwarded, on the way in or out")
    func headers() throws {
        let ends = try TwoEnds()
        var bad = inner(100)
        bad[10] ^= 1
        #expect(ends.seal(bad).isEmpty)
        #expect(ends.near.drops(.malformed) == 1)
        let sealed = try PeerThatFragmentsLate(ends.pair.near).seal(bad)
        #expect(ends.open(sealed).isEmpty)
        #expect(ends.far.drops(.malformed) == 1)
        #expect(ends.pair.far.counters.drops[.malformed] == 1)
    }

    @Test("AH is not read as ESP")
    func authenticationHeader() throws {
        let ends = try TwoEnds()
        var packet = ends.seal(inner(100))[0]
        packet[9] = 51
        #expect(ends.open(aged(packet, hops: 0)).isEmpty)
        #expect(ends.far.drops(.unsupportedProtocol) == 1)
    }

    @Test("the gateway's own packets, and what the kernel has forwarded, keep their TTL")
    func ownPackets() throws {
        let ends = try TwoEnds()
        #expect(ends.near.inject(inner(100, ttl: 1), isESP: false))
        _ = ends.nearWorker.runOnce()
        let sealed = ends.near.takeSent(port: MemoryRig.underlayPort, worker: 0)
        try #require(sealed.count == 1)
        #expect(ends.far.drops(.ttlExpired) == 0)
        // For the far gateway itself it arrives with the TTL that it was sent with: eBGP between gateways, GTSM (RFC 5082).
        let local = try TwoEnds(farPlan: { $0.localAddresses.append(IPv4Address("10.2.0.2")!) })
        #expect(local.near.inject(inner(100, ttl: 255), isESP: false))
        _ = local.nearWorker.runOnce()
        _ = local.open(local.near.takeSent(port: MemoryRig.underlayPort, worker: 0)[0])
        let punted = local.far.threads[0].punts.next()
        let slot = try #require(punted)
        #expect((slot + 16).load(as: UInt8.self) == 255)
    }

    @Test("one source's ICMP errors do not use up another's, and what is withheld is no second drop")
    func budgets() throws {
        let ends = try TwoEnds()
        for _ in 0..<60 { #expect(ends.seal(inner(64, ttl: 1)).isEmpty) }
        #expect(ends.backToSender().count <= 60)
        let withheld = ends.near.threads[0].counters.pointee.icmpErrorsWithheld
        #expect(withheld == 60 - UInt64(SecondBudget.icmpErrorsPerSource))
        #expect(ends.near.drops(.ttlExpired) == 60)
        #expect(DropReason.allCases.reduce(0) { $0 + ends.near.drops($1) } == 60)
        #expect(ends.seal(inner(64, source: "10.1.0.3", ttl: 1)).isEmpty)
        #expect(ends.near.threads[0].counters.pointee.icmpErrorsWithheld == withheld)
    }
}
