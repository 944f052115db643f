import IKE
import IPsec
import Testing
import Wire

@Suite struct EstablishTests {
    @Test func `two gateways establish a tunnel with the same keys`() throws {
        let pair = Pair()
        #expect(try pair.establish())
        #expect(pair.mismatch == nil)
        #expect(pair.east.installed.first?.transform == ESPTransform(keyBits: 256, extendedSequenceNumbers: true))
        #expect(pair.east.installed.first?.path == TunnelPath(local: IPAddress("192.0.2.1")!, remote: IPAddress("192.0.2.2")!))
        let status = try #require(pair.east.status(now: pair.now))
        #expect(status.reason == nil)
        #expect(status.ike?.proposal == "aes256gcm16-prfsha384-x25519")
        #expect(status.ike?.isInitiator == true)
    }

    @Test(arguments: [
        "aes128gcm16-prfsha256-ecp256", "aes256gcm16-prfsha384-ecp384", "aes256gcm16-prfsha512-ecp521", "aes256-sha256-modp2048",
        "aes128-sha384-x25519", "aes192-sha512-modp3072", "aes256-sha512-prfsha256-modp4096",
    ])
    func `every suite establishes`(_ keywords: String) throws {
        let pair = Pair()
        pair.eastSide.ike = [keywords]
        pair.westSide.ike = [keywords]
        #expect(try pair.establish())
        #expect(pair.mismatch == nil)
        #expect(pair.west.status(now: pair.now)?.ike?.proposal == keywords)
    }

    @Test(arguments: [("aes256gcm16-esn", true), ("aes128gcm16-noesn", false), ("aes128gcm16", false)])
    func `extended sequence numbers are negotiated`(_ keywords: String, _ extended: Bool) throws {
        let pair = Pair()
        pair.eastSide.esp = [keywords]
        pair.westSide.esp = ["aes256gcm16-aes128gcm16-esn-noesn"]
        #expect(try pair.establish())
        #expect(pair.east.installed.first?.transform.extendedSequenceNumbers == extended)
        #expect(pair.mismatch == nil)
    }

    @Test func `further children come up too`() throws {
        let pair = Pair()
        pair.eastSide.children = [
            ("a", ["10.1.0.0/24"], ["10.2.0.0/24"]), ("b", ["10.1.1.0/24"], ["10.2.1.0/24"]),
            ("c", ["10.1.2.0/24"], ["10.2.2.0/24"]),
        ]
        pair.westSide.children = [
            ("a", ["10.2.0.0/24"], ["10.1.0.0/24"]), ("b", ["10.2.1.0/24"], ["10.1.1.0/24"]),
            ("c", ["10.2.2.0/24"], ["10.1.2.0/24"]),
        ]
        #expect(try pair.establish())
        #expect(pair.mismatch == nil)
        #expect(pair.east.installed.map(\.child) == ["a", "b", "c"])
        #expect(pair.west.installed.map(\.child) == ["a", "b", "c"])
    }

    @Test func `further children use perfect forward secrecy where it is configured`() throws {
        let pair = Pair()
        pair.eastSide.children = [("a", ["10.1.0.0/24"], ["10.2.0.0/24"]), ("b", ["10.1.1.0/24"], ["10.2.1.0/24"])]
        pair.westSide.children = [("a", ["10.2.0.0/24"], ["10.1.0.0/24"]), ("b", ["10.2.1.0/24"], ["10.1.1.0/24"])]
        pair.eastSide.esp = ["aes256gcm16-ecp256-ecp384"]
        pair.westSide.esp = ["aes256gcm16-ecp384"]
        #expect(try pair.establish())
        #expect(pair.mismatch == nil)
    }

    @Test func `a responder creates the children that its initiator does not ask for`() throws {
        let pair = Pair()
        pair.eastSide.children = [("a", ["10.1.0.0/24"], ["10.2.0.0/24"]), ("b", ["10.1.1.0/24"], ["10.2.1.0/24"])]
        pair.westSide.children = [("a", ["10.2.0.0/24"], ["10.1.0.0/24"]), ("b", ["10.2.1.0/24"], ["10.1.1.0/24"])]
        pair.westSide.start = .immediately
        pair.eastSide.start = .manual
        try pair.configureWest()
        try pair.configureEast()
        // West begins (east is manual) but its first message is lost until east's operator has begun.
        var isOpen = false
        pair.network.filter = { _, source, _ in isOpen || source.address == pair.east.address }
        #expect(pair.east.core.initiate(connection: "c", child: "a", now: pair.now))
        pair.run(0.1)
        isOpen = true
        #expect(pair.network.run(for: .seconds(40)) { pair.isUp })
        #expect(pair.mismatch == nil)
    }

