import CLinux
import Crypto
import Glibc
import IPsec
import Platform
import Wire

/// The other end of a queue in plain memory: plays the kernel for one (port, queue).
struct MemoryQueue {
    let storage: [SPSC.Storage]
    /// What the kernel would produce and consume.
    var receive: ProducerRing
    var transmit: ConsumerRing
    var fill: ConsumerRing
    var completion: ProducerRing

    init(entries: Int) {
        storage = [(entries, 16), (entries, 16), (entries, 8), (entries, 8)].map { SPSC.Storage(slots: $0.0, slotBytes: $0.1) }
        receive = ProducerRing(storage[0].ring)
        transmit = ConsumerRing(storage[1].ring)
        fill = ConsumerRing(storage[2].ring)
        completion = ProducerRing(storage[3].ring)
    }

    /// The worker's end.
    func queue(port: Int, role: PortRole, fillTarget: Int) -> Queue {
        Queue(
            receive: ConsumerRing(storage[0].ring), transmit: ProducerRing(storage[1].ring), fill: ProducerRing(storage[2].ring),
            completion: ConsumerRing(storage[3].ring), descriptor: -1, portIndex: UInt8(port),
            owner: FrameOwner.firstPort + UInt8(port), finishesChecksums: false, canTransmit: true,
            isUnderlay: role.contains(.underlay),
            isProtected: role.contains(.protected), inFlight: 0, staged: 0, fillLimit: UInt32(fillTarget),
            fillTarget: UInt32(fillTarget), filled: 0, broken: false)
    }
}

/// Workers over plain memory: the real worker code with a NIC made of two arrays. For tests and benchmarks.
///
/// Port 0 is protected (10.1.0.0/16, the gateway is 10.1.0.1), port 1 the underlay (192.0.2.1 and 2001:db8::1, the peer is
/// 192.0.2.2 and 2001:db8::2); each has one queue per worker. Child i protects 10.1.0.0/16 to 10.(2+i).0.0/16.
final class MemoryRig {
    static let protectedPort = 0
    static let underlayPort = 1
    static let localMAC: [UInt8] = [2, 0, 0, 0, 0, 1]
    static let remoteMAC: [UInt8] = [2, 0, 0, 0, 0, 2]

    let workerCount: Int
    let frameBytes: Int
    let framesPerWorker: Int
    let mtus: (protected: Int, underlay: Int)
    let umem: UnsafeMutableRawPointer
    let threads: [WorkerThread]
    /// `queues[port][worker]`.
    var queues: [[MemoryQueue]]
    private(set) var tables: Tables
    private let mesh: WorkerMesh
    var owners: UnsafeMutablePointer<UInt8> { mesh.owners }

    /// - Parameter mtus: octets, of the protected port and the underlay.
    init(
        workers: Int = 1, framesPerWorker: Int = 2048, frameBytes: Int = 2048, ringEntries: Int = 1024,
        mtus: (protected: Int, underlay: Int) = (1500, 1500), plan: ForwardingPlan
    ) throws {
        workerCount = workers
        self.frameBytes = frameBytes
        self.framesPerWorker = framesPerWorker
        let bytes = workers * (framesPerWorker * frameBytes + Worker.longPacketBytes)
        umem = .allocate(byteCount: bytes, alignment: 4096)
        umem.initializeMemory(as: UInt8.self, repeating: 0, count: bytes)
        let threads = try (0..<workers).map {
            try WorkerThread(index: $0, cpu: $0, frameBytes: frameBytes, dropReasons: DropReason.allCases.count)
        }
        self.threads = threads
        queues = (0..<2).map { _ in (0..<workers).map { _ in MemoryQueue(entries: ringEntries) } }
        mesh = try WorkerMesh(threads, framesPerWorker: framesPerWorker, frameBytes: frameBytes)
        self.mtus = mtus
        tables = Tables(plan, ports: Self.ports(mtus), generation: 1)
    }

    deinit {
        umem.deallocate()
    }

    private static func ports(_ mtus: (protected: Int, underlay: Int)) -> [TablesView.Port] {
        let m = localMAC
        return [mtus.protected, mtus.underlay].map {
            TablesView.Port(
                mac: (m[0], m[1], m[2], m[3], m[4], m[5]), attached: true, mtuBytes: UInt16(clamping: $0), address: 0)
        }
    }

    /// `children` children as the type's comment says.
    static func plan(children: Int = 1) -> ForwardingPlan {
        let local = IPPrefix("10.1.0.0/16")!
        let host = { (text: String) in IPv4Address(text)! }
        return ForwardingPlan(
            rules: (0..<children).map {
                ForwardingPlan.Rule(
                    source: TrafficSelector(local), destination: TrafficSelector(IPPrefix("10.\(2 + $0).0.0/16")!),
                    action: .protect(childIndex: $0))
            },
            routes: [
                .init(prefix: local, gateway: nil, portIndex: protectedPort),
                .init(prefix: IPPrefix("192.0.2.0/24")!, gateway: nil, portIndex: underlayPort),
            ],
            neighbours: [
                .init(address: .v4(host("10.1.0.2")), portIndex: protectedPort, mac: remoteMAC),
                .init(address: .v4(host("192.0.2.2")), portIndex: underlayPort, mac: remoteMAC),
                .init(address: .v6(IPv6Address("2001:db8::2")!), portIndex: underlayPort, mac: remoteMAC),
            ],
            localAddresses: [host("10.1.0.1"), host("192.0.2.1")],
            portAddresses: [
                .init(portIndex: protectedPort, address: host("10.1.0.1")),
                .init(portIndex: underlayPort, address: host("192.0.2.1")),
            ],
            peers: [
                .init(address: IPv6Address("2001:db8::2")!, nextHop: IPv6Address("2001:db8::2")!, portIndex: underlayPort)
            ])
    }

