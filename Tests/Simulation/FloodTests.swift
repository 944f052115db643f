@testable import Gateway
@testable import IKE
import IPsec
import Testing
import Wire

/// Thousands of sources send first messages, with and without returning cookies, garbage and replays, while a tunnel that is up
/// rekeys and a new peer begins. RFC 7296 §2.6.
@Suite struct FloodTests {
    #if DEBUG
        static let datagramsPerSecond = 500
    #else
        static let datagramsPerSecond = 3000
    #endif
    static let seconds = 30
    static let spoofedSources = 5000
    /// Sources that can be reached, and answer cookies.
    static let botnet = 300

    /// The network's worst part: it sends, hears what comes back, and remembers what went by.
    final class Flooder {
        let world: World
        let target: Endpoint
        let dice: SeededRandom
        var captured: [Datagram] = []
        var sentBytes = 0
        var receivedBytes = 0
        var cookiesReturned = 0
        private var remembered: [Endpoint: [UInt8]] = [:]
        private let offer: [WireProposal]

        init(_ world: World, target: Endpoint, seed: UInt64) throws {
            (self.world, self.target, dice) = (world, target, SeededRandom(seed: seed))
            offer = Offer.ike([try IKEProposal(keywords: "aes256gcm16-prfsha256-x25519")])
        }

        func begin(for seconds: Int) {
            world.outlet = { [unowned self] in hear($0) }
            let count = seconds * FloodTests.datagramsPerSecond
            for number in 0..<count {
                let delay = Duration.nanoseconds(1_000_000_000 / FloodTests.datagramsPerSecond * number)
                world.schedule(.act { [self] in send(number) }, after: delay)
            }
        }

        private func send(_ number: Int) {
            let roll = dice.unit()
            if roll < 0.6 {
                put(first(cookie: nil), from: source("198.18", Int(dice.unit() * Double(FloodTests.spoofedSources))))
            } else if roll < 0.8 {
                let bytes = first(cookie: nil)
                let from = source("198.19", Int(dice.unit() * Double(FloodTests.botnet)))
                remembered[from] = bytes
                put(bytes, from: from)
            } else if roll < 0.9 {
                put(dice.bytes(1 + Int(dice.unit() * 400)), from: source("198.18", number % 5000))
            } else if !captured.isEmpty {
                // What the peers sent, again: from their own addresses, and from others.
                let old = captured[Int(dice.unit() * Double(captured.count))]
                put(old.bytes, from: dice.unit() < 0.5 ? old.source : source("198.18", number % 5000), to: old.destination)
            }
        }

        private func source(_ prefix: String, _ number: Int) -> Endpoint {
            Endpoint(IPAddress("\(prefix).\(number / 250).\(number % 250 + 1)")!, 500)
        }

        private func first(cookie: [UInt8]?) -> [UInt8] {
            let header = IKEHeader(
                initiatorSPI: dice.next() | 1, responderSPI: 0, exchange: .ikeSAInit, isFromInitiator: true, isResponse: false,
                messageID: 0)
            return WireMessage.encodeClear(
                header,
                [
                    .securityAssociation(offer), .keyExchange(method: KeyExchangeMethod.x25519.rawValue, data: dice.bytes(32)),
                    .nonce(dice.bytes(32)),
                ])
        }

        private func put(_ bytes: [UInt8], from: Endpoint, to: Endpoint? = nil) {
            sentBytes += bytes.count
            world.schedule(.datagram(Datagram(bytes: bytes, source: from, destination: to ?? target)))
        }

        /// The reachable part of it answers cookies, with the message as it was.
        private func hear(_ datagram: Datagram) {
            receivedBytes += datagram.bytes.count
            guard let bytes = remembered.removeValue(forKey: datagram.destination),
                let answer = try? WireMessage(parsing: datagram.bytes),
                let cookie = answer.payloads.notify(.cookie), let message = try? WireMessage(parsing: bytes)
            else { return }
            cookiesReturned += 1
            let payloads: [Payload] = [
                .notify(Notify(.cookie, data: cookie.data)), .securityAssociation(message.payloads.proposals ?? []),
                .keyExchange(
                    method: message.payloads.keyExchange?.method ?? 0, data: message.payloads.keyExchange?.data ?? []),
                .nonce(message.payloads.nonce ?? []),
            ]
            put(WireMessage.encodeClear(message.header, payloads), from: datagram.destination)
        }
    }

