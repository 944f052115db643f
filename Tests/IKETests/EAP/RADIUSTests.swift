import Crypto
import IKE
import IPsec
import Testing
import Wire

@Suite("RADIUS") struct RADIUSTests {
    let crypto = OpenSSLCrypto()
    let secret = SecureBytes(Array("xyzzy5461".utf8))

    private func context(_ random: SeededRandom, name: String = "alice") -> EAPContext {
        EAPContext(
            crypto: crypto, random: random, peer: .fqdn(name), name: Array(name.utf8),
            remote: Endpoint(IPAddress("192.0.2.9")!, 4500))
    }

    private func plan(servers: Int = 1, asks: Bool = false) -> RADIUSPlan {
        RADIUSPlan(
            servers: (1...servers).map { .init(endpoint: Endpoint(IPAddress("10.0.0.\($0)")!, 1812), secret: secret) },
            identifier: "east", address: IPAddress("192.0.2.1")!, asksIdentity: asks)
    }

    private func session(_ plan: RADIUSPlan, seed: UInt64 = 1) -> any EAPServerSession {
        plan.serverPlan(acceptsEAPOnly: false, crypto: crypto).makeSession(context(SeededRandom(seed: seed)))
    }

    /// What a server with the secret would answer.
    private func answer(
        to octets: [UInt8], _ code: RADIUSCode, _ attributes: [RADIUSAttribute], secret: Secret? = nil
    ) throws -> [UInt8] {
        let secret = secret ?? self.secret
        let request = try RADIUSPacket(parsing: octets[...])
        let packet = RADIUSPacket(
            code: code, identifier: request.identifier, authenticator: request.authenticator, attributes: attributes)
        var bytes = try RADIUSProofs(crypto).seal(packet, secret: secret)
        bytes.replaceSubrange(4..<20, with: try crypto.md5([.bytes(bytes), .secret(secret)]))
        return bytes
    }

    private func asked(_ step: EAPServerStep) throws -> EAPBackendRequest {
        guard case .ask(let request) = step else { throw Unexpected(step: "\(step)") }
        return request
    }
    struct Unexpected: Error { var step: String }

