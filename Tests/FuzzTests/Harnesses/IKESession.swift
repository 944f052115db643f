import IKE
import IPsec
import Wire

/// A gateway against a peer that has all the keys and says anything: the input is a script of messages (sealed, clear, raw),
/// of time that passes, and of what the operator and the data plane do meanwhile. Nothing may trap, and every table stays within
/// its bounds.
func ikeSessionHarness(_ bytes: [UInt8]) {
    var script = Script(bytes: bytes)
    guard let stage = script.next() else { return }
    let session = Session(stage: stage)
    while let step = script.next(), session.steps < Session.mostSteps { session.perform(step, &script) }
}

/// The input, read from the front.
struct Script {
    let bytes: [UInt8]
    var position = 0

    mutating func next() -> UInt8? {
        guard position < bytes.count else { return nil }
        defer { position += 1 }
        return bytes[position]
    }

    /// As many octets as the next one says, times `scale`, as far as there are any.
    mutating func take(scale: Int = 1) -> [UInt8] {
        guard let count = next() else { return [] }
        let end = min(bytes.count, position + Int(count) * scale)
        defer { position = end }
        return Array(bytes[position..<end])
    }
}

/// Our gateway, the honest core whose place the script takes, and the wire between them.
final class Session {
    static let mostSteps = 64
    static let mostDatagrams = 64
    static let name = "c"

    let target: IKECore
    let peer: IKECore
    let random = SeededRandom(seed: 7)
    let crypto = ToyCrypto(seed: 3)
    let targetIsInitiator: Bool
    var now = Instant(nanoseconds: 1_000_000_000)
    var steps = 0
    var tokens: [UInt64] = []
    var newestChild: UInt32?
    var holdsInstallations = false

    /// - Parameter stage: bit 0: which end is ours; bits 1 to 3: how many datagrams pass before the script begins (7: all).
    init(stage: UInt8) {
        targetIsInitiator = stage & 1 == 0
        target = IKECore(settings: CoreSettings(), crypto: ToyCrypto(seed: 1), random: SeededRandom(seed: 1))
        peer = IKECore(settings: CoreSettings(), crypto: ToyCrypto(seed: 2), random: SeededRandom(seed: 2))
        let (initiator, responder) = targetIsInitiator ? (target, peer) : (peer, target)
        responder.addConnection(plan(isInitiator: false), now: now)
        initiator.addConnection(plan(isInitiator: true), now: now)
        let datagrams = Int(stage >> 1 & 7)
        exchange(datagrams: datagrams == 7 ? Self.mostDatagrams : datagrams)
    }

    private func plan(isInitiator: Bool) -> ConnectionPlan {
        let ends: [Side] = [Side("192.0.2.1", "east.example", "10.1.0.0/24"), Side("192.0.2.2", "west.example", "10.2.0.0/24")]
        let (ours, theirs) = isInitiator ? (ends[0], ends[1]) : (ends[1], ends[0])
        let esp = ["aes256gcm16-esn-noesn", "aes256gcm16-x25519"].compactMap { try? ESPProposal(keywords: $0) }
        let ike = ["aes256gcm16-prfsha384-x25519-ecp256", "aes128-sha256-x25519"].compactMap { try? IKEProposal(keywords: $0) }
        let children = ["net", "other"].map { name in
            ChildPlan(
                name: name, localSelectors: [TrafficSelector(ours.network)], remoteSelectors: [TrafficSelector(theirs.network)],
                proposals: esp, lifetime: .seconds(600), start: isInitiator ? .immediately : .manual)
        }
        return ConnectionPlan(
            name: Self.name, localAddress: ours.address, remoteAddress: theirs.address, localIdentity: .fqdn(ours.identity),
            remoteIdentity: .fqdn(theirs.identity), presharedKey: PlainSecret(Array("a secret of the fuzzer".utf8)),
            proposals: ike, lifetime: .seconds(3600), dpdInterval: .seconds(10), children: children)
    }

    private struct Side {
        let address: IPAddress
        let identity: String
        let network: IPPrefix
        init(_ address: String, _ identity: String, _ network: String) {
            (self.address, self.identity, self.network) = (IPAddress(address)!, identity, IPPrefix(network)!)
        }
    }

