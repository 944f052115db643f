import IPsec

// Proving who we are, and judging the peer's proof: the AUTH payload of either side and what goes with it. RFC 7296 §2.15.

/// The IKE_SA_INIT messages, from the first octet of the header, and their nonces: what AUTH covers of them.
package struct InitTranscript: Sendable {
    package var initiatorMessage: [UInt8]
    package var responderMessage: [UInt8]
    package var initiatorNonce: [UInt8]
    package var responderNonce: [UInt8]

    var lowestNonce: [UInt8] { lowerNonce(initiatorNonce, responderNonce) }
}

/// What a peer has proved.
package struct ProvenPeer: Sendable {
    package var identity: Identity
    /// How, for log and status: `pre-shared key`, `RSA-PSS with SHA-256`, `EAP-TLS` …
    package var method: String
    /// Of its certificate.
    package var subject: String?
    package var certificateExpires: Int64?
    /// What an OCSP responder has to say before the peer is believed.
    package var revocationCheck: RevocationCheck?
    package var warnings: [String] = []
    /// Until the first certificate of its chain runs out.
    package var validSeconds: Int64?
    /// The name that EAP authenticated, and what a backend granted.
    package var eapName: [UInt8]?
    package var attributes: [EAPAttribute] = []
    /// Of a peer that proved itself by a certificate.
    package var review: CertificateReview?
}

/// What a peer puts forward in IKE_AUTH.
struct PeerProof: Sendable {
    var identity: WireIdentity
    var claimed: Identity
    var method: UInt8
    var data: [UInt8]
    var certificates: [[UInt8]]
    var rawKeys: [[UInt8]]
    var revocationLists: [[UInt8]]
    var ocspResponses: OCSPResponses

    /// Nil when the payloads hold no AUTH.
    init?(_ payloads: PayloadList, _ identity: WireIdentity, claimed: Identity) {
        guard let (method, data) = payloads.authentication else { return nil }
        (self.identity, self.claimed, self.method, self.data) = (identity, claimed, method, data)
        func some(_ encoding: UInt8) -> [[UInt8]] { Array(payloads.certificates(encoding).prefix(Bounds.certificatesPerMessage)) }
        certificates = some(CertificateEncoding.x509)
        rawKeys = some(CertificateEncoding.rawPublicKey)
        revocationLists = some(CertificateEncoding.revocationList)
        ocspResponses = OCSPResponses(carried: some(CertificateEncoding.ocsp))
    }

    /// With what an OCSP responder answered to us.
    func with(_ ocspResponse: [UInt8]?) -> Self {
        var proof = self
        proof.ocspResponses.answer = ocspResponse
        return proof
    }
}

/// Why a proof is not accepted; the sentence names both sides and the remedy.
struct ProofRefusal: Error {
    /// How far it got: of several connections' refusals, the one that got furthest says most.
    enum Depth: Int { case method, secret, certificate, signature }
    var depth: Depth
    var sentence: String
    var reason: Reason { Reason(depth == .certificate ? .certificate : .authentication, sentence) }
}

/// Verdicts on the peer's AUTH of one IKE SA. The connections that it is tried on most often come to the same question.
package final class VerifiedSignatures {
    private struct Question: Hashable {
        var octets: [UInt8]
        var method: UInt8
        var data: [UInt8]
        var key: [UInt8]
        var allowsSHA1: Bool
    }
    private var verdicts: [Question: Result<SignatureScheme, SignatureRefusal>] = [:]

    package init() {}

    func verdict(
        on proof: PeerProof, _ octets: [UInt8], _ key: any VerifyingKey, allowsSHA1: Bool
    ) throws(SignatureRefusal) -> SignatureScheme {
        let question = Question(
            octets: octets, method: proof.method, data: proof.data, key: key.subjectPublicKeyInfo, allowsSHA1: allowsSHA1)
        if let known = verdicts[question] { return try known.get() }
        do throws(SignatureRefusal) {
            let scheme = try SignatureChoice.verify(proof.method, proof.data, of: octets, with: key, allowsSHA1: allowsSHA1)
            verdicts[question] = .success(scheme)
            return scheme
        } catch {
            verdicts[question] = .failure(error)
            throw error
        }
    }
}

extension IKECore {
    /// The octets that one side's AUTH covers.
    func signedOctets(
        _ sa: IKESA, _ transcript: InitTranscript, byInitiator: Bool, _ identity: WireIdentity
    ) throws(IKEFault) -> [UInt8] {
        guard let suite = sa.suite, let keys = sa.keys else { throw .ours("the IKE SA has no keys") }
        return try KeySchedule(crypto: crypto).signedOctets(
            prf: suite.prf, message: byInitiator ? transcript.initiatorMessage : transcript.responderMessage,
            nonce: byInitiator ? transcript.responderNonce : transcript.initiatorNonce, identity: identity.encoded,
            authenticationKey: byInitiator ? keys.initiatorAuthentication : keys.responderAuthentication,
            intermediate: sa.intermediateAuthentication.octets)
    }

