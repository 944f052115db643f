@testable import Gateway
import Configuration
import Crypto
@testable import Dataplane
import IKE
import IPsec
import Logging
import NIOCore
import NIOPosix
import Testing
import Wire

/// Two control threads on one event loop, with real IKE over loopback sockets; kernel and workers are stand-ins.
private final class Side {
    let control: ControlThread
    let dataplane = FakeDataplane()
    let kernel = FakeKernel()
    /// What `reload` finds.
    var file: LoadedConfiguration

    /// 127.0.0.1 with 10.1.0.0/24 behind it talks to 127.0.0.2 with 10.2.0.0/24.
    init(isEast: Bool, loop: any EventLoop, ports: (UInt16, UInt16), psk: String = "a secret of more than twenty octets") {
        let configuration = Self.configuration(isEast: isEast, psk: psk)
        file = LoadedConfiguration(configuration: configuration, diagnostics: [])
        kernel.view.addresses.append(.init(address: v4("127.0.0.2"), prefixLength: 8, linkIndex: 1))
        kernel.view.links[1] = .init(index: 1, name: "lo", isUp: true, isRunning: true, mtu: 65_536, mac: [])
        var settings = CoreSettings()
        (settings.ikePort, settings.natTraversalPort) = ports
        nonisolated(unsafe) var reload: () -> LoadedConfiguration = { fatalError() }
        let surroundings = GatewaySurroundings(
            kernel: kernel, dataplane: dataplane, crypto: OpenSSLCrypto(), random: SystemRandom(), coreSettings: settings,
            reload: { reload() })
        control = ControlThread(
            loop: loop, configuration: configuration, surroundings: surroundings,
            logger: Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() }))
        let (control, box) = (control, NIOLoopBound(self, eventLoop: loop))
        dataplane.ring = { loop.execute { [bound = NIOLoopBound(control, eventLoop: loop)] in bound.value.dataplaneReadable() } }
        reload = { box.value.file }
    }

    static func configuration(isEast: Bool, psk: String, remoteSubnet: String? = nil) -> GatewayConfiguration {
        let subnets = isEast ? ("10.1.0.0/24", "10.2.0.0/24") : ("10.2.0.0/24", "10.1.0.0/24")
        let net = child(local: [subnets.0], remote: [remoteSubnet ?? subnets.1], start: .manual)
        var peer = connection(
            "peer", local: isEast ? "127.0.0.1" : "127.0.0.2", remote: isEast ? "127.0.0.2" : "127.0.0.1", children: [net])
        if !isEast { (peer.localIdentity, peer.remoteIdentity) = (.fqdn("west.example"), .fqdn("east.example")) }
        peer.presharedKey = Array(psk.utf8)
        return gatewayConfiguration([peer])
    }
}

@Suite("The control thread, two of them over loopback", .serialized)
struct ControlThreadTests {
    private struct Pair: Sendable {
        let loop: any EventLoop
        let sides: NIOLoopBound<(east: Side, west: Side)>

        func on<T: Sendable>(_ body: @escaping @Sendable (Side, Side) throws -> T) async throws -> T {
            let sides = sides
            return try await loop.submit { try body(sides.value.east, sides.value.west) }.get()
        }

        func ask(east: Bool, _ request: AdminRequest) async throws -> AdminResponse {
            let (loop, sides) = (loop, sides)
            return try await loop.flatSubmit {
                let promise = loop.makePromise(of: AdminResponse.self)
                (east ? sides.value.east : sides.value.west).control.handle(request) { promise.succeed($0) }
                return promise.futureResult
            }.get()
        }

        /// Waits until `condition` holds, at most five seconds.
        func until(_ condition: @escaping @Sendable (Side, Side) -> Bool) async throws -> Bool {
            for _ in 0..<500 {
                if try await on(condition) { return true }
                try await Task.sleep(for: .milliseconds(10))
            }
            return false
        }

        func stop() async throws {
            let (loop, sides) = (loop, sides)
            try await loop.flatSubmit {
                sides.value.east.control.stop(release: true).and(sides.value.west.control.stop(release: false)).map { _, _ in }
            }.get()
            try await on { east, west in
                east.control.finish(release: true)
                west.control.finish(release: false)
            }
        }
    }

