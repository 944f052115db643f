@testable import Configuration
@testable import Dataplane
@testable import Gateway
import IKE
import IPsec
import Platform
import Synchronization
import Wire

func prefix(_ text: String) -> IPPrefix { IPPrefix(text)! }
func v4(_ text: String) -> IPv4Address { IPv4Address(text)! }
func v6(_ text: String) -> IPv6Address { IPv6Address(text)! }
func ip(_ text: String) -> IPAddress { IPAddress(text)! }
func selector(_ text: String, ipProtocol: UInt8 = 0, ports: ClosedRange<UInt16> = 0...65535) -> TrafficSelector {
    TrafficSelector(prefix(text), ipProtocol: ipProtocol, ports: ports)
}
func at(_ seconds: Double) -> Instant { Instant(nanoseconds: UInt64(1_000_000_000_000 + seconds * 1_000_000_000)) }

/// The gateway of the laboratory: wan0 192.0.2.1/24 (index 2), lan0 10.1.0.1/24 (index 3), culvert0 (index 9).
func eastView() -> KernelView {
    var view = KernelView()
    view.links = [
        2: .init(index: 2, name: "wan0", isUp: true, isRunning: true, mtu: 1500, mac: [2, 0, 0, 0, 0, 1]),
        3: .init(index: 3, name: "lan0", isUp: true, isRunning: true, mtu: 1500, mac: [2, 0, 0, 0, 0, 2]),
        9: .init(index: 9, name: "culvert0", isUp: true, isRunning: true, mtu: 1400, mac: []),
    ]
    view.addresses = [
        .init(address: v4("127.0.0.1"), prefixLength: 8, linkIndex: 1),
        .init(address: v4("192.0.2.1"), prefixLength: 24, linkIndex: 2),
        .init(address: v4("10.1.0.1"), prefixLength: 24, linkIndex: 3),
    ]
    view.routes = [
        .init(prefix: prefix("0.0.0.0/0"), gateway: ip("192.0.2.2"), linkIndex: 2, metric: 0),
        .init(prefix: prefix("192.0.2.0/24"), gateway: nil, linkIndex: 2, metric: 0),
        .init(prefix: prefix("10.1.0.0/24"), gateway: nil, linkIndex: 3, metric: 0),
    ]
    return view
}

let eastPorts = [
    AttachedInterface(portIndex: 0, linkIndex: 2, name: "wan0", role: .underlay),
    AttachedInterface(portIndex: 1, linkIndex: 3, name: "lan0", role: .protected),
]

func policy(_ pairs: [(local: [String], remote: [String])], _ policies: [SecurityPolicy] = []) -> PolicySet {
    PolicySet(
        policies: policies,
        protections: pairs.enumerated().map { index, pair in
            .init(childIndex: index, local: pair.local.map(prefix), remote: pair.remote.map(prefix))
        })
}

func child(
    _ name: String = "net", local: [String] = ["10.1.0.0/24"], remote: [String] = ["10.2.0.0/24"],
    start: StartAction = .immediately
)
    -> Child
{
    Child(
        name: name, mode: .tunnel, localSubnets: local.map(prefix), remoteSubnets: remote.map(prefix),
        espProposals: [ESPProposal(keyBits: [256])], lifetime: .seconds(3600), lifetimeBytes: 0, lifetimePackets: 0,
        replayWindowPackets: 4096, start: start)
}

func connection(
    _ name: String = "west", local: String = "192.0.2.1", remote: String? = "192.0.2.2", children: [Child] = [child()]
) -> Connection {
    Connection(
        name: name, localAddress: IPAddress(local)!, remoteAddress: remote.flatMap { IPAddress($0) },
        localIdentity: .fqdn("east.example"),
        remoteIdentity: .fqdn("west.example"), presharedKey: Array("a secret of more than twenty octets".utf8),
        ikeProposals: [IKEProposal(ciphers: [.aesGCM16(keyBits: 256)], prfs: [.hmacSHA384], methods: [.ecp384])],
        ikeLifetime: .seconds(8 * 3600), dpdInterval: .seconds(10), natTraversal: .auto, children: children)
}

func gatewayConfiguration(_ connections: [Connection] = [connection()]) -> GatewayConfiguration {
    GatewayConfiguration(
        name: "east", controlSocket: "/run/culvert/east.sock", metricsListen: nil, log: .init(),
        interfaces: [.init(name: "wan0", role: .underlay), .init(name: "lan0", role: .protected)], dataplane: .init(),
        connections: connections, policies: [])
}

/// A secret in ordinary memory: for tests only.
final class PlainSecret: SecretMemory {
    let bytes: [UInt8]
    init(_ bytes: [UInt8]) { self.bytes = bytes }
    var count: Int { bytes.count }
    func withBytes<R>(_ body: (RawSpan) throws -> R) rethrows -> R { try bytes.withUnsafeBytes { try body($0.bytes) } }
}

