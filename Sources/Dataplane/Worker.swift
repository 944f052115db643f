import CLinux
import Crypto
import IPsec
import Platform
import Wire

/// One (port, queue) socket as its worker sees it: four rings over kernel memory, or over plain memory in tests and benchmarks.
struct Queue {
    var receive: ConsumerRing
    var transmit: ProducerRing
    var fill: ProducerRing
    var completion: ConsumerRing
    /// -1: plain memory, nothing to kick.
    var descriptor: Int32
    var portIndex: UInt8
    /// What `FrameOwner` says of frames in this queue's rings; of one attachment of one port.
    var owner: UInt8
    /// Packets may come without their transport checksum: see WorkerChecksums.swift.
    var finishesChecksums: Bool
    /// False on a queue that the device can only receive on.
    var canTransmit: Bool
    var isUnderlay: Bool
    var isProtected: Bool
    /// Descriptors handed to the kernel whose completion has not been seen.
    var inFlight: UInt32
    /// Descriptors written since the last `submit`.
    var staged: UInt32
    /// Frames the kernel should own for receiving, when there are enough; `fillTarget` is what all queues together allow.
    var fillLimit: UInt32
    var fillTarget: UInt32
    /// Frames it owns now: filled and not yet received.
    var filled: UInt32
    /// The socket refuses to transmit (port down): reported once.
    var broken: Bool
}

/// Who has a frame; one octet per frame of the UMEM. It makes giving a frame back twice harmless, and finds the frames that a
/// closed socket had in the kernel.
enum FrameOwner {
    /// In its pool.
    static let pool: UInt8 = 0
    /// With a worker, beyond one pass of the loop: handed over, held, coming home; and for good what is no frame but a worker's
    /// place for long packets.
    static let worker: UInt8 = 1
    /// From here on: in the rings of one attachment of a port, or in the kernel behind them.
    static let firstPort: UInt8 = 2
}

/// Where a destination goes; one entry of a direct-mapped cache.
struct HopEntry {
    enum Kind: UInt8 { case empty, forward, kernel, unresolved, noRoute, refused, broadcast }
    var destination: UInt32
    var generation: UInt32
    /// Of ESP.
    var kind: Kind
    var portIndex: UInt8
    /// Of everything else: what the route does not let out in the clear is `kernel` or `refused`.
    var clearKind = Kind.empty
    /// `nextHop` is a place in the tables' `gateways`.
    var viaIPv6 = false
    /// The longest packet in the clear that goes this way: the port's MTU, or what the kernel can be given.
    var mtuBytes: UInt16 = .max
    /// The TCP segment that fits it.
    var mssBytes: UInt16 {
        mtuBytes &- min(mtuBytes, UInt16(IPv4.minimumHeaderBytes + TCP.minimumHeaderBytes))
    }
    /// For `unresolved`.
    var nextHop: UInt32
    /// Octets 0...7 and 6...13 of the Ethernet header.
    var headerFirst: UInt64
    var headerLast: UInt64
}

/// What policy said about a flow; one entry of a direct-mapped cache.
struct FlowEntry {
    var source: UInt32
    var destination: UInt32
    var ports: UInt32
    var generation: UInt32
    var protocolNumber: UInt8
    var hasPorts: Bool
    var verdict: FlowVerdict
    var childIndex: UInt16
}

/// The outbound side of a child, per worker: who encrypts and with what.
struct OutboundSlot {
    var sa: UnsafeMutablePointer<OutboundSA>?
    var owner: UInt8
    /// Clock of the last "wants a tunnel" event.
    var askedAt: UInt64
    /// Packets wait for the tunnel that they open, rather than being dropped.
    var holds = false
}

