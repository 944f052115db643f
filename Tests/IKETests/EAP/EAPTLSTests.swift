import COpenSSL
import Crypto
import IKE
import IPsec
import Synchronization
import Testing

/// A key and a certificate that signs itself.
private final class SelfSigned: @unchecked Sendable {
    let key: OpaquePointer
    let certificate: [UInt8]

    init(name: String) throws {
        let maker = try #require(EVP_PKEY_CTX_new_from_name(nil, "ED25519", nil))
        defer { EVP_PKEY_CTX_free(maker) }
        var key: OpaquePointer?
        try #require(EVP_PKEY_keygen_init(maker) == 1 && EVP_PKEY_keygen(maker, &key) == 1)
        self.key = try #require(key)
        let made = try #require(X509_new())
        defer { X509_free(made) }
        X509_set_version(made, 2)
        ASN1_INTEGER_set(X509_get_serialNumber(made), 1)
        X509_gmtime_adj(X509_getm_notBefore(made), -60)
        X509_gmtime_adj(X509_getm_notAfter(made), 3600)
        X509_set_pubkey(made, key)
        let subject = X509_get_subject_name(made)
        X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, name, -1, -1, 0)
        X509_set_issuer_name(made, subject)
        try #require(X509_sign(made, key, nil) > 0)
        var start: UnsafeMutablePointer<UInt8>?
        let count = Int(i2d_X509(made, &start))
        certificate = Array(UnsafeBufferPointer(start: try #require(start), count: count))
        CRYPTO_free(start, "", 0)
    }
    deinit { EVP_PKEY_free(key) }
}

/// Trusts one certificate, for one identity.
private final class Pinned: PeerTrust, Sendable {
    let certificate: [UInt8]
    let identity: Identity
    /// To be asked until a response says `good`.
    let check: RevocationCheck?
    /// By a list that has changed meanwhile.
    static let revoked = Mutex<Set<[UInt8]>>([])
    init(_ certificate: [UInt8], _ identity: Identity, check: RevocationCheck? = nil) {
        (self.certificate, self.identity, self.check) = (certificate, identity, check)
    }

    var authorityKeyHashes: [[UInt8]] { [] }
    func rawKey(_ subjectPublicKeyInfo: [UInt8]) -> (any VerifyingKey)? { nil }
    func evaluate(
        certificates: [[UInt8]], identity: Identity, revocationLists: [[UInt8]], ocspResponses: OCSPResponses
    ) throws(CertificateRefusal) -> TrustedPeer {
        guard certificates.first == certificate else { throw CertificateRefusal(.untrusted, "nobody trusts it") }
        guard Self.revoked.withLock({ !$0.contains(certificate) }) else { throw CertificateRefusal(.revoked, "it was revoked") }
        guard identity == self.identity else { throw CertificateRefusal(.nameMismatch, "it is not for \(identity)") }
        if ocspResponses.answer == Array("revoked".utf8) { throw CertificateRefusal(.revoked, "It was revoked on 2026-01-01.") }
        let isSettled = ocspResponses.answer == Array("good".utf8)
        return TrustedPeer(key: NoKey(), subject: "CN=\(identity)", expires: .max, revocationCheck: isSettled ? nil : check)
    }
    private final class NoKey: VerifyingKey, Sendable {
        var kind: PublicKeyKind { .ed25519 }
        var subjectPublicKeyInfo: [UInt8] { [] }
        func verify(_ signature: [UInt8], of octets: [UInt8], _ scheme: SignatureScheme) -> Bool { false }
    }
}

@Suite("EAP-TLS") struct EAPTLSTests {
    private let server: SelfSigned
    private let client: SelfSigned

    init() throws {
        server = try SelfSigned(name: "gateway.example")
        client = try SelfSigned(name: "alice")
    }

    private func credentials(
        _ own: SelfSigned, trusts other: [UInt8], named: String, allowsTLS13: Bool
    ) throws -> TLSCredentials {
        try TLSCredentials(
            certificates: [own.certificate], key: own.key, trust: Pinned(other, .fqdn(named)), allowsTLS13: allowsTLS13)
    }

