import Crypto
import IKE
import IPsec

/// Certificates, revocation lists, OCSP responses, public and private keys as they come from peers, responders, files. The first
/// octet says which. Nothing that is made up may be believed: only what the authorities below have signed is.
func certificateHarness(_ bytes: [UInt8]) {
    guard let selector = bytes.first else { return }
    let rest = Array(bytes.dropFirst())
    switch selector & 0x80 == 0 ? selector % 7 : 7 {
    case 0: certificate(rest)
    case 1: chain(rest)
    case 2: list(rest)
    case 3:
        _ = try? Known.trust.evaluate(
            certificates: [Known.leaf.der], identity: Known.identity, revocationLists: [],
            ocspResponses: [rest])
    case 4: key(rest)
    case 5:
        for (label, contents) in PEM.blocks(rest) { precondition(PEM.blocks(Array(PEM.text(label, contents).utf8)).count == 1) }
    case 6: if let key = try? OpenSSLSigningKey(pem: SecureBytes(rest)) { _ = key.kind.text }
    default: bundle(rest)
    }
}

/// What is trusted, at one moment of 2027.
private enum Known {
    static let authority = one(
        """
        -----BEGIN CERTIFICATE-----
        MIIBPTCB8KADAgECAhB63KL3JRADUFbuF8EITDP5MAUGAytlcDAfMRAwDgYDVQQK
        DAdFeGFtcGxlMQswCQYDVQQDDAJDQTAeFw0yNjExMjExMDA3MjRaFw0zNjExMTgx
        MDEyMjRaMB8xEDAOBgNVBAoMB0V4YW1wbGUxCzAJBgNVBAMMAkNBMCowBQYDK2Vw
        AyEAvR5Ed2JvnZbADsG6hOuyECuLzhLx7rQv8prZEWXmlemjQjBAMA8GA1UdEwEB
        /wQFMAMBAf8wDgYDVR0PAQH/BAQDAgEGMB0GA1UdDgQWBBQol7qQrSV+J232LsYD
        FTCq0qzNJjAFBgMrZXADQQBiIsg0B1VWs+CyeET5opHPrP8yjZqpVLQ8C6HA2KNT
        al3fTmO2+ZIwU30iaO18iPU9cuw3tr8jjamvnIcyQA4C
        -----END CERTIFICATE-----
        """)
    static let leaf = one(
        """
        -----BEGIN CERTIFICATE-----
        MIIB0jCCAYSgAwIBAgIQTPta03aZaL9KyBuQ3GvnzzAFBgMrZXAwHzEQMA4GA1UE
        CgwHRXhhbXBsZTELMAkGA1UEAwwCQ0EwHhcNMjYxMTIxMTAwNzI0WhcNMzUwMjA3
        MTAxMjI0WjAhMRAwDgYDVQQKDAdFeGFtcGxlMQ0wCwYDVQQDDAR3ZXN0MCowBQYD
        K2VwAyEAF+GhekCWBseqtZdOvFj8A+H9/h5s2DWQ5H7XEhVGfnWjgdMwgdAwDgYD
        VR0PAQH/BAQDAgeAMB0GA1UdDgQWBBTXdfkmKqtAxwwsQ/52CVu+buN60jAfBgNV
        HSMEGDAWgBQol7qQrSV+J232LsYDFTCq0qzNJjAwBggrBgEFBQcBAQQkMCIwIAYI
        KwYBBQUHMAGGFGh0dHA6Ly9vY3NwLmV4YW1wbGUvMEwGA1UdEQRFMEOCDHdlc3Qu
        ZXhhbXBsZYcEwAACAoEOYUB3ZXN0LmV4YW1wbGWGCWh0dHA6Ly94L6QSMBAxDjAM
        BgNVBAMMBW90aGVyMAUGAytlcANBAMwz2vUyupcCW3MsyyFBeJuf14TKQi2Saqfb
        2VEzUq55YVosuYzUWUEVdgv7hanBLb9qq93nVjIELAkakDUHHA0=
        -----END CERTIFICATE-----
        """)
    /// Of the named inputs of the corpus: an intermediate under it signed their certificates, lists and responses.
    static let root = one(
        """
        -----BEGIN CERTIFICATE-----
        MIIBZzCCARmgAwIBAgIUIurh8KvxmR/zm6hu56w68nM1RhMwBQYDK2VwMCExEDAO
        BgNVBAoMB0V4YW1wbGUxDTALBgNVBAMMBFJvb3QwHhcNMjYxMTIxMTMyNDM5WhcN
        MzYwOTI5MTMyNDM5WjAhMRAwDgYDVQQKDAdFeGFtcGxlMQ0wCwYDVQQDDARSb290
        MCowBQYDK2VwAyEAFxCBHw4ugaIcr4oHY9K599j6w5BVLPM84vmcKlaqSNmjYzBh
        MB0GA1UdDgQWBBSPd5M+RHKqwnGRvgcMNcuZQ+3bSTAfBgNVHSMEGDAWgBSPd5M+
        RHKqwnGRvgcMNcuZQ+3bSTAPBgNVHRMBAf8EBTADAQH/MA4GA1UdDwEB/wQEAwIB
        BjAFBgMrZXADQQAq9+DMXA/VKOfo3GoxiAwPD3TZZirCQsMYu1ZuNcx1SHKIKcCO
        OyOUd+PKp+7pn9kNbaYJ8d78iSjG2xP0SLsJ
        -----END CERTIFICATE-----
        """)
    static let identity = Identity.fqdn("west.example")
    static let trust = CertificateTrust(
        authorities: [authority, root], policy: RevocationPolicy(ocsp: .auto, lists: .strict), now: { 1_800_000_000 })

