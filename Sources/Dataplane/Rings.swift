import CLinux
import Platform

/// The kernel's AF_XDP rings, and rings of the same shape in plain memory for tests and benchmarks.
///
/// Indices are free-running 32-bit counters that wrap; only differences mean anything, so all arithmetic is `&+ &-`.
/// Each end caches the other's index and reads it again (acquire) only when the cached one says full or empty.

/// The producer's end of a fill or transmit ring. Locks and allocates nothing.
@usableFromInline
struct ProducerRing {
    let producerIndex: UnsafeMutablePointer<UInt32>
    let consumerIndex: UnsafeMutablePointer<UInt32>
    let flags: UnsafeMutablePointer<UInt32>
    let descriptors: UnsafeMutableRawPointer
    let mask: UInt32
    let size: UInt32
    /// Where we write next; published by `submit`.
    var produced: UInt32
    /// The oldest slot the consumer may still be reading, plus `size`.
    var limit: UInt32

    init(_ memory: RingMemory) {
        producerIndex = memory.producer
        consumerIndex = memory.consumer
        flags = memory.flags
        descriptors = memory.descriptors
        size = memory.size
        mask = memory.size &- 1
        produced = culvert_load_acquire_u32(memory.producer)
        limit = culvert_load_acquire_u32(memory.consumer) &+ memory.size
    }

    /// Free slots, at least `wanted` if there are that many.
    @inline(__always)
    mutating func free(_ wanted: UInt32) -> UInt32 {
        let known = limit &- produced
        if known >= wanted { return known }
        limit = culvert_load_acquire_u32(consumerIndex) &+ size
        return limit &- produced
    }

    @inline(__always)
    mutating func submit() { culvert_store_release_u32(producerIndex, produced) }

    @inline(__always)
    var needsWakeup: Bool {
        culvert_load_relaxed_u32(flags) & UInt32(XDP_RING_NEED_WAKEUP) != 0
    }

    /// Transmit descriptor: `struct xdp_desc` of 16 octets. The slot must be free.
    @inline(__always)
    mutating func push(address: UInt64, length: UInt32) {
        let slot = descriptors + Int(produced & mask) &* 16
        slot.storeBytes(of: address, as: UInt64.self)
        slot.storeBytes(of: UInt64(length), toByteOffset: 8, as: UInt64.self)
        produced &+= 1
    }

    /// Fill entry: a bare address. The slot must be free.
    @inline(__always)
    mutating func push(address: UInt64) {
        (descriptors + Int(produced & mask) &* 8).storeBytes(of: address, as: UInt64.self)
        produced &+= 1
    }
}

/// The consumer's end of a receive or completion ring.
@usableFromInline
struct ConsumerRing {
    let producerIndex: UnsafeMutablePointer<UInt32>
    let consumerIndex: UnsafeMutablePointer<UInt32>
    let descriptors: UnsafeMutableRawPointer
    let mask: UInt32
    var consumed: UInt32
    var available: UInt32

    init(_ memory: RingMemory) {
        producerIndex = memory.producer
        consumerIndex = memory.consumer
        descriptors = memory.descriptors
        mask = memory.size &- 1
        consumed = culvert_load_acquire_u32(memory.consumer)
        available = culvert_load_acquire_u32(memory.producer)
    }

    /// Entries ready to be read, at most `most`.
    @inline(__always)
    mutating func ready(_ most: UInt32) -> UInt32 {
        var count = available &- consumed
        if count == 0 {
            available = culvert_load_acquire_u32(producerIndex)
            count = available &- consumed
        }
        return count < most ? count : most
    }

    @inline(__always)
    func address(ahead: UInt32) -> UInt64 {
        (descriptors + Int((consumed &+ ahead) & mask) &* 8).load(as: UInt64.self)
    }

    @inline(__always)
    func descriptor(ahead: UInt32) -> (address: UInt64, length: UInt32) {
        let slot = descriptors + Int((consumed &+ ahead) & mask) &* 16
        return (slot.load(as: UInt64.self), slot.load(fromByteOffset: 8, as: UInt32.self))
    }

    @inline(__always)
    mutating func release(_ count: UInt32) {
        consumed &+= count
        culvert_store_release_u32(consumerIndex, consumed)
    }

    /// Whether the producer has published something we did not read yet; looks at shared memory.
    @inline(__always)
    var hasMore: Bool { culvert_load_acquire_u32(producerIndex) != consumed }
}

/// A single-producer single-consumer ring of fixed slots in plain memory: between workers, and between workers and control.
/// Each side holds its own `Producer` or `Consumer` over one shared `Storage`.
@usableFromInline
enum SPSC {
    /// Two index words on cache lines of their own (128 octets apart: adjacent-line prefetch pairs them) and the slots.
    final class Storage {
        let memory: UnsafeMutableRawPointer
        let slotBytes: Int
        let slots: Int

        /// - Parameters:
        ///   - slots: a power of two.
        ///   - slotBytes: a multiple of 8.
        init(slots: Int, slotBytes: Int) {
            precondition(slots > 0 && slots & (slots - 1) == 0 && slotBytes % 8 == 0)
            self.slots = slots
            self.slotBytes = slotBytes
            memory = .allocate(byteCount: 256 + slots * slotBytes, alignment: 128)
            memory.initializeMemory(as: UInt8.self, repeating: 0, count: 256 + slots * slotBytes)
        }

        deinit { memory.deallocate() }

        var ring: RingMemory {
            RingMemory(
                producer: memory.assumingMemoryBound(to: UInt32.self),
                consumer: (memory + 128).assumingMemoryBound(to: UInt32.self),
                flags: (memory + 64).assumingMemoryBound(to: UInt32.self), descriptors: memory + 256, size: UInt32(slots))
        }
    }

    struct Producer {
        var ring: ProducerRing
        let slotBytes: Int

        init(_ storage: Storage) {
            ring = ProducerRing(storage.ring)
            slotBytes = storage.slotBytes
        }

        /// The next free slot to write, or nil when full. `commit` takes it; nothing is visible before `publish`.
        @inline(__always)
        mutating func reserve(keeping reserve: UInt32 = 0) -> UnsafeMutableRawPointer? {
            guard ring.free(1 &+ reserve) > reserve else { return nil }
            return ring.descriptors + Int(ring.produced & ring.mask) &* slotBytes
        }

        @inline(__always)
        mutating func commit() { ring.produced &+= 1 }

        @inline(__always)
        mutating func publish() { ring.submit() }
    }

    struct Consumer {
        var ring: ConsumerRing
        let slotBytes: Int

        init(_ storage: Storage) {
            ring = ConsumerRing(storage.ring)
            slotBytes = storage.slotBytes
        }

        /// The oldest unread slot, or nil when empty. Valid until `release`.
        @inline(__always)
        mutating func next() -> UnsafeMutableRawPointer? {
            guard ring.ready(1) > 0 else { return nil }
            return ring.descriptors + Int(ring.consumed & ring.mask) &* slotBytes
        }

        @inline(__always)
        mutating func release() { ring.release(1) }
    }
}
