import IPsec

// Additional key exchanges of CREATE_CHILD_SA, as responder. RFC 9370 §2.2.4.

/// A series of the peer: CREATE_CHILD_SA is answered, IKE_FOLLOWUP_KE has to come.
package final class AnsweredSeries {
    enum Purpose {
        case child(AgreedChild, old: ChildRecord?)
        case rekeyIKE(AgreedRekey)
    }

    let purpose: Purpose
    let lowestNonce: [UInt8]
    /// "a blob meaningful only to the responder": each is good for one request.
    var link: [UInt8]
    /// SK(1), SK(2), …
    var secrets: [Secret] = []
    var pending: [KeyExchangeMethod]
    var expires: Instant

    init(purpose: Purpose, lowestNonce: [UInt8], link: [UInt8], pending: [KeyExchangeMethod], expires: Instant) {
        (self.purpose, self.lowestNonce, self.link) = (purpose, lowestNonce, link)
        (self.pending, self.expires) = (pending, expires)
    }

    /// The child that the peer's series is about to replace.
    var rekeyedChild: ChildRecord? { if case .child(_, let old) = purpose { old } else { nil } }
    var isForIKE: Bool { if case .rekeyIKE = purpose { true } else { false } }
}

/// A rekeyed IKE SA that we agreed to, before every key exchange is done.
struct AgreedRekey {
    var suite: IKESuite
    var localSPI: UInt64
    var remoteSPI: UInt64
    var initiatorNonce: [UInt8]
    var responderNonce: [UInt8]
    var shared: Secret
}

extension IKECore {
    /// Answers CREATE_CHILD_SA and waits for the additional key exchanges.
    func answerWithLink(
        _ sa: IKESA, _ purpose: AnsweredSeries.Purpose, _ payloads: [Payload], methods: [KeyExchangeMethod],
        lowestNonce: [UInt8], path: Path, now: Instant
    ) throws(IKEFault) {
        expireAnswered(sa, now: now)
        guard sa.answered.count < Bounds.followUpSeries else {
            counters.followUpLimitReached &+= 1
            throw .incompatible(.temporaryFailure, data: [], "too many additional key exchanges are under way")
        }
        let series = AnsweredSeries(
            purpose: purpose, lowestNonce: lowestNonce, link: random.bytes(Bounds.ourFollowUpLinkBytes), pending: methods,
            expires: now + Bounds.followUpLifetime)
        sa.answered.append(series)
        respond(sa, .createChildSA, payloads + [.notify(Notify(.additionalKeyExchange, data: series.link))], path: path)
        touch(sa)
    }

    func answerFollowUp(_ sa: IKESA, _ established: EstablishedSA, _ payloads: PayloadList, path: Path, now: Instant) {
        expireAnswered(sa, now: now)
        // "If the responder receives an IKE_FOLLOWUP_KE message for which it does not have a key exchange state, it MUST send
        // back
        // a new error type notification called STATE_NOT_FOUND. This is an error notification that is not fatal to the IKE SA."
        guard let link = payloads.notify(.additionalKeyExchange)?.data,
            let index = sa.answered.firstIndex(where: { $0.link == link }), let connection = connection(of: sa),
            established.supersededBy == nil
        else {
            respond(sa, .ikeFollowUpKE, [.notify(Notify(.stateNotFound))], path: path)
            return
        }
        let series = sa.answered.remove(at: index)
        do throws(IKEFault) {
            guard let method = series.pending.first, let theirs = payloads.keyExchange, theirs.method == method.rawValue else {
                throw .peerMisbehaved("its key exchange is not the one that is next")
            }
            let ours = try answerKeyExchange(method, theirs.data)
            series.secrets.append(try agree(ours))
            series.pending.removeFirst()
            let answer = Payload.keyExchange(method: method.rawValue, data: ours.publicValue)
            guard series.pending.isEmpty else {
                (series.link, series.expires) = (random.bytes(Bounds.ourFollowUpLinkBytes), now + Bounds.followUpLifetime)
                sa.answered.append(series)
                respond(
                    sa, .ikeFollowUpKE, [answer, .notify(Notify(.additionalKeyExchange, data: series.link))], path: path)
                return
            }
            try complete(sa, established, connection, series, answer, path: path, now: now)
        } catch {
            respond(sa, .ikeFollowUpKE, error: error, path: path)
            closeAfter(error, sa, "additional key exchange", now: now)
        }
        touch(sa)
    }

    /// The last key exchange is done: the SA comes into being.
    private func complete(
        _ sa: IKESA, _ established: EstablishedSA, _ connection: ConnectionState, _ series: AnsweredSeries, _ answer: Payload,
        path: Path, now: Instant
    ) throws(IKEFault) {
        switch series.purpose {
        case .child(let agreed, let old):
            // Much may have happened since CREATE_CHILD_SA.
            guard !isRekeyingIKE(sa) else {
                throw .incompatible(.temporaryFailure, data: [], "the IKE SA is being rekeyed")
            }
            if let old {
                guard established.children.contains(where: { $0 === old }), old.isLive, old.replacedBy == nil else {
                    throw .incompatible(.temporaryFailure, data: [], "the child to rekey is gone or replaced")
                }
            }
            guard connection.childPlan(agreed.plan.name) != nil, established.children.count < Bounds.childrenPerIKESA else {
                throw .incompatible(.noAdditionalSAs, data: [], "there is no room for the child any more")
            }
            let made = try makeChild(sa, connection, agreed, additional: series.secrets, now: now)
            linkChild(made, old, established, connection, now: now)
            withhold(
                made, on: sa, established, exchange: .ikeFollowUpKE, payloads: [answer],
                failure: [.notify(Notify(.temporaryFailure))], path: path, now: now)
        case .rekeyIKE(let agreed):
            guard !isBusyWithChildren(sa) else {
                throw .incompatible(.temporaryFailure, data: [], "a child of the IKE SA is being created or deleted")
            }
            let successor = try makeSuccessor(
                of: sa, established, localSPI: agreed.localSPI, remoteSPI: agreed.remoteSPI, weInitiate: false,
                suite: agreed.suite, shared: agreed.shared, additional: series.secrets, initiatorNonce: agreed.initiatorNonce,
                responderNonce: agreed.responderNonce, now: now)
            respond(sa, .ikeFollowUpKE, [answer], path: path)
            adoptSuccessor(successor, of: sa, now: now)
        }
    }

    /// "The responder MUST handle this situation gracefully and delete the associated state if it does not receive the next
    /// expected IKE_FOLLOWUP_KE request after some reasonable period of time."
    func expireAnswered(_ sa: IKESA, now: Instant) {
        let before = sa.answered.count
        sa.answered.removeAll { $0.expires <= now }
        if sa.answered.count < before { counters.followUpsExpired &+= before - sa.answered.count }
    }

    /// Whether the next thing we want to ask for has to wait: while the peer's rekey of the IKE SA is under way, children are
    /// left as they are (RFC 7296 §2.25.2).
    func mustWait(_ sa: IKESA, for task: SATask) -> Bool {
        guard sa.answered.contains(where: \.isForIKE) else { return false }
        switch task {
        case .createChild, .createRest, .rekeyChild, .deleteChild: return true
        default: return false
        }
    }
}
