import Crypto
import Foundation
import IPsec
import Wire

@testable import Dataplane

/// A near and a far gateway in plain memory, one worker each, joined by copying what one sends to the other.
final class TwoEnds {
    let near: MemoryRig
    let far: MemoryRig
    var nearWorker: Worker
    var farWorker: Worker
    let pair: (near: SAPair, far: SAPair)
    let manager: EngineManager

    init(
        engine: EngineKind = .openssl, keyBits: Int = 256, extended: Bool = true, udp: Bool = false, ipv6: Bool = false,
        window: Int = 64, frameBytes: Int = 2048, nearMTUs: (protected: Int, underlay: Int) = (1500, 1500),
        farMTUs: (protected: Int, underlay: Int) = (1500, 1500), farAnswers: Bool = false,
        change: (inout ChildSA) -> Void = { _ in },
        farPlan: (inout ForwardingPlan) -> Void = { _ in }, nearPlan: (inout ForwardingPlan) -> Void = { _ in }
    ) throws {
        var plan = MemoryRig.plan()
        nearPlan(&plan)
        let near = try MemoryRig(framesPerWorker: 512, frameBytes: frameBytes, ringEntries: 128, mtus: nearMTUs, plan: plan)
        var mirrored = farAnswers ? Self.mirrored : Self.receiver
        farPlan(&mirrored)
        let far = try MemoryRig(
            framesPerWorker: 512, frameBytes: frameBytes, ringEntries: 128, mtus: farMTUs, plan: mirrored)
        pair = try MemoryRig.pairs(
            engine: engine, keyBits: keyBits, extended: extended, udp: udp, ipv6: ipv6, window: window, mtu: nearMTUs.underlay,
            change: change)
        manager = EngineManager(engine)
        nearWorker = near.makeWorker(0, manager: manager.handle, fillTarget: 96)
        farWorker = far.makeWorker(0, manager: manager.handle, fillTarget: 96)
        (self.near, self.far) = (near, far)
        near.install(pair.near)
        far.install(pair.far)
        _ = nearWorker.runOnce()
        _ = farWorker.runOnce()
    }

    /// What delivers to 10.2.0.0/16, behind the neighbour 10.1.0.2.
    private static var receiver: ForwardingPlan {
        var plan = MemoryRig.plan()
        plan.routes.append(
            .init(prefix: IPPrefix("10.2.0.0/16")!, gateway: IPAddress("10.1.0.2"), portIndex: MemoryRig.protectedPort))
        return plan
    }

    /// The same as a whole gateway, seen from the other side: it protects what it sends back.
    private static var mirrored: ForwardingPlan {
        var plan = receiver
        let host = { (text: String) in IPv4Address(text)! }
        plan.rules.append(
            .init(
                source: TrafficSelector(IPPrefix("10.2.0.0/16")!), destination: TrafficSelector(IPPrefix("10.1.0.0/16")!),
                action: .protect(childIndex: 0)))
        let near = IPv6Address("2001:db8::1")!
        for address in [IPAddress.v4(host("192.0.2.1")), .v6(near)] {
            plan.neighbours.append(.init(address: address, portIndex: MemoryRig.underlayPort, mac: MemoryRig.remoteMAC))
        }
        plan.localAddresses = [host("10.2.0.1"), host("192.0.2.2")]
        plan.portAddresses = [
            .init(portIndex: MemoryRig.protectedPort, address: host("10.2.0.1")),
            .init(portIndex: MemoryRig.underlayPort, address: host("192.0.2.2")),
        ]
        plan.peers = [.init(address: near, nextHop: near, portIndex: MemoryRig.underlayPort)]
        return plan
    }

    /// What the near gateway puts on the wire for an inner packet.
    func seal(_ packet: [UInt8]) -> [[UInt8]] {
        near.feed(packet, port: MemoryRig.protectedPort, worker: 0)
        _ = nearWorker.runOnce()
        return near.takeSent(port: MemoryRig.underlayPort, worker: 0)
    }

    /// What the far gateway delivers for a packet from the wire.
    func open(_ packet: [UInt8]) -> [[UInt8]] {
        far.feed(packet, port: MemoryRig.underlayPort, worker: 0)
        _ = farWorker.runOnce()
        return far.takeSent(port: MemoryRig.protectedPort, worker: 0)
    }

    /// Gives the far gateway an ESP packet that its kernel put together.
    func inject(_ packet: [UInt8]) -> Bool {
        far.inject(packet, isESP: true)
    }

    /// What the far gateway delivers by now.
    func deliveredByFar() -> [[UInt8]] {
        _ = farWorker.runOnce()
        return far.takeSent(port: MemoryRig.protectedPort, worker: 0)
    }

    /// ESP packets that the far gateway sends back.
    func farErrors() -> [[UInt8]] {
        _ = farWorker.runOnce()
        return far.takeSent(port: MemoryRig.underlayPort, worker: 0)
    }

    /// What the near gateway delivers for a packet from the wire.
    func deliverToNear(_ packet: [UInt8]) -> [[UInt8]] {
        near.feed(packet, port: MemoryRig.underlayPort, worker: 0)
        _ = nearWorker.runOnce()
        return near.takeSent(port: MemoryRig.protectedPort, worker: 0)
    }

    /// Every frame is in its pool or waits to be received into.
    var isAtHome: Bool {
        for _ in 0..<4 {
            _ = nearWorker.runOnce()
            _ = farWorker.runOnce()
        }
        func held(_ worker: borrowing Worker) -> Int {
            (0..<worker.queueCount).reduce(worker.poolCount) { $0 + Int(worker.queues[$1].filled) }
        }
        return held(nearWorker) == 512 && held(farWorker) == 512
    }

