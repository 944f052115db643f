import Configuration
import Crypto
import Gateway
import Glibc
import Platform

/// One thing looked at: what was found, and what to do when it is not right.
struct Finding: Encodable {
    enum Verdict: String, Encodable { case ok, warn, fail }
    var verdict: Verdict
    var subject: String
    var found: String
    var remedy: String = ""
}

/// Is this machine ready? Looks only, changes nothing.
struct DoctorChecks {
    /// nil: no file was named, or it is refused.
    var configuration: GatewayConfiguration?
    /// A gateway answers on the control socket: what it uses is not in the way.
    var gatewayRuns = false

    func all() -> [Finding] {
        kernel() + privileges() + processor() + memory() + interfaces() + routes() + addresses() + ports()
    }

    // MARK: Kernel and privileges

    private func kernel() -> [Finding] {
        var findings: [Finding] = []
        let release = Machine.line("/proc/sys/kernel/osrelease") ?? "unknown"
        if let version = Machine.kernelVersion {
            let number = version.major * 1000 + version.minor
            // 5.9 brought libxdp's dispatcher features, 5.16 neighbours that the kernel keeps alive (NTF_MANAGED).
            findings.append(
                number < 5009
                    ? Finding(verdict: .fail, subject: "kernel", found: release, remedy: "use Linux 5.15 or newer")
                    : number < 5016
                        ? Finding(
                            verdict: .warn, subject: "kernel", found: release,
                            remedy: "Linux 5.16 or newer keeps next hops alive by itself; 6.1 and newer are tested")
                        : Finding(verdict: .ok, subject: "kernel", found: release))
        } else {
            findings.append(Finding(verdict: .warn, subject: "kernel", found: release, remedy: "use Linux 5.15 or newer"))
        }
        switch Machine.xdpSocketError {
        case 0: findings.append(Finding(verdict: .ok, subject: "AF_XDP", found: "sockets can be opened"))
        case EPERM, EACCES:
            findings.append(
                Finding(verdict: .fail, subject: "AF_XDP", found: "not permitted", remedy: "run as root or with CAP_NET_RAW"))
        case let code:
            findings.append(
                Finding(
                    verdict: .fail, subject: "AF_XDP", found: String(cString: strerror(code)),
                    remedy: "the kernel needs CONFIG_XDP_SOCKETS"))
        }
        findings.append(
            Machine.exists("/dev/net/tun")
                ? Finding(verdict: .ok, subject: "TUN", found: "/dev/net/tun")
                : Finding(
                    verdict: .fail, subject: "TUN", found: "no /dev/net/tun",
                    remedy: "`modprobe tun`, or pass the device into the container"))
        return findings
    }

    private func privileges() -> [Finding] {
        let held = Machine.capabilities
        func has(_ bit: UInt64) -> Bool { held & 1 << bit != 0 }
        var findings: [Finding] = []
        let needed: [(name: String, isHeld: Bool, purpose: String)] = [
            ("CAP_NET_ADMIN", has(12), "attach XDP, set routes and TUN"),
            ("CAP_NET_RAW", has(13), "AF_XDP, raw ESP and ICMP sockets"),
            ("CAP_NET_BIND_SERVICE", has(10), "UDP port 500"),
            ("CAP_BPF or CAP_SYS_ADMIN", has(39) || has(21), "load the XDP program"),
        ]
        for privilege in needed where !privilege.isHeld {
            findings.append(
                Finding(
                    verdict: .fail, subject: "privilege", found: "\(privilege.name) is missing (\(privilege.purpose))",
                    remedy: "run as root, or give the service this capability"))
        }
        if findings.isEmpty { findings.append(Finding(verdict: .ok, subject: "privilege", found: "all that are needed")) }
        if !has(14), let limit = Machine.lockedMemoryLimit, limit < 64 << 20 {
            findings.append(
                Finding(
                    verdict: .warn, subject: "locked memory", found: "limit \(Readable.bytes(limit)), no CAP_IPC_LOCK",
                    remedy: "`LimitMEMLOCK=infinity` in the service, or `ulimit -l unlimited`"))
        }
        return findings
    }

    // MARK: Processor and memory

