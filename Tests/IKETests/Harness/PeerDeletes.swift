@testable import IKE

extension IKECore {
    /// Deletes what a peer may delete of its own accord, without the operator's wish that it stay down.
    func deleteAsPeer(connection: String, child: String?, now: Instant) -> Bool {
        guard terminate(connection: connection, child: child, now: now) else { return false }
        guard let state = connections[connection] else { return true }
        state.isTakenDown = false
        for name in state.slots.keys { state.slots[name]?.isTakenDown = false }
        return true
    }
}
