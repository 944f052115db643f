import Crypto
import IKE
import IPsec
import Testing

/// IKE_AUTH that waits for an OCSP responder, in both roles.
@Suite struct RevocationTests {
    static let check = RevocationCheck(
        responders: ["http://ocsp.example/"], request: [1, 2, 3], isRequired: true, sentence: "Nobody says whether it is revoked."
    )

    /// The end that asks, and the other one.
    private func ends(_ pair: Pair, _ asking: String, _ check: RevocationCheck = check) -> (Node, Node) {
        let trust = TestTrust()
        trust.check = check
        pair.useCertificates(
            .ecdsaP256, eastTrust: asking == "east" ? trust : TestTrust(), westTrust: asking == "west" ? trust : TestTrust())
        return asking == "east" ? (pair.east, pair.west) : (pair.west, pair.east)
    }

    @Test(arguments: ["east", "west"])
    func `a responder that says good lets the peer in`(asking: String) throws {
        let pair = Pair()
        let (here, _) = ends(pair, asking)
        here.answersRevocation = { _ in Array("good".utf8) }
        #expect(try pair.establish())
        #expect(here.revocationChecks == [Self.check] && pair.mismatch == nil)
        #expect(here.core.tableSizes["waits"] == 0)
    }

    @Test(arguments: ["east", "west"])
    func `a responder that says revoked keeps it out`(asking: String) throws {
        let pair = Pair()
        let (here, there) = ends(pair, asking)
        here.answersRevocation = { _ in Array("revoked".utf8) }
        try pair.start()
        pair.run(5)
        #expect(pair.reason(here).contains("revoked on 2026-01-01"))
        #expect(pair.reason(there).contains("AUTHENTICATION_FAILED"))
        #expect(pair.east.installed.isEmpty && pair.west.installed.isEmpty)
    }

    @Test(arguments: ["east", "west"])
    func `without an answer the peer is refused where one is required, and believed with a warning where not`(
        asking: String
    ) throws {
        for isRequired in [true, false] {
            let pair = Pair()
            var check = Self.check
            check.isRequired = isRequired
            let (here, _) = ends(pair, asking, check)
            here.answersRevocation = { _ in nil }
            try pair.start()
            pair.run(5)
            #expect(pair.isUp == !isRequired)
            if isRequired {
                #expect(pair.reason(here).contains(check.sentence))
            } else {
                #expect(pair.ike(here)?.warnings == [check.sentence] && here.logs.contains(check.sentence))
            }
        }
    }

    @Test(arguments: ["east", "west"])
    func `a slow answer is waited for, repeated messages are not answered meanwhile`(asking: String) throws {
        let pair = Pair()
        let (here, _) = ends(pair, asking)
        try pair.start()
        pair.run(3)
        #expect(here.heldTokens.count == 1 && here.revocationChecks.count == 1 && !pair.isUp)
        if asking == "east" { #expect(pair.reason(pair.east).contains("OCSP")) }
        here.core.revocationAnswered(token: here.heldTokens[0], response: Array("good".utf8), now: pair.now)
        pair.run(5)
        #expect(pair.isUp && pair.mismatch == nil && here.revocationChecks.count == 1)
        let unexpected = here.core.counters.unexpected
        here.core.revocationAnswered(token: here.heldTokens[0], response: Array("revoked".utf8), now: pair.now)
        #expect(pair.isUp && here.core.counters.unexpected == unexpected + 1, "an answer counts once")
    }

    @Test(arguments: ["east", "west"])
    func `an answer that never comes is given up, and nothing stays behind`(asking: String) throws {
        let pair = Pair()
        let (here, there) = ends(pair, asking)
        try pair.start()
        pair.run(2)
        // Nobody tries again.
        for side in [pair.eastSide, pair.westSide] { _ = side }
        pair.run(40)
        #expect(here.core.counters.outsideWaitsExpired > 0)
        _ = here.core.terminate(connection: "c", child: nil, now: pair.now)
        _ = there.core.terminate(connection: "c", child: nil, now: pair.now)
        pair.east.core.removeConnection("c", now: pair.now)
        pair.run(60)
        #expect(pair.isEmpty(here) && pair.isEmpty(there))
    }

    @Test(arguments: ["east", "west"])
    func `a connection that is removed while an answer is awaited is not admitted`(asking: String) throws {
        let pair = Pair()
        let (here, there) = ends(pair, asking)
        try pair.start()
        pair.run(1)
        let token = try #require(here.heldTokens.first)
        here.core.removeConnection("c", now: pair.now)
        here.core.revocationAnswered(token: token, response: Array("good".utf8), now: pair.now)
        there.core.removeConnection("c", now: pair.now)
        pair.run(90)
        #expect(here.installed.isEmpty && pair.isEmpty(here) && pair.isEmpty(there))
    }
}
