import IPsec

/// The sentences of status and log: what happened, both sides where both are known, and what to change. None holds a secret.
enum Reasons {
    // MARK: As initiator: ours, the notify, and the candidate causes

    static func initRefused(_ notify: Notify, plan: ConnectionPlan, remote: Endpoint) -> Reason {
        let head = "The peer \(remote) answered \(notify.type)"
        switch notify.type {
        case .noProposalChosen:
            let address = "it has no connection for our address \(plan.localAddress) (see remote.address there)"
            let proposals = "it accepts none of our ike_proposals"
            // What nobody has written down rarely is what differs: the defaults of most programs meet ours.
            let isOurs = plan.places?.lines["ike_proposals"] != nil
            return Reason(
                .ikeProposals,
                "\(head) to IKE_SA_INIT. Candidate causes: \(isOurs ? proposals : address); \(isOurs ? address : proposals). The "
                    + "peer's status or log says which. Our ike_proposals\(plan.line("ike_proposals")): "
                    + "\(plan.proposals.map(\.keywords).brief).")
        case .invalidMajorVersion:
            return Reason(.ikeVersion, "\(head): it does not speak IKEv2; enable IKEv2 there.")
        case .temporaryFailure:
            return Reason(
                .peerUnwilling,
                "\(head) to IKE_SA_INIT: it takes nobody in now. Most likely its operator took the connection down (with "
                    + "Culvert: `culvert up` there lets us in again).")
        default: return Reason(.other, "\(head) to IKE_SA_INIT. The peer's log and status say why.")
        }
    }

    static func groupRefused(_ notify: Notify, plan: ConnectionPlan, remote: Endpoint) -> Reason {
        var wanted = "another group"
        if notify.data.count == 2 {
            let number = UInt16(notify.data.bigEndianValue)
            wanted = "group " + (KeyExchangeMethod(rawValue: number)?.keyword ?? "\(number)")
        }
        return Reason(
            .ikeProposals,
            "The peer \(remote) answered INVALID_KE_PAYLOAD and wants key exchange \(wanted), which is not in our "
                + "ike_proposals\(plan.line("ike_proposals")): change one of the ends. Ours: "
                + "\(plan.proposals.map(\.keywords).brief).")
    }

    static func authRefused(_ notify: Notify, plan: ConnectionPlan, sa: IKESA) -> Reason {
        let theirs = plan.remotePattern.description
        let remote = sa.path.remote
        guard notify.type == .authenticationFailed else {
            return Reason(
                code(of: notify.type),
                "The peer \(remote) refused IKE_AUTH with \(notify.type); we are \(plan.localIdentity) and expect \(theirs). "
                    + otherCauses(notify, plan, sa.suite))
        }
        var causes = [
            doubtsAboutUs(plan, sa.wishes), "the peer does not expect local.id \(plan.localIdentity) (see remote.id there)",
        ]
        // Who names nobody (IDr) cannot be refused for it.
        if plan.remoteIdentity != nil {
            causes.append("the peer's own id is not \(theirs) (see remote.id here\(plan.line("remote.id")))")
        }
        return Reason(
            .authentication,
            "The peer \(remote) answered AUTHENTICATION_FAILED; we are \(plan.localIdentity) and expect \(theirs). Candidate "
                + "causes: \(causes.joined(separator: "; ")). The peer's status says which." + ppkDoubt(plan, sa))
    }

    private static func code(of notify: NotifyType) -> Reason.Code {
        switch notify {
        case .noProposalChosen: .ikeProposals
        case .unexpectedNATDetected: .nat
        case .temporaryFailure: .peerUnwilling
        default: .other
        }
    }

    /// Of a refusal of IKE_AUTH that is not about who we are.
    private static func otherCauses(_ notify: Notify, _ plan: ConnectionPlan, _ suite: IKESuite?) -> String {
        switch notify.type {
        case .noProposalChosen:
            "Candidate causes: the connection that the peer has for our local.id does not accept "
                + "\(suite?.keywords ?? "the suite"), "
                + "which it settled on before we named ourselves (compare ike_proposals\(plan.line("ike_proposals")) with that "
                + "connection's there). The peer's status says so."
        case .unexpectedNATDetected:
            "There is a NAT on the way, which nat_traversal: off\(plan.line("nat_traversal")) here or there forbids: set it "
                + "to auto on both ends."
        case .temporaryFailure:
            "It takes nobody in now: most likely its operator took the connection down (with Culvert: `culvert up` there lets us "
                + "in again)."
        case .invalidSyntax:
            "Candidate causes: the peer does not understand something that we asked for (with childless: prefer"
                + "\(plan.line("childless")), set allow); a fault in one of the programs. The peer's log says which."
        default: "The peer's log and status say why."
        }
    }

