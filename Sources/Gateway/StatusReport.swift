/// A snapshot of a running gateway: the JSON of `culvert status --json`, used by the gateway that writes it and the
/// clients that read it. The coding keys are a contract with scripts: add freely, change or drop nothing.
///
/// Every number of seconds must be finite (JSON has no NaN). Counters never go backwards while the gateway runs.
public struct StatusReport: Codable, Hashable, Sendable {
    public var version: String
    /// `gateway.name` of the configuration.
    public var gateway: String
    public var uptimeSeconds: Double
    public var connections: [Connection]
    public var workers: [Worker]
    /// Drops of the whole gateway by the reason's name, such as `no-policy`.
    public var drops: [String: UInt64]
    /// Null from gateways that do not tell it.
    public var ike: IKELoad?
    /// What is wrong with the gateway, or with this machine for all connections; absent from gateways that do not judge.
    public var causes: [Cause]?
    /// Peers that were refused lately and that no connection is for, the newest first; absent from gateways that do not tell.
    public var refusals: [Refusal]?

    enum CodingKeys: String, CodingKey {
        case version, gateway, connections, workers, drops, ike, causes, refusals
        case uptimeSeconds = "uptime_seconds"
    }

    public init(
        version: String, gateway: String, uptimeSeconds: Double, connections: [Connection], workers: [Worker] = [],
        drops: [String: UInt64] = [:], ike: IKELoad? = nil
    ) {
        self.ike = ike
        (self.version, self.gateway, self.uptimeSeconds) = (version, gateway, uptimeSeconds)
        (self.connections, self.workers, self.drops) = (connections, workers, drops)
    }

    /// What peers that have not authenticated cost, now and since the start.
    public struct IKELoad: Codable, Hashable, Sendable {
        /// IKE SAs of any state, and those of them whose peer has not authenticated yet.
        public var sas: Int
        public var halfOpen: Int
        /// First messages that had to come again with a cookie. RFC 7296 §2.6.
        public var cookiesSent: Int
        /// Half-open SAs that gave way to newer ones, and first messages that a limit on half-open SAs refused.
        public var halfOpenEvicted: Int
        public var halfOpenRefused: Int
        /// First messages that were dropped because their share of computing time was used up.
        public var keyExchangesDeferred: Int

        enum CodingKeys: String, CodingKey {
            case sas
            case halfOpen = "half_open"
            case cookiesSent = "cookies_sent"
            case halfOpenEvicted = "half_open_evicted"
            case halfOpenRefused = "half_open_refused"
            case keyExchangesDeferred = "key_exchanges_deferred"
        }

        public init(
            sas: Int, halfOpen: Int, cookiesSent: Int, halfOpenEvicted: Int, halfOpenRefused: Int, keyExchangesDeferred: Int
        ) {
            (self.sas, self.halfOpen, self.cookiesSent) = (sas, halfOpen, cookiesSent)
            (self.halfOpenEvicted, self.halfOpenRefused) = (halfOpenEvicted, halfOpenRefused)
            self.keyExchangesDeferred = keyExchangesDeferred
        }
    }