    @Test func `the response that lets the peer send waits for the installation`() throws {
        let pair = Pair()
        pair.west.holdsInstallations = true
        try pair.start()
        pair.run(0.4)
        #expect(pair.west.heldTokens.count == 1)
        #expect(pair.east.installed.isEmpty)
        #expect(pair.west.status(now: pair.now)?.state == .established)
        #expect(pair.west.status(now: pair.now)?.children.first?.state == .connecting)
        // Retransmissions of the request are not answered meanwhile.
        pair.run(2)
        #expect(pair.east.installed.isEmpty)
        pair.west.core.childInstalled(token: pair.west.heldTokens[0], now: pair.now)
        #expect(pair.network.run(for: .seconds(10)) { pair.isUp })
        #expect(pair.mismatch == nil)
    }

    @Test func `a failed installation is told to the peer and leaves the IKE SA up`() throws {
        let pair = Pair()
        pair.west.failsInstallations = "no memory"
        try pair.start()
        pair.run(2)
        #expect(pair.east.status(now: pair.now)?.state == .established)
        #expect(pair.east.status(now: pair.now)?.children.first?.reason?.contains("TEMPORARY_FAILURE") == true)
        #expect(pair.west.status(now: pair.now)?.children.first?.reason?.contains("no memory") == true)
        #expect(pair.east.installed.isEmpty)
        pair.west.failsInstallations = nil
        #expect(pair.network.run(for: .seconds(30)) { pair.isUp })
        #expect(pair.mismatch == nil)
    }

    @Test func `traffic starts a child that waits for it, the operator a manual one`() throws {
        let pair = Pair()
        pair.eastSide.start = .onTraffic
        try pair.start()
        pair.run(1)
        #expect(pair.network.history.isEmpty)
        #expect(pair.east.status(now: pair.now)?.reason?.contains("traffic") == true)
        pair.east.core.trafficWantsTunnel(connection: "c", child: "net", now: pair.now)
        #expect(pair.network.run(for: .seconds(5)) { pair.isUp })
        #expect(!pair.west.core.initiate(connection: "x", child: nil, now: pair.now))
        #expect(!pair.west.core.initiate(connection: "c", child: "x", now: pair.now))
    }

    @Test func `a peer from anywhere is matched by its identity`() throws {
        let pair = Pair(eastAddress: "198.51.100.77")
        pair.westSide.remoteAddress = nil
        #expect(try pair.establish())
        #expect(pair.mismatch == nil)
        #expect(!pair.network.nodes.isEmpty)
        let other = Pair(eastAddress: "198.51.100.78")
        other.westSide.remoteAddress = nil
        other.westSide.remoteIdentity = .fqdn("other.example")
        #expect(try !other.establish(within: .seconds(5)))
        #expect(!other.west.core.initiate(connection: "c", child: nil, now: other.now))
    }

    @Test func `any identity that authenticates is accepted when configured so`() throws {
        let pair = Pair()
        pair.westSide.remoteIdentity = nil
        pair.eastSide.remoteIdentity = nil
        #expect(try pair.establish())
        #expect(pair.west.status(now: pair.now)?.ike?.remoteIdentity == .fqdn("east.example"))
    }

    @Test(arguments: [
        (["10.1.0.0/16"], ["10.2.0.0/16"], "10.1.0.0/24", "10.2.0.0/24"),
        (["0.0.0.0/0"], ["0.0.0.0/0"], "10.1.0.0/24", "10.2.0.0/24"),
        (["10.1.0.128/25", "10.9.0.0/16"], ["10.2.0.0/24"], "10.1.0.128/25", "10.2.0.0/24"),
    ])
    func `selectors are narrowed`(_ local: [String], _ remote: [String], _ east: String, _ west: String) throws {
        let pair = Pair()
        pair.eastSide.children = [("net", local, remote)]
        #expect(try pair.establish())
        #expect(pair.mismatch == nil)
        #expect(pair.east.installed.first?.localSelectors.map(\.description) == [east])
        #expect(pair.east.installed.first?.remoteSelectors.map(\.description) == [west])
    }

    @Test func `the same seed gives the same run`() throws {
        func run() throws -> [Int] {
            let pair = Pair(seed: 7)
            pair.network.faults = .hostile
            try pair.establish()
            return pair.network.history.map(\.bytes.count)
        }
        #expect(try run() == run())
    }
}
