import IPsec
import Wire

/// What all workers read: policies, routes, neighbours, local addresses. Made by the control thread, never changed where a worker
/// can see it: a change makes new pieces and a new view, and the old pieces are freed when every worker has acknowledged that.
struct TablesView {
    struct Rule {
        var sourceFirst: UInt32
        var sourceLast: UInt32
        var destinationFirst: UInt32
        var destinationLast: UInt32
        var sourcePortFirst: UInt16
        var sourcePortLast: UInt16
        var destinationPortFirst: UInt16
        var destinationPortLast: UInt16
        var protocolNumber: UInt8
        var anyPort: Bool
        var verdict: FlowVerdict
        var childIndex: UInt16
    }

    struct Route {
        /// Zero: on link, the destination is its own next hop. With `viaIPv6` a place in `gateways`.
        var gateway: UInt32
        var portIndex: UInt8
        var viaIPv6 = false
        var clear = ForwardingPlan.Clear.allowed
        /// Bits of the prefix.
        var length: UInt8 = 32
    }

    /// Addresses are IPv6 here, IPv4 ones mapped (RFC 4291 §2.5.5.2): next hops of either family lie in one table.
    struct Neighbour {
        var high: UInt64
        var low: UInt64
        var portIndex: UInt8
        var mac: MACAddress
    }

    struct Port {
        var mac: MACAddress
        var attached: Bool
        var mtuBytes: UInt16
        /// Source of ICMP errors; zero when the port has no address.
        var address: UInt32
    }

    /// An SA's far end on an IPv6 underlay, with the way there. The only IPv6 destinations that workers send to, so that control
    /// looks routes up and workers need no table of them.
    struct Peer {
        var high: UInt64
        var low: UInt64
        var nextHopHigh: UInt64
        var nextHopLow: UInt64
        var portIndex: UInt8
    }

    /// IPv6 next hops of IPv4 routes. RFC 8950.
    struct Gateway {
        var high: UInt64
        var low: UInt64
    }

    /// A route that leaves by a port we do not own.
    static let kernelPort: UInt8 = 0xFF
    static let portLimit = GatewayLimits.interfaces

    /// Never zero, and never reused while a worker could hold an older cache entry.
    var generation: UInt32
    /// The same for what policy said of a flow, which outlives changes of routes and neighbours.
    var rulesGeneration: UInt32
    var rules: UnsafeMutablePointer<Rule>
    var ruleCount: Int
    /// Whether any rule looks at ports or protocol; otherwise the flow cache keys on addresses alone.
    var rulesUsePorts: Bool
    var routes: RouteTrieView
    var gateways: UnsafeMutablePointer<Gateway>
    var neighbours: SharedMapView
    var localAddresses: UnsafeMutablePointer<UInt32>
    var localCount: Int
    var ports: UnsafeMutablePointer<Port>
    var peers: SharedMapView
}

typealias MACAddress = (UInt8, UInt8, UInt8, UInt8, UInt8, UInt8)

/// What policy says about a flow.
enum FlowVerdict: UInt8 {
    case unknown, protect, bypass, discard, noPolicy
}

extension TablesView {
    /// First match wins. RFC 4301 §4.4.1. `ports` is nil for fragments without them: those match rules for any port, and of the
    /// others what discards. They may be a part of what a discard is for, and nothing puts them together here.
    @inline(never)
    func policy(source: UInt32, destination: UInt32, protocolNumber: UInt8, ports: (source: UInt16, destination: UInt16)?)
        -> (verdict: FlowVerdict, childIndex: UInt16)
    {
        for index in 0..<ruleCount {
            let rule = rules[index]
            guard source >= rule.sourceFirst, source <= rule.sourceLast, destination >= rule.destinationFirst,
                destination <= rule.destinationLast
            else { continue }
            guard rule.protocolNumber == 0 || rule.protocolNumber == protocolNumber else { continue }
            if !rule.anyPort {
                guard let ports else {
                    if rule.verdict == .discard { return (.discard, rule.childIndex) }
                    continue
                }
                guard ports.source >= rule.sourcePortFirst, ports.source <= rule.sourcePortLast,
                    ports.destination >= rule.destinationPortFirst, ports.destination <= rule.destinationPortLast
                else { continue }
            }
            return (rule.verdict, rule.childIndex)
        }
        return (.noPolicy, 0)
    }

    /// The longest prefix that covers the destination. Cached per destination by the worker.
    @inline(never)
    func route(to destination: UInt32) -> Route? { routes.route(to: destination) }

    func neighbour(_ address: UInt32, portIndex: UInt8) -> Neighbour? {
        neighbour(high: 0, low: WorkerAnswer.mapped(address), portIndex: portIndex)
    }

    func neighbour(high: UInt64, low: UInt64, portIndex: UInt8) -> Neighbour? {
        guard let bucket = neighbours.bucket(Self.hash(high, low)) else { return nil }
        let entries = (bucket + SharedMapView.bucketHeaderBytes).assumingMemoryBound(to: Neighbour.self)
        for index in 0..<SharedMapView.count(bucket)
        where entries[index].low == low && entries[index].high == high && entries[index].portIndex == portIndex {
            return entries[index]
        }
        return nil
    }

    /// By the peer's address in host order.
    func peer(high: UInt64, low: UInt64) -> Peer? {
        guard let bucket = peers.bucket(Self.hash(high, low)) else { return nil }
        let entries = (bucket + SharedMapView.bucketHeaderBytes).assumingMemoryBound(to: Peer.self)
        for index in 0..<SharedMapView.count(bucket) where entries[index].low == low && entries[index].high == high {
            return entries[index]
        }
        return nil
    }

