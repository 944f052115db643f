import IKE
import IPsec
import Testing
import Wire

/// What a person reads when it does not work: the responder shows both sides, the initiator its own side, the notify and the
/// causes.
@Suite struct RefusalTests {
    func reasons(_ pair: Pair, after seconds: Double = 8) throws -> (east: String, west: String) {
        try pair.start()
        pair.run(seconds)
        return (pair.reason(pair.east), pair.reason(pair.west))
    }

    @Test func `different pre-shared keys`() throws {
        let pair = Pair()
        pair.westSide.secret = "quite another secret, just as long"
        let (east, west) = try reasons(pair)
        #expect(east.contains("AUTHENTICATION_FAILED") && east.contains("pre-shared key") && east.contains("east.example"))
        #expect(west.contains("pre-shared key") && west.contains("east.example") && west.contains("psk_file"))
        #expect(pair.east.status(now: pair.now)?.state == .failed)
        #expect(pair.west.status(now: pair.now)?.state == .failed)
        #expect(pair.east.downs.count == 1)
        for text in [east, west] + pair.east.logs + pair.west.logs {
            #expect(!text.contains(pair.eastSide.secret) && !text.contains(pair.westSide.secret))
        }
        #expect(pair.west.core.tableSizes["children"] == 0 && pair.east.installed.isEmpty && pair.west.installed.isEmpty)
    }

    /// It has not failed because somebody did; the reason says who and why.
    @Test func `a connection that takes anybody goes on listening after a refusal`() throws {
        let pair = Pair()
        (pair.westSide.secret, pair.westSide.remoteAddress) = ("quite another secret, just as long", nil)
        let (_, west) = try reasons(pair)
        #expect(west.contains("pre-shared key") && west.contains("east.example"))
        #expect(pair.west.status(now: pair.now)?.state == .down)
    }

    @Test func `a peer with another identity than expected`() throws {
        let pair = Pair()
        pair.eastSide.identity = .fqdn("stranger.example")
        let (east, west) = try reasons(pair)
        #expect(east.contains("AUTHENTICATION_FAILED") && east.contains("stranger.example"))
        #expect(west.contains("stranger.example") && west.contains("east.example") && west.contains("remote.id"))
    }

    @Test func `a responder with another identity than expected`() throws {
        let pair = Pair()
        pair.eastSide.remoteIdentity = .fqdn("north.example")
        let (east, west) = try reasons(pair)
        #expect(east.contains("north.example") && east.contains("west.example") && east.contains("remote.id"))
        #expect(west.contains("north.example") && west.contains("west.example") && west.contains("local.id"))
        #expect(west.contains("AUTHENTICATION_FAILED"))
        #expect(pair.east.installed.isEmpty && pair.west.installed.isEmpty)
        #expect(pair.west.faults.isEmpty)
    }

    @Test func `the identity that is asked for picks among connections`() throws {
        let pair = Pair()
        try pair.configureWest()
        var side = pair.westSide
        side.identity = .fqdn("north.example")
        var plan = try Pair.plan(side, local: pair.west.address)
        plan.name = "north"
        pair.west.core.addConnection(plan, now: pair.now)
        pair.eastSide.remoteIdentity = .fqdn("north.example")
        try pair.configureEast()
        #expect(pair.network.run(for: .seconds(5)) { pair.isUp(pair.east) })
        #expect(pair.west.status("north", now: pair.now)?.state == .established)
    }

    @Test func `no common IKE proposal`() throws {
        let pair = Pair()
        pair.westSide.ike = ["aes128gcm16-prfsha256-ecp256"]
        let (east, west) = try reasons(pair)
        #expect(east.contains("NO_PROPOSAL_CHOSEN") && east.contains("aes256gcm16-prfsha384-x25519"))
        #expect(west.contains("aes128gcm16-prfsha256-ecp256") && west.contains("aes256gcm16-prfsha384-x25519"))
        #expect(west.contains("encryption algorithm"))
        #expect(west.contains("add aes256gcm16-prfsha384-x25519 to ike_proposals of connection c"))
        #expect(pair.east.status(now: pair.now)?.state == .failed)
    }

