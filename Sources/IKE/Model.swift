public import IPsec
public import Wire

/// A point in monotonic time, in nanoseconds since an arbitrary start. The core never reads a clock.
public struct Instant: Hashable, Comparable, Sendable {
    public var nanoseconds: UInt64
    public init(nanoseconds: UInt64) { self.nanoseconds = nanoseconds }
    public static func < (a: Self, b: Self) -> Bool { a.nanoseconds < b.nanoseconds }
    public static func + (a: Self, b: Duration) -> Self {
        let c = b.components
        return Self(
            nanoseconds: a.nanoseconds &+ UInt64(clamping: c.seconds) &* 1_000_000_000
                &+ UInt64(clamping: c.attoseconds / 1_000_000_000))
    }
    public static func - (a: Self, b: Self) -> Duration {
        .nanoseconds(Int64(clamping: a.nanoseconds) - Int64(clamping: b.nanoseconds))
    }
}

public struct Endpoint: Hashable, Sendable, CustomStringConvertible {
    public var address: IPAddress
    public var port: UInt16
    public init(_ address: IPAddress, _ port: UInt16) { (self.address, self.port) = (address, port) }
    public var description: String { address.isIPv4 ? "\(address):\(port)" : "[\(address)]:\(port)" }
}

/// The addresses and ports a datagram travels between, as seen from here.
public struct Path: Hashable, Sendable {
    public var local: Endpoint
    public var remote: Endpoint
    public init(local: Endpoint, remote: Endpoint) { (self.local, self.remote) = (local, remote) }
}

/// A datagram to send. `bytes` is the UDP payload, with the non-ESP marker in front already when either port is 4500-style.
public struct Transmit: Sendable {
    public var bytes: [UInt8]
    public var path: Path
    /// No router may fragment it, nor may we: it asks how large a datagram may be.
    public var isWhole = false
    public init(bytes: [UInt8], path: Path) { (self.bytes, self.path) = (bytes, path) }
}

/// RFC 7296 §3.5. The `any` of a remote identity in configuration is nil in `ConnectionPlan.remoteIdentity`.
public enum Identity: Hashable, Sendable, CustomStringConvertible {
    case address(IPAddress)  // ID_IPV4_ADDR 1, ID_IPV6_ADDR 5
    case fqdn(String)  // 2
    case email(String)  // ID_RFC822_ADDR 3
    case distinguishedName([UInt8])  // ID_DER_ASN1_DN 9
    case keyID([UInt8])  // ID_KEY_ID 11

    /// What a peer sent is shown octet by octet: printable ASCII as it is, the rest as \xNN, so that no identity can play tricks
    /// with a terminal or a log.
    public var description: String {
        switch self {
        case .address(let a): a.description
        case .fqdn(let s), .email(let s): Self.shown(s.utf8)
        case .distinguishedName(let d): X501Name(d)?.description ?? "DN(\(d.count) octets)"
        case .keyID(let k): "key-id:" + Self.shown(k)
        }
    }

    /// The same with its type, where the text could be of another one: what only looks like an address is no address.
    var sentence: String {
        switch self {
        case .fqdn(let name) where IPAddress(name) != nil: "\(self) (of type FQDN, not an address)"
        case .fqdn(let name) where name.contains(" "): "\"\(self)\" (of type FQDN)"
        case .fqdn(let name) where name.contains("@") || name.contains("="): "\(self) (of type FQDN)"
        case .email(let name) where !name.contains("@"): "\(self) (of type RFC822_ADDR)"
        case .address, .fqdn, .email, .distinguishedName, .keyID: description
        }
    }

    private static let shownOctets = 128

    private static func shown(_ octets: some Collection<UInt8>) -> String {
        let text = printable(octets.prefix(shownOctets), escapesBackslash: true)
        return octets.count > shownOctets ? text + "… (\(octets.count) octets)" : text
    }

