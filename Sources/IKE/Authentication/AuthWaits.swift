import Wire

// What IKE_AUTH waits for outside: an OCSP responder, an authentication backend, a judgement on certificates. RFC 6960, RFC 3579.
// Nothing else happens on the SA meanwhile: the peer's retransmissions are not answered, and its next message cannot come before
// ours.

/// An IKE_AUTH exchange that waits for an answer from outside.
package struct OutsideWait {
    package enum Purpose {
        /// What an OCSP responder or a backend says about the peer.
        case answer
        /// News of our own certificate.
        case ownStatus
        /// A judgement on the peer's certificates.
        case judgement
    }
    package var token: UInt64
    package var expires: Instant
    package var purpose = Purpose.answer
}

extension IKECore {
    /// The answer to `Event.checkRevocation`.
    /// - Parameter response: OCSPResponse, DER; nil when none came in time.
    public func revocationAnswered(token: UInt64, response: [UInt8]?, now: Instant) {
        if let sa = endWait(token) { resumeRevocation(sa, response, now: now) }
        settle(now)
    }

    /// The answer to `Event.askBackend`; nil when no candidate answered in time.
    public func backendAnswered(token: UInt64, answer: EAPBackendAnswer?, now: Instant) {
        if let sa = endWait(token) { resumeBackend(sa, answer, now: now) }
        settle(now)
    }

    /// News of our own certificate have come, or will not: see `Event.awaitOwnStatus`.
    public func ownStatusSettled(token: UInt64, now: Instant) {
        if let sa = endWait(token) { resumeAuth(sa, now: now) }
        settle(now)
    }

    /// What `Event.judgeCertificates` asked for is done.
    public func certificatesJudged(token: UInt64, now: Instant) {
        if let sa = endWait(token) { resumeJudged(sa, now: now) }
        settle(now)
    }

    func wait(
        _ sa: IKESA, for purpose: OutsideWait.Purpose = .answer, atMost limit: Duration = Bounds.outsideWait, now: Instant,
        _ question: (_ token: UInt64) -> Event
    ) {
        let token = nextToken
        nextToken &+= 1
        sa.waiting = OutsideWait(token: token, expires: now + limit, purpose: purpose)
        authenticationWaits[token] = sa.localSPI
        emit(question(token))
        touch(sa)
    }

    private func endWait(_ token: UInt64) -> IKESA? {
        guard let spi = authenticationWaits.removeValue(forKey: token), let sa = sas[spi], sa.waiting?.token == token else {
            // Too late: it has been given up.
            counters.unexpected &+= 1
            return nil
        }
        sa.waiting = nil
        touch(sa)
        return sa
    }

    /// Nobody waits for the answer any more.
    func cancelWait(_ sa: IKESA) {
        guard let waiting = sa.waiting else { return }
        authenticationWaits[waiting.token] = nil
        sa.waiting = nil
    }

    /// The surroundings did not answer in time.
    func waitExpired(_ sa: IKESA, now: Instant) {
        let purpose = sa.waiting?.purpose ?? .answer
        cancelWait(sa)
        counters.outsideWaitsExpired &+= 1
        if purpose == .ownStatus {
            resumeAuth(sa, now: now)
        } else if purpose == .judgement {
            // There is more to judge than can be: an honest peer begins again.
            let reason = Reason(.certificate, "The certificates of the peer \(sa.path.remote) could not be judged in time.")
            if case .authenticating = sa.phase {
                refuseAuthenticated(sa, reason: reason, now: now)
            } else {
                drop(sa, reason: reason, failed: true, now: now)
            }
        } else if case .halfOpen(let state) = sa.phase, case .backend = state.auth?.step {
            resumeBackend(sa, nil, now: now)
        } else {
            resumeRevocation(sa, nil, now: now)
        }
    }

    /// The certificate is judged once more, with what the responder said.
    private func resumeRevocation(_ sa: IKESA, _ response: [UInt8]?, now: Instant) {
        switch sa.phase {
        case .authenticating(let state):
            guard let connection = connection(of: sa) else { return }
            guard let (proof, payloads) = state.waiting else {
                if case .eap(let peer) = state.step { resumeEAP(sa, state, connection, peer, response, now: now) }
                return
            }
            state.waiting = nil
            believe(sa, state, connection, proof.with(response), payloads, isAsked: true, now: now)
        case .halfOpen(let state):
            guard let auth = state.auth else { return }
            switch auth.step {
            case .revocation(let proof): resumeProof(sa, state, auth, proof.with(response), now: now)
            case .eapRevocation(let session):
                advance(sa, state, auth, session, session.resumeRevocation(response), now: now)
            case .backend, .eap, .proof: break
            }
        case .initiating, .intermediate, .established, .closing, .closed: break
        }
    }

    // MARK: Our own certificate

