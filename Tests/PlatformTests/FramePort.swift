import Glibc
import Platform

/// A socket that sends and receives whole frames on one interface (AF_PACKET).
final class FramePort {
    private let descriptor: FileDescriptor

    init(_ interface: String) throws {
        let everything = UInt16(0x0003).bigEndian  // ETH_P_ALL
        let number = socket(AF_PACKET, Int32(SOCK_RAW.rawValue) | Int32(SOCK_CLOEXEC.rawValue), Int32(everything))
        guard number >= 0 else { throw LaboratoryError(description: "these tests send frames and need root") }
        descriptor = FileDescriptor(owning: number)
        // struct sockaddr_ll, which the Swift module of the C library leaves out.
        var address = [UInt8](repeating: 0, count: 20)
        let interfaceIndex = Int32(try index(of: interface))
        address.withUnsafeMutableBytes {
            $0.storeBytes(of: UInt16(AF_PACKET), toByteOffset: 0, as: UInt16.self)
            $0.storeBytes(of: everything, toByteOffset: 2, as: UInt16.self)
            $0.storeBytes(of: interfaceIndex, toByteOffset: 4, as: Int32.self)
        }
        let bound = address.withUnsafeBytes {
            bind(number, $0.baseAddress!.assumingMemoryBound(to: sockaddr.self), socklen_t($0.count))
        }
        guard bound == 0 else { throw LaboratoryError(description: "bind(AF_PACKET) to \(interface): \(errno)") }
    }

    /// The kernel's stack looks at the header checksum; the XDP program, which `Frame` is for, does not.
    static func checksummed(_ frame: [UInt8]) -> [UInt8] {
        var frame = frame
        var sum = stride(from: 14, to: 34, by: 2).reduce(UInt32(0)) { $0 + UInt32(frame[$1]) << 8 + UInt32(frame[$1 + 1]) }
        while sum > 0xFFFF { sum = sum >> 16 + sum & 0xFFFF }
        (frame[24], frame[25]) = (UInt8(~sum >> 8 & 0xFF), UInt8(~sum & 0xFF))
        return frame
    }

    func send(_ frame: [UInt8]) throws { _ = try descriptor.write(frame) }

    /// The next frame that satisfies `condition`; nil when none comes within two seconds.
    func receive(where condition: ([UInt8]) -> Bool = { _ in true }) throws -> [UInt8]? {
        for _ in 0..<1000 where Poll.readable(descriptor.number, timeoutMilliseconds: 10) {
            if let frame = try descriptor.read(atMost: 65_536), condition(frame) { return frame }
        }
        return nil
    }
}

/// Runs `body` in a new network namespace with a veth pair, `wan0` and `far0`, both up; `wan0` has the link-layer address of
/// `Frame.portMAC`. No IPv6 chatter, no reverse-path filter.
func withVethPair(_ body: @escaping @Sendable () throws -> Void) async throws {
    try await inNewNetworkNamespace {
        try shell(
            """
            sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
            sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
            ip link add name wan0 address 02:00:00:00:00:01 type veth peer name far0 address 02:00:00:00:00:02
            ip link set wan0 up
            ip link set far0 up
            """)
        try body()
    }
}
