import IKE
import IPsec

extension RefusedPeer {
    /// `No connection has … (3 times, the last one 12s ago)`
    func sentence(now: Instant) -> String {
        let times = count == 1 ? "" : "\(count) times, the last one "
        return "\(reason) (\(times)\((now - last).forPeople) ago)"
    }
}
