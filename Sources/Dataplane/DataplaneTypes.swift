public import Crypto
public import IPsec
import Platform
public import Wire

public enum HugePagePolicy: String, Sendable { case auto, require, off }
public enum XDPModePolicy: String, Sendable { case auto, zeroCopy = "zero-copy", native, generic }

/// What the data plane is made of; fixed for its life.
public struct DataplaneSettings: Sendable {
    /// One worker per entry, pinned to that CPU.
    public var workerCPUs: [Int]
    public var engine: EngineKind
    public var xdpMode: XDPModePolicy
    public var busyPoll: Bool
    public var hugePages: HugePagePolicy
    public var framesPerWorker: Int
    /// 2048, or 4096 when an MTU needs it.
    public var frameBytes: Int
    public var numaNode: Int?

    public init(
        workerCPUs: [Int], engine: EngineKind = .openssl, xdpMode: XDPModePolicy = .auto, busyPoll: Bool = false,
        hugePages: HugePagePolicy = .auto, framesPerWorker: Int = 8192, frameBytes: Int = 2048, numaNode: Int? = nil
    ) {
        (self.workerCPUs, self.engine, self.xdpMode, self.busyPoll) = (workerCPUs, engine, xdpMode, busyPoll)
        (self.hugePages, self.framesPerWorker, self.frameBytes, self.numaNode) = (
            hugePages, framesPerWorker, frameBytes, numaNode
        )
    }

    /// Octets of all workers' frames.
    public var frameMemoryBytes: Int { workerCPUs.count * framesPerWorker * frameBytes }

    /// The longest IP packet that a socket receives into a frame: the kernel keeps 256 octets free in front of it. Longer ones go
    /// by the kernel.
    public var packetBytesLimit: Int { Self.packetBytesLimit(frameBytes: frameBytes) }
    public static func packetBytesLimit(frameBytes: Int) -> Int { frameBytes - 256 - Ethernet.headerBytes }

    /// The same with each worker's place for a long packet.
    var packetMemoryBytes: Int { frameMemoryBytes + workerCPUs.count * Worker.longPacketBytes }

    /// Huge pages of 2 MiB that hold it all.
    public var hugePageCount: Int { (packetMemoryBytes + Arena.hugePageBytes - 1) / Arena.hugePageBytes }
}

public struct PortRole: OptionSet, Sendable, Hashable {
    public let rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }
    public static let underlay = PortRole(rawValue: 1)
    public static let protected = PortRole(rawValue: 2)
}

/// A network interface to take over.
public struct PortDescription: Sendable, Hashable {
    public var name: String
    public var interfaceIndex: Int
    public var role: PortRole
    /// Six octets.
    public var mac: [UInt8]
    public var mtu: Int
    /// Receive queues: each gets a socket.
    public var queues: Int
    /// Transmit queues; a socket on a queue beyond them only receives.
    public var transmitQueues: Int
    /// Packets from this interface may lack their transport checksum (virtual links); workers finish it.
    public var leavesChecksums = false
    public init(
        name: String, interfaceIndex: Int, role: PortRole, mac: [UInt8], mtu: Int, queues: Int, transmitQueues: Int? = nil
    ) {
        (self.name, self.interfaceIndex, self.role, self.mac, self.mtu, self.queues) = (
            name, interfaceIndex, role, mac, mtu, queues
        )
        self.transmitQueues = transmitQueues ?? queues
    }
}

public struct AttachedPort: Sendable, Hashable {
    /// Stable per interface name while the data plane lives.
    public var index: Int
    /// `zero-copy`, `native` or `generic`.
    public var xdpMode: String
}

/// What went wrong, as one sentence with its remedy.
public struct DataplaneError: Error, Hashable, Sendable, CustomStringConvertible {
    public var sentence: String
    /// A privilege is missing (exit code 77).
    public var isPrivilege: Bool
    public init(_ sentence: String, isPrivilege: Bool = false) { (self.sentence, self.isPrivilege) = (sentence, isPrivilege) }
    public var description: String { sentence }
}

