import Crypto
import Foundation
import IKE
import Testing

@Suite("Revocation") struct RevocationTests {
    // MARK: Lists

    @Test("A revoked certificate is refused, with when and why, wherever the list comes from")
    func revoked() throws {
        let (authority, folder) = (try Authority(), try Folder())
        let leaf = try authority.issue()
        let list = try authority.revocationList([(leaf, .keyCompromise)])
        let pem = try folder.write("ca.crl.pem", PEM.text("X509 CRL", list.der).utf8)
        let der = try folder.write("ca.crl", list.der)
        for file in [pem, der] {
            #expect(
                authority.trust(lists: [file]).refusal([leaf], says: "revoked", "2025-12-30", "key-compromise") == .revoked)
        }
        #expect(authority.trust().refusal([leaf], lists: [list], says: "revoked") == .revoked)
        #expect(authority.trust(lists: [pem]).refusal([try authority.issue("west")]) == nil)
    }

    @Test("A revoked intermediate takes everything below with it")
    func revokedIntermediate() throws {
        let root = try Authority("Root")
        let middle = try Authority("Middle", under: root)
        let list = try root.revocationList([(middle.certificate, nil)])
        #expect(
            root.trust().refusal([try middle.issue(), middle.certificate], lists: [list], says: "CN=Middle", "revoked")
                == .revoked)
    }

    @Test("Without a list nothing is known: strict refuses, relaxed does not mind")
    func missing() throws {
        let authority = try Authority()
        let leaf = try authority.issue()
        #expect(try authority.trust().peer([leaf]).warnings.isEmpty)
        #expect(
            authority.trust(revocation: .strict).refusal([leaf], says: "CN=Test CA", "not there", "`crl`") == .revocationUnknown)
        let current = try authority.revocationList()
        #expect(authority.trust(revocation: .strict).refusal([leaf], lists: [current]) == nil)
        // A list of somebody else says nothing.
        let other = try Authority("Other").revocationList()
        #expect(authority.trust(revocation: .strict).refusal([leaf], lists: [other]) == .revocationUnknown)
    }

    @Test("Strict wants a list of every CA in the chain")
    func strictChain() throws {
        let root = try Authority("Root")
        let middle = try Authority("Middle", under: root)
        let chain = [try middle.issue(), middle.certificate]
        let (rootList, middleList) = (try root.revocationList(), try middle.revocationList())
        let trust = root.trust(revocation: .strict)
        #expect(trust.refusal(chain, lists: [rootList, middleList]) == nil)
        #expect(trust.refusal(chain, lists: [middleList], says: "CN=Middle", "CN=Root") == .revocationUnknown)
        #expect(trust.refusal(chain, lists: [rootList], says: "CN=west", "CN=Middle") == .revocationUnknown)
    }

    @Test("A list past its next update is a warning, or with strict a refusal; what it revokes stays revoked")
    func stale() throws {
        let authority = try Authority()
        let (leaf, bad) = (try authority.issue(), try authority.issue("bad"))
        let list = try authority.revocationList([(bad, nil)], at: testTime - 10 * day, until: testTime - day)
        let warnings = try authority.trust().peer([leaf], lists: [list]).warnings
        #expect(warnings.count == 1 && warnings[0].contains("CN=Test CA") && warnings[0].contains("out of date"))
        #expect(authority.trust(revocation: .strict).refusal([leaf], lists: [list], says: "out of date") == .revocationUnknown)
        #expect(authority.trust().refusal([bad], .fqdn("bad.example"), lists: [list]) == .revoked)
        let future = try authority.revocationList(at: testTime + day, until: testTime + 2 * day)
        #expect(authority.trust(revocation: .strict).refusal([leaf], lists: [future]) == .revocationUnknown)
    }

    @Test("A forged list is not believed, an old one does not hide a new one")
    func forged() throws {
        let (authority, forger) = (try Authority("CA"), try Authority("CA"))
        let leaf = try authority.issue()
        let forged = try forger.revocationList(at: testTime - 1)
        #expect(authority.trust(revocation: .strict).refusal([leaf], lists: [forged]) == .revocationUnknown)
        let truth = try authority.revocationList([(leaf, nil)], number: 2)
        let before = try authority.revocationList(number: 1, at: testTime - 3 * day)
        for lists in [[truth, before], [before, truth]] {
            #expect(authority.trust().refusal([leaf], lists: lists) == .revoked)
        }
        let refused = authority.trust().refusal([leaf], lists: [forged, truth])
        #expect(refused == .revoked || refused == .revocationUnknown)
        var der = try authority.revocationList().der
        der[der.count - 4] ^= 1
        #expect(authority.trust(revocation: .strict).refusal([leaf], lists: [try RevocationList(der: der)]) == .revocationUnknown)
    }

    @Test("A list file is read again when it changes; what cannot be read leaves the last good one in force")
    func reload() throws {
        let (authority, folder) = (try Authority(), try Folder())
        let leaf = try authority.issue()
        let file = try folder.write("crl", try authority.revocationList().der)
        let trust = authority.trust(lists: [file], revocation: .strict)
        #expect(trust.refusal([leaf]) == nil)
        try folder.write("crl", try authority.revocationList([(leaf, nil)], number: 2).der)
        #expect(trust.refusal([leaf]) == .revoked)
        try folder.write("crl", Array("rubbish".utf8))
        #expect(trust.refusal([leaf]) == .revoked)
        let other = try authority.issue()
        #expect(try trust.peer([other]).warnings.contains { $0.contains("last good one") })
        try FileManager.default.removeItem(atPath: file)
        #expect(try trust.peer([other]).warnings.contains { $0.contains("is gone") })
        try folder.write("crl", try authority.revocationList(number: 3).der)
        #expect(trust.refusal([leaf]) == nil)
    }

    @Test("Lists are written and read as they are")
    func lists() throws {
        let authority = try Authority()
        let leaf = try authority.issue()
        let list = try authority.revocationList([(leaf, .superseded)], number: 258)
        #expect(list.entries == [.init(serialNumber: leaf.serialNumber, revokedAt: testTime - 2 * day, reason: .superseded)])
        #expect(list.number == [1, 2] && list.issuer == "O=Example, CN=Test CA")
        #expect(list.thisUpdate == testTime - day && list.nextUpdate == testTime + 7 * day)
        for rubbish in [[], [0x30], list.der + [0], Array(list.der.dropLast())] {
            #expect(throws: CredentialError.self) { try RevocationList(der: rubbish) }
        }
    }

    // MARK: OCSP, answered by the openssl command

    /// Runs `openssl ocsp` as a responder that answers one request from a file.
    struct Responder {
        let folder: Folder
        let authority: Authority
        let leaf: Certificate
        /// Responders of the openssl command live in the present.
        let now = Int64(Date().timeIntervalSince1970)

        init(status: String = "V", signer: (Certificate, OpenSSLSigningKey)? = nil) throws {
            folder = try Folder()
            let now = now
            authority = try Authority {
                $0.notBefore = now - day
                $0.notAfter = now + 100 * day
            }
            leaf = try authority.issue {
                $0.notBefore = now - day
                $0.notAfter = now + 50 * day
                $0.ocspResponder = "http://ocsp.example:8080/here"
            }
            let revoked = status == "R" ? "250101000000Z,superseded" : ""
            let line = "\(status)\t491231235959Z\t\(revoked)\t\(leaf.serialNumber.uppercased())\tunknown\t/CN=west\n"
            try folder.write("index.txt", (status == "-" ? "" : line).utf8)
            try folder.write("ca.pem", PEM.text("CERTIFICATE", authority.certificate.der).utf8)
            try sign(by: signer?.0 ?? authority.certificate, signer?.1 ?? authority.key)
        }

        func sign(by certificate: Certificate, _ key: OpenSSLSigningKey) throws {
            try folder.write("signer.pem", PEM.text("CERTIFICATE", certificate.der).utf8)
            try folder.write("signer.key", try key.privatePEM().exposed)
        }

        func answer(_ request: [UInt8], _ more: String...) throws -> [UInt8] {
            try folder.write("request", request)
            let process = Process()
            process.executableURL = URL(fileURLWithPath: "/usr/bin/openssl")
            process.currentDirectoryURL = URL(fileURLWithPath: folder.path)
            process.arguments =
                [
                    "ocsp", "-index", "index.txt", "-CA", "ca.pem", "-rsigner", "signer.pem", "-rkey", "signer.key", "-reqin",
                    "request", "-respout", "response",
                ] + (more.isEmpty ? ["-ndays", "1"] : more)
            process.standardOutput = FileHandle.nullDevice
            process.standardError = FileHandle.nullDevice
            try process.run()
            process.waitUntilExit()
            return try folder.read("response")
        }

        func trust(_ mode: RevocationPolicy.OCSP, _ lists: RevocationPolicy.Lists = .relaxed, later: Int64 = 0)
            -> CertificateTrust
        {
            authority.trust(ocsp: mode, revocation: lists, now: now + later)
        }

        func question(_ trust: CertificateTrust) throws -> RevocationCheck {
            try #require(try trust.peer([leaf]).revocationCheck)
        }
    }

    @Test("The responder that the certificate names is asked, and its good answer settles it")
    func goodAnswer() throws {
        let responder = try Responder()
        for (mode, lists, isRequired) in [
            (RevocationPolicy.OCSP.auto, RevocationPolicy.Lists.relaxed, false), (.auto, .strict, true),
            (.require, .relaxed, true),
        ] {
            let trust = responder.trust(mode, lists)
            let check = try responder.question(trust)
            #expect(check.responders == ["http://ocsp.example:8080/here"] && check.isRequired == isRequired)
            #expect(check.sentence.contains("CN=west"))
            let answer = try responder.answer(check.request)
            #expect(try trust.peer([responder.leaf], answer: answer).revocationCheck == nil)
        }
        #expect(try responder.trust(.off).peer([responder.leaf]).revocationCheck == nil)
        let list = try responder.authority.revocationList(at: responder.now - day, until: responder.now + day)
        #expect(try responder.trust(.auto).peer([responder.leaf], lists: [list]).revocationCheck == nil)
        #expect(try responder.trust(.require).peer([responder.leaf], lists: [list]).revocationCheck != nil)
    }

    @Test("A revoked or unknown certificate is not let in")
    func badAnswer() throws {
        let responder = try Responder(status: "R")
        let trust = responder.trust(.auto)
        let answer = try responder.answer(try responder.question(trust).request)
        #expect(trust.refusal([responder.leaf], answer: answer, says: "revoked", "2025-01-01", "superseded") == .revoked)
        let ignorant = try Responder(status: "-")
        let strict = ignorant.trust(.require)
        let shrug = try ignorant.answer(try ignorant.question(strict).request)
        let check = try #require(try strict.peer([ignorant.leaf], answer: shrug).revocationCheck)
        #expect(check.isRequired && check.sentence.contains("does not know"))
    }

    @Test("Without a responder to ask, `require` refuses and `auto` does not mind")
    func noResponder() throws {
        let authority = try Authority()
        let leaf = try authority.issue()
        #expect(authority.trust(ocsp: .require).refusal([leaf], says: "names no responder") == .revocationUnknown)
        #expect(try authority.trust(ocsp: .auto).peer([leaf]).revocationCheck == nil)
        let secure = try authority.issue { $0.ocspResponder = "https://ocsp.example" }
        #expect(authority.trust(ocsp: .require).refusal([secure]) == .revocationUnknown)
    }

    @Test("A delegated responder needs the CA's leave")
    func delegation() throws {
        let responder = try Responder()
        let trust = responder.trust(.require)
        let request = try responder.question(trust).request
        let signs = { (isGood: Bool, issuer: Authority, change: (inout CertificateTemplate) -> Void) in
            let key = try OpenSSLSigningKey(generating: .ecdsaP256)
            let certificate = try issuer.issue("responder", key: key) {
                $0.notBefore = responder.now - day
                $0.notAfter = responder.now + day
                change(&$0)
            }
            try responder.sign(by: certificate, key)
            let answer = try responder.answer(request)
            let check = try trust.peer([responder.leaf], answer: answer).revocationCheck
            #expect((check == nil) == isGood, "\(check?.sentence ?? "settled")")
            if !isGood { #expect(check?.sentence.contains("authorised") == true) }
        }
        try signs(true, responder.authority) { $0.extendedKeyUsage = ["OCSPSigning"] }
        try signs(false, responder.authority) { $0.extendedKeyUsage = ["serverAuth"] }
        try signs(false, responder.authority) { _ in }
        try signs(false, try Authority()) { $0.extendedKeyUsage = ["OCSPSigning"] }
        try signs(false, responder.authority) {
            $0.extendedKeyUsage = ["OCSPSigning"]
            $0.notAfter = responder.now - 10
        }
    }

    @Test("Answers to others' questions, old and damaged ones settle nothing")
    func staleAnswers() throws {
        let responder = try Responder()
        let trust = responder.trust(.require)
        let request = try responder.question(trust).request
        let answer = try responder.answer(request)
        let says = { (trust: CertificateTrust, response: [UInt8], words: String) in
            let check = try trust.peer([responder.leaf], answer: response).revocationCheck
            #expect(check?.sentence.contains(words) == true, "\(check?.sentence ?? "settled")")
        }
        // Another gateway (or this one after a restart) asked: its nonce is not ours.
        try says(responder.trust(.require), answer, "nonce")
        // Carried in IKE it may have any: the peer asked.
        #expect(try responder.trust(.require).peer([responder.leaf], carried: [answer]).revocationCheck == nil)
        let late = try responder.trust(.require, later: day + 400).peer([responder.leaf], carried: [answer]).revocationCheck
        #expect(late?.sentence.contains("too old") == true)
        #expect(try trust.peer([responder.leaf], answer: answer).revocationCheck == nil)
        let plain = try responder.answer(request, "-ndays", "1", "-resp_no_certs")
        #expect(try trust.peer([responder.leaf], answer: plain).revocationCheck == nil)
        // The certificates that a response carries are not signed with it, so the one without them is damaged.
        for index in plain.indices {
            var broken = plain
            broken[index] ^= 0x10
            #expect(try trust.peer([responder.leaf], answer: broken).revocationCheck != nil, "octet \(index)")
        }
        try says(trust, [], "cannot be read")
        try says(trust, [0x30, 0x03, 0x0A, 0x01, 0x06], "unauthorized")
        try says(trust, [UInt8](repeating: 0, count: 70_000), "too long")
        let other = try Responder()
        try says(trust, try other.answer(request), "authorised")
    }

    @Test("An answer without a nonce counts while it is fresh")
    func freshness() throws {
        let responder = try Responder()
        // The openssl command copies the nonce of the request: one without is ours, cut before its extensions.
        let request = try responder.question(responder.trust(.require)).request
        let cut = try withoutNonce(request)
        let answer = try responder.answer(cut)
        #expect(try responder.trust(.require).peer([responder.leaf], answer: answer).revocationCheck == nil)
        #expect(try responder.trust(.require, later: day + 200).peer([responder.leaf], answer: answer).revocationCheck == nil)
        let late = try responder.trust(.require, later: day + 400).peer([responder.leaf], answer: answer).revocationCheck
        #expect(late?.sentence.contains("too old") == true)
        let early = try responder.trust(.require, later: -3600).peer([responder.leaf], answer: answer).revocationCheck
        #expect(early?.sentence.contains("future") == true)
    }

    /// OCSPRequest ::= SEQUENCE { tbsRequest SEQUENCE { requestList SEQUENCE, [2] extensions } }: with the list alone.
    private func withoutNonce(_ request: [UInt8]) throws -> [UInt8] {
        // All lengths here are below 128 but for the two outer ones, which may take one octet more.
        var rest = request[...]
        for _ in 0..<2 {
            #expect(rest.removeFirst() == 0x30)
            if rest.removeFirst() & 0x80 != 0 { rest.removeFirst() }
        }
        let list = rest.prefix(2 + Int(rest[rest.startIndex + 1]))
        return [0x30, UInt8(list.count + 2), 0x30, UInt8(list.count)] + list
    }
}
