internal import COpenSSL

/// What revocation lists say of one certificate of a chain.
struct RevocationFinding: Sendable {
    enum State: Sendable { case current, stale, uncovered }

    /// Whether lists that are in force now would name it, for every reason there is.
    var state = State.uncovered
    var revoked: (at: Int64, reason: Int32)?
    /// Lists of the operator's that settle nothing: clauses.
    var problems: [String] = []
    /// A list of the operator's that bears its issuer's name is signed by nobody known here.
    var isForged = false
    /// Date of the newest list of the operator's about it.
    var newestUpdate = Int64.min
}

/// Looks the certificates of a proven chain up in revocation lists. RFC 5280 §6.3.
///
/// libcrypto's own lookup is not used: it verifies a list's signature whenever it looks into it, takes a list that is in date
/// before a newer one that is not, and a delta list for a complete one. Here the operator's lists come first. Those that the peer
/// carries may name more certificates, and may cover one where the operator's do not, when they are not from before the
/// operator's; nothing that the operator's lists say is taken back by them.
///
/// A trust anchor has nobody who could revoke it.
final class RevocationJudge {
    private let own: RevocationLists.Snapshot
    private let carried: [RevocationList]
    private let anchors: [Certificate]
    private let sent: [Certificate]
    private let now: Int64
    /// The chain of a certificate to its trust anchor, without a look at revocation; nil when there is none.
    private let path: (Certificate) -> [Certificate]?
    /// Whether a carried list is at least as new as any that was seen.
    private let isNewest: (RevocationList) -> Bool
    private var paths: [Certificate: [Certificate]] = [:]

    init(
        own: RevocationLists.Snapshot, carried: [RevocationList], anchors: [Certificate], sent: [Certificate], now: Int64,
        path: @escaping (Certificate) -> [Certificate]?, isNewest: @escaping (RevocationList) -> Bool
    ) {
        (self.own, self.carried, self.anchors, self.sent, self.now) = (own, carried, anchors, sent, now)
        (self.path, self.isNewest) = (path, isNewest)
    }

    /// By depth, the trust anchor left out.
    func findings(_ chain: [Certificate]) -> [RevocationFinding] {
        (0..<max(0, chain.count - 1)).map { finding(chain, $0, isSigner: false) }
    }

    // MARK: One certificate

    /// What has been found so far.
    private struct Lookup {
        let chain: [Certificate]
        let depth: Int
        /// The certificate is that of a list's signer: it is not looked up in lists of further signers.
        let isSigner: Bool
        var certificate: Certificate { chain[depth] }
        var finding = RevocationFinding()
        /// Reasons for which a current list would name it.
        var reasons: UInt32 = 0
        var hasStale = false

        mutating func note(_ mention: RevocationList.Mention) {
            if case .revoked(let at, let reason) = mention, finding.revoked == nil { finding.revoked = (at, reason) }
        }
    }

    private func finding(_ chain: [Certificate], _ depth: Int, isSigner: Bool) -> RevocationFinding {
        var lookup = Lookup(chain: chain, depth: depth, isSigner: isSigner)
        for list in own.complete where list.concerns(lookup.certificate) { consult(list, &lookup) }
        for list in own.deltas where list.concerns(lookup.certificate) { consultDelta(list, &lookup) }
        for list in carried where list.concerns(lookup.certificate) { consultCarried(list, &lookup) }
        if lookup.reasons == RevocationList.allReasons {
            lookup.finding.state = .current
        } else if lookup.hasStale {
            lookup.finding.state = .stale
        } else if lookup.reasons != 0 {
            lookup.finding.problems.append(
                "the revocation lists of `\(lookup.certificate.issuer)` are about some reasons for revocation only")
        }
        return lookup.finding
    }

    /// A complete list of the operator's.
    private func consult(_ list: RevocationList, _ lookup: inout Lookup) {
        guard let signer = trusted(list, &lookup) else { return }
        let delta = own.delta(for: list).flatMap { $0.fault == nil && trusted($0, &lookup) != nil ? $0 : nil }
        let change = delta?.mention(of: lookup.certificate) ?? .none
        lookup.note(change)
        // "removeFromCRL": what the complete list says of it is over.
        if case .removed = change {} else { lookup.note(list.mention(of: lookup.certificate)) }
        if let fault = list.fault { complain(list, fault, &lookup); return }
        let reasons = list.reasons(for: lookup.certificate)
        guard reasons != 0 else {
            complain(list, "is not about certificates of this kind", &lookup)
            return
        }
        lookup.finding.newestUpdate = max(lookup.finding.newestUpdate, list.thisUpdate)
        if !list.isCurrent(now) || delta?.isCurrent(now) == false {
            lookup.hasStale = true
        } else if signer.isCurrent {
            lookup.reasons |= reasons
        } else {
            complain(list, "has a signer whom no current list speaks for", &lookup)
        }
    }