    /// One configured connection.
    public struct Connection: Codable, Hashable, Sendable {
        public enum State: String, Codable, Sendable, CaseIterable { case down, connecting, established, failed }
        public var name: String
        public var state: State
        /// A sentence in every state but `established`, from the first unanswered retransmission on; null otherwise.
        @ExplicitNull public var reason: String?
        public var ikeVersion: Int
        public var local: Peer
        public var remote: Peer
        /// Null while there is no IKE SA.
        @ExplicitNull public var ike: IKE?
        /// One entry per configured child, also during rekey and drain.
        public var children: [Child]
        /// Everybody who is there, when `remote.address` is `any`; null otherwise.
        @ExplicitNull public var peers: [RemotePeer]?
        /// What the peer gave to us to use inside the tunnel.
        @ExplicitNull public var virtualAddresses: [String]?
        /// Those that this end needs: its own, the peer's when it is named, and the CAs'. Empty with pre-shared keys.
        public var certificates: [Certificate]
        /// Whether the peer answers; null while there is no IKE SA.
        @ExplicitNull public var liveness: Liveness?
        /// What is wrong, the worst first; empty: nothing that shows.
        public var causes: [Cause] = []
        /// Since when it is up, or down; null when it never came up.
        @ExplicitNull public var changedSeconds: Double?
        @ExplicitNull public var lastFailure: Failure?
        /// What the reason is about: for programs, which must not read the sentence. Null when established.
        @ExplicitNull public var reasonCode: String?
        /// Peers that were refused lately and most likely meant this connection, the newest first.
        public var refusals: [Refusal]? = []
        /// What was found out about how large datagrams to the peer may be; null: nobody asked.
        @ExplicitNull public var pathProbe: PathProbe?

        enum CodingKeys: String, CodingKey {
            case peers, liveness, causes, refusals
            case reasonCode = "reason_code"
            case changedSeconds = "changed_seconds_ago"
            case lastFailure = "last_failure"
            case pathProbe = "path_probe"
            case virtualAddresses = "virtual_addresses"
            case name, state, reason, local, remote, ike, children, certificates
            case ikeVersion = "ike_version"
        }

        public init(
            name: String, state: State, reason: String?, ikeVersion: Int = 2, local: Peer, remote: Peer, ike: IKE?,
            children: [Child], certificates: [Certificate] = []
        ) {
            (self.name, self.state, self.ikeVersion) = (name, state, ikeVersion)
            (self.local, self.remote, self.children, self.certificates) = (local, remote, children, certificates)
            _reason = ExplicitNull(wrappedValue: reason)
            _ike = ExplicitNull(wrappedValue: ike)
        }
    }

    /// Whether the peer answers. RFC 7296 §2.4.
    public struct Liveness: Codable, Hashable, Sendable {
        /// Since the request was first sent that waits for its answer; null when none waits.
        @ExplicitNull public var pendingSeconds: Double?
        /// How often that was sent so far, and how often in all before the peer is given up.
        public var unanswered: Int
        public var planned: Int
        /// Since something authenticated came, IKE or ESP.
        public var lastHeardSeconds: Double

        enum CodingKeys: String, CodingKey {
            case unanswered, planned
            case pendingSeconds = "pending_seconds"
            case lastHeardSeconds = "last_heard_seconds"
        }

        public init(pendingSeconds: Double?, unanswered: Int, planned: Int, lastHeardSeconds: Double) {
            (self.unanswered, self.planned, self.lastHeardSeconds) = (unanswered, planned, lastHeardSeconds)
            _pendingSeconds = ExplicitNull(wrappedValue: pendingSeconds)
        }
    }

    /// One source and one cause; nobody has authenticated the source.
    public struct Refusal: Codable, Hashable, Sendable {
        /// `192.0.2.9:500`
        public var from: String
        /// A code of `Reason.Code`, such as `unknown-peer`.
        public var code: String
        /// The sentence, about the last one.
        public var reason: String
        public var count: Int
        /// Since the last one.
        public var secondsAgo: Double

        enum CodingKeys: String, CodingKey {
            case from, code, reason, count
            case secondsAgo = "seconds_ago"
        }

        public init(from: String, code: String, reason: String, count: Int, secondsAgo: Double) {
            (self.from, self.code, self.reason, self.count, self.secondsAgo) = (from, code, reason, count, secondsAgo)
        }
    }

    /// In octets from the outer IP header on.
    public struct PathProbe: Codable, Hashable, Sendable {
        public var running: Bool
        public var largest: Int
        /// The largest that arrived, and the smallest that did not.
        @ExplicitNull public var passed: Int?
        @ExplicitNull public var failed: Int?

