import CLinux
import Crypto
import IPsec
import Platform
import Wire

/// Two workers back to back in plain memory: the near one seals, the far one opens; see `ESPBenchmark`.
final class BenchmarkRound {
    private let size: Int
    private let packets: Int
    private let sas: Int
    private let engine: EngineKind
    private let near: MemoryRig
    private let far: MemoryRig
    private var sealer: Worker
    private var opener: Worker
    private let manager: EngineManager
    private let pairs: [(near: SAPair, far: SAPair)]
    private var transmitted: [(address: UInt64, length: UInt32)] = []
    /// Where the packets of this round lay in the near UMEM, and where those of the far one are put.
    private var nearPlaces: [UInt64] = []
    private var farPlaces: [UInt64] = []
    private let nonce: UnsafeMutableRawPointer
    private var rawCounter: UInt64 = 1 << 40
    private var rawSequences: [UInt64] = []

    init(engine: EngineKind, size: Int, sas: Int, packets: Int, outer: ESPBenchmark.Outer) throws {
        (self.engine, self.size, self.sas, self.packets) = (engine, size, sas, packets)
        let near = try MemoryRig(framesPerWorker: 4096, plan: MemoryRig.plan(children: sas))
        // The far end is the same gateway seen from the other side: what the near one protects, it delivers.
        var plan = MemoryRig.plan(children: sas)
        for child in 0..<sas {
            plan.routes.append(.init(prefix: IPPrefix("10.\(2 + child).0.0/16")!, gateway: IPAddress("10.1.0.2"), portIndex: 0))
        }
        let far = try MemoryRig(framesPerWorker: 4096, plan: plan)
        pairs = try (0..<sas).map { try MemoryRig.pairs(child: $0, engine: engine, udp: outer.isUDP, ipv6: outer.isIPv6) }
        nonce = .allocate(byteCount: 64, alignment: 64)
        nonce.initializeMemory(as: UInt8.self, repeating: 0, count: 64)
        manager = EngineManager(engine)
        let fillTarget = packets + Int(Worker.burst)
        sealer = near.makeWorker(0, manager: manager.handle, fillTarget: fillTarget)
        opener = far.makeWorker(0, manager: manager.handle, fillTarget: fillTarget)
        (self.near, self.far) = (near, far)
        for pair in pairs {
            near.install(pair.near)
            far.install(pair.far)
        }
        _ = sealer.runOnce()
        _ = opener.runOnce()
    }

    deinit { nonce.deallocate() }

    /// Plays the kernel: takes the frames for a round from a fill ring, 256 octets of headroom each.
    private static func takeFrames(_ rig: MemoryRig, port: Int, _ count: Int, _ places: inout [UInt64]) throws {
        places.removeAll(keepingCapacity: true)
        while places.count < count {
            let ready = rig.queues[port][0].fill.ready(UInt32(count - places.count))
            guard ready > 0 else { throw DataplaneError("the worker gave too few frames to receive into") }
            for ahead in 0..<ready { places.append(rig.queues[port][0].fill.address(ahead: ahead) + 256) }
            rig.queues[port][0].fill.release(ready)
        }
    }

