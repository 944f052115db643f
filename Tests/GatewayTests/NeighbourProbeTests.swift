@testable import Gateway
import Testing
import Wire

@Suite("Neighbours that packets wait for")
struct NeighbourProbeTests {
    private func key(_ number: Int) -> NeighbourKey {
        NeighbourKey(address: .v4(IPv4Address(bits: 0x0A01_0000 + UInt32(number))), linkIndex: 3)
    }

    @Test func `a scan of a whole network leaves room for the next one, and at most so many entries`() {
        var probes = NeighbourProbes()
        var forgotten = 0
        for number in 0..<5_000 {
            let (asks, old) = probes.ask(key(number), now: at(Double(number) / 1_000))
            #expect(asks)
            forgotten += old == nil ? 0 : 1
        }
        #expect(probes.count == NeighbourProbes.limit && forgotten == 5_000 - NeighbourProbes.limit)
        #expect(probes.ask(key(9_999), now: at(5)).asks)
    }

    @Test func `one that does not answer is asked for again, then forgotten once; one that answers is not`() {
        var probes = NeighbourProbes()
        #expect(probes.ask(key(1), now: at(0)).asks && probes.ask(key(2), now: at(0)).asks)
        #expect(!probes.ask(key(1), now: at(0.2)).asks)
        #expect(probes.ask(key(1), now: at(0.5)).asks)
        probes.end(key(2))
        #expect(probes.takeExpired(now: at(3)).isEmpty)
        #expect(probes.takeExpired(now: at(4)) == [key(1)] && probes.takeExpired(now: at(9)).isEmpty)
        #expect(probes.ask(key(1), now: at(9)).asks && probes.count == 1)
    }
}
