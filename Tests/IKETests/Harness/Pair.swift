import Crypto
import IKE
import IPsec
import Testing
import Wire

/// Two gateways, east 192.0.2.1 and west 192.0.2.2, with a connection named `c` between them.
final class Pair {
    let network: Network
    let east: Node
    let west: Node

    struct Side {
        var identity: Identity
        var remoteIdentity: Identity?
        var secret = "a pre-shared key of some length"
        var ike = ["aes256gcm16-prfsha384-x25519"]
        var esp = ["aes256gcm16-esn-noesn"]
        var children: [(name: String, local: [String], remote: [String])]
        var start = StartAction.immediately
        var nat = NATTraversal.auto
        var dpd: Duration = .seconds(10)
        var lifetime: Duration = .seconds(3600)
        var ikeLifetime: Duration = .seconds(4 * 3600)
        var remoteAddress: IPAddress?
        /// Whatever else a test wants of the plan.
        var change: ((inout ConnectionPlan) -> Void)?
        var paths = PathPlan()
        /// Identifier, secret, and whether it is required.
        var ppk: (id: String, secret: String, isRequired: Bool)?
    }

    var eastSide = Side(
        identity: .fqdn("east.example"), remoteIdentity: .fqdn("west.example"),
        children: [("net", ["10.1.0.0/24"], ["10.2.0.0/24"])], remoteAddress: IPAddress("192.0.2.2"))
    var westSide = Side(
        identity: .fqdn("west.example"), remoteIdentity: .fqdn("east.example"),
        children: [("net", ["10.2.0.0/24"], ["10.1.0.0/24"])], start: .manual, remoteAddress: IPAddress("192.0.2.1"))

    init(
        seed: UInt64 = 1, settings: CoreSettings = CoreSettings(), eastAddress: String = "192.0.2.1",
        westAddress: String = "192.0.2.2"
    ) {
        network = Network(seed: seed)
        east = Node("east", eastAddress, seed: seed &* 2 &+ 1, settings: settings)
        west = Node("west", westAddress, seed: seed &* 2 &+ 2, settings: settings)
        network.nodes = [east, west]
    }

    static func plan(_ side: Side, local: IPAddress) throws -> ConnectionPlan {
        var plan = ConnectionPlan(
            name: "c", localAddress: local, remoteAddress: side.remoteAddress, localIdentity: side.identity,
            remoteIdentity: side.remoteIdentity, presharedKey: OpenSSLCrypto().secret(Array(side.secret.utf8)),
            proposals: try side.ike.map { try IKEProposal(keywords: $0) }, lifetime: side.ikeLifetime, dpdInterval: side.dpd,
            natTraversal: side.nat,
            children: try side.children.map { child in
                ChildPlan(
                    name: child.name, localSelectors: child.local.map { TrafficSelector(IPPrefix($0)!) },
                    remoteSelectors: child.remote.map { TrafficSelector(IPPrefix($0)!) },
                    proposals: try side.esp.map { try ESPProposal(keywords: $0) }, lifetime: side.lifetime, start: side.start)
            })
        plan.paths = side.paths
        plan.postquantumKey = side.ppk.map {
            PostquantumKey(
                identifier: Array($0.id.utf8), secret: OpenSSLCrypto().secret(Array($0.secret.utf8)), isRequired: $0.isRequired)
        }
        side.change?(&plan)
        return plan
    }

    func configureEast() throws { east.core.addConnection(try Self.plan(eastSide, local: east.address), now: network.now) }
    func configureWest() throws { west.core.addConnection(try Self.plan(westSide, local: west.address), now: network.now) }

    /// West waits, east begins.
    func start() throws {
        try configureWest()
        try configureEast()
    }

    @discardableResult
    func establish(within duration: Duration = .seconds(30)) throws -> Bool {
        try start()
        return network.run(for: duration) { self.isUp }
    }

    var now: Instant { network.now }
    var isUp: Bool { isUp(east) && isUp(west) }
    func isUp(_ node: Node) -> Bool {
        guard let status = node.status(now: now) else { return false }
        return status.state == .established && status.children.allSatisfy { $0.state == .installed }
    }
    func run(_ seconds: Double) { network.run(for: .milliseconds(Int64(seconds * 1000))) }

    /// Every child that is in place on one end is in place on the other, with the same keys in opposite directions.
    var mismatch: String? {
        for (here, there) in [(east, west), (west, east)] {
            if !here.faults.isEmpty { return "\(here.name): \(here.faults)" }
            for child in here.installed {
                guard let other = there.installed.first(where: { $0.inboundSPI == child.outboundSPI }) else {
                    return "\(here.name) has a child that \(there.name) has not"
                }
                guard other.outboundSPI == child.inboundSPI, other.inboundKey.octets == child.outboundKey.octets,
                    other.outboundKey.octets == child.inboundKey.octets
                else { return "the keys of a child differ" }
                guard child.inboundKey.octets != child.outboundKey.octets else {
                    return "both directions of a child have one key"
                }
                guard other.transform == child.transform, other.localSelectors == child.remoteSelectors,
                    other.remoteSelectors == child.localSelectors
                else { return "transform or selectors of a child differ" }
            }
        }
        return east.installed.isEmpty ? "no child is in place" : nil
    }
}