    /// Why the peer may not accept our proof, the likeliest first.
    private static func doubtsAboutUs(_ plan: ConnectionPlan, _ wishes: PeerWishes) -> String {
        switch plan.localAuthentication {
        case .presharedKey:
            return "the pre-shared keys differ (compare psk_file\(plan.line("psk_file", "psk", "secrets")) of both ends)"
        case .signature(let identity) where identity.certificates.isEmpty:
            return "the peer does not know our public key (see remote.public_key there)"
        case .signature(let identity):
            let known = "our certificate has expired, is revoked, or does not hold \(plan.localIdentity) (see culvert pki show)"
            let untrusted = "the peer does not trust the authority of our certificate (see ca there)"
            return wishes.distrusts(identity)
                ? "\(untrusted): it asked for certificates of \(wishes.authorities?.count ?? 0) other authorities; \(known)"
                : "\(known); \(untrusted)"
        case .eap:
            return "the peer does not use EAP for us (see remote.auth there); user name or secret are not right (see eap"
                + "\(plan.line("eap")) here)"
        }
    }

    /// The answer to IKE_AUTH holds no AUTH.
    static func noProof(_ payloads: PayloadList, plan: ConnectionPlan, remote: Endpoint) -> Reason {
        guard payloads.extensibleAuthentication != nil else {
            return Reason(.authentication, "The answer of \(remote) to IKE_AUTH has no AUTH payload: it may want EAP.")
        }
        return Reason(
            .authentication,
            plan.localAuthentication.isEAP
                ? "The peer \(remote) did not prove its identity before it asked for EAP, which connection \(plan.name) wants: "
                    + "let it show a certificate, or set remote.auth: eap-only here."
                : "The peer \(remote) wants us to authenticate by EAP, but connection \(plan.name) does not: change auth on "
                    + "one of the ends.")
    }

    static func intermediateRefused(_ notify: Notify, _ method: KeyExchangeMethod, remote: Endpoint) -> String {
        "The peer \(remote) refused the additional key exchange \(method.keyword) with \(notify.type). The peer's log and status "
            + "say why."
    }

    /// - Parameter isRekey: the child is there already and was to be replaced.
    /// - Parameter hasAgreed: the refusal has an SA payload beside it.
    static func childRefused(
        _ notify: Notify, offer: ChildOffer, isRekey: Bool, hasAgreed: Bool = false, plan: ConnectionPlan,
        networks: [LocalNetwork] = []
    ) -> Reason {
        let name = offer.name
        let proposals = plan.children.first { $0.name == name }?.proposals ?? []
        let ours = "esp_proposals\(plan.line("\(name)/esp_proposals")) \(proposals.map(\.keywords).brief)"
        let head = "The peer answered \(notify.type) for child \(name)"
        switch notify.type {
        case .tsUnacceptable:
            return Reason(.trafficSelectors, selectorsRefusedThere(head, offer, plan, networks))
        case .noProposalChosen where hasAgreed:
            return Reason(
                .notInstalled,
                "The peer agreed to a proposal for child \(name) and answered NO_PROPOSAL_CHOSEN with it: "
                    + "most likely it could not install what it agreed to. Candidate causes: its ESP cannot do what its "
                    + "configuration allows, such as extended sequence numbers (esn); its kernel refused the SA. We offered "
                    + "\(ours): leave out what it cannot do. The peer's log says why.")
        case .noProposalChosen:
            return Reason(
                .espProposals,
                "\(head). \(proposalCauses(proposals, isRekey: isRekey)) The peer's status shows both sides; our \(ours).")
        case .invalidKEPayload:
            let number = notify.data.count == 2 ? UInt16(notify.data.bigEndianValue) : 0
            let wanted = KeyExchangeMethod(rawValue: number)?.keyword ?? "number \(number)"
            let change =
                KeyExchangeMethod(rawValue: number) == nil
                ? "change esp_proposals of the peer" : "add it there, or change esp_proposals of the peer"
            return Reason(
                .espProposals, "\(head) and wants key exchange group \(wanted), which is not in our \(ours): \(change).")
        case .failedCPRequired:
            return Reason(
                .virtualAddress,
                "\(head): it wants us to ask for an address; set virtual_address: auto\(plan.line("virtual_address")) here.")
        case .internalAddressFailure:
            return Reason(
                .virtualAddress,
                "\(head): it has no address for us. Candidate causes: its "
                    + "pool is full; it has no pool for the kind of address that we ask for (see pools there).")
        case .noAdditionalSAs:
            return Reason(
                .limit,
                "The peer answered NO_ADDITIONAL_SAS: it allows no further child such as \(name) on this IKE SA, or its operator "
                    + "took that child down.")
        default: return Reason(.other, "The peer refused child \(name) with \(notify.type). The peer's log and status say why.")
        }
    }

