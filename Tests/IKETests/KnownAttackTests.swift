import Crypto
import IPsec
import Testing
import Wire

@testable import IKE

/// What was published against strongSwan and Libreswan since October 2025, as far as this core speaks what it was in, sent at
/// this core. Not here, for want of the thing itself: CVE-2025-9615 (NetworkManager plugin), CVE-2026-35334 (RSA decryption),
/// CVE-2026-94453 (IKE over TCP), CVE-2026-50721 (IKEv1), CVE-2026-35328 (TLS itself is OpenSSL's). CVE-2026-35331 (name
/// constraints in any case) is a matter of certificates.
@Suite struct KnownAttackTests {
    /// West has answered the first message and waits for IKE_AUTH; the attacker has east's keys and no secret.
    private static func halfOpen(_ change: (Pair) -> Void = { _ in }) throws -> (pair: Pair, attacker: Forge) {
        let pair = Pair()
        change(pair)
        pair.network.filter = { bytes, _, _ in bytes[18] == ExchangeType.ikeSAInit.rawValue }
        try pair.start()
        pair.network.run(for: .milliseconds(100))
        let sa = try #require(pair.east.core.allSAs.first { $0.keys != nil })
        return (pair, Forge(sa: sa))
    }

    private static func send(_ bytes: [UInt8], to pair: Pair) -> [WireMessage] {
        let path = Path(local: Endpoint(pair.west.address, 500), remote: Endpoint(pair.east.address, 500))
        pair.west.core.handleDatagram(bytes, path: path, now: pair.now)
        pair.west.takeEvents(now: pair.now)
        return InitTests.answers(pair.west)
    }

    private static let child: [Payload] = {
        let suite = ESPSuite(transform: ESPTransform(keyBits: 256, extendedSequenceNumbers: true), method: nil)
        return [
            .securityAssociation([
                WireProposal(number: 1, protocolID: ProtocolID.esp, spi: [0, 0, 0x77, 1], transforms: suite.transforms)
            ]), .nonce([UInt8](repeating: 3, count: 32)),
            .trafficSelectorsInitiator(WireSelectors([TrafficSelector(IPPrefix("10.1.0.0/24")!)])),
            .trafficSelectorsResponder(WireSelectors([TrafficSelector(IPPrefix("10.2.0.0/24")!)])),
        ]
    }()

    // MARK: The state machine

    @Test(arguments: [ExchangeType.createChildSA, .informational, .ikeFollowUpKE, .ikeIntermediate])
    func `CVE-2026-78135: nothing but IKE_AUTH is answered before who it is has been proved`(_ exchange: ExchangeType) throws {
        let (pair, attacker) = try Self.halfOpen()
        for id in 0...3 as ClosedRange<UInt32> {
            #expect(Self.send(try attacker.request(exchange, Self.child, id: id), to: pair).isEmpty)
        }
        #expect(pair.west.installed.isEmpty && pair.west.core.allSAs.allSatisfy { $0.established == nil })
        // The peer itself is not shut out by that.
        pair.network.filter = nil
        #expect(pair.network.run(for: .seconds(10)) { pair.isUp })
    }

    @Test func `CVE-2026-78133: collisions of rekeys end with one SA each, whatever is lost, doubled or late`() throws {
        for seed in 1...12 as ClosedRange<UInt64> {
            let pair = Pair(seed: seed)
            pair.network.keepsHistory = false
            #expect(try pair.establish())
            pair.network.faults = .hostile
            for round in 0..<4 {
                for node in [pair.east, pair.west] {
                    _ = node.core.rekey(connection: "c", child: nil, ike: round % 2 == 0, now: pair.now)
                    if seed % 3 == 0 { _ = node.core.rekey(connection: "c", child: "net", ike: false, now: pair.now) }
                }
                pair.run(seed % 2 == 0 ? 0.3 : 3)
            }
            if seed % 4 == 0 { _ = pair.east.core.terminate(connection: "c", child: "net", now: pair.now) }
            pair.network.faults = .none
            pair.run(120)
            if seed % 4 == 0 { _ = pair.east.core.initiate(connection: "c", child: nil, now: pair.now); pair.run(30) }
            #expect(pair.isUp && pair.mismatch == nil, "seed \(seed)")
            #expect(pair.west.core.tableSizes["sas"] == 1 && pair.east.installed.count == 1, "seed \(seed)")
        }
    }