    /// - Parameter escapesBackslash: false when the backslashes are ours.
    static func printable(_ octets: some Collection<UInt8>, escapesBackslash: Bool = false) -> String {
        let digits = Array("0123456789abcdef")
        var text = ""
        for octet in octets {
            if (0x20...0x7E).contains(octet), octet != 0x5C || !escapesBackslash {
                text.unicodeScalars.append(Unicode.Scalar(octet))
            } else {
                text += "\\x"
                text.append(digits[Int(octet >> 4)])
                text.append(digits[Int(octet & 15)])
            }
        }
        return text
    }
}

public enum NATTraversal: String, Sendable { case auto, force, off }
public enum StartAction: String, Sendable { case immediately, onTraffic = "on-traffic", manual }
/// What becomes of a connection whose peer is dead: set it up again, wait for a packet that wants it, or leave it down.
public enum DPDAction: String, CaseIterable, Sendable { case restart, wait, clear }

/// A child of a connection as configured.
public struct ChildPlan: Sendable {
    public var name: String
    public var localSelectors: [TrafficSelector]
    public var remoteSelectors: [TrafficSelector]
    public var proposals: [ESPProposal]
    public var lifetime: Duration
    public var lifetimeBytes: UInt64
    public var lifetimePackets: UInt64
    public var replayWindowPackets: Int
    public var start: StartAction
    public var sizes = TunnelSizes()
    /// `remote_subnets: dynamic`: the peer's side is the address that we gave it; `remoteSelectors` counts for nothing.
    public var remoteIsAssigned = false
    /// What single identities may have of `remoteSelectors`, and nobody else may.
    public var peers: [PeerSubnets] = []
    /// `local_subnets: dynamic`: our side is the address that the peer gives us; `localSelectors` is what is asked for before.
    public var localIsAssigned = false
    public init(
        name: String, localSelectors: [TrafficSelector], remoteSelectors: [TrafficSelector], proposals: [ESPProposal],
        lifetime: Duration = .seconds(3600), lifetimeBytes: UInt64 = 0, lifetimePackets: UInt64 = 0,
        replayWindowPackets: Int = 4096, start: StartAction = .immediately
    ) {
        (self.name, self.localSelectors, self.remoteSelectors, self.proposals) = (
            name, localSelectors, remoteSelectors, proposals
        )
        (self.lifetime, self.lifetimeBytes, self.lifetimePackets) = (lifetime, lifetimeBytes, lifetimePackets)
        (self.replayWindowPackets, self.start) = (replayWindowPackets, start)
    }
}

/// A connection as configured: everything the core needs to initiate it and to answer for it.
public struct ConnectionPlan: Sendable {
    public var name: String
    public var localAddress: IPAddress
    /// nil: the peer may come from anywhere and cannot be initiated to.
    public var remoteAddress: IPAddress?
    public var localIdentity: Identity
    /// Which identities of the peer are accepted.
    public var remotePattern: IdentityPattern
    public var localAuthentication: LocalAuthentication
    public var remoteAuthentication: RemoteAuthentication
    public var rsaPadding: RSAPadding = .pss
    /// `allow_weak: [sha1]`: signatures over SHA-1, which peers without RFC 7427 make with RSA keys.
    public var allowsSHA1Signatures = false
    public var childless: Childless = .allow
    public var proposals: [IKEProposal]
    public var lifetime: Duration
    public var dpdInterval: Duration  // zero: no liveness checks
    public var natTraversal: NATTraversal
    /// After this both ends authenticate anew, on a new IKE SA; zero: never. RFC 7296 §2.8.3.
    public var reauthTime: Duration = .zero
    /// nil: as each child's `start` says (immediately: restart, on-traffic: wait, manual: clear).
    public var dpdAction: DPDAction?
    public var children: [ChildPlan]
    /// Names of pools that single hosts get addresses from, in order of preference (as responder).
    public var pools: [String] = []
    /// What we ask for as a single host (as initiator).
    public var virtualAddress = VirtualAddressRequest()
    public var paths = PathPlan()
    /// RFC 8784.
    public var postquantumKey: PostquantumKey?
    /// Nil: it was not read from a file.
    public var places: ConfigurationPlaces?