/// Everything a worker shares with others; allocated before its thread starts, freed after it ended.
struct WorkerLinks {
    /// Frames handed to this worker, one ring per other worker (nil for itself), and the way back for frames to their pool.
    var handoffIn: UnsafeMutablePointer<SPSC.Consumer>
    var handoffOut: UnsafeMutablePointer<SPSC.Producer>
    var returnsIn: UnsafeMutablePointer<SPSC.Consumer>
    var returnsOut: UnsafeMutablePointer<SPSC.Producer>
    var commands: SPSC.Consumer
    var answers: SPSC.Producer
    var punts: SPSC.Producer
    var injections: SPSC.Consumer
    /// Control's eventfd, written when `answers` or `punts` got something.
    var controlEvent: Int32
    /// This worker's own eventfd and the others', by index.
    var wakeups: UnsafeMutablePointer<Int32>
    /// One word a worker: 1 while it sleeps in poll().
    var sleeping: UnsafeMutablePointer<UInt32>
}

/// One worker: receive, policy, ESP, next hop, transmit. A value local to its thread, passed `inout`; nothing on the way of a
/// packet allocates, locks or counts references. docs/packet-path.md follows a packet through its files.
struct Worker: ~Copyable {
    static let burst: UInt32 = 64
    static let flowSlots = 4096
    static let hopSlots = 1024
    static let childLimit = GatewayLimits.children
    static let queueLimit = 64
    /// RFC 1122 §2.3.2.2 asks to hold packets while a neighbour resolves; see WorkerHold.swift.
    static let holdSlots = 256
    /// Octets in front of an inner packet that the largest headers take: Ethernet, IPv6, UDP, ESP, IV.
    static let outerHeadersBytes =
        Ethernet.headerBytes + IPv6.headerBytes + UDP.headerBytes + ESPLayout.headerBytes + ESPLayout.ivBytes
    /// Octets free in front of a packet that the worker itself writes into a frame: at least `outerHeadersBytes`.
    static let headroomBytes = 128
    /// Each worker's place, behind all frames, for one packet that no frame holds: ESP of up to 65,535 octets that the kernel
    /// put together. It is opened there, and leaves in fragments.
    static let longPacketBytes = 65_536 + 4096

    let index: Int
    let workerCount: Int
    let umem: UnsafeMutableRawPointer
    let frameBytes: Int
    let frameMask: UInt64
    let framesPerWorker: Int
    /// `FrameOwner` of every frame of the UMEM, shared by all workers; a frame's entry is written by who has the frame.
    let owners: UnsafeMutablePointer<UInt8>
    let frameShift: UInt64
    /// The UMEM octets of our own pool.
    let poolFirst: UInt64
    let poolBytes: UInt64
    /// This worker's place for a long packet, and the octets in it that have come so far.
    let longPacket: UnsafeMutableRawPointer
    var longPacketCount = 0
    let engineManager: UnsafeMutableRawPointer?
    let busyPoll: Bool

    let pool: UnsafeMutablePointer<UInt64>
    var poolCount = 0

    let queues: UnsafeMutablePointer<Queue>
    var queueCount = 0
    /// Index into `queues` of this worker's queue on a port; -1: none.
    let queueOfPort: UnsafeMutablePointer<Int>
    /// The worker that transmits on a port when we have no queue there; -1: the port is down.
    let transmitterOfPort: UnsafeMutablePointer<Int>

    let flows: UnsafeMutablePointer<FlowEntry>
    let hops: UnsafeMutablePointer<HopEntry>
    let outboundSlots: UnsafeMutablePointer<OutboundSlot>
    var inboundTable: InboundTable
    var tables: TablesView
    let counters: UnsafeMutablePointer<WorkerCounterBlock>
    let drops: UnsafeMutablePointer<UInt64>
    var links: WorkerLinks
    let holds: UnsafeMutablePointer<Hold>
    var holdsInUse = 0
    /// Packets that wait for their child's tunnel; see WorkerTunnelHold.swift.
    let tunnelHolds: UnsafeMutablePointer<TunnelHold>
    var tunnelHoldsInUse = 0
    /// First fragments of datagrams, with their ports; see WorkerFragments.swift.
    let fragments: UnsafeMutablePointer<FragmentEntry>
    /// ICMP errors that each source may still cause, and next hops that it may have looked for.
    let icmpBudgets: UnsafeMutablePointer<SecondBudget>
    let neighbourBudgets: UnsafeMutablePointer<SecondBudget>
    /// 64 octets: nonce at 0, AAD at 16.
    let scratch: UnsafeMutableRawPointer
    let pollSet: UnsafeMutablePointer<pollfd>
    var wakeMask: UInt64 = 0
    var controlPending = false
    var rounds: UInt32 = 0
    var overflowAskedAt: UInt64 = 0
    var icmpBudget = SecondBudget(tokens: SecondBudget.icmpErrors)
    /// Packets in `holds`.
    var heldPackets = 0
    var stopping = false