    static func plan(
        _ name: String, _ here: SimulatedGateway, _ there: IPAddress?, _ identities: (String, String), net: Int,
        isInitiator: Bool
    ) throws -> ConnectionPlan {
        let sites = isInitiator ? (net, 9) : (9, net)
        return ConnectionPlan(
            name: name, localAddress: here.home, remoteAddress: there, localIdentity: .fqdn(identities.0),
            remoteIdentity: .fqdn(identities.1), presharedKey: here.crypto.secret(Array("a secret of \(net)".utf8)),
            proposals: [try IKEProposal(keywords: "aes256gcm16-prfsha256-x25519")], lifetime: .seconds(25),
            dpdInterval: .seconds(5),
            children: [
                ChildPlan(
                    name: "net", localSelectors: [TrafficSelector(IPPrefix("10.\(sites.0).\(net).0/24")!)],
                    remoteSelectors: [TrafficSelector(IPPrefix("10.\(sites.1).\(net).0/24")!)],
                    proposals: [try ESPProposal(keywords: "aes256gcm16-x25519-esn")], lifetime: .seconds(20),
                    start: isInitiator ? .immediately : .manual)
            ])
    }

    @Test(arguments: 1...2)
    func `an established tunnel and a new peer do not notice a flood`(_ seed: UInt64) throws {
        let world = World(seed: seed)
        let gateways = [("east", "192.0.2.1"), ("west", "192.0.2.2"), ("north", "192.0.2.3")].enumerated().map { index, one in
            SimulatedGateway(one.0, [one.1], seed: seed &* 10 &+ UInt64(index), world: world)
        }
        let (east, west, north) = (gateways[0], gateways[1], gateways[2])
        // Its tables are large: looking at all of them after every event would take longer than the flood.
        (west.mostSAs, west.inspectionInterval) = (west.settings.maxHalfOpen + 16, 997)
        west.configure([
            try Self.plan("east", west, east.home, ("west.example", "east.example"), net: 1, isInitiator: false),
            try Self.plan("north", west, nil, ("west.example", "north.example"), net: 3, isInitiator: false),
        ])
        east.configure([try Self.plan("west", east, west.home, ("east.example", "west.example"), net: 1, isInitiator: true)])
        let flooder = try Flooder(world, target: Endpoint(west.home, 500), seed: seed &+ 17)
        world.interceptor = { datagram, _ in
            if flooder.captured.count < 200 { flooder.captured.append(datagram) }
            return false
        }
        #expect(world.run(for: .seconds(10)) { world.works(child: 0, between: east, west) })
        let before = west.core.tableSizes

        flooder.begin(for: Self.seconds)
        var interruptions = 0
        var most = 0
        world.watch = {
            if !world.works(child: 0, between: east, west) { interruptions += 1 }
            most = max(most, west.core.sas.count)
            return nil
        }
        world.run(for: .seconds(3))
        // In the thick of it somebody new begins.
        north.configure([try Self.plan("west", north, west.home, ("north.example", "west.example"), net: 3, isInitiator: true)])
        let isUp = world.run(for: .seconds(20)) { north.lifecycle.active.count == 1 && west.lifecycle.active.count == 2 }
        #expect(isUp, "the new peer did not get through")
        world.run(for: .seconds(30))
        #expect(interruptions == 0, "the established tunnel was interrupted")
        #expect(east.downs.isEmpty && west.downs.isEmpty && north.downs.isEmpty)
        #expect(flooder.cookiesReturned > 50)
        #expect(most <= west.settings.maxHalfOpen + 16)
        #expect(west.core.counters.cookiesSent > 0)
        // Nobody is hit through us harder than they hit us.
        #expect(flooder.receivedBytes <= flooder.sentBytes)
        // When it is over, nothing of it is left.
        world.watch = nil
        let isQuiet = world.run(for: .seconds(90)) { world.quietFault == nil }
        #expect(isQuiet, "\(world.quietFault ?? "")")
        #expect(west.core.tableSizes["halfOpen"] == before["halfOpen"])
        #expect(world.violation == nil, "\(world.violation ?? "")")
    }
}