    private static func one(_ text: String) -> Certificate {
        do { return try Certificate(der: PEM.blocks(Array(text.utf8), label: "CERTIFICATE")[0]) } catch { fatalError("\(error)") }
    }
}

private func certificate(_ der: [UInt8]) {
    guard let certificate = try? Certificate(der: der) else { return }
    _ = (certificate.extendedKeyUsage, certificate.ocspResponders, certificate.serialNumber, certificate.signatureAlgorithm)
    _ = (certificate.subjectName, certificate.issuerName, certificate.isAuthority, certificate.isSelfSigned)
    _ = (try? certificate.publicKey(), certificate.usageFault, certificate.validity.notice(now: 1_800_000_000))
    for identity in certificate.identities { precondition(certificate.speaks(for: identity), "\(identity)") }
    _ = certificate.speaks(for: .distinguishedName(der))
    precondition((certificate.subject + certificate.issuer).utf8.allSatisfy { $0 >= 0x20 && $0 != 0x7F })
    judge([der])
}

/// Certificates with two octets of length before each.
private func chain(_ bytes: [UInt8]) {
    var certificates: [[UInt8]] = []
    var rest = bytes[...]
    while rest.count > 2, certificates.count < 20 {
        let length = Int(rest[rest.startIndex]) << 8 | Int(rest[rest.startIndex + 1])
        certificates.append(Array(rest.dropFirst(2).prefix(length)))
        rest = rest.dropFirst(2 + length)
    }
    judge(certificates)
}

/// All that a peer can send: items of a kind (certificate, revocation list, OCSP response), two octets of length, DER.
private func bundle(_ bytes: [UInt8]) {
    var items: [[[UInt8]]] = [[], [], []]
    var rest = bytes[...]
    while rest.count > 3, items.joined().count < 40 {
        let kind = Int(rest[rest.startIndex]) % items.count
        let length = Int(rest[rest.startIndex + 1]) << 8 | Int(rest[rest.startIndex + 2])
        items[kind].append(Array(rest.dropFirst(3).prefix(length)))
        rest = rest.dropFirst(3 + length)
    }
    judge(items[0], lists: items[1], responses: items[2])
}

private func judge(_ certificates: [[UInt8]], lists: [[UInt8]] = [], responses: [[UInt8]] = []) {
    do {
        let identity = certificates.first.flatMap { try? Certificate(der: $0) }?.identities.first ?? Known.identity
        let peer = try Known.trust.evaluate(
            certificates: certificates, identity: identity, revocationLists: lists,
            ocspResponses: OCSPResponses(carried: responses))
        let isSettled = peer.revocationCheck == nil
        precondition(!isSettled || !lists.isEmpty || !responses.isEmpty, "believed without a revocation list: \(peer.subject)")
    } catch {
        precondition(error.sentence.hasSuffix(".") && error.sentence.utf8.allSatisfy { $0 >= 0x20 && $0 != 0x7F })
    }
}

private func list(_ der: [UInt8]) {
    if let list = try? RevocationList(der: der) {
        _ = (list.entries.count, list.number, list.isIssued(by: Known.authority), list.nextUpdateText, list.thisUpdateText)
    }
    _ = try? Known.trust.evaluate(
        certificates: [Known.leaf.der], identity: Known.identity, revocationLists: [der], ocspResponses: [])
}

private func key(_ der: [UInt8]) {
    guard let key = try? OpenSSLVerifyingKey(subjectPublicKeyInfo: der) else { return }
    precondition(key.subjectPublicKeyInfo == der)
    let schemes: [SignatureScheme] = [.rsaPKCS1(.sha256), .rsaPSS(.sha512), .ecdsa(.sha384), .ed25519, .ed448]
    for scheme in schemes { precondition(!key.verify(der, of: [], scheme)) }
}
