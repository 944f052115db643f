import IKE
import Platform
import Wire

/// The real kernel: netlink, the TUN device and the packet filter. Confined to the event loop.
final class LinuxKernel: KernelControlling {
    static let tunName = "culvert0"
    /// Room for ESP in UDP inside 1500 octets: what the gateway itself sends fits at once. The workers tell others.
    static let tunMTU = 1400
    /// How long a neighbour that does not answer is asked for: as long as somebody may still wait for it.
    static let lostPatience: Duration = .seconds(60)
    /// `NetlinkMonitor.read` calls before others have their turn.
    static let readsPerTurn = 16

    private(set) var tunLinkIndex: Int?
    let tunDescriptor: Int32
    let monitorDescriptor: Int32

    private let netlink: Netlink
    private let monitor: NetlinkMonitor
    private let filter: KernelFilter
    /// nil after `release`.
    private var tun: TUNDevice?
    private var follower = KernelFollower()
    /// Routes and rules of ours must be read and compared again: something may have removed some.
    private var ownStateIsSuspect = true
    private var applied: RoutingPlan?
    private var virtualAddresses: [IPv4Address] = []
    private static let largeTable = 1_000
    private var largeTables: Set<UInt32> = []
    /// Neighbours that the kernel keeps for us.
    private var kept: Set<NeighbourKey> = []
    private var lostSince: [NeighbourKey: Instant] = [:]

    /// Opens everything and reads the kernel's state. The TUN device that an earlier run left is adopted.
    init() throws(GatewayStartError) {
        do throws(SystemError) {
            // The monitor first, so that no change falls between it and the first reading.
            monitor = try NetlinkMonitor()
            netlink = try Netlink()
            filter = try KernelFilter()
            let device = try TUNDevice(name: Self.tunName)
            try netlink.setLink(index: device.linkIndex, up: true, mtu: Self.tunMTU)
            tunLinkIndex = device.linkIndex
            tunDescriptor = device.descriptor.number
            monitorDescriptor = monitor.descriptor
            tun = consume device
            _ = try follower.catchUp(netlink)
        } catch {
            throw Self.startError(error)
        }
    }

    private static func startError(_ error: SystemError) -> GatewayStartError {
        GatewayStartError(exitCode: error.isPermission ? 77 : 1, sentence: "The gateway cannot start: \(error).")
    }

    /// Before anything secret is in memory: capabilities are there, core dumps are off.
    static func prepareProcess() throws(GatewayStartError) {
        if let sentence = Capability.problem() { throw GatewayStartError(exitCode: 77, sentence: sentence) }
        do throws(SystemError) { try ProcessHardening.disableCoreDumps() } catch { throw startError(error) }
        ProcessHardening.raiseMemoryLockLimit()
        // Key schedules of libcrypto and the configuration's text lie in the ordinary heap: not into swap with them. Where it is
        // not allowed the secret arenas are still locked one by one.
        try? ProcessHardening.lockAllMemory()
    }

    static func allowedCPUs() -> [Int] { Numa.allowedCPUs() }

    // MARK: Following

    var view: KernelView { follower.view }

    var mustReadAgain: Bool { follower.mustRead }

    func takeViewChanges() -> KernelChanges { follower.takeChanges() }

    var unsupported: [String] { follower.unsupported }

    func takeChanges() -> Bool {
        do throws(SystemError) {
            // What a storm leaves is told once more: others have their turn before.
            for _ in 0..<Self.readsPerTurn {
                let events = try monitor.read()
                if events.isEmpty { break }
                follower.take(events)
            }
        } catch {
            // Whatever the events were that cannot be read.
            follower.lose()
        }
        if follower.mustRead { ownStateIsSuspect = true }
        // What could not be read now is read with the next change, or when the control thread asks again; until then what was
        // known before is the best there is.
        do throws(SystemError) { return try follower.catchUp(netlink) } catch { return true }
    }

    func queueCount(_ name: String) -> Int {
        max(1, Ethtool.queues(of: name)?.receive ?? follower.receiveQueues[name] ?? 1)
    }

    /// A device without hardware behind it (veth, tap, bridge), and virtio: a sender on this machine may leave the checksum of
    /// TCP and UDP to a device, and here there is none.
    func leavesChecksums(_ name: String) -> Bool { SystemFiles.isVirtualInterface(name) }

    // MARK: Routes and rules

