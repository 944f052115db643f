import Crypto
import IKE
import IPsec
import Testing
import Wire

/// Pre-shared keys by identity, different methods on the two sides, several connections with one address, childless initiation.
@Suite struct MethodTests {
    static func secret(_ text: String) -> Secret { OpenSSLCrypto().secret(Array(text.utf8)) }

    @Test func `a certificate on one side, a pre-shared key on the other`() throws {
        for certificateSide in ["east", "west"] {
            let pair = Pair()
            pair.useCertificates(.ed25519)
            let keys = PresharedKeys(Self.secret("a pre-shared key of some length"))
            let (withKey, other) = (pair.eastSide.change, pair.westSide.change)
            pair.eastSide.change = { plan in
                withKey?(&plan)
                if certificateSide == "west" { plan.localAuthentication = .presharedKey(keys) }
                if certificateSide == "east" { plan.remoteAuthentication = .presharedKey(keys) }
            }
            pair.westSide.change = { plan in
                other?(&plan)
                if certificateSide == "east" { plan.localAuthentication = .presharedKey(keys) }
                if certificateSide == "west" { plan.remoteAuthentication = .presharedKey(keys) }
            }
            #expect(try pair.establish())
            let methods = [pair.ike(pair.east)?.localMethod, pair.ike(pair.east)?.remoteMethod]
            #expect(methods == (certificateSide == "east" ? ["Ed25519", "pre-shared key"] : ["pre-shared key", "Ed25519"]))
            #expect(pair.ike(pair.west)?.remoteMethod == methods[0] && pair.ike(pair.west)?.localMethod == methods[1])
        }
    }

    @Test func `a method that the other side does not expect is named, with the word to write`() throws {
        let pair = Pair()
        pair.useCertificates(.ed25519)
        pair.westSide.change = nil
        try pair.start()
        pair.run(5)
        #expect(pair.reason(pair.west).contains("a digital signature") && pair.reason(pair.west).contains("auth: psk"))
        let other = Pair()
        other.useCertificates(.ed25519)
        other.eastSide.change = nil
        try other.start()
        other.run(5)
        #expect(other.reason(other.west).contains("a pre-shared key") && other.reason(other.west).contains("auth: certificate"))
    }

    @Test func `every identity has its own secret, wildcards serve the rest`() throws {
        let keys = PresharedKeys([
            .init(identity: .any, secret: Self.secret("for everybody else, twenty")),
            .init(identity: .namesBelow(".branch.example"), secret: Self.secret("for branches, at least twenty")),
            .init(identity: .exactly(.fqdn("two.branch.example")), secret: Self.secret("for branch two, at least twenty")),
        ])
        let cases = [
            ("one.branch.example", "for branches, at least twenty", true),
            ("TWO.branch.example", "for branch two, at least twenty", true),
            ("two.branch.example", "for branches, at least twenty", false),
            ("branch.example", "for everybody else, twenty", true), ("branch.example", "for branches, at least twenty", false),
        ]
        for (name, secret, isRight) in cases {
            let pair = Pair()
            pair.eastSide.identity = .fqdn(name)
            pair.eastSide.secret = secret
            pair.westSide.change = { plan in
                plan.remotePattern = .any
                (plan.localAuthentication, plan.remoteAuthentication) = (.presharedKey(keys), .presharedKey(keys))
            }
            try pair.start()
            pair.run(5)
            #expect(pair.isUp == isRight, "\(name)")
            #expect(isRight || pair.reason(pair.west).contains("pre-shared key"))
        }
    }

    @Test func `as initiator the secret of the expected identity is used`() throws {
        let pair = Pair()
        pair.eastSide.change = { plan in
            let keys = PresharedKeys([
                .init(identity: .exactly(.fqdn("west.example")), secret: Self.secret("a pre-shared key of some length")),
                .init(identity: .any, secret: Self.secret("another one for the others")),
            ])
            (plan.localAuthentication, plan.remoteAuthentication) = (.presharedKey(keys), .presharedKey(keys))
        }
        #expect(try pair.establish())
        let without = Pair()
        without.eastSide.change = { plan in
            let keys = PresharedKeys([.init(identity: .exactly(.fqdn("north.example")), secret: Self.secret("not for west"))])
            (plan.localAuthentication, plan.remoteAuthentication) = (.presharedKey(keys), .presharedKey(keys))
        }
        try without.start()
        without.run(5)
        #expect(without.reason(without.east).contains("no pre-shared key for west.example"))
    }

    // MARK: Several connections, one address