    /// The peer shares nothing of what we proposed.
    private static func selectorsRefusedThere(
        _ head: String, _ offer: ChildOffer, _ plan: ConnectionPlan, _ networks: [LocalNetwork]
    ) -> String {
        let name = offer.name
        if let network = networks.first(in: offer.remoteSelectors), networks.first(in: offer.localSelectors) == nil {
            return "\(head). Change this end, because \(network) is in remote_subnets\(plan.line("\(name)/remote_subnets")) and "
                + "not in local_subnets\(plan.line("\(name)/local_subnets")): the two look exchanged. We proposed local "
                + "\(offer.localSelectors.sentence) and remote \(offer.remoteSelectors.sentence)."
        }
        return "\(head): we proposed local \(offer.localSelectors.sentence) and "
            + "remote \(offer.remoteSelectors.sentence). Candidate causes: local_subnets here"
            + "\(plan.line("\(name)/local_subnets")) do not overlap remote_subnets there; remote_subnets here"
            + "\(plan.line("\(name)/remote_subnets")) do not overlap local_subnets there. The peer's status shows both sides."
    }

    /// Why an offer for a child was refused, the likeliest first. In IKE_AUTH no groups are offered; in a rekey the cipher was
    /// accepted before.
    private static func proposalCauses(_ ours: [ESPProposal], isRekey: Bool) -> String {
        let hasGroup = ours.contains { !$0.methods.isEmpty }
        let hasAdditional = ours.contains { !$0.additional.isEmpty }
        let group =
            hasGroup
            ? "the peer wants another key exchange group than ours for perfect forward secrecy, or none"
            : "the peer wants perfect forward secrecy, a key exchange group such as x25519 in esp_proposals"
        let additional = hasAdditional ? ["the peer does not do our additional key exchanges (ke1_... in esp_proposals)"] : []
        let cipher = ["the peer accepts another cipher or key length", "extended sequence numbers (esn, noesn) differ"]
        let causes = isRekey ? [group] + additional + ["the peer's configuration has changed"] : cipher + [group] + additional
        return "Candidate causes: \(causes.joined(separator: "; ")). Make esp_proposals of both ends share one."
    }

    /// With one digit behind the point.
    static func seconds(_ duration: Duration) -> Double {
        let seconds = Double(duration.components.seconds) + Double(duration.components.attoseconds) / 1e18
        return (seconds * 10).rounded() / 10
    }

    /// - Parameter waited: since the first transmission.
    static func silence(
        _ exchange: ExchangeType, plan: ConnectionPlan?, remote: Endpoint, transmissions: Int, waited: Duration
    ) -> Reason {
        let head = "No answer from \(remote) to \(exchange) after \(transmissions) transmissions in \(seconds(waited)) s."
        let causes =
            switch exchange {
            case .ikeSAInit:
                "Candidate causes: the peer is down or not at \(remote.address); UDP \(remote.port) is blocked on the "
                    + "way; the peer does not answer our address \(plan?.localAddress.description ?? "")."
            case .ikeIntermediate:
                "It answered IKE_SA_INIT, so it is there. Candidate causes: datagrams as long as an additional key "
                    + "exchange (ke1_... in ike_proposals) are lost on the way; UDP \(remote.port) is blocked."
            case .ikeAuth:
                "It answered IKE_SA_INIT, so it is there. Candidate causes: UDP \(remote.port) is blocked on the way; "
                    + "the peer is overloaded."
            default: "The peer is down or the path to it is broken."
            }
        return Reason(.noAnswer, "\(head) \(causes)")
    }