    static func hash(_ high: UInt64, _ low: UInt64) -> UInt32 {
        UInt32(truncatingIfNeeded: ((high &* 0x85EB_CA77 ^ low) &* 0x9E37_79B9_7F4A_7C15) >> 32)
    }

    func isLocal(_ address: UInt32) -> Bool {
        for index in 0..<localCount where localAddresses[index] == address { return true }
        return false
    }
}

/// Policies, routes and neighbours as the control thread knows them.
public struct ForwardingPlan: Sendable, Equatable {
    public enum Action: Sendable, Hashable { case protect(childIndex: Int), bypass, discard }
    /// First match wins.
    public struct Rule: Sendable, Hashable {
        public var source: TrafficSelector
        public var destination: TrafficSelector
        public var action: Action
        public init(source: TrafficSelector, destination: TrafficSelector, action: Action) {
            (self.source, self.destination, self.action) = (source, destination, action)
        }
    }
    /// What a packet that is not ESP may do by a route. Policy is judged at the exit as well as at the entrance, or a default
    /// route that takes over when the protected network's goes would carry decrypted packets out in the clear.
    public enum Clear: UInt8, Sendable, Hashable {
        /// It leaves by the route's port.
        case allowed
        /// The port is the underlay's: it goes to the kernel, with its NAT and its packet filter.
        case byKernel
        /// It is dropped (`clear-outbound`).
        case refused
    }
    /// `portIndex` nil: by an interface that is not ours; the kernel forwards it.
    public struct Route: Sendable, Hashable {
        public var prefix: IPPrefix
        /// Of either family.
        public var gateway: IPAddress?
        public var portIndex: Int?
        public var clear: Clear
        public init(prefix: IPPrefix, gateway: IPAddress?, portIndex: Int?, clear: Clear = .allowed) {
            (self.prefix, self.gateway, self.portIndex, self.clear) = (prefix, gateway, portIndex, clear)
        }
    }
    public struct Neighbour: Sendable, Hashable {
        public struct Key: Sendable, Hashable {
            public var address: IPAddress
            public var portIndex: Int
            public init(address: IPAddress, portIndex: Int) { (self.address, self.portIndex) = (address, portIndex) }
        }
        public var address: IPAddress
        public var portIndex: Int
        /// Six octets.
        public var mac: [UInt8]
        public var key: Key { Key(address: address, portIndex: portIndex) }
        public init(address: IPAddress, portIndex: Int, mac: [UInt8]) {
            (self.address, self.portIndex, self.mac) = (address, portIndex, mac)
        }
    }
    /// A peer on an IPv6 underlay and the way to it.
    public struct Peer: Sendable, Hashable {
        public var address: IPv6Address
        /// The peer itself when it is on link.
        public var nextHop: IPv6Address
        /// nil: no route, or one by an interface that is not ours.
        public var portIndex: Int?
        public init(address: IPv6Address, nextHop: IPv6Address, portIndex: Int?) {
            (self.address, self.nextHop, self.portIndex) = (address, nextHop, portIndex)
        }
    }
    /// The source address of ICMP errors sent out of a port.
    public struct PortAddress: Sendable, Hashable {
        public var portIndex: Int
        public var address: IPv4Address
        public init(portIndex: Int, address: IPv4Address) { (self.portIndex, self.address) = (portIndex, address) }
    }
    public var rules: [Rule]
    public var routes: [Route]
    public var neighbours: [Neighbour]
    public var localAddresses: [IPv4Address]
    public var portAddresses: [PortAddress]
    /// Each address once.
    public var peers: [Peer]
    public init(
        rules: [Rule] = [], routes: [Route] = [], neighbours: [Neighbour] = [], localAddresses: [IPv4Address] = [],
        portAddresses: [PortAddress] = [], peers: [Peer] = []
    ) {
        (self.rules, self.routes, self.neighbours) = (rules, routes, neighbours)
        (self.localAddresses, self.portAddresses, self.peers) = (localAddresses, portAddresses, peers)
    }
}

/// What of a plan is another than before: the price of publishing it is that of the change, whatever else the plan holds.
public struct ForwardingUpdate: Sendable, Equatable {
    /// nil: as before, here and in the next two.
    public var rules: [ForwardingPlan.Rule]?
    public var localAddresses: [IPv4Address]?
    public var portAddresses: [ForwardingPlan.PortAddress]?
    /// A value that is nil: no such entry any more, here and below.
    public var routes: [IPPrefix: ForwardingPlan.Route?] = [:]
    public var neighbours: [ForwardingPlan.Neighbour.Key: [UInt8]?] = [:]
    public var peers: [IPv6Address: ForwardingPlan.Peer?] = [:]

    public init() {}

    /// All of a plan, where there was none.
    public init(_ plan: ForwardingPlan) {
        (rules, localAddresses, portAddresses) = (plan.rules, plan.localAddresses, plan.portAddresses)
        for route in plan.routes { routes[route.prefix] = .some(route) }
        for neighbour in plan.neighbours { neighbours[neighbour.key] = .some(neighbour.mac) }
        for peer in plan.peers { peers[peer.address] = .some(peer) }
    }

    public var isEmpty: Bool { self == ForwardingUpdate() }
}
