import IKE
import IPsec
import Wire

/// The file's top level, `gateway`, `interfaces` and `dataplane`.
extension Reader {
    /// Interfaces of one gateway.
    static var maxInterfaces: Int { GatewayLimits.interfaces }
    /// Octets of a socket's path: sockaddr_un has 108 with the final zero.
    static var maxSocketPathBytes: Int { 107 }
    static var maxWorkers: Int { GatewayLimits.workers }
    static var maxCPU: Int { 4095 }
    static var framesPerWorker: ClosedRange<Int> { 1024...1_048_576 }

    /// The whole configuration. With errors the outcome is not to be used, and may be nil.
    func gatewayConfiguration(_ root: Value) -> GatewayConfiguration? {
        guard case .mapping(let top) = root.content else {
            error(
                root.mark, "the configuration must be keys with values, such as `interfaces` and `connections`, not \(root.kind)")
            return nil
        }
        checkKeys(top, in: .root)
        let gateway = gatewaySection(top["gateway"])
        let profiles = profiles(top["profiles"])
        knownPools = pools(top["pools"])
        let radius = radius(top["radius"])
        hasRADIUS = radius != nil
        let connections = connections(
            top["connections"], top: top, profiles: profiles, gatewayRedirect: gateway.redirectTo)
        let hasConnections = if case .sequence(let items)? = top["connections"]?.value.content { !items.isEmpty } else { false }
        let interfaces = interfaces(top["interfaces"], top: top, hasConnections: hasConnections)
        let dataplane = dataplane(top["dataplane"])
        let policies = policies(top["policies"])
        crossCheck(connections: connections, policies: policies)
        var configuration = GatewayConfiguration(
            name: gateway.name, controlSocket: gateway.controlSocket, metricsListen: gateway.metricsListen, log: gateway.log,
            interfaces: interfaces, dataplane: dataplane, connections: connections.map(\.connection),
            policies: policies.flatMap(\.policies))
        (configuration.pools, configuration.radius) = (knownPools, radius)
        return configuration
    }

    // MARK: gateway

    private typealias Gateway = (
        name: String, controlSocket: String, metricsListen: Endpoint?, log: GatewayConfiguration.Log,
        redirectTo: PathPlan.Gateway?
    )

    private func gatewaySection(_ entry: Entry?) -> Gateway {
        var result: Gateway = ("culvert", ConfigurationReader.defaultControlSocket, nil, GatewayConfiguration.Log(), nil)
        guard let entry, let mapping = mapping(entry) else { return result }
        checkKeys(mapping, in: .gateway)
        if let entry = mapping["name"], let name = name(entry) { result.name = name }
        if let entry = mapping["control_socket"], let path = socketPath(entry) { result.controlSocket = path }
        if let entry = mapping["metrics_listen"], let endpoint = endpoint(entry) {
            result.metricsListen = endpoint
            warning(
                entry.keyMark,
                "`metrics_listen` is not available in this version; no metrics are served, see `culvert status --json`")
        }
        if let entry = mapping["redirect_to"] { result.redirectTo = redirectTarget(entry) }
        if let entry = mapping["log"], let log = self.mapping(entry) {
            checkKeys(log, in: .log)
            if let entry = log["level"], let level = choice(entry, from: [LogLevel.debug, .info, .warning, .error]) {
                result.log.level = level
            }
            if let entry = log["format"], let format = choice(entry, from: GatewayConfiguration.Log.Format.allCases) {
                result.log.format = format
            }
        }
        return result
    }

    /// An absolute path; a relative one starts from the file's folder.
    func socketPath(_ entry: Entry) -> String? {
        guard let text = text(entry) else { return nil }
        let path = absolutePath(text)
        guard path.utf8.count <= Self.maxSocketPathBytes else {
            error(
                entry.mark,
                "`\(entry.key)` is longer than \(Self.maxSocketPathBytes) bytes, the most that a Unix socket's path may have")
            return nil
        }
        return path
    }

    func absolutePath(_ path: String) -> String {
        if path.hasPrefix("/") || directory.isEmpty { return path }
        return directory.hasSuffix("/") ? directory + path : "\(directory)/\(path)"
    }

    // MARK: interfaces

