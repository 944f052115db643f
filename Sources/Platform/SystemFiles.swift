import CLinux
import Glibc

/// The few file operations of a daemon, on paths.
public enum SystemFiles {
    /// Sets the permission bits, such as 0o600.
    public static func setMode(_ path: String, _ mode: UInt32) throws(SystemError) {
        guard chmod(path, mode) == 0 else { throw SystemError(call: "chmod", subject: path) }
    }

    /// Makes a directory and those above it that are missing. A directory that is there already keeps its mode.
    public static func makeDirectory(_ path: String, mode: UInt32) throws(SystemError) {
        var prefix = path.hasPrefix("/") ? "" : "."
        for part in path.split(separator: "/") {
            prefix += "/" + part
            if mkdir(prefix, mode) == 0 { continue }
            let code = errno
            guard code == EEXIST || isDirectory(prefix) else {
                throw SystemError(call: "mkdir", code: code, subject: prefix)
            }
        }
        guard path.isEmpty || isDirectory(path) else {
            throw SystemError(call: "mkdir", code: ENOTDIR, subject: path, remedy: "remove the file of that name")
        }
    }

    /// Removes a file or socket. One that is not there is no error.
    public static func remove(_ path: String) throws(SystemError) {
        guard unlink(path) == 0 || errno == ENOENT else { throw SystemError(call: "unlink", subject: path) }
    }

    /// `path` from the root on; a relative one starts from the working directory.
    public static func absolute(_ path: String) -> String {
        var buffer = [CChar](repeating: 0, count: Int(PATH_MAX))
        guard !path.hasPrefix("/"), getcwd(&buffer, buffer.count) != nil else { return path }
        let directory = String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        return directory == "/" ? "/" + path : "\(directory)/\(path)"
    }

    /// Of a small text file, such as a sysctl; nil when it cannot be read.
    public static func firstLine(_ path: String) -> String? {
        guard let file = fopen(path, "re") else { return nil }
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 256)
        guard fgets(&line, Int32(line.count), file) != nil else { return nil }
        return String(decoding: line.prefix { $0 != 0 && $0 != 10 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    }

    /// Makes now its time of last change.
    public static func touch(_ path: String) throws(SystemError) {
        guard utimes(path, nil) == 0 else { throw SystemError(call: "utimes", subject: path) }
    }

    /// True when there is a socket of this name.
    public static func isSocket(_ path: String) -> Bool { type(path) == S_IFSOCK }

    public static func isDirectory(_ path: String) -> Bool { type(path) == S_IFDIR }

    /// A network interface that has no device, or one of virtio's.
    public static func isVirtualInterface(_ name: String) -> Bool {
        let device = "/sys/class/net/\(name)/device"
        guard type(device) != nil else { return true }
        var target = [CChar](repeating: 0, count: Int(PATH_MAX))
        let count = readlink("\(device)/driver", &target, target.count)
        guard count > 0 else { return false }
        return String(decoding: target.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self).hasSuffix("/virtio_net")
    }

    private static func type(_ path: String) -> UInt32? {
        var information = stat()
        return stat(path, &information) == 0 ? information.st_mode & S_IFMT : nil
    }
}

/// CLOCK_MONOTONIC: never set back, the same in every process of the machine.
public enum MonotonicClock {
    public static var nanoseconds: UInt64 { culvert_monotonic_ns() }
}

/// CPU time of the calling thread, user and system.
public enum ThreadClock {
    public static var nanoseconds: UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
        return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
    }
}

/// What this process holds.
public enum ProcessMemory {
    /// Octets in RAM, from /proc/self/statm; 0 when that cannot be read.
    public static var residentBytes: Int {
        guard let fields = SystemFiles.firstLine("/proc/self/statm")?.split(separator: " ") else { return 0 }
        guard fields.count > 1, let pages = Int(fields[1]) else { return 0 }
        return pages * Int(sysconf(Int32(_SC_PAGESIZE)))
    }
}