    public init(
        name: String, localAddress: IPAddress, remoteAddress: IPAddress?, localIdentity: Identity,
        remotePattern: IdentityPattern, localAuthentication: LocalAuthentication, remoteAuthentication: RemoteAuthentication,
        proposals: [IKEProposal], lifetime: Duration = .seconds(4 * 3600), dpdInterval: Duration = .seconds(10),
        natTraversal: NATTraversal = .auto, children: [ChildPlan]
    ) {
        (self.name, self.localAddress, self.remoteAddress) = (name, localAddress, remoteAddress)
        (self.localIdentity, self.remotePattern) = (localIdentity, remotePattern)
        (self.localAuthentication, self.remoteAuthentication) = (localAuthentication, remoteAuthentication)
        (self.proposals, self.lifetime, self.dpdInterval) = (proposals, lifetime, dpdInterval)
        (self.natTraversal, self.children) = (natTraversal, children)
    }

    /// Both sides use one pre-shared key, and the peer has one identity (nil: any).
    public init(
        name: String, localAddress: IPAddress, remoteAddress: IPAddress?, localIdentity: Identity, remoteIdentity: Identity?,
        presharedKey: Secret, proposals: [IKEProposal], lifetime: Duration = .seconds(4 * 3600),
        dpdInterval: Duration = .seconds(10),
        natTraversal: NATTraversal = .auto, children: [ChildPlan]
    ) {
        self.init(
            name: name, localAddress: localAddress, remoteAddress: remoteAddress, localIdentity: localIdentity,
            remotePattern: remoteIdentity.map(IdentityPattern.exactly) ?? .any,
            localAuthentication: .presharedKey(PresharedKeys(presharedKey)),
            remoteAuthentication: .presharedKey(PresharedKeys(presharedKey)), proposals: proposals, lifetime: lifetime,
            dpdInterval: dpdInterval, natTraversal: natTraversal, children: children)
    }

    /// The one identity that the peer may have; nil when it may have several: any, when set.
    public var remoteIdentity: Identity? {
        get { remotePattern.exact }
        set { remotePattern = newValue.map(IdentityPattern.exactly) ?? .any }
    }
}

/// What a proposal keyword string such as `aes256gcm16-prfsha384-ecp384` stands for: alternatives per transform type.
public struct IKEProposal: Hashable, Sendable {
    public var ciphers: [IKECipher]
    public var prfs: [PseudoRandomFunction]
    public var methods: [KeyExchangeMethod]
    /// By slot; done in IKE_INTERMEDIATE, and when rekeying in IKE_FOLLOWUP_KE exchanges. RFC 9370.
    public var additional: [AdditionalKeyExchange]
    public init(
        ciphers: [IKECipher], prfs: [PseudoRandomFunction], methods: [KeyExchangeMethod],
        additional: [AdditionalKeyExchange] = []
    ) {
        (self.ciphers, self.prfs, self.methods, self.additional) = (ciphers, prfs, methods, additional)
    }
}

/// `aes256gcm16-ecp384-esn`: methods are for PFS on rekey and ignored in IKE_AUTH (RFC 7296 §1.2).
public struct ESPProposal: Hashable, Sendable {
    public var keyBits: [Int]
    public var methods: [KeyExchangeMethod]
    /// By slot, after one of `methods`; done in IKE_FOLLOWUP_KE exchanges. RFC 9370 §2.2.4.
    public var additional: [AdditionalKeyExchange]
    /// In order of preference; [false] when neither `-esn` nor `-noesn` was written.
    public var extendedSequenceNumbers: [Bool]
    public init(
        keyBits: [Int], methods: [KeyExchangeMethod] = [], additional: [AdditionalKeyExchange] = [],
        extendedSequenceNumbers: [Bool] = [false]
    ) {
        (self.keyBits, self.methods, self.additional) = (keyBits, methods, additional)
        self.extendedSequenceNumbers = extendedSequenceNumbers
    }
}

