import CLinux
import Crypto
import IPsec
import Wire

/// What differs when the underlay is IPv6: the outer header, the way to the peer, and where ESP begins in a packet from it.
/// Everything else of a packet's way is shared; IPv4 pays one branch for it on the way out and none on the way in.
extension Worker {
    /// Steps 7 to 9 of `encapsulate`: UDP and outer IPv6 headers, seal, next hop.
    /// - Parameters:
    ///   - esp: the ESP header, written; `header` the inner packet with its trailer behind it, `sealedBytes` in all.
    ///   - total: octets of the inner packet.
    ///   - tos: DSCP and ECN of the inner packet.
    @inline(never)
    mutating func encapsulateIPv6(
        _ sa: UnsafeMutablePointer<OutboundSA>, _ esp: UnsafeMutableRawPointer, _ header: UnsafeMutableRawPointer,
        sealedBytes: Int, total: Int, tos: UInt8, sequence: UInt64
    ) {
        let path = sa.pointee.outerIPv6
        let udp = sa.pointee.udp
        var bytes = ESPLayout.headerBytes &+ ESPLayout.ivBytes &+ sealedBytes &+ ESPLayout.icvBytes
        var upper = esp
        if udp {
            upper = esp - UDP.headerBytes
            bytes &+= UDP.headerBytes
            upper.storeBytes(of: sa.pointee.udpPortsWire, as: UInt32.self)
            store32(UInt32(truncatingIfNeeded: bytes) << 16, upper + 4)
        }
        let outer = upper - IPv6.headerBytes
        // RFC 6040 §4.1 with RFC 2983: DSCP and ECN of the inner packet become the outer traffic class.
        store32(path.pointee.firstWord | UInt32(tos) << 20, outer)
        let number = udp ? IPv6.nextHeaderUDP : IPv6.nextHeaderESP
        store32(UInt32(truncatingIfNeeded: bytes) << 16 | UInt32(number) << 8 | UInt32(IPv6.defaultHopLimit), outer + 4)
        outer.storeBytes(of: path.pointee.addressesWire.0, toByteOffset: 8, as: UInt64.self)
        outer.storeBytes(of: path.pointee.addressesWire.1, toByteOffset: 16, as: UInt64.self)
        outer.storeBytes(of: path.pointee.addressesWire.2, toByteOffset: 24, as: UInt64.self)
        outer.storeBytes(of: path.pointee.addressesWire.3, toByteOffset: 32, as: UInt64.self)
        guard seal(sa, esp, data: header, length: sealedBytes, sequence: sequence) else {
            drop(.engineFailed, header)
            return
        }
        if udp { writeUDPChecksum(upper, bytes: bytes, pseudoHeader: path.pointee.pseudoHeaderSum) }
        sa.pointee.packets &+= 1
        sa.pointee.bytes &+= UInt64(total)
        if path.pointee.hop.generation != tables.generation { learnPeerHop(path) }
        guard path.pointee.hop.kind == .forward else {
            sendUnresolvedIPv6(outer, length: bytes &+ IPv6.headerBytes, path: path)
            return
        }
        withUnsafeMutablePointer(to: &path.pointee.hop) { send(outer, length: bytes &+ IPv6.headerBytes, hop: $0) }
    }

