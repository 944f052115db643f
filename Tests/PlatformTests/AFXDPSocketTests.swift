import CLinux
import Glibc
import Platform
import Testing
import Wire

@Suite struct AFXDPSocketTests {
    private static func pair(_ a: String, _ b: String, queues: Int = 1) throws {
        try shell(
            """
            ip link add \(a) numrxqueues \(queues) numtxqueues \(queues) type veth \
            peer name \(b) numrxqueues \(queues) numtxqueues \(queues)
            for x in \(a) \(b); do ip link set $x up; done
            """)
    }

    /// Frames 0 to 15 are for receiving on `to`; frame 16 is sent from `from`. Returns what arrived.
    private static func send(
        _ frame: [UInt8], from: borrowing AFXDPSocket, to: borrowing AFXDPSocket, umem: borrowing Arena
    ) -> [UInt8]? {
        let sending = 16 * Sockets.frameBytes
        umem.base.advanced(by: sending).copyMemory(from: frame, byteCount: frame.count)
        to.fill.produce(
            { ring, at in ring.storeBytes(of: UInt64(at % 16 * Sockets.frameBytes), toByteOffset: at * 8, as: UInt64.self) },
            count: 16)
        from.transmit.produce(
            { ring, at in
                ring.storeBytes(
                    of: xdp_desc(addr: UInt64(sending), len: UInt32(frame.count), options: 0),
                    toByteOffset: at * MemoryLayout<xdp_desc>.stride, as: xdp_desc.self)
            }, count: 1)
        for _ in 0..<100 {
            _ = sendto(from.number, nil, 0, Int32(MSG_DONTWAIT), nil, 0)
            if Poll.readable(to.number, timeoutMilliseconds: 20), let got = to.receive.consume(as: xdp_desc.self).first {
                return Array(UnsafeRawBufferPointer(start: umem.base + Int(got.addr), count: Int(got.len)))
            }
        }
        return nil
    }

    private static let packet = Frame(source: "10.1.0.5", destination: "10.2.0.5", payload: Frame.udp(to: 7, Frame.esp)).bytes