    @Test func `CVE-2026-77206: an EAP payload where EAP is not configured is refused like any other`() throws {
        for eap in [[], [2], [2, 1, 0, 4], [1, 1, 0, 5, 1], [3, 1, 0, 4]] as [[UInt8]] {
            let (pair, attacker) = try Self.halfOpen()
            let identity = Payload.identityInitiator(WireIdentity(.fqdn("east.example")))
            let messages = [[identity, .extensibleAuthentication(eap)], [.extensibleAuthentication(eap)]]
            for (offset, payloads) in messages.enumerated() {
                _ = Self.send(try attacker.request(.ikeAuth, payloads, id: 1 + UInt32(offset)), to: pair)
            }
            #expect(pair.west.installed.isEmpty && pair.west.core.allSAs.allSatisfy { $0.established == nil })
        }
    }

    @Test func `CVE-2026-12413: payloads in front of every fragment fill nothing`() throws {
        let (pair, attacker) = try Self.halfOpen()
        let sa = attacker.sa
        let keys = try #require(sa.ourKeys)
        let suite = try #require(sa.suite)
        var header = sa.header(.ikeAuth, isResponse: false, id: 1)
        header.nextPayload = PayloadType(rawValue: 200)
        for count in [1, 100, Bounds.payloadsPerMessage, 2000] {
            for number in 1...8 as ClosedRange<UInt16> {
                var body: [UInt8] = []
                for index in 0..<count { body += [index + 1 < count ? 200 : PayloadType.encryptedFragment.rawValue, 0, 0, 4] }
                body += [0, 0, 0, 44, 0, UInt8(number), 0, 9] + [UInt8](repeating: 1, count: 36)
                header.length = UInt32(IKEHeader.byteCount + body.count)
                #expect(Self.send(header.encoded + body, to: pair).isEmpty)
            }
        }
        _ = (keys, suite)
        #expect(pair.west.core.allSAs.allSatisfy { $0.fragmentation.request == nil }, "nothing that is not authentic is kept")
        pair.network.filter = nil
        #expect(pair.network.run(for: .seconds(10)) { pair.isUp })
    }

    // MARK: Lengths

    @Test func `oversized and undersized datagrams cost a look, and a bounded number of lines`() throws {
        let pair = Pair()
        try pair.configureWest()
        let random = SeededRandom(seed: 9)
        let first = try InitTests.request()
        var long = try InitTests.request(extra: [.opaque(.vendorID, [UInt8](repeating: 1, count: 60_000))])
        for count in [65_507, 65_535, Bounds.messageBytes + 1] {
            long = Array((long + [UInt8](repeating: 0, count: 65_535)).prefix(count))
            #expect(Self.send(long, to: pair).isEmpty)
        }
        for index in 0..<20_000 {
            var junk = index % 2 == 0 ? first : random.bytes(Int(random.next() % 200))
            if index % 2 == 0 { junk[Int(random.next() % UInt64(junk.count))] ^= UInt8(truncatingIfNeeded: random.next()) }
            let source = Endpoint(.v4(IPv4Address(bits: 0xCB00_7100 | UInt32(index & 0xFF))), 500)
            let path = Path(local: Endpoint(pair.west.address, 500), remote: source)
            pair.west.core.handleDatagram(junk, path: path, now: pair.now)
            while pair.west.core.pollTransmit() != nil {}
        }
        pair.west.takeEvents(now: pair.now)
        #expect(pair.west.logs.count < 100, "\(pair.west.logs.count) lines for 20,000 datagrams")
        #expect(pair.west.core.tableSizes["halfOpen"]! <= 64)
    }