    func keepTunnelDevice() -> String? {
        guard let known = tunLinkIndex, tun != nil else { return nil }
        let link = follower.view.links[known]
        if link?.isUp == true { return nil }
        do throws(SystemError) {
            if link == nil {
                // What was read last may be older than the device.
                if try netlink.links().contains(where: { $0.index == known }) { return nil }
                try tun?.makeAgain()
                tunLinkIndex = tun?.linkIndex
            }
            // Its routes went with it, or with its being up.
            ownStateIsSuspect = true
            try netlink.setLink(index: tunLinkIndex ?? known, up: true, mtu: Self.tunMTU)
            let problems = setVirtualAddresses(virtualAddresses)
            guard problems.isEmpty else { return problems.joined(separator: " ") }
        } catch {
            return "The device \(Self.tunName) was deleted or set down by somebody and cannot be had again: \(error)."
        }
        return link == nil
            ? "The device \(Self.tunName) was deleted by somebody; it is made again."
            : "The device \(Self.tunName) was set down by somebody; it is up again."
    }

    func apply(_ plan: RoutingPlan) -> [String] {
        if plan == applied, !ownStateIsSuspect { return [] }
        var problems: [String] = []
        do throws(SystemError) {
            let routes = plan.routes.map(netlinkRoute) + plan.ipv6Blackholes.map(Self.ipv6Blackhole)
            let rules = plan.rules.map(Self.netlinkRule)
            let present = (
                routes: try ownRoutes(),
                rules: try netlink.rules().filter { RoutingPlan.priorities.contains($0.priority) }
            )
            let wanted = Dictionary(routes.map { (Place($0), $0) }, uniquingKeysWith: { first, _ in first })
            let there = Dictionary(present.routes.map { (Place($0), $0) }, uniquingKeysWith: { first, _ in first })
            // What is missing first: between the two steps more is protected than needed, never less.
            for route in routes where !(there[Place(route)].map { Self.isSame($0, route) } ?? false) {
                do throws(SystemError) { try netlink.replaceRoute(route) } catch { problems.append("\(error)") }
            }
            let presentRules = Set(present.rules)
            for rule in rules where !presentRules.contains(rule) {
                do throws(SystemError) { try netlink.addRule(rule) } catch { problems.append("\(error)") }
            }
            let wantedRules = Set(rules)
            for rule in present.rules where !wantedRules.contains(rule) { try netlink.deleteRule(rule) }
            for route in present.routes where wanted[Place(route)] == nil { try netlink.deleteRoute(route) }
        } catch {
            problems.append("\(error)")
        }
        applied = plan
        ownStateIsSuspect = !problems.isEmpty
        return problems
    }

    func policyRules() -> [NetlinkRule] { (try? netlink.rules()) ?? [] }

    func prefixes(ofTable table: UInt32) -> [IPPrefix]? {
        // Somebody's whole Internet table is not read every few seconds: it leads everywhere.
        if largeTables.contains(table) { return nil }
        guard let routes = try? netlink.routes(table: table) else { return nil }
        if routes.count > Self.largeTable { largeTables.insert(table) }
        return routes.filter { $0.kind != .throw }.map(\.prefix)
    }

    var forwardsIPv6: Bool { SystemFiles.firstLine("/proc/sys/net/ipv6/conf/all/forwarding") == "1" }

    private static func ipv6Blackhole(_ prefix: IPPrefix) -> NetlinkRoute {
        NetlinkRoute(prefix: prefix, kind: .blackhole, table: NetlinkRoute.mainTable, metric: RoutingPlan.ipv6Metric)
    }

    private func netlinkRoute(_ route: RoutingPlan.Route) -> NetlinkRoute {
        switch route.kind {
        case .tunnel(let source):
            NetlinkRoute(
                prefix: route.prefix, table: route.table, linkIndex: tunLinkIndex, preferredSource: source.map { .v4($0) },
                metric: route.metric)
        case .blackhole:
            NetlinkRoute(prefix: route.prefix, kind: .blackhole, table: route.table, metric: route.metric)
        case .unreachable:
            NetlinkRoute(prefix: route.prefix, kind: .unreachable, table: route.table, metric: route.metric)
        case .throw:
            NetlinkRoute(prefix: route.prefix, kind: .throw, table: route.table, metric: route.metric)
        }
    }

    private func ownRoutes() throws(SystemError) -> [NetlinkRoute] {
        let own = NetlinkRoute.ownProtocol
        var routes = try netlink.routes(.ipv6, madeBy: own)
        for table in RoutingPlan.tables { routes += try netlink.routes(table: table, madeBy: own) }
        return routes.filter { $0.protocolNumber == NetlinkRoute.ownProtocol }
    }