        public init(running: Bool, largest: Int, passed: Int?, failed: Int?) {
            (self.running, self.largest) = (running, largest)
            _passed = ExplicitNull(wrappedValue: passed)
            _failed = ExplicitNull(wrappedValue: failed)
        }
    }

    public struct Failure: Codable, Hashable, Sendable {
        public var reason: String
        public var secondsAgo: Double

        enum CodingKeys: String, CodingKey {
            case reason
            case secondsAgo = "seconds_ago"
        }

        public init(reason: String, secondsAgo: Double) { (self.reason, self.secondsAgo) = (reason, secondsAgo) }
    }

    /// One of the peers of a connection that takes any.
    public struct RemotePeer: Codable, Hashable, Sendable {
        public var id: String
        public var address: String
        public var port: UInt16
        /// From the connection's pools, or a RADIUS server's.
        public var virtualAddresses: [String]
        public var establishedSeconds: Double
        /// Names of its children that are installed.
        public var children: [String]

        enum CodingKeys: String, CodingKey {
            case id, address, port, children
            case virtualAddresses = "virtual_addresses"
            case establishedSeconds = "established_seconds"
        }
    }

    /// A certificate that a connection needs or has accepted.
    public struct Certificate: Codable, Hashable, Sendable {
        /// `local`, `remote` (the one that is named) or `ca`; `peer`: what the peer has shown.
        public var role: String
        /// Null for what the peer has shown.
        @ExplicitNull public var file: String?
        public var subject: String
        /// `2026-11-20 10:00:00 UTC`
        public var notAfter: String
        /// Negative when it has expired.
        public var expiresInSeconds: Double
        /// From 30 days before the end on; null before.
        @ExplicitNull public var warning: String?

        enum CodingKeys: String, CodingKey {
            case role, file, subject, warning
            case notAfter = "not_after"
            case expiresInSeconds = "expires_in_seconds"
        }

        public init(
            role: String, file: String?, subject: String, notAfter: String, expiresInSeconds: Double, warning: String?
        ) {
            (self.role, self.subject, self.notAfter) = (role, subject, notAfter)
            self.expiresInSeconds = expiresInSeconds
            _file = ExplicitNull(wrappedValue: file)
            _warning = ExplicitNull(wrappedValue: warning)
        }
    }

    /// One end of a connection, as it is when there is an IKE SA, else as configured (`any` where that is what it says).
    public struct Peer: Codable, Hashable, Sendable {
        public var address: String
        /// UDP port of IKE: 500 or 4500, or what a NAT made of it.
        public var port: UInt16
        public var id: String
        /// This end sits behind a NAT.
        public var nat: Bool

        public init(address: String, port: UInt16, id: String, nat: Bool) {
            (self.address, self.port, self.id, self.nat) = (address, port, id, nat)
        }
    }

    public struct IKE: Codable, Hashable, Sendable {
        /// 16 hexadecimal digits, no prefix.
        public var spiInitiator: String
        public var spiResponder: String
        /// We are the original initiator of this IKE SA.
        public var initiator: Bool
        /// Keywords as in the configuration, such as `aes256gcm16-prfsha384-ecp384`.
        public var proposal: String
        public var establishedSeconds: Double
        /// Mobility (RFC 4555) and fragmentation (RFC 7383) are in use; how often the addresses have changed.
        public var mobike: Bool?
        public var moves: Int?
        public var fragmentation: Bool?
        /// Null when no rekey is planned.
        @ExplicitNull public var rekeyInSeconds: Double?
        /// How we proved who we are, and how the peer did: `pre-shared key`, `RSA-PSS with SHA-256`.
        @ExplicitNull public var localAuthentication: String?
        @ExplicitNull public var remoteAuthentication: String?
        /// A postquantum preshared key went into the keys.
        public var ppk: Bool

        enum CodingKeys: String, CodingKey {
            case initiator, proposal, mobike, moves, fragmentation, ppk
            case localAuthentication = "local_auth"
            case remoteAuthentication = "remote_auth"
            case spiInitiator = "spi_initiator"
            case spiResponder = "spi_responder"
            case establishedSeconds = "established_seconds"
            case rekeyInSeconds = "rekey_in_seconds"
        }

