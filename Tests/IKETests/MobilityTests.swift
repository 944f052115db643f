import Crypto
import IPsec
import Testing
import Wire

@testable import IKE

/// RFC 4555, and peers with several addresses.
@Suite struct MobilityTests {
    static let backup = IPAddress("198.51.100.1")!

    /// East begins at 192.0.2.1 and may also be 198.51.100.1; west 192.0.2.2 and 198.51.100.2.
    static func pair(seed: UInt64 = 1, nat: NATTraversal = .auto, west isWestListed: Bool = true) -> Pair {
        let pair = Pair(seed: seed)
        (pair.eastSide.paths.mobike, pair.westSide.paths.mobike) = (true, true)
        (pair.eastSide.nat, pair.westSide.nat) = (nat, nat)
        pair.eastSide.paths.otherLocalAddresses = [backup]
        pair.westSide.paths.otherLocalAddresses = [IPAddress("198.51.100.2")!]
        if isWestListed { pair.westSide.paths.otherRemoteAddresses = [backup] }
        pair.east.setAddresses("192.0.2.1", now: pair.now)
        pair.west.setAddresses("192.0.2.2", "198.51.100.2", now: pair.now)
        return pair
    }

    static func path(_ node: Node, _ pair: Pair) -> Path? { node.status(now: pair.now)?.ike?.path }

    static func sa(_ node: Node) -> IKESA? { node.core.allSAs.last { $0.established != nil } }

    /// INFORMATIONAL messages from east since the history was cleared.
    static func informational(_ pair: Pair, from node: Node) -> Int {
        pair.network.history.count { datagram in
            let start = datagram.source.port == 4500 ? 4 : 0
            return node.addresses.contains(datagram.source.address) && datagram.bytes.count > 24
                && datagram.bytes[start + 18] == ExchangeType.informational.rawValue
        }
    }

    // MARK: Addresses in turn

    @Test(arguments: [true, false])
    func `a child whose address is gone says so until it is back`(_ mobike: Bool) throws {
        let pair = Pair()
        for change in [\Pair.eastSide, \Pair.westSide] { pair[keyPath: change].paths.mobike = mobike }
        try pair.establish()
        func problem() -> String { pair.east.status(now: pair.now)?.children.first?.problem?.sentence ?? "" }
        pair.east.setAddresses("192.0.2.1", "198.51.100.1", now: pair.now)
        #expect(problem() == "")
        pair.east.core.setLocalAddresses([], now: pair.now)
        #expect(problem().contains("192.0.2.1 is not on this machine") && pair.isUp(pair.east))
        pair.east.core.setLocalAddresses([pair.east.address], now: pair.now)
        #expect(problem() == "")
    }

    @Test func `an initiator tries the peer's addresses in turn until one answers`() throws {
        for position in 0..<3 {
            let pair = Pair()
            let addresses = ["203.0.113.7", "203.0.113.8", "203.0.113.9"].map { IPAddress($0)! }
            pair.eastSide.remoteAddress = addresses[0]
            pair.eastSide.paths.otherRemoteAddresses = Array(addresses[1...])
            pair.west.addresses = [addresses[position]]
            try pair.configureEast()
            var plan = try Pair.plan(pair.westSide, local: addresses[position])
            plan.paths = PathPlan()
            pair.west.core.addConnection(plan, now: pair.now)
            #expect(pair.network.run(for: .seconds(8)) { pair.isUp })
            #expect(Self.path(pair.east, pair)?.remote.address == addresses[position])
        }
    }

    @Test func `a round without an answer is followed by the usual pause`() throws {
        let pair = Pair()
        pair.eastSide.paths.otherRemoteAddresses = [IPAddress("203.0.113.8")!]
        try pair.configureEast()
        pair.west.isAlive = false
        pair.run(120)
        // Two addresses, three transmissions each, and then ten seconds and growing, up to twenty, from the last attempt's begin.
        let sent = pair.network.history.count { $0.source.address == pair.east.address }
        #expect((30...60).contains(sent), "\(sent) datagrams")
        #expect(Set(pair.network.history.map(\.destination.address)).count == 2)
    }

