import CLinux
import Glibc

/// The frames that sockets share: page-aligned memory cut into equal chunks.
public struct UMEMArea: @unchecked Sendable {
    public let base: UnsafeMutableRawPointer
    public let byteCount: Int
    /// 2048 or 4096 on most kernels (a power of two, at most a page).
    public let chunkBytes: UInt32
    /// Bytes the kernel leaves free before a received packet, besides its own 256 (XDP_PACKET_HEADROOM).
    public let headroomBytes: UInt32

    public init(base: UnsafeMutableRawPointer, byteCount: Int, chunkBytes: UInt32, headroomBytes: UInt32) {
        self.base = base
        self.byteCount = byteCount
        self.chunkBytes = chunkBytes
        self.headroomBytes = headroomBytes
    }
}

/// One ring between the kernel and us, in memory both map. Indices run freely over 32 bits: use wrapping arithmetic, mask
/// with `size - 1`.
public struct RingMemory: @unchecked Sendable {
    public let producer: UnsafeMutablePointer<UInt32>
    public let consumer: UnsafeMutablePointer<UInt32>
    /// Bit 0: the kernel must be woken by a system call (XDP_RING_NEED_WAKEUP).
    public let flags: UnsafeMutablePointer<UInt32>
    /// `xdp_desc` (16 bytes) on receive and transmit rings, a 64-bit UMEM offset on fill and completion rings.
    public let descriptors: UnsafeMutableRawPointer
    /// Entries, a power of two.
    public let size: UInt32
    let mapping: UnsafeMutableRawPointer
    let mappingBytes: Int

    /// A ring in plain memory, for tests and benchmarks without a kernel. The memory stays the caller's.
    public init(
        producer: UnsafeMutablePointer<UInt32>, consumer: UnsafeMutablePointer<UInt32>, flags: UnsafeMutablePointer<UInt32>,
        descriptors: UnsafeMutableRawPointer, size: UInt32
    ) {
        self.init(
            producer: producer, consumer: consumer, flags: flags, descriptors: descriptors, size: size,
            mapping: descriptors, mappingBytes: 0)
    }

    init(
        producer: UnsafeMutablePointer<UInt32>, consumer: UnsafeMutablePointer<UInt32>, flags: UnsafeMutablePointer<UInt32>,
        descriptors: UnsafeMutableRawPointer, size: UInt32, mapping: UnsafeMutableRawPointer, mappingBytes: Int
    ) {
        self.producer = producer
        self.consumer = consumer
        self.flags = flags
        self.descriptors = descriptors
        self.size = size
        self.mapping = mapping
        self.mappingBytes = mappingBytes
    }
}

/// How the kernel moves packets between the NIC and the UMEM.
public enum AFXDPCopyMode: String, Sendable, Hashable {
    /// Zero-copy when the driver has it. The first socket decides for all that share its UMEM.
    case auto
    case copy
    case zeroCopy = "zero-copy"
}

/// Sizes and flags of one socket. Ring sizes are entries and powers of two.
public struct AFXDPOptions: Sendable, Hashable {
    public var fillEntries: UInt32 = 2048
    public var completionEntries: UInt32 = 2048
    public var receiveEntries: UInt32 = 2048
    public var transmitEntries: UInt32 = 2048
    /// Only for the socket that registers the UMEM; the others follow it, the kernel refuses anything else.
    public var copyMode: AFXDPCopyMode = .auto
    /// The kernel says when it needs a system call. Only for the socket that registers the UMEM, as above.
    public var needWakeup = true

    public init() {}
}

/// The kernel's own loss counters of one socket (XDP_STATISTICS), cumulative packets.
public struct AFXDPStatistics: Sendable, Hashable {
    public var receiveDropped: UInt64 = 0
    public var receiveInvalidDescriptors: UInt64 = 0
    public var transmitInvalidDescriptors: UInt64 = 0
    public var receiveRingFull: UInt64 = 0
    public var fillRingEmpty: UInt64 = 0
    public var transmitRingEmpty: UInt64 = 0