        public init(
            spiInitiator: String, spiResponder: String, initiator: Bool, proposal: String, establishedSeconds: Double,
            rekeyInSeconds: Double?, localAuthentication: String? = nil, remoteAuthentication: String? = nil,
            ppk: Bool = false
        ) {
            self.ppk = ppk
            _localAuthentication = ExplicitNull(wrappedValue: localAuthentication)
            _remoteAuthentication = ExplicitNull(wrappedValue: remoteAuthentication)
            (self.spiInitiator, self.spiResponder, self.initiator) = (spiInitiator, spiResponder, initiator)
            (self.proposal, self.establishedSeconds) = (proposal, establishedSeconds)
            _rekeyInSeconds = ExplicitNull(wrappedValue: rekeyInSeconds)
        }
    }

    public struct Child: Codable, Hashable, Sendable {
        public enum State: String, Codable, Sendable, CaseIterable { case down, connecting, installed }
        public enum Encapsulation: String, Codable, Sendable, CaseIterable { case none, udp }
        public var name: String
        /// `installed` throughout a rekey.
        public var state: State
        /// Why it is not installed; null when it is, or when nothing went wrong.
        @ExplicitNull public var reason: String?
        public var mode: String
        public var encapsulation: Encapsulation
        /// 8 hexadecimal digits, no prefix; null while there is no SA.
        @ExplicitNull public var spiIn: String?
        @ExplicitNull public var spiOut: String?
        @ExplicitNull public var proposal: String?
        public var localSubnets: [String]
        public var remoteSubnets: [String]
        public var packetsIn: UInt64
        public var bytesIn: UInt64
        public var packetsOut: UInt64
        public var bytesOut: UInt64
        /// Counts on across rekeys of the IKE SA.
        public var rekeys: Int
        @ExplicitNull public var rekeyInSeconds: Double?
        /// Drops charged to this child by the reason's name, such as `replay`.
        public var drops: [String: UInt64]
        /// Somebody wants it up: its `start`, traffic, or the operator.
        public var wanted: Bool = false
        /// Since the last packet that came out of the tunnel, and that went into it; null: none yet.
        @ExplicitNull public var lastInSeconds: Double?
        @ExplicitNull public var lastOutSeconds: Double?
        /// Of what the peer sent lately, by the gaps in its sequence numbers; null: too little came to tell.
        @ExplicitNull public var lossPercent: Double?
        /// What a whole ESP packet may be long, from the outer IP header on; null while there is no SA.
        @ExplicitNull public var pathMTU: Int?
        /// Null while there is no SA.
        @ExplicitNull public var negotiated: Selectors?
        /// The group of its last CREATE_CHILD_SA, such as `x25519`; null: its keys come from the IKE SA's.
        @ExplicitNull public var pfsGroup: String?

        /// What both ends agreed to.
        public struct Selectors: Codable, Hashable, Sendable {
            public var local: [String]
            public var remote: [String]
            public init(local: [String], remote: [String]) { (self.local, self.remote) = (local, remote) }
        }

        enum CodingKeys: String, CodingKey {
            case name, state, reason, mode, encapsulation, proposal, rekeys, drops, wanted, negotiated
            case lastInSeconds = "last_in_seconds"
            case lastOutSeconds = "last_out_seconds"
            case lossPercent = "loss_percent"
            case pathMTU = "path_mtu"
            case pfsGroup = "pfs_group"
            case spiIn = "spi_in"
            case spiOut = "spi_out"
            case localSubnets = "local_subnets"
            case remoteSubnets = "remote_subnets"
            case packetsIn = "packets_in"
            case bytesIn = "bytes_in"
            case packetsOut = "packets_out"
            case bytesOut = "bytes_out"
            case rekeyInSeconds = "rekey_in_seconds"
        }