    @Test(arguments: [0, 1, 31, 33, 64])
    func `CVE-2026-35332: a public value of another length is no key exchange`(_ count: Int) throws {
        let pair = Pair()
        try pair.configureWest()
        #expect(Self.send(try InitTests.request(keyBytes: count), to: pair).isEmpty)
        #expect(pair.west.core.tableSizes["sas"] == 0)
    }

    @Test func `CVE-2026-35332: a point that is not on the curve is no key exchange`() throws {
        let crypto = OpenSSLCrypto()
        for method in [KeyExchangeMethod.ecp256, .ecp384, .ecp521] {
            let zeros = [UInt8](repeating: 0, count: method.publicValueBytes)
            #expect(throws: IKECryptoError.self) { try crypto.answerKeyExchange(method, peerPublicValue: zeros).sharedSecret() }
            let ones = [UInt8](repeating: 1, count: method.publicValueBytes)
            #expect(throws: IKECryptoError.self) { try crypto.answerKeyExchange(method, peerPublicValue: ones).sharedSecret() }
            #expect(throws: IKECryptoError.self) { try crypto.answerKeyExchange(method, peerPublicValue: []).sharedSecret() }
        }
    }

    @Test func `CVE-2025-62291: a Failure request of any length is a refusal, and no octet beyond its end is read`() {
        let random = SeededRandom(seed: 4)
        for count in 0..<80 {
            // Code 4, an identifier, a length that may lie, and a text that is cut off or hostile.
            for claimed in [count + 4, 0, 3, 4, 5, 65_535] {
                let data: [UInt8] = [4, 1, UInt8(claimed >> 8), UInt8(claimed & 0xFF)] + random.bytes(count)
                let client = MSCHAPv2Client(
                    userName: "alice", password: SecureBytes(Array("secret".utf8)), crypto: OpenSSLCrypto(), random: random)
                switch client.receive(data[...]) {
                case .failure, .send: break
                case .success, .ask: Issue.record("it proves nothing")
                }
            }
        }
        for text in ["E=", "E=691 R=1 C=", "E=691 R=1 C=00", "C=" + String(repeating: "0", count: 2000), "E=99999999999 R=1"] {
            let failure = MSCHAPv2Failure(message: Array(text.utf8))
            #expect(failure?.challenge == nil)
        }
    }

    @Test func `CVE-2026-35333: attributes of RADIUS that are too short or too long are no attributes`() {
        func packet(_ attributes: [UInt8]) -> [UInt8] {
            [2, 1, 0, UInt8(20 + attributes.count)] + [UInt8](repeating: 0, count: 16) + attributes
        }
        for attributes in [[1], [1, 0], [1, 1], [79, 0, 0], [1, 3], [26, 2, 1], [1, 255, 1, 2], [80, 18, 1]] as [[UInt8]] {
            #expect(throws: IKEFault.self) { try RADIUSPacket(parsing: packet(attributes)[...]) }
        }
        // Of a vendor: lengths inside lengths.
        for inner in [[], [17], [17, 0], [17, 1], [17, 9, 1], [17, 2, 17]] as [[UInt8]] {
            let value: [UInt8] = [0, 0, 1, 0x37] + inner
            let bytes = packet([26, UInt8(value.count + 2)] + value)
            let found = (try? RADIUSPacket(parsing: bytes[...]))?.vendor(311, 17) ?? []
            #expect(found.allSatisfy { $0.isEmpty })
        }
    }

    @Test(arguments: [13, 18, 21, 23, 25, 50, 254] as [UInt8])
    func `CVE-2026-25075, 35330: of EAP methods that are not spoken no attribute is read`(_ type: UInt8) {
        let context = EAPContext(
            crypto: OpenSSLCrypto(), random: SeededRandom(seed: 1), peer: .fqdn("alice"), name: Array("alice".utf8),
            remote: Endpoint(IPAddress("192.0.2.9")!, 500))
        let peer = EAPPeer(EAPClientPlan(methods: [.init(EAPType(rawValue: 26)) { _ in Refusing() }]), context)
        for attributes in [[], [1, 0], [1, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0], [1, 255]] as [[UInt8]] {
            let request: [UInt8] = [1, 7, 0, UInt8(5 + attributes.count), type] + attributes
            guard case .send(let response) = peer.receive(request), let packet = EAPPacket(parsing: response) else {
                Issue.record("no Nak for type \(type)")
                return
            }
            #expect(packet.type == .nak && packet.data == [26])
        }
    }

