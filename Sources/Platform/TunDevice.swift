import CLinux
import Glibc

/// A TUN device: the kernel's door to the tunnels. Packets that the kernel routes into it are read here, packets for the
/// kernel are written. Whole IPv4 or IPv6 packets without any header before them (IFF_NO_PI).
///
/// The device is persistent: it outlives the process, and with it the routes that keep protected prefixes from leaving in
/// the clear. A later process adopts it by opening it again.
public struct TunDevice: ~Copyable, Sendable {
    /// The largest packet read or written, bytes.
    public static let maximumPacketBytes = 65_535

    public let name: String
    /// For poll; non-blocking.
    public let descriptor: FileDescriptor
    public let interfaceIndex: Int
    /// True when the device was there before.
    public let wasAdopted: Bool

    /// Opens the device, which is made when it is not there.
    ///
    /// Errors: EBUSY when another process has it open, EINVAL when the name belongs to an interface of another kind.
    public init(name: String) throws(SystemError) {
        let existed = if_nametoindex(name) != 0
        let number = culvert_tun_open(name, 1)
        guard number >= 0 else {
            let code = errno
            throw SystemError(call: "opening the TUN device", code: code, subject: name, remedy: Self.remedy(code, name))
        }
        let descriptor = FileDescriptor(owning: number)
        guard culvert_tun_set_persistent(number, 1) == 0 else { throw SystemError(call: "ioctl(TUNSETPERSIST)", subject: name) }
        let index = if_nametoindex(name)
        guard index != 0 else { throw SystemError(call: "if_nametoindex", subject: name) }
        self.name = name
        self.descriptor = descriptor
        interfaceIndex = Int(index)
        wasAdopted = existed
    }

    private static func remedy(_ code: Int32, _ name: String) -> String {
        switch code {
        case ENOENT, ENXIO: "load the TUN driver (modprobe tun) and make /dev/net/tun available"
        case EBUSY: "end the other gateway that has \(name) open"
        case EINVAL: "give the device a name of 1 to 15 characters that no interface of another kind has"
        default: ""
        }
    }

    /// The next packet the kernel routed here; nil when none waits, or the device is down.
    public borrowing func read() throws(SystemError) -> [UInt8]? {
        do throws(SystemError) { return try descriptor.read(atMost: Self.maximumPacketBytes) } catch {
            if error.code == EIO || error.code == EBADFD { return nil }
            throw error
        }
    }

    /// Hands a packet to the kernel as if it had come in on the device. False when the kernel would not have it: the device
    /// is down, has no room, or the packet is neither IPv4 nor IPv6.
    public borrowing func write(_ packet: [UInt8]) throws(SystemError) -> Bool {
        do throws(SystemError) { return try descriptor.write(packet) } catch {
            if [EIO, ENOBUFS, ENOMEM, EINVAL, EBADFD].contains(error.code) { return false }
            throw error
        }
    }

    /// Removes the device for good, and with it every route through it.
    public consuming func remove() throws(SystemError) {
        guard culvert_tun_set_persistent(descriptor.number, 0) == 0 else {
            throw SystemError(call: "ioctl(TUNSETPERSIST)", subject: name)
        }
    }
}
