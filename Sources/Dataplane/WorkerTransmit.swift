import CLinux
import Glibc
import IPsec
import Platform
import Wire

/// Next hop, link-layer header, transmit ring; and where frames come from and go to.
extension Worker {
    /// Sends a finished ESP packet to where its destination's route leads.
    @inline(__always)
    mutating func send(_ header: UnsafeMutableRawPointer, length: Int, to destination: UInt32) {
        let hop = self.hop(destination)
        if hop.pointee.kind == .kernel {
            // A tunnel packet never goes to the TUN device it came from: the route to the peer must leave by one of our ports.
            drop(.noRoute, header)
            return
        }
        send(header, length: length, hop: hop)
    }

    @inline(__always)
    mutating func send(_ header: UnsafeMutableRawPointer, length: Int, hop: UnsafeMutablePointer<HopEntry>) {
        guard hop.pointee.kind == .forward else {
            sendUnresolved(header, length: length, hop: hop)
            return
        }
        sendResolved(header, length: length, hop: hop)
    }

    /// Sends a packet that is not ESP, if it may leave by its hop in the clear.
    @inline(__always)
    mutating func forward(_ header: UnsafeMutableRawPointer, length: Int, hop: UnsafeMutablePointer<HopEntry>) {
        guard hop.pointee.clearKind == .forward else {
            forwardOtherwise(header, length: length, hop: hop)
            return
        }
        sendResolved(header, length: length, hop: hop)
    }

    @inline(never)
    mutating func forwardOtherwise(_ header: UnsafeMutableRawPointer, length: Int, hop: UnsafeMutablePointer<HopEntry>) {
        switch hop.pointee.clearKind {
        case .unresolved: hold(header, length: length, clearTo: hop)
        case .kernel: punt(header, length: length)
        case .refused: drop(.clearOutbound, header)
        case .broadcast: drop(.directedBroadcast, header)
        case .empty, .forward, .noRoute: drop(.noRoute, header)
        }
    }

    @inline(__always)
    mutating func sendResolved(_ header: UnsafeMutableRawPointer, length: Int, hop: UnsafeMutablePointer<HopEntry>) {
        let frame = header - Ethernet.headerBytes
        // 14 octets as two overlapping stores of 8.
        frame.storeBytes(of: hop.pointee.headerFirst, as: UInt64.self)
        frame.storeBytes(of: hop.pointee.headerLast, toByteOffset: 6, as: UInt64.self)
        transmit(frame, length: length &+ Ethernet.headerBytes, port: Int(hop.pointee.portIndex))
    }

    /// The cached way to a destination; the cache is right as long as its generation is the tables'.
    ///
    /// Mutating, as what it calls: a borrowed worker would be copied whole, for every packet.
    @inline(__always)
    mutating func hop(_ destination: UInt32) -> UnsafeMutablePointer<HopEntry> {
        let hash = destination &* 0x9E37_79B1
        let entry = hops + Int((hash ^ (hash >> 16)) & UInt32(Worker.hopSlots &- 1))
        if entry.pointee.destination != destination || entry.pointee.generation != tables.generation {
            learnHop(entry, destination)
        }
        return entry
    }

    @inline(never)
    mutating func learnHop(_ entry: UnsafeMutablePointer<HopEntry>, _ destination: UInt32) {
        var new = HopEntry(
            destination: destination, generation: tables.generation, kind: .noRoute, portIndex: 0, nextHop: destination,
            headerFirst: 0,
            headerLast: 0)
        var clear = ForwardingPlan.Clear.allowed
        defer {
            new.clearKind = clear == .allowed ? new.kind : clear == .byKernel ? .kernel : .refused
            if new.clearKind == .kernel { new.mtuBytes = UInt16(clamping: links.punts.slotBytes - 8) }
            entry.pointee = new
        }
        // RFC 1812 §5.3.7: this network, loopback, multicast and reserved addresses are never forwarded.
        guard destination >> 24 != 0, destination >> 24 != 127, destination < 0xE000_0000 else { return }
        if tables.isLocal(destination) {
            new.kind = .kernel
            return
        }
        guard let route = tables.route(to: destination) else { return }
        clear = route.clear
        guard route.portIndex != TablesView.kernelPort else {
            new.kind = .kernel
            return
        }
        // RFC 2644: directed broadcasts are not forwarded unless a router is told to, and nothing tells this one.
        // RFC 1812 §5.3.5.3: the network's own address is the old form of one.
        let host: UInt32 = route.length < 31 ? ~0 >> UInt32(route.length) : 0
        guard host == 0 || route.length == 0 || route.gateway != 0 || (destination & host != 0 && destination & host != host)
        else {
            new.kind = .broadcast
            return
        }
        new.portIndex = route.portIndex
        if Int(route.portIndex) < TablesView.portLimit, tables.ports[Int(route.portIndex)].mtuBytes > 0 {
            new.mtuBytes = tables.ports[Int(route.portIndex)].mtuBytes
        }
        new.viaIPv6 = route.viaIPv6
        new.nextHop = route.gateway == 0 && !route.viaIPv6 ? destination : route.gateway
        let (high, low) = nextHop(of: new)
        guard Int(route.portIndex) < TablesView.portLimit,
            let neighbour = tables.neighbour(high: high, low: low, portIndex: route.portIndex)
        else {
            new.kind = .unresolved
            return
        }
        address(&new, to: neighbour.mac, type: Ethernet.typeIPv4)
    }

