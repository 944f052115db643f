public import IKE
internal import Synchronization

/// What an OCSP responder says about a certificate of ours, kept for the peers that want it along with the certificate (RFC
/// 4806): from a file, or fetched ahead of time by whoever calls `poll` and `take`. Only a response that a peer would believe
/// is sent.
public final class OwnCertificateStatus: OwnRevocationStatus {
    /// A response without a next update is sent for so long; peers believe one for a day. Seconds, as are the others.
    static let undatedLifetime: Int64 = 3600
    static let refreshAtMost: Int64 = 12 * 3600
    static let refreshAtLeast: Int64 = 60
    /// After a responder that did not answer, or not well.
    static let retryAfter: Int64 = 60
    public static let maxBytes = OCSP.maxResponseBytes

    /// What is to be done now.
    public enum Step {
        case nothing
        case ask(RevocationCheck)
        /// One sentence for the log.
        case tell(String)
    }

    private struct State {
        var response: [UInt8]?
        var validUntil = Int64.min
        var nextStep = Int64.min
        var isPending: Bool
        var stamp: CredentialFile.Stamp?
        /// What was told last, so that it is told once.
        var told: String?
    }

    private let certificate: Certificate
    private let issuer: Certificate
    private let file: String?
    private let now: @Sendable () -> Int64
    private let ocsp = OCSP()
    private let state: Mutex<State>

    /// - Parameters:
    ///   - file: a response in DER that somebody else keeps up to date; nil: the responders of the certificate are asked.
    ///   - now: seconds since 1970.
    public init(_ certificate: Certificate, issuer: Certificate, file: String?, now: @escaping @Sendable () -> Int64) {
        (self.certificate, self.issuer, self.file, self.now) = (certificate, issuer, file, now)
        state = Mutex(State(isPending: file == nil && !certificate.ocspResponders.isEmpty))
    }

    public var isPending: Bool { state.withLock { $0.isPending } }

    public func current() -> [UInt8]? {
        if file != nil { _ = readFile() }
        let now = now()
        return state.withLock { $0.validUntil > now ? $0.response : nil }
    }

    /// To be called every now and then.
    public func poll() -> Step {
        if file != nil { return readFile().map(Step.tell) ?? .nothing }
        let now = now()
        let isDue = state.withLock { state in
            guard state.nextStep <= now else { return false }
            // Until `take`, or until it is forgotten.
            state.nextStep = now + Self.retryAfter
            return true
        }
        let responders = certificate.ocspResponders
        // Without a nonce: the answer is for others.
        guard isDue, !responders.isEmpty, let request = ocsp.request(certificate, issuer: issuer, now: now, hasNonce: false)
        else {
            return .nothing
        }
        return .ask(RevocationCheck(responders: responders, request: request))
    }

    /// The answer to `Step.ask`; nil: there is none.
    /// - Returns: one sentence for the log, when there is news.
    public func take(_ response: [UInt8]?) -> String? {
        let problem = response.map(keep) ?? "no OCSP responder that it names answered"
        let now = now()
        return state.withLock { state in
            state.isPending = false
            if problem == nil {
                let half = (state.validUntil - now) / 2
                state.nextStep = now + max(Self.refreshAtLeast, min(half, Self.refreshAtMost))
            } else {
                state.nextStep = now + Self.retryAfter
            }
            return Self.news(&state, problem.map(sentence))
        }
    }

    // MARK: Inside

    /// Judges a response as a peer would, and keeps a good one. The clause that says what is wrong.
    private func keep(_ response: [UInt8]) -> String? {
        let now = now()
        let finding = ocsp.inspect(response, certificate, issuer: issuer, isAnswer: false, now: now)
        return state.withLock { state in
            switch finding.verdict {
            case .good:
                state.response = response
                state.validUntil = finding.nextUpdate ?? now + Self.undatedLifetime
                return nil
            case .revoked:
                state.response = nil
                return "its CA has revoked it; a new one is needed"
            case .unusable(let reason): return reason
            }
        }
    }

    private func readFile() -> String? {
        guard let file else { return nil }
        let stamp = CredentialFile.Stamp(path: file)
        let isNew = state.withLock { state in
            defer { state.stamp = stamp }
            return stamp == nil || stamp != state.stamp
        }
        guard isNew else {
            let now = now()
            return state.withLock { state in
                guard state.response != nil, state.validUntil <= now else { return nil }
                return Self.news(&state, sentence("the OCSP response in \(file) is out of date; put a new one there"))
            }
        }
        var problem: String?
        do throws(CredentialError) {
            problem = keep(try CredentialFile.contents(path: file, maxBytes: OCSP.maxResponseBytes)).map { "\($0) (\(file))" }
        } catch {
            problem = "its ocsp_response \(file) \(error.clause)"
        }
        return state.withLock { Self.news(&$0, problem.map(sentence)) }
    }

    private func sentence(_ problem: String) -> String {
        "No OCSP response is sent along with our certificate \(Sentences.shown(certificate)): \(problem)."
    }

    private static func news(_ state: inout State, _ sentence: String?) -> String? {
        defer { state.told = sentence }
        return sentence == state.told ? nil : sentence
    }
}
