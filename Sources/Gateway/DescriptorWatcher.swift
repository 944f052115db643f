import NIOCore
import NIOPosix
import Platform
import Synchronization

/// Waits for descriptors that NIO cannot watch itself (netlink, TUN, eventfd) and runs their handlers on the event loop. One
/// waiting thread per descriptor: each sleeps in poll() until there is something, hands over, and waits for the handler's end.
final class DescriptorWatcher: Sendable {
    /// How often a waiting thread looks whether it should end.
    static let patienceMilliseconds: Int32 = 500

    private let pool: NIOThreadPool
    private let stopping = Atomic<Bool>(false)

    init(descriptors: Int) {
        pool = NIOThreadPool(numberOfThreads: descriptors)
        pool.start()
    }

    /// Pause when a descriptor claims to be readable and nothing is there: a TUN device that somebody deleted.
    static let brokenPauseMilliseconds: Int32 = 50

    /// `handler` runs on the loop, reads until nothing is left, and says whether there was anything. The descriptor stays open
    /// until `stop` has returned.
    func watch(_ descriptor: Int32, on loop: any EventLoop, handler: @escaping @Sendable () -> Bool) {
        pool.submit { [self] state in
            guard case .active = state else { return }
            while !stopping.load(ordering: .acquiring) {
                guard Poll.readable(descriptor, timeoutMilliseconds: Self.patienceMilliseconds) else { continue }
                guard let found = try? loop.submit({ handler() }).wait() else { return }
                // No descriptor: nothing but the timeout.
                if !found { _ = Poll.readable(-1, timeoutMilliseconds: Self.brokenPauseMilliseconds) }
            }
        }
    }

    /// Ends the threads; completes when all have. Call off the loop, or the handlers' thread waits for itself.
    func stop() async {
        stopping.store(true, ordering: .releasing)
        try? await pool.shutdownGracefully()
    }
}