func childSA(
    _ inbound: UInt32, _ outbound: UInt32, connection: String = "west", child: String = "net", remote: String = "192.0.2.2"
) -> ChildSA {
    ChildSA(
        connection: connection, child: child, inboundSPI: inbound, outboundSPI: outbound,
        transform: ESPTransform(keyBits: 256, extendedSequenceNumbers: true),
        inboundKey: PlainSecret(Array(repeating: 1, count: 36)),
        outboundKey: PlainSecret(Array(repeating: 2, count: 36)), localSelectors: [selector("10.1.0.0/24")],
        remoteSelectors: [selector("10.2.0.0/24")], path: TunnelPath(local: IPAddress("192.0.2.1")!, remote: IPAddress(remote)!),
        replayWindowPackets: 4096)
}

/// Remembers what it was told and lets a test play the workers.
final class FakeDataplane: DataplaneControlling {
    enum Call: Equatable {
        case attach(String), update(Int, mtu: Int), detach(Int), start, stop, install(UInt32, childIndex: Int, token: UInt64)
        case switchOutbound(childIndex: Int, UInt32), clearOutbound(Int), retire(UInt32), move(UInt32), pathMTU(IPAddress, Int)
    }
    var calls: [Call] = []
    var events: [DataplaneEvent] = []
    var byInboundSPI: [UInt32: SACounters] = [:]
    var published: [ForwardingPlan] = []
    var steered: [SteeringPlan] = []
    var ikeSAs: Set<UInt64> = []
    var injected: [[UInt8]] = []
    var refuses: String?
    /// Plays workers that acknowledge everything: called when there are events.
    var ring: (() -> Void)?
    let eventFileDescriptor: Int32 = -1

    func takeCalls() -> [Call] {
        defer { calls = [] }
        return calls
    }

    private var ports: [String] = []
    var xdpMode = "native"
    func attach(_ port: PortDescription) throws(DataplaneError) -> AttachedPort {
        if let refuses { throw DataplaneError(refuses) }
        calls.append(.attach(port.name))
        if !ports.contains(port.name) { ports.append(port.name) }
        return AttachedPort(index: ports.firstIndex(of: port.name) ?? 0, xdpMode: xdpMode)
    }
    func update(portIndex: Int, _ port: PortDescription) throws(DataplaneError) {
        if let refuses { throw DataplaneError(refuses) }
        calls.append(.update(portIndex, mtu: port.mtu))
    }
    func detach(portIndex: Int) { calls.append(.detach(portIndex)) }
    /// Ports that somebody takes the XDP program off, and what attaching it again says.
    var withoutProgram: Set<Int> = []
    func keepProgram(portIndex: Int) throws(DataplaneError) -> Bool {
        if let refuses { throw DataplaneError(refuses) }
        return withoutProgram.remove(portIndex) != nil
    }
    func start() throws(DataplaneError) { calls.append(.start) }
    func stop() { calls.append(.stop) }
    func install(_ sa: ChildSA, childIndex: Int, token: UInt64) throws(DataplaneError) {
        if let refuses { throw DataplaneError(refuses) }
        calls.append(.install(sa.inboundSPI, childIndex: childIndex, token: token))
        byInboundSPI[sa.inboundSPI] = carried(0, 0)
        answer(.inboundReady(token: token))
    }
    func switchOutbound(childIndex: Int, inboundSPI: UInt32) { calls.append(.switchOutbound(childIndex: childIndex, inboundSPI)) }
    func clearOutbound(childIndex: Int) { calls.append(.clearOutbound(childIndex)) }
    var holding: [Int: Bool] = [:]
    func setHolding(childIndex: Int, _ holds: Bool) { holding[childIndex] = holds }
    func retire(inboundSPI: UInt32) {
        calls.append(.retire(inboundSPI))
        answer(.retired(inboundSPI: inboundSPI, final: byInboundSPI[inboundSPI] ?? carried(0, 0)))
    }
    private func answer(_ event: DataplaneEvent) {
        guard let ring else { return }
        events.append(event)
        ring()
    }
    func movePath(inboundSPI: UInt32, path: TunnelPath) { calls.append(.move(inboundSPI)) }
    func setPathMTU(remote: IPAddress, mtu: Int) { calls.append(.pathMTU(remote, mtu)) }
    /// What each publication told, and what the workers have after it.
    var updates: [ForwardingUpdate] = []
    private var present = ForwardingPlan()
    func publish(_ update: ForwardingUpdate) {
        updates.append(update)
        present.apply(update)
        published.append(present)
    }
    func steer(_ plan: SteeringPlan) throws(DataplaneError) { steered.append(plan) }
    func setIKESA(spi: UInt64, isLive: Bool) { if isLive { ikeSAs.insert(spi) } else { ikeSAs.remove(spi) } }
    func drainEvents(_ body: (DataplaneEvent) -> Void) {
        let waiting = events
        events = []
        waiting.forEach(body)
    }
    func inject(inner packet: [UInt8]) { injected.append(packet) }
    func inject(espPacket packet: [UInt8]) { injected.append(packet) }
    func inject(esp: [UInt8], from: IPv6Address) { injected.append(esp) }
    func inject(udpEncapsulated payload: [UInt8], from: IPAddress, port: UInt16, to: IPAddress, localPort: UInt16) {
        injected.append(payload)
    }
    func counters() -> DataplaneCounters { DataplaneCounters(workers: [], drops: [.noPolicy: 3], hugePages: false) }
    func counters(inboundSPI: UInt32) -> SACounters? { byInboundSPI[inboundSPI] }
}

