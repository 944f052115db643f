import Glibc
import Platform
import Testing
import Wire

@Suite("The TUN device")
struct TUNDeviceTests {
    private static let name = "culvert0"

    /// An IPv4 packet of an experimental protocol (RFC 3692).
    private static func packet(from source: String, to destination: String) -> [UInt8] {
        let frame = Frame(source: source, destination: destination, protocolNumber: 253, payload: [1, 2, 3])
        return Array(FramePort.checksummed(frame.bytes)[14...])
    }

    /// Runs with the device made, up, with 10.1.0.1 and a route to 10.2.0.0/24 through it.
    private static func withDevice(_ body: @escaping @Sendable (borrowing TUNDevice) throws -> Void) async throws {
        try await withVethPair {
            let device = try TUNDevice(name: name)
            let netlink = try Netlink()
            try netlink.setLink(index: device.linkIndex, up: true, mtu: 1400)
            try netlink.addAddress(
                NetlinkAddress(address: IPAddress("10.1.0.1")!, prefixLength: 32, linkIndex: device.linkIndex))
            try netlink.replaceRoute(NetlinkRoute(prefix: IPPrefix("10.2.0.0/24")!, linkIndex: device.linkIndex))
            try body(device)
        }
    }

    @Test("gives us what the kernel routes into it")
    func read() async throws {
        try await Self.withDevice { device in
            while let chatter = try device.read() { #expect(chatter.first.map { $0 >> 4 } != 4) }
            _ = try? output(of: "ping -c 1 -W 0.1 -I 10.1.0.1 10.2.0.7 2>&1 || true")
            #expect(Poll.readable(device.descriptor.number, timeoutMilliseconds: 2_000))
            let packet = try #require(try device.read())
            #expect(packet[0] == 0x45)
            #expect(Array(packet[12..<20]) == [10, 1, 0, 1, 10, 2, 0, 7])
            let mtu = try Netlink().link(named: Self.name)?.mtu
            #expect(mtu == 1400)
        }
    }

    @Test("hands the kernel what we write")
    func write() async throws {
        try await Self.withDevice { device in
            try shell("sysctl -qw net.ipv4.ip_forward=1; ip addr add 192.0.2.1/24 dev wan0")
            try shell("ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:99 dev wan0")
            let far = try FramePort("far0")
            let sent = Self.packet(from: "10.2.0.7", to: "192.0.2.9")
            let taken = device.write(sent)
            #expect(taken)
            let frame = try far.receive { $0.count >= 37 && $0[23] == 253 }
            #expect(frame.map { Array($0[0..<6]) } == Frame.otherMAC)
            #expect(frame.map { Array($0[34..<37]) } == [1, 2, 3])
        }
    }

    @Test("says no to what is no packet, and while it is down")
    func refusals() async throws {
        try await Self.withDevice { device in
            let junk = device.write([0xF0, 1, 2, 3])
            #expect(!junk)
            try Netlink().setLink(index: device.linkIndex, up: false)
            let down = device.write(Self.packet(from: "10.2.0.7", to: "10.1.0.1"))
            #expect(!down)
            let nothing = try device.read()
            #expect(nothing == nil)
        }
    }

    @Test("outlives its reader, keeps its routes, and is adopted")
    func adoption() async throws {
        try await withVethPair {
            let first: Int
            do {
                let device = try TUNDevice(name: Self.name)
                first = device.linkIndex
                try Netlink().setLink(index: first, up: true)
                try Netlink().replaceRoute(NetlinkRoute(prefix: IPPrefix("10.2.0.0/24")!, linkIndex: first))
            }
            let netlink = try Netlink()
            // A process that another test is about to start holds the descriptor for a moment.
            let isAlone = try eventually { try netlink.link(named: Self.name)?.isRunning == false }
            #expect(isAlone)
            let orphan = try #require(try netlink.link(named: Self.name))
            #expect(orphan.index == first && orphan.isUp)
            // Nobody reads, yet the kernel sends nothing elsewhere.
            #expect(try netlink.lookup(IPAddress("10.2.0.7")!).linkIndex == first)
            let adopted = try TUNDevice(name: Self.name)
            #expect(adopted.linkIndex == first)
            #expect(try netlink.link(named: Self.name)?.isRunning == true)
        }
    }

    @Test("belongs to one process at a time, and its removal takes its routes")
    func ownership() async throws {
        try await withVethPair {
            let device = try TUNDevice(name: Self.name)
            let error = #expect(throws: SystemError.self) { _ = try TUNDevice(name: Self.name) }
            #expect(error?.code == EBUSY)
            let netlink = try Netlink()
            try netlink.setLink(index: device.linkIndex, up: true)
            try netlink.replaceRoute(NetlinkRoute(prefix: IPPrefix("10.2.0.0/24")!, linkIndex: device.linkIndex))
            try device.remove()
            // A process that another test is just starting has the descriptor too, until it becomes another program.
            #expect(try eventually { try netlink.link(named: Self.name) == nil })
            #expect(try eventually { try netlink.routes().isEmpty })
            try TUNDevice.remove(name: Self.name)
        }
    }

    @Test(
        "will not take a name that is too long or belongs to another kind of interface",
        arguments: ["a-name-too-long-for-it", "wan0", ""])
    func names(name: String) async throws {
        try await withVethPair {
            let error = #expect(throws: SystemError.self) { _ = try TUNDevice(name: name) }
            #expect(error?.code == EINVAL)
            #expect(error?.remedy.isEmpty == false)
        }
    }
}