/// What the core asks of its surroundings.
public enum Event: Sendable {
    /// Install both directions. The response that lets the peer send stays in the core until `childInstalled(token:)`.
    case installChild(ChildSA, token: UInt64)
    case removeChild(connection: String, child: String, inboundSPI: UInt32, outboundSPI: UInt32)
    /// The peer is known to receive on this child: from now on its packets leave on it, and not on an older one.
    case useChild(inboundSPI: UInt32)
    /// Authenticated packets came from somewhere else (a NAT rebooted): send there from now on. RFC 7296 §2.23.
    case movePath(connection: String, inboundSPIs: [UInt32], path: TunnelPath)
    /// Ask an OCSP responder whether the peer's certificate is revoked, and answer with `revocationAnswered(token:)`. RFC 6960.
    case checkRevocation(RevocationCheck, token: UInt64)
    /// Do these, away from the thread that answers messages, and answer with `certificatesJudged(token:)`.
    case judgeCertificates([CertificateWork], token: UInt64)
    /// Answer with `ownStatusSettled(token:)` when it is no longer pending. RFC 4806.
    case awaitOwnStatus(any OwnRevocationStatus, token: UInt64)
    /// Ask an authentication backend (RADIUS), and answer with `backendAnswered(token:)`.
    case askBackend(EAPBackendRequest, token: UInt64)
    /// The peer gave us addresses to use inside the tunnel, or (nil) they are ours no more.
    case virtualAddresses(connection: String, VirtualConfiguration?)
    case connectionEstablished(connection: String)
    /// An IKE SA began or ended, half-open ones as well, by the SPI that we chose, with the address that it began with: its
    /// messages deserve their own share of what the surroundings let through.
    case ikeSA(spi: UInt64, remote: IPAddress, isLive: Bool)
    /// The connection is down or could not come up; the sentence names cause and remedy.
    case connectionDown(connection: String, reason: String)
    case log(LogLevel, connection: String?, String)
}

public enum LogLevel: String, Sendable { case debug, info, warning, error }

