@testable import IKE
import Testing
import Wire

@Suite struct PathProbeTests {
    private func probe(_ pair: Pair, largest: Int = 1500) -> ConnectionStatus.PathProbeResult? {
        #expect(pair.east.core.probePath(connection: "c", largest: largest, now: pair.now))
        _ = pair.network.run(for: .seconds(20)) { pair.east.status(now: pair.now)?.pathProbe?.finishedAt != nil }
        return pair.east.status(now: pair.now)?.pathProbe
    }

    @Test func `a path that carries the largest is asked once`() throws {
        let pair = Pair()
        #expect(try pair.establish())
        let found = probe(pair)
        #expect(found?.passed == 1500 && found?.failed == nil && found?.finishedAt != nil)
    }

    @Test(arguments: [(1300, 1300, 1320), (1399, 1380, 1400), (700, 576, 1000)])
    func `a smaller one is found between what arrives and what does not, and the IKE SA lives on`(
        _ carries: Int, _ passed: Int, _ failed: Int
    ) throws {
        let pair = Pair()
        #expect(try pair.establish())
        pair.network.wholeLimit = carries
        let found = probe(pair)
        #expect(found?.passed == passed && found?.failed == failed && found?.isLossy == false)
        pair.run(60)
        #expect(pair.isUp && pair.east.downs.isEmpty)
    }

    @Test func `a peer that dies meanwhile is found dead as ever`() throws {
        let pair = Pair()
        #expect(try pair.establish())
        pair.west.isAlive = false
        #expect(pair.east.core.probePath(connection: "c", largest: 1500, now: pair.now))
        pair.run(4)
        let liveness = pair.east.status(now: pair.now)?.liveness
        #expect(liveness?.pendingSince != nil && (liveness?.unanswered ?? 0) >= 2)
        #expect(pair.network.run(for: .seconds(40)) { !pair.east.downs.isEmpty })
    }

    @Test func `two addresses that take turns are told after three turns, one device that moves once is not`() {
        var history = ConnectionHistory()
        let (a, b) = (IPAddress("192.0.2.1")!, IPAddress("192.0.2.9")!)
        func at(_ seconds: UInt64) -> Instant { Instant(nanoseconds: seconds * 1_000_000_000) }
        let name = Identity.fqdn("east.example")
        history.arrived(name, from: a, now: at(0))
        history.arrived(name, from: b, now: at(10))
        history.arrived(name, from: a, now: at(20))
        #expect(history.shared(now: at(20)).isEmpty)
        history.arrived(name, from: b, now: at(30))
        #expect(history.shared(now: at(30)).first?.addresses == [a, b])
        #expect(history.shared(now: at(700)).isEmpty)
        // Bounded, whoever comes.
        for index in 0..<5_000 { history.arrived(.fqdn("\(index)"), from: a, now: at(31)) }
        #expect(history.shared(now: at(31)).count == 1)
    }

    @Test func `a peer that is lost twice has its losses told, the operator's own end is none`() throws {
        let pair = Pair()
        pair.eastSide.dpd = .seconds(2)
        #expect(try pair.establish())
        _ = pair.east.core.terminate(connection: "c", child: nil, now: pair.now)
        pair.run(2)
        #expect(pair.east.status(now: pair.now)?.losses.deaths == 0)
        #expect(pair.west.status(now: pair.now)?.losses.deletions == 1)
        #expect(pair.east.status(now: pair.now)?.situation == .takenDown)
        #expect(pair.east.status(now: pair.now)?.lastFailure?.reason.contains("taken down by the operator") == true)
    }
}