    /// The address to be resolved, IPv4 ones mapped into IPv6. The hop is of these tables.
    func nextHop(of hop: HopEntry) -> (high: UInt64, low: UInt64) {
        guard hop.viaIPv6 else { return (0, WorkerAnswer.mapped(hop.nextHop)) }
        let gateway = tables.gateways[Int(hop.nextHop)]
        return (gateway.high, gateway.low)
    }

    /// The link-layer header from the hop's port, below `TablesView.portLimit`, to a neighbour.
    func address(_ hop: inout HopEntry, to: MACAddress, type: UInt16) {
        hop.kind = .forward
        let from = tables.ports[Int(hop.portIndex)].mac
        hop.headerFirst = Self.word(to.0, to.1, to.2, to.3, to.4, to.5, from.0, from.1)
        hop.headerLast = Self.word(
            from.0, from.1, from.2, from.3, from.4, from.5, UInt8(type >> 8), UInt8(truncatingIfNeeded: type))
    }

    /// Eight octets in memory order.
    private static func word(
        _ a: UInt8, _ b: UInt8, _ c: UInt8, _ d: UInt8, _ e: UInt8, _ f: UInt8, _ g: UInt8, _ h: UInt8
    ) -> UInt64 {
        let high = UInt64(a) << 56 | UInt64(b) << 48 | UInt64(c) << 40 | UInt64(d) << 32
        return (high | UInt64(e) << 24 | UInt64(f) << 16 | UInt64(g) << 8 | UInt64(h)).bigEndian
    }

    /// Puts a finished frame on the port's transmit ring; the port's transmitter gets it when we have no queue there.
    @inline(__always)
    mutating func transmit(_ frame: UnsafeMutableRawPointer, length: Int, port: Int) {
        let queue = queueOfPort[port]
        guard queue >= 0 else {
            transmitElsewhere(frame, length: length, port: port)
            return
        }
        if queues[queue].transmit.free(1) == 0 || queues[queue].broken, !makeRoom(queue) {
            drop(queues[queue].broken ? .portDown : .transmitFull, frame)
            return
        }
        let address = UInt64(frame - umem)
        owners[Int(truncatingIfNeeded: address >> frameShift)] = queues[queue].owner
        queues[queue].transmit.push(address: address, length: UInt32(truncatingIfNeeded: length))
        queues[queue].staged &+= 1
    }

    @inline(never)
    mutating func transmitElsewhere(_ frame: UnsafeMutableRawPointer, length: Int, port: Int) {
        let owner = transmitterOfPort[port]
        guard owner >= 0, owner != index else {
            drop(.portDown, frame)
            return
        }
        handOff(frame, length: length, kind: .transmit, aux: UInt32(port), to: owner)
    }

    /// The ring is full: push the kernel once, then look again. Not while the port is down: what lies in the ring would leave
    /// much later, and more would only follow it.
    @inline(never)
    mutating func makeRoom(_ queue: Int) -> Bool {
        if queues[queue].broken { return false }
        flush(queue)
        reapCompletions(queue)
        return queues[queue].transmit.free(1) > 0
    }

    /// Publishes what was staged and wakes the kernel when it asks for it.
    @inline(__always)
    mutating func flush(_ queue: Int) {
        let staged = queues[queue].staged
        queues[queue].staged = 0
        queues[queue].inFlight &+= staged
        counters.pointee.packetsOut &+= UInt64(staged)
        queues[queue].transmit.submit()
        if queues[queue].descriptor >= 0, queues[queue].transmit.needsWakeup { kick(queue) }
    }

