import IPsec

// Message ids, windows, retransmission. RFC 7296 §2.1 to §2.4.
extension IKECore {
    // MARK: Our requests

    /// Seals and sends a request, and keeps it until its response comes.
    func send(_ kind: OutstandingRequest.Kind, _ exchange: ExchangeType, _ payloads: [Payload], on sa: IKESA, now: Instant) {
        guard sa.suite != nil, sa.ourKeys != nil else { return }
        do throws(IKEFault) {
            let content = ProtectedContent(
                header: sa.header(exchange, isResponse: false, id: sa.nextRequestID), payloads: payloads)
            let messages = try sealed(content, on: sa, path: sa.path, datagramBytes: sa.fragmentation.datagramBytes)
            launch(kind, exchange, messages, content, on: sa, now: now)
        } catch {
            log(.error, sa.connection, "A request could not be sent: \(error.sentence).")
        }
    }

    /// RFC 5282 §3.1 asks for IVs that are unique under a key: with AES-GCM a counter of what was sealed with it, requests and
    /// responses together. CBC needs them unpredictable (RFC 7296 §3.14).
    func freshIV(_ sa: IKESA, _ cipher: IKECipher) -> [UInt8] {
        guard case .aesGCM16 = cipher else { return random.bytes(cipher.ivBytes) }
        sa.sealedMessages &+= 1
        return [UInt8](u64: sa.sealedMessages)
    }

    /// Sends the octets of a request under the next message id and starts its retransmission.
    /// - Parameters:
    ///   - messages: the message, or its fragments.
    ///   - content: what they were sealed from; nil for IKE_SA_INIT, which is never split.
    ///   - isWhole: no router may fragment it.
    func launch(
        _ kind: OutstandingRequest.Kind, _ exchange: ExchangeType, _ messages: [[UInt8]], _ content: ProtectedContent?,
        on sa: IKESA, isWhole: Bool = false, now: Instant
    ) {
        sa.fragmentation.response = nil
        sa.outstanding = OutstandingRequest(
            id: sa.nextRequestID, exchange: exchange, kind: kind, messages: messages, content: content, firstSent: now,
            nextTransmit: now + settings.retransmitInitial, interval: settings.retransmitInitial, transmissions: 1,
            giveUpAt: now + patience(sa), generation: sa.mobility.generation, isWhole: isWhole)
        sa.nextRequestID &+= 1
        sa.sendFailure = nil
        for message in messages { transmit(message, path: sa.path, isWhole: isWhole) }
        touch(sa)
    }

    /// How long a request waits for its response. With liveness checks it is bounded by their interval: at 2 s a dead peer is
    /// given up 2 + 8 s after its last sign of life.
    func patience(_ sa: IKESA) -> Duration {
        var tries = sa.isClosing ? min(Bounds.closingTries, settings.retransmitTries) : settings.retransmitTries
        if case .initiating = sa.phase, hasAlternatives(sa) { tries = min(tries, Bounds.triesPerAddressPair) }
        var total = settings.retransmitInitial
        var interval = settings.retransmitInitial
        for _ in 0..<tries {
            interval = longer(interval)
            total += interval
        }
        guard sa.established != nil, let plan = plan(of: sa), plan.dpdInterval > .zero else { return total }
        return min(total, max(.seconds(8), plan.dpdInterval * 3))
    }

    /// "retransmission times MUST increase exponentially" (§2.4).
    private func longer(_ interval: Duration) -> Duration { min(interval * 9 / 5, Bounds.longestRetransmitInterval) }

