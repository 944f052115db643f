/// Which keys stand where. Unknown keys are errors that point at the nearest known one.
struct Scope {
    /// For messages: "a connection", "`gateway`".
    var name: String
    var keys: [String]

    static let root = Scope(
        name: "the file's top level",
        keys: ["gateway", "interfaces", "dataplane", "profiles", "connections", "policies", "pools", "radius"])
    static let gateway = Scope(name: "`gateway`", keys: ["name", "control_socket", "metrics_listen", "log", "redirect_to"])
    static let log = Scope(name: "`log`", keys: ["level", "format"])
    static let interface = Scope(name: "an interface", keys: ["name", "role"])
    static let dataplane = Scope(
        name: "`dataplane`", keys: ["workers", "engine", "xdp_mode", "poll", "huge_pages", "frames_per_worker"])
    static let connection = Scope(
        name: "a connection",
        keys: [
            "name", "profile", "version", "local", "remote", "psk", "psk_file", "secrets", "ike_proposals", "ike_lifetime",
            "dpd_interval", "dpd_action", "reauth_time", "nat_traversal", "allow_weak", "children", "rsa_padding",
            "childless", "ppk",
        ] + pathKeys + certificateKeys + addressingKeys + ["eap"])
    static let peer = Scope(name: "`local` or `remote`", keys: ["address", "id", "auth"] + certificateKeys)
    static let postquantumKey = Scope(name: "`ppk`", keys: ["id", "file", "secret", "required"])
    static let identity = Scope(name: "an `id`", keys: ["type", "value"])
    static let child = Scope(
        name: "a child",
        keys: [
            "name", "mode", "local_subnets", "remote_subnets", "esp_proposals", "lifetime", "lifetime_bytes", "lifetime_packets",
            "replay_window", "start", "tunnel_interface", "df", "mtu", "mss", "peers",
        ])
    static let peerOfChild = Scope(name: "an entry of `peers`", keys: ["id", "remote_subnets"])
    static let policy = Scope(
        name: "a policy", keys: ["action", "source", "destination", "protocol", "source_ports", "destination_ports"])

    /// What a connection does with the paths to its peer.
    static let pathKeys = ["fragmentation", "fragment_size", "mobike", "nat_keepalive", "redirects", "redirect_to"]
    static let certificateKeys = [
        "certificate", "private_key", "ca", "crl", "public_key", "ocsp", "ocsp_response", "revocation",
    ]
    static let secret = Scope(name: "an entry of `secrets`", keys: ["id", "psk", "psk_file"])
    /// What a profile may set for a connection.
    static let profileConnectionKeys = connection.keys.filter { !["name", "profile", "children"].contains($0) }
    /// What a profile may set for the children of a connection.
    static let profileChildKeys = child.keys.filter { !["name", "peers"].contains($0) }
    static let profile = Scope(name: "a profile", keys: profileConnectionKeys + profileChildKeys)

    /// Scopes that an unknown key may have been meant for.
    static let all = [
        root, gateway, log, dataplane, connection, peer, child, peerOfChild, policy, pool, eap, eapUser, radius, radiusServer,
    ]
}

extension Reader {
    /// Complains about every key of `mapping` that `scope` does not know.
    func checkKeys(_ mapping: Mapping, in scope: Scope) {
        for entry in mapping.entries where !scope.keys.contains(entry.key) {
            error(entry.keyMark, unknownKey(entry.key, in: scope))
        }
    }

    /// An error at the mapping, unless a key in it looks like a slip of the pen for `key`: that one is told already.
    func missing(_ key: String, of mapping: Mapping, _ text: String) {
        let isMisspelt = mapping.entries.contains { entry in
            !Scope.all.contains { $0.keys.contains(entry.key) }
                && isNear(editDistance(entry.key.lowercased(), key), to: entry.key)
        }
        if !isMisspelt { error(mapping.mark, text) }
    }

    private func isNear(_ distance: Int, to word: String) -> Bool { distance <= max(2, word.count / 2) }

    private func unknownKey(_ key: String, in scope: Scope) -> String {
        let start = "unknown key \(quoted(key)) in \(scope.name)"
        if let home = Scope.all.first(where: { $0.keys.contains(key) }) { return "\(start); it belongs in \(home.name)" }
        let (nearest, distance) = nearest(to: key, among: scope.keys)
        if isNear(distance, to: key) { return "\(start); did you mean `\(nearest)`?" }
        return "\(start); the nearest known key is `\(nearest)`; known here: \(scope.keys.joined(separator: ", "))"
    }
}

/// The candidate with the least edit distance to `word`. `candidates` must not be empty; the first of equals wins.
func nearest(to word: String, among candidates: [String]) -> (candidate: String, distance: Int) {
    var best = ("", Int.max)
    for candidate in candidates {
        let distance = editDistance(word.lowercased(), candidate)
        if distance < best.1 { best = (candidate, distance) }
    }
    return best
}

/// Insertions, deletions, replacements and swaps of neighbours that turn one word into the other. Words are bounded, so
/// that a hostile key costs nothing.
func editDistance(_ a: String, _ b: String) -> Int {
    let maxLetters = 64
    let a = Array(a.unicodeScalars.prefix(maxLetters))
    let b = Array(b.unicodeScalars.prefix(maxLetters))
    var beforePrevious: [Int] = []
    var previous = Array(0...b.count)
    for i in a.indices {
        var row = [i + 1]
        row.reserveCapacity(b.count + 1)
        for j in b.indices {
            var cost = min(previous[j + 1] + 1, row[j] + 1, previous[j] + (a[i] == b[j] ? 0 : 1))
            if i > 0, j > 0, a[i] == b[j - 1], a[i - 1] == b[j] { cost = min(cost, beforePrevious[j - 1] + 1) }
            row.append(cost)
        }
        (beforePrevious, previous) = (previous, row)
    }
    return previous[b.count]
}
