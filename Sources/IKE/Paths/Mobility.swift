import IPsec
import Wire

/// What an IKE SA knows about the addresses of both ends. RFC 4555.
package struct MobilityState: Sendable {
    /// Both ends said MOBIKE_SUPPORTED.
    package var isNegotiated = false
    /// Whether the peer takes UDP-encapsulated ESP, by its NAT_DETECTION payloads.
    var peerSupportsNATTraversal = false
    /// The peer's further addresses.
    package var peerAddresses: [IPAddress] = []
    /// Ours, as the peer was last told.
    var announced: [IPAddress] = []
    /// Counts the changes of the IKE SA's addresses: what was sent before a change says nothing about the addresses after it.
    var generation = 0
    /// Where the responder's NAT_DETECTION_DESTINATION_IP said that it sees us. §3.8.
    var natDestination: [UInt8]?
    /// Pairs that the peer refused with UNACCEPTABLE_ADDRESSES since the last change that worked.
    var refused: [AddressPair] = []
    var unexpectedNATs = 0
    /// Our address has gone and there are several pairs that may take its place: all are tried with the next update at once.
    var triesAll = false
    /// Children stay on this path until the peer has proved that it receives on the new one. §3.7.
    package var heldTunnelPath: TunnelPath?
    package var moves = 0
}

/// An INFORMATIONAL request of ours that is about addresses.
package enum MobilityRequest: Sendable {
    case update(cookie: [UInt8])
    case routability(cookie: [UInt8])
    case announce
    /// A liveness check that also asks how the peer sees us.
    case liveness
}

extension Bounds {
    /// Addresses of a peer that are remembered, and of ours that are told.
    static let additionalAddresses = 16
    /// RFC 4555 §4.2.5: between 8 and 64 octets.
    static let cookie2Bytes = 8...64
    static let ourCookie2Bytes = 16
    /// Transmissions after which other paths are tried as well.
    static let transmissionsBeforeProbing = 2
    /// Paths tried beside the current one, per retransmission.
    static let probedPaths = 8
    /// RFC 4555 §3.9: "retry the operation several times".
    static let unexpectedNATs = 3
}

// Addresses that come and go while the SAs stay. The original initiator decides which are used (§3.5).
extension IKECore {
    // MARK: Ours

    /// One of our addresses came or went.
    func localAddressesChanged(_ sa: IKESA, now: Instant) {
        guard let established = sa.established, established.supersededBy == nil, sa.mobility.isNegotiated, let plan = plan(of: sa)
        else { return }
        guard !isPresent(sa.path.local.address) else {
            if ourOtherAddresses(sa, plan) != sa.mobility.announced { enqueue(.announceAddresses, on: sa) }
            return
        }
        guard let pair = replacement(sa, plan) else {
            log(.warning, sa.connection, "The address \(sa.path.local.address) is gone and no other is there: waiting for one.")
            return
        }
        if sa.isOriginalInitiator {
            sa.mobility.triesAll = true
            decide(pair, on: sa, now: now)
        } else {
            // "If the source address that the responder is currently using becomes unavailable …, the responder is allowed to
            // update the IPsec SAs to use some other address (in addition to initiating the procedure" of §3.6).
            let before = sa.tunnelPath(settings)
            sa.mobility.heldTunnelPath = nil
            setAddresses(pair, on: sa, now: now)
            moveChildren(sa, from: before)
            enqueueFirst(.announceAddresses, on: sa)
        }
    }

    /// What takes the place of addresses that do not work any more: the peer's stays if it can.
    private func replacement(_ sa: IKESA, _ plan: ConnectionPlan) -> AddressPair? {
        let pairs = addressPairs(plan, remotes: knownRemotes(sa, plan)).filter { !sa.mobility.refused.contains($0) }
        return pairs.first { $0.remote == sa.path.remote.address } ?? pairs.first
    }

    /// Where the peer may be: where it is, where the configuration and where the peer itself says.
    func knownRemotes(_ sa: IKESA, _ plan: ConnectionPlan) -> [IPAddress] {
        var remotes = [sa.path.remote.address]
        for address in plan.remoteAddresses + sa.mobility.peerAddresses where !remotes.contains(address) {
            remotes.append(address)
        }
        return remotes
    }

    /// The initiator changes the addresses. §3.5.
    func decide(_ pair: AddressPair, on sa: IKESA, now: Instant) {
        let before = sa.tunnelPath(settings)
        let isSameRemote = pair.remote == sa.path.remote.address
        setAddresses(pair, on: sa, now: now)
        if isSameRemote {
            // "Updates the IPsec SAs associated with this IKE_SA with the new addresses (unless the initiator's policy requires a
            // return routability check": the peer's address is the one that was good before.
            sa.mobility.heldTunnelPath = nil
            moveChildren(sa, from: before)
        } else if sa.mobility.heldTunnelPath == nil {
            sa.mobility.heldTunnelPath = before
        }
        enqueueFirst(.updateAddresses, on: sa)
    }

