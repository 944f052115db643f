import IPsec
import Wire

/// One configured connection: its plan, what became of its children, and why it is down when it is.
package final class ConnectionState {
    package struct Slot {
        /// Somebody wants it up: configuration, traffic, or the operator.
        var isWanted: Bool
        /// Why it is down; nil when it is up or was never tried.
        var reason: Reason?
        /// Why the last rekey failed, while the child that was to be replaced goes on.
        var rekeyProblem: Reason?
        var rekeys = 0
        /// A peer was refused what is somebody else's.
        var conflict: (reason: Reason, at: Instant)?
        var nextAttempt: Instant?
        var retryWait: Duration?
        /// A request for it is queued or under way.
        var isCreating = false
        /// A packet that finds it down opens it.
        var waitsForTraffic = false
        /// By the operator, until the operator wants it up again.
        var isTakenDown = false
        /// The peer has left out a part, which is to be asked for by itself, not before `restAt`.
        var wantsRest = false
        var restAt: Instant?
        /// What it has refused of that, until it is forgotten, and how.
        var refusedPairs: Set<IKECore.SelectorPair> = []
        var forgetRefusedAt: Instant?
        var restProblem: Reason?
    }

    var plan: ConnectionPlan
    var slots: [String: Slot]
    /// The IKE SAs that belong to it, oldest first, whatever their phase.
    var sas = OrderedList<UInt64>()
    /// Our own initiation in progress, by local SPI.
    var attempt: UInt64?
    var attemptStarted: Instant?
    var nextAttempt: Instant?
    /// A peer's AUTH_LIFETIME is not believed below this.
    var shortestReauthentication = Bounds.shortestReauthentication
    /// Which pair of addresses the next attempt uses.
    var pathTurn = 0
    /// When the peer redirected us, within the last `Bounds.redirectPeriod`.
    var redirects: [Instant] = []
    /// Attempts that failed since the last success or the operator's last word.
    var failedAttempts = 0
    /// The sentence of the last failure, until a tunnel is up again.
    var failure: Reason?
    var hasFailed = false

    /// Why we refused the peer's last attempt: it shows both sides, which our own failed attempts cannot.
    var refusal: (reason: Reason, at: Instant)?
    /// Refusals logged since when.
    var refusalsLogged: (count: Int, since: Instant) = (0, Instant(nanoseconds: 0))
    /// The group that the peer asked for last, tried first the next time.
    var preferredMethod: KeyExchangeMethod?
    /// Virtual addresses that the peer gave us last.
    var formerAddresses: [IPAddress] = []
    /// By the operator, until the operator wants it up again: neither traffic nor the peer brings it up.
    var isTakenDown = false
    /// The SA that `isEstablished` was last reported for, so that each change is one event.
    var isReportedUp = false
    var history = ConnectionHistory()
    var pathProbe: PathProbe?

    init(plan: ConnectionPlan) {
        self.plan = plan
        slots = Dictionary(
            plan.children.map { ($0.name, Slot(isWanted: $0.start == .immediately, waitsForTraffic: plan.opensOnTraffic($0))) },
            uniquingKeysWith: { first, _ in first })
    }

    var takenDown: (connection: Bool, children: Set<String>) {
        (isTakenDown, Set(slots.filter { $0.value.isTakenDown }.keys))
    }

    /// What the operator took down stays down when the configuration changes.
    func restore(_ before: (connection: Bool, children: Set<String>)) {
        isTakenDown = before.connection
        if isTakenDown { failure = Reasons.takenDown(plan.name) }
        for name in slots.keys where before.connection || before.children.contains(name) {
            slots[name]?.isWanted = false
            guard before.children.contains(name) else { continue }
            slots[name]?.isTakenDown = true
            slots[name]?.reason = Reasons.takenDown("\(plan.name)/\(name)")
        }
    }

    func childPlan(_ name: String) -> ChildPlan? { plan.children.first { $0.name == name } }
    var wantedChildren: [ChildPlan] {
        plan.children.filter { slots[$0.name].map { $0.isWanted && !$0.isTakenDown } ?? false }
    }
}
