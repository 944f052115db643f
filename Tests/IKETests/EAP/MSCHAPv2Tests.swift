import Crypto
import IKE
import IPsec
import Testing

/// RFC 2759 §9.2 and RFC 3079 §3.5.3: one example, continued.
private enum Example {
    static let user = Array("User".utf8)
    static let password = Array("clientPass".utf8)
    static let authenticatorChallenge = hex("5B5D7C7D7B3F2F3E3C2C602132262628")
    static let peerChallenge = hex("21402324255E262A28295F2B3A337C7E")
    static let passwordHash = hex("44EBBA8D5312B8D6114744 11F56989AE")
    static let response = hex("82309ECD8D708B5EA08FAA3981CD83544233114A3D85D6DF")
    static let authenticatorResponse = hex("407A5589115FD0D6209F510FE9C04566932CDA56")
    static let serverSendKey = hex("8B7CDC149B993A1BA118CB153F56DCCB")
}

func hex(_ text: String) -> [UInt8] {
    Hexadecimal.octets(Array(text.utf8.filter { $0 != 0x20 })[...]) ?? []
}

@Suite("EAP-MSCHAPv2") struct MSCHAPv2Tests {
    let crypto = OpenSSLCrypto()

    @Test("hash, response, proof and key are those of RFC 2759 §9.2 and RFC 3079 §3.5.3")
    func vectors() throws {
        let hash = try crypto.mschapPasswordHash(SecureBytes(Example.password))
        #expect(hash.octets == Example.passwordHash)
        let response = try crypto.mschapResponse(
            passwordHash: hash, authenticatorChallenge: Example.authenticatorChallenge, peerChallenge: Example.peerChallenge,
            userName: Example.user)
        #expect(response == Example.response)
        let proof = try crypto.mschapAuthenticatorResponse(
            passwordHash: hash, response: response, authenticatorChallenge: Example.authenticatorChallenge,
            peerChallenge: Example.peerChallenge, userName: Example.user)
        #expect(proof == Example.authenticatorResponse)
        let key = try crypto.mschapSessionKey(passwordHash: hash, response: response)
        #expect(key.count == 64)
        #expect(Array(key.octets[16..<32]) == Example.serverSendKey)
        #expect(key.octets[32...].allSatisfy { $0 == 0 })
    }

    @Test("a password outside of ASCII is hashed in UTF-16")
    func unicode() throws {
        // MD4 of U+00FC in UTF-16LE, by OpenSSL's command line.
        let hash = try crypto.mschapPasswordHash(SecureBytes(Array("ü".utf8)))
        #expect(hash.octets == hex("8BD6E4FB88E01009818749C5443EA712"))
        #expect(throws: IKECryptoError.self) { try crypto.mschapPasswordHash(SecureBytes([0xFF, 0xFE])) }
    }

    /// Runs a client against a server until one of them ends.
    private func run(
        user: String, password: String, users: [String: String] = ["alice": "correct horse"]
    ) -> (client: EAPMethodStep, server: EAPMethodStep, rounds: Int) {
        let random = SeededRandom(seed: 7)
        let server = MSCHAPv2Server(
            users: EAPUsers(users.mapValues { SecureBytes(Array($0.utf8)) }), name: "gateway", crypto: crypto, random: random)
        let client = MSCHAPv2Client(
            userName: user, password: SecureBytes(Array(password.utf8)), crypto: crypto, random: random)
        var request = server.begin()
        var rounds = 0
        while true {
            rounds += 1
            let answer = client.receive(request[...])
            let data: [UInt8]
            switch answer {
            case .send(let bytes): data = bytes
            case .ask: return (answer, answer, rounds)  // nobody here asks
            case .success(let bytes, _), .failure(let bytes, _): data = bytes ?? []
            }
            let reply = server.receive(data[...])
            guard case .send(let next) = reply, case .send = answer else { return (answer, reply, rounds) }
            request = next
        }
    }

