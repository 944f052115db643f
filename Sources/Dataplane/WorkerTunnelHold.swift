import CLinux
import IPsec
import Wire

/// Packets that found their child down and opened it: they leave when its SA is there.
struct TunnelHold {
    static let limit = 16
    /// Children that can wait at once, per worker.
    static let slots = 16
    /// A handshake with a few retransmissions; who waits longer has sent again.
    static let lifetimeNanoseconds: UInt64 = 5_000_000_000

    /// -1: free.
    var child = -1
    var count = 0
    var since: UInt64 = 0
    /// Frame offset of the inner header in the low 40 bits, length in the next 16, ingress port above.
    var packets = InlineArray<16, UInt64>(repeating: 0)

    static func word(offset: UInt64, length: Int, ingress: UInt8) -> UInt64 {
        offset & 0xFF_FFFF_FFFF | UInt64(length & 0xFFFF) << 40 | UInt64(ingress) << 56
    }
}

extension Worker {
    /// The child of an outbound packet has no SA: asks for one, and holds the packet when the child opens on traffic.
    @inline(never)
    mutating func missTunnel(_ child: Int, _ header: UnsafeMutableRawPointer, total: Int, ingress: UInt8) {
        wantTunnel(child)
        guard outboundSlots[child].holds, let chosen = tunnelHold(of: child), tunnelHolds[chosen].count < TunnelHold.limit else {
            drop(.noSA, header)
            return
        }
        owners[Int(truncatingIfNeeded: UInt64(header - umem) >> frameShift)] = FrameOwner.worker
        let count = tunnelHolds[chosen].count
        tunnelHolds[chosen].packets[count] = TunnelHold.word(offset: UInt64(header - umem), length: total, ingress: ingress)
        tunnelHolds[chosen].count = count + 1
    }

    private mutating func tunnelHold(of child: Int) -> Int? {
        var free: Int?
        for index in 0..<TunnelHold.slots {
            if tunnelHolds[index].child == child { return index }
            if tunnelHolds[index].child < 0, free == nil { free = index }
        }
        guard let free else { return nil }
        (tunnelHolds[free].child, tunnelHolds[free].count) = (child, 0)
        tunnelHolds[free].since = culvert_monotonic_coarse_ns()
        tunnelHoldsInUse += 1
        return free
    }

    /// The child's SA is there: what waited leaves, in order.
    @inline(never)
    mutating func releaseTunnelHold(_ child: Int) {
        guard tunnelHoldsInUse > 0, let index = (0..<TunnelHold.slots).first(where: { tunnelHolds[$0].child == child }) else {
            return
        }
        let hold = takeTunnelHold(index)
        for packet in 0..<hold.count {
            let word = hold.packets[packet]
            let header = umem + Int(word & 0xFF_FFFF_FFFF)
            let (total, ingress) = (Int(word >> 40 & 0xFFFF), UInt8(truncatingIfNeeded: word >> 56))
            guard let sa = outboundSlots[child].sa else {
                drop(.noSA, header)
                continue
            }
            if Int(outboundSlots[child].owner) == self.index {
                encapsulate(sa, header, total: total, ingress: ingress)
            } else {
                handOff(
                    header, length: total, kind: .outbound, aux: UInt32(child) << 8 | UInt32(ingress),
                    to: Int(outboundSlots[child].owner))
            }
        }
    }

    /// After new tables: what waits may belong to another child now, as when the peer has agreed to a part of what was asked for.
    @inline(never)
    mutating func judgeTunnelHolds() {
        for index in 0..<TunnelHold.slots where tunnelHolds[index].child >= 0 {
            let hold = takeTunnelHold(index)
            for packet in 0..<hold.count {
                let word = hold.packets[packet]
                let total = Int(word >> 40 & 0xFFFF)
                outbound(
                    umem + Int(word & 0xFF_FFFF_FFFF), available: total, ingress: UInt8(truncatingIfNeeded: word >> 56))
            }
            // Who goes on waiting has waited as long as before.
            for again in 0..<TunnelHold.slots where tunnelHolds[again].child == hold.child {
                tunnelHolds[again].since = hold.since
            }
        }
    }

    @inline(never)
    mutating func expireTunnelHolds(_ now: UInt64) {
        for index in 0..<TunnelHold.slots
        where tunnelHolds[index].child >= 0 && now &- tunnelHolds[index].since > TunnelHold.lifetimeNanoseconds {
            let hold = takeTunnelHold(index)
            for packet in 0..<hold.count { drop(.noSA, umem + Int(hold.packets[packet] & 0xFF_FFFF_FFFF)) }
        }
    }

    private mutating func takeTunnelHold(_ index: Int) -> TunnelHold {
        let hold = tunnelHolds[index]
        (tunnelHolds[index].child, tunnelHolds[index].count) = (-1, 0)
        tunnelHoldsInUse -= 1
        return hold
    }
}