    public init() {}
}

/// One AF_XDP socket bound to one queue of one interface, with its own four rings, over a UMEM shared by all sockets.
///
/// Sockets are made with plain system calls: libxdp ties every shared socket to the one that registered the UMEM, and cannot
/// bind another once that one's interface is gone. Here a socket shares the UMEM of *any* socket that is still bound.
/// No XDP program is loaded by this: see `XDPProgram`.
public struct AFXDPSocket: ~Copyable, @unchecked Sendable {
    /// Where the frames come from.
    public enum UMEM: Sendable {
        /// This socket is the first: it registers the memory and decides copy or zero-copy for all.
        case register(UMEMArea)
        /// Shares the UMEM of a socket that is bound to an interface that still exists.
        case share(Int32)
    }

    public let descriptor: FileDescriptor
    public let interfaceIndex: Int32
    public let queue: UInt32
    public let fill: RingMemory
    public let completion: RingMemory
    public let receive: RingMemory
    public let transmit: RingMemory
    /// What the kernel chose.
    public let zeroCopy: Bool

    /// The descriptor's number, for poll, wake-up calls and the program's socket map.
    public var number: Int32 { descriptor.number }

    /// Opens and binds. Errors worth telling apart: EBUSY (the queue has a socket already, or the last one is still being
    /// torn down: try again for a second), EOPNOTSUPP (no zero-copy here), EBADF (the shared socket is no longer bound),
    /// ENODEV (the interface is gone), EINVAL (no such queue). A driver may say ENETDOWN while its interface is down; newer
    /// kernels bind then in copy mode all the same.
    public init(interfaceIndex: Int32, queue: UInt32, umem: UMEM, options: AFXDPOptions) throws(SystemError) {
        let number = Glibc.socket(AF_XDP, Int32(SOCK_RAW.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard number >= 0 else {
            throw SystemError(
                call: "socket(AF_XDP)",
                remedy: errno == EAFNOSUPPORT ? "use a kernel with CONFIG_XDP_SOCKETS" : "")
        }
        let descriptor = FileDescriptor(owning: number)
        let subject = "interface \(interfaceIndex) queue \(queue)"
        if case .register(let area) = umem {
            var registration = xdp_umem_reg()
            registration.addr = UInt64(UInt(bitPattern: area.base))
            registration.len = UInt64(area.byteCount)
            registration.chunk_size = area.chunkBytes
            registration.headroom = area.headroomBytes
            try SocketOption.set(number, CULVERT_SOL_XDP, XDP_UMEM_REG, &registration, "XDP_UMEM_REG", subject)
        }
        for (option, entries, name) in [
            (XDP_UMEM_FILL_RING, options.fillEntries, "XDP_UMEM_FILL_RING"),
            (XDP_UMEM_COMPLETION_RING, options.completionEntries, "XDP_UMEM_COMPLETION_RING"),
            (XDP_RX_RING, options.receiveEntries, "XDP_RX_RING"), (XDP_TX_RING, options.transmitEntries, "XDP_TX_RING"),
        ] {
            var entries = entries
            try SocketOption.set(number, CULVERT_SOL_XDP, option, &entries, name, subject)
        }
        let rings = try RingSet(socket: number, options: options)
        do throws(SystemError) {
            try Self.bind(number, interfaceIndex, queue, umem, options)
            zeroCopy = try Self.isZeroCopy(number)
        } catch {
            rings.unmap()
            throw error
        }
        self.descriptor = descriptor
        self.interfaceIndex = interfaceIndex
        self.queue = queue
        fill = rings.fill
        completion = rings.completion
        receive = rings.receive
        transmit = rings.transmit
    }

    deinit {
        for ring in [fill, completion, receive, transmit] { munmap(ring.mapping, ring.mappingBytes) }
    }

    private static func bind(
        _ number: Int32, _ interfaceIndex: Int32, _ queue: UInt32, _ umem: UMEM, _ options: AFXDPOptions
    ) throws(SystemError) {
        var address = sockaddr_xdp()
        address.sxdp_family = UInt16(AF_XDP)
        address.sxdp_ifindex = UInt32(bitPattern: interfaceIndex)
        address.sxdp_queue_id = queue
        switch umem {
        case .register:
            var flags: Int32 = options.needWakeup ? XDP_USE_NEED_WAKEUP : 0
            switch options.copyMode {
            case .auto: break
            case .copy: flags |= XDP_COPY
            case .zeroCopy: flags |= XDP_ZEROCOPY
            }
            address.sxdp_flags = UInt16(truncatingIfNeeded: flags)
        case .share(let other):
            // Copy mode and wake-up follow the first socket; the kernel refuses flags here.
            address.sxdp_flags = UInt16(XDP_SHARED_UMEM)
            address.sxdp_shared_umem_fd = UInt32(bitPattern: other)
        }
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                Glibc.bind(number, $0, socklen_t(MemoryLayout<sockaddr_xdp>.size))
            }
        }
        guard result == 0 else {
            let code = errno
            throw SystemError(
                call: "bind(AF_XDP)", code: code, subject: "interface \(interfaceIndex) queue \(queue)",
                remedy: Self.bindRemedy(code))
        }
    }

