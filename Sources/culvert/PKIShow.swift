import ArgumentParser
import Configuration
import Crypto
import Gateway
import IKE
import IPsec
import Wire

/// `culvert pki show`
struct PKIShow: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show", abstract: "Show what a file with certificates, keys or revocation lists holds.",
        discussion: "PEM or DER. Of a private key only its kind and its public half are shown.")

    @Argument(help: "The file.", completion: .file())
    var file: String

    @Flag(help: "Print JSON.")
    var json = false

    func run() throws {
        let contents = try PKIFiles.told(file) {
            try CredentialFile.contents(path: file, maxBytes: CredentialFile.maxRevocationListBytes)
        }
        let items = try PKIFiles.told(file) { try self.items(contents) }
        guard !items.isEmpty else {
            complain("\(file) holds no certificate, key or revocation list that can be read.")
            throw Exit.no
        }
        print(json ? try AdminCodec.prettyJSON(Report(file: file, items: items)) : items.map(\.text).joined(separator: "\n\n"))
    }

    private func items(_ contents: [UInt8]) throws -> [Item] {
        guard contents.first == 0x30 else {
            var items: [Item] = []
            for (label, der) in PEM.blocks(contents) {
                switch label {
                case "CERTIFICATE": items.append(.certificate(try Certificate(der: der)))
                case "X509 CRL": items.append(.list(try RevocationList(der: der)))
                case "PUBLIC KEY": items.append(.key(try OpenSSLVerifyingKey(subjectPublicKeyInfo: der), isPrivate: false))
                case let label where label.hasSuffix("PRIVATE KEY"):
                    let key = try OpenSSLSigningKey(file: file)
                    items.append(.key(try OpenSSLVerifyingKey(subjectPublicKeyInfo: key.subjectPublicKeyInfo), isPrivate: true))
                default: break
                }
            }
            return items
        }
        if let certificate = try? Certificate(der: contents) { return [.certificate(certificate)] }
        if let list = try? RevocationList(der: contents) { return [.list(list)] }
        return [.key(try OpenSSLVerifyingKey(subjectPublicKeyInfo: contents), isPrivate: false)]
    }

    /// What `--json` prints.
    private struct Report: Encodable {
        var file: String
        var items: [Item]
    }

    /// One certificate, list or key.
    private enum Item: Encodable {
        case certificate(Certificate)
        case list(RevocationList)
        case key(OpenSSLVerifyingKey, isPrivate: Bool)

        /// Names and values, in the order shown; text shows the same.
        private var fields: [(String, Value)] {
            switch self {
            case .certificate(let certificate): Self.fields(certificate)
            case .list(let list): Self.fields(list)
            case .key(let key, let isPrivate):
                [
                    ("type", .text(isPrivate ? "private key" : "public key")), ("key", .text(key.kind.text)),
                    ("public_key_sha1", .text(Self.hash(key.subjectPublicKeyInfo))),
                ]
            }
        }

        private static func fields(_ certificate: Certificate) -> [(String, Value)] {
            let now = CredentialInspection.timeOfDay()
            let key = (try? certificate.publicKey().kind.text) ?? "not one that IKE signs with"
            return [
                ("type", .text("certificate")), ("subject", .text(certificate.subject)), ("issuer", .text(certificate.issuer)),
                ("serial_number", .text(certificate.serialNumber)), ("not_before", .text(certificate.validity.notBeforeText)),
                ("not_after", .text(certificate.validity.notAfterText)),
                ("warning", certificate.validity.notice(now: now).map { .text($0) } ?? .null),
                ("names", .list(certificate.alternativeNames.map(\.typed))), ("ca", .flag(certificate.isAuthority)),
                ("key", .text(key)), ("signature", .text(certificate.signatureAlgorithm)),
                ("public_key_sha1", .text(hash(certificate.subjectPublicKeyInfo))),
                ("extended_key_usage", .list(certificate.extendedKeyUsage ?? [])),
                ("ocsp_responders", .list(certificate.ocspResponders)),
            ]
        }

        private static func fields(_ list: RevocationList) -> [(String, Value)] {
            [
                ("type", .text("revocation list")), ("issuer", .text(list.issuer)), ("this_update", .text(list.thisUpdateText)),
                ("next_update", .text(list.nextUpdateText)),
                ("revoked", .list(list.entries.map { $0.serialNumber + ($0.reason.map { " (\($0.text))" } ?? "") })),
            ]
        }

        private static func hash(_ key: [UInt8]) -> String {
            let digits = OpenSSLCrypto().sha1(key).map { octet in
                let text = String(octet, radix: 16)
                return text.count == 1 ? "0" + text : text
            }
            return digits.joined()
        }

        var text: String {
            var table = Table(headings: ["", ""], alignments: [.left, .left])
            for (name, value) in fields where !value.isEmpty {
                table.rows.append([Table.Cell(name.replacing("_", with: " ")), Table.Cell(value.text)])
            }
            return table.text(.output)
        }

        private enum Value: Encodable {
            case text(String), flag(Bool), list([String]), null

            var isEmpty: Bool {
                switch self {
                case .list(let items): items.isEmpty
                case .null: true
                case .text, .flag: false
                }
            }

            var text: String {
                switch self {
                case .text(let text): text
                case .flag(let flag): flag ? "yes" : "no"
                case .list(let items): items.joined(separator: ", ")
                case .null: ""
                }
            }

            func encode(to encoder: any Encoder) throws {
                var container = encoder.singleValueContainer()
                switch self {
                case .text(let text): try container.encode(text)
                case .flag(let flag): try container.encode(flag)
                case .list(let items): try container.encode(items)
                case .null: try container.encodeNil()
                }
            }
        }

        private struct Key: CodingKey {
            var stringValue: String
            var intValue: Int? { nil }
            init(_ text: String) { stringValue = text }
            init?(stringValue: String) { self.init(stringValue) }
            init?(intValue: Int) { return nil }
        }

        func encode(to encoder: any Encoder) throws {
            var container = encoder.container(keyedBy: Key.self)
            for (name, value) in fields { try container.encode(value, forKey: Key(name)) }
        }
    }
}

