public import Configuration
import Crypto
import Dataplane
import IKE
import IPsec
import Wire

/// What a configuration takes of the machine, for who looks at the machine without a gateway.
public enum MachineNeeds {
    /// Octets of the longest IP packet that the largest frames receive.
    public static let longestPacketBytes = DataplaneSettings.packetBytesLimit(frameBytes: SettingsMapping.largeFrameBytes)

    /// Huge pages of 2 MiB that the frames of all workers lie on.
    /// - Parameters:
    ///   - queues: receive queues of each port that exists now.
    ///   - mtus: octets, of each port that exists now.
    public static func hugePages(_ configured: GatewayConfiguration.Dataplane, queues: [Int], mtus: [Int]) -> Int {
        SettingsMapping.dataplaneSettings(
            configured, allowedCPUs: LinuxKernel.allowedCPUs(), queues: queues, mtus: mtus, bestEngine: .best, numaNode: nil
        ).hugePageCount
    }
}

/// From the configuration's words to what core and data plane are made with.
enum SettingsMapping {
    /// Octets of a frame that are not the packet: XDP's headroom, Ethernet header, ESP in UDP with the largest padding, ICV.
    static let frameOverheadBytes = 384
    static let smallFrameBytes = 2048
    static let largeFrameBytes = 4096

    /// - Parameters:
    ///   - allowedCPUs: those this process may run on, ascending.
    ///   - queues: receive queues of each port that exists now.
    ///   - mtus: octets, of each port that exists now.
    static func dataplaneSettings(
        _ configured: GatewayConfiguration.Dataplane, allowedCPUs: [Int], queues: [Int], mtus: [Int], bestEngine: EngineKind,
        numaNode: Int?
    ) -> DataplaneSettings {
        let engine: EngineKind =
            switch configured.engine {
            case .auto: bestEngine
            case .openssl: .openssl
            case .ipsecMB: .ipsecMB
            }
        let mode: XDPModePolicy =
            switch configured.xdpMode {
            case .auto: .auto
            case .zeroCopy: .zeroCopy
            case .native: .native
            case .generic: .generic
            }
        let pages: HugePagePolicy =
            switch configured.hugePages {
            case .auto: .auto
            case .require: .require
            case .off: .off
            }
        return DataplaneSettings(
            workerCPUs: workerCPUs(configured.workers, allowedCPUs: allowedCPUs, queues: queues), engine: engine, xdpMode: mode,
            busyPoll: configured.poll == .busy, hugePages: pages, framesPerWorker: configured.framesPerWorker,
            frameBytes: (mtus.max() ?? 0) + frameOverheadBytes > smallFrameBytes ? largeFrameBytes : smallFrameBytes,
            numaNode: numaNode)
    }

    /// `auto`: as many workers as the port with most queues can feed, at most one per CPU. A count above the CPUs shares them.
    static func workerCPUs(_ workers: GatewayConfiguration.Dataplane.Workers, allowedCPUs: [Int], queues: [Int]) -> [Int] {
        let cpus = allowedCPUs.isEmpty ? [0] : allowedCPUs
        switch workers {
        case .auto: return Array(cpus.prefix(max(1, queues.max() ?? 1)))
        case .count(let count): return (0..<max(1, count)).map { cpus[$0 % cpus.count] }
        case .cpus(let list): return list.isEmpty ? [cpus[0]] : list
        }
    }

    static func role(_ role: GatewayConfiguration.Interface.Role) -> PortRole {
        switch role {
        case .underlay: .underlay
        case .protected: .protected
        case .both: [.underlay, .protected]
        }
    }

    /// The core's view of a connection; the files that it names are read by `credentials`.
    static func plan(
        _ connection: Connection, credentials: CredentialLoading
    ) throws(CredentialLoading.Problem) -> ConnectionPlan {
        var plan = ConnectionPlan(
            name: connection.name, localAddress: connection.localAddress, remoteAddress: connection.remoteAddress,
            localIdentity: connection.localIdentity, remotePattern: connection.remotePattern,
            localAuthentication: try credentials.localAuthentication(connection),
            remoteAuthentication: try credentials.remoteAuthentication(connection),
            proposals: connection.ikeProposals, lifetime: connection.ikeLifetime,
            dpdInterval: connection.dpdInterval, natTraversal: connection.natTraversal,
            children: connection.children.map { Self.plan($0) })
        (plan.rsaPadding, plan.childless) = (connection.rsaPadding, connection.childless)
        plan.allowsSHA1Signatures = connection.allowsSHA1Signatures
        plan.paths = connection.paths
        plan.places = connection.places
        plan.postquantumKey = connection.postquantumKey.map {
            PostquantumKey(
                identifier: Array($0.identifier.utf8), secret: credentials.secret($0.secret), isRequired: $0.isRequired)
        }
        address(&plan, as: connection)
        (plan.dpdAction, plan.reauthTime) = (connection.dpdAction, connection.reauthTime)
        return plan
    }

    static func plan(_ child: Child) -> ChildPlan {
        var plan = ChildPlan(
            name: child.name, localSelectors: child.localSubnets.map { TrafficSelector($0) },
            remoteSelectors: child.remoteIsDynamic ? [] : child.remoteSubnets.map { TrafficSelector($0) },
            proposals: child.espProposals,
            lifetime: child.lifetime, lifetimeBytes: child.lifetimeBytes, lifetimePackets: child.lifetimePackets,
            replayWindowPackets: child.replayWindowPackets, start: child.start)
        (plan.localIsAssigned, plan.remoteIsAssigned) = (child.localIsDynamic, child.remoteIsDynamic)
        plan.peers = child.peers
        plan.sizes = child.sizes
        return plan
    }

    /// What this version cannot run although the file is well-formed: a sentence for each. `run` refuses with 78.
    static func unsupported(_ configuration: GatewayConfiguration) -> [String] {
        var sentences: [String] = []
        var childCount = 0
        for connection in configuration.connections {
            let name = "Connection \(connection.name)"
            for child in connection.children {
                childCount += 1
                if child.mode == .transport {
                    sentences.append("\(name), child \(child.name): transport mode is not available in this version; use tunnel.")
                }
                let fixed = child.localSubnets + (child.remoteIsDynamic ? [] : child.remoteSubnets)
                if !fixed.allSatisfy(\.address.isIPv4) {
                    sentences.append(
                        "\(name), child \(child.name): IPv6 subnets are not available in this version; use IPv4 subnets.")
                }
            }
        }
        if childCount > ChildTable.limit {
            sentences.append("The file has \(childCount) children; this version carries at most \(ChildTable.limit).")
        }
        return sentences
    }
}
