import IPsec
import Wire

// IKE_SA_INIT as initiator. RFC 7296 §1.2, §2.6, §2.7, §2.23.
//
//   HDR(A,0), [N(COOKIE),] SAi1, KEi, Ni, N(NAT_DETECTION_*) -->
//                                          <-- HDR(A,B), SAr1, KEr, Nr, N(NAT_DETECTION_*)
extension IKECore {
    /// Starts an IKE SA for a connection.
    /// - Parameter replaces: the IKE SA to close once the new one has its children.
    /// - Parameter pair: the addresses; nil for those whose turn it is.
    func beginConnect(
        _ state: ConnectionState, replaces: UInt64?, pair: AddressPair? = nil, redirectedFrom: IPAddress? = nil, now: Instant
    ) {
        let plan = state.plan
        state.attemptStarted = now
        state.nextAttempt = nil
        guard let pair = pair ?? nextPair(state) else { return }
        guard sas.count < Bounds.countLimit(settings.maxIKESAs) else {
            counters.saLimitReached &+= 1
            attemptFailed(state, reason: "The gateway holds \(sas.count) IKE SAs, its limit.", now: now)
            return
        }
        let methods = plan.proposals.flatMap(\.methods)
        guard let method = state.preferredMethod.flatMap({ methods.contains($0) ? $0 : nil }) ?? methods.first,
            !plan.children.isEmpty
        else {
            attemptFailed(state, reason: "Connection \(plan.name) has no ike_proposals or no children.", now: now)
            return
        }
        do throws(IKECryptoError) {
            let keyExchange = try crypto.makeKeyExchange(method)
            let path = Path(local: Endpoint(pair.local, settings.ikePort), remote: Endpoint(pair.remote, settings.ikePort))
            let spi = freshSPI()
            let initiating = InitiatingSA(
                nonce: random.bytes(Bounds.ourNonceBytes), offered: Offer.ike(plan.proposals), keyExchange: keyExchange,
                forgedDigest: plan.natTraversal == .force ? random.bytes(20) : nil, replaces: replaces,
                redirectedFrom: redirectedFrom)
            let sa = IKESA(
                localSPI: spi, initiatorSPI: spi, responderSPI: 0, isInitiator: true, path: path, phase: .initiating(initiating),
                now: now)
            sa.connection = plan.name
            sas[spi] = sa
            state.sas.append(spi)
            state.attempt = spi
            sendInit(sa, initiating, plan, now: now)
        } catch {
            attemptFailed(state, reason: "A key exchange could not be prepared: \(error).", now: now)
        }
    }

    /// Sends, or with a cookie or another group sends again, the first message. Its id stays zero "including retries of the
    /// message due to responses such as COOKIE and INVALID_KE_PAYLOAD" (§2.2).
    private func sendInit(_ sa: IKESA, _ state: InitiatingSA, _ plan: ConnectionPlan, now: Instant) {
        var payloads: [Payload] = []
        // "include the COOKIE notification containing the received data as the first payload, and all other payloads unchanged"
        // (§2.6); it stays in later retries too, which saves a round trip (§2.6.1).
        if let cookie = state.cookie { payloads.append(.notify(Notify(.cookie, data: cookie))) }
        payloads.append(.securityAssociation(state.offered))
        payloads.append(.keyExchange(method: state.keyExchange.method.rawValue, data: state.keyExchange.publicValue))
        payloads.append(.nonce(state.nonce))
        if plan.natTraversal != .off {
            payloads += NATDetection(crypto: crypto).notifies(
                initiatorSPI: sa.initiatorSPI, responderSPI: 0, path: sa.path, forged: state.forgedDigest)
        }
        payloads += redirectPayloads(state, plan)
        // "whether or not the use of the PPK is mandatory". RFC 8784 §3.
        if plan.postquantumKey != nil { payloads.append(.notify(Notify(.usePPK))) }
        if state.offered.contains(where: \.hasAdditionalKeyExchange) {
            payloads.append(.notify(Notify(.intermediateExchangeSupported)))
        }
        if plan.paths.fragmentation { payloads.append(.notify(Notify(.fragmentationSupported))) }
        payloads.append(SignatureHash.notify(allowsSHA1: plan.allowsSHA1Signatures))
        sa.nextRequestID = 0
        state.message = WireMessage.encodeClear(sa.header(.ikeSAInit, isResponse: false, id: 0), payloads)
        launch(.initiate, .ikeSAInit, [state.message], nil, on: sa, now: now)
    }