    /// AUTH by a shared secret: a pre-shared key, or what EAP leaves.
    func sharedKeyAuthentication(
        _ sa: IKESA, _ transcript: InitTranscript, byInitiator: Bool, _ identity: WireIdentity, secret: Secret
    ) throws(IKEFault) -> [UInt8] {
        guard let suite = sa.suite else { throw .ours("the IKE SA has no keys") }
        return try KeySchedule(crypto: crypto).authentication(
            prf: suite.prf, presharedKey: secret,
            signedOctets: try signedOctets(sa, transcript, byInitiator: byInitiator, identity))
    }

    /// "For EAP methods that create a shared key as a side effect of authentication, that shared key MUST be used by both the
    /// initiator and responder to generate AUTH payloads"; with other methods it is SK_pi and SK_pr. RFC 7296 §2.16.
    func eapSecret(_ sa: IKESA, _ outcome: EAPOutcome, byInitiator: Bool) -> Secret? {
        outcome.masterSessionKey ?? (byInitiator ? sa.keys?.initiatorAuthentication : sa.keys?.responderAuthentication)
    }

    /// Our CERT payloads and AUTH.
    /// - Parameter peer: the peer's identity, as far as it is known: it chooses the pre-shared key.
    func prove(
        _ sa: IKESA, _ transcript: InitTranscript, _ identity: WireIdentity, _ plan: ConnectionPlan, peer: Identity?
    ) throws(IKEFault) -> (certificates: [Payload], authentication: Payload, method: String) {
        switch plan.localAuthentication {
        case .presharedKey(let keyring):
            guard let secret = peer.map({ keyring.secret(for: $0) }) ?? keyring.secret(expecting: plan.remotePattern) else {
                throw .ours("connection \(plan.name) has no pre-shared key for \(peer?.description ?? "\(plan.remotePattern)")")
            }
            let data = try sharedKeyAuthentication(sa, transcript, byInitiator: sa.isInitiator, identity, secret: secret)
            return ([], .authentication(method: AuthenticationMethod.sharedKey, data: data), "pre-shared key")
        case .signature(let credentials):
            let choice = try SignatureChoice.make(
                credentials.key.kind, peerHashes: sa.wishes.hashes, padding: plan.rsaPadding,
                allowsSHA1: plan.allowsSHA1Signatures)
            let octets = try signedOctets(sa, transcript, byInitiator: sa.isInitiator, identity)
            let data = try choice.sign(octets, credentials.key)
            let authentication = Payload.authentication(method: choice.method, data: data)
            return (credentials.payloads(sa.wishes), authentication, choice.scheme.sentence)
        case .eap: throw .ours("connection \(plan.name) authenticates by EAP, which only an initiator can")
        }
    }

    // MARK: The peer's proof

    /// Judges the peer's AUTH by what a connection asks of it.
    /// - Parameter known: signatures that were verified for other connections.
    func judge(
        _ sa: IKESA, _ transcript: InitTranscript, _ proof: PeerProof, _ plan: ConnectionPlan,
        known: VerifiedSignatures = VerifiedSignatures()
    ) throws(ProofRefusal) -> ProvenPeer {
        let isSignature = AuthenticationMethod.signatures.contains(proof.method)
        switch plan.remoteAuthentication {
        case .presharedKey(let keyring) where proof.method == AuthenticationMethod.sharedKey:
            return try judgeSecret(sa, transcript, proof, plan, keyring)
        case .certificate(let trust) where isSignature: return try judgeCertificate(sa, transcript, proof, plan, trust, known)
        case .rawPublicKeys(let keys, let trust) where isSignature:
            return try judgeRawKey(sa, transcript, proof, plan, keys, trust, known)
        case .presharedKey, .certificate, .rawPublicKeys, .eap, .eapOnly:
            throw ProofRefusal(depth: .method, sentence: Reasons.wrongMethod(proof.method, plan: plan, remote: sa.path.remote))
        }
    }

