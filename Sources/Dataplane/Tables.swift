import IPsec
import Wire

/// What all workers read: policies, routes, neighbours, local addresses. Built by the control thread in one go, never changed,
/// freed when every worker has acknowledged a newer one.
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
        var first: UInt32
        /// Zero: on link, the destination is its own next hop.
        var gateway: UInt32
        var portIndex: UInt8
        var clear: ForwardingPlan.Clear
    }

    struct Neighbour {
        /// Zero: empty slot.
        var address: UInt32
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
        /// Both zero: empty slot.
        var high: UInt64
        var low: UInt64
        var nextHopHigh: UInt64
        var nextHopLow: UInt64
        var portIndex: UInt8
        /// `mac` is known.
        var isResolved: Bool
        var mac: MACAddress
    }

    /// A route that leaves by a port we do not own.
    static let kernelPort: UInt8 = 0xFF
    static let portLimit = 32

    /// Never zero, and never reused while a worker could hold an older cache entry.
    var generation: UInt32
    var rules: UnsafeMutablePointer<Rule>
    var ruleCount: Int
    /// Whether any rule looks at ports or protocol; otherwise the flow cache keys on addresses alone.
    var rulesUsePorts: Bool
    var routes: UnsafeMutablePointer<Route>
    /// `routeStart[length]..<routeStart[length + 1]` are the routes of one prefix length, ascending.
    var routeStart: UnsafeMutablePointer<Int>
    var neighbours: UnsafeMutablePointer<Neighbour>
    var neighbourMask: Int
    var localAddresses: UnsafeMutablePointer<UInt32>
    var localCount: Int
    var ports: UnsafeMutablePointer<Port>
    var peers: UnsafeMutablePointer<Peer>
    var peerMask: Int
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

    /// Longest prefix first: a binary search per prefix length that has routes. Cached per destination by the worker.
    @inline(never)
    func route(to destination: UInt32) -> Route? {
        var length = 32
        while length >= 0 {
            var low = routeStart[length]
            let start = low
            var high = routeStart[length &+ 1]
            let wanted = length == 0 ? 0 : destination & (~0 << UInt32(32 &- length))
            while low < high {
                let middle = (low &+ high) / 2
                if routes[middle].first < wanted { low = middle &+ 1 } else { high = middle }
            }
            if low < routeStart[length &+ 1], low >= start, routes[low].first == wanted { return routes[low] }
            length &-= 1
        }
        return nil
    }

    func neighbour(_ address: UInt32, portIndex: UInt8) -> Neighbour? {
        var index = Self.neighbourHash(address) & neighbourMask
        while neighbours[index].address != 0 {
            if neighbours[index].address == address, neighbours[index].portIndex == portIndex { return neighbours[index] }
            index = (index &+ 1) & neighbourMask
        }
        return nil
    }

    /// By the peer's address in host order.
    func peer(high: UInt64, low: UInt64) -> Peer? {
        var index = Self.peerHash(high, low) & peerMask
        while peers[index].high != 0 || peers[index].low != 0 {
            if peers[index].high == high, peers[index].low == low { return peers[index] }
            index = (index &+ 1) & peerMask
        }
        return nil
    }

    static func peerHash(_ high: UInt64, _ low: UInt64) -> Int {
        Int(truncatingIfNeeded: ((high ^ low &* 0x85EB_CA77) &* 0x9E37_79B9_7F4A_7C15) >> 40)
    }

    static func neighbourHash(_ address: UInt32) -> Int { Int((address &* 0x9E37_79B1) >> 8) }

    func isLocal(_ address: UInt32) -> Bool {
        for index in 0..<localCount where localAddresses[index] == address { return true }
        return false
    }
}

/// Owns the memory behind a `TablesView`.
final class Tables {
    let view: TablesView
    private let routeCount: Int

    init(_ plan: ForwardingPlan, ports: [TablesView.Port], generation: UInt32) {
        let rules = plan.rules.compactMap(Self.rule)
        var byLength: [[UInt32: TablesView.Route]] = Array(repeating: [:], count: 33)
        for route in plan.routes {
            guard case .v4(let address) = route.prefix.address else { continue }
            let port = route.portIndex.map { UInt8(clamping: $0) } ?? TablesView.kernelPort
            byLength[route.prefix.length][address.bits] =
                TablesView.Route(first: address.bits, gateway: route.gateway?.bits ?? 0, portIndex: port, clear: route.clear)
        }
        routeCount = byLength.reduce(0) { $0 + $1.count }
        let routes = UnsafeMutablePointer<TablesView.Route>.allocate(capacity: max(1, routeCount))
        let starts = UnsafeMutablePointer<Int>.allocate(capacity: 34)
        var next = 0
        for length in 0...32 {
            starts[length] = next
            for route in byLength[length].values.sorted(by: { $0.first < $1.first }) {
                (routes + next).initialize(to: route)
                next += 1
            }
        }
        starts[33] = next
        var slots = 16
        while slots < plan.neighbours.count * 2 { slots *= 2 }
        let neighbours = UnsafeMutablePointer<TablesView.Neighbour>.allocate(capacity: slots)
        neighbours.initialize(repeating: .init(address: 0, portIndex: 0, mac: (0, 0, 0, 0, 0, 0)), count: slots)
        for neighbour in plan.neighbours where neighbour.mac.count == 6 && neighbour.address.bits != 0 {
            var index = TablesView.neighbourHash(neighbour.address.bits) & (slots - 1)
            while neighbours[index].address != 0 { index = (index + 1) & (slots - 1) }
            let m = neighbour.mac
            neighbours[index] = .init(
                address: neighbour.address.bits, portIndex: UInt8(clamping: neighbour.portIndex),
                mac: (m[0], m[1], m[2], m[3], m[4], m[5]))
        }
        let (peers, peerSlots) = Self.peers(plan.peers)
        let portMemory = UnsafeMutablePointer<TablesView.Port>.allocate(capacity: TablesView.portLimit)
        portMemory.initialize(
            repeating: .init(mac: (0, 0, 0, 0, 0, 0), attached: false, mtuBytes: 0, address: 0), count: TablesView.portLimit)
        for (index, port) in ports.enumerated() where index < TablesView.portLimit { portMemory[index] = port }
        for address in plan.portAddresses where address.portIndex < TablesView.portLimit {
            portMemory[address.portIndex].address = address.address.bits
        }
        view = TablesView(
            generation: generation, rules: Self.copy(rules), ruleCount: rules.count,
            rulesUsePorts: rules.contains { !$0.anyPort || $0.protocolNumber != 0 }, routes: routes, routeStart: starts,
            neighbours: neighbours, neighbourMask: slots - 1, localAddresses: Self.copy(plan.localAddresses.map(\.bits)),
            localCount: plan.localAddresses.count, ports: portMemory, peers: peers, peerMask: peerSlots - 1)
    }

