import Crypto
import IKE
import IPsec
import Wire

/// EAP conversations against somebody who says anything: our server, our client, or our end of RADIUS with a RADIUS server.
///
/// An input is a script of packets. The honest other end is at hand, so that a script reaches what comes after the first packets
/// by letting it answer, and its answers can be falsified. Whoever never lets it answer has no password and no key: it must
/// fail.
final class EAPConversation {
    enum Role { case server, client, radius }

    /// A conversation of honest ends takes some ten packets, with EAP-TLS in pieces some twenty.
    private static let mostSteps = 64

    private let role: Role
    private let server: any EAPServerSession
    private let client: EAPPeer
    /// What our end sent last; empty before that.
    private var last: [UInt8] = []
    private var question: EAPBackendRequest?
    private var heardHonestEnd = false
    private var isOver = false

    init(_ role: Role, usesTLS: Bool) {
        self.role = role
        func context(_ seed: UInt64) -> EAPContext {
            EAPContext(
                crypto: Known.crypto, random: SeededRandom(seed: seed), peer: Known.gateway, name: Known.name,
                remote: Endpoint(IPAddress("192.0.2.9")!, 4500))
        }
        client = EAPPeer(usesTLS ? Known.tlsClient : Known.passwordClient, context(1))
        server =
            role == .radius
            ? Known.radius(asksIdentity: usesTLS).serverPlan(acceptsEAPOnly: false, crypto: Known.crypto).makeSession(context(2))
            : EAPMethodServer(context(2), methods: Known.serverMethods, asksIdentity: true)
        if role != .client { advance(server.begin()) }
    }

    /// Kinds of steps: 0 to 3 a packet, 4 and 5 what the honest end answers, 6 the same with octets replaced, 7 what a RADIUS
    /// server answers.
    func run(_ script: inout Script) {
        var steps = 0
        while !isOver, steps < Self.mostSteps, let step = script.next() {
            steps += 1
            switch step & 7 {
            case 0...3: receive(packet(step, script.take(scale: step & 8 == 0 ? 1 : 8)))
            case 4, 5: receiveHonest(offset: 0, patch: [])
            case 6: receiveHonest(offset: Int(script.next() ?? 0), patch: script.take())
            default: if role == .radius { answer(script.take(scale: 8)) }
            }
        }
    }

    /// Any octets, or those behind a header that our end takes.
    private func packet(_ step: UInt8, _ body: [UInt8]) -> [UInt8] {
        if step & 0x80 != 0 { return body }
        if role == .client, step & 0x40 != 0 { return EAPPacket(.success, identifier: 0).encoded }
        guard let type = body.first else { return [] }
        let identifier = last.count > 1 ? last[1] : 0
        return EAPPacket(
            role == .client ? .request : .response, identifier: role == .client ? identifier &+ 1 : identifier,
            type: EAPType(rawValue: type), data: Array(body.dropFirst())
        ).encoded
    }

    // MARK: The honest end

    private func receiveHonest(offset: Int, patch: [UInt8]) {
        guard var packet = role == .client ? honestRequest() : honestResponse() else { return }
        for (index, octet) in patch.enumerated() where offset + index < packet.count { packet[offset + index] = octet }
        heardHonestEnd = true
        receive(packet)
    }

    private func honestRequest() -> [UInt8]? {
        switch last.isEmpty ? server.begin() : server.receive(last) {
        case .send(let packet), .success(let packet, _), .failure(let packet, _): packet
        case .ask, .checkRevocation: nil
        }
    }

    private func honestResponse() -> [UInt8]? {
        if case .send(let packet) = client.receive(last) { packet } else { nil }
    }

    // MARK: Our end

    private func receive(_ packet: [UInt8]) {
        if role == .client { advance(client.receive(packet)) } else { advance(server.receive(packet)) }
    }

    private func advance(_ step: EAPPeer.Step) {
        switch step {
        case .send(let packet): last = packet
        case .ask: advance(client.resume(nil))
        case .success: end(byHonestEnd: heardHonestEnd)
        case .failure(let sentence): end(sentence)
        }
    }

    private func advance(_ step: EAPServerStep) {
        switch step {
        case .send(let packet): last = packet
        case .ask(let request): question = request
        case .checkRevocation: advance(server.resumeRevocation(nil))
        case .success(let packet, _):
            precondition(EAPPacket(parsing: packet)?.code == .success, "\(packet)")
            // What a RADIUS server says is proved before it comes to the session.
            end(byHonestEnd: role == .radius || heardHonestEnd)
        case .failure(let packet, let sentence):
            precondition(EAPPacket(parsing: packet)?.code == .failure, "\(packet)")
            end(sentence)
        }
    }