    private static func bindRemedy(_ code: Int32) -> String {
        switch code {
        case EBUSY: "end the other program that has an AF_XDP socket on this queue"
        case EOPNOTSUPP, EPROTONOSUPPORT: "this driver has no zero-copy here: set xdp_mode: native or generic"
        case ENETDOWN: "set the interface up (ip link set … up)"
        case EINVAL: "check that the interface has this queue (ethtool -l)"
        case EBADF: "share the UMEM of a socket whose interface still exists"
        default: ""
        }
    }

    private static func isZeroCopy(_ number: Int32) throws(SystemError) -> Bool {
        var options = xdp_options()
        _ = try SocketOption.get(number, CULVERT_SOL_XDP, XDP_OPTIONS, &options, "XDP_OPTIONS")
        return options.flags & UInt32(XDP_OPTIONS_ZEROCOPY) != 0
    }

    public borrowing func statistics() throws(SystemError) -> AFXDPStatistics { try Self.statistics(of: number) }

    /// `statistics` for a holder of the bare number.
    public static func statistics(of number: Int32) throws(SystemError) -> AFXDPStatistics {
        var raw = xdp_statistics()
        // Kernels before 5.9 fill only the first three counters; the rest stay zero.
        _ = try SocketOption.get(number, CULVERT_SOL_XDP, XDP_STATISTICS, &raw, "XDP_STATISTICS")
        var result = AFXDPStatistics()
        result.receiveDropped = raw.rx_dropped
        result.receiveInvalidDescriptors = raw.rx_invalid_descs
        result.transmitInvalidDescriptors = raw.tx_invalid_descs
        result.receiveRingFull = raw.rx_ring_full
        result.fillRingEmpty = raw.rx_fill_ring_empty_descs
        result.transmitRingEmpty = raw.tx_ring_empty_descs
        return result
    }

    /// Lets the application's system calls drive the NIC (SO_PREFER_BUSY_POLL, Linux 5.11), `budget` packets at a time.
    /// Needs `napi_defer_hard_irqs` and `gro_flush_timeout` set on the interface to be of use.
    public borrowing func preferBusyPolling(microseconds: Int32, budgetPackets: Int32) throws(SystemError) {
        let subject = "interface \(interfaceIndex) queue \(queue)"
        var prefer: Int32 = 1
        var time = microseconds
        var budget = budgetPackets
        try SocketOption.set(number, SOL_SOCKET, CULVERT_SO_PREFER_BUSY_POLL, &prefer, "SO_PREFER_BUSY_POLL", subject)
        try SocketOption.set(number, SOL_SOCKET, CULVERT_SO_BUSY_POLL, &time, "SO_BUSY_POLL", subject)
        try SocketOption.set(number, SOL_SOCKET, CULVERT_SO_BUSY_POLL_BUDGET, &budget, "SO_BUSY_POLL_BUDGET", subject)
    }
}

