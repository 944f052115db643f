import CLinux
import IPsec
import Platform

/// Reading what workers, sockets and the XDP program count. Workers go on counting meanwhile.
extension Dataplane {
    /// A busy share over less time than this says nothing.
    private static let shortestLookTicks: UInt64 = 200_000_000

    public func counters(inboundSPI: UInt32) -> SACounters? { pairs[inboundSPI]?.counters }

    public func counters() -> DataplaneCounters {
        for port in ports.compactMap({ $0 }) { foldSocketDrops(port) }
        let mode = ports.compactMap { $0 }.map(\.xdpMode)
        let listed = workers.map { worker in
            WorkerCounters(
                id: worker.index, cpu: worker.cpu, numaNode: worker.numaNode, engine: settings.engine.rawValue,
                xdpMode: mode.first { $0 == "generic" } ?? mode.first { $0 == "native" } ?? mode.first ?? "none",
                packetsIn: worker.counters.pointee.packetsIn, packetsOut: worker.counters.pointee.packetsOut,
                busyPercent: busyPercent(worker), icmpErrorsWithheld: worker.counters.pointee.icmpErrorsWithheld,
                drops: drops(of: worker))
        }
        var total: [DropReason: UInt64] = [:]
        for worker in listed { total.merge(worker.drops, uniquingKeysWith: &+) }
        total.merge(foldedSocketDrops, uniquingKeysWith: &+)
        total.merge(controlDrops, uniquingKeysWith: &+)
        total.merge(xdpDrops(), uniquingKeysWith: &+)
        return DataplaneCounters(workers: listed, drops: total, hugePages: umem.usesHugePages)
    }

    private func drops(of worker: WorkerThread) -> [DropReason: UInt64] {
        var result: [DropReason: UInt64] = [:]
        for reason in DropReason.allCases {
            let count = culvert_load_relaxed_u64(worker.drops + Int(reason.rawValue))
            if count > 0 { result[reason] = count }
        }
        return result
    }

    private func busyPercent(_ worker: WorkerThread) -> Double {
        let (busy, total) = (worker.counters.pointee.busyTicks, worker.counters.pointee.totalTicks)
        let elapsed = total &- worker.lastTotalTicks
        guard elapsed >= Self.shortestLookTicks else { return worker.lastBusyPercent }
        worker.lastBusyPercent = 100 * Double(busy &- worker.lastBusyTicks) / Double(elapsed)
        worker.lastBusyTicks = busy
        worker.lastTotalTicks = total
        return worker.lastBusyPercent
    }

    private func xdpDrops() -> [DropReason: UInt64] {
        guard let counters = try? program.counters() else { return [:] }
        let reasons: [(XDPCounter, DropReason)] = [
            (.droppedClearInbound, .clearInbound), (.droppedNATKeepalive, .natKeepalive), (.droppedIKEFlood, .ikeFlood),
            (.droppedMalformed, .xdpMalformed), (.droppedNoSocket, .noSocket), (.droppedStranger, .stranger),
        ]
        var result: [DropReason: UInt64] = [:]
        for (counter, reason) in reasons where counters[counter] > 0 {
            result[reason] = counters[counter]
        }
        return result
    }

    /// Frames that each of a worker's queues may have for receiving; as `Worker.shareFrames` has it.
    private func fillTarget(worker: Int) -> UInt32 {
        let queues = ports.compactMap { $0 }.reduce(0) { $0 + $1.sockets.count { $0.worker == worker } }
        return min(Self.ringEntries, UInt32(settings.framesPerWorker / 2 / max(1, queues)))
    }

    /// Adds what a port's sockets counted since the last look, so that the sum outlives the sockets.
    func foldSocketDrops(_ port: Port) {
        for socket in port.sockets {
            guard let now = try? socket.socket.statistics() else { continue }
            let seen = socket.seen
            socket.seen = now
            // The kernel counts a packet without a frame twice: as dropped, and as fill ring empty. Where the frames for
            // receiving are as many as the receive ring has room for, they all lie in it when none is left: the worker did not
            // keep up.
            let isOverload = fillTarget(worker: socket.worker) >= Self.ringEntries
            let news: [(DropReason, (AFXDPStatistics) -> UInt64)] = [
                (.receiveRingFull, { $0.receiveRingFull }),
                (isOverload ? .receiveRingFull : .fillRingEmpty, { $0.fillRingEmpty }),
                (.receiveDropped, { $0.receiveDropped > $0.fillRingEmpty ? $0.receiveDropped &- $0.fillRingEmpty : 0 }),
                (.invalidDescriptor, { $0.transmitInvalidDescriptors &+ $0.receiveInvalidDescriptors }),
            ]
            for (reason, counter) in news {
                let (after, before) = (counter(now), seen.map(counter) ?? 0)
                if after > before { foldedSocketDrops[reason, default: 0] &+= after &- before }
            }
        }
    }
}
