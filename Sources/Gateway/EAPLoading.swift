import Configuration
import Crypto
import IKE
import IPsec

/// EAP as configured, in the form that the core drives.
extension CredentialLoading {
    /// `local.auth: eap-…`: we are the EAP peer.
    func eapClient(_ connection: Connection) throws(Problem) -> LocalAuthentication {
        guard let eap = connection.eap else { throw Problem(sentence: "Connection \(connection.name) says nothing about EAP.") }
        let crypto = OpenSSLCrypto()
        var plan = EAPClientPlan(identity: eap.user.map { Array($0.utf8) }, methods: [])
        plan.offersEAPOnly = eap.serverIsEAPOnly
        switch eap.client {
        case .mschapv2:
            plan.methods = [.mschapv2(userName: eap.user ?? "", password: secret(eap.password), crypto: crypto)]
        case .tls:
            guard let server = eap.tlsServer ?? connection.remoteIdentity else {
                throw Problem(
                    sentence: "Connection \(connection.name) accepts several remote identities; name the one that the EAP-TLS "
                        + "server's certificate must have in eap.server.")
            }
            plan.methods = [.tls(try tlsCredentials(connection), server: server)]
        case .radius, nil: throw Problem(sentence: "Connection \(connection.name) has no EAP method for this gateway.")
        }
        return .eap(plan)
    }

    /// `remote.auth: eap-…`: we are the EAP server, or stand before one.
    func eapServer(_ connection: Connection) throws(Problem) -> RemoteAuthentication {
        guard let eap = connection.eap else { throw Problem(sentence: "Connection \(connection.name) says nothing about EAP.") }
        let crypto = OpenSSLCrypto()
        let asks = eap.asksIdentity
        let method: EAPMethodServer.Method
        switch eap.server {
        case .radius:
            let plan = RADIUSPlan(
                servers: radius.servers, identifier: radius.gatewayName, address: connection.localAddress,
                retransmitInterval: radius.timeout, tries: radius.tries, asksIdentity: asks)
            guard !plan.servers.isEmpty else {
                throw Problem(sentence: "There is no RADIUS server for connection \(connection.name).")
            }
            return .eap(plan.serverPlan(acceptsEAPOnly: eap.acceptsEAPOnly, crypto: crypto))
        case .mschapv2:
            let users = EAPUsers(
                Dictionary(eap.users.map { ($0.name, secret($0.password)) }, uniquingKeysWith: { first, _ in first }))
            method = .mschapv2(users: users, serverName: radius.gatewayName, crypto: crypto)
        case .tls: method = .tls(try tlsCredentials(connection))
        case nil: throw Problem(sentence: "Connection \(connection.name) has no EAP method for its peers.")
        }
        return .eap(
            EAPServerPlan(acceptsEAPOnly: eap.acceptsEAPOnly) { context in
                EAPMethodServer(context, methods: [method], asksIdentity: asks)
            })
    }

    /// Our certificate, and whom the other end of EAP-TLS is believed by: as in IKE itself, with revocation lists and OCSP.
    private func tlsCredentials(_ connection: Connection) throws(Problem) -> TLSCredentials {
        guard case .signature(let identity) = try signature(connection),
            case .certificate(let trust) = try certificateTrust(connection)
        else { throw Problem(sentence: "Connection \(connection.name) needs a certificate for EAP-TLS.") }
        do throws(IKECryptoError) { return try TLSCredentials(identity: identity, trust: trust) } catch {
            throw Problem(sentence: "The certificate of connection \(connection.name) does not serve EAP-TLS: \(error.clause).")
        }
    }

    /// What makes the octets of EAP secrets differ, for the comparison on reload.
    static func eapSecrets(_ connection: Connection) -> [UInt8] {
        guard let eap = connection.eap else { return [] }
        let words =
            [eap.server?.rawValue ?? "", eap.client?.rawValue ?? "", eap.user ?? "", "\(eap.asksIdentity)"]
            + ["\(eap.acceptsEAPOnly)", "\(eap.serverIsEAPOnly)", eap.tlsServer?.description ?? ""]
        var octets = words.flatMap { Array($0.utf8) + [0] } + eap.password + [0]
        for user in eap.users { octets += Array(user.name.utf8) + [0] + user.password + [0] }
        return octets
    }
}

/// The gateway's RADIUS servers, their secrets in secret memory.
struct RADIUSServers: Sendable {
    var servers: [RADIUSPlan.Server] = []
    var timeout: Duration = .seconds(2)
    var tries = 3
    /// NAS-Identifier, and the name that EAP-MSCHAPv2 shows.
    var gatewayName: String

    init(gatewayName: String) { self.gatewayName = gatewayName }

    init(_ configuration: GatewayConfiguration, secret: ([UInt8]) -> Secret) {
        gatewayName = configuration.name
        guard let radius = configuration.radius else { return }
        (timeout, tries) = (radius.timeout, radius.tries)
        servers = radius.servers.map { RADIUSPlan.Server(endpoint: $0.endpoint, secret: secret($0.secret)) }
    }
}
