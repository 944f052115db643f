import Configuration
import IKE
import IPsec
import Wire

/// What is wrong with one connection: a pure function of its configuration, of what the core says, and of what its packets did.
struct ConnectionJudgement {
    var configured: Connection
    /// Nil: the core does not have it.
    var status: ConnectionStatus?
    /// Why it cannot work at this end.
    var localProblem: String?
    /// By child's name: one per peer that has it installed.
    var traffic: [String: [ChildTraffic]] = [:]
    /// What a router, or the peer itself, answered to our IKE by ICMP.
    var unreachable: UnreachableReport?
    /// The underlay interface, for remedies.
    var interface: String?
    var now: Instant

    /// One direction for this long, with so many packets, when the other one never had any.
    static let oneWay: (duration: Duration, packets: UInt64) = (.seconds(5), 3)
    /// The same when it had some before: a host may have gone, or what is sent wants no answer.
    static let oneWayAfterBoth: (duration: Duration, packets: UInt64) = (.seconds(15), 5)
    /// Packets of the peer, and lost ones among them, from which on loss is a matter for anybody.
    static let loss: (expected: UInt64, lost: UInt64, percent: Double) = (50, 5, 2)
    /// Times that it failed within the history's period: suspicious, and certain; and that the peer ended it in order, which its
    /// operator may do a few times.
    static let lossesThatFlap = (some: 2, many: 3, deletions: 6)
    /// For so long what is found out about a path is believed.
    static let probeLifetime: Duration = .seconds(600)
    /// And an ICMP error, which anybody could have sent.
    static let unreachableLifetime: Duration = .seconds(60)

    var causes: [Cause] {
        var causes: [Cause] = []
        if let localProblem { causes.append(cause(.localPath, localProblem)) }
        if let status {
            causes += status.state == .established ? established(status) : notEstablished(status)
            causes += comesAndGoes(status)
            causes += refused(status)
        } else if localProblem == nil {
            causes.append(cause(.ikeFailed, "The gateway does not have this connection; its log says why."))
        }
        return causes
    }

    // MARK: Not established

    private func notEstablished(_ status: ConnectionStatus) -> [Cause] {
        let reason = status.reason?.sentence ?? "It is \(status.state.rawValue)."
        switch status.situation {
        case .waitsForTraffic, .waitsForOperator, .waitsForPeer, .established: return []
        case .takenDown: return [cause(.takenDown, reason)]
        case .connecting: return isWanted(status) ? [cause(.ikeConnecting, reason)] : []
        case .unanswered: return [cause(.ikeNoAnswer, reason)] + unreachableCause
        // One that takes any peer listens; what it tells is of a peer that is not there any more, or of a stranger.
        case .failed where configured.remoteAddress == nil: return []
        case .failed: return [cause(status.reason?.code == .sendFailed ? .ikeSendFailed : .ikeFailed, reason)] + unreachableCause
        }
    }

    private var unreachableCause: [Cause] {
        guard let unreachable, now < unreachable.at + Self.unreachableLifetime else { return [] }
        let isItself = unreachable.reporter == unreachable.remote
        let by = isItself ? "The machine \(unreachable.remote) is there and" : "\(unreachable.reporter)"
        let ago = "\(seconds(now - unreachable.at)) s ago"
        switch unreachable.kind {
        case .port:
            return [
                cause(
                    .ikePortUnreachable,
                    "\(by) says that nobody listens on its UDP port \(unreachable.port) (ICMP port unreachable, \(ago)).")
            ]
        case .noWay:
            return [
                cause(
                    .ikeHostUnreachable, "\(by) says that \(unreachable.remote) cannot be reached (ICMP unreachable, \(ago)).")
            ]
        case .prohibited:
            return [
                cause(
                    .ikeProhibited,
                    "\(by) refuses UDP port \(unreachable.port) to \(unreachable.remote) (ICMP prohibited, \(ago)).",
                    ["router": "\(unreachable.reporter)"])
            ]
        }
    }

    private func isWanted(_ status: ConnectionStatus) -> Bool { status.children.contains(where: \.isWanted) }

    // MARK: Established

    private func established(_ status: ConnectionStatus) -> [Cause] {
        var causes = silence(status)
        for child in status.children {
            switch child.state {
            case .installed:
                if let problem = child.problem { causes.append(cause(.childProblem, problem.sentence, child: child.name)) }
                causes += narrowed(child)
                for one in traffic[child.name] ?? [] { causes += judge(one, child, status) }
            case .down where child.reason?.code == .takenDown:
                causes.append(
                    cause(
                        .takenDown, child.reason?.sentence ?? "", ["connection": "\(configured.name)/\(child.name)"],
                        child: child.name))
            case .down where child.isWanted || child.reason != nil:
                causes.append(cause(.childDown, child.reason?.sentence ?? "It is not installed.", child: child.name))
            case .down, .connecting: break
            }
        }
        return causes + blackHole(status)
    }

