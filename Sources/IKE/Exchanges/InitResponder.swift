import DequeModule
import IPsec
import Wire

// IKE_SA_INIT as responder. RFC 7296 §1.2, §2.6, §2.7, §2.21.1, §2.23.
extension IKECore {
    /// Cheapest checks first: 1. a retransmission gets its old answer; 2. bounds; 3. the cookie; 4. what one address may have;
    /// 5. who could this be; 6. the suite; 7. the group; and only then state and a key pair of our own.
    func answerInit(_ message: WireMessage, _ bytes: [UInt8], path: Path, now: Instant) {
        let header = message.header
        guard header.messageID == 0, header.initiatorSPI != 0, let offer = message.payloads.proposals,
            let keyExchange = message.payloads.keyExchange, let nonce = message.payloads.nonce,
            Negotiation.isOffer(offer, spiBytes: 0)
        else { counters.malformed &+= 1; return }
        // Our own message, sent back to us: never a peer's.
        if let own = sas[header.initiatorSPI], own.isInitiator { counters.unexpected &+= 1; return }
        let key = InitKey(remote: path.remote, initiatorSPI: header.initiatorSPI, digest: crypto.sha1(bytes))
        if let spi = initIndex[key], let sa = sas[spi] { repeatInit(sa, path: path); return }
        // A part of the table is kept for what we initiate ourselves.
        guard sas.count < Bounds.countLimit(settings.maxIKESAs * 15 / 16) else { counters.saLimitReached &+= 1; return }
        guard bytes.count <= Bounds.initMessageBytes else { counters.malformed &+= 1; return }
        let isPeer = isConfigured(path.remote.address)
        // Until a cookie has come back the address may be anybody's: it costs its owner nothing, and is promised little.
        let isVerified = hasCookie(message, nonce: nonce, path: path, now: now)
        guard isVerified || !needsCookie(path.remote.address) else {
            offerCookie(message, bytes.count, nonce: nonce, path: path, now: now)
            return
        }
        let most = isPeer ? Bounds.halfOpenPerPeer : Bounds.halfOpenPerStranger
        guard !isVerified || halfOpenByAddress[path.remote.address.site] ?? 0 < most else {
            counters.halfOpenRefused &+= 1
            return
        }

        let all = self.candidates(path)
        guard !all.isEmpty else { refuseStranger(header, bytes.count, path: path, now: now); return }
        // What the operator took down takes nobody in; whoever it may be else is told apart by its identity, in IKE_AUTH.
        let candidates = all.filter { !$0.isTakenDown }
        guard !candidates.isEmpty else {
            refuseAsTakenDown(all[0], header, bytes.count, path: path, now: now)
            return
        }
        if redirectInit(message, bytes.count, nonce: nonce, candidates, path: path) { return }
        guard let chosen = suite(message.payloads, offer, candidates) else {
            refuseSuites(header, bytes.count, offer, candidates[0], path: path, now: now)
            return
        }
        let method = chosen.choice.suite.method
        guard keyExchange.method == method.rawValue else {
            // "the responder … MUST reject the message with a Notify payload of type INVALID_KE_PAYLOAD … two-octet number"
            // (§1.2, §3.10.1).
            var data: [UInt8] = []
            data.append(u16: method.rawValue)
            // Not rate-limited: no longer than the request, and a peer that tries another group needs it.
            counters.unprotectedAnswers &+= 1
            answerClear(header, [.notify(Notify(.invalidKEPayload, data: data))], toOctets: bytes.count, path: path)
            return
        }
        guard keyExchange.data.count == method.publicValueBytes else { counters.malformed &+= 1; return }
        let answer = InitAnswer(
            plan: chosen.plan, choice: chosen.choice, isVerified: isVerified,
            notifies: notifies(message.payloads, chosen.plan, chosen.choice, candidates.map(\.plan)))
        guard isVerified || answer.octets(message.payloads) <= bytes.count else {
            // A sender that is not there must not make us send more than it did.
            offerCookie(message, bytes.count, nonce: nonce, path: path, now: now)
            return
        }
        // In silence: a peer that means it sends again, when there is time for it.
        let work = chosen.choice.suite.workMicroseconds
        guard isPeer ? peerWork.take(work, now: now) : strangerWork.take(work, now: now) else {
            counters.keyExchangesDeferred &+= 1
            return
        }
        guard makeRoom(forPeer: isPeer, now: now) else { counters.halfOpenRefused &+= 1; return }
        accept(message, bytes, key, answer, nonce: nonce, publicValue: keyExchange.data, path: path, now: now)
    }

