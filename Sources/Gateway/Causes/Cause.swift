import IPsec

/// What is wrong, as a code that scripts may rely on. Each has a row in `table`; what acts on a cause acts on its code.
public enum CauseCode: String, CaseIterable, Codable, Sendable {
    // Nothing works.
    case localPath = "local-path"
    case ikeNoAnswer = "ike-no-answer"
    case ikePortUnreachable = "ike-port-unreachable"
    case ikeHostUnreachable = "ike-host-unreachable"
    case ikeProhibited = "ike-prohibited"
    case ikeSendFailed = "ike-send-failed"
    case ikeFailed = "ike-failed"
    case ikeConnecting = "ike-connecting"
    case peerSilent = "peer-silent"
    case childDown = "child-down"
    case childProblem = "child-problem"
    case takenDown = "taken-down"
    // Up, and no traffic, or half of it.
    case espNoReturn = "esp-no-return"
    case trafficNoReturn = "traffic-no-return"
    case noLocalAnswer = "no-local-answer"
    case mtuBlackHole = "mtu-black-hole"
    case selectorsNarrowed = "selectors-narrowed"
    // It comes and goes.
    case pathLoss = "path-loss"
    case identityShared = "identity-shared"
    case flapping = "connection-flapping"
    // Others.
    case refusals = "peers-refused"
    case certificate = "certificate"
    case interfaceUnusable = "interface-unusable"
    case foreignRule = "foreign-rule"
    case ipv6Unprotected = "ipv6-unprotected"
    case routeUnsupported = "route-unsupported"
    case packetsDropped = "packets-dropped"
    case configurationRefused = "configuration-refused"
    case machine = "machine"

    public var entry: CauseEntry { CauseEntry.table[self] ?? CauseEntry(.problem, rawValue, "") }
}

/// One row of the table of causes.
public struct CauseEntry: Sendable {
    public var severity: Cause.Severity
    public var title: String
    /// What to do; `{name}` stands for a value of the case in hand. Empty: the sentence says it.
    public var remedy: String
    /// Root causes: where one of these is found too, this one is its consequence and not told.
    public var hiddenBy: [CauseCode]
    /// The keys of the connection that the remedy is about, the first that stands in the file counts.
    public var keys: [String]

    init(
        _ severity: Cause.Severity, _ title: String, _ remedy: String, hiddenBy: [CauseCode] = [], keys: [String] = []
    ) {
        (self.severity, self.title, self.remedy, self.hiddenBy, self.keys) = (severity, title, remedy, hiddenBy, keys)
    }

    private static let silence: [CauseCode] = [.localPath, .peerSilent]

