import CLinux
import IPsec
import Wire

/// What happens to packets off the straight way: refused, too long, expired, for the gateway itself. None of this runs for an
/// ordinary packet, and all of it may allocate.
extension Worker {
    /// At most this many ICMP errors a second (RFC 1812 §4.3.2.8 asks for a limit).
    static let icmpPerSecond: UInt32 = 50
    static let askAgainNanoseconds: UInt64 = 500_000_000

    /// Policy does not say protect. A bypass packet that came here anyway (rules with ports are not steered in XDP) goes on by
    /// the kernel's own routes, and where it leaves by another port than a protected one through the kernel: with its NAT.
    @inline(never)
    mutating func refuse(_ verdict: FlowVerdict, _ header: UnsafeMutableRawPointer, total: Int, ingress: UInt8) {
        switch verdict {
        case .bypass:
            guard ingress != TablesView.kernelPort else {
                drop(.noRoute, header)
                return
            }
            let hop = self.hop(load32(header + IPv4.destinationOffset))
            if hop.pointee.clearKind == .kernel || hop.pointee.clearKind == .refused {
                punt(header, length: total)
            } else if decrementTTL(header) {
                forward(header, length: total, hop: hop)
            } else {
                expired(header, total: total, ingress: ingress)
            }
        case .discard: drop(.policyDiscard, header)
        default: drop(.noPolicy, header)
        }
    }

    /// Asks control for a tunnel, not more often than twice a second per child.
    @inline(never)
    mutating func wantTunnel(_ child: Int) {
        let now = culvert_monotonic_coarse_ns()
        guard now &- outboundSlots[child].askedAt > Worker.askAgainNanoseconds else { return }
        outboundSlots[child].askedAt = now
        tell(.wantsTunnel, UInt32(child))
    }

    /// To the TUN device, by way of control: the packet is for the gateway, or leaves by an interface that is the kernel's.
    @inline(never)
    mutating func punt(_ header: UnsafeMutableRawPointer, length: Int) {
        guard let slot = links.punts.reserve(), length <= links.punts.slotBytes - 8 else {
            drop(.puntFull, header)
            return
        }
        slot.storeBytes(of: UInt64(length), as: UInt64.self)
        (slot + 8).copyMemory(from: header, byteCount: length)
        links.punts.commit()
        controlPending = true
        release(UInt64(header - umem))
    }

    /// The TTL ran out: RFC 1812 §5.3.1 asks for a time exceeded message.
    @inline(never)
    mutating func expired(_ header: UnsafeMutableRawPointer, total: Int, ingress: UInt8) {
        answer(.timeExceeded, header, total: total, ingress: ingress)
        drop(.ttlExpired, header)
    }

    /// Larger than the tunnel carries: with DF an ICMP error with the MTU that fits (RFC 4301 §8.2.1), without it fragments.
    @inline(never)
    mutating func tooLong(_ sa: UnsafeMutablePointer<OutboundSA>, _ header: UnsafeMutableRawPointer, total: Int, ingress: UInt8) {
        let field = load16(header + IPv4.fragmentOffset)
        if field & IPv4.dontFragment != 0 {
            answer(.fragmentationNeeded(mtu: sa.pointee.largestPayloadBytes), header, total: total, ingress: ingress)
            drop(.tooBig, header)
            return
        }
        fragment(sa, header, total: total, ingress: ingress, field: field)
    }

