import IKE
import IPsec
import Wire

/// What a connection says about EAP beside `auth`. Passwords are octets here; the gateway moves them into secret memory.
public struct EAPSettings: Sendable {
    public enum Method: String, CaseIterable, Sendable {
        case mschapv2 = "eap-mschapv2"
        case tls = "eap-tls"
        case radius = "eap-radius"
    }
    public struct User: Sendable {
        public var name: String
        public var password: [UInt8]
    }
    /// How the peer proves itself (as server); nil: not by EAP.
    public var server: Method?
    /// How we prove ourselves (as client); nil: not by EAP.
    public var client: Method?
    /// As client: the server proves itself within EAP alone. RFC 5998.
    public var serverIsEAPOnly = false
    /// As server: our own AUTH is left out when the peer offers that.
    public var acceptsEAPOnly = false
    public var users: [User] = []
    /// As server: the peer is asked for its EAP identity; otherwise its IDi is its name.
    public var asksIdentity = true
    /// As client.
    public var user: String?
    public var password: [UInt8] = []
    /// As client with EAP-TLS: who the server's certificate must speak for; nil: the remote identity.
    public var tlsServer: Identity?

    /// Overwrites the passwords once they are in secret memory.
    public mutating func wipe() {
        for index in users.indices {
            for octet in users[index].password.indices { users[index].password[octet] = 0 }
            users[index].password = []
        }
        for octet in password.indices { password[octet] = 0 }
        password = []
    }
}

/// RADIUS servers of the gateway.
public struct RADIUSSettings: Sendable {
    public struct Server: Sendable {
        public var endpoint: Endpoint
        public var secret: [UInt8]
    }
    public var servers: [Server]
    public var timeout: Duration
    public var tries: Int

    /// Overwrites the secrets once they are in secret memory.
    public mutating func wipe() {
        for index in servers.indices {
            for octet in servers[index].secret.indices { servers[index].secret[octet] = 0 }
            servers[index].secret = []
        }
    }
}

extension Scope {
    static let eap = Scope(
        name: "`eap`", keys: ["users", "identity", "eap_only", "user", "password", "password_file", "server"])
    static let eapUser = Scope(name: "a user", keys: ["name", "password", "password_file"])
    static let radius = Scope(name: "`radius`", keys: ["servers", "timeout", "tries"])
    static let radiusServer = Scope(name: "a RADIUS server", keys: ["address", "port", "secret", "secret_file"])
}

extension Reader {
    static var maxUsers: Int { 65_536 }
    static var maxRADIUSServers: Int { 8 }
    /// RFC 2759 §4: "0-to-256-unicode-char Password".
    static var shortRADIUSSecretBytes: Int { 16 }

    // MARK: radius

    func radius(_ entry: Entry?) -> RADIUSSettings? {
        guard let entry, let mapping = mapping(entry) else { return nil }
        checkKeys(mapping, in: .radius)
        var settings = RADIUSSettings(servers: [], timeout: .seconds(2), tries: 3)
        if let entry = mapping["timeout"], let timeout = duration(entry, in: .milliseconds(100)...(.seconds(30))) {
            settings.timeout = timeout
        }
        if let entry = mapping["tries"], let tries = integer(entry, in: 1...10) { settings.tries = tries }
        guard let servers = require("servers", of: mapping, for: "`radius`"), let values = list(servers) else { return nil }
        if values.isEmpty { error(servers.mark, "`servers` is empty; name at least one RADIUS server") }
        if values.count > Self.maxRADIUSServers { error(servers.mark, "more than \(Self.maxRADIUSServers) RADIUS servers") }
        for value in values.prefix(Self.maxRADIUSServers) {
            if let mapping = self.mapping(value, "a RADIUS server"), let server = radiusServer(mapping) {
                settings.servers.append(server)
            }
        }
        return settings
    }