    @Test func `a responder takes a peer from any of its addresses, on any of its own`() throws {
        let pair = Self.pair()
        pair.east.setAddresses("198.51.100.1", now: pair.now)
        pair.eastSide.remoteAddress = IPAddress("198.51.100.2")
        #expect(try pair.establish(within: .seconds(5)))
        #expect(Self.path(pair.west, pair)?.remote.address == Self.backup)
        #expect(Self.path(pair.west, pair)?.local.address == IPAddress("198.51.100.2"))
    }

    // MARK: IKE_AUTH

    @Test func `both ends that want it agree on mobility and float to port 4500 without a NAT`() throws {
        for (east, west) in [(true, true), (true, false), (false, true)] {
            let pair = Pair()
            (pair.eastSide.paths.mobike, pair.westSide.paths.mobike) = (east, west)
            #expect(try pair.establish())
            #expect(pair.mismatch == nil)
            #expect(Self.sa(pair.east)?.mobility.isNegotiated == (east && west))
            #expect(Self.sa(pair.west)?.mobility.isNegotiated == (east && west))
            #expect(Self.path(pair.east, pair)?.local.port == (east ? 4500 : 500))
            #expect(!pair.east.installed[0].path.isUDPEncapsulated && !pair.west.installed[0].path.isUDPEncapsulated)
        }
    }

    @Test func `each end knows the other's further addresses`() throws {
        let pair = Self.pair()
        pair.east.setAddresses("192.0.2.1", "198.51.100.1", now: pair.now)
        #expect(try pair.establish())
        #expect(Self.sa(pair.east)?.mobility.peerAddresses == [IPAddress("198.51.100.2")!])
        #expect(Self.sa(pair.west)?.mobility.peerAddresses == [Self.backup])
    }

    @Test func `without NAT traversal an address that is changed on the way ends the attempt`() throws {
        let pair = Self.pair(nat: .off)
        #expect(try pair.establish())
        let other = Pair(eastAddress: "10.0.0.1")
        (other.eastSide.paths.mobike, other.westSide.paths.mobike) = (true, true)
        (other.eastSide.nat, other.westSide.nat) = (.off, .off)
        other.network.natBoxes = [Network.NATBox(inside: "10.0.0.1", outside: "192.0.2.1")]
        #expect(try !other.establish(within: .seconds(5)))
        #expect(other.west.logs.contains { $0.contains("NO_NATS_ALLOWED") })
        #expect(other.east.status(now: other.now)?.reason?.contains("UNEXPECTED_NAT_DETECTED") == true)
    }

    // MARK: The initiator moves

    @Test(arguments: [NATTraversal.auto, .off, .force])
    func `the initiator's address changes, and both ends' children follow within a round trip`(nat: NATTraversal) throws {
        let pair = Self.pair(nat: nat)
        #expect(try pair.establish())
        let before = pair.east.installed.map(\.inboundSPI)
        (pair.east.moves, pair.west.moves, pair.network.history) = ([], [], [])
        pair.east.setAddresses("198.51.100.1", now: pair.now)
        // At once here, and there when the update has arrived: the address is one that the configuration names.
        pair.network.run(for: .milliseconds(1))
        #expect(pair.east.moves.map(\.local) == [Self.backup])
        pair.network.run(for: .milliseconds(12))
        #expect(pair.west.moves.map(\.remote) == [Self.backup])
        pair.run(5)
        #expect(pair.east.installed.map(\.inboundSPI) == before && pair.isUp)
        #expect(Self.path(pair.east, pair)?.local.address == Self.backup)
        #expect(Self.path(pair.west, pair)?.remote.address == Self.backup)
        #expect(pair.east.moves.count == 1 && pair.west.moves.count == 1)
        // The update, at once on each of the two paths that there are, and west's return routability check.
        #expect(Self.informational(pair, from: pair.east) == 3 && Self.informational(pair, from: pair.west) == 3)
        #expect((nat == .force) == (pair.west.moves[0].remotePort != 0))
    }

