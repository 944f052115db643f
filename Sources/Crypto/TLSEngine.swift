internal import COpenSSL
public import IKE
internal import IPsec

/// Certificate, private key and trust of one end, from which EAP-TLS conversations are begun.
public final class TLSCredentials: TLSEngineMaker, @unchecked Sendable {
    fileprivate let trust: any PeerTrust
    /// SSL_CTX, not changed after `init`: one for all conversations, which are many and take memory.
    fileprivate let context: OpaquePointer

    /// - Parameters:
    ///   - certificates: DER, end entity first, then intermediates.
    ///   - key: an EVP_PKEY.
    ///   - trust: judges the peer's certificates.
    ///   - allowsTLS13: false keeps to TLS 1.2.
    package init(
        certificates: [[UInt8]], key: OpaquePointer, trust: any PeerTrust, allowsTLS13: Bool = true
    ) throws(IKECryptoError) {
        var parsed: [OpaquePointer] = []
        defer { for one in parsed { X509_free(one) } }
        for der in certificates {
            let one = der.withUnsafeBufferPointer { buffer -> OpaquePointer? in
                var start = buffer.baseAddress
                return d2i_X509(nil, &start, buffer.count)
            }
            guard let one else { throw libraryError("reading a certificate") }
            parsed.append(one)
        }
        self.trust = trust
        context = try Self.makeContext(parsed, key, mostVersion: allowsTLS13 ? TLS1_3_VERSION : TLS1_2_VERSION)
    }

    /// Certificate and key as IKE itself signs with.
    public convenience init(
        identity: SigningIdentity, trust: any PeerTrust, allowsTLS13: Bool = true
    ) throws(IKECryptoError) {
        guard let key = identity.key as? OpenSSLSigningKey, !identity.certificates.isEmpty else {
            throw .library("EAP-TLS needs a certificate and its private key")
        }
        try self.init(certificates: identity.certificates, key: key.key, trust: trust, allowsTLS13: allowsTLS13)
    }

    deinit { SSL_CTX_free(context) }

    public func makeEngine(isServer: Bool, peer: Identity) throws(IKECryptoError) -> any TLSEngine {
        try OpenSSLTLSEngine(self, isServer: isServer, peer: peer)
    }

    /// RFC 9325 §4: forward secrecy and nothing broken.
    private static let ciphers = "HIGH:!aNULL:!eNULL:!PSK:!SRP:!kRSA:!kDH:!kECDH:!3DES:!MD5:!SHA1:!CAMELLIA:!ARIA"

    /// - Parameter certificates: X509, the end entity first.
    private static func makeContext(
        _ certificates: [OpaquePointer], _ key: OpaquePointer, mostVersion: CInt
    ) throws(IKECryptoError) -> OpaquePointer {
        ERR_clear_error()
        guard let context = SSL_CTX_new(TLS_method()) else { throw libraryError("TLS") }
        var isReady = culvert_tls_set_versions(context, mostVersion) == 1 && SSL_CTX_set_cipher_list(context, ciphers) == 1
        SSL_CTX_set_security_level(context, 2)
        culvert_tls_no_resumption(context)
        if let own = certificates.first { isReady = isReady && SSL_CTX_use_certificate(context, own) == 1 }
        for one in certificates.dropFirst() { isReady = isReady && culvert_tls_add_chain(context, one) == 1 }
        isReady = isReady && SSL_CTX_use_PrivateKey(context, key) == 1 && SSL_CTX_check_private_key(context) == 1
        guard isReady else {
            SSL_CTX_free(context)
            throw libraryError("TLS with this certificate and private key")
        }
        SSL_CTX_set_cert_verify_callback(context, { store, _ in judgeTLSPeer(store) }, nil)
        return context
    }
}

/// libcrypto asks here about the peer's certificates: the engine stands beside the SSL that it makes, and outlives the call.
private func judgeTLSPeer(_ store: OpaquePointer?) -> CInt {
    guard let store, let ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()),
        let engine = SSL_get_ex_data(OpaquePointer(ssl), 0)
    else { return 0 }
    return Unmanaged<OpenSSLTLSEngine>.fromOpaque(engine).takeUnretainedValue().judge(store) ? 1 : 0
}

