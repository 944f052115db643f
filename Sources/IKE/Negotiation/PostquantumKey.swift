public import IPsec

/// A postquantum preshared key (PPK): mixed into the keys of an IKE SA, it keeps what is recorded today from being read once the
/// key exchange can be broken. RFC 8784.
public struct PostquantumKey: Sendable {
    /// PPK_ID without its type octet; it travels encrypted, but unauthenticated, as PPK_ID_FIXED.
    public var identifier: [UInt8]
    public var secret: Secret
    /// "a configurable flag that determines whether this PPK is mandatory": without it the connection does not come up.
    public var isRequired: Bool
    public init(identifier: [UInt8], secret: Secret, isRequired: Bool) {
        (self.identifier, self.secret, self.isRequired) = (identifier, secret, isRequired)
    }

    /// RFC 8784 §5.1: the type octet PPK_ID_FIXED, then the configured value.
    var wireIdentifier: [UInt8] { [2] + identifier }
    var shownIdentifier: String { Identity.keyID(identifier).description }
}

/// How far an IKE SA is with its PPK.
package struct PostquantumState: Sendable {
    /// Both ends sent USE_PPK in IKE_SA_INIT.
    var isNegotiated = false
    /// The keys before the PPK was mixed in, as long as it is not settled whether it is.
    var plainKeys: IKEKeys?
    /// The keys of this IKE SA come of it, directly or by rekeying.
    package var isUsed = false
}

extension KeySchedule {
    /// `SK_d = prf+ (PPK, SK_d'); SK_pi = prf+ (PPK, SK_pi'); SK_pr = prf+ (PPK, SK_pr')`. RFC 8784 §3.
    package func mix(_ ppk: Secret, into keys: IKEKeys, prf: PseudoRandomFunction) throws(IKEFault) -> IKEKeys {
        var mixed = keys
        do throws(IKECryptoError) {
            func mix(_ key: Secret) throws(IKECryptoError) -> Secret {
                try crypto.prfPlus(prf, key: ppk, seed: [.secret(key)], count: prf.outputBytes)
            }
            mixed.derivation = try mix(keys.derivation)
            mixed.initiatorAuthentication = try mix(keys.initiatorAuthentication)
            mixed.responderAuthentication = try mix(keys.responderAuthentication)
        } catch { throw .ours("mixing in the postquantum key failed: \(error)") }
        return mixed
    }
}

// In IKE_AUTH. RFC 8784 §3.
extension IKECore {
    // MARK: Initiator

    /// Mixes the PPK in, where both ends have said USE_PPK. What AUTH is made with comes after this.
    /// - Parameter authenticate: our AUTH data with the keys at hand.
    /// - Returns: what goes along with AUTH: PPK_IDENTITY, and NO_PPK_AUTH when it goes without the PPK too.
    func beginPPK(
        _ sa: IKESA, _ plan: ConnectionPlan, authenticate: () throws(IKEFault) -> [UInt8]
    ) throws(IKEFault) -> [Payload] {
        guard sa.postquantum.isNegotiated, let ppk = plan.postquantumKey else { return [] }
        guard let keys = sa.keys, let suite = sa.suite else { throw .ours("the IKE SA has no keys") }
        var payloads: [Payload] = [.notify(Notify(.ppkIdentity, data: ppk.wireIdentifier))]
        if !ppk.isRequired { payloads.append(.notify(Notify(.noPPKAuthentication, data: try authenticate()))) }
        sa.postquantum.plainKeys = keys
        sa.keys = try KeySchedule(crypto: crypto).mix(ppk.secret, into: keys, prf: suite.prf)
        return payloads
    }

    /// The response says whether the responder used the PPK. Nil, or why that is not enough.
    func settlePPK(_ sa: IKESA, _ plan: ConnectionPlan, response payloads: PayloadList) -> String? {
        guard let plain = sa.postquantum.plainKeys else { return nil }
        sa.postquantum.plainKeys = nil
        if payloads.notify(.ppkIdentity) != nil {
            sa.postquantum.isUsed = true
            return nil
        }
        guard plan.postquantumKey?.isRequired != true else { return Reasons.ppkUnused(plan: plan, remote: sa.path.remote) }
        // "continue without using the PPK (if the PPK was not configured as mandatory and the initiator included the NO_PPK_AUTH
        // notification in the request)".
        log(.warning, plan.name, Reasons.ppkUnused(plan: plan, remote: sa.path.remote))
        sa.keys = plain
        return nil
    }

