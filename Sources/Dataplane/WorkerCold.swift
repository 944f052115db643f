import CLinux
import IPsec
import Wire

/// What happens to packets off the straight way: refused, too long, expired, for the gateway itself. None of this runs for an
/// ordinary packet, and all of it may allocate.
extension Worker {
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
            let fits = total <= Int(hop.pointee.mtuBytes)
            if hop.pointee.clearKind == .refused || (hop.pointee.clearKind == .kernel && fits) {
                punt(header, length: total)
            } else if !fits {
                exceedsPort(header, total: total, hop: hop, ingress: ingress)
            } else if decrementTTL(header) {
                forward(header, length: total, hop: hop)
            } else {
                expired(header, total: total, ingress: ingress)
            }
        case .discard: drop(.policyDiscard, header)
        default: drop(refusal(header), header)
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

    /// Sends an ICMP error to the packet's sender: through the kernel when it came from there or from the tunnel, else out of the
    /// port it came in on. The TTL on the quoted packet is as we forwarded it.
    mutating func answer(_ failure: ICMP.Failure, _ header: UnsafeMutableRawPointer, total: Int, ingress: UInt8) {
        let original = [UInt8](UnsafeRawBufferPointer(start: header, count: min(total, ICMP.quotedBytesLimit)))
        guard ICMP.mayAnswer(original) else { return }
        guard mayCauseError(load32(header + IPv4.sourceOffset)) else {
            counters.pointee.icmpErrorsWithheld &+= 1
            return
        }
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

    /// RFC 1812 §4.3.2.8 asks for a limit. Each source has its own, so that one host cannot use up the others'.
    private mutating func mayCauseError(_ source: UInt32) -> Bool {
        let now = culvert_monotonic_coarse_ns()
        let bucket = icmpBudgets + SecondBudget.bucket(of: source)
        return bucket.pointee.take(SecondBudget.icmpErrorsPerSource, now: now)
            && icmpBudget.take(SecondBudget.icmpErrors, now: now)
    }
}

/// How often something may still happen within this second.
struct SecondBudget {
    /// Buckets; sources that share one share its budget.
    static let sources = 256
    static let icmpErrorsPerSource: UInt32 = 20
    static let icmpErrors: UInt32 = 1000
    static let neighboursPerSource: UInt32 = 50

    var tokens: UInt32
    var refilledAt: UInt64 = 0

    init(tokens: UInt32) { self.tokens = tokens }

    static func bucket(of source: UInt32) -> Int { Int((source &* 0x9E37_79B1) >> 16) % sources }

    mutating func take(_ limit: UInt32, now: UInt64) -> Bool {
        if now &- refilledAt > 1_000_000_000 { (tokens, refilledAt) = (limit, now) }
        guard tokens > 0 else { return false }
        tokens -= 1
        return true
    }
}
