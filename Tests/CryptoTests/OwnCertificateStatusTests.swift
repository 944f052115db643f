import Crypto
import Foundation
import IKE
import Testing

/// OCSP responses for our own certificate: fetched, kept, and sent only while a peer would believe them.
extension RevocationTests {
    private final class Clock: @unchecked Sendable {
        var now: Int64
        init(_ now: Int64) { self.now = now }
    }

    private func status(_ responder: Responder, file: String? = nil) -> (OwnCertificateStatus, Clock) {
        let clock = Clock(responder.now)
        let status = OwnCertificateStatus(responder.leaf, issuer: responder.authority.certificate, file: file) { clock.now }
        return (status, clock)
    }

    private func question(_ status: OwnCertificateStatus) throws -> RevocationCheck {
        guard case .ask(let check) = status.poll() else { throw Missing() }
        return check
    }
    private struct Missing: Error {}
    private func isIdle(_ status: OwnCertificateStatus) -> Bool { if case .nothing = status.poll() { true } else { false } }

    @Test("What the responder says of our certificate is kept, believed by others, and renewed in time")
    func ownStatus() throws {
        let responder = try Responder()
        let (status, clock) = status(responder)
        #expect(status.isPending && status.current() == nil)
        let check = try question(status)
        #expect(check.responders == ["http://ocsp.example:8080/here"])
        #expect(isIdle(status), "one question at a time")
        let answer = try responder.answer(check.request)
        #expect(status.take(answer) == nil && !status.isPending && status.current() == answer)
        // The peer did not ask the responder: the answer has no nonce.
        #expect(try responder.trust(.require).peer([responder.leaf], answer: answer).revocationCheck == nil)
        #expect(responder.trust(.require).wantsOCSP && !responder.trust(.off).wantsOCSP)
        clock.now += 11 * 3600
        #expect(isIdle(status))
        clock.now += 3600 + 60
        _ = try question(status)
        #expect(status.take(nil)?.contains("no OCSP responder") == true && status.current() == answer)
        clock.now += 12 * 3600
        #expect(status.current() == nil, "past its next update")
    }

    @Test("A responder that is silent or says nothing useful is told about once, and asked again after a minute")
    func ownStatusFailures() throws {
        let responder = try Responder()
        let (status, clock) = status(responder)
        let check = try question(status)
        let sentence = try #require(status.take(nil))
        #expect(sentence.contains("CN=west") && sentence.contains("no OCSP responder") && sentence.hasSuffix("."))
        #expect(!status.isPending && isIdle(status))
        clock.now += 61
        _ = try question(status)
        #expect(status.take(nil) == nil, "no news")
        #expect(status.take([1, 2, 3])?.contains("cannot be read") == true && status.current() == nil)
        #expect(status.take(try responder.answer(check.request)) == nil && status.current() != nil)
    }

    @Test("Our own revocation is told to us and to nobody else")
    func ownRevocation() throws {
        let responder = try Responder(status: "R")
        let (status, _) = status(responder)
        let answer = try responder.answer(try question(status).request)
        #expect(status.take(answer)?.contains("revoked") == true && status.current() == nil)
    }

    @Test("A file is read again when it changes")
    func ownStatusFile() throws {
        let responder = try Responder()
        let path = "\(responder.folder.path)/stapled"
        let (status, clock) = status(responder, file: path)
        #expect(!status.isPending && status.current() == nil)
        let (asking, _) = self.status(responder)
        let answer = try responder.answer(try question(asking).request)
        try responder.folder.write("stapled", answer)
        #expect(status.current() == answer)
        try responder.folder.write("stapled", Array("rubbish".utf8))
        guard case .tell(let sentence) = status.poll() else { Issue.record("nothing is told"); return }
        #expect(sentence.contains("cannot be read") && sentence.contains(path))
        #expect(isIdle(status) && status.current() == answer, "the last good one")
        clock.now += 2 * day
        #expect(status.current() == nil)
    }
}
