import Crypto
import IPsec
import Testing
import Wire

@testable import IKE

/// What the operator does and reads: up, down, refusals, what is said once.
@Suite struct OperatorTests {
    // MARK: Down

    @Test func `what was taken down stays down, whoever wants it, until it is wanted up`() throws {
        let pair = Pair()
        pair.westSide.start = .immediately
        #expect(try pair.establish())
        #expect(pair.west.core.terminate(connection: "c", child: nil, now: pair.now))
        pair.run(90)
        let west = try #require(pair.west.status(now: pair.now))
        #expect(west.state == .down && west.situation == .takenDown)
        #expect(pair.east.installed.isEmpty && pair.west.installed.isEmpty)
        #expect(west.refusals.first?.reason.code == .takenDown && west.refusals.first?.count ?? 0 >= 3)
        #expect(pair.west.said.count { $0.contains("taken down by the operator") } == 1)
        #expect(pair.west.said.count { $0.contains("took it down") } <= 2)
        #expect(pair.east.status(now: pair.now)?.reason?.code == .peerUnwilling)
        // Traffic does not either.
        pair.west.core.trafficWantsTunnel(connection: "c", child: "net", now: pair.now)
        pair.run(1)
        #expect(pair.west.installed.isEmpty)
        #expect(pair.west.core.initiate(connection: "c", child: nil, now: pair.now))
        #expect(pair.network.run(for: .seconds(30)) { pair.isUp })
        #expect(pair.west.status(now: pair.now)?.refusals.isEmpty == false, "what was refused is history, not forgotten")
    }

    @Test func `a child that was taken down is not made by the peer, and its siblings go on`() throws {
        let pair = Pair()
        pair.eastSide.children.append(("two", ["10.3.0.0/24"], ["10.4.0.0/24"]))
        pair.westSide.children.append(("two", ["10.4.0.0/24"], ["10.3.0.0/24"]))
        #expect(try pair.establish())
        #expect(pair.west.core.terminate(connection: "c", child: "two", now: pair.now))
        pair.run(60)
        let children = try #require(pair.west.status(now: pair.now)?.children)
        #expect(children.map(\.state) == [.installed, .down])
        #expect(children.last?.reason?.code == .takenDown)
        #expect(pair.west.said.contains { $0.contains("c/two was taken down by the operator") })
        #expect(pair.east.status(now: pair.now)?.children.last?.reason?.contains("NO_ADDITIONAL_SAS") == true)
        #expect(pair.west.core.initiate(connection: "c", child: "two", now: pair.now))
        #expect(pair.west.status(now: pair.now)?.children.last?.reason == nil, "an old reason is no outcome of this request")
        #expect(pair.network.run(for: .seconds(10)) { pair.isUp })
    }

    @Test func `what was taken down stays down when its connection changes`() throws {
        let pair = Pair()
        #expect(try pair.establish())
        #expect(pair.west.core.terminate(connection: "c", child: nil, now: pair.now))
        pair.west.core.removeConnection("c", isChanged: true, now: pair.now)
        try pair.configureWest()
        pair.run(30)
        #expect(pair.west.status(now: pair.now)?.situation == .takenDown && pair.west.installed.isEmpty)
    }

    // MARK: Refusals

    @Test func `a peer with an address that no connection has is kept, with its count`() throws {
        let pair = Pair()
        pair.westSide.remoteAddress = IPAddress("192.0.2.77")
        try pair.start()
        pair.run(60)
        let refused = try #require(pair.west.core.refusedStrangers(now: pair.now).first)
        #expect(refused.from.address == pair.east.address && refused.reason.code == .unknownPeer && refused.count >= 3)
        #expect(pair.west.said.count { $0.contains("no connection has remote.address") } <= 2)
    }