/// One handshake on two memory BIOs. Confined to whoever made it.
final class OpenSSLTLSEngine: TLSEngine {
    private let credentials: TLSCredentials
    private let isServer: Bool
    private let peer: Identity
    private let ssl: OpaquePointer
    /// Owned by `ssl`.
    private let input: OpaquePointer
    private let output: OpaquePointer
    private var isShaken = false
    private var hasConfirmed = false
    /// The verdict on the peer's certificate.
    private var refusal: String?
    private var subject = ""
    private var warnings: [String] = []
    /// The peer's certificates, the end entity first, and what is still to be asked about them.
    private var certificates: [[UInt8]] = []
    private var open: RevocationCheck?

    /// RFC 5216 §2.3 and RFC 9190 §2.3: key material of 128 octets, half of which is the MSK.
    private static let keyMaterialBytes = 128
    private static let outputBytesMost = 65_536

    init(_ credentials: TLSCredentials, isServer: Bool, peer: Identity) throws(IKECryptoError) {
        ERR_clear_error()
        guard let ssl = SSL_new(credentials.context) else { throw libraryError("TLS") }
        guard let input = culvert_bio_queue(), let output = culvert_bio_queue() else {
            SSL_free(ssl)
            throw libraryError("TLS")
        }
        SSL_set_bio(ssl, input, output)
        (self.credentials, self.isServer, self.peer) = (credentials, isServer, peer)
        (self.ssl, self.input, self.output) = (ssl, input, output)
        if isServer { SSL_set_accept_state(ssl) } else { SSL_set_connect_state(ssl) }
        SSL_set_verify(ssl, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nil)
        // The SSL is this engine's alone and dies with it, so the pointer cannot dangle.
        SSL_set_ex_data(ssl, 0, Unmanaged.passUnretained(self).toOpaque())
    }

    deinit { SSL_free(ssl) }

    func advance(_ octets: [UInt8]) -> TLSProgress {
        ERR_clear_error()
        if !octets.isEmpty, BIO_write(input, octets, CInt(clamping: octets.count)) != CInt(clamping: octets.count) {
            return .failed(output: [], reason: "TLS took no more octets")
        }
        if !isShaken {
            let result = SSL_do_handshake(ssl)
            guard result == 1 else { return unfinished(result) }
            isShaken = true
            if let open { return .undecided(open) }
        }
        return complete()
    }

    func resume(_ response: [UInt8]?) -> TLSProgress {
        ERR_clear_error()
        guard isShaken, open != nil else { return .failed(output: [], reason: "TLS waited for nobody") }
        open = nil
        do throws(CertificateRefusal) {
            let found = try credentials.trust.evaluate(
                certificates: certificates, identity: peer, revocationLists: [],
                ocspResponses: OCSPResponses(carried: [], answer: response))
            warnings = found.warnings
            if let check = found.revocationCheck {
                guard !check.isRequired else { return .failed(output: [], reason: Self.clause(check.sentence)) }
                if !check.sentence.isEmpty { warnings.append(check.sentence) }
            }
        } catch {
            return .failed(output: [], reason: Self.clause(error.sentence))
        }
        return complete()
    }

    /// A sentence that goes on in another one.
    private static func clause(_ sentence: String) -> String { sentence.hasSuffix(".") ? String(sentence.dropLast()) : sentence }

    /// The handshake is through, and the peer is believed.
    private func complete() -> TLSProgress {
        guard SSL_version(ssl) == TLS1_3_VERSION else { return finished() }
        return isServer ? confirm() : awaitConfirmation()
    }

    /// "the EAP-TLS server … MUST send a protected success result indication … by sending one octet 0x00 of application data".
    /// RFC 9190 §2.1.1, in substance.
    private func confirm() -> TLSProgress {
        if !hasConfirmed {
            let result = SSL_write(ssl, [0] as [UInt8], 1)
            guard result == 1 else { return unfinished(result) }
            hasConfirmed = true
        }
        return finished()
    }

    private func awaitConfirmation() -> TLSProgress {
        var octet: UInt8 = 0xFF
        let result = SSL_read(ssl, &octet, 1)
        guard result == 1 else { return unfinished(result) }
        guard octet == 0 else { return .failed(output: drain(), reason: "the server sent application data that is no success") }
        return finished()
    }

    private func unfinished(_ result: CInt) -> TLSProgress {
        let error = SSL_get_error(ssl, result)
        if error == SSL_ERROR_WANT_READ { return .going(output: drain()) }
        let text = refusal ?? Self.errorText(error)
        return .failed(output: drain(), reason: text)
    }

