import Gateway
import IPsec

/// The status as a page for people.
struct StatusPage {
    var report: StatusReport
    /// The report of a while ago, for rates; nil when there is none.
    var before: StatusReport?
    var terminal: Terminal

    var text: String {
        var parts = [title]
        if let load { parts.append(load) }
        parts += (report.warnings ?? []).map { "\(terminal.paint("warning", .yellow))  \($0)" }
        parts += report.connections.map(connection)
        if report.connections.isEmpty { parts.append("No connections are configured.") }
        if !report.workers.isEmpty { parts.append(workers.text(terminal)) }
        let drops = drops
        if !drops.rows.isEmpty { parts.append(drops.text(terminal)) }
        return parts.joined(separator: "\n\n")
    }

    private var title: String {
        "\(terminal.paint(report.gateway, .bold))  culvert \(report.version), up \(Readable.duration(report.uptimeSeconds))"
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
        return "ike  \(counted(ike.halfOpen, "half-open SA"))\(past)"
    }

    // MARK: Connections

    private func connection(_ connection: StatusReport.Connection) -> String {
        let state = terminal.paint(connection.state.rawValue, colour(connection.state))
        var lines = [
            "\(terminal.paint(connection.name, .bold))  \(state)  \(peer(connection.local)) <-> \(peer(connection.remote))"
        ]
        if let reason = connection.reason { lines.append("  \(reason)") }
        if let ike = connection.ike {
            let role = ike.initiator ? "initiator" : "responder"
            let rekey = ike.rekeyInSeconds.map { ", rekey in \(Readable.duration($0))" } ?? ""
            let ppk = ike.ppk ? " with ppk" : ""
            lines.append("  ike  \(ike.proposal)\(ppk), \(role), up \(Readable.duration(ike.establishedSeconds))\(rekey)")
            if let own = ike.localAuthentication, let theirs = ike.remoteAuthentication {
                lines.append("  auth  we by \(own), the peer by \(theirs)")
            }
        }
        if let own = connection.virtualAddresses, !own.isEmpty { lines.append("  our addresses  \(own.joined(separator: ", "))") }
        for peer in connection.peers ?? [] {
            let addresses = peer.virtualAddresses.isEmpty ? "" : ", has \(peer.virtualAddresses.joined(separator: ", "))"
            lines.append(
                "  peer  \(peer.id) at \(peer.address):\(peer.port), up \(Readable.duration(peer.establishedSeconds))\(addresses)"
            )
        }
        for certificate in connection.certificates {
            guard let warning = certificate.warning else { continue }
            lines.append("  \(terminal.paint("\(certificate.file ?? "the peer") \(warning).", .yellow))")
        }
        for child in connection.children { lines += self.child(child, of: connection) }
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
        var lines = ["  \(terminal.paint(child.name, .bold))  \(state)  \(subnets)"]
        if let reason = child.reason { lines.append("    \(reason)") }
        if child.state == .installed {
            let encapsulation = child.encapsulation == .udp ? " in UDP" : ""
            let rekey = child.rekeyInSeconds.map { ", rekey in \(Readable.duration($0))" } ?? ""
            lines.append(
                "    esp\(encapsulation) \(child.proposal ?? "-"), spi in \(child.spiIn ?? "-") out \(child.spiOut ?? "-"), "
                    + "\(counted(child.rekeys, "rekey"))\(rekey)")
        }
        if child.packetsIn != 0 || child.packetsOut != 0 || child.state == .installed {
            let past = before?.connections.first { $0.name == connection.name }?.children.first { $0.name == child.name }
            lines.append(
                "    in  \(traffic(child.packetsIn, child.bytesIn, past?.bytesIn))   "
                    + "out  \(traffic(child.packetsOut, child.bytesOut, past?.bytesOut))")
        }
        let drops = child.drops.filter { $0.value > 0 }.sorted { $0.key < $1.key }
        if !drops.isEmpty {
            lines.append("    dropped  " + drops.map { "\($0.key) \(Readable.count($0.value))" }.joined(separator: ", "))
        }
        return lines
    }

    private func traffic(_ packets: UInt64, _ bytes: UInt64, _ bytesBefore: UInt64?) -> String {
        var text = "\(Readable.count(packets)) packets, \(Readable.bytes(bytes))"
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