    /// The first connection that can agree on a suite.
    private func suite(
        _ request: PayloadList, _ offer: [WireProposal], _ candidates: [ConnectionState]
    ) -> (plan: ConnectionPlan, choice: Negotiation.Choice<IKESuite>)? {
        let withAdditional = request.notify(.intermediateExchangeSupported) != nil
        for candidate in candidates {
            let choice = Negotiation.choose(candidate.plan.proposals, from: offer, withAdditional: withAdditional)
            if let choice { return (candidate.plan, choice) }
        }
        return nil
    }

    private func refuseSuites(
        _ header: IKEHeader, _ octets: Int, _ offer: [WireProposal], _ likely: ConnectionState, path: Path, now: Instant
    ) {
        counters.proposalsRefused &+= 1
        guard refuseInit(header, octets, path: path, now: now) else { return }
        let plan = likely.plan
        let reason = NegotiationReport.ike(
            ours: plan.proposals, offer: offer, connection: plan.name, line: plan.line("ike_proposals"))
        refused(likely, Reason(.ikeProposals, "Refused \(path.remote): \(reason)"), from: path.remote, now: now)
    }

    /// "it has to determine whether the packet is a retransmission belonging to an existing "half-open" IKE SA (in which case the
    /// responder retransmits the same response) … or it belongs to an existing IKE SA where the IKE_AUTH request has been already
    /// received (in which case the responder ignores it)" (§2.1).
    private func repeatInit(_ sa: IKESA, path: Path) {
        guard case .halfOpen(let state) = sa.phase, state.repeats < Bounds.initRepeats else {
            counters.unexpected &+= 1
            return
        }
        state.repeats += 1
        counters.responsesRetransmitted &+= 1
        transmit(state.responderMessage, path: path)
    }

    /// "When one party receives an IKE_SA_INIT request containing a cookie whose contents do not match the value expected, that
    /// party MUST ignore the cookie and process the message as if no cookie had been included" (§2.6).
    private func hasCookie(_ message: WireMessage, nonce: [UInt8], path: Path, now: Instant) -> Bool {
        guard let cookie = message.payloads.notify(.cookie) else { return false }
        let (address, spi) = (path.remote.address, message.header.initiatorSPI)
        if cookies.verify(cookie.data, nonce: nonce, address: address, spi: spi, now: now) { return true }
        counters.cookiesRefused &+= 1
        return false
    }

    /// Somebody has begun a great deal, or it looks as if this address had.
    private func needsCookie(_ address: IPAddress) -> Bool {
        halfOpenCount >= settings.cookieThreshold || unverifiedByAddress[address.site] ?? 0 >= Bounds.unverifiedPerAddress
    }

    private func offerCookie(_ message: WireMessage, _ octets: Int, nonce: [UInt8], path: Path, now: Instant) {
        let (address, spi) = (path.remote.address, message.header.initiatorSPI)
        guard let cookie = try? cookies.make(nonce: nonce, address: address, spi: spi, now: now) else { return }
        counters.cookiesSent &+= 1
        // Not rate-limited: it is what keeps a flood from costing more than a hash.
        answerClear(message.header, [.notify(Notify(.cookie, data: cookie))], toOctets: octets, path: path)
    }

    func isConfigured(_ address: IPAddress) -> Bool { directory.names(address) }

