import IPsec
import Wire

// MOBIKE's payloads and exchanges. RFC 4555 §3, §4.
extension IKECore {
    // MARK: IKE_AUTH

    /// What both ends say in IKE_AUTH, in the message with the SA payload. §3.2, §3.4, §3.9.
    func mobilityPayloads(_ sa: IKESA, _ plan: ConnectionPlan) -> [Payload] {
        guard plan.paths.mobike else { return [] }
        let others = ourOtherAddresses(sa, plan)
        sa.mobility.announced = others
        var payloads: [Payload] = [.notify(Notify(.mobikeSupported))] + others.map(Self.additional)
        if sa.isInitiator, plan.natTraversal == .off { payloads.append(noNATsAllowed(sa.path)) }
        return payloads
    }

    /// What the peer said there.
    func noteMobility(_ sa: IKESA, _ plan: ConnectionPlan, _ payloads: PayloadList) {
        guard plan.paths.mobike, payloads.notify(.mobikeSupported) != nil else { return }
        sa.mobility.isNegotiated = true
        sa.mobility.peerAddresses = additionalAddresses(payloads, plan)
    }

    /// Our usable addresses besides the one in use.
    func ourOtherAddresses(_ sa: IKESA, _ plan: ConnectionPlan) -> [IPAddress] {
        Array(
            plan.localAddresses.filter { isPresent($0) && $0 != sa.path.local.address }.prefix(Bounds.additionalAddresses))
    }

    private static func additional(_ address: IPAddress) -> Payload {
        .notify(Notify(address.isIPv4 ? .additionalIP4Address : .additionalIP6Address, data: address.bytes))
    }

    /// Without those inside the networks behind the peer: some list every address that they have, and the way there is the tunnel
    /// itself.
    private func additionalAddresses(_ payloads: PayloadList, _ plan: ConnectionPlan) -> [IPAddress] {
        let behind = plan.children.flatMap(\.remoteSelectors).filter { selector in
            !selector.prefixes.contains { $0.length == 0 }
        }
        var result: [IPAddress] = []
        for notify in payloads.notifies where notify.type == .additionalIP4Address || notify.type == .additionalIP6Address {
            guard let address = IPAddress(bytes: notify.data), address.isIPv4 == (notify.type == .additionalIP4Address),
                address.isUsableUnicast, !result.contains(address), result.count < Bounds.additionalAddresses,
                !behind.contains(where: { $0.contains(address) })
            else { continue }
            result.append(address)
        }
        return result
    }

    // MARK: NO_NATS_ALLOWED

    /// "The notification data contains the IP addresses and ports from/to which the packet was sent." (§4.2.6)
    private func noNATsAllowed(_ path: Path) -> Payload {
        var data = path.local.address.bytes + path.remote.address.bytes
        data.append(u16: path.local.port)
        data.append(u16: path.remote.port)
        return .notify(Notify(.noNATsAllowed, data: data))
    }

    /// False when the addresses were changed on the way although the peer forbids it. "The exchange responder MUST verify that
    /// the contents of the NO_NATS_ALLOWED notification match the addresses in the IP header." (§3.9)
    func obeysNATProhibition(_ payloads: PayloadList, path: Path) -> Bool {
        guard let notify = payloads.notify(.noNATsAllowed) else { return true }
        var data = path.remote.address.bytes + path.local.address.bytes
        data.append(u16: path.remote.port)
        data.append(u16: path.local.port)
        return notify.data == data
    }

    // MARK: Our requests

