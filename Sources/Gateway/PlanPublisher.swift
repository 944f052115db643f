import Configuration
import Dataplane
import IKE
import Wire

/// Gives workers and XDP program what policy and the kernel's state make of it: whole after policy, addresses or our interfaces
/// changed, and otherwise what changed alone. Confined to the event loop.
final class PlanPublisher {
    private let kernel: any KernelControlling
    private let dataplane: any DataplaneControlling
    private let ports: PortKeeper
    private var forwarding: ForwardingPlanner?
    private var steering: SteeringPlan?
    /// Interfaces of ours by index, as they were when all was published last.
    private var followedLinks: Set<Int> = []
    /// All has to be published (again).
    private var isOwed = true

    /// What everything is computed from.
    struct Inputs {
        var policy: PolicySet
        var outside: OutsideLinks
        /// Where ESP goes.
        var peers: Set<IPAddress>
        /// IKE and ESP from other addresses is dropped; nil: anybody may be a peer.
        var onlyPeers: [IPAddress]?
    }

    init(kernel: any KernelControlling, dataplane: any DataplaneControlling, ports: PortKeeper) {
        (self.kernel, self.dataplane, self.ports) = (kernel, dataplane, ports)
    }

    /// Routes, neighbours and peers looked at since the last time that all was published.
    var looks: Int { forwarding?.looks ?? 0 }

    /// Whether a change may be one of everything: addresses, or an interface that is ours or has some.
    func isWide(_ changes: KernelChanges) -> Bool {
        if isOwed || changes.isEverything || changes.addresses { return true }
        let view = kernel.view
        return changes.links.contains { index in
            followedLinks.contains(index) || view.links[index].map { ports.names.contains($0.name) } == true
                || view.addresses.contains { $0.linkIndex == index } || view.ipv6.addresses.contains { $0.linkIndex == index }
        }
    }

    /// Whether a route that changed is one of the site's own, which XDP and the kernel's rules leave alone.
    func concernsSite(_ changes: KernelChanges) -> Bool {
        guard let forwarding else { return true }
        return changes.routes.contains { $0.address.isIPv4 && forwarding.isOfSite($0) }
    }

    func publishAll(_ inputs: Inputs) throws(DataplaneError) {
        let view = kernel.view
        followedLinks = Set(ports.names.compactMap { view.link(named: $0)?.index } + [kernel.tunLinkIndex].compactMap(\.self))
        let new = ForwardingPlanner(inputs.policy, view: view, ports: ports.attached, peers: inputs.peers)
        send(new.difference(from: forwarding))
        forwarding = new
        isOwed = true
        try steer(inputs)
        isOwed = false
    }

    func steer(_ inputs: Inputs) throws(DataplaneError) {
        let new = Steering.steeringPlan(
            inputs.policy, view: kernel.view, outside: inputs.outside, onlyPeers: inputs.onlyPeers)
        guard new != steering else { return }
        try dataplane.steer(new)
        steering = new
    }

    func publish(_ changes: KernelChanges) {
        if let update = forwarding?.follow(changes, kernel.view) { send(update) }
    }

    /// Peers that came, or went.
    func publish(peers: [IPAddress: Bool]) {
        if let update = forwarding?.follow(peers: peers, kernel.view) { send(update) }
    }

    private func send(_ update: ForwardingUpdate) {
        if !update.isEmpty { dataplane.publish(update) }
    }

    /// Whether the workers send by this neighbour.
    func needs(_ key: NeighbourKey) -> Bool { forwarding?.needs(key) ?? false }
}

/// Has the kernel find the neighbours that packets wait for, and keep those that the workers use: it does not see their traffic.
/// Confined to the event loop.
final class NeighbourKeeper {
    /// Neighbours kept alive although nobody waits for them; each costs the link an ARP exchange every few seconds.
    static let limit = 1024

    private let kernel: any KernelControlling
    private var probes = NeighbourProbes()
    private var kept: Set<NeighbourKey> = []

    init(kernel: any KernelControlling) { self.kernel = kernel }

    /// A packet waits for the neighbour. It is kept when it has answered.
    func find(_ key: NeighbourKey, now: Instant) {
        // Who asks for a broadcast address would make the kernel answer itself.
        if key.address.isIPv4, kernel.view.routes.route(to: key.address)?.isKernels == true { return }
        let (asks, forgotten) = probes.ask(key, now: now)
        if let forgotten { kernel.forget(forgotten) }
        if asks { kernel.resolve(key, keep: false) }
    }

    /// Keeps those of `keys` that are there and that `needs` says.
    func follow(_ keys: some Sequence<NeighbourKey>, needs: (NeighbourKey) -> Bool) {
        for key in keys {
            guard let neighbour = neighbour(key) else {
                kept.remove(key)
                continue
            }
            probes.end(key)
            if neighbour.isKept {
                kept.insert(key)
            } else {
                kept.remove(key)
                if kept.count < Self.limit, needs(key) { kernel.resolve(key, keep: true) }
            }
        }
    }

    /// Every neighbour there is.
    func followAll(needs: (NeighbourKey) -> Bool) {
        let present = kernel.view.neighbours.map(\.key) + kernel.view.ipv6.neighbours.map(\.key)
        kept.formIntersection(present)
        follow(present, needs: needs)
    }

    /// What nobody answers for goes from the kernel's table.
    func tick(now: Instant) {
        kernel.forgetLostNeighbours(now: now)
        for key in probes.takeExpired(now: now) where neighbour(key) == nil { kernel.forget(key) }
    }

    private func neighbour(_ key: NeighbourKey) -> KernelView.Neighbour? {
        key.address.isIPv4 ? kernel.view.neighbours[key] : kernel.view.ipv6.neighbours[key]
    }
}