    private func start(westPSK: String = "a secret of more than twenty octets") async throws -> Pair {
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let base = UInt16.random(in: 20_000...30_000) * 2
        let sides = try await loop.submit {
            let east = Side(isEast: true, loop: loop, ports: (base, base + 1))
            let west = Side(isEast: false, loop: loop, ports: (base, base + 1), psk: westPSK)
            east.kernel.withProgram = ["wan0", "gone0"]
            try east.control.start()
            try west.control.start()
            return NIOLoopBound((east: east, west: west), eventLoop: loop)
        }.get()
        let pair = Pair(loop: loop, sides: sides)
        #expect(
            try await pair.until { east, west in
                east.control.sockets.isOpen(ip("127.0.0.1")) && west.control.sockets.isOpen(ip("127.0.0.2"))
            })
        return pair
    }

    @Test func `start puts routes and filter before XDP, and XDP before anything else`() async throws {
        let pair = try await start()
        try await pair.on { east, _ in
            #expect(east.kernel.routing.count >= 1 && east.kernel.filters.count == 1)
            #expect(east.dataplane.calls == [.attach("wan0"), .attach("lan0"), .start])
            #expect(east.dataplane.published.last?.rules.isEmpty == false)
            #expect(east.dataplane.steered.last?.prefixes.contains { $0.steer == .protect } == true)
            let keys = east.control.configuration.connections.map(\.presharedKey)
            #expect(keys == [[]], "secrets do not stay in the configuration")
        }
        try await pair.stop()
        try await pair.on { east, west in
            #expect(east.kernel.isReleased && !west.kernel.isReleased)
            #expect(east.dataplane.calls.last == .stop)
        }
    }

    @Test func `an earlier run's XDP program goes from interfaces that are not configured any more`() async throws {
        let pair = try await start()
        try await pair.on { east, _ in #expect(east.kernel.withProgram == ["wan0"]) }
        try await pair.stop()
    }

    @Test func `a reading of the kernel that failed is tried again without a new event`() async throws {
        let pair = try await start()
        try await pair.on { east, _ in #expect(east.kernel.changesTaken == 0) }
        try await pair.on { east, _ in east.kernel.mustReadAgain = true }
        #expect(try await pair.until { east, _ in east.kernel.changesTaken > 0 })
        try await pair.stop()
    }

    @Test func `an address that a peer gives us is not taken when it belongs to somebody`() async throws {
        let pair = try await start()
        try await pair.on { east, _ in
            func given(_ addresses: String...) -> [String] {
                east.control.take(VirtualConfiguration(addresses: addresses.map(ip)), of: "peer")
                return east.kernel.virtualAddresses.map(\.description)
            }
            #expect(given("10.9.0.1") == ["10.9.0.1"])
            #expect(given("127.0.0.2") == [], "the peer")
            #expect(given("192.0.2.1") == [], "ours")
            #expect(given("192.0.2.77") == [], "a next hop, perhaps")
            #expect(given("10.1.0.1", "10.1.0.50", "10.9.0.2") == ["10.9.0.2"], "hosts of our site, and one of its own")
            #expect(east.control.virtualAddresses["peer"]?.addresses == [ip("10.9.0.2")], "policy follows")
        }
        try await pair.stop()
    }

    @Test func `strangers are shut out when every peer has an address and none may come from another`() async throws {
        let pair = try await start()
        try await pair.on { east, _ in
            #expect(east.dataplane.steered.last?.onlyPeers == nil, "NAT traversal is on: the peer's address may change")
            for index in east.control.configuration.connections.indices {
                east.control.configuration.connections[index].natTraversal = .off
                east.control.configuration.connections[index].paths.mobike = false
            }
            east.control.followKernel()
            #expect(east.dataplane.steered.last?.onlyPeers == [ip("127.0.0.2")])
            east.control.configuration.connections[0].remoteAddress = nil
            east.control.followKernel()
            #expect(east.dataplane.steered.last?.onlyPeers == nil, "a peer may come from anywhere")
        }
        try await pair.stop()
    }

    @Test func `up negotiates, installs on both ends, and status agrees; down takes it away`() async throws {
        let pair = try await start()
        let up = try await pair.ask(east: true, AdminRequest(.up, connection: "peer", timeoutSeconds: 10))
        #expect(up.ok, "\(up.message ?? "")")
        #expect(try await pair.until { _, west in west.control.lifecycle.isActive(ChildKey("peer", "net")) })

        let east = try #require(try await pair.ask(east: true, AdminRequest(.status)).status?.connections.first)
        let west = try #require(try await pair.ask(east: false, AdminRequest(.status)).status?.connections.first)
        #expect(east.state == .established && west.state == .established)
        #expect(east.ike?.spiInitiator == west.ike?.spiInitiator && east.ike?.initiator == true && west.ike?.initiator == false)
        #expect(east.children.first?.spiIn == west.children.first?.spiOut && east.children.first?.state == .installed)

        try await pair.on { east, west in
            // The XDP program knows the SA by the SPI that its own end chose.
            #expect(east.dataplane.ikeSAs.count == 1 && west.dataplane.ikeSAs.count == 1)
            #expect(east.dataplane.ikeSAs != west.dataplane.ikeSAs)
        }
        let again = try await pair.ask(east: true, AdminRequest(.up, connection: "peer", child: "net"))
        #expect(again.ok, "what is up is up")
        let down = try await pair.ask(east: true, AdminRequest(.down, connection: "peer"))
        #expect(down.ok)
        #expect(
            try await pair.until { east, west in
                let key = ChildKey("peer", "net")
                return !east.control.lifecycle.isActive(key) && !west.control.lifecycle.isActive(key)
            })
        let after = try #require(try await pair.ask(east: true, AdminRequest(.status)).status?.connections.first)
        #expect(after.state != .established && after.reason != nil && after.children.first?.state == .down)
        try await pair.stop()
    }

    @Test func `a wrong key fails up with a sentence, on the initiator and in the responder's status`() async throws {
        let pair = try await start(westPSK: "another secret of more than twenty octets")
        let up = try await pair.ask(east: true, AdminRequest(.up, connection: "peer", timeoutSeconds: 10))
        #expect(!up.ok && up.code == 1 && up.message?.isEmpty == false)
        let west = try #require(try await pair.ask(east: false, AdminRequest(.status)).status?.connections.first)
        #expect(west.reason != nil)
        try await pair.stop()
    }

    @Test func `questions about what is not there are answered with what is`() async throws {
        let pair = try await start()
        let nobody = try await pair.ask(east: true, AdminRequest(.up, connection: "nobody"))
        #expect(!nobody.ok && nobody.message?.contains("peer") == true)
        let child = try await pair.ask(east: true, AdminRequest(.down, connection: "peer", child: "nothing"))
        #expect(!child.ok && child.message?.contains("net") == true)
        #expect(try await pair.ask(east: true, AdminRequest(.up)).code == 64)
        #expect(try await pair.ask(east: true, AdminRequest(.version)).version == CulvertVersion.current)
        #expect(try await pair.ask(east: true, AdminRequest(.status, connection: "nobody")).ok == false)
        #expect(try await pair.ask(east: true, AdminRequest(.rekey, connection: "peer")).ok == false)
        try await pair.stop()
    }

    @Test func `a reload keeps what is the same and changes nothing when it is refused`() async throws {
        let pair = try await start()
        #expect(try await pair.ask(east: true, AdminRequest(.up, connection: "peer", timeoutSeconds: 10)).ok)
        let same = try await pair.ask(east: true, AdminRequest(.reload))
        #expect(same.message?.contains("1 connection unchanged") == true)
        try await pair.on { east, _ in
            #expect(east.control.lifecycle.isActive(ChildKey("peer", "net")))
            let problem = Diagnostic(file: "f", line: 3, column: 1, severity: .error, text: "no such key")
            east.file = LoadedConfiguration(configuration: nil, diagnostics: [problem])
        }
        let refused = try await pair.ask(east: true, AdminRequest(.reload))
        #expect(refused.code == 78 && refused.message?.contains("f:3:1") == true)
        try await pair.on { east, _ in
            #expect(east.control.lifecycle.isActive(ChildKey("peer", "net")))
            let changed = Side.configuration(
                isEast: true, psk: "a secret of more than twenty octets", remoteSubnet: "10.9.0.0/24")
            east.file = LoadedConfiguration(configuration: changed, diagnostics: [])
        }
        #expect(try await pair.ask(east: true, AdminRequest(.reload)).ok)
        try await pair.on { east, _ in
            #expect(!east.control.lifecycle.isActive(ChildKey("peer", "net")))
            #expect(east.kernel.routing.last?.routes.contains { $0.prefix == prefix("10.9.0.0/24") } == true)
            #expect(east.kernel.routing.last?.routes.contains { $0.prefix == prefix("10.2.0.0/24") } == false)
        }
        try await pair.stop()
    }

    @Test func `an interface that goes and comes back is attached again, and status says what is wrong meanwhile`() async throws {
        let pair = try await start()
        try await pair.on { east, _ in
            _ = east.dataplane.takeCalls()
            east.kernel.view.links[2] = nil
            east.control.kernelReadable()
        }
        #expect(try await pair.until { east, _ in east.dataplane.calls == [.detach(0)] })
        try await pair.on { east, _ in
            east.kernel.view.links[12] = .init(
                index: 12, name: "wan0", isUp: true, isRunning: true, mtu: 1500, mac: [2, 0, 0, 0, 0, 9])
            east.control.kernelReadable()
        }
        #expect(try await pair.until { east, _ in east.dataplane.calls == [.detach(0), .attach("wan0")] })
        try await pair.on { east, _ in
            _ = east.dataplane.takeCalls()
            east.kernel.view.links[12]?.mtu = 1400
            east.kernel.view.links[12]?.mac = [2, 0, 0, 0, 0, 10]
            east.control.kernelReadable()
        }
        #expect(
            try await pair.until { east, _ in east.dataplane.calls == [.update(0, mtu: 1400)] },
            "another MAC or MTU interrupts nothing")
        try await pair.on { east, _ in
            east.kernel.view.addresses.removeAll { $0.address == v4("127.0.0.1") }
            east.control.kernelReadable()
        }
        #expect(try await pair.until { east, _ in !east.control.sockets.isOpen(ip("127.0.0.1")) })
        let reason = try await pair.ask(east: true, AdminRequest(.status)).status?.connections.first?.reason
        #expect(reason?.contains("127.0.0.1") == true)
        try await pair.on { east, _ in
            east.kernel.view.addresses.append(.init(address: v4("127.0.0.1"), prefixLength: 8, linkIndex: 1))
            east.control.kernelReadable()
        }
        #expect(try await pair.until { east, _ in east.control.sockets.isOpen(ip("127.0.0.1")) })
        try await pair.stop()
    }

    @Test func `packets of the TUN device go to the workers, theirs to the TUN device, and IPv6 nowhere`() async throws {
        let pair = try await start()
        try await pair.on { east, _ in
            east.kernel.fromTunnel = [[0x60, 0], [0x45, 1], [], [0x45, 2]]
            east.control.tunReadable()
            #expect(east.dataplane.injected == [[0x45, 1], [0x45, 2]])
            east.dataplane.events = [.punt(packet: [0x45, 3]), .unresolved(address: ip("192.0.2.2"), portIndex: 0)]
            east.control.dataplaneReadable()
            #expect(east.kernel.toTunnel == [[0x45, 3]])
            #expect(east.kernel.resolved == [ip("192.0.2.2")])
            east.kernel.tunnelRefuses = true
            east.dataplane.events = [.punt(packet: [0x45, 4])]
            east.control.dataplaneReadable()
            let drops = east.control.report().drops
            #expect(drops["tunnel-device"] == 1 && drops["clear-inbound"] == 5 && drops["no-policy"] == 3)
        }
        try await pair.stop()
    }
}