    /// The IKE SA's own addresses. "If there are outstanding IKEv2 requests …, continues retransmitting them using the
    /// addresses in the IKE_SA (the new addresses)."
    private func setAddresses(_ pair: AddressPair, on sa: IKESA, now: Instant) {
        let standardPort = sa.path.local.port == settings.natTraversalPort ? settings.natTraversalPort : settings.ikePort
        let remotePort = pair.remote == sa.path.remote.address ? sa.path.remote.port : standardPort
        let path = Path(local: Endpoint(pair.local, sa.path.local.port), remote: Endpoint(pair.remote, remotePort))
        log(.info, sa.connection, "Moving from \(sa.path.sentence) to \(path.sentence).")
        setPath(path, on: sa, now: now)
    }

    func setPath(_ path: Path, on sa: IKESA, now: Instant) {
        sa.path = path
        sa.mobility.generation += 1
        sa.mobility.moves += 1
        resend(sa, now: now)
        touch(sa)
    }

    /// What waits for a response goes out again at once, and has its time anew.
    private func resend(_ sa: IKESA, now: Instant) {
        guard var request = sa.outstanding else { return }
        request.interval = settings.retransmitInitial
        request.nextTransmit = now + request.interval
        request.giveUpAt = max(request.giveUpAt, now + patience(sa))
        request.transmissions += 1
        counters.requestsRetransmitted &+= 1
        for message in request.messages { transmit(message, path: sa.path) }
        if sa.mobility.triesAll { probe(&request, on: sa, atOnce: true) }
        sa.outstanding = request
    }

    /// Has the data plane follow, when there is something to follow.
    func moveChildren(_ sa: IKESA, from before: TunnelPath) {
        let path = sa.tunnelPath(settings)
        guard path != before, let name = sa.connection, let established = sa.established, !established.children.isEmpty else {
            return
        }
        emit(.movePath(connection: name, inboundSPIs: established.children.map(\.inboundSPI), path: path))
    }

    /// A rekeyed IKE SA is where its predecessor was, and goes on with what that had not finished.
    func inheritAddresses(from old: IKESA, to new: IKESA) {
        new.path = old.path
        (new.localNAT, new.remoteNAT, new.encapsulates) = (old.localNAT, old.remoteNAT, old.encapsulates)
        new.mobility = old.mobility
        // Its digest has the SPIs of the IKE SA in it.
        new.mobility.natDestination = nil
        var isUnfinished = new.mobility.heldTunnelPath != nil
        if case .mobility(let request) = old.outstanding?.kind, case .update = request { isUnfinished = true }
        guard isUnfinished else { return }
        enqueueFirst(new.isOriginalInitiator ? .updateAddresses : .checkRoutability, on: new)
    }

    // MARK: Paths that do not work

    /// A request goes unanswered: other paths are tried with it. "the initiator can use normal IKEv2 INFORMATIONAL
    /// request/response messages to test whether a certain path works" (§3.10). A responder does so only to tell its new address:
    /// "This is the only time the responder uses the additional address list" (§3.6).
    func probe(_ request: inout OutstandingRequest, on sa: IKESA, atOnce: Bool = false) {
        if case .verifyPath(let path) = request.kind {
            for message in request.messages { transmit(message, path: path) }
            return
        }
        guard sa.established != nil, sa.mobility.isNegotiated, let plan = plan(of: sa),
            atOnce || request.transmissions > Bounds.transmissionsBeforeProbing
        else { return }
        if !sa.isOriginalInitiator {
            guard case .mobility(.announce) = request.kind else { return }
        }
        let here = AddressPair(local: sa.path.local.address, remote: sa.path.remote.address)
        let others = addressPairs(plan, remotes: knownRemotes(sa, plan)).filter {
            $0 != here && !sa.mobility.refused.contains($0)
        }
        guard !others.isEmpty else { return }
        request.isProbing = true
        let port = sa.path.local.port == settings.natTraversalPort ? settings.natTraversalPort : settings.ikePort
        for pair in others.prefix(Bounds.probedPaths) {
            let remotePort = pair.remote == sa.path.remote.address ? sa.path.remote.port : port
            let path = Path(local: Endpoint(pair.local, sa.path.local.port), remote: Endpoint(pair.remote, remotePort))
            for message in request.messages { transmit(message, path: path) }
        }
    }

    /// The response to a request that tried several paths came on this one: it works. Which of the paths the request itself
    /// took is not known (§3.7), so an update with a cookie of its own follows.
    func adoptProbed(_ request: OutstandingRequest, _ path: Path, on sa: IKESA, now: Instant) {
        guard request.isProbing, sa.established != nil, let plan = plan(of: sa),
            path.local.address != sa.path.local.address || path.remote.address != sa.path.remote.address,
            plan.localAddresses.contains(path.local.address), isPresent(path.local.address),
            knownRemotes(sa, plan).contains(path.remote.address)
        else { return }
        // The answer is here: nothing waits on the old path any more.
        sa.outstanding = nil
        let pair = AddressPair(local: path.local.address, remote: path.remote.address)
        if sa.isOriginalInitiator { decide(pair, on: sa, now: now) } else { setAddresses(pair, on: sa, now: now) }
    }
}

extension Path {
    var sentence: String { "\(local.address) - \(remote.address)" }
}