    @Test func `A frame crosses a veth pair between two sockets of one UMEM`() async throws {
        try await inNewNetworkNamespace {
            try Self.pair("a0", "a1")
            let (a0, a1) = (try index(of: "a0"), try index(of: "a1"))
            let sockets = try Sockets()
            try sockets.open(interfaceIndex: a0)
            try sockets.open(interfaceIndex: a1)
            let program = try XDPProgram()
            try program.setPort(interfaceIndex: a0, index: 0, roles: 2, mac: [])
            try program.setSocket(portIndex: 0, queue: 0, descriptor: sockets.open[0].socket.number)
            try program.setPrefixes([(try #require(IPPrefix("10.2.0.0/16")), PrefixPolicy(steer: 2))])
            try program.attach(interfaceIndex: a0, mode: .native)

            let received = Self.send(Self.packet, from: sockets.open[1].socket, to: sockets.open[0].socket, umem: sockets.umem)
            #expect(received == Self.packet)
            #expect(try program.counters()[.redirectedProtected] == 1)
            let completed = sockets.open[1].socket.completion.consume(as: UInt64.self)
            #expect(completed == [UInt64(16 * Sockets.frameBytes)])
            var statistics = try sockets.open[0].socket.statistics()
            statistics.transmitRingEmpty = 0  // counts our own polling of a socket that sends nothing
            #expect(statistics == AFXDPStatistics())
            let zeroCopy = sockets.open[0].socket.zeroCopy
            #expect(!zeroCopy, "veth has no zero-copy")
        }
    }

    @Test func `Generic mode carries frames too`() async throws {
        try await inNewNetworkNamespace {
            try Self.pair("a0", "a1")
            let (a0, a1) = (try index(of: "a0"), try index(of: "a1"))
            let sockets = try Sockets()
            try sockets.open(interfaceIndex: a0)
            try sockets.open(interfaceIndex: a1)
            let program = try XDPProgram()
            try program.setPort(interfaceIndex: a0, index: 5, roles: 2, mac: [])
            try program.setSocket(portIndex: 5, queue: 0, descriptor: sockets.open[0].socket.number)
            try program.setPrefixes([(try #require(IPPrefix("0.0.0.0/0")), PrefixPolicy(steer: 2))])
            #expect(try program.attach(interfaceIndex: a0, mode: .generic) == .generic)
            let received = Self.send(Self.packet, from: sockets.open[1].socket, to: sockets.open[0].socket, umem: sockets.umem)
            #expect(received == Self.packet)
        }
    }

    @Test func `Every queue of every port gets a socket over one UMEM`() async throws {
        try await inNewNetworkNamespace {
            try Self.pair("a0", "a1", queues: 2)
            let queues = Ethtool.queues(of: "a0")
            #expect(queues?.receive == 2 && queues?.transmit == 2)
            let sockets = try Sockets()
            for name in ["a0", "a1"] {
                for queue in 0..<2 { try sockets.open(interfaceIndex: try index(of: name), queue: UInt32(queue)) }
            }
            #expect(Set(sockets.open.map { $0.socket.number }).count == 4)
            let error = #expect(throws: SystemError.self) { try sockets.open(interfaceIndex: try index(of: "a0"), queue: 2) }
            #expect(error?.code == EINVAL)
        }
    }

    @Test func `A queue that is taken says so`() async throws {
        try await inNewNetworkNamespace {
            try Self.pair("a0", "a1")
            let link = try index(of: "a0")
            let (first, second) = (try Sockets(), try Sockets())
            try first.open(interfaceIndex: link)
            let error = #expect(throws: SystemError.self) { try second.open(interfaceIndex: link) }
            #expect(error?.code == EBUSY)
            // Once the first has closed, the queue is free again, after a moment.
            first.close(0)
            #expect(eventually { (try? second.open(interfaceIndex: link)) != nil })
        }
    }

    @Test func `The UMEM outlives the interface that registered it`() async throws {
        try await inNewNetworkNamespace {
            try Self.pair("a0", "a1")
            try Self.pair("b0", "b1")
            let sockets = try Sockets()
            try sockets.open(interfaceIndex: try index(of: "a0"))
            try sockets.open(interfaceIndex: try index(of: "b0"))
            try shell("ip link del a0")
            // The first one is dead; what it registered lives on through the second.
            try sockets.open(interfaceIndex: try index(of: "b1"))
            sockets.close(0)
            try Self.pair("a0", "a1")
            try sockets.open(interfaceIndex: try index(of: "a0"))
        }
    }

    @Test func `Sharing a socket whose interface is gone is told apart`() async throws {
        try await inNewNetworkNamespace {
            try Self.pair("a0", "a1")
            try Self.pair("b0", "b1")
            let sockets = try Sockets()
            try sockets.open(interfaceIndex: try index(of: "a0"))
            try shell("ip link del a0")
            let error = #expect(throws: SystemError.self) { try sockets.open(interfaceIndex: try index(of: "b0")) }
            #expect(error?.code == EBADF)
        }
    }

    @Test func `An interface that is missing is told apart, one that is down can be prepared`() async throws {
        try await inNewNetworkNamespace {
            let missing = #expect(throws: SystemError.self) { try Sockets().open(interfaceIndex: 9999) }
            #expect(missing?.code == ENODEV)
            try Self.pair("a0", "a1")
            try shell("ip link set a0 down")
            try Sockets().open(interfaceIndex: try index(of: "a0"))
        }
    }

    @Test func `Zero-copy is refused where the driver has none`() async throws {
        try await inNewNetworkNamespace {
            try Self.pair("a0", "a1")
            let umem = try Arena(byteCount: 64 * 2048, hugePages: .off)
            var options = Sockets.options
            options.copyMode = .zeroCopy
            let area = UMEMArea(base: umem.base, byteCount: umem.byteCount, chunkBytes: 2048, headroomBytes: 0)
            let link = Int32(try index(of: "a0"))
            let error = #expect(throws: SystemError.self) {
                _ = try AFXDPSocket(interfaceIndex: link, queue: 0, umem: .register(area), options: options)
            }
            #expect(error?.code == EOPNOTSUPP)
            #expect(error?.description.contains("xdp_mode") == true)
        }
    }

    @Test func `Busy polling can be asked for`() async throws {
        try await inNewNetworkNamespace {
            try Self.pair("a0", "a1")
            let sockets = try Sockets()
            try sockets.open(interfaceIndex: try index(of: "a0"))
            try sockets.open[0].socket.preferBusyPolling(microseconds: 20, budgetPackets: 64)
        }
    }

    @Test func `A full receive ring and an empty fill ring are counted by the kernel`() async throws {
        try await inNewNetworkNamespace {
            try Self.pair("a0", "a1")
            let (a0, a1) = (try index(of: "a0"), try index(of: "a1"))
            let sockets = try Sockets()
            try sockets.open(interfaceIndex: a0)
            try sockets.open(interfaceIndex: a1)
            let program = try XDPProgram()
            try program.setPort(interfaceIndex: a0, index: 0, roles: 2, mac: [])
            try program.setSocket(portIndex: 0, queue: 0, descriptor: sockets.open[0].socket.number)
            try program.setPrefixes([(try #require(IPPrefix("0.0.0.0/0")), PrefixPolicy(steer: 2))])
            try program.attach(interfaceIndex: a0, mode: .native)
            // No frame was offered for receiving.
            sockets.umem.base.copyMemory(from: Self.packet, byteCount: Self.packet.count)
            sockets.open[1].socket.transmit.produce(
                { ring, at in
                    ring.storeBytes(
                        of: xdp_desc(addr: 0, len: UInt32(Self.packet.count), options: 0),
                        toByteOffset: at * MemoryLayout<xdp_desc>.stride, as: xdp_desc.self)
                }, count: 1)
            _ = sendto(sockets.open[1].socket.number, nil, 0, Int32(MSG_DONTWAIT), nil, 0)
            #expect(try eventually { try sockets.open[0].socket.statistics().fillRingEmpty == 1 })
        }
    }
}
