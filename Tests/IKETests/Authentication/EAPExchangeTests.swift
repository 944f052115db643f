import Crypto
import IPsec
import Testing
import Wire

@testable import IKE

/// The rounds of IKE_AUTH with EAP, with a method made for the test: a password that goes over the wire in three packets.
@Suite struct EAPExchangeTests {
    static let type = EAPType(rawValue: 255)

    final class Client: EAPClientMethod {
        let password: [UInt8]
        let key: Secret?
        let mutual: Bool
        var rounds = 0
        init(_ password: String, key: Secret?, mutual: Bool) {
            (self.password, self.key, self.mutual) = (Array(password.utf8), key, mutual)
        }
        func receive(_ data: [UInt8]) -> EAPClientStep {
            rounds += 1
            if data == [9] { return .failed("the test method does not like this") }
            return .respond(rounds == 1 ? [1] : password)
        }
        var isDone: Bool { rounds >= 2 }
        var masterSessionKey: Secret? { key }
        var authenticatesServer: Bool { mutual }
        var failureSentence: String? { "the password was wrong" }
    }

    final class Server: EAPServerMethod {
        let password: [UInt8]
        let key: Secret?
        var rounds = 0
        init(_ password: String, key: Secret?) { (self.password, self.key) = (Array(password.utf8), key) }
        func begin() -> EAPServerMethodStep { .request([0]) }
        func receive(_ data: [UInt8]) -> EAPServerMethodStep {
            rounds += 1
            if rounds == 1 { return .request([1]) }
            guard data == password else { return .failure("the password is wrong") }
            return .success(EAPOutcome(masterSessionKey: key, name: Array("alice@example".utf8)))
        }
    }

    struct Setting {
        var clientPassword = "open sesame"
        var serverPassword = "open sesame"
        var clientKey: [UInt8]? = [UInt8](repeating: 1, count: 64)
        var serverKey: [UInt8]? = [UInt8](repeating: 1, count: 64)
        var clientTypes = [EAPExchangeTests.type]
        var serverTypes = [EAPExchangeTests.type]
        var asksIdentity = false
        var isEAPOnly = false
        var mutual = true
        var pattern = IdentityPattern.any
        var session: (@Sendable (EAPContext) -> any EAPServerSession)?
    }

    private func pair(_ setting: Setting = Setting()) -> Pair {
        let pair = Pair()
        let crypto = OpenSSLCrypto()
        pair.useCertificates(.ed25519)
        let (east, west) = (pair.eastSide.change, pair.westSide.change)
        pair.eastSide.identity = .email("alice@example")
        pair.eastSide.change = { plan in
            east?(&plan)
            plan.localAuthentication = .eap(
                EAPClientPlan(
                    methods: setting.clientTypes.map { type in
                        .init(type) { _ in
                            Client(setting.clientPassword, key: setting.clientKey.map(crypto.secret), mutual: setting.mutual)
                        }
                    }))
            if setting.isEAPOnly { plan.remoteAuthentication = .eapOnly }
        }
        pair.westSide.change = { plan in
            west?(&plan)
            plan.remotePattern = setting.pattern
            plan.remoteAuthentication = .eap(
                EAPServerPlan(acceptsEAPOnly: setting.isEAPOnly) { context in
                    setting.session?(context)
                        ?? EAPMethodServer(
                            context,
                            methods: setting.serverTypes.map { type in
                                .init(type) { _ in Server(setting.serverPassword, key: setting.serverKey.map(crypto.secret)) }
                            }, asksIdentity: setting.asksIdentity)
                })
        }
        return pair
    }

    @Test(arguments: [false, true], [false, true])
    func `a password proves the client, a certificate or the method the server`(isEAPOnly: Bool, asksIdentity: Bool) throws {
        let pair = pair(Setting(asksIdentity: asksIdentity, isEAPOnly: isEAPOnly))
        #expect(try pair.establish())
        #expect(pair.mismatch == nil)
        #expect(pair.ike(pair.east)?.localMethod == "EAP type 255" && pair.ike(pair.west)?.remoteMethod == "EAP type 255")
        #expect(pair.ike(pair.east)?.remoteMethod == (isEAPOnly ? "EAP type 255" : "Ed25519"))
        #expect(pair.ike(pair.west)?.localMethod == (isEAPOnly ? "EAP type 255" : "Ed25519"))
        #expect(pair.ike(pair.west)?.remoteIdentity == .email("alice@example"))
        // It lives on like any other: rekeyed, closed.
        #expect(pair.east.core.rekey(connection: "c", child: nil, ike: true, now: pair.now))
        pair.run(2)
        #expect(pair.isUp && pair.ike(pair.west)?.remoteMethod == "EAP type 255")
        pair.east.core.removeConnection("c", now: pair.now)
        pair.run(15)
        #expect(pair.isEmpty(pair.east) && pair.isEmpty(pair.west))
    }