    private static func peers(_ list: [ForwardingPlan.Peer]) -> (UnsafeMutablePointer<TablesView.Peer>, slots: Int) {
        var slots = 16
        while slots < list.count * 2 { slots *= 2 }
        let memory = UnsafeMutablePointer<TablesView.Peer>.allocate(capacity: slots)
        memory.initialize(
            repeating: .init(
                high: 0, low: 0, nextHopHigh: 0, nextHopLow: 0, portIndex: 0, isResolved: false, mac: (0, 0, 0, 0, 0, 0)),
            count: slots)
        for peer in list where !peer.address.isUnspecified {
            var index = TablesView.peerHash(peer.address.high, peer.address.low) & (slots - 1)
            while memory[index].high != 0 || memory[index].low != 0 { index = (index + 1) & (slots - 1) }
            let m = peer.mac.count == 6 ? peer.mac : [UInt8](repeating: 0, count: 6)
            memory[index] = .init(
                high: peer.address.high, low: peer.address.low, nextHopHigh: peer.nextHop.high, nextHopLow: peer.nextHop.low,
                portIndex: peer.portIndex.map { UInt8(clamping: $0) } ?? TablesView.kernelPort, isResolved: peer.mac.count == 6,
                mac: (m[0], m[1], m[2], m[3], m[4], m[5]))
        }
        return (memory, slots)
    }

    deinit {
        view.rules.deallocate()
        view.routes.deallocate()
        view.routeStart.deallocate()
        view.neighbours.deallocate()
        view.localAddresses.deallocate()
        view.ports.deallocate()
        view.peers.deallocate()
    }

    private static func copy<T: BitwiseCopyable>(_ items: [T]) -> UnsafeMutablePointer<T> {
        let memory = UnsafeMutablePointer<T>.allocate(capacity: max(1, items.count))
        for (index, item) in items.enumerated() { (memory + index).initialize(to: item) }
        return memory
    }

    /// IPv6 rules are not steered to the workers yet and have no entry here.
    private static func rule(_ rule: ForwardingPlan.Rule) -> TablesView.Rule? {
        guard case (.v4(let a), .v4(let b)) = (rule.source.first, rule.source.last),
            case (.v4(let c), .v4(let d)) = (rule.destination.first, rule.destination.last)
        else { return nil }
        var verdict = FlowVerdict.discard
        var child: UInt16 = 0
        switch rule.action {
        case .protect(let index): (verdict, child) = (.protect, UInt16(clamping: index))
        case .bypass: verdict = .bypass
        case .discard: verdict = .discard
        }
        let (s, t) = (rule.source.ports, rule.destination.ports)
        return TablesView.Rule(
            sourceFirst: a.bits, sourceLast: b.bits, destinationFirst: c.bits, destinationLast: d.bits,
            sourcePortFirst: s.lowerBound,
            sourcePortLast: s.upperBound, destinationPortFirst: t.lowerBound, destinationPortLast: t.upperBound,
            protocolNumber: max(rule.source.ipProtocol, rule.destination.ipProtocol), anyPort: s == 0...65535 && t == 0...65535,
            verdict: verdict, childIndex: child)
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
        public var gateway: IPv4Address?
        public var portIndex: Int?
        public var clear: Clear
        public init(prefix: IPPrefix, gateway: IPv4Address?, portIndex: Int?, clear: Clear = .allowed) {
            (self.prefix, self.gateway, self.portIndex, self.clear) = (prefix, gateway, portIndex, clear)
        }
    }
    public struct Neighbour: Sendable, Hashable {
        public var address: IPv4Address
        public var portIndex: Int
        /// Six octets.
        public var mac: [UInt8]
        public init(address: IPv4Address, portIndex: Int, mac: [UInt8]) {
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
        /// The next hop's, six octets; empty while unknown.
        public var mac: [UInt8]
        public init(address: IPv6Address, nextHop: IPv6Address, portIndex: Int?, mac: [UInt8]) {
            (self.address, self.nextHop, self.portIndex, self.mac) = (address, nextHop, portIndex, mac)
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
