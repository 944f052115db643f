import CLinux
import Glibc
import IPsec
import Platform
import Wire

/// Frames between workers: to the owner of an SA, to the transmitter of a port, and back to the pool they came from.
extension Worker {
    enum HandoffKind: UInt8 {
        /// An inner packet for the child in `aux >> 8`, received on port `aux & 255`.
        case outbound
        /// An outer packet with ESP.
        case inbound
        /// A fragment of an inner packet, received on port `aux`, to whoever judges that datagram.
        case fragment
        /// A finished frame for port `aux`.
        case transmit
    }

    /// As many as a pool has beside its fill rings, to a power of two: while the scheduler keeps the receiver from its core for
    /// some milliseconds, frames wait instead of being dropped, and a receiver that is too slow takes none from the fill rings.
    static func handoffSlots(framesPerWorker: Int) -> Int {
        var slots = 1024
        while slots * 2 <= framesPerWorker / 2 { slots *= 2 }
        return slots
    }

    static let handoffSlotBytes = 16

    /// Passes a frame on. `pointer` and `length` are what the other side starts from.
    @inline(never)
    mutating func handOff(_ pointer: UnsafeMutableRawPointer, length: Int, kind: HandoffKind, aux: UInt32, to owner: Int) {
        // What is in our place for long packets is no frame that we could give away.
        guard UInt64(pointer - umem) < poolBytes &* UInt64(workerCount) else {
            drop(.frameTooSmall, pointer)
            return
        }
        guard let slot = links.handoffOut[owner].reserve() else {
            drop(.handoffFull, pointer)
            return
        }
        owners[Int(truncatingIfNeeded: UInt64(pointer - umem) >> frameShift)] = FrameOwner.worker
        slot.storeBytes(of: UInt64(pointer - umem), as: UInt64.self)
        slot.storeBytes(
            of: UInt64(length & 0xFFFF) | UInt64(kind.rawValue) << 16 | UInt64(aux) << 32, toByteOffset: 8, as: UInt64.self)
        links.handoffOut[owner].commit()
        wakeMask |= 1 << UInt64(owner)
    }

    /// Takes what others handed over: at most one burst from each.
    @inline(never)
    mutating func receiveHandoffs() -> Int {
        var work = 0
        var other = 0
        while other < workerCount {
            defer { other &+= 1 }
            if other == index { continue }
            var left = Worker.burst
            while left > 0, let slot = links.handoffIn[other].next() {
                left &-= 1
                let pointer = umem + Int(truncatingIfNeeded: slot.load(as: UInt64.self))
                let word = slot.load(fromByteOffset: 8, as: UInt64.self)
                links.handoffIn[other].release()
                takeOver(
                    pointer, length: Int(word & 0xFFFF), kind: HandoffKind(rawValue: UInt8(truncatingIfNeeded: word >> 16)),
                    aux: UInt32(truncatingIfNeeded: word >> 32))
                work &+= 1
            }
            while let slot = links.returnsIn[other].next() {
                release(slot.load(as: UInt64.self))
                links.returnsIn[other].release()
            }
        }
        return work
    }

    @inline(__always)
    mutating func takeOver(_ pointer: UnsafeMutableRawPointer, length: Int, kind: HandoffKind?, aux: UInt32) {
        switch kind {
        case .outbound:
            // The SA may have been replaced meanwhile, even by one of another owner: ask again. A frame does not go round for
            // ever: every worker carries out its commands before it looks at what was handed over.
            let child = Int(aux >> 8) & (Worker.childLimit &- 1)
            guard let sa = outboundSlots[child].sa else {
                missTunnel(child, pointer, total: length, ingress: UInt8(truncatingIfNeeded: aux))
                return
            }
            guard Int(outboundSlots[child].owner) == index else {
                handOff(pointer, length: length, kind: .outbound, aux: aux, to: Int(outboundSlots[child].owner))
                return
            }
            encapsulate(sa, pointer, total: length, ingress: UInt8(truncatingIfNeeded: aux))
        case .inbound:
            inbound(pointer, available: length)
        case .fragment:
            outbound(pointer, available: length, ingress: UInt8(truncatingIfNeeded: aux))
        case .transmit:
            let port = Int(aux) & (TablesView.portLimit &- 1)
            guard queueOfPort[port] >= 0 else {
                drop(.portDown, pointer)
                return
            }
            transmit(pointer, length: length, port: port)
        case nil:
            drop(.malformed, pointer)
        }
    }

