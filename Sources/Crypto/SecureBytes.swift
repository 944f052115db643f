internal import COpenSSL
public import IPsec

/// Octets of a secret in memory that is locked, left out of core dumps, and wiped on release.
///
/// They live in OpenSSL's secure heap; when that is nearly full, in `SecureArena`; never in ordinary memory. The octets are
/// written once, by the initialiser, so that any thread may read them.
public final class SecureBytes: SecretMemory, @unchecked Sendable {
    public let count: Int
    private let memory: UnsafeMutableRawPointer
    /// nil: the memory is from OpenSSL's secure heap.
    private let arena: SecureArena?

    /// `count` octets, zero at first, which `fill` overwrites. Traps when the system has no memory left, as any
    /// allocation in Swift does.
    public convenience init(count: Int, fill: (UnsafeMutableRawBufferPointer) -> Void = { _ in }) {
        self.init(count: count, arena: SecureHeap.hasRoom(for: count) ? nil : .shared, fill: fill)
    }

    public convenience init(_ bytes: [UInt8]) {
        self.init(count: bytes.count) { $0.copyBytes(from: bytes) }
    }

    /// `arena` nil asks OpenSSL's secure heap first and falls back to the shared arena.
    package init(count: Int, arena: SecureArena?, fill: (UnsafeMutableRawBufferPointer) -> Void) {
        let size = max(count, 1)
        if arena == nil, let memory = culvert_secure_malloc(size) {
            (self.memory, self.arena) = (memory, nil)
        } else {
            let arena = arena ?? .shared
            guard let memory = arena.allocate(bytes: size) else { fatalError("no memory left for a secret of \(size) octets") }
            (self.memory, self.arena) = (memory, arena)
        }
        self.count = count
        memory.initializeMemory(as: UInt8.self, repeating: 0, count: size)
        fill(UnsafeMutableRawBufferPointer(start: memory, count: count))
    }

    deinit {
        let size = max(count, 1)
        if let arena { arena.release(memory, bytes: size) } else { culvert_secure_clear_free(memory, size) }
    }

    public func withBytes<R>(_ body: (RawSpan) throws -> R) rethrows -> R {
        try body(UnsafeRawBufferPointer(start: memory, count: count).bytes)
    }
}

/// OpenSSL's secure heap, made at first use. OpenSSL itself keeps private keys and MAC keys there too.
package enum SecureHeap {
    /// Octets asked for; halved until the kernel locks them (RLIMIT_MEMLOCK), down to `leastBytes`.
    package static let mostBytes = 8 * 1024 * 1024
    package static let leastBytes = 64 * 1024
    /// Octets of the smallest block.
    static let blockBytes = 32

    /// Size in octets, and whether the kernel locked it. Zero when there is no secure heap.
    package static let size: (bytes: Int, isLocked: Bool) = {
        if CRYPTO_secure_malloc_initialized() == 1 { return (leastBytes, true) }
        var bytes = mostBytes
        while true {
            // 1: locked and left out of dumps; 2: made, but one of the two was refused; 0: not made.
            let result = CRYPTO_secure_malloc_init(bytes, blockBytes)
            if result == 1 { return (bytes, true) }
            if bytes == leastBytes { return result == 2 ? (bytes, false) : (0, false) }
            if result == 2 { _ = CRYPTO_secure_malloc_done() }
            bytes /= 2
        }
    }()

    /// Whether a secret of ours may go there: a quarter stays free for OpenSSL, which has nowhere else to go.
    static func hasRoom(for count: Int) -> Bool {
        size.isLocked && Int(CRYPTO_secure_used()) + 2 * max(count, blockBytes) <= size.bytes / 4 * 3
    }
}

extension SecretMemory {
    /// Lends the octets to a C function. The pointer is never NULL, also when there are none.
    func withPointer<R>(_ body: (UnsafeRawPointer, Int) -> R) -> R {
        withBytes { span in
            span.withUnsafeBytes { bytes in
                guard let base = bytes.baseAddress else { return withUnsafeBytes(of: UInt8(0)) { body($0.baseAddress!, 0) } }
                return body(base, bytes.count)
            }
        }
    }
}
