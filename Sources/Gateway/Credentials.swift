import Configuration
import Crypto
import IKE
import Logging

/// Keys and certificates while the gateway runs: taken into the core, told about before they expire, asked about.
extension ControlThread {
    /// How often expiring certificates are told about in the log.
    static let expiryInterval: Duration = .seconds(86_400)
    /// How often revocation lists are looked at for peers that are connected.
    static let listInterval: Duration = .seconds(5)
    /// How long peers are judged again before everything else has its turn.
    static let reviewTime: Duration = .milliseconds(10)

    var credentials: CredentialLoading {
        CredentialLoading(
            secret: surroundings.crypto.secret, now: surroundings.wallClock, radius: radius,
            ownStatuses: ownStatuses)
    }

    /// Gives a connection to the core. Its secrets move into secret memory; the octets here are wiped.
    func add(_ position: Int) {
        let connection = configuration.connections[position]
        defer { configuration.connections[position].wipeSecrets() }
        keyFingerprints[connection.name] = credentials.fingerprint(connection, surroundings.crypto)
        watched[connection.name] = credentials.watched(connection)
        if lookAtLists(of: connection), !connection.remote.revocationLists.isEmpty { readLists(of: connection) }
        credentialProblems[connection.name] = nil
        do throws(CredentialLoading.Problem) {
            let plan = try SettingsMapping.plan(connection, credentials: credentials)
            for child in plan.children {
                guard let index = children.index(of: ChildKey(plan.name, child.name)) else { continue }
                surroundings.dataplane.setHolding(childIndex: index, plan.mayOpenOnTraffic(child))
            }
            keepOwnStatuses()
            core.addConnection(plan, now: now)
        } catch {
            credentialProblems[connection.name] = error.sentence
            log(.error, error.sentence, connection: connection.name)
        }
    }

    /// A connection that is no more.
    func forgetCredentials(of connection: String) {
        (keyFingerprints[connection], watched[connection], credentialProblems[connection]) = (nil, nil, nil)
        listStamps[connection] = nil
    }

    /// Once a day: what expires within 30 days, or has.
    func tellExpiry() {
        guard nextExpiryCheck.map({ now >= $0 }) ?? true else { return }
        nextExpiryCheck = now + Self.expiryInterval
        for connection in configuration.connections {
            let found = credentials.watched(connection)
            watched[connection.name] = found
            for certificate in found {
                guard let notice = certificate.notice(now: surroundings.wallClock()) else { continue }
                log(.warning, "\(certificate.path) \(notice).", connection: connection.name)
            }
        }
        for status in core.status(now: now) {
            guard let validity = status.ike.flatMap(CredentialLoading.peerValidity),
                let notice = validity.notice(now: surroundings.wallClock())
            else { continue }
            log(.warning, "the peer \(notice).", connection: status.name)
        }
    }

    /// Whether a revocation list of the connection is another than the last time.
    private func lookAtLists(of connection: Connection) -> Bool {
        let stamps = connection.remote.revocationLists.map { CredentialFile.Stamp(path: $0) }
        return listStamps.updateValue(stamps, forKey: connection.name) != stamps
    }

    /// A list that has changed is read by whoever proves itself next; who is connected is judged by it within seconds.
    func followRevocationLists() {
        if now >= nextListCheck {
            nextListCheck = now + Self.listInterval
            for connection in configuration.connections where lookAtLists(of: connection) { readLists(of: connection) }
        }
        // What is left goes on with the next tick, which is a hurried one then.
        let end = now + Self.reviewTime
        while core.hasReviews, now < end { core.reviewPeer(now: now) }
    }

    /// Reads the lists, which may be long ones, elsewhere; then tells what is wrong with them and looks at the peers again.
    private func readLists(of connection: Connection) {
        let (name, remote, time) = (connection.name, connection.remote, surroundings.wallClock())
        longWork.submit {
            RevocationListReview.load(paths: remote.revocationLists)
            return CredentialInspection.lists(remote, now: time)
        } then: { [self] findings in
            guard let findings else { return }
            for (level, sentence) in findings { log(level, sentence, connection: name) }
            core.lookAgainAtPeers(of: name, now: now)
            pump()
        }
    }

    /// Judges what a peer has sent. When there is too much of that already, nothing comes of it.
    func judge(_ works: [CertificateWork], token: UInt64) {
        longWork.submit {
            for work in works { work.run() }
            return true
        } then: { [self] isDone in
            guard isDone != nil else { return }
            core.certificatesJudged(token: token, now: now)
            pump()
        }
    }

    func checkRevocation(_ check: RevocationCheck, token: UInt64) {
        ocsp.ask(check) { [self] response in
            core.revocationAnswered(token: token, response: response, now: now)
            pump()
        }
    }
}

extension Connection {
    /// Overwrites the octets. Copies that the reader of the file made are beyond reach.
    mutating func wipeSecrets() {
        for index in presharedKey.indices { presharedKey[index] = 0 }
        presharedKey = []
        for entry in secrets.indices {
            for index in secrets[entry].key.indices { secrets[entry].key[index] = 0 }
            secrets[entry].key = []
        }
        for index in postquantumKey?.secret.indices ?? 0..<0 { postquantumKey?.secret[index] = 0 }
        postquantumKey?.secret = []
        eap?.wipe()
    }
}