    init(_ parts: WorkerParts) {
        index = parts.index
        workerCount = parts.workerCount
        umem = parts.umem
        frameBytes = parts.frameBytes
        frameMask = ~UInt64(parts.frameBytes - 1)
        framesPerWorker = parts.framesPerWorker
        owners = parts.owners
        frameShift = UInt64(parts.frameBytes.trailingZeroBitCount)
        poolFirst = UInt64(parts.index * parts.framesPerWorker * parts.frameBytes)
        poolBytes = UInt64(parts.framesPerWorker * parts.frameBytes)
        longPacket =
            parts.umem + parts.workerCount * parts.framesPerWorker * parts.frameBytes + parts.index * Worker.longPacketBytes
        engineManager = parts.engineManager
        busyPoll = parts.busyPoll
        links = parts.links
        counters = parts.counters
        drops = parts.drops
        pool = .allocate(capacity: parts.framesPerWorker)
        queues = .allocate(capacity: Self.queueLimit)
        queueOfPort = .allocate(capacity: TablesView.portLimit)
        queueOfPort.initialize(repeating: -1, count: TablesView.portLimit)
        transmitterOfPort = .allocate(capacity: TablesView.portLimit)
        transmitterOfPort.initialize(repeating: -1, count: TablesView.portLimit)
        flows = .allocate(capacity: Self.flowSlots)
        flows.initialize(
            repeating: FlowEntry(
                source: 0, destination: 0, ports: 0, generation: 0, protocolNumber: 0, hasPorts: false, verdict: .unknown,
                childIndex: 0),
            count: Self.flowSlots)
        hops = .allocate(capacity: Self.hopSlots)
        hops.initialize(
            repeating: HopEntry(
                destination: 0, generation: 0, kind: .empty, portIndex: 0, nextHop: 0, headerFirst: 0, headerLast: 0),
            count: Self.hopSlots)
        outboundSlots = .allocate(capacity: Self.childLimit)
        outboundSlots.initialize(repeating: OutboundSlot(sa: nil, owner: 0, askedAt: 0), count: Self.childLimit)
        inboundTable = InboundTable()
        tables = parts.tables
        holds = .allocate(capacity: Self.holdSlots)
        holds.initialize(repeating: Hold(), count: Self.holdSlots)
        tunnelHolds = .allocate(capacity: TunnelHold.slots)
        tunnelHolds.initialize(repeating: TunnelHold(), count: TunnelHold.slots)
        fragments = .allocate(capacity: FragmentEntry.slots)
        fragments.initialize(repeating: FragmentEntry(), count: FragmentEntry.slots)
        icmpBudgets = .allocate(capacity: SecondBudget.sources)
        icmpBudgets.initialize(repeating: SecondBudget(tokens: 0), count: SecondBudget.sources)
        neighbourBudgets = .allocate(capacity: SecondBudget.sources)
        neighbourBudgets.initialize(repeating: SecondBudget(tokens: 0), count: SecondBudget.sources)
        scratch = .allocate(byteCount: 64, alignment: 64)
        pollSet = .allocate(capacity: Self.queueLimit + 1)
        // Frames of this worker's pool, the first to be used last on the stack.
        for frame in 0..<parts.framesPerWorker { pool[frame] = poolFirst + UInt64(frame * parts.frameBytes) }
        poolCount = parts.framesPerWorker
    }

    deinit {
        pool.deallocate()
        queues.deallocate()
        queueOfPort.deallocate()
        transmitterOfPort.deallocate()
        flows.deallocate()
        hops.deallocate()
        outboundSlots.deallocate()
        inboundTable.deallocate()
        holds.deallocate()
        tunnelHolds.deallocate()
        fragments.deallocate()
        icmpBudgets.deallocate()
        neighbourBudgets.deallocate()
        scratch.deallocate()
        pollSet.deallocate()
    }
}