    @Test(arguments: [(UInt8(2), "main mode"), (4, "aggressive mode")])
    func `a peer that speaks IKEv1 is told so in IKEv1, and so is the operator`(exchange: UInt8, mode: String) throws {
        let pair = Pair()
        try pair.configureWest()
        var first: [UInt8] = []
        first.append(u64: 0x0102_0304_0506_0708)
        first.append(u64: 0)
        first += [1, 0x10, exchange, 0]
        first.append(u32: 0)
        first.append(u32: 60)
        first += [UInt8](repeating: 0, count: 32)
        let path = Path(local: Endpoint(pair.west.address, 500), remote: Endpoint(pair.east.address, 500))
        pair.west.core.handleDatagram(first, path: path, now: pair.now)
        pair.west.takeEvents(now: pair.now)
        let answer = try #require(pair.west.core.pollTransmit()).bytes
        #expect(answer.count == 40 && Array(answer[..<8]) == Array(first[..<8]))
        #expect(answer[16] == 11 && answer[17] == 0x10 && answer[18] == 5, "an informational exchange with a notification")
        #expect(Array(answer[28...]) == [0, 0, 0, 12, 0, 0, 0, 1, 1, 0, 0, 5], "INVALID-MAJOR-VERSION of RFC 2408")
        let status = try #require(pair.west.status(now: pair.now))
        #expect(status.refusals.first?.reason.code == .ikeVersion)
        #expect(status.reason?.contains("IKEv1 only (it began \(mode))") == true)
        #expect(pair.west.said.contains { $0.contains("IKEv1 only") })
    }

    @Test func `an answer to IKEv1 answers nothing that is no first message`() throws {
        let pair = Pair()
        try pair.configureWest()
        let path = Path(local: Endpoint(pair.west.address, 500), remote: Endpoint(pair.east.address, 500))
        for (responder, exchange) in [(UInt64(5), UInt8(2)), (0, 5), (0, 34)] {
            var bytes: [UInt8] = []
            bytes.append(u64: 1)
            bytes.append(u64: responder)
            bytes += [1, 0x10, exchange, 0]
            bytes.append(u32: 0)
            bytes.append(u32: 28)
            pair.west.core.handleDatagram(bytes, path: path, now: pair.now)
        }
        #expect(pair.west.core.pollTransmit() == nil)
    }

    @Test func `a peer that wants transport mode is said`() throws {
        let pair = Pair()
        try pair.start()
        pair.network.filter = nil
        #expect(pair.network.run(for: .seconds(5)) { pair.isUp })
        let forge = try #require(Forge(pair.east))
        let plan = try Pair.plan(pair.eastSide, local: pair.east.address)
        let offer = pair.east.core.makeOffer(plan.children[0], selectors: nil, withMethods: true)
        let request = try forge.request(
            .createChildSA,
            [
                .notify(Notify(.useTransportMode)), .securityAssociation(offer.proposals),
                .nonce([UInt8](repeating: 7, count: 32)),
            ] + pair.east.core.childPayloads(offer).dropFirst(), id: forge.sa.nextRequestID)
        pair.west.core.handleDatagram(
            request, path: Path(local: forge.sa.path.remote, remote: forge.sa.path.local), now: pair.now)
        pair.west.takeEvents(now: pair.now)
        #expect(pair.west.status(now: pair.now)?.refusals.first?.reason.code == .transportMode)
        #expect(pair.west.said.contains { $0.contains("transport mode") && $0.contains("tunnel mode") })
    }

    @Test func `selectors that are exchanged name the end to change, by where its hosts are`() throws {
        for (networks, wanted) in [
            ([LocalNetwork(interface: "lan0", address: IPAddress("10.2.0.1")!)], "This end is right, because lan0 (10.2.0.1)"),
            ([LocalNetwork(interface: "lan0", address: IPAddress("10.1.0.1")!)], "Change this end, because lan0 (10.1.0.1)"),
            ([], "at one of the ends"),
        ] {
            let pair = Pair()
            pair.eastSide.children = [("net", ["10.2.0.0/24"], ["10.1.0.0/24"])]
            pair.west.core.localNetworks = networks
            pair.east.core.localNetworks = [LocalNetwork(interface: "lan1", address: IPAddress("10.1.0.9")!)]
            try pair.start()
            pair.run(8)
            let west = pair.west.status(now: pair.now)?.children.first?.reason?.sentence ?? ""
            #expect(west.contains("are exchanged between the two ends") && west.contains(wanted), "\(west)")
            let east = pair.east.status(now: pair.now)?.children.first?.reason?.sentence ?? ""
            #expect(east.contains("Change this end, because lan1 (10.1.0.9) is in remote_subnets"), "\(east)")
        }
    }

    // MARK: Causes that the exchange has ruled out

