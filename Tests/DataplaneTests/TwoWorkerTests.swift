import Crypto
import Foundation
import IPsec
import Testing
import Wire

@testable import Dataplane

/// Two workers on real threads share one SA: packets arrive at both, one owns the numbers. The other end of the SA has two
/// workers as well. Nothing may be sealed twice under one number, nothing delivered twice.
@Suite struct TwoWorkerTests {
    /// Runs both workers of a rig on threads of their own until `body` returns.
    static func run(_ rig: MemoryRig, engine: EngineKind, _ body: () throws -> Void) rethrows {
        let group = DispatchGroup()
        for index in 0..<2 {
            group.enter()
            let rig = UncheckedBox(rig)
            Thread.detachNewThread {
                let manager = EngineManager(engine)
                var worker = rig.value.makeWorkerOnThread(index, manager: manager.handle)
                worker.run()
                group.leave()
            }
        }
        defer {
            for index in 0..<2 { rig.command(.stop, to: index) }
            group.wait()
        }
        try body()
    }

    /// Plays the kernel for `packets`, each at a queue of `port`; returns what came out of the other port, in order per queue.
    static func pass(_ rig: MemoryRig, _ packets: [[UInt8]], from port: Int, expecting: Int) -> [[UInt8]] {
        let egress = 1 - port
        var out: [[UInt8]] = []
        var next = 0
        let deadline = Date().addingTimeInterval(20)
        var quietSince = Date()
        while out.count < expecting || next < packets.count || Date().timeIntervalSince(quietSince) < 0.05 {
            guard Date() < deadline else { break }
            for _ in 0..<32 where next < packets.count {
                // Uneven on purpose: bursts to one queue, then the other.
                guard rig.feed(packets[next], port: port, worker: (next / 7) % 2) else { break }
                next += 1
            }
            for thread in rig.threads { thread.wakeup.raise() }
            for queue in 0..<2 {
                let sent = rig.takeSent(port: egress, worker: queue)
                if !sent.isEmpty { quietSince = Date() }
                out += sent
            }
        }
        return out
    }

    @Test("two workers on one SA never use a number twice, and deliver everything once", arguments: EngineKind.available)
    func oneSA(_ engine: EngineKind) throws {
        let count = 6_000
        let near = try MemoryRig(workers: 2, framesPerWorker: 1024, ringEntries: 256, plan: MemoryRig.plan())
        var mirrored = MemoryRig.plan()
        mirrored.routes.append(
            .init(prefix: IPPrefix("10.2.0.0/16")!, gateway: IPAddress("10.1.0.2"), portIndex: MemoryRig.protectedPort))
        let far = try MemoryRig(workers: 2, framesPerWorker: 1024, ringEntries: 256, plan: mirrored)
        let pair = try MemoryRig.pairs(engine: engine, window: 4096, outboundOwner: 0, inboundOwner: 1)
        near.install(pair.near)
        far.install(pair.far)

        let packets = (0..<count).map { index in
            inner(0, payload: (0..<4).map { UInt8(truncatingIfNeeded: index >> (8 * $0)) } + [UInt8](repeating: 7, count: 36))
        }
        var sealed: [[UInt8]] = []
        Self.run(near, engine: engine) { sealed = Self.pass(near, packets, from: MemoryRig.protectedPort, expecting: count) }
        let lost = DropReason.allCases.reduce(0) { $0 + near.drops($1) }
        #expect(sealed.count + Int(lost) == count, "every packet is forwarded or counted")
        #expect(sealed.count > count / 2)
        let numbers = sealed.map { Array($0[24..<36]) }
        #expect(Set(numbers).count == sealed.count, "a sequence number or IV was used twice")
        #expect(pair.near.outbound.pointee.sequence == UInt64(sealed.count) + near.drops(.transmitFull))

        // The wire duplicates every packet; both copies arrive at different queues.
        let doubled = sealed.flatMap { [$0, $0] }
        var opened: [[UInt8]] = []
        Self.run(far, engine: engine) { opened = Self.pass(far, doubled, from: MemoryRig.underlayPort, expecting: sealed.count) }
        let refused = far.drops(.replay)
        let others = DropReason.allCases.filter { $0 != .replay }.reduce(0) { $0 + far.drops($1) }
        #expect(opened.count + Int(refused) + Int(others) == doubled.count)
        #expect(Set(opened.map { Array($0[20..<24]) }).count == opened.count, "a packet was delivered twice")
        #expect(opened.count + Int(others) >= sealed.count)
        #expect(far.drops(.authenticationFailed) == 0)
    }
}

struct UncheckedBox<T>: @unchecked Sendable {
    let value: T
    init(_ value: T) { self.value = value }
}

extension MemoryRig {
    private static let lock = NSLock()
    /// `makeWorker` keeps a list; threads take turns.
    func makeWorkerOnThread(_ index: Int, manager: UnsafeMutableRawPointer?) -> Worker {
        Self.lock.lock()
        defer { Self.lock.unlock() }
        return makeWorker(index, manager: manager, fillTarget: 200)
    }
}
