public import IPsec
public import Wire

/// Installing, switching and retiring SA pairs.
extension Dataplane {
    /// Installs the inbound SA on all workers and prepares the outbound one; `inboundReady(token)` follows.
    /// - Parameter childIndex: a small number that is the configured child's for as long as it exists.
    public func install(_ sa: ChildSA, childIndex: Int, token: UInt64) throws(DataplaneError) {
        guard (0..<Worker.childLimit).contains(childIndex) else {
            throw DataplaneError("more than \(Worker.childLimit) children cannot be installed on one gateway")
        }
        guard pairs[sa.inboundSPI] == nil else {
            throw DataplaneError("an SA with inbound SPI \(sa.inboundSPI.hexadecimal) is installed already")
        }
        guard pairs.count < InboundTable.limit else {
            throw DataplaneError("more than \(InboundTable.limit) SAs cannot be installed")
        }
        // The two directions go to different workers, so that one tunnel can keep two cores busy. A rekeyed pair stays where the
        // one before is: packets under way between workers keep their order.
        let before = outboundOfChild[childIndex].flatMap { pairs[$0] }
        let outboundOwner = before?.outboundOwner ?? nextOwner % workers.count
        let inboundOwner = before?.inboundOwner ?? (nextOwner + 1) % workers.count
        if before == nil { nextOwner += 1 }
        let pair = try SAPair(
            sa, childIndex: childIndex, engine: settings.engine, inboundOwner: inboundOwner, outboundOwner: outboundOwner,
            mtu: underlayMTU,
            numaNode: settings.numaNode)
        pairs[sa.inboundSPI] = pair
        broadcast(.installInbound, pointer: UnsafeMutableRawPointer(pair.inbound)) { plane in
            plane.tellLater(.inboundReady(token: token))
        }
    }

    /// From now on packets of this child leave on this pair's outbound SA.
    public func switchOutbound(childIndex: Int, inboundSPI: UInt32) {
        guard let pair = pairs[inboundSPI], (0..<Worker.childLimit).contains(childIndex) else { return }
        outboundOfChild[childIndex] = inboundSPI
        broadcast(
            .setOutbound, pointer: UnsafeMutableRawPointer(pair.outbound), first: UInt64(childIndex),
            second: UInt64(pair.outboundOwner))
    }

    /// Packets of the child are dropped with `no-sa` and ask for a tunnel again.
    public func clearOutbound(childIndex: Int) {
        guard (0..<Worker.childLimit).contains(childIndex) else { return }
        outboundOfChild[childIndex] = nil
        broadcast(.setOutbound, first: UInt64(childIndex))
    }

    /// Whether packets that find the child down wait for the tunnel that they open (`start: on-traffic`), or are dropped.
    public func setHolding(childIndex: Int, _ holds: Bool) {
        guard (0..<Worker.childLimit).contains(childIndex) else { return }
        broadcast(.setHolding, first: UInt64(childIndex), second: holds ? 1 : 0)
    }

    /// Takes both directions out. The memory goes, keys wiped, when every worker has let go; `retired` carries the last counters.
    public func retire(inboundSPI: UInt32) {
        guard let pair = pairs[inboundSPI] else { return }
        if outboundOfChild[pair.childIndex] == inboundSPI { clearOutbound(childIndex: pair.childIndex) }
        broadcast(.removeInbound, first: UInt64(inboundSPI)) { plane in
            plane.pairs[inboundSPI] = nil
            plane.tellLater(.retired(inboundSPI: inboundSPI, final: pair.counters))
        }
    }

    /// Sends to other endpoints from now on, of either family: the peer's NAT mapping changed, or one end moved.
    public func movePath(inboundSPI: UInt32, path: TunnelPath) {
        guard let pair = pairs[inboundSPI], path.local.isIPv4 == path.remote.isIPv4 else { return }
        // What was learnt of the way to another address says nothing of this one.
        if path.remote != pair.path.remote { pair.pathMTU = nil }
        pair.path = path
        pair.packetBytes = min(pair.pathMTU ?? .max, underlayMTU)
        let change = UnsafeMutablePointer<PathChange>.allocate(capacity: 1)
        change.initialize(
            to: PathChange(
                outbound: pair.outbound, inbound: pair.inbound, path: path, mtu: pair.packetBytes))
        broadcast(.movePath, pointer: UnsafeMutableRawPointer(change)) { _ in
            change.deallocate()
            withExtendedLifetime(pair) {}
        }
    }

    /// The path to a peer carries less (or again more) than the underlay's MTU. RFC 1191 §3, RFC 8201 §4; never below RFC 791's
    /// 576 or RFC 8200's 1280.
    public func setPathMTU(remote: IPAddress, mtu: Int) {
        for pair in pairs.values where pair.path.remote == remote {
            pair.pathMTU = max(remote.isIPv4 ? 576 : IPv6.minimumMTU, mtu)
            applyMTU(pair)
        }
    }

    /// Sizes of a pair after its path or the underlay changed.
    func applyMTU(_ pair: SAPair) {
        pair.packetBytes = min(pair.pathMTU ?? .max, underlayMTU)
        broadcast(
            .setMTU, pointer: UnsafeMutableRawPointer(pair.outbound), first: UInt64(pair.packetBytes),
            second: UInt64(UInt(bitPattern: UnsafeMutableRawPointer(pair.inbound)))
        ) { _ in withExtendedLifetime(pair) {} }
    }

