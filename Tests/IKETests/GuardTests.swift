import Crypto
import IKE
import IPsec
import Testing
import Wire

/// What protects an SA from strangers, from other connections, and from the end of another SA.
@Suite struct GuardTests {
    // MARK: INITIAL_CONTACT

    /// West has two connections with the same identities but secrets of their own; whoever knows one secret must not take the
    /// other connection down.
    @Test func `an INITIAL_CONTACT drops nothing of another connection with the same identities`() throws {
        let pair = Pair()
        #expect(try pair.establish())
        var otherSide = pair.westSide
        otherSide.secret = "the secret of the other connection"
        otherSide.remoteAddress = IPAddress("192.0.2.77")!
        otherSide.change = { $0.name = "other" }
        let other = try Pair.plan(otherSide, local: pair.west.address)
        pair.west.core.addConnection(other, now: pair.now)
        // A third gateway that says it is east, with the other connection's secret, and that it is the only one.
        let third = Node("third", "192.0.2.77", seed: 99)
        pair.network.nodes.append(third)
        var side = pair.eastSide
        side.secret = "the secret of the other connection"
        third.core.addConnection(try Pair.plan(side, local: third.address), now: pair.now)
        #expect(pair.network.run(for: .seconds(5)) { third.installed.count == 1 })
        pair.run(5)
        #expect(pair.west.core.tableSizes["sas"] == 2)
        #expect(pair.west.logs.allSatisfy { !$0.contains("INITIAL_CONTACT") })
        #expect(pair.isUp && pair.east.downs.isEmpty && pair.west.downs.isEmpty)
        // The same peer, starting anew with the same secret, is believed.
        third.restart()
        third.core.addConnection(try Pair.plan(side, local: third.address), now: pair.now)
        #expect(pair.network.run(for: .seconds(5)) { third.installed.count == 1 })
        #expect(pair.west.logs.contains { $0.contains("INITIAL_CONTACT") })
        pair.run(5)
        #expect(pair.west.core.tableSizes["sas"] == 2 && pair.isUp && pair.mismatchOfEast == nil)
    }

    @Test func `an initiator with another SA to the same peer does not claim to be alone`() throws {
        let pair = Pair()
        #expect(try pair.establish())
        func claims() throws -> Int {
            pair.west.logs.filter { $0.contains("INITIAL_CONTACT") }.count
        }
        pair.east.core.authenticateAnew(connection: "c", now: pair.now)
        #expect(RekeyTests.watch(pair, 10))
        #expect(try claims() == 0)
        #expect(pair.west.core.tableSizes["identities"] == 1 && pair.east.core.tableSizes["identities"] == 1)
    }

