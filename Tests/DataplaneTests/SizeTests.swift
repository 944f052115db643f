import Crypto
import IPsec
import Testing
import Wire

@testable import Dataplane

/// Puts fragments of one datagram together. Nil unless they are all there, once each, whole.
func reassembled(_ pieces: [[UInt8]]) -> [UInt8]? {
    var parts: [(offset: Int, more: Bool, body: [UInt8])] = []
    for piece in pieces {
        guard piece.count >= 20, headerChecksumResidue(piece) == 0, Int(piece[2]) << 8 | Int(piece[3]) == piece.count else {
            return nil
        }
        let field = UInt16(piece[6]) << 8 | UInt16(piece[7])
        parts.append((Int(field & 0x1FFF) * 8, field & 0x2000 != 0, Array(piece[(Int(piece[0] & 15) * 4)...])))
    }
    parts.sort { $0.offset < $1.offset }
    var body: [UInt8] = []
    for (index, part) in parts.enumerated() {
        guard part.offset == body.count, part.more == (index + 1 < parts.count) else { return nil }
        body += part.body
    }
    return body
}

/// Fragments as a host would send them.
func split(_ packet: [UInt8], mtu: Int) -> [[UInt8]] {
    guard packet.count > mtu else { return [packet] }
    let (body, step) = (Array(packet[20...]), (mtu - 20) & ~7)
    return stride(from: 0, to: body.count, by: step).map { offset in
        let part = Array(body[offset..<min(offset + step, body.count)])
        var header = Array(packet[..<20])
        let total = UInt16(20 + part.count)
        let field = UInt16(offset / 8) | (offset + part.count < body.count ? 0x2000 : 0)
        (header[2], header[3]) = (UInt8(total >> 8), UInt8(truncatingIfNeeded: total))
        (header[6], header[7]) = (UInt8(field >> 8), UInt8(truncatingIfNeeded: field))
        return aged(header, hops: 0) + part
    }
}

@Suite("Packets of every size over every pair of MTUs")
struct SizeTests {
    struct Path: Sendable, CustomStringConvertible {
        var lan: Int
        var underlay: Int
        var farLAN: Int
        var udp: Bool
        var ipv6: Bool
        var description: String { "\(lan) - \(underlay) - \(farLAN)\(udp ? " UDP" : "")\(ipv6 ? " IPv6" : "")" }
    }
    static let mtus = [1280, 1400, 1500, 2000, 3826]
    static let paths = mtus.flatMap { lan in
        mtus.flatMap { underlay in
            [1280, 1500, 3826].flatMap { far in
                [false, true].map { Path(lan: lan, underlay: underlay, farLAN: far, udp: lan == 1400, ipv6: $0) }
            }
        }
    }

    private static func ends(_ path: Path, change: (inout ChildSA) -> Void = { _ in }) throws -> TwoEnds {
        try TwoEnds(
            udp: path.udp, ipv6: path.ipv6, frameBytes: 4096, nearMTUs: (path.lan, path.underlay),
            farMTUs: (path.farLAN, path.underlay), farAnswers: true, change: change)
    }

    /// What an ICMP error says of the MTU; nil unless it is one about `packet`.
    private static func toldMTU(_ error: [UInt8], about packet: [UInt8]) -> Int? {
        guard error.count >= 28, error[9] == 1, error[20] == 3, error[21] == 4, Array(error[16..<20]) == Array(packet[12..<16]),
            headerChecksumResidue(error) == 0, Checksum.fold(Checksum.sum(Array(error[20...]).span)) == 0xFFFF
        else { return nil }
        return Int(error[26]) << 8 | Int(error[27])
    }

