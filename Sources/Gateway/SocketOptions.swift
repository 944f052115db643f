import NIOCore
import Wire

/// Numbers of Linux socket options that NIO has no names for.
enum SocketOptions {
    /// SO_MARK of SOL_SOCKET.
    static let mark: CInt = 36
    struct Option {
        var level: SocketOptionLevel
        var name: SocketOptionName
        var value: SocketOptionValue

        var option: ChannelOptions.Types.SocketOption { .socket(level, name) }
    }

    /// IP_MTU_DISCOVER of IPPROTO_IP, IPV6_MTU_DISCOVER of IPPROTO_IPV6: datagrams may be fragmented.
    static func discovery(_ address: IPAddress) -> Option {
        address.isIPv4 ? Option(level: 0, name: 10, value: 0) : Option(level: 41, name: 23, value: 0)
    }

    /// IP_PMTUDISC_PROBE: the next datagram must not be, whatever the kernel believes of the path.
    static let probe: SocketOptionValue = 3

    /// What differs by family. IKE may be larger than the path: let it be fragmented, by routers (IPv4) or by our kernel (IPv6);
    /// the path MTU of ESP is another matter. Both values are IP_PMTUDISC_DONT.
    static func family(_ address: IPAddress, natTraversal: Bool) -> [Option] {
        let discovery = discovery(address)
        if address.isIPv4 { return [discovery] }
        var options = [discovery, Option(level: 41, name: 26, value: 1)]  // IPV6_V6ONLY
        // RFC 6935 §5: a tunnel's datagrams may come without a checksum. UDP_NO_CHECK6_RX of SOL_UDP.
        if natTraversal { options.append(Option(level: 17, name: 102, value: 1)) }
        return options
    }

    /// SOL_RAW, and its ICMP_FILTER: a bit set keeps that ICMP type away.
    static let rawLevel: SocketOptionLevel = 255
    static let icmpFilter: SocketOptionName = 1
    static let onlyDestinationUnreachable = ~(SocketOptionValue(1) << 3)
}
