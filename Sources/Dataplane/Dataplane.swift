import CLinux
import Crypto
import Glibc
import IPsec
import Platform
import Wire

/// The control side of the data plane: workers, their memory and rings, ports and SAs.
///
/// Single-threaded: every call comes from the control thread. Workers learn of changes through their command rings and answer
/// through the answer rings; nothing else is shared with them but immutable tables and the hot records they own.
public final class Dataplane {
    /// Packets for the gateway itself that one turn of the control thread takes from each worker.
    static let puntsPerTurn = 256
    let settings: DataplaneSettings
    let log: (String) -> Void
    let umem: Arena
    var workers: [WorkerThread] = []
    var ports: [Port?] = []
    var portNames: [String: Int] = [:]
    var pairs: [UInt32: SAPair] = [:]
    /// The pair whose outbound SA a child's packets leave on.
    var outboundOfChild: [Int: UInt32] = [:]
    var nextOwner = 0
    var program: XDPProgram
    private let mesh: WorkerMesh

    private struct Pending {
        var remaining: Int
        var completion: (Dataplane) -> Void
    }
    private var pending: [UInt32: Pending] = [:]
    private var nextIdentifier: UInt32 = 1
    let tables: Tables
    private var generation: UInt32 = 1
    /// Events that came while we waited for room in a ring.
    private var backlog: [DataplaneEvent] = []
    /// `FrameOwner` numbers of attachments whose frames may not all be home.
    var ownersInUse: Set<UInt8> = []
    var foldedSocketDrops: [DropReason: UInt64] = [:]
    var controlDrops: [DropReason: UInt64] = [:]
    private var isStopped = false

    public init(_ settings: DataplaneSettings, log: @escaping (String) -> Void) throws(DataplaneError) {
        self.settings = settings
        self.log = log
        let count = settings.workerCPUs.count
        guard (1...GatewayLimits.workers).contains(count) else {
            throw DataplaneError("there must be between 1 and \(GatewayLimits.workers) workers, not \(count)")
        }
        do {
            umem = try Self.makeUMEM(settings, log: log)
            program = try XDPProgram()
            for (index, cpu) in settings.workerCPUs.enumerated() {
                workers.append(
                    try WorkerThread(
                        index: index, cpu: cpu, frameBytes: settings.frameBytes, dropReasons: DropReason.allCases.count))
            }
            mesh = try WorkerMesh(
                workers, framesPerWorker: settings.framesPerWorker, frameBytes: settings.frameBytes)
        } catch {
            throw DataplaneError(
                "the data plane cannot start: \(error)", isPrivilege: error.code == EPERM || error.code == EACCES)
        }
        tables = Tables(ForwardingPlan(), ports: [], generation: 1)
    }

    deinit { stop() }

    private static func makeUMEM(_ settings: DataplaneSettings, log: (String) -> Void) throws(SystemError) -> Arena {
        let bytes = settings.packetMemoryBytes
        let wanted: HugePages = settings.hugePages == .require ? .require : settings.hugePages == .off ? .off : .auto
        let arena = try Arena(byteCount: bytes, hugePages: wanted, numaNode: settings.numaNode)
        if settings.hugePages == .auto, !arena.usesHugePages {
            log(
                "no huge pages: using ordinary ones for \(bytes >> 20) MiB of frames; "
                    + "reserve \(settings.hugePageCount) with sysctl vm.nr_hugepages for fewer TLB misses"
            )
        }
        return arena
    }

    // MARK: Threads

    public func start() throws(DataplaneError) {
        for worker in workers {
            do { try worker.start(parts(worker), engine: settings.engine) } catch {
                throw DataplaneError("worker \(worker.index): \(error)")
            }
        }
    }

    private func parts(_ worker: WorkerThread) -> WorkerParts {
        WorkerParts(
            index: worker.index, workerCount: workers.count, umem: umem.base, frameBytes: settings.frameBytes,
            framesPerWorker: settings.framesPerWorker, owners: mesh.owners, engineManager: nil, busyPoll: settings.busyPoll,
            links: mesh.links(of: worker), counters: worker.counters, drops: worker.drops, tables: tables.view)
    }

    /// Ends the threads, detaches XDP, closes the sockets. Kernel routes and filters are not ours to touch.
    public func stop() {
        guard !isStopped else { return }
        isStopped = true
        for worker in workers where worker.isRunning { send(.stop, to: worker, identifier: 0) }
        for worker in workers { worker.join() }
        for index in ports.indices { closePort(index) }
        pairs = [:]
    }

    // MARK: Commands and answers

    /// Sends a command to every worker; `completion` runs when all have carried it out.
    func broadcast(
        _ kind: WorkerCommand.Kind, pointer: UnsafeMutableRawPointer? = nil, first: UInt64 = 0, second: UInt64 = 0,
        completion: @escaping (Dataplane) -> Void = { _ in }
    ) {
        let identifier = begin(workers.count, completion)
        for worker in workers { send(kind, to: worker, identifier: identifier, pointer: pointer, first: first, second: second) }
    }