    /// From the first check that goes unanswered twice: one datagram may be lost anywhere.
    private func silence(_ status: ConnectionStatus) -> [Cause] {
        guard let liveness = status.liveness, let since = liveness.pendingSince, liveness.unanswered > 1 else { return [] }
        return [
            cause(
                .peerSilent,
                "Nothing has come from \(remote) for \(seconds(now - liveness.lastHeard)) s; \(liveness.unanswered) of "
                    + "\(liveness.planned) checks of the last \(seconds(now - since)) s are unanswered.",
                severity: liveness.unanswered > 2 ? .problem : .warning)
        ]
    }

    private func judge(_ traffic: ChildTraffic, _ child: ConnectionStatus.Child, _ status: ConnectionStatus) -> [Cause] {
        var causes: [Cause] = []
        let record = traffic.record
        if let oneWay = record.unansweredOut, isEnough(oneWay, hadOther: record.lastIn != nil) {
            causes.append(noReturn(oneWay, record, child, status))
        }
        if let oneWay = record.unansweredIn, isEnough(oneWay, hadOther: record.lastOut != nil) {
            causes.append(
                cause(
                    .noLocalAnswer,
                    "\(oneWay.packets) packets came out of the tunnel within \(seconds(now - oneWay.since)) s, and none went back"
                        + (record.lastOut.map { " (the last one \(seconds(now - $0)) s ago)." } ?? "."),
                    subnets(child), severity: record.lastOut == nil ? .problem : .warning, child: child.name))
        }
        let loss = traffic.loss
        if loss.expected >= Self.loss.expected, loss.lost >= Self.loss.lost, let percent = traffic.lossPercent,
            percent >= Self.loss.percent
        {
            causes.append(
                cause(
                    .pathLoss,
                    "\(loss.lost) of the last \(loss.expected) packets that the peer sent did not arrive "
                        + "(\(oneDigit(percent)) %, from the gaps in their sequence numbers).", child: child.name))
        }
        return causes
    }

    private func isEnough(_ oneWay: TrafficRecord.OneWay, hadOther: Bool) -> Bool {
        let needed = hadOther ? Self.oneWayAfterBoth : Self.oneWay
        return oneWay.packets >= needed.packets && now >= oneWay.since + needed.duration
    }

    /// IKE passes, or `peerSilent` would hide this. Whether the path or the far side is to blame, this end sees by what else
    /// comes from the peer.
    private func noReturn(
        _ oneWay: TrafficRecord.OneWay, _ record: TrafficRecord, _ child: ConnectionStatus.Child, _ status: ConnectionStatus
    ) -> Cause {
        let went = "\(oneWay.packets) packets went out within \(seconds(now - oneWay.since)) s, and none came back"
        if let last = record.lastIn {
            return cause(
                .trafficNoReturn, "\(went); the last one came \(seconds(now - last)) s ago. IKE passes.", child: child.name)
        }
        let siblingsReceive = traffic.contains { name, records in
            name != child.name && records.contains { $0.record.lastIn.map { $0 >= oneWay.since } ?? false }
        }
        let isEncapsulated = child.path?.isUDPEncapsulated == true
        let far = subnets(child)["remote_subnets"] ?? ""
        if siblingsReceive || isEncapsulated {
            let because =
                siblingsReceive
                ? "Other children of this peer receive, so ESP passes" : "ESP goes in UDP beside IKE, which passes"
            return cause(
                .espNoReturn, "\(went). \(because): the far side does not answer.",
                ["try": "see that the hosts in \(far) are up and have a route back by the far gateway"], child: child.name)
        }
        return cause(
            .espNoReturn,
            "\(went), while IKE passes: ESP (IP protocol 50) is dropped on the path, or the far side does not answer.",
            ["try": "try `nat_traversal: force` at one end, which puts ESP into UDP 4500"], child: child.name)
    }

