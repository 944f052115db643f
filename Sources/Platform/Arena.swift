import CLinux
import Glibc

/// Whether an arena should lie on huge pages.
public enum HugePages: Sendable, Hashable {
    /// Huge when the kernel has any to give, small pages otherwise.
    case auto
    /// Huge or an error.
    case require
    case off
}

/// A block of zeroed, page-aligned anonymous memory with one owner, unmapped when the owner ends.
public struct Arena: ~Copyable, @unchecked Sendable {
    /// 2 MiB: the huge page asked for.
    public static let hugePageBytes = 2 << 20

    public let base: UnsafeMutableRawPointer
    /// What was asked for, rounded up to whole pages.
    public let byteCount: Int
    /// True when it lies on 2 MiB pages reserved by the administrator (`vm.nr_hugepages`).
    public let usesHugePages: Bool
    /// The node its pages come from by preference; nil when the kernel chooses.
    public let numaNode: Int?
    private let secret: Bool

    /// Memory for frames and tables.
    /// - Parameters:
    ///   - byteCount: at least 1; rounded up to the page size in use.
    ///   - numaNode: the node to take pages from while it has any; ignored where the kernel knows no NUMA.
    public init(byteCount: Int, hugePages: HugePages, numaNode: Int? = nil) throws(SystemError) {
        try self.init(byteCount: byteCount, hugePages: hugePages, numaNode: numaNode, secret: false)
    }

    /// Memory for keys: never swapped out, not in core dumps, zeroed before it is given back.
    public static func secret(byteCount: Int, numaNode: Int? = nil) throws(SystemError) -> Arena {
        try Arena(byteCount: byteCount, hugePages: .off, numaNode: numaNode, secret: true)
    }

    private init(byteCount: Int, hugePages: HugePages, numaNode: Int?, secret: Bool) throws(SystemError) {
        let (address, size, huge, placed) = try Self.map(byteCount, hugePages, numaNode)
        if secret {
            do throws(SystemError) { try Self.lock(address, size) } catch {
                munmap(address, size)
                throw error
            }
        }
        base = address
        self.byteCount = size
        self.numaNode = placed ? numaNode : nil
        usesHugePages = huge
        self.secret = secret
    }

    private static func map(
        _ byteCount: Int, _ hugePages: HugePages, _ node: Int?
    ) throws(SystemError) -> (UnsafeMutableRawPointer, Int, huge: Bool, placed: Bool) {
        guard byteCount > 0, byteCount <= Int.max / 2 else {
            throw SystemError(call: "mmap", code: EINVAL, detail: "\(byteCount) bytes")
        }
        if hugePages != .off {
            let size = roundUp(byteCount, to: hugePageBytes)
            if let address = culvert_map_anonymous(size, 1) {
                let placed = place(address, size, node)
                // A huge page that a control group refuses is a SIGBUS at the first touch: touch them all here instead.
                if culvert_populate(address, size) == 0 || errno == EINVAL { return (address, size, true, placed) }
                munmap(address, size)
            }
            guard hugePages == .auto else {
                throw SystemError(
                    call: "mmap(MAP_HUGETLB)", subject: "\(byteCount) bytes",
                    remedy: "reserve 2 MiB pages (sysctl vm.nr_hugepages=\(size / hugePageBytes)) or set huge_pages: auto")
            }
        }
        let size = roundUp(byteCount, to: Int(sysconf(Int32(_SC_PAGESIZE))))
        guard let address = culvert_map_anonymous(size, 0) else {
            throw SystemError(call: "mmap", subject: "\(byteCount) bytes")
        }
        return (address, size, false, place(address, size, node))
    }

    /// Before the first touch, which is what takes a page.
    private static func place(_ base: UnsafeMutableRawPointer, _ byteCount: Int, _ node: Int?) -> Bool {
        guard let node else { return false }
        return culvert_prefer_node(base, byteCount, Int32(truncatingIfNeeded: node)) == 0
    }