    /// Octets of a RADIUS server, which proves to have the secret or not.
    private func answer(_ octets: [UInt8]) {
        guard let question else { return }
        for candidate in question.candidates {
            precondition(!candidate.isAnswer(octets), "an answer is believed that nobody with the secret made")
        }
        self.question = nil
        advance(server.resume(EAPBackendAnswer(candidate: 0, octets: octets)))
    }

    private func end(byHonestEnd: Bool) {
        precondition(byHonestEnd, "somebody who has neither password nor key succeeds")
        isOver = true
    }

    private func end(_ sentence: String) {
        precondition(sentence.utf8.allSatisfy { $0 >= 0x20 && $0 != 0x7F }, "\(sentence.debugDescription)")
        isOver = true
    }
}

/// Who has which password, key and certificate.
private enum Known {
    static let crypto = OpenSSLCrypto()
    static let name = Array("alice".utf8)
    static let password = SecureBytes(Array("correct horse".utf8))
    static let gateway = Identity.fqdn("gateway.example")
    static let passwordClient = EAPClientPlan(
        identity: name, methods: [.mschapv2(userName: "alice", password: password, crypto: crypto)])
    static let tlsClient = EAPClientPlan(identity: Array("gateway.example".utf8), methods: [.tls(tls, server: gateway)])
    static let serverMethods: [EAPMethodServer.Method] = [
        .mschapv2(users: EAPUsers(["alice": password]), serverName: "gateway", crypto: crypto), .tls(tls),
    ]

    static func radius(asksIdentity: Bool) -> RADIUSPlan {
        RADIUSPlan(
            servers: [.init(endpoint: Endpoint(IPAddress("10.0.0.1")!, 1812), secret: SecureBytes(Array("xyzzy5461".utf8)))],
            identifier: "east", address: IPAddress("192.0.2.1")!, asksIdentity: asksIdentity)
    }

    /// One key and certificate, made for this: both ends have it and trust it.
    static let tls: TLSCredentials = {
        do {
            let der = PEM.blocks(Array(certificateText.utf8), label: "CERTIFICATE")[0]
            let trust = CertificateTrust(
                authorities: [try Certificate(der: der)], policy: RevocationPolicy(ocsp: .off), now: { 1_800_000_000 })
            let key = try OpenSSLSigningKey(pem: SecureBytes(Array(keyText.utf8)))
            return try TLSCredentials(identity: SigningIdentity(key: key, certificates: [der]), trust: trust)
        } catch { fatalError("\(error)") }
    }()
    private static let keyText = """
        -----BEGIN PRIVATE KEY-----
        MC4CAQAwBQYDK2VwBCIEID0oL1YGciSN909R9cEElkVeIqtIbwlbSsUmdedu6ni0
        -----END PRIVATE KEY-----
        """
    private static let certificateText = """
        -----BEGIN CERTIFICATE-----
        MIIBdTCCASegAwIBAgIUHSDMrr354Ue3+1607sdH+arp8HswBQYDK2VwMBoxGDAW
        BgNVBAMMD2dhdGV3YXkuZXhhbXBsZTAeFw0yNjExMjExMzE5NDFaFw0zNjExMTgx
        MzE5NDFaMBoxGDAWBgNVBAMMD2dhdGV3YXkuZXhhbXBsZTAqMAUGAytlcAMhAKD9
        SV2MIyEpObSAcF3Q/Rr3LP0N1ndzXAWK2vrk9h/+o38wfTAdBgNVHQ4EFgQUOKzD
        8gxw29e7fNNabV92I2D5DMcwHwYDVR0jBBgwFoAUOKzD8gxw29e7fNNabV92I2D5
        DMcwGgYDVR0RBBMwEYIPZ2F0ZXdheS5leGFtcGxlMA8GA1UdEwEB/wQFMAMBAf8w
        DgYDVR0PAQH/BAQDAgKEMAUGAytlcANBAJAjSVph4EbUNQ3+GwVd/+5ue5ZHgT2r
        /ph3COg7ndLtca8NnZzIhrxfFxc3+fh1LMhpC5xYq4OWQ+8eszbSSA4=
        -----END CERTIFICATE-----
        """
}
