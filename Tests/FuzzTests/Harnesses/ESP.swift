import Crypto
import IPsec
import Wire

@testable import Dataplane

/// One worker with one pair of SAs over plain memory. An input is a script of packets from both sides: made up, sealed by a peer
/// who has the keys and says anything, or sent before and falsified.
func espHarness(_ bytes: [UInt8]) {
    var script = Script(bytes: bytes)
    guard let mode = script.next() else { return }
    do {
        let gateway = try ESPGateway(udp: mode & 1 != 0, ipv6: mode & 2 != 0, extended: mode & 4 != 0)
        gateway.run(&script)
    } catch { fatalError("\(error)") }
}

private final class ESPGateway {
    private static let mostSteps = 64
    private static let frames = 96
    private static let key = [UInt8](0..<36)
    /// Of `MemoryRig.pairs`: what the peer sends to.
    private static let spi: [UInt8] = [0, 0, 0x10, 0]

    private let rig: MemoryRig
    private let manager = EngineManager(.openssl)
    private let pair: SAPair
    private let udp: Bool
    private let ipv6: Bool
    private let extended: Bool
    private var worker: Worker
    private var sequence: UInt32 = 0
    private var lastSealed: [UInt8] = []

    init(udp: Bool, ipv6: Bool, extended: Bool) throws {
        (self.udp, self.ipv6, self.extended) = (udp, ipv6, extended)
        rig = try MemoryRig(framesPerWorker: Self.frames, ringEntries: 64, plan: MemoryRig.plan())
        pair = try MemoryRig.pairs(engine: .openssl, extended: extended, udp: udp, ipv6: ipv6, window: 64, key: Self.key).near
        worker = rig.makeWorker(0, manager: manager.handle, fillTarget: 16)
        rig.install(pair)
        _ = worker.runOnce()
    }

    func run(_ script: inout Script) {
        var steps = 0
        while steps < Self.mostSteps, let step = script.next() {
            steps += 1
            switch step & 7 {
            case 0: receive(outer(esp: script.take(scale: 8), patch: step, &script), isAuthentic: false)
            case 1: receive(outer(esp: sealed(inner(step, isOurs: false, &script), &script), patch: step, &script))
            case 2: receive(outer(esp: sealed(script.take(scale: 8), &script), patch: 0, &script))
            case 3, 4: send(inner(step, isOurs: true, &script))
            case 5: send(script.take(scale: 8))
            case 6: receive(lastSealed, isAuthentic: false)
            default:
                var packet = lastSealed
                if let place = script.next(), !packet.isEmpty { packet[Int(place) % packet.count] ^= 1 << (step >> 5) }
                receive(packet, isAuthentic: false)
            }
        }
    }

    // MARK: Packets

    /// An IPv4 packet between the networks of the tunnel with what the script has for protocol, service and payload; with bit 3
    /// of the step octets of its header are replaced, and with bit 4 it is cut.
    private func inner(_ step: UInt8, isOurs: Bool, _ script: inout Script) -> [UInt8] {
        let number = script.next() ?? 17
        let tos = script.next() ?? 0
        let payload = script.take(scale: 8)
        let ends = (IPv4Address("10.1.0.2")!, IPv4Address("10.2.0.2")!)
        var packet =
            IPv4Header.bytes(
                source: isOurs ? ends.0 : ends.1, destination: isOurs ? ends.1 : ends.0, protocolNumber: number,
                payloadBytes: payload.count, tos: tos) + payload
        if step & 8 != 0, let place = script.next() { packet[Int(place) % 20] = script.next() ?? 0 }
        if step & 16 != 0 { packet.removeLast(min(packet.count, Int(script.next() ?? 0))) }
        return packet
    }