/// The four rings of one socket while it is being made.
private struct RingSet {
    let fill: RingMemory
    let completion: RingMemory
    let receive: RingMemory
    let transmit: RingMemory

    init(socket: Int32, options: AFXDPOptions) throws(SystemError) {
        var offsets = xdp_mmap_offsets()
        let length = try SocketOption.get(socket, CULVERT_SOL_XDP, XDP_MMAP_OFFSETS, &offsets, "XDP_MMAP_OFFSETS")
        // Linux 5.3 and older answer without the flags; need-wakeup does not exist there.
        guard length == MemoryLayout<xdp_mmap_offsets>.size else {
            throw SystemError(call: "getsockopt(XDP_MMAP_OFFSETS)", code: 0, remedy: "use Linux 5.10 or newer")
        }
        let layouts: [(xdp_ring_offset, UInt32, Int, Int)] = [
            (offsets.fr, options.fillEntries, 8, Int(XDP_UMEM_PGOFF_FILL_RING)),
            (offsets.cr, options.completionEntries, 8, Int(XDP_UMEM_PGOFF_COMPLETION_RING)),
            (offsets.rx, options.receiveEntries, MemoryLayout<xdp_desc>.stride, Int(XDP_PGOFF_RX_RING)),
            (offsets.tx, options.transmitEntries, MemoryLayout<xdp_desc>.stride, Int(XDP_PGOFF_TX_RING)),
        ]
        var rings: [RingMemory] = []
        for (offset, entries, entryBytes, page) in layouts {
            do throws(SystemError) {
                rings.append(try Self.map(socket, offset, entries, entryBytes, page))
            } catch {
                for ring in rings { munmap(ring.mapping, ring.mappingBytes) }
                throw error
            }
        }
        (fill, completion, receive, transmit) = (rings[0], rings[1], rings[2], rings[3])
    }

    func unmap() {
        for ring in [fill, completion, receive, transmit] { munmap(ring.mapping, ring.mappingBytes) }
    }

    private static func map(
        _ socket: Int32, _ offset: xdp_ring_offset, _ entries: UInt32, _ entryBytes: Int, _ page: Int
    ) throws(SystemError) -> RingMemory {
        let bytes = Int(offset.desc) + Int(entries) * entryBytes
        let base = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | Int32(MAP_POPULATE), socket, page)
        guard let base, base != MAP_FAILED else { throw SystemError(call: "mmap(AF_XDP ring)") }
        return RingMemory(
            producer: (base + Int(offset.producer)).assumingMemoryBound(to: UInt32.self),
            consumer: (base + Int(offset.consumer)).assumingMemoryBound(to: UInt32.self),
            flags: (base + Int(offset.flags)).assumingMemoryBound(to: UInt32.self),
            descriptors: base + Int(offset.desc), size: entries, mapping: base, mappingBytes: bytes)
    }
}

/// getsockopt and setsockopt on whole values.
enum SocketOption {
    static func set<Value: BitwiseCopyable>(
        _ socket: Int32, _ level: some BinaryInteger, _ option: some BinaryInteger, _ value: inout Value, _ name: String,
        _ subject: String = ""
    ) throws(SystemError) {
        let result = setsockopt(socket, Int32(level), Int32(option), &value, socklen_t(MemoryLayout<Value>.size))
        guard result == 0 else { throw SystemError(call: "setsockopt(\(name))", subject: subject) }
    }

    /// The length the kernel wrote.
    static func get<Value: BitwiseCopyable>(
        _ socket: Int32, _ level: some BinaryInteger, _ option: some BinaryInteger, _ value: inout Value, _ name: String
    ) throws(SystemError) -> Int {
        var length = socklen_t(MemoryLayout<Value>.size)
        guard getsockopt(socket, Int32(level), Int32(option), &value, &length) == 0 else {
            throw SystemError(call: "getsockopt(\(name))")
        }
        return Int(length)
    }
}