    /// UPDATE_SA_ADDRESSES. §3.5.
    func startUpdateAddresses(on sa: IKESA, now: Instant) {
        guard sa.isOriginalInitiator, sa.mobility.isNegotiated, let plan = plan(of: sa) else { return }
        let cookie = random.bytes(Bounds.ourCookie2Bytes)
        let others = ourOtherAddresses(sa, plan)
        sa.mobility.announced = others
        var payloads: [Payload] = [.notify(Notify(.updateSAAddresses))] + natDetection(sa, plan, path: sa.path)
        payloads += others.isEmpty ? [.notify(Notify(.noAdditionalAddresses))] : others.map(Self.additional)
        if plan.natTraversal == .off { payloads.append(noNATsAllowed(sa.path)) }
        payloads.append(.notify(Notify(.cookie2, data: cookie)))
        send(.mobility(.update(cookie: cookie)), .informational, payloads, on: sa, now: now)
        guard sa.mobility.triesAll, var request = sa.outstanding else { return }
        sa.mobility.triesAll = false
        probe(&request, on: sa, atOnce: true)
        sa.outstanding = request
    }

    /// "The new list of addresses replaces the old information" (§3.6).
    func startAnnounceAddresses(on sa: IKESA, now: Instant) {
        guard sa.mobility.isNegotiated, let plan = plan(of: sa) else { return }
        let others = ourOtherAddresses(sa, plan)
        sa.mobility.announced = others
        var payloads: [Payload] = others.isEmpty ? [.notify(Notify(.noAdditionalAddresses))] : others.map(Self.additional)
        if plan.natTraversal == .off { payloads.append(noNATsAllowed(sa.path)) }
        send(.mobility(.announce), .informational, payloads, on: sa, now: now)
    }

    /// The return routability check. "The sender of an INFORMATIONAL request MAY include a COOKIE2 notification, and if included,
    /// the recipient … MUST copy the notification as-is to the response." (§3.7)
    func startRoutabilityCheck(on sa: IKESA, now: Instant) {
        guard sa.mobility.isNegotiated else { return }
        let cookie = random.bytes(Bounds.ourCookie2Bytes)
        send(
            .mobility(.routability(cookie: cookie)), .informational, [.notify(Notify(.cookie2, data: cookie))], on: sa, now: now)
    }

    /// "When the initiator is behind a NAT …, it SHOULD include these notifications in DPD messages" (§3.8).
    func startLiveness(on sa: IKESA, now: Instant) {
        guard sa.mobility.isNegotiated, sa.isOriginalInitiator, sa.localNAT, let plan = plan(of: sa) else {
            send(.informational, .informational, [], on: sa, now: now)
            return
        }
        send(.mobility(.liveness), .informational, natDetection(sa, plan, path: sa.path), on: sa, now: now)
    }

    private func natDetection(_ sa: IKESA, _ plan: ConnectionPlan, path: Path) -> [Payload] {
        guard plan.natTraversal != .off, sa.mobility.peerSupportsNATTraversal else { return [] }
        return NATDetection(crypto: crypto).notifies(
            initiatorSPI: sa.initiatorSPI, responderSPI: sa.responderSPI, path: path,
            forged: plan.natTraversal == .force ? random.bytes(20) : nil)
    }

    // MARK: Their responses

    func finishMobility(
        _ sa: IKESA, _ established: EstablishedSA, _ request: OutstandingRequest, _ what: MobilityRequest,
        _ payloads: PayloadList, now: Instant
    ) {
        switch what {
        case .update(let cookie), .routability(let cookie):
            // "If the values do not match, the IKE_SA MUST be closed." (§3.7)
            guard let echo = payloads.notify(.cookie2), crypto.constantTimeEqual(echo.data, cookie) else {
                close(sa, reason: "The peer \(sa.path.remote) failed the return routability check of RFC 4555.", now: now)
                return
            }
            // "If an address change has occurred after the request was first sent, no MOBIKE processing is done for the reply":
            // the next request is queued.
            guard request.generation == sa.mobility.generation else { return }
            if case .update = what { finishUpdate(sa, established, payloads, now: now) } else { release(sa) }
        case .announce: break
        case .liveness: compareDestination(sa, payloads)
        }
    }

