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

    /// Zero: free.
    var nextHop: UInt32 = 0
    var portIndex: UInt8 = 0
    var count = 0
    var since: UInt64 = 0
    var askedAt: UInt64 = 0
    /// Frame offset of the IPv4 header in the low 48 bits, length above.
    var packets = (
        UInt64(0), UInt64(0), UInt64(0), UInt64(0), UInt64(0), UInt64(0), UInt64(0), UInt64(0), UInt64(0), UInt64(0), UInt64(0),
        UInt64(0),
        UInt64(0), UInt64(0), UInt64(0), UInt64(0)
    )

    mutating func store(_ word: UInt64, at index: Int) {
        withUnsafeMutableBytes(of: &packets) { $0.storeBytes(of: word, toByteOffset: index * 8, as: UInt64.self) }
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
        let (nextHop, port) = (hop.pointee.nextHop, hop.pointee.portIndex)
        var chosen: Int?
        for index in 0..<Worker.holdSlots {
            if holds[index].nextHop == nextHop, holds[index].portIndex == port {
                chosen = index
                break
            }
            if holds[index].nextHop == 0, chosen == nil { chosen = index }
        }
        let now = culvert_monotonic_coarse_ns()
        guard let chosen else {
            // No slot: at least have it resolved for the packets to come.
            if now &- overflowAskedAt > Hold.askAgainNanoseconds / 50 {
                overflowAskedAt = now
                tell(.unresolved, UInt32(port), UInt64(nextHop))
            }
            drop(.noNeighbour, header)
            return
        }
        if holds[chosen].nextHop == 0 {
            holds[chosen] = Hold(nextHop: nextHop, portIndex: port, since: now)
            holdsInUse += 1
        }
        if holds[chosen].askedAt == 0 || now &- holds[chosen].askedAt > Hold.askAgainNanoseconds {
            holds[chosen].askedAt = now
            tell(.unresolved, UInt32(port), UInt64(nextHop))
        }
        guard holds[chosen].count < Hold.limit else {
            drop(.noNeighbour, header)
            return
        }
        owners[Int(truncatingIfNeeded: UInt64(header - umem) >> frameShift)] = FrameOwner.worker
        holds[chosen].store(UInt64(header - umem) | UInt64(length) << 48, at: holds[chosen].count)
        holds[chosen].count += 1
    }

    /// After new tables: what resolved is sent, in order.
    @inline(never)
    mutating func retryHolds() {
        for index in 0..<Worker.holdSlots where holds[index].nextHop != 0 {
            guard tables.neighbour(holds[index].nextHop, portIndex: holds[index].portIndex) != nil else { continue }
            let hold = holds[index]
            freeHold(index)
            for packet in 0..<hold.count {
                let word = hold.word(at: packet)
                let header = umem + Int(word & 0xFFFF_FFFF_FFFF)
                let total = Int(word >> 48)
                send(header, length: total, to: load32(header + IPv4.destinationOffset))
            }
        }
    }

    @inline(never)
    mutating func expireHolds() {
        let now = culvert_monotonic_coarse_ns()
        for index in 0..<Worker.holdSlots where holds[index].nextHop != 0 && now &- holds[index].since > Hold.lifetimeNanoseconds
        {
            let hold = holds[index]
            freeHold(index)
            for packet in 0..<hold.count { drop(.noNeighbour, umem + Int(hold.word(at: packet) & 0xFFFF_FFFF_FFFF)) }
        }
    }

    private mutating func freeHold(_ index: Int) {
        holds[index].nextHop = 0
        holds[index].count = 0
        holdsInUse -= 1
    }
}