    /// RFC 8200 §8.1: "Unlike IPv4, the default behavior when UDP packets are originated by an IPv6 node is that the UDP checksum
    /// is not optional." RFC 6935 lets tunnels agree on zero; IKE has no way to, and a peer's kernel drops it.
    ///
    /// Words are added as they lie in memory: the sum is the same in either byte order (RFC 1071 §2 B). `bytes` is a multiple of
    /// four, as ESP is.
    @inline(__always)
    func writeUDPChecksum(_ datagram: UnsafeMutableRawPointer, bytes: Int, pseudoHeader: UInt64) {
        var sum = pseudoHeader &+ UInt64(UInt32(truncatingIfNeeded: bytes).bigEndian)
        // Halves of two words at a time, in sums of their own: four additions that do not wait for each other.
        var (even, odd, evenNext, oddNext) = (UInt64(0), UInt64(0), UInt64(0), UInt64(0))
        var offset = 0
        while offset &+ 16 <= bytes {
            let word = (datagram + offset).loadUnaligned(as: UInt64.self)
            let next = (datagram + (offset &+ 8)).loadUnaligned(as: UInt64.self)
            even &+= word & 0xFFFF_FFFF
            odd &+= word >> 32
            evenNext &+= next & 0xFFFF_FFFF
            oddNext &+= next >> 32
            offset &+= 16
        }
        sum &+= (even &+ odd) &+ (evenNext &+ oddNext)
        while offset < bytes {
            sum &+= UInt64((datagram + offset).loadUnaligned(as: UInt32.self))
            offset &+= 4
        }
        sum = (sum & 0xFFFF_FFFF) &+ (sum >> 32)
        sum = (sum & 0xFFFF_FFFF) &+ (sum >> 32)
        let checksum = ~Checksum.fold(UInt32(truncatingIfNeeded: sum))
        // "If that computation yields a result of zero, it must be changed to hex FFFF."
        datagram.storeBytes(of: checksum == 0 ? 0xFFFF : checksum, toByteOffset: 6, as: UInt16.self)
    }

    /// The way to the peer, kept in its SA until the next tables.
    @inline(never)
    mutating func learnPeerHop(_ path: UnsafeMutablePointer<OuterIPv6>) {
        path.pointee.hop = HopEntry(
            destination: 0, generation: tables.generation, kind: .noRoute, portIndex: 0, nextHop: 0, headerFirst: 0, headerLast: 0
        )
        guard let peer = tables.peer(high: path.pointee.remoteHigh, low: path.pointee.remoteLow) else { return }
        path.pointee.hop = peerHop(peer)
    }

    mutating func peerHop(_ peer: TablesView.Peer) -> HopEntry {
        var hop = HopEntry(
            destination: 0, generation: tables.generation, kind: .noRoute, portIndex: peer.portIndex, nextHop: 0, headerFirst: 0,
            headerLast: 0)
        guard Int(peer.portIndex) < TablesView.portLimit else { return hop }
        hop.kind = .unresolved
        if let neighbour = tables.neighbour(high: peer.nextHopHigh, low: peer.nextHopLow, portIndex: peer.portIndex) {
            address(&hop, to: neighbour.mac, type: Ethernet.typeIPv6)
        }
        return hop
    }

    // MARK: Inbound

    /// What is no IPv4 by its link-layer type: XDP steers nothing else but ESP over IPv6 here.
    @inline(never)
    mutating func receiveOther(_ frame: UnsafeMutableRawPointer, available: Int, isUnderlay: Bool) {
        guard isUnderlay, available >= 0, load16(frame + Ethernet.typeOffset) == Ethernet.typeIPv6 else {
            drop(.malformed, frame)
            return
        }
        inboundOther(frame + Ethernet.headerBytes, available: available)
    }

