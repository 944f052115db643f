import ArgumentParser
import Configuration
import Crypto
import Gateway
import IKE
import Wire

/// `culvert pki`: keys, certificates and revocation lists for a lab, or for whoever has no other CA.
struct PKI: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pki",
        abstract: "Make and look at keys, certificates and revocation lists.",
        discussion: """
            A certificate authority is two files, NAME.pem and NAME.key; keep the key off the gateways. Keys are written \
            readable by their owner alone, and nothing is overwritten without --force. For two gateways:

              culvert pki ca    --subject 'O=Example, CN=Example CA' --out ca
              culvert pki issue --ca ca --subject 'O=Example, CN=east' --san east.example --out east
              culvert pki crl   --ca ca --out ca.crl
            """,
        subcommands: [
            PKIAuthority.self, PKIIssue.self, PKIKey.self, PKIRevocationList.self, PKIRevoke.self, PKIShow.self, PKIVerify.self,
        ])
}

/// `ed25519`, `ecdsa-p256`, `rsa-3072` …
struct KeyType: ExpressibleByArgument, CustomStringConvertible {
    static let names: [(String, PublicKeyKind)] = [
        ("ecdsa-p256", .ecdsaP256), ("ecdsa-p384", .ecdsaP384), ("ecdsa-p521", .ecdsaP521), ("ed25519", .ed25519),
        ("ed448", .ed448), ("rsa-2048", .rsa(bits: 2048)), ("rsa-3072", .rsa(bits: 3072)), ("rsa-4096", .rsa(bits: 4096)),
    ]
    static var allValueStrings: [String] { names.map(\.0) }
    var kind: PublicKeyKind

    init(_ kind: PublicKeyKind) { self.kind = kind }

    init?(argument: String) {
        guard let found = Self.names.first(where: { $0.0 == argument }) else { return nil }
        kind = found.1
    }

    var description: String { Self.names.first { $0.1 == kind }?.0 ?? kind.text }
}

/// `east.example`, `192.0.2.1`, `admin@example`, or outright `dns:…`, `ip:…`, `email:…`, `uri:…`, `dn:…`.
struct AlternativeNameArgument: ExpressibleByArgument {
    var name: AlternativeName

    init?(argument: String) {
        let parts = argument.split(separator: ":", maxSplits: 1).map(String.init)
        let isTyped = parts.count == 2 && ["dns", "ip", "email", "uri", "dn"].contains(parts[0].lowercased())
        let (type, text) = isTyped ? (parts[0].lowercased(), parts[1]) : ("", argument)
        let isName = type == "dn" || (type.isEmpty && text.contains("="))
        guard !text.isEmpty, isName || text.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else { return nil }
        switch type {
        case "dns": name = .dns(text)
        case "email": name = .email(text)
        case "uri": name = .uri(text)
        case "ip":
            guard let address = IPAddress(text) else { return nil }
            name = .address(address.bytes)
        case "dn":
            guard let directory = DistinguishedName(text) else { return nil }
            name = .directory(directory.der, text: text)
        default:
            if let address = IPAddress(text) {
                name = .address(address.bytes)
            } else if text.contains("=") {
                guard let directory = DistinguishedName(text) else { return nil }
                name = .directory(directory.der, text: text)
            } else {
                name = text.contains("://") ? .uri(text) : text.contains("@") ? .email(text) : .dns(text)
            }
        }
    }
}

/// A distinguished name as in `id`.
struct SubjectArgument: ExpressibleByArgument {
    var der: [UInt8]

    init?(argument: String) {
        guard let name = DistinguishedName(argument) else { return nil }
        der = name.der
    }
}

/// What the commands that write a certificate need.
struct PKIOutput: ParsableArguments {
    @Option(help: ArgumentHelp("Where to write; .pem and .key are added.", valueName: "name"), completion: .file())
    var out: String

    @Flag(help: "Overwrite what is there.")
    var force = false

    var certificatePath: String { "\(out).pem" }
    var keyPath: String { "\(out).key" }
}

/// The CA that signs: NAME stands for NAME.pem and NAME.key.
struct PKISigner: ParsableArguments {
    @Option(help: ArgumentHelp("The CA: NAME.pem and NAME.key.", valueName: "name"), completion: .file())
    var ca: String

    @Option(help: ArgumentHelp("The CA's key, when it is elsewhere.", valueName: "file"), completion: .file())
    var caKey: String?

    func load() throws -> (certificate: Certificate, key: OpenSSLSigningKey) {
        let path = PKIFiles.exists(ca) && !PKIFiles.exists("\(ca).pem") ? ca : "\(ca).pem"
        let base = path.hasSuffix(".pem") ? String(path.dropLast(4)) : path
        let certificate = try PKIFiles.certificates(path)[0]
        let key = try PKIFiles.key(caKey ?? "\(base).key")
        guard key.subjectPublicKeyInfo == certificate.subjectPublicKeyInfo else {
            complain("The key \(caKey ?? "\(base).key") is not the one of \(path); name the right one with --ca-key.")
            throw Exit.no
        }
        guard certificate.isAuthority else {
            complain("\(path) is not a CA; make one with `culvert pki ca`.")
            throw Exit.no
        }
        return (certificate, key)
    }
}

