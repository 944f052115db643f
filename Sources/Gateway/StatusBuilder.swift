import Configuration
import Dataplane
import IKE
import IPsec
import Wire

/// Puts together what `culvert status` shows. A pure function of what everybody else knows.
struct StatusBuilder {
    var configuration: GatewayConfiguration
    var statuses: [ConnectionStatus]
    var counters: DataplaneCounters
    var childCounters: (ChildKey) -> ChildCounters
    /// Why a connection cannot work at this end, by its name: an address or interface that is missing or down.
    var localProblems: [String: String]
    var certificates: [String: [CredentialLoading.Watched]] = [:]
    /// Seconds since 1970.
    var wallClock: Int64 = 0
    var load: StatusReport.IKELoad?
    /// What is wrong with the kernel's state for all connections.
    var kernelCauses: [Cause] = []
    /// What went through a child that has an SA.
    var traffic: (ChildKey) -> [ChildTraffic] = { _ in [] }
    var evidence = EvidenceKeeper()
    /// Peers that were refused lately and that no connection is for.
    var refusedStrangers: [RefusedPeer] = []
    /// Why configured interfaces are not in use, by name.
    var interfaceProblems: [String: String] = [:]
    /// The interface that has an address, for remedies.
    var interface: (IPAddress) -> String? = { _ in nil }
    var startedAt: Instant
    var now: Instant
    var ikePort: UInt16