    private func radiusServer(_ mapping: Mapping) -> RADIUSSettings.Server? {
        checkKeys(mapping, in: .radiusServer)
        let address = require("address", of: mapping, for: "a RADIUS server").flatMap { entry -> IPAddress? in
            guard let text = text(entry) else { return nil }
            if let address = IPAddress(text) { return address }
            refuseAddress(text, entry.mark)
            return nil
        }
        var port: UInt16 = 1812
        if let entry = mapping["port"], let number = integer(entry, in: 1...65_535) { port = UInt16(clamping: number) }
        let secret = secretText(mapping, inline: "secret", file: "secret_file", isRequired: true, owner: "a RADIUS server")
        if let secret, secret.bytes.count < Self.shortRADIUSSecretBytes {
            warning(
                secret.mark,
                "the RADIUS secret is shorter than \(Self.shortRADIUSSecretBytes) characters: whoever sees one exchange can try "
                    + "passwords offline; `openssl rand -base64 24` makes a good one")
        }
        guard let address, let secret else { return nil }
        return RADIUSSettings.Server(endpoint: Endpoint(address, port), secret: secret.bytes)
    }

    // MARK: eap

    /// - Parameters:
    ///   - client: `local.auth` when it is an EAP method.
    ///   - server: `remote.auth` when it is one.
    ///   - serverIsEAPOnly: `remote.auth: eap-only`.
    /// - Returns: nil when no side uses EAP.
    func eapSettings(
        _ mapping: Mapping, client: EAPSettings.Method?, server: EAPSettings.Method?, serverIsEAPOnly: Bool
    ) -> EAPSettings? {
        let entry = mapping["eap"]
        guard client != nil || server != nil else {
            if let entry { warning(entry.keyMark, "`eap` is of no use: neither `local` nor `remote` has an `auth` of EAP") }
            if serverIsEAPOnly, let remote = mapping["remote"] {
                error(remote.mark, "`auth: eap-only` needs `local.auth: eap-tls`: the server proves itself within that method")
            }
            return nil
        }
        var settings = EAPSettings()
        (settings.client, settings.server, settings.serverIsEAPOnly) = (client, server, serverIsEAPOnly)
        let body = entry.flatMap { self.mapping($0) } ?? Mapping(mark: mapping.mark)
        checkKeys(body, in: .eap)
        if let entry = body["identity"] {
            enum Word: String, CaseIterable { case ask, ike }
            settings.asksIdentity = choice(entry, from: Word.allCases) != .ike
        }
        if let entry = body["eap_only"] {
            enum Word: String, CaseIterable { case allow, never }
            settings.acceptsEAPOnly = choice(entry, from: Word.allCases) == .allow
            // "Both the initiator and responder MUST verify that the EAP method actually used provided mutual authentication and
            // established a shared secret key" (RFC 5998 §3).
            if settings.acceptsEAPOnly, let server, server != .tls {
                error(
                    entry.mark,
                    "`eap_only: allow` needs `remote.auth: eap-tls`; of \(server.rawValue) nobody here knows that it "
                        + "authenticates both sides (RFC 5998 §3)")
            }
        }
        readServer(body, &settings, connection: mapping)
        readClient(body, &settings, connection: mapping)
        return settings
    }

    /// Which end begins decides who can be the EAP peer. RFC 7296 §2.16.
    func checkEAPSides(_ connection: Connection, _ mapping: Mapping) {
        let mark = (mapping["local"] ?? mapping["remote"])?.mark ?? mapping.mark
        if connection.local.method == .eapOnly {
            error(
                mark,
                "`auth: eap-only` is for `remote`; a server lets peers do without its certificate by `eap: { eap_only: allow }`"
            )
        }
        if connection.local.method.isEAP, connection.remote.method.isEAP, connection.remote.method != .eapOnly {
            error(mark, "only one side can prove itself by EAP: as client write `auth: eap-…` in `local`, as server in `remote`")
        }
        warnSharedSecret(connection, mark)
        if connection.local.method.isEAP, connection.remoteAddress == nil {
            error(
                mark, "`local.auth: \(connection.local.method.rawValue)` is a client's, which begins; `remote` needs an address")
        }
    }

