import Crypto
import IKE

/// OCSP responses for our own certificates (RFC 4806), one per certificate however many connections have it. Kept as long as a
/// connection uses them. Confined to the event loop.
final class OwnStatusKeeper {
    private struct Key: Hashable {
        var certificate: [UInt8]
        var file: String?
    }
    private struct Entry {
        weak var status: OwnCertificateStatus?
        /// Handshakes that wait for the first answer.
        var waiting: [UInt64] = []
    }

    private var entries: [Key: Entry] = [:]

    var count: Int { entries.count }

    /// - Parameter file: nil: the responders of the certificate are asked.
    func status(
        of certificate: Certificate, issuer: Certificate, file: String?, now: @escaping @Sendable () -> Int64
    ) -> OwnCertificateStatus {
        let key = Key(certificate: certificate.der, file: file)
        if let known = entries[key]?.status { return known }
        let status = OwnCertificateStatus(certificate, issuer: issuer, file: file, now: now)
        entries[key] = Entry(status: status)
        return status
    }

    /// Asks for what is due.
    /// - Parameters:
    ///   - ask: sends a question and calls back, once, with the answer.
    ///   - tell: for the log.
    ///   - settled: the token of a handshake that need not wait any longer.
    func poll(
        ask: (RevocationCheck, @escaping ([UInt8]?) -> Void) -> Void, tell: @escaping (String) -> Void,
        settled: @escaping (UInt64) -> Void
    ) {
        for (key, entry) in entries {
            guard let status = entry.status else { entries[key] = nil; continue }
            switch status.poll() {
            case .nothing: break
            case .tell(let sentence): tell(sentence)
            case .ask(let check):
                ask(check) { [self] response in
                    if let sentence = status.take(response) { tell(sentence) }
                    let waiting = entries[key]?.waiting ?? []
                    entries[key]?.waiting = []
                    waiting.forEach(settled)
                }
            }
        }
    }

    /// False: there is nothing to wait for.
    func wait(for status: any OwnRevocationStatus, token: UInt64) -> Bool {
        guard status.isPending, let key = entries.first(where: { $0.value.status === status })?.key else { return false }
        entries[key]?.waiting.append(token)
        return true
    }
}

extension ControlThread {
    /// Our own certificates' OCSP responses are fetched ahead of the peers that ask for them.
    func keepOwnStatuses() {
        ownStatuses.poll(
            ask: { [self] check, done in ocsp.ask(check, done: done) }, tell: { [self] sentence in log(.warning, sentence) },
            settled: { [self] token in settleOwnStatus(token) })
    }

    func awaitOwnStatus(_ status: any OwnRevocationStatus, token: UInt64) {
        if !ownStatuses.wait(for: status, token: token) { settleOwnStatus(token) }
    }

    private func settleOwnStatus(_ token: UInt64) {
        core.ownStatusSettled(token: token, now: now)
        pump()
    }
}
