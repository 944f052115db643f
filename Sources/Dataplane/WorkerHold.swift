import CLinux
import IPsec
import Wire

/// Packets that wait for their next hop's link-layer address.
struct Hold {
    /// RFC 1122 §2.3.2.2: "The link layer SHOULD save (rather than discard) at least one (the latest) packet of each set";
    /// a tunnel's first window is more than one.
    static let limit = 16
    static let lifetimeNanoseconds: UInt64 = 3_000_000_000
    /// The kernel is asked again for a next hop that stays unresolved.
    static let askAgainNanoseconds: UInt64 = 500_000_000

    var isUsed = false
    /// IPv4 next hop; zero when the packets are for an IPv6 peer.
    var nextHop: UInt32 = 0
    /// The peer itself, host order: its next hop may change meanwhile.
    var peerHigh: UInt64 = 0
    var peerLow: UInt64 = 0
    var portIndex: UInt8 = 0
    var count = 0
    var since: UInt64 = 0
    var askedAt: UInt64 = 0
    /// Frame offset of the IP header in the low 47 bits, then whether it is in the clear, length above.
    var packets = (
        UInt64(0), UInt64(0), UInt64(0), UInt64(0), UInt64(0), UInt64(0), UInt64(0), UInt64(0), UInt64(0), UInt64(0), UInt64(0),
        UInt64(0),
        UInt64(0), UInt64(0), UInt64(0), UInt64(0)
    )

    static let clearBit: UInt64 = 1 << 47
    static let offsetMask: UInt64 = clearBit - 1

    mutating func store(_ word: UInt64, at index: Int) {
        withUnsafeMutableBytes(of: &packets) { $0.storeBytes(of: word, toByteOffset: index * 8, as: UInt64.self) }
    }
    func isFor(_ other: Hold) -> Bool {
        isUsed && nextHop == other.nextHop && portIndex == other.portIndex && peerHigh == other.peerHigh
            && peerLow == other.peerLow
    }
    func word(at index: Int) -> UInt64 { withUnsafeBytes(of: packets) { $0.load(fromByteOffset: index * 8, as: UInt64.self) } }
}

extension Worker {
    /// No link-layer address (yet): hold the packet and ask control to have the kernel resolve it; or there is no route at all.
    @inline(never)
    mutating func sendUnresolved(_ header: UnsafeMutableRawPointer, length: Int, hop: UnsafeMutablePointer<HopEntry>) {
        guard hop.pointee.kind == .unresolved else {
            drop(.noRoute, header)
            return
        }
        hold(header, length: length, mark: 0, hop: hop)
    }

    /// A packet that is not ESP, which is judged once more when it leaves: its route may be another then.
    mutating func hold(_ header: UnsafeMutableRawPointer, length: Int, clearTo hop: UnsafeMutablePointer<HopEntry>) {
        hold(header, length: length, mark: Hold.clearBit, hop: hop)
    }

    private mutating func hold(
        _ header: UnsafeMutableRawPointer, length: Int, mark: UInt64, hop: UnsafeMutablePointer<HopEntry>
    ) {
        let nextHop = hop.pointee.nextHop
        hold(
            header, length: length, as: Hold(isUsed: true, nextHop: nextHop, portIndex: hop.pointee.portIndex), mark: mark,
            askHigh: 0, askLow: WorkerAnswer.mapped(nextHop))
    }

    /// The same for a packet to an IPv6 peer.
    @inline(never)
    mutating func sendUnresolvedIPv6(_ header: UnsafeMutableRawPointer, length: Int, path: UnsafeMutablePointer<OuterIPv6>) {
        let (high, low) = (path.pointee.remoteHigh, path.pointee.remoteLow)
        guard path.pointee.hop.kind == .unresolved, let peer = tables.peer(high: high, low: low) else {
            drop(.noRoute, header)
            return
        }
        hold(
            header, length: length, as: Hold(isUsed: true, peerHigh: high, peerLow: low, portIndex: peer.portIndex), mark: 0,
            askHigh: peer.nextHopHigh, askLow: peer.nextHopLow)
    }

