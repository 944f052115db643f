import Configuration
import Foundation
import IKE
import Testing

/// What `auth` asks for, side by side with what is found in the files.
@Suite("Authentication in the file") struct CredentialTests {
    /// `good` with certificates on both sides; lines are counted upon.
    static let certificates = """
        interfaces:
          - { name: wan0, role: underlay }
          - { name: lan0, role: protected }
        connections:
          - name: west
            local:  { address: 192.0.2.1, id: east.example, auth: certificate }
            remote: { address: 192.0.2.2, id: west.example, auth: certificate }
            certificate: east.pem
            private_key: east.key
            ca: [ca.pem, /etc/other.pem]
            children:
              - name: net
                local_subnets:  [10.1.0.0/24]
                remote_subnets: [10.2.0.0/24]

        """

    private func changed(_ old: String, _ new: String) throws -> String {
        let range = try #require(Self.certificates.range(of: old))
        return Self.certificates.replacingCharacters(in: range, with: new)
    }

    /// Finds what it is told to.
    struct Inspector: CredentialInspector {
        var local: [CredentialFinding] = []
        var remote: [CredentialFinding] = []
        func inspect(_ credentials: LocalCredentials, identity: Identity) -> [CredentialFinding] { local }
        func inspect(_ credentials: RemoteCredentials) -> [CredentialFinding] { remote }
    }

