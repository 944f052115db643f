import Glibc
import Synchronization

/// Writes log lines to a descriptor that somebody may have stopped reading: whoever writes waits a bounded time, then gives the
/// line up and counts it. Safe from any thread.
///
/// The descriptor stays as it is: other processes share standard error, and O_NONBLOCK would be theirs too. A pipe that poll()
/// calls writable takes PIPE_BUF octets without blocking, a socket takes more.
public final class LineWriter: Sendable {
    public static let standardError = LineWriter(descriptor: STDERR_FILENO)

    /// How long a full pipe is waited for before the line is given up. Those after it do not wait, until one goes through.
    static let patienceMilliseconds: UInt64 = 100
    static let pieceBytes = Int(PIPE_BUF)

    private struct State {
        var lostLines: UInt64 = 0
        /// A line was given up in its middle: what follows needs a line of its own.
        var isCut = false
    }

    private let descriptor: Int32
    private let state = Mutex(State())

    /// The descriptor stays the caller's.
    public init(descriptor: Int32) { self.descriptor = descriptor }

    /// Lines given up since the last `notice`.
    var lostLines: UInt64 { state.withLock(\.lostLines) }

    /// - Parameters:
    ///   - line: with its end.
    ///   - notice: a line that says how many were lost; asked for before the first line that goes through again.
    public func write(_ line: [UInt8], notice: (UInt64) -> [UInt8]) {
        state.withLock { state in
            if state.lostLines > 0 {
                let outcome = put((state.isCut ? [UInt8(ascii: "\n")] : []) + notice(state.lostLines), patience: 0)
                guard outcome == .whole else {
                    state.lostLines += 1
                    if outcome == .part { state.isCut = true }
                    return
                }
                state = State()
            }
            let outcome = put(line, patience: Self.patienceMilliseconds)
            guard outcome != .whole else { return }
            state.lostLines += 1
            state.isCut = outcome == .part
        }
    }

    private enum Outcome { case whole, part, nothing }

    private func put(_ bytes: [UInt8], patience: UInt64) -> Outcome {
        let deadline = MonotonicClock.nanoseconds + patience * 1_000_000
        var sent = 0
        while sent < bytes.count, isWritable(until: deadline) {
            let count = min(bytes.count - sent, Self.pieceBytes)
            let put = bytes.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress! + sent, count) }
            if put > 0 { sent += put; continue }
            guard put < 0, errno == EINTR else { break }
        }
        return sent == bytes.count ? .whole : sent > 0 ? .part : .nothing
    }

    private func isWritable(until deadline: UInt64) -> Bool {
        while true {
            let now = MonotonicClock.nanoseconds
            var waiting = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
            let result = poll(&waiting, 1, now < deadline ? Int32((deadline - now) / 1_000_000) : 0)
            if result >= 0 || errno != EINTR { return result > 0 }
        }
    }
}
