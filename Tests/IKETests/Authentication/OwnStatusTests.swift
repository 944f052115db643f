import IKE
import IPsec
import Testing

/// An OCSP response of a test for its own certificate.
final class TestStatus: OwnRevocationStatus, @unchecked Sendable {
    var response: [UInt8]?
    var isPending: Bool
    init(_ response: [UInt8]?, isPending: Bool = false) { (self.response, self.isPending) = (response, isPending) }
    func current() -> [UInt8]? { response }
}

/// OCSP responses for our own certificate, carried in IKE. RFC 4806.
@Suite struct OwnStatusTests {
    /// `who` has a certificate with a status; the other end believes it only with a response.
    private func pair(_ who: String, _ status: TestStatus, asks: Bool = true) -> (Pair, trust: TestTrust, here: Node, there: Node)
    {
        let pair = Pair()
        let trust = TestTrust()
        trust.wantsOCSP = asks
        trust.check = RevocationTests.check
        pair.useCertificates(
            .ecdsaP256, eastTrust: who == "west" ? trust : TestTrust(), westTrust: who == "east" ? trust : TestTrust())
        func add(_ change: ((inout ConnectionPlan) -> Void)?) -> (inout ConnectionPlan) -> Void {
            { plan in
                change?(&plan)
                guard case .signature(var identity) = plan.localAuthentication else { return }
                identity.revocationStatus = status
                plan.localAuthentication = .signature(identity)
            }
        }
        if who == "east" {
            pair.eastSide.change = add(pair.eastSide.change)
        } else {
            pair.westSide.change = add(pair.westSide.change)
        }
        return who == "east" ? (pair, trust, pair.east, pair.west) : (pair, trust, pair.west, pair.east)
    }

    @Test(arguments: ["east", "west"])
    func `a response goes along with the certificate, and nobody has to be asked`(who: String) throws {
        let (pair, trust, here, there) = pair(who, TestStatus(Array("good".utf8)))
        #expect(try pair.establish())
        #expect(trust.seenOCSP == [Array("good".utf8)])
        #expect(there.revocationChecks.isEmpty && here.ownStatusTokens.isEmpty && pair.mismatch == nil)
    }

    @Test(arguments: ["east", "west"])
    func `nobody who did not ask gets one, or is waited for`(who: String) throws {
        let (pair, trust, here, there) = pair(who, TestStatus(Array("good".utf8), isPending: true), asks: false)
        there.answersRevocation = { _ in Array("good".utf8) }
        #expect(try pair.establish())
        #expect(here.ownStatusTokens.isEmpty && there.revocationChecks.count == 1)
        _ = trust
    }

    @Test(arguments: ["east", "west"])
    func `one that is on its way is waited for`(who: String) throws {
        let status = TestStatus(nil, isPending: true)
        let (pair, trust, here, there) = pair(who, status)
        try pair.start()
        pair.run(0.5)
        #expect(here.ownStatusTokens.count == 1 && !pair.isUp && trust.evaluations == 0)
        if who == "east" { #expect(pair.reason(pair.east).contains("our own certificate")) }
        (status.response, status.isPending) = (Array("good".utf8), false)
        here.core.ownStatusSettled(token: here.ownStatusTokens[0], now: pair.now)
        #expect(pair.network.run(for: .seconds(3)) { pair.isUp })
        #expect(trust.seenOCSP == [Array("good".utf8)] && there.revocationChecks.isEmpty && pair.mismatch == nil)
        #expect(here.core.tableSizes["waits"] == 0 && here.core.counters.outsideWaitsExpired == 0)
    }

    @Test(arguments: ["east", "west"])
    func `but for a second only`(who: String) throws {
        let (pair, _, here, there) = pair(who, TestStatus(nil, isPending: true))
        there.answersRevocation = { _ in Array("good".utf8) }
        try pair.start()
        pair.run(0.9)
        #expect(!pair.isUp && here.ownStatusTokens.count == 1)
        #expect(pair.network.run(for: .seconds(1)) { pair.isUp })
        #expect(there.revocationChecks.count == 1 && here.core.counters.outsideWaitsExpired == 1)
        let unexpected = here.core.counters.unexpected
        here.core.ownStatusSettled(token: here.ownStatusTokens[0], now: pair.now)
        #expect(pair.isUp && here.core.counters.unexpected == unexpected + 1, "an answer counts once")
        #expect(here.ownStatusTokens.count == 1, "and is asked for once")
    }

    @Test(arguments: ["east", "west"])
    func `a connection that is removed meanwhile leaves nothing behind`(who: String) throws {
        let (pair, _, here, there) = pair(who, TestStatus(nil, isPending: true))
        try pair.start()
        pair.run(0.3)
        let token = try #require(here.ownStatusTokens.first)
        pair.east.core.removeConnection("c", now: pair.now)
        pair.west.core.removeConnection("c", now: pair.now)
        here.core.ownStatusSettled(token: token, now: pair.now)
        pair.run(90)
        // Nothing has been authenticated: an initiator has nobody to tell.
        let told = pair.network.history.contains { $0.source.address == pair.east.address && $0.bytes[18] == 37 }
        #expect(who == "west" || !told)
        #expect(pair.isEmpty(here) && pair.isEmpty(there) && here.installed.isEmpty)
    }
}
