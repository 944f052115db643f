import CLinux
import IPsec
import Wire

/// The ports of a datagram whose later fragments, which do not carry them, are still to come. RFC 4301 §7: where selectors look
/// at ports, fragments are judged by their first one.
struct FragmentEntry {
    /// Entries of all datagrams, in sets of `ways` that an entry's key chooses.
    static let slots = 4096
    static let ways = 4
    /// RFC 1122 §3.3.2 has hosts put fragments together for 60 s at least; at a gateway they follow each other closely.
    static let lifetimeNanoseconds: UInt64 = 30_000_000_000

    var source: UInt32 = 0
    var destination: UInt32 = 0
    var identification: UInt16 = 0
    var protocolNumber: UInt8 = 0
    var ports: UInt32 = 0
    /// Zero: not in use.
    var since: UInt64 = 0
}

extension Worker {
    @inline(__always)
    func isFragment(_ header: UnsafeMutableRawPointer) -> Bool {
        load16(header + IPv4.fragmentOffset) & (IPv4.fragmentMask | IPv4.moreFragments) != 0
    }

    private func isLaterFragment(_ header: UnsafeMutableRawPointer) -> Bool {
        load16(header + IPv4.fragmentOffset) & IPv4.fragmentMask != 0
    }

    /// Source and destination port of a fragment as one word: of the first one its own, which are remembered; of a later one
    /// those of its first. Nil when they are not known, or the protocol has none.
    @inline(never)
    mutating func fragmentPorts(_ header: UnsafeMutableRawPointer, headerBytes: Int, total: Int) -> UInt32? {
        let key = fragmentKey(header)
        let set = fragments + Int(fragmentHash(key)) % (FragmentEntry.slots / FragmentEntry.ways) * FragmentEntry.ways
        let now = culvert_monotonic_coarse_ns()
        var oldest = 0
        var known: Int?
        for way in 0..<FragmentEntry.ways {
            let entry = set[way]
            if entry.since != 0, now &- entry.since < FragmentEntry.lifetimeNanoseconds, entry.source == key.source,
                entry.destination == key.destination, entry.identification == key.identification,
                entry.protocolNumber == key.protocolNumber
            {
                known = way
            }
            if entry.since < set[oldest].since { oldest = way }
        }
        if isLaterFragment(header) { return known.map { set[$0].ports } }
        guard total >= headerBytes + 4, portKey(header, headerBytes: headerBytes, total: total).known else { return nil }
        var entry = key
        (entry.ports, entry.since) = (load32(header + headerBytes), max(now, 1))
        set[known ?? oldest] = entry
        return entry.ports
    }

    private func fragmentKey(_ header: UnsafeMutableRawPointer) -> FragmentEntry {
        FragmentEntry(
            source: load32(header + IPv4.sourceOffset), destination: load32(header + IPv4.destinationOffset),
            identification: load16(header + IPv4.identificationOffset), protocolNumber: load8(header, IPv4.protocolOffset))
    }

    private func fragmentHash(_ key: FragmentEntry) -> UInt32 {
        let mixed = (key.source &* 0x9E37_79B1) ^ (key.destination &* 0x85EB_CA77) ^ (UInt32(key.identification) &* 0xC2B2_AE3D)
        return mixed ^ mixed >> 15
    }

    /// All fragments of a datagram go to one worker, since the receive queues need not agree on them: the first has ports to
    /// hash, the others have not. True when it is not us.
    @inline(never)
    mutating func handOffFragment(_ header: UnsafeMutableRawPointer, total: Int, ingress: UInt8) -> Bool {
        let home = Int(fragmentHash(fragmentKey(header))) % workerCount
        guard home != index else { return false }
        handOff(header, length: total, kind: .fragment, aux: UInt32(ingress), to: home)
        return true
    }

    /// Why an inner packet is outside the selectors of an SA: it is, or it is a fragment that cannot be judged.
    @inline(never)
    func mismatch(
        _ pairs: UnsafeMutablePointer<SelectorPair>, _ count: UInt32, _ header: UnsafeMutableRawPointer, inbound: Bool
    ) -> DropReason {
        guard isLaterFragment(header) else { return .selectorMismatch }
        let (source, destination) = (load32(header + IPv4.sourceOffset), load32(header + IPv4.destinationOffset))
        let (remote, local) = inbound ? (source, destination) : (destination, source)
        let depends = (0..<Int(count)).contains { index in
            let pair = pairs[index]
            return !pair.anyPort && remote >= pair.remoteFirst && remote <= pair.remoteLast && local >= pair.localFirst
                && local <= pair.localLast
        }
        return depends ? .fragmentUnknown : .selectorMismatch
    }