    private func finishUpdate(_ sa: IKESA, _ established: EstablishedSA, _ payloads: PayloadList, now: Instant) {
        guard let plan = plan(of: sa) else { return }
        if payloads.notify(.unexpectedNATDetected) != nil {
            sa.mobility.unexpectedNATs += 1
            if sa.mobility.unexpectedNATs < Bounds.unexpectedNATs { enqueueFirst(.updateAddresses, on: sa); return }
            log(
                .warning, sa.connection,
                "The peer sees our packets from other addresses than \(sa.path.sentence): there is a NAT on the path, and "
                    + "nat_traversal is off.")
            return
        }
        if payloads.notify(.unacceptableAddresses) != nil { retryElsewhere(sa, plan, now: now); return }
        sa.mobility.unexpectedNATs = 0
        sa.mobility.refused = []
        let before = sa.tunnelPath(settings)
        takeNATFinding(sa, established, plan, payloads, path: sa.path, now: now)
        sa.mobility.natDestination = payloads.notify(.natDetectionDestinationIP)?.data
        sa.mobility.heldTunnelPath = nil
        moveChildren(sa, from: before)
        log(.info, sa.connection, "The peer follows: \(sa.path.sentence) is in use.")
    }

    /// "the initiator MAY select another addresses and retry the exchange" (§3.5).
    private func retryElsewhere(_ sa: IKESA, _ plan: ConnectionPlan, now: Instant) {
        let here = AddressPair(local: sa.path.local.address, remote: sa.path.remote.address)
        log(.warning, sa.connection, "The peer refuses the addresses \(sa.path.sentence) (UNACCEPTABLE_ADDRESSES).")
        if sa.mobility.refused.count < Bounds.additionalAddresses * Bounds.additionalAddresses {
            sa.mobility.refused.append(here)
        }
        let others = addressPairs(plan, remotes: knownRemotes(sa, plan)).filter { !sa.mobility.refused.contains($0) }
        if let next = others.first { decide(next, on: sa, now: now) }
    }

    /// "If NAT Traversal is supported and NAT detection payloads were included, enables or disables NAT Traversal." (§3.5)
    private func takeNATFinding(
        _ sa: IKESA, _ established: EstablishedSA, _ plan: ConnectionPlan, _ payloads: PayloadList, path: Path, now: Instant
    ) {
        guard plan.natTraversal != .off, sa.mobility.peerSupportsNATTraversal else { return }
        let finding = NATDetection(crypto: crypto).examine(
            payloads, initiatorSPI: sa.initiatorSPI, responderSPI: sa.responderSPI, path: path)
        guard finding.isSupportedByPeer else { return }
        (sa.localNAT, sa.remoteNAT) = (finding.localNAT, finding.remoteNAT)
        sa.encapsulates = finding.localNAT || finding.remoteNAT || plan.natTraversal == .force
        if !sa.localNAT {
            established.nextKeepalive = nil
        } else if established.nextKeepalive == nil {
            established.nextKeepalive = nextKeepalive(plan, now: now)
        }
    }

    /// The peer receives where it says it is: its children may go there.
    private func release(_ sa: IKESA) {
        guard let held = sa.mobility.heldTunnelPath else { return }
        sa.mobility.heldTunnelPath = nil
        moveChildren(sa, from: held)
    }

    /// "compare the received NAT_DETECTION_DESTINATION_IP notifications with the value from the previous UPDATE_SA_ADDRESSES
    /// response (or the IKE_SA_INIT response). If the values do not match, … the initiator SHOULD send UPDATE_SA_ADDRESSES"
    /// (§3.8).
    private func compareDestination(_ sa: IKESA, _ payloads: PayloadList) {
        guard let seen = payloads.notify(.natDetectionDestinationIP)?.data else { return }
        defer { sa.mobility.natDestination = seen }
        guard let known = sa.mobility.natDestination, known != seen else { return }
        log(.info, sa.connection, "The NAT's mapping of \(sa.path.local.address) has changed: telling the peer.")
        enqueueFirst(.updateAddresses, on: sa)
    }

    // MARK: Their requests

