import CLinux
import Glibc

/// Raw IPv6 sockets. They give what follows the IPv6 header, and the source as the sender's address.
public enum RawSocket {
    private static let icmpv6Level: Int32 = 58
    private static let icmpv6Filter: Int32 = 1

    /// A non-blocking socket for every packet of one protocol to any of our addresses. Needs CAP_NET_RAW.
    /// - Parameter icmpTypes: of ICMPv6 the only types to hear; the kernel keeps the others away.
    public static func ipv6(protocolNumber: UInt8, icmpTypes: [UInt8] = []) throws(SystemError) -> FileDescriptor {
        let subject = "IPv6 protocol \(protocolNumber)"
        let type = Int32(SOCK_RAW.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
        let number = Glibc.socket(AF_INET6, type, Int32(protocolNumber))
        guard number >= 0 else { throw SystemError(call: "socket(raw)", subject: subject) }
        let descriptor = FileDescriptor(owning: number)
        if !icmpTypes.isEmpty {
            // RFC 3542 §3.2's filter; on Linux a set bit keeps that type away.
            var filter = [UInt32](repeating: .max, count: 8)
            for type in icmpTypes { filter[Int(type >> 5)] &= ~(1 << UInt32(type & 31)) }
            guard setsockopt(number, icmpv6Level, icmpv6Filter, filter, socklen_t(filter.count * 4)) == 0 else {
                throw SystemError(call: "setsockopt(ICMPV6_FILTER)", subject: subject)
            }
        }
        return descriptor
    }
}
