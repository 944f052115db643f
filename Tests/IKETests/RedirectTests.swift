import Crypto
import IPsec
import Testing
import Wire

@testable import IKE

/// RFC 5685. East begins; west sends it to south, which knows the same peer.
@Suite struct RedirectTests {
    static let southAddress = IPAddress("198.51.100.9")!

    static func trio() throws -> (pair: Pair, south: Node) {
        let pair = Pair()
        let south = Node("south", "198.51.100.9", seed: 77)
        pair.network.nodes.append(south)
        return (pair, south)
    }

    static func configure(_ south: Node, _ pair: Pair, redirectTo: PathPlan.Gateway? = nil) throws {
        var plan = try Pair.plan(pair.westSide, local: south.address)
        plan.paths.redirectTo = redirectTo
        south.core.addConnection(plan, now: pair.now)
    }

    static func isUp(_ node: Node, _ pair: Pair) -> Bool {
        let status = node.status(now: pair.now)
        return status?.state == .established && status?.children.first?.state == .installed
    }

    /// The REDIRECTED_FROM of east's first messages to a node, as address texts.
    static func redirectedFrom(_ pair: Pair, at node: Node) -> [String] {
        pair.network.history.filter { $0.destination.address == node.address && $0.destination.port == 500 }.compactMap {
            (try? WireMessage(parsing: $0.bytes))?.payloads.notify(.redirectedFrom)?.data
        }.compactMap { (try? RedirectData(parsing: $0))?.gateway.description }
    }

    @Test func `an initiator is redirected in IKE_SA_INIT, and says from where it comes`() throws {
        let (pair, south) = try Self.trio()
        pair.westSide.paths.redirectTo = .address(Self.southAddress)
        try Self.configure(south, pair)
        try pair.start()
        #expect(pair.network.run(for: .seconds(2)) { pair.isUp(pair.east) && Self.isUp(south, pair) })
        #expect(Self.redirectedFrom(pair, at: south) == ["192.0.2.2"])
        #expect(pair.west.core.tableSizes["sas"] == 0 && pair.west.core.counters.redirectsSent == 1)
        #expect(pair.east.downs.isEmpty)
    }

    @Test func `a peer that does not want to be redirected is served`() throws {
        let (pair, _) = try Self.trio()
        pair.westSide.paths.redirectTo = .address(Self.southAddress)
        pair.eastSide.paths.followsRedirects = false
        #expect(try pair.establish())
        #expect(pair.west.core.counters.redirectsSent == 0)
    }

    @Test func `when connections differ the peer is redirected in IKE_AUTH, once both ends have authenticated`() throws {
        let (pair, south) = try Self.trio()
        try Self.configure(south, pair)
        // West has another connection for the same addresses, which it serves itself.
        var other = pair.westSide
        other.remoteIdentity = .fqdn("other.example")
        var otherPlan = try Pair.plan(other, local: pair.west.address)
        otherPlan.name = "other"
        pair.west.core.addConnection(otherPlan, now: pair.now)
        pair.westSide.paths.redirectTo = .address(Self.southAddress)
        try pair.start()
        #expect(pair.network.run(for: .seconds(2)) { pair.isUp(pair.east) && Self.isUp(south, pair) })
        pair.run(10)
        #expect(pair.west.installations == 0 && pair.west.core.tableSizes["sas"] == 0)
        #expect(Self.isUp(south, pair) && pair.isUp(pair.east))
        #expect(pair.east.installed.count == 1)
    }

    @Test func `a live session is redirected without a gap`() throws {
        let (pair, south) = try Self.trio()
        try Self.configure(south, pair)
        #expect(try pair.establish())
        #expect(pair.west.core.redirect(connection: "c", to: .address(Self.southAddress), now: pair.now) == nil)
        var wasEmpty = false
        pair.network.run(for: .seconds(3)) {
            wasEmpty = wasEmpty || pair.east.installed.isEmpty
            return false
        }
        #expect(!wasEmpty)
        #expect(Self.isUp(south, pair) && pair.isUp(pair.east) && pair.west.installed.isEmpty)
        #expect(pair.east.status(now: pair.now)?.ike?.path.remote.address == Self.southAddress)
    }

