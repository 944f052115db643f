import Gateway
import IPsec

/// The status as a page for people: a summary, then what is in trouble, then the rest.
struct StatusPage {
    /// More connections than this are one line each, unless in trouble.
    static let mostInFull = 12
    /// Of those in trouble, told in full.
    static let mostTroubledInFull = 24

    var report: StatusReport
    /// The report of a while ago, for rates; nil when there is none.
    var before: StatusReport?
    var terminal: Terminal
    /// One line per connection.
    var isShort = false
    /// Only what is in trouble.
    var onlyFailed = false

    var text: String {
        var parts = [title]
        if let load { parts.append(load) }
        let gateway = report.causes?.filter { $0.severity != .notice } ?? []
        if !gateway.isEmpty { parts.append(gateway.map { told($0, indent: "") }.joined(separator: "\n")) }
        let all = Self.ordered(report.connections)
        let troubled = all.filter(\.isTroubled)
        let shown = onlyFailed ? troubled : all
        if report.connections.isEmpty {
            parts.append("No connections are configured.")
        } else if shown.isEmpty {
            parts.append("Nothing is in trouble.")
        }
        if isShort {
            if !shown.isEmpty { parts.append(lines(shown)) }
            return parts.joined(separator: "\n\n")
        }
        let inFull = shown.count <= Self.mostInFull ? shown : Array(troubled.prefix(Self.mostTroubledInFull))
        parts += inFull.map(connection)
        let rest = shown.dropFirst(inFull.count)
        if !rest.isEmpty { parts.append(lines(Array(rest))) }
        let refused = report.causes?.filter { $0.code == .refusals && $0.severity == .notice } ?? []
        if !refused.isEmpty {
            parts.append(refused.map { terminal.wrap($0.sentence, indent: "refused  ") }.joined(separator: "\n"))
        }
        guard !onlyFailed else { return parts.joined(separator: "\n\n") }
        if !report.workers.isEmpty { parts.append(workers.text(terminal)) }
        let drops = drops
        if !drops.rows.isEmpty { parts.append(drops.text(terminal)) }
        return parts.joined(separator: "\n\n")
    }

    /// Those in trouble first, then those that are not up; otherwise in the order of the file.
    static func ordered(_ connections: [StatusReport.Connection]) -> [StatusReport.Connection] {
        func rank(_ connection: StatusReport.Connection) -> Int {
            switch connection.worst {
            case .problem: 0
            case .warning: 1
            case .notice, nil: connection.isAsItShouldBe ? (connection.state == .established ? 4 : 3) : 2
            }
        }
        return connections.enumerated().sorted { (rank($0.element), $0.offset) < (rank($1.element), $1.offset) }.map(\.element)
    }

    private var title: String {
        let head =
            "\(terminal.paint(report.gateway, .bold))  culvert \(report.version), up \(Readable.duration(report.uptimeSeconds))"
        guard !report.connections.isEmpty else { return head }
        return head + "\n" + terminal.wrap(StatusSummary(report).text)
    }

    /// Only while somebody knocks, or when it once was too much.
    private var load: String? {
        guard let ike = report.ike else { return nil }
        let counts = [
            (ike.cookiesSent, "asked for a cookie"), (ike.keyExchangesDeferred, "put off for want of time"),
            (ike.halfOpenRefused, "refused by a limit"), (ike.halfOpenEvicted, "taken and later given up for others"),
        ]
        let told = counts.filter { $0.0 > 0 }.map { "\(Readable.count(UInt64(clamping: $0.0))) \($0.1)" }
        guard ike.halfOpen > 0 || !told.isEmpty else { return nil }
        let past = told.isEmpty ? "" : "; first messages since the start: \(told.joined(separator: ", "))"
        return terminal.wrap("\(counted(ike.halfOpen, "half-open SA"))\(past)", indent: "ike  ")
    }

    // MARK: Short

