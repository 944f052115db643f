import IPsec
import Wire

/// Traffic selector negotiation. RFC 7296 §2.9.
package enum Narrowing {
    package struct Result: Sendable {
        package var initiator: [TrafficSelector]
        package var responder: [TrafficSelector]
    }

    /// The responder's choice for one policy: everything of the proposal that the policy allows. A first selector that the policy
    /// allows is always part of it, as the RFC demands ("MUST narrow the Traffic Selectors to a subset that includes the
    /// initiator's first choices"). Nil: TS_UNACCEPTABLE.
    package static func narrow(
        offeredInitiator: [TrafficSelector], offeredResponder: [TrafficSelector], policyInitiator: [TrafficSelector],
        policyResponder: [TrafficSelector]
    ) -> Result? {
        let initiator = intersect(offeredInitiator, policyInitiator)
        let responder = intersect(offeredResponder, policyResponder)
        return initiator.isEmpty || responder.isEmpty ? nil : Result(initiator: initiator, responder: responder)
    }

    /// All that both lists allow, without selectors that another one contains; bounded like a payload.
    package static func intersect(_ a: [TrafficSelector], _ b: [TrafficSelector]) -> [TrafficSelector] {
        var seen: Set<TrafficSelector> = []
        var all: [TrafficSelector] = []
        let (ours, theirs) = (maximal(a), maximal(b))
        for x in ours {
            for y in theirs {
                guard let both = x.intersection(y), seen.insert(both).inserted else { continue }
                all.append(both)
            }
            // Lists that overlap in every way would make more of them than there are packets.
            if all.count >= 4 * Bounds.selectorsPerPayload { break }
        }
        return Array(maximal(all, most: all.count).prefix(Bounds.selectorsPerPayload))
    }

    /// Those that no other one contains, each once.
    private static func maximal(
        _ list: [TrafficSelector], most: Int = Bounds.selectorsPerPayload
    ) -> [TrafficSelector] {
        let all = Array(list.prefix(most)).uniqued
        return all.filter { one in !all.contains { $0 != one && $0.contains(one) } }
    }

    /// Whether every selector of `part` lies inside one of `whole`.
    package static func covers(_ whole: [TrafficSelector], _ part: [TrafficSelector]) -> Bool {
        part.allSatisfy { one in whole.contains { $0.contains(one) } }
    }

    /// Which of several configured children a proposal means: the same selectors before all of the proposal, before the
    /// proposal's first choices, before any overlap; among equals the first configured.
    package static func bestChild(
        _ children: [ChildPlan], offeredInitiator: [TrafficSelector], offeredResponder: [TrafficSelector], weInitiate: Bool,
        isFree: (String) -> Bool
    ) -> (plan: ChildPlan, result: Result)? {
        var best: (score: Int, plan: ChildPlan, result: Result)?
        for plan in children {
            let policyI = weInitiate ? plan.localSelectors : plan.remoteSelectors
            let policyR = weInitiate ? plan.remoteSelectors : plan.localSelectors
            guard
                let result = narrow(
                    offeredInitiator: offeredInitiator, offeredResponder: offeredResponder, policyInitiator: policyI,
                    policyResponder: policyR)
            else { continue }
            var score = 1
            if Set(offeredInitiator) == Set(policyI), Set(offeredResponder) == Set(policyR) {
                score = 4
            } else if covers(policyI, offeredInitiator), covers(policyR, offeredResponder) {
                score = 3
            } else if covers(policyI, Array(offeredInitiator.prefix(1))), covers(policyR, Array(offeredResponder.prefix(1))) {
                score = 2
            }
            let total = score * 2 + (isFree(plan.name) ? 1 : 0)
            if total > (best?.score ?? 0) { best = (total, plan, result) }
        }
        return best.map { ($0.plan, $0.result) }
    }
}

extension [TrafficSelector] {
    /// `10.1.0.0/24, 10.3.0.0/16`, bounded for sentences.
    package var sentence: String {
        let texts = prefix(8).map(\.description).joined(separator: ", ")
        return isEmpty ? "nothing" : count > 8 ? texts + " and \(count - 8) more" : texts
    }
}