public enum DataplaneEvent: Sendable {
    /// Every worker has the inbound SA of the `install` with this token.
    case inboundReady(token: UInt64)
    case wantsTunnel(childIndex: Int)
    /// A next hop without a neighbour entry: packets are held for it.
    case unresolved(address: IPAddress, portIndex: Int)
    /// A decrypted and checked packet for the gateway itself, or for a port that is the kernel's.
    case punt(packet: [UInt8])
    case sequenceNumbersRunningOut(inboundSPI: UInt32)
    /// The outbound SA has carried as much as its soft, or its hard, limit allows.
    case limitReached(inboundSPI: UInt32, isHard: Bool)
    /// An authenticated UDP-encapsulated packet came from a new endpoint.
    case pathObserved(inboundSPI: UInt32, address: IPAddress, port: UInt16)
    /// The pair's memory is about to go; these are its last counters.
    case retired(inboundSPI: UInt32, final: SACounters)
}

/// Both directions of an SA pair. Bytes are those of the inner packets.
public struct SACounters: Sendable, Hashable {
    public var packetsIn: UInt64 = 0
    public var bytesIn: UInt64 = 0
    public var packetsOut: UInt64 = 0
    public var bytesOut: UInt64 = 0
    public var sequenceOut: UInt64 = 0
    /// The highest sequence number that came, and the packets that verified: the difference was lost on the way (or came too late
    /// for the replay window).
    public var sequenceIn: UInt64 = 0
    public var authenticIn: UInt64 = 0
    /// What a whole ESP packet to the peer may be long, from the outer IP header on.
    public var pathMTU: Int = 0
    public var drops: [DropReason: UInt64] = [:]
    public init() {}
}

public struct WorkerCounters: Sendable, Hashable {
    public var id: Int
    public var cpu: Int
    public var numaNode: Int
    public var engine: String
    public var xdpMode: String
    public var packetsIn: UInt64
    public var packetsOut: UInt64
    /// Share of time spent on packets since the last look.
    public var busyPercent: Double
    /// ICMP errors not sent: their cause had used up its budget.
    public var icmpErrorsWithheld: UInt64 = 0
    public var drops: [DropReason: UInt64]
}

public struct DataplaneCounters: Sendable, Hashable {
    public var workers: [WorkerCounters]
    /// The whole gateway's, with those of the XDP program and the sockets folded in.
    public var drops: [DropReason: UInt64]
    public var hugePages: Bool
}

/// What the XDP program needs to know; see bpf/culvert_xdp.h.
public struct SteeringPlan: Sendable, Hashable {
    public enum Steer: UInt32, Sendable { case none = 0, pass = 1, protect = 2 }
    public struct Prefix: Sendable, Hashable {
        public var prefix: IPPrefix
        public var steer: Steer
        /// Bit i: covered by the local (remote) subnets of set i; bypass likewise for bypass policies.
        public var localSets: UInt64
        public var remoteSets: UInt64
        public var bypassSource: UInt64
        public var bypassDestination: UInt64
        public init(
            prefix: IPPrefix, steer: Steer, localSets: UInt64 = 0, remoteSets: UInt64 = 0, bypassSource: UInt64 = 0,
            bypassDestination: UInt64 = 0
        ) {
            (self.prefix, self.steer, self.localSets, self.remoteSets) = (prefix, steer, localSets, remoteSets)
            (self.bypassSource, self.bypassDestination) = (bypassSource, bypassDestination)
        }
    }
    public var localAddresses: [IPv4Address]
    public var localAddressesIPv6: [IPv6Address]
    public var prefixes: [Prefix]
    /// Zero: no limit.
    public var ikePacketsPerSecond: Int
    public var ikeBurst: Int
    /// IKE and ESP from other addresses is dropped unanswered; nil: a peer may come from anywhere.
    public var onlyPeers: [IPAddress]?
    public init(
        localAddresses: [IPv4Address], localAddressesIPv6: [IPv6Address] = [], prefixes: [Prefix], ikePacketsPerSecond: Int = 0,
        ikeBurst: Int = 0, onlyPeers: [IPAddress]? = nil
    ) {
        (self.localAddresses, self.localAddressesIPv6, self.prefixes) = (localAddresses, localAddressesIPv6, prefixes)
        (self.ikePacketsPerSecond, self.ikeBurst, self.onlyPeers) = (ikePacketsPerSecond, ikeBurst, onlyPeers)
    }
}