extension ForwardingPlan {
    mutating func apply(_ update: ForwardingUpdate) {
        if let rules = update.rules { self.rules = rules }
        if let addresses = update.localAddresses { localAddresses = addresses }
        if let addresses = update.portAddresses { portAddresses = addresses }
        routes.removeAll { update.routes.keys.contains($0.prefix) }
        routes += update.routes.values.compactMap(\.self)
        neighbours.removeAll { update.neighbours.keys.contains($0.key) }
        for (key, mac) in update.neighbours {
            if let mac { neighbours.append(.init(address: key.address, portIndex: key.portIndex, mac: mac)) }
        }
        peers.removeAll { update.peers.keys.contains($0.address) }
        peers += update.peers.values.compactMap(\.self)
    }
}

func carried(_ packetsIn: UInt64, _ packetsOut: UInt64, drops: [DropReason: UInt64] = [:]) -> SACounters {
    var result = SACounters()
    (result.packetsIn, result.bytesIn, result.packetsOut, result.bytesOut) = (
        packetsIn, packetsIn * 100, packetsOut, packetsOut * 100
    )
    result.drops = drops
    return result
}

/// A kernel that agrees with everything.
final class FakeKernel: KernelControlling {
    var virtualAddresses: [IPv4Address] = []
    func setVirtualAddresses(_ addresses: [IPv4Address]) -> [String] {
        virtualAddresses = addresses
        return []
    }
    var view = eastView()
    var tunLinkIndex: Int? = 9
    let monitorDescriptor: Int32 = -1
    let tunDescriptor: Int32 = -1
    var routing: [RoutingPlan] = []
    var filters: [FilterRules] = []
    var foreignRules: [NetlinkRule] = []
    var tables: [UInt32: [IPPrefix]] = [:]
    var forwardsIPv6 = false
    func policyRules() -> [NetlinkRule] { foreignRules }
    func prefixes(ofTable table: UInt32) -> [IPPrefix]? { tables[table] ?? [] }
    func keepTunnelDevice() -> String? { nil }
    var resolved: [IPAddress] = []
    var toTunnel: [[UInt8]] = []
    var fromTunnel: [[UInt8]] = []
    var isReleased = false

    var mustReadAgain = false
    /// What the next asker is told; all of it unless a test says more.
    var changes = KernelChanges.everything
    func takeViewChanges() -> KernelChanges {
        defer { changes = .everything }
        return changes
    }
    var unsupported: [String] = []
    var changesTaken = 0
    func takeChanges() -> Bool {
        changesTaken += 1
        return true
    }
    /// Interfaces with an XDP program of ours.
    var withProgram: Set<String> = []
    func detachLeftovers(except configured: Set<String>) -> [String] {
        defer { withProgram.formIntersection(configured) }
        return withProgram.subtracting(configured).sorted()
    }
    func apply(_ plan: RoutingPlan) -> [String] {
        routing.append(plan)
        return []
    }
    func apply(_ rules: FilterRules) -> String? {
        filters.append(rules)
        return nil
    }
    var forgotten: [IPAddress] = []
    var kept: [IPAddress] = []
    func resolve(_ key: NeighbourKey, keep: Bool) { if keep { kept.append(key.address) } else { resolved.append(key.address) } }
    func forget(_ key: NeighbourKey) { forgotten.append(key.address) }
    func readTunnelPacket() -> [UInt8]? { fromTunnel.isEmpty ? nil : fromTunnel.removeFirst() }
    func writeTunnelPacket(_ packet: [UInt8]) -> Bool {
        toTunnel.append(packet)
        return !tunnelRefuses
    }
    func queueCount(_ name: String) -> Int { 1 }
    func leavesChecksums(_ name: String) -> Bool { false }
    var tunnelRefuses = false
    func isFilterInPlace() -> Bool { true }
    func filteredPackets() -> KernelFilter.Drops { .init(inbound: 5, outbound: 7) }
    func forgetLostNeighbours(now: Instant) {}
    func letGoOfNeighbours() {}
    func release() { isReleased = true }
}