    private func judgeSecret(
        _ sa: IKESA, _ transcript: InitTranscript, _ proof: PeerProof, _ plan: ConnectionPlan, _ keyring: PresharedKeys
    ) throws(ProofRefusal) -> ProvenPeer {
        guard let secret = keyring.secret(for: proof.claimed) else {
            throw ProofRefusal(
                depth: .secret,
                sentence: "The peer \(sa.path.remote) identifies as \(proof.identity.sentence), for which connection "
                    + "\(plan.name) has no pre-shared key: add one for it to secrets.")
        }
        guard proves(sa, transcript, proof.identity, secret: secret, proof.data) else {
            throw ProofRefusal(
                depth: .secret, sentence: Reasons.wrongSecret(plan: plan, remote: sa.path.remote, identity: proof.identity))
        }
        return ProvenPeer(identity: proof.claimed, method: "pre-shared key")
    }

    /// Whether the peer's AUTH was made with this secret.
    func proves(
        _ sa: IKESA, _ transcript: InitTranscript, _ identity: WireIdentity, secret: Secret, _ value: [UInt8]
    ) -> Bool {
        let expected = try? sharedKeyAuthentication(sa, transcript, byInitiator: !sa.isInitiator, identity, secret: secret)
        return expected.map { crypto.constantTimeEqual($0, value) } ?? false
    }

    private func judgeCertificate(
        _ sa: IKESA, _ transcript: InitTranscript, _ proof: PeerProof, _ plan: ConnectionPlan, _ trust: any PeerTrust,
        _ known: VerifiedSignatures
    ) throws(ProofRefusal) -> ProvenPeer {
        guard !proof.certificates.isEmpty else {
            throw ProofRefusal(depth: .certificate, sentence: Reasons.noCertificate(proof, plan: plan, remote: sa.path.remote))
        }
        let trusted: TrustedPeer
        do throws(CertificateRefusal) {
            trusted = try trust.evaluate(
                certificates: proof.certificates, identity: proof.claimed, revocationLists: proof.revocationLists,
                ocspResponses: proof.ocspResponses)
        } catch {
            counters.certificatesRefused &+= 1
            throw ProofRefusal(
                depth: .certificate,
                sentence: Reasons.certificateRefused(error, proof.identity, plan: plan, remote: sa.path.remote))
        }
        let scheme = try verify(sa, transcript, proof, plan, trusted.key, known)
        return ProvenPeer(
            identity: proof.claimed, method: scheme.sentence, subject: trusted.subject, certificateExpires: trusted.expires,
            revocationCheck: trusted.revocationCheck, warnings: trusted.warnings, validSeconds: trusted.validSeconds,
            review: CertificateReview(trust: trust, certificates: proof.certificates, identity: proof.claimed))
    }

    private func judgeRawKey(
        _ sa: IKESA, _ transcript: InitTranscript, _ proof: PeerProof, _ plan: ConnectionPlan, _ keys: [[UInt8]],
        _ trust: any PeerTrust, _ known: VerifiedSignatures
    ) throws(ProofRefusal) -> ProvenPeer {
        var candidates = Array(keys.prefix(Bounds.rawPublicKeys))
        if let sent = proof.rawKeys.first {
            guard candidates.contains(sent) else {
                throw ProofRefusal(
                    depth: .certificate,
                    sentence: "The peer \(sa.path.remote) (\(proof.identity.sentence)) has another public key than connection "
                        + "\(plan.name) knows: put its key into remote.public_key here, or the right private_key there.")
            }
            candidates = [sent]
        }
        var refusal: ProofRefusal?
        // A peer that sends no key is expected to be known by its own: each of ours is tried.
        for candidate in candidates {
            guard let key = trust.rawKey(candidate) else { continue }
            do throws(ProofRefusal) {
                let scheme = try verify(sa, transcript, proof, plan, key, known)
                return ProvenPeer(identity: proof.claimed, method: "public key, \(scheme.sentence)")
            } catch { refusal = error }
        }
        throw refusal
            ?? ProofRefusal(
                depth: .certificate,
                sentence: "Connection \(plan.name) has no usable public key of the peer: see remote.public_key.")
    }

    private func verify(
        _ sa: IKESA, _ transcript: InitTranscript, _ proof: PeerProof, _ plan: ConnectionPlan, _ key: any VerifyingKey,
        _ known: VerifiedSignatures
    ) throws(ProofRefusal) -> SignatureScheme {
        do throws(IKEFault) {
            let octets = try signedOctets(sa, transcript, byInitiator: !sa.isInitiator, proof.identity)
            do throws(SignatureRefusal) {
                return try known.verdict(on: proof, octets, key, allowsSHA1: plan.allowsSHA1Signatures)
            } catch {
                throw IKEFault.peerMisbehaved("its signature \(error.sentence)")
            }
        } catch {
            throw ProofRefusal(
                depth: .signature,
                sentence: "The peer \(sa.path.remote) identifies as \(proof.identity.sentence), but \(error.sentence).")
        }
    }
}