    // MARK: Packets from control

    /// An inner packet from the TUN device that wants protection.
    public func inject(inner packet: [UInt8]) { inject(packet, isESP: false) }

    /// A whole ESP packet that the kernel reassembled, from its outer IPv4 header on.
    public func inject(espPacket packet: [UInt8]) { inject(packet, isESP: true) }

    /// The same from an IPv6 socket, which keeps the header to itself: the ESP packet alone.
    public func inject(esp: [UInt8], from: IPv6Address) {
        // The SA is found by its SPI alone: which of our addresses it was sent to does not matter.
        inject(esp, from: from, to: IPv6Address(high: 0, low: 0), nextHeader: IPv6.nextHeaderESP)
    }

    /// The payload of a UDP-encapsulated ESP packet that the kernel reassembled: gets its headers back.
    public func inject(udpEncapsulated payload: [UInt8], from: IPAddress, port: UInt16, to: IPAddress, localPort: UInt16) {
        guard payload.count <= 65_507 else { return }
        let length = UInt16(payload.count + UDP.headerBytes)
        let udp = [port, localPort, length, 0].flatMap { [UInt8($0 >> 8), UInt8(truncatingIfNeeded: $0)] }
        switch (from, to) {
        case (.v4(let from), .v4(let to)):
            let header = IPv4Header.bytes(
                source: from, destination: to, protocolNumber: IPv4.protocolUDP, payloadBytes: Int(length))
            inject(header + udp + payload, isESP: true)
        case (.v6(let from), .v6(let to)): inject(udp + payload, from: from, to: to, nextHeader: IPv6.nextHeaderUDP)
        default: return
        }
    }

    /// Marks of the outer header are lost on this way: sockets do not tell them.
    private func inject(_ payload: [UInt8], from: IPv6Address, to: IPv6Address, nextHeader: UInt8) {
        let header = IPv6Header(
            source: from, destination: to, nextHeader: nextHeader, payloadBytes: UInt16(clamping: payload.count))
        inject(header.bytes + payload, isESP: true)
    }

    /// ESP goes to the owner of its SA, the rest to the first worker: it is the gateway's own and little.
    private func inject(_ packet: [UInt8], isESP: Bool) {
        let owner = isESP ? Self.spi(ofPacket: packet).flatMap { pairs[$0]?.inboundOwner } ?? 0 : 0
        guard workers.indices.contains(owner), packet.count >= IPv4.minimumHeaderBytes, packet.count <= Int(UInt16.max),
            Injection.write(packet, isESP: isESP, frameBytes: settings.frameBytes, to: &workers[owner].injections)
        else {
            controlDrops[.injectFull, default: 0] += 1
            return
        }
        rouse(workers[owner])
    }

    /// Of an ESP packet with its outer header, and UDP between or not; nil when it is too short.
    private static func spi(ofPacket packet: [UInt8]) -> UInt32? {
        guard let first = packet.first else { return nil }
        let isIPv6 = first >> 4 == 6
        let number = packet[isIPv6 ? IPv6.nextHeaderOffset : IPv4.protocolOffset]
        let header = isIPv6 ? IPv6.headerBytes : Int(first & 15) * 4
        let offset = header + (number == IPv4.protocolUDP ? UDP.headerBytes : 0)
        guard packet.count >= offset + 4 else { return nil }
        return packet[offset..<offset + 4].reduce(0) { $0 << 8 | UInt32($1) }
    }
}

/// Packets from control to a worker.
enum Injection {
    /// Writes a packet into one slot, or an ESP packet that no frame holds into several. False when there is no room, or the
    /// packet is none that a worker can take.
    static func write(_ packet: [UInt8], isESP: Bool, frameBytes: Int, to ring: inout SPSC.Producer) -> Bool {
        let inFrame = frameBytes - Worker.headroomBytes - 64
        guard packet.count > inFrame else {
            guard let slot = ring.reserve() else { return false }
            store(packet[...], isESP ? Worker.injectionESP : 0, slot)
            ring.commit()
            ring.publish()
            return true
        }
        let part = ring.slotBytes - 8
        let parts = (packet.count + part - 1) / part
        guard isESP, ring.reserve(keeping: UInt32(parts - 1)) != nil else { return false }
        for index in 0..<parts {
            guard let slot = ring.reserve() else { break }
            let rest = packet[(index * part)...].prefix(part)
            let last = index + 1 == parts ? Worker.injectionLast : 0
            store(rest, Worker.injectionESP | Worker.injectionPart | last, slot)
            ring.commit()
        }
        ring.publish()
        return true
    }

    private static func store(_ part: ArraySlice<UInt8>, _ flags: UInt64, _ slot: UnsafeMutableRawPointer) {
        slot.storeBytes(of: UInt64(part.count) | flags, as: UInt64.self)
        part.withUnsafeBytes { bytes in
            if let base = bytes.baseAddress { (slot + 8).copyMemory(from: base, byteCount: bytes.count) }
        }
    }
}