    /// The table of half-open SAs is never closed to a peer that the configuration names, whatever strangers do: a quarter of
    /// it is for such peers alone, and in the rest the oldest stranger gives way to the next one. A flood from many true
    /// addresses then shortens the time that a stranger has to authenticate, and keeps nobody out.
    private func makeRoom(forPeer isPeer: Bool, now: Instant) -> Bool {
        let most = Bounds.countLimit(settings.maxHalfOpen)
        if halfOpenCount < (isPeer ? most : most - most / 4) { return true }
        while let spi = halfOpenStrangers.popFirst() {
            guard let sa = sas[spi], sa.countsAsHalfOpen, sa.isHalfOpen || sa.isClosed else { continue }
            counters.halfOpenEvicted &+= 1
            drop(sa, reason: nil, failed: false, now: now)
            return true
        }
        return halfOpenCount < most
    }

    /// Half-open SAs, and those that failed to authenticate as long as they linger, count against the limits.
    private func countHalfOpen(_ sa: IKESA) {
        sa.countsAsHalfOpen = true
        halfOpenCount += 1
        let site = sa.path.remote.address.site
        sa.halfOpenAddress = site
        if sa.isAddressVerified { halfOpenByAddress[site, default: 0] += 1 } else { unverifiedByAddress[site, default: 0] += 1 }
        guard !isConfigured(sa.path.remote.address) else { return }
        halfOpenStrangers.append(sa.localSPI)
        // Most have authenticated or are gone by then.
        if halfOpenStrangers.count > 2 * Bounds.countLimit(settings.maxHalfOpen) {
            halfOpenStrangers = Deque(halfOpenStrangers.filter { sas[$0]?.countsAsHalfOpen == true })
        }
    }

    /// It has authenticated, or is forgotten.
    func uncountHalfOpen(_ sa: IKESA) {
        guard sa.countsAsHalfOpen else { return }
        sa.countsAsHalfOpen = false
        halfOpenCount -= 1
        guard let site = sa.halfOpenAddress else { return }
        if sa.isAddressVerified {
            halfOpenByAddress[site] = (halfOpenByAddress[site] ?? 0) > 1 ? (halfOpenByAddress[site] ?? 0) - 1 : nil
        } else {
            unverifiedByAddress[site] = (unverifiedByAddress[site] ?? 0) > 1 ? (unverifiedByAddress[site] ?? 0) - 1 : nil
        }
    }

    /// Connections that a peer at this path may mean: those that name its address before those that take any.
    func candidates(_ path: Path) -> [ConnectionState] {
        directory.candidates(path.remote.address).compactMap { connections[$0] }
            .filter { $0.plan.localAddresses.contains(path.local.address) }
    }

    /// False when too many were refused this second: then nothing is said, here or there.
    private func refuseInit(
        _ header: IKEHeader, _ octets: Int, _ notify: NotifyType = .noProposalChosen, path: Path, now: Instant
    ) -> Bool {
        guard initRefusals.allows(now) else { counters.unprotectedAnswersSuppressed &+= 1; return false }
        counters.unprotectedAnswers &+= 1
        answerClear(header, [.notify(Notify(notify))], toOctets: octets, path: path)
        return true
    }

    private func refuseStranger(_ header: IKEHeader, _ octets: Int, path: Path, now: Instant) {
        counters.strangersRefused &+= 1
        guard unprotectedAnswers.allows(now) else { counters.unprotectedAnswersSuppressed &+= 1; return }
        counters.unprotectedAnswers &+= 1
        let reason = Reason(
            .unknownPeer,
            "Refused \(path.remote): no connection has remote.address \(path.remote.address) (or any) and local.address "
                + "\(path.local.address); add one, or correct the address of an existing one.")
        refusedStranger(reason, from: path.remote, now: now)
        answerClear(header, [.notify(Notify(.noProposalChosen))], toOctets: octets, path: path)
    }