    private static func errorText(_ error: CInt) -> String {
        let code = ERR_peek_error()
        ERR_clear_error()
        guard code != 0, let text = ERR_reason_error_string(code) else {
            return error == SSL_ERROR_ZERO_RETURN ? "the peer closed TLS" : "TLS failed"
        }
        return "the TLS handshake failed: \(String(cString: text))"
    }

    private func finished() -> TLSProgress {
        let isNew = SSL_version(ssl) == TLS1_3_VERSION
        let label = isNew ? "EXPORTER_EAP_TLS_Key_Material" : "client EAP encryption"
        // RFC 9190 §2.3: the context is the EAP type.
        let type: [UInt8] = [13]
        var isExported = false
        let material = SecureBytes(count: Self.keyMaterialBytes) { buffer in
            isExported =
                SSL_export_keying_material(
                    ssl, buffer.baseAddress?.assumingMemoryBound(to: UInt8.self), buffer.count, label, label.utf8.count,
                    type, isNew ? 1 : 0, isNew ? 1 : 0) == 1
        }
        guard isExported else {
            ERR_clear_error()
            return .failed(output: drain(), reason: "the keys of the TLS session cannot be exported")
        }
        let crypto = OpenSSLCrypto()
        let half = Self.keyMaterialBytes / 2
        return .established(
            output: drain(),
            TLSOutcome(
                masterSessionKey: crypto.slice(material, 0..<half),
                extendedMasterSessionKey: crypto.slice(material, half..<2 * half), version: String(cString: SSL_get_version(ssl)),
                peerSubject: subject, warnings: warnings,
                review: CertificateReview(trust: credentials.trust, certificates: certificates, identity: peer)))
    }

    /// Everything that waits to be sent.
    private func drain() -> [UInt8] {
        let count = min(Int(culvert_bio_pending(output)), Self.outputBytesMost)
        guard count > 0 else { return [] }
        return [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            initialized = max(0, Int(BIO_read(output, buffer.baseAddress, CInt(count))))
        }
    }

    // MARK: The peer's certificate

    private static let mostCertificates = 10

    fileprivate func judge(_ store: OpaquePointer) -> Bool {
        var certificates: [[UInt8]] = []
        if let own = X509_STORE_CTX_get0_cert(store) { certificates.append(Self.der(own)) }
        if let others = X509_STORE_CTX_get0_untrusted(store) {
            for index in 0..<min(OPENSSL_sk_num(others), CInt(Self.mostCertificates)) {
                guard let one = OPENSSL_sk_value(others, index) else { continue }
                let der = Self.der(OpaquePointer(one))
                if !certificates.contains(der) { certificates.append(der) }
            }
        }
        guard !certificates.isEmpty else {
            refusal = "the peer sent no certificate"
            return false
        }
        do throws(CertificateRefusal) {
            let found = try credentials.trust.evaluate(
                certificates: certificates, identity: peer, revocationLists: [], ocspResponses: [])
            (subject, warnings) = (found.subject, found.warnings)
            // Asked when the handshake has shown that the peer has the key.
            (self.certificates, open) = (certificates, found.revocationCheck)
            return true
        } catch {
            refusal = Self.clause(error.sentence)
            X509_STORE_CTX_set_error(store, Self.verdict(error.kind))
            return false
        }
    }

    /// Decides the alert that the peer sees.
    private static func verdict(_ kind: CertificateRefusal.Kind) -> CInt {
        switch kind {
        case .expired: X509_V_ERR_CERT_HAS_EXPIRED
        case .notYetValid: X509_V_ERR_CERT_NOT_YET_VALID
        case .revoked: X509_V_ERR_CERT_REVOKED
        case .untrusted: X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY
        case .keyUsage: X509_V_ERR_INVALID_PURPOSE
        case .nameMismatch, .malformed, .weak, .revocationUnknown: X509_V_ERR_CERT_REJECTED
        }
    }

    private static func der(_ certificate: OpaquePointer) -> [UInt8] {
        var start: UnsafeMutablePointer<UInt8>?
        let count = Int(i2d_X509(certificate, &start))
        guard count > 0, let start else { return [] }
        defer { culvert_openssl_free(start) }
        return Array(UnsafeBufferPointer(start: start, count: count))
    }
}
