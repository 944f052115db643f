import CLinux
import Glibc

/// What this process may do, and what it gives up.
public enum ProcessPrivileges {
    /// A capability of capabilities(7).
    public struct Capability: Sendable, Hashable {
        public let name: String
        let bit: UInt64

        public static let netAdmin = Capability(name: "CAP_NET_ADMIN", bit: 12)
        public static let netRaw = Capability(name: "CAP_NET_RAW", bit: 13)
        public static let ipcLock = Capability(name: "CAP_IPC_LOCK", bit: 14)
        public static let sysAdmin = Capability(name: "CAP_SYS_ADMIN", bit: 21)
        public static let bpf = Capability(name: "CAP_BPF", bit: 39)
    }

    /// True when the calling thread has the capability in effect.
    public static func has(_ capability: Capability) -> Bool {
        var bits: UInt64 = 0
        return culvert_effective_capabilities(&bits) == 0 && bits >> capability.bit & 1 == 1
    }

    /// Names of the capabilities that a gateway needs and this process lacks; empty when it has all.
    ///
    /// CAP_NET_ADMIN for links, routes, TUN, filter and XDP; CAP_NET_RAW for AF_XDP and raw sockets; CAP_BPF (CAP_SYS_ADMIN
    /// before Linux 5.8) to load the program; CAP_SYS_ADMIN to look at a program that an earlier run left attached;
    /// CAP_IPC_LOCK for key memory unless the locked-memory limit is lifted.
    public static func missing() -> [String] {
        var needed: [Capability] = [.netAdmin, .netRaw, .sysAdmin]
        // CAP_SYS_ADMIN includes it.
        if !has(.sysAdmin) { needed.append(.bpf) }
        if !isMemoryLockUnlimited { needed.append(.ipcLock) }
        return needed.filter { !has($0) }.map(\.name)
    }

    private static var isMemoryLockUnlimited: Bool {
        var limit = rlimit()
        return getrlimit(Int32(__RLIMIT_MEMLOCK.rawValue), &limit) == 0 && limit.rlim_cur == rlim_t.max
    }

    /// Keeps keys out of core dumps and out of reach of other processes' ptrace: call before any key is read.
    public static func disableCoreDumps() throws(SystemError) {
        guard culvert_set_dumpable(0) == 0 else { throw SystemError(call: "prctl(PR_SET_DUMPABLE)") }
        var none = rlimit(rlim_cur: 0, rlim_max: 0)
        guard setrlimit(Int32(RLIMIT_CORE.rawValue), &none) == 0 else {
            throw SystemError(call: "setrlimit(RLIMIT_CORE)")
        }
    }

    /// Raises the locked-memory limit as far as this process may; kernels before 5.11 charge maps and UMEM to it.
    public static func raiseMemoryLockLimit() { culvert_raise_memlock_limit() }

    /// Keeps every page of the process, present and future, out of swap. Needs CAP_IPC_LOCK or a limit above all the
    /// memory the process will ever have.
    public static func lockAllMemory() throws(SystemError) {
        guard mlockall(MCL_CURRENT | MCL_FUTURE) == 0 else {
            throw SystemError(call: "mlockall", remedy: "run with CAP_IPC_LOCK or lift the locked-memory limit (ulimit -l unlimited)")
        }
    }
}