    @Test func `of several connections with one address the one is taken that the peer names and proves`() throws {
        for (name, kind) in [("c", "psk"), ("d", "psk"), ("e", "certificate")] {
            let pair = Pair()
            pair.eastSide.identity = .fqdn("\(name).example")
            pair.eastSide.secret = "the secret of connection \(name)"
            let trust = TestTrust()
            let key = TestKeys.east(.ed25519)
            let westKey = TestKeys.west(.ed25519)
            if kind == "certificate" {
                pair.eastSide.change = { plan in
                    plan.localAuthentication = .signature(
                        SigningIdentity(key: key, certificates: [TestTrust.certificate("e.example", key)]))
                    plan.remoteAuthentication = .certificate(TestTrust())
                }
            }
            for other in ["c", "d", "e"] {
                var side = pair.westSide
                side.remoteIdentity = .fqdn("\(other).example")
                side.secret = "the secret of connection \(other)"
                var plan = try Pair.plan(side, local: pair.west.address)
                plan.name = other
                if other == "e" {
                    plan.localAuthentication = .signature(
                        SigningIdentity(key: westKey, certificates: [TestTrust.certificate("west.example", westKey)]))
                    plan.remoteAuthentication = .certificate(trust)
                }
                pair.west.core.addConnection(plan, now: pair.now)
            }
            try pair.configureEast()
            pair.run(5)
            #expect(pair.west.status(name, now: pair.now)?.state == .established)
            for other in ["c", "d", "e"] where other != name {
                #expect(pair.west.status(other, now: pair.now)?.state == .down)
            }
        }
    }

    @Test func `any identity, distinguished by the secret alone`() throws {
        let pair = Pair()
        pair.eastSide.secret = "the secret of connection d"
        for other in ["c", "d"] {
            var side = pair.westSide
            side.remoteIdentity = nil
            side.secret = "the secret of connection \(other)"
            var plan = try Pair.plan(side, local: pair.west.address)
            plan.name = other
            pair.west.core.addConnection(plan, now: pair.now)
        }
        try pair.configureEast()
        pair.run(5)
        #expect(pair.west.status("d", now: pair.now)?.state == .established)
        #expect(pair.west.status("c", now: pair.now)?.state == .down)
    }

    @Test func `an unknown identity is told on the connection that it most likely meant`() throws {
        let pair = Pair()
        pair.eastSide.identity = .fqdn("stranger.example")
        pair.eastSide.remoteIdentity = .fqdn("d.west.example")
        for other in ["c", "d"] {
            var side = pair.westSide
            side.identity = .fqdn("\(other).west.example")
            var plan = try Pair.plan(side, local: pair.west.address)
            plan.name = other
            pair.west.core.addConnection(plan, now: pair.now)
        }
        try pair.configureEast()
        pair.run(5)
        #expect(pair.west.status("d", now: pair.now)?.reason?.contains("stranger.example") == true)
        #expect(pair.west.status("c", now: pair.now)?.state == .down)
    }

    /// What goes over the wire must be the same whatever is wrong.
    @Test func `a stranger cannot tell an unknown identity from a wrong secret or method`() throws {
        var answers: Set<[Int]> = []
        for wrong in ["identity", "secret", "method"] {
            let pair = Pair()
            if wrong == "identity" { pair.eastSide.identity = .fqdn("best.example") }
            if wrong == "secret" { pair.eastSide.secret = "another pre-shared key, as long" }
            if wrong == "method" {
                pair.eastSide.change = { plan in
                    let key = TestKeys.east(.ed25519)
                    plan.localAuthentication = .signature(SigningIdentity(key: key, certificates: []))
                }
            }
            try pair.start()
            pair.run(3)
            answers.insert(pair.network.history.filter { $0.source.address == pair.west.address }.prefix(2).map(\.bytes.count))
            #expect(pair.reason(pair.east).contains("AUTHENTICATION_FAILED"))
        }
        #expect(answers.count == 1, "\(answers)")
    }

    // MARK: Childless

    @Test func `a childless initiator asks for its children afterwards, where the peer allows it`() throws {
        for responder in [Childless.allow, .prefer, .never] {
            let pair = Pair()
            pair.eastSide.change = { $0.childless = .prefer }
            pair.westSide.change = { $0.childless = responder }
            try pair.start()
            pair.run(3)
            #expect(pair.isUp && pair.mismatch == nil)
            let exchanges = try pair.network.history.filter { $0.source.address == pair.east.address }.map {
                try WireMessage(parsing: $0.bytes).header.exchange
            }
            let expected: [ExchangeType] =
                responder == .never ? [.ikeSAInit, .ikeAuth] : [.ikeSAInit, .ikeAuth, .createChildSA]
            #expect(Array(exchanges.prefix(3)) == expected)
        }
    }

    @Test func `an initiator that merely allows it asks for its child at once`() throws {
        let pair = Pair()
        try pair.establish()
        let exchanges = try pair.network.history.map { try WireMessage(parsing: $0.bytes).header.exchange }
        #expect(!exchanges.contains(.createChildSA))
    }

    @Test func `a peer that asks for no child is refused where it is not allowed`() throws {
        let pair = Pair()
        pair.eastSide.change = { $0.childless = .prefer }
        try pair.configureWest()
        try pair.configureEast()
        // West changes its mind between the two exchanges.
        pair.network.run(for: .milliseconds(15))
        pair.westSide.change = { $0.childless = .never }
        try pair.configureWest()
        pair.run(3)
        #expect(pair.reason(pair.west).contains("childless") && pair.reason(pair.east).contains("INVALID_SYNTAX"))
    }
}