    /// Splits an inner packet before encryption. RFC 4301 §8.2: fragmenting inside spares the peer's reassembly. RFC 791 §2.3.
    private mutating func fragment(
        _ sa: UnsafeMutablePointer<OutboundSA>, _ header: UnsafeMutableRawPointer, total: Int, ingress: UInt8, field: UInt16
    ) {
        let headerBytes = Int(load8(header, 0) & 15) * 4
        let step = (Int(sa.pointee.largestPayloadBytes) - headerBytes) & ~7
        // Options are copied to every fragment as they are; the few that must not be are harmless at the far end.
        guard step >= 8 else {
            drop(.tooBig, header)
            return
        }
        // The TTL was taken off already; `encapsulate` will take one more from each piece.
        let ttl = load8(header, IPv4.ttlOffset) &+ 1
        var offset = 0
        let payload = total - headerBytes
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
            let position = (field & IPv4.fragmentMask) &+ UInt16(offset / 8)
            store16(UInt16(headerBytes + bytes), piece + IPv4.totalLengthOffset)
            store16(position | (more ? IPv4.moreFragments : 0), piece + IPv4.fragmentOffset)
            piece.storeBytes(of: ttl, toByteOffset: IPv4.ttlOffset, as: UInt8.self)
            refreshChecksum(piece, headerBytes: headerBytes)
            encapsulate(sa, piece, total: headerBytes + bytes, ingress: ingress)
            offset += bytes
        }
        release(UInt64(header - umem))
    }

    private func refreshChecksum(_ header: UnsafeMutableRawPointer, headerBytes: Int) {
        store16(0, header + IPv4.checksumOffset)
        let span = Span<UInt8>(_unsafeStart: header.assumingMemoryBound(to: UInt8.self), count: headerBytes)
        store16(~Checksum.fold(Checksum.sum(span)), header + IPv4.checksumOffset)
    }

    /// Sends an ICMP error to the packet's sender: through the kernel when it came from there or from the tunnel, else out of the
    /// port it came in on. The TTL on the quoted packet is as we forwarded it.
    private mutating func answer(_ failure: ICMP.Failure, _ header: UnsafeMutableRawPointer, total: Int, ingress: UInt8) {
        guard takeICMPToken() else {
            drops[Int(DropReason.icmpLimited.rawValue)] &+= 1
            return
        }
        let original = [UInt8](UnsafeRawBufferPointer(start: header, count: total))
        guard ICMP.mayAnswer(original) else { return }
        let source = errorSource(ingress)
        guard source != 0, let frame = takeFrame() else { return }
        let error = ICMP.error(failure, about: original, source: IPv4Address(bits: source))
        let place = umem + Int(frame) + Worker.headroomBytes
        error.withUnsafeBytes { place.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
        if ingress == TablesView.kernelPort {
            // From the gateway's own TUN, or out of the tunnel: policy sends it where the original came from.
            let destination = load32(place + IPv4.destinationOffset)
            if tables.isLocal(destination) {
                punt(place, length: error.count)
            } else {
                outbound(place, available: error.count, ingress: ingress)
            }
        } else {
            // It quotes what is to be protected, and leaves as the packet itself would.
            let hop = self.hop(load32(place + IPv4.destinationOffset))
            guard hop.pointee.clearKind != .refused else {
                release(frame)
                return
            }
            forward(place, length: error.count, hop: hop)
        }
    }

    /// The address of the port, or of any protected port for packets that came out of the tunnel.
    private func errorSource(_ ingress: UInt8) -> UInt32 {
        if Int(ingress) < TablesView.portLimit, tables.ports[Int(ingress)].address != 0 {
            return tables.ports[Int(ingress)].address
        }
        for queue in 0..<queueCount where queues[queue].isProtected {
            let address = tables.ports[Int(queues[queue].portIndex)].address
            if address != 0 { return address }
        }
        // RFC 1812 §4.2.2.11 (d): loopback addresses never leave a machine.
        for index in 0..<tables.localCount where tables.localAddresses[index] >> 24 != 127 { return tables.localAddresses[index] }
        return 0
    }

    private mutating func takeICMPToken() -> Bool {
        let now = culvert_monotonic_coarse_ns()
        if now &- icmpRefilledAt > 1_000_000_000 {
            icmpRefilledAt = now
            icmpTokens = Worker.icmpPerSecond
        }
        guard icmpTokens > 0 else { return false }
        icmpTokens -= 1
        return true
    }
}
