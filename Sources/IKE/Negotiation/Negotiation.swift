import IPsec

/// Choosing one suite out of an offer, and checking the choice that a peer made. RFC 7296 §2.7, §3.3.6.
package enum Negotiation {
    package struct Choice<Suite: Sendable>: Sendable {
        package var number: UInt8
        /// The SPI field of the proposal that was chosen.
        package var spi: [UInt8]
        package var suite: Suite
    }

    /// AH, whose SPI has four octets too, or a protocol that we do not know.
    private static func isForeign(_ proposal: WireProposal) -> Bool {
        proposal.protocolID != ProtocolID.ike && proposal.protocolID != ProtocolID.esp
    }

    // MARK: Responder

    /// "the first proposal in an SA payload MUST be 1, and subsequent proposals MUST be one more than the previous" (§3.3.1).
    /// - Parameter spiBytes: "For an initial IKE SA negotiation, this field MUST be zero"; nil: what a protocol has.
    package static func isOffer(_ offer: [WireProposal], spiBytes: Int? = nil) -> Bool {
        offer.enumerated().allSatisfy { index, proposal in
            let wanted = spiBytes ?? (proposal.protocolID == ProtocolID.ike ? 8 : 4)
            return Int(proposal.number) == index + 1
                && (proposal.spi.count == wanted || spiBytes == nil && isForeign(proposal))
        }
    }

    /// The first suite in our order of preference that the offer contains. Nil: NO_PROPOSAL_CHOSEN.
    /// - Parameter withAdditional: false in IKE_SA_INIT without IKE_INTERMEDIATE: "the peers MUST treat any ADDKE Transform Types
    ///   … as unknown transform types and skip the proposals they appear in". RFC 9370 §2.2.1.
    package static func choose(
        _ ours: [IKEProposal], from offer: [WireProposal], withAdditional: Bool = true
    ) -> Choice<IKESuite>? {
        let known = withAdditional ? ikeTypes.union(TransformType.additionalKeyExchanges) : ikeTypes
        for plan in ours {
            for cipher in plan.ciphers {
                for proposal in offer where proposal.protocolID == ProtocolID.ike && isReadable(proposal, known: known) {
                    guard accepts(cipher, proposal),
                        let prf = plan.prfs.first(where: { has(proposal, TransformType.prf, $0.rawValue) }),
                        let (method, additional) = agreeOnMethods(plan, proposal)
                    else { continue }
                    return Choice(
                        number: proposal.number, spi: proposal.spi,
                        suite: IKESuite(cipher: cipher, prf: prf, method: method, additional: additional))
                }
            }
        }
        return nil
    }

    private static func agreeOnMethods(
        _ plan: IKEProposal, _ proposal: WireProposal
    ) -> (method: KeyExchangeMethod, additional: [ChosenKeyExchange])? {
        for method in plan.methods where has(proposal, TransformType.keyExchange, method.rawValue) {
            if let additional = agreeOnAdditional(plan.additional, proposal, besides: method) { return (method, additional) }
        }
        return nil
    }

    /// - Parameter withMethods: false in IKE_AUTH, where key exchange transforms have no place and are passed over.
    package static func choose(_ ours: [ESPProposal], from offer: [WireProposal], withMethods: Bool) -> Choice<ESPSuite>? {
        for plan in ours {
            for keyBits in plan.keyBits {
                for proposal in offer where proposal.protocolID == ProtocolID.esp && proposal.spi.count == 4 {
                    guard isReadable(proposal, known: espTypes), hasNoIntegrity(proposal),
                        has(proposal, TransformType.encryption, EncryptionID.aesGCM16, keyLength: UInt16(clamping: keyBits)),
                        let extended = plan.extendedSequenceNumbers.first(where: { acceptsSequenceNumbers(proposal, $0) })
                    else { continue }
                    var suite = ESPSuite(
                        transform: ESPTransform(keyBits: keyBits, extendedSequenceNumbers: extended), method: nil)
                    if withMethods {
                        guard let agreed = agreeOnMethods(plan, proposal) else { continue }
                        (suite.method, suite.additional) = agreed
                    }
                    return Choice(number: proposal.number, spi: proposal.spi, suite: suite)
                }
            }
        }
        return nil
    }

    private static let ikeTypes: Set<UInt8> = [
        TransformType.encryption, TransformType.prf, TransformType.integrity, TransformType.keyExchange,
    ]
    private static let espTypes: Set<UInt8> = Set(TransformType.additionalKeyExchanges).union([
        TransformType.encryption, TransformType.integrity, TransformType.keyExchange, TransformType.sequenceNumbers,
    ])

    /// "a proposal that contains a Transform Type it does not understand … it MUST consider this proposal unacceptable".
    private static func isReadable(_ proposal: WireProposal, known: Set<UInt8>) -> Bool {
        proposal.transforms.allSatisfy { known.contains($0.type) }
    }

    private static func has(_ proposal: WireProposal, _ type: UInt8, _ id: UInt16, keyLength: UInt16? = nil) -> Bool {
        proposal.transforms.contains { $0.type == type && $0.id == id && $0.keyLength == keyLength && !$0.hasUnknownAttribute }
    }

    /// "MUST either offer no integrity algorithm or a single integrity algorithm of NONE" (§3.3) beside a combined-mode cipher.
    private static func hasNoIntegrity(_ proposal: WireProposal) -> Bool {
        let integrity = proposal.transforms(TransformType.integrity)
        return integrity.isEmpty || integrity.contains { $0.id == 0 }
    }

    private static func accepts(_ cipher: IKECipher, _ proposal: WireProposal) -> Bool {
        guard proposal.transforms.contains(cipher.transform) else { return false }
        guard let integrity = cipher.integrity else { return hasNoIntegrity(proposal) }
        return has(proposal, TransformType.integrity, integrity.rawValue)
    }

    /// ESN is mandatory in ESP proposals (§3.3.3); a peer that leaves it out can only mean 32-bit numbers.
    private static func acceptsSequenceNumbers(_ proposal: WireProposal, _ extended: Bool) -> Bool {
        let offered = proposal.transforms(TransformType.sequenceNumbers)
        return offered.isEmpty ? !extended : has(proposal, TransformType.sequenceNumbers, extended ? 1 : 0)
    }

    /// Nil: no agreement. Without methods on both sides (or with NONE offered and none of ours) there is no exchange.
    private static func agreeOnMethods(
        _ plan: ESPProposal, _ proposal: WireProposal
    ) -> (method: KeyExchangeMethod?, additional: [ChosenKeyExchange])? {
        let offered = proposal.transforms(TransformType.keyExchange)
        for method in plan.methods where has(proposal, TransformType.keyExchange, method.rawValue) {
            if let additional = agreeOnAdditional(plan.additional, proposal, besides: method) { return (method, additional) }
        }
        guard plan.methods.isEmpty, offered.isEmpty || offered.contains(where: { $0.id == 0 }) else { return nil }
        return agreeOnAdditional(plan.additional, proposal, besides: nil).map { (nil, $0) }
    }

    // MARK: Initiator

    /// "The initiator of an exchange MUST check that the accepted offer is consistent with one of its proposals, and if not MUST
    /// terminate the exchange." (§3.3.6)
    package static func verify(_ answer: [WireProposal], offered: [WireProposal]) throws(IKEFault) -> Choice<IKESuite> {
        let chosen = try single(answer, offered: offered)
        guard let encryption = chosen.transforms(TransformType.encryption).first,
            let prf = chosen.transforms(TransformType.prf).first.flatMap({ PseudoRandomFunction(rawValue: $0.id) }),
            let method = chosen.transforms(TransformType.keyExchange).first.flatMap({ KeyExchangeMethod(rawValue: $0.id) })
        else { throw .peerMisbehaved("the peer's chosen proposal lacks a transform") }
        let additional = try chosenAdditional(chosen, besides: method)
        let bits = Int(encryption.keyLength ?? 0)
        let integrity = chosen.transforms(TransformType.integrity).first.flatMap { IntegrityAlgorithm(rawValue: $0.id) }
        switch (encryption.id, integrity) {
        case (EncryptionID.aesGCM16, nil):
            return Choice(
                number: chosen.number, spi: chosen.spi,
                suite: IKESuite(cipher: .aesGCM16(keyBits: bits), prf: prf, method: method, additional: additional))
        case (EncryptionID.aesCBC, let integrity?):
            return Choice(
                number: chosen.number, spi: chosen.spi,
                suite: IKESuite(cipher: .aesCBC(keyBits: bits, integrity), prf: prf, method: method, additional: additional))
        default: throw .peerMisbehaved("the peer chose a cipher and an integrity algorithm that do not go together")
        }
    }

    package static func verifyESP(_ answer: [WireProposal], offered: [WireProposal]) throws(IKEFault) -> Choice<ESPSuite> {
        let chosen = try single(answer, offered: offered)
        guard chosen.spi.count == 4, chosen.spi.bigEndianValue > 255 else {
            throw .peerMisbehaved("the peer's chosen proposal has no usable SPI")
        }
        guard let encryption = chosen.transforms(TransformType.encryption).first, encryption.id == EncryptionID.aesGCM16 else {
            throw .peerMisbehaved("the peer's chosen proposal lacks a cipher")
        }
        let extended = chosen.transforms(TransformType.sequenceNumbers).first?.id == 1
        let method = chosen.transforms(TransformType.keyExchange).first.flatMap { KeyExchangeMethod(rawValue: $0.id) }
        let transform = ESPTransform(keyBits: Int(encryption.keyLength ?? 0), extendedSequenceNumbers: extended)
        let additional = try chosenAdditional(chosen, besides: method)
        return Choice(
            number: chosen.number, spi: chosen.spi, suite: ESPSuite(transform: transform, method: method, additional: additional))
    }

    /// One proposal, with a number that we offered, holding one of the offered transforms of every offered type and nothing else.
    private static func single(_ answer: [WireProposal], offered: [WireProposal]) throws(IKEFault) -> WireProposal {
        guard answer.count == 1, let chosen = answer.first else {
            throw .peerMisbehaved("the peer did not choose a single proposal")
        }
        guard let offer = offered.first(where: { $0.number == chosen.number && $0.protocolID == chosen.protocolID }) else {
            throw .peerMisbehaved("the peer chose a proposal that was not offered")
        }
        let integrityNone = Transform(TransformType.integrity, 0)
        let transforms = chosen.transforms.filter { $0 != integrityNone }
        guard transforms.allSatisfy({ offer.transforms.contains($0) }) else {
            throw .peerMisbehaved("the peer chose a transform that was not offered")
        }
        let types = transforms.map(\.type)
        // An additional key exchange that may be NONE may as well be left out of the answer.
        let additional = offer.transforms.filter { TransformType.additionalKeyExchanges.contains($0.type) }
        let optional = additional.filter { $0.id == 0 }.map(\.type)
        let missing = Set(offer.transforms.map(\.type)).subtracting(types).subtracting(optional)
        guard missing.isEmpty, types.count == Set(types).count else {
            throw .peerMisbehaved("the peer did not choose one transform of each type")
        }
        return WireProposal(number: chosen.number, protocolID: chosen.protocolID, spi: chosen.spi, transforms: transforms)
    }
}