    /// One line per connection. The columns that a narrow terminal has no room for are left out, least important first.
    private func lines(_ connections: [StatusReport.Connection]) -> String {
        let full = Table(
            headings: ["connection", "state", "since", "in", "out", "children", "peer", "trouble"],
            alignments: [.left, .left, .right, .right, .right, .right, .left, .left])
        var columns = Array(full.headings.indices)
        let rows = connections.map(cells)
        func width() -> Int {
            columns.map { column in max(full.headings[column].count, rows.map { $0[column].text.count }.max() ?? 0) }
                .reduce(0, +) + 2 * (columns.count - 1)
        }
        for column in [6, 5, 2] where terminal.width.map({ width() > $0 }) ?? false { columns.removeAll { $0 == column } }
        var table = Table(headings: columns.map { full.headings[$0] }, alignments: columns.map { full.alignments[$0] })
        table.rows = rows.map { row in columns.map { row[$0] } }
        return table.text(terminal)
    }

    private func cells(_ connection: StatusReport.Connection) -> [Table.Cell] {
        let installed = connection.children.count { $0.state == .installed }
        let trouble = connection.causes.first { $0.severity != .notice }
        return [
            Table.Cell(connection.name, .bold), Table.Cell(connection.state.rawValue, colour(connection.state)),
            Table.Cell(Readable.age(connection.changedSeconds)),
            Table.Cell(Readable.age(connection.children.compactMap(\.lastInSeconds).min())),
            Table.Cell(Readable.age(connection.children.compactMap(\.lastOutSeconds).min())),
            Table.Cell("\(installed)/\(connection.children.count)"), Table.Cell(connection.remote.address),
            Table.Cell(trouble?.code.rawValue ?? "", trouble.map { colour($0.severity) }),
        ]
    }

    // MARK: In full

    private func connection(_ connection: StatusReport.Connection) -> String {
        let state = terminal.paint(connection.state.rawValue, colour(connection.state))
        let since = connection.changedSeconds.map { " for \(Readable.duration($0))" } ?? ""
        let ends = "\(peer(connection.local)) <-> \(peer(connection.remote))"
        var lines = ["\(terminal.paint(connection.name, .bold))  \(state)\(since)"]
        let plainWidth = connection.name.count + 2 + connection.state.rawValue.count + since.count + 2 + ends.count
        if plainWidth <= terminal.width ?? .max {
            lines[0] += "  \(ends)"
        } else {
            lines.append(terminal.wrap(ends, indent: "  "))
        }
        if let reason = connection.reason { lines.append(terminal.wrap(reason, indent: "  ")) }
        for cause in connection.causes where cause.severity != .notice {
            // What the reason has said already has only its remedy left.
            if cause.sentence == connection.reason {
                if !cause.remedy.isEmpty { lines.append(terminal.wrap(cause.remedy, indent: "  -> ")) }
            } else {
                lines.append(told(cause, indent: "  "))
            }
        }
        for cause in connection.causes where cause.code == .refusals && cause.severity == .notice {
            lines.append(terminal.wrap(cause.sentence, indent: "  refused  "))
        }
        if let ike = connection.ike {
            let role = ike.initiator ? "initiator" : "responder"
            let rekey = ike.rekeyInSeconds.map { ", rekey in \(Readable.duration($0))" } ?? ""
            let ppk = ike.ppk ? " with ppk" : ""
            lines.append(
                terminal.wrap(
                    "\(ike.proposal)\(ppk), \(role), up \(Readable.duration(ike.establishedSeconds))\(rekey)", indent: "  ike  "))
            if let own = ike.localAuthentication, let theirs = ike.remoteAuthentication {
                lines.append(terminal.wrap("we by \(own), the peer by \(theirs)", indent: "  auth  "))
            }
        }
        if let own = connection.virtualAddresses, !own.isEmpty {
            lines.append(terminal.wrap(own.joined(separator: ", "), indent: "  our addresses  "))
        }
        for peer in connection.peers ?? [] {
            let addresses = peer.virtualAddresses.isEmpty ? "" : ", has \(peer.virtualAddresses.joined(separator: ", "))"
            lines.append(
                terminal.wrap(
                    "\(peer.id) at \(peer.address):\(peer.port), up \(Readable.duration(peer.establishedSeconds))\(addresses)",
                    indent: "  peer  "))
        }
        for child in connection.children { lines += self.child(child, of: connection) }
        if connection.state != .established, let failure = connection.lastFailure, failure.reason != connection.reason {
            lines.append(
                terminal.wrap("\(Readable.duration(failure.secondsAgo)) ago: \(failure.reason)", indent: "  last failure  "))
        }
        return lines.joined(separator: "\n")
    }

