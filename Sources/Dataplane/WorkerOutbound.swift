import CLinux
import Crypto
import IPsec
import Wire

/// The protected side: policy, then ESP, then the underlay.
extension Worker {
    /// Policy and SA for one inner packet.
    ///
    /// 1. lengths that the frame really has, and a header that is whole; 2. the flow's verdict; 3. the child's SA; 4. to its
    /// owner if that is not us.
    /// - Parameters:
    ///   - header: the inner IPv4 header; `available` octets are in the frame from there.
    ///   - ingress: the port it came in on, for ICMP errors; `TablesView.kernelPort` for the TUN device.
    @inline(__always)
    mutating func outbound(_ header: UnsafeMutableRawPointer, available: Int, ingress: UInt8) {
        let headerBytes = Int(load8(header, 0) & 15) &* 4
        let total = Int(load16(header + IPv4.totalLengthOffset))
        guard load8(header, 0) >> 4 == 4, headerBytes >= IPv4.minimumHeaderBytes, total >= headerBytes, total <= available,
            isHeaderSumGood(header, headerBytes: headerBytes)
        else {
            drop(.malformed, header)
            return
        }
        let source = load32(header + IPv4.sourceOffset)
        let destination = load32(header + IPv4.destinationOffset)
        let number = tables.rulesUsePorts ? load8(header, IPv4.protocolOffset) : 0
        var ports: UInt32 = 0
        var hasPorts = false
        if tables.rulesUsePorts {
            if isFragment(header) {
                if workerCount > 1, handOffFragment(header, total: total, ingress: ingress) { return }
                let known = fragmentPorts(header, headerBytes: headerBytes, total: total)
                (ports, hasPorts) = (known ?? 0, known != nil)
            } else {
                (ports, hasPorts) = portKey(header, headerBytes: headerBytes, total: total)
            }
        }
        let hash = (source &* 0x9E37_79B1) ^ (destination &* 0x85EB_CA77) ^ (ports &* 0xC2B2_AE3D) ^ UInt32(number)
        let flow = flows + Int((hash ^ (hash >> 15)) & UInt32(Worker.flowSlots &- 1))
        if flow.pointee.generation != tables.rulesGeneration || flow.pointee.destination != destination
            || flow.pointee.source != source
            || flow.pointee.ports != ports || flow.pointee.protocolNumber != number || flow.pointee.hasPorts != hasPorts
        {
            learnFlow(flow, source: source, destination: destination, ports: hasPorts ? ports : nil, number: number)
        }
        guard flow.pointee.verdict == .protect else {
            refuse(flow.pointee.verdict, header, total: total, ingress: ingress)
            return
        }
        let child = Int(flow.pointee.childIndex)
        guard let sa = outboundSlots[child].sa else {
            missTunnel(child, header, total: total, ingress: ingress)
            return
        }
        if workerCount > 1, Int(outboundSlots[child].owner) != index {
            handOff(
                header, length: total, kind: .outbound, aux: UInt32(child) << 8 | UInt32(ingress),
                to: Int(outboundSlots[child].owner))
            return
        }
        encapsulate(sa, header, total: total, ingress: ingress)
    }

    /// Ports as one word, of the protocols that policies can name with ports: all begin with them. ICMP, the rest, and later
    /// fragments have none.
    @inline(__always)
    func portKey(_ header: UnsafeMutableRawPointer, headerBytes: Int, total: Int) -> (ports: UInt32, known: Bool) {
        let number = load8(header, IPv4.protocolOffset)
        guard IPv4.hasPorts(number), total >= headerBytes &+ 4,
            load16(header + IPv4.fragmentOffset) & IPv4.fragmentMask == 0
        else { return (0, false) }
        return (load32(header + headerBytes), true)
    }

    @inline(never)
    mutating func learnFlow(
        _ flow: UnsafeMutablePointer<FlowEntry>, source: UInt32, destination: UInt32, ports: UInt32?, number: UInt8
    ) {
        let (verdict, child) = tables.policy(
            source: source, destination: destination, protocolNumber: number,
            ports: ports.map { (UInt16(truncatingIfNeeded: $0 >> 16), UInt16(truncatingIfNeeded: $0)) })
        flow.pointee = FlowEntry(
            source: source, destination: destination, ports: ports ?? 0, generation: tables.rulesGeneration,
            protocolNumber: number,
            hasPorts: ports != nil, verdict: verdict, childIndex: min(child, UInt16(Worker.childLimit - 1)))
    }

