import CLinux
import Glibc

/// The privileges the gateway cannot do without.
public enum Capability: UInt8, CaseIterable, Sendable, Hashable {
    case netBindService = 10
    case netAdmin = 12
    case netRaw = 13
    case ipcLock = 14
    /// Or CAP_SYS_ADMIN, which includes it.
    case bpf = 39

    public var name: String {
        switch self {
        case .netBindService: "CAP_NET_BIND_SERVICE"
        case .netAdmin: "CAP_NET_ADMIN"
        case .netRaw: "CAP_NET_RAW"
        case .ipcLock: "CAP_IPC_LOCK"
        case .bpf: "CAP_BPF"
        }
    }

    /// What it is needed for, as the end of "… is needed to".
    public var purpose: String {
        switch self {
        case .netBindService: "receive IKE on UDP port 500"
        case .netAdmin: "attach the XDP program and set routes"
        case .netRaw: "open AF_XDP and raw sockets"
        case .ipcLock: "lock keys and frames in memory"
        case .bpf: "load the XDP program"
        }
    }

    private static let sysAdmin: UInt64 = 1 << 21

    /// The capabilities that the calling thread lacks. All of them when the kernel does not say.
    public static func missing() -> [Capability] {
        var effective: UInt64 = 0
        guard culvert_effective_capabilities(&effective) == 0 else { return allCases }
        return missing(effective: effective)
    }

    /// - Parameter effective: bit n for capability n.
    static func missing(effective: UInt64) -> [Capability] {
        allCases.filter { capability in
            if effective & 1 << UInt64(capability.rawValue) != 0 { return false }
            return !(capability == .bpf && effective & sysAdmin != 0)
        }
    }

    /// One sentence that names what is missing, why, and what to do; nil when nothing is.
    public static func problem(_ missing: [Capability] = missing()) -> String? {
        guard !missing.isEmpty else { return nil }
        let reasons = missing.map { "\($0.name) (to \($0.purpose))" }.joined(separator: ", ")
        return "Privileges are missing: \(reasons); run as root or give the program these capabilities."
    }
}