    private final class Refusing: EAPClientMethod {
        func receive(_ data: [UInt8]) -> EAPClientStep { .failed("never asked") }
        var isDone: Bool { false }
        var masterSessionKey: Secret? { nil }
        var authenticatesServer: Bool { false }
        var failureSentence: String? { nil }
    }

    // MARK: Identities

    @Test func `CVE-2026-47895: an EAP identity without octets is nobody's`() throws {
        for identity in [[], [0], [0x20], [0x40], [0x5C]] as [[UInt8]] {
            let context = EAPContext(
                crypto: OpenSSLCrypto(), random: SeededRandom(seed: 1), peer: .fqdn("alice"), name: Array("alice".utf8),
                remote: Endpoint(IPAddress("192.0.2.9")!, 500))
            let server = EAPMethodServer(
                context,
                methods: [
                    .mschapv2(
                        users: EAPUsers(["alice": SecureBytes(Array("secret".utf8))]), serverName: "gateway",
                        crypto: OpenSSLCrypto())
                ], asksIdentity: true)
            guard case .send(let request) = server.begin(), let asked = EAPPacket(parsing: request) else {
                Issue.record("no request")
                return
            }
            let answer = EAPPacket(.response, identifier: asked.identifier, type: .identity, data: identity).encoded
            if case .success = server.receive(answer) { Issue.record("let in") }
        }
        #expect(WireIdentity(.fqdn("")).identity == nil && WireIdentity(.email("")).identity == nil)
        #expect(!IdentityPattern.namesBelow(".example").matches(.fqdn("")))
    }