/// How one connection stands, for `culvert status` (names follow the status JSON).
public struct ConnectionStatus: Sendable {
    public enum State: String, Sendable { case down, connecting, established, failed }
    /// What stands behind state and reason, for whoever acts on it.
    public enum Situation: Sendable {
        case established
        /// In order: nobody wants it now.
        case waitsForTraffic, waitsForOperator, waitsForPeer, takenDown
        /// An attempt is under way or about to be, and nothing has failed so far.
        case connecting
        /// The peer says nothing.
        case unanswered
        /// One end refused the other, or what came was unusable.
        case failed
    }
    public struct IKE: Sendable {
        public var initiatorSPI: UInt64, responderSPI: UInt64
        public var isInitiator: Bool
        public var proposal: String
        public var establishedAt: Instant
        public var rekeyAt: Instant?
        public var localNAT: Bool, remoteNAT: Bool
        /// RFC 4555 is in use, and how often the addresses have changed since the IKE SA began.
        public var mobike = false
        public var moves = 0
        /// RFC 7383 is in use.
        public var fragmentation = false
        public var localIdentity: Identity, remoteIdentity: Identity
        public var path: Path
        /// How each end proved who it is: `pre-shared key`, `RSA-PSS with SHA-256`, `EAP-TLS` …
        public var localMethod: String, remoteMethod: String
        /// Of the peer's certificate; the time in seconds since 1970.
        public var remoteSubject: String?
        public var remoteCertificateExpires: Int64?
        /// What was not perfect about the peer's proof, in sentences.
        public var warnings: [String]
        /// A postquantum preshared key went into the keys. RFC 8784.
        public var usesPostquantumKey = false
        public init(
            initiatorSPI: UInt64, responderSPI: UInt64, isInitiator: Bool, proposal: String, establishedAt: Instant,
            rekeyAt: Instant?,
            localNAT: Bool, remoteNAT: Bool, localIdentity: Identity, remoteIdentity: Identity, path: Path,
            localMethod: String = "", remoteMethod: String = "", remoteSubject: String? = nil,
            remoteCertificateExpires: Int64? = nil, warnings: [String] = []
        ) {
            (self.localMethod, self.remoteMethod, self.warnings) = (localMethod, remoteMethod, warnings)
            (self.remoteSubject, self.remoteCertificateExpires) = (remoteSubject, remoteCertificateExpires)
            (self.initiatorSPI, self.responderSPI, self.isInitiator) = (initiatorSPI, responderSPI, isInitiator)
            (self.proposal, self.establishedAt, self.rekeyAt) = (proposal, establishedAt, rekeyAt)
            (self.localNAT, self.remoteNAT) = (localNAT, remoteNAT)
            (self.localIdentity, self.remoteIdentity, self.path) = (localIdentity, remoteIdentity, path)
        }
    }
    public struct Child: Sendable {
        public enum State: String, Sendable { case down, connecting, installed }
        public var name: String
        public var state: State
        public var reason: Reason?
        /// Of an installed child: why it could not be replaced when its time came, or why nothing goes through it.
        public var problem: Reason?
        public var inboundSPI: UInt32, outboundSPI: UInt32
        public var transform: ESPTransform?
        public var path: TunnelPath?
        public var localSelectors: [TrafficSelector], remoteSelectors: [TrafficSelector]
        public var rekeys: Int
        public var rekeyAt: Instant?
        /// Somebody wants it up: the configuration, traffic, or the operator.
        public var isWanted = false
        /// The key exchange of its last CREATE_CHILD_SA, nil when it had none; the first child has its keys from IKE_SA_INIT.
        public var pfsGroup: String?
        public init(
            name: String, state: State, reason: Reason?, inboundSPI: UInt32 = 0, outboundSPI: UInt32 = 0,
            transform: ESPTransform? = nil,
            path: TunnelPath? = nil, localSelectors: [TrafficSelector], remoteSelectors: [TrafficSelector], rekeys: Int = 0,
            rekeyAt: Instant? = nil
        ) {
            (self.name, self.state, self.reason) = (name, state, reason)
            (self.inboundSPI, self.outboundSPI, self.transform, self.path) = (inboundSPI, outboundSPI, transform, path)
            (self.localSelectors, self.remoteSelectors, self.rekeys, self.rekeyAt) = (
                localSelectors, remoteSelectors, rekeys, rekeyAt
            )
        }
    }
    public var name: String
    public var state: State
    /// In every state but `established`, from the first unanswered retransmission on.
    public var reason: Reason?
    public var situation: Situation {
        guard state != .established else { return .established }
        return switch reason?.code {
        case .waitingForTraffic: .waitsForTraffic
        case .waitingForOperator: .waitsForOperator
        case .waitingForPeer: .waitsForPeer
        case .takenDown: .takenDown
        case .connecting, nil: .connecting
        case .noAnswer: .unanswered
        default: .failed
        }
    }
    /// Peers that were refused lately and most likely meant this connection, the newest first.
    public var refusals: [RefusedPeer] = []
    public var ike: IKE?
    public var children: [Child]
    /// Everybody who is there, of a connection that takes any peer.
    public var peers: [Peer] = []
    /// What the peer gave to us.
    public var virtualAddresses: [IPAddress] = []
    /// Of an established connection.
    public var liveness: Liveness?
    public var pathProbe: PathProbeResult?
    /// Since when it is up, or down; nil when it never came up.
    public var changedAt: Instant?
    public var lastFailure: Failure?
    /// How often an established connection failed, and was ended by the peer, within the last ten minutes.
    public var losses = (deaths: 0, deletions: 0)
    public var sharedIdentities: [SharedIdentity] = []