    @Test func `Certificates on both sides`() throws {
        let connection = try #require(try accepted(Self.certificates).connections.first)
        #expect(
            connection.local
                == LocalCredentials(
                    method: .certificate, certificate: "/nonexistent/east.pem", privateKey: "/nonexistent/east.key"))
        #expect(
            connection.remote
                == RemoteCredentials(method: .certificate, authorities: ["/nonexistent/ca.pem", "/etc/other.pem"]))
        #expect(connection.presharedKey.isEmpty && connection.secrets.isEmpty)
    }

    @Test func `Files may stand on the sides, and win there over the connection's`() throws {
        let text = try changed(
            "auth: certificate }\n    certificate:",
            "auth: certificate, certificate: west.pem, ca: west-ca.pem, crl: [west.crl], ocsp: require, revocation: strict }\n"
                + "    certificate:")
        let connection = try #require(try accepted(text).connections.first)
        #expect(connection.local.certificate == "/nonexistent/east.pem")
        #expect(
            connection.remote
                == RemoteCredentials(
                    method: .certificate, authorities: ["/nonexistent/west-ca.pem"], certificate: "/nonexistent/west.pem",
                    revocationLists: ["/nonexistent/west.crl"], ocsp: .require, revocation: .strict))
    }

    @Test func `Raw public keys`() throws {
        let text = Self.certificates.replacing("auth: certificate", with: "auth: public-key")
            .replacing("certificate: east.pem", with: "public_key: [west.pub]").replacing(
                "    ca: [ca.pem, /etc/other.pem]\n", with: "")
        let connection = try #require(try accepted(text).connections.first)
        #expect(connection.local == LocalCredentials(method: .publicKey, privateKey: "/nonexistent/east.key"))
        #expect(connection.remote == RemoteCredentials(method: .publicKey, publicKeys: ["/nonexistent/west.pub"]))
    }

    @Test func `A certificate on one side and a secret on the other`() throws {
        let text = try changed(
            "id: west.example, auth: certificate }\n",
            "id: west.example, auth: psk }\n    psk: \"a-secret-of-more-than-twenty\"\n"
        ).replacing("    ca: [ca.pem, /etc/other.pem]\n", with: "")
        let connection = try #require(try accepted(text).connections.first)
        #expect(connection.local.method == .certificate && connection.remote.method == .psk)
        #expect(connection.presharedKey.count == 28)
    }

    @Test func `Secrets by the peer's identity`() throws {
        let secret = "a-secret-of-more-than-twenty-characters"
        let text = good.replacing(
            "    psk: \"\(secret)\"",
            with: """
                    secrets:
                      - { id: "*.branch.example", psk: "\(secret)-1" }
                      - { id: admin@example, psk: "\(secret)-2" }
                      - { id: any, psk: "\(secret)-3" }
                """)
        let connection = try #require(try accepted(text).connections.first)
        #expect(connection.secrets.map(\.identity) == [.namesBelow(".branch.example"), .exactly(.email("admin@example")), .any])
        #expect(connection.secrets.map(\.key) == (1...3).map { Array("\(secret)-\($0)".utf8) })
        #expect(connection.presharedKey.isEmpty)
    }

    struct Fault: Sendable, CustomTestStringConvertible {
        var testDescription: String
        var old: String, new: String, told: String
        init(_ name: String, _ old: String, _ new: String, _ told: String) {
            (testDescription, self.old, self.new, self.told) = (name, old, new, told)
        }
    }

    @Test func `How RSA signs, SHA-1 and childless IKE SAs`() throws {
        let plain = try #require(try accepted(Self.certificates).connections.first)
        #expect(plain.rsaPadding == .pss && plain.childless == .allow && !plain.allowsSHA1Signatures)
        let text = try changed(
            "    ca:", "    rsa_padding: pkcs1\n    childless: prefer\n    allow_weak: [sha1]\n    ca:")
        let connection = try #require(try accepted(text).connections.first)
        #expect(connection.rsaPadding == .pkcs1 && connection.childless == .prefer && connection.allowsSHA1Signatures)
    }

    static let faults = [
        Fault("no certificate", "    certificate: east.pem\n", "", "6:13 error `certificate` is missing"),
        Fault("no key", "    private_key: east.key\n", "", "6:13 error `private_key` is missing"),
        Fault("no authority", "    ca: [ca.pem, /etc/other.pem]\n", "", "7:13 error `ca` is missing"),
        Fault("empty list", "[ca.pem, /etc/other.pem]", "[]", "10:9 error `ca` is empty"),
        Fault(
            "unknown method", "auth: certificate }\n    remote", "auth: cert }\n    remote", "6:59 error `cert` is not a value"),
        Fault("unknown mode", "    ca:", "    ocsp: sometimes\n    ca:", "10:11 error `sometimes` is not a value of `ocsp`"),
        Fault(
            "our key at the peer", "auth: certificate }\n    certificate", "auth: certificate, private_key: x }\n    certificate",
            "7:72 error `private_key` is this gateway's own"),
        Fault(
            "a CA at our side", "auth: certificate }\n    remote", "auth: certificate, ca: x }\n    remote",
            "6:72 error `ca` says what the peer is believed by"),
        Fault(
            "a secret that nobody needs", "    ca:", "    psk: \"a-secret-of-more-than-twenty\"\n    ca:",
            "10:5 warning `psk` is not used"),
        Fault("a public key that nobody needs", "    ca:", "    public_key: x\n    ca:", "10:5 warning `public_key` is not used"),
    ]

    @Test(arguments: faults)
    func `What does not fit is told at its place`(_ fault: Fault) throws {
        let all = told(parse(try changed(fault.old, fault.new)))
        #expect(all.contains { $0.hasPrefix(fault.told) }, "\(all)")
        #expect(all.count { $0.contains(" error ") } == (fault.told.contains(" error ") ? 1 : 0), "\(all)")
    }

    /// A certificate that is named outright, and its CA not: nobody can say that it is revoked.
    @Test(arguments: ["crl: [x.crl]", "ocsp: require", "revocation: strict"])
    func `Revocation needs the CA`(_ line: String) throws {
        let pinned = try changed("    ca: [ca.pem, /etc/other.pem]\n", "").replacing(
            "id: west.example, auth: certificate }", with: "id: west.example, auth: certificate, certificate: w.pem }")
        #expect(told(parse(pinned)).allSatisfy { !$0.contains(" error ") })
        let all = told(parse(pinned.replacing("    children:", with: "    \(line)\n    children:")))
        #expect(all.count { $0.contains(" error ") && $0.contains("needs the CA") } == 1, "\(all)")
    }

    @Test func `Certificates without auth are most likely a slip`() {
        let text = good.replacing(
            "    children:", with: "    certificate: a.pem\n    private_key: a.key\n    ca: [c.pem]\n    children:")
        let all = told(parse(text))
        #expect(all.count == 3 && all.allSatisfy { $0.contains(" warning ") && $0.contains("is not used") }, "\(all)")
        #expect(all.contains { $0.contains("write `auth: certificate` there") })
    }

    @Test func `Entries of secrets are checked`() {
        let secret = "a-secret-of-more-than-twenty-characters"
        let faults: [(String, String)] = [
            ("[]", "`secrets` is empty"), ("[{ id: a.example }]", "`psk_file` is missing"),
            ("[{ psk: \"\(secret)\" }]", "`id` is missing"), ("[{ id: \"*x\", psk: \"\(secret)\" }]", "is not a pattern"),
            ("[{ id: a.example, psk: \"\(secret)\" }, { id: a.example, psk: \"\(secret)\" }]", "has a secret in line"),
            ("[{ id: a.example, psk_fil: x }]", "did you mean `psk_file`"),
        ]
        for (value, words) in faults {
            let all = told(parse(good.replacing("psk: \"\(secret)\"", with: "secrets: \(value)")))
            #expect(all.contains { $0.hasPrefix("8:") && $0.contains(" error ") && $0.contains(words) }, "\(value): \(all)")
            #expect(!all.contains { $0.contains(secret) })
        }
    }

    @Test func `What is found in the files stands at their names`() {
        let inspector = Inspector(
            local: [
                .init(key: "certificate", path: "/nonexistent/east.pem", severity: .warning, text: "holds an old one"),
                .init(key: "private_key", path: "/nonexistent/east.key", severity: .error, text: "does not exist"),
                .init(key: "id", path: nil, severity: .error, text: "is not in our certificate"),
            ], remote: [.init(key: "ca", path: "/etc/other.pem", severity: .error, text: "holds no `CERTIFICATE`")])
        let loaded = ConfigurationReader.parse(
            text: Self.certificates, file: "test.yaml", directory: "/nonexistent", inspector: inspector)
        #expect(
            told(loaded) == [
                "6:39 error `id` is not in our certificate", "8:18 warning `certificate` `east.pem` holds an old one",
                "9:18 error `private_key` `east.key` does not exist", "10:18 error `ca` `/etc/other.pem` holds no `CERTIFICATE`",
            ])
    }

    @Test func `Without auth by file nothing is looked into`() {
        let inspector = Inspector(local: [.init(key: "id", path: nil, severity: .error, text: "must not be told")])
        let loaded = ConfigurationReader.parse(text: good, file: "test.yaml", directory: "/nonexistent", inspector: inspector)
        #expect(told(loaded) == [])
    }
}