    @Test func `to an address that nobody vouches for children follow when the peer has answered from there`() throws {
        let pair = Self.pair(west: false)
        #expect(try pair.establish())
        pair.west.moves = []
        pair.east.setAddresses("198.51.100.1", now: pair.now)
        pair.network.run(for: .milliseconds(25))
        #expect(pair.west.moves.isEmpty)
        #expect(Self.path(pair.west, pair)?.remote.address == Self.backup)
        // A child that is made meanwhile stays on the verified path too.
        #expect(pair.west.status(now: pair.now)?.children[0].path?.remote == IPAddress("192.0.2.1"))
        pair.run(1)
        #expect(pair.west.moves.map(\.remote) == [Self.backup])
    }

    @Test func `an address that comes back later is used then`() throws {
        let pair = Self.pair()
        #expect(try pair.establish())
        pair.east.setAddresses(now: pair.now)
        pair.run(2)
        #expect(pair.east.moves.isEmpty && pair.isUp)
        pair.east.setAddresses("198.51.100.1", now: pair.now)
        pair.run(2)
        #expect(pair.east.moves.last?.local == Self.backup && pair.west.moves.last?.remote == Self.backup)
        pair.east.setAddresses("192.0.2.1", "198.51.100.1", now: pair.now)
        pair.run(2)
        #expect(Self.path(pair.east, pair)?.local.address == Self.backup, "what works stays")
        pair.east.setAddresses("192.0.2.1", now: pair.now)
        pair.run(2)
        #expect(pair.west.moves.last?.remote == IPAddress("192.0.2.1"))
        #expect(pair.mismatch == nil && pair.isUp)
    }

    @Test func `addresses change while requests are under way, with loss, and the tunnel stays`() throws {
        for seed in UInt64(1)...20 {
            let pair = Self.pair(seed: seed)
            pair.eastSide.lifetime = .seconds(20)
            #expect(try pair.establish())
            pair.network.faults = Network.Faults(loss: 0.15, duplication: 0.1, spread: .milliseconds(60))
            for round in 0..<12 {
                pair.east.setAddresses(round % 2 == 0 ? "198.51.100.1" : "192.0.2.1", now: pair.now)
                if round % 5 == 2 { _ = pair.east.core.rekey(connection: "c", child: nil, ike: true, now: pair.now) }
                if round % 5 == 3 { _ = pair.west.core.rekey(connection: "c", child: nil, ike: true, now: pair.now) }
                pair.run(round % 3 == 0 ? 0.2 : 2.5)
            }
            pair.network.faults = .none
            pair.run(15)
            #expect(pair.isUp && pair.mismatch == nil, "seed \(seed)")
            #expect(pair.east.downs.isEmpty && pair.west.downs.isEmpty, "seed \(seed): \(pair.east.downs) \(pair.west.downs)")
            #expect(Self.path(pair.west, pair)?.remote.address == IPAddress("192.0.2.1"), "seed \(seed)")
            #expect(pair.west.moves.last?.remote == IPAddress("192.0.2.1"), "seed \(seed)")
        }
    }

    // MARK: The responder moves

    @Test func `the responder's address changes: it says so, and the initiator follows`() throws {
        let pair = Self.pair()
        #expect(try pair.establish())
        pair.west.setAddresses("198.51.100.2", now: pair.now)
        pair.run(1)
        #expect(pair.west.moves.first?.local == IPAddress("198.51.100.2"))
        #expect(pair.east.moves.map(\.remote) == [IPAddress("198.51.100.2")!])
        #expect(Self.path(pair.east, pair)?.remote.address == IPAddress("198.51.100.2"))
        #expect(pair.isUp && pair.mismatch == nil)
    }

    @Test func `an address that the peer tells of or takes back is remembered`() throws {
        let pair = Self.pair()
        #expect(try pair.establish())
        pair.west.setAddresses("192.0.2.2", now: pair.now)
        pair.run(1)
        #expect(Self.sa(pair.east)?.mobility.peerAddresses == [IPAddress("192.0.2.2")!])
        pair.east.setAddresses("192.0.2.1", "198.51.100.1", now: pair.now)
        pair.run(1)
        #expect(Self.sa(pair.west)?.mobility.peerAddresses.contains(Self.backup) == true)
    }

    // MARK: Paths that die