/// What a worker is made of; see `Worker.init`.
struct WorkerParts {
    var index: Int
    var workerCount: Int
    /// The frames of all workers, and behind them `Worker.longPacketBytes` for each.
    var umem: UnsafeMutableRawPointer
    var frameBytes: Int
    var framesPerWorker: Int
    /// `FrameOwner` of every frame.
    var owners: UnsafeMutablePointer<UInt8>
    var engineManager: UnsafeMutableRawPointer?
    var busyPoll: Bool
    var links: WorkerLinks
    var counters: UnsafeMutablePointer<WorkerCounterBlock>
    var drops: UnsafeMutablePointer<UInt64>
    var tables: TablesView
}

/// Written by its worker alone, read by the control thread at any time.
struct WorkerCounterBlock {
    var packetsIn: UInt64 = 0
    var packetsOut: UInt64 = 0
    /// Time-stamp counter ticks spent on packets, and in all.
    var busyTicks: UInt64 = 0
    var totalTicks: UInt64 = 0
    var wakeups: UInt64 = 0
    /// ICMP errors that were not sent because somebody had caused too many; the packets they would be about are dropped and
    /// counted.
    var icmpErrorsWithheld: UInt64 = 0
}

// MARK: - The loop

extension Worker {
    /// Runs until told to stop. Blocks in poll() when there is nothing to do, unless busy polling.
    mutating func run() {
        var idleRounds = 0
        var last = culvert_rdtsc()
        while !stopping {
            let work = runOnce()
            let now = culvert_rdtsc()
            counters.pointee.totalTicks &+= now &- last
            if work > 0 { counters.pointee.busyTicks &+= now &- last }
            last = now
            if work > 0 {
                idleRounds = 0
                continue
            }
            idleRounds += 1
            // A short spin bridges the gap between bursts; longer would take the core from the kernel's half of the work.
            if busyPoll || idleRounds < 4 {
                if busyPoll, idleRounds & 15 == 0 { driveReceive() }
                culvert_cpu_relax()
                continue
            }
            idleRounds = 0
            sleep()
            let woke = culvert_rdtsc()
            counters.pointee.totalTicks &+= woke &- last
            last = woke
        }
        releaseEverything()
    }

    /// One pass over every source of work; returns how many packets and commands were handled.
    @inline(never)
    mutating func runOnce() -> Int {
        var work = 0
        rounds &+= 1
        if holdsInUse &+ tunnelHoldsInUse > 0, rounds & 63 == 0 { expireHolds() }
        if links.commands.ring.ready(1) > 0 { work &+= runCommands() }
        for queue in 0..<queueCount { work &+= receiveBurst(queue) }
        if workerCount > 1 { work &+= receiveHandoffs() }
        if links.injections.ring.ready(1) > 0 { work &+= receiveInjections() }
        for queue in 0..<queueCount {
            if queues[queue].staged > 0 { flush(queue) }
            if queues[queue].inFlight > 0 { reapCompletions(queue) }
            if queues[queue].filled < queues[queue].fillTarget &- Worker.burst { refill(queue) }
        }
        if wakeMask != 0 { wakeOthers() }
        if controlPending { wakeControl() }
        return work
    }

    /// Receives at most one burst from a queue and sends each packet on its way.
    @inline(never)
    mutating func receiveBurst(_ queue: Int) -> Int {
        let count = queues[queue].receive.ready(Worker.burst)
        if count == 0 { return 0 }
        let isUnderlay = queues[queue].isUnderlay
        let isProtected = queues[queue].isProtected
        let finishesChecksums = queues[queue].finishesChecksums
        let ingress = queues[queue].portIndex
        var ahead: UInt32 = 0
        while ahead < count {
            let (address, length) = queues[queue].receive.descriptor(ahead: ahead)
            if ahead &+ 2 < count { prefetchFrame(queues[queue].receive.descriptor(ahead: ahead &+ 2)) }
            ahead &+= 1
            let frame = umem + Int(truncatingIfNeeded: address)
            let available = Int(length) &- Ethernet.headerBytes
            guard available >= IPv4.minimumHeaderBytes, load16(frame + Ethernet.typeOffset) == Ethernet.typeIPv4 else {
                receiveOther(frame, available: available, isUnderlay: isUnderlay)
                continue
            }
            let header = frame + Ethernet.headerBytes
            if isUnderlay, !isProtected || isESP(header) {
                inbound(header, available: available)
            } else {
                if finishesChecksums { finishChecksum(header, available: available) }
                outbound(header, available: available, ingress: ingress)
            }
        }
        queues[queue].receive.release(count)
        queues[queue].filled &-= count
        counters.pointee.packetsIn &+= UInt64(count)
        return Int(count)
    }