    private struct Ends {
        var client: EAPMethodStep
        var server: EAPMethodStep
        var packets: Int
        var largest: Int
        var version: String?
        var review: CertificateReview?
    }

    /// Runs both ends against each other; `tamper` may change what the client sends.
    private func run(
        allowsTLS13: Bool, clientExpects: String = "gateway.example", serverExpects: String = "alice",
        serverTrusts: [UInt8]? = nil, tamper: (Int, [UInt8]) -> [UInt8] = { $1 }
    ) throws -> Ends {
        let serverEngine = try credentials(
            server, trusts: serverTrusts ?? client.certificate, named: "alice", allowsTLS13: allowsTLS13
        ).makeEngine(isServer: true, peer: .fqdn(serverExpects))
        let clientEngine = try credentials(
            client, trusts: server.certificate, named: "gateway.example", allowsTLS13: allowsTLS13
        ).makeEngine(isServer: false, peer: .fqdn(clientExpects))
        let there = EAPTLSConversation(serverEngine, isServer: true)
        let here = EAPTLSConversation(clientEngine, isServer: false)
        var request = there.begin()
        var packets = 0
        var largest = 0
        var mine = EAPMethodStep.send([])
        while packets < 100 {
            packets += 1
            let step = here.receive(request[...])
            // What comes after the end of the client's own part is an acknowledgement.
            let answer: [UInt8]
            switch step {
            case .send(let bytes): answer = bytes
            case .success(let bytes, _), .failure(let bytes, _): answer = bytes ?? []
            case .ask: throw Endless()
            }
            if case .success = mine {} else { mine = step }
            let theirs = there.receive(tamper(packets, answer)[...])
            largest = max(largest, request.count, answer.count)
            guard case .send(let next) = theirs else {
                return Ends(
                    client: mine, server: theirs, packets: packets, largest: largest, version: there.settled?.version,
                    review: there.settled?.review)
            }
            if case .failure = mine { return Ends(client: mine, server: theirs, packets: packets, largest: largest) }
            request = next
        }
        throw Endless()
    }
    struct Endless: Error {}

    @Test("both ends agree on a key", arguments: [true, false])
    func agreement(allowsTLS13: Bool) throws {
        let ends = try run(allowsTLS13: allowsTLS13)
        guard case .success(_, let mine?) = ends.client, case .success(_, let theirs?) = ends.server else {
            Issue.record("\(ends)")
            return
        }
        #expect(mine.octets == theirs.octets)
        #expect(mine.count == 64)
        #expect(ends.version == (allowsTLS13 ? "TLSv1.3" : "TLSv1.2"))
        #expect(ends.largest <= EAPTLSFraming.pieceBytes + 5)
        // The client's certificate can be judged again.
        let review = try #require(ends.review)
        #expect(review.revocation() == nil)
        _ = Pinned.revoked.withLock { $0.insert(client.certificate) }
        #expect(review.revocation()?.kind == .revoked)
    }

    @Test("a client whose certificate is not trusted is refused with the reason", arguments: [true, false])
    func untrustedClient(allowsTLS13: Bool) throws {
        let ends = try run(allowsTLS13: allowsTLS13, serverTrusts: [1, 2, 3])
        guard case .failure(_, let reason) = ends.server else {
            Issue.record("\(ends)")
            return
        }
        #expect(reason == "nobody trusts it")
        if case .success = ends.client { Issue.record("the client thinks it is in") }
    }

    @Test("a client that claims another name than its certificate's is refused", arguments: [true, false])
    func wrongClientName(allowsTLS13: Bool) throws {
        let ends = try run(allowsTLS13: allowsTLS13, serverExpects: "bob")
        guard case .failure(_, let reason) = ends.server else {
            Issue.record("\(ends)")
            return
        }
        #expect(reason.contains("not for bob"))
    }

