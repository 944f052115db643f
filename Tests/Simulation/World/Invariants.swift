@testable import Gateway
@testable import IKE
import IPsec
import Wire

// What must hold after every event, and what must hold when everything has come to rest.
extension SimulatedGateway {
    /// After every event. Each violation is told once, by `World.fail`.
    func inspect() {
        inspections += 1
        guard inspections % inspectionInterval == 0 else { return }
        if crypto.repeatedIV { world.fail("\(name) sealed twice with one IV under one key") }
        if let text = structuralFault ?? childFault { world.fail("\(name): \(text)") }
    }

    /// The core's tables agree with each other and stay within their bounds.
    private var structuralFault: String? {
        if core.sas.count > mostSAs { return "\(core.sas.count) IKE SAs" }
        var halfOpen = 0
        var records = 0
        for (spi, sa) in core.sas.elements {
            if spi != sa.localSPI { return "an IKE SA under another's SPI" }
            if sa.countsAsHalfOpen { halfOpen += 1 }
            if sa.tasks.count > Bounds.tasksPerIKESA { return "\(sa.tasks.count) tasks on one IKE SA" }
            if let name = sa.connection, core.connections[name] != nil, !sa.isClosing, !sa.isClosed,
                core.connections[name]?.sas.contains(spi) != true, !isAbandoned(sa)
            {
                return "an IKE SA that its connection does not know, \(sa.phase)"
            }
            guard let established = sa.established else { continue }
            records += established.children.count
            if established.children.count > Bounds.childrenPerIKESA { return "\(established.children.count) children" }
            for record in established.children where core.childIndex[record.inboundSPI] != spi {
                return "child \(hex(record.inboundSPI)) is not in the index"
            }
        }
        for sa in core.sas.values where sa.established != nil && sa.path.remote.address == Eavesdropper.address {
            return "an IKE SA follows somebody who has no keys"
        }
        if records != core.childIndex.count { return "\(core.childIndex.count) children in the index, \(records) in IKE SAs" }
        if halfOpen != core.halfOpenCount { return "\(halfOpen) half-open IKE SAs, counted as \(core.halfOpenCount)" }
        let inHands = core.halfOpenByAddress.values.reduce(0, +) + core.unverifiedByAddress.values.reduce(0, +)
        if inHands != halfOpen { return "\(halfOpen) half-open IKE SAs, \(inHands) of them by address" }
        if core.shares.total != core.childIndex.count {
            return "\(core.childIndex.count) children, \(core.shares.total) of them in shares"
        }
        for (key, spi) in core.initIndex where core.sas[spi]?.initKey != key { return "a first message without its IKE SA" }
        for (_, spi) in core.installs.elements where core.childIndex[spi] == nil { return "an installation without its child" }
        for (_, connection) in core.connections.elements {
            for spi in connection.sas where core.sas[spi] == nil { return "a connection holds an IKE SA that is gone" }
            if let attempt = connection.attempt, core.sas[attempt] == nil { return "an attempt that is gone" }
        }
        return nil
    }

    private func isAbandoned(_ sa: IKESA) -> Bool {
        if case .authenticating(let state) = sa.phase { state.isAbandoned } else { false }
    }

    /// What the core has installed is in place, and nothing else but what drains.
    private var childFault: String? {
        if known.count != core.childIndex.count {
            return "\(known.count) children installed, the core knows \(core.childIndex.count)"
        }
        for spi in known where core.childIndex[spi] == nil { return "child \(hex(spi)) was never removed" }
        for entry in plane.entries.values where entry.sa.path.remote == Eavesdropper.address {
            return "\(entry.sa.child) is sent to somebody who has no keys"
        }
        for pair in lifecycle.pairs.values where !known.contains(pair.inboundSPI) {
            let spi = pair.inboundSPI
            switch pair.state {
            case .draining, .retiring: continue
            case .installing, .ready: return "pair \(hex(spi)) outlived its child"
            }
        }
        return nil
    }

