internal import COpenSSL
internal import Synchronization

/// Memory for secrets outside OpenSSL's secure heap: anonymous pages that are locked and left out of core dumps.
///
/// Slots are multiples of 64 octets, aligned to 64, so that expanded AES keys (`gcm_key_data`) can live here and do not all
/// fall into the same cache sets. Slots are wiped when released and used again; chunks are never unmapped, so the
/// arena is as large as the most secrets that ever lived at once (the IKE core bounds its half-open exchanges and SAs).
package final class SecureArena: Sendable {
    /// Octets mapped at once. Requests above `largestSlotBytes` get pages of their own.
    package static let chunkBytes = 64 * 1024
    package static let largestSlotBytes = 4096
    package static let slotAlignment = 64

    package static let shared = SecureArena()

    private struct State {
        /// Released slots by size in units of `slotAlignment`. Kept outside the slots, so that a wiped slot stays zero.
        var free: [[UnsafeMutableRawPointer]] = Array(repeating: [], count: largestSlotBytes / slotAlignment + 1)
        var chunk: UnsafeMutableRawPointer?
        var chunkUsedBytes = 0
        var mappedBytes = 0
        var lockedBytes = 0
    }
    private let state = Mutex(State())
    private let place: @Sendable (UnsafeMutableRawPointer, Int) -> Void

    /// - Parameter place: is given each new mapping and its octets before it is touched, to bind it to a NUMA node.
    package init(place: @escaping @Sendable (UnsafeMutableRawPointer, Int) -> Void = { _, _ in }) { self.place = place }

    /// Octets mapped from the system, and how many of them the kernel locked (RLIMIT_MEMLOCK may refuse).
    package var mapped: (bytes: Int, lockedBytes: Int) { state.withLock { ($0.mappedBytes, $0.lockedBytes) } }

    /// Zeroed memory of at least `bytes` octets, aligned to 64. nil when the system has no memory.
    package func allocate(bytes: Int) -> UnsafeMutableRawPointer? {
        let size = Self.slotBytes(bytes)
        // The pointer crosses the lock as an address: a raw pointer is not Sendable.
        let address: UInt? = state.withLock { state in
            let slot = size > Self.largestSlotBytes ? map(size, &state) : take(size, &state)
            return slot.map { UInt(bitPattern: $0) }
        }
        return address.flatMap { UnsafeMutableRawPointer(bitPattern: $0) }
    }

    /// Wipes the memory and takes it back. `bytes` is what was asked for.
    package func release(_ memory: UnsafeMutableRawPointer, bytes: Int) {
        let size = Self.slotBytes(bytes)
        OPENSSL_cleanse(memory, size)
        let address = UInt(bitPattern: memory)
        state.withLock { state in
            guard let slot = UnsafeMutableRawPointer(bitPattern: address) else { return }
            if size > Self.largestSlotBytes {
                culvert_secret_pages_unmap(slot, size)
                state.mappedBytes -= size
            } else {
                state.free[size / Self.slotAlignment].append(slot)
            }
        }
    }

    private static func slotBytes(_ bytes: Int) -> Int {
        let unit = bytes > largestSlotBytes ? 4096 : slotAlignment
        return (max(bytes, 1) + unit - 1) / unit * unit
    }

    private func take(_ size: Int, _ state: inout State) -> UnsafeMutableRawPointer? {
        if let slot = state.free[size / Self.slotAlignment].popLast() { return slot }
        if state.chunk == nil || state.chunkUsedBytes + size > Self.chunkBytes {
            // What is left of the old chunk (less than one slot of this size) becomes a slot of its own size.
            if let old = state.chunk, state.chunkUsedBytes < Self.chunkBytes {
                let rest = min(Self.chunkBytes - state.chunkUsedBytes, Self.largestSlotBytes)
                state.free[rest / Self.slotAlignment].append(old + state.chunkUsedBytes)
            }
            guard let chunk = map(Self.chunkBytes, &state) else {
                state.chunk = nil
                return nil
            }
            (state.chunk, state.chunkUsedBytes) = (chunk, 0)
        }
        guard let chunk = state.chunk else { return nil }
        defer { state.chunkUsedBytes += size }
        return chunk + state.chunkUsedBytes
    }

    private func map(_ bytes: Int, _ state: inout State) -> UnsafeMutableRawPointer? {
        guard let pages = culvert_secret_pages_map(bytes) else { return nil }
        place(pages, bytes)
        state.mappedBytes += bytes
        if culvert_secret_pages_lock(pages, bytes) == 1 { state.lockedBytes += bytes }
        return pages
    }
}
