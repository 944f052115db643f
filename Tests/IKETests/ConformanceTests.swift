import IPsec
import Testing
import Wire

@testable import IKE

/// What a peer that has authenticated may do by mistake or on purpose without ending what works.
@Suite struct ConformanceTests {
    private static func path(_ pair: Pair) -> Path {
        Path(local: Endpoint(pair.west.address, 500), remote: Endpoint(pair.east.address, 500))
    }

    @Test(arguments: [38, 39, 43, 99, 255] as [UInt8])
    func `an authentic request of an exchange that nobody knows is answered, and ends nothing`(_ type: UInt8) throws {
        let pair = Pair()
        (pair.eastSide.dpd, pair.westSide.dpd) = (.zero, .zero)
        #expect(try pair.establish())
        let forge = try #require(Forge(pair.east))
        for _ in 0..<3 {
            let id = try #require(pair.west.core.allSAs.first).expectedRequestID
            let request = try forge.request(ExchangeType(rawValue: type), [.vendorID([1, 2, 3])], id: id)
            pair.west.core.handleDatagram(request, path: Self.path(pair), now: pair.now)
            let answer = try #require(InitTests.answers(pair.west).first)
            #expect(answer.header.exchange.rawValue == type && answer.header.isResponse && answer.header.messageID == id)
            forge.sa.nextRequestID = id + 1
        }
        #expect(pair.isUp(pair.west) && pair.west.downs.isEmpty)
        #expect(pair.east.core.rekey(connection: "c", child: nil, ike: false, now: pair.now))
        pair.run(5)
        #expect(pair.isUp && pair.mismatch == nil)
    }

    /// RFC 4478 §2: zero seconds is "at once".
    @Test func `a peer that wants a new authentication all the time gets it at growing intervals`() throws {
        let pair = Pair()
        pair.network.keepsHistory = false
        pair.westSide.change = { ($0.reauthTime, $0.remoteAddress) = (.seconds(3), nil) }
        try pair.start()
        var begun = 0
        pair.network.filter = { bytes, source, _ in
            let isRequest = bytes[18] == ExchangeType.ikeSAInit.rawValue && bytes[19] & 0x20 == 0
            if source.address == pair.east.address, isRequest { begun += 1 }
            return true
        }
        // West tells of 3 s; its own end of the authentication must not close the SA before.
        for _ in 0..<600 {
            pair.run(1)
            for sa in pair.west.core.allSAs { sa.established?.authenticationEndsAt = nil }
        }
        #expect((3...10).contains(begun), "\(begun) times in ten minutes")
        #expect(pair.isUp)
    }

    @Test func `a longer time is believed as it is`() throws {
        let pair = Pair()
        pair.network.keepsHistory = false
        pair.westSide.change = { ($0.reauthTime, $0.remoteAddress) = (.seconds(60), nil) }
        #expect(try pair.establish())
        var begun = 0
        pair.network.filter = { bytes, source, _ in
            let isRequest = bytes[18] == ExchangeType.ikeSAInit.rawValue && bytes[19] & 0x20 == 0
            if source.address == pair.east.address, isRequest { begun += 1 }
            return true
        }
        pair.run(600)
        #expect((9...16).contains(begun), "\(begun) times in ten minutes")
        #expect(pair.isUp)
    }

    @Test func `AUTHENTICATION_FAILED beside a good AUTH is a refusal and leaves nothing`() throws {
        for type in [NotifyType.authenticationFailed, .invalidSyntax, .unsupportedCriticalPayload] {
            let pair = Pair()
            try pair.start()
            var amended = false
            pair.network.filter = { bytes, source, _ in
                guard source.address == pair.west.address, bytes[18] == ExchangeType.ikeAuth.rawValue, !amended,
                    let sa = pair.west.core.allSAs.first
                else { return true }
                amended = true
                let answer = (try? Forge(sa: sa).amended(bytes, with: .notify(Notify(type)))) ?? []
                pair.network.put(answer, from: Endpoint(pair.west.address, 500), to: Endpoint(pair.east.address, 500))
                return false
            }
            pair.network.run(for: .milliseconds(200))
            #expect(amended && pair.east.core.allSAs.allSatisfy { $0.established == nil }, "\(type)")
            #expect(pair.east.installed.isEmpty)
            #expect(pair.east.status(now: pair.now)?.state != .established)
        }
    }

    @Test func `as many subnets and children as a configuration may have are negotiated, and rekeyed`() throws {
        let pair = Pair()
        pair.network.keepsHistory = false
        (pair.eastSide.dpd, pair.westSide.dpd) = (.zero, .zero)
        let subnets = (0..<Bounds.selectorsPerPayload).map { "10.1.\($0).0/24" }
        let names = (0..<Bounds.childrenPerIKESA).map { "n\($0)" }
        pair.eastSide.children = names.enumerated().map { ($1, $0 == 0 ? subnets : ["10.3.\($0).0/24"], ["10.2.0.0/24"]) }
        pair.westSide.children = names.enumerated().map { ($1, ["10.2.0.0/24"], $0 == 0 ? subnets : ["10.3.\($0).0/24"]) }
        try pair.start()
        #expect(pair.network.run(for: .seconds(120)) { pair.isUp })
        #expect(pair.west.installed.count == Bounds.childrenPerIKESA)
        #expect(pair.west.installed.contains { $0.remoteSelectors.count == Bounds.selectorsPerPayload })
        #expect(pair.east.core.rekey(connection: "c", child: nil, ike: false, now: pair.now))
        pair.run(60)
        #expect(pair.isUp && pair.east.status(now: pair.now)?.children.allSatisfy { $0.rekeys == 1 } == true)
    }

    @Test func `selectors that overlap in every way are narrowed in bounded work`() {
        let offered = (0..<128).map { TrafficSelector(IPPrefix("0.0.0.0/0")!, ports: UInt16($0)...UInt16(1000 + $0)) }
        let policy = (0..<128).map { TrafficSelector(IPPrefix("10.0.0.0/\(8 + $0 % 24)")!, ports: UInt16(500 + $0)...60_000) }
        let result = Narrowing.intersect(offered, policy)
        #expect(!result.isEmpty && result.count <= Bounds.selectorsPerPayload)
        #expect(result.allSatisfy { one in offered.contains { $0.contains(one) } && policy.contains { $0.contains(one) } })
    }

    @Test func `sentences say of what type an identity is when its text would mislead`() {
        #expect(WireIdentity(.fqdn("192.0.2.1")).sentence == "192.0.2.1 (of type FQDN, not an address)")
        #expect(WireIdentity(.address(IPAddress("192.0.2.1")!)).sentence == "192.0.2.1")
        #expect(WireIdentity(.fqdn("East Gateway 1")).identity == .fqdn("East Gateway 1"))
        #expect(WireIdentity(.fqdn("East Gateway 1")).sentence == "\"East Gateway 1\" (of type FQDN)")
        #expect(WireIdentity(.fqdn("a\u{07}b")).identity == nil && WireIdentity(.fqdn("east.example")).sentence == "east.example")
    }
}
