import IPsec

// From a datagram to the exchange that it belongs to. RFC 7296 §2.1 to §2.6, §2.21, §3.1.
extension IKECore {
    /// Steps: 1. strip the non-ESP marker; 2. read the header and check the version; 3. find the SA by our own SPI; 4. hand on.
    func receive(_ datagram: [UInt8], path: Path, now: Instant) {
        guard let bytes = withoutMarker(datagram, path, now: now) else { return }
        let message: WireMessage
        do throws(IKEFault) {
            let header = try IKEHeader(parsing: bytes[...])
            guard checkVersion(header, bytes.count, path: path, now: now) else { return }
            message = try WireMessage(parsing: bytes)
        } catch {
            refuseUnreadable(bytes, error, path: path, now: now)
            return
        }
        let header = message.header
        if !header.isResponse, header.exchange == .ikeSAInit, header.isFromInitiator, header.responderSPI == 0 {
            answerInit(message, bytes, path: path, now: now)
            return
        }
        guard let sa = owner(of: header) else { refuseUnknown(header, bytes.count, path: path, now: now); return }
        touch(sa)
        if header.isResponse {
            receiveResponse(message, bytes, sa, path: path, now: now)
        } else {
            receiveRequest(message, sa, path: path, now: now)
        }
    }

    /// "an endpoint … must look at the Initiator flag in the header to determine whether it assigned the first or the second
    /// eight octets" (§2.6).
    private func owner(of header: IKEHeader) -> IKESA? {
        guard let sa = sas[header.isFromInitiator ? header.responderSPI : header.initiatorSPI] else { return nil }
        guard sa.isInitiator != header.isFromInitiator else { return nil }
        if sa.isInitiator {
            if case .initiating = sa.phase { return sa }
            return sa.responderSPI == header.responderSPI ? sa : nil
        }
        return sa.initiatorSPI == header.initiatorSPI ? sa : nil
    }

    private func withoutMarker(_ datagram: [UInt8], _ path: Path, now: Instant) -> [UInt8]? {
        if datagram == [0xFF] { counters.keepalivesReceived &+= 1; return nil }
        guard path.local.port == settings.natTraversalPort else {
            noteMarkerOnWrongPort(datagram, path, now: now)
            return datagram
        }
        guard datagram.count > 4, datagram[..<4].allSatisfy({ $0 == 0 }) else { counters.notIKE &+= 1; return nil }
        return Array(datagram[4...])
    }

    /// "If an endpoint receives a message with a higher major version number, it MUST drop the message and SHOULD send an
    /// unauthenticated Notify message of type INVALID_MAJOR_VERSION containing the highest (closest) version number it supports."
    private func checkVersion(_ header: IKEHeader, _ octets: Int, path: Path, now: Instant) -> Bool {
        guard header.major != IKEHeader.majorVersion else { return true }
        counters.wrongVersion &+= 1
        if header.major > IKEHeader.majorVersion, !header.isResponse {
            answerUnprotected(
                header, [Notify(.invalidMajorVersion, data: [IKEHeader.majorVersion << 4])], toOctets: octets, path: path,
                now: now)
            refusedVersion("IKE version \(header.major).\(header.version & 0x0F)", path, now: now)
        } else if let mode = IKEv1.beginning(header) {
            refuseIKEv1(header, mode, octets: octets, path: path, now: now)
        }
        return false
    }

    /// INVALID_SYNTAX "may only be returned for and in an encrypted packet" (§3.10.1), so garbage is dropped; an unknown critical
    /// payload in IKE_SA_INIT is answered (§2.5).
    private func refuseUnreadable(_ bytes: [UInt8], _ fault: IKEFault, path: Path, now: Instant) {
        counters.malformed &+= 1
        guard case .unsupportedCriticalPayload = fault, let header = try? IKEHeader(parsing: bytes[...]),
            !header.isResponse, header.exchange == .ikeSAInit, header.responderSPI == 0
        else { return }
        answerUnprotected(header, [fault.notify], toOctets: bytes.count, path: path, now: now)
    }

    /// "If the message is marked as a response, the node can audit the suspicious event but MUST NOT respond. … If a response is
    /// sent [to a request], … with the same IKE SPIs and the Message ID copied … and MUST contain an INVALID_IKE_SPI Notify
    /// payload."
    private func refuseUnknown(_ header: IKEHeader, _ octets: Int, path: Path, now: Instant) {
        counters.unknownSPI &+= 1
        guard !header.isResponse, header.responderSPI != 0, header.initiatorSPI != 0 else { return }
        answerUnprotected(header, [Notify(.invalidIKESPI)], toOctets: octets, path: path, now: now)
    }