    /// What went back to the sender on the near protected side.
    func backToSender() -> [[UInt8]] {
        _ = nearWorker.runOnce()
        return near.takeSent(port: MemoryRig.protectedPort, worker: 0)
    }
}

extension MemoryRig {
    /// What control does with a packet that the kernel gave it.
    func inject(_ packet: [UInt8], isESP: Bool) -> Bool {
        Injection.write(packet, isESP: isESP, frameBytes: frameBytes, to: &threads[0].injections)
    }
}

/// A peer that encrypts whole datagrams and leaves the fragmenting to its outer IP: ESP on the SA of `pair`, of any length.
struct PeerThatFragmentsLate: ~Copyable {
    let pair: SAPair
    let manager = EngineManager(.openssl)

    init(_ pair: SAPair) throws { self.pair = pair }

    /// The whole packet, as the receiver's kernel puts it together.
    func seal(_ packet: [UInt8]) throws -> [UInt8] {
        let sa = pair.outbound
        sa.pointee.sequence += 1
        let sequence = sa.pointee.sequence
        let pad = ESPLayout.padBytes(payloadBytes: packet.count)
        var data = packet + (0..<pad).map { UInt8($0 + 1) } + [UInt8(pad), 4] + [UInt8](repeating: 0, count: 16)
        let number = (0..<8).map { UInt8(truncatingIfNeeded: sequence >> UInt64(56 - 8 * $0)) }
        let spi = withUnsafeBytes(of: sa.pointee.spiWire) { [UInt8]($0) }
        var nonce = withUnsafeBytes(of: sa.pointee.saltWire) { [UInt8]($0) } + number
        var aad = spi + (sa.pointee.extended ? number : Array(number[4...]))
        let length = data.count - 16
        let isSealed = data.withUnsafeMutableBytes { data in
            nonce.withUnsafeMutableBytes { nonce in
                aad.withUnsafeMutableBytes { aad in
                    PacketEngine.seal(
                        sa.pointee.engine, keyIs256: sa.pointee.keyIs256, handle: sa.pointee.handle, manager: manager.handle,
                        nonce: nonce.baseAddress!, aad: aad.baseAddress!, aadBytes: aad.count, data: data.baseAddress!,
                        length: length, tag: data.baseAddress! + length)
                }
            }
        }
        guard isSealed else { throw DataplaneError("the packet cannot be sealed") }
        let esp = spi + number[4...] + number + data
        return IPv4Header.bytes(
            source: IPv4Address("192.0.2.1")!, destination: IPv4Address("192.0.2.2")!, protocolNumber: IPv4.protocolESP,
            payloadBytes: esp.count) + esp
    }
}

/// A SYN with an MSS option and a good checksum, from 10.1.0.2 to 10.2.0.2.
func syn(mss: UInt16) -> [UInt8] {
    var segment: [UInt8] = [0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x60, 0x02, 0xFF, 0xFF, 0, 0, 0, 0, 2, 4]
    segment += [UInt8(mss >> 8), UInt8(truncatingIfNeeded: mss)]
    let pseudo: [UInt8] = [10, 1, 0, 2, 10, 2, 0, 2, 0, 6, 0, UInt8(segment.count)]
    let checksum = ~Checksum.fold(Checksum.sum((pseudo + segment).span))
    (segment[16], segment[17]) = (UInt8(checksum >> 8), UInt8(truncatingIfNeeded: checksum))
    return segment
}

/// An inner IPv4 packet with a good header checksum.
func inner(
    _ bytes: Int, source: String = "10.1.0.2", destination: String = "10.2.0.2", protocolNumber: UInt8 = 17, ttl: UInt8 = 64,
    tos: UInt8 = 0,
    fragmentField: UInt16 = 0, payload: [UInt8]? = nil
) -> [UInt8] {
    let body = payload ?? (0..<bytes - 20).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ bytes) }
    return IPv4Header.bytes(
        source: IPv4Address(source)!, destination: IPv4Address(destination)!, protocolNumber: protocolNumber,
        payloadBytes: body.count, tos: tos,
        ttl: ttl, fragmentField: fragmentField) + body
}

/// Zero exactly when the header's checksum is right.
func headerChecksumResidue(_ packet: [UInt8]) -> UInt16 {
    ~Checksum.fold(Checksum.sum(Array(packet.prefix(Int(packet[0] & 15) * 4)).span))
}

/// The packet as it would look `hops` hops later.
func aged(_ packet: [UInt8], hops: UInt8, tos: UInt8? = nil) -> [UInt8] {
    var copy = packet
    copy[8] -= hops
    if let tos { copy[1] = tos }
    copy[10] = 0
    copy[11] = 0
    let sum = ~Checksum.fold(Checksum.sum(Array(copy.prefix(20)).span))
    copy[10] = UInt8(sum >> 8)
    copy[11] = UInt8(truncatingIfNeeded: sum)
    return copy
}

func bytes(hex: String) -> [UInt8] {
    let digits = Array(hex.utf8)
    return stride(from: 0, to: digits.count - 1, by: 2).map {
        UInt8(String(decoding: digits[$0..<$0 + 2], as: UTF8.self), radix: 16)!
    }
}

/// Tests/Vectors, found from this file.
let vectorFolder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().appending(
    path: "Vectors")