    @Test("a server that is not the expected one is refused by the client", arguments: [true, false])
    func wrongServer(allowsTLS13: Bool) throws {
        let ends = try run(allowsTLS13: allowsTLS13, clientExpects: "other.example")
        guard case .failure(let alert?, let reason) = ends.client else {
            Issue.record("\(ends)")
            return
        }
        #expect(reason.contains("not for other.example"))
        #expect(alert.count > 1)
    }

    @Test("octets that somebody changed end the handshake", arguments: 1...3)
    func tampering(packet: Int) throws {
        let ends = try run(allowsTLS13: true) { number, bytes in
            guard number == packet, bytes.count > 20 else { return bytes }
            var bytes = bytes
            bytes[bytes.count / 2] ^= 0x10
            return bytes
        }
        if case .success = ends.server, packet < ends.packets - 1 { Issue.record("a changed packet \(packet) was accepted") }
    }

    // MARK: Revocation

    /// East authenticates to west by EAP-TLS alone; one of them is not sure of the other's certificate.
    private func pair(asking: String, _ check: RevocationCheck, allowsTLS13: Bool) throws -> Pair {
        let pair = Pair()
        let (mine, theirs) = (client, server)
        func credentials(_ own: SelfSigned, _ other: SelfSigned, _ name: String, asks: Bool) throws -> TLSCredentials {
            try TLSCredentials(
                certificates: [own.certificate], key: own.key,
                trust: Pinned(other.certificate, .fqdn(name), check: asks ? check : nil), allowsTLS13: allowsTLS13)
        }
        let ofClient = try credentials(mine, theirs, "gateway.example", asks: asking == "east")
        let ofServer = try credentials(theirs, mine, "alice", asks: asking == "west")
        pair.eastSide.identity = .fqdn("alice")
        pair.eastSide.change = { plan in
            plan.localAuthentication = .eap(EAPClientPlan(methods: [.tls(ofClient, server: .fqdn("gateway.example"))]))
            plan.remoteAuthentication = .eapOnly
        }
        pair.westSide.remoteIdentity = nil
        pair.westSide.change = { plan in
            plan.remoteAuthentication = .eap(
                EAPServerPlan(acceptsEAPOnly: true) { context in
                    EAPMethodServer(context, methods: [.tls(ofServer)], asksIdentity: false)
                })
        }
        return pair
    }