    @Test("without DF a packet arrives whole, whatever splits it on the way", arguments: paths)
    func fragmentable(_ path: Path) throws {
        let ends = try Self.ends(path)
        for size in Array(stride(from: 20, through: 9000, by: 397)) + [path.lan, path.underlay, path.farLAN, 1446, 9000] {
            let packet = inner(size)
            let delivered = split(packet, mtu: path.lan).flatMap { ends.seal($0) }.flatMap { sealed -> [[UInt8]] in
                #expect(sealed.count <= path.underlay)
                return ends.open(sealed)
            }
            #expect(delivered.allSatisfy { $0.count <= path.farLAN })
            #expect(delivered.allSatisfy { $0[8] == 62 })
            #expect(reassembled(delivered) == Array(packet[20...]), "size \(size)")
        }
        #expect(DropReason.allCases.allSatisfy { ends.near.drops($0) == 0 && ends.far.drops($0) == 0 })
        #expect(ends.isAtHome)
    }

    @Test("with DF a packet arrives as it is, or its sender is told the size that does", arguments: paths)
    func unfragmentable(_ path: Path) throws {
        let ends = try Self.ends(path)
        for start in Set([20, 576, 1280, path.lan, path.underlay, path.farLAN].map { min($0, path.lan) }).sorted() {
            // Each error names a smaller size; the last one passes.
            var size = start
            var rounds = 0
            while true {
                rounds += 1
                try #require(rounds <= 3, "from \(start), at \(size)")
                let packet = inner(size, fragmentField: IPv4.dontFragment)
                let sealed = ends.seal(packet)
                let delivered = sealed.flatMap { ends.open($0) }
                if let only = delivered.first {
                    #expect(delivered.count == 1 && only == aged(packet, hops: 2))
                    break
                }
                let far = ends.farErrors().flatMap { ends.deliverToNear($0) }
                let errors = sealed.isEmpty ? ends.backToSender() : far
                try #require(errors.count == 1, "size \(size)")
                let told = try #require(Self.toldMTU(errors[0], about: packet))
                #expect(told < size && told >= 1180)
                size = told
            }
        }
        #expect(ends.isAtHome)
    }

    @Test(
        "ESP that the kernel put together arrives whole, up to the longest there is", arguments: [1280, 1500, 3826], [2048, 4096])
    func reassembledESP(_ farLAN: Int, _ frameBytes: Int) throws {
        // The peer encrypts before it fragments, as Linux does with a datagram that its connection tracking put together.
        let path = Path(lan: 3826, underlay: 3826, farLAN: min(farLAN, frameBytes - 270), udp: false, ipv6: false)
        let ends = try TwoEnds(frameBytes: frameBytes, nearMTUs: (1500, 1500), farMTUs: (path.farLAN, 1500), farAnswers: true)
        let sealer = try PeerThatFragmentsLate(ends.pair.near)
        var sent = 0
        for size in [100, 1400, 1600, 1700, 1720, 1800, 1900, 2000, 2100, 3000, 4000, 4100, 9000, 30_000, 65_000] {
            let packet = inner(size)
            let esp = try sealer.seal(packet)
            #expect(ends.inject(esp))
            let delivered = ends.deliveredByFar()
            #expect(delivered.allSatisfy { $0.count <= path.farLAN })
            #expect(reassembled(delivered) == Array(packet[20...]), "size \(size)")
            sent += 1
            // With DF it does not fit the network behind, and its sender hears of it.
            guard size > path.farLAN else { continue }
            let stubborn = inner(size, fragmentField: IPv4.dontFragment)
            #expect(ends.inject(try sealer.seal(stubborn)))
            #expect(ends.deliveredByFar().isEmpty)
            let errors = ends.farErrors().flatMap { ends.deliverToNear($0) }
            #expect(errors.compactMap { Self.toldMTU($0, about: stubborn) } == [path.farLAN], "size \(size)")
        }
        #expect(ends.far.drops(.injectFull) == 0 && ends.far.drops(.malformed) == 0)
        #expect(ends.isAtHome)
    }

