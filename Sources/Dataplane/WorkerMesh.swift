import Platform

/// What the workers of one data plane share with each other: the rings between every two of them, who owns which frame, and who
/// sleeps. Lives until every worker has ended.
final class WorkerMesh {
    /// One `FrameOwner` a frame, of all pools.
    let owners: UnsafeMutablePointer<UInt8>
    let controlEvent: EventSignal
    private let count: Int
    let sleeping: UnsafeMutablePointer<UInt32>
    private let wakeups: UnsafeMutablePointer<Int32>
    /// By sender, then by receiver.
    private let handoffs: [[SPSC.Storage]]
    private let returns: [[SPSC.Storage]]
    /// `count` ends of rings for each worker.
    private let handoffIn: UnsafeMutablePointer<SPSC.Consumer>
    private let handoffOut: UnsafeMutablePointer<SPSC.Producer>
    private let returnsIn: UnsafeMutablePointer<SPSC.Consumer>
    private let returnsOut: UnsafeMutablePointer<SPSC.Producer>

    init(_ workers: [WorkerThread], framesPerWorker: Int, frameBytes: Int) throws(SystemError) {
        let count = workers.count
        self.count = count
        controlEvent = try EventSignal()
        // The places for long packets lie behind the frames, and are nobody's to give back.
        let longPackets = count * Worker.longPacketBytes / frameBytes
        owners = .allocate(capacity: count * framesPerWorker + longPackets)
        owners.initialize(repeating: FrameOwner.pool, count: count * framesPerWorker)
        (owners + count * framesPerWorker).initialize(repeating: FrameOwner.worker, count: longPackets)
        sleeping = .allocate(capacity: count)
        sleeping.initialize(repeating: 0, count: count)
        wakeups = .allocate(capacity: count)
        for worker in workers { (wakeups + worker.index).initialize(to: worker.wakeup.descriptor.number) }
        let handoffSlots = Worker.handoffSlots(framesPerWorker: framesPerWorker)
        let handoffs = (0..<count).map { _ in
            (0..<count).map { _ in SPSC.Storage(slots: handoffSlots, slotBytes: Worker.handoffSlotBytes) }
        }
        // Every frame of a pool may be on its way home at once.
        var returnSlots = 1
        while returnSlots < framesPerWorker { returnSlots *= 2 }
        let returns = (0..<count).map { _ in (0..<count).map { _ in SPSC.Storage(slots: returnSlots, slotBytes: 8) } }
        handoffIn = .allocate(capacity: count * count)
        handoffOut = .allocate(capacity: count * count)
        returnsIn = .allocate(capacity: count * count)
        returnsOut = .allocate(capacity: count * count)
        for me in 0..<count {
            for other in 0..<count {
                let place = me * count + other
                (handoffIn + place).initialize(to: SPSC.Consumer(handoffs[other][me]))
                (handoffOut + place).initialize(to: SPSC.Producer(handoffs[me][other]))
                (returnsIn + place).initialize(to: SPSC.Consumer(returns[other][me]))
                (returnsOut + place).initialize(to: SPSC.Producer(returns[me][other]))
            }
        }
        (self.handoffs, self.returns) = (handoffs, returns)
    }

    deinit {
        owners.deallocate()
        sleeping.deallocate()
        wakeups.deallocate()
        handoffIn.deallocate()
        handoffOut.deallocate()
        returnsIn.deallocate()
        returnsOut.deallocate()
    }

    /// The ends that `worker` holds.
    func links(of worker: WorkerThread) -> WorkerLinks {
        let first = worker.index * count
        return WorkerLinks(
            handoffIn: handoffIn + first, handoffOut: handoffOut + first, returnsIn: returnsIn + first,
            returnsOut: returnsOut + first,
            commands: SPSC.Consumer(worker.shared.commands), answers: SPSC.Producer(worker.shared.answers),
            punts: SPSC.Producer(worker.shared.punts), injections: SPSC.Consumer(worker.shared.injections),
            controlEvent: controlEvent.descriptor.number, wakeups: wakeups, sleeping: sleeping)
    }
}
