import IKE
import IPsec
import Testing
import Wire

@Suite struct NATTests {
    /// East is 10.0.0.1 behind 192.0.2.1.
    static func behindNAT(_ nat: NATTraversal = .auto) -> Pair {
        let pair = Pair(eastAddress: "10.0.0.1")
        pair.network.natBoxes = [Network.NATBox(inside: "10.0.0.1", outside: "192.0.2.1")]
        (pair.eastSide.nat, pair.westSide.nat) = (nat, nat)
        return pair
    }

    @Test func `an initiator behind a NAT floats to port 4500 and both encapsulate`() throws {
        let pair = Self.behindNAT()
        #expect(try pair.establish())
        #expect(pair.mismatch == nil)
        let east = try #require(pair.east.status(now: pair.now)?.ike)
        let west = try #require(pair.west.status(now: pair.now)?.ike)
        #expect(east.localNAT && !east.remoteNAT)
        #expect(!west.localNAT && west.remoteNAT)
        #expect(east.path.local.port == 4500 && east.path.remote.port == 4500)
        #expect(
            pair.east.installed[0].path
                == TunnelPath(local: pair.east.address, remote: pair.west.address, localPort: 4500, remotePort: 4500))
        let seen = pair.west.installed[0].path
        #expect(seen.remote == IPAddress("192.0.2.1")! && seen.localPort == 4500 && seen.remotePort == west.path.remote.port)
        // On 4500 every IKE message has the non-ESP marker, on 500 none.
        for datagram in pair.network.history {
            #expect(
                (datagram.bytes.prefix(4) == [0, 0, 0, 0]) == (datagram.source.port == 4500 || datagram.destination.port == 4500))
        }
    }

    @Test func `a responder behind a NAT is found and sends keepalives`() throws {
        let pair = Pair(westAddress: "10.0.0.2")
        let box = Network.NATBox(inside: "10.0.0.2", outside: "192.0.2.2")
        box.mappings = [Endpoint(IPAddress("10.0.0.2")!, 500): 500, Endpoint(IPAddress("10.0.0.2")!, 4500): 4500]
        pair.network.natBoxes = [box]
        #expect(try pair.establish())
        #expect(pair.mismatch == nil)
        #expect(pair.west.status(now: pair.now)?.ike?.localNAT == true)
        #expect(pair.east.status(now: pair.now)?.ike?.remoteNAT == true)
        pair.network.history = []
        pair.run(61)
        let keepalives = pair.network.history.filter { $0.bytes == [0xFF] }
        #expect(keepalives.count == 3)
        #expect(keepalives.allSatisfy { $0.source == Endpoint(IPAddress("10.0.0.2")!, 4500) })
        #expect(pair.east.core.counters.keepalivesReceived == 3)
    }

    @Test func `both behind NATs`() throws {
        let pair = Pair(eastAddress: "10.0.0.1", westAddress: "10.0.1.2")
        let box = Network.NATBox(inside: "10.0.1.2", outside: "192.0.2.2")
        box.mappings = [Endpoint(IPAddress("10.0.1.2")!, 500): 500, Endpoint(IPAddress("10.0.1.2")!, 4500): 4500]
        pair.network.natBoxes = [Network.NATBox(inside: "10.0.0.1", outside: "192.0.2.1"), box]
        #expect(try pair.establish())
        #expect(pair.mismatch == nil)
        let east = try #require(pair.east.status(now: pair.now)?.ike)
        #expect(east.localNAT && east.remoteNAT)
    }

    @Test func `forced traversal pretends a NAT on either side`() throws {
        for (east, west) in [(NATTraversal.force, NATTraversal.auto), (.auto, .force), (.force, .force)] {
            let pair = Pair()
            (pair.eastSide.nat, pair.westSide.nat) = (east, west)
            #expect(try pair.establish())
            #expect(pair.mismatch == nil)
            #expect(pair.east.installed[0].path.isUDPEncapsulated && pair.west.installed[0].path.isUDPEncapsulated)
            #expect(pair.east.status(now: pair.now)?.ike?.path.local.port == 4500)
        }
    }

    @Test func `with traversal off nothing floats`() throws {
        for (east, west) in [(NATTraversal.off, NATTraversal.auto), (.auto, .off)] {
            let pair = Pair()
            (pair.eastSide.nat, pair.westSide.nat) = (east, west)
            #expect(try pair.establish())
            #expect(pair.network.history.allSatisfy { $0.source.port == 500 })
            #expect(!pair.east.installed[0].path.isUDPEncapsulated)
        }
    }

    @Test func `without a NAT nothing is encapsulated`() throws {
        let pair = Pair()
        #expect(try pair.establish())
        #expect(!pair.east.installed[0].path.isUDPEncapsulated && !pair.west.installed[0].path.isUDPEncapsulated)
        pair.network.history = []
        pair.run(60)
        #expect(!pair.network.history.contains { $0.bytes == [0xFF] })
    }

    @Test func `an initiator that begins on port 4500 is answered there`() throws {
        let pair = Pair()
        try pair.configureWest()
        let request = [0, 0, 0, 0] + (try InitTests.request())
        let path = Path(local: Endpoint(pair.west.address, 4500), remote: Endpoint(pair.east.address, 4500))
        pair.west.core.handleDatagram(request, path: path, now: pair.now)
        let answer = try #require(pair.west.core.pollTransmit())
        #expect(answer.path == path)
        #expect(answer.bytes.prefix(4) == [0, 0, 0, 0])
        // Without the marker it is ESP, which is not ours.
        pair.west.core.handleDatagram(try InitTests.request(spi: 0x1234_5678_9ABC_DEF0), path: path, now: pair.now)
        #expect(pair.west.core.pollTransmit() == nil)
        #expect(pair.west.core.counters.notIKE == 1)
    }

    @Test func `a mapping that changes is followed when an authentic message comes from the new one`() throws {
        let pair = Self.behindNAT()
        pair.eastSide.dpd = .seconds(5)
        #expect(try pair.establish())
        let before = try #require(pair.west.status(now: pair.now)?.ike?.path.remote)
        // The NAT reboots: new ports for everything.
        pair.network.natBoxes[0].mappings = [:]
        pair.network.natBoxes[0].nextPort = 50_001
        pair.run(8)
        let after = try #require(pair.west.status(now: pair.now)?.ike?.path.remote)
        #expect(after != before && after.port >= 50_001)
        #expect(pair.west.moves.last?.remotePort == after.port)
        #expect(pair.isUp)
    }

    @Test func `authenticated ESP from a new endpoint moves the path, but not when the peer has no NAT`() throws {
        let pair = Self.behindNAT()
        #expect(try pair.establish())
        let new = Endpoint(IPAddress("192.0.2.1")!, 60_000)
        pair.west.core.pathObserved(inboundSPI: pair.west.installed[0].inboundSPI, remote: new, now: pair.now)
        pair.west.takeEvents(now: pair.now)
        #expect(pair.west.moves.last?.remotePort == 60_000)
        // The end behind the NAT does not follow: "it opens a possible DoS attack".
        pair.east.core.pathObserved(inboundSPI: pair.east.installed[0].inboundSPI, remote: new, now: pair.now)
        pair.east.takeEvents(now: pair.now)
        #expect(pair.east.moves.isEmpty)
        let plain = Pair()
        #expect(try plain.establish())
        plain.west.core.pathObserved(inboundSPI: plain.west.installed[0].inboundSPI, remote: new, now: plain.now)
        plain.west.takeEvents(now: plain.now)
        #expect(plain.west.moves.isEmpty)
    }

    @Test func `between two NATs a packet from a new mapping is asked about, and the peer's answer moves the path`() throws {
        let pair = Pair(eastAddress: "10.0.0.1", westAddress: "10.0.1.2")
        let hidden = Network.NATBox(inside: "10.0.1.2", outside: "192.0.2.2")
        hidden.mappings = [Endpoint(IPAddress("10.0.1.2")!, 500): 500, Endpoint(IPAddress("10.0.1.2")!, 4500): 4500]
        pair.network.natBoxes = [Network.NATBox(inside: "10.0.0.1", outside: "192.0.2.1"), hidden]
        pair.westSide.remoteAddress = IPAddress("192.0.2.1")
        (pair.eastSide.dpd, pair.westSide.dpd) = (.zero, .zero)
        #expect(try pair.establish())
        let before = try #require(pair.west.status(now: pair.now)?.ike?.path)
        let spi = pair.west.installed[0].inboundSPI
        // Somebody sends a packet of east's on from elsewhere: east still answers where it was.
        pair.west.core.pathObserved(inboundSPI: spi, remote: Endpoint(IPAddress("203.0.113.66")!, 4500), now: pair.now)
        pair.run(3)
        #expect(pair.west.status(now: pair.now)?.ike?.path == before && pair.west.moves.isEmpty)
        // The NAT forgets its mappings: the old one leads nowhere, and the first packet shows the new one.
        pair.network.natBoxes[0].mappings = [Endpoint(IPAddress("10.0.0.1")!, 4500): 50_001]
        let new = Endpoint(IPAddress("192.0.2.1")!, 50_001)
        pair.west.core.pathObserved(inboundSPI: spi, remote: new, now: pair.now)
        pair.run(1)
        #expect(pair.west.status(now: pair.now)?.ike?.path.remote == new)
        #expect(pair.west.moves.map(\.remotePort) == [50_001])
        #expect(pair.isUp)
    }
}
