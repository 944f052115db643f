import IKE
import IPsec
import Testing
import Wire

@Suite struct CodecTests {
    static let selectors = WireSelectors([
        TrafficSelector(IPPrefix("10.1.0.0/24")!), TrafficSelector(IPPrefix("2001:db8::/64")!, ipProtocol: 6, ports: 80...443),
    ])
    static let proposals = [
        WireProposal(
            number: 1, protocolID: ProtocolID.esp, spi: [1, 2, 3, 4],
            transforms: [
                Transform(TransformType.encryption, EncryptionID.aesGCM16, keyLength: 256),
                Transform(TransformType.keyExchange, 31),
                Transform(TransformType.sequenceNumbers, 1),
            ]),
        WireProposal(number: 2, protocolID: ProtocolID.ike, spi: [UInt8](repeating: 7, count: 8), transforms: []),
    ]
    static let payloads: [Payload] = [
        .securityAssociation(proposals), .keyExchange(method: 31, data: [UInt8](repeating: 9, count: 32)),
        .identityInitiator(WireIdentity(.fqdn("east.example"))),
        .identityResponder(WireIdentity(.address(IPAddress("2001:db8::1")!))),
        .authentication(method: 2, data: [1, 2, 3]), .nonce([UInt8](repeating: 5, count: 32)),
        .notify(Notify(.rekeySA, data: [1], protocolID: ProtocolID.esp, spi: [1, 2, 3, 4])),
        .notify(Notify(.cookie, data: [1, 2])),
        .delete(Delete(protocolID: ProtocolID.esp, spis: [256, 0xDEAD_BEEF])), .delete(.ikeSA), .vendorID([1, 2, 3]),
        .trafficSelectorsInitiator(selectors), .trafficSelectorsResponder(selectors),
        .certificate(CertificatePayload(encoding: 4, data: [0, 1])),
        .certificateRequest(CertificatePayload(encoding: 14, data: [])), .extensibleAuthentication([1, 2, 0, 5, 1]),
        .opaque(PayloadType(rawValue: 200), [1]),
    ]

    static func message(_ payloads: [Payload]) -> [UInt8] {
        WireMessage.encodeClear(
            IKEHeader(
                initiatorSPI: 0x0102_0304_0506_0708, responderSPI: 9, exchange: .informational, isFromInitiator: true,
                isResponse: true,
                messageID: 77), payloads)
    }

    @Test func `every payload is read as it was written`() throws {
        let bytes = Self.message(Self.payloads)
        let message = try WireMessage(parsing: bytes)
        #expect(message.payloads.all == Self.payloads)
        #expect(message.header.messageID == 77)
        #expect(message.header.isResponse && message.header.isFromInitiator)
        #expect(WireMessage.encodeClear(message.header, message.payloads.all) == bytes)
    }

    @Test func `no prefix of a message is accepted, and none crashes`() {
        let bytes = Self.message(Self.payloads)
        for count in 0..<bytes.count {
            #expect(throws: IKEFault.self) { try WireMessage(parsing: Array(bytes[..<count])) }
            // Also with a header that owns up to the shorter length.
            var shorter = Array(bytes[..<count])
            guard count >= IKEHeader.byteCount else { continue }
            shorter.store(u32: UInt32(count), at: 24)
            _ = try? WireMessage(parsing: shorter)
        }
    }

    @Test func `an unknown payload is skipped unless it is critical`() throws {
        var bytes = Self.message([.opaque(PayloadType(rawValue: 200), [1, 2]), .vendorID([1])])
        #expect(try WireMessage(parsing: bytes).payloads.all.count == 2)
        bytes[IKEHeader.byteCount + 1] = 0x80
        #expect(throws: IKEFault.unsupportedCriticalPayload(200)) { try WireMessage(parsing: bytes) }
        // "MUST be ignored by the recipient if the recipient understands the payload type code."
        var known = Self.message([.vendorID([1])])
        known[IKEHeader.byteCount + 1] = 0x80
        #expect(try WireMessage(parsing: known).payloads.all == [.vendorID([1])])
    }

    @Test func `reserved bits and the version flag are ignored`() throws {
        var bytes = Self.message([.vendorID([1])])
        bytes[19] |= 0xD7
        bytes[IKEHeader.byteCount + 1] |= 0x7F
        #expect(try WireMessage(parsing: bytes).payloads.all == [.vendorID([1])])
    }