    /// ESP in tunnel mode, in place. RFC 4303 §3.3.
    ///
    /// 1. selectors; 2. TTL; 3. MSS of a SYN; 4. does it fit; then `protect`, or its fragments one by one.
    @inline(never)
    mutating func encapsulate(
        _ sa: UnsafeMutablePointer<OutboundSA>, _ header: UnsafeMutableRawPointer, total: Int, ingress: UInt8
    ) {
        // The peer may have narrowed what policy asked for (RFC 7296 §2.9); it would drop the rest.
        guard
            fits(
                sa.pointee.pairs, sa.pointee.pairCount, header, headerBytes: Int(load8(header, 0) & 15) &* 4, total: total,
                remote: load32(header + IPv4.destinationOffset), local: load32(header + IPv4.sourceOffset), inbound: false)
        else {
            drop(mismatch(sa.pointee.pairs, sa.pointee.pairCount, header, inbound: false), header)
            return
        }
        // Whatever comes from the TUN device is the gateway's own, or the kernel has forwarded it and taken the hop off.
        guard ingress == TablesView.kernelPort || decrementTTL(header) else {
            expired(header, total: total, ingress: ingress)
            return
        }
        if load8(header, IPv4.protocolOffset) == IPv4.protocolTCP { clampSYN(header, total: total, mss: sa.pointee.mssBytes) }
        if total > Int(sa.pointee.largestPayloadBytes) {
            tooLong(sa, header, total: total, ingress: ingress)
            return
        }
        protect(sa, header, total: total)
    }

    /// ESP around a packet that fits.
    ///
    /// 5. sequence number, which is also the IV; 6. trailer; 7. ESP, UDP and outer IP headers into the headroom; 8. seal; 9. next
    /// hop of the peer.
    @inline(__always)
    mutating func protect(_ sa: UnsafeMutablePointer<OutboundSA>, _ header: UnsafeMutableRawPointer, total: Int) {
        let udp = sa.pointee.udp
        let pad = ESPLayout.padBytes(payloadBytes: total)
        let sealedBytes = total &+ pad &+ ESPLayout.trailerBytes
        guard tailroom(header) >= sealedBytes &+ ESPLayout.icvBytes,
            headroom(header) >= Worker.outerHeadersBytes
        else {
            drop(.frameTooSmall, header)
            return
        }
        // RFC 4303 §3.3.3: "the sender MUST NOT send a packet on an SA if doing so would cause the sequence number to cycle."
        let sequence = sa.pointee.sequence &+ 1
        if sequence >= sa.pointee.rekeySequence || sa.pointee.bytes >= sa.pointee.byteMark {
            guard isWithinLimits(sa, sequence: sequence) else {
                drop(sequence > SequenceNumbers.last(extended: sa.pointee.extended) ? .sequenceExhausted : .lifetimeEnded, header)
                return
            }
        }
        sa.pointee.sequence = sequence

        let tos = load8(header, IPv4.tosOffset)
        var fragmentation = UInt32(IPv4.dontFragment)
        if case .set = sa.pointee.sizes.dontFragment {
        } else {
            let field = load16(header + IPv4.fragmentOffset)
            fragmentation = sa.pointee.sizes.dontFragment.outer(inner: field, sequence: sequence)
        }
        writeTrailer(header + total, padBytes: pad)
        let esp = header - (ESPLayout.headerBytes + ESPLayout.ivBytes)
        esp.storeBytes(of: sa.pointee.spiWire, as: UInt32.self)
        store32(UInt32(truncatingIfNeeded: sequence), esp + 4)
        esp.storeBytes(of: sequence.bigEndian, toByteOffset: 8, as: UInt64.self)
        writeTwelve(sa.pointee.saltWire, sequence.bigEndian, to: scratch)

        if sa.pointee.isIPv6 {
            encapsulateIPv6(sa, esp, header, sealedBytes: sealedBytes, total: total, tos: tos, sequence: sequence)
            return
        }
        let outer = buildOuter(
            sa, esp, payloadBytes: ESPLayout.headerBytes &+ ESPLayout.ivBytes &+ sealedBytes &+ ESPLayout.icvBytes, tos: tos,
            fragmentation: fragmentation, udp: udp)
        guard seal(sa, esp, data: header, length: sealedBytes, sequence: sequence) else {
            drop(.engineFailed, header)
            return
        }
        sa.pointee.packets &+= 1
        sa.pointee.bytes &+= UInt64(total)
        send(outer, length: Int(load16(outer + IPv4.totalLengthOffset)), to: sa.pointee.remote)
    }

    /// RFC 4303 §2.4: padding octets are 1, 2, 3, …
    @inline(__always)
    func writeTrailer(_ trailer: UnsafeMutableRawPointer, padBytes: Int) {
        trailer.storeBytes(of: UInt32(0x0003_0201).littleEndian, as: UInt32.self)
        trailer.storeBytes(of: UInt8(truncatingIfNeeded: padBytes), toByteOffset: padBytes, as: UInt8.self)
        trailer.storeBytes(of: ESPLayout.nextHeaderIPv4, toByteOffset: padBytes &+ 1, as: UInt8.self)
    }

