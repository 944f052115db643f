import IKE
import IPsec
import Testing
import Wire

/// Message ids, repeated messages, messages without protection.
@Suite struct WindowTests {
    let pathToWest = Path(local: Endpoint(IPAddress("192.0.2.2")!, 500), remote: Endpoint(IPAddress("192.0.2.1")!, 500))

    func up() throws -> (pair: Pair, forge: Forge) {
        let pair = Pair()
        pair.eastSide.dpd = .zero
        pair.westSide.dpd = .zero
        #expect(try pair.establish())
        pair.network.history = []
        return (pair, try #require(Forge(pair.east)))
    }

    func send(_ bytes: [UInt8], to pair: Pair) -> [[UInt8]] {
        pair.west.core.handleDatagram(bytes, path: pathToWest, now: pair.now)
        var answers: [[UInt8]] = []
        while let transmit = pair.west.core.pollTransmit() { answers.append(transmit.bytes) }
        return answers
    }

    @Test func `a repeated request gets the identical response`() throws {
        let (pair, forge) = try up()
        let request = try forge.request(.informational, [], id: 2)
        let first = send(request, to: pair)
        #expect(first.count == 1)
        #expect(send(request, to: pair) == first)
        #expect(pair.west.core.counters.responsesRetransmitted == 1)
        // The next request makes the response before it forgettable.
        #expect(send(try forge.request(.informational, [], id: 3), to: pair).count == 1)
        #expect(send(request, to: pair).isEmpty)
    }

    @Test func `a message id beyond the window is not acknowledged but reported`() throws {
        let (pair, forge) = try up()
        let answers = send(try forge.request(.informational, [], id: 9), to: pair)
        #expect(answers.count == 1)
        let report = try WireMessage(parsing: answers[0])
        // "This Notify message MUST NOT be sent in a response … initiating an INFORMATIONAL exchange".
        #expect(!report.header.isResponse && report.header.exchange == .informational)
        #expect(try forge.open(answers[0]).notify(.invalidMessageID)?.data == [0, 0, 0, 9])
        #expect(send(try forge.request(.informational, [], id: 10), to: pair).isEmpty)
    }

    @Test func `an old or unauthentic message changes nothing`() throws {
        let (pair, forge) = try up()
        let request = try forge.request(.informational, [.delete(.ikeSA)], id: 2)
        for position in [0, 8, 17, 20, 23, 28, 32, 40, request.count - 1] {
            var broken = request
            broken[position] ^= 0x01
            _ = send(broken, to: pair)
        }
        #expect(pair.isUp)
        #expect(pair.west.core.counters.unauthentic > 0)
        pair.west.takeEvents(now: pair.now)
        #expect(pair.west.installed.count == 1)
    }

    @Test func `unprotected notifies tear nothing down, they are at most a hint`() throws {
        let (pair, forge) = try up()
        var sent = 0
        for isResponse in [true, false] {
            for type in [
                NotifyType.invalidIKESPI, .authenticationFailed, .invalidSyntax, .noProposalChosen, .invalidMajorVersion,
            ] {
                var header = forge.sa.header(.informational, isResponse: isResponse, id: 2)
                header.isFromInitiator = true
                let answers = send(WireMessage.encodeClear(header, [.notify(Notify(type))]), to: pair)
                sent += answers.count
                // Anything sent is a protected liveness check of ours, never an answer.
                for answer in answers { #expect(try WireMessage(parsing: answer).encrypted != nil) }
                for answer in answers { #expect(try !WireMessage(parsing: answer).header.isResponse) }
            }
        }
        #expect(sent == 1)
        #expect(pair.isUp)
        let deletion = WireMessage.encodeClear(forge.sa.header(.informational, isResponse: false, id: 2), [.delete(.ikeSA)])
        #expect(send(deletion, to: pair).isEmpty)
        #expect(pair.isUp)
    }

    @Test func `an authentic message that cannot be read ends the IKE SA on both ends`() throws {
        let (pair, forge) = try up()
        let request = try forge.request(.informational, first: .nonce, inner: [0, 0, 0, 5, 1], id: 2)
        let answers = send(request, to: pair)
        #expect(try forge.open(answers[0]).notify(.invalidSyntax) != nil)
        pair.west.takeEvents(now: pair.now)
        #expect(pair.west.installed.isEmpty)
        #expect(pair.west.status(now: pair.now)?.reason?.contains("malformed") == true)
    }

    @Test func `an unknown critical payload is refused, and the IKE SA lives`() throws {
        let (pair, forge) = try up()
        let request = try forge.request(.informational, first: PayloadType(rawValue: 250), inner: [0, 0x80, 0, 4], id: 2)
        #expect(try forge.open(send(request, to: pair)[0]).notify(.unsupportedCriticalPayload)?.data == [250])
        #expect(pair.isUp)
        // The same without the bit is skipped.
        let skipped = try forge.request(.informational, first: PayloadType(rawValue: 250), inner: [0, 0, 0, 4], id: 3)
        #expect(try forge.open(send(skipped, to: pair)[0]).all.isEmpty)
    }

    @Test func `a larger window is noted, and one request at a time is sent all the same`() throws {
        let (pair, forge) = try up()
        _ = send(try forge.request(.informational, [.notify(Notify(.setWindowSize, data: [0, 0, 0, 8]))], id: 2), to: pair)
        #expect(pair.west.core.allSAs[0].peerWindow == 8)
        pair.network.filter = { _, source, _ in source.address == pair.west.address }
        #expect(pair.west.core.rekey(connection: "c", child: nil, ike: false, now: pair.now))
        #expect(pair.west.core.rekey(connection: "c", child: nil, ike: true, now: pair.now))
        pair.network.history = []
        pair.run(0.1)
        #expect(pair.network.history.filter { $0.source.address == pair.west.address }.count == 1)
    }

    @Test func `a SPI that nothing knows is deleted without a reply, a notify that is unknown is ignored`() throws {
        let (pair, forge) = try up()
        let answers = send(
            try forge.request(
                .informational,
                [.delete(Delete(protocolID: ProtocolID.esp, spis: [0xABCD])), .notify(Notify(NotifyType(40_000)))], id: 2),
            to: pair)
        #expect(try forge.open(answers[0]).all.isEmpty)
        #expect(pair.isUp)
    }

    @Test func `an IKE SA holds so many children and no more`() throws {
        let (pair, forge) = try up()
        let selectors = (
            Payload.trafficSelectorsInitiator(WireSelectors([TrafficSelector(IPPrefix("10.1.0.0/24")!)])),
            Payload.trafficSelectorsResponder(WireSelectors([TrafficSelector(IPPrefix("10.2.0.0/24")!)]))
        )
        var refused = 0
        for index in 0..<(Bounds.childrenPerIKESA + 5) {
            let offer = Offer.esp([try ESPProposal(keywords: "aes256gcm16")], spi: UInt32(5000 + index), withMethods: true)
            let request = try forge.request(
                .createChildSA, [.securityAssociation(offer), .nonce(forge.random.bytes(32)), selectors.0, selectors.1],
                id: UInt32(2 + index))
            pair.west.core.handleDatagram(request, path: pathToWest, now: pair.now)
            pair.west.takeEvents(now: pair.now)
            while let transmit = pair.west.core.pollTransmit() {
                if try forge.open(transmit.bytes).notify(.noAdditionalSAs) != nil { refused += 1 }
            }
        }
        #expect(refused == 6)
        #expect(pair.west.core.tableSizes["children"] == Bounds.childrenPerIKESA)
        #expect(pair.west.core.counters.childLimitReached == 6)
    }

    @Test func `a local path that breaks makes the core ask, not conclude`() throws {
        let (pair, _) = try up()
        pair.east.core.localPathBroken(connection: "c", reason: "wan0 is down", now: pair.now)
        pair.network.collect()
        #expect(pair.network.history.count == 1)
        #expect(pair.isUp)
    }
}
