import Crypto
import IPsec
import Wire

/// The records a worker reads for every packet. They live in locked memory, apart from everything cold, and only the owner
/// worker writes them. Sizes and offsets are asserted in the tests.

/// One outbound SA: two cache lines.
struct OutboundSA {
    /// The engine's keyed context.
    var handle: UnsafeMutableRawPointer
    /// The number last put on a packet; also the IV. RFC 4106 §3.1: never twice under one key.
    var sequence: UInt64
    var lastSequence: UInt64
    /// Asks for a rekey when passed, now and then: near the last number, or `lifetime_packets`.
    var rekeySequence: UInt64
    var packets: UInt64
    var bytes: UInt64
    /// In the order of the wire, as the other `Wire` fields.
    var spiWire: UInt32
    /// The 4 octets of salt in memory order. RFC 4106 §4.
    var saltWire: UInt32
    // Second line: what building the outer header needs.
    var localWire: UInt32
    var remoteWire: UInt32
    /// The peer, host order: key of the next-hop lookup.
    var remote: UInt32
    /// Source and destination port; zero without UDP encapsulation.
    var udpPortsWire: UInt32
    /// One's complement sum of the outer header's constant words.
    var checksumBase: UInt32
    /// The largest inner packet that fits.
    var largestPayloadBytes: UInt16
    var mssBytes: UInt16
    var engine: EngineKind
    var keyIs256: Bool
    var extended: Bool
    var udp: Bool
    /// The path is IPv6: `outerIPv6` instead of the four wire fields above.
    var isIPv6: Bool
    var owner: UInt8
    /// Whether `byteMark` is the hard limit, and whether control was told that a hard limit is reached.
    var byteMarkIsHard: Bool = false
    var isSpent: Bool = false
    /// Our own number of the pair, for events.
    var inboundSPI: UInt32
    var pairCount: UInt32
    /// As the operator set them.
    var sizes: TunnelSizes
    var pairs: UnsafeMutablePointer<SelectorPair>
    /// Right behind this record, whatever the path's family.
    var outerIPv6: UnsafeMutablePointer<OuterIPv6>
    /// With so many `bytes` a limit is reached: the soft one, and when control has been told of that, the hard one.
    var byteMark: UInt64 = .max
}

/// What an outbound SA over IPv6 needs besides.
struct OuterIPv6 {
    /// Source and destination as they stand in the header.
    var addressesWire: (UInt64, UInt64, UInt64, UInt64)
    /// One's complement sum of the UDP pseudo-header but for its length, words as they lie in memory.
    var pseudoHeaderSum: UInt64
    /// The peer, host order: key of the next-hop lookup.
    var remoteHigh: UInt64
    var remoteLow: UInt64
    /// The way to the peer; right as long as its generation is the tables'.
    var hop: HopEntry
    /// Version and flow label.
    var firstWord: UInt32
}

/// A selector pair as the fast path compares it: IPv4, host order.
struct SelectorPair {
    var remoteFirst: UInt32
    var remoteLast: UInt32
    var localFirst: UInt32
    var localLast: UInt32
    var remotePortFirst: UInt16
    var remotePortLast: UInt16
    var localPortFirst: UInt16
    var localPortLast: UInt16
    /// 0: any.
    var protocolNumber: UInt8
    var anyPort: Bool
}

/// One inbound SA.
struct InboundSA {
    var handle: UnsafeMutableRawPointer
    /// The highest authenticated sequence number.
    var highest: UInt64
    var bitmap: UnsafeMutablePointer<UInt64>
    var bitmapWords: UInt32
    var windowPackets: UInt32
    var packets: UInt64
    var bytes: UInt64
    var saltWire: UInt32
    var spi: UInt32
    var pairCount: UInt32
    var mssBytes: UInt16
    // Second line.
    var pairs: UnsafeMutablePointer<SelectorPair>
    /// Where authenticated UDP-encapsulated packets last came from; zero when that was an IPv6 address.
    var remote: UInt32
    var remotePort: UInt16
    /// The same for IPv6, and zero when it was IPv4.
    var remotePortIPv6: UInt16
    var remoteHigh: UInt64
    var remoteLow: UInt64
    var engine: EngineKind
    var keyIs256: Bool
    var extended: Bool
    var udp: Bool
    /// The path is IPv6, which takes 20 octets more from each segment.
    var isIPv6: Bool
    var owner: UInt8
    var dropsReplay: UInt64
    var dropsAuthentication: UInt64
    var dropsSelector: UInt64
    var dropsMalformed: UInt64
    var dropsUnsupported: UInt64
    var sizes: TunnelSizes
    /// Authentic packets that were nobody's: dummies, impossible ECN marks. With these everything that verified is counted, and
    /// what is missing up to `highest` was lost on the way.
    var dropsOther: UInt64 = 0
}

/// SPI to inbound SA, per worker: open addressing, linear probing, removal by shifting back. SPIs are random, so they are
/// their own hash.
struct InboundTable {
    struct Slot {
        /// Zero: empty (RFC 4303 §2.1: SPI 0 is never on the wire).
        var spi: UInt32
        var owner: UInt32
        var sa: UnsafeMutablePointer<InboundSA>?
    }

    static let slotCount = 32768
    /// More than this would make probing long.
    static let limit = 16384
    let slots: UnsafeMutablePointer<Slot>
    private(set) var count = 0

    init() {
        slots = .allocate(capacity: Self.slotCount)
        slots.initialize(repeating: Slot(spi: 0, owner: 0, sa: nil), count: Self.slotCount)
    }

    @inline(__always)
    func find(_ spi: UInt32) -> Slot? {
        var index = Int(spi) & (Self.slotCount &- 1)
        while true {
            let slot = slots[index]
            if slot.spi == spi { return slot }
            if slot.spi == 0 { return nil }
            index = (index &+ 1) & (Self.slotCount &- 1)
        }
    }

    mutating func insert(_ sa: UnsafeMutablePointer<InboundSA>) -> Bool {
        guard count < Self.limit, sa.pointee.spi != 0 else { return false }
        var index = Int(sa.pointee.spi) & (Self.slotCount &- 1)
        while slots[index].spi != 0, slots[index].spi != sa.pointee.spi { index = (index &+ 1) & (Self.slotCount &- 1) }
        if slots[index].spi == 0 { count += 1 }
        slots[index] = Slot(spi: sa.pointee.spi, owner: UInt32(sa.pointee.owner), sa: sa)
        return true
    }

    mutating func remove(_ spi: UInt32) {
        guard spi != 0 else { return }
        let mask = Self.slotCount - 1
        var hole = Int(spi) & mask
        while slots[hole].spi != spi {
            if slots[hole].spi == 0 { return }
            hole = (hole + 1) & mask
        }
        count -= 1
        var probe = hole
        while true {
            probe = (probe + 1) & mask
            guard slots[probe].spi != 0 else { break }
            let home = Int(slots[probe].spi) & mask
            // Move back only what would still be found from its home slot.
            if (probe &- home) & mask >= (probe &- hole) & mask {
                slots[hole] = slots[probe]
                hole = probe
            }
        }
        slots[hole] = Slot(spi: 0, owner: 0, sa: nil)
    }

    func deallocate() { slots.deallocate() }
}