    /// One send() moves a bounded batch in copy mode (EAGAIN says there is more), so repeat until the ring is taken.
    @inline(never)
    mutating func kick(_ queue: Int) {
        var rounds = queues[queue].transmit.size / 16
        while rounds > 0 {
            rounds &-= 1
            let before = culvert_load_acquire_u32(queues[queue].transmit.consumerIndex)
            let error = culvert_xsk_kick(queues[queue].descriptor)
            if error == EAGAIN, culvert_load_acquire_u32(queues[queue].transmit.consumerIndex) != before { continue }
            // EBUSY: the device took one packet and lost it. EAGAIN without progress, ENOBUFS: it is behind, the next pass tries
            // again. Anything else: the port is gone or down.
            if error == EBUSY { drops[Int(DropReason.transmitFailed.rawValue)] &+= 1 }
            queues[queue].broken = error != 0 && error != EAGAIN && error != ENOBUFS && error != EBUSY
            return
        }
    }

    /// Frames the kernel has sent go back to their pools.
    @inline(never)
    mutating func reapCompletions(_ queue: Int) {
        var count = queues[queue].completion.ready(Worker.burst)
        while count > 0 {
            var ahead: UInt32 = 0
            while ahead < count {
                release(queues[queue].completion.address(ahead: ahead))
                ahead &+= 1
            }
            queues[queue].completion.release(count)
            queues[queue].inFlight &-= count
            count = queues[queue].completion.ready(Worker.burst)
        }
        // Left over from a kick the device had no room for.
        if queues[queue].inFlight > 0, queues[queue].descriptor >= 0, !queues[queue].broken, queues[queue].transmit.needsWakeup,
            culvert_load_acquire_u32(queues[queue].transmit.consumerIndex) != queues[queue].transmit.produced
        {
            kick(queue)
        }
    }

    /// Gives the kernel frames to receive into, in bulk.
    @inline(never)
    mutating func refill(_ queue: Int) {
        var wanted = queues[queue].fillTarget &- queues[queue].filled
        let room = queues[queue].fill.free(wanted)
        if room < wanted { wanted = room }
        if UInt32(poolCount) < wanted { wanted = UInt32(poolCount) }
        if wanted == 0 { return }
        queues[queue].filled &+= wanted
        let owner = queues[queue].owner
        while wanted > 0 {
            poolCount &-= 1
            owners[Int(truncatingIfNeeded: pool[poolCount] >> frameShift)] = owner
            queues[queue].fill.push(address: pool[poolCount])
            wanted &-= 1
        }
        queues[queue].fill.submit()
        if queues[queue].descriptor >= 0, queues[queue].fill.needsWakeup { culvert_xsk_receive(queues[queue].descriptor) }
    }

    /// Busy polling: system calls take the interrupt's place.
    @inline(never)
    mutating func driveReceive() {
        for queue in 0..<queueCount where queues[queue].descriptor >= 0 { culvert_xsk_receive(queues[queue].descriptor) }
    }

    // MARK: Frames

    /// A frame of our own pool, as its offset in the UMEM.
    @inline(__always)
    mutating func takeFrame() -> UInt64? {
        if poolCount == 0 { return nil }
        poolCount &-= 1
        owners[Int(truncatingIfNeeded: pool[poolCount] >> frameShift)] = FrameOwner.worker
        return pool[poolCount]
    }

    /// Gives a frame back: to our pool, or to the pool of the worker it came from. `address` is any octet of it.
    @inline(__always)
    mutating func release(_ address: UInt64) {
        let frame = address & frameMask
        let number = Int(truncatingIfNeeded: frame >> frameShift)
        guard owners[number] != FrameOwner.pool else {
            // Home already: the kernel completed it twice.
            drops[Int(DropReason.invalidDescriptor.rawValue)] &+= 1
            return
        }
        guard frame &- poolFirst < poolBytes else {
            returnFrame(frame)
            return
        }
        owners[number] = FrameOwner.pool
        pool[poolCount] = frame
        poolCount &+= 1
    }

    /// Counts a lost packet and frees its frame. `pointer` is any octet of the frame.
    @inline(__always)
    mutating func drop(_ reason: DropReason, _ pointer: UnsafeMutableRawPointer) {
        drops[Int(reason.rawValue)] &+= 1
        release(UInt64(pointer - umem))
    }
}
