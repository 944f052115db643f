import IPsec

// IKE_INTERMEDIATE with additional key exchanges, both roles. RFC 9242, RFC 9370 §2.2.2.
//
//   HDR, SK {KEi(n)} -->
//                    <-- HDR, SK {KEr(n)}
//
// It is done as often as additional key exchanges were chosen in IKE_SA_INIT, then IKE_AUTH follows.
extension IKECore {
    // MARK: Initiator

    /// IKE_SA_INIT or an IKE_INTERMEDIATE is done: the next additional key exchange, or IKE_AUTH.
    func continueInit(
        _ sa: IKESA, _ initiation: InitiatingSA, responderNonce: [UInt8], responderMessage: [UInt8], _ plan: ConnectionPlan,
        now: Instant
    ) {
        guard let method = sa.pendingMethods.first else {
            beginAuth(
                sa, initiation, responderNonce: responderNonce, responderMessage: responderMessage, plan, now: now)
            return
        }
        let keyExchange: any KeyExchange
        do throws(IKECryptoError) { keyExchange = try crypto.makeKeyExchange(method) } catch {
            drop(sa, reason: "A key exchange could not be prepared: \(error).", failed: true, now: now)
            return
        }
        sa.phase = .intermediate(
            IntermediateSA(
                initiation: initiation, responderNonce: responderNonce, responderMessage: responderMessage,
                keyExchange: keyExchange))
        send(
            .intermediate, .ikeIntermediate, [.keyExchange(method: method.rawValue, data: keyExchange.publicValue)], on: sa,
            now: now)
    }

    func finishIntermediate(
        _ sa: IKESA, _ state: IntermediateSA, _ request: OutstandingRequest, _ response: ProtectedContent,
        _ payloads: PayloadList, now: Instant
    ) {
        guard let plan = plan(of: sa), let sent = request.content else { return }
        let method = state.keyExchange.method
        guard let theirs = payloads.keyExchange else {
            let reason =
                payloads.firstError.map { Reasons.intermediateRefused($0, method, remote: sa.path.remote) }
                ?? "The answer of \(sa.path.remote) to IKE_INTERMEDIATE has no key exchange."
            drop(sa, reason: Reason(.other, reason), failed: true, now: now)
            return
        }
        do throws(IKEFault) {
            // "The … Key Exchange Method field in the KEi(n) and KEr(n) payloads MUST match the n-th negotiated additional key
            // exchange."
            guard theirs.method == method.rawValue else {
                throw .peerMisbehaved("its key exchange is not \(method.keyword), which is next")
            }
            try completeIntermediate(
                sa, request: sent, response: response, shared: try agree(state.keyExchange, theirs.data),
                initiatorNonce: state.initiation.nonce, responderNonce: state.responderNonce)
            continueInit(
                sa, state.initiation, responderNonce: state.responderNonce, responderMessage: state.responderMessage, plan,
                now: now)
        } catch {
            drop(
                sa, reason: "The answer of \(sa.path.remote) to IKE_INTERMEDIATE is unusable: \(error.sentence).", failed: true,
                now: now)
        }
    }

    // MARK: Responder

    func answerIntermediate(
        _ sa: IKESA, _ state: HalfOpenSA, _ request: ProtectedContent, _ payloads: PayloadList, path: Path, now: Instant
    ) {
        // Where a NAT was seen, this is the first message from the port that it stays on.
        if sa.encapsulates || path.remote.address == sa.path.remote.address { sa.path = path }
        do throws(IKEFault) {
            guard let method = sa.pendingMethods.first, let theirs = payloads.keyExchange, theirs.method == method.rawValue else {
                throw .peerMisbehaved("the key exchange is not the one that is next")
            }
            let ours = try answerKeyExchange(method, theirs.data)
            let shared = try agree(ours)
            respond(sa, .ikeIntermediate, [.keyExchange(method: method.rawValue, data: ours.publicValue)], path: path)
            guard let response = sa.lastResponse?.content else { throw .ours("the response was not sent") }
            try completeIntermediate(
                sa, request: request, response: response, shared: shared, initiatorNonce: state.initiatorNonce,
                responderNonce: state.responderNonce)
        } catch {
            counters.unexpected &+= 1
            // Nobody is authenticated yet; a peer that breaks the order gets an answer and no further.
            if sa.lastResponse?.content.header.messageID != request.header.messageID {
                respond(sa, .ikeIntermediate, error: error, path: path)
            }
            finishClosed(sa, reason: nil, failed: false, now: now)
            log(.info, nil, "IKE_INTERMEDIATE of \(path.remote) is unusable: \(error.sentence).")
        }
    }

    // MARK: Both

    /// IntAuth with the keys of before, then "both sides compute an updated keying material: SKEYSEED(n) = prf(SK_d(n-1), SK(n) |
    /// Ni | Nr)". What was sealed before stays as it is; everything from here on takes the new keys.
    private func completeIntermediate(
        _ sa: IKESA, request: ProtectedContent, response: ProtectedContent, shared: Secret, initiatorNonce: [UInt8],
        responderNonce: [UInt8]
    ) throws(IKEFault) {
        guard let suite = sa.suite, let keys = sa.keys else { throw .ours("the IKE SA has no keys") }
        try sa.intermediateAuthentication.addRequest(
            IntermediateAuthentication.messageOctets(request), key: keys.initiatorAuthentication, prf: suite.prf, crypto: crypto)
        try sa.intermediateAuthentication.addResponse(
            IntermediateAuthentication.messageOctets(response), key: keys.responderAuthentication, prf: suite.prf, crypto: crypto)
        let schedule = KeySchedule(crypto: crypto)
        let seed = try schedule.rekeySeed(
            oldPRF: suite.prf, oldDerivation: keys.derivation, shared: shared, initiatorNonce: initiatorNonce,
            responderNonce: responderNonce)
        sa.keys = try schedule.keys(
            suite: suite, seed: seed, initiatorNonce: initiatorNonce, responderNonce: responderNonce,
            initiatorSPI: sa.initiatorSPI, responderSPI: sa.responderSPI)
        sa.pendingMethods.removeFirst()
    }
}