    /// No rule covers a packet; of a later fragment one may that asks for ports.
    func refusal(_ header: UnsafeMutableRawPointer) -> DropReason {
        tables.rulesUsePorts && isLaterFragment(header) ? .fragmentUnknown : .noPolicy
    }

    // MARK: Making fragments

    /// Splits a packet that may be split into pieces of at most `mtu` octets, hands each to `send`, and lets the packet go.
    /// RFC 791 §2.3. `pointer` is in a frame, or in the place for long packets.
    mutating func fragment(
        _ header: UnsafeMutableRawPointer, total: Int, mtu: Int, _ send: (inout Worker, UnsafeMutableRawPointer, Int) -> Void
    ) {
        let headerBytes = Int(load8(header, 0) & 15) * 4
        let field = load16(header + IPv4.fragmentOffset)
        // Options are copied to every fragment as they are; the few that must not be are harmless at the far end.
        let step = (min(mtu, frameBytes - Worker.headroomBytes) - headerBytes) & ~7
        let payload = total - headerBytes
        // What would end behind the last octet of a datagram cannot be put together, and its place cannot be written.
        let place = Int(field & IPv4.fragmentMask) * 8
        guard step >= 8, place + payload + headerBytes <= Int(UInt16.max) else {
            drop(step < 8 ? .tooBig : .malformed, header)
            return
        }
        var offset = 0
        while offset < payload {
            let bytes = min(step, payload - offset)
            guard let frame = takeFrame() else {
                drops[Int(DropReason.noFrames.rawValue)] &+= 1
                break
            }
            let piece = umem + Int(frame) + Worker.headroomBytes
            piece.copyMemory(from: header, byteCount: headerBytes)
            (piece + headerBytes).copyMemory(from: header + headerBytes + offset, byteCount: bytes)
            let more = offset + bytes < payload || field & IPv4.moreFragments != 0
            store16(UInt16(headerBytes + bytes), piece + IPv4.totalLengthOffset)
            store16(UInt16((place + offset) / 8) | (more ? IPv4.moreFragments : 0), piece + IPv4.fragmentOffset)
            refreshChecksum(piece, headerBytes: headerBytes)
            send(&self, piece, headerBytes + bytes)
            offset += bytes
        }
        release(UInt64(header - umem))
    }

    private func refreshChecksum(_ header: UnsafeMutableRawPointer, headerBytes: Int) {
        store16(0, header + IPv4.checksumOffset)
        let span = Span<UInt8>(_unsafeStart: header.assumingMemoryBound(to: UInt8.self), count: headerBytes)
        store16(~Checksum.fold(Checksum.sum(span)), header + IPv4.checksumOffset)
    }

    /// Larger than the tunnel carries: with DF an ICMP error with the MTU that fits (RFC 4301 §8.2.1); without it fragments, each
    /// in an ESP packet of its own, which spares the peer's reassembly.
    @inline(never)
    mutating func tooLong(_ sa: UnsafeMutablePointer<OutboundSA>, _ header: UnsafeMutableRawPointer, total: Int, ingress: UInt8) {
        let mtu = sa.pointee.largestPayloadBytes
        if load16(header + IPv4.fragmentOffset) & IPv4.dontFragment != 0 {
            answer(.fragmentationNeeded(mtu: mtu), header, total: total, ingress: ingress)
            drop(.tooBig, header)
            return
        }
        fragment(header, total: total, mtu: Int(mtu)) { worker, piece, bytes in worker.protect(sa, piece, total: bytes) }
    }

    /// Larger than the port carries that it would leave by in the clear. RFC 1812 §5.2.6, §4.3.3.1.
    /// - Parameter ingress: as for `outbound`; `TablesView.kernelPort` for what came out of a tunnel.
    @inline(never)
    mutating func exceedsPort(
        _ header: UnsafeMutableRawPointer, total: Int, hop: UnsafeMutablePointer<HopEntry>, ingress: UInt8
    ) {
        let (kind, mtu) = (hop.pointee.clearKind, hop.pointee.mtuBytes)
        guard kind == .forward || kind == .unresolved || kind == .kernel else {
            forwardOtherwise(header, length: total, hop: hop)
            return
        }
        let destination = load32(header + IPv4.destinationOffset)
        if load16(header + IPv4.fragmentOffset) & IPv4.dontFragment != 0 {
            answer(.fragmentationNeeded(mtu: mtu), header, total: total, ingress: ingress)
            drop(.tooBig, header)
            return
        }
        // The kernel takes the hop off itself when it forwards.
        guard kind == .kernel || decrementTTL(header) else {
            expired(header, total: total, ingress: ingress)
            return
        }
        fragment(header, total: total, mtu: Int(mtu)) { worker, piece, bytes in
            let hop = worker.hop(destination)
            worker.forward(piece, length: bytes, hop: hop)
        }
    }
}