    /// Our own system refuses to send: whatever lies beyond has no part in it.
    static func notSent(_ failure: SendFailure, _ exchange: ExchangeType, _ path: Path) -> Reason {
        Reason(
            .sendFailed,
            "\(exchange) to \(path.remote) does not leave this machine: \(failure.sentence(path))")
    }

    // MARK: As responder, or about the peer's proof: both sides

    static func wrongSecret(plan: ConnectionPlan, remote: Endpoint, identity: WireIdentity) -> String {
        "The peer \(remote) identifies as \(identity.sentence), which is right, but its proof does not fit our pre-shared key of "
            + "connection \(plan.name): the pre-shared keys of the two ends differ; put the same secret into psk_file"
            + "\(plan.line("psk_file", "psk", "secrets")) on both."
    }

    static func wrongMethod(_ method: UInt8, plan: ConnectionPlan, remote: Endpoint) -> String {
        let names: [UInt8: String] = [
            1: "an RSA signature", 2: "a pre-shared key", 3: "a DSS signature", 9: "an ECDSA signature", 10: "an ECDSA signature",
            11: "an ECDSA signature", 13: "no authentication", 14: "a digital signature",
        ]
        return "The peer \(remote) authenticates by \(names[method] ?? "method \(method)"), but connection \(plan.name) expects "
            + "\(plan.remoteAuthentication.sentence): set auth: \(plan.remoteAuthentication.word) on the peer, or change "
            + "remote.auth\(plan.line("remote.auth")) here."
    }

    /// An initiator left out AUTH, and no connection that it may mean uses EAP.
    static func unwantedEAP(_ identity: WireIdentity, plan: ConnectionPlan, remote: Endpoint) -> Reason {
        Reason(
            .authentication,
            "The peer \(remote) (\(identity.sentence)) wants to authenticate with EAP, but connection \(plan.name) expects "
                + "\(plan.remoteAuthentication.sentence): set auth: \(plan.remoteAuthentication.word) on the peer, or an EAP "
                + "method in remote.auth\(plan.line("remote.auth")) here.")
    }

    static func noCertificate(_ proof: PeerProof, plan: ConnectionPlan, remote: Endpoint) -> String {
        let instead = proof.rawKeys.isEmpty ? "sent no certificate" : "sent a bare public key instead of a certificate"
        return "The peer \(remote) identifies as \(proof.identity.sentence) and \(instead), which connection \(plan.name) needs: "
            + "let the peer send its certificate (with strongSwan: send_cert = always)."
    }

    static func certificateRefused(
        _ refusal: CertificateRefusal, _ identity: WireIdentity, plan: ConnectionPlan, remote: Endpoint
    ) -> String {
        "The certificate of \(remote) (\(identity.sentence)) is not accepted on connection \(plan.name): \(refusal.sentence)"
            + place(of: refusal.kind, plan)
    }

    /// Which line here has to do with it, where one has.
    private static func place(of kind: CertificateRefusal.Kind, _ plan: ConnectionPlan) -> String {
        guard plan.places != nil else { return "" }
        return switch kind {
        case .untrusted: " See `ca`\(plan.line("remote.ca", "ca", "remote.certificate")) here."
        case .nameMismatch: " See remote.id\(plan.line("remote.id")) here."
        case .revocationUnknown: " See `revocation`\(plan.line("remote.revocation", "revocation", "remote.ocsp", "ocsp")) here."
        case .malformed, .expired, .notYetValid, .revoked, .keyUsage, .weak: ""
        }
    }

    static func wrongIdentity(_ identity: WireIdentity, candidates: [ConnectionPlan], remote: Endpoint) -> Reason {
        let expected = candidates.prefix(4).map { "\($0.name) expects \($0.remotePattern)\($0.line("remote.id"))" }
        return Reason(
            .identity,
            "The peer \(remote) identifies as \(identity.sentence), but connection "
                + "\(expected.joined(separator: "; connection ")): change remote.id here or local.id there.")
    }

