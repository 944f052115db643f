import IKE
import IPsec
import Testing
import Wire

@Suite struct LivenessTests {
    @Test(arguments: [1, 2, 3])
    func `with a check every two seconds a dead peer is given up within fifteen`(_ seed: UInt64) throws {
        let pair = Pair(seed: seed)
        pair.eastSide.dpd = .seconds(2)
        pair.westSide.dpd = .seconds(2)
        #expect(try pair.establish())
        pair.run(30)
        #expect(pair.isUp && pair.east.downs.isEmpty)
        pair.west.isAlive = false
        let died = pair.now
        #expect(pair.network.run(for: .seconds(15)) { !pair.east.downs.isEmpty })
        #expect(pair.now - died < .seconds(13))
        #expect(pair.east.installed.isEmpty)
        #expect(pair.east.downs.first?.contains("INFORMATIONAL") == true)
        #expect(pair.east.status(now: pair.now)?.reason?.isEmpty == false)
        #expect(pair.east.core.counters.peersDead == 1)
    }

    @Test func `a dead peer that comes back without its state is connected to again`() throws {
        let pair = Pair()
        pair.eastSide.dpd = .seconds(2)
        #expect(try pair.establish())
        pair.west.isAlive = false
        pair.run(20)
        pair.west.restart()
        pair.west.isAlive = true
        try pair.configureWest()
        #expect(pair.network.run(for: .seconds(30)) { pair.isUp })
        #expect(pair.mismatch == nil)
    }

    @Test func `an on-traffic connection comes back with the next packet, a manual one does not`() throws {
        let pair = Pair()
        pair.eastSide.start = .onTraffic
        pair.eastSide.dpd = .seconds(2)
        pair.westSide.dpd = .zero
        try pair.start()
        pair.east.core.trafficWantsTunnel(connection: "c", child: "net", now: pair.now)
        #expect(pair.network.run(for: .seconds(5)) { pair.isUp })
        pair.west.isAlive = false
        pair.run(30)
        #expect(pair.east.status(now: pair.now)?.state == .failed)
        pair.west.isAlive = true
        pair.run(30)
        #expect(pair.east.status(now: pair.now)?.state == .failed)
        pair.east.core.trafficWantsTunnel(connection: "c", child: "net", now: pair.now)
        #expect(pair.network.run(for: .seconds(5)) { pair.isUp(pair.east) })
    }

    @Test func `inbound traffic makes the check needless`() throws {
        let pair = Pair()
        pair.eastSide.dpd = .seconds(4)
        pair.westSide.dpd = .zero
        #expect(try pair.establish())
        pair.network.history = []
        for _ in 0..<20 {
            pair.run(1)
            pair.east.core.inboundTraffic(connection: "c", now: pair.now)
        }
        #expect(pair.network.history.isEmpty)
        pair.run(5)
        #expect(pair.network.history.count == 2)
    }

    @Test func `without an interval nobody asks`() throws {
        let pair = Pair()
        pair.eastSide.dpd = .zero
        pair.westSide.dpd = .zero
        #expect(try pair.establish())
        pair.network.history = []
        pair.run(600)
        #expect(pair.network.history.isEmpty)
    }

    @Test func `retransmissions are identical and their intervals grow`() throws {
        let pair = Pair()
        pair.eastSide.dpd = .seconds(60)
        pair.westSide.dpd = .zero
        #expect(try pair.establish())
        pair.west.isAlive = false
        var times: [Instant] = []
        pair.network.filter = { _, _, _ in
            times.append(pair.now); return true
        }
        pair.network.history = []
        pair.run(120)
        let first = try #require(pair.network.history.first)
        let sent = pair.network.history.prefix { $0.bytes == first.bytes }.count
        #expect(sent == 6)
        let gaps = zip(times.dropFirst(), times).prefix(sent - 1).map { $0.0 - $0.1 }
        #expect(gaps == gaps.sorted() && Set(gaps).count == gaps.count)
    }

    // MARK: Deletion

    @Test func `taking a connection down deletes it on both ends`() throws {
        let pair = Pair()
        #expect(try pair.establish())
        #expect(pair.east.core.terminate(connection: "c", child: nil, now: pair.now))
        pair.network.collect()
        #expect(pair.east.installed.isEmpty)
        #expect(pair.east.status(now: pair.now)?.state == .down)
        pair.run(1)
        #expect(pair.west.installed.isEmpty)
        #expect(pair.west.status(now: pair.now)?.state == .down)
        #expect(pair.west.status(now: pair.now)?.reason?.contains("deleted") == true)
        pair.run(60)
        #expect(pair.east.status(now: pair.now)?.state == .down)
        #expect(pair.east.core.tableSizes["sas"] == 0 && pair.west.core.tableSizes["sas"] == 0)
        #expect(pair.east.core.initiate(connection: "c", child: nil, now: pair.now))
        #expect(pair.network.run(for: .seconds(5)) { pair.isUp })
    }

