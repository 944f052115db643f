import CLinux
import Glibc

/// What the process gives up, and takes hold of, before it handles keys.
public enum ProcessHardening {
    /// Keeps keys out of core dumps and out of reach of other processes' ptrace: call before any key is read.
    public static func disableCoreDumps() throws(SystemError) {
        guard culvert_set_dumpable(0) == 0 else { throw SystemError(call: "prctl(PR_SET_DUMPABLE)") }
        var none = rlimit(rlim_cur: 0, rlim_max: 0)
        guard setrlimit(Int32(RLIMIT_CORE.rawValue), &none) == 0 else { throw SystemError(call: "setrlimit(RLIMIT_CORE)") }
    }

    /// Raises the locked-memory limit as far as this process may; kernels before 5.11 charge BPF maps to it.
    public static func raiseMemoryLockLimit() { culvert_raise_memlock_limit() }

    /// Keeps every page of the process, present and future, out of swap from the moment it is touched. Needs CAP_IPC_LOCK or a
    /// limit above all the memory the process will ever have.
    public static func lockAllMemory() throws(SystemError) {
        // MCL_ONFAULT of <linux/mman.h>, Linux 4.4: reserved and untouched memory costs nothing.
        let onFault: Int32 = 4
        guard mlockall(MCL_CURRENT | MCL_FUTURE | onFault) == 0 else {
            throw SystemError(
                call: "mlockall", remedy: "run with CAP_IPC_LOCK or lift the locked-memory limit (ulimit -l unlimited)")
        }
    }
}