    /// An answer that nothing protects, never longer than what it answers: who makes up a sender's address gains nothing.
    func answerClear(_ header: IKEHeader, _ payloads: [Payload], toOctets request: Int, path: Path) {
        let message = WireMessage.encodeClear(header.response(), payloads)
        guard message.count <= request else { counters.unprotectedAnswersSuppressed &+= 1; return }
        transmit(message, path: path)
    }

    /// What is decided of the answer to a first message before anything is computed for it.
    private struct InitAnswer {
        var plan: ConnectionPlan
        var choice: Negotiation.Choice<IKESuite>
        /// A cookie has come back from the sender's address.
        var isVerified: Bool
        /// Everything after the nonce but NAT detection.
        var notifies: [Payload]

        var suite: IKESuite { choice.suite }

        func payloads(publicValue: [UInt8], nonce: [UInt8], nat: [Payload]) -> [Payload] {
            [
                .securityAssociation([
                    WireProposal(number: choice.number, protocolID: ProtocolID.ike, transforms: suite.transforms)
                ]),
                .keyExchange(method: suite.method.rawValue, data: publicValue), .nonce(nonce),
            ] + nat + notifies
        }

        /// How long it will be.
        func octets(_ request: PayloadList) -> Int {
            let detects = plan.natTraversal != .off && request.notify(.natDetectionSourceIP) != nil
            let digest = Payload.notify(Notify(.natDetectionSourceIP, data: [UInt8](repeating: 0, count: 20)))
            let all = payloads(
                publicValue: [UInt8](repeating: 0, count: suite.method.answerBytes),
                nonce: [UInt8](repeating: 0, count: Bounds.ourNonceBytes), nat: detects ? [digest, digest] : [])
            return IKEHeader.byteCount + PayloadChain.encode(all).count
        }
    }

    private func notifies(
        _ request: PayloadList, _ plan: ConnectionPlan, _ choice: Negotiation.Choice<IKESuite>, _ plans: [ConnectionPlan]
    ) -> [Payload] {
        var payloads: [Payload] = []
        if plan.paths.fragmentation, request.notify(.fragmentationSupported) != nil {
            payloads.append(.notify(Notify(.fragmentationSupported)))
        }
        var wishes = PeerWishes()
        wishes.add(request)
        payloads += announcements(wishes, plans)
        if request.notify(.usePPK) != nil, plans.contains(where: { $0.postquantumKey != nil }) {
            payloads.append(.notify(Notify(.usePPK)))
        }
        // "If the responder agrees to use additional key exchanges while establishing an initial IKE SA, it MUST also return this
        // notification". RFC 9370 §2.2.1.
        if !choice.suite.additional.isEmpty { payloads.append(.notify(Notify(.intermediateExchangeSupported))) }
        return payloads
    }

    private func refuseAsTakenDown(_ state: ConnectionState, _ header: IKEHeader, _ octets: Int, path: Path, now: Instant) {
        guard refuseInit(header, octets, .temporaryFailure, path: path, now: now) else { return }
        refused(state, Reasons.refusedAsTakenDown(state.plan.name, remote: path.remote), from: path.remote, now: now)
    }

