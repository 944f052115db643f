import Crypto
import IPsec
import Testing
import Wire

@testable import IKE

/// Every kind of mismatch, as the two operators read it: the responder's end shows both sides and the line to change; the
/// initiator's shows what it offered, the notify, and the causes in order of likelihood. What `RefusalTests` has is not repeated.
@Suite struct NegotiationDiffTests {
    static let places = ConfigurationPlaces(
        line: 10,
        lines: [
            "ike_proposals": 11, "psk_file": 12, "remote.id": 13, "remote.auth": 14, "remote.ca": 15, "net/esp_proposals": 21,
            "net/local_subnets": 22, "net/remote_subnets": 23,
        ])

    /// A pair whose plans know where they came from.
    private func pair(_ change: (Pair) -> Void) -> Pair {
        let pair = Pair()
        change(pair)
        let (east, west) = (pair.eastSide.change, pair.westSide.change)
        pair.eastSide.change = { plan in
            east?(&plan)
            plan.places = Self.places
        }
        pair.westSide.change = { plan in
            west?(&plan)
            plan.places = Self.places
        }
        return pair
    }

    private func reasons(_ pair: Pair, after seconds: Double = 8) throws -> (east: String, west: String) {
        try pair.start()
        pair.run(seconds)
        return (pair.reason(pair.east), pair.reason(pair.west))
    }

    private func childReasons(_ pair: Pair) -> (east: String, west: String) {
        func reason(_ node: Node) -> String {
            let child = node.status(now: pair.now)?.children.first
            #expect(child?.state != .installed || child?.reason == nil)
            return (child?.problem ?? child?.reason)?.sentence ?? ""
        }
        return (reason(pair.east), reason(pair.west))
    }

    /// The order of some words in a sentence.
    private func inOrder(_ text: String, _ words: String...) -> Bool {
        var rest = text[...]
        for word in words {
            guard let found = rest.firstRange(of: word) else { return false }
            rest = rest[found.upperBound...]
        }
        return true
    }