    private static func lock(_ base: UnsafeMutableRawPointer, _ byteCount: Int) throws(SystemError) {
        guard madvise(base, byteCount, Int32(MADV_DONTDUMP)) == 0 else { throw SystemError(call: "madvise(MADV_DONTDUMP)") }
        // A forked child must not carry the keys on.
        guard madvise(base, byteCount, Int32(MADV_DONTFORK)) == 0 else { throw SystemError(call: "madvise(MADV_DONTFORK)") }
        guard mlock(base, byteCount) == 0 else {
            throw SystemError(
                call: "mlock", subject: "\(byteCount) bytes of key memory",
                remedy: "run with CAP_IPC_LOCK or raise the locked-memory limit (ulimit -l)")
        }
    }

    deinit {
        if secret { explicit_bzero(base, byteCount) }
        munmap(base, byteCount)
    }

    private static func roundUp(_ value: Int, to unit: Int) -> Int { (value + unit - 1) / unit * unit }
}

/// Which CPUs and memory nodes this process has.
public enum Numa {
    /// The CPUs this process may run on, ascending.
    public static func allowedCPUs() -> [Int] {
        let capacity = 1024  // the C library's own limit, CPU_SETSIZE
        var cpus = [Int32](repeating: 0, count: capacity)
        let count = culvert_allowed_cpus(&cpus, Int32(capacity))
        return cpus.prefix(max(0, min(Int(count), capacity))).map(Int.init)
    }

    /// How many memory nodes there are; 1 where the kernel knows no NUMA.
    public static var nodeCount: Int { Int(culvert_node_count()) }

    /// The memory node of a CPU; nil for a CPU that does not exist.
    public static func node(ofCPU cpu: Int) -> Int? {
        let node = culvert_node_of_cpu(Int32(truncatingIfNeeded: cpu))
        return node < 0 ? nil : Int(node)
    }

    /// The memory node a network interface's device hangs on; nil for virtual interfaces and where the firmware does not
    /// say. Found by the driver's bus address, since /sys/class/net shows the network namespace it was mounted in.
    public static func node(ofInterface name: String) -> Int? {
        guard let bus = Ethtool.driver(of: name)?.busAddress, !bus.isEmpty, !bus.contains("/") else { return nil }
        let descriptor = culvert_open("/sys/bus/pci/devices/\(bus)/numa_node", O_RDONLY)
        guard descriptor >= 0 else { return nil }
        let file = FileDescriptor(owning: descriptor)
        guard let bytes = try? file.read(atMost: 32), let text = String(validating: bytes, as: UTF8.self),
            let node = Int(text.filter { $0 != "\n" }), node >= 0
        else { return nil }
        return node
    }

    /// Pins the calling thread to one CPU.
    public static func pinThread(toCPU cpu: Int) throws(SystemError) {
        let code = culvert_pin_thread(Int32(truncatingIfNeeded: cpu))
        guard code == 0 else {
            throw SystemError(
                call: "pthread_setaffinity_np", code: code, subject: "CPU \(cpu)",
                remedy: "configure workers on CPUs that this process may use (\(allowedCPUs()))")
        }
    }
}

/// What a network driver says about itself.
public enum Ethtool {
    public struct Driver: Hashable, Sendable {
        public let name: String
        /// Such as `0000:3b:00.0`; empty for virtual interfaces.
        public let busAddress: String
    }

    public struct Queues: Hashable, Sendable {
        public let receive: Int
        public let transmit: Int
    }

    public static func driver(of interface: String) -> Driver? {
        var name = [CChar](repeating: 0, count: 32)
        var bus = name
        guard culvert_ethtool_driver(interface, &name, &bus, name.count) == 0 else { return nil }
        return Driver(name: text(name), busAddress: text(bus))
    }

    /// The queues in use, combined ones counted on both sides; nil when the driver does not say.
    public static func queues(of interface: String) -> Queues? {
        var channels = culvert_channels()
        guard culvert_ethtool_channels(interface, &channels) == 0, channels.receive > 0 else { return nil }
        return Queues(receive: Int(channels.receive), transmit: Int(channels.transmit))
    }

    private static func text(_ characters: [CChar]) -> String {
        String(decoding: characters.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}