    @Test func `only the end that answered can redirect, only a live connection, and only a willing peer`() throws {
        let pair = Pair()
        pair.eastSide.paths.followsRedirects = false
        #expect(
            pair.west.core.redirect(connection: "c", to: .address(Self.southAddress), now: pair.now)?.contains("no connection")
                == true)
        try pair.start()
        #expect(
            pair.west.core.redirect(connection: "c", to: .address(Self.southAddress), now: pair.now)?.contains("not established")
                == true)
        #expect(pair.network.run(for: .seconds(5)) { pair.isUp })
        #expect(
            pair.west.core.redirect(connection: "c", to: .address(Self.southAddress), now: pair.now)?.contains("does not support")
                == true)
        #expect(
            pair.east.core.redirect(connection: "c", to: .address(Self.southAddress), now: pair.now)?.contains("begun by this")
                == true)
        // A peer that we answered cannot redirect us either.
        let forge = try #require(Forge(pair.east))
        let notify = Payload.notify(Notify(.redirect, data: RedirectData(gateway: .address(Self.southAddress)).encoded))
        let path = Path(local: Endpoint(pair.west.address, 500), remote: Endpoint(pair.east.address, 500))
        pair.west.core.handleDatagram(try forge.request(.informational, [notify], id: 2), path: path, now: pair.now)
        pair.run(2)
        #expect(pair.west.core.counters.redirectsFollowed == 0 && pair.isUp(pair.west))
    }

    @Test func `gateways that redirect in a circle are left after five times, with a sentence`() throws {
        let (pair, south) = try Self.trio()
        let third = Node("third", "198.51.100.10", seed: 78)
        pair.network.nodes.append(third)
        pair.westSide.paths.redirectTo = .address(Self.southAddress)
        try Self.configure(south, pair, redirectTo: .address(IPAddress("198.51.100.10")!))
        var plan = try Pair.plan(pair.westSide, local: third.address)
        plan.paths.redirectTo = .address(pair.west.address)
        third.core.addConnection(plan, now: pair.now)
        try pair.start()
        pair.run(6)
        #expect(pair.east.core.counters.redirectsFollowed == 5)
        #expect(pair.east.status(now: pair.now)?.reason?.contains("circle") == true)
        // Five minutes later it may try again.
        pair.run(330)
        #expect(pair.east.core.counters.redirectsFollowed > 5)
    }

    @Test func `a gateway does not send a peer back to where it was redirected from`() throws {
        let (pair, south) = try Self.trio()
        pair.westSide.paths.redirectTo = .address(Self.southAddress)
        try Self.configure(south, pair, redirectTo: .address(pair.west.address))
        try pair.start()
        #expect(pair.network.run(for: .seconds(2)) { pair.isUp(pair.east) && Self.isUp(south, pair) })
    }

    @Test func `names, other nonces, and nonsense are not followed`() throws {
        let pair = Pair()
        pair.network.filter = { bytes, source, _ in source.address == IPAddress("192.0.2.1") }
        try pair.start()
        pair.run(0.1)
        let request = try #require(pair.network.history.first)
        let message = try WireMessage(parsing: request.bytes)
        let nonce = try #require(message.payloads.nonce)
        func answer(_ data: [UInt8]) {
            pair.east.core.handleDatagram(
                WireMessage.encodeClear(message.header.response(), [.notify(Notify(.redirect, data: data))]),
                path: Path(local: request.source, remote: request.destination), now: pair.now)
        }
        let target = PathPlan.Gateway.address(Self.southAddress)
        answer(RedirectData(gateway: target, nonce: [UInt8](repeating: 0, count: 32)).encoded)
        answer(RedirectData(gateway: target).encoded)
        answer([])
        answer([1, 3, 1, 2, 3] + nonce)
        answer([1, 200, 1, 2, 3])
        answer([9, 4, 1, 2, 3, 4] + nonce)
        #expect(pair.east.core.counters.redirectsFollowed == 0 && pair.east.core.counters.unexpected == 6)
        for bad in ["127.0.0.1", "224.0.0.1", "192.0.2.1", "192.0.2.2"] {
            answer(RedirectData(gateway: .address(IPAddress(bad)!), nonce: nonce).encoded)
        }
        #expect(pair.east.core.counters.redirectsFollowed == 0)
        answer(RedirectData(gateway: .name("gw\u{1b}[31m.example"), nonce: nonce).encoded)
        pair.run(5)
        let told = pair.east.logs.joined(separator: "\n")
        #expect(told.contains("names are not resolved") && told.contains("\\x1b") && !told.contains("\u{1b}"))
        #expect(told.contains("let the peer redirect to an address") && told.contains("into remote.address"))
    }

    /// It would be tried again and again from nowhere.
    @Test func `a target of a family in which we have no address is not followed`() throws {
        let pair = Pair()
        pair.westSide.paths.redirectTo = .address(IPAddress("2001:db8::9")!)
        try pair.start()
        pair.run(5)
        #expect(pair.east.core.counters.redirectsFollowed == 0)
        #expect(pair.east.logs.contains { $0.contains("no address of its family") && $0.contains("redirect_to") })
    }

    @Test func `the payload is what RFC 5685 draws`() throws {
        let nonce = [UInt8](repeating: 5, count: 16)
        let data = RedirectData(gateway: .address(IPAddress("198.51.100.9")!), nonce: nonce)
        #expect(data.encoded == [1, 4, 198, 51, 100, 9] + nonce)
        #expect(try RedirectData(parsing: data.encoded) == data)
        let v6 = RedirectData(gateway: .address(IPAddress("2001:db8::9")!))
        #expect(v6.encoded.prefix(2) == [2, 16] && v6.encoded.count == 18)
        #expect(try RedirectData(parsing: v6.encoded) == v6)
        let name = RedirectData(gateway: .name("gw.example"))
        #expect(name.encoded == [3, 10] + Array("gw.example".utf8))
        #expect(try RedirectData(parsing: name.encoded) == name)
    }
}
