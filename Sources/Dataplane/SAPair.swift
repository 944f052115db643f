import Crypto
import IPsec
import Platform
import Wire

/// The control side's hold on one pair of ESP SAs: the hot records in locked memory, the engines' keyed contexts, and who owns
/// what. Freed when every worker has let go.
final class SAPair {
    /// Pairs of selectors beyond this are refused: the fast path walks them.
    static let selectorPairLimit = 256

    let sa: ChildSA
    let childIndex: Int
    let inboundOwner: Int
    let outboundOwner: Int
    let inbound: UnsafeMutablePointer<InboundSA>
    let outbound: UnsafeMutablePointer<OutboundSA>
    var path: TunnelPath
    /// What the path itself was found to carry; nil: as much as the underlay.
    var pathMTU: Int?
    /// What a whole ESP packet may be long now, from the outer IP header on.
    var packetBytes: Int
    private let arena: Arena
    private let openContext: AEADContext
    private let sealContext: AEADContext

    /// - Parameter mtu: of the underlay.
    init(
        _ sa: ChildSA, childIndex: Int, engine: EngineKind, inboundOwner: Int, outboundOwner: Int, mtu: Int, numaNode: Int?
    ) throws(DataplaneError) {
        guard sa.path.local.isIPv4 == sa.path.remote.isIPv4 else {
            throw DataplaneError("the tunnel's outer addresses \(sa.path.local) and \(sa.path.remote) are of different families")
        }
        let pairs = Self.selectorPairs(sa)
        guard !pairs.isEmpty, pairs.count <= Self.selectorPairLimit else {
            throw DataplaneError(
                "the SA has \(pairs.count) pairs of selectors; between 1 and \(Self.selectorPairLimit) can be installed")
        }
        let words = SequenceNumbers.words(windowPackets: sa.replayWindowPackets)
        do {
            arena = try Arena.secret(
                byteCount: 512 + words * 8 + pairs.count * MemoryLayout<SelectorPair>.stride, numaNode: numaNode)
            openContext = try Self.context(sa.inboundKey, sa.transform, engine, .open)
            sealContext = try Self.context(sa.outboundKey, sa.transform, engine, .seal)
        } catch {
            throw DataplaneError("no memory or engine for the SA's keys: \(error)")
        }
        self.sa = sa
        self.childIndex = childIndex
        self.inboundOwner = inboundOwner
        self.outboundOwner = outboundOwner
        path = sa.path
        packetBytes = mtu
        outbound = arena.base.bindMemory(to: OutboundSA.self, capacity: 1)
        inbound = (arena.base + 256).bindMemory(to: InboundSA.self, capacity: 1)
        let outerIPv6 = (arena.base + 128).bindMemory(to: OuterIPv6.self, capacity: 1)
        let bitmap = (arena.base + 512).bindMemory(to: UInt64.self, capacity: words)
        bitmap.initialize(repeating: 0, count: words)
        let pairMemory = (arena.base + 512 + words * 8).bindMemory(to: SelectorPair.self, capacity: pairs.count)
        for (index, pair) in pairs.enumerated() { (pairMemory + index).initialize(to: pair) }
        outbound.initialize(
            to: OutboundSA(
                handle: sealContext.handle, sequence: 0,
                lastSequence: SequenceNumbers.last(extended: sa.transform.extendedSequenceNumbers),
                rekeySequence: SequenceNumbers.rekeyThreshold(extended: sa.transform.extendedSequenceNumbers), packets: 0,
                bytes: 0,
                spiWire: sa.outboundSPI.bigEndian, saltWire: Self.salt(sa.outboundKey), localWire: 0, remoteWire: 0, remote: 0,
                udpPortsWire: 0, checksumBase: 0, largestPayloadBytes: 0, mssBytes: 0, engine: engine,
                keyIs256: sa.transform.keyBits == 256,
                extended: sa.transform.extendedSequenceNumbers, udp: false, isIPv6: false, owner: UInt8(outboundOwner),
                inboundSPI: sa.inboundSPI,
                pairCount: UInt32(pairs.count), sizes: sa.sizes, pairs: pairMemory, outerIPv6: outerIPv6))
        outbound.pointee.apply(sa.limits)
        outbound.pointee.setPath(sa.path, mtu: mtu)
        let (remote, remoteIPv6) = (sa.path.remote.v4, sa.path.remote.v6)
        inbound.initialize(
            to: InboundSA(
                handle: openContext.handle, highest: 0, bitmap: bitmap, bitmapWords: UInt32(words),
                windowPackets: UInt32(sa.replayWindowPackets), packets: 0, bytes: 0, saltWire: Self.salt(sa.inboundKey),
                spi: sa.inboundSPI,
                pairCount: UInt32(pairs.count), mssBytes: outbound.pointee.mssBytes, pairs: pairMemory,
                remote: remote?.bits ?? 0, remotePort: remote == nil ? 0 : sa.path.remotePort,
                remotePortIPv6: remoteIPv6 == nil ? 0 : sa.path.remotePort, remoteHigh: remoteIPv6?.high ?? 0,
                remoteLow: remoteIPv6?.low ?? 0, engine: engine, keyIs256: sa.transform.keyBits == 256,
                extended: sa.transform.extendedSequenceNumbers, udp: sa.path.isUDPEncapsulated, isIPv6: remoteIPv6 != nil,
                owner: UInt8(inboundOwner), dropsReplay: 0, dropsAuthentication: 0, dropsSelector: 0, dropsMalformed: 0,
                dropsUnsupported: 0, sizes: sa.sizes))
    }