    /// ESP in an IPv6 packet, with or without UDP between. Its UDP checksum is not looked at: what it covers is authenticated by
    /// the ICV, but for addresses and ports, and those are only ever a hint.
    @inline(never)
    mutating func inboundOther(_ outer: UnsafeMutableRawPointer, available: Int) {
        guard available >= IPv6.headerBytes, load8(outer, 0) >> 4 == 6 else {
            drop(.malformed, outer)
            return
        }
        let total = Int(load16(outer + IPv6.payloadLengthOffset)) &+ IPv6.headerBytes
        let number = load8(outer, IPv6.nextHeaderOffset)
        let offset = number == IPv6.nextHeaderUDP ? IPv6.headerBytes &+ UDP.headerBytes : IPv6.headerBytes
        guard total <= available, number == IPv6.nextHeaderUDP || number == IPv6.nextHeaderESP,
            total >= offset &+ ESPLayout.headerBytes &+ ESPLayout.ivBytes &+ ESPLayout.trailerBytes &+ ESPLayout.icvBytes
        else {
            drop(.malformed, outer)
            return
        }
        guard let slot = inboundTable.find(load32(outer + offset)), let sa = slot.sa else {
            drop(.unknownSPI, outer)
            return
        }
        if workerCount > 1, Int(slot.owner) != index {
            handOff(outer, length: total, kind: .inbound, aux: 0, to: Int(slot.owner))
            return
        }
        // `decapsulate` reads the outer DSCP and ECN where IPv4 has them; nothing reads the flow label any more.
        let trafficClass = UInt8(truncatingIfNeeded: load16(outer) >> 4)
        outer.storeBytes(of: trafficClass, toByteOffset: IPv4.tosOffset, as: UInt8.self)
        decapsulate(sa, outer, espOffset: offset, total: total)
    }

    /// An authenticated packet whose IPv4 endpoint is not the known one: a new endpoint, or an IPv6 one to be compared whole.
    @inline(never)
    mutating func pathChanged(_ sa: UnsafeMutablePointer<InboundSA>, _ outer: UnsafeMutableRawPointer, espOffset: Int) {
        let port = load16(outer + (espOffset &- UDP.headerBytes))
        guard load8(outer, 0) >> 4 == 6 else {
            guard load8(outer, IPv4.protocolOffset) == IPv4.protocolUDP else { return }
            let source = load32(outer + IPv4.sourceOffset)
            (sa.pointee.remote, sa.pointee.remotePort) = (source, port)
            (sa.pointee.remoteHigh, sa.pointee.remoteLow, sa.pointee.remotePortIPv6) = (0, 0, 0)
            tell(.pathObserved, sa.pointee.spi, low: WorkerAnswer.mapped(source), port: port)
            return
        }
        guard load8(outer, IPv6.nextHeaderOffset) == IPv6.nextHeaderUDP else { return }
        let high = UInt64(load32(outer + IPv6.sourceOffset)) << 32 | UInt64(load32(outer + (IPv6.sourceOffset + 4)))
        let low = UInt64(load32(outer + (IPv6.sourceOffset + 8))) << 32 | UInt64(load32(outer + (IPv6.sourceOffset + 12)))
        guard high != sa.pointee.remoteHigh || low != sa.pointee.remoteLow || port != sa.pointee.remotePortIPv6 else { return }
        (sa.pointee.remoteHigh, sa.pointee.remoteLow, sa.pointee.remotePortIPv6) = (high, low, port)
        (sa.pointee.remote, sa.pointee.remotePort) = (0, 0)
        tell(.pathObserved, sa.pointee.spi, high: high, low: low, port: port)
    }
}

// MARK: - Paths of SAs

/// New endpoints of a pair: both records, since each belongs to another worker. Lives until every worker has answered.
struct PathChange {
    var outbound: UnsafeMutablePointer<OutboundSA>
    var inbound: UnsafeMutablePointer<InboundSA>
    var path: TunnelPath
    /// Octets, of the new path.
    var mtu: Int
}

extension OutboundSA {
    /// New endpoints, of either family; both ends have the same.
    mutating func setPath(_ path: TunnelPath, mtu: Int) {
        let ports = path.isUDPEncapsulated ? UInt32(path.localPort) << 16 | UInt32(path.remotePort) : 0
        udpPortsWire = ports.bigEndian
        udp = ports != 0
        switch (path.local, path.remote) {
        case (.v4(let local), .v4(let remote)):
            isIPv6 = false
            localWire = local.bits.bigEndian
            remoteWire = remote.bits.bigEndian
            self.remote = remote.bits
            let number = udp ? IPv4.protocolUDP : IPv4.protocolESP
            checksumBase = 0x4500 &+ (UInt32(IPv4.defaultTTL) << 8 | UInt32(number))
            checksumBase &+= (local.bits >> 16) &+ (local.bits & 0xFFFF) &+ (remote.bits >> 16) &+ (remote.bits & 0xFFFF)
        case (.v6(let local), .v6(let remote)):
            isIPv6 = true
            outerIPv6.pointee = OuterIPv6(local: local, remote: remote, spi: UInt32(bigEndian: spiWire))
        default: return
        }
        setMTU(UInt16(clamping: mtu))
    }