    /// On a one-armed port: ESP for one of our addresses comes in, everything else goes out.
    @inline(__always)
    func isESP(_ header: UnsafeMutableRawPointer) -> Bool {
        let number = header.load(fromByteOffset: IPv4.protocolOffset, as: UInt8.self)
        guard number == IPv4.protocolESP || number == IPv4.protocolUDP else { return false }
        return tables.isLocal(load32(header + IPv4.destinationOffset))
    }

    /// The frame's headers, the line in front of them (the outer headers go there) and its end (trailer and ICV).
    @inline(__always)
    func prefetchFrame(_ descriptor: (address: UInt64, length: UInt32)) {
        let frame = umem + Int(truncatingIfNeeded: descriptor.address)
        culvert_prefetch_write(frame)
        culvert_prefetch_write(frame - 64)
        culvert_prefetch_write(frame + Int(descriptor.length))
    }

    /// RFC 1812 §5.2.2: "If the IP header checksum … is not valid, the router MUST discard the packet".
    @inline(__always)
    func isHeaderSumGood(_ header: UnsafeMutableRawPointer, headerBytes: Int) -> Bool {
        // Words as they lie in memory: right in either byte order. RFC 1071 §2 B.
        var sum = UInt64(header.loadUnaligned(as: UInt32.self)) &+ UInt64((header + 4).loadUnaligned(as: UInt32.self))
        sum &+= UInt64((header + 8).loadUnaligned(as: UInt32.self)) &+ UInt64((header + 12).loadUnaligned(as: UInt32.self))
        sum &+= UInt64((header + 16).loadUnaligned(as: UInt32.self))
        var offset = IPv4.minimumHeaderBytes
        while offset < headerBytes {
            sum &+= UInt64((header + offset).loadUnaligned(as: UInt32.self))
            offset &+= 4
        }
        return Checksum.fold(UInt32(truncatingIfNeeded: (sum & 0xFFFF) &+ (sum >> 16 & 0xFFFF) &+ (sum >> 32))) == 0xFFFF
    }

    // MARK: Loads in network order; the caller has checked the bounds.

    @inline(__always)
    func load16(_ pointer: UnsafeMutableRawPointer) -> UInt16 { UInt16(bigEndian: pointer.loadUnaligned(as: UInt16.self)) }
    @inline(__always)
    func load32(_ pointer: UnsafeMutableRawPointer) -> UInt32 { UInt32(bigEndian: pointer.loadUnaligned(as: UInt32.self)) }
    @inline(__always)
    func load8(_ pointer: UnsafeMutableRawPointer, _ offset: Int) -> UInt8 {
        pointer.load(fromByteOffset: offset, as: UInt8.self)
    }
    @inline(__always)
    func store16(_ value: UInt16, _ pointer: UnsafeMutableRawPointer) {
        pointer.storeBytes(of: value.bigEndian, as: UInt16.self)
    }
    @inline(__always)
    func store32(_ value: UInt32, _ pointer: UnsafeMutableRawPointer) {
        pointer.storeBytes(of: value.bigEndian, as: UInt32.self)
    }

    /// Octets from `pointer` to the end of the frame it is in.
    @inline(__always)
    func tailroom(_ pointer: UnsafeMutableRawPointer) -> Int {
        frameBytes &- ((pointer - umem) & (frameBytes &- 1))
    }
    /// Octets from the start of its frame to `pointer`.
    @inline(__always)
    func headroom(_ pointer: UnsafeMutableRawPointer) -> Int { (pointer - umem) & (frameBytes &- 1) }
}
