import IKE
import IPsec
import Wire

/// A child with the positions that checks across children need.
struct CheckedChild {
    var child: Child
    var nameMark: Mark
    /// One per remote subnet.
    var remoteMarks: [Mark]
    /// Where each of its keys stands.
    var lines: [String: Int]
}

/// `children` of a connection.
extension Reader {
    /// What is accepted here is negotiated there.
    static var maxChildren: Int { Bounds.childrenPerIKESA }
    /// Of one side of one child; RFC 7296 §3.13 counts selectors in one octet.
    static var maxSubnets: Int { Bounds.selectorsPerPayload }
    static var replayWindows: ClosedRange<Int> { 32...65_536 }
    /// Octets of an inner packet; every IPv4 host must take 576 (RFC 791).
    static var childMTUs: ClosedRange<Int> { 576...9000 }
    /// Octets of a TCP segment.
    static var segments: ClosedRange<Int> { 88...8960 }
    static var smallestSensibleBytes: UInt64 { 1 << 20 }

    /// - Parameter pattern: who may authenticate as the peer.
    func children(
        _ entry: Entry?, of connection: Mapping, layers: [Mapping], remoteIsAny: Bool, pattern: IdentityPattern?
    ) -> [CheckedChild] {
        guard let entry else {
            missing(
                "children", of: connection,
                "`children` is missing; a connection needs at least one, with `local_subnets` and `remote_subnets`")
            return []
        }
        guard let values = list(entry) else { return [] }
        if values.isEmpty { error(entry.mark, "`children` is empty; a connection needs at least one to carry traffic") }
        if values.count > Self.maxChildren { error(entry.mark, "more than \(Self.maxChildren) children in one connection") }
        let weak = connection["allow_weak"] ?? layers.lazy.compactMap { $0["allow_weak"] }.first
        // Its own problems are told where the connection is read.
        let allowed = weak.map { weakNames($0) } ?? []
        var result: [CheckedChild] = []
        var lines: [String: Int] = [:]
        for value in values.prefix(Self.maxChildren) {
            guard let own = mapping(value, "a child") else { continue }
            checkKeys(own, in: .child)
            let name = require("name", of: own, for: "a child")
            let mapping = merged(own, layers: layers, keys: Scope.profileChildKeys)
            if var child = child(mapping, name: name, allowed: allowed, remoteIsAny: remoteIsAny, lines: &lines) {
                child.child.peers = peers(own["peers"], of: child, pattern: pattern, isFromAnywhere: remoteIsAny)
                result.append(child)
            }
        }
        return result
    }

    private func child(
        _ mapping: Mapping, name: Entry?, allowed: Set<String>, remoteIsAny: Bool, lines: inout [String: Int]
    ) -> CheckedChild? {
        let known = name.flatMap { uniqueName($0, of: "child", lines: &lines) }
        refuseUnavailable(mapping)
        let sides = ["local_subnets", "remote_subnets"].map { require($0, of: mapping, for: "a child") }
        let isDynamic = sides.map { $0.map { self.isDynamic($0.value) } ?? false }
        let local = isDynamic[0] ? [] : sides[0].map { subnets($0) } ?? []
        let remote = isDynamic[1] ? [] : sides[1].map { subnets($0) } ?? []
        checkOverlap(local: local, remote: remote)
        var settings = settings(mapping, allowed: allowed)
        if remoteIsAny {
            // There is nobody to initiate to.
            if settings.start != .manual, let entry = mapping["start"] {
                warning(entry.mark, "a peer from `any` address cannot be initiated to; `start: manual` is used")
            }
            settings.start = .manual
        }
        guard let name, let known else { return nil }
        var child = Child(
            name: known, mode: .tunnel, localSubnets: local.map(\.prefix), remoteSubnets: remote.map(\.prefix),
            espProposals: settings.espProposals, lifetime: settings.lifetime, lifetimeBytes: settings.lifetimeBytes,
            lifetimePackets: settings.lifetimePackets, replayWindowPackets: settings.replayWindow, start: settings.start)
        (child.localIsDynamic, child.remoteIsDynamic) = (isDynamic[0], isDynamic[1])
        child.sizes = settings.sizes
        return CheckedChild(
            child: child, nameMark: name.mark, remoteMarks: remote.map(\.mark),
            lines: Dictionary(mapping.entries.map { ($0.key, $0.keyMark.line) }, uniquingKeysWith: { first, _ in first }))
    }

    /// What this version does not serve and what would carry traffic differently from what the file says.
    private func refuseUnavailable(_ mapping: Mapping) {
        if let entry = mapping["mode"], let mode = choice(entry, from: Child.Mode.allCases), mode == .transport {
            error(entry.mark, "`mode: transport` is not available in this version; use `mode: tunnel`")
        }
        if let entry = mapping["tunnel_interface"] {
            error(
                entry.keyMark,
                "`tunnel_interface` is not available in this version; remove it: `local_subnets` and `remote_subnets` "
                    + "steer the traffic"
            )
        }
    }

    /// Nothing else can be meant by the word, so that quotes do not matter.
    private func isDynamic(_ value: Value) -> Bool {
        if case .scalar("dynamic", _) = value.content { true } else { false }
    }

    // MARK: Subnets

    private struct Subnet {
        var prefix: IPPrefix
        var mark: Mark
    }