    /// Whether the peer answers. RFC 7296 §2.4.
    public struct Liveness: Hashable, Sendable {
        /// When something authenticated last came from it, IKE or ESP.
        public var lastHeard: Instant
        /// When the request was first sent that waits for its answer; nil when none waits.
        public var pendingSince: Instant?
        /// Transmissions of it so far, and all that there will be.
        public var unanswered = 0
        public var planned = 0
        public init(lastHeard: Instant, pendingSince: Instant? = nil, unanswered: Int = 0, planned: Int = 0) {
            (self.lastHeard, self.pendingSince, self.unanswered, self.planned) = (lastHeard, pendingSince, unanswered, planned)
        }
    }

    public struct Failure: Hashable, Sendable {
        public var reason: String
        public var at: Instant
        public init(reason: String, at: Instant) { (self.reason, self.at) = (reason, at) }
    }

    /// What `probePath` has found, in octets from the outer IP header on.
    public struct PathProbeResult: Hashable, Sendable {
        public var largest: Int
        /// The largest that arrived, and the smallest that did not; nil: none.
        public var passed: Int?
        public var failed: Int?
        /// Small datagrams were lost as well, so that size explains nothing.
        public var isLossy: Bool
        /// Nil while it goes on.
        public var finishedAt: Instant?
        public init(largest: Int, passed: Int?, failed: Int?, isLossy: Bool, finishedAt: Instant?) {
            (self.largest, self.passed, self.failed) = (largest, passed, failed)
            (self.isLossy, self.finishedAt) = (isLossy, finishedAt)
        }
    }

    /// Two addresses take turns as one identity: two gateways have it.
    public struct SharedIdentity: Hashable, Sendable {
        public var identity: Identity
        public var addresses: [IPAddress]
        public var turns: Int
        public var at: Instant
        public init(identity: Identity, addresses: [IPAddress], turns: Int, at: Instant) {
            (self.identity, self.addresses, self.turns, self.at) = (identity, addresses, turns, at)
        }
    }

    /// One of several peers of a connection.
    public struct Peer: Sendable {
        public var identity: Identity
        public var endpoint: Endpoint
        public var virtualAddresses: [IPAddress]
        public var establishedAt: Instant
        public var children: [String]
        public var method: String
    }
    public init(
        name: String, state: State, reason: Reason?, ike: IKE?, children: [Child], refusals: [RefusedPeer] = []
    ) {
        self.refusals = refusals
        (self.name, self.state, self.reason, self.ike, self.children) = (name, state, reason, ike, children)
    }
}

/// Bounds and timings of the core. Every bound is counted when it is hit.
public struct CoreSettings: Sendable {
    /// UDP ports: 500 and 4500, others in tests.
    public var ikePort: UInt16 = 500
    public var natTraversalPort: UInt16 = 4500
    /// First retransmission after this; each next interval is 1.8 times longer. RFC 7296 §2.4.
    public var retransmitInitial: Duration = .milliseconds(500)
    public var retransmitTries: Int = 5
    /// Half-open responder SAs from which on IKE_SA_INIT needs a COOKIE. RFC 7296 §2.6.
    public var cookieThreshold: Int = 32
    public var maxHalfOpen: Int = 4096
    public var maxIKESAs: Int = 20_000
    /// Pairs of ESP SAs that the data plane has room for, and those of peers of connections that take any.
    public var maxChildren: Int = 16_384
    public var maxPeerChildren: Int = 1024
    public var natKeepaliveInterval: Duration = .seconds(20)
    /// Pause between attempts of a `start: immediately` connection.
    public var reconnectInterval: Duration = .seconds(10)
    public init() {}
}