    func retransmit(_ sa: IKESA, now: Instant) {
        guard var request = sa.outstanding, request.nextTransmit <= now || request.giveUpAt <= now else { return }
        if request.giveUpAt <= now {
            // ESP that still arrives proves that the peer lives (§2.4): its answer is waited for longer, but not for ever.
            if let traffic = sa.established?.lastTraffic, traffic > request.firstSent,
                now < request.firstSent + Bounds.requestPatience
            {
                request.giveUpAt = min(traffic + patience(sa), request.firstSent + Bounds.requestPatience)
            }
            if request.giveUpAt <= now { giveUp(sa, request, now: now); return }
        }
        if request.nextTransmit <= now {
            if !relaxProbe(&request, on: sa), !splitUnanswered(&request, on: sa) { request.interval = longer(request.interval) }
            request.nextTransmit = now + request.interval
            request.transmissions += 1
            counters.requestsRetransmitted &+= 1
            sa.sendFailure = nil
            for message in request.messages { transmit(message, path: sa.path, isWhole: request.isWhole) }
            tellSilence(sa, request, now: now)
            probe(&request, on: sa)
        }
        sa.outstanding = request
    }

    /// The first word about an outage, long before the peer is given up.
    private func tellSilence(_ sa: IKESA, _ request: OutstandingRequest, now: Instant) {
        guard let established = sa.established, request.plainTransmissions == Bounds.transmissionsOfSilence else { return }
        let silent = Reasons.seconds(now - established.lastHeard)
        log(
            .warning, sa.connection,
            "The peer \(sa.path.remote) has been silent for \(silent) s and does not answer \(request.exchange); it is asked "
                + "\(plannedTransmissions(request) - request.transmissions) times more before it is given up.")
    }

    /// How often a request is sent in all when nothing answers it.
    func plannedTransmissions(_ request: OutstandingRequest) -> Int {
        var (count, next, interval) = (request.transmissions, request.nextTransmit, request.interval)
        while next < request.giveUpAt, count < Bounds.mostTransmissions {
            count += 1
            interval = longer(interval)
            next = next + interval
        }
        return count
    }

    /// Goes unanswered: in smaller fragments, which start the intervals over (RFC 7383 §2.5.2). False when nothing changed.
    private func splitUnanswered(_ request: inout OutstandingRequest, on sa: IKESA) -> Bool {
        guard request.transmissions % Bounds.transmissionsPerFragmentSize == 0, let content = request.content,
            let split = splitSmaller(
                content, request.messages, on: sa, path: sa.path, from: sa.fragmentation.datagramBytes)
        else { return false }
        sa.fragmentation.datagramBytes = split.datagramBytes
        request.messages = split.messages
        request.interval = settings.retransmitInitial
        return true
    }

    /// "an implementation deems the IKE SA to have failed … discards all state associated with the IKE SA" (§2.1).
    private func giveUp(_ sa: IKESA, _ request: OutstandingRequest, now: Instant) {
        switch sa.phase {
        case .initiating(let state):
            drop(sa, reason: state.refusal?.reason ?? silence(sa, request, now: now), failed: true, now: now)
        case .intermediate, .authenticating: drop(sa, reason: silence(sa, request, now: now), failed: true, now: now)
        case .established:
            counters.peersDead &+= 1
            drop(sa, reason: silence(sa, request, now: now), failed: true, isDead: true, now: now)
        case .closing, .halfOpen, .closed: drop(sa, reason: nil, failed: false, now: now)
        }
    }

    /// Starts the next queued request if the window allows: "An IKE endpoint MUST wait for a response to each of its messages
    /// before sending a subsequent message" (§2.3).
    func pump(_ sa: IKESA, now: Instant) {
        while sa.outstanding == nil, sas[sa.localSPI] != nil, let task = sa.tasks.first, !mustWait(sa, for: task),
            !isInstallingOwn(sa, before: task)
        {
            sa.tasks.removeFirst()
            guard sa.nextRequestID < UInt32.max else {
                // "In the unlikely event that Message IDs grow too large to fit in 32 bits, the IKE SA MUST be closed or
                // rekeyed."
                drop(sa, reason: "The message ids of the IKE SA ran out.", failed: false, now: now)
                return
            }
            start(task, on: sa, now: now)
        }
    }

    /// False when the queue is full.
    @discardableResult
    func enqueue(_ task: SATask, on sa: IKESA) -> Bool {
        guard !sa.tasks.contains(task) else { return true }
        guard sa.tasks.count < Bounds.tasksPerIKESA else { counters.taskLimitReached &+= 1; return false }
        sa.tasks.append(task)
        touch(sa)
        return true
    }