    /// A delta list of the operator's: with its complete list it has been looked at already.
    private func consultDelta(_ list: RevocationList, _ lookup: inout Lookup) {
        guard !own.complete.contains(where: { list.completes($0) }) || list.fault != nil, trusted(list, &lookup) != nil else {
            return
        }
        lookup.note(list.mention(of: lookup.certificate))
        complain(list, list.fault ?? "is a delta list without the complete list that it adds to", &lookup)
    }

    /// A list that the peer sent along.
    private func consultCarried(_ list: RevocationList, _ lookup: inout Lookup) {
        guard list.fault == nil, case .trusted(let signer) = standing(of: list, lookup) else { return }
        lookup.note(list.mention(of: lookup.certificate))
        guard !list.isDelta, signer.isCurrent else { return }
        let reasons = list.reasons(for: lookup.certificate)
        let newer = (own.complete + own.deltas).filter { $0.issuerName == list.issuerName && $0.scope == list.scope }
        guard reasons != 0, !newer.contains(where: { list.isBehind($0) }), isNewest(list) else { return }
        if list.isCurrent(now) { lookup.reasons |= reasons } else { lookup.hasStale = true }
    }

    private func complain(_ list: RevocationList, _ clause: String, _ lookup: inout Lookup) {
        let name = "the revocation list of `\(list.issuer)`\(own.place(of: list))"
        let problem = "\(name) \(clause)"
        if !lookup.finding.problems.contains(problem) { lookup.finding.problems.append(problem) }
    }

    // MARK: Who signed a list

    private struct Signer {
        /// Nobody has revoked it, and current lists say so; the CAs of the chain are looked up by themselves.
        var isCurrent: Bool
    }

    private enum Standing {
        case trusted(Signer)
        /// Another trust anchor of the same name did.
        case foreign
        /// Nobody who may.
        case unknown
        /// The names fit, the signature does not.
        case forged
        case revoked
    }

    /// The signer of a list of the operator's; what is wrong is noted.
    private func trusted(_ list: RevocationList, _ lookup: inout Lookup) -> Signer? {
        switch standing(of: list, lookup) {
        case .trusted(let signer): return signer
        case .foreign: return nil
        case .unknown:
            complain(list, "is signed by nobody who is known here and may sign it", &lookup)
            // Whoever signed it: the operator put it here, and it names the certificate.
            lookup.note(list.mention(of: lookup.certificate))
            return nil
        case .forged:
            lookup.finding.isForged = true
            complain(list, "is not properly signed", &lookup)
            return nil
        case .revoked:
            complain(list, "is signed by somebody whose certificate was revoked", &lookup)
            lookup.note(list.mention(of: lookup.certificate))
            return nil
        }
    }

    /// RFC 5280 §6.3.3 (f) and (g): "Obtain and validate the certification path for the issuer of the complete CRL. The trust
    /// anchor for the certification path MUST be the same as the trust anchor used to validate the target certificate."
    private func standing(of list: RevocationList, _ lookup: Lookup) -> Standing {
        var standing = Standing.unknown
        let above = lookup.chain.dropFirst(lookup.depth + 1)
        for candidate in above where list.mayBeSigned(by: candidate) {
            if list.isSigned(by: candidate) { return .trusted(Signer(isCurrent: true)) }
            standing = .forged
        }
        for anchor in anchors where !above.contains(anchor) && list.mayBeSigned(by: anchor) && list.isSigned(by: anchor) {
            return .foreign
        }
        // The right key, and no right to use it so.
        if above.first.map({ list.issuerName == $0.subjectName && list.isSigned(by: $0) }) == true { return .forged }
        if lookup.isSigner {
            // Its CA has made it speak for itself too, where nobody else does.
            let isOwn = list.mayBeSigned(by: lookup.certificate) && list.isSigned(by: lookup.certificate)
            return isOwn ? .trusted(Signer(isCurrent: true)) : standing
        }
        for candidate in own.signers + sent where !above.contains(candidate) && list.mayBeSigned(by: candidate) {
            guard let path = path(of: candidate), path.last == lookup.chain.last, list.isSigned(by: candidate) else { continue }
            let findings = (0..<path.count - 1).map { finding(path, $0, isSigner: true) }
            if findings.contains(where: { $0.revoked != nil }) { standing = .revoked; continue }
            return .trusted(Signer(isCurrent: findings.allSatisfy { $0.state == .current }))
        }
        return standing
    }

    private func path(of signer: Certificate) -> [Certificate]? {
        if let known = paths[signer] { return known.isEmpty ? nil : known }
        let found = path(signer)
        paths[signer] = found ?? []
        return found
    }
}
