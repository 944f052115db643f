import NIOCore
import NIOPosix

/// One thread for what takes longer than the control thread may be away: certificates of strangers, long revocation lists. What
/// is waiting is bounded; the work itself is charged before it comes here (`IKE/Limits/WorkBudget`).
final class LongWork {
    static let mostWaiting = 256

    private let pool = NIOThreadPool(numberOfThreads: 1)
    private let loop: any EventLoop
    private(set) var waiting = 0
    /// What was not done because too much was waiting.
    private(set) var refused: UInt64 = 0

    init(loop: any EventLoop) {
        self.loop = loop
        pool.start()
    }

    /// - Parameters:
    ///   - work: on the thread.
    ///   - done: on the loop, once; nil: it was not done.
    func submit<Value: Sendable>(_ work: @escaping @Sendable () -> Value, then done: @escaping (Value?) -> Void) {
        guard waiting < Self.mostWaiting else {
            refused &+= 1
            done(nil)
            return
        }
        waiting += 1
        pool.runIfActive(eventLoop: loop, work).assumeIsolated().whenComplete { [self] result in
            waiting -= 1
            done(try? result.get())
        }
    }

    func stop() { pool.shutdownGracefully { _ in } }
}