    private func narrowed(_ child: ConnectionStatus.Child) -> [Cause] {
        // What a peer of several asked for, and addresses that were assigned, are narrower on purpose.
        guard configured.remoteAddress != nil, let plan = configured.children.first(where: { $0.name == child.name }),
            !plan.localIsDynamic, !plan.remoteIsDynamic
        else { return [] }
        let missing =
            Self.uncovered(plan.localSubnets, child.localSelectors) + Self.uncovered(plan.remoteSubnets, child.remoteSelectors)
        guard !missing.isEmpty else { return [] }
        let agreed = "\(child.localSelectors.sentence) <-> \(child.remoteSelectors.sentence)"
        let wanted = "\(Self.list(plan.localSubnets)) <-> \(Self.list(plan.remoteSubnets))"
        return [
            cause(
                .selectorsNarrowed,
                "Configured is \(wanted), agreed was \(agreed): the rest of \(Self.list(missing)) is not carried.",
                child: child.name)
        ]
    }

    /// Prefixes that no single selector covers whole.
    static func uncovered(_ prefixes: [IPPrefix], _ selectors: [TrafficSelector]) -> [IPPrefix] {
        prefixes.filter { prefix in
            !selectors.contains { $0.contains(prefix.address) && $0.contains(prefix.last) }
        }
    }

    private func blackHole(_ status: ConnectionStatus) -> [Cause] {
        guard let probe = status.pathProbe, let finished = probe.finishedAt, now < finished + Self.probeLifetime, !probe.isLossy,
            let passed = probe.passed, let failed = probe.failed, passed < failed
        else { return [] }
        // What leaves is no longer that large: it was mended, or learnt.
        let sizes = traffic.values.flatMap { $0 }.map(\.pathMTU).filter { $0 > 0 }
        if let largest = sizes.max(), largest <= passed { return [] }
        return [
            cause(
                .mtuBlackHole,
                "Datagrams of \(passed) octets reach \(remote), of \(failed) not, and no router says so; up to "
                    + "\(sizes.max() ?? probe.largest) are sent.", ["passed": "\(passed)"])
        ]
    }

    // MARK: It comes and goes

    private func comesAndGoes(_ status: ConnectionStatus) -> [Cause] {
        var causes = status.sharedIdentities.map { shared in
            cause(
                .identityShared,
                "\(shared.addresses.map(\.description).joined(separator: " and ")) take turns as \(shared.identity): each that "
                    + "authenticates ends the tunnel of the other (\(shared.turns) times, last "
                    + "\(seconds(now - shared.at)) s ago).")
        }
        let (deaths, deletions) = status.losses
        if deaths >= Self.lossesThatFlap.some || deletions >= Self.lossesThatFlap.deletions {
            let last = status.lastFailure.map { " Last: \($0.reason)" } ?? ""
            causes.append(
                cause(
                    .flapping, "It was lost \(deaths + deletions) times within the last ten minutes.\(last)",
                    ["identity": status.ike?.localIdentity.description ?? configured.localIdentity.description],
                    severity: deaths >= Self.lossesThatFlap.many ? .problem : .warning))
        }
        return causes
    }

    /// Whoever was refused on a connection that works is somebody else, or was that before.
    private func refused(_ status: ConnectionStatus) -> [Cause] {
        status.refusals.filter { $0.reason != status.reason }.prefix(3).map { refusal in
            let isNotice = status.state == .established || status.situation == .takenDown
            return cause(.refusals, refusal.sentence(now: now), severity: isNotice ? .notice : nil)
        }
    }

    // MARK: Words

    private var remote: String {
        (status?.ike?.path.remote.address ?? configured.remoteAddress)?.description ?? "the peer"
    }

    private func subnets(_ child: ConnectionStatus.Child) -> [String: String] {
        ["local_subnets": child.localSelectors.sentence, "remote_subnets": child.remoteSelectors.sentence]
    }

    private func cause(
        _ code: CauseCode, _ sentence: String, _ values: [String: String] = [:], severity: Cause.Severity? = nil,
        child: String? = nil
    ) -> Cause {
        var all = [
            "connection": configured.name, "remote": remote, "interface": interface ?? "the underlay interface",
            "local": (status?.ike?.path.local.address ?? configured.localAddress).description, "child": child ?? "",
        ]
        all.merge(values) { $1 }
        let places = configured.places
        let lines = code.entry.keys.compactMap { places?.lines[Cause.filled($0, all)] }
        return Cause(code, sentence, severity: severity, values: all, line: lines.first ?? places?.line, child: child)
    }

    private func seconds(_ duration: Duration) -> Int { max(0, Int(duration.components.seconds)) }

    private func oneDigit(_ value: Double) -> Double { (value * 10).rounded() / 10 }

    private static func list(_ prefixes: [IPPrefix]) -> String { prefixes.map(\.description).joined(separator: ", ") }
}