    /// "A node needs to limit the rate at which it will send messages in response to unprotected messages." (§2.21.4)
    func answerUnprotected(_ header: IKEHeader, _ notifies: [Notify], toOctets request: Int, path: Path, now: Instant) {
        guard unprotectedAnswers.allows(now) else { counters.unprotectedAnswersSuppressed &+= 1; return }
        counters.unprotectedAnswers &+= 1
        answerClear(header, notifies.map(Payload.notify), toOctets: request, path: path)
    }

    // MARK: Responses

    private func receiveResponse(_ message: WireMessage, _ bytes: [UInt8], _ sa: IKESA, path: Path, now: Instant) {
        if case .initiating(let state) = sa.phase {
            guard message.header.exchange == .ikeSAInit, message.header.messageID == 0 else { counters.unexpected &+= 1; return }
            finishInit(sa, state, message, bytes, path: path, now: now)
            return
        }
        guard let encrypted = message.encrypted else { unprotectedHint(sa, message, now: now); return }
        guard let request = sa.outstanding, request.id == message.header.messageID, request.exchange == message.header.exchange
        else {
            counters.unexpected &+= 1
            return
        }
        guard let content = unseal(message, encrypted, sa, path: path, now: now) else { return }
        if sa.established != nil, request.plainTransmissions >= Bounds.transmissionsOfSilence {
            log(
                .info, sa.connection,
                "The peer \(sa.path.remote) answers again, after \(Reasons.seconds(now - request.firstSent)) s and "
                    + "\(request.transmissions) transmissions.")
        }
        heard(sa, path: path, now: now)
        adoptProbed(request, path, on: sa, now: now)
        sa.outstanding = nil
        let payloads: PayloadList
        do throws(IKEFault) { payloads = try content.payloads() } catch {
            finishUnreadable(sa, request, error, now: now)
            return
        }
        if case .verifyPath(let asked) = request.kind { finishVerification(sa, asked: asked, answered: path) }
        if case (.intermediate, .intermediate(let state)) = (request.kind, sa.phase) {
            finishIntermediate(sa, state, request, content, payloads, now: now)
        } else {
            finish(sa, request, payloads, now: now)
        }
    }

    private func finish(_ sa: IKESA, _ request: OutstandingRequest, _ payloads: PayloadList, now: Instant) {
        switch (request.kind, sa.phase) {
        case (.authenticate, .authenticating(let state)): finishAuth(sa, state, payloads, now: now)
        case (.child(let state), .established(let established)):
            finishCreateChild(sa, established, state, payloads, now: now)
        case (.rekeyIKE(let state), .established(let established)): finishRekeyIKE(sa, established, state, payloads, now: now)
        case (.followUp(let series), .established(let established)):
            finishFollowUp(sa, established, series, payloads, now: now)
        case (.deleteChildren(let spis), .established(let established)): finishDeleteChildren(sa, established, spis, now: now)
        case (.mobility(let what), .established(let established)):
            finishMobility(sa, established, request, what, payloads, now: now)
        case (.redirect, .established(let established)): finishRedirect(sa, established, now: now)
        case (.probePath(let bytes), .established): finishPathProbe(sa, request, bytes: bytes, now: now)
        case (.rekeyIKE(let state), .closing): endOrphan(of: sa, state, payloads, now: now)
        case (.followUp(let series), .closing): endOrphan(of: sa, series, payloads, now: now)
        case (.deleteIKE, _): drop(sa, reason: nil, failed: false, now: now)
        default: break
        }
    }

    /// "Such errors in parsing or processing response packets should still cause the recipient to clean up the IKE state"
    /// (§2.21).
    private func finishUnreadable(_ sa: IKESA, _ request: OutstandingRequest, _ fault: IKEFault, now: Instant) {
        counters.malformed &+= 1
        let reason: Reason = "The peer's response to \(request.exchange) is unusable: \(fault.sentence)."
        switch sa.phase {
        case .established: close(sa, reason: reason, now: now)
        default: drop(sa, reason: reason, failed: true, now: now)
        }
    }

    // MARK: Requests

    private func receiveRequest(_ message: WireMessage, _ sa: IKESA, path: Path, now: Instant) {
        guard let encrypted = message.encrypted else { unprotectedHint(sa, message, now: now); return }
        if case .halfOpen(let state) = sa.phase {
            // Once IKE_AUTH has begun, the peer may also give up.
            let isExpected =
                state.auth == nil
                ? isNext(message.header, sa)
                : message.header.exchange == .ikeAuth || message.header.exchange == .informational
            guard isExpected else { counters.unexpected &+= 1; return }
            guard deriveKeys(sa, state, now: now) else { return }
        }
        let id = message.header.messageID
        guard id == sa.expectedRequestID else { receiveOutOfTurn(message, encrypted, sa, path: path, now: now); return }
        // What is closed only repeats its last answer; the request that an answer is being prepared for is in hand already.
        guard sa.withheld == nil, sa.waiting == nil, !sa.isClosed else { return }
        guard let content = unseal(message, encrypted, sa, path: path, now: now) else { return }
        heard(sa, path: path, now: now)
        let payloads: PayloadList
        do throws(IKEFault) { payloads = try content.payloads() } catch {
            answerUnreadable(sa, message.header.exchange, error, path: path, now: now)
            return
        }
        if case (.halfOpen(let state), .ikeIntermediate) = (sa.phase, message.header.exchange) {
            answerIntermediate(sa, state, content, payloads, path: path, now: now)
        } else {
            answer(sa, message.header.exchange, payloads, path: path, now: now)
        }
    }