    /// Whether IKE_AUTH is put off, once and for a moment: the responder that we ask has not answered yet. "Upon receipt of
    /// an OCSP request CERTREQ payload, the recipient SHOULD acquire the related OCSP-based assertion and produce and transmit an
    /// OCSP response CERT payload". RFC 4806 §4.2.
    func waitsForOwnStatus(_ sa: IKESA, _ plans: [ConnectionPlan], now: Instant) -> Bool {
        guard sa.wishes.wantsOCSP, !sa.hasWaitedForOwnStatus else { return false }
        let pending = plans.lazy.compactMap { plan -> (any OwnRevocationStatus)? in
            guard case .signature(let identity) = plan.localAuthentication, let status = identity.revocationStatus,
                status.isPending
            else { return nil }
            return status
        }.first
        guard let pending else { return false }
        sa.hasWaitedForOwnStatus = true
        wait(sa, for: .ownStatus, atMost: Bounds.ownStatusWait, now: now) { .awaitOwnStatus(pending, token: $0) }
        return true
    }

    // MARK: The peer's certificates

    /// What has to be computed about a peer's certificates before any of these connections can say what it thinks of them: the
    /// same work once.
    func certificateWork(_ proof: PeerProof, _ plans: some Sequence<ConnectionPlan>) -> [CertificateWork] {
        guard AuthenticationMethod.signatures.contains(proof.method), !proof.certificates.isEmpty else { return [] }
        var works: [CertificateWork] = []
        for plan in plans {
            guard case .certificate(let trust) = plan.remoteAuthentication,
                let work = trust.pendingWork(
                    certificates: proof.certificates, revocationLists: proof.revocationLists, ocspResponses: proof.ocspResponses),
                !works.contains(where: { $0.id == work.id })
            else { continue }
            works.append(work)
        }
        return works
    }

    /// Whether the first IKE_AUTH request is put off, or dropped for want of time, until its certificates have been judged.
    func waitsForJudgement(
        _ sa: IKESA, _ state: HalfOpenSA, _ payloads: PayloadList, _ candidates: [ConnectionState], path: Path, now: Instant
    ) -> Bool {
        guard !state.isJudged, let identity = payloads.identityInitiator, let claimed = identity.identity,
            let proof = PeerProof(payloads, identity, claimed: claimed),
            AuthenticationMethod.signatures.contains(proof.method)
        else { return false }
        let matching = candidates.lazy.map(\.plan).filter { $0.remotePattern.matches(claimed) }.prefix(Bounds.connectionsTried)
        let works = certificateWork(proof, matching)
        // In silence, as with the key exchange: a peer that means it sends again. What is left to do here is one verification of
        // its signature, and what each connection makes of the judgement.
        guard mayWork(Bounds.signatureMicroseconds, for: path.remote.address, now: now),
            works.isEmpty || mayJudge(works.reduce(0) { $0 + $1.microseconds }, for: path.remote.address, now: now)
        else {
            counters.signaturesDeferred &+= 1
            return true
        }
        state.isJudged = true
        guard !works.isEmpty else { return false }
        state.putOff = (payloads, path)
        wait(sa, for: .judgement, now: now) { .judgeCertificates(works, token: $0) }
        return true
    }

    /// Charges work for a peer that has not authenticated yet; false: not now.
    func mayWork(_ microseconds: Int, for address: IPAddress, now: Instant) -> Bool {
        isConfigured(address) ? peerWork.take(microseconds, now: now) : strangerWork.take(microseconds, now: now)
    }

    /// The same for what is done elsewhere.
    private func mayJudge(_ microseconds: Int, for address: IPAddress, now: Instant) -> Bool {
        isConfigured(address)
            ? peerJudging.take(microseconds, now: now) : strangerJudging.take(microseconds, now: now)
    }

    private func resumeJudged(_ sa: IKESA, now: Instant) {
        switch sa.phase {
        case .authenticating(let state):
            guard let connection = connection(of: sa), let (proof, payloads) = state.waiting else { return }
            state.waiting = nil
            believe(sa, state, connection, proof, payloads, isAsked: false, now: now)
        case .halfOpen: resumeAuth(sa, now: now)
        case .initiating, .intermediate, .established, .closing, .closed: break
        }
    }

    /// With or without the response.
    private func resumeAuth(_ sa: IKESA, now: Instant) {
        switch sa.phase {
        case .authenticating(let state):
            guard state.isPutOff, let plan = plan(of: sa) else { return }
            state.isPutOff = false
            sendAuth(sa, state, plan, now: now)
        case .halfOpen(let state):
            guard let (request, path) = state.putOff else { return }
            state.putOff = nil
            answerAuth(sa, state, request, path: path, now: now)
        case .initiating, .intermediate, .established, .closing, .closed: break
        }
    }

    private func resumeBackend(_ sa: IKESA, _ answer: EAPBackendAnswer?, now: Instant) {
        guard case .halfOpen(let state) = sa.phase, let auth = state.auth, case .backend(let session) = auth.step else { return }
        advance(sa, state, auth, session, session.resume(answer), now: now)
    }

    /// What is still to be asked about a peer; nil: nothing.
    /// - Parameter isAsked: it has been asked already, with no answer that settles it.
    func openQuestion(_ peer: inout ProvenPeer, isAsked: Bool) throws(ProofRefusal) -> RevocationCheck? {
        guard let check = peer.revocationCheck else { return nil }
        guard isAsked || check.responders.isEmpty else { return check }
        guard !check.isRequired else {
            counters.certificatesRefused &+= 1
            throw ProofRefusal(depth: .certificate, sentence: check.sentence)
        }
        if !check.sentence.isEmpty { peer.warnings.append(check.sentence) }
        return nil
    }
}