    /// - Parameter only: the one connection to tell of; nil: all.
    func report(only: String? = nil) -> StatusReport {
        let byName = Dictionary(statuses.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
        let wanted = configuration.connections.filter { only == nil || $0.name == only }
        let causes = gatewayCauses
        let codes = Set(causes.map(\.code))
        var report = StatusReport(
            version: CulvertVersion.current, gateway: configuration.name, uptimeSeconds: Self.seconds(now - startedAt),
            connections: wanted.map { configured in
                var report = connection(configured, byName[configured.name])
                report.causes = Cause.roots(self.causes(configured, byName[configured.name], report), beside: codes)
                return report
            },
            workers: counters.workers.map(worker), drops: everyReason(counters.drops), ike: load)
        report.causes = causes
        report.refusals = refusedStrangers.map(refusal)
        return report
    }

    private func refusal(_ peer: RefusedPeer) -> StatusReport.Refusal {
        StatusReport.Refusal(
            from: peer.from.description, code: peer.reason.code.rawValue, reason: peer.reason.sentence, count: peer.count,
            secondsAgo: Self.seconds(now - peer.last))
    }

    private var gatewayCauses: [Cause] {
        let recent = evidence.recent(counters.drops)
        return Cause.roots(
            GatewayJudgement(
                interfaceProblems: interfaceProblems, recentDrops: recent.drops, recentSince: recent.since,
                refusedStrangers: refusedStrangers,
                isPeerMissing: statuses.contains { $0.state != .established && $0.situation != .takenDown }, now: now
            ).causes + kernelCauses)
    }

    private func causes(_ configured: Connection, _ status: ConnectionStatus?, _ report: StatusReport.Connection) -> [Cause] {
        let children = configured.children.map { child in
            (child.name, traffic(ChildKey(configured.name, child.name)))
        }
        let remote = status?.ike?.path.remote.address ?? configured.remoteAddress
        let judgement = ConnectionJudgement(
            configured: configured, status: status, localProblem: localProblems[configured.name],
            traffic: Dictionary(children, uniquingKeysWith: { first, _ in first }), unreachable: evidence.unreachable(remote),
            interface: interface(status?.ike?.path.local.address ?? configured.localAddress), now: now)
        let certificates = report.certificates.compactMap { certificate in
            certificate.warning.map {
                Cause(
                    .certificate, "\(certificate.file ?? "The peer's certificate") \($0).",
                    severity: certificate.expiresInSeconds < 0 ? .problem : .warning, line: configured.places?.line)
            }
        }
        return judgement.causes + certificates
    }

    private func connection(_ configured: Connection, _ status: ConnectionStatus?) -> StatusReport.Connection {
        let state = StatusReport.Connection.State(rawValue: (status?.state ?? .down).rawValue) ?? .down
        let ike = status?.ike
        let local = StatusReport.Peer(
            address: (ike?.path.local.address ?? configured.localAddress).description, port: ike?.path.local.port ?? ikePort,
            id: (ike?.localIdentity ?? configured.localIdentity).description, nat: ike?.localNAT ?? false)
        let remote = StatusReport.Peer(
            address: (ike?.path.remote.address ?? configured.remoteAddress)?.description ?? "any",
            port: ike?.path.remote.port ?? ikePort,
            id: ike?.remoteIdentity.description ?? configured.remotePattern.description, nat: ike?.remoteNAT ?? false)
        var report = StatusReport.Connection(
            name: configured.name, state: state, reason: state == .established ? nil : reason(configured, status), local: local,
            remote: remote, ike: ike.map(ikeSA),
            children: configured.children.map { child in
                self.child(child, of: configured, status?.children.first { $0.name == child.name })
            },
            certificates: (certificates[configured.name] ?? []).map(certificate) + peerCertificate(ike))
        if configured.remoteAddress == nil {
            report.peers = (status?.peers ?? []).map { peer in
                StatusReport.RemotePeer(
                    id: peer.identity.description, address: peer.endpoint.address.description, port: peer.endpoint.port,
                    virtualAddresses: peer.virtualAddresses.map(\.description),
                    establishedSeconds: Self.seconds(now - peer.establishedAt), children: peer.children)
            }
        }
        if let own = status?.virtualAddresses, !own.isEmpty { report.virtualAddresses = own.map(\.description) }
        report.liveness = status?.liveness.map { liveness in
            StatusReport.Liveness(
                pendingSeconds: liveness.pendingSince.map { Self.seconds(now - $0) }, unanswered: liveness.unanswered,
                planned: liveness.planned, lastHeardSeconds: Self.seconds(now - liveness.lastHeard))
        }
        report.pathProbe = status?.pathProbe.map {
            StatusReport.PathProbe(
                running: $0.finishedAt == nil && state == .established, largest: $0.largest, passed: $0.passed, failed: $0.failed)
        }
        report.changedSeconds = status?.changedAt.map { Self.seconds(now - $0) }
        report.reasonCode = state == .established ? nil : status?.reason?.code.rawValue
        report.refusals = (status?.refusals ?? []).map(refusal)
        report.lastFailure = status?.lastFailure.map {
            StatusReport.Failure(reason: $0.reason, secondsAgo: Self.seconds(now - $0.at))
        }
        return report
    }

    private func certificate(_ watched: CredentialLoading.Watched) -> StatusReport.Certificate {
        StatusReport.Certificate(
            role: watched.role, file: watched.path, subject: watched.subject, notAfter: watched.notAfterText,
            expiresInSeconds: Double(watched.notAfter - wallClock), warning: watched.notice(now: wallClock))
    }

    /// What the peer has shown.
    private func peerCertificate(_ ike: ConnectionStatus.IKE?) -> [StatusReport.Certificate] {
        guard let ike, let validity = CredentialLoading.peerValidity(ike) else { return [] }
        return [
            StatusReport.Certificate(
                role: "peer", file: nil, subject: validity.subject, notAfter: validity.notAfterText,
                expiresInSeconds: Double(validity.notAfter - wallClock), warning: validity.notice(now: wallClock))
        ]
    }

    /// A problem of ours explains more than the silence that follows from it.
    private func reason(_ configured: Connection, _ status: ConnectionStatus?) -> String {
        if let problem = localProblems[configured.name] { return problem }
        if let reason = status?.reason { return reason.sentence }
        if status?.state == .connecting { return "Negotiating with the peer." }
        let starts = configured.children.map(\.start)
        if configured.remoteAddress == nil { return "Waiting for the peer: `remote.address: any` answers and never initiates." }
        if starts.contains(.immediately) { return "No attempt has been made yet." }
        if starts.contains(.onTraffic) { return "Waiting for traffic (`start: on-traffic`) or for the peer." }
        return "Waiting for `culvert up \(configured.name)` or for the peer (`start: manual`)."
    }

    private func ikeSA(_ ike: ConnectionStatus.IKE) -> StatusReport.IKE {
        var report = StatusReport.IKE(
            spiInitiator: ike.initiatorSPI.hexadecimal,
            spiResponder: ike.responderSPI.hexadecimal,
            initiator: ike.isInitiator, proposal: ike.proposal, establishedSeconds: Self.seconds(now - ike.establishedAt),
            rekeyInSeconds: ike.rekeyAt.map { max(0, Self.seconds($0 - now)) },
            localAuthentication: ike.localMethod.isEmpty ? nil : ike.localMethod,
            remoteAuthentication: ike.remoteMethod.isEmpty ? nil : ike.remoteMethod, ppk: ike.usesPostquantumKey)
        (report.mobike, report.moves, report.fragmentation) = (ike.mobike, ike.moves, ike.fragmentation)
        return report
    }

    private func child(_ configured: Child, of connection: Connection, _ status: ConnectionStatus.Child?) -> StatusReport.Child {
        let state = StatusReport.Child.State(rawValue: (status?.state ?? .down).rawValue) ?? .down
        let isInstalled = state == .installed
        let carried = childCounters(ChildKey(connection.name, configured.name))
        let local = isInstalled ? status?.localSelectors.map(\.description) : nil
        let remote = isInstalled ? status?.remoteSelectors.map(\.description) : nil
        var report = StatusReport.Child(
            name: configured.name, state: state, reason: (isInstalled ? status?.problem : status?.reason)?.sentence,
            mode: configured.mode.rawValue,
            encapsulation: isInstalled && status?.path?.isUDPEncapsulated == true ? .udp : .none,
            spiIn: isInstalled ? status?.inboundSPI.hexadecimal : nil,
            spiOut: isInstalled ? status?.outboundSPI.hexadecimal : nil,
            proposal: isInstalled ? status?.transform?.keyword : nil,
            localSubnets: local ?? configured.localSubnets.map(\.description),
            remoteSubnets: remote ?? configured.remoteSubnets.map(\.description), packetsIn: carried.packetsIn,
            bytesIn: carried.bytesIn,
            packetsOut: carried.packetsOut, bytesOut: carried.bytesOut, rekeys: status?.rekeys ?? 0,
            rekeyInSeconds: isInstalled ? status?.rekeyAt.map { max(0, Self.seconds($0 - now)) } : nil,
            drops: [DropReason.replay.name: 0].merging(named(carried.drops)) { $1 })
        report.wanted = status?.isWanted ?? (configured.start == .immediately)
        report.pfsGroup = isInstalled ? status?.pfsGroup : nil
        if let local, let remote { report.negotiated = StatusReport.Child.Selectors(local: local, remote: remote) }
        let traffic = traffic(ChildKey(connection.name, configured.name))
        report.lastInSeconds = traffic.compactMap(\.record.lastIn).max().map { Self.seconds(now - $0) }
        report.lastOutSeconds = traffic.compactMap(\.record.lastOut).max().map { Self.seconds(now - $0) }
        report.lossPercent = traffic.compactMap(\.lossPercent).max()
        report.pathMTU = traffic.map(\.pathMTU).filter { $0 > 0 }.min()
        return report
    }

    private func worker(_ worker: WorkerCounters) -> StatusReport.Worker {
        StatusReport.Worker(
            id: worker.id, cpu: worker.cpu, numaNode: worker.numaNode, engine: worker.engine, xdpMode: worker.xdpMode,
            packetsIn: worker.packetsIn, packetsOut: worker.packetsOut,
            busyPercent: worker.busyPercent.isFinite ? worker.busyPercent : 0, icmpErrorsWithheld: worker.icmpErrorsWithheld,
            drops: named(worker.drops))
    }

    /// Only what happened.
    private func named(_ drops: [DropReason: UInt64]) -> [String: UInt64] {
        var result: [String: UInt64] = [:]
        for (reason, count) in drops where count > 0 { result[reason.name] = count }
        return result
    }

    /// Every reason, so that a script can compare two reports without asking whether a key is there.
    private func everyReason(_ drops: [DropReason: UInt64]) -> [String: UInt64] {
        var result: [String: UInt64] = [:]
        for reason in DropReason.allCases { result[reason.name] = drops[reason] ?? 0 }
        return result
    }

    static func seconds(_ duration: Duration) -> Double {
        let parts = duration.components
        return Double(parts.seconds) + Double(parts.attoseconds / 1_000_000_000_000) / 1_000_000
    }
}