    /// Before everything else that waits.
    func enqueueFirst(_ task: SATask, on sa: IKESA) {
        sa.tasks.removeAll { $0 == task }
        guard sa.tasks.count < Bounds.tasksPerIKESA else { counters.taskLimitReached &+= 1; return }
        sa.tasks.prepend(task)
        touch(sa)
    }

    private func start(_ task: SATask, on sa: IKESA, now: Instant) {
        if case .deleteIKE = task {
            send(.deleteIKE, .informational, [.delete(.ikeSA)], on: sa, now: now)
            return
        }
        guard let established = sa.established else { return }
        switch task {
        case .createChild(let name): startCreateChild(name, on: sa, established, now: now)
        case .createRest(let name): startCreateRest(name, on: sa, established, now: now)
        case .rekeyChild(let spi): startRekeyChild(spi, on: sa, established, now: now)
        case .deleteChild(let spi): startDeleteChild(spi, on: sa, established, now: now)
        case .rekeyIKE: startRekeyIKE(on: sa, established, retries: 0, method: nil, now: now)
        case .liveness: startLiveness(on: sa, now: now)
        case .updateAddresses: startUpdateAddresses(on: sa, now: now)
        case .announceAddresses: startAnnounceAddresses(on: sa, now: now)
        case .checkRoutability: startRoutabilityCheck(on: sa, now: now)
        case .probePath: startPathProbe(on: sa, now: now)
        case .verifyPath(let path):
            send(.verifyPath(path), .informational, [], on: sa, now: now)
            for message in sa.outstanding?.messages ?? [] { transmit(message, path: path) }
        case .redirect(let data): send(.redirect, .informational, [.notify(Notify(.redirect, data: data))], on: sa, now: now)
        case .notify(let type, let data):
            send(.informational, .informational, [.notify(Notify(type, data: data))], on: sa, now: now)
        case .deleteIKE: break
        }
    }

    // MARK: The peer's requests

    /// Answers the request in hand. The response is kept until the next request: "The responder MUST remember each response".
    func respond(_ sa: IKESA, _ exchange: ExchangeType, _ payloads: [Payload], path: Path) {
        guard sa.suite != nil, sa.ourKeys != nil else { return }
        let id = sa.expectedRequestID
        do throws(IKEFault) {
            let content = ProtectedContent(header: sa.header(exchange, isResponse: true, id: id), payloads: payloads)
            let longest = sa.fragmentation.requestDatagramBytes ?? sa.fragmentation.datagramBytes
            let datagramBytes = max(
                Bounds.shortestFragmentDatagramBytes, min(sa.fragmentation.datagramBytes, longest))
            let messages = try sealed(content, on: sa, path: path, datagramBytes: datagramBytes)
            sa.lastResponse = SentResponse(
                id: id, messages: messages, content: content, datagramBytes: datagramBytes, keys: sa.keys)
            sa.expectedRequestID = id &+ 1
            for message in messages { transmit(message, path: path) }
        } catch {
            log(.error, sa.connection, "A response could not be sent: \(error.sentence).")
        }
    }

    /// The same response again. Once the peer has asked for it repeatedly it may be too long for the path: "Examples of
    /// heuristics are … receiving repeated retransmissions of the request for the responder" (RFC 7383 §2.4).
    func repeatResponse(_ sa: IKESA, path: Path) {
        guard var last = sa.lastResponse else { return }
        counters.responsesRetransmitted &+= 1
        last.repeats += 1
        if last.repeats % Bounds.transmissionsPerFragmentSize == 0,
            let split = splitSmaller(
                last.content, last.messages, on: sa, path: path, from: last.datagramBytes,
                keys: sa.isInitiator ? last.keys?.initiator : last.keys?.responder)
        {
            (last.messages, last.datagramBytes) = (split.messages, split.datagramBytes)
        }
        sa.lastResponse = last
        for message in last.messages { transmit(message, path: path) }
    }

    func respond(_ sa: IKESA, _ exchange: ExchangeType, error fault: IKEFault, path: Path) {
        respond(sa, exchange, [.notify(fault.notify)], path: path)
    }
}