    /// Takes a response to IKE_SA_INIT. Nothing in it is authentic yet, so what is not usable is ignored, and a refusal is only
    /// believed when it is still the only answer after a while.
    func finishInit(_ sa: IKESA, _ state: InitiatingSA, _ message: WireMessage, _ bytes: [UInt8], path: Path, now: Instant) {
        guard let plan = plan(of: sa) else { return }
        let payloads = message.payloads
        if let cookie = payloads.notify(.cookie), payloads.proposals == nil {
            retryWithCookie(sa, state, cookie, plan, now: now)
        } else if let notify = payloads.notify(.invalidKEPayload), payloads.proposals == nil {
            retryWithMethod(sa, state, notify, plan, now: now)
        } else if let redirect = payloads.notify(.redirect), payloads.proposals == nil {
            obeyInitRedirect(sa, state, redirect, plan, now: now)
        } else if let error = payloads.firstError, payloads.proposals == nil {
            refuse(sa, state, Reasons.initRefused(error, plan: plan, remote: sa.path.remote), now: now)
        } else {
            acceptInit(sa, state, message, bytes, plan, path: path, now: now)
        }
    }

    private func retryWithCookie(_ sa: IKESA, _ state: InitiatingSA, _ notify: Notify, _ plan: ConnectionPlan, now: Instant) {
        guard Bounds.cookieBytes.contains(notify.data.count), notify.data != state.cookie, state.retries < Bounds.initRetries
        else {
            counters.unexpected &+= 1
            return
        }
        state.retries += 1
        state.cookie = notify.data
        sendInit(sa, state, plan, now: now)
    }

    /// "the initiator MUST retry the IKE_SA_INIT with the corrected Diffie-Hellman group. The initiator MUST again propose its
    /// full set of acceptable cryptographic suites because the rejection message was unauthenticated" (§1.2).
    private func retryWithMethod(_ sa: IKESA, _ state: InitiatingSA, _ notify: Notify, _ plan: ConnectionPlan, now: Instant) {
        guard notify.data.count == 2, let method = KeyExchangeMethod(rawValue: UInt16(notify.data.bigEndianValue)),
            plan.proposals.contains(where: { $0.methods.contains(method) })
        else {
            refuse(sa, state, Reasons.groupRefused(notify, plan: plan, remote: sa.path.remote), now: now)
            return
        }
        guard method != state.keyExchange.method, state.retries < Bounds.initRetries,
            let keyExchange = try? crypto.makeKeyExchange(method)
        else { counters.unexpected &+= 1; return }
        state.retries += 1
        state.keyExchange = keyExchange
        sendInit(sa, state, plan, now: now)
    }

    /// "the recipient should continue trying for some time before giving up" (§2.21.1).
    func refuse(_ sa: IKESA, _ state: InitiatingSA, _ reason: Reason, now: Instant) {
        let until = state.refusal?.until ?? (now + Bounds.refusalGrace)
        state.refusal = (reason, until)
        if let giveUpAt = sa.outstanding?.giveUpAt { sa.outstanding?.giveUpAt = min(giveUpAt, until) }
        note(sa.connection, failure: reason)
    }

    private func acceptInit(
        _ sa: IKESA, _ state: InitiatingSA, _ message: WireMessage, _ bytes: [UInt8], _ plan: ConnectionPlan, path: Path,
        now: Instant
    ) {
        let payloads = message.payloads
        guard message.header.responderSPI != 0, let answer = payloads.proposals, let keyExchange = payloads.keyExchange,
            let nonce = payloads.nonce
        else { counters.malformed &+= 1; return }
        do throws(IKEFault) {
            let suite = try Negotiation.verify(answer, offered: state.offered).suite
            guard keyExchange.method == suite.method.rawValue, suite.method == state.keyExchange.method else {
                throw .peerMisbehaved("the peer's key exchange is not of the group that it chose")
            }
            guard suite.additional.isEmpty || payloads.notify(.intermediateExchangeSupported) != nil else {
                throw .peerMisbehaved("the peer chose additional key exchanges without IKE_INTERMEDIATE")
            }
            // "if … the flag mandatory_or_not indicates that using PPKs is mandatory for communication with this responder, then
            // the initiator MUST abort the exchange." RFC 8784 §3.
            sa.postquantum.isNegotiated = plan.postquantumKey != nil && payloads.notify(.usePPK) != nil
            guard sa.postquantum.isNegotiated || plan.postquantumKey?.isRequired != true else {
                throw .peerMisbehaved("the peer does not use postquantum keys, which ppk: required: true asks for")
            }
            let shared = try agree(state.keyExchange, keyExchange.data)
            let schedule = KeySchedule(crypto: crypto)
            let seed = try schedule.seed(prf: suite.prf, initiatorNonce: state.nonce, responderNonce: nonce, shared: shared)
            sa.keys = try schedule.keys(
                suite: suite, seed: seed, initiatorNonce: state.nonce, responderNonce: nonce, initiatorSPI: sa.initiatorSPI,
                responderSPI: message.header.responderSPI)
            (sa.suite, sa.pendingMethods) = (suite, suite.additionalMethods)
        } catch {
            counters.unexpected &+= 1
            refuse(sa, state, "The answer of \(sa.path.remote) to IKE_SA_INIT is unusable: \(error.sentence).", now: now)
            return
        }
        sa.responderSPI = message.header.responderSPI
        connections[plan.name]?.preferredMethod = state.keyExchange.method
        sa.wishes.add(payloads)
        sa.peerAllowsChildless = payloads.notify(.childlessSupported) != nil
        detectNAT(sa, payloads, plan, path: path)
        if plan.paths.fragmentation, payloads.notify(.fragmentationSupported) != nil { agreeOnFragmentation(sa, plan) }
        sa.outstanding = nil
        continueInit(sa, state, responderNonce: nonce, responderMessage: bytes, plan, now: now)
    }

