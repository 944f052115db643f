import Configuration
import Dataplane
import IKE
import IPsec
import NIOCore

/// An `up` that waits for its outcome.
struct UpRequest {
    var connection: String
    /// nil: every child of the connection.
    var child: String?
    var deadline: Instant
    var reply: (AdminResponse) -> Void
}

/// What the admin socket asks of the gateway.
extension ControlThread {
    static let upTimeoutDefault = 30.0
    static let upTimeoutMost = 3600.0
    /// `up` requests at once.
    static let maxWaiting = 256
    static let exitNo: Int32 = 1

    func handle(_ request: AdminRequest, reply: @escaping (AdminResponse) -> Void) {
        guard !isStopping else { reply(.refused("The gateway is ending.")); return }
        switch request.command {
        case .version: reply(AdminResponse(ok: true, version: CulvertVersion.current))
        case .status: status(request, reply: reply)
        case .up: up(request, reply: reply)
        case .down: down(request, reply: reply)
        case .rekey: rekey(request, reply: reply)
        case .redirect: reply(redirect(request))
        case .reload: reply(reload())
        case .probe: reply(probe(request))
        }
    }

    /// With what is dropped outside of the workers: it belongs to the same list.
    func drops() -> DataplaneCounters {
        var counters = surroundings.dataplane.counters()
        let filtered = surroundings.kernel.filteredPackets()
        counters.drops[.clearInbound, default: 0] &+= filtered.inbound
        counters.drops[.clearOutbound, default: 0] &+= filtered.outbound
        counters.drops[.tunnelDevice, default: 0] &+= tunnelDrops
        return counters
    }

    /// - Parameter only: the one connection to tell of; nil: all.
    func report(only: String? = nil) -> StatusReport {
        let statuses = only.map { core.status(connection: $0, now: now).map { [$0] } ?? [] } ?? core.status(now: now)
        return StatusBuilder(
            configuration: configuration, statuses: statuses, counters: drops(),
            childCounters: lifecycle.counters, localProblems: localProblems.merging(credentialProblems) { $1 },
            certificates: watched, wallClock: surroundings.wallClock(), load: load, kernelCauses: kernelCauses,
            traffic: { [lifecycle] in lifecycle.traffic(of: $0) }, evidence: evidence,
            refusedStrangers: core.refusedStrangers(now: now), interfaceProblems: ports.problems,
            interface: { [view = surroundings.kernel.view] in view.link(of: $0).flatMap { view.links[$0]?.name } },
            startedAt: startedAt, now: now, ikePort: coreSettings.ikePort
        ).report(only: only)
    }

    /// Finds out how large datagrams to the peer may be; the outcome is among the causes, seconds later.
    private func probe(_ request: AdminRequest) -> AdminResponse {
        guard let name = request.connection, let known = configuration.connections.first(where: { $0.name == name }) else {
            return unknown(request.connection, nil)
        }
        let sizes = known.children.flatMap { lifecycle.traffic(of: ChildKey(name, $0.name)) }.map(\.pathMTU)
        guard let largest = sizes.max(), largest > 0, core.probePath(connection: name, largest: largest, now: now) else {
            return .refused("The path of \(name) cannot be probed: nothing is established, or its peer takes no IKE fragments.")
        }
        pump()
        return .done("The path of \(name) is being probed up to \(largest) octets.")
    }

    /// Remembers an ICMP error about our IKE, of a peer that the configuration names.
    func note(_ report: UnreachableReport?) {
        guard let report, surroundings.kernel.view.isLocal(report.local),
            configuration.connections.contains(where: { $0.remoteAddresses.contains(report.remote) })
        else { return }
        evidence.note(report)
    }

    private var load: StatusReport.IKELoad {
        let seen = core.counters
        return StatusReport.IKELoad(
            sas: core.saCount, halfOpen: core.halfOpenCount, cookiesSent: seen.cookiesSent, halfOpenEvicted: seen.halfOpenEvicted,
            halfOpenRefused: seen.halfOpenRefused, keyExchangesDeferred: seen.keyExchangesDeferred)
    }

    private func status(_ request: AdminRequest, reply: (AdminResponse) -> Void) {
        let report = report(only: request.connection)
        if let name = request.connection, report.connections.isEmpty { reply(unknown(name, nil)); return }
        reply(.status(report))
    }

    private func unknown(_ connection: String?, _ child: String?) -> AdminResponse {
        guard let connection else { return .refused("Name a connection: CONNECTION or CONNECTION/CHILD.", code: 64) }
        guard let found = configuration.connections.first(where: { $0.name == connection }) else {
            let names = configuration.connections.map(\.name).joined(separator: ", ")
            return .refused(
                "There is no connection \(connection); the gateway has \(names.isEmpty ? "none" : names).", code: Self.exitNo)
        }
        let names = found.children.map(\.name).joined(separator: ", ")
        return .refused("Connection \(connection) has no child \(child ?? ""); it has \(names).", code: Self.exitNo)
    }

    // MARK: up and down

    private func up(_ request: AdminRequest, reply: @escaping (AdminResponse) -> Void) {
        guard let name = request.connection else { reply(unknown(nil, nil)); return }
        guard waiting.count < Self.maxWaiting else { reply(.refused("Too many requests are waiting; try again.")); return }
        let wasDown = core.status(connection: name, now: now)?.situation == .takenDown
        guard core.initiate(connection: name, child: request.child, now: now) else {
            pump()
            reply(refusal(name, request.child, isLetInAgain: wasDown))
            return
        }
        let timeout = request.timeoutSeconds ?? Self.upTimeoutDefault
        let seconds = timeout.isFinite ? min(max(timeout, 0), Self.upTimeoutMost) : Self.upTimeoutDefault
        waiting.append(
            UpRequest(
                connection: name, child: request.child, deadline: now + .milliseconds(Int(seconds * 1000)), reply: reply))
        pump()
    }

