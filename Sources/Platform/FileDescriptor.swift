import CLinux
import Glibc

/// The one owner of an open file descriptor; it is closed when the owner ends.
public struct FileDescriptor: ~Copyable, Sendable {
    /// The number, valid as long as this value lives.
    public let number: Int32

    /// Takes over an open descriptor.
    public init(owning number: Int32) { self.number = number }

    deinit { if number >= 0 { close(number) } }

    /// Gives the descriptor away: the caller closes it.
    public consuming func release() -> Int32 {
        let number = self.number
        discard self
        return number
    }

    public borrowing func setNonblocking() throws(SystemError) {
        let flags = culvert_fcntl_int(number, F_GETFL, 0)
        guard flags >= 0, culvert_fcntl_int(number, F_SETFL, flags | O_NONBLOCK) == 0 else {
            throw SystemError(call: "fcntl(O_NONBLOCK)")
        }
    }

    /// Reads what there is, at most `capacity` bytes (one packet, for a TUN device or datagram socket).
    /// Nil when nothing is waiting on a non-blocking descriptor; an empty array at the end of the file.
    public borrowing func read(atMost capacity: Int) throws(SystemError) -> [UInt8]? {
        var failure: Int32 = 0
        let bytes = [UInt8](unsafeUninitializedCapacity: capacity) { buffer, count in
            var got: Int
            repeat { got = Glibc.read(number, buffer.baseAddress, capacity) } while got < 0 && errno == EINTR
            if got < 0 { failure = errno }
            count = max(got, 0)
        }
        if failure == EAGAIN { return nil }
        guard failure == 0 else { throw SystemError(call: "read", code: failure) }
        return bytes
    }

    /// Writes all bytes in one call. False when a non-blocking descriptor has no room now.
    public borrowing func write(_ bytes: [UInt8]) throws(SystemError) -> Bool {
        var put: Int
        repeat { put = bytes.withUnsafeBytes { Glibc.write(number, $0.baseAddress, $0.count) } } while put < 0 && errno == EINTR
        if put < 0, errno == EAGAIN { return false }
        guard put >= 0 else { throw SystemError(call: "write") }
        guard put == bytes.count else {
            throw SystemError(call: "write", code: EIO, detail: "only \(put) of \(bytes.count) bytes")
        }
        return true
    }
}

/// A counter in the kernel that wakes whoever polls its descriptor: how one thread rouses another from poll().
public struct EventSignal: ~Copyable, Sendable {
    public let descriptor: FileDescriptor

    public init() throws(SystemError) {
        let number = eventfd(0, Int32(EFD_NONBLOCK | EFD_CLOEXEC))
        guard number >= 0 else { throw SystemError(call: "eventfd") }
        descriptor = FileDescriptor(owning: number)
    }

    /// Makes the descriptor readable. Safe from any thread.
    public borrowing func raise() { Self.raise(descriptor.number) }

    /// Makes it unreadable again. True when it had been raised.
    @discardableResult
    public borrowing func clear() -> Bool { Self.clear(descriptor.number) }

    /// `raise` for a holder of the bare number, such as another worker. Cannot fail: a full counter is readable already.
    public static func raise(_ number: Int32) { _ = eventfd_write(number, 1) }

    @discardableResult
    public static func clear(_ number: Int32) -> Bool {
        var value: eventfd_t = 0
        return eventfd_read(number, &value) == 0 && value > 0
    }
}

/// poll(2) without the ceremony.
public enum Poll {
    /// Waits until a descriptor is ready, or for `timeoutMilliseconds` (negative: for ever). The number of ready
    /// descriptors; a signal counts as none.
    public static func wait(
        _ descriptors: UnsafeMutableBufferPointer<pollfd>, timeoutMilliseconds: Int32
    ) -> Int {
        let ready = poll(descriptors.baseAddress, nfds_t(descriptors.count), timeoutMilliseconds)
        return ready < 0 ? 0 : Int(ready)
    }

    /// True when the descriptor can be read (or has failed) within the time.
    public static func readable(_ descriptor: Int32, timeoutMilliseconds: Int32) -> Bool {
        var one = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        return withUnsafeMutablePointer(to: &one) {
            wait(UnsafeMutableBufferPointer(start: $0, count: 1), timeoutMilliseconds: timeoutMilliseconds) > 0
        }
    }
}
