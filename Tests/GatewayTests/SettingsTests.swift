@testable import Gateway
import Configuration
import Dataplane
import IKE
import IPsec
import Testing
import Wire

@Suite("From the file's words to settings")
struct SettingsTests {
    @Test func `workers auto is as many as queues can feed, at most one per CPU`() {
        #expect(SettingsMapping.workerCPUs(.auto, allowedCPUs: [4, 5, 6], queues: [1, 2]) == [4, 5])
        #expect(SettingsMapping.workerCPUs(.auto, allowedCPUs: [4, 5], queues: [8, 8]) == [4, 5])
        #expect(SettingsMapping.workerCPUs(.auto, allowedCPUs: [4, 5], queues: []) == [4])
        #expect(SettingsMapping.workerCPUs(.auto, allowedCPUs: [], queues: [3]) == [0])
    }

    @Test func `a count goes round the CPUs, a list is taken as written`() {
        #expect(SettingsMapping.workerCPUs(.count(3), allowedCPUs: [4, 5], queues: [1]) == [4, 5, 4])
        #expect(SettingsMapping.workerCPUs(.cpus([7, 1]), allowedCPUs: [0, 1], queues: [1]) == [7, 1])
    }

    @Test(arguments: [(1500, 2048), (1664, 2048), (1665, 4096), (3000, 4096)])
    func `frames are large enough for the largest MTU`(mtu: Int, frameBytes: Int) {
        let settings = SettingsMapping.dataplaneSettings(
            .init(), allowedCPUs: [0], queues: [1, 1], mtus: [1400, mtu], bestEngine: .openssl, numaNode: nil)
        #expect(settings.frameBytes == frameBytes)
    }

    @Test func `sizes of a child reach the SA's plan, and a change of one of them is a change`() {
        var child = Child(
            name: "net", mode: .tunnel, localSubnets: [], remoteSubnets: [], espProposals: [], lifetime: .seconds(60),
            lifetimeBytes: 0, lifetimePackets: 0, replayWindowPackets: 64, start: .manual)
        child.sizes.dontFragment = .clear
        child.sizes.mtu = 1300
        child.sizes.mss = .at(1200)
        #expect(SettingsMapping.plan(child).sizes == child.sizes)
    }

    @Test func `words map to their like`() {
        var configured = GatewayConfiguration.Dataplane()
        configured.engine = .auto
        configured.xdpMode = .zeroCopy
        configured.poll = .busy
        configured.hugePages = .require
        configured.framesPerWorker = 1024
        let settings = SettingsMapping.dataplaneSettings(
            configured, allowedCPUs: [0], queues: [1], mtus: [1500], bestEngine: .openssl, numaNode: 1)
        #expect(
            settings.engine == .openssl && settings.xdpMode == .zeroCopy && settings.busyPoll && settings.hugePages == .require)
        #expect(settings.framesPerWorker == 1024 && settings.numaNode == 1)
        #expect(SettingsMapping.role(.both) == [.underlay, .protected])
    }

    @Test func `a connection becomes a plan, its key goes where it is told`() throws {
        let plan = try SettingsMapping.plan(
            connection(), credentials: CredentialLoading(secret: { PlainSecret($0) }, now: { 0 }))
        guard case .presharedKey(let keys) = plan.localAuthentication else { Issue.record("no pre-shared key"); return }
        #expect(keys.secret(for: .fqdn("west.example"))?.count == 35)
        #expect(plan.children.first?.localSelectors == [selector("10.1.0.0/24")])
        var wiped = connection()
        wiped.wipeSecrets()
        #expect(wiped.presharedKey.isEmpty)
    }

    @Test func `what this version cannot carry is said in a sentence`() {
        #expect(SettingsMapping.unsupported(gatewayConfiguration()).isEmpty)
        let underlay = connection(local: "2001:db8::1", remote: "2001:db8::2")
        #expect(SettingsMapping.unsupported(gatewayConfiguration([underlay])).isEmpty, "IPv6 outside is carried")
        var bad = connection(children: [child(remote: ["2001:db8::/64"]), child("host")])
        bad.children[1].mode = .transport
        #expect(SettingsMapping.unsupported(gatewayConfiguration([bad])).count == 2)
        let many = connection(children: (0...ChildTable.limit).map { child("c\($0)") })
        #expect(SettingsMapping.unsupported(gatewayConfiguration([many])).count == 1)
    }

    @Test func `children keep their numbers until they are gone`() {
        var table = ChildTable([connection("a"), connection("b")])
        #expect(table.index(of: ChildKey("b", "net")) == 1)
        table.release(ChildKey("a", "net"))
        #expect(table.assign(ChildKey("c", "net")) == 0)
        #expect(table.key(at: 1) == ChildKey("b", "net"))
        for n in 2..<ChildTable.limit { table.assign(ChildKey("d", "\(n)")) }
        #expect(table.assign(ChildKey("e", "net")) == nil)
    }
}

