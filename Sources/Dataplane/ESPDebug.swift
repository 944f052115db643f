public import Crypto
public import IPsec
import Wire

/// Seals and opens single packets with given keys through the real worker code: for second opinions and published vectors.
///
/// One worker over plain memory. Selectors are `near` here and `far` there; the underlay is 192.0.2.1 to 192.0.2.2,
/// or 2001:db8::1 to 2001:db8::2.
public final class ESPDebug {
    public enum Operation: String, Sendable, CaseIterable { case seal, open }

    public struct Request: Sendable {
        public var operation: Operation
        public var spi: UInt32
        /// 16 or 32 octets.
        public var key: [UInt8]
        /// 4 octets.
        public var salt: [UInt8]
        public var extended: Bool
        public var udp: Bool
        /// The outer packet is IPv6.
        public var ipv6: Bool
        /// Seal: the number the packet is to have. Open: the highest accepted so far, read when the SA is made.
        public var sequence: UInt64
        /// Seal: an inner IPv4 packet. Open: a whole outer packet.
        public var packet: [UInt8]
        public init(
            operation: Operation, spi: UInt32, key: [UInt8], salt: [UInt8], extended: Bool, udp: Bool, ipv6: Bool = false,
            sequence: UInt64, packet: [UInt8]
        ) {
            (self.operation, self.spi, self.key, self.salt) = (operation, spi, key, salt)
            (self.extended, self.udp, self.ipv6, self.sequence, self.packet) = (extended, udp, ipv6, sequence, packet)
        }
    }

    public enum Outcome: Sendable, Hashable {
        case packet([UInt8])
        case drop(DropReason)
    }

    private struct Name: Hashable {
        let operation: Operation
        let spi: UInt32
    }

    static let window = 64
    private let engine: EngineKind
    private let near: IPPrefix
    private let far: IPPrefix
    private var pairs: [Name: SAPair] = [:]
    private let rig: MemoryRig
    private let manager: EngineManager
    private var worker: Worker

    public init(engine: EngineKind = .openssl, near: String = "10.1.0.0/24", far: String = "10.2.0.0/24") throws {
        guard let near = IPPrefix(near), let far = IPPrefix(far) else { throw DataplaneError("selectors must be prefixes") }
        (self.engine, self.near, self.far) = (engine, near, far)
        var plan = MemoryRig.plan()
        plan.rules = [.init(source: TrafficSelector(near), destination: TrafficSelector(far), action: .protect(childIndex: 0))]
        // Everything protected is behind one neighbour, whatever its address.
        plan.routes = [
            .init(prefix: near, gateway: IPAddress("10.1.0.2"), portIndex: MemoryRig.protectedPort),
            .init(prefix: IPPrefix("192.0.2.0/24")!, gateway: nil, portIndex: MemoryRig.underlayPort),
        ]
        let rig = try MemoryRig(framesPerWorker: 512, ringEntries: 128, plan: plan)
        self.rig = rig
        manager = EngineManager(engine)
        worker = rig.makeWorker(0, manager: manager.handle, fillTarget: 96)
    }

    /// Runs one packet through the worker; exactly one packet or one drop comes out.
    public func run(_ request: Request) throws -> Outcome {
        guard request.packet.count <= 1700, request.salt.count == 4 else {
            throw DataplaneError("packets have at most 1700 octets, salts 4")
        }
        let pair = try self.pair(request)
        if request.operation == .seal {
            pair.outbound.pointee.sequence = request.sequence &- 1
            rig.command(.setOutbound, to: 0, pointer: UnsafeMutableRawPointer(pair.outbound), first: 0, second: 0)
            _ = worker.runOnce()
        }
        let before = DropReason.allCases.map { rig.drops($0) }
        let (ingress, egress) =
            request.operation == .seal
            ? (MemoryRig.protectedPort, MemoryRig.underlayPort) : (MemoryRig.underlayPort, MemoryRig.protectedPort)
        rig.feed(request.packet, port: ingress, worker: 0)
        _ = worker.runOnce()
        let sent = rig.takeSent(port: egress, worker: 0)
        if let packet = sent.first { return .packet(packet) }
        // An ICMP error may have gone back where the packet came from; the drop is the answer.
        _ = rig.takeSent(port: ingress, worker: 0)
        for reason in DropReason.allCases where rig.drops(reason) > before[Int(reason.rawValue)] { return .drop(reason) }
        throw DataplaneError("the worker neither sent nor dropped the packet")
    }

    private func pair(_ request: Request) throws -> SAPair {
        let name = Name(operation: request.operation, spi: request.spi)
        if let known = pairs[name] { return known }
        let crypto = OpenSSLCrypto()
        let key = crypto.secret(request.key + request.salt)
        let sa = ChildSA(
            connection: "debug", child: "debug", inboundSPI: request.spi, outboundSPI: request.spi,
            transform: ESPTransform(keyBits: request.key.count * 8, extendedSequenceNumbers: request.extended), inboundKey: key,
            outboundKey: key, localSelectors: [TrafficSelector(near)], remoteSelectors: [TrafficSelector(far)],
            path: MemoryRig.path(udp: request.udp, ipv6: request.ipv6),
            replayWindowPackets: Self.window)
        let pair = try SAPair(sa, childIndex: 0, engine: engine, inboundOwner: 0, outboundOwner: 0, mtu: 1500, numaNode: nil)
        if request.operation == .open {
            pair.inbound.pointee.highest = request.sequence
            rig.command(.installInbound, to: 0, pointer: UnsafeMutableRawPointer(pair.inbound))
            _ = worker.runOnce()
        }
        pairs[name] = pair
        return pair
    }
}

extension MemoryRig {
    /// Plays the kernel receiving an IP packet of either version: takes a frame from the fill ring, puts the packet there behind
    /// an Ethernet header, and the frame onto the receive ring. False when the worker has given no frame.
    @discardableResult
    func feed(_ packet: [UInt8], port: Int, worker: Int) -> Bool {
        guard queues[port][worker].fill.ready(1) > 0 else { return false }
        let address = queues[port][worker].fill.address(ahead: 0) + 256
        queues[port][worker].fill.release(1)
        let bytes =
            Self.localMAC + Self.remoteMAC + (packet.first.map { $0 >> 4 == 6 } ?? false ? [0x86, 0xDD] : [0x08, 0x00]) + packet
        bytes.withUnsafeBytes { (umem + Int(address)).copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
        queues[port][worker].receive.push(address: address, length: UInt32(bytes.count))
        queues[port][worker].receive.submit()
        return true
    }

    /// Takes everything that was sent, without the Ethernet headers, and completes it.
    func takeSent(port: Int, worker: Int) -> [[UInt8]] {
        var result: [[UInt8]] = []
        while queues[port][worker].transmit.ready(1) > 0 {
            let (address, length) = queues[port][worker].transmit.descriptor(ahead: 0)
            let frame = UnsafeRawBufferPointer(start: umem + Int(address) + 14, count: Int(length) - 14)
            result.append([UInt8](frame))
            queues[port][worker].transmit.release(1)
            if queues[port][worker].completion.free(1) > 0 {
                queues[port][worker].completion.push(address: address)
                queues[port][worker].completion.submit()
            }
        }
        return result
    }
}