    /// Anybody may begin EAP, and our signature costs more than theirs.
    @Test func `signatures for strangers wait when there have been many, and the stranger gets in later`() throws {
        let pair = pair()
        pair.westSide.remoteAddress = nil
        var isFirst = true
        pair.network.filter = { bytes, source, _ in
            guard isFirst, source.address == pair.east.address, bytes[18] == ExchangeType.ikeAuth.rawValue else { return true }
            isFirst = false
            // In debt for more than a second.
            pair.west.core.strangerWork = WorkBudget(microsecondsPerSecond: Bounds.unauthenticatedWorkMicroseconds)
            return pair.west.core.strangerWork.take(2 * Bounds.unauthenticatedWorkMicroseconds, now: pair.now)
        }
        try pair.start()
        pair.network.run(for: .milliseconds(500))
        let deferred = pair.west.core.counters.signaturesDeferred
        #expect(!isFirst && deferred >= 1 && pair.west.ups == 0)
        #expect(pair.network.run(for: .seconds(5)) { pair.isUp })
        #expect(pair.mismatch == nil && pair.west.core.counters.authenticationsRefused == 0)
    }

    /// As a TLS handshake's are.
    final class CostlyServer: EAPServerMethod {
        private let inner = Server("open sesame", key: OpenSSLCrypto().secret([UInt8](repeating: 1, count: 64)))
        func begin() -> EAPServerMethodStep { inner.begin() }
        func receive(_ data: [UInt8]) -> EAPServerMethodStep { inner.receive(data) }
        func workMicroseconds(_ data: [UInt8]) -> Int { 200_000 }
    }

    @Test func `what a stranger's rounds of EAP cost is charged, and more than the strangers' share waits`() throws {
        var setting = Setting()
        setting.session = { context in
            EAPMethodServer(context, methods: [.init(EAPExchangeTests.type) { _ in CostlyServer() }], asksIdentity: false)
        }
        let pair = pair(setting)
        pair.westSide.remoteAddress = nil
        try pair.start()
        pair.network.run(for: .milliseconds(300))
        #expect(pair.west.core.counters.signaturesDeferred >= 1 && pair.west.ups == 0)
        #expect(pair.network.run(for: .seconds(10)) { pair.isUp })
        #expect(pair.mismatch == nil && pair.west.core.counters.authenticationsRefused == 0)
    }

