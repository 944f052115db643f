import Glibc
import Platform
import Wire

/// What /proc, /sys and a few harmless system calls say about this machine. Reads only.
enum Machine {
    static let maxFileBytes = 1 << 20

    /// The text of a small file; nil when it cannot be read.
    static func text(_ path: String) -> String? {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 16_384)
        while bytes.count < maxFileBytes {
            let count = chunk.withUnsafeMutableBytes { read(descriptor, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { return nil }
            if count == 0 { break }
            bytes += chunk[..<count]
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// The first line, without blanks around it.
    static func line(_ path: String) -> String? {
        text(path)?.split(separator: "\n").first.map { $0.split(separator: " ").joined(separator: " ") }
    }

    static func number(_ path: String) -> Int? { line(path).flatMap { Int($0) } }

    static func names(in directory: String) -> [String] {
        guard let stream = opendir(directory) else { return [] }
        defer { closedir(stream) }
        var names: [String] = []
        while let entry = readdir(stream) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                pointer.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names.sorted()
    }

    static func exists(_ path: String) -> Bool { access(path, F_OK) == 0 }

    /// If not, `errno` says why.
    static func isReadable(_ path: String) -> Bool { access(path, R_OK) == 0 }

    /// Other processes of this name whose first argument is `command`, ascending.
    static func processes(named name: String, command: String) -> [Int] {
        let own = Int(getpid())
        return names(in: "/proc").compactMap { Int($0) }.filter { process in
            guard process != own, line("/proc/\(process)/comm") == name else { return false }
            let words = (text("/proc/\(process)/cmdline") ?? "").split(separator: "\0", omittingEmptySubsequences: false)
            return words.count > 1 && words[1] == command
        }.sorted()
    }

    /// The last part of what a symbolic link points at.
    static func linkName(_ path: String) -> String? {
        var buffer = [CChar](repeating: 0, count: Int(PATH_MAX))
        let count = readlink(path, &buffer, buffer.count)
        guard count > 0 else { return nil }
        return String(decoding: buffer[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self).split(separator: "/").last.map(
            String.init)
    }

    /// Effective capabilities as a bit set; bit numbers are those of linux/capability.h.
    static var capabilities: UInt64 {
        let lines = (text("/proc/self/status") ?? "").split(separator: "\n")
        let hexadecimal = lines.first { $0.hasPrefix("CapEff:") }?.dropFirst(7).split(whereSeparator: { $0 == "\t" || $0 == " " })
            .first
        return hexadecimal.flatMap { UInt64($0, radix: 16) } ?? 0
    }

    /// Major and minor of the running kernel.
    static var kernelVersion: (major: Int, minor: Int)? {
        guard let release = line("/proc/sys/kernel/osrelease") else { return nil }
        let parts = release.split(whereSeparator: { !$0.isNumber }).prefix(2).compactMap { Int($0) }
        return parts.count == 2 ? (parts[0], parts[1]) : nil
    }

    /// 0, or the error that opening an AF_XDP socket gives.
    static var xdpSocketError: Int32 {
        let familyXDP: Int32 = 44
        let descriptor = socket(familyXDP, Int32(SOCK_RAW.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { return errno }
        close(descriptor)
        return 0
    }

    /// Soft limit of locked memory in bytes; nil: none.
    static var lockedMemoryLimit: UInt64? {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(__RLIMIT_MEMLOCK.rawValue), &limit) == 0 else { return nil }
        return limit.rlim_cur == UInt64.max ? nil : UInt64(limit.rlim_cur)
    }

    static var cpuFlags: Set<String> {
        let line = (text("/proc/cpuinfo") ?? "").split(separator: "\n").first {
            $0.hasPrefix("flags") || $0.hasPrefix("Features")
        }
        return Set((line ?? "").split(separator: " ").map(String.init))
    }

    /// The addresses of this network namespace, with the interface that has each.
    static var addresses: [(address: String, interface: String)] {
        var first: UnsafeMutablePointer<ifaddrs>?
        guard getifaddrs(&first) == 0 else { return [] }
        defer { freeifaddrs(first) }
        var result: [(String, String)] = []
        var next = first
        while let entry = next {
            next = entry.pointee.ifa_next
            guard let address = entry.pointee.ifa_addr, let ip = ipAddress(address) else { continue }
            result.append((ip.description, String(cString: entry.pointee.ifa_name)))
        }
        return result
    }

    private static func ipAddress(_ address: UnsafeMutablePointer<sockaddr>) -> IPAddress? {
        switch Int32(address.pointee.sa_family) {
        case AF_INET:
            address.withMemoryRebound(to: sockaddr_in.self, capacity: 1) {
                .v4(IPv4Address(bits: UInt32(bigEndian: $0.pointee.sin_addr.s_addr)))
            }
        case AF_INET6:
            address.withMemoryRebound(to: sockaddr_in6.self, capacity: 1) {
                withUnsafeBytes(of: $0.pointee.sin6_addr) { IPAddress(bytes: $0) }
            }
        default: nil
        }
    }

    /// UDP ports bound in this network namespace.
    static var boundUDPPorts: Set<Int> {
        var ports: Set<Int> = []
        for line in ["/proc/net/udp", "/proc/net/udp6"].flatMap({ (text($0) ?? "").split(separator: "\n").dropFirst() }) {
            let fields = line.split(separator: " ")
            guard fields.count > 1, let port = fields[1].split(separator: ":").last.flatMap({ Int($0, radix: 16) }) else {
                continue
            }
            ports.insert(port)
        }
        return ports
    }

    enum AttachedProgram { case none, ours, another(String) }

    /// Without the privilege to read its name, a program is taken for ours.
    static func xdpProgram(interfaceIndex: Int) throws -> AttachedProgram {
        guard let found = try XDPProgram.attachment(interfaceIndex: interfaceIndex) else { return .none }
        return found.name.isEmpty || found.name == XDPProgram.name ? .ours : .another(found.name)
    }

    /// A network device as /sys shows it.
    struct Interface {
        var name: String
        var state: String
        var mtu: Int
        var driver: String?
        var receiveQueues: Int
        var transmitQueues: Int
        /// nil: the machine has one node, or the device belongs to none.
        var numaNode: Int?

        init?(_ name: String) {
            let base = "/sys/class/net/\(name)"
            guard !name.contains("/"), Machine.exists(base) else { return nil }
            self.name = name
            state = Machine.line("\(base)/operstate") ?? "unknown"
            mtu = Machine.number("\(base)/mtu") ?? 0
            driver = Machine.linkName("\(base)/device/driver")
            let queues = Machine.names(in: "\(base)/queues")
            receiveQueues = queues.count { $0.hasPrefix("rx-") }
            transmitQueues = queues.count { $0.hasPrefix("tx-") }
            numaNode = Machine.number("\(base)/device/numa_node").flatMap { $0 >= 0 ? $0 : nil }
        }
    }
}