    @Test func `no common ESP proposal leaves the IKE SA up`() throws {
        let pair = Pair()
        pair.westSide.esp = ["aes128gcm16"]
        _ = try reasons(pair)
        for node in [pair.east, pair.west] { #expect(node.status(now: pair.now)?.state == .established) }
        let east = pair.east.status(now: pair.now)?.children.first?.reason ?? ""
        let west = pair.west.status(now: pair.now)?.children.first?.reason ?? ""
        #expect(east.contains("NO_PROPOSAL_CHOSEN") && east.contains("esp_proposals"))
        #expect(west.contains("aes128gcm16") && west.contains("aes256gcm16") && west.contains("esp_proposals of child c/net"))
    }

    @Test func `selectors that do not overlap leave the IKE SA up`() throws {
        let pair = Pair()
        pair.westSide.children = [("net", ["10.77.0.0/24"], ["10.1.0.0/24"])]
        _ = try reasons(pair)
        for node in [pair.east, pair.west] {
            let status = node.status(now: pair.now)
            #expect(status?.state == .established && status?.reason == nil)
            #expect(status?.children.first?.state != .installed)
        }
        let east = pair.east.status(now: pair.now)?.children.first?.reason ?? ""
        let west = pair.west.status(now: pair.now)?.children.first?.reason ?? ""
        #expect(east.contains("TS_UNACCEPTABLE") && east.contains("10.2.0.0/24") && east.contains("remote_subnets"))
        #expect(west.contains("10.2.0.0/24") && west.contains("10.77.0.0/24") && west.contains("local_subnets"))
    }

    @Test func `a silent peer is told from the first retransmission on`() throws {
        let pair = Pair()
        pair.west.isAlive = false
        try pair.start()
        pair.run(0.1)
        #expect(pair.east.status(now: pair.now)?.state == .connecting)
        #expect(pair.east.status(now: pair.now)?.reason?.isEmpty == false)
        pair.run(0.5)
        let reason = pair.east.status(now: pair.now)?.reason ?? ""
        #expect(reason.contains("No answer from 192.0.2.2:500 to IKE_SA_INIT") && reason.contains("blocked"))
        pair.run(20.5)
        #expect(!pair.east.downs.isEmpty)
        #expect(pair.east.status(now: pair.now)?.reason?.contains("No answer") == true)
        // It tries again, and comes up when the peer is there.
        pair.west.isAlive = true
        #expect(pair.network.run(for: .seconds(25)) { pair.isUp })
        #expect(pair.east.status(now: pair.now)?.reason == nil)
    }

    @Test func `a peer that falls silent after IKE_SA_INIT`() throws {
        let pair = Pair()
        pair.network.filter = { bytes, _, _ in (try? WireMessage(parsing: bytes))?.header.exchange != .ikeAuth }
        let (east, _) = try reasons(pair)
        #expect(east.contains("IKE_AUTH") && east.contains("answered IKE_SA_INIT"))
    }

    @Test func `attempts are at least ten seconds apart, and the pauses grow, with jitter, up to a bound`() throws {
        let pair = Pair()
        pair.westSide.secret = "quite another secret, just as long"
        var starts: [Instant] = []
        pair.network.filter = { bytes, source, _ in
            if let header = try? WireMessage(parsing: bytes).header, header.exchange == .ikeSAInit, !header.isResponse {
                starts.append(pair.now)
            }
            return true
        }
        try pair.start()
        pair.run(300)
        let pauses = zip(starts.dropFirst(), starts).map { $0.0 - $0.1 }
        #expect(pauses.count >= 12)
        #expect(pauses.allSatisfy { $0 >= .seconds(10) && $0 <= .seconds(23) })
        #expect(pauses[0] < .seconds(12.1) && pauses.suffix(5).allSatisfy { $0 >= .seconds(20) })
        #expect(Set(pauses.suffix(5)).count == 5, "without jitter they would be equal")
        // The operator's word starts anew.
        starts = []
        #expect(pair.east.core.initiate(connection: "c", child: nil, now: pair.now))
        pair.run(15)
        #expect(starts.count == 2)
    }

    @Test func `a manual connection fails once and stays down`() throws {
        let pair = Pair()
        pair.westSide.secret = "quite another secret, just as long"
        pair.eastSide.start = .manual
        try pair.start()
        #expect(pair.east.core.initiate(connection: "c", child: nil, now: pair.now))
        pair.run(60)
        #expect(pair.east.status(now: pair.now)?.state == .failed)
        #expect(pair.east.downs.count == 1)
    }

    /// strongSwan 6 does when it cannot install what it has agreed to. RFC 7296 §3.10.1
    @Test(arguments: [ExchangeType.ikeAuth, .createChildSA], [NotifyType.noProposalChosen, NotifyType(10_000)])
    func `an agreement with an error beside it is a refusal`(_ exchange: ExchangeType, _ error: NotifyType) throws {
        let pair = Pair()
        var answer: (bytes: [UInt8], path: Path)?
        pair.network.filter = { bytes, source, destination in
            guard source.address == pair.west.address, bytes[18] == exchange.rawValue, answer == nil else { return true }
            answer = (bytes, Path(local: destination, remote: source))
            return false
        }
        try pair.start()
        if exchange == .createChildSA {
            #expect(pair.network.run(for: .seconds(5)) { pair.isUp })
            #expect(pair.east.core.rekey(connection: "c", child: "net", ike: false, now: pair.now))
        }
        #expect(pair.network.run(for: .seconds(2)) { answer != nil })
        let (bytes, path) = try #require(answer)
        let forge = try #require(Forge(pair.west))
        let amended = try forge.amended(bytes, with: .notify(Notify(error)))
        let before = pair.east.installations
        pair.east.core.handleDatagram(amended, path: path, now: pair.now)
        pair.east.takeEvents(now: pair.now)
        #expect(pair.east.installations == before, "there is nothing that the peer would receive on")
        #expect(pair.east.status(now: pair.now)?.state == .established)
        let child = try #require(pair.east.status(now: pair.now)?.children.first)
        let reason = try #require(exchange == .ikeAuth ? child.reason : child.problem)
        #expect(reason.contains(error == .noProposalChosen ? "could not install" : "10000"), "\(reason)")
    }

    @Test func `a forged refusal does not stop a genuine answer`() throws {
        let pair = Pair()
        try pair.configureWest()
        pair.network.filter = { bytes, source, destination in
            guard let message = try? WireMessage(parsing: bytes), message.header.exchange == .ikeSAInit,
                !message.header.isResponse
            else { return true }
            for type in [NotifyType.noProposalChosen, .authenticationFailed, .invalidSyntax, .invalidMajorVersion] {
                let forged = WireMessage.encodeClear(message.header.response(), [.notify(Notify(type))])
                pair.east.core.handleDatagram(forged, path: Path(local: source, remote: destination), now: pair.now)
            }
            return true
        }
        try pair.configureEast()
        #expect(pair.network.run(for: .seconds(5)) { pair.isUp })
    }

    @Test func `reasons are sentences in every state but established`() throws {
        let pair = Pair()
        pair.eastSide.start = .manual
        pair.westSide.remoteAddress = nil
        try pair.start()
        for node in [pair.east, pair.west] {
            let reason = node.status(now: pair.now)?.reason ?? ""
            #expect(reason.hasSuffix(".") && node.status(now: pair.now)?.state == .down)
        }
    }
}
