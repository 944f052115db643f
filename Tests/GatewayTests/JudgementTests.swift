@testable import Gateway
import Configuration
@testable import Dataplane
import IKE
import IPsec
import Testing
import Wire

@Suite("Judging a connection")
struct ConnectionJudgementTests {
    private let path = Path(local: Endpoint(ip("192.0.2.1"), 500), remote: Endpoint(ip("192.0.2.2"), 500))

    private func status(
        _ state: ConnectionStatus.State = .established, reason: Reason? = nil, encapsulated: Bool = false,
        remote: [String] = ["10.2.0.0/24"]
    ) -> ConnectionStatus {
        var child = ConnectionStatus.Child(
            name: "net", state: state == .established ? .installed : .down, reason: nil,
            path: TunnelPath(
                local: ip("192.0.2.1"), remote: ip("192.0.2.2"), localPort: encapsulated ? 4500 : 0,
                remotePort: encapsulated ? 4500 : 0),
            localSelectors: [selector("10.1.0.0/24")], remoteSelectors: remote.map { selector($0) }, rekeys: 0)
        child.isWanted = true
        let ike = ConnectionStatus.IKE(
            initiatorSPI: 1, responderSPI: 2, isInitiator: true, proposal: "", establishedAt: at(0), rekeyAt: nil,
            localNAT: false, remoteNAT: false, localIdentity: .fqdn("east.example"), remoteIdentity: .fqdn("west.example"),
            path: path)
        return ConnectionStatus(
            name: "west", state: state, reason: reason, ike: state == .established ? ike : nil, children: [child])
    }

    private func judgement(_ status: ConnectionStatus, _ traffic: [String: [ChildTraffic]] = [:]) -> ConnectionJudgement {
        var west = connection()
        west.places = ConfigurationPlaces(line: 8, lines: ["nat_traversal": 12, "net/remote_subnets": 20])
        return ConnectionJudgement(configured: west, status: status, traffic: traffic, interface: "wan0", now: at(100))
    }

    private func traffic(_ steps: [(at: Double, packetsIn: UInt64, packetsOut: UInt64)]) -> [String: [ChildTraffic]] {
        var record = TrafficRecord(installedAt: at(0))
        for step in steps { record.observe(packetsIn: step.packetsIn, packetsOut: step.packetsOut, now: at(step.at)) }
        return ["net": [ChildTraffic(record: record, pathMTU: 1500)]]
    }

    private func codes(_ judgement: ConnectionJudgement, beside: Set<CauseCode> = []) -> [CauseCode] {
        Cause.roots(judgement.causes, beside: beside).map(\.code)
    }

    @Test func `packets both ways are no cause, nor are none at all`() {
        #expect(codes(judgement(status(), traffic([(1, 5, 5), (90, 1, 1)]))).isEmpty)
        #expect(codes(judgement(status())).isEmpty)
    }

    @Test func `packets that go out and never come back, while IKE passes: ESP is dropped, or nobody answers`() throws {
        let causes = judgement(status(), traffic([(90, 0, 2), (92, 0, 3)])).causes
        let cause = try #require(causes.first)
        #expect(causes.count == 1 && cause.code == .espNoReturn && cause.severity == .problem && cause.child == "net")
        #expect(cause.sentence.hasPrefix("5 packets went out within 10 s, and none came back, while IKE passes"))
        #expect(cause.remedy.contains("nat_traversal: force") && cause.line == 12)
    }

    @Test func `in UDP beside IKE it is the far side, and so it is where a sibling receives`() throws {
        let cause = try #require(judgement(status(encapsulated: true), traffic([(90, 0, 5)])).causes.first)
        #expect(cause.code == .espNoReturn && cause.sentence.contains("ESP goes in UDP") && cause.remedy.contains("10.2.0.0/24"))
        var both = traffic([(90, 0, 5)])
        both["voice"] = traffic([(95, 1, 1)])["net"]
        let sibling = try #require(judgement(status(), both).causes.first)
        #expect(sibling.sentence.contains("Other children of this peer receive") && !sibling.remedy.contains("force"))
    }

    @Test(arguments: [(99.0, UInt64(50)), (90.0, UInt64(2))])
    func `a moment, or a packet or two, is not judged`(_ since: Double, _ packets: UInt64) {
        #expect(codes(judgement(status(), traffic([(since, 0, packets)]))).isEmpty)
    }

    @Test func `one direction that stops after both were there needs longer, and is a warning`() throws {
        #expect(codes(judgement(status(), traffic([(50, 5, 5), (90, 0, 50)]))).isEmpty)
        let cause = try #require(judgement(status(), traffic([(50, 5, 5), (80, 0, 50)])).causes.first)
        #expect(cause.code == .trafficNoReturn && cause.severity == .warning && cause.sentence.contains("came 50 s ago"))
    }