@Suite("What arrives on the sockets")
struct SocketInputTests {
    @Test func `the NAT traversal port tells IKE, ESP and keepalives apart`() {
        func isKind(_ bytes: [UInt8], _ kind: NATTraversalPayload) -> Bool { NATTraversalPayload(bytes) == kind }
        #expect(isKind([0, 0, 0, 0, 1], .ike))
        #expect(isKind([0, 0, 0, 1, 1], .esp))
        #expect(isKind([0xFF], .keepalive))
        #expect(isKind([0xFF, 0xFF], .tooShort))
        #expect(isKind([], .tooShort))
    }

    /// ICMP 3/4 with `mtu` about an ESP packet 192.0.2.1 -> 192.0.2.2 with SPI 0x200.
    private func report(mtu: UInt16, ipProtocol: UInt8 = 50, payload: [UInt8] = [0, 0, 2, 0, 0, 0, 0, 1], total: Int = 1500)
        -> [UInt8]
    {
        let quoted =
            IPv4Header.bytes(
                source: v4("192.0.2.1"), destination: v4("192.0.2.2"), protocolNumber: ipProtocol, payloadBytes: total - 20)
            + payload
        let icmp: [UInt8] = [3, 4, 0, 0, 0, 0, UInt8(mtu >> 8), UInt8(truncatingIfNeeded: mtu)] + quoted
        return IPv4Header.bytes(
            source: v4("198.51.100.1"), destination: v4("192.0.2.1"), protocolNumber: 1, payloadBytes: icmp.count) + icmp
    }

    @Test func `fragmentation needed about our ESP is read`() throws {
        let found = try #require(PathMTUReport(report(mtu: 1400), natTraversalPort: 4500))
        #expect(found.mtu == 1400 && found.spi == 0x200 && found.remote == ip("192.0.2.2") && found.local == ip("192.0.2.1"))
        let udp: [UInt8] = [0x11, 0x94, 0x11, 0x94, 0, 100, 0, 0, 0, 0, 3, 0]
        #expect(PathMTUReport(report(mtu: 1300, ipProtocol: 17, payload: udp), natTraversalPort: 4500)?.spi == 0x300)
    }

    @Test(arguments: [1500, 1501, 65_535])
    func `a report of an MTU that the quoted packet would have passed is not believed`(mtu: UInt16) {
        #expect(PathMTUReport(report(mtu: mtu, total: 1500), natTraversalPort: 4500) == nil)
        #expect(PathMTUReport(report(mtu: 1499, total: 1500), natTraversalPort: 4500)?.mtu == 1499)
    }

    @Test func `a router that does not tell its MTU means the next plateau`() {
        #expect(PathMTUReport(report(mtu: 0), natTraversalPort: 4500)?.mtu == 1492)
        #expect(PathMTUReport(report(mtu: 0, total: 500), natTraversalPort: 4500)?.mtu == PathMTUTable.leastMTU)
    }

    @Test func `anything else is not a report, however it is cut`() {
        let whole = report(mtu: 1400)
        for length in 0..<(whole.count - 4) { #expect(PathMTUReport(Array(whole.prefix(length)), natTraversalPort: 4500) == nil) }
        #expect(PathMTUReport(report(mtu: 1400, ipProtocol: 6), natTraversalPort: 4500) == nil)
        var other = whole
        other[20] = 11
        #expect(PathMTUReport(other, natTraversalPort: 4500) == nil)
        other = whole
        other[0] = 0x41
        #expect(PathMTUReport(other, natTraversalPort: 4500) == nil)
    }

    @Test func `a path MTU only shrinks, never below the least, and is forgotten`() throws {
        var table = PathMTUTable()
        var found = try #require(PathMTUReport(report(mtu: 1400), natTraversalPort: 4500))
        #expect(table.learn(found, now: at(0)) == 1400)
        found.mtu = 1450
        #expect(table.learn(found, now: at(1)) == nil)
        found.mtu = 68
        #expect(table.learn(found, now: at(2)) == 576)
        #expect(table.expire(now: at(601)).isEmpty)
        #expect(table.expire(now: at(602)) == [ip("192.0.2.2")])
        found.mtu = 1450
        #expect(table.learn(found, now: at(603)) == 1450)
    }

    @Test func `a missing address or interface is named`() {
        var view = eastView()
        #expect(LocalProblems.find([connection()], view: view, interfaceProblems: [:], underlay: ["wan0"]).isEmpty)
        view.links[2]?.isUp = false
        #expect(
            LocalProblems.find([connection()], view: view, interfaceProblems: [:], underlay: ["wan0"])["west"]?.contains("wan0")
                == true)
        view.addresses.removeAll { $0.linkIndex == 2 }
        let problems = LocalProblems.find(
            [connection()], view: view, interfaceProblems: ["wan0": "The interface wan0 does not exist."], underlay: ["wan0"])
        #expect(problems["west"]?.contains("192.0.2.1") == true && problems["west"]?.contains("wan0 does not exist") == true)
    }
}