    /// Registers an operation that `count` workers will answer.
    func begin(_ count: Int, _ completion: @escaping (Dataplane) -> Void) -> UInt32 {
        nextIdentifier = nextIdentifier == .max ? 1 : nextIdentifier + 1
        pending[nextIdentifier] = Pending(remaining: count, completion: completion)
        return nextIdentifier
    }

    func send(
        _ kind: WorkerCommand.Kind, to worker: WorkerThread, identifier: UInt32, pointer: UnsafeMutableRawPointer? = nil,
        first: UInt64 = 0,
        second: UInt64 = 0
    ) {
        // Room in the command ring, and never more answers under way than the worker keeps free for them.
        while true {
            if worker.outstanding < Worker.commandSlots, let slot = worker.commands.reserve() {
                let command = WorkerCommand(
                    kind: kind.rawValue, identifier: identifier, pointer: UInt64(UInt(bitPattern: pointer)), first: first,
                    second: second)
                slot.storeBytes(of: command, as: WorkerCommand.self)
                worker.commands.commit()
                worker.commands.publish()
                worker.outstanding += 1
                rouse(worker)
                return
            }
            for other in workers { collectAnswers(other) { backlog.append($0) } }
            sched_yield()
        }
    }

    /// The fence pairs with the one in `Worker.sleep`.
    func rouse(_ worker: WorkerThread) {
        culvert_fence_seq_cst()
        if culvert_load_relaxed_u32(mesh.sleeping + worker.index) != 0 { worker.wakeup.raise() }
    }

    /// Readable when there are events.
    public var eventFileDescriptor: Int32 { mesh.controlEvent.descriptor.number }

    /// Hands over everything the workers told us since the last call.
    public func drainEvents(_ body: (DataplaneEvent) -> Void) {
        mesh.controlEvent.clear()
        let earlier = backlog
        backlog = []
        for event in earlier { body(event) }
        collect(body)
        let late = backlog
        backlog = []
        for event in late { body(event) }
    }

    private func collect(_ body: (DataplaneEvent) -> Void) {
        for worker in workers {
            collectAnswers(worker, body)
            // The control thread has more to do than this: the rest waits for its next turn.
            var left = Self.puntsPerTurn
            while left > 0, let slot = worker.punts.next() {
                left -= 1
                let length = min(Int(slot.load(as: UInt64.self)), worker.punts.slotBytes - 8)
                let packet = [UInt8](UnsafeRawBufferPointer(start: slot + 8, count: length))
                worker.punts.release()
                body(.punt(packet: packet))
            }
            if left == 0 { mesh.controlEvent.raise() }
        }
    }

    private func collectAnswers(_ worker: WorkerThread, _ body: (DataplaneEvent) -> Void) {
        while let slot = worker.answers.next() {
            let answer = slot.load(as: WorkerAnswer.self)
            worker.answers.release()
            if let event = interpret(answer, from: worker) { body(event) }
        }
    }

    private func interpret(_ answer: WorkerAnswer, from worker: WorkerThread) -> DataplaneEvent? {
        switch WorkerAnswer.Kind(rawValue: answer.kind) {
        case .done:
            worker.outstanding -= 1
            guard var operation = pending[answer.first] else { return nil }
            operation.remaining -= 1
            pending[answer.first] = operation.remaining > 0 ? operation : nil
            if operation.remaining == 0 { operation.completion(self) }
            return nil
        case .wantsTunnel: return .wantsTunnel(childIndex: Int(answer.first))
        case .unresolved:
            return .unresolved(address: answer.address, portIndex: Int(answer.first))
        case .limitReached:
            if answer.low == 0 { setHardLimit(inboundSPI: answer.first) }
            return .limitReached(inboundSPI: answer.first, isHard: answer.low != 0)
        case .sequenceNumbersRunningOut: return .sequenceNumbersRunningOut(inboundSPI: answer.first)
        case .pathObserved:
            return .pathObserved(inboundSPI: answer.first, address: answer.address, port: answer.port)
        case nil: return nil
        }
    }

    /// An event found on the way; told with the next `drainEvents`.
    func tellLater(_ event: DataplaneEvent) {
        backlog.append(event)
        mesh.controlEvent.raise()
    }

    // MARK: Tables

    /// Publishes what changed of policies, routes and neighbours; what it replaces goes when every worker has the new.
    public func publish(_ update: ForwardingUpdate) {
        generation = generation == .max ? 1 : generation + 1
        let replaced = tables.apply(update, ports: ports.map { $0?.tableEntry ?? Port.absent }, generation: generation)
        let view = UnsafeMutablePointer<TablesView>.allocate(capacity: 1)
        view.initialize(to: tables.view)
        broadcast(.publish, pointer: UnsafeMutableRawPointer(view)) { _ in
            view.deallocate()
            withExtendedLifetime(replaced) {}
        }
    }

    /// The same over changed ports.
    func republish() { publish(ForwardingUpdate()) }
}
