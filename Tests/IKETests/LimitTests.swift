import Crypto
import IPsec
import Testing
import Wire

@testable import IKE

/// What one peer, or one site of strangers, can take of the whole.
@Suite struct LimitTests {
    /// A west that takes anybody, in the middle of nobody.
    private func hub(
        _ address: String = "192.0.2.2", ike: [String] = ["aes256gcm16-prfsha384-x25519"]
    ) throws -> Pair {
        let pair = Pair(settings: InitTests.settings { $0.cookieThreshold = 1 << 20 }, westAddress: address)
        (pair.westSide.remoteAddress, pair.westSide.ike) = (nil, ike)
        try pair.configureWest()
        return pair
    }

    private func knock(_ pair: Pair, _ spi: UInt64, from address: String) throws -> Bool {
        let path = Path(local: Endpoint(pair.west.address, 500), remote: Endpoint(IPAddress(address)!, 500))
        var answers: [WireMessage] = []
        for _ in 0..<2 {
            // It is there, so it has the cookie when one is wanted.
            let cookies = answers.compactMap { $0.payloads.notify(.cookie) }.map(Payload.notify)
            pair.west.core.handleDatagram(try InitTests.request(spi: spi, extra: cookies, seed: spi), path: path, now: pair.now)
            pair.west.takeEvents(now: pair.now)
            answers = InitTests.answers(pair.west)
            if answers.contains(where: { $0.payloads.nonce != nil }) { return true }
        }
        return false
    }

    /// Whoever has one address of a /64 has all of them.
    @Test func `the addresses of an IPv6 prefix share what one IPv4 address has`() throws {
        let pair = try hub("2001:db8:2::1")
        let answered = try (1...100).filter { try knock(pair, UInt64($0), from: "2001:db8:1:2:3::\(String($0, radix: 16))") }
        #expect(answered.count == Bounds.unverifiedPerAddress + Bounds.halfOpenPerStranger)
        #expect(try knock(pair, 1000, from: "2001:db8:1:3::1"), "the /64 next to it")
        pair.run(31)
        #expect(pair.west.core.tableSizes["halfOpen"] == 0)
        #expect(try knock(pair, 2000, from: "2001:db8:1:2::1"), "the count goes with them")
    }

    @Test func `a peer's oldest IKE SA goes when it makes too many`() throws {
        let pair = Pair()
        pair.network.keepsHistory = false
        (pair.eastSide.dpd, pair.westSide.dpd) = (.zero, .zero)
        try pair.configureWest()
        for index in 0...Bounds.ikeSAsPerPeer {
            pair.eastSide.change = { $0.name = "c\(index)" }
            try pair.configureEast()
            pair.network.run(for: .milliseconds(40))
            if index == Bounds.ikeSAsPerPeer - 1 {
                #expect(pair.west.core.tableSizes["sas"] == Bounds.ikeSAsPerPeer)
                #expect(pair.west.core.counters.peerSALimitReached == 0)
            }
        }
        #expect(pair.west.core.tableSizes["sas"] == Bounds.ikeSAsPerPeer && pair.west.core.counters.peerSALimitReached == 1)
        #expect(pair.west.logs.contains { $0.contains("its oldest is dropped") })
        let first = try #require(pair.east.core.allSAs.first { pair.east.core.plan(of: $0)?.name == "c0" })
        #expect(!pair.west.core.allSAs.contains { $0.initiatorSPI == first.initiatorSPI }, "the first one went")
    }

    /// Strangers choose much of what a refusal says.
    @Test func `refusals in ever other words are written ten times in five seconds`() throws {
        let pair = try hub(ike: ["aes128gcm16-prfsha256-ecp256"])
        func refusals() -> Int { pair.west.logs.filter { $0.contains("198.51.100.") }.count }
        for index in 1...40 { _ = try knock(pair, UInt64(index), from: "198.51.100.\(index)") }
        #expect(refusals() == Bounds.refusalsLogged)
        #expect(pair.west.core.counters.refusalsUnsaid == 40 - Bounds.refusalsLogged)
        pair.run(6)
        _ = try knock(pair, 99, from: "198.51.100.99")
        #expect(refusals() == Bounds.refusalsLogged + 1)
    }
}