    private func told(_ cause: Cause, indent: String) -> String {
        let head = terminal.paint("\(cause.title)", colour(cause.severity))
        let child = cause.child.map { " (child \($0))" } ?? ""
        var lines = ["\(indent)\(head)\(child)", terminal.wrap(cause.sentence, indent: indent + "  ")]
        if !cause.remedy.isEmpty { lines.append(terminal.wrap(cause.remedy, indent: indent + "  -> ")) }
        return lines.joined(separator: "\n")
    }

    private func peer(_ peer: StatusReport.Peer) -> String {
        let port = peer.port == 500 ? "" : ":\(peer.port)"
        let nat = peer.nat ? ", behind NAT" : ""
        // RFC 5952 §6: brackets keep an IPv6 address and a port apart.
        let address = peer.address.contains(":") && !port.isEmpty ? "[\(peer.address)]" : peer.address
        return peer.id == peer.address ? "\(address)\(port)\(nat)" : "\(address)\(port) (\(peer.id)\(nat))"
    }

    private func child(_ child: StatusReport.Child, of connection: StatusReport.Connection) -> [String] {
        let state = terminal.paint(child.state.rawValue, colour(child.state))
        // A side without subnets is an address that is not known yet.
        let sides = [child.localSubnets, child.remoteSubnets].map { $0.isEmpty ? "dynamic" : $0.joined(separator: ", ") }
        let subnets = sides.joined(separator: " <-> ")
        var lines = ["  \(terminal.paint(child.name, .bold))  \(state)"]
        let plainWidth = 4 + child.name.count + child.state.rawValue.count + 2 + subnets.count
        if plainWidth <= terminal.width ?? .max {
            lines[0] += "  \(subnets)"
        } else {
            lines.append(terminal.wrap(subnets, indent: "    "))
        }
        if let reason = child.reason, !connection.causes.contains(where: { $0.sentence == reason }) {
            lines.append(terminal.wrap(reason, indent: "    "))
        }
        if child.state == .installed {
            let encapsulation = child.encapsulation == .udp ? " in UDP" : ""
            let rekey = child.rekeyInSeconds.map { ", rekey in \(Readable.duration($0))" } ?? ""
            lines.append(
                terminal.wrap(
                    "\(child.proposal ?? "-")\(child.pfsGroup.map { " (\($0))" } ?? ""), spi in \(child.spiIn ?? "-") out "
                        + "\(child.spiOut ?? "-"), \(counted(child.rekeys, "rekey"))\(rekey)",
                    indent: "    esp\(encapsulation) "))
        }
        if child.packetsIn != 0 || child.packetsOut != 0 || child.state == .installed {
            let past = before?.connections.first { $0.name == connection.name }?.children.first { $0.name == child.name }
            let loss = child.lossPercent.flatMap { $0 > 0 ? ", \(Readable.fixed($0, 1)) % lost" : nil } ?? ""
            lines.append("    in   \(traffic(child.packetsIn, child.bytesIn, past?.bytesIn, child.lastInSeconds))\(loss)")
            lines.append("    out  \(traffic(child.packetsOut, child.bytesOut, past?.bytesOut, child.lastOutSeconds))")
        }
        let drops = child.drops.filter { $0.value > 0 }.sorted { $0.key < $1.key }
        if !drops.isEmpty {
            let list = drops.map { "\($0.key) \(Readable.count($0.value))" }.joined(separator: ", ")
            lines.append(terminal.wrap(list, indent: "    dropped  "))
        }
        return lines
    }