    @Test func `packets that come in and get no answer: the hosts here`() throws {
        let cause = try #require(judgement(status(), traffic([(90, 34, 0)])).causes.first)
        #expect(cause.code == .noLocalAnswer && cause.sentence.hasPrefix("34 packets came out of the tunnel within 10 s"))
        #expect(cause.remedy.contains("10.1.0.0/24 are up and have a route to 10.2.0.0/24"))
        #expect(codes(judgement(status(), traffic([(90, 34, 0)])), beside: [.interfaceUnusable]).isEmpty)
    }

    @Test func `a silent peer is told from the first repeated check on, and hides what follows from it`() throws {
        var silent = status()
        silent.liveness = .init(lastHeard: at(88), pendingSince: at(97), unanswered: 1, planned: 8)
        #expect(codes(judgement(silent)).isEmpty)
        silent.liveness?.unanswered = 3
        let judged = judgement(silent, traffic([(90, 0, 50)]))
        #expect(codes(judged) == [.peerSilent])
        let sentence = judged.causes.first?.sentence
        #expect(sentence == "Nothing has come from 192.0.2.2 for 12 s; 3 of 8 checks of the last 3 s are unanswered.")
    }

    @Test func `loss is told from enough packets on, and not beside a black hole`() throws {
        var lossy = traffic([(99, 5, 5)])
        lossy["net"]?[0].loss = .init(expected: 100, lost: 40)
        let cause = try #require(judgement(status(), lossy).causes.first)
        #expect(cause.code == .pathLoss && cause.sentence.contains("40 of the last 100") && cause.sentence.contains("40.0 %"))
        lossy["net"]?[0].loss = .init(expected: 10_000, lost: 100)
        #expect(codes(judgement(status(), lossy)).isEmpty)
        lossy["net"]?[0].loss = .init(expected: 20, lost: 8)
        #expect(codes(judgement(status(), lossy)).isEmpty)
        var hole = status()
        hole.pathProbe = .init(largest: 1500, passed: 1300, failed: 1320, isLossy: false, finishedAt: at(95))
        lossy["net"]?[0].loss = .init(expected: 100, lost: 40)
        #expect(codes(judgement(hole, lossy)) == [.mtuBlackHole])
    }

    @Test func `large datagrams that vanish are told with what passes, until no larger one is sent`() throws {
        var hole = status()
        hole.pathProbe = .init(largest: 1500, passed: 1300, failed: 1320, isLossy: false, finishedAt: at(95))
        let cause = try #require(judgement(hole, traffic([(99, 5, 5)])).causes.first)
        #expect(cause.code == .mtuBlackHole && cause.remedy.contains("`ip link set wan0 mtu 1300`"))
        var mended = traffic([(99, 5, 5)])
        mended["net"]?[0].pathMTU = 1300
        #expect(codes(judgement(hole, mended)).isEmpty)
        hole.pathProbe?.isLossy = true
        #expect(codes(judgement(hole, traffic([(99, 5, 5)]))).isEmpty)
    }

    @Test func `what the peer narrowed is named, but not where that is meant`() throws {
        var judged = judgement(status())
        judged.configured.children[0].remoteSubnets = [prefix("10.2.0.0/16")]
        let cause = try #require(judged.causes.first)
        #expect(cause.code == .selectorsNarrowed && cause.line == 20)
        #expect(cause.sentence.contains("10.1.0.0/24 <-> 10.2.0.0/16, agreed was 10.1.0.0/24 <-> 10.2.0.0/24"))
        judged.configured.children[0].remoteIsDynamic = true
        #expect(judged.causes.isEmpty)
    }

    @Test func `two addresses that take turns as one identity are the cause, not that it comes and goes`() throws {
        var turns = status()
        turns.losses = (deaths: 3, deletions: 0)
        #expect(codes(judgement(turns)) == [.flapping])
        turns.sharedIdentities = [
            .init(identity: .fqdn("east.example"), addresses: [ip("192.0.2.1"), ip("192.0.2.9")], turns: 3, at: at(90))
        ]
        #expect(codes(judgement(turns)) == [.identityShared])
        #expect(judgement(turns).causes.first?.sentence.hasPrefix("192.0.2.1 and 192.0.2.9 take turns as east.example") == true)
    }

    @Test func `a port that is unreachable says that the machine is there; a router that refuses is named`() {
        var judged = judgement(status(.connecting, reason: Reason(.noAnswer, "No answer.")))
        #expect(codes(judged) == [.ikeNoAnswer])
        judged.unreachable = UnreachableReport(
            kind: .port, remote: ip("192.0.2.2"), port: 500, local: ip("192.0.2.1"), reporter: ip("192.0.2.2"), at: at(98))
        #expect(codes(judged) == [.ikePortUnreachable])
        judged.unreachable = UnreachableReport(
            kind: .prohibited, remote: ip("192.0.2.2"), port: 500, local: ip("192.0.2.1"), reporter: ip("198.51.100.1"),
            at: at(98))
        #expect(codes(judged) == [.ikeProhibited] && judged.causes.last?.remedy.contains("at 198.51.100.1") == true)
        judged.unreachable?.at = at(20)
        #expect(codes(judged) == [.ikeNoAnswer])
    }