    /// What is due and was not served.
    var overdue: String {
        let connections = core.connections.values.filter { state in core.deadline(of: state, now: now).map { $0 <= now } ?? false
        }
        let sas = core.allSAs.filter { sa in core.deadline(of: sa).map { $0 <= now } ?? false }
        return (connections.map { "connection \($0.plan.name)" } + sas.map { "IKE SA \(hex($0.localSPI)), \($0.phase)" })
            .joined(separator: ", ")
    }

    /// Anything but a liveness check.
    private func isBusy(_ sa: IKESA) -> Bool {
        switch sa.outstanding?.kind {
        case nil, .informational: false
        default: true
        }
    }

    /// What must hold here when everything has come to rest: one IKE SA, each child once, nothing left over. Nil when it does.
    var quietFault: String? {
        guard isRunning else { return "\(name) is off" }
        for plan in plans {
            guard let state = core.connections[plan.name] else { return "\(name) has lost a connection" }
            guard let sa = core.current(state), let established = sa.established else {
                return "\(name) is not up: \(state.failure ?? "no reason")"
            }
            if state.attempt != nil { return "\(name) is still trying to connect" }
            if Array(state.sas) != [sa.localSPI] { return "\(name) holds \(state.sas.count) IKE SAs of the connection" }
            if !state.isReportedUp { return "\(name) is up and has not said so" }
            if !sa.tasks.isEmpty || isBusy(sa) { return "\(name) has requests under way" }
            if sa.withheld != nil { return "\(name) withholds a response" }
            if established.replaces != nil || established.supersededBy != nil || established.closeAt != nil {
                return "\(name) is about to replace its IKE SA"
            }
            for child in plan.children {
                let records = established.children.filter { $0.name == child.name }
                guard records.count == 1, let record = records.first else {
                    return "\(name) has \(child.name) \(records.count) times"
                }
                if !record.isInstalled || record.replacedBy != nil { return "\(name) has \(child.name) in passing" }
                let active = lifecycle.active.filter { $0.key.configured == ChildKey(plan.name, child.name) }
                if active.map(\.value) != [record.inboundSPI] { return "\(name) does not use \(child.name)" }
            }
        }
        if core.sas.count != plans.count { return "\(name) holds \(core.sas.count) IKE SAs" }
        if core.halfOpenCount != 0 || !core.initIndex.isEmpty && core.initIndex.count > plans.count {
            return "\(name) has half-open IKE SAs"
        }
        if !core.installs.isEmpty { return "\(name) has installations under way" }
        if core.childIndex.count != children.count { return "\(name) has \(core.childIndex.count) children" }
        let pairs = lifecycle.pairs.values.filter { $0.state == .ready || $0.state == .installing }
        if pairs.count != children.count { return "\(name) has \(pairs.count) pairs that do not drain" }
        if plane.entries.count > lifecycle.pairs.count { return "\(name) has \(plane.entries.count) pairs in the data plane" }
        let timers = core.tableSizes["timers"] ?? 0
        if timers > core.sas.count + plans.count { return "\(name) has \(timers) timers" }
        return nil
    }
}

extension World {
    /// Nil when every gateway is quiet and both ends of every pair agree.
    var quietFault: String? {
        for gateway in gateways {
            if let fault = gateway.quietFault { return fault }
            for sa in gateway.core.allSAs {
                let others = gateways.filter { $0 !== gateway }.flatMap { $0.core.allSAs }
                guard others.contains(where: { $0.initiatorSPI == sa.initiatorSPI && $0.responderSPI == sa.responderSPI }) else {
                    return "\(gateway.name) has an IKE SA that nobody shares"
                }
            }
            for entry in gateway.plane.entries.values {
                guard let peer = gateway.peer(of: entry.sa), peer.isReceiving(entry) else {
                    return "\(gateway.name) has a pair of \(entry.sa.child) that nobody receives on"
                }
            }
        }
        return nil
    }

    /// Whether packets of a child get through in both directions at this moment.
    func works(child: Int, between a: SimulatedGateway, _ b: SimulatedGateway) -> Bool {
        guard let there = a.departing(child: child), let back = b.departing(child: child) else { return false }
        return b.isReceiving(there) && a.isReceiving(back)
    }
}
