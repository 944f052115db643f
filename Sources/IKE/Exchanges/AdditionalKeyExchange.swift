/// Alternatives of one additional key exchange of a proposal: `ke1_mlkem768-ke1_mlkem1024`. RFC 9370 §2.2.1.
public struct AdditionalKeyExchange: Hashable, Sendable {
    /// 1 to 7: the order in which they are done, and transform type 6 to 12.
    public var slot: UInt8
    /// In order of preference.
    public var methods: [KeyExchangeMethod]
    /// It may be left out: "A Transform ID NONE MAY be added to those transform types that contain key exchange methods which the
    /// initiator believes are optional". Written `ke1_none`.
    public var isOptional: Bool
    public init(slot: UInt8, methods: [KeyExchangeMethod], isOptional: Bool = false) {
        (self.slot, self.methods, self.isOptional) = (slot, methods, isOptional)
    }

    public static let slots: ClosedRange<UInt8> = 1...7

    var transformType: UInt8 { TransformType.additionalKeyExchange(slot) }
    var transforms: [Transform] {
        methods.uniqued.map { Transform(transformType, $0.rawValue) } + (isOptional ? [Transform(transformType, 0)] : [])
    }
    var keywordList: [String] {
        methods.uniqued.map { "ke\(slot)_\($0.keyword)" } + (isOptional ? ["ke\(slot)_none"] : [])
    }
}

/// What was settled on for one additional key exchange that was offered; nil is NONE.
package struct ChosenKeyExchange: Hashable, Sendable {
    package var slot: UInt8
    package var method: KeyExchangeMethod?

    package init(slot: UInt8, method: KeyExchangeMethod?) { (self.slot, self.method) = (slot, method) }

    var transform: Transform { Transform(TransformType.additionalKeyExchange(slot), method?.rawValue ?? 0) }
}

extension TransformType {
    /// ADDKE1 to ADDKE7. RFC 9370 §3.
    static let additionalKeyExchanges: ClosedRange<UInt8> = 6...12
    static func additionalKeyExchange(_ slot: UInt8) -> UInt8 { 5 &+ slot }
}

extension Negotiation {
    /// The responder's choice for every additional key exchange that is offered. Nil: no agreement.
    ///
    /// "The responder MUST treat all of the omitted ADDKE transforms as if they were proposed with Transform ID NONE", and what
    /// our proposal does not name is NONE here as well. "the responder's choice MUST NOT contain duplicated algorithms": each
    /// differs from the others and from the first exchange, so the choices depend on each other and are searched.
    static func agreeOnAdditional(
        _ ours: [AdditionalKeyExchange], _ proposal: WireProposal, besides method: KeyExchangeMethod?
    ) -> [ChosenKeyExchange]? {
        var slots: [(slot: UInt8, isOffered: Bool, candidates: [KeyExchangeMethod?])] = []
        for slot in AdditionalKeyExchange.slots {
            let offered = proposal.transforms(TransformType.additionalKeyExchange(slot))
            let mine = ours.first { $0.slot == slot }
            if offered.isEmpty, mine == nil { continue }
            var candidates: [KeyExchangeMethod?] = (mine?.methods ?? []).filter { method in
                offered.contains { $0.id == method.rawValue && $0.keyLength == nil && !$0.hasUnknownAttribute }
            }
            let allowsNone = offered.isEmpty || offered.contains { $0.id == 0 }
            if allowsNone, mine?.isOptional ?? true { candidates.append(nil) }
            slots.append((slot, !offered.isEmpty, candidates))
        }
        guard let choice = distinct(slots.map(\.candidates)[...], besides: method.map { [$0] } ?? []) else { return nil }
        let chosen = zip(slots, choice).filter { $0.0.isOffered }.map { ChosenKeyExchange(slot: $0.0.slot, method: $0.1) }
        // Additional exchanges follow a first one (§2.2.4: "along with Transform Type 4").
        return method == nil && chosen.contains { $0.method != nil } ? nil : chosen
    }

    /// The first choice of one candidate each that repeats none.
    private static func distinct(
        _ candidates: ArraySlice<[KeyExchangeMethod?]>, besides taken: Set<KeyExchangeMethod>
    ) -> [KeyExchangeMethod?]? {
        guard let first = candidates.first else { return [] }
        for candidate in first {
            if let candidate, taken.contains(candidate) { continue }
            let rest = distinct(candidates.dropFirst(), besides: candidate.map { taken.union([$0]) } ?? taken)
            if let rest { return [candidate] + rest }
        }
        return nil
    }

    /// The initiator's view of the answer. "If the responder's message contains one or more duplicated choices, the initiator
    /// should log the error and MUST treat the exchange as failed."
    static func chosenAdditional(
        _ chosen: WireProposal, besides method: KeyExchangeMethod?
    ) throws(IKEFault) -> [ChosenKeyExchange] {
        var result: [ChosenKeyExchange] = []
        for slot in AdditionalKeyExchange.slots {
            guard let transform = chosen.transforms(TransformType.additionalKeyExchange(slot)).first else { continue }
            let chosen = KeyExchangeMethod(rawValue: transform.id)
            guard chosen != nil || transform.id == 0 else {
                throw .peerMisbehaved("the peer chose an additional key exchange that was not offered")
            }
            if let chosen, result.contains(where: { $0.method == chosen }) {
                throw .peerMisbehaved("the peer chose the additional key exchange \(chosen.keyword) twice")
            }
            result.append(ChosenKeyExchange(slot: slot, method: chosen))
        }
        guard method != nil || result.allSatisfy({ $0.method == nil }) else {
            throw .peerMisbehaved("the peer chose additional key exchanges without a first one")
        }
        return result
    }
}

extension IKEProposal {
    /// What of it this machine's libraries can do; nil when a part of it is then missing.
    func supported(by crypto: any IKECrypto) -> IKEProposal? {
        var proposal = self
        proposal.methods = methods.filter(crypto.supports)
        guard !proposal.methods.isEmpty, let additional = AdditionalKeyExchange.supported(additional, by: crypto) else {
            return nil
        }
        proposal.additional = additional
        return proposal
    }
}

extension ESPProposal {
    func supported(by crypto: any IKECrypto) -> ESPProposal? {
        var proposal = self
        proposal.methods = methods.filter(crypto.supports)
        guard proposal.methods.isEmpty == methods.isEmpty,
            let additional = AdditionalKeyExchange.supported(additional, by: crypto)
        else { return nil }
        proposal.additional = additional
        return proposal
    }
}

extension AdditionalKeyExchange {
    fileprivate static func supported(_ list: [Self], by crypto: any IKECrypto) -> [Self]? {
        var result: [Self] = []
        for var exchange in list {
            exchange.methods = exchange.methods.filter(crypto.supports)
            guard !exchange.methods.isEmpty || exchange.isOptional else { return nil }
            if !exchange.methods.isEmpty { result.append(exchange) }
        }
        return result
    }
}
