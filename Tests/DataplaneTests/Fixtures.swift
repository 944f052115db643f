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
        window: Int = 64,
        farPlan: (inout ForwardingPlan) -> Void = { _ in }, nearPlan: (inout ForwardingPlan) -> Void = { _ in }
    ) throws {
        var plan = MemoryRig.plan()
        nearPlan(&plan)
        let near = try MemoryRig(framesPerWorker: 512, ringEntries: 128, plan: plan)
        var mirrored = MemoryRig.plan()
        mirrored.routes.append(
            .init(prefix: IPPrefix("10.2.0.0/16")!, gateway: IPAddress("10.1.0.2"), portIndex: MemoryRig.protectedPort))
        farPlan(&mirrored)
        let far = try MemoryRig(framesPerWorker: 512, ringEntries: 128, plan: mirrored)
        pair = try MemoryRig.pairs(engine: engine, keyBits: keyBits, extended: extended, udp: udp, ipv6: ipv6, window: window)
        manager = EngineManager(engine)
        nearWorker = near.makeWorker(0, manager: manager.handle, fillTarget: 96)
        farWorker = far.makeWorker(0, manager: manager.handle, fillTarget: 96)
        (self.near, self.far) = (near, far)
        near.install(pair.near)
        far.install(pair.far)
        _ = nearWorker.runOnce()
        _ = farWorker.runOnce()
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

    /// What went back to the sender on the near protected side.
    func backToSender() -> [[UInt8]] {
        _ = nearWorker.runOnce()
        return near.takeSent(port: MemoryRig.protectedPort, worker: 0)
    }
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