    @Test func `what waits to be asked is in order, what failed is not, and our own problem comes before all`() {
        for code in [Reason.Code.waitingForTraffic, .waitingForOperator, .waitingForPeer] {
            #expect(codes(judgement(status(.down, reason: Reason(code, "It waits.")))).isEmpty)
        }
        let down = judgement(status(.down, reason: Reason(.takenDown, "Taken down.")))
        #expect(Cause.roots(down.causes).first?.severity == .notice)
        #expect(codes(judgement(status(.failed, reason: Reason(.authentication, "Refused.")))) == [.ikeFailed])
        #expect(codes(judgement(status(.failed, reason: Reason(.sendFailed, "No route.")))) == [.ikeSendFailed])
        var ours = judgement(status(.failed, reason: Reason(.noAnswer, "No answer.")))
        ours.localProblem = "The interface wan0 is down."
        #expect(codes(ours) == [.localPath])
    }

    @Test func `who was refused is told: a warning while the connection is not up, a notice when it is or must not be`() {
        let stranger = RefusedPeer(
            from: Endpoint(ip("198.51.100.7"), 500), connection: "west", reason: Reason(.unknownPeer, "No connection is for it."),
            count: 3, last: at(88))
        func told(_ status: ConnectionStatus) -> Cause? {
            var refusing = status
            refusing.refusals = [stranger]
            return judgement(refusing).causes.first { $0.code == .refusals }
        }
        let silent = told(status(.connecting, reason: Reason(.noAnswer, "No answer.")))
        #expect(silent?.severity == .warning)
        #expect(silent?.sentence == "No connection is for it. (3 times, the last one 12s ago)")
        #expect(told(status())?.severity == .notice)
        #expect(told(status(.down, reason: Reason(.takenDown, "Taken down.")))?.severity == .notice)
        var same = status(.failed, reason: stranger.reason)
        same.refusals = [stranger]
        #expect(!codes(judgement(same)).contains(.refusals), "the reason that it is down is told already")
    }

    @Test func `a wanted child that is missing is a problem; one that nobody wants is not`() {
        var missing = status()
        missing.children[0].state = .down
        #expect(codes(judgement(missing)) == [.childDown])
        missing.children[0].isWanted = false
        #expect(codes(judgement(missing)).isEmpty)
    }
}

@Suite("What causes are made from")
struct CauseTests {
    @Test func `every code has a row with a title, and hides nothing that does not exist`() {
        for code in CauseCode.allCases {
            #expect(CauseEntry.table[code] != nil && !code.entry.title.isEmpty, "\(code)")
            #expect(!code.entry.hiddenBy.contains(code))
            #expect(code.rawValue.allSatisfy { $0.isLowercase || $0.isNumber || $0 == "-" })
        }
        #expect(Set(CauseCode.allCases.map(\.entry.title)).count == CauseCode.allCases.count)
    }

    @Test func `loss is the gaps below the highest number, of the last packets alone`() {
        var meter = LossMeter(now: at(0))
        meter.observe(sequence: 10, authentic: 10, now: at(1))
        #expect(meter.recent == .init(expected: 10, lost: 0))
        meter.observe(sequence: 100, authentic: 60, now: at(6))
        #expect(meter.recent == .init(expected: 100, lost: 40))
        meter.observe(sequence: 200, authentic: 160, now: at(10))
        #expect(meter.recent == .init(expected: 200, lost: 40))
        meter.observe(sequence: 250, authentic: 210, now: at(12))
        #expect(meter.recent == .init(expected: 150, lost: 0))
        // What comes late is not lost after all.
        meter.observe(sequence: 260, authentic: 225, now: at(13))
        #expect(meter.recent.lost == 0)
    }

    @Test func `drops are told when they go on, and not when they are meant`() {
        let judged = GatewayJudgement(
            interfaceProblems: [:], recentDrops: [.noRoute: 40, .noNeighbour: 3, .policyDiscard: 9_000], recentSince: at(90),
            now: at(100))
        #expect(judged.causes.map(\.code) == [.packetsDropped])
        #expect(judged.causes.first?.sentence == "no-route, 40 packets within 10 s: no route to the destination.")
        let down = GatewayJudgement(
            interfaceProblems: ["lan0": "The interface lan0 is down."], recentDrops: [.noRoute: 40], now: at(100))
        #expect(Cause.roots(down.causes).map(\.code) == [.interfaceUnusable])
    }