    @Test func `looking for other SAs of a peer does not walk through those of all peers`() throws {
        let hub = Node("hub", "198.51.100.1", seed: 5, settings: InitTests.settings { $0.cookieThreshold = 1 << 20 })
        let network = Network()
        network.keepsHistory = false
        let proposals = [try IKEProposal(keywords: "aes256gcm16-prfsha256-x25519")]
        func plan(_ name: String, _ here: Node, _ there: Node, _ mine: String, _ other: String, _ start: StartAction) throws
            -> ConnectionPlan
        {
            let all = [TrafficSelector(IPPrefix("10.0.0.0/8")!)]
            return ConnectionPlan(
                name: name, localAddress: here.address, remoteAddress: there.address, localIdentity: .fqdn(mine),
                remoteIdentity: .fqdn(other), presharedKey: OpenSSLCryptoForTests.shared.secret(Array(name.utf8)),
                proposals: proposals, dpdInterval: .zero,
                children: [
                    ChildPlan(
                        name: "net", localSelectors: all, remoteSelectors: all,
                        proposals: [try ESPProposal(keywords: "aes256gcm16")], start: start)
                ])
        }
        var plans: [ConnectionPlan] = []
        for index in 0..<50 {
            let spoke = Node("spoke", "203.0.113.\(index)", seed: UInt64(index) + 1000)
            network.nodes = [hub, spoke]
            plans.append(try plan("p\(index)", hub, spoke, "hub", "p\(index)", .manual))
            hub.core.addConnection(plans[index], now: network.now)
            spoke.core.addConnection(try plan("p\(index)", spoke, hub, "p\(index)", "hub", .immediately), now: network.now)
            network.run(for: .milliseconds(100))
        }
        #expect(hub.installed.count == 50 && hub.core.tableSizes["identities"] == 50)
        for plan in plans { #expect(hub.core.contacts(plan, at: plan.remoteAddress!).count == 1) }
        hub.core.removeConnection("p0", now: network.now)
        #expect(hub.core.tableSizes["directory"] == 49)
        #expect(hub.core.contacts(plans[1], at: plans[1].remoteAddress!).count == 1)
    }

    // MARK: Strangers

    @Test func `our own first message, reflected, makes nothing`() throws {
        let pair = Pair()
        try pair.configureEast()
        pair.network.collect()
        let own = try #require(pair.network.history.first)
        let before = pair.east.core.tableSizes
        let unexpected = pair.east.core.counters.unexpected
        pair.east.core.handleDatagram(own.bytes, path: Path(local: own.source, remote: own.destination), now: pair.now)
        #expect(pair.east.core.pollTransmit() == nil)
        #expect(pair.east.core.tableSizes["sas"] == before["sas"] && pair.east.core.tableSizes["halfOpen"] == 0)
        #expect(pair.east.core.counters.unexpected == unexpected + 1)
    }

    @Test func `one source holds no more half-open SAs than its share, and others still get in`() throws {
        let settings = InitTests.settings { $0.cookieThreshold = 1 << 20 }
        let pair = Pair(settings: settings)
        pair.westSide.remoteAddress = nil
        try pair.configureWest()
        func knock(_ spi: UInt64, from address: String) throws -> Bool {
            let path = Path(local: Endpoint(pair.west.address, 500), remote: Endpoint(IPAddress(address)!, 500))
            return try !InitTests.knock(pair.west, spi, path: path, now: pair.now).isEmpty
        }
        var answered = 0
        for spi in 1...100 where try knock(UInt64(spi), from: "198.51.100.9") { answered += 1 }
        let most = Bounds.unverifiedPerAddress + Bounds.halfOpenPerStranger
        #expect(answered == most && pair.west.core.counters.halfOpenRefused == 100 - most)
        #expect(try knock(1000, from: "198.51.100.10"))
        // They are forgotten, and so is the count.
        pair.run(31)
        #expect(pair.west.core.tableSizes["halfOpen"] == 0)
        #expect(try knock(2000, from: "198.51.100.9"))
    }

    @Test func `no IV is used twice under a key, whatever the exchanges`() throws {
        let pair = Pair()
        (pair.eastSide.dpd, pair.westSide.dpd) = (.seconds(2), .seconds(3))
        pair.network.faults = Network.Faults(loss: 0.1, duplication: 0.2, spread: .milliseconds(100))
        try pair.start()
        for round in 0..<20 {
            pair.run(5)
            let node = round % 2 == 0 ? pair.east : pair.west
            _ = node.core.rekey(connection: "c", child: nil, ike: round % 5 == 4, now: pair.now)
        }
        // Under one key: one direction of one IKE SA. Only identical messages may share an IV: they are retransmissions.
        struct Use: Hashable { var source: IPAddress, initiatorSPI: [UInt8], iv: [UInt8] }
        var seen: [Use: [UInt8]] = [:]
        var sealed = 0
        for datagram in pair.network.history {
            let message = try WireMessage(parsing: datagram.bytes)
            guard message.encrypted != nil else { continue }
            sealed += 1
            // IKE header 28 octets, payload header 4, then the IV.
            let use = Use(
                source: datagram.source.address, initiatorSPI: Array(datagram.bytes[..<8]), iv: Array(datagram.bytes[32..<40]))
            if let other = seen[use] { #expect(other == datagram.bytes, "an IV twice, in different messages") }
            seen[use] = datagram.bytes
        }
        #expect(sealed > 100 && seen.count > 60)
    }

    // MARK: What a closing SA leaves behind

    @Test(arguments: [true, false])
    func `an IKE SA that is closed while it is rekeyed leaves nothing on the peer`(_ isRemoved: Bool) throws {
        let pair = Pair()
        (pair.eastSide.dpd, pair.westSide.dpd) = (.zero, .zero)
        #expect(try pair.establish())
        #expect(pair.east.core.rekey(connection: "c", child: nil, ike: true, now: pair.now))
        pair.network.run(for: .milliseconds(5))
        // The request is on its way; the answer will find the SA closing.
        if isRemoved {
            pair.east.core.removeConnection("c", now: pair.now)
        } else {
            #expect(pair.east.core.terminate(connection: "c", child: nil, now: pair.now))
        }
        pair.run(30)
        #expect(pair.west.core.tableSizes["sas"] == 0, "the SA that the peer made is gone too")
        #expect(pair.west.installed.isEmpty && pair.east.installed.isEmpty)
        #expect(pair.east.core.tableSizes["sas"] == 0)
        #expect(pair.east.faults.isEmpty && pair.west.faults.isEmpty)
    }
}

extension Pair {
    /// As `mismatch`, for a west that has other peers too.
    var mismatchOfEast: String? {
        for child in east.installed {
            guard let other = west.installed.first(where: { $0.inboundSPI == child.outboundSPI }),
                other.outboundSPI == child.inboundSPI, other.outboundKey.octets == child.inboundKey.octets
            else { return "east has a child that west has not" }
        }
        return east.installed.isEmpty ? "no child is in place" : nil
    }
}
