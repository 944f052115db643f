import Crypto
import Foundation
import IKE
import IPsec
import Testing
import Wire

/// Judging certificates takes long: it is done elsewhere, once, and charged; and it ends when the certificate does.
@Suite struct JudgementTests {
    static func work(
        _ store: AnyObject, microseconds: Int = 1000, _ run: @escaping @Sendable () -> Void = {}
    ) -> CertificateWork {
        CertificateWork(id: .init(store: ObjectIdentifier(store), evidence: [1]), microseconds: microseconds, run: run)
    }

    @Test(arguments: [true, false])
    func `the peer waits until its certificates are judged, and is then believed`(isInitiator: Bool) throws {
        let pair = Pair()
        let trust = TestTrust()
        let here = isInitiator ? pair.east : pair.west
        trust.pending = Self.work(trust) { trust.pending = nil }
        pair.useCertificates(.ed25519, eastTrust: isInitiator ? trust : TestTrust(), westTrust: isInitiator ? TestTrust() : trust)
        here.judges = false
        try pair.start()
        pair.run(3)
        #expect(!pair.isUp && here.judged == 1 && here.heldTokens.count == 1 && trust.evaluations == 0)
        trust.pending = nil
        here.core.certificatesJudged(token: here.heldTokens[0], now: pair.now)
        pair.run(5)
        #expect(pair.isUp && pair.mismatch == nil && here.judged == 1 && trust.evaluations >= 1)
        let unexpected = here.core.counters.unexpected
        here.core.certificatesJudged(token: here.heldTokens[0], now: pair.now)
        #expect(here.core.counters.unexpected == unexpected + 1, "an answer counts once")
    }

    @Test func `a judgement that does not come leaves nothing behind`() throws {
        let pair = Pair()
        let trust = TestTrust()
        trust.pending = Self.work(trust)
        pair.useCertificates(.ed25519, westTrust: trust)
        pair.west.judges = false
        try pair.start()
        pair.run(3)
        pair.east.core.removeConnection("c", now: pair.now)
        pair.run(90)
        #expect(pair.west.core.counters.outsideWaitsExpired > 0 && trust.evaluations == 0)
        #expect(pair.isEmpty(pair.west) && pair.isEmpty(pair.east))
    }

    @Test func `what is judged for strangers is charged, and more than their share waits`() throws {
        let pair = Pair()
        let trust = TestTrust()
        trust.pending = Self.work(trust, microseconds: 300_000)
        pair.useCertificates(.ed25519, westTrust: trust)
        pair.west.judges = false
        pair.eastSide.remoteIdentity = nil
        try pair.start()
        pair.run(0.2)
        #expect(pair.west.judged == 1)
        // The same again at once: there is nothing left of this second's time.
        let before = pair.west.core.counters.signaturesDeferred
        pair.east.core.removeConnection("c", now: pair.now)
        try pair.configureEast()
        pair.run(0.2)
        #expect(pair.west.judged == 1 && pair.west.core.counters.signaturesDeferred > before)
        pair.run(4)
        #expect(pair.west.judged >= 2, "the peer's retransmission finds time again")
    }

    // MARK: Many connections, one stranger

    /// A gateway with `connections` that take any peer of one CA.
    private func crowd(_ pair: Pair, _ connections: Int, _ authority: TestAuthority) throws {
        let leaf = try authority.issue("west.example")
        for number in 0..<connections {
            var side = pair.westSide
            side.remoteAddress = nil
            side.remoteIdentity = nil
            var plan = try Pair.plan(side, local: pair.west.address)
            plan.name = "any\(number)"
            plan.remotePattern = .any
            plan.localAuthentication = .signature(leaf.identity)
            plan.remoteAuthentication = .certificate(authority.trust())
            pair.west.core.addConnection(plan, now: pair.now)
        }
    }

