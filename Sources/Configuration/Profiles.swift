/// `profiles`: named sets of connection and child keys. What a connection says itself comes first, then the profile it
/// names, then `default`, then the built-in value.
struct Profiles {
    static let maxProfiles = 256
    static let defaultName = "default"
    var byName: [String: Mapping] = [:]
    /// Those that a connection has read, and so checked.
    var used: Set<String> = []
}

extension Reader {
    func profiles(_ entry: Entry?) -> Profiles {
        var result = Profiles()
        guard let entry, let mapping = mapping(entry) else { return result }
        if mapping.entries.count > Profiles.maxProfiles { error(entry.keyMark, "more than \(Profiles.maxProfiles) profiles") }
        for profile in mapping.entries.prefix(Profiles.maxProfiles) {
            guard let body = self.mapping(profile) else { continue }
            checkKeys(body, in: .profile)
            result.byName[profile.key] = body
        }
        return result
    }

    /// The sets that fill in for `connection`, the nearest first.
    func layers(for connection: Mapping, profiles: inout Profiles) -> [Mapping] {
        var names: [String] = []
        if let entry = connection["profile"], let name = text(entry) {
            if profiles.byName[name] != nil {
                names.append(name)
            } else {
                error(entry.mark, unknownProfile(name, among: profiles.byName.keys.sorted()))
            }
        }
        if profiles.byName[Profiles.defaultName] != nil, !names.contains(Profiles.defaultName) {
            names.append(Profiles.defaultName)
        }
        profiles.used.formUnion(names)
        return names.compactMap { profiles.byName[$0] }
    }

    private func unknownProfile(_ name: String, among known: [String]) -> String {
        guard !known.isEmpty else { return "there is no profile \(quoted(name)); `profiles` is empty or missing" }
        let (nearest, distance) = nearest(to: name, among: known)
        let hint =
            distance <= max(2, name.count / 2) ? "did you mean \(quoted(nearest))?" : "known: \(known.joined(separator: ", "))"
        return "there is no profile \(quoted(name)); \(hint)"
    }

    /// `own` with what it lacks taken from `layers`. `local` and `remote` are filled in key by key. The two ways to give
    /// a pre-shared key replace each other.
    func merged(_ own: Mapping, layers: [Mapping], keys: [String]) -> Mapping {
        var result = own
        for layer in layers {
            let hasSecret = result["psk"] != nil || result["psk_file"] != nil
            for entry in layer.entries where keys.contains(entry.key) {
                if hasSecret, entry.key == "psk" || entry.key == "psk_file" { continue }
                guard let index = result.entries.firstIndex(where: { $0.key == entry.key }) else {
                    result.entries.append(entry)
                    continue
                }
                guard entry.key == "local" || entry.key == "remote",
                    case .mapping(var present) = result.entries[index].value.content,
                    case .mapping(let filling) = entry.value.content
                else { continue }
                present.entries += filling.entries.filter { present[$0.key] == nil }
                result.entries[index].value.content = .mapping(present)
            }
        }
        return result
    }
}