    @Test("an OCSP responder is asked about the other end, and its word counts", arguments: ["east", "west"], [true, false])
    func revocation(asking: String, allowsTLS13: Bool) throws {
        let cases: [(answer: String?, isRequired: Bool, comesUp: Bool)] = [
            ("good", true, true), ("revoked", false, false), (nil, true, false), (nil, false, true),
        ]
        for (answer, isRequired, comesUp) in cases {
            var check = RevocationTests.check
            check.isRequired = isRequired
            let pair = try pair(asking: asking, check, allowsTLS13: allowsTLS13)
            let (here, there) = asking == "east" ? (pair.east, pair.west) : (pair.west, pair.east)
            here.answersRevocation = { _ in answer.map { Array($0.utf8) } }
            try pair.start()
            pair.run(6)
            #expect(here.revocationChecks == [check] && there.revocationChecks.isEmpty)
            #expect(pair.isUp == comesUp, "\(answer ?? "nothing") \(pair.reason(here)) \(pair.reason(there))")
            #expect(pair.east.installed.isEmpty != comesUp && pair.west.installed.isEmpty != comesUp)
            if answer == "revoked" { #expect(pair.reason(here).contains("revoked on 2026-01-01")) }
            if answer == nil, isRequired { #expect(pair.reason(here).contains("Nobody says whether it is revoked")) }
            if answer == nil, !isRequired { #expect(pair.ike(here)?.warnings == [check.sentence]) }
            if answer == "good" { #expect(pair.ike(here)?.warnings == [] && pair.mismatch == nil) }
        }
    }

    @Test("a slow responder is waited for, and one that never answers is given up", arguments: ["east", "west"])
    func slowResponder(asking: String) throws {
        let pair = try pair(asking: asking, RevocationTests.check, allowsTLS13: true)
        let here = asking == "east" ? pair.east : pair.west
        try pair.start()
        pair.run(4)
        #expect(here.heldTokens.count == 1 && !pair.isUp)
        here.core.revocationAnswered(token: here.heldTokens[0], response: Array("good".utf8), now: pair.now)
        #expect(pair.network.run(for: .seconds(4)) { pair.isUp } && pair.mismatch == nil)

        let never = try self.pair(asking: asking, RevocationTests.check, allowsTLS13: true)
        try never.start()
        never.run(25)
        let node = asking == "east" ? never.east : never.west
        #expect(!never.isUp && node.core.counters.outsideWaitsExpired > 0)
        never.east.core.removeConnection("c", now: never.now)
        never.west.core.removeConnection("c", now: never.now)
        never.run(150)
        #expect(never.isEmpty(never.east) && never.isEmpty(never.west))
    }

    // MARK: Pieces

    @Test("a message of any size comes out as it went in", arguments: [0, 1, 999, 1000, 1001, 2000, 65_536])
    func pieces(size: Int) throws {
        let message = (0..<size).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        var sender = EAPTLSFraming()
        var receiver = EAPTLSFraming()
        var packet = sender.send(message)
        #expect(packet.totalBytes == (size > 1000 ? size : nil))
        while true {
            let read = try EAPTLSPacket(parsing: packet.encoded[...])
            switch try receiver.receive(read) {
            case .message(let whole):
                #expect(whole == message)
                return
            case .reply(let acknowledgement):
                #expect(acknowledgement.isAcknowledgement)
                guard case .reply(let next) = try sender.receive(acknowledgement) else { return }
                packet = next
            }
        }
    }

    @Test("more than was announced, less, or a changed length are errors")
    func lyingLengths() throws {
        var framing = EAPTLSFraming()
        #expect(throws: IKEFault.self) { try framing.receive(EAPTLSPacket(totalBytes: 3, data: [1, 2, 3, 4])) }
        framing = EAPTLSFraming()
        #expect(throws: IKEFault.self) { try framing.receive(EAPTLSPacket(totalBytes: 5, data: [1, 2, 3, 4])) }
        framing = EAPTLSFraming()
        #expect(throws: IKEFault.self) { try framing.receive(EAPTLSPacket(totalBytes: 65_537, data: [1])) }
        framing = EAPTLSFraming()
        #expect(throws: IKEFault.self) { try framing.receive(EAPTLSPacket(hasMore: true, totalBytes: 9)) }
        framing = EAPTLSFraming()
        _ = try framing.receive(EAPTLSPacket(hasMore: true, totalBytes: 9, data: [1]))
        #expect(throws: IKEFault.self) { try framing.receive(EAPTLSPacket(totalBytes: 10, data: [1])) }
    }

    @Test("pieces without an announced length are bounded all the same")
    func boundedPieces() throws {
        var framing = EAPTLSFraming()
        let piece = EAPTLSPacket(hasMore: true, data: [UInt8](repeating: 1, count: 30_000))
        _ = try framing.receive(piece)
        _ = try framing.receive(piece)
        #expect(throws: IKEFault.self) { try framing.receive(piece) }
    }

    @Test("a conversation that never ends is ended")
    func endless() throws {
        let engine = try credentials(server, trusts: [], named: "x", allowsTLS13: true)
            .makeEngine(isServer: true, peer: .fqdn("x"))
        let conversation = EAPTLSConversation(engine, isServer: true)
        _ = conversation.begin()
        let piece = EAPTLSPacket(hasMore: true, data: [22]).encoded
        for _ in 0..<EAPTLSConversation.packetsMost {
            guard case .send = conversation.receive(piece[...]) else { return }
        }
        guard case .failure(_, let reason) = conversation.receive(piece[...]) else {
            Issue.record("it goes on")
            return
        }
        #expect(reason.contains("too long"))
    }
}