    @Test("HMAC-MD5 is RFC 2202's")
    func hmac() throws {
        let key = SecureBytes(Array("Jefe".utf8))
        #expect(
            try crypto.hmacMD5(key: key, data: Array("what do ya want for nothing?".utf8))
                == hex("750c783e6ab0b503eaa86e310a5db738"))
        let long = SecureBytes([UInt8](repeating: 0xAA, count: 80))
        #expect(
            try crypto.hmacMD5(key: long, data: Array("Test Using Larger Than Block-Size Key - Hash Key First".utf8))
                == hex("6b1ab7fe4bd7bf8f0b62e6ce61b9d0cd"))
    }

    @Test("a request begins with its Message-Authenticator and carries the whole EAP packet")
    func request() throws {
        let request = try asked(session(plan(servers: 2)).begin())
        #expect(request.candidates.count == 2)
        let packet = try RADIUSPacket(parsing: request.candidates[0].octets[...])
        #expect(packet.attributes.first?.type == 80)
        #expect(packet.first(1) == Array("alice".utf8))
        #expect(packet.first(31) == Array("192.0.2.9".utf8))
        let response = try #require(packet.eapMessage.flatMap { EAPPacket(parsing: $0) })
        #expect(response.type == .identity)
        #expect(response.data == Array("alice".utf8))
        // Each server gets a request of its own, with an authenticator of its own.
        let other = try RADIUSPacket(parsing: request.candidates[1].octets[...])
        #expect(other.authenticator != packet.authenticator)
    }

    @Test("an answer counts only with the right secret, both proofs, and to the right request")
    func authenticity() throws {
        let candidate = try asked(session(plan()).begin()).candidates[0]
        let good = try answer(to: candidate.octets, .accessReject, [])
        #expect(candidate.isAnswer(good))
        #expect(!candidate.isAnswer(try answer(to: candidate.octets, .accessReject, [], secret: SecureBytes([1]))))
        for index in good.indices {
            var bad = good
            bad[index] ^= 1
            #expect(!candidate.isAnswer(bad), "octet \(index) was changed")
        }
        let other = try asked(session(plan(), seed: 2).begin()).candidates[0]
        #expect(!other.isAnswer(good))
        #expect(!candidate.isAnswer([]))
    }

    @Test("an answer with the old proof alone is not believed")
    func withoutMessageAuthenticator() throws {
        let candidate = try asked(session(plan()).begin()).candidates[0]
        let request = try RADIUSPacket(parsing: candidate.octets[...])
        var bytes = RADIUSPacket(
            code: .accessAccept, identifier: request.identifier, authenticator: request.authenticator, attributes: []
        ).encoded
        bytes.replaceSubrange(4..<20, with: try crypto.md5([.bytes(bytes), .secret(secret)]))
        #expect(!candidate.isAnswer(bytes))
    }

    /// RFC 2548 §2.4.2, the server's side.
    private func sealed(_ key: [UInt8], salt: [UInt8], authenticator: [UInt8]) throws -> [UInt8] {
        var clear = [UInt8(key.count)] + key
        while clear.count % 16 != 0 { clear.append(0) }
        var result = salt
        var previous = authenticator + salt
        for start in stride(from: 0, to: clear.count, by: 16) {
            let mask = try crypto.md5([.secret(secret), .bytes(previous)])
            previous = zip(clear[start..<start + 16], mask).map { $0 ^ $1 }
            result += previous
        }
        return result
    }

    private func microsoft(_ type: UInt8, _ value: [UInt8]) -> RADIUSAttribute {
        RADIUSAttribute(26, [0, 0, 1, 55, type, UInt8(value.count + 2)] + value)
    }

    @Test("challenge, then accept: keys, address, name server and lifetime come out")
    func conversation() throws {
        let session = session(plan(servers: 2, asks: true))
        guard case .send(let question) = session.begin(), let identity = EAPPacket(parsing: question) else { return }
        #expect(identity.type == .identity)
        let name = EAPPacket(.response, identifier: identity.identifier, type: .identity, data: Array("bob".utf8))
        let first = try asked(session.receive(name.encoded))
        let challenge = EAPPacket(.request, identifier: 44, type: .mschapv2, data: [1, 2, 3]).encoded
        let reply = try answer(
            to: first.candidates[1].octets, .accessChallenge, [.init(79, challenge), .init(24, [9, 9, 9])])
        guard case .send(let onward) = session.resume(EAPBackendAnswer(candidate: 1, octets: reply)) else { return }
        #expect(onward == challenge)

        let response = EAPPacket(.response, identifier: 44, type: .mschapv2, data: [UInt8](repeating: 7, count: 300)).encoded
        let second = try asked(session.receive(response))
        // The server that knows the conversation, and its State.
        #expect(second.candidates.map(\.server.address.description) == ["10.0.0.2"])
        let request = try RADIUSPacket(parsing: second.candidates[0].octets[...])
        #expect(request.first(24) == [9, 9, 9])
        #expect(request.eapMessage == response)
        #expect(request.all(79).count == 2)

        let receive = [UInt8](1...16)
        let send = [UInt8](101...116)
        let accept = try answer(
            to: second.candidates[0].octets, .accessAccept,
            [
                .init(79, EAPPacket(.success, identifier: 44).encoded), .init(1, Array("bob@corp".utf8)),
                microsoft(17, try sealed(receive, salt: [0x81, 2], authenticator: request.authenticator)),
                microsoft(16, try sealed(send, salt: [0x83, 4], authenticator: request.authenticator)),
                .init(8, [10, 9, 0, 7]), .init(27, [0, 0, 14, 16]), microsoft(28, [10, 9, 0, 53]),
            ])
        guard
            case .success(let packet, let outcome) = session.resume(EAPBackendAnswer(candidate: 0, octets: accept))
        else {
            Issue.record("not accepted")
            return
        }
        #expect(EAPPacket(parsing: packet)?.code == .success)
        #expect(outcome.masterSessionKey?.octets == receive + send + [UInt8](repeating: 0, count: 32))
        #expect(outcome.name == Array("bob@corp".utf8))
        #expect(
            outcome.attributes == [.address(IPAddress("10.9.0.7")!), .dns(IPAddress("10.9.0.53")!), .lifetime(.seconds(3600))])
    }

    @Test("an accept that does not say whom is a failure: what the peer said of itself proves nothing")
    func namelessAccept() throws {
        let session = session(plan())
        let candidate = try asked(session.begin()).candidates[0]
        let accept = try answer(
            to: candidate.octets, .accessAccept, [.init(79, EAPPacket(.success, identifier: 0).encoded)])
        guard case .failure(_, let sentence) = session.resume(EAPBackendAnswer(candidate: 0, octets: accept)) else {
            Issue.record("accepted")
            return
        }
        #expect(sentence.contains("User-Name"))
    }

    @Test("a reject names the user, escaped, and what the server says")
    func reject() throws {
        let session = session(plan())
        let candidate = try asked(session.begin()).candidates[0]
        let reject = try answer(to: candidate.octets, .accessReject, [.init(18, Array("go\u{1B}away".utf8))])
        guard case .failure(let packet, let sentence) = session.resume(EAPBackendAnswer(candidate: 0, octets: reject)) else {
            return
        }
        #expect(EAPPacket(parsing: packet)?.code == .failure)
        #expect(sentence.contains("alice") && sentence.contains("go\\x1baway"))
    }

    @Test("silence of all servers is a failure that names them")
    func silence() {
        let session = session(plan(servers: 2))
        _ = session.begin()
        guard case .failure(_, let sentence) = session.resume(nil) else { return }
        #expect(sentence.contains("10.0.0.1:1812, 10.0.0.2:1812"))
    }

    @Test("an accept whose key does not decrypt is a failure")
    func wrongKey() throws {
        let session = session(plan())
        let candidate = try asked(session.begin()).candidates[0]
        let accept = try answer(
            to: candidate.octets, .accessAccept,
            [microsoft(17, [UInt8](repeating: 3, count: 34)), microsoft(16, [UInt8](repeating: 4, count: 5))])
        guard case .failure(_, let sentence) = session.resume(EAPBackendAnswer(candidate: 0, octets: accept)) else {
            Issue.record("accepted")
            return
        }
        #expect(sentence.contains("keys"))
    }

    @Test(
        "hostile packets are errors",
        arguments: [[], [2, 1, 0, 19], [2, 1, 0, 22] + [UInt8](repeating: 0, count: 16) + [1, 1], [2, 1, 255, 255]])
    func hostile(_ bytes: [UInt8]) {
        #expect(throws: IKEFault.self) { try RADIUSPacket(parsing: bytes[...]) }
    }
}