    /// RFC 7296 §2.16: EAP needs "public-key-signature-based authentication of the responder".
    private func warnSharedSecret(_ connection: Connection, _ mark: Mark) {
        guard connection.local.method == .psk, connection.remote.method.isEAP, connection.remote.method != .eapOnly else {
            return
        }
        warning(
            mark,
            "`local.auth: psk` beside EAP: every client knows the key and can play this gateway, and whoever asks gets an answer "
                + "to try keys on; give the gateway a certificate")
    }

    private func readServer(_ body: Mapping, _ settings: inout EAPSettings, connection: Mapping) {
        if settings.server == .radius, !hasRADIUS, let remote = connection["remote"] {
            error(remote.mark, "`auth: eap-radius` needs the gateway's `radius` section with its `servers`")
        }
        guard settings.server == .mschapv2 else {
            if let entry = body["users"] { warning(entry.keyMark, "`users` is for `remote.auth: eap-mschapv2` alone") }
            return
        }
        guard let entry = body["users"], let values = list(entry) else {
            missing("users", of: body, "`users` is missing in `eap`; `remote.auth: eap-mschapv2` needs names and passwords")
            return
        }
        if values.count > Self.maxUsers { error(entry.mark, "more than \(Self.maxUsers) users; use `auth: eap-radius`") }
        var lines: [String: Int] = [:]
        for value in values.prefix(Self.maxUsers) {
            guard let user = mapping(value, "a user") else { continue }
            checkKeys(user, in: .eapUser)
            guard let nameEntry = require("name", of: user, for: "a user"), let name = text(nameEntry),
                let password = secretText(
                    user, inline: "password", file: "password_file", isRequired: true, owner: "a user")
            else { continue }
            if let line = lines[name] {
                error(nameEntry.mark, "user \(quoted(name)) is given again; it stands in line \(line) already")
                continue
            }
            lines[name] = nameEntry.mark.line
            guard isBounded(name, nameEntry) else { continue }
            settings.users.append(EAPSettings.User(name: name, password: password.bytes))
        }
    }

    private func isBounded(_ name: String, _ entry: Entry) -> Bool {
        guard name.utf8.count > 253 else { return true }
        error(entry.mark, "a user name is longer than 253 bytes")
        return false
    }

    private func readClient(_ body: Mapping, _ settings: inout EAPSettings, connection: Mapping) {
        guard let method = settings.client else { return }
        if method == .radius, let local = connection["local"] {
            error(
                local.mark,
                "`eap-radius` is for `remote.auth`: the peer's EAP goes to RADIUS servers; use eap-tls or eap-mschapv2")
        }
        if let entry = body["user"], let name = text(entry), isBounded(name, entry) { settings.user = name }
        if let entry = body["server"] { settings.tlsServer = identity(entry) }
        if settings.serverIsEAPOnly, method != .tls, let remote = connection["remote"] {
            error(
                remote.mark,
                "`auth: eap-only` needs `local.auth: eap-tls`: with a password the server must prove itself by a certificate or "
                    + "a pre-shared key first (RFC 5998 §4)")
        }
        guard method == .mschapv2 else { return }
        if body["user"] == nil {
            missing("user", of: body, "`user` is missing in `eap`; `local.auth: eap-mschapv2` needs a name and a password")
        }
        let password = secretText(
            body, inline: "password", file: "password_file", isRequired: true, owner: "`local.auth: eap-mschapv2`")
        settings.password = password?.bytes ?? []
    }

    // MARK: Secrets

    /// The octets of one of two keys, of which the second names a file.
    func secretText(
        _ mapping: Mapping, inline: String, file: String, isRequired: Bool, owner: String
    ) -> (bytes: [UInt8], mark: Mark)? {
        switch (mapping[inline], mapping[file]) {
        case (nil, nil):
            if isRequired { missing(file, of: mapping, "`\(file)` is missing (or `\(inline)`); \(owner) needs one") }
            return nil
        case (let one?, let other?):
            error(max(one.keyMark, other.keyMark), "`\(inline)` and `\(file)` are both given; keep one")
            return nil
        case (let entry?, nil): return inlineSecret(entry).map { ($0, entry.mark) }
        case (nil, let entry?): return secretFile(entry).map { ($0, entry.mark) }
        }
    }
}