    private func processor() -> [Finding] {
        let flags = Machine.cpuFlags
        let engines = EngineKind.available.map(\.rawValue).joined(separator: ", ")
        guard flags.contains("aes") else {
            return [
                Finding(
                    verdict: .warn, subject: "processor", found: "no AES instructions; engines: \(engines)",
                    remedy: "expect a tenth of the usual throughput; in a virtual machine pass the host's CPU through")
            ]
        }
        let extras = ["vaes", "avx512f"].filter { flags.contains($0) }
        let list = (["aes"] + extras).joined(separator: ", ")
        let cpus = sysconf(Int32(_SC_NPROCESSORS_ONLN))
        return [Finding(verdict: .ok, subject: "processor", found: "\(cpus) CPUs with \(list); engines: \(engines)")]
    }

    private func memory() -> [Finding] {
        var findings: [Finding] = []
        let nodes = Machine.line("/sys/devices/system/node/online") ?? "0"
        findings.append(Finding(verdict: .ok, subject: "NUMA", found: nodes == "0" ? "one node" : "nodes \(nodes)"))
        let base = "/sys/kernel/mm/hugepages/hugepages-2048kB"
        let total = Machine.number("\(base)/nr_hugepages") ?? 0
        let free = Machine.number("\(base)/free_hugepages") ?? 0
        let policy = configuration?.dataplane.hugePages ?? .auto
        if policy == .off {
            findings.append(Finding(verdict: .ok, subject: "huge pages", found: "off by configuration"))
        } else if free > 0 || gatewayRuns && total > 0 {
            findings.append(Finding(verdict: .ok, subject: "huge pages", found: "\(free) of \(total) of 2 MB are free"))
        } else {
            findings.append(
                Finding(
                    verdict: policy == .require ? .fail : .warn, subject: "huge pages",
                    found: "\(free) of \(total) of 2 MB are free", remedy: hugePageRemedy))
        }
        return findings
    }

    /// As many as `culvert run` asks for.
    private var hugePageRemedy: String {
        guard let configuration else {
            return "without them packets cost more TLB misses; with --config FILE this tells how many to reserve"
        }
        let ports = configuration.interfaces.compactMap { Machine.Interface($0.name) }
        let count = MachineNeeds.hugePages(
            configuration.dataplane, queues: ports.map { max(1, $0.receiveQueues) }, mtus: ports.map(\.mtu))
        return "`sysctl vm.nr_hugepages=\(count)` for the frames of this configuration; without them packets cost more TLB misses"
    }

    // MARK: Interfaces and addresses

    func interfaces() -> [Finding] {
        guard let configuration else {
            return Machine.names(in: "/sys/class/net").filter { $0 != "lo" }.compactMap { Machine.Interface($0) }.map {
                interface in
                Finding(verdict: .ok, subject: interface.name, found: description(interface))
            }
        }
        return configuration.interfaces.map { configured in
            guard let interface = Machine.Interface(configured.name) else {
                let known = Machine.names(in: "/sys/class/net").filter { $0 != "lo" }.joined(separator: ", ")
                return Finding(
                    verdict: .fail, subject: configured.name, found: "there is no such interface",
                    remedy: "create it or correct `interfaces`; here are: \(known.isEmpty ? "none" : known)")
            }
            guard interface.state != "down" else {
                return Finding(
                    verdict: .fail, subject: interface.name, found: description(interface),
                    remedy: "`ip link set \(interface.name) up`; check the cable")
            }
            if configured.role != .protected, interface.mtu < 1300 {
                return Finding(
                    verdict: .warn, subject: interface.name, found: description(interface),
                    remedy: "ESP takes some 60 bytes of each packet; raise the MTU")
            }
            let problem = supportProblem(interface) ?? attachmentProblem(interface) ?? sizeProblem(interface)
            if let problem { return problem }
            return Finding(verdict: .ok, subject: interface.name, found: "\(configured.role.rawValue), \(description(interface))")
        }
    }

    /// What the interface's kind and its master mean.
    private func supportProblem(_ interface: Machine.Interface) -> Finding? {
        guard let links = try? Netlink().links(), let link = links.first(where: { $0.name == interface.name }) else { return nil }
        let master = link.masterIndex.flatMap { index in links.first { $0.index == index } }
        if let refusal = LinkSupport.refusal(link.name, master: master?.name, masterKind: master?.kind) {
            return Finding(verdict: .fail, subject: interface.name, found: description(interface), remedy: refusal)
        }
        guard let slowness = LinkSupport.slowness(link.name, kind: link.kind) else { return nil }
        return Finding(verdict: .warn, subject: interface.name, found: description(interface), remedy: slowness)
    }