    // MARK: The wire

    /// Carries datagrams between the two honest ends.
    private func exchange(datagrams: Int) {
        for _ in 0..<datagrams {
            settle()
            if let transmit = target.pollTransmit() {
                deliver(transmit, to: peer)
            } else if let transmit = peer.pollTransmit() {
                deliver(transmit, to: target)
            } else {
                return
            }
        }
        settle()
    }

    private func deliver(_ transmit: Transmit, to core: IKECore) {
        core.handleDatagram(
            transmit.bytes, path: Path(local: transmit.path.remote, remote: transmit.path.local), now: now)
    }

    private func settle() {
        for core in [target, peer] {
            while let event = core.pollEvent() {
                guard case .installChild(let child, let token) = event else { continue }
                if core === target { newestChild = child.inboundSPI }
                if core === target, holdsInstallations {
                    if tokens.count < Self.mostSteps { tokens.append(token) }
                } else {
                    core.childInstalled(token: token, now: now)
                }
            }
        }
    }

    /// Where messages to our gateway travel.
    private var path: Path {
        if let sa = target.allSAs.last { return sa.path }
        let ends = [Endpoint(IPAddress("192.0.2.1")!, 500), Endpoint(IPAddress("192.0.2.2")!, 500)]
        return targetIsInitiator ? Path(local: ends[0], remote: ends[1]) : Path(local: ends[1], remote: ends[0])
    }

    // MARK: Steps

    func perform(_ step: UInt8, _ script: inout Script) {
        steps += 1
        switch step & 15 {
        case 0...3 where step & 32 != 0: sendFragment(isResponse: step & 16 != 0, &script)
        case 0...3: sendSealed(isResponse: step & 16 != 0, &script)
        case 4: sendClear(&script)
        case 5: target.handleDatagram(script.take(scale: 4), path: path, now: now)
        case 6, 7: pass(script.next() ?? 1)
        case 8: operate(script.next() ?? 0)
        case 9: exchange(datagrams: Int(script.next() ?? 1))
        case 10: holdsInstallations.toggle()
        case 11: if let token = tokens.popLast() { target.childInstalled(token: token, now: now) }
        case 12:
            if let token = tokens.popLast() { target.childInstallFailed(token: token, reason: "the script says so", now: now) }
        case 13: while target.pollTransmit() != nil {}
        case 14: replaceAnswer(&script)
        default: target.inboundTraffic(connection: Self.name, now: now)
        }
        settle()
        checkBounds()
    }

    /// A message with the peer's keys: the next request, or a response to what we asked last.
    private func sendSealed(isResponse: Bool, _ script: inout Script) {
        let exchange = script.next() ?? 0
        let first = script.next() ?? 0
        let inner = script.take(scale: 4)
        guard let sa = target.allSAs.last(where: { $0.suite != nil }), let suite = sa.suite, let keys = peerKeys(of: sa) else {
            return
        }
        let id = isResponse ? sa.outstanding?.id ?? 0 : sa.expectedRequestID
        let kind =
            exchange < 34 ? (isResponse ? sa.outstanding?.exchange ?? .ikeAuth : .ikeAuth) : ExchangeType(rawValue: exchange)
        let header = IKEHeader(
            initiatorSPI: sa.initiatorSPI, responderSPI: sa.responderSPI, exchange: kind, isFromInitiator: !sa.isInitiator,
            isResponse: isResponse, messageID: id)
        let sealer = MessageSealer(crypto: crypto, cipher: suite.cipher)
        let sealed = try? sealer.seal(
            header, first: PayloadType(rawValue: first), inner: inner, keys: keys, iv: random.bytes(suite.cipher.ivBytes))
        if let sealed { target.handleDatagram(marked(sealed), path: path, now: now) }
    }