    private func writeInner(_ index: Int) {
        let frame = near.umem + Int(nearPlaces[index])
        let header = IPv4Header.bytes(
            source: IPv4Address(bits: 0x0A01_0002), destination: IPv4Address(bits: 0x0A02_0002 &+ UInt32(index % sas) << 16),
            protocolNumber: IPv4.protocolUDP, payloadBytes: size - IPv4.minimumHeaderBytes)
        let ethernet = MemoryRig.localMAC + MemoryRig.remoteMAC + [0x08, 0x00]
        (ethernet + header).withUnsafeBytes { frame.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
        (frame + 34).storeBytes(of: UInt64(0x1234_5678_9000_0008), as: UInt64.self)
    }

    /// One timed round of the sealing worker; the frames it sent stay in `transmitted`.
    func outbound() throws -> UInt64 {
        let port = MemoryRig.protectedPort
        try Self.takeFrames(near, port: port, packets, &nearPlaces)
        for index in 0..<packets {
            writeInner(index)
            near.queues[port][0].receive.push(address: nearPlaces[index], length: UInt32(size + 14))
        }
        near.queues[port][0].receive.submit()
        let start = culvert_rdtsc()
        var done = 0
        while done < packets { done += sealer.runOnce() }
        let ticks = culvert_rdtsc() &- start
        try collect(near, port: MemoryRig.underlayPort)
        return ticks
    }

    /// One timed round of the opening worker, over what the sealing one made.
    func inbound() throws -> UInt64 {
        _ = try outbound()
        let port = MemoryRig.underlayPort
        try Self.takeFrames(far, port: port, packets, &farPlaces)
        for (index, packet) in transmitted.enumerated() {
            (far.umem + Int(farPlaces[index])).copyMemory(from: near.umem + Int(packet.address), byteCount: Int(packet.length))
            far.queues[port][0].receive.push(address: farPlaces[index], length: packet.length)
        }
        far.queues[port][0].receive.submit()
        let start = culvert_rdtsc()
        var done = 0
        while done < packets { done += opener.runOnce() }
        let ticks = culvert_rdtsc() &- start
        try collect(far, port: MemoryRig.protectedPort)
        return ticks
    }

    /// Plays the kernel: takes what was sent and completes it (the worker reaps that in its next round); every packet must have
    /// come through.
    private func collect(_ rig: MemoryRig, port: Int) throws {
        transmitted.removeAll(keepingCapacity: true)
        while case let count = rig.queues[port][0].transmit.ready(64), count > 0 {
            for ahead in 0..<count {
                let descriptor = rig.queues[port][0].transmit.descriptor(ahead: ahead)
                transmitted.append(descriptor)
                rig.queues[port][0].completion.push(address: descriptor.address)
            }
            rig.queues[port][0].transmit.release(count)
        }
        rig.queues[port][0].completion.submit()
        guard transmitted.count == packets else {
            throw DataplaneError(
                "only \(transmitted.count) of \(packets) packets came through the worker; drops: \(dropList(rig))")
        }
    }

    private func dropList(_ rig: MemoryRig) -> String {
        DropReason.allCases.filter { rig.drops($0) > 0 }.map { "\($0.name) \(rig.drops($0))" }.joined(separator: ", ")
    }

    /// The engine alone: one call per packet over inner packet, padding and trailer, at the place the worker found them.
    func rawOutbound() throws -> UInt64 {
        let length = size + ESPLayout.padBytes(payloadBytes: size) + ESPLayout.trailerBytes
        rawSequences.removeAll(keepingCapacity: true)
        for _ in 0..<packets {
            rawCounter += 1
            rawSequences.append(rawCounter)
        }
        return rawSeal(length)
    }

    private func rawSeal(_ length: Int) -> UInt64 {
        let start = culvert_rdtsc()
        for index in 0..<packets {
            let sa = pairs[index % sas].near.outbound
            let data = near.umem + Int(nearPlaces[index]) + Ethernet.headerBytes
            nonce.storeBytes(of: rawSequences[index].bigEndian, toByteOffset: 4, as: UInt64.self)
            _ = PacketEngine.seal(
                engine, keyIs256: true, handle: sa.pointee.handle, manager: manager.handle, nonce: nonce, aad: nonce + 16,
                aadBytes: 12,
                data: data, length: length, tag: data + length)
        }
        return culvert_rdtsc() &- start
    }

    func rawInbound() throws -> UInt64 {
        _ = try rawOutbound()
        let length = size + ESPLayout.padBytes(payloadBytes: size) + ESPLayout.trailerBytes
        var opened = 0
        let start = culvert_rdtsc()
        for index in 0..<packets {
            let sa = pairs[index % sas].far.inbound
            let data = near.umem + Int(nearPlaces[index]) + Ethernet.headerBytes
            nonce.storeBytes(of: rawSequences[index].bigEndian, toByteOffset: 4, as: UInt64.self)
            let fits = PacketEngine.open(
                engine, keyIs256: true, handle: sa.pointee.handle, manager: manager.handle, nonce: nonce, aad: nonce + 16,
                aadBytes: 12,
                data: data, length: length, tag: data + length)
            opened += fits ? 1 : 0
        }
        let ticks = culvert_rdtsc() &- start
        guard opened == packets else { throw DataplaneError("the bare engine opened only \(opened) of \(packets) packets") }
        return ticks
    }
}
