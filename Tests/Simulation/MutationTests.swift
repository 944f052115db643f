import Crypto
import IKE
import IPsec
import Testing
import Wire

/// Messages of real exchanges, bent in every way: neither do they crash the core, nor disturb an established pair, nor fill its
/// tables.
@Suite struct MutationTests {
    static let count = 10_000

    static func mutate(_ bytes: [UInt8], _ dice: SeededRandom) -> [UInt8] {
        var bytes = bytes
        for _ in 0..<(1 + Int(dice.unit() * 4)) {
            guard !bytes.isEmpty else { return [UInt8(truncatingIfNeeded: dice.next())] }
            let position = Int(dice.unit() * Double(bytes.count))
            switch Int(dice.unit() * 8) {
            case 0: bytes[position] ^= 1 << UInt8(Int(dice.unit() * 8))
            case 1: bytes[position] = UInt8(truncatingIfNeeded: dice.next())
            case 2: bytes[position] = [0, 1, 0x7F, 0x80, 0xFF][Int(dice.unit() * 5)]
            case 3: bytes.removeLast(min(bytes.count, 1 + Int(dice.unit() * 40)))
            case 4: bytes.insert(contentsOf: dice.bytes(1 + Int(dice.unit() * 8)), at: position)
            case 5: bytes += dice.bytes(Int(dice.unit() * 64))
            case 6:
                let end = min(bytes.count, position + 1 + Int(dice.unit() * 16))
                bytes.removeSubrange(position..<end)
            default:
                let end = min(bytes.count, position + 1 + Int(dice.unit() * 16))
                bytes.append(contentsOf: bytes[position..<end])
            }
        }
        // Half of the time with a header length that fits, so that more than the header is read.
        if dice.unit() < 0.5, bytes.count >= IKEHeader.byteCount { bytes.store(u32: UInt32(bytes.count), at: 24) }
        return bytes
    }

    @Test func `mutated datagrams do not crash, disturb or fill`() throws {
        let pair = Pair()
        pair.eastSide.children.append(("extra", ["10.1.9.0/24"], ["10.2.9.0/24"]))
        pair.westSide.children.append(("extra", ["10.2.9.0/24"], ["10.1.9.0/24"]))
        #expect(try pair.establish())
        _ = pair.east.core.rekey(connection: "c", child: "net", ike: false, now: pair.now)
        pair.run(5)
        _ = pair.west.core.rekey(connection: "c", child: nil, ike: true, now: pair.now)
        pair.run(20)
        let seeds = pair.network.history
        #expect(seeds.count >= 12)
        let (eastBefore, westBefore) = (pair.east.core.tableSizes, pair.west.core.tableSizes)
        let installedBefore = pair.east.installed.map(\.inboundSPI)
        let dice = SeededRandom(seed: 20_260_101)
        for index in 0..<Self.count {
            let seed = seeds[Int(dice.unit() * Double(seeds.count))]
            let node = seed.destination.address == pair.east.address ? pair.east : pair.west
            let path = Path(local: seed.destination, remote: seed.source)
            node.core.handleDatagram(Self.mutate(seed.bytes, dice), path: path, now: pair.now)
            node.takeEvents(now: pair.now)
            while node.core.pollTransmit() != nil {}
            if index % 100 == 0 { pair.run(1) }
        }
        #expect(pair.isUp && pair.mismatch == nil)
        #expect(pair.east.downs.isEmpty && pair.west.downs.isEmpty)
        #expect(pair.east.installed.map(\.inboundSPI) == installedBefore)
        // Half-open SAs that a mutated first message made are gone after their time.
        pair.run(60)
        for (node, before) in [(pair.east, eastBefore), (pair.west, westBefore)] {
            let after = node.core.tableSizes
            for key in ["sas", "initIndex", "halfOpen", "children", "installs", "connections"] {
                #expect(after[key] == before[key], "\(key)")
            }
        }
        #expect(pair.isUp && pair.mismatch == nil)
    }