    /// ESP as the peer makes it, with any padding and next header. RFC 4303 §2, RFC 4106 §5.
    private func sealed(_ inner: [UInt8], _ script: inout Script) -> [UInt8] {
        let padding = script.next() ?? 0
        let next = script.next() ?? 0
        sequence &+= UInt32(script.next() ?? 1)
        // Octets 1, 2, 3 … when the padding is announced right (§2.4), else whatever the last octets are.
        let filler = padding < 64 ? (0..<padding).map { $0 &+ 1 } : []
        let number = [UInt8](u32: sequence)
        var clear = inner + filler
        clear += [padding, next & 0x80 == 0 ? 4 : next & 0x7F]
        let crypto = OpenSSLCrypto()
        let body = try? crypto.seal(
            .aesGCM16(keyBits: 256), encryptionKey: crypto.secret(Self.key), integrityKey: crypto.secret([]),
            associatedData: Self.spi + (extended ? [0, 0, 0, 0] : []) + number, plaintext: clear, iv: [0, 0, 0, 0] + number)
        return Self.spi + number + (body ?? [])
    }

    /// Behind the outer header that the XDP program lets through; bits 3 and up of `patch` change what it does not look at.
    private func outer(esp: [UInt8], patch: UInt8, _ script: inout Script) -> [UInt8] {
        let port: [UInt8] = [0x11, 0x94]  // 4500
        var transport: [UInt8] = []
        if udp {
            let length = esp.count + UDP.headerBytes
            transport += port + port
            transport += [UInt8(truncatingIfNeeded: length >> 8), UInt8(truncatingIfNeeded: length), 0, 0]
        }
        transport += esp
        let number: UInt8 = udp ? 17 : 50
        if ipv6 {
            return IPv6Header(
                source: IPv6Address("2001:db8::2")!, destination: IPv6Address("2001:db8::1")!, nextHeader: number,
                payloadBytes: UInt16(clamping: transport.count), trafficClass: patch >> 5
            ).bytes + transport
        }
        return IPv4Header.bytes(
            source: IPv4Address("192.0.2.2")!, destination: IPv4Address("192.0.2.1")!, protocolNumber: number,
            payloadBytes: transport.count, tos: patch >> 5) + transport
    }

    // MARK: The worker

    /// From the underlay. What comes out on the protected side was sealed by the peer, and is within the selectors.
    private func receive(_ packet: [UInt8], isAuthentic: Bool = true) {
        if isAuthentic { lastSealed = packet }
        feed(packet, port: MemoryRig.underlayPort)
        for packet in rig.takeSent(port: MemoryRig.protectedPort, worker: 0) {
            precondition(isAuthentic, "a packet came through that nobody with the keys had sealed, or that came before")
            precondition(packet[12...13].elementsEqual([10, 2]) && packet[16...17].elementsEqual([10, 1]), "\(packet)")
        }
        checkUnderlay()
    }

    /// From the protected side.
    private func send(_ packet: [UInt8]) {
        feed(packet, port: MemoryRig.protectedPort)
        // Errors about it go back to where it came from.
        for packet in rig.takeSent(port: MemoryRig.protectedPort, worker: 0) { precondition(packet[9] == 1, "\(packet)") }
        checkUnderlay()
    }

    /// Nothing leaves for the underlay but ESP, whatever came.
    private func checkUnderlay() {
        for packet in rig.takeSent(port: MemoryRig.underlayPort, worker: 0) {
            let number = packet[0] >> 4 == 6 ? packet[6] : packet[9]
            precondition(number == (udp ? 17 : 50) && packet[0] >> 4 == (ipv6 ? 6 : 4), "\(packet.prefix(48)) is not ESP")
        }
    }

    private func feed(_ packet: [UInt8], port: Int) {
        guard packet.count <= 1500 else { return }
        // Every frame comes back, whatever became of its packet.
        precondition(rig.feed(packet, port: port, worker: 0), "the worker has no frames left")
        _ = worker.runOnce()
        while rig.threads[0].punts.next() != nil { rig.threads[0].punts.release() }
        _ = worker.runOnce()
    }
}