    /// The responder named itself otherwise than we expect.
    static func wrongResponder(_ identity: WireIdentity, plan: ConnectionPlan, remote: Endpoint) -> Reason {
        Reason(
            .identity,
            "The peer \(remote) identifies as \(identity.sentence), but connection \(plan.name) expects remote.id "
                + "\(plan.remotePattern)\(plan.line("remote.id")): change remote.id here or local.id there.")
    }

    /// The initiator refused us after our IKE_AUTH response. What it showed of itself rules causes out: whom it asked for
    /// (IDr), and a proof that our own pre-shared key made right.
    static func initiatorRefusedUs(
        _ notify: Notify, wanted: WireIdentity?, plan: ConnectionPlan, wishes: PeerWishes, hasProvenSecret: Bool,
        remote: Endpoint
    ) -> Reason {
        if let wanted, wanted.identity != plan.localIdentity {
            return Reason(
                .identity,
                "The peer \(remote) expects us to be \(wanted.sentence), but connection \(plan.name) has local.id "
                    + "\(plan.localIdentity)\(plan.line("local.id")), so it answered \(notify.type): change "
                    + "local.id here or remote.id there.")
        }
        var causes: [String] = []
        if case .presharedKey = plan.localAuthentication, hasProvenSecret {
            causes.append("the peer wants another proof of us than a pre-shared key (see remote.auth there)")
        } else {
            causes.append(doubtsAboutUs(plan, wishes))
        }
        if wanted == nil { causes.append("the peer expects another remote.id than \(plan.localIdentity)") }
        let known = wanted == nil ? "" : ", whom it asked for,"
        return Reason(
            .authentication,
            "The peer \(remote) did not accept us and answered \(notify.type); we are \(plan.localIdentity)\(known) with "
                + "\(plan.localAuthentication.sentence) of connection \(plan.name). Candidate "
                + "\(causes.count == 1 ? "cause" : "causes"): \(causes.joined(separator: "; ")). The peer's status says which.")
    }

    /// The peer settled on a suite before it named itself, and the connection that it means does not accept it.
    static func wrongSuite(_ suite: IKESuite?, identity: WireIdentity, plan: ConnectionPlan, remote: Endpoint) -> Reason {
        Reason(
            .ikeProposals,
            "The peer \(remote) settled on \(suite?.keywords ?? "a suite") before it named itself \(identity.sentence), but "
                + "connection \(plan.name) accepts only "
                + "\(plan.proposals.map(\.keywords).brief)\(plan.line("ike_proposals")): make "
                + "ike_proposals of the connections with this address equal.")
    }
}

extension LocalAuthentication {
    /// Goes after "with".
    fileprivate var sentence: String {
        switch self {
        case .presharedKey: "the pre-shared key"
        case .signature(let identity): identity.certificates.isEmpty ? "the public key" : "the certificate"
        case .eap: "EAP"
        }
    }
}

extension RemoteAuthentication {
    /// Goes after "expects".
    fileprivate var sentence: String {
        switch self {
        case .presharedKey: "a pre-shared key"
        case .certificate: "a certificate"
        case .rawPublicKeys: "a signature by a known public key"
        case .eap: "EAP"
        case .eapOnly: "that EAP alone authenticates the server"
        }
    }

    /// The value of `auth` in the configuration.
    fileprivate var word: String {
        switch self {
        case .presharedKey: "psk"
        case .certificate: "certificate"
        case .rawPublicKeys: "public-key"
        case .eap: "eap-mschapv2 or eap-tls"
        case .eapOnly: "eap-only"
        }
    }
}

extension [String] {
    /// The keywords of proposals, in order of preference, cut where a sentence would be nothing but them: the file has them all.
    var brief: String {
        let longest = 100
        let text = joined(separator: ", ")
        guard text.utf8.count > longest else { return text }
        let cut = text.prefix(longest)
        return cut[..<(cut.lastIndex { $0 == "-" || $0 == "," } ?? cut.endIndex)] + "..."
    }
}

extension IKECore {
    /// What to say about a request that waits for its response.
    func silence(_ sa: IKESA, _ request: OutstandingRequest, now: Instant) -> Reason {
        if let failure = sa.sendFailure { return Reasons.notSent(failure, request.exchange, sa.path) }
        return Reasons.silence(
            request.exchange, plan: plan(of: sa), remote: sa.path.remote, transmissions: request.transmissions,
            waited: now - request.firstSent)
    }
}