    static let table: [CauseCode: CauseEntry] = [
        .localPath: .init(.problem, "this end cannot send", "", hiddenBy: [.childProblem], keys: ["local.address"]),
        .ikeNoAnswer: .init(
            .problem, "the peer does not answer IKE",
            "look for a firewall between {local} and {remote}: UDP 500 and 4500, protocol 50; see whether IKE runs there",
            hiddenBy: [.localPath, .ikePortUnreachable, .ikeHostUnreachable, .ikeProhibited, .ikeSendFailed],
            keys: ["remote.address"]),
        .ikePortUnreachable: .init(
            .problem, "nobody listens on the peer's UDP port",
            "start the IKE daemon at {remote}, or correct `remote.address`", hiddenBy: [.localPath], keys: ["remote.address"]),
        .ikeHostUnreachable: .init(
            .problem, "a router has no way to the peer", "check the peer's address and the route to it: `ip route get {remote}`",
            hiddenBy: [.localPath], keys: ["remote.address"]),
        .ikeProhibited: .init(
            .problem, "a firewall refuses IKE", "let UDP 500 and 4500 and protocol 50 pass at {router}",
            hiddenBy: [.localPath], keys: ["remote.address"]),
        .ikeSendFailed: .init(.problem, "IKE cannot be sent", "", hiddenBy: [.localPath], keys: ["remote.address"]),
        .ikeFailed: .init(.problem, "IKE could not be agreed", "", hiddenBy: [.localPath]),
        .ikeConnecting: .init(.warning, "it is not up yet", "ask again in a few seconds", hiddenBy: [.localPath]),
        .peerSilent: .init(
            .problem, "the peer is silent",
            "see whether {remote} is up and the path to it whole; it is set up anew when it answers", hiddenBy: [.localPath],
            keys: ["dpd_interval"]),
        .childDown: .init(
            .problem, "a child is down", "`culvert up {connection}/{child}` tries it again and tells why it fails",
            hiddenBy: silence),
        .childProblem: .init(.problem, "a child is in trouble", ""),
        .takenDown: .init(.notice, "taken down by the operator", "`culvert up {connection}` brings it up"),
        .espNoReturn: .init(
            .problem, "packets go out and none comes back",
            "{try}; else see `culvert diagnose` at the far end", hiddenBy: silence + [.interfaceUnusable, .foreignRule],
            keys: ["nat_traversal"]),
        .trafficNoReturn: .init(
            .warning, "packets go out and none comes back any more",
            "see `culvert diagnose` at the far end: whether they arrive, and what the host there does with them",
            hiddenBy: silence + [.espNoReturn, .interfaceUnusable, .mtuBlackHole]),
        .noLocalAnswer: .init(
            .problem, "packets come in and no host here answers",
            "see that the hosts in {local_subnets} are up and have a route to {remote_subnets} by this gateway",
            hiddenBy: silence + [.interfaceUnusable, .foreignRule], keys: ["{child}/local_subnets"]),
        .mtuBlackHole: .init(
            .problem, "large packets vanish on the path",
            "`ip link set {interface} mtu {passed}`, and find the router that drops ICMP \"fragmentation needed\"",
            hiddenBy: silence),
        .selectorsNarrowed: .init(
            .warning, "the peer agreed to less than is configured",
            "write the same subnets at both ends: here {child}/local_subnets and remote_subnets, there the reverse",
            keys: ["{child}/remote_subnets", "{child}/local_subnets"]),
        .pathLoss: .init(
            .warning, "the path loses packets",
            "look at the path between {remote} and {local}: an overloaded or faulty link, a policer; raise `replay_window` when "
                + "packets only come late", hiddenBy: silence + [.mtuBlackHole], keys: ["{child}/replay_window"]),
        .identityShared: .init(
            .problem, "two gateways have one identity",
            "give each an identity (`local.id`) of its own, and key or certificate with it", keys: ["remote.id"]),
        .flapping: .init(
            .problem, "it comes and goes",
            "see the reasons in the log of both ends; a second gateway with the identity {identity} does this too",
            hiddenBy: [.identityShared, .localPath]),
        .refusals: .init(.warning, "peers were refused lately", ""),
        .certificate: .init(.warning, "a certificate ends soon or has ended", "renew it, then `culvert reload`"),
        .interfaceUnusable: .init(.problem, "an interface is not in use", ""),
        .foreignRule: .init(.problem, "somebody's routing rule comes before ours", ""),
        .routeUnsupported: .init(.warning, "a route of the kernel is not taken", ""),
        .ipv6Unprotected: .init(.problem, "IPv6 goes past the tunnels", ""),
        .packetsDropped: .init(.warning, "packets are dropped", "", hiddenBy: [.interfaceUnusable]),
        .configurationRefused: .init(
            .problem, "the configuration file is refused", "`culvert check {file}` names each place; until it is mended the next "
                + "start of the gateway protects nothing"),
        .machine: .init(.problem, "this machine is not in order", ""),
    ]
}

/// One thing that is wrong, with its evidence and its remedy.
public struct Cause: Codable, Hashable, Sendable {
    /// `problem`: something does not work. `warning`: it may not, or not for long. `notice`: in order, and worth knowing.
    public enum Severity: String, Codable, Sendable, CaseIterable { case problem, warning, notice }

    public var code: CauseCode
    public var severity: Severity
    public var title: String
    /// What was seen.
    public var sentence: String
    /// What to do; empty when the sentence says it.
    public var remedy: String
    /// The line of the configuration file that the remedy is about.
    @ExplicitNull public var line: Int?
    /// The child it is about.
    @ExplicitNull public var child: String?
    /// The interface it is about.
    @ExplicitNull public var interface: String?

    /// - Parameter values: what stands for the `{name}`s of the table's remedy.
    public init(
        _ code: CauseCode, _ sentence: String, severity: Severity? = nil, remedy: String? = nil, values: [String: String] = [:],
        line: Int? = nil, child: String? = nil
    ) {
        let entry = code.entry
        (self.code, self.severity, title, self.sentence) = (code, severity ?? entry.severity, entry.title, sentence)
        self.remedy = Self.filled(remedy ?? entry.remedy, values)
        _line = ExplicitNull(wrappedValue: line)
        _child = ExplicitNull(wrappedValue: child)
    }

    static func filled(_ text: String, _ values: [String: String]) -> String {
        var result = text
        for (name, value) in values { result = result.replacing("{\(name)}", with: value) }
        return result
    }

    /// Without the consequences of what else is there, the worst first.
    public static func roots(_ causes: [Cause], beside others: Set<CauseCode> = []) -> [Cause] {
        let present = Set(causes.map(\.code)).union(others)
        let order = Severity.allCases
        return causes.filter { cause in !cause.code.entry.hiddenBy.contains { $0 != cause.code && present.contains($0) } }
            .enumerated().sorted { a, b in
                let ranks = [a, b].map { order.firstIndex(of: $0.element.severity) ?? 0 }
                return (ranks[0], a.offset) < (ranks[1], b.offset)
            }
            .map(\.element)
    }
}