    /// The PPK is mixed in when EAP is through, before the AUTH payloads that follow it. RFC 8784 §3.
    @Test(arguments: [true, false], [true, false])
    func `a postquantum key goes into what follows EAP, whether the method made a key or not`(
        makesKey: Bool, isEAPOnly: Bool
    ) throws {
        guard makesKey || !isEAPOnly else { return }
        typealias Key = PostquantumKeyTests.Key
        let (secret, other) = (PostquantumKeyTests.secret, PostquantumKeyTests.secret + "!")
        let cases: [(east: Key?, west: Key?, comesUp: Bool, used: Bool)] = [
            (("p", secret, true), ("p", secret, true), true, true), (("p", secret, false), ("p", secret, false), true, true),
            (("p", secret, true), ("p", other, true), false, false), (("p", secret, false), ("p", other, false), false, false),
            (("p", secret, false), ("q", secret, false), true, false), (("p", secret, true), ("q", secret, false), false, false),
            (("p", secret, false), ("q", secret, true), false, false), (("p", secret, true), nil, false, false),
            (nil, ("p", secret, true), false, false), (("p", secret, false), nil, true, false),
        ]
        for (east, west, comesUp, used) in cases {
            let key = makesKey ? [UInt8](repeating: 1, count: 64) : nil
            let pair = pair(Setting(clientKey: key, serverKey: key, isEAPOnly: isEAPOnly))
            (pair.eastSide.ppk, pair.westSide.ppk) = (east, west)
            try pair.start()
            pair.run(5)
            let said = "\(String(describing: (east, west))): \(pair.reason(pair.east)) | \(pair.reason(pair.west))"
            #expect(pair.isUp == comesUp, "\(said)")
            guard comesUp else { #expect(pair.east.installed.isEmpty && pair.west.installed.isEmpty, "\(said)"); continue }
            #expect(pair.mismatch == nil && PostquantumKeyTests.used(pair) == [used, used], "\(said)")
        }
    }

    @Test func `a method that makes no key leaves SK_pi and SK_pr`() throws {
        let pair = pair(Setting(clientKey: nil, serverKey: nil))
        #expect(try pair.establish())
    }

    @Test func `on a bad network the rounds are repeated until they are through`() throws {
        let pair = pair()
        pair.network.faults = .init(loss: 0.2, duplication: 0.3, spread: .milliseconds(50))
        #expect(try pair.establish(within: .seconds(120)))
        #expect(pair.mismatch == nil)
    }

    @Test func `a Nak finds the method that both have`() throws {
        let other = EAPType(rawValue: 77)
        let pair = pair(Setting(clientTypes: [Self.type], serverTypes: [other, Self.type]))
        #expect(try pair.establish())
        let none = self.pair(Setting(clientTypes: [other], serverTypes: [Self.type]))
        try none.start()
        none.run(4)
        #expect(none.reason(none.west).contains("EAP type 77") && none.reason(none.west).contains("EAP type 255"))
        #expect(none.reason(none.west).contains("see remote.auth here"))
        #expect(none.reason(none.east).contains("EAP-Failure: it wanted EAP type 255, and we do EAP type 77 (see local.auth"))
    }

    @Test func `a wrong password is told on both ends`() throws {
        let pair = pair(Setting(clientPassword: "open barley"))
        try pair.start()
        pair.run(4)
        #expect(pair.reason(pair.west).contains("the password is wrong") && pair.reason(pair.west).contains("alice@example"))
        #expect(pair.reason(pair.east).contains("the password was wrong"))
        for text in pair.east.logs + pair.west.logs { #expect(!text.contains("open barley") && !text.contains("open sesame")) }
        #expect(pair.west.installed.isEmpty)
    }

    @Test func `ends whose EAP keys differ do not trust each other`() throws {
        let pair = pair(Setting(serverKey: [UInt8](repeating: 2, count: 64)))
        try pair.start()
        pair.run(4)
        #expect(pair.reason(pair.west).contains("does not know the key that EAP made"))
        #expect(pair.reason(pair.east).contains("AUTHENTICATION_FAILED"))
        #expect(pair.west.installed.isEmpty && pair.east.installed.isEmpty)
    }

    @Test func `EAP alone is not enough when the method leaves the server unproved or makes no key`() throws {
        for setting in [Setting(isEAPOnly: true, mutual: false), Setting(clientKey: nil, serverKey: nil, isEAPOnly: true)] {
            let pair = pair(setting)
            try pair.start()
            pair.run(4)
            #expect(pair.reason(pair.east).contains("does not authenticate a server"))
            #expect(pair.east.installed.isEmpty && pair.west.installed.isEmpty)
            #expect(pair.reason(pair.west).contains("AUTHENTICATION_FAILED"), "the break-off is told")
        }
    }

    @Test func `a server that proves nothing is not believed when it should`() throws {
        let pair = pair()
        let west = pair.westSide.change
        pair.westSide.change = { plan in
            west?(&plan)
            guard case .eap(let server) = plan.remoteAuthentication else { return }
            plan.remoteAuthentication = .eap(EAPServerPlan(acceptsEAPOnly: true, makeSession: server.makeSession))
        }
        // East offers EAP-only but wants a certificate all the same when it comes; west leaves it out.
        let east = pair.eastSide.change
        pair.eastSide.change = { plan in
            east?(&plan)
            guard case .eap(var client) = plan.localAuthentication else { return }
            client.offersEAPOnly = true
            plan.localAuthentication = .eap(client)
        }
        #expect(try pair.establish())
        #expect(pair.ike(pair.east)?.remoteMethod == "EAP type 255")
    }

    @Test func `the name that EAP authenticated counts, not the one that was claimed`() throws {
        let pair = pair(Setting(pattern: .mailboxesOf("@example")))
        pair.eastSide.identity = .email("mallory@example")
        #expect(try pair.establish())
        #expect(pair.ike(pair.west)?.remoteIdentity == .email("alice@example"))
        let refused = self.pair(Setting(pattern: .exactly(.email("mallory@example"))))
        refused.eastSide.identity = .email("mallory@example")
        try refused.start()
        refused.run(4)
        #expect(refused.reason(refused.west).contains("EAP authenticated it as alice@example"))
        #expect(refused.west.installed.isEmpty)
    }

    @Test func `EAP where none is expected, and none where it is`() throws {
        let pair = pair()
        pair.westSide.change = nil
        pair.westSide.remoteIdentity = nil
        try pair.start()
        pair.run(4)
        #expect(pair.reason(pair.west).contains("wants to authenticate with EAP") && pair.reason(pair.west).contains("auth: psk"))
        let other = self.pair()
        other.eastSide.change = nil
        try other.start()
        other.run(4)
        #expect(other.reason(other.west).contains("expects EAP") && other.reason(other.west).contains("auth: eap"))
    }

    // MARK: Backends

    /// Asks a backend for every packet, and lets it decide.
    final class Passing: EAPServerSession {
        func begin() -> EAPServerStep { .send(EAPPacket(.request, identifier: 1, type: .identity).encoded) }
        func receive(_ packet: [UInt8]) -> EAPServerStep {
            .ask(
                EAPBackendRequest(candidates: [
                    .init(server: Endpoint(IPAddress("192.0.2.99")!, 1812), octets: packet) { _ in true }
                ]))
        }
        func resume(_ answer: EAPBackendAnswer?) -> EAPServerStep {
            guard let answer else { return .failure(EAPPacket(.failure, identifier: 1).encoded, "no server answered") }
            guard let packet = EAPPacket(parsing: answer.octets), packet.code == .success else { return .send(answer.octets) }
            return .success(
                answer.octets,
                EAPOutcome(
                    masterSessionKey: OpenSSLCrypto().secret([UInt8](repeating: 1, count: 64)),
                    name: Array("alice@example".utf8), method: EAPExchangeTests.type))
        }
    }

    private func scripted() -> [EAPPacket] {
        [
            EAPPacket(.request, identifier: 2, type: Self.type, data: [0]),
            EAPPacket(.request, identifier: 3, type: Self.type, data: [1]), EAPPacket(.success, identifier: 3),
        ]
    }

    @Test func `a backend decides, its answers may take their time`() throws {
        let pair = pair(Setting(session: { _ in Passing() }))
        try pair.start()
        for packet in scripted() {
            pair.run(4)
            let token = try #require(pair.west.heldTokens.last)
            pair.west.core.backendAnswered(
                token: token, answer: EAPBackendAnswer(candidate: 0, octets: packet.encoded), now: pair.now)
        }
        pair.run(3)
        #expect(pair.isUp && pair.mismatch == nil && pair.west.heldTokens.count == 3)
    }

    @Test func `a backend that is silent is given up`() throws {
        let pair = pair(Setting(session: { _ in Passing() }))
        pair.west.answersBackend = { _ in nil }
        try pair.start()
        pair.run(4)
        #expect(pair.reason(pair.west).contains("no server answered"))
        let silent = self.pair(Setting(session: { _ in Passing() }))
        try silent.start()
        silent.run(30)
        #expect(silent.west.core.counters.outsideWaitsExpired > 0 && silent.west.installed.isEmpty)
        silent.east.core.removeConnection("c", now: silent.now)
        silent.run(60)
        #expect(silent.isEmpty(silent.west) && silent.isEmpty(silent.east))
    }

    @Test func `a conversation without end is ended`() throws {
        final class Endless: EAPServerSession {
            var identifier: UInt8 = 0
            func begin() -> EAPServerStep { receive([]) }
            func receive(_ packet: [UInt8]) -> EAPServerStep {
                identifier &+= 1
                return .send(EAPPacket(.request, identifier: identifier, type: EAPExchangeTests.type, data: [0]).encoded)
            }
            func resume(_ answer: EAPBackendAnswer?) -> EAPServerStep { receive([]) }
        }
        let pair = pair(Setting(session: { _ in Endless() }))
        try pair.start()
        pair.run(9)
        #expect(pair.reason(pair.east).contains("more than 128 times"))
        pair.east.core.removeConnection("c", now: pair.now)
        pair.run(130)
        #expect(pair.isEmpty(pair.west))
    }

    @Test(arguments: [
        [UInt8](), [1], [1, 2, 0, 3], [1, 2, 0, 9, 1], [3, 2, 0, 5, 0], [5, 1, 0, 4], [2, 1, 0, 5, 1], [1, 1, 0, 5, 3],
        [UInt8](repeating: 1, count: 9000),
    ])
    func `malformed EAP packets end the exchange on either side`(garbage: [UInt8]) throws {
        final class Garbage: EAPServerSession {
            let octets: [UInt8]
            init(_ octets: [UInt8]) { self.octets = octets }
            func begin() -> EAPServerStep { .send(octets) }
            func receive(_ packet: [UInt8]) -> EAPServerStep { .send(octets) }
            func resume(_ answer: EAPBackendAnswer?) -> EAPServerStep { .send(octets) }
        }
        let pair = pair(Setting(session: { _ in Garbage(garbage) }))
        try pair.start()
        pair.run(4)
        #expect(pair.reason(pair.east).contains("EAP with") || pair.reason(pair.east).contains("malformed"))
        #expect(pair.east.installed.isEmpty)
        let server = EAPMethodServer(
            EAPContext(
                crypto: OpenSSLCrypto(), random: SeededRandom(seed: 1), peer: .fqdn("x"), name: [],
                remote: Endpoint(pair.east.address, 500)),
            methods: [.init(Self.type) { _ in Server("x", key: nil) }], asksIdentity: true)
        _ = server.begin()
        guard case .failure = server.receive(garbage) else { Issue.record("garbage was answered"); return }
    }
}