    private static func netlinkRule(_ rule: RoutingPlan.Rule) -> NetlinkRule {
        NetlinkRule(
            priority: rule.priority, table: rule.table ?? NetlinkRoute.mainTable, source: rule.source,
            destination: rule.destination, mark: rule.mark == .any ? nil : RoutingPlan.socketMark,
            isInverted: rule.mark == .unmarked, inputInterface: rule.fromTunnel ? tunName : nil,
            shortestPrefixLength: rule.shortestPrefixLength)
    }

    /// Carrier and the like aside.
    private static func isSame(_ a: NetlinkRoute, _ b: NetlinkRoute) -> Bool {
        a.kind == b.kind && a.gateway == b.gateway && a.preferredSource == b.preferredSource
            && (a.kind != .unicast || a.linkIndex == b.linkIndex)
    }

    /// The kernel keeps one route of ours per prefix, metric and table.
    private struct Place: Hashable {
        var prefix: IPPrefix
        var metric: UInt32
        var table: UInt32

        init(_ route: NetlinkRoute) { (prefix, metric, table) = (route.prefix, route.metric, route.table) }
    }

    // MARK: Filter, neighbours, TUN

    func apply(_ rules: FilterRules) -> String? {
        do throws(SystemError) {
            try filter.install(rules)
            return nil
        } catch {
            return "The packet filter against protected packets in the clear cannot be set: \(error). "
                + "XDP, the workers and the routes hold without it, but not against foreign policy rules."
        }
    }

    /// A kernel that does not answer is not asked to do it all again.
    func isFilterInPlace() -> Bool { (try? filter.isInPlace()) ?? true }

    func filteredPackets() -> KernelFilter.Drops { filter.droppedPackets() }

    func resolve(_ key: NeighbourKey, keep: Bool) {
        if keep { kept.insert(key) }
        // A failure is a next hop that stays unknown: counted by the workers as no-neighbour.
        try? netlink.resolve(key.address, linkIndex: key.linkIndex, keep: keep)
    }

    func forgetLostNeighbours(now: Instant) {
        lostSince = lostSince.filter { follower.lost.contains($0.key) }
        for key in follower.lost {
            let since = lostSince[key] ?? now
            lostSince[key] = since
            if since + Self.lostPatience <= now { forget(key) }
        }
    }

    func letGoOfNeighbours() {
        for key in kept { forget(key) }
    }

    func forget(_ key: NeighbourKey) {
        kept.remove(key)
        lostSince[key] = nil
        try? netlink.deleteNeighbour(key.address, linkIndex: key.linkIndex)
    }

    func setVirtualAddresses(_ addresses: [IPv4Address]) -> [String] {
        virtualAddresses = addresses
        guard let tunLinkIndex else { return [] }
        var problems: [String] = []
        do throws(SystemError) {
            let present = try netlink.addresses().filter { $0.linkIndex == tunLinkIndex && $0.address.isIPv4 }
            let wanted = addresses.map(IPAddress.v4)
            for address in wanted where !present.contains(where: { $0.address == address }) {
                try netlink.addAddress(NetlinkAddress(address: address, prefixLength: 32, linkIndex: tunLinkIndex))
            }
            for old in present where !wanted.contains(old.address) { try netlink.deleteAddress(old) }
        } catch {
            problems.append("The virtual addresses cannot be set on \(Self.tunName): \(error).")
        }
        return problems
    }

    func detachLeftovers(except configured: Set<String>) -> [String] {
        let strange = follower.view.links.values.filter { !configured.contains($0.name) }
        return strange.filter { XDPProgram.detach(interfaceIndex: $0.index) }.map(\.name).sorted()
    }

    func readTunnelPacket() -> [UInt8]? { (try? tun?.read()) ?? nil }

    func writeTunnelPacket(_ packet: [UInt8]) -> Bool { tun?.write(packet) ?? false }

    func release() {
        for rule in (try? netlink.rules()) ?? [] where RoutingPlan.priorities.contains(rule.priority) {
            try? netlink.deleteRule(rule)
        }
        for route in (try? ownRoutes()) ?? [] { try? netlink.deleteRoute(route) }
        try? filter.remove()
        if let device = tun.take() { try? device.remove() }
        applied = nil
    }
}

extension SystemError {
    /// EPERM or EACCES.
    fileprivate var isPermission: Bool { code == 1 || code == 13 }
}