    @Test func `a path that goes silent is replaced by one that answers`() throws {
        let pair = Self.pair()
        pair.east.setAddresses("192.0.2.1", "198.51.100.1", now: pair.now)
        (pair.eastSide.dpd, pair.westSide.dpd) = (.seconds(2), .seconds(2))
        #expect(try pair.establish())
        pair.network.filter = { _, source, destination in
            source.address != IPAddress("192.0.2.1") && destination.address != IPAddress("192.0.2.1")
        }
        pair.run(8)
        #expect(pair.isUp)
        #expect(pair.east.moves.last?.local == Self.backup && pair.west.moves.last?.remote == Self.backup)
        // West's first address dies as well.
        pair.network.filter = { _, source, destination in
            [source.address, destination.address].allSatisfy { $0.description.hasPrefix("198.51.100.") }
        }
        pair.run(8)
        #expect(pair.isUp && pair.east.downs.isEmpty && pair.west.downs.isEmpty)
        #expect(pair.east.moves.last == TunnelPath(local: Self.backup, remote: IPAddress("198.51.100.2")!))
        #expect(pair.west.moves.last == TunnelPath(local: IPAddress("198.51.100.2")!, remote: Self.backup))
    }

    @Test func `a NAT that maps anew is noticed by the initiator behind it`() throws {
        let pair = NATTests.behindNAT()
        (pair.eastSide.paths.mobike, pair.westSide.paths.mobike) = (true, true)
        pair.eastSide.dpd = .seconds(5)
        pair.westSide.dpd = .zero
        #expect(try pair.establish())
        pair.network.natBoxes[0].mappings = [:]
        pair.network.natBoxes[0].nextPort = 50_001
        pair.run(11)
        #expect(pair.west.moves.last.map { $0.remotePort >= 50_001 } == true)
        #expect(pair.isUp)
        // A rekeyed IKE SA has other digests: that alone is no change.
        #expect(pair.east.core.rekey(connection: "c", child: nil, ike: true, now: pair.now))
        pair.run(11)
        let moves = pair.west.moves.count
        pair.run(30)
        #expect(pair.west.moves.count == moves)
    }

    // MARK: What peers must not do

    /// East is played with its keys; what it says comes from `source`.
    static func played() throws -> (
        pair: Pair, forge: Forge, send: (_ payloads: [Payload], _ source: String, _ id: UInt32) throws -> PayloadList?
    ) {
        let pair = Self.pair(west: false)
        (pair.eastSide.dpd, pair.westSide.dpd) = (.zero, .zero)
        #expect(try pair.establish())
        let forge = try #require(Forge(pair.east))
        let core = pair.west.core
        return (
            pair, forge,
            { payloads, source, id in
                let path = Path(local: Endpoint(pair.west.address, 4500), remote: Endpoint(IPAddress(source)!, 4500))
                let bytes = [0, 0, 0, 0] + (try forge.request(.informational, payloads, id: id))
                core.handleDatagram(bytes, path: path, now: pair.now)
                guard let answer = core.pollTransmit() else { return nil }
                #expect(answer.path == path)
                return try forge.open(Array(answer.bytes.dropFirst(4)))
            }
        )
    }

    @Test func `an INFORMATIONAL exchange without an update changes nothing`() throws {
        let (pair, _, send) = try Self.played()
        let before = try #require(Self.path(pair.west, pair))
        #expect(try send([], "203.0.113.5", 2)?.all.isEmpty == true)
        #expect(Self.path(pair.west, pair) == before)
    }

    @Test func `addresses that no peer can have are refused`() throws {
        let (pair, _, send) = try Self.played()
        let before = try #require(Self.path(pair.west, pair))
        var id: UInt32 = 2
        for source in ["127.0.0.1", "224.0.0.5", "0.0.0.1", "255.255.255.255", "192.0.2.2", "198.51.100.2"] {
            let answer = try #require(try send([.notify(Notify(.updateSAAddresses))], source, id))
            #expect(answer.notify(.unacceptableAddresses) != nil, "\(source)")
            id += 1
        }
        #expect(Self.path(pair.west, pair) == before)
        #expect(pair.west.moves.isEmpty)
    }

