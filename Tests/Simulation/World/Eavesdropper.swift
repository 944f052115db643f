import IKE
import IPsec
import Wire

/// Somebody who reads everything on the network and sends what they like from where they like, but has no keys. Whatever they do,
/// no established IKE SA ends, moves or grows by it. RFC 7296 §2.21.4, §2.23.
final class Eavesdropper {
    /// Nobody's address but theirs.
    static let address = IPAddress("203.0.113.66")!
    static let memory = 128
    /// From elsewhere comes only what the receiver must have had: whoever is faster than the network is who it follows, as RFC
    /// 7296 §2.23 says.
    static let age: UInt64 = 8_000_000_000

    private unowned let world: World
    private let dice: SeededRandom
    /// Whether what has arrived has also been taken: nothing is lost on the way, and nobody sleeps.
    private let replaysFromElsewhere: Bool
    private var heard: [(at: UInt64, datagram: Datagram)] = []

    init(_ world: World, seed: UInt64, replaysFromElsewhere: Bool) {
        (self.world, dice, self.replaysFromElsewhere) = (world, SeededRandom(seed: seed), replaysFromElsewhere)
    }

    /// What has arrived.
    func hear(_ datagram: Datagram) {
        if heard.count == Self.memory { heard.removeFirst() }
        heard.append((world.now, datagram))
    }

    /// Does a few things, within a tenth of a second.
    func meddle() {
        for _ in 0..<(3 + Int(dice.unit() * 6)) {
            guard !heard.isEmpty else { return }
            let old = heard[Int(dice.unit() * Double(heard.count))]
            guard let forged = forge(old.datagram, isOld: old.at &+ Self.age < world.now) else { continue }
            world.trace("somebody sends \(Trace.describe(forged, world))")
            world.schedule(.datagram(forged), after: .milliseconds(Int64(dice.unit() * 100)))
        }
    }

    private func forge(_ original: Datagram, isOld: Bool) -> Datagram? {
        guard let message = MarkedHeader(original.bytes) else { return nil }
        var datagram = original
        if isOld, dice.unit() < 0.5 { datagram.source = Endpoint(Self.address, original.destination.port) }
        switch dice.unit() {
        case ..<0.35:
            // A first message from elsewhere would be somebody's who begins, and no harm.
            let isElsewhere = datagram.source != original.source
            return isElsewhere && (!replaysFromElsewhere || message.header.exchange == .ikeSAInit) ? nil : datagram
        case ..<0.8:
            // First messages have nothing that protects them: bending them is another matter.
            guard message.header.exchange != .ikeSAInit else { return nil }
            bend(&datagram.bytes)
            if datagram.bytes.starts(with: original.bytes) { datagram.source = original.source }
        default:
            // "A message with an unknown SPI" that nobody sent, answered.
            guard message.header.exchange != .ikeSAInit else { return nil }
            let answer = WireMessage.encodeClear(message.header.response(), [.notify(Notify(.invalidIKESPI))])
            datagram = Datagram(
                bytes: message.marker + answer, source: original.destination, destination: original.source)
        }
        return datagram
    }

    private func bend(_ bytes: inout [UInt8]) {
        let position = Int(dice.unit() * Double(bytes.count))
        switch dice.unit() {
        case ..<0.5: bytes[position] ^= 1 << UInt8(Int(dice.unit() * 8))
        case ..<0.7: bytes.removeLast(min(bytes.count - 1, 1 + Int(dice.unit() * 40)))
        case ..<0.85: bytes += dice.bytes(1 + Int(dice.unit() * 40))
        default: bytes[position] = UInt8(truncatingIfNeeded: dice.next())
        }
    }
}

/// A datagram of IKE, with or without the four octets of zero that stand before it on port 4500.
struct MarkedHeader {
    var marker: [UInt8]
    var header: IKEHeader

    init?(_ bytes: [UInt8]) {
        marker = bytes.prefix(4) == [0, 0, 0, 0] ? [0, 0, 0, 0] : []
        guard let header = try? IKEHeader(parsing: bytes[marker.count...]) else { return nil }
        self.header = header
    }
}