    /// "The IKE initiator MUST check the NAT_DETECTION_SOURCE_IP or NAT_DETECTION_DESTINATION_IP payloads if present, and if they
    /// do not match the addresses in the outer packet, MUST tunnel all future IKE and ESP packets associated with this IKE SA
    /// over UDP port 4500." (§2.23)
    private func detectNAT(_ sa: IKESA, _ payloads: PayloadList, _ plan: ConnectionPlan, path: Path) {
        guard plan.natTraversal != .off else { return }
        let finding = NATDetection(crypto: crypto).examine(
            payloads, initiatorSPI: sa.initiatorSPI, responderSPI: sa.responderSPI, path: path)
        (sa.localNAT, sa.remoteNAT) = (finding.localNAT, finding.remoteNAT)
        sa.encapsulates = finding.localNAT || finding.remoteNAT || (plan.natTraversal == .force && finding.isSupportedByPeer)
        sa.mobility.peerSupportsNATTraversal = finding.isSupportedByPeer
        sa.mobility.natDestination = payloads.notify(.natDetectionDestinationIP)?.data
        // "implementations that support both this specification and NAT Traversal MUST change to port 4500 if the correspondent
        // also supports both, even if no NAT was detected" (RFC 4555 §3.3): whether it does is known only after IKE_AUTH.
        let floats = sa.encapsulates || (plan.paths.mobike && finding.isSupportedByPeer)
        guard floats, sa.path.local.port != settings.natTraversalPort else { return }
        sa.path.local.port = settings.natTraversalPort
        if sa.path.remote.port == settings.ikePort { sa.path.remote.port = settings.natTraversalPort }
    }

    /// The shared secret, with the peer's faults told from ours.
    func agree(_ keyExchange: any KeyExchange, _ peerPublicValue: [UInt8]) throws(IKEFault) -> Secret {
        do throws(IKECryptoError) { return try keyExchange.sharedSecret(peerPublicValue: peerPublicValue) } catch {
            throw keyExchangeFault(error)
        }
    }

    func agree(_ answer: any KeyExchangeAnswer) throws(IKEFault) -> Secret {
        do throws(IKECryptoError) { return try answer.sharedSecret() } catch { throw keyExchangeFault(error) }
    }

    /// Our half of an exchange that the peer began.
    func answerKeyExchange(
        _ method: KeyExchangeMethod, _ peerPublicValue: [UInt8]
    ) throws(IKEFault) -> any KeyExchangeAnswer {
        guard peerPublicValue.count == method.publicValueBytes else { throw .malformed("KE: length does not fit the method") }
        do throws(IKECryptoError) {
            return try crypto.answerKeyExchange(method, peerPublicValue: peerPublicValue)
        } catch { throw keyExchangeFault(error) }
    }

    private func keyExchangeFault(_ error: IKECryptoError) -> IKEFault {
        guard case .invalidPublicValue = error else { return .ours("the key exchange failed: \(error)") }
        return .peerMisbehaved("the peer's key exchange value is not valid for its method")
    }

    /// An SPI that no SA of ours has; zero means "not yet known" on the wire.
    func freshSPI() -> UInt64 {
        while true {
            let spi = random.bytes(8).bigEndianValue
            if spi != 0, sas[spi] == nil { return spi }
        }
    }
}