    @Test func `a peer that asked for us and knows our secret is not said to expect somebody else`() throws {
        let pair = Pair()
        try pair.configureWest()
        try pair.configureEast()
        #expect(pair.network.run(for: .seconds(5)) { pair.isUp })
        let plan = try Pair.plan(pair.westSide, local: pair.west.address)
        func reason(_ wanted: Identity?, proven: Bool) -> String {
            Reasons.initiatorRefusedUs(
                Notify(.authenticationFailed), wanted: wanted.map { WireIdentity($0) }, plan: plan, wishes: PeerWishes(),
                hasProvenSecret: proven, remote: Endpoint(pair.east.address, 500)
            ).sentence
        }
        let asked = reason(.fqdn("west.example"), proven: true)
        #expect(!asked.contains("expects another") && !asked.contains("pre-shared keys differ"), "\(asked)")
        #expect(asked.contains("whom it asked for") && asked.contains("remote.auth there"))
        let unproven = reason(nil, proven: false)
        #expect(unproven.firstRange(of: "pre-shared keys differ") != nil && unproven.contains("expects another remote.id"))
    }

    // MARK: Sending

    @Test func `what the system does not send is told instead of guesses about the way`() throws {
        let pair = Pair()
        pair.west.isAlive = false
        try pair.configureEast()
        let transmit = try #require(pair.east.core.pollTransmit())
        pair.east.core.transmitFailed(transmit, SendFailure(.filtered, name: "EPERM"), now: pair.now)
        pair.east.takeEvents(now: pair.now)
        var status = try #require(pair.east.status(now: pair.now))
        #expect(status.reason?.code == .sendFailed)
        #expect(status.reason?.contains("EPERM") == true && status.reason?.contains("firewall between") == false)
        // The next transmission leaves: it is the peer's silence then.
        pair.run(3)
        status = try #require(pair.east.status(now: pair.now))
        #expect(status.reason?.code == .noAnswer)
        // Another's datagram changes nothing.
        pair.east.core.transmitFailed(
            Transmit(bytes: [1, 2, 3], path: transmit.path), SendFailure(.noRoute), now: pair.now)
        #expect(pair.east.status(now: pair.now)?.reason?.code == .noAnswer)
    }

    // MARK: The log

    @Test func `a peer that is dead for a quarter of an hour takes a handful of lines, and its return one`() throws {
        let pair = Pair()
        pair.west.isAlive = false
        try pair.start()
        pair.run(900)
        #expect((2...6).contains(pair.east.said.count), "\(pair.east.said)")
        #expect(pair.east.said.contains { $0.hasPrefix("Still failing, the ") && $0.contains("No answer from") })
        pair.west.isAlive = true
        #expect(pair.network.run(for: .seconds(40)) { pair.isUp })
        #expect(pair.east.said.contains { $0.contains("Child net is up after ") && $0.contains(" failed attempts in 1") })
    }

    @Test func `a tunnel that never works is not said to be established at every attempt`() throws {
        let pair = Pair()
        pair.eastSide.remoteIdentity = .fqdn("north.example")
        try pair.start()
        pair.run(600)
        for node in [pair.east, pair.west] {
            #expect(node.said.count <= 14, "\(node.said)")
            #expect(node.said.count { $0.contains("established with") } <= 5)
        }
    }

    @Test func `SPIs in the log have their leading zeros`() {
        #expect(UInt32(0x00C0_FFEE).hexadecimal == "00c0ffee" && UInt64(1).hexadecimal == "0000000000000001")
    }

    // MARK: A rekey that the peer refuses for its key exchange

    @Test(arguments: [(["x25519"], [String]()), ([], ["x25519"])])
    func `a child that cannot be rekeyed is made anew before it ends, and the reason stays`(
        mine: [String], theirs: [String]
    ) throws {
        let pair = Pair()
        pair.eastSide.esp = [(["aes256gcm16"] + mine).joined(separator: "-")]
        pair.westSide.esp = [(["aes256gcm16"] + theirs).joined(separator: "-")]
        (pair.eastSide.lifetime, pair.westSide.lifetime) = (.seconds(60), .seconds(60))
        #expect(try pair.establish())
        for _ in 0..<30 {
            pair.run(10)
            let isPresent = [pair.east, pair.west].allSatisfy { $0.installed.contains { $0.child == "net" } }
            #expect(isPresent, "at \(pair.now)")
        }
        let child = try #require(pair.east.status(now: pair.now)?.children.first)
        #expect(child.state == .installed && child.problem?.code == .espProposals)
        #expect(pair.east.faults.isEmpty && pair.west.faults.isEmpty && pair.mismatch == nil)
    }
}
