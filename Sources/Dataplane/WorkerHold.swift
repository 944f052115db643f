import CLinux
import IPsec
import Wire

/// Packets that wait for their next hop's link-layer address.
struct Hold {
    /// RFC 1122 §2.3.2.2: "The link layer SHOULD save (rather than discard) at least one (the latest) packet of each set";
    /// a tunnel's first window is more than one.
    static let limit = 16
    /// Next hops that one source's packets may wait for at once: one that looks for hosts that are not there takes nobody else's
    /// place.
    static let perSource = 32
    static let lifetimeNanoseconds: UInt64 = 3_000_000_000
    /// The kernel is asked again for a next hop that stays unresolved.
    static let askAgainNanoseconds: UInt64 = 500_000_000

    var isUsed = false
    /// The address that is looked for, IPv4 ones mapped into IPv6.
    var nextHopHigh: UInt64 = 0
    var nextHopLow: UInt64 = 0
    var portIndex: UInt8 = 0
    /// Of the packet that began it; a part of it when that is IPv6.
    var source: UInt32 = 0
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
        isUsed && nextHopLow == other.nextHopLow && nextHopHigh == other.nextHopHigh && portIndex == other.portIndex
    }
    func word(at index: Int) -> UInt64 { withUnsafeBytes(of: packets) { $0.load(fromByteOffset: index * 8, as: UInt64.self) } }
}

extension Worker {
    /// No link-layer address (yet): hold the packet and ask control to have the kernel resolve it; or there is no route at all.
    @inline(never)
    mutating func sendUnresolved(_ header: UnsafeMutableRawPointer, length: Int, hop: UnsafeMutablePointer<HopEntry>) {
        guard hop.pointee.kind == .unresolved else {
            drop(hop.pointee.kind == .broadcast ? .directedBroadcast : .noRoute, header)
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
        let (high, low) = nextHop(of: hop.pointee)
        hold(
            header, length: length,
            as: Hold(isUsed: true, nextHopHigh: high, nextHopLow: low, portIndex: hop.pointee.portIndex), mark: mark)
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
            header, length: length,
            as: Hold(
                isUsed: true, nextHopHigh: peer.nextHopHigh, nextHopLow: peer.nextHopLow, portIndex: peer.portIndex), mark: 0)
    }

    /// - Parameters:
    ///   - new: the hold to put it in, made when there is none for the same.
    ///   - mark: `Hold.clearBit` or nothing.
    private mutating func hold(_ header: UnsafeMutableRawPointer, length: Int, as new: Hold, mark: UInt64) {
        let now = culvert_monotonic_coarse_ns()
        var new = new
        new.source = load32(header + IPv4.sourceOffset)
        guard let chosen = holdSlot(for: new, now: now) else {
            // No slot: at least have it resolved for the packets to come.
            if now &- overflowAskedAt > Hold.askAgainNanoseconds / 50 {
                overflowAskedAt = now
                tell(.unresolved, UInt32(new.portIndex), high: new.nextHopHigh, low: new.nextHopLow)
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
            tell(.unresolved, UInt32(new.portIndex), high: new.nextHopHigh, low: new.nextHopLow)
        }
        guard holds[chosen].count < Hold.limit, heldPackets < framesPerWorker / 8 else {
            drop(.noNeighbour, header)
            return
        }
        heldPackets += 1
        owners[Int(truncatingIfNeeded: UInt64(header - umem) >> frameShift)] = FrameOwner.worker
        holds[chosen].store(UInt64(header - umem) | mark | UInt64(length) << 48, at: holds[chosen].count)
        holds[chosen].count += 1
    }

    /// The hold for a next hop: the one that it has, else a free one, else the oldest of a source that has too many.
    private mutating func holdSlot(for new: Hold, now: UInt64) -> Int? {
        var free: Int?
        var oldest: Int?
        var own = 0
        for index in 0..<Worker.holdSlots {
            if holds[index].isFor(new) { return index }
            guard holds[index].isUsed else {
                free = free ?? index
                continue
            }
            guard holds[index].source == new.source else { continue }
            own += 1
            if oldest.map({ holds[index].since < holds[$0].since }) ?? true { oldest = index }
        }
        let budget = neighbourBudgets + SecondBudget.bucket(of: new.source)
        guard budget.pointee.take(SecondBudget.neighboursPerSource, now: now) else { return nil }
        guard own >= Hold.perSource, let oldest else { return free }
        let given = holds[oldest]
        freeHold(oldest)
        for packet in 0..<given.count { drop(.noNeighbour, held(given.word(at: packet))) }
        return oldest
    }

    private func held(_ word: UInt64) -> UnsafeMutableRawPointer { umem + Int(word & Hold.offsetMask) }

    /// After new tables: what resolved is sent, in order; the way may be another now, so each packet is asked for its own.
    @inline(never)
    mutating func retryHolds() {
        for index in 0..<Worker.holdSlots where holds[index].isUsed && isResolved(holds[index]) {
            let hold = holds[index]
            freeHold(index)
            for packet in 0..<hold.count { resend(hold.word(at: packet)) }
        }
    }

    /// By the way of its first packet.
    private mutating func isResolved(_ hold: Hold) -> Bool {
        guard hold.count > 0 else { return true }
        let word = hold.word(at: 0)
        let header = umem + Int(word & Hold.offsetMask)
        guard load8(header, 0) >> 4 == 4 else { return peerHop(of: header).kind != .unresolved }
        let hop = self.hop(load32(header + IPv4.destinationOffset))
        return (word & Hold.clearBit != 0 ? hop.pointee.clearKind : hop.pointee.kind) != .unresolved
    }

    private mutating func resend(_ word: UInt64) {
        let (header, length) = (umem + Int(word & Hold.offsetMask), Int(word >> 48))
        guard load8(header, 0) >> 4 == 6 else {
            let destination = load32(header + IPv4.destinationOffset)
            if word & Hold.clearBit != 0 {
                let hop = self.hop(destination)
                forward(header, length: length, hop: hop)
            } else {
                send(header, length: length, to: destination)
            }
            return
        }
        var hop = peerHop(of: header)
        guard hop.kind == .forward else {
            drop(hop.kind == .unresolved ? .noNeighbour : .noRoute, header)
            return
        }
        send(header, length: length, hop: &hop)
    }

    /// The way of a packet to an IPv6 peer.
    private mutating func peerHop(of header: UnsafeMutableRawPointer) -> HopEntry {
        let high = UInt64(load32(header + 24)) << 32 | UInt64(load32(header + 28))
        let low = UInt64(load32(header + 32)) << 32 | UInt64(load32(header + 36))
        guard let peer = tables.peer(high: high, low: low) else {
            return HopEntry(
                destination: 0, generation: tables.generation, kind: .noRoute, portIndex: 0, nextHop: 0, headerFirst: 0,
                headerLast: 0)
        }
        return peerHop(peer)
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
        heldPackets -= holds[index].count
        holds[index].isUsed = false
        holds[index].count = 0
        holdsInUse -= 1
    }
}