    @Test func `IKE proposals, with the line of each end`() throws {
        let (east, west) = try reasons(
            pair {
                $0.eastSide.ike = ["aes256gcm16-prfsha384-ecp384"]
                $0.westSide.ike = ["aes256gcm16-prfsha384-x25519"]
            })
        #expect(
            inOrder(
                west, "first difference is the key exchange group",
                "add aes256gcm16-prfsha384-ecp384 to ike_proposals of connection c (line 11)",
                "We accept aes256gcm16-prfsha384-x25519", "offered aes256gcm16-prfsha384-ecp384"))
        #expect(
            inOrder(
                east, "NO_PROPOSAL_CHOSEN", "Candidate causes: it accepts none of our ike_proposals", "remote.address there",
                "ike_proposals (line 11): aes256gcm16-prfsha384-ecp384"))
    }

    @Test func `ESP proposals, with the line of each end`() throws {
        let pair = pair {
            $0.eastSide.esp = ["aes256gcm16-esn"]
            $0.westSide.esp = ["aes256gcm16-noesn"]
        }
        _ = try reasons(pair)
        let (east, west) = childReasons(pair)
        #expect(inOrder(west, "extended sequence numbers", "add aes256gcm16-esn to", "We accept", "offered aes256gcm16-esn"))
        #expect(west.contains("esp_proposals of child c/net (line 21)"))
        #expect(
            inOrder(
                east, "NO_PROPOSAL_CHOSEN", "Candidate causes: the peer accepts another", "extended sequence numbers",
                "esp_proposals (line 21) aes256gcm16-esn"))
    }

    @Test(arguments: [(["x25519"], []), ([], ["x25519"]), (["x25519"], ["ecp384"])])
    func `perfect forward secrecy that differs shows when the child is rekeyed, while the old one goes on`(
        mine: [String], theirs: [String]
    ) throws {
        let pair = pair {
            $0.eastSide.esp = [(["aes256gcm16"] + mine).joined(separator: "-")]
            $0.westSide.esp = [(["aes256gcm16"] + theirs).joined(separator: "-")]
            $0.eastSide.lifetime = .seconds(60)
        }
        #expect(try pair.establish())
        #expect(childReasons(pair) == ("", ""))
        pair.run(50)
        let (east, west) = childReasons(pair)
        #expect(pair.isUp && pair.mismatch == nil)
        #expect(inOrder(east, "The last rekey failed", "NO_PROPOSAL_CHOSEN", "esp_proposals (line 21)"), "\(east)")
        #expect(
            inOrder(
                east, "Candidate causes: the peer wants", mine.isEmpty ? "a key exchange group" : "another key exchange group",
                "has changed"))
        #expect(inOrder(west, "The last rekey failed", "esp_proposals of child c/net (line 21)", "We accept"), "\(west)")
        #expect(west.contains("perfect forward secrecy") || west.contains("key exchange group"), "\(west)")
        #expect(pair.west.logs.contains { west.hasSuffix($0) })
    }

    @Test func `the sentence about a rekey goes when one succeeds`() throws {
        let pair = pair {
            $0.eastSide.esp = ["aes256gcm16-x25519"]
            $0.westSide.esp = ["aes256gcm16"]
            $0.eastSide.lifetime = .seconds(60)
            $0.westSide.lifetime = .seconds(70)
        }
        #expect(try pair.establish())
        pair.run(50)
        #expect(!childReasons(pair).east.isEmpty && !childReasons(pair).west.isEmpty)
        // It ends, and is made anew in a way that both accept, along with a new IKE SA.
        _ = pair.east.core.terminate(connection: "c", child: nil, now: pair.now)
        pair.run(2)
        #expect(pair.east.core.initiate(connection: "c", child: nil, now: pair.now))
        #expect(pair.network.run(for: .seconds(20)) { pair.isUp })
        #expect(childReasons(pair) == ("", ""))
    }

    @Test func `a group that the peer wants and we do not have`() throws {
        let pair = pair {
            $0.eastSide.esp = ["aes256gcm16-x25519"]
            $0.eastSide.lifetime = .seconds(60)
            $0.westSide.esp = ["aes256gcm16-x25519"]
        }
        #expect(try pair.establish())
        let offer = ChildOffer(
            name: "net", inboundSPI: 1000, proposals: [], localSelectors: [], remoteSelectors: [])
        let plan = try Pair.plan(pair.eastSide, local: pair.east.address)
        let text = Reasons.childRefused(
            Notify(.invalidKEPayload, data: [0, 20]), offer: offer, isRekey: true, plan: plan
        ).sentence
        #expect(inOrder(text, "INVALID_KE_PAYLOAD", "ecp384", "esp_proposals (line 21) aes256gcm16-x25519", "add it there"))
    }

    @Test func `additional key exchanges of a child`() throws {
        let pair = pair {
            $0.eastSide.esp = ["aes256gcm16-x25519-ke1_mlkem768"]
            $0.westSide.esp = ["aes256gcm16-x25519-ke1_mlkem1024"]
            $0.eastSide.lifetime = .seconds(60)
        }
        #expect(try pair.establish())
        pair.run(50)
        let (east, west) = childReasons(pair)
        #expect(
            inOrder(
                west, "additional key exchange 1", "offered only ke1_mlkem768", "add aes256gcm16-x25519-ke1_mlkem768 to",
                "(line 21)"), "\(west)")
        #expect(
            inOrder(east, "NO_PROPOSAL_CHOSEN", "the peer does not do our additional key exchanges", "ke1_mlkem768"), "\(east)")
    }

    @Test func `additional key exchanges of the IKE SA that the peer does not have`() throws {
        let (east, west) = try reasons(
            pair {
                $0.eastSide.ike = ["aes256gcm16-prfsha384-x25519"]
                $0.westSide.ike = ["aes256gcm16-prfsha384-x25519-ke1_mlkem768"]
            })
        #expect(
            inOrder(west, "additional key exchange 1: we ask for ke1_mlkem768, the peer offered none", "(line 11)"), "\(west)")
        #expect(east.contains("NO_PROPOSAL_CHOSEN"))
    }

    @Test func `traffic selectors, with both lines`() throws {
        let pair = pair { $0.westSide.children = [("net", ["10.77.0.0/24"], ["10.1.0.0/24"])] }
        _ = try reasons(pair)
        let (east, west) = childReasons(pair)
        #expect(inOrder(west, "10.1.0.0/24 on its side", "10.2.0.0/24 on ours", "(line 23)", "10.77.0.0/24 (line 22)"), "\(west)")
        #expect(west.hasSuffix("Change local_subnets here or remote_subnets there, so that they overlap."), "\(west)")
        #expect(inOrder(east, "TS_UNACCEPTABLE", "local_subnets here (line 22)", "remote_subnets here (line 23)"), "\(east)")
    }

    @Test func `pre-shared keys and identities`() throws {
        var (east, west) = try reasons(pair { $0.westSide.secret = "quite another secret, just as long" })
        #expect(west.contains("psk_file (line 12) on both") && inOrder(east, "psk_file (line 12)", "remote.id here (line 13)"))
        (east, west) = try reasons(pair { $0.eastSide.identity = .fqdn("stranger.example") })
        #expect(inOrder(west, "stranger.example", "c expects east.example (line 13)", "remote.id"), "\(west)")
        (east, west) = try reasons(pair { $0.eastSide.remoteIdentity = .fqdn("north.example") })
        #expect(inOrder(east, "west.example", "remote.id north.example (line 13)"), "\(east)")
        #expect(inOrder(west, "north.example", "local.id west.example (not set; the connection is in line 10)"), "\(west)")
    }

    @Test func `methods that differ`() throws {
        let (east, west) = try reasons(
            pair {
                $0.useCertificates(.ecdsaP256)
                $0.eastSide.change = nil
            })
        #expect(inOrder(west, "by a pre-shared key", "expects a certificate", "remote.auth (line 14)"), "\(west)")
        #expect(east.contains("AUTHENTICATION_FAILED"))
    }

    @Test(arguments: [
        (CertificateRefusal.Kind.untrusted, "`ca` (line 15)"), (.nameMismatch, "remote.id (line 13)"),
        (.revocationUnknown, "`revocation` (not set; the connection is in line 10)"), (.revoked, "revoked."),
    ])
    func `certificates, with the line that decides about them`(kind: CertificateRefusal.Kind, place: String) throws {
        let trust = TestTrust()
        trust.refusal = CertificateRefusal(kind, "The certificate is \(kind.rawValue).")
        let (east, west) = try reasons(pair { $0.useCertificates(.ecdsaP256, westTrust: trust) })
        #expect(
            inOrder(west, "not accepted on connection c", "The certificate is \(kind.rawValue).") && west.contains(place),
            "\(west)")
        #expect(inOrder(east, "AUTHENTICATION_FAILED", "Candidate causes", "expired, is revoked"), "\(east)")
    }

    @Test func `EAP methods that differ`() throws {
        let crypto = OpenSSLCrypto()
        let (east, west) = try reasons(
            pair {
                $0.useCertificates(.ecdsaP256)
                let (mine, theirs) = ($0.eastSide.change, $0.westSide.change)
                $0.eastSide.change = { plan in
                    mine?(&plan)
                    let password = crypto.secret(Array("secret".utf8))
                    plan.localAuthentication = .eap(
                        EAPClientPlan(methods: [.mschapv2(userName: "east", password: password, crypto: crypto)]))
                }
                $0.westSide.change = { plan in
                    theirs?(&plan)
                    plan.remoteAuthentication = .eap(
                        EAPServerPlan { context in
                            EAPMethodServer(
                                context, methods: [.init(.tls) { _ in EAPExchangeTests.Server("", key: nil) }],
                                asksIdentity: false)
                        })
                }
            })
        #expect(inOrder(west, "refuses EAP-TLS and wants EAP-MSCHAPv2", "See remote.auth (line 14) here"), "\(west)")
        #expect(inOrder(east, "EAP-Failure", "it wanted EAP-TLS, and we do EAP-MSCHAPv2"), "\(east)")
    }

    @Test func `a suite that only another connection with this address accepts`() throws {
        let pair = pair { $0.eastSide.identity = .fqdn("second.example") }
        pair.eastSide.ike = ["aes256gcm16-prfsha384-x25519"]
        try pair.configureWest()
        var side = pair.westSide
        (side.remoteIdentity, side.ike) = (.fqdn("second.example"), ["aes256gcm16-prfsha384-ecp384"])
        var plan = try Pair.plan(side, local: pair.west.address)
        plan.name = "second"
        pair.west.core.addConnection(plan, now: pair.now)
        try pair.configureEast()
        pair.run(8)
        let west = pair.west.status("second", now: pair.now)?.reason?.sentence ?? ""
        let east = pair.reason(pair.east)
        #expect(inOrder(west, "second.example", "accepts only aes256gcm16-prfsha384-ecp384 (line 11)"), "\(west)")
        #expect(
            inOrder(east, "NO_PROPOSAL_CHOSEN", "Candidate causes", "settled on before", "ike_proposals (line 11)"), "\(east)")
    }

    @Test func `lines that moved are taken over without a new connection`() throws {
        let pair = pair { $0.westSide.secret = "quite another secret, just as long" }
        try pair.configureWest()
        pair.west.core.setPlaces(ConfigurationPlaces(line: 99, lines: ["psk_file": 101]), ofConnection: "c")
        try pair.configureEast()
        pair.run(8)
        #expect(pair.reason(pair.west).contains("psk_file (line 101)"))
    }
}