    @Test func `CVE-2026-78134: who EAP authenticates is who the IKE SA is with, and remote id has to take that one`() throws {
        // The peer says in IDi, and where it is asked for its EAP identity, that it is somebody whom `remote.id` takes; the
        // method proves that it is mallory.
        for pattern in [IdentityPattern.exactly(.fqdn("east.example")), .exactly(.fqdn("mallory"))] {
            let pair = Pair()
            pair.useCertificates(.ed25519)
            let (east, west) = (pair.eastSide.change, pair.westSide.change)
            let users = EAPUsers(["mallory": SecureBytes(Array("her own password".utf8))])
            pair.eastSide.change = { plan in
                east?(&plan)
                plan.localAuthentication = .eap(
                    EAPClientPlan(
                        identity: Array("east.example".utf8),
                        methods: [
                            .mschapv2(
                                userName: "mallory", password: SecureBytes(Array("her own password".utf8)),
                                crypto: OpenSSLCrypto())
                        ]))
            }
            pair.westSide.change = { plan in
                west?(&plan)
                plan.remotePattern = pattern
                plan.remoteAuthentication = .eap(
                    EAPServerPlan { context in
                        EAPMethodServer(
                            context,
                            methods: [
                                .mschapv2(users: users, serverName: "west", crypto: OpenSSLCrypto())
                            ], asksIdentity: true)
                    })
            }
            try pair.start()
            pair.run(8)
            let peers = pair.west.core.allSAs.compactMap { $0.established?.remoteIdentity }
            #expect(peers.allSatisfy { $0 == .fqdn("mallory") }, "\(pattern): \(peers)")
            #expect(!peers.contains(.fqdn("east.example")))
            if pattern == .exactly(.fqdn("east.example")) { #expect(pair.west.installed.isEmpty) }
        }
    }

    // MARK: Certificates and signatures

    /// PKCS #7 (1), attribute certificates (10), and what nobody has defined: not read at all.
    @Test(arguments: [0, 1, 2, 3, 7, 9, 10, 13, 14, 201] as [UInt8])
    func `CVE-2026-77207, 78131, 78132, 35329: certificates of kinds that are not spoken are not read`(_ encoding: UInt8) throws {
        let (pair, attacker) = try Self.halfOpen { $0.useCertificates(.ed25519) }
        let contents: [[UInt8]] = [
            [], [0x30], [0x30, 0x80], [0x30, 0x84, 0xFF, 0xFF, 0xFF, 0xFF], [UInt8](repeating: 0x30, count: 2000),
        ]
        let identity = Payload.identityInitiator(WireIdentity(.fqdn("east.example")))
        let payloads =
            [identity] + contents.map { .certificate(CertificatePayload(encoding: encoding, data: $0)) }
            + [.authentication(method: 14, data: [UInt8](repeating: 1, count: 64))] + Self.child
        _ = Self.send(try attacker.request(.ikeAuth, payloads, id: 1), to: pair)
        #expect(pair.west.installed.isEmpty && pair.west.core.allSAs.allSatisfy { $0.established == nil })
        #expect(pair.west.core.counters.authenticationsRefused == 1)
    }

    /// SubjectPublicKeyInfo of RSA: SEQUENCE { SEQUENCE { rsaEncryption, NULL }, BIT STRING { SEQUENCE { n, e } } }.
    @Test func `CVE-2026-14957, 77205: an RSA key without an exponent is no key, and a good one after it still is`() throws {
        func rsa(exponent: [UInt8], modulusBytes: Int = 256) -> [UInt8] {
            let modulus = [0x00, 0xC1] + [UInt8](repeating: 0x5B, count: modulusBytes - 1)
            let key = DER.encode(0x30, DER.encode(0x02, modulus) + DER.encode(0x02, exponent))
            let algorithm: [UInt8] = [0x30, 0x0D, 0x06, 0x09, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x01, 0x05, 0x00]
            return DER.encode(0x30, algorithm + DER.encode(0x03, [0] + key))
        }
        for exponent in [[0], [], [1], [2], [0x80]] as [[UInt8]] {
            guard let key = try? OpenSSLVerifyingKey(subjectPublicKeyInfo: rsa(exponent: exponent)) else { continue }
            for signature in [[], [UInt8](repeating: 0, count: 256), [UInt8](repeating: 1, count: 256)] as [[UInt8]] {
                #expect(!key.verify(signature, of: Array("message".utf8), .rsaPKCS1(.sha256)), "exponent \(exponent)")
            }
        }
        let key = TestKeys.east(.rsa(bits: 2048))
        let signature = try key.sign(Array("message".utf8), .rsaPKCS1(.sha256))
        let good = try OpenSSLVerifyingKey(subjectPublicKeyInfo: key.subjectPublicKeyInfo)
        #expect(good.verify(signature, of: Array("message".utf8), .rsaPKCS1(.sha256)))
    }

    @Test func `CVE-2026-50722: of a signature every octet counts, and so does the hash that it names`() throws {
        let key = TestKeys.east(.rsa(bits: 2048))
        let good = try OpenSSLVerifyingKey(subjectPublicKeyInfo: key.subjectPublicKeyInfo)
        let message = Array("message".utf8)
        for made in [SignatureHash.sha256, .sha384, .sha512] {
            let signature = try key.sign(message, .rsaPKCS1(made))
            for asked in [SignatureHash.sha256, .sha384, .sha512] {
                #expect(good.verify(signature, of: message, .rsaPKCS1(asked)) == (made == asked))
            }
            for count in [0, 1, 20, signature.count - 1] {
                #expect(!good.verify(Array(signature.prefix(count)), of: message, .rsaPKCS1(made)))
            }
            #expect(!good.verify(signature + [0], of: message, .rsaPKCS1(made)))
            for position in stride(from: 0, to: signature.count, by: 17) {
                var bent = signature
                bent[position] ^= 0x40
                #expect(!good.verify(bent, of: message, .rsaPKCS1(made)))
            }
        }
    }
}
