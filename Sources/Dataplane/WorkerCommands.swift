import CLinux
import Glibc
import IPsec
import Platform
import Wire

/// What control tells a worker: 32 octets a command, answered when carried out.
struct WorkerCommand {
    enum Kind: UInt32 {
        case stop, publish, installInbound, removeInbound, setOutbound, attachQueue, detachPort, setTransmitter, movePath, setMTU,
            recoverFrames, setHolding, setHardLimit
    }
    var kind: UInt32
    /// Echoed in the answer.
    var identifier: UInt32
    var pointer: UInt64
    var first: UInt64
    var second: UInt64
}

/// What a worker tells control.
struct WorkerAnswer {
    enum Kind: UInt16 { case done, wantsTunnel, unresolved, sequenceNumbersRunningOut, pathObserved, limitReached }
    var kind: UInt16
    /// Of `pathObserved`.
    var port: UInt16 = 0
    var first: UInt32
    /// An address, IPv4 ones mapped into IPv6 (RFC 4291 §2.5.5.2).
    var high: UInt64 = 0
    var low: UInt64 = 0

    static func mapped(_ address: UInt32) -> UInt64 { 0xFFFF_0000_0000 | UInt64(address) }
    var address: IPAddress {
        let address = IPv6Address(high: high, low: low)
        return address.isIPv4Mapped ? .v4(IPv4Address(bits: UInt32(truncatingIfNeeded: low))) : .v6(address)
    }
}

extension Worker {
    static let commandSlots = 1024
    /// Answers to commands always fit: hints keep this many slots free for them, and no more commands are in flight.
    static let answersReserved: UInt32 = 2048
    static let answerSlots = 4096
    static let puntSlots = 512
    static let injectionSlots = 512
    /// A slot's first word: octets in it; whether it is ESP; whether it is a part of a packet that no frame holds, and the last.
    static let injectionESP: UInt64 = 1 << 16
    static let injectionPart: UInt64 = 1 << 17
    static let injectionLast: UInt64 = 1 << 18

    /// A hint to control. Lost when the ring is nearly full: every hint is repeated by the traffic that caused it.
    @inline(never)
    mutating func tell(_ kind: WorkerAnswer.Kind, _ first: UInt32, high: UInt64 = 0, low: UInt64 = 0, port: UInt16 = 0) {
        guard let slot = links.answers.reserve(keeping: Worker.answersReserved) else { return }
        slot.storeBytes(
            of: WorkerAnswer(kind: kind.rawValue, port: port, first: first, high: high, low: low), as: WorkerAnswer.self)
        links.answers.commit()
        controlPending = true
    }

    @inline(never)
    mutating func runCommands() -> Int {
        var work = 0
        while let slot = links.commands.next() {
            let command = slot.load(as: WorkerCommand.self)
            links.commands.release()
            run(command)
            if let answer = links.answers.reserve() {
                answer.storeBytes(
                    of: WorkerAnswer(kind: WorkerAnswer.Kind.done.rawValue, first: command.identifier),
                    as: WorkerAnswer.self)
                links.answers.commit()
                controlPending = true
            }
            work += 1
        }
        return work
    }

    private mutating func run(_ command: WorkerCommand) {
        let pointer = UnsafeMutableRawPointer(bitPattern: UInt(command.pointer))
        switch WorkerCommand.Kind(rawValue: command.kind) {
        case .stop: stopping = true
        case .publish:
            guard let view = pointer?.assumingMemoryBound(to: TablesView.self) else { return }
            tables = view.pointee
            if holdsInUse > 0 { retryHolds() }
            if tunnelHoldsInUse > 0 { judgeTunnelHolds() }
        case .installInbound:
            guard let sa = pointer?.assumingMemoryBound(to: InboundSA.self) else { return }
            _ = inboundTable.insert(sa)
        case .removeInbound: inboundTable.remove(UInt32(truncatingIfNeeded: command.first))
        case .setOutbound:
            let child = Int(command.first) & (Worker.childLimit - 1)
            outboundSlots[child].sa = pointer?.assumingMemoryBound(to: OutboundSA.self)
            outboundSlots[child].owner = UInt8(truncatingIfNeeded: command.second)
            if pointer != nil {
                outboundSlots[child].askedAt = 0
                releaseTunnelHold(child)
            }
        case .setHardLimit:
            guard let sa = pointer?.assumingMemoryBound(to: OutboundSA.self), sa.pointee.owner == UInt8(index) else { return }
            (sa.pointee.byteMark, sa.pointee.byteMarkIsHard) = (command.first, true)
        case .setHolding: outboundSlots[Int(command.first) & (Worker.childLimit - 1)].holds = command.second != 0
        case .attachQueue:
            if let queue = pointer?.assumingMemoryBound(to: Queue.self) { attach(queue.pointee) }
        case .detachPort: detach(port: Int(command.first))
        case .setTransmitter: transmitterOfPort[Int(command.first)] = Int(Int64(bitPattern: command.second))
        case .movePath:
            guard let change = pointer?.assumingMemoryBound(to: PathChange.self).pointee else { return }
            if change.outbound.pointee.owner == UInt8(index) { change.outbound.pointee.setPath(change.path, mtu: change.mtu) }
            if change.inbound.pointee.owner == UInt8(index) { change.inbound.pointee.setPath(change.path, mtu: change.mtu) }
        case .setMTU:
            if let sa = pointer?.assumingMemoryBound(to: OutboundSA.self), sa.pointee.owner == UInt8(index) {
                sa.pointee.setMTU(UInt16(clamping: command.first))
            }
            let mate = UnsafeMutableRawPointer(bitPattern: UInt(command.second))
            if let sa = mate?.assumingMemoryBound(to: InboundSA.self), sa.pointee.owner == UInt8(index) {
                sa.pointee.setMTU(Int(UInt16(clamping: command.first)))
            }
        case .recoverFrames: recoverFrames(owner: UInt8(truncatingIfNeeded: command.first))
        case nil: return
        }
    }