    /// Routes that the kernel obeys and the workers do not.
    func routes() -> [Finding] {
        ((try? RouteSupport.unsupported()) ?? []).map { Finding(verdict: .warn, subject: "routes", found: $0, remedy: "") }
    }

    private func sizeProblem(_ interface: Machine.Interface) -> Finding? {
        let limit = MachineNeeds.longestPacketBytes
        guard interface.mtu > limit else { return nil }
        return Finding(
            verdict: .warn, subject: interface.name, found: description(interface),
            remedy: "packets of more than \(limit) octets are longer than a frame and take the slow way through the kernel; "
                + "lower the MTU to \(limit) if nothing larger comes")
    }

    /// While a gateway runs, its XDP program is on each of its interfaces.
    private func attachmentProblem(_ interface: Machine.Interface) -> Finding? {
        guard gatewayRuns else { return nil }
        let index = Int(if_nametoindex(interface.name))
        guard index > 0, let attached = try? Machine.xdpProgram(interfaceIndex: index) else { return nil }
        switch attached {
        case .ours: return nil
        case .none:
            return Finding(
                verdict: .fail, subject: interface.name, found: "the gateway is not attached to it (no XDP program there)",
                remedy: "the gateway's log says why; it tries again by itself")
        case .another(let name):
            return Finding(
                verdict: .fail, subject: interface.name, found: "another XDP program is attached to it: \(name)",
                remedy: "detach that (`ip link set dev \(interface.name) xdp off`), or take the interface out of `interfaces`")
        }
    }

    private func description(_ interface: Machine.Interface) -> String {
        var parts = [interface.state, "MTU \(interface.mtu)"]
        parts.append("\(interface.receiveQueues) rx and \(interface.transmitQueues) tx queues")
        if let driver = interface.driver { parts.append("driver \(driver)") }
        if let node = interface.numaNode { parts.append("node \(node)") }
        return parts.joined(separator: ", ")
    }

    private func addresses() -> [Finding] {
        guard let configuration else { return [] }
        let present = Machine.addresses
        var findings: [Finding] = []
        var seen: Set<String> = []
        for connection in configuration.connections {
            // Of several one is enough.
            let isCovered = connection.localAddresses.contains { local in present.contains { $0.address == "\(local)" } }
            for local in connection.localAddresses where seen.insert("\(local)").inserted {
                findings.append(finding("\(local)", of: connection.name, present, isCovered: isCovered))
            }
        }
        return findings
    }

    private func finding(
        _ address: String, of connection: String, _ present: [(address: String, interface: String)], isCovered: Bool
    )
        -> Finding
    {
        if let found = present.first(where: { $0.address == address }) {
            return Finding(verdict: .ok, subject: address, found: "on \(found.interface)")
        }
        return Finding(
            verdict: isCovered ? .ok : .fail, subject: address,
            found: "on no interface (\(isCovered ? "another" : "local") address of \(connection))",
            remedy: isCovered ? "" : "add it to the underlay interface, or correct `local.address`")
    }

    /// Another IKE daemon (strongSwan, Libreswan) on our ports, or a gateway on another socket.
    private func ports() -> [Finding] {
        guard !gatewayRuns else { return [Finding(verdict: .ok, subject: "gateway", found: "answers on the control socket")] }
        let taken = Machine.boundUDPPorts.intersection([500, 4500]).sorted()
        guard !taken.isEmpty else { return [Finding(verdict: .ok, subject: "UDP 500, 4500", found: "free")] }
        return [
            Finding(
                verdict: .fail, subject: "UDP 500, 4500", found: "\(taken.map(String.init).joined(separator: " and ")) in use",
                remedy: portRemedy)
        ]
    }

    private var portRemedy: String {
        let gateways = Machine.processes(named: "culvert", command: "run").map(String.init).joined(separator: ", ")
        guard !gateways.isEmpty else { return "stop the other IKE daemon: `ss -lunp` names it" }
        return "Culvert itself runs (process \(gateways)) with another control socket: name it with --socket; "
            + "otherwise stop the IKE daemon that `ss -lunp` names"
    }
}
