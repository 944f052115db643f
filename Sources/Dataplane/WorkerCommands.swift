import CLinux
import Glibc
import IPsec
import Platform
import Wire

/// What control tells a worker: 32 octets a command, answered when carried out.
struct WorkerCommand {
    enum Kind: UInt32 {
        case stop, publish, installInbound, removeInbound, setOutbound, attachQueue, detachPort, setTransmitter, movePath, setMTU,
            recoverFrames
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
    enum Kind: UInt32 { case done, wantsTunnel, unresolved, sequenceNumbersRunningOut, pathObserved }
    var kind: UInt32
    var first: UInt32
    var second: UInt64
}

extension Worker {
    static let commandSlots = 1024
    /// Answers to commands always fit: hints keep this many slots free for them, and no more commands are in flight.
    static let answersReserved: UInt32 = 2048
    static let answerSlots = 4096
    static let puntSlots = 512
    static let injectionSlots = 512

    /// A hint to control. Lost when the ring is nearly full: every hint is repeated by the traffic that caused it.
    @inline(never)
    mutating func tell(_ kind: WorkerAnswer.Kind, _ first: UInt32, _ second: UInt64) {
        guard let slot = links.answers.reserve(keeping: Worker.answersReserved) else { return }
        slot.storeBytes(of: WorkerAnswer(kind: kind.rawValue, first: first, second: second), as: WorkerAnswer.self)
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
                    of: WorkerAnswer(kind: WorkerAnswer.Kind.done.rawValue, first: command.identifier, second: 0),
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
        case .installInbound:
            guard let sa = pointer?.assumingMemoryBound(to: InboundSA.self) else { return }
            _ = inboundTable.insert(sa)
        case .removeInbound: inboundTable.remove(UInt32(truncatingIfNeeded: command.first))
        case .setOutbound:
            let child = Int(command.first) & (Worker.childLimit - 1)
            outboundSlots[child].sa = pointer?.assumingMemoryBound(to: OutboundSA.self)
            outboundSlots[child].owner = UInt8(truncatingIfNeeded: command.second)
            if pointer != nil { outboundSlots[child].askedAt = 0 }
        case .attachQueue:
            if let queue = pointer?.assumingMemoryBound(to: Queue.self) { attach(queue.pointee) }
        case .detachPort: detach(port: Int(command.first))
        case .setTransmitter: transmitterOfPort[Int(command.first)] = Int(Int64(bitPattern: command.second))
        case .movePath:
            guard let sa = pointer?.assumingMemoryBound(to: OutboundSA.self), sa.pointee.owner == UInt8(index) else { return }
            sa.pointee.setPath(
                local: UInt32(command.first >> 32), remote: UInt32(truncatingIfNeeded: command.first),
                ports: UInt32(truncatingIfNeeded: command.second))
        case .setMTU:
            if let sa = pointer?.assumingMemoryBound(to: OutboundSA.self), sa.pointee.owner == UInt8(index) {
                sa.pointee.setMTU(UInt16(clamping: command.first))
            }
            let mate = UnsafeMutableRawPointer(bitPattern: UInt(command.second))
            if let sa = mate?.assumingMemoryBound(to: InboundSA.self), sa.pointee.owner == UInt8(index) {
                sa.pointee.mssBytes = OutboundSA.mss(mtu: Int(command.first), udp: sa.pointee.udp)
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
            // Received and not looked at, staged and not sent.
            let lost = queues[index].receive.ready(.max) &+ queues[index].staged
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
            if let frame = takeFrame(), length <= frameBytes - Worker.headroomBytes {
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

    /// The thread ends: nothing in flight matters any more.
    mutating func releaseEverything() {
        if controlPending { wakeControl() }
    }
}

extension OutboundSA {
    /// New endpoints. Addresses in host order; `ports` is source and destination port, zero for native ESP.
    mutating func setPath(local: UInt32, remote: UInt32, ports: UInt32) {
        localWire = local.bigEndian
        remoteWire = remote.bigEndian
        self.remote = remote
        udpPortsWire = ports.bigEndian
        udp = ports != 0
        let number = udp ? IPv4.protocolUDP : IPv4.protocolESP
        checksumBase = 0x4500 &+ UInt32(IPv4.dontFragment) &+ (UInt32(IPv4.defaultTTL) << 8 | UInt32(number))
        checksumBase &+= (local >> 16) &+ (local & 0xFFFF) &+ (remote >> 16) &+ (remote & 0xFFFF)
        setMTU(mtuBytes)
    }

    /// What follows from the path's MTU.
    mutating func setMTU(_ mtu: UInt16) {
        mtuBytes = mtu
        largestPayloadBytes = UInt16(clamping: ESPLayout.largestPayload(mtu: Int(mtu), udp: udp))
        mssBytes = Self.mss(mtu: Int(mtu), udp: udp)
    }

    /// The TCP segment that fits the largest inner packet.
    static func mss(mtu: Int, udp: Bool) -> UInt16 {
        UInt16(clamping: ESPLayout.largestPayload(mtu: mtu, udp: udp) - IPv4.minimumHeaderBytes - TCP.minimumHeaderBytes)
    }
}