    /// A worker of this rig. Its queues are attached; the caller runs it.
    func makeWorker(_ index: Int, manager: UnsafeMutableRawPointer?, fillTarget: Int = 0) -> Worker {
        let thread = threads[index]
        var worker = Worker(
            WorkerParts(
                index: index, workerCount: workerCount, umem: umem, frameBytes: frameBytes, framesPerWorker: framesPerWorker,
                owners: mesh.owners, engineManager: manager, busyPoll: false, links: mesh.links(of: thread),
                counters: thread.counters, drops: thread.drops, tables: tables.view))
        for (port, role) in [(Self.protectedPort, PortRole.protected), (Self.underlayPort, .underlay)] {
            worker.attach(queues[port][index].queue(port: port, role: role, fillTarget: fillTarget))
        }
        return worker
    }

    /// Sends one command to a worker.
    func command(
        _ kind: WorkerCommand.Kind, to worker: Int, pointer: UnsafeMutableRawPointer? = nil, first: UInt64 = 0, second: UInt64 = 0
    ) {
        let thread = threads[worker]
        guard let slot = thread.commands.reserve() else { return }
        let command = WorkerCommand(
            kind: kind.rawValue, identifier: 1, pointer: UInt64(UInt(bitPattern: pointer)), first: first, second: second)
        slot.storeBytes(of: command, as: WorkerCommand.self)
        thread.commands.commit()
        thread.commands.publish()
        thread.wakeup.raise()
    }

    /// Tells every worker of an SA pair, and to use it for its child.
    func install(_ pair: SAPair) {
        for worker in 0..<workerCount {
            command(.installInbound, to: worker, pointer: UnsafeMutableRawPointer(pair.inbound))
            command(
                .setOutbound, to: worker, pointer: UnsafeMutableRawPointer(pair.outbound), first: UInt64(pair.childIndex),
                second: UInt64(pair.outboundOwner))
        }
    }

    func drops(_ reason: DropReason) -> UInt64 { threads.reduce(0) { $0 + $1.drops[Int(reason.rawValue)] } }

    /// From us to the peer.
    static func path(udp: Bool, ipv6: Bool) -> TunnelPath {
        let port: UInt16 = udp ? 4500 : 0
        let network = ipv6 ? "2001:db8::" : "192.0.2."
        return TunnelPath(
            local: IPAddress(network + "1")!, remote: IPAddress(network + "2")!, localPort: port, remotePort: port)
    }

    /// A pair of SAs for child `child`, and its mirror image for the far end.
    static func pairs(
        child: Int = 0, engine: EngineKind, keyBits: Int = 256, extended: Bool = true, udp: Bool = false, ipv6: Bool = false,
        window: Int = 4096, outboundOwner: Int = 0, inboundOwner: Int = 0, key: [UInt8]? = nil, mtu: Int = 1500,
        change: (inout ChildSA) -> Void = { _ in }
    ) throws -> (near: SAPair, far: SAPair) {
        let crypto = OpenSSLCrypto()
        let bytes = key ?? (0..<keyBits / 8 + 4).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ child) }
        let path = path(udp: udp, ipv6: ipv6)
        let local = [TrafficSelector(IPPrefix("10.1.0.0/16")!)]
        let remote = [TrafficSelector(IPPrefix("10.\(2 + child).0.0/16")!)]
        func make(_ near: Bool) throws -> SAPair {
            let spis = (UInt32(0x1000 + child), UInt32(0x2000 + child))
            var sa =
                ChildSA(
                    connection: "rig", child: "child\(child)", inboundSPI: near ? spis.0 : spis.1,
                    outboundSPI: near ? spis.1 : spis.0,
                    transform: ESPTransform(keyBits: keyBits, extendedSequenceNumbers: extended),
                    inboundKey: crypto.secret(bytes),
                    outboundKey: crypto.secret(bytes), localSelectors: near ? local : remote,
                    remoteSelectors: near ? remote : local,
                    path: near ? path : path.reversed, replayWindowPackets: window)
            change(&sa)
            return try SAPair(
                sa, childIndex: child, engine: engine, inboundOwner: inboundOwner, outboundOwner: outboundOwner, mtu: mtu,
                numaNode: nil)
        }
        return (try make(true), try make(false))
    }
}

extension Worker {
    /// Adds a queue; what the `attachQueue` command does.
    mutating func attach(_ queue: Queue) {
        guard queueCount < Worker.queueLimit else { return }
        (queues + queueCount).initialize(to: queue)
        if queue.canTransmit, queueOfPort[Int(queue.portIndex)] < 0 { queueOfPort[Int(queue.portIndex)] = queueCount }
        queueCount += 1
        shareFrames()
        refill(queueCount - 1)
    }
}

extension TunnelPath {
    /// As the other end has it.
    var reversed: TunnelPath { TunnelPath(local: remote, remote: local, localPort: remotePort, remotePort: localPort) }
}