    private func traffic(_ packets: UInt64, _ bytes: UInt64, _ bytesBefore: UInt64?, _ age: Double?) -> String {
        var text = "\(Readable.count(packets)) packets, \(Readable.bytes(bytes))"
        if let age { text += ", last \(Readable.duration(age)) ago" }
        if let before, let bytesBefore, bytes >= bytesBefore, report.uptimeSeconds > before.uptimeSeconds {
            let rate = Double(bytes - bytesBefore) * 8 / (report.uptimeSeconds - before.uptimeSeconds)
            text += ", \(terminal.paint(Readable.bitRate(rate), .cyan))"
        }
        return text
    }

    private func colour(_ state: StatusReport.Connection.State) -> Terminal.Colour {
        switch state {
        case .established: .green
        case .connecting: .yellow
        case .failed: .red
        case .down: .dim
        }
    }

    private func colour(_ state: StatusReport.Child.State) -> Terminal.Colour {
        switch state {
        case .installed: .green
        case .connecting: .yellow
        case .down: .dim
        }
    }

    private func colour(_ severity: Cause.Severity) -> Terminal.Colour {
        switch severity {
        case .problem: .red
        case .warning: .yellow
        case .notice: .dim
        }
    }

    // MARK: Workers and drops

    private var workers: Table {
        var table = Table(
            headings: ["worker", "cpu", "node", "engine", "xdp", "busy", "packets in", "packets out"],
            alignments: [.right, .right, .right, .left, .left, .right, .right, .right])
        for worker in report.workers {
            table.rows.append(
                [
                    "\(worker.id)", "\(worker.cpu)", "\(worker.numaNode)", worker.engine, worker.xdpMode,
                    "\(Readable.fixed(worker.busyPercent, 1)) %", Readable.count(worker.packetsIn),
                    Readable.count(worker.packetsOut),
                ].map { Table.Cell($0) })
        }
        return table
    }

    /// What was lost and why; nothing that is zero.
    private var drops: Table {
        var table = Table(headings: ["dropped", "packets", "because"], alignments: [.left, .right, .left])
        for (name, count) in report.drops.filter({ $0.value > 0 }).sorted(by: { ($1.value, $0.key) < ($0.value, $1.key) }) {
            let text = DropReason(name: name)?.text ?? ""
            table.rows.append([Table.Cell(name, .yellow), Table.Cell(Readable.count(count)), Table.Cell(text)])
        }
        return table
    }
}

/// How many connections and children there are in which state, in one sentence.
struct StatusSummary {
    var text: String

    init(_ report: StatusReport) {
        let all = report.connections
        let states: [StatusReport.Connection.State] = [.established, .connecting, .failed, .down]
        let counts = states.map { state in (state, all.count { $0.state == state }) }.filter { $0.1 > 0 }
        let children = all.flatMap(\.children)
        let installed = children.count { $0.state == .installed }
        let troubled = all.count(where: \.isTroubled)
        text =
            "\(counted(all.count, "connection")): \(counts.map { "\($0.1) \($0.0.rawValue)" }.joined(separator: ", ")); "
            + "\(installed) of \(counted(children.count, "child", plural: "children")) installed"
            + (troubled > 0 ? "; \(troubled) in trouble" : "")
    }
}

extension StatusReport.Connection {
    /// The worst of its causes.
    var worst: Cause.Severity? { Cause.Severity.allCases.first { severity in causes.contains { $0.severity == severity } } }

    var isTroubled: Bool { worst == .problem || worst == .warning || !isAsItShouldBe }

    /// All that should be up is up: what somebody wants is installed, and nothing has failed.
    var isAsItShouldBe: Bool {
        let missing = children.contains { $0.wanted && $0.state != .installed }
        return !missing && (state == .established || !children.contains(where: \.wanted)) && !(state == .failed && peers == nil)
    }
}
