import Crypto
import IKE
import IPsec
import Testing
import Wire

/// What strangers can take from a responder, and what is left for the peers it knows.
@Suite struct FloodTests {
    /// West knows east by its address, and takes road warriors from anywhere.
    private static func gateway(_ change: (inout CoreSettings) -> Void = { _ in }) throws -> Pair {
        var settings = CoreSettings()
        settings.cookieThreshold = 1_000_000
        change(&settings)
        let pair = Pair(settings: settings)
        try pair.configureWest()
        var anyone = try Pair.plan(pair.westSide, local: pair.west.address)
        (anyone.name, anyone.remoteAddress, anyone.remoteIdentity) = ("anyone", nil, nil)
        pair.west.core.addConnection(anyone, now: pair.now)
        return pair
    }

    private static func path(from source: UInt32) -> Path {
        Path(
            local: Endpoint(IPAddress("192.0.2.2")!, 500),
            remote: Endpoint(.v4(IPv4Address(bits: 0xC633_0000 &+ source)), 500))
    }

    private static func flood(_ pair: Pair, sources: Range<UInt32>) throws {
        let request = try InitTests.request()
        for source in sources { pair.west.core.handleDatagram(request, path: path(from: source), now: pair.now) }
        while pair.west.core.pollTransmit() != nil {}
        pair.west.takeEvents(now: pair.now)
    }

    @Test func `strangers never fill the table of half-open SAs: the oldest gives way, and known peers have a part of it`() throws
    {
        let pair = try Self.gateway { $0.maxHalfOpen = 40 }
        try Self.flood(pair, sources: 0..<200)
        #expect(pair.west.core.tableSizes["halfOpen"] == 30)
        #expect(pair.west.core.counters.halfOpenEvicted == 170)
        #expect(pair.west.core.counters.halfOpenRefused == 0)
        try pair.configureEast()
        #expect(pair.network.run(for: .seconds(5)) { pair.isUp(pair.east) })
        pair.run(60)
        _ = pair.west.core.pollTransmit()
        #expect(pair.west.core.tableSizes["halfOpen"] == 0)
    }

    @Test func `strangers that fail to authenticate give way as well`() throws {
        let pair = try Self.gateway { $0.maxHalfOpen = 8 }
        let request = try InitTests.request()
        for source in 0..<20 as Range<UInt32> {
            let path = Self.path(from: source)
            pair.west.core.handleDatagram(request, path: path, now: pair.now)
            // An IKE_AUTH that opens, but proves nothing, cannot be made without the keys: garbage only costs the derivation.
            var header = try IKEHeader(parsing: request[...])
            let answer = try #require(pair.west.core.pollTransmit())
            header.responderSPI = try IKEHeader(parsing: answer.bytes[...]).responderSPI
            (header.exchange, header.messageID, header.nextPayload) = (.ikeAuth, 1, .encrypted)
            let sealed: [UInt8] = [0, 0, 0, 68] + [UInt8](repeating: 7, count: 64)
            header.length = UInt32(IKEHeader.byteCount + sealed.count)
            pair.west.core.handleDatagram(header.encoded + sealed, path: path, now: pair.now)
        }
        #expect(pair.west.core.counters.unauthentic == 20)
        #expect(pair.west.core.tableSizes["halfOpen"] == 6)
    }

    @Test func `key exchanges with strangers take a bounded time per second, and none of the known peers' time`() throws {
        let pair = try Self.gateway { $0.maxHalfOpen = 100_000 }
        try Self.flood(pair, sources: 0..<5000)
        let affordable = Bounds.unauthenticatedWorkMicroseconds / KeyExchangeMethod.x25519.workMicroseconds
        #expect(pair.west.core.tableSizes["halfOpen"] == affordable)
        #expect(pair.west.core.counters.keyExchangesDeferred == 5000 - affordable)
        try pair.configureEast()
        #expect(pair.network.run(for: .milliseconds(200)) { pair.isUp(pair.east) })
        // Half a second later there is half as much again.
        pair.run(0.5)
        let before = try #require(pair.west.core.tableSizes["halfOpen"])
        try Self.flood(pair, sources: 10_000..<15_000)
        let more = try #require(pair.west.core.tableSizes["halfOpen"]) - before
        #expect((affordable / 2...affordable).contains(more))
    }

    @Test func `a first message that is longer than any honest one is not kept`() throws {
        let pair = try Self.gateway()
        let long = try InitTests.request(extra: [.opaque(.vendorID, [UInt8](repeating: 1, count: Bounds.initMessageBytes))])
        pair.west.core.handleDatagram(long, path: Self.path(from: 1), now: pair.now)
        #expect(pair.west.core.tableSizes["sas"] == 0 && pair.west.core.pollTransmit() == nil)
        #expect(pair.west.core.counters.malformed == 1)
    }

    @Test func `a budget fills with time, up to a second's worth, and lets the dearest work through when it is full`() {
        var budget = WorkBudget(microsecondsPerSecond: 1000)
        var now = Instant(nanoseconds: 5)
        func take(_ microseconds: Int, after pause: Duration = .zero) -> Bool {
            now = now + pause
            return budget.take(microseconds, now: now)
        }
        let atOnce = [take(600), take(600)]
        #expect(atOnce == [true, false])
        let aFifthLater = [take(600, after: .milliseconds(200)), take(1)]
        #expect(aFifthLater == [true, false])
        let full = [take(5000, after: .seconds(3600)), take(1, after: .seconds(1)), take(1000, after: .seconds(5))]
        #expect(full == [true, false, true])
        // Time that comes in small pieces counts as well: what five seconds bring, half a millisecond at a time.
        let passed = (0..<10_000).count { _ in take(500, after: .microseconds(500)) }
        #expect(passed == 10)
    }
}