    @Test("client and server agree on a key", arguments: ["alice", "BRANCH\\alice"])
    func agreement(user: String) throws {
        let (client, server, rounds) = run(user: user, password: "correct horse")
        guard case .success(_, let mine) = client, case .success(_, let theirs) = server else {
            Issue.record("\(client) \(server)")
            return
        }
        #expect(rounds == 2)
        #expect(mine?.octets == theirs?.octets)
        #expect(mine?.count == 64)
    }

    @Test("a wrong password is refused by name on the server, by number to the client")
    func wrongPassword() {
        let (client, server, _) = run(user: "alice", password: "wrong")
        guard case .failure(let told?, let clientReason) = client, case .failure(_, let serverReason) = server else {
            Issue.record("\(client) \(server)")
            return
        }
        #expect(told == [4])
        #expect(clientReason.contains("user name and password do not fit"))
        #expect(serverReason.contains("the password of user alice is wrong"))
    }

    @Test("an unknown user gets what a wrong password gets")
    func unknownUser() {
        let (unknown, _, _) = run(user: "mallory", password: "x")
        let (wrong, _, _) = run(user: "alice", password: "x")
        #expect("\(unknown)" == "\(wrong)")
    }

    @Test("a retry with the right password succeeds, and the third wrong answer ends it")
    func retries() throws {
        let random = SeededRandom(seed: 3)
        let users = EAPUsers(["alice": SecureBytes(Array("secret".utf8))])
        let server = MSCHAPv2Server(users: users, name: "g", crypto: crypto, random: random)
        guard case .challenge(var id, var challenge, _) = try MSCHAPv2Packet(parsing: server.begin()[...], isFromServer: true)
        else { return }
        func answer(_ password: String) throws -> EAPMethodStep {
            let peer = random.bytes(16)
            let hash = try crypto.mschapPasswordHash(SecureBytes(Array(password.utf8)))
            let response = try crypto.mschapResponse(
                passwordHash: hash, authenticatorChallenge: challenge, peerChallenge: peer, userName: Array("alice".utf8))
            let packet = MSCHAPv2Packet.response(
                id: id, peerChallenge: peer, response: response, name: Array("alice".utf8))
            let step = server.receive(packet.encoded[...])
            if case .send(let bytes) = step,
                case .failure(_, let message) = try MSCHAPv2Packet(parsing: bytes[...], isFromServer: true),
                let failure = MSCHAPv2Failure(message: message)
            {
                id &+= 1
                challenge = failure.challenge ?? challenge
                #expect(failure.error == 691)
            }
            return step
        }
        _ = try answer("wrong")
        guard case .send(let bytes) = try answer("secret"),
            case .success = try MSCHAPv2Packet(parsing: bytes[...], isFromServer: true)
        else {
            Issue.record("the second answer was right")
            return
        }
    }

    @Test("a server that does not know the password is not believed")
    func impostor() throws {
        let random = SeededRandom(seed: 9)
        let client = MSCHAPv2Client(userName: "alice", password: SecureBytes([65, 66]), crypto: crypto, random: random)
        _ = client.receive(MSCHAPv2Packet.challenge(id: 1, challenge: random.bytes(16), name: []).encoded[...])
        let lie = MSCHAPv2Packet.success(id: 1, message: Array("S=\(String(repeating: "0", count: 40)) M=".utf8))
        guard case .failure(_, let reason) = client.receive(lie.encoded[...]) else {
            Issue.record("believed")
            return
        }
        #expect(reason.contains("does not prove"))
    }

    @Test("hostile packets are errors", arguments: [[], [1], [2, 1, 0, 4], [2, 1, 0, 5, 49], [9, 0, 0, 4], [2, 1, 255, 255]])
    func hostile(_ bytes: [UInt8]) {
        #expect(throws: IKEFault.self) { try MSCHAPv2Packet(parsing: bytes[...], isFromServer: false) }
        #expect(throws: IKEFault.self) { try MSCHAPv2Packet(parsing: bytes[...], isFromServer: true) }
    }
}
