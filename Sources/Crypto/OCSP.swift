internal import COpenSSL
internal import IKE

/// Questions to OCSP responders and what their answers are worth. RFC 6960.
struct OCSP: Sendable {
    static let maxResponseBytes = 64 * 1024
    /// Clocks of responders differ from ours by this much at most. Seconds.
    static let clockSkew: Int64 = 300
    /// How old an answer without a next update may be. Seconds.
    static let maxAge: Int64 = 86_400
    /// How long an answer to one of our questions is awaited: one window of this, and the one before it. Seconds.
    static let nonceWindow: Int64 = 300
    static let nonceBytes = 32

    enum Verdict: Hashable {
        case good
        case revoked(at: Int64, reason: Int32)
        /// With the reason, to end a sentence.
        case unusable(String)
    }

    /// Makes our nonces recognisable without remembering them.
    private let nonceKey: SecureBytes

    init() { nonceKey = SecureBytes(SystemRandom().bytes(32)) }

    /// OCSPRequest in DER; nil when libcrypto fails.
    /// - Parameter hasNonce: false for an answer that others shall believe too.
    func request(_ certificate: Certificate, issuer: Certificate, now: Int64, hasNonce: Bool = true) -> [UInt8]? {
        guard let nonce = hasNonce ? nonce(certificate, window: now / Self.nonceWindow) : [],
            let request = culvert_ocsp_request(certificate.handle, issuer.handle, nonce, Int32(nonce.count))
        else { ERR_clear_error(); return nil }
        defer { OCSP_REQUEST_free(request) }
        return encoded { i2d_OCSP_REQUEST(request, $0) }
    }

    /// What a response says, with its times; seconds since 1970.
    struct Finding: Hashable {
        var verdict: Verdict
        /// Of a good or a bad one; else Int64.min.
        var thisUpdate = Int64.min
        /// When the response names one.
        var nextUpdate: Int64?
    }

    /// What `response` (DER) says about `certificate`.
    /// - Parameter isAnswer: to our own question; the nonce of any other is somebody else's affair.
    func inspect(_ response: [UInt8], _ certificate: Certificate, issuer: Certificate, isAnswer: Bool, now: Int64) -> Finding {
        func unusable(_ reason: String) -> Finding { Finding(verdict: .unusable(reason)) }
        guard response.count <= Self.maxResponseBytes else { return unusable("the OCSP response is too long") }
        let outer = decoded(response) {
            d2i_OCSP_RESPONSE(nil, $0, $1)
        } free: {
            OCSP_RESPONSE_free($0)
        }
        guard let outer else { return unusable("the OCSP response cannot be read") }
        defer { OCSP_RESPONSE_free(outer) }
        let status = OCSP_response_status(outer)
        guard status == OCSP_RESPONSE_STATUS_SUCCESSFUL else {
            return unusable("the OCSP responder answered \(Self.statusNames[status] ?? "status \(status)")")
        }
        guard let basic = OCSP_response_get1_basic(outer) else {
            ERR_clear_error()
            return unusable("the OCSP response is of an unknown type")
        }
        defer { OCSP_BASICRESP_free(basic) }
        guard culvert_ocsp_is_authorized(basic, issuer.handle, now) == 1 else {
            return unusable("the OCSP response is not signed by the CA or by a responder that the CA authorised")
        }
        guard culvert_ocsp_signature_is_weak(basic) == 0 else {
            return unusable("the OCSP response is signed with a hash that is too weak")
        }
        guard !isAnswer || isNonceOurs(basic, certificate, now: now) else {
            return unusable("the OCSP response answers another question (its nonce is not ours)")
        }
        return inspect(basic, certificate, issuer, now)
    }

    private func inspect(_ basic: OpaquePointer, _ certificate: Certificate, _ issuer: Certificate, _ now: Int64) -> Finding {
        func unusable(_ reason: String) -> Finding { Finding(verdict: .unusable(reason)) }
        var reason: Int32 = -1
        var (revokedAt, thisUpdate, nextUpdate) = (Int64.min, Int64.min, Int64.min)
        let status = culvert_ocsp_status(
            basic, certificate.handle, issuer.handle, &reason, &revokedAt, &thisUpdate, &nextUpdate)
        guard status >= 0 else { return unusable("the OCSP response is about another certificate") }
        guard thisUpdate != Int64.min, thisUpdate <= now + Self.clockSkew else {
            return unusable("the OCSP response is from the future; compare the clocks")
        }
        let isFresh = nextUpdate == Int64.min ? thisUpdate >= now - Self.maxAge : nextUpdate >= now - Self.clockSkew
        guard isFresh else { return unusable("the OCSP response is of \(CalendarTime.text(thisUpdate)), which is too old") }
        switch status {
        case V_OCSP_CERTSTATUS_GOOD:
            return Finding(verdict: .good, thisUpdate: thisUpdate, nextUpdate: nextUpdate == Int64.min ? nil : nextUpdate)
        case V_OCSP_CERTSTATUS_REVOKED:
            return Finding(verdict: .revoked(at: revokedAt, reason: reason), thisUpdate: thisUpdate)
        default: return unusable("the OCSP responder does not know the certificate")
        }
    }

    private static let statusNames: [Int32: String] = [
        OCSP_RESPONSE_STATUS_MALFORMEDREQUEST: "malformedRequest", OCSP_RESPONSE_STATUS_INTERNALERROR: "internalError",
        OCSP_RESPONSE_STATUS_TRYLATER: "tryLater", OCSP_RESPONSE_STATUS_SIGREQUIRED: "sigRequired",
        OCSP_RESPONSE_STATUS_UNAUTHORIZED: "unauthorized",
    ]

    // MARK: Nonces

    /// A response without a nonce stands on its times alone: many responders sign their answers beforehand (RFC 8954 §2.1). So
    /// does one carried in IKE (RFC 4806 §6), where the nonce, if any, is from a question of the peer's, as strongSwan has it.
    private func isNonceOurs(_ basic: OpaquePointer, _ certificate: Certificate, now: Int64) -> Bool {
        var count: Int32 = 0
        guard let start = culvert_ocsp_nonce(basic, &count) else { return count == 0 }
        let theirs = Array(UnsafeBufferPointer(start: start, count: Int(count)))
        let window = now / Self.nonceWindow
        return [window, window - 1].contains { nonce(certificate, window: $0) == theirs }
    }

    private func nonce(_ certificate: Certificate, window: Int64) -> [UInt8]? {
        guard let hash = try? KeyedHash(.sha256, key: nonceKey) else { return nil }
        let place = withUnsafeBytes(of: window.bigEndian) { Array($0) }
        guard (try? hash.update((place + certificate.der)[...])) != nil, let output = try? hash.finish() else { return nil }
        return Array(output.prefix(Self.nonceBytes))
    }
}