    private func interfaces(_ entry: Entry?, top: Mapping, hasConnections: Bool) -> [GatewayConfiguration.Interface] {
        guard let entry else {
            missing(
                "interfaces", of: top,
                "`interfaces` is missing: name the ports and their roles, like `- { name: wan0, role: underlay }`")
            return []
        }
        guard let values = list(entry) else { return [] }
        if values.count > Self.maxInterfaces { error(entry.mark, "more than \(Self.maxInterfaces) interfaces") }
        let before = errorCount
        var result: [GatewayConfiguration.Interface] = []
        var lines: [String: Int] = [:]
        for value in values.prefix(Self.maxInterfaces) {
            guard let mapping = mapping(value, "an interface") else { continue }
            checkKeys(mapping, in: .interface)
            let name = require("name", of: mapping, for: "an interface").flatMap { interfaceName($0, lines: &lines) }
            let role = require("role", of: mapping, for: "an interface")
                .flatMap { choice($0, from: GatewayConfiguration.Interface.Role.allCases) }
            if let name, let role { result.append(.init(name: name, role: role)) }
        }
        // Roles that could not be read would make this complaint a guess.
        guard hasConnections, errorCount == before else { return result }
        for role in [GatewayConfiguration.Interface.Role.underlay, .protected]
        where !result.contains(where: { $0.role == role || $0.role == .both }) {
            let purpose = role == .underlay ? "to reach the peers" : "to reach the protected hosts"
            error(entry.keyMark, "no interface has the role `\(role.rawValue)` or `both`; one is needed \(purpose)")
        }
        return result
    }

    /// A name Linux accepts for a device.
    private func interfaceName(_ entry: Entry, lines: inout [String: Int]) -> String? {
        guard let text = text(entry) else { return nil }
        let maxBytes = 15
        let isSound =
            text.utf8.count <= maxBytes && text != "." && text != ".."
            && text.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F && $0 != UInt8(ascii: "/") && $0 != UInt8(ascii: ":") }
        guard isSound else {
            error(entry.mark, "\(quoted(text)) is not an interface name: at most \(maxBytes) characters, no blanks, `/` or `:`")
            return nil
        }
        if let line = lines[text] {
            error(entry.mark, "interface \(quoted(text)) is given again; it stands in line \(line) already")
            return nil
        }
        lines[text] = entry.mark.line
        return text
    }

    /// The entry for `key`; an error at the mapping when there is none.
    func require(_ key: String, of mapping: Mapping, for what: String) -> Entry? {
        if let entry = mapping[key] { return entry }
        missing(key, of: mapping, "`\(key)` is missing; \(what) needs it")
        return nil
    }

    // MARK: dataplane

    private func dataplane(_ entry: Entry?) -> GatewayConfiguration.Dataplane {
        typealias Dataplane = GatewayConfiguration.Dataplane
        var result = Dataplane()
        guard let entry, let mapping = mapping(entry) else { return result }
        checkKeys(mapping, in: .dataplane)
        if let entry = mapping["workers"], let workers = workers(entry) { result.workers = workers }
        if let entry = mapping["engine"], let engine = choice(entry, from: Dataplane.Engine.allCases) { result.engine = engine }
        if let entry = mapping["xdp_mode"], let mode = choice(entry, from: Dataplane.XDPMode.allCases) { result.xdpMode = mode }
        if let entry = mapping["poll"], let poll = choice(entry, from: Dataplane.Poll.allCases) { result.poll = poll }
        if let entry = mapping["huge_pages"], let pages = choice(entry, from: Dataplane.HugePages.allCases) {
            result.hugePages = pages
        }
        if let entry = mapping["frames_per_worker"], let frames = integer(entry, in: Self.framesPerWorker) {
            if frames & (frames - 1) == 0 {
                result.framesPerWorker = frames
            } else {
                let below = 1 << (Int.bitWidth - 1 - frames.leadingZeroBitCount)
                error(entry.mark, "`frames_per_worker` is \(frames); it must be a power of two, such as \(below) or \(below * 2)")
            }
        }
        return result
    }

    private func workers(_ entry: Entry) -> GatewayConfiguration.Dataplane.Workers? {
        guard case .sequence(let values) = entry.value.content else {
            if case .scalar("auto", _) = entry.value.content { return .auto }
            if case .scalar(let text, _) = entry.value.content, decimal(text) == nil {
                error(entry.mark, "`workers` must be `auto`, a count, or a list of CPUs like `[2, 3]`, not \(quoted(text))")
                return nil
            }
            return integer(entry, in: 1...Self.maxWorkers).map { .count($0) }
        }
        guard !values.isEmpty, values.count <= Self.maxWorkers else {
            error(entry.mark, "`workers` must list 1 to \(Self.maxWorkers) CPUs")
            return nil
        }
        var cpus: [Int] = []
        for value in values {
            guard let text = text(value, in: "workers") else { continue }
            guard let cpu = decimal(text).flatMap({ Int(exactly: $0) }), cpu <= Self.maxCPU else {
                error(value.mark, "\(quoted(text)) in `workers` is not the number of a CPU")
                continue
            }
            guard !cpus.contains(cpu) else {
                error(value.mark, "CPU \(cpu) is given twice in `workers`; each worker needs one of its own")
                continue
            }
            cpus.append(cpu)
        }
        return .cpus(cpus)
    }
}
