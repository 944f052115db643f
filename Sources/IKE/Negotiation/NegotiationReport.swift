import IPsec

/// Why an offer was refused, for the responder's operator: the first thing that differs, what to add to which line, and then
/// both sides.
package enum NegotiationReport {
    /// - Parameter line: where the configuration says it, to go after the key's name.
    package static func ike(ours: [IKEProposal], offer: [WireProposal], connection: String?, line: String = "") -> String {
        let place = "ike_proposals" + (connection.map { " of connection \($0)" } ?? "") + line
        let known = Set(ours.flatMap { $0.keywords.split(separator: "-") })
        let remedy = offer.prefix(Bounds.logOffers).flatMap(ikeCandidates).filter { keywords in
            guard let plan = try? IKEProposal(keywords: keywords) else { return false }
            return Negotiation.choose([plan], from: offer) != nil
        }
        return report("IKE", firstIKEDifference(ours, offer), closest(remedy, known), place, ours.map(\.keywords), offer)
    }

    package static func esp(
        ours: [ESPProposal], offer: [WireProposal], withMethods: Bool, connection: String, child: String, line: String = ""
    ) -> String {
        let known = Set(ours.flatMap { $0.keywords.split(separator: "-") })
        let remedy = offer.prefix(Bounds.logOffers).flatMap(espCandidates).filter { keywords in
            guard let plan = try? ESPProposal(keywords: keywords) else { return false }
            return Negotiation.choose([plan], from: offer, withMethods: withMethods) != nil
        }
        let difference = firstESPDifference(ours, offer, withMethods: withMethods)
        let place = "esp_proposals of child \(connection)/\(child)\(line)"
        return report("ESP", difference, closest(remedy, known), place, ours.map(\.keywords), offer)
    }

    /// - Parameter remedy: a whole proposal that `culvert check` accepts and that the offer contains; nil when there is none.
    private static func report(
        _ kind: String, _ difference: String, _ remedy: String?, _ place: String, _ ours: [String], _ offer: [WireProposal]
    ) -> String {
        let change =
            remedy.map { "To accept it, add \($0) to \(place), or change the peer's offer." }
            ?? "Nothing of the offer can be accepted here: change the peer's, so that it shares a proposal with \(place)."
        return "No common \(kind) proposal: \(difference). \(change) We accept \(ours.brief); the peer offered "
            + "\(describe(offer))."
    }

    // MARK: Remedies

    /// The one that has most in common with what we accept already; among equals the first offered.
    private static func closest(_ candidates: [String], _ known: Set<Substring>) -> String? {
        candidates.enumerated().max { a, b in
            let common = { (keywords: String) in keywords.split(separator: "-").count { known.contains($0) } }
            return (common(a.element), -a.offset) < (common(b.element), -b.offset)
        }?.element
    }

    /// Every way to take one transform of each type of an offered proposal, as keywords; bounded, since the peer chooses them.
    private static func ikeCandidates(_ offered: WireProposal) -> [String] {
        let integrity = keywords(offered, TransformType.integrity)
        return combinations([
            keywords(offered, TransformType.encryption), integrity.isEmpty ? [""] : integrity,
            keywords(offered, TransformType.prf), keywords(offered, TransformType.keyExchange),
        ] + additional(offered))
    }

    private static func espCandidates(_ offered: WireProposal) -> [String] {
        let methods = keywords(offered, TransformType.keyExchange)
        // Without a word about them sequence numbers have 32 bits.
        let sequence = keywords(offered, TransformType.sequenceNumbers).map { $0 == "noesn" ? "" : $0 }
        return combinations([
            keywords(offered, TransformType.encryption), methods.isEmpty ? [""] : methods,
        ] + additional(offered) + [sequence.isEmpty ? [""] : sequence])
    }

    private static func additional(_ offered: WireProposal) -> [[String]] {
        AdditionalKeyExchange.slots.compactMap { slot in
            let transforms = offered.transforms(TransformType.additionalKeyExchange(slot))
            // One that may be left out is.
            return transforms.isEmpty || transforms.contains { $0.id == 0 } ? nil : transforms.prefix(4).map(keyword)
        }
    }

    private static func keywords(_ offered: WireProposal, _ type: UInt8) -> [String] {
        let transforms = offered.transforms(type).filter { type != TransformType.integrity || $0.id != 0 }
        return transforms.filter { type != TransformType.keyExchange || $0.id != 0 }.prefix(6).map(keyword)
    }

    private static func combinations(_ parts: [[String]]) -> [String] {
        let most = 256
        return parts.reduce([""]) { heads, part in
            Array(heads.flatMap { head in part.map { head.isEmpty ? $0 : $0.isEmpty ? head : head + "-" + $0 } }.prefix(most))
        }
    }

    // MARK: What differs

    private static func firstIKEDifference(_ ours: [IKEProposal], _ offer: [WireProposal]) -> String {
        let encryption = offer.flatMap { $0.transforms(TransformType.encryption) }
        guard let best = ours.first(where: { plan in plan.ciphers.contains { encryption.contains($0.transform) } }) else {
            return difference("encryption algorithm", encryption)
        }
        let same = offer.filter { proposal in best.ciphers.contains { proposal.transforms.contains($0.transform) } }
        let integrity = same.flatMap { $0.transforms(TransformType.integrity) }.filter { $0.id != 0 }
        let wanted = best.ciphers.compactMap(\.integrity)
        if !wanted.isEmpty, !integrity.contains(where: { offered in wanted.contains { $0.rawValue == offered.id } }) {
            return difference("integrity algorithm", integrity)
        }
        let prfs = same.flatMap { $0.transforms(TransformType.prf) }
        if !prfs.contains(where: { offered in best.prfs.contains { $0.rawValue == offered.id } }) {
            return difference("pseudo-random function", prfs)
        }
        let methods = same.flatMap { $0.transforms(TransformType.keyExchange) }
        if !methods.contains(where: { offered in best.methods.contains { $0.rawValue == offered.id } }) {
            return difference("key exchange group", methods)
        }
        if let found = additionalDifference(best.additional, same) { return found }
        return "the algorithms are the same, but never together in one proposal"
    }

    private static func firstESPDifference(_ ours: [ESPProposal], _ offer: [WireProposal], withMethods: Bool) -> String {
        guard offer.contains(where: { $0.protocolID == ProtocolID.esp }) else { return "none of the offers is for ESP" }
        let encryption = offer.flatMap { $0.transforms(TransformType.encryption) }
        let bits = encryption.filter { $0.id == EncryptionID.aesGCM16 }.map { Int($0.keyLength ?? 0) }
        guard let best = ours.first(where: { plan in plan.keyBits.contains { bits.contains($0) } }) else {
            return difference("encryption algorithm", encryption)
        }
        let sequence = offer.flatMap { $0.transforms(TransformType.sequenceNumbers) }
        let extended = sequence.isEmpty ? [false] : sequence.map { $0.id == 1 }
        if !best.extendedSequenceNumbers.contains(where: { extended.contains($0) }) {
            let name = extended.contains(true) ? "esn" : "noesn"
            return "the first difference is extended sequence numbers: the peer insists on \(name)"
        }
        let methods = offer.flatMap { $0.transforms(TransformType.keyExchange) }
        if withMethods, methods.isEmpty != best.methods.isEmpty || !methods.isEmpty {
            if methods.isEmpty {
                return "the first difference is perfect forward secrecy: we ask for it and the peer does not offer it"
            }
            if !best.methods.contains(where: { mine in methods.contains { $0.id == mine.rawValue } }) {
                return difference("key exchange group (perfect forward secrecy)", methods)
            }
        }
        if withMethods, let found = additionalDifference(best.additional, offer) { return found }
        return "the algorithms are the same, but never together in one proposal"
    }

    /// The first additional key exchange (RFC 9370) that the two ends do not share.
    private static func additionalDifference(_ ours: [AdditionalKeyExchange], _ offer: [WireProposal]) -> String? {
        for slot in AdditionalKeyExchange.slots {
            let offered = offer.flatMap { $0.transforms(TransformType.additionalKeyExchange(slot)) }
            let mine = ours.first { $0.slot == slot }
            if let mine, offered.isEmpty, !mine.isOptional {
                let wanted = mine.keywordList.joined(separator: " or ")
                return "the first difference is additional key exchange \(slot): we ask for \(wanted), the peer offered none"
            }
            let accepted = Set(mine?.methods.map(\.rawValue) ?? []).union(mine?.isOptional ?? true ? [0] : [])
            if !offered.isEmpty, !offered.contains(where: { accepted.contains($0.id) }) {
                return difference("additional key exchange \(slot)", offered)
            }
        }
        return nil
    }

    private static func difference(_ what: String, _ offered: [Transform]) -> String {
        let names = offered.map(keyword).uniqued
        if names.isEmpty { return "the first difference is the \(what): the peer offered none" }
        return "the first difference is the \(what): the peer offered only \(names.prefix(8).joined(separator: ", "))"
    }

    /// The offer in keywords, for a sentence; bounded, since the peer chooses its length.
    package static func describe(_ offer: [WireProposal]) -> String {
        let texts = offer.prefix(Bounds.logOffers).map { proposal in
            proposal.transforms.prefix(24).map(keyword).uniqued.joined(separator: "-")
        }
        let more = offer.count > Bounds.logOffers ? " and \(offer.count - Bounds.logOffers) more" : ""
        return texts.isEmpty ? "nothing" : texts.brief + more
    }

    private static func keyword(_ transform: Transform) -> String {
        let bits = transform.keyLength.map(String.init) ?? ""
        let names: [UInt16: String]
        switch transform.type {
        case TransformType.encryption:
            names = [
                2: "des", 3: "3des", 11: "null", 12: "aes\(bits)", 13: "aes\(bits)ctr", 14: "aes\(bits)ccm8",
                15: "aes\(bits)ccm12",
                16: "aes\(bits)ccm16", 18: "aes\(bits)gcm8", 19: "aes\(bits)gcm12", 20: "aes\(bits)gcm16", 21: "aes\(bits)gmac",
                23: "camellia\(bits)", 28: "chacha20poly1305",
            ]
        case TransformType.prf:
            names = [1: "prfmd5", 2: "prfsha1", 4: "prfaesxcbc", 5: "prfsha256", 6: "prfsha384", 7: "prfsha512", 8: "prfaescmac"]
        case TransformType.integrity:
            names = [
                0: "no integrity", 1: "md5", 2: "sha1", 5: "aesxcbc", 8: "aescmac", 12: "sha256", 13: "sha384", 14: "sha512",
            ]
        case TransformType.keyExchange:
            names = [
                0: "no group", 1: "modp768", 2: "modp1024", 5: "modp1536", 14: "modp2048", 15: "modp3072", 16: "modp4096",
                17: "modp6144", 18: "modp8192", 19: "ecp256", 20: "ecp384", 21: "ecp521", 28: "ecp256bp", 29: "ecp384bp",
                30: "ecp512bp", 31: "x25519", 32: "x448", 35: "mlkem512", 36: "mlkem768", 37: "mlkem1024",
            ]
        case TransformType.additionalKeyExchanges:
            let slot = transform.type - 5
            if transform.id == 0 { return "ke\(slot)_none" }
            return "ke\(slot)_" + keyword(Transform(TransformType.keyExchange, transform.id))
        case TransformType.sequenceNumbers: names = [0: "noesn", 1: "esn"]
        default: return "transform type \(transform.type)"
        }
        return names[transform.id] ?? "type \(transform.type) id \(transform.id)"
    }
}