    /// The port is gone: its queues are forgotten here. The frames in them are recovered when its sockets are closed, since until
    /// then the kernel may still touch them.
    private mutating func detach(port: Int) {
        guard port >= 0, port < TablesView.portLimit else { return }
        queueOfPort[port] = -1
        var index = 0
        while index < queueCount {
            guard Int(queues[index].portIndex) == port else {
                index += 1
                continue
            }
            // What is ready leaves while the port is still there. Lost is what was received and not looked at, and what the
            // kernel has not taken from the ring.
            if !queues[index].broken { flush(index) }
            let left = queues[index].transmit.produced &- culvert_load_acquire_u32(queues[index].transmit.consumerIndex)
            let lost = queues[index].receive.ready(.max) &+ left
            drops[Int(DropReason.portDown.rawValue)] &+= UInt64(lost)
            queueCount -= 1
            queues[index] = queues[queueCount]
            if index != queueCount, queueOfPort[Int(queues[index].portIndex)] == queueCount {
                queueOfPort[Int(queues[index].portIndex)] = index
            }
        }
        shareFrames()
    }

    /// Takes home every frame of our pool that was with an attachment whose sockets are closed.
    private mutating func recoverFrames(owner: UInt8) {
        guard owner >= FrameOwner.firstPort else { return }
        let first = Int(poolFirst >> frameShift)
        for number in first..<first + framesPerWorker where owners[number] == owner { release(UInt64(number) << frameShift) }
    }

    /// Half of the pool is for receiving, shared by all queues; the rest is for what is under way.
    mutating func shareFrames() {
        let share = UInt32(framesPerWorker / 2 / max(1, queueCount))
        for queue in 0..<queueCount { queues[queue].fillTarget = min(queues[queue].fillLimit, share) }
    }

    /// Packets from control: out of the TUN device, or reassembled by the kernel.
    @inline(never)
    mutating func receiveInjections() -> Int {
        var work = 0
        while work < Int(Worker.burst), let slot = links.injections.next() {
            let word = slot.load(as: UInt64.self)
            let length = Int(word & 0xFFFF)
            let isESP = word >> 16 & 1 == 1
            work += 1
            if word & Worker.injectionPart != 0 {
                takeLongPart(slot + 8, length: length, isLast: word & Worker.injectionLast != 0)
                links.injections.release()
            } else if length <= frameBytes - Worker.headroomBytes, let frame = takeFrame() {
                let place = umem + Int(frame) + Worker.headroomBytes
                place.copyMemory(from: slot + 8, byteCount: length)
                links.injections.release()
                if isESP {
                    inbound(place, available: length)
                } else {
                    outbound(place, available: length, ingress: TablesView.kernelPort)
                }
            } else {
                drops[Int(DropReason.noFrames.rawValue)] &+= 1
                links.injections.release()
            }
        }
        return work
    }

    /// Part by part an ESP packet that no frame holds; the whole is opened where it lies, and leaves in fragments or is refused.
    @inline(never)
    private mutating func takeLongPart(_ part: UnsafeMutableRawPointer, length: Int, isLast: Bool) {
        let start = longPacket + Worker.headroomBytes
        guard Worker.headroomBytes + longPacketCount + length <= Worker.longPacketBytes else { return }
        (start + longPacketCount).copyMemory(from: part, byteCount: length)
        longPacketCount += length
        guard isLast else { return }
        let total = longPacketCount
        longPacketCount = 0
        inbound(start, available: total)
    }

    /// The thread ends: nothing in flight matters any more.
    mutating func releaseEverything() {
        if controlPending { wakeControl() }
    }
}
