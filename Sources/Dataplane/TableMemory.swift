import IPsec
import Wire

/// Owns the memory behind a `TablesView`, and changes what is another in the next one. The only writer; not for two threads.
final class Tables {
    /// IPv6 next hops of IPv4 routes, as many as there ever were; a route by one more is the kernel's.
    static let gatewayLimit = 4096

    private(set) var view: TablesView
    private let routes = RouteTrie()
    private let neighbours = SharedMap<TablesView.Neighbour>()
    private let peers = SharedMap<TablesView.Peer>()
    private var gateways: [IPv6Address] = []
    private var gatewayPlaces: [IPv6Address: UInt32] = [:]
    private var portAddresses: [ForwardingPlan.PortAddress] = []

    /// Pieces copied or made for changes so far: what they have cost.
    var copies: Int { routes.copies + neighbours.copies + peers.copies }

    /// Memory that workers may read until all have a newer view. Freed with this.
    final class Replaced {
        fileprivate var pieces: [UnsafeMutableRawPointer] = []
        deinit { for piece in pieces { piece.deallocate() } }
    }

    init(_ plan: ForwardingPlan, ports: [TablesView.Port], generation: UInt32) {
        view = TablesView(
            generation: generation, rulesGeneration: generation, rules: Self.copy([]), ruleCount: 0, rulesUsePorts: false,
            routes: routes.view, gateways: Self.copy([]), neighbours: neighbours.view, localAddresses: Self.copy([]),
            localCount: 0, ports: Self.copy([]), peers: peers.view)
        _ = apply(ForwardingUpdate(plan), ports: ports, generation: generation)
    }

    deinit {
        view.rules.deallocate()
        view.gateways.deallocate()
        view.localAddresses.deallocate()
        view.ports.deallocate()
    }

    /// Makes the next view.
    func apply(_ update: ForwardingUpdate, ports: [TablesView.Port], generation: UInt32) -> Replaced {
        let replaced = Replaced()
        let old = view
        view.generation = generation
        if let list = update.rules {
            let rules = list.compactMap(Self.rule)
            (view.rules, view.ruleCount, view.rulesGeneration) = (Self.copy(rules), rules.count, generation)
            view.rulesUsePorts = rules.contains { !$0.anyPort || $0.protocolNumber != 0 }
            replaced.pieces.append(UnsafeMutableRawPointer(old.rules))
        }
        if let list = update.localAddresses {
            (view.localAddresses, view.localCount) = (Self.copy(list.map(\.bits)), list.count)
            replaced.pieces.append(UnsafeMutableRawPointer(old.localAddresses))
        }
        if let list = update.portAddresses { portAddresses = list }
        view.ports = portMemory(ports)
        replaced.pieces.append(UnsafeMutableRawPointer(old.ports))
        let gatewaysBefore = gateways.count
        for (prefix, route) in update.routes { set(prefix, route) }
        for (key, mac) in update.neighbours { set(key, mac) }
        for (address, peer) in update.peers { set(address, peer) }
        if gateways.count != gatewaysBefore {
            view.gateways = Self.copy(gateways.map { TablesView.Gateway(high: $0.high, low: $0.low) })
            replaced.pieces.append(UnsafeMutableRawPointer(old.gateways))
        }
        replaced.pieces += routes.publish().map { UnsafeMutableRawPointer($0) } + neighbours.publish() + peers.publish()
        (view.routes, view.neighbours, view.peers) = (routes.view, neighbours.view, peers.view)
        return replaced
    }

    private func set(_ prefix: IPPrefix, _ route: ForwardingPlan.Route?) {
        guard case .v4(let address) = prefix.address else { return }
        routes.set(.init(first: address.bits, length: prefix.length), route.map(entry))
    }

    private func entry(_ route: ForwardingPlan.Route) -> TablesView.Route {
        let port = route.portIndex.map { UInt8(clamping: $0) } ?? TablesView.kernelPort
        switch route.gateway {
        case nil: return .init(gateway: 0, portIndex: port, clear: route.clear)
        case .v4(let address): return .init(gateway: address.bits, portIndex: port, clear: route.clear)
        case .v6(let address):
            guard let place = place(of: address) else {
                return .init(gateway: 0, portIndex: TablesView.kernelPort, clear: route.clear)
            }
            return .init(gateway: place, portIndex: port, viaIPv6: true, clear: route.clear)
        }
    }

    private func place(of gateway: IPv6Address) -> UInt32? {
        if let place = gatewayPlaces[gateway] { return place }
        guard gateways.count < Self.gatewayLimit else { return nil }
        gateways.append(gateway)
        gatewayPlaces[gateway] = UInt32(gateways.count - 1)
        return UInt32(gateways.count - 1)
    }

    private func set(_ key: ForwardingPlan.Neighbour.Key, _ mac: [UInt8]?) {
        let (high, low) = Self.words(key.address)
        let port = UInt8(clamping: key.portIndex)
        let isUsable = mac.map { $0.count == 6 } ?? false && (high != 0 || low != WorkerAnswer.mapped(0))
        let entry = mac.flatMap { m in
            isUsable
                ? TablesView.Neighbour(high: high, low: low, portIndex: port, mac: (m[0], m[1], m[2], m[3], m[4], m[5])) : nil
        }
        neighbours.set(hash: TablesView.hash(high, low), entry) { $0.low == low && $0.high == high && $0.portIndex == port }
    }

    private func set(_ address: IPv6Address, _ peer: ForwardingPlan.Peer?) {
        let (high, low) = (address.high, address.low)
        let entry = peer.map {
            TablesView.Peer(
                high: high, low: low, nextHopHigh: $0.nextHop.high, nextHopLow: $0.nextHop.low,
                portIndex: $0.portIndex.map { UInt8(clamping: $0) } ?? TablesView.kernelPort)
        }
        peers.set(hash: TablesView.hash(high, low), entry) { $0.low == low && $0.high == high }
    }

    private static func words(_ address: IPAddress) -> (high: UInt64, low: UInt64) {
        switch address {
        case .v4(let address): (0, WorkerAnswer.mapped(address.bits))
        case .v6(let address): (address.high, address.low)
        }
    }

    private func portMemory(_ ports: [TablesView.Port]) -> UnsafeMutablePointer<TablesView.Port> {
        let absent = TablesView.Port(mac: (0, 0, 0, 0, 0, 0), attached: false, mtuBytes: 0, address: 0)
        var list = Array(repeating: absent, count: TablesView.portLimit)
        for (index, port) in ports.enumerated() where index < TablesView.portLimit { list[index] = port }
        for address in portAddresses where address.portIndex < TablesView.portLimit {
            list[address.portIndex].address = address.address.bits
        }
        return Self.copy(list)
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
