import Configuration
import IKE
import IPsec

/// Taking over a changed file while the gateway runs.
extension ControlThread {
    /// A refused file changes nothing. Connections that are the same keep their SAs; what changed is removed and added anew.
    func reload() -> AdminResponse {
        let loaded = surroundings.reload()
        let errors = loaded.diagnostics.filter { $0.severity == .error }
        guard var new = loaded.configuration, errors.isEmpty else {
            let text = errors.isEmpty ? "the file cannot be read" : errors.map(\.description).joined(separator: "\n")
            log(.error, "reload refused, nothing has changed: \(text)")
            return .refused("The file is refused, nothing has changed:\n\(text)", code: 78)
        }
        if let refusal = SettingsMapping.unsupported(new).first ?? needsRestart(new) {
            log(.error, "reload refused, nothing has changed: \(refusal)")
            return .refused("Nothing has changed. \(refusal)", code: 78)
        }

        radius = RADIUSServers(new, secret: surroundings.crypto.secret)
        new.radius?.wipe()
        let old = Dictionary(configuration.connections.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
        var kept: Set<String> = []
        for index in new.connections.indices {
            let connection = new.connections[index]
            guard let before = old[connection.name], isSame(connection, before) else { continue }
            kept.insert(connection.name)
            core.setPlaces(connection.places, ofConnection: connection.name)
            new.connections[index].wipeSecrets()
        }
        let removed = configuration.connections.filter { !kept.contains($0.name) }
        let names = Set(new.connections.map(\.name))
        for connection in removed {
            core.removeConnection(connection.name, isChanged: names.contains(connection.name), now: now)
        }
        pump()
        for connection in removed {
            forgetCredentials(of: connection.name)
            for child in connection.children { children.release(ChildKey(connection.name, child.name)) }
        }
        for connection in new.connections {
            for child in connection.children { children.assign(ChildKey(connection.name, child.name)) }
        }
        configuration = new
        core.setPools(new.pools)
        // The new policy is in force before anything is negotiated for it.
        followAll()
        let added = new.connections.indices.filter { !kept.contains(new.connections[$0].name) }
        for index in added { add(index) }
        pump()
        let noun = kept.count == 1 ? "connection" : "connections"
        let summary = "\(kept.count) \(noun) unchanged, \(removed.count) ended, \(added.count) begun"
        log(.info, "reloaded: \(summary)")
        return .done("Reloaded: \(summary).")
    }

    private func needsRestart(_ new: GatewayConfiguration) -> String? {
        if new.interfaces != configuration.interfaces { return "A change of `interfaces` needs a restart of the gateway." }
        if new.dataplane != configuration.dataplane { return "A change of `dataplane` needs a restart of the gateway." }
        if new.controlSocket != configuration.controlSocket {
            return "A change of `control_socket` needs a restart of the gateway."
        }
        if new.name != configuration.name || new.log != configuration.log {
            return "A change of the gateway's `name` or `log` needs a restart of the gateway."
        }
        return nil
    }

    private func isSame(_ new: Connection, _ old: Connection) -> Bool {
        guard credentials.fingerprint(new, surroundings.crypto) == keyFingerprints[old.name], new.local == old.local,
            new.remote == old.remote, new.rsaPadding == old.rsaPadding, new.childless == old.childless,
            new.allowsSHA1Signatures == old.allowsSHA1Signatures
        else { return false }
        guard new.localAddress == old.localAddress, new.remoteAddress == old.remoteAddress,
            new.localIdentity == old.localIdentity, new.pools == old.pools, new.virtualAddress == old.virtualAddress,
            new.remotePattern == old.remotePattern, new.ikeProposals == old.ikeProposals, new.ikeLifetime == old.ikeLifetime,
            new.dpdInterval == old.dpdInterval, new.dpdAction == old.dpdAction, new.reauthTime == old.reauthTime,
            new.natTraversal == old.natTraversal, new.paths == old.paths, new.children.count == old.children.count
        else { return false }
        return zip(new.children, old.children).allSatisfy { a, b in
            guard a.peers == b.peers, a.sizes == b.sizes else { return false }
            return a.name == b.name && a.mode == b.mode && a.localSubnets == b.localSubnets && a.remoteSubnets == b.remoteSubnets
                && a.espProposals == b.espProposals && a.lifetime == b.lifetime && a.lifetimeBytes == b.lifetimeBytes
                && a.localIsDynamic == b.localIsDynamic && a.remoteIsDynamic == b.remoteIsDynamic
                && a.lifetimePackets == b.lifetimePackets && a.replayWindowPackets == b.replayWindowPackets && a.start == b.start
        }
    }
}