    private static func context(
        _ key: Secret, _ transform: ESPTransform, _ engine: EngineKind, _ direction: AEADContext.Direction
    ) throws
        -> AEADContext
    {
        let bare = OpenSSLCrypto().slice(key, 0..<transform.keyBits / 8)
        return try AEADContext(engine: engine, key: bare, keyBits: transform.keyBits, direction: direction)
    }

    /// The last four octets of the key material, in memory order. RFC 4106 §8.1.
    private static func salt(_ key: Secret) -> UInt32 {
        key.withBytes { $0.unsafeLoadUnaligned(fromByteOffset: $0.byteCount - 4, as: UInt32.self) }
    }

    /// Every local selector with every remote one; IPv6 selectors are not carried and left out.
    private static func selectorPairs(_ sa: ChildSA) -> [SelectorPair] {
        var pairs: [SelectorPair] = []
        for local in sa.localSelectors {
            for remote in sa.remoteSelectors {
                guard case (.v4(let a), .v4(let b)) = (local.first, local.last),
                    case (.v4(let c), .v4(let d)) = (remote.first, remote.last)
                else { continue }
                guard local.ipProtocol == 0 || remote.ipProtocol == 0 || local.ipProtocol == remote.ipProtocol else { continue }
                let anyPort = local.ports == 0...65535 && remote.ports == 0...65535
                pairs.append(
                    SelectorPair(
                        remoteFirst: c.bits, remoteLast: d.bits, localFirst: a.bits, localLast: b.bits,
                        remotePortFirst: remote.ports.lowerBound, remotePortLast: remote.ports.upperBound,
                        localPortFirst: local.ports.lowerBound, localPortLast: local.ports.upperBound,
                        protocolNumber: max(local.ipProtocol, remote.ipProtocol), anyPort: anyPort))
            }
        }
        return pairs
    }

    /// The workers go on counting while we read: each value is right, their sum may be of two moments.
    var counters: SACounters {
        var result = SACounters()
        result.packetsIn = inbound.pointee.packets
        result.bytesIn = inbound.pointee.bytes
        result.packetsOut = outbound.pointee.packets
        result.bytesOut = outbound.pointee.bytes
        result.sequenceOut = outbound.pointee.sequence
        result.sequenceIn = inbound.pointee.highest
        result.authenticIn =
            inbound.pointee.packets &+ inbound.pointee.dropsSelector &+ inbound.pointee.dropsMalformed
            &+ inbound.pointee.dropsUnsupported &+ inbound.pointee.dropsOther
        result.pathMTU = packetBytes
        result.drops = [
            .replay: inbound.pointee.dropsReplay, .authenticationFailed: inbound.pointee.dropsAuthentication,
            .selectorMismatch: inbound.pointee.dropsSelector, .malformed: inbound.pointee.dropsMalformed,
            .unsupportedPayload: inbound.pointee.dropsUnsupported,
        ]
        return result
    }
}
