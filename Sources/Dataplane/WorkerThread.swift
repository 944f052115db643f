import CLinux
import Crypto
import Glibc
import Platform

/// The control side of one worker: its rings' other ends, its counters, its thread.
final class WorkerThread {
    let index: Int
    let cpu: Int
    let numaNode: Int
    let counters: UnsafeMutablePointer<WorkerCounterBlock>
    let drops: UnsafeMutablePointer<UInt64>
    let wakeup: EventSignal
    var commands: SPSC.Producer
    var answers: SPSC.Consumer
    var punts: SPSC.Consumer
    var injections: SPSC.Producer
    /// Commands sent whose answers we have not read.
    var outstanding = 0
    /// For the busy share between two looks.
    var lastBusyTicks: UInt64 = 0
    var lastTotalTicks: UInt64 = 0
    var lastBusyPercent = 0.0
    private var thread = pthread_t()
    private(set) var isRunning = false
    private let storages: [SPSC.Storage]

    struct Shared {
        var commands: SPSC.Storage
        var answers: SPSC.Storage
        var punts: SPSC.Storage
        var injections: SPSC.Storage
    }
    let shared: Shared

    init(index: Int, cpu: Int, frameBytes: Int, dropReasons: Int) throws(SystemError) {
        self.index = index
        self.cpu = cpu
        numaNode = Numa.node(ofCPU: cpu) ?? 0
        wakeup = try EventSignal()
        counters = .allocate(capacity: 1)
        counters.initialize(to: WorkerCounterBlock())
        drops = .allocate(capacity: dropReasons)
        drops.initialize(repeating: 0, count: dropReasons)
        shared = Shared(
            commands: SPSC.Storage(slots: Worker.commandSlots, slotBytes: 32),
            answers: SPSC.Storage(slots: Worker.answerSlots, slotBytes: MemoryLayout<WorkerAnswer>.stride),
            punts: SPSC.Storage(slots: Worker.puntSlots, slotBytes: frameBytes),
            injections: SPSC.Storage(slots: Worker.injectionSlots, slotBytes: frameBytes))
        storages = [shared.commands, shared.answers, shared.punts, shared.injections]
        commands = SPSC.Producer(shared.commands)
        answers = SPSC.Consumer(shared.answers)
        punts = SPSC.Consumer(shared.punts)
        injections = SPSC.Producer(shared.injections)
    }

    deinit {
        counters.deallocate()
        drops.deallocate()
    }

    /// Carries what the thread needs across; freed by the thread.
    private final class Start {
        let parts: WorkerParts
        let engine: EngineKind
        let cpu: Int
        let name: String
        init(_ parts: WorkerParts, _ engine: EngineKind, cpu: Int, name: String) {
            (self.parts, self.engine, self.cpu, self.name) = (parts, engine, cpu, name)
        }
    }

    /// Starts the thread. The worker's own memory is allocated there, after pinning, so that it is local to the CPU's node.
    func start(_ parts: WorkerParts, engine: EngineKind) throws(SystemError) {
        let start = Unmanaged.passRetained(Start(parts, engine, cpu: cpu, name: "culvert-w\(index)"))
        let result = pthread_create(
            &thread, nil,
            { argument in
                let start = Unmanaged<Start>.fromOpaque(argument!).takeRetainedValue()
                culvert_name_thread(start.name)
                // An affinity that the container forbids leaves the thread where the kernel puts it.
                try? Numa.pinThread(toCPU: start.cpu)
                let manager = EngineManager(start.engine)
                var parts = start.parts
                parts.engineManager = manager.handle
                var worker = Worker(parts)
                worker.run()
                return nil
            }, start.toOpaque())
        guard result == 0 else {
            start.release()
            throw SystemError(call: "pthread_create", code: result)
        }
        isRunning = true
    }

    func join() {
        guard isRunning else { return }
        pthread_join(thread, nil)
        isRunning = false
    }
}
