// What IKE_AUTH waits for outside: an OCSP responder, an authentication backend. RFC 6960, RFC 3579.
extension IKECore {
    /// The answer to `Event.checkRevocation`.
    /// - Parameter response: OCSPResponse, DER; nil when none came in time.
    public func revocationAnswered(token: UInt64, response: [UInt8]?, now: Instant) {
        guard authenticationWaits.removeValue(forKey: token) != nil else { counters.unexpected &+= 1; return }
        settle(now)
    }

    /// The answer to `Event.askBackend`; nil when no candidate answered in time.
    public func backendAnswered(token: UInt64, answer: EAPBackendAnswer?, now: Instant) {
        guard authenticationWaits.removeValue(forKey: token) != nil else { counters.unexpected &+= 1; return }
        settle(now)
    }
}
