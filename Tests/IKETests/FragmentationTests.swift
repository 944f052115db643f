import Crypto
import IPsec
import Testing
import Wire

@testable import IKE

/// RFC 7383.
@Suite struct FragmentationTests {
    /// Identities that make IKE_AUTH about 2000 octets long either way.
    static func pair(seed: UInt64 = 1, eastBytes: Int = 1280, westBytes: Int = 1280) -> Pair {
        let pair = Pair(seed: seed)
        let east = Identity.keyID([UInt8](repeating: 0x65, count: 1000))
        let west = Identity.keyID([UInt8](repeating: 0x77, count: 1000))
        (pair.eastSide.identity, pair.eastSide.remoteIdentity) = (east, west)
        (pair.westSide.identity, pair.westSide.remoteIdentity) = (west, east)
        pair.eastSide.paths.fragmentDatagramBytes = eastBytes
        pair.westSide.paths.fragmentDatagramBytes = westBytes
        return pair
    }

    /// Octets of the IP datagram that carries these.
    static func datagramBytes(_ bytes: [UInt8]) -> Int { bytes.count + 28 }

    static func isFragment(_ bytes: [UInt8]) -> Bool {
        (try? IKEHeader(parsing: bytes[...]))?.nextPayload == .encryptedFragment
    }

    @Test func `what is too long for the path is split in both directions, and no datagram is longer than asked`() throws {
        for (bytes, ike) in [
            (1280, "aes256gcm16-prfsha384-x25519"), (576, "aes128-sha256-x25519"), (300, "aes256-sha512-ecp256"),
        ] {
            let pair = Self.pair(eastBytes: bytes, westBytes: bytes)
            (pair.eastSide.ike, pair.westSide.ike) = ([ike], [ike])
            #expect(try pair.establish())
            #expect(pair.mismatch == nil)
            let protected = pair.network.history.filter { $0.bytes[18] != ExchangeType.ikeSAInit.rawValue }
            #expect(protected.allSatisfy { Self.datagramBytes($0.bytes) <= bytes })
            // IKE_AUTH has two identities one way and one the other.
            let fragments = protected.filter { Self.isFragment($0.bytes) }
            let splitting = bytes < 1100 ? [pair.east.address, pair.west.address] : [pair.east.address]
            #expect(Set(fragments.map(\.source.address)) == Set(splitting))
            #expect(pair.west.core.counters.messagesReassembled == 1)
            #expect(pair.east.core.counters.messagesReassembled == (bytes < 1100 ? 1 : 0))
        }
    }

    @Test func `nothing is split unless both ends want it`() throws {
        for (east, west) in [(true, false), (false, true), (false, false)] {
            let pair = Self.pair(eastBytes: 576, westBytes: 576)
            (pair.eastSide.paths.fragmentation, pair.westSide.paths.fragmentation) = (east, west)
            #expect(try pair.establish())
            #expect(!pair.network.history.contains { Self.isFragment($0.bytes) })
        }
    }

    @Test func `short messages and IKE_SA_INIT are never split`() throws {
        let pair = Pair()
        (pair.eastSide.paths.fragmentDatagramBytes, pair.westSide.paths.fragmentDatagramBytes) = (256, 256)
        (pair.eastSide.ike, pair.westSide.ike) = (["aes256gcm16-prfsha384-modp4096"], ["aes256gcm16-prfsha384-modp4096"])
        pair.eastSide.dpd = .seconds(2)
        #expect(try pair.establish())
        pair.run(20)
        for datagram in pair.network.history where Self.isFragment(datagram.bytes) {
            #expect(datagram.bytes[18] == ExchangeType.ikeAuth.rawValue)
        }
        #expect(pair.network.history.contains { $0.bytes[18] == ExchangeType.ikeSAInit.rawValue && $0.bytes.count > 576 })
    }

    @Test func `fragments arrive in any order, twice, and some only when sent again`() throws {
        for seed in UInt64(1)...12 {
            let pair = Self.pair(seed: seed, eastBytes: 400, westBytes: 400)
            pair.network.faults = Network.Faults(loss: 0.1, duplication: 0.3, spread: .milliseconds(50))
            #expect(try pair.establish(within: .seconds(90)), "seed \(seed)")
            #expect(pair.mismatch == nil)
        }
    }