    @Test func `an initiator whose peer deletes comes back after a pause`() throws {
        let pair = Pair()
        #expect(try pair.establish())
        #expect(pair.west.core.deleteAsPeer(connection: "c", child: nil, now: pair.now))
        pair.run(5)
        #expect(pair.east.status(now: pair.now)?.state == .failed || pair.east.status(now: pair.now)?.state == .down)
        #expect(pair.network.run(for: .seconds(10)) { pair.isUp })
    }

    @Test func `one child goes down alone and comes up again`() throws {
        let pair = Pair()
        pair.eastSide.children = [("a", ["10.1.0.0/24"], ["10.2.0.0/24"]), ("b", ["10.1.1.0/24"], ["10.2.1.0/24"])]
        pair.westSide.children = [("a", ["10.2.0.0/24"], ["10.1.0.0/24"]), ("b", ["10.2.1.0/24"], ["10.1.1.0/24"])]
        #expect(try pair.establish())
        #expect(pair.east.core.terminate(connection: "c", child: "b", now: pair.now))
        pair.run(2)
        #expect(pair.east.installed.map(\.child) == ["a"] && pair.west.installed.map(\.child) == ["a"])
        #expect(pair.east.status(now: pair.now)?.children.map(\.state) == [.installed, .down])
        #expect(pair.east.core.initiate(connection: "c", child: "b", now: pair.now))
        #expect(pair.network.run(for: .seconds(5)) { pair.isUp })
        #expect(pair.mismatch == nil)
    }

    @Test func `both ends delete the same child at once`() throws {
        let pair = Pair()
        pair.eastSide.start = .manual
        pair.westSide.start = .manual
        try pair.start()
        #expect(pair.east.core.initiate(connection: "c", child: nil, now: pair.now))
        #expect(pair.network.run(for: .seconds(5)) { pair.isUp })
        #expect(pair.east.core.terminate(connection: "c", child: "net", now: pair.now))
        #expect(pair.west.core.terminate(connection: "c", child: "net", now: pair.now))
        let forge = try #require(Forge(pair.east))
        pair.network.history = []
        pair.run(3)
        #expect(pair.east.installed.isEmpty && pair.west.installed.isEmpty)
        #expect(pair.east.faults.isEmpty && pair.west.faults.isEmpty)
        // "the responses MUST NOT include Delete payloads for the deleted SAs"
        let answers = try pair.network.history.filter { $0.source.address == pair.west.address }.map { $0.bytes }
            .filter { try WireMessage(parsing: $0).header.isResponse }
        #expect(answers.count == 1)
        #expect(try answers.allSatisfy { try forge.open($0).deletes.isEmpty })
    }

    @Test func `both ends take the IKE SA down at once`() throws {
        let pair = Pair()
        #expect(try pair.establish())
        #expect(pair.east.core.terminate(connection: "c", child: nil, now: pair.now))
        #expect(pair.west.core.terminate(connection: "c", child: nil, now: pair.now))
        pair.run(60)
        #expect(pair.east.core.tableSizes["sas"] == 0 && pair.west.core.tableSizes["sas"] == 0)
        #expect(pair.east.installed.isEmpty && pair.west.installed.isEmpty)
    }

    @Test func `removing a connection tells the peer`() throws {
        let pair = Pair()
        #expect(try pair.establish())
        pair.east.core.removeConnection("c", now: pair.now)
        pair.run(30)
        #expect(pair.east.installed.isEmpty && pair.west.installed.isEmpty)
        #expect(pair.east.core.status(now: pair.now).isEmpty)
        #expect(pair.east.core.tableSizes["sas"] == 0)
    }

    @Test func `shutting down sends one DELETE and forgets everything`() throws {
        let pair = Pair()
        #expect(try pair.establish())
        pair.network.history = []
        pair.east.core.shutdown(now: pair.now)
        pair.run(1)
        #expect(pair.network.history.filter { $0.source.address == pair.east.address }.count == 1)
        #expect(pair.west.installed.isEmpty && pair.east.installed.isEmpty)
        #expect(pair.east.core.pollTimeout() == nil)
    }

    @Test func `a connection that is taken down while it authenticates leaves nothing on the peer`() throws {
        let pair = Pair()
        try pair.start()
        pair.network.run(for: .milliseconds(35))
        #expect(pair.east.status(now: pair.now)?.state == .connecting)
        #expect(pair.east.core.terminate(connection: "c", child: nil, now: pair.now))
        pair.run(40)
        #expect(pair.west.installed.isEmpty && pair.east.installed.isEmpty)
        #expect(pair.west.core.tableSizes["sas"] == 0 && pair.east.core.tableSizes["sas"] == 0)
    }
}
