import CLinux
import Glibc

/// A persistent TUN device: what the kernel routes into it is ours to read, what we write the kernel receives. It outlives the
/// process, so that routes through it keep protected prefixes away from the clear after a crash; the next run adopts it.
public struct TUNDevice: ~Copyable, Sendable {
    /// The largest packet it can carry.
    public static let packetLimitBytes = 65_535

    public let name: String
    public private(set) var linkIndex: Int
    public let descriptor: FileDescriptor

    /// Creates the device, or adopts the one of this name that an earlier run left. EBUSY: another process has it open. The link
    /// is left down and without addresses: see `Netlink.setLink`.
    public init(name: String) throws(SystemError) {
        let number = culvert_tun_open(name, 1)
        guard number >= 0 else {
            let code = errno
            throw SystemError(call: "TUNSETIFF", code: code, subject: name, remedy: Self.remedy(code))
        }
        let descriptor = FileDescriptor(owning: number)
        guard culvert_tun_set_persistent(number, 1) == 0 else { throw SystemError(call: "TUNSETPERSIST", subject: name) }
        let index = if_nametoindex(name)
        guard index != 0 else { throw SystemError(call: "if_nametoindex", subject: name) }
        self.name = name
        self.descriptor = descriptor
        linkIndex = Int(index)
    }

    /// Makes the device again after somebody has deleted it. The descriptor keeps its number: whoever waits for it goes on.
    public mutating func makeAgain() throws(SystemError) {
        let fresh = try TUNDevice(name: name)
        guard dup2(fresh.descriptor.number, descriptor.number) >= 0, fcntl(descriptor.number, F_SETFD, FD_CLOEXEC) >= 0 else {
            throw SystemError(call: "dup2", subject: name)
        }
        linkIndex = fresh.linkIndex
    }

    private static func remedy(_ code: Int32) -> String {
        switch code {
        case EBUSY: "end the other gateway that uses it"
        case EINVAL: "choose a name of at most 15 characters that no other interface has"
        case ENOENT, ENODEV, ENXIO: "load the tun module (modprobe tun) and check /dev/net/tun"
        default: ""
        }
    }

    /// One IP packet that the kernel routed here; nil when none waits.
    public borrowing func read() throws(SystemError) -> [UInt8]? { try descriptor.read(atMost: Self.packetLimitBytes) }

    /// Gives the kernel one IP packet as if it had arrived. False when it was refused: no packet (EINVAL), or the link is down
    /// (EIO).
    public borrowing func write(_ packet: [UInt8]) -> Bool { (try? descriptor.write(packet)) ?? false }

    /// Takes the device away, and the kernel every route through it.
    public consuming func remove() throws(SystemError) {
        guard culvert_tun_set_persistent(descriptor.number, 0) == 0 else {
            throw SystemError(call: "TUNSETPERSIST", subject: name)
        }
    }

    /// Takes away a device that an earlier run left. One that is not there is no error.
    public static func remove(name: String) throws(SystemError) {
        guard if_nametoindex(name) != 0 else { return }
        try TUNDevice(name: name).remove()
    }
}