    /// The ring holds every frame of the receiver's pool, so it cannot be full.
    @inline(never)
    mutating func returnFrame(_ frame: UInt64) {
        let home = Int(truncatingIfNeeded: frame / poolBytes)
        guard home < workerCount, let slot = links.returnsOut[home].reserve() else { return }
        owners[Int(truncatingIfNeeded: frame >> frameShift)] = FrameOwner.worker
        slot.storeBytes(of: frame, as: UInt64.self)
        links.returnsOut[home].commit()
        links.returnsOut[home].publish()
    }

    /// Publishes the handoffs of this round and wakes their receivers if they sleep. The fence pairs with the one in `sleep`:
    /// either we see its flag or it sees our frames.
    @inline(never)
    mutating func wakeOthers() {
        var mask = wakeMask
        wakeMask = 0
        while mask != 0 {
            let other = mask.trailingZeroBitCount
            mask &= mask &- 1
            links.handoffOut[other].publish()
            culvert_fence_seq_cst()
            if culvert_load_relaxed_u32(links.sleeping + other) != 0 { EventSignal.raise(links.wakeups[other]) }
        }
    }

    @inline(never)
    mutating func wakeControl() {
        controlPending = false
        links.answers.publish()
        links.punts.publish()
        EventSignal.raise(links.controlEvent)
    }

    /// Sleeps until a socket, another worker or the control thread has something. Completions were reaped and the fill rings are
    /// full; the flag goes up, then every ring is looked at once more, so that nothing can slip in between.
    mutating func sleep() {
        culvert_store_relaxed_u32(links.sleeping + index, 1)
        culvert_fence_seq_cst()
        if hasWork() {
            culvert_store_relaxed_u32(links.sleeping + index, 0)
            return
        }
        var inFlight = false
        var starved = false
        var broken = false
        for queue in 0..<queueCount {
            pollSet[queue] = pollfd(fd: queues[queue].broken ? -1 : queues[queue].descriptor, events: Int16(POLLIN), revents: 0)
            if queues[queue].inFlight > 0 { inFlight = true }
            if queues[queue].filled < queues[queue].fillTarget / 2 { starved = true }
            if queues[queue].broken { broken = true }
        }
        pollSet[queueCount] = pollfd(fd: links.wakeups[index], events: Int16(POLLIN), revents: 0)
        // Held packets expire, completions of the last packets are reaped, and frames come home from other workers: all without
        // an event. A port that was down is not asked in poll(), and may be up again.
        let timeoutMilliseconds: Int32 =
            starved ? 1 : inFlight || broken ? 20 : (holdsInUse + tunnelHoldsInUse > 0 ? 100 : 1000)
        let ready = poll(pollSet, nfds_t(queueCount + 1), timeoutMilliseconds)
        if ready == 0 { for queue in 0..<queueCount { queues[queue].broken = false } }
        culvert_store_relaxed_u32(links.sleeping + index, 0)
        counters.pointee.wakeups &+= 1
        if pollSet[queueCount].revents != 0 { EventSignal.clear(links.wakeups[index]) }
        for queue in 0..<queueCount where pollSet[queue].revents & Int16(POLLERR | POLLNVAL | POLLHUP) != 0 {
            queues[queue].broken = true
        }
    }

    func hasWork() -> Bool {
        if links.commands.ring.hasMore || links.injections.ring.hasMore { return true }
        for queue in 0..<queueCount where queues[queue].receive.hasMore || queues[queue].completion.hasMore { return true }
        for other in 0..<workerCount where other != index {
            if links.handoffIn[other].ring.hasMore || links.returnsIn[other].ring.hasMore { return true }
        }
        return false
    }
}