    @Test func `28 strangers with costly chains cost a gateway of 16 connections next to nothing`() throws {
        let pair = Pair()
        let authority = try TestAuthority()
        try crowd(pair, 16, authority)
        let file = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
            .appending(path: "Vectors/computed")
        let chain = try Certificate.read(file: file.appending(path: "costly-chain.pem").path)
        // They sign with something cheaper: nobody gets as far as the signature.
        let before = authority.trust().judgementsMade
        let clock = ContinuousClock()
        var longest = Duration.zero
        pair.west.judges = true
        for number in 0..<28 {
            var side = pair.eastSide
            side.remoteIdentity = nil
            side.change = { plan in
                plan.name = "stranger\(number)"
                plan.localAuthentication = .signature(
                    SigningIdentity(key: TestKeys.east(.ed25519), certificates: chain.map(\.der)))
                plan.remoteAuthentication = .certificate(authority.trust())
            }
            pair.east.core.addConnection(try Pair.plan(side, local: pair.east.address), now: pair.now)
            longest = max(longest, clock.measure { pair.run(0.05) })
        }
        longest = max(longest, clock.measure { pair.run(1) })
        #expect(pair.west.judged >= 1 && pair.west.core.counters.authenticationsRefused >= 20)
        // With 16 connections and 50 ms each it was a second per stranger.
        #expect(longest < .seconds(3), "\(longest)")
        #expect(authority.trust().judgementsMade - before <= 2, "one chain, one store: one judgement")
        // Who comes with a good certificate now is let in.
        let good = try authority.issue("east.example")
        pair.eastSide.remoteIdentity = nil
        pair.eastSide.change = { plan in
            plan.localAuthentication = .signature(good.identity)
            plan.remoteAuthentication = .certificate(authority.trust())
        }
        try pair.configureEast()
        pair.run(2)
        #expect(pair.east.status(now: pair.now)?.state == .established)
    }

    @Test func `a stranger's bad signature is verified once, not once per connection`() throws {
        let pair = Pair()
        let authority = try TestAuthority()
        try crowd(pair, 16, authority)
        let good = try authority.issue("east.example")
        pair.eastSide.remoteIdentity = nil
        pair.eastSide.change = { plan in
            plan.localAuthentication = .signature(
                SigningIdentity(key: TestKeys.east(.ecdsaP256), certificates: good.identity.certificates))
            plan.remoteAuthentication = .certificate(authority.trust())
        }
        try pair.configureEast()
        pair.run(1)
        #expect(pair.west.core.counters.authenticationsRefused == 1)
        #expect(pair.west.logs.contains { $0.contains("does not verify") })
        #expect(CountingTrust.verifications == 0)
        let counting = Pair()
        for number in 0..<16 {
            var side = counting.westSide
            side.remoteAddress = nil
            side.remoteIdentity = nil
            var plan = try Pair.plan(side, local: counting.west.address)
            plan.name = "any\(number)"
            plan.remotePattern = .any
            plan.localAuthentication = .signature(good.identity)
            plan.remoteAuthentication = .certificate(CountingTrust(authority.trust()))
            counting.west.core.addConnection(plan, now: counting.now)
        }
        counting.eastSide = pair.eastSide
        try counting.configureEast()
        counting.run(1)
        #expect(counting.west.core.counters.authenticationsRefused == 1)
        #expect(CountingTrust.verifications == 1)
    }

    // MARK: The end of a certificate

    @Test(arguments: [true, false])
    func `a connected peer whose certificate runs out is shut out then`(isInitiator: Bool) throws {
        let pair = Pair()
        let trust = TestTrust()
        trust.validSeconds = 100
        let (here, there) = isInitiator ? (pair.east, pair.west) : (pair.west, pair.east)
        pair.useCertificates(.ed25519, eastTrust: isInitiator ? trust : TestTrust(), westTrust: isInitiator ? TestTrust() : trust)
        try pair.establish()
        // Neither a rekey nor anything else makes it last longer.
        #expect(pair.east.core.rekey(connection: "c", child: nil, ike: true, now: pair.now))
        pair.run(90)
        #expect(pair.isUp)
        trust.refusal = CertificateRefusal(.expired, "It expired.")
        pair.run(15)
        #expect(!pair.isUp && here.installed.isEmpty && there.installed.isEmpty)
        #expect((here.logs + here.downs).contains { $0.contains("shut out") && $0.contains("It expired.") })
    }

    @Test func `a clock that was set meanwhile is asked before anybody is shut out`() throws {
        let pair = Pair()
        let trust = TestTrust()
        trust.validSeconds = 100
        pair.useCertificates(.ed25519, westTrust: trust)
        try pair.establish()
        trust.validSeconds = 500
        pair.run(300)
        #expect(pair.isUp)
    }