    @Test("the MSS of a SYN that came out of the tunnel fits the protected port too", arguments: [1280, 1500, 3826])
    func maximumSegmentSize(_ farLAN: Int) throws {
        let ends = try Self.ends(Path(lan: 3826, underlay: 3826, farLAN: farLAN, udp: false, ipv6: false))
        let opened = ends.open(ends.seal(inner(0, protocolNumber: 6, payload: syn(mss: 8960)))[0])
        try #require(opened.count == 1)
        #expect(Int(opened[0][42]) << 8 | Int(opened[0][43]) == min(farLAN, 3770) - 40)
    }

    @Test("df, mtu and mss of a child do as they say", arguments: [DFHandling.copy, .set, .clear], [false, true])
    func child(_ df: DFHandling, _ isFragmentable: Bool) throws {
        let ends = try Self.ends(Path(lan: 1500, underlay: 1500, farLAN: 1500, udp: false, ipv6: false)) {
            $0.sizes.dontFragment = df
            $0.sizes.mtu = 1000
            $0.sizes.mss = .at(700)
        }
        var identifications: Set<UInt16> = []
        for _ in 0..<8 {
            let sealed = ends.seal(inner(900, fragmentField: isFragmentable ? 0 : IPv4.dontFragment))[0]
            #expect(headerChecksumResidue(sealed) == 0)
            let isSet = sealed[6] & 0x40 != 0
            #expect(isSet == (df == .set || (df == .copy && !isFragmentable)))
            identifications.insert(UInt16(sealed[4]) << 8 | UInt16(sealed[5]))
            #expect(ends.open(sealed).count == 1)
        }
        // RFC 6864 §4: what may be fragmented has an identification of its own.
        let isAtomic = df == .set || (df == .copy && !isFragmentable)
        #expect(identifications.count == (isAtomic ? 1 : 8))
        #expect(ends.seal(inner(1001, fragmentField: IPv4.dontFragment)).isEmpty)
        #expect(Self.toldMTU(ends.backToSender()[0], about: inner(1001)) == 1000)
        #expect(ends.seal(inner(1001)).count == 2)
        let opened = ends.open(ends.seal(inner(0, protocolNumber: 6, payload: syn(mss: 1460)))[0])
        #expect(Int(opened[0][42]) << 8 | Int(opened[0][43]) == 700)
    }

    @Test("mss off leaves a SYN alone")
    func untouched() throws {
        let ends = try Self.ends(Path(lan: 1500, underlay: 1500, farLAN: 1280, udp: false, ipv6: false)) {
            $0.sizes.mss = .untouched
        }
        let opened = ends.open(ends.seal(inner(0, protocolNumber: 6, payload: syn(mss: 1460)))[0])
        #expect(Int(opened[0][42]) << 8 | Int(opened[0][43]) == 1460)
    }

    @Test("a packet on bypass is split or answered at its port as well", arguments: [false, true])
    func bypass(_ isFragmentable: Bool) throws {
        let ends = try TwoEnds(
            frameBytes: 4096, nearMTUs: (1500, 1280),
            nearPlan: {
                $0.rules.insert(
                    .init(
                        source: TrafficSelector(IPPrefix("10.1.0.0/16")!),
                        destination: TrafficSelector(IPPrefix("192.0.2.0/24")!),
                        action: .bypass), at: 0)
            })
        let packet = inner(1400, destination: "192.0.2.2", fragmentField: isFragmentable ? 0 : IPv4.dontFragment)
        let sent = ends.seal(packet)
        if isFragmentable {
            #expect(sent.count == 2 && reassembled(sent) == Array(packet[20...]))
        } else {
            #expect(sent.isEmpty)
            #expect(ends.backToSender().compactMap { Self.toldMTU($0, about: packet) } == [1280])
        }
    }

    @Test("a fragment whose end lies behind 65,535 octets is refused, not written over its flags")
    func behindTheEnd() throws {
        let ends = try TwoEnds()
        #expect(ends.seal(inner(1500, fragmentField: 8191 - 100)).isEmpty)
        #expect(ends.near.drops(.malformed) == 1)
    }
}