    /// The request that a half-open SA waits for, or the one before it again. "The Message ID for the first pair of IKE_AUTH
    /// messages is one more than the value used in the last IKE_INTERMEDIATE exchange." RFC 9242 §3.2.
    private func isNext(_ header: IKEHeader, _ sa: IKESA) -> Bool {
        guard header.messageID == sa.expectedRequestID else { return sa.lastResponse?.id == header.messageID }
        return header.exchange == (sa.pendingMethods.isEmpty ? .ikeAuth : .ikeIntermediate)
    }

    private func answer(_ sa: IKESA, _ exchange: ExchangeType, _ payloads: PayloadList, path: Path, now: Instant) {
        settleContest(sa, payloads, now: now)
        confirmChildren(of: sa, payloads)
        switch (sa.phase, exchange) {
        case (.halfOpen(let state), .ikeAuth): answerAuth(sa, state, payloads, path: path, now: now)
        case (.halfOpen(let state), .informational):
            if let auth = state.auth { answerBreakOff(sa, auth, payloads, path: path, now: now) }
        case (.established(let established), .createChildSA):
            answerCreateChild(sa, established, payloads, path: path, now: now)
        case (.established, .informational), (.closing, .informational): answerInformational(sa, payloads, path: path, now: now)
        case (.established(let established), .ikeFollowUpKE):
            answerFollowUp(sa, established, payloads, path: path, now: now)
        case (.closing, .ikeFollowUpKE): respond(sa, exchange, [.notify(Notify(.stateNotFound))], path: path)
        case (.closing, .createChildSA):
            // "If a peer receives a request to rekey an IKE SA that it is currently trying to close, it SHOULD reply with
            // TEMPORARY_FAILURE." (§2.25.2)
            respond(sa, exchange, [.notify(Notify(.temporaryFailure))], path: path)
        case (.established, _):
            // Authentic, well-formed, and of a kind that we do not have. INVALID_SYNTAX would end the IKE SA at both ends
            // (§2.21.3) with all its tunnels, and without an answer the peer would think us dead: an empty one agrees to
            // nothing.
            counters.unexpected &+= 1
            respond(sa, exchange, [], path: path)
        default: counters.unexpected &+= 1
        }
    }

    /// A repeated request gets the same response again; one beyond the window is reported, at a limited rate (§2.3).
    private func receiveOutOfTurn(
        _ message: WireMessage, _ encrypted: WireMessage.Encrypted, _ sa: IKESA, path: Path, now: Instant
    ) {
        let id = message.header.messageID
        let repeated = sa.lastResponse.flatMap { $0.id == id ? $0 : nil }
        // "MUST only trigger a retransmission of the response message (fragmented or not) if the Fragment Number field in the
        // received fragment is set to 1; otherwise, it MUST be ignored." RFC 7383 §2.6.1.
        if let fragment = encrypted.fragment, fragment.number != 1 { return }
        guard open(encrypted, sa, keys: sa.isInitiator ? repeated?.keys?.responder : repeated?.keys?.initiator) != nil else {
            return
        }
        if repeated != nil { repeatResponse(sa, path: path); return }
        counters.outOfWindow &+= 1
        guard id > sa.expectedRequestID, sa.established != nil else { return }
        if let last = sa.lastInvalidMessageID, now < last + Bounds.hintInterval { return }
        sa.lastInvalidMessageID = now
        enqueue(.notify(.invalidMessageID, [UInt8](u32: id)), on: sa)
    }

    /// "If a peer parsing a request notices that it is badly formatted (after it has passed the message authentication code
    /// checks and window checks) and it returns an INVALID_SYNTAX notification, then this error notification is considered fatal
    /// in both peers, meaning that the IKE SA is deleted without needing an explicit Delete payload." (§2.21.3)
    private func answerUnreadable(_ sa: IKESA, _ exchange: ExchangeType, _ fault: IKEFault, path: Path, now: Instant) {
        counters.malformed &+= 1
        respond(sa, exchange, error: fault, path: path)
        let isFatal: Bool
        if case .unsupportedCriticalPayload = fault { isFatal = sa.established == nil && !sa.isClosing } else { isFatal = true }
        if isFatal {
            finishClosed(sa, reason: "The peer's \(exchange) request is unusable: \(fault.sentence).", failed: true, now: now)
        }
    }