    // MARK: Responder

    /// Whether we have a PPK for anybody that a peer at this path may turn out to be: then USE_PPK is answered.

    /// Sets the keys that the peer's AUTH is judged with, by table 1 of RFC 8784 §3.
    /// - Returns: the AUTH data to judge when the peer's ordinary one was made with a PPK that we do not have.
    func settlePPK(
        _ sa: IKESA, _ plan: ConnectionPlan, request payloads: PayloadList
    ) throws(ProofRefusal) -> [UInt8]? {
        guard let suite = sa.suite, let plain = sa.postquantum.plainKeys ?? sa.keys else { return nil }
        sa.postquantum.plainKeys = plain
        sa.keys = plain
        sa.postquantum.isUsed = false
        func refusal(_ sentence: String) -> ProofRefusal { ProofRefusal(depth: .secret, sentence: sentence) }
        guard sa.postquantum.isNegotiated else {
            if plan.postquantumKey?.isRequired == true {
                throw refusal(Reasons.ppkNotOffered(plan: plan, remote: sa.path.remote))
            }
            return nil
        }
        // "If no PPK_IDENTITY notification is found and the peers successfully exchanged USE_PPK notifications in the IKE_SA_INIT
        // exchange, then the responder MUST send back an AUTHENTICATION_FAILED notification and then fail the negotiation."
        guard let identity = payloads.notify(.ppkIdentity)?.data else {
            throw refusal("The peer \(sa.path.remote) promised a postquantum key (USE_PPK) and named none.")
        }
        if let ppk = plan.postquantumKey, ppk.wireIdentifier == identity {
            do throws(IKEFault) {
                sa.keys = try KeySchedule(crypto: crypto).mix(ppk.secret, into: plain, prf: suite.prf)
            } catch { throw refusal("\(error.sentence).") }
            sa.postquantum.isUsed = true
            return nil
        }
        guard plan.postquantumKey?.isRequired != true, let plainData = payloads.notify(.noPPKAuthentication)?.data else {
            throw refusal(Reasons.ppkNotShared(payloads, plan: plan, remote: sa.path.remote))
        }
        return plainData
    }
}

extension Reasons {
    static func ppkUnused(plan: ConnectionPlan, remote: Endpoint) -> String {
        "The peer \(remote) did not use the postquantum key \(plan.postquantumKey?.shownIdentifier ?? "") of connection "
            + "\(plan.name): give the peer a ppk with the same id and secret."
    }

    static func ppkNotOffered(plan: ConnectionPlan, remote: Endpoint) -> String {
        "The peer \(remote) offers no postquantum key, and connection \(plan.name) has ppk: required: true: configure "
            + "the same ppk "
            + "on the peer, or set required: false here."
    }

    static func ppkNotShared(_ payloads: PayloadList, plan: ConnectionPlan, remote: Endpoint) -> String {
        let identity = payloads.notify(.ppkIdentity)?.data ?? []
        let theirs = Identity.keyID(Array(identity.dropFirst())).description
        let ours = plan.postquantumKey.map { "ppk id \($0.shownIdentifier)" } ?? "no ppk"
        return
            "The peer \(remote) uses the postquantum key \(theirs), but connection \(plan.name) has \(ours): make id "
                + "and secret of "
            + "ppk equal on both ends."
    }

    /// What a refused initiator with a PPK has to look at besides.
    static func ppkDoubt(_ plan: ConnectionPlan, _ sa: IKESA) -> String {
        guard let ppk = plan.postquantumKey, sa.postquantum.isNegotiated else { return "" }
        return
            " The postquantum key \(ppk.shownIdentifier) may be another cause: id and secret of ppk have to be equal "
                + "on both ends."
    }
}