    @Test func `cookies are echoed as they are, others than of 8 to 64 octets are not`() throws {
        let (_, _, send) = try Self.played()
        for (id, count) in [(2, 8), (3, 64)] as [(UInt32, Int)] {
            let cookie = [UInt8](repeating: 9, count: count)
            #expect(try send([.notify(Notify(.cookie2, data: cookie))], "192.0.2.1", id)?.notify(.cookie2)?.data == cookie)
        }
        for (id, count) in [(4, 7), (5, 65)] as [(UInt32, Int)] {
            let cookie = [UInt8](repeating: 9, count: count)
            #expect(try send([.notify(Notify(.cookie2, data: cookie))], "192.0.2.1", id)?.notify(.cookie2) == nil)
        }
    }

    @Test func `a peer whose cookie is not the one that was sent is closed`() throws {
        let (pair, forge, send) = try Self.played()
        _ = try send([.notify(Notify(.updateSAAddresses))], "203.0.113.5", 2)
        let check = try #require(pair.west.core.pollTransmit())
        #expect(check.path.remote.address == IPAddress("203.0.113.5"))
        let asked = try forge.open(Array(check.bytes.dropFirst(4)))
        #expect(asked.notify(.cookie2)?.data.count == 16)
        // East's own core answers for it, with another cookie.
        let suite = try #require(forge.sa.suite)
        let keys = try #require(forge.sa.ourKeys)
        let id = try WireMessage(parsing: Array(check.bytes.dropFirst(4))).header.messageID
        let answer = try MessageSealer(crypto: OpenSSLCrypto(), cipher: suite.cipher).seal(
            forge.sa.header(.informational, isResponse: true, id: id),
            [.notify(Notify(.cookie2, data: [UInt8](repeating: 1, count: 16)))], keys: keys,
            iv: forge.random.bytes(suite.cipher.ivBytes))
        pair.west.core.handleDatagram([0, 0, 0, 0] + answer, path: check.path, now: pair.now)
        pair.west.takeEvents(now: pair.now)
        #expect(pair.west.installed.isEmpty && pair.west.moves.isEmpty)
        #expect(pair.west.downs.last?.contains("return routability") == true)
    }

    @Test func `addresses in notifies are bounded and checked`() throws {
        let (pair, _, send) = try Self.played()
        var payloads = (0..<40).map { Payload.notify(Notify(.additionalIP4Address, data: [203, 0, 113, UInt8($0)])) }
        payloads.insert(.notify(Notify(.additionalIP4Address, data: [127, 0, 0, 1])), at: 0)
        payloads.insert(.notify(Notify(.additionalIP4Address, data: [1, 2, 3])), at: 0)
        // Behind east: the way there is the tunnel.
        payloads.insert(.notify(Notify(.additionalIP4Address, data: [10, 1, 0, 1])), at: 0)
        payloads.insert(.notify(Notify(.additionalIP6Address, data: [1, 2, 3, 4])), at: 0)
        _ = try send(payloads, "192.0.2.1", 2)
        let known = try #require(Self.sa(pair.west)).mobility.peerAddresses
        #expect(known.count == Bounds.additionalAddresses + 1)
        #expect(!known.contains(IPAddress("127.0.0.1")!) && !known.contains(IPAddress("10.1.0.1")!))
    }

    @Test func `a prohibition of NATs is obeyed in updates`() throws {
        let (pair, _, send) = try Self.played()
        let lie: [UInt8] = [203, 0, 113, 6, 192, 0, 2, 2, 0x11, 0x94, 0x11, 0x94]
        let answer = try send(
            [.notify(Notify(.updateSAAddresses)), .notify(Notify(.noNATsAllowed, data: lie))], "203.0.113.5", 2)
        #expect(answer?.notify(.unexpectedNATDetected) != nil)
        #expect(Self.path(pair.west, pair)?.remote.address == IPAddress("192.0.2.1"))
        let truth: [UInt8] = [203, 0, 113, 5, 192, 0, 2, 2, 0x11, 0x94, 0x11, 0x94]
        _ = try send([.notify(Notify(.updateSAAddresses)), .notify(Notify(.noNATsAllowed, data: truth))], "203.0.113.5", 3)
        #expect(Self.path(pair.west, pair)?.remote.address == IPAddress("203.0.113.5"))
    }
}
