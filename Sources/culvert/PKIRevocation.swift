import ArgumentParser
import Crypto
import Gateway

extension RevocationReason: ExpressibleByArgument {
    public init?(argument: String) {
        guard let found = Self.allCases.first(where: { $0.text == argument }) else { return nil }
        self = found
    }

    public static var allValueStrings: [String] { allCases.map(\.text) }
}

/// `culvert pki crl`
struct PKIRevocationList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "crl", abstract: "Make a CA's revocation list, or renew it.",
        discussion: "What the file lists already stays listed; only its times and its number are new.")

    @OptionGroup var signer: PKISigner

    @Option(help: ArgumentHelp("The list, PEM.", valueName: "file"), completion: .file())
    var out: String

    @Option(help: "Days until the next update.")
    var days = 30

    func validate() throws { try PKIFiles.validate(days: days, pathLength: nil) }

    func run() throws {
        let list = try RevocationDraft(signer, out).write(seconds: Int64(days) * 86_400)
        print("\(out): \(counted(list.entries.count, "certificate")) revoked, next update \(list.nextUpdateText)")
    }
}

/// `culvert pki revoke`
struct PKIRevoke: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "revoke", abstract: "Put certificates on their CA's revocation list.",
        discussion: "Gateways that name the list in `crl` look at it anew whenever it changes.")

    @OptionGroup var signer: PKISigner

    @Option(help: ArgumentHelp("The list, PEM; made when it is not there.", valueName: "file"), completion: .file())
    var crl: String

    @Option(help: "Why.")
    var reason: RevocationReason?

    @Option(help: "Days until the next update; unless told as many as the list had, 30 for a new one.")
    var days: Int?

    @Argument(help: "The certificates.", completion: .file())
    var certificate: [String]

    func validate() throws { try PKIFiles.validate(days: days ?? 30, pathLength: nil) }

    func run() throws {
        var draft = try RevocationDraft(signer, crl)
        for path in certificate {
            let revoked = try PKIFiles.certificates(path)[0]
            guard revoked.isIssued(by: draft.authority.certificate) else {
                complain("\(path) was issued by \(revoked.issuer), not by \(draft.authority.certificate.subject); name that CA.")
                throw Exit.no
            }
            draft.add(revoked.serialNumber, reason)
            print("Revoked \(revoked.subject), serial number \(revoked.serialNumber)")
        }
        let list = try draft.write(seconds: days.map { Int64($0) * 86_400 } ?? draft.span ?? 30 * 86_400)
        print("\(crl): \(counted(list.entries.count, "certificate")) revoked, next update \(list.nextUpdateText)")
    }
}

/// A list on its way to its next version.
private struct RevocationDraft {
    var authority: (certificate: Certificate, key: OpenSSLSigningKey)
    var path: String
    var entries: [RevocationList.Entry] = []
    /// cRLNumber of the version before.
    var number: UInt64 = 0
    /// Seconds from the update to the next of the version before; nil without one.
    var span: Int64?

    init(_ signer: PKISigner, _ path: String) throws {
        authority = try signer.load()
        self.path = path
        guard PKIFiles.exists(path) else { return }
        guard let list = try PKIFiles.lists(path).first, list.isIssued(by: authority.certificate) else {
            complain("\(path) is not a revocation list of \(authority.certificate.subject); name another file.")
            throw Exit.no
        }
        entries = list.entries
        span = list.nextUpdate.map { $0 - list.thisUpdate }.flatMap { $0 > 0 ? min($0, Int64(PKIFiles.mostDays) * 86_400) : nil }
        number = (list.number ?? []).suffix(8).reduce(0) { $0 << 8 | UInt64($1) }
    }

    mutating func add(_ serialNumber: String, _ reason: RevocationReason?) {
        guard !entries.contains(where: { $0.serialNumber == serialNumber }) else { return }
        entries.append(.init(serialNumber: serialNumber, revokedAt: CredentialInspection.timeOfDay(), reason: reason))
    }

    func write(seconds: Int64) throws -> RevocationList {
        let now = CredentialInspection.timeOfDay()
        let list = try PKIFiles.told("The revocation list") {
            try RevocationList.issue(
                by: authority.certificate, key: authority.key, entries: entries, number: number &+ 1, thisUpdate: now,
                nextUpdate: now + seconds)
        }
        try PKIFiles.write(text: PEM.text("X509 CRL", list.der), to: path, force: true)
        return list
    }
}