    /// What follows from the path's MTU.
    mutating func setMTU(_ mtu: UInt16) {
        largestPayloadBytes = UInt16(clamping: sizes.largestPayload(mtu: Int(mtu), udp: udp, ipv6: isIPv6))
        mssBytes = sizes.mss(mtu: Int(mtu), udp: udp, ipv6: isIPv6)
    }
}

extension InboundSA {
    /// What the new path changes on the way in. Where packets last came from stays: only packets tell.
    mutating func setPath(_ path: TunnelPath, mtu: Int) {
        udp = path.isUDPEncapsulated
        isIPv6 = !path.remote.isIPv4
        setMTU(mtu)
    }

    mutating func setMTU(_ mtu: Int) { mssBytes = sizes.mss(mtu: mtu, udp: udp, ipv6: isIPv6) }
}

extension TunnelSizes {
    /// The largest inner packet.
    /// - Parameter mtu: of the path: what a whole ESP packet may be long.
    func largestPayload(mtu: Int, udp: Bool, ipv6: Bool) -> Int {
        let payload = ESPLayout.largestPayload(mtu: mtu, udp: udp, ipv6: ipv6)
        return self.mtu == 0 ? payload : min(payload, Int(self.mtu))
    }

    /// What the MSS of a SYN is lowered to: unless told, the TCP segment that fits the largest inner packet.
    func mss(mtu: Int, udp: Bool, ipv6: Bool) -> UInt16 {
        switch mss {
        case .automatic:
            UInt16(
                clamping: largestPayload(mtu: mtu, udp: udp, ipv6: ipv6) - IPv4.minimumHeaderBytes - TCP.minimumHeaderBytes)
        case .untouched: .max
        case .at(let bytes): bytes
        }
    }
}

extension DFHandling {
    /// The outer header's word of identification, flags and fragment offset. RFC 4301 §8.1. What the path may fragment needs
    /// an identification of its own (RFC 6864 §4.3): the sequence number's last bits are one.
    @inline(__always)
    func outer(inner field: UInt16, sequence: UInt64) -> UInt32 {
        if case .copy = self, field & IPv4.dontFragment != 0 { return UInt32(IPv4.dontFragment) }
        return UInt32(truncatingIfNeeded: sequence & 0xFFFF) << 16
    }
}

extension OuterIPv6 {
    init(local: IPv6Address, remote: IPv6Address, spi: UInt32) {
        addressesWire = (local.high.bigEndian, local.low.bigEndian, remote.high.bigEndian, remote.low.bigEndian)
        // RFC 6437 §3: one label for all packets of a flow, spread over the label's range. An SA is one flow: its packets must
        // not overtake each other out of the replay window.
        firstWord = 0x6000_0000 | (spi &* 0x9E37_79B1) >> 12
        pseudoHeaderSum = UInt64(UInt32(IPv6.nextHeaderUDP).bigEndian)
        for half in [addressesWire.0, addressesWire.1, addressesWire.2, addressesWire.3] {
            pseudoHeaderSum &+= (half >> 32) &+ (half & 0xFFFF_FFFF)
        }
        (remoteHigh, remoteLow) = (remote.high, remote.low)
        hop = HopEntry(destination: 0, generation: 0, kind: .empty, portIndex: 0, nextHop: 0, headerFirst: 0, headerLast: 0)
    }
}