/// `culvert pki ca`
struct PKIAuthority: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ca", abstract: "Make a certificate authority, or one below another.",
        discussion: "Writes NAME.pem and NAME.key. With --parent the new CA is an intermediate, signed by that one.")

    @Option(help: ArgumentHelp("Such as 'C=DE, O=Example, CN=Example CA'.", valueName: "name"))
    var subject: SubjectArgument

    @OptionGroup var output: PKIOutput

    @Option(help: "Kind of key.")
    var keyType = KeyType(.ecdsaP384)

    @Option(help: "Days that it is valid.")
    var days = 3650

    @Option(help: ArgumentHelp("The CA above: NAME.pem and NAME.key.", valueName: "name"), completion: .file())
    var parent: String?

    @Option(help: "How many CAs may stand below this one; unless told as many as you like.")
    var pathLength: Int?

    func validate() throws { try PKIFiles.validate(days: days, pathLength: pathLength) }

    func run() throws {
        try PKIFiles.refuseOverwriting([output.certificatePath, output.keyPath], force: output.force)
        let above = try parent.map { try PKISigner.parse(["--ca", $0]).load() }
        let key = try PKIFiles.generate(keyType.kind)
        let now = CredentialInspection.timeOfDay()
        var template = CertificateTemplate(
            subject: subject.der, notBefore: now - PKIFiles.backdatedSeconds, notAfter: now + Int64(days) * 86_400,
            authority: .init(pathLength: pathLength))
        if let above { template.notAfter = min(template.notAfter, above.certificate.notAfter) }
        let certificate = try PKIFiles.issue(template, key.subjectPublicKeyInfo, above?.certificate, above?.key ?? key)
        try PKIFiles.write(key, to: output.keyPath, force: output.force)
        try PKIFiles.write(certificates: [certificate], to: output.certificatePath, force: output.force)
        print("Made the CA \(certificate.subject) (\(key.kind.text)): \(output.certificatePath), \(output.keyPath)")
    }
}

/// `culvert pki issue`
struct PKIIssue: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "issue", abstract: "Issue a certificate for a gateway or a host.",
        discussion: """
            Writes NAME.pem (behind the certificate the CA's own, when that is an intermediate) and NAME.key. With --key the \
            certificate is for a key that exists, private or public, and no key is written. The names that the gateway uses \
            as its `id` must be among --san, or be the subject.
            """)

    @OptionGroup var signer: PKISigner

    @Option(help: ArgumentHelp("Such as 'C=DE, O=Example, CN=east'.", valueName: "name"))
    var subject: SubjectArgument

    @Option(
        help: ArgumentHelp(
            "A name: east.example, 192.0.2.1, admin@example, dns:…, ip:…, email:…, uri:…, dn:….", valueName: "name"))
    var san: [AlternativeNameArgument] = []

    @OptionGroup var output: PKIOutput

    @Option(help: "Kind of key.")
    var keyType = KeyType(.ecdsaP256)

    @Option(help: ArgumentHelp("A key that exists.", valueName: "file"), completion: .file())
    var key: String?

    @Option(help: "Days that it is valid.")
    var days = 365

    @Option(help: ArgumentHelp("extendedKeyUsage, such as serverAuth or 1.3.6.1.5.5.7.3.17; best left out.", valueName: "usage"))
    var usage: [String] = []

    @Option(help: ArgumentHelp("http:// address of an OCSP responder.", valueName: "url"))
    var ocsp: String?

    @Option(help: ArgumentHelp("Where the revocation list can be fetched.", valueName: "url"))
    var crlURL: String?

    func validate() throws { try PKIFiles.validate(days: days, pathLength: nil) }

    func run() throws {
        let written = key == nil ? [output.certificatePath, output.keyPath] : [output.certificatePath]
        try PKIFiles.refuseOverwriting(written, force: output.force)
        let authority = try signer.load()
        let own = try key == nil ? PKIFiles.generate(keyType.kind) : nil
        let publicKey = try own?.subjectPublicKeyInfo ?? PKIFiles.publicKey(key ?? "")
        let now = CredentialInspection.timeOfDay()
        let end = now + Int64(days) * 86_400
        if end > authority.certificate.notAfter {
            complain("The CA ends before that; the certificate ends with it, on \(authority.certificate.validity.notAfterText).")
        }
        var template = CertificateTemplate(
            subject: subject.der, notBefore: now - PKIFiles.backdatedSeconds, notAfter: min(end, authority.certificate.notAfter))
        template.alternativeNames = san.map(\.name)
        (template.extendedKeyUsage, template.ocspResponder, template.revocationListURL) = (usage, ocsp, crlURL)
        let certificate = try PKIFiles.issue(template, publicKey, authority.certificate, authority.key)
        if let own { try PKIFiles.write(own, to: output.keyPath, force: output.force) }
        let chain = authority.certificate.isSelfSigned ? [certificate] : [certificate, authority.certificate]
        try PKIFiles.write(certificates: chain, to: output.certificatePath, force: output.force)
        print(
            "Issued \(certificate.subject), serial number \(certificate.serialNumber), valid until "
                + "\(certificate.validity.notAfterText): \(written.joined(separator: ", "))")
    }
}

/// `culvert pki key`
struct PKIKey: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "key", abstract: "Make a key without a certificate, for `auth: public-key`.",
        discussion: "Writes NAME.key, which stays here, and NAME.pub, which the other gateway gets.")

    @Option(help: ArgumentHelp("Where to write; .key and .pub are added.", valueName: "name"), completion: .file())
    var out: String

    @Flag(help: "Overwrite what is there.")
    var force = false

    @Option(help: "Kind of key.")
    var keyType = KeyType(.ed25519)

    func run() throws {
        let (keyPath, publicPath) = ("\(out).key", "\(out).pub")
        try PKIFiles.refuseOverwriting([keyPath, publicPath], force: force)
        let key = try PKIFiles.generate(keyType.kind)
        try PKIFiles.write(key, to: keyPath, force: force)
        try PKIFiles.write(text: PEM.text("PUBLIC KEY", key.subjectPublicKeyInfo), to: publicPath, force: force)
        print("Made a key (\(key.kind.text)): \(keyPath), \(publicPath)")
    }
}
