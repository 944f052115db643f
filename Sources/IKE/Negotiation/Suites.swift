import IPsec

/// The algorithms that one IKE SA settled on.
package struct IKESuite: Hashable, Sendable {
    package var cipher: IKECipher
    package var prf: PseudoRandomFunction
    package var method: KeyExchangeMethod
    /// One for each additional key exchange that was offered. RFC 9370 §2.2.1.
    package var additional: [ChosenKeyExchange]

    package init(
        cipher: IKECipher, prf: PseudoRandomFunction, method: KeyExchangeMethod, additional: [ChosenKeyExchange] = []
    ) {
        (self.cipher, self.prf, self.method, self.additional) = (cipher, prf, method, additional)
    }

    /// As in a configuration: `aes256gcm16-prfsha384-x25519-ke1_mlkem768`.
    package var keywords: String {
        let done = additional.compactMap { choice in
            choice.method.map { AdditionalKeyExchange(slot: choice.slot, methods: [$0]) }
        }
        return IKEProposal(ciphers: [cipher], prfs: [prf], methods: [method], additional: done).keywords
    }
    /// The additional key exchanges to do, in their order.
    package var additionalMethods: [KeyExchangeMethod] { additional.compactMap(\.method) }

    package var transforms: [Transform] {
        var list = [cipher.transform, Transform(TransformType.prf, prf.rawValue)]
        if let integrity = cipher.integrity { list.append(Transform(TransformType.integrity, integrity.rawValue)) }
        list.append(Transform(TransformType.keyExchange, method.rawValue))
        return list + additional.map(\.transform)
    }
}

extension IKECipher {
    var transform: Transform {
        switch self {
        case .aesGCM16(let bits): Transform(TransformType.encryption, EncryptionID.aesGCM16, keyLength: UInt16(clamping: bits))
        case .aesCBC(let bits, _): Transform(TransformType.encryption, EncryptionID.aesCBC, keyLength: UInt16(clamping: bits))
        }
    }
}

/// The algorithms that one child SA settled on; `method` is nil without perfect forward secrecy.
package struct ESPSuite: Hashable, Sendable {
    package var transform: ESPTransform
    package var method: KeyExchangeMethod?
    package var additional: [ChosenKeyExchange] = []

    /// The additional key exchanges to do, in their order.
    package var additionalMethods: [KeyExchangeMethod] { additional.compactMap(\.method) }

    package var transforms: [Transform] {
        var list = [Transform(TransformType.encryption, EncryptionID.aesGCM16, keyLength: UInt16(clamping: transform.keyBits))]
        if let method { list.append(Transform(TransformType.keyExchange, method.rawValue)) }
        list += additional.map(\.transform)
        list.append(Transform(TransformType.sequenceNumbers, transform.extendedSequenceNumbers ? 1 : 0))
        return list
    }
}

/// What goes into SA payloads. RFC 7296 §2.7, §3.3.
package enum Offer {
    /// One wire proposal per set of ciphers that share their integrity algorithms: "If an initiator proposes both normal ciphers
    /// with integrity protection as well as combined-mode ciphers, then two proposals are needed."
    package static func ike(_ plans: [IKEProposal], spi: [UInt8] = []) -> [WireProposal] {
        var proposals: [WireProposal] = []
        for plan in plans {
            for group in groups(plan.ciphers) {
                var transforms = group.keyTransforms
                transforms += plan.prfs.uniqued.map { Transform(TransformType.prf, $0.rawValue) }
                transforms += group.integrity.map { Transform(TransformType.integrity, $0.rawValue) }
                transforms += plan.methods.uniqued.map { Transform(TransformType.keyExchange, $0.rawValue) }
                transforms += plan.additional.flatMap(\.transforms)
                proposals.append(
                    WireProposal(
                        number: UInt8(clamping: proposals.count + 1), protocolID: ProtocolID.ike, spi: spi, transforms: transforms
                    ))
            }
        }
        return Array(proposals.prefix(Bounds.proposalsPerSA))
    }

    private static func groups(_ ciphers: [IKECipher]) -> [(keyTransforms: [Transform], integrity: [IntegrityAlgorithm])] {
        var result: [(keyTransforms: [Transform], integrity: [IntegrityAlgorithm])] = []
        for transform in ciphers.map(\.transform).uniqued {
            let integrity = ciphers.filter { $0.transform == transform }.compactMap(\.integrity).uniqued
            if let index = result.firstIndex(where: { $0.integrity == integrity }) {
                result[index].keyTransforms.append(transform)
            } else {
                result.append(([transform], integrity))
            }
        }
        return result
    }

    /// - Parameter withMethods: false in IKE_AUTH, whose child takes its keys from the IKE SA's own exchange (§1.2).
    package static func esp(_ plans: [ESPProposal], spi: UInt32, withMethods: Bool) -> [WireProposal] {
        let offers = plans.prefix(Bounds.proposalsPerSA).map { plan in
            var transforms = plan.keyBits.uniqued.map {
                Transform(TransformType.encryption, EncryptionID.aesGCM16, keyLength: UInt16(clamping: $0))
            }
            if withMethods {
                transforms += plan.methods.uniqued.map { Transform(TransformType.keyExchange, $0.rawValue) }
                transforms += plan.additional.flatMap(\.transforms)
            }
            transforms += plan.extendedSequenceNumbers.uniqued.map { Transform(TransformType.sequenceNumbers, $0 ? 1 : 0) }
            return transforms
        }
        // Without their groups two may be the same.
        return offers.uniqued.enumerated().map { index, transforms in
            WireProposal(
                number: UInt8(clamping: index + 1), protocolID: ProtocolID.esp, spi: [UInt8](u32: spi), transforms: transforms)
        }
    }
}