    /// One Encrypted Fragment of a request or response, with any numbers. RFC 7383 §2.5.
    private func sendFragment(isResponse: Bool, _ script: inout Script) {
        let first = script.next() ?? 0
        let numbers = script.next() ?? 0x11
        let chunk = script.take(scale: 4)
        guard let sa = target.allSAs.last(where: { $0.suite != nil }), let suite = sa.suite, let keys = peerKeys(of: sa) else {
            return
        }
        let header = IKEHeader(
            initiatorSPI: sa.initiatorSPI, responderSPI: sa.responderSPI,
            exchange: isResponse ? sa.outstanding?.exchange ?? .ikeAuth : sa.keys == nil ? .ikeAuth : .informational,
            isFromInitiator: !sa.isInitiator, isResponse: isResponse,
            messageID: isResponse ? sa.outstanding?.id ?? 0 : sa.expectedRequestID)
        let fragment = try? MessageSealer(crypto: crypto, cipher: suite.cipher).sealFragment(
            header, first: PayloadType(rawValue: first), chunk: chunk,
            FragmentNumber(number: UInt16(numbers & 15), total: UInt16(numbers >> 4)), keys: keys,
            iv: random.bytes(suite.cipher.ivBytes))
        if let fragment { target.handleDatagram(marked(fragment), path: path, now: now) }
    }

    /// A half-open SA of ours has no keys yet: the honest end, which began it, has them.
    private func peerKeys(of sa: IKESA) -> DirectionKeys? {
        if let keys = sa.peerKeys { return keys }
        return peer.allSAs.last { $0.initiatorSPI == sa.initiatorSPI && $0.keys != nil }?.ourKeys
    }

    private func sendClear(_ script: inout Script) {
        let exchange = script.next() ?? 34
        let first = script.next() ?? 0
        let flags = script.next() ?? 0
        let body = script.take(scale: 4)
        let sa = target.allSAs.last
        var header = IKEHeader(
            initiatorSPI: flags & 4 == 0 ? sa?.initiatorSPI ?? 1 : 0x1234,
            responderSPI: flags & 8 == 0 ? sa?.responderSPI ?? 0 : 0,
            exchange: ExchangeType(rawValue: exchange), isFromInitiator: flags & 1 != 0, isResponse: flags & 2 != 0,
            messageID: UInt32(flags >> 4))
        header.nextPayload = PayloadType(rawValue: first)
        header.length = UInt32(IKEHeader.byteCount + body.count)
        target.handleDatagram(marked(header.encoded + body), path: path, now: now)
    }

    /// The honest peer's next message to us, with octets of it replaced.
    private func replaceAnswer(_ script: inout Script) {
        let offset = Int(script.next() ?? 0) * 4
        let patch = script.take()
        while let transmit = target.pollTransmit() { deliver(transmit, to: peer) }
        settle()
        guard var transmit = peer.pollTransmit() else { return }
        for (index, byte) in patch.enumerated() where offset + index < transmit.bytes.count {
            transmit.bytes[offset + index] = byte
        }
        deliver(transmit, to: target)
    }

    private func pass(_ amount: UInt8) {
        now = now + .milliseconds(Int64(1) << Int64(amount & 31))
        for core in [target, peer] { core.handleTimeout(now: now) }
    }

    private func operate(_ command: UInt8) {
        switch command & 7 {
        case 0: _ = target.rekey(connection: Self.name, child: nil, ike: false, now: now)
        case 1: _ = target.rekey(connection: Self.name, child: nil, ike: true, now: now)
        case 2: _ = target.terminate(connection: Self.name, child: nil, now: now)
        case 3: _ = target.terminate(connection: Self.name, child: "net", now: now)
        case 4: _ = target.initiate(connection: Self.name, child: nil, now: now)
        case 5: target.removeConnection(Self.name, now: now)
        case 6: target.addConnection(plan(isInitiator: targetIsInitiator), now: now)
        default:
            if let spi = newestChild { target.childLimitReached(inboundSPI: spi, hard: command & 8 != 0, now: now) }
        }
    }

    private func marked(_ message: [UInt8]) -> [UInt8] { path.local.port == 4500 ? [0, 0, 0, 0] + message : message }

    /// Far above what one peer can make us keep.
    private func checkBounds() {
        for (table, size) in target.tableSizes where table != "transmits" && table != "events" {
            precondition(size <= 512, "\(table) has \(size) entries")
        }
        _ = target.status(now: now)
    }
}