    /// Outer IPv4 and, when negotiated, UDP. DSCP and ECN are copied from the inner header (RFC 6040 §4.1, normal mode); the UDP
    /// checksum is zero (RFC 3948 §2.1).
    /// - Parameter fragmentation: the header's second word: with DF the identification is zero, as RFC 6864 §4.1 allows for
    ///   atomic datagrams.
    @inline(__always)
    func buildOuter(
        _ sa: UnsafeMutablePointer<OutboundSA>, _ esp: UnsafeMutableRawPointer, payloadBytes: Int, tos: UInt8,
        fragmentation: UInt32, udp: Bool
    )
        -> UnsafeMutableRawPointer
    {
        var outer = esp - IPv4.minimumHeaderBytes
        var length = payloadBytes &+ IPv4.minimumHeaderBytes
        if udp {
            let datagram = esp - UDP.headerBytes
            datagram.storeBytes(of: sa.pointee.udpPortsWire, as: UInt32.self)
            store32(UInt32(truncatingIfNeeded: payloadBytes &+ UDP.headerBytes) << 16, datagram + 4)
            outer = datagram - IPv4.minimumHeaderBytes
            length &+= UDP.headerBytes
        }
        let number = udp ? IPv4.protocolUDP : IPv4.protocolESP
        let checksum = ~Checksum.fold(
            sa.pointee.checksumBase &+ UInt32(tos) &+ UInt32(truncatingIfNeeded: length) &+ (fragmentation >> 16)
                &+ (fragmentation & 0xFFFF))
        store32(0x4500_0000 | UInt32(tos) << 16 | UInt32(truncatingIfNeeded: length), outer)
        store32(fragmentation, outer + 4)
        store32(UInt32(IPv4.defaultTTL) << 24 | UInt32(number) << 16 | UInt32(checksum), outer + 8)
        outer.storeBytes(of: sa.pointee.localWire, toByteOffset: IPv4.sourceOffset, as: UInt32.self)
        outer.storeBytes(of: sa.pointee.remoteWire, toByteOffset: IPv4.destinationOffset, as: UInt32.self)
        return outer
    }

    /// AES-GCM over payload, padding and trailer. AAD is SPI and sequence number, 64 bits of it with ESN. RFC 4106 §5.
    @inline(__always)
    func seal(
        _ sa: UnsafeMutablePointer<OutboundSA>, _ esp: UnsafeMutableRawPointer, data: UnsafeMutableRawPointer, length: Int,
        sequence: UInt64
    )
        -> Bool
    {
        var aad = esp
        var aadBytes = ESPLayout.headerBytes
        if sa.pointee.extended {
            aad = scratch + 16
            writeTwelve(sa.pointee.spiWire, sequence.bigEndian, to: aad)
            aadBytes = 12
        }
        return PacketEngine.seal(
            sa.pointee.engine, keyIs256: sa.pointee.keyIs256, handle: sa.pointee.handle, manager: engineManager, nonce: scratch,
            aad: aad,
            aadBytes: aadBytes, data: data, length: length, tag: data + length)
    }

    /// 4 and 8 octets, already in the order of the wire, as stores of 8 and 4: engines load them so, and a load that spans two
    /// stores waits for both to retire.
    @inline(__always)
    func writeTwelve(_ first: UInt32, _ second: UInt64, to place: UnsafeMutableRawPointer) {
        #if _endian(little)
            place.storeBytes(of: UInt64(first) | second << 32, as: UInt64.self)
            place.storeBytes(of: UInt32(truncatingIfNeeded: second >> 32), toByteOffset: 8, as: UInt32.self)
        #else
            place.storeBytes(of: first, as: UInt32.self)
            place.storeBytes(of: second, toByteOffset: 4, as: UInt64.self)
        #endif
    }

    /// RFC 791: a router takes one off; false when none is left. The checksum follows by RFC 1141's increment.
    @inline(__always)
    func decrementTTL(_ header: UnsafeMutableRawPointer) -> Bool {
        let ttl = load8(header, IPv4.ttlOffset)
        guard ttl > 1 else { return false }
        header.storeBytes(of: ttl &- 1, toByteOffset: IPv4.ttlOffset, as: UInt8.self)
        let sum = UInt32(load16(header + IPv4.checksumOffset)) &+ 0x0100
        store16(UInt16(truncatingIfNeeded: (sum & 0xFFFF) &+ (sum >> 16)), header + IPv4.checksumOffset)
        return true
    }

    /// Looks for a SYN without a call; the rare hit goes out of line.
    @inline(__always)
    func clampSYN(_ header: UnsafeMutableRawPointer, total: Int, mss: UInt16) {
        let headerBytes = Int(load8(header, 0) & 15) &* 4
        guard total >= headerBytes &+ TCP.minimumHeaderBytes else { return }
        guard load8(header, headerBytes &+ TCP.flagsOffset) & TCP.synFlag != 0 else { return }
        guard load16(header + IPv4.fragmentOffset) & IPv4.fragmentMask == 0 else { return }
        lowerMSS(header + headerBytes, bytes: total &- headerBytes, mss: mss)
    }

    @inline(never)
    func lowerMSS(_ segment: UnsafeMutableRawPointer, bytes: Int, mss: UInt16) {
        var span = MutableSpan<UInt8>(_unsafeStart: segment.assumingMemoryBound(to: UInt8.self), count: bytes)
        TCP.clampMSS(&span, to: mss)
    }
}
