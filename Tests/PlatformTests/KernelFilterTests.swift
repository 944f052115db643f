import CLinux
import Glibc
import Platform
import Testing
import Wire

private func prefixes(_ texts: String...) -> [IPPrefix] { texts.compactMap { IPPrefix($0) } }

@Suite struct KernelFilterTests {
    /// The far end of wan0, from which spoofed frames come.
    private static func lab() throws -> FileDescriptor {
        try shell(
            """
            ip link add wan0 address 02:00:00:00:00:01 type veth peer name wan1
            ip link set wan0 up; ip link set wan1 up
            ip address add 192.0.2.1/24 dev wan0; ip address add 10.1.0.1/24 dev lo
            sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.wan0.rp_filter=0
            """)
        let socket = Glibc.socket(AF_PACKET, Int32(SOCK_RAW.rawValue), 0)
        #expect(socket >= 0)
        return FileDescriptor(owning: socket)
    }

    private static func inject(_ frame: [UInt8], _ socket: borrowing FileDescriptor) throws {
        // struct sockaddr_ll: family, protocol, interface, and nothing more.
        var to = [UInt8](repeating: 0, count: 20)
        to.withUnsafeMutableBytes {
            $0.storeBytes(of: UInt16(AF_PACKET), as: UInt16.self)
            $0.storeBytes(of: Int32(if_nametoindex("wan1")), toByteOffset: 4, as: Int32.self)
        }
        let sent = to.withUnsafeBytes {
            sendto(socket.number, frame, frame.count, 0, $0.assumingMemoryBound(to: sockaddr.self).baseAddress, 20)
        }
        #expect(sent == frame.count)
    }

    private static func install(_ filter: KernelFilter) throws {
        try filter.install(
            interfaces: ["wan0", "wan9"],
            accept: [.init(sources: prefixes("10.2.9.0/24"), destinations: prefixes("10.1.0.0/24"))],
            drop: [.init(sources: prefixes("10.2.0.0/16", "10.3.0.0/24"), destinations: prefixes("10.1.0.0/24", "192.0.2.1/32"))])
    }

    static let frames: [(String, Bool, Frame)] = [
        ("clear to a protected host", true, Frame(source: "10.2.0.5", destination: "10.1.0.5")),
        ("clear to the gateway", true, Frame(source: "10.2.0.5", destination: "10.1.0.1", payload: Frame.udp(to: 53, Frame.esp))),
        ("clear from the second prefix", true, Frame(source: "10.3.0.5", destination: "192.0.2.1", protocolNumber: 6, payload: Frame.esp)),
        ("ESP to a protected host", true, Frame(source: "10.2.0.5", destination: "10.1.0.5", protocolNumber: 50, payload: Frame.esp)),
        ("ESP to the gateway", false, Frame(source: "10.2.0.5", destination: "10.1.0.1", protocolNumber: 50, payload: Frame.esp)),
        ("AH to the gateway", false, Frame(source: "10.2.0.5", destination: "192.0.2.1", protocolNumber: 51, payload: Frame.esp)),
        ("IKE to the gateway", false, Frame(source: "10.2.0.5", destination: "10.1.0.1", payload: Frame.udp(to: 500, Frame.ikeHeader))),
        ("IKE on 4500 to the gateway", false, Frame(source: "10.2.0.5", destination: "10.1.0.1", payload: Frame.udp(to: 4500, Frame.ikeHeader))),
        ("a later fragment to the gateway", false, Frame(source: "10.2.0.5", destination: "10.1.0.1", fragmentOffset: 1480, payload: Frame.esp)),
        ("clear that a bypass rule allows", false, Frame(source: "10.2.9.5", destination: "10.1.0.5")),
        ("clear from elsewhere", false, Frame(source: "10.8.0.5", destination: "10.1.0.5")),
    ]

    @Test func `It drops what policy wants protected, and nothing else`() async throws {
        try await inNewNetworkNamespace {
            let socket = try Self.lab()
            let filter = try KernelFilter()
            try Self.install(filter)
            var dropped: UInt64 = 0
            for (what, isDropped, var frame) in Self.frames {
                frame.destinationMAC = Frame.portMAC
                try Self.inject(Self.withChecksum(frame.bytes), socket)
                if isDropped { dropped += 1 }
                #expect(eventually { filter.droppedPackets() >= dropped }, "\(what)")
                usleep(5_000)
                #expect(filter.droppedPackets() == dropped, "\(what)")
            }
        }
    }

    /// The kernel looks at the IPv4 header's checksum before the hook.
    private static func withChecksum(_ frame: [UInt8]) -> [UInt8] {
        var frame = frame
        var sum: UInt32 = 0
        for i in stride(from: 14, to: 34, by: 2) { sum += UInt32(frame[i]) << 8 | UInt32(frame[i + 1]) }
        while sum > 0xFFFF { sum = sum & 0xFFFF + sum >> 16 }
        frame[24] = UInt8(~sum >> 8 & 255)
        frame[25] = UInt8(~sum & 255)
        return frame
    }

    @Test func `It is replaced whole, counts on, outlives its maker and goes when told`() async throws {
        try await inNewNetworkNamespace {
            let socket = try Self.lab()
            let clear = Self.withChecksum(Frame(source: "10.2.0.5", destination: "10.1.0.5").bytes)
            do {
                let filter = try KernelFilter()
                try filter.remove()
                try Self.install(filter)
                try Self.inject(clear, socket)
                #expect(eventually { filter.droppedPackets() == 1 })
                try Self.install(filter)
                try Self.inject(clear, socket)
                #expect(eventually { filter.droppedPackets() == 2 })
            }
            #expect(try output(of: "ip -o link | wc -l") != "0")
            let next = try KernelFilter()
            try Self.inject(clear, socket)
            #expect(eventually { next.droppedPackets() == 2 }, "the one before left its counters: one in this table, one of now")
            try next.remove()
            try next.remove()
            try Self.inject(clear, socket)
            usleep(20_000)
            #expect(next.droppedPackets() == 2)
        }
    }

    @Test func `A filter with nothing to drop, or with everything, is accepted`() async throws {
        try await inNewNetworkNamespace {
            let filter = try KernelFilter(table: "culvert-east")
            try filter.install(interfaces: [], accept: [], drop: [])
            let everything = prefixes("0.0.0.0/0")
            try filter.install(interfaces: ["wan0"], accept: [], drop: [.init(sources: everything, destinations: everything)])
            let many = (0..<64).compactMap { IPPrefix(.v4(IPv4Address(bits: 0x0A00_0000 + UInt32($0) << 16)), length: 16) }
            try filter.install(interfaces: ["wan0"], accept: [], drop: [.init(sources: many, destinations: many)])
            let tooMany = (0..<128).compactMap { IPPrefix(.v4(IPv4Address(bits: 0x0A00_0000 + UInt32($0) << 16)), length: 16) }
            let error = #expect(throws: SystemError.self) {
                try filter.install(interfaces: ["wan0"], accept: [], drop: [.init(sources: tooMany, destinations: tooMany)])
            }
            #expect(error?.code == E2BIG)
        }
    }
}