    private func subnets(_ entry: Entry) -> [Subnet] {
        guard let values = list(entry) else { return [] }
        if values.isEmpty { error(entry.mark, "`\(entry.key)` is empty; name at least one subnet") }
        if values.count > Self.maxSubnets { error(entry.mark, "more than \(Self.maxSubnets) subnets in `\(entry.key)`") }
        var result: [Subnet] = []
        for value in values.prefix(Self.maxSubnets) {
            guard let prefix = prefix(value, in: entry.key) else { continue }
            if let other = result.first(where: { $0.prefix.overlaps(prefix) }) {
                if other.prefix == prefix {
                    error(value.mark, "\(prefix) is given twice in `\(entry.key)`")
                    continue
                }
                warning(value.mark, "\(prefix) and \(other.prefix) in `\(entry.key)` overlap; the wider one is enough")
            }
            if let kind = Self.unforwarded(prefix) {
                warning(value.mark, "\(prefix) holds \(kind) addresses, which are not forwarded: the tunnel will not carry them")
            }
            result.append(Subnet(prefix: prefix, mark: value.mark))
        }
        return result
    }

    /// What addresses a prefix holds that no router forwards; nil when it has others. RFC 6890 §2.2.2, RFC 5771, RFC 4291 §2.7.
    private static func unforwarded(_ prefix: IPPrefix) -> String? {
        let kinds = [
            ("127.0.0.0/8", "loopback"), ("::1/128", "loopback"), ("224.0.0.0/4", "multicast"), ("ff00::/8", "multicast"),
            ("169.254.0.0/16", "link-local"), ("fe80::/10", "link-local"), ("240.0.0.0/4", "reserved"), ("0.0.0.0/8", "unusable"),
        ]
        return kinds.first { IPPrefix($0.0)?.contains(prefix) ?? false }?.1
    }

    /// The same subnet on both sides cannot be routed. One inside the other can: the whole Internet behind the peer, or a
    /// branch cut out of the company's range; the longer prefix then decides.
    private func checkOverlap(local: [Subnet], remote: [Subnet]) {
        for subnet in remote {
            for other in local where other.prefix.overlaps(subnet.prefix) {
                if other.prefix == subnet.prefix {
                    error(
                        subnet.mark, "\(subnet.prefix) is in `local_subnets` as well; a subnet is on one side of the tunnel only")
                } else if other.prefix.length != 0, subnet.prefix.length != 0 {
                    warning(
                        subnet.mark,
                        "\(subnet.prefix) overlaps \(other.prefix) of `local_subnets`; the longer prefix decides "
                            + "which side is meant"
                    )
                }
            }
        }
    }

    // MARK: What a profile may say as well

    private struct Settings {
        var espProposals = ESPProposal.defaults
        var lifetime: Duration = .seconds(3600)
        var lifetimeBytes: UInt64 = 0
        var lifetimePackets: UInt64 = 0
        var replayWindow = 4096
        var start = StartAction.immediately
        var sizes = TunnelSizes()
    }

    private func settings(_ mapping: Mapping, allowed: Set<String>) -> Settings {
        var result = Settings()
        if let entry = mapping["esp_proposals"] {
            result.espProposals = proposals(entry, allowed: allowed) { (text) throws(ProposalKeywordError) in
                try ESPProposal(keywords: text)
            }
        }
        if let entry = mapping["lifetime"], let lifetime = duration(entry, in: Self.lifetimes) { result.lifetime = lifetime }
        if let entry = mapping["lifetime_bytes"], let bytes = size(entry) {
            result.lifetimeBytes = bytes
            if bytes != 0, bytes < Self.smallestSensibleBytes {
                warning(entry.mark, "`lifetime_bytes` below 1M makes the SA be rekeyed all the time; 0 is no limit")
            }
        }
        if let entry = mapping["lifetime_packets"], let packets = count(entry) { result.lifetimePackets = packets }
        if let entry = mapping["replay_window"] {
            if case .scalar("0", _) = entry.value.content {
                error(
                    entry.mark,
                    "`replay_window: 0` would accept replayed packets and is refused; raise the window (up to "
                        + "\(Self.replayWindows.upperBound)) when the path reorders"
                )
            } else if let window = integer(entry, in: Self.replayWindows) {
                result.replayWindow = window
            }
        }
        if let entry = mapping["start"], let start = choice(entry, from: [StartAction.immediately, .onTraffic, .manual]) {
            result.start = start
        }
        result.sizes = sizes(mapping)
        return result
    }

    private func sizes(_ mapping: Mapping) -> TunnelSizes {
        var result = TunnelSizes()
        if let entry = mapping["df"], let df = choice(entry, from: [DFWord.copy, .set, .clear]) {
            result.dontFragment = df.meaning
        }
        if let entry = mapping["mtu"], let mtu = integer(entry, in: Self.childMTUs) { result.mtu = UInt16(mtu) }
        if let entry = mapping["mss"] {
            switch entry.value.content {
            case .scalar("auto", _): result.mss = .automatic
            // YAML 1.1 reads a bare `off` as false.
            case .scalar("off", _), .scalar("false", _): result.mss = .untouched
            default:
                if let mss = integer(entry, in: Self.segments) { result.mss = .at(UInt16(mss)) }
            }
        }
        return result
    }

    private enum DFWord: String {
        case copy, set, clear
        var meaning: DFHandling {
            switch self {
            case .copy: .copy
            case .set: .set
            case .clear: .clear
            }
        }
    }

    /// The child keys of a profile that nothing uses.
    func checkChildSettings(_ mapping: Mapping) {
        refuseUnavailable(mapping)
        _ = settings(mapping, allowed: mapping["allow_weak"].map { weakNames($0) } ?? [])
        for key in ["local_subnets", "remote_subnets"] {
            if let entry = mapping[key], !isDynamic(entry.value) { _ = subnets(entry) }
        }
    }
}