    /// Why the core did not even try.
    /// - Parameter isLetInAgain: the operator had taken it down.
    private func refusal(_ connection: String, _ child: String?, isLetInAgain: Bool = false) -> AdminResponse {
        guard let found = configuration.connections.first(where: { $0.name == connection }),
            child == nil || found.children.contains(where: { $0.name == child })
        else { return unknown(connection, child) }
        if let problem = credentialProblems[connection] { return .refused(problem, code: Self.exitNo) }
        if found.remoteAddress == nil {
            let now = isLetInAgain ? "Peers are let in again. " : ""
            return .refused(
                "\(now)Nobody is connected: \(connection) has `remote.address: any`, which answers and cannot initiate.",
                code: Self.exitNo)
        }
        return .refused("Connection \(connection) cannot be initiated now.", code: Self.exitNo)
    }

    private func down(_ request: AdminRequest, reply: (AdminResponse) -> Void) {
        guard let name = request.connection else { reply(unknown(nil, nil)); return }
        guard core.terminate(connection: name, child: request.child, now: now) else {
            reply(refusal(name, request.child)); return
        }
        pump()
        let target = "\(name)\(request.child.map { "/" + $0 } ?? "")"
        reply(
            .done("\(target) is down, and stays down until `culvert up \(target)` or a restart of the gateway."))
    }

    private func rekey(_ request: AdminRequest, reply: (AdminResponse) -> Void) {
        guard let name = request.connection else { reply(unknown(nil, nil)); return }
        guard core.rekey(connection: name, child: request.child, ike: request.ike ?? false, now: now) else {
            let known = configuration.connections.first { $0.name == name }
            let isKnown =
                known.map { found in request.child == nil || found.children.contains { $0.name == request.child } } ?? false
            reply(isKnown ? .refused("Nothing of \(name) is up to be rekeyed.", code: Self.exitNo) : unknown(name, request.child))
            return
        }
        pump()
        let what = request.ike == true ? "the IKE SA of \(name)" : "\(name)\(request.child.map { "/" + $0 } ?? "")"
        reply(.done("Rekeying of \(what) has begun."))
    }

    /// Sends the peer of a live connection to another gateway. RFC 5685 §5.
    private func redirect(_ request: AdminRequest) -> AdminResponse {
        guard let name = request.connection, configuration.connections.contains(where: { $0.name == name }) else {
            return unknown(request.connection, nil)
        }
        guard let text = request.target, let target = PathPlan.Gateway(text) else {
            return .refused("`redirect` needs the address or the host name of another gateway.", code: 64)
        }
        if let refusal = core.redirect(connection: name, to: target, now: now) {
            return .refused(refusal, code: Self.exitNo)
        }
        pump()
        return .done("The peer of \(name) is being redirected to \(target).")
    }

    /// Answers every `up` whose outcome is known.
    func checkWaiting() {
        var still: [UpRequest] = []
        var answers: [(UpRequest, AdminResponse)] = []
        for request in waiting {
            if let answer = outcome(of: request, core.status(connection: request.connection, now: now)) {
                answers.append((request, answer))
            } else {
                still.append(request)
            }
        }
        waiting = still
        for (request, answer) in answers { request.reply(answer) }
    }

    /// Nil: it is not known yet. The request has begun it anew: a reason that there is now came after it.
    private func outcome(of request: UpRequest, _ status: ConnectionStatus?) -> AdminResponse? {
        let name = request.connection
        guard let status else { return .refused("Connection \(name) is gone from the configuration.") }
        let wanted = status.children.filter { request.child == nil || $0.name == request.child }
        let missing = wanted.filter { $0.state != .installed || !lifecycle.isActive(configured: ChildKey(name, $0.name)) }
        if missing.isEmpty, !wanted.isEmpty {
            let names = wanted.map(\.name).joined(separator: ", ")
            return .done("\(name) is established, \(names) installed.")
        }
        let isAtWork = status.state == .connecting || missing.contains { $0.state == .connecting }
        let reason = reason(name, status, missing)
        let hasFailed =
            status.state == .established
            ? missing.contains { $0.state == .down && $0.reason != nil }
            : status.reason.map { !$0.code.isWaiting } ?? false
        if !isAtWork, hasFailed, let reason { return .refused(reason, code: Self.exitNo) }
        if status.state == .established, isForPeersToBegin(name), missing.allSatisfy({ $0.state == .down }) {
            let names = missing.map(\.name).joined(separator: ", ")
            return .refused("No peer of \(name) has asked for \(names), and this end cannot begin.", code: Self.exitNo)
        }
        guard request.deadline <= now else { return nil }
        return .refused("\(name) did not come up in time. " + (reason ?? "The peer has not answered yet."), code: Self.exitNo)
    }

    private func isForPeersToBegin(_ name: String) -> Bool {
        configuration.connections.first { $0.name == name }?.remoteAddress == nil
    }

    private func reason(_ name: String, _ status: ConnectionStatus, _ missing: [ConnectionStatus.Child]) -> String? {
        if let problem = credentialProblems[name] ?? localProblems[name] { return problem }
        let children = missing.compactMap { child in child.reason.map { "\(child.name): \($0)" } }
        if status.state == .established, !children.isEmpty { return children.joined(separator: " ") }
        return status.reason?.sentence ?? (children.isEmpty ? nil : children.joined(separator: " "))
    }
}