    private func accept(
        _ message: WireMessage, _ bytes: [UInt8], _ key: InitKey, _ answer: InitAnswer, nonce: [UInt8], publicValue: [UInt8],
        path: Path, now: Instant
    ) {
        let (plan, suite) = (answer.plan, answer.suite)
        let keyExchange: any KeyExchangeAnswer
        do throws(IKECryptoError) {
            keyExchange = try crypto.answerKeyExchange(suite.method, peerPublicValue: publicValue)
        } catch {
            guard error != .invalidPublicValue else { counters.malformed &+= 1; return }
            log(.error, plan.name, "A key exchange could not be prepared: \(error).")
            return
        }
        let spi = freshSPI()
        let state = HalfOpenSA(
            initiatorNonce: nonce, responderNonce: random.bytes(Bounds.ourNonceBytes), keyExchange: keyExchange,
            initiatorMessage: bytes, expires: now + Bounds.halfOpenLifetime)
        let sa = IKESA(
            localSPI: spi, initiatorSPI: message.header.initiatorSPI, responderSPI: spi, isInitiator: false, path: path,
            phase: .halfOpen(state), now: now)
        sa.isAddressVerified = answer.isVerified
        sa.suite = suite
        sa.pendingMethods = suite.additionalMethods
        sa.initKey = key
        sa.expectedRequestID = 1
        sa.wishes.add(message.payloads)
        let nat = NATDetection(crypto: crypto)
        let finding = nat.examine(message.payloads, initiatorSPI: sa.initiatorSPI, responderSPI: 0, path: path)
        var detection: [Payload] = []
        if plan.natTraversal != .off, finding.isSupportedByPeer {
            sa.mobility.peerSupportsNATTraversal = true
            (sa.localNAT, sa.remoteNAT) = (finding.localNAT, finding.remoteNAT)
            sa.encapsulates = finding.localNAT || finding.remoteNAT || plan.natTraversal == .force
            let forged = plan.natTraversal == .force ? random.bytes(20) : nil
            detection = nat.notifies(initiatorSPI: sa.initiatorSPI, responderSPI: spi, path: path, forged: forged)
        }
        noteRedirectSupport(sa, message.payloads)
        if answer.notifies.contains(where: { $0.isNotify(.fragmentationSupported) }) { agreeOnFragmentation(sa, plan) }
        sa.postquantum.isNegotiated = answer.notifies.contains { $0.isNotify(.usePPK) }
        let payloads = answer.payloads(publicValue: keyExchange.publicValue, nonce: state.responderNonce, nat: detection)
        state.responderMessage = WireMessage.encodeClear(sa.header(.ikeSAInit, isResponse: true, id: 0), payloads)
        sas[spi] = sa
        initIndex[key] = spi
        countHalfOpen(sa)
        transmit(state.responderMessage, path: path)
        touch(sa)
    }

    /// What a peer that has not named itself may expect of authentication: of any connection that it may mean.
    private func announcements(_ wishes: PeerWishes, _ plans: [ConnectionPlan]) -> [Payload] {
        var payloads = RemoteAuthentication.requests(plans.map(\.remoteAuthentication))
        if wishes.hashes != nil {
            payloads.append(SignatureHash.notify(allowsSHA1: plans.contains(where: \.allowsSHA1Signatures)))
        }
        if plans.contains(where: { $0.childless != .never }) {
            // "Protocol ID (1 octet) MUST be 1, as this message is related to an IKEv2 SA." RFC 6023 §4.
            payloads.append(.notify(Notify(.childlessSupported, protocolID: ProtocolID.ike)))
        }
        return payloads
    }

    /// The keys of a half-open SA, computed when the first protected request comes: an initiator that never sends one costs no
    /// secret.
    func deriveKeys(_ sa: IKESA, _ state: HalfOpenSA, now: Instant) -> Bool {
        if sa.keys != nil { return true }
        guard let suite = sa.suite else { return false }
        do throws(IKEFault) {
            let shared = try agree(state.keyExchange)
            let schedule = KeySchedule(crypto: crypto)
            let seed = try schedule.seed(
                prf: suite.prf, initiatorNonce: state.initiatorNonce, responderNonce: state.responderNonce, shared: shared)
            sa.keys = try schedule.keys(
                suite: suite, seed: seed, initiatorNonce: state.initiatorNonce, responderNonce: state.responderNonce,
                initiatorSPI: sa.initiatorSPI, responderSPI: sa.responderSPI)
            return true
        } catch {
            counters.unexpected &+= 1
            drop(sa, reason: nil, failed: false, now: now)
            return false
        }
    }
}

extension Payload {
    func isNotify(_ type: NotifyType) -> Bool { if case .notify(let notify) = self { notify.type == type } else { false } }
}

extension IPAddress {
    /// What one host may have all addresses of: in IPv6 the /64.
    var site: IPAddress {
        if case .v6(let address) = self { .v6(IPv6Address(high: address.high, low: 0)) } else { self }
    }
}
