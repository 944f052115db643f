import Crypto
import Foundation
import IKE
import Testing

/// NIST PKITS, sections 4.1 to 4.16: 223 paths, each judged with every revocation list of the suite in `crl`.
@Suite("NIST PKITS") struct PKITSTests {
    struct Case: Decodable, CustomTestStringConvertible {
        var name: String
        var valid: Bool
        var certificates: [String]
        var testDescription: String { name }
    }

    static let folder = vectorFolder.appending(path: "PKITS")
    static let cases: [Case] = {
        let data = try? Data(contentsOf: folder.appending(path: "cases.json"))
        return (data.flatMap { try? JSONDecoder().decode([Case].self, from: $0) }) ?? []
    }()
    static let lists: [String] = {
        let path = folder.appending(path: "crls").path
        return ((try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []).sorted().map { "\(path)/\($0)" }
    }()

    /// Valid paths that are refused all the same, and why.
    static let wrongRejects: [String: String] = [
        "ValidDSASignaturesTest4EE": "keys of less than 112 bits of security are refused: the CA's is DSA with 1024 bits",
        "ValidDSAParameterInheritanceTest5EE": "the same",
    ]

    /// Invalid paths whose only fault is that no list that may be used settles whether a certificate was revoked: `relaxed`
    /// accepts them and warns, where there is a list at all.
    static let unsettled: [String: String] = [
        "InvalidMissingCRLTest1EE": "there is no list",
        "InvalidBadCRLIssuerNameTest5EE": "the only list is of another name",
        "InvalidWrongCRLTest6EE": "the only list is of another CA",
        "InvalidUnknownCRLExtensionTest10EE": "the list has an unknown critical extension, and does not name the certificate",
        "InvalidOldCRLnextUpdateTest11EE": "the list is out of date",
        "Invalidpre2000CRLnextUpdateTest12EE": "the list is out of date",
        "InvalidSeparateCertificateandCRLKeysTest21EE": "the signer of the list was revoked; it does not name the certificate",
        "InvaliddistributionPointTest3EE": "the list is about another distribution point",
        "InvaliddistributionPointTest8EE": "the list is about another distribution point",
        "InvaliddistributionPointTest9EE": "the list is about another distribution point",
        "InvalidonlyContainsUserCertsTest11EE": "the list is about end entities, and the certificate is a CA's",
        "InvalidonlyContainsCACertsTest12EE": "the list is about CAs, and the certificate is none's",
        "InvalidonlyContainsAttributeCertsTest14EE": "the list is about attribute certificates",
        "InvalidonlySomeReasonsTest17EE": "the lists are about some reasons",
        "InvalidIDPwithindirectCRLTest26EE": "the list that the certificate names is not about its issuer",
        "InvalidcRLIssuerTest27EE": "the list is of another issuer than the certificate names",
        "InvalidcRLIssuerTest35EE": "the list is of another issuer than the certificate names",
        "InvaliddeltaCRLIndicatorNoBaseTest1EE": "the only list is a delta list",
        "InvaliddeltaCRLTest10EE": "the complete list is out of date, and the delta list goes with another",
    ]

    static func certificate(_ name: String) throws -> Certificate {
        try Certificate(der: Array(Data(contentsOf: folder.appending(path: "certs/\(name).crt"))))
    }

    /// 2012: before the suite's certificates run out in 2030, and after those of section 4.2 did.
    static func trust(_ policy: RevocationPolicy.Lists) throws -> CertificateTrust {
        CertificateTrust(
            authorities: [try certificate("TrustAnchorRootCertificate")], revocationLists: lists,
            policy: .init(ocsp: .off, lists: policy), now: { 1_340_000_000 })
    }

    static func verdict(_ one: Case, _ trust: CertificateTrust) throws -> (CertificateRefusal?, TrustedPeer?) {
        let leaf = try certificate(one.name)
        let chain = [leaf] + (try one.certificates.map(certificate))
        do throws(CertificateRefusal) {
            return (nil, try trust.peer(chain, .distinguishedName(leaf.subjectName)))
        } catch { return (error, nil) }
    }

    @Test("All of it is there") func present() {
        #expect(Self.cases.count == 223 && Self.lists.count == 173)
        #expect(Self.cases.count { $0.valid } == 102)
    }

    @Test("strict", arguments: cases)
    func strict(_ one: Case) throws {
        let (refusal, peer) = try Self.verdict(one, try Self.trust(.strict))
        let expected = one.valid && Self.wrongRejects[one.name] == nil
        #expect((refusal == nil) == expected, "\(refusal?.sentence ?? "accepted"), \(peer?.warnings ?? [])")
    }

    @Test("relaxed", arguments: cases)
    func relaxed(_ one: Case) throws {
        let (refusal, peer) = try Self.verdict(one, try Self.trust(.relaxed))
        let expected = one.valid ? Self.wrongRejects[one.name] == nil : Self.unsettled[one.name] != nil
        #expect((refusal == nil) == expected, "\(refusal?.sentence ?? "accepted"), \(peer?.warnings ?? [])")
        if Self.unsettled[one.name] != nil { #expect(peer?.warnings.isEmpty == false, "it is believed without a word") }
    }
}
