import IKE
import Testing
import Wire

/// The log says what goes on once, and then now and then; what was refused is kept, whoever floods.
@Suite struct RepetitionTests {
    private func at(_ seconds: Int) -> Instant { Instant(nanoseconds: UInt64(seconds) * 1_000_000_000) }
    private let subject = Repetitions.Subject("c", Reason(.noAnswer, "No answer."))

    @Test func `it is told at growing intervals, with the count`() {
        var repetitions = Repetitions()
        var told: [Int: Repetitions.Verdict] = [:]
        for second in stride(from: 0, to: 7200, by: 10) {
            let verdict = repetitions.note(subject, now: at(second))
            if verdict != .isKnown { told[second] = verdict }
        }
        #expect(told[0] == .isNews)
        #expect(told[60] == .goesOn(count: 7, since: at(0)))
        #expect(told.keys.sorted() == [0, 60, 180, 420, 900, 1860, 3780])
    }

    @Test func `the end tells how often it was, and what comes after a calm is news`() throws {
        var repetitions = Repetitions()
        for second in [0, 10, 20] { _ = repetitions.note(subject, now: at(second)) }
        let ended = repetitions.end(connection: "c", parts: [""], now: at(30))
        let end = try #require(ended)
        #expect(end.count == 3 && end.since == at(0))
        #expect(repetitions.end(connection: "c", parts: [""], now: at(31)) == nil)
        // It only comes and goes.
        #expect(repetitions.note(subject, now: at(40)) == .isKnown)
        #expect(repetitions.note(subject, now: at(91)) == .isNews)
    }

    @Test func `what is up again is news after trouble that was news, and not when it only comes and goes`() {
        var repetitions = Repetitions()
        let isUp = Repetitions.Subject("c", part: "up", Reason(.connecting, ""))
        #expect(repetitions.noteUp(isUp, now: at(0)) == .isNews)
        #expect(repetitions.noteUp(isUp, now: at(10)) == .isKnown)
        #expect(repetitions.note(subject, now: at(20)) == .isNews)
        #expect(repetitions.noteUp(isUp, now: at(30)) == .isNews)
        #expect(repetitions.note(subject, now: at(40)) == .isKnown)
        #expect(repetitions.noteUp(isUp, now: at(50)) == .isKnown)
        #expect(repetitions.count == 2)
    }

    @Test func `children, connections and causes are told apart`() {
        var repetitions = Repetitions()
        #expect(repetitions.note(subject, now: at(0)) == .isNews)
        #expect(repetitions.note(.init("c", part: "net", Reason(.noAnswer, "")), now: at(0)) == .isNews)
        #expect(repetitions.note(.init("d", Reason(.noAnswer, "")), now: at(0)) == .isNews)
        #expect(repetitions.note(.init("c", Reason(.identity, "")), now: at(0)) == .isNews)
        // The numbers in a sentence do not make another subject; what has no code is its words.
        #expect(repetitions.note(.init("c", Reason(.noAnswer, "No answer in 3 s.")), now: at(1)) == .isKnown)
        #expect(repetitions.note(.init("c", "one"), now: at(0)) == .isNews)
        #expect(repetitions.note(.init("c", "two"), now: at(0)) == .isNews)
        #expect(repetitions.end(connection: "c", parts: ["net"], now: at(2))?.count == 1)
        repetitions.forget(connection: "c")
        #expect(repetitions.count == 1)
    }

    @Test func `a flood of subjects takes no more than its room`() {
        var repetitions = Repetitions()
        for number in 0..<(3 * Repetitions.limit) {
            _ = repetitions.note(.init(nil, part: "\(number)", Reason(.unknownPeer, "")), now: at(number / 100))
            #expect(repetitions.count <= Repetitions.limit)
        }
    }

    private func endpoint(_ number: Int) -> Endpoint {
        Endpoint(.v4(IPv4Address(bits: UInt32(0x0A00_0000 + number))), 500)
    }

    @Test func `one entry per source and cause, counted`() throws {
        var peers = RefusedPeers()
        for second in 0..<5 { peers.note(Reason(.identity, "no \(second)"), from: endpoint(1), connection: "c", now: at(second)) }
        peers.note(Reason(.ikeProposals, "none"), from: endpoint(1), connection: "c", now: at(9))
        let recent = peers.recent(at(10))
        #expect(recent.map(\.count) == [1, 5])
        #expect(recent.last?.reason.sentence == "no 4" && recent.last?.last == at(4))
        peers.forget(connection: "c")
        #expect(peers.recent(at(10)).isEmpty)
    }

    @Test func `a flood from made-up addresses does not push out who comes again, nor another cause`() {
        var peers = RefusedPeers()
        peers.note(Reason(.identity, "identity"), from: endpoint(1), connection: nil, now: at(0))
        for second in [0, 10] { peers.note(Reason(.unknownPeer, "peer"), from: endpoint(2), connection: nil, now: at(second)) }
        for number in 100..<10_000 {
            peers.note(Reason(.unknownPeer, "flood"), from: endpoint(number), connection: nil, now: at(20 + number / 1000))
        }
        let recent = peers.recent(at(40))
        #expect(recent.contains { $0.from == endpoint(1) } && recent.contains { $0.from == endpoint(2) && $0.count == 2 })
        #expect(recent.count <= 2 * RefusedPeers.entriesPerCause)
        #expect(peers.recent(at(40) + RefusedPeers.lifetime).isEmpty)
    }

    @Test func `all addresses of an IPv6 network are one source`() throws {
        var peers = RefusedPeers()
        for number in 1...5 {
            let address = try #require(IPAddress("2001:db8::\(number)"))
            peers.note(Reason(.unknownPeer, "peer"), from: Endpoint(address, 500), connection: nil, now: at(number))
        }
        #expect(peers.recent(at(6)).map(\.count) == [5])
    }
}
