public import IKE
public import IPsec
public import Wire

/// A whole configuration file, checked and with every default filled in.
public struct GatewayConfiguration: Sendable {
    public struct Log: Hashable, Sendable {
        public enum Format: String, CaseIterable, Sendable { case text, json }
        public var level: LogLevel
        public var format: Format
        public init(level: LogLevel = .info, format: Format = .text) { (self.level, self.format) = (level, format) }
    }
    public struct Interface: Hashable, Sendable {
        public enum Role: String, CaseIterable, Sendable { case underlay, protected, both }
        public var name: String
        public var role: Role
        public init(name: String, role: Role) { (self.name, self.role) = (name, role) }
    }
    public struct Dataplane: Hashable, Sendable {
        public enum Workers: Hashable, Sendable { case auto, count(Int), cpus([Int]) }
        public enum Engine: String, CaseIterable, Sendable { case auto, openssl, ipsecMB = "ipsec-mb" }
        public enum XDPMode: String, CaseIterable, Sendable { case auto, zeroCopy = "zero-copy", native, generic }
        public enum Poll: String, CaseIterable, Sendable { case adaptive, busy }
        public enum HugePages: String, CaseIterable, Sendable { case auto, require, off }
        public var workers: Workers = .auto
        public var engine: Engine = .auto
        public var xdpMode: XDPMode = .auto
        public var poll: Poll = .adaptive
        public var hugePages: HugePages = .auto
        public var framesPerWorker: Int = 8192
        public init() {}
    }

    public var name: String
    public var controlSocket: String
    /// Address and port of the metrics server; nil when there is none. Parsed and checked; served by a later version.
    public var metricsListen: Endpoint?
    public var log: Log
    public var interfaces: [Interface]
    public var dataplane: Dataplane
    public var connections: [Connection]
    /// Before the connections' own; first match wins.
    public var policies: [SecurityPolicy]
    /// Addresses for single hosts.
    public var pools: [AddressPool] = []
    public var radius: RADIUSSettings?

    public init(
        name: String, controlSocket: String, metricsListen: Endpoint?, log: Log, interfaces: [Interface], dataplane: Dataplane,
        connections: [Connection], policies: [SecurityPolicy]
    ) {
        (self.name, self.controlSocket, self.metricsListen, self.log) = (name, controlSocket, metricsListen, log)
        (self.interfaces, self.dataplane, self.connections, self.policies) = (interfaces, dataplane, connections, policies)
    }
}

/// One peer as configured. The pre-shared key is still octets here; the gateway moves it into secret memory at once.
public struct Connection: Sendable {
    public var name: String
    public var localAddress: IPAddress
    /// nil: `any`.
    public var remoteAddress: IPAddress?
    public var localIdentity: Identity
    public var remotePattern: IdentityPattern
    /// For every peer; empty when there is none.
    public var presharedKey: [UInt8]
    /// Pre-shared keys by the peer's identity, before `presharedKey`.
    public var secrets: [PeerSecret] = []
    /// Which signatures our RSA key makes.
    public var rsaPadding = RSAPadding.pss
    /// `allow_weak: [sha1]`: also signatures over SHA-1, which peers without RFC 7427 make with RSA keys.
    public var allowsSHA1Signatures = false
    public var childless = Childless.allow
    public var local = LocalCredentials()
    public var remote = RemoteCredentials()
    public var ikeProposals: [IKEProposal]
    public var ikeLifetime: Duration
    /// Zero: no liveness checks.
    public var dpdInterval: Duration
    public var natTraversal: NATTraversal
    /// nil: as each child's `start` says.
    public var dpdAction: DPDAction?
    /// Zero: never.
    public var reauthTime: Duration = .zero
    public var children: [Child]
    public var paths = PathPlan()
    /// Names of pools, as responder.
    public var pools: [String] = []
    /// What is asked for, as initiator.
    public var virtualAddress = VirtualAddressRequest()
    /// Nil: neither side uses EAP.
    public var eap: EAPSettings?
    public var postquantumKey: PostquantumSecret?
    /// Which lines of the file say it.
    public var places: ConfigurationPlaces?