    /// - Parameters:
    ///   - new: the hold to put it in, made when there is none for the same.
    ///   - mark: `Hold.clearBit` or nothing.
    ///   - askHigh: with `askLow` the address to be resolved.
    private mutating func hold(
        _ header: UnsafeMutableRawPointer, length: Int, as new: Hold, mark: UInt64, askHigh: UInt64, askLow: UInt64
    ) {
        var chosen: Int?
        for index in 0..<Worker.holdSlots {
            if holds[index].isFor(new) {
                chosen = index
                break
            }
            if !holds[index].isUsed, chosen == nil { chosen = index }
        }
        let now = culvert_monotonic_coarse_ns()
        guard let chosen else {
            // No slot: at least have it resolved for the packets to come.
            if now &- overflowAskedAt > Hold.askAgainNanoseconds / 50 {
                overflowAskedAt = now
                tell(.unresolved, UInt32(new.portIndex), high: askHigh, low: askLow)
            }
            drop(.noNeighbour, header)
            return
        }
        if !holds[chosen].isUsed {
            holds[chosen] = new
            holds[chosen].since = now
            holdsInUse += 1
        }
        if holds[chosen].askedAt == 0 || now &- holds[chosen].askedAt > Hold.askAgainNanoseconds {
            holds[chosen].askedAt = now
            tell(.unresolved, UInt32(new.portIndex), high: askHigh, low: askLow)
        }
        guard holds[chosen].count < Hold.limit else {
            drop(.noNeighbour, header)
            return
        }
        owners[Int(truncatingIfNeeded: UInt64(header - umem) >> frameShift)] = FrameOwner.worker
        holds[chosen].store(UInt64(header - umem) | mark | UInt64(length) << 48, at: holds[chosen].count)
        holds[chosen].count += 1
    }

    /// After new tables: what resolved is sent, in order.
    @inline(never)
    mutating func retryHolds() {
        for index in 0..<Worker.holdSlots where holds[index].isUsed {
            if holds[index].nextHop != 0 { retryHold(index) } else { retryPeerHold(index) }
        }
    }

    private mutating func retryHold(_ index: Int) {
        guard tables.neighbour(holds[index].nextHop, portIndex: holds[index].portIndex) != nil else { return }
        let hold = holds[index]
        freeHold(index)
        for packet in 0..<hold.count {
            let word = hold.word(at: packet)
            let header = umem + Int(word & Hold.offsetMask)
            let (length, destination) = (Int(word >> 48), load32(header + IPv4.destinationOffset))
            if word & Hold.clearBit != 0 {
                let hop = self.hop(destination)
                forward(header, length: length, hop: hop)
            } else {
                send(header, length: length, to: destination)
            }
        }
    }

    private mutating func retryPeerHold(_ index: Int) {
        guard let peer = tables.peer(high: holds[index].peerHigh, low: holds[index].peerLow) else { return }
        var hop = peerHop(peer)
        guard hop.kind == .forward else { return }
        let hold = holds[index]
        freeHold(index)
        for packet in 0..<hold.count {
            let word = hold.word(at: packet)
            send(umem + Int(word & Hold.offsetMask), length: Int(word >> 48), hop: &hop)
        }
    }

    @inline(never)
    mutating func expireHolds() {
        let now = culvert_monotonic_coarse_ns()
        for index in 0..<Worker.holdSlots where holds[index].isUsed && now &- holds[index].since > Hold.lifetimeNanoseconds {
            let hold = holds[index]
            freeHold(index)
            for packet in 0..<hold.count { drop(.noNeighbour, umem + Int(hold.word(at: packet) & Hold.offsetMask)) }
        }
        expireTunnelHolds(now)
    }

    private mutating func freeHold(_ index: Int) {
        holds[index].isUsed = false
        holds[index].count = 0
        holdsInUse -= 1
    }
}