        public init(
            name: String, state: State, reason: String?, mode: String = "tunnel", encapsulation: Encapsulation = .none,
            spiIn: String? = nil, spiOut: String? = nil, proposal: String? = nil, localSubnets: [String], remoteSubnets: [String],
            packetsIn: UInt64 = 0, bytesIn: UInt64 = 0, packetsOut: UInt64 = 0, bytesOut: UInt64 = 0, rekeys: Int = 0,
            rekeyInSeconds: Double? = nil, drops: [String: UInt64] = [:]
        ) {
            (self.name, self.state, self.mode, self.encapsulation) = (name, state, mode, encapsulation)
            _reason = ExplicitNull(wrappedValue: reason)
            _spiIn = ExplicitNull(wrappedValue: spiIn)
            _spiOut = ExplicitNull(wrappedValue: spiOut)
            _proposal = ExplicitNull(wrappedValue: proposal)
            _rekeyInSeconds = ExplicitNull(wrappedValue: rekeyInSeconds)
            (self.localSubnets, self.remoteSubnets) = (localSubnets, remoteSubnets)
            (self.packetsIn, self.bytesIn, self.packetsOut, self.bytesOut) = (packetsIn, bytesIn, packetsOut, bytesOut)
            (self.rekeys, self.drops) = (rekeys, drops)
        }
    }

    public struct Worker: Codable, Hashable, Sendable {
        public var id: Int
        public var cpu: Int
        public var numaNode: Int
        /// `openssl` or `ipsec-mb`.
        public var engine: String
        /// `zero-copy`, `native` or `generic`.
        public var xdpMode: String
        public var packetsIn: UInt64
        public var packetsOut: UInt64
        public var busyPercent: Double
        /// ICMP errors not sent, their cause having used up its budget; the packets themselves are among `drops`.
        public var icmpErrorsWithheld: UInt64
        public var drops: [String: UInt64]

        enum CodingKeys: String, CodingKey {
            case id, cpu, engine, drops
            case icmpErrorsWithheld = "icmp_errors_withheld"
            case numaNode = "numa_node"
            case xdpMode = "xdp_mode"
            case packetsIn = "packets_in"
            case packetsOut = "packets_out"
            case busyPercent = "busy_percent"
        }

        public init(
            id: Int, cpu: Int, numaNode: Int, engine: String, xdpMode: String, packetsIn: UInt64 = 0, packetsOut: UInt64 = 0,
            busyPercent: Double = 0, icmpErrorsWithheld: UInt64 = 0, drops: [String: UInt64] = [:]
        ) {
            (self.id, self.cpu, self.numaNode, self.engine) = (id, cpu, numaNode, engine)
            (self.xdpMode, self.packetsIn, self.packetsOut) = (xdpMode, packetsIn, packetsOut)
            (self.busyPercent, self.icmpErrorsWithheld, self.drops) = (busyPercent, icmpErrorsWithheld, drops)
        }
    }
}

/// An optional that is written as `null` when it is nil, instead of being left out as synthesized coding would do:
/// scripts may rely on the key being there. Reading accepts both.
@propertyWrapper
public struct ExplicitNull<Value: Codable & Hashable & Sendable>: Codable, Hashable, Sendable {
    public var wrappedValue: Value?

    public init(wrappedValue: Value?) { self.wrappedValue = wrappedValue }

    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        wrappedValue = container.decodeNil() ? nil : try container.decode(Value.self)
    }

    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        if let wrappedValue { try container.encode(wrappedValue) } else { try container.encodeNil() }
    }
}

extension KeyedDecodingContainer {
    /// Found by synthesized `init(from:)` for a wrapped property, so that an absent key reads as nil.
    public func decode<Value>(_ type: ExplicitNull<Value>.Type, forKey key: Key) throws -> ExplicitNull<Value> {
        try decodeIfPresent(type, forKey: key) ?? ExplicitNull(wrappedValue: nil)
    }
}