    /// After an answer with INVALID_SYNTAX the peer has no IKE SA any more.
    func closeAfter(_ fault: IKEFault, _ sa: IKESA, _ what: String, now: Instant) {
        guard fault.notify.type == .invalidSyntax else { return }
        finishClosed(sa, reason: "The peer's \(what) is unusable: \(fault.sentence).", failed: true, now: now)
    }

    // MARK: Common

    /// - Parameter keys: the peer's; nil: the current ones.
    func open(_ encrypted: WireMessage.Encrypted, _ sa: IKESA, keys: DirectionKeys? = nil) -> [UInt8]? {
        guard let suite = sa.suite, let keys = keys ?? sa.peerKeys else { return nil }
        do throws(IKEFault) {
            return try MessageSealer(crypto: crypto, cipher: suite.cipher).open(encrypted, keys: keys)
        } catch {
            counters.unauthentic &+= 1
            return nil
        }
    }

    /// "Receipt of a fresh cryptographically protected message on an IKE SA or any of its Child SAs ensures liveness" (§2.4).
    private func heard(_ sa: IKESA, path: Path, now: Instant) {
        sa.established?.lastHeard = now
        // With MOBIKE "The host not behind a NAT MUST NOT use these dynamic updates for IKEv2 packets, but MAY use them for ESP
        // packets." RFC 4555 §3.8.
        if !sa.isHalfOpen, path != sa.path, !sa.mobility.isNegotiated { follow(sa, path: path, now: now) }
    }

    /// "a host … that is not behind a NAT, SHOULD send all packets … to the IP address and port in the validated packet … A host
    /// behind a NAT SHOULD NOT do this type of dynamic address update if a validated packet has different port and/or address
    /// values because it opens a possible DoS attack (such as allowing an attacker to break the connection with a single packet)"
    /// (§2.23). So where both ends are behind NATs a packet only raises the question, and the peer's answer from there moves the
    /// path.
    func follow(_ sa: IKESA, path: Path, now: Instant) {
        guard sa.established != nil, sa.remoteNAT, path != sa.path else { return }
        if sa.localNAT {
            // With MOBIKE the end that decides knows how the other sees it, and says so.
            if !sa.mobility.isNegotiated { verify(path, of: sa, now: now) }
            return
        }
        moveTo(path, sa)
    }

    private func moveTo(_ path: Path, _ sa: IKESA) {
        log(.info, sa.connection, "The peer moved from \(sa.path.remote) to \(path.remote): following it.",
            from: sa.path.remote.address)
        let before = sa.tunnelPath(settings)
        sa.mobility.heldTunnelPath = nil
        sa.path = path
        moveChildren(sa, from: before)
    }

    /// Asks on both paths. When the old one still works its answer is here first, or alone.
    private func verify(_ path: Path, of sa: IKESA, now: Instant) {
        if let last = sa.lastVerification, now < last + Bounds.verificationInterval { return }
        if case .verifyPath = sa.outstanding?.kind { return }
        sa.lastVerification = now
        sa.tasks.removeAll { if case .verifyPath = $0 { true } else { false } }
        enqueue(.verifyPath(path), on: sa)
    }

    func finishVerification(_ sa: IKESA, asked: Path, answered: Path) {
        guard asked == answered, answered != sa.path, sa.established != nil, sa.remoteNAT else { return }
        moveTo(answered, sa)
    }

    /// "A peer receiving such an unprotected Notify payload MUST NOT respond and MUST NOT change the state of any existing SAs. …
    /// A node should treat such a message … as a hint that there might be problems" (§2.21.4).
    private func unprotectedHint(_ sa: IKESA, _ message: WireMessage, now: Instant) {
        counters.unprotected &+= 1
        if message.payloads.notify(.invalidIKESPI) != nil { suspect(sa, now: now) }
    }

    /// A liveness check on suspicion, at a limited rate.
    func suspect(_ sa: IKESA, now: Instant) {
        guard sa.established != nil, sa.outstanding == nil else { return }
        if let last = sa.lastHint, now < last + Bounds.hintInterval { return }
        sa.lastHint = now
        enqueue(.liveness, on: sa)
    }
}

extension ProtectedContent {
    func payloads() throws(IKEFault) -> PayloadList { try PayloadChain(first: firstPayload, bytes: inner[...]).clear() }
}

extension PayloadChain {
    /// The payloads of a decrypted chain: "an Encrypted payload MUST NOT contain another Encrypted payload" (§3.1).
    func clear() throws(IKEFault) -> PayloadList {
        guard encrypted == nil else { throw .malformed("SK: another Encrypted payload inside") }
        return payloads
    }
}