    /// Authentic garbage: the payloads are mutated before they are sealed with the SA's own keys. RFC 7296 §2.21.3 makes an
    /// authentic message that cannot be read fatal for its own SA; the core must survive it, another connection must not notice,
    /// and nothing may be left behind.
    @Test func `mutated payloads under genuine keys end at most their own SA`() throws {
        let pair = Pair(seed: 3)
        (pair.eastSide.dpd, pair.westSide.dpd) = (.zero, .zero)
        let bystander = Node("north", "192.0.2.3", seed: 9)
        pair.network.nodes.append(bystander)
        var side = pair.eastSide
        side.identity = .fqdn("north.example")
        side.children = [("net", ["10.3.0.0/24"], ["10.2.0.0/24"])]
        bystander.core.addConnection(try Pair.plan(side, local: bystander.address), now: pair.now)
        var other = pair.westSide
        other.remoteIdentity = .fqdn("north.example")
        other.remoteAddress = bystander.address
        other.children = [("net", ["10.2.0.0/24"], ["10.3.0.0/24"])]
        var plan = try Pair.plan(other, local: pair.west.address)
        plan.name = "north"
        pair.west.core.addConnection(plan, now: pair.now)
        #expect(try pair.establish())
        pair.network.run(for: .seconds(5)) { bystander.status(now: pair.now)?.state == .established }
        #expect(bystander.installed.count == 1)
        let seeds = try Self.payloadSeeds(pair)

        let dice = SeededRandom(seed: 42)
        let path = Path(local: Endpoint(pair.west.address, 500), remote: Endpoint(pair.east.address, 500))
        var answered = 0
        var sealed = 0
        for index in 0..<Self.count {
            guard let forge = Forge(pair.east),
                let target = pair.west.core.allSAs.first(where: { $0.localSPI == forge.sa.responderSPI && $0.established != nil })
            else { try Self.again(pair); continue }
            let seed = seeds[index % seeds.count]
            let inner = Self.mutate(seed.inner, dice)
            let first = dice.unit() < 0.9 ? seed.first : PayloadType(rawValue: UInt8(truncatingIfNeeded: dice.next()))
            let bytes = try forge.request(seed.exchange, first: first, inner: inner, id: target.expectedRequestID)
            sealed += 1
            pair.west.core.handleDatagram(bytes, path: path, now: pair.now)
            pair.west.takeEvents(now: pair.now)
            while pair.west.core.pollTransmit() != nil { answered += 1 }
            // A message that kept its meaning may have ended or replaced the SA, or filled it with children.
            guard let state = target.established, state.supersededBy == nil, state.children.count < 40 else {
                try Self.again(pair); continue
            }
        }
        #expect(sealed > Self.count / 2 && answered > sealed / 2)
        #expect(bystander.installed.count == 1 && bystander.downs.isEmpty && bystander.ups == 1)
        #expect(pair.west.status("north", now: pair.now)?.state == .established)
        #expect(pair.west.core.allSAs.count < 60 && (pair.west.core.tableSizes["children"] ?? 0) < 2 * Bounds.childrenPerIKESA)
        try Self.again(pair)
        pair.run(60)
        #expect(pair.isUp)
        #expect(pair.west.core.allSAs.count == 2)
        #expect(pair.west.faults.isEmpty)
    }

    /// East starts anew; what west held for it goes with INITIAL_CONTACT.
    static func again(_ pair: Pair) throws {
        pair.east.restart()
        // Longer than a closed SA lingers, now and then.
        if pair.west.core.allSAs.count > 30 { pair.run(11) }
        try pair.configureEast()
        pair.network.run(for: .seconds(30)) { pair.isUp(pair.east) }
    }

    static func payloadSeeds(_ pair: Pair) throws -> [(exchange: ExchangeType, first: PayloadType, inner: [UInt8])] {
        let child = try #require(pair.east.installed.first)
        let selectors: [Payload] = [
            .trafficSelectorsInitiator(WireSelectors(child.localSelectors)),
            .trafficSelectorsResponder(WireSelectors(child.remoteSelectors)),
        ]
        let nonce = Payload.nonce([UInt8](repeating: 3, count: 32))
        let esp = Payload.securityAssociation(
            Offer.esp([try ESPProposal(keywords: "aes256gcm16-esn-noesn")], spi: 7777, withMethods: true))
        let ike = Payload.securityAssociation(
            Offer.ike([try IKEProposal(keywords: "aes256gcm16-prfsha384-x25519")], spi: [1, 2, 3, 4, 5, 6, 7, 8]))
        let exchange = Payload.keyExchange(method: 31, data: [UInt8](repeating: 9, count: 32))
        let rekey = Payload.notify(Notify(.rekeySA, protocolID: ProtocolID.esp, spi: [UInt8](u32: child.inboundSPI)))
        let lists: [(ExchangeType, [Payload])] = [
            (.createChildSA, [esp, nonce] + selectors), (.createChildSA, [rekey, esp, nonce] + selectors),
            (.createChildSA, [ike, nonce, exchange]),
            (.informational, [.delete(Delete(protocolID: ProtocolID.esp, spis: [1, 2, 3]))]),
            (.informational, [.notify(Notify(.invalidSelectors, data: [1, 2, 3]))]), (.informational, []),
            (.informational, [.delete(.ikeSA)]), (.ikeAuth, [.identityInitiator(WireIdentity(.fqdn("x")))]),
        ]
        return lists.map { ($0.0, $0.1.first?.type ?? .none, PayloadChain.encode($0.1)) }
    }

    @Test func `noise of every length is survived`() throws {
        let pair = Pair()
        #expect(try pair.establish())
        let dice = SeededRandom(seed: 5)
        let before = pair.west.core.tableSizes
        for index in 0..<Self.count {
            let path = Path(
                local: Endpoint(pair.west.address, index % 2 == 0 ? 500 : 4500),
                remote: Endpoint(pair.east.address, UInt16(truncatingIfNeeded: index)))
            pair.west.core.handleDatagram(dice.bytes(Int(dice.unit() * 200)), path: path, now: pair.now)
        }
        while pair.west.core.pollTransmit() != nil {}
        pair.west.takeEvents(now: pair.now)
        #expect(pair.west.core.tableSizes == before)
        #expect(pair.isUp)
    }
}