    @Test func `a path that loses long datagrams is found out within seconds, in both directions`() throws {
        for lost in [900, 1100] {
            let pair = Self.pair()
            pair.network.filter = { bytes, _, _ in Self.datagramBytes(bytes) <= lost }
            #expect(try pair.establish(within: .seconds(6)))
            #expect(pair.mismatch == nil)
            // What was found stays, also over a rekey of the IKE SA.
            #expect(pair.east.core.rekey(connection: "c", child: nil, ike: true, now: pair.now))
            pair.run(5)
            let sa = try #require(pair.east.core.allSAs.last { $0.established != nil })
            #expect(sa.fragmentation.isNegotiated && sa.fragmentation.datagramBytes == 576)
        }
    }

    @Test func `a long response to a short request is split smaller when the request keeps coming`() throws {
        let pair = Self.pair()
        // Only west's answer is long: east is known by a short name and names nobody.
        (pair.eastSide.identity, pair.westSide.remoteIdentity) = (.fqdn("e"), .fqdn("e"))
        pair.eastSide.remoteIdentity = nil
        pair.network.filter = { bytes, _, _ in Self.datagramBytes(bytes) <= 900 }
        #expect(try pair.establish(within: .seconds(8)))
        #expect(pair.mismatch == nil)
        #expect(pair.east.core.counters.messagesReassembled == 1)
    }

    @Test func `a repeated fragmented request is answered once, by its first fragment`() throws {
        let pair = Self.pair(eastBytes: 576, westBytes: 576)
        #expect(try pair.establish())
        let request = pair.network.history.filter { Self.isFragment($0.bytes) && $0.source.address == pair.east.address }
        #expect(request.count > 2)
        let before = pair.west.core.counters.responsesRetransmitted
        pair.network.history = []
        for fragment in request { pair.network.put(fragment.bytes, from: fragment.source, to: fragment.destination) }
        pair.run(0.1)
        #expect(pair.west.core.counters.responsesRetransmitted == before + 1)
    }

    // MARK: Hostile fragments

    /// East plays the peer of a live SA; both ends split at 576 octets.
    static func live() throws -> (pair: Pair, forge: Forge, path: Path) {
        let pair = Pair()
        (pair.eastSide.dpd, pair.westSide.dpd) = (.zero, .zero)
        #expect(try pair.establish())
        let forge = try #require(Forge(pair.east))
        let path = Path(local: Endpoint(pair.west.address, 500), remote: Endpoint(pair.east.address, 500))
        pair.network.history = []
        return (pair, forge, path)
    }

    static func fragment(
        _ forge: Forge, _ number: UInt16, of total: UInt16, chunk: [UInt8], first: PayloadType = .none, id: UInt32 = 2,
        exchange: ExchangeType = .informational
    ) throws -> [UInt8] {
        let suite = try #require(forge.sa.suite)
        let keys = try #require(forge.sa.ourKeys)
        return try MessageSealer(crypto: OpenSSLCrypto(), cipher: suite.cipher).sealFragment(
            forge.sa.header(exchange, isResponse: false, id: id), first: first, chunk: chunk,
            FragmentNumber(number: number, total: total), keys: keys, iv: forge.random.bytes(suite.cipher.ivBytes))
    }

    /// An INFORMATIONAL request with one vendor id, in pieces of 10 octets.
    static func pieces() -> [[UInt8]] {
        let inner = PayloadChain.encode([.vendorID([UInt8](repeating: 7, count: 26))])
        return stride(from: 0, to: inner.count, by: 10).map { Array(inner[$0..<min($0 + 10, inner.count)]) }
    }

    @Test func `fragments from nobody, with impossible numbers, or already there are dropped`() throws {
        let (pair, forge, path) = try Self.live()
        let core = pair.west.core
        let pieces = Self.pieces()
        func give(_ bytes: [UInt8]) { core.handleDatagram(bytes, path: path, now: pair.now) }
        for (number, total) in [(0, 3), (4, 3), (1, 0), (0, 0), (1, 129), (1, 65535)] as [(UInt16, UInt16)] {
            give(try Self.fragment(forge, number, of: total, chunk: pieces[0], first: .vendorID))
        }
        #expect(core.counters.fragmentsRefused == 6 && core.counters.fragmentsReceived == 0)
        // Tampered with: in the numbers, which are authenticated, or anywhere else.
        let good = try Self.fragment(forge, 1, of: 3, chunk: pieces[0], first: .vendorID)
        let before = core.counters.unauthentic
        for position in [33, 40, good.count - 1] {
            var bad = good
            bad[position] ^= 2
            give(bad)
        }
        #expect(core.counters.unauthentic == before + 3 && core.counters.fragmentsReceived == 0)
        give(good)
        give(good)
        #expect(core.counters.fragmentsReceived == 1 && core.counters.fragmentsRefused == 7)
        give(try Self.fragment(forge, 2, of: 3, chunk: pieces[1], exchange: .createChildSA))
        #expect(core.counters.fragmentsRefused == 8)
        give(try Self.fragment(forge, 3, of: 3, chunk: pieces[2]))
        #expect(core.pollTransmit() == nil)
        give(try Self.fragment(forge, 2, of: 3, chunk: pieces[1]))
        #expect(core.counters.messagesReassembled == 1)
        let answer = try #require(core.pollTransmit())
        #expect(try forge.open(answer.bytes).all.isEmpty)
        #expect(!Self.isFragment(answer.bytes))
    }

