import CLinux
import Crypto
import IPsec
import Wire

/// The underlay side: ESP, then the inner packet's selectors, then the protected network.
extension Worker {
    /// Finds the ESP header in an outer packet and its SA; foreign SAs go to their owner.
    /// - Parameters:
    ///   - outer: the outer IP header, for one of our addresses (XDP has checked); `available` octets follow in the frame.
    @inline(__always)
    mutating func inbound(_ outer: UnsafeMutableRawPointer, available: Int) {
        let headerBytes = Int(load8(outer, 0) & 15) &* 4
        let total = Int(load16(outer + IPv4.totalLengthOffset))
        guard load8(outer, 0) >> 4 == 4, headerBytes >= IPv4.minimumHeaderBytes, total <= available else {
            inboundOther(outer, available: available)
            return
        }
        var offset = headerBytes
        let number = load8(outer, IPv4.protocolOffset)
        if number == IPv4.protocolUDP { offset &+= UDP.headerBytes }
        guard number == IPv4.protocolESP || number == IPv4.protocolUDP else {
            drop(.unsupportedProtocol, outer)
            return
        }
        // SPI, sequence number, IV, at least pad length and next header, ICV.
        guard total >= offset &+ ESPLayout.headerBytes &+ ESPLayout.ivBytes &+ ESPLayout.trailerBytes &+ ESPLayout.icvBytes else {
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
        decapsulate(sa, outer, espOffset: offset, total: total)
    }

    /// RFC 4303 §3.4, in its order: sequence number, ICV and decryption, then what is inside.
    ///
    /// 1. recover the 64-bit number; 2. replay check; 3. open in place; 4. replay update; 5. trailer; 6. inner packet.
    @inline(never)
    mutating func decapsulate(_ sa: UnsafeMutablePointer<InboundSA>, _ outer: UnsafeMutableRawPointer, espOffset: Int, total: Int)
    {
        let esp = outer + espOffset
        let low = load32(esp + 4)
        var sequence = UInt64(low)
        if sa.pointee.extended {
            guard let full = SequenceNumbers.infer(low: low, highest: sa.pointee.highest, windowPackets: sa.pointee.windowPackets)
            else {
                sa.pointee.dropsReplay &+= 1
                drop(.replay, outer)
                return
            }
            sequence = full
        }
        guard
            SequenceNumbers.isAcceptable(
                sequence, highest: sa.pointee.highest, windowPackets: UInt64(sa.pointee.windowPackets),
                bitmap: Span(_unsafeStart: sa.pointee.bitmap, count: Int(sa.pointee.bitmapWords)))
        else {
            sa.pointee.dropsReplay &+= 1
            drop(.replay, outer)
            return
        }
        let data = esp + (ESPLayout.headerBytes + ESPLayout.ivBytes)
        let length = total &- espOffset &- ESPLayout.headerBytes &- ESPLayout.ivBytes &- ESPLayout.icvBytes
        guard open(sa, esp, data: data, length: length, sequence: sequence) else {
            sa.pointee.dropsAuthentication &+= 1
            drop(.authenticationFailed, outer)
            return
        }
        var bitmap = MutableSpan<UInt64>(_unsafeStart: sa.pointee.bitmap, count: Int(sa.pointee.bitmapWords))
        sa.pointee.highest = SequenceNumbers.accept(sequence, highest: sa.pointee.highest, bitmap: &bitmap)
        // Only the newest packet tells where the peer is now: an older one may come from where it was, or from a recording.
        if sa.pointee.udp, sa.pointee.highest == sequence { followPath(sa, outer, espOffset: espOffset) }

        let padBytes = Int(load8(data, length &- 2))
        let nextHeader = load8(data, length &- 1)
        let inner = length &- ESPLayout.trailerBytes &- padBytes
        guard nextHeader == ESPLayout.nextHeaderIPv4, inner >= IPv4.minimumHeaderBytes else {
            // RFC 4303 §2.6: dummy packets are discarded without prejudice.
            let isDummy = nextHeader == ESPLayout.nextHeaderNone
            if isDummy { sa.pointee.dropsOther &+= 1 } else { sa.pointee.dropsUnsupported &+= 1 }
            drop(isDummy ? .dummyPacket : .unsupportedPayload, outer)
            return
        }
        deliver(sa, data, available: inner, outerTOS: load8(outer, IPv4.tosOffset))
    }

    /// The inner packet: lengths, selectors, ECN, MSS, TTL, next hop.
    @inline(__always)
    mutating func deliver(
        _ sa: UnsafeMutablePointer<InboundSA>, _ header: UnsafeMutableRawPointer, available: Int, outerTOS: UInt8
    ) {
        let headerBytes = Int(load8(header, 0) & 15) &* 4
        let total = Int(load16(header + IPv4.totalLengthOffset))
        guard load8(header, 0) >> 4 == 4, headerBytes >= IPv4.minimumHeaderBytes, total >= headerBytes, total <= available,
            isHeaderSumGood(header, headerBytes: headerBytes)
        else {
            sa.pointee.dropsMalformed &+= 1
            drop(.malformed, header)
            return
        }
        let destination = load32(header + IPv4.destinationOffset)
        // RFC 4301 §5.2 step 4: the packet must match the selectors of the SA it came on.
        let source = load32(header + IPv4.sourceOffset)
        guard
            fits(
                sa.pointee.pairs, sa.pointee.pairCount, header, headerBytes: headerBytes, total: total, remote: source,
                local: destination,
                inbound: true)
        else {
            sa.pointee.dropsSelector &+= 1
            drop(mismatch(sa.pointee.pairs, sa.pointee.pairCount, header, inbound: true), header)
            return
        }
        let tos = load8(header, IPv4.tosOffset)
        if outerTOS & 3 != 0 {
            guard let ecn = ECN.decapsulated(inner: tos & 3, outer: outerTOS & 3) else {
                sa.pointee.dropsOther &+= 1
                drop(.ecnIncompatible, header)
                return
            }
            if ecn != tos & 3 { setTOS(header, tos & 0xFC | ecn) }
        }
        sa.pointee.packets &+= 1
        sa.pointee.bytes &+= UInt64(total)
        let hop = self.hop(destination)
        if load8(header, IPv4.protocolOffset) == IPv4.protocolTCP {
            let mss = sa.pointee.mssBytes
            clampSYN(header, total: total, mss: mss == .max ? mss : min(mss, hop.pointee.mssBytes))
        }
        if total > Int(hop.pointee.mtuBytes) {
            exceedsPort(header, total: total, hop: hop, ingress: TablesView.kernelPort)
            return
        }
        if hop.pointee.clearKind == .kernel {
            // For the gateway itself, or by the kernel's routes out of a port that is no protected one: it decrements the TTL
            // when it forwards.
            punt(header, length: total)
            return
        }
        guard decrementTTL(header) else {
            expired(header, total: total, ingress: TablesView.kernelPort)
            return
        }
        forward(header, length: total, hop: hop)
    }

    /// Whether an inner packet is within one of an SA's pairs of selectors. The first pair nearly always decides.
    @inline(__always)
    mutating func fits(
        _ pairs: UnsafeMutablePointer<SelectorPair>, _ count: UInt32, _ header: UnsafeMutableRawPointer, headerBytes: Int,
        total: Int,
        remote: UInt32, local: UInt32, inbound: Bool
    ) -> Bool {
        var index = 0
        while index < Int(count) {
            let pair = pairs + index
            index &+= 1
            guard remote >= pair.pointee.remoteFirst, remote <= pair.pointee.remoteLast, local >= pair.pointee.localFirst,
                local <= pair.pointee.localLast
            else { continue }
            if pair.pointee.protocolNumber == 0 { return true }
            guard pair.pointee.protocolNumber == load8(header, IPv4.protocolOffset) else { continue }
            if pair.pointee.anyPort || portsFit(pair, header, headerBytes: headerBytes, total: total, inbound: inbound) {
                return true
            }
        }
        return false
    }

    @inline(never)
    mutating func portsFit(
        _ pair: UnsafeMutablePointer<SelectorPair>, _ header: UnsafeMutableRawPointer, headerBytes: Int, total: Int, inbound: Bool
    ) -> Bool {
        guard
            let ports = isFragment(header)
                ? fragmentPorts(header, headerBytes: headerBytes, total: total)
                : total >= headerBytes &+ 4 ? load32(header + headerBytes) : nil
        else { return false }
        let (source, destination) = (UInt16(truncatingIfNeeded: ports >> 16), UInt16(truncatingIfNeeded: ports))
        let (remote, local) = inbound ? (source, destination) : (destination, source)
        return remote >= pair.pointee.remotePortFirst && remote <= pair.pointee.remotePortLast
            && local >= pair.pointee.localPortFirst
            && local <= pair.pointee.localPortLast
    }

    @inline(__always)
    func open(
        _ sa: UnsafeMutablePointer<InboundSA>, _ esp: UnsafeMutableRawPointer, data: UnsafeMutableRawPointer, length: Int,
        sequence: UInt64
    )
        -> Bool
    {
        // The nonce is the salt and the IV as it came. RFC 4106 §4.
        writeTwelve(sa.pointee.saltWire, (esp + 8).loadUnaligned(as: UInt64.self), to: scratch)
        var aad = esp
        var aadBytes = ESPLayout.headerBytes
        if sa.pointee.extended {
            aad = scratch + 16
            writeTwelve(esp.loadUnaligned(as: UInt32.self), sequence.bigEndian, to: aad)
            aadBytes = 12
        }
        return PacketEngine.open(
            sa.pointee.engine, keyIs256: sa.pointee.keyIs256, handle: sa.pointee.handle, manager: engineManager, nonce: scratch,
            aad: aad,
            aadBytes: aadBytes, data: data, length: length, tag: data + length)
    }

    /// Authenticated packets from a new endpoint: the NAT in between changed its mapping. RFC 7296 §2.23. Control decides.
    @inline(__always)
    mutating func followPath(_ sa: UnsafeMutablePointer<InboundSA>, _ outer: UnsafeMutableRawPointer, espOffset: Int) {
        let source = load32(outer + IPv4.sourceOffset)
        let port = load16(outer + (espOffset &- UDP.headerBytes))
        guard source != sa.pointee.remote || port != sa.pointee.remotePort else { return }
        pathChanged(sa, outer, espOffset: espOffset)
    }

    @inline(__always)
    func setTOS(_ header: UnsafeMutableRawPointer, _ tos: UInt8) {
        let old = load16(header)
        let new = old & 0xFF00 | UInt16(tos)
        store16(new, header)
        store16(Checksum.adjusted(load16(header + IPv4.checksumOffset), from: old, to: new), header + IPv4.checksumOffset)
    }
}