    public init(
        name: String, localAddress: IPAddress, remoteAddress: IPAddress?, localIdentity: Identity, remoteIdentity: Identity?,
        presharedKey: [UInt8], ikeProposals: [IKEProposal], ikeLifetime: Duration, dpdInterval: Duration,
        natTraversal: NATTraversal,
        children: [Child]
    ) {
        (self.name, self.localAddress, self.remoteAddress) = (name, localAddress, remoteAddress)
        (self.localIdentity, self.presharedKey) = (localIdentity, presharedKey)
        remotePattern = remoteIdentity.map(IdentityPattern.exactly) ?? .any
        (self.ikeProposals, self.ikeLifetime, self.dpdInterval) = (ikeProposals, ikeLifetime, dpdInterval)
        (self.natTraversal, self.children) = (natTraversal, children)
    }

    /// The one identity that the peer may have; nil when it may have several: any, when set.
    public var remoteIdentity: Identity? {
        get { remotePattern.exact }
        set { remotePattern = newValue.map(IdentityPattern.exactly) ?? .any }
    }
}

extension Connection {
    /// In order of preference.
    public var localAddresses: [IPAddress] { [localAddress] + paths.otherLocalAddresses }
    /// In the order they are tried; empty for `any`.
    public var remoteAddresses: [IPAddress] { (remoteAddress.map { [$0] } ?? []) + paths.otherRemoteAddresses }
}

/// One child SA as configured.
public struct Child: Sendable {
    public enum Mode: String, CaseIterable, Sendable { case tunnel, transport }
    public var name: String
    public var mode: Mode
    public var localSubnets: [IPPrefix]
    public var remoteSubnets: [IPPrefix]
    public var espProposals: [ESPProposal]
    public var lifetime: Duration
    /// Zero: no limit.
    public var lifetimeBytes: UInt64
    public var lifetimePackets: UInt64
    public var replayWindowPackets: Int
    public var start: StartAction
    /// `df`, `mtu`, `mss`.
    public var sizes = TunnelSizes()
    /// `dynamic`: the address that the peer gives to us; `localSubnets` is empty then.
    public var localIsDynamic = false
    /// `dynamic`: the address that the peer gets from a pool; `remoteSubnets` is what the pools span.
    public var remoteIsDynamic = false
    /// What single identities may have of `remoteSubnets`, where a connection takes several.
    public var peers: [PeerSubnets] = []

    public init(
        name: String, mode: Mode, localSubnets: [IPPrefix], remoteSubnets: [IPPrefix], espProposals: [ESPProposal],
        lifetime: Duration,
        lifetimeBytes: UInt64, lifetimePackets: UInt64, replayWindowPackets: Int, start: StartAction
    ) {
        (self.name, self.mode, self.localSubnets, self.remoteSubnets) = (name, mode, localSubnets, remoteSubnets)
        (self.espProposals, self.lifetime, self.lifetimeBytes) = (espProposals, lifetime, lifetimeBytes)
        (self.lifetimePackets, self.replayWindowPackets, self.start) = (lifetimePackets, replayWindowPackets, start)
    }
}

/// One thing wrong (or dubious) in a configuration file.
public struct Diagnostic: Hashable, Sendable, CustomStringConvertible {
    public enum Severity: String, Sendable { case error, warning }
    public var file: String
    public var line: Int
    public var column: Int
    public var severity: Severity
    public var text: String
    public init(file: String, line: Int, column: Int, severity: Severity, text: String) {
        (self.file, self.line, self.column, self.severity, self.text) = (file, line, column, severity, text)
    }
    /// `FILE:LINE:COL: error: TEXT`
    public var description: String { "\(file):\(line):\(column): \(severity.rawValue): \(text)" }
}

/// The outcome of reading a file: nil configuration when any diagnostic is an error.
public struct LoadedConfiguration: Sendable {
    public var configuration: GatewayConfiguration?
    public var diagnostics: [Diagnostic]
    public init(configuration: GatewayConfiguration?, diagnostics: [Diagnostic]) {
        (self.configuration, self.diagnostics) = (configuration, diagnostics)
    }
}