    /// A payload type, its body, and what is wrong with it.
    @Test(
        arguments: [
            (34, [0, 31, 0, 0], "KE without data"), (34, [0], "KE too short"),
            (40, [UInt8](repeating: 1, count: 15), "a short nonce"),
            (40, [UInt8](repeating: 1, count: 257), "a long nonce"), (39, [2, 0], "AUTH too short"),
            (35, [1, 0, 0], "ID too short"),
            (41, [0, 9, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9], "a notify SPI of nine octets"),
            (41, [0, 4, 0, 1, 1], "a notify SPI cut off"),
            (42, [3, 4, 0, 2, 1, 2, 3, 4], "fewer SPIs than counted"), (42, [3, 4, 0, 0, 1], "octets after the SPIs"),
            (42, [3, 8, 0, 0], "a wrong SPI size"), (42, [1, 0, 0, 1], "SPIs for the IKE SA"), (44, [0, 0, 0, 0], "no selector"),
            (44, [1, 0, 0, 0, 7, 0, 0, 3], "a selector shorter than its header"),
            (44, [1, 0, 0, 0, 7, 0, 0, 8, 0, 0, 0, 0], "no addresses"),
            (44, [2, 0, 0, 0, 7, 0, 0, 16, 0, 0, 255, 255, 10, 0, 0, 0, 10, 0, 0, 9], "one selector of two"),
            (33, [], "an empty SA"), (33, [0, 0, 0, 7], "a proposal shorter than its header"),
            (33, [0, 0, 0, 8, 1, 1, 0, 1], "a transform missing"),
            (33, [1, 0, 0, 8, 1, 1, 0, 0], "a wrong last-substructure octet"),
            (33, [2, 0, 0, 8, 1, 1, 0, 0], "a proposal that should follow"),
            (33, [0, 0, 0, 16, 1, 1, 0, 1, 3, 0, 0, 8, 1, 0, 0, 20], "a transform that says another follows"),
            (33, [0, 0, 0, 16, 1, 1, 0, 1, 0, 0, 0, 9, 1, 0, 0, 20], "a transform longer than its proposal"),
            (33, [0, 0, 0, 18, 1, 1, 0, 1, 0, 0, 0, 10, 1, 0, 0, 20, 0x80, 14], "half an attribute"),
            (33, [0, 0, 0, 17, 1, 1, 9, 0], "a long SPI"),
        ] as [(UInt8, [UInt8], String)])
    func `a malformed payload is refused`(_ type: UInt8, _ body: [UInt8], _ what: String) {
        let bytes = Self.message([.opaque(PayloadType(rawValue: type), body)])
        #expect(throws: IKEFault.self, "\(what)") { try WireMessage(parsing: bytes) }
    }

    @Test func `a payload that may be there once is refused twice`() {
        let nonce = Payload.nonce([UInt8](repeating: 5, count: 32))
        #expect(throws: IKEFault.self) { try WireMessage(parsing: Self.message([nonce, nonce])) }
    }

    @Test func `bounds on payloads, proposals, transforms and selectors hold`() throws {
        let many = [Payload](repeating: .vendorID([]), count: Bounds.payloadsPerMessage + 1)
        #expect(throws: IKEFault.self) { try WireMessage(parsing: Self.message(many)) }
        let proposal = WireProposal(number: 1, protocolID: 1, transforms: [])
        let proposals = [WireProposal](repeating: proposal, count: Bounds.proposalsPerSA + 1)
        #expect(throws: IKEFault.self) { try WireMessage(parsing: Self.message([.securityAssociation(proposals)])) }
        let transforms = [Transform](repeating: Transform(1, 20), count: Bounds.transformsPerProposal + 1)
        let wide = WireProposal(number: 1, protocolID: 1, transforms: transforms)
        #expect(throws: IKEFault.self) { try WireMessage(parsing: Self.message([.securityAssociation([wide])])) }
        let selector = TrafficSelector(IPPrefix("10.0.0.0/8")!)
        // As many as one octet counts are read.
        let selectors = WireSelectors([TrafficSelector](repeating: selector, count: 255))
        let read = try WireMessage(parsing: Self.message([.trafficSelectorsInitiator(selectors)]))
        #expect(read.payloads.selectorsInitiator?.selectors.count == 255)
        #expect(throws: IKEFault.self) { try WireMessage(parsing: [UInt8](repeating: 0, count: Bounds.messageBytes + 1)) }
    }

    @Test func `unknown and opaque selectors are passed over, not refused`() throws {
        // Type 9, then OPAQUE ports (65535 to 0), then a good one.
        let body: [UInt8] = [
            3, 0, 0, 0, 9, 0, 0, 8, 1, 2, 3, 4, 7, 0, 0, 16, 255, 255, 0, 0, 10, 0, 0, 0, 10, 0, 0, 9,
            7, 17, 0, 16, 0, 53, 0, 53, 10, 0, 0, 0, 10, 0, 0, 255,
        ]
        let message = try WireMessage(parsing: Self.message([.opaque(.trafficSelectorsInitiator, body)]))
        let selectors = try #require(message.payloads.selectorsInitiator)
        #expect(selectors.ignored == 2)
        #expect(selectors.selectors.map(\.description) == ["10.0.0.0/24[udp/53]"])
    }

    @Test func `identities of every type survive, unprintable names do not`() {
        let identities: [Identity] = [
            .address(IPAddress("192.0.2.1")!), .address(IPAddress("2001:db8::1")!), .fqdn("a.example"), .email("a@b.example"),
            .distinguishedName([0x30, 0]), .keyID([0, 1, 2]),
        ]
        for identity in identities { #expect(WireIdentity(identity).identity == identity) }
        var odd = WireIdentity(.fqdn("a"))
        odd.data = [0x1B, 0x5B]
        #expect(odd.identity == nil)
        odd.type = 99
        #expect(odd.sentence == "an identity of type 99 with 2 octets")
    }

    @Test func `error notifies have names`() {
        #expect(NotifyType.noProposalChosen.description == "NO_PROPOSAL_CHOSEN")
        #expect(NotifyType(47).description == "STATE_NOT_FOUND")
        #expect(NotifyType(9000).description == "error notify 9000")
        #expect(NotifyType(60000).description == "status notify 60000")
    }
}