    @Test func `a message split anew starts over, and an older splitting is not mixed in`() throws {
        let (pair, forge, path) = try Self.live()
        let core = pair.west.core
        let pieces = Self.pieces()
        func give(_ bytes: [UInt8]) { core.handleDatagram(bytes, path: path, now: pair.now) }
        let whole = pieces.reduce([], +)
        give(try Self.fragment(forge, 1, of: 2, chunk: Array(whole[..<20]), first: .vendorID))
        give(try Self.fragment(forge, 3, of: 3, chunk: pieces[2]))
        // The older set has two fragments: now it is too late for its second.
        give(try Self.fragment(forge, 2, of: 2, chunk: Array(whole[20...])))
        #expect(core.pollTransmit() == nil && core.counters.fragmentsRefused == 1)
        give(try Self.fragment(forge, 1, of: 3, chunk: pieces[0], first: .vendorID))
        give(try Self.fragment(forge, 2, of: 3, chunk: pieces[1]))
        #expect(core.pollTransmit() != nil)
    }

    @Test func `fragments that never become a message are forgotten, and so are those of too long a message`() throws {
        let (pair, forge, path) = try Self.live()
        let core = pair.west.core
        func give(_ bytes: [UInt8]) { core.handleDatagram(bytes, path: path, now: pair.now) }
        give(try Self.fragment(forge, 1, of: 3, chunk: [1, 2, 3], first: .vendorID))
        pair.run(21)
        #expect(core.counters.reassembliesExpired == 1)
        let long = [UInt8](repeating: 0, count: 4000)
        for number in UInt16(1)...5 {
            give(try Self.fragment(forge, number, of: 9, chunk: long, first: number == 1 ? .vendorID : .none))
        }
        #expect(core.counters.fragmentsRefused == 1)
        let sa = try #require(core.allSAs.first)
        #expect(sa.fragmentation.request == nil && sa.established != nil)
        // The same message id is still good for a message that fits.
        for (index, piece) in Self.pieces().enumerated() {
            give(try Self.fragment(forge, UInt16(index + 1), of: 3, chunk: piece, first: index == 0 ? .vendorID : .none))
        }
        #expect(core.pollTransmit() != nil)
    }

    @Test func `what fragments carry is parsed only when all are there, and garbage ends the IKE SA like any garbage`() throws {
        let (pair, forge, path) = try Self.live()
        let core = pair.west.core
        for number in UInt16(1)...2 {
            core.handleDatagram(
                try Self.fragment(forge, number, of: 2, chunk: [0, 0, 0, 1], first: .notify), path: path, now: pair.now)
        }
        let answer = try #require(core.pollTransmit())
        #expect(try forge.open(answer.bytes).notify(.invalidSyntax) != nil)
    }

    @Test func `an initiator that sends more than any message before it authenticates is dropped`() throws {
        let pair = Self.pair(eastBytes: 576, westBytes: 576)
        pair.network.filter = { bytes, _, _ in !Self.isFragment(bytes) }
        try pair.start()
        pair.run(0.5)
        let forge = Forge(sa: try #require(pair.east.core.allSAs.first { $0.suite != nil }))
        let path = Path(local: Endpoint(pair.west.address, 500), remote: Endpoint(pair.east.address, 500))
        #expect(pair.west.core.tableSizes["halfOpen"] == 1)
        for number in UInt16(1)...5 {
            let bytes = try Self.fragment(
                forge, number, of: 9, chunk: [UInt8](repeating: 0, count: 4000), id: 1, exchange: .ikeAuth)
            pair.west.core.handleDatagram(bytes, path: path, now: pair.now)
        }
        #expect(pair.west.core.tableSizes["halfOpen"] == 0 && pair.west.core.tableSizes["sas"] == 0)
    }
}