    @Test(arguments: [true, false])
    func `before that it is authenticated anew, and a newer certificate carries it on`(isInitiator: Bool) throws {
        let pair = Pair()
        let trust = TestTrust()
        trust.validSeconds = 2000
        pair.useCertificates(.ed25519, eastTrust: isInitiator ? trust : TestTrust(), westTrust: isInitiator ? TestTrust() : trust)
        try pair.establish()
        trust.validSeconds = 1_000_000
        let before = pair.ike(pair.east)?.initiatorSPI
        pair.run(1990)
        #expect(pair.isUp && pair.ike(pair.east)?.initiatorSPI != before && pair.mismatch == nil)
        pair.run(1000)
        #expect(pair.isUp && pair.west.downs.isEmpty && pair.east.downs.isEmpty)
    }
}

/// A CA of the tests with real certificates.
final class TestAuthority {
    let certificate: Certificate
    private let key: OpenSSLSigningKey
    private static let now = Int64(Date().timeIntervalSince1970)

    init() throws {
        key = try OpenSSLSigningKey(generating: .ecdsaP256)
        // O=Example, CN=Test CA
        let template = CertificateTemplate(
            subject: Self.name("Test CA"), notBefore: Self.now - 1000, notAfter: Self.now + 1_000_000, authority: .init())
        certificate = try template.issue(subjectPublicKeyInfo: key.subjectPublicKeyInfo, issuer: nil, key: key)
    }

    private static func name(_ common: String) -> [UInt8] {
        func part(_ type: UInt8, _ text: String) -> [UInt8] {
            let value: [UInt8] = [0x0C, UInt8(text.utf8.count)] + Array(text.utf8)
            let pair: [UInt8] = [0x06, 0x03, 0x55, 0x04, type] + value
            return [0x31, UInt8(pair.count + 2), 0x30, UInt8(pair.count)] + pair
        }
        let parts = part(10, "Example") + part(3, common)
        return [0x30, UInt8(parts.count)] + parts
    }

    func issue(_ host: String) throws -> (identity: SigningIdentity, certificate: Certificate) {
        let own = try OpenSSLSigningKey(generating: .ecdsaP256)
        var template = CertificateTemplate(subject: Self.name(host), notBefore: Self.now - 1000, notAfter: Self.now + 100_000)
        template.alternativeNames = [.dns(host)]
        let issued = try template.issue(subjectPublicKeyInfo: own.subjectPublicKeyInfo, issuer: certificate, key: key)
        return (SigningIdentity(key: own, certificates: [issued.der]), issued)
    }

    func trust() -> CertificateTrust {
        let now = Self.now
        return CertificateTrust(authorities: [certificate], policy: .init(ocsp: .off), now: { now })
    }
}

/// Counts how often a peer's signature is verified.
final class CountingTrust: PeerTrust, @unchecked Sendable {
    nonisolated(unsafe) static var verifications = 0
    final class Key: VerifyingKey {
        let inner: any VerifyingKey
        init(_ inner: any VerifyingKey) { self.inner = inner }
        var kind: PublicKeyKind { inner.kind }
        var subjectPublicKeyInfo: [UInt8] { inner.subjectPublicKeyInfo }
        func verify(_ signature: [UInt8], of octets: [UInt8], _ scheme: SignatureScheme) -> Bool {
            CountingTrust.verifications += 1
            return inner.verify(signature, of: octets, scheme)
        }
    }

    private let inner: CertificateTrust
    init(_ inner: CertificateTrust) { self.inner = inner }
    var authorityKeyHashes: [[UInt8]] { inner.authorityKeyHashes }
    func evaluate(
        certificates: [[UInt8]], identity: Identity, revocationLists: [[UInt8]], ocspResponses: OCSPResponses
    ) throws(CertificateRefusal) -> TrustedPeer {
        var peer = try inner.evaluate(
            certificates: certificates, identity: identity, revocationLists: revocationLists, ocspResponses: ocspResponses)
        peer.key = Key(peer.key)
        return peer
    }
    func rawKey(_ subjectPublicKeyInfo: [UInt8]) -> (any VerifyingKey)? { inner.rawKey(subjectPublicKeyInfo) }
}