extension AlternativeName {
    /// `dns:east.example`, as `--san` takes it.
    fileprivate var typed: String {
        switch self {
        case .dns: "dns:\(self)"
        case .email: "email:\(self)"
        case .uri: "uri:\(self)"
        case .address: "ip:\(self)"
        case .directory: "dn:\(self)"
        }
    }
}

/// `culvert pki verify`
struct PKIVerify: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify", abstract: "Would a gateway believe this certificate?",
        discussion: """
            Judges as a gateway judges its peer: chain, validity, usage, revocation lists, and that it speaks for --id. \
            OCSP responders are not asked. Ends with 1 when the answer is no.
            """)

    @Argument(help: "The certificate, its intermediates behind it.", completion: .file())
    var certificate: String

    @Option(help: ArgumentHelp("A CA that is trusted.", valueName: "file"), completion: .file())
    var ca: [String] = []

    @Option(help: ArgumentHelp("A revocation list.", valueName: "file"), completion: .file())
    var crl: [String] = []

    @Option(help: ArgumentHelp("Further certificates of the chain.", valueName: "file"), completion: .file())
    var intermediate: [String] = []

    @Option(help: ArgumentHelp("The identity it must speak for; unless told its first name.", valueName: "id"))
    var id: String?

    @Flag(help: "As with `revocation: strict`.")
    var strict = false

    func run() throws {
        let chain = try PKIFiles.certificates(certificate) + intermediate.flatMap { try PKIFiles.certificates($0) }
        let authorities = try ca.flatMap { try PKIFiles.certificates($0) }
        for path in crl { _ = try PKIFiles.lists(path) }
        let trust = CertificateTrust(
            authorities: authorities, revocationLists: crl,
            policy: RevocationPolicy(ocsp: .off, lists: strict ? .strict : .relaxed), now: CredentialInspection.timeOfDay)
        do {
            let peer = try trust.evaluate(
                certificates: chain.map(\.der), identity: try identity(chain[0]), revocationLists: [], ocspResponses: [])
            for warning in peer.warnings { complain(warning) }
            print("\(certificate): good, \(peer.subject)")
        } catch let refusal as CertificateRefusal {
            complain("\(certificate): refused, \(refusal.kind.words): \(refusal.sentence)")
            throw Exit.no
        }
    }

    private func identity(_ leaf: Certificate) throws -> Identity {
        guard let id else { return leaf.identities.first ?? .distinguishedName(leaf.subjectName) }
        guard let identity = ConfigurationReader.identity(text: id) else {
            throw ValidationError("--id \(id) is not an identity; write a name, user@host, an address or a distinguished name.")
        }
        return identity
    }
}

extension CertificateRefusal.Kind {
    /// The kind in words: `the name does not match`.
    fileprivate var words: String {
        switch self {
        case .malformed: "malformed"
        case .expired: "expired"
        case .notYetValid: "not yet valid"
        case .untrusted: "not trusted"
        case .revoked: "revoked"
        case .nameMismatch: "the name does not match"
        case .keyUsage: "not for this use"
        case .weak: "too weak"
        case .revocationUnknown: "whether it is revoked is not known"
        }
    }
}