    /// What the response to an INFORMATIONAL request says about addresses, and what follows from the request.
    func answerMobility(_ sa: IKESA, _ payloads: PayloadList, path: Path, now: Instant) -> [Payload] {
        var answer: [Payload] = []
        if let cookie = payloads.notify(.cookie2), Bounds.cookie2Bytes.contains(cookie.data.count) {
            answer.append(.notify(Notify(.cookie2, data: cookie.data)))
        }
        guard sa.mobility.isNegotiated, let established = sa.established, let plan = plan(of: sa) else { return answer }
        // "if the request includes them, the responder MUST also include them in the response" (§3.8).
        if payloads.notify(.natDetectionSourceIP) != nil { answer += natDetection(sa, plan, path: path) }
        let updates = payloads.notify(.updateSAAddresses) != nil
        let others = additionalAddresses(payloads, plan)
        let announces = !others.isEmpty || payloads.notify(.noAdditionalAddresses) != nil
        guard updates || announces else { return answer }
        guard obeysNATProhibition(payloads, path: path) else {
            return answer + [.notify(Notify(.unexpectedNATDetected))]
        }
        if updates, !sa.isOriginalInitiator {
            guard isAcceptable(path, plan) else {
                log(.warning, sa.connection, "The peer wants to move to \(path.remote), which no peer can have: refused.")
                return answer + [.notify(Notify(.unacceptableAddresses))]
            }
            takeUpdate(sa, established, plan, payloads, path: path, now: now)
        }
        if announces { takeAnnouncement(sa, plan, others, path: path, now: now) }
        return answer
    }

    /// A peer that has authenticated may be anywhere but here.
    private func isAcceptable(_ path: Path, _ plan: ConnectionPlan) -> Bool {
        plan.localAddresses.contains(path.local.address) && path.remote.address.isUsableUnicast
            && presentAddresses?.contains(path.remote.address) != true && !plan.localAddresses.contains(path.remote.address)
    }

    /// "Updates the IP addresses in the IKE_SA with the values from the IP header." The children follow at once to an address
    /// that the configuration names, and otherwise when the peer has answered from there: "By default, the return routability
    /// check SHOULD be done before updating the IPsec SAs" (§3.7), which "MAY be omitted" where the address is vouched for.
    private func takeUpdate(
        _ sa: IKESA, _ established: EstablishedSA, _ plan: ConnectionPlan, _ payloads: PayloadList, path: Path, now: Instant
    ) {
        let before = sa.tunnelPath(settings)
        if path != sa.path {
            log(.info, sa.connection, "The peer moved from \(sa.path.remote) to \(path.remote).")
            setPath(path, on: sa, now: now)
        }
        takeNATFinding(sa, established, plan, payloads, path: path, now: now)
        sa.mobility.heldTunnelPath = nil
        guard sa.tunnelPath(settings) != before else { return }
        if before.remote == path.remote.address || plan.remoteAddresses.contains(path.remote.address) {
            moveChildren(sa, from: before)
        } else {
            sa.mobility.heldTunnelPath = before
        }
        enqueueFirst(.checkRoutability, on: sa)
    }

    /// "This is particularly important if the announced set of addresses no longer contains the currently used address." (§3.5)
    private func takeAnnouncement(_ sa: IKESA, _ plan: ConnectionPlan, _ others: [IPAddress], path: Path, now: Instant) {
        sa.mobility.peerAddresses = [path.remote.address] + others.filter { $0 != path.remote.address }
        guard sa.isOriginalInitiator, !sa.mobility.peerAddresses.contains(sa.path.remote.address), isAcceptable(path, plan) else {
            return
        }
        decide(AddressPair(local: path.local.address, remote: path.remote.address), on: sa, now: now)
    }
}

extension IPAddress {
    /// Of one host, somewhere else.
    var isUsableUnicast: Bool {
        switch self {
        case .v4(let v4): v4.bits >> 24 != 0 && v4.bits >> 24 != 127 && v4.bits >> 28 < 0xE
        // Not ::/8 (unspecified, loopback, mapped), link-local or multicast.
        case .v6: bytes[0] != 0 && bytes[0] != 0xFF && !(bytes[0] == 0xFE && bytes[1] & 0xC0 == 0x80)
        }
    }
}