    @Test func `a stranger that comes again while a peer is missing may be it: a warning; else a notice`() {
        func severity(count: Int, isPeerMissing: Bool, at last: Double = 95) -> Cause.Severity? {
            let stranger = RefusedPeer(
                from: Endpoint(ip("198.51.100.7"), 500), connection: nil, reason: Reason(.unknownPeer, "Nobody is expected."),
                count: count, last: at(last))
            return GatewayJudgement(
                interfaceProblems: [:], refusedStrangers: [stranger], isPeerMissing: isPeerMissing, now: at(400)
            ).causes.first?.severity
        }
        #expect(severity(count: 2, isPeerMissing: true, at: 395) == .warning)
        #expect(severity(count: 1, isPeerMissing: true, at: 395) == .notice)
        #expect(severity(count: 9, isPeerMissing: false, at: 395) == .notice)
        #expect(severity(count: 9, isPeerMissing: true, at: 95) == .notice)
    }

    @Test func `recent drops are those since the oldest of the kept readings`() {
        var keeper = EvidenceKeeper()
        #expect(keeper.isDue(at(0)) && keeper.recent([.noRoute: 5]).drops.isEmpty)
        for second in [0, 5, 10, 15] { keeper.take([.noRoute: UInt64(second)], now: at(Double(second))) }
        #expect(!keeper.isDue(at(19)) && keeper.recent([.noRoute: 25]).drops == [.noRoute: 20])
    }

    /// 192.0.2.2 says "port unreachable" about our datagram from port 500 to its port 500.
    private var unreachable: [UInt8] {
        let outer: [UInt8] = [0x45, 0, 0, 56, 0, 0, 0, 0, 64, 1, 0, 0, 192, 0, 2, 2, 192, 0, 2, 1, 3, 3, 0, 0, 0, 0, 0, 0]
        let inner: [UInt8] = [0x45, 0, 0, 99, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, 1, 0xF4, 1, 0xF4, 0, 79, 0, 0]
        return outer + inner
    }

    @Test func `an ICMP error about our IKE is read, about anything else not, and no length breaks it`() throws {
        let report = try #require(UnreachableReport(unreachable, ports: [500, 4500], now: at(0)))
        #expect(report.kind == .port && report.remote == ip("192.0.2.2") && report.port == 500)
        #expect(report.local == ip("192.0.2.1") && report.reporter == ip("192.0.2.2"))
        #expect(UnreachableReport(unreachable, ports: [4500], now: at(0)) == nil)
        var tooBig = unreachable
        tooBig[21] = 4
        #expect(UnreachableReport(tooBig, ports: [500], now: at(0)) == nil)
        for length in 0..<unreachable.count - 4 {
            #expect(UnreachableReport(Array(unreachable.prefix(length)), ports: [500], now: at(0)) == nil)
        }
        let six: [UInt8] =
            [1, 4, 0, 0, 0, 0, 0, 0, 0x60, 0, 0, 0, 0, 8, 17, 64] + [UInt8](repeating: 1, count: 16)
            + [UInt8](repeating: 2, count: 16) + [1, 0xF4, 1, 0xF4, 0, 8, 0, 0]
        let reported = UnreachableReport(icmpv6: six, from: v6("2001:db8::2"), ports: [500], now: at(0))
        #expect(reported?.kind == .port && reported?.port == 500)
        for length in 0..<52 {
            #expect(UnreachableReport(icmpv6: Array(six.prefix(length)), from: v6("::1"), ports: [500], now: at(0)) == nil)
        }
    }

    @Test func `the lifecycle knows when packets came and went last, and forgets with the last SA`() {
        let dataplane = FakeDataplane()
        let lifecycle = SALifecycle(dataplane: dataplane)
        _ = lifecycle.install(childSA(0x100, 0x200), childIndex: 0, token: 1)
        _ = lifecycle.inboundReady(token: 1, now: at(0))
        var counters = SACounters()
        (counters.packetsOut, counters.pathMTU) = (4, 1500)
        dataplane.byInboundSPI[0x100] = counters
        _ = lifecycle.poll(now: at(1))
        // Authentic, and outside of the selectors: it has come all the same.
        (counters.authenticIn, counters.sequenceIn) = (30, 40)
        dataplane.byInboundSPI[0x100] = counters
        _ = lifecycle.poll(now: at(2))
        let seen = lifecycle.traffic(of: ChildKey("west", "net")).first
        #expect(seen?.record.lastOut == at(1) && seen?.record.lastIn == at(2) && seen?.pathMTU == 1500)
        #expect(seen?.record.unansweredOut == nil && seen?.lossPercent == 25)
        lifecycle.remove(inboundSPI: 0x100, now: at(3))
        lifecycle.retired(inboundSPI: 0x100, final: counters)
        #expect(lifecycle.traffic(of: ChildKey("west", "net")).isEmpty)
    }
}
