import CLinux
import Platform

/// AF_XDP sockets over one UMEM of 256 frames of 2 KiB, for tests.
final class Sockets {
    static let frameBytes = 2048
    static let frames = 256

    final class Box {
        let socket: AFXDPSocket
        init(_ socket: consuming AFXDPSocket) { self.socket = socket }
    }

    let umem: Arena
    private(set) var open: [Box] = []

    init() throws { umem = try Arena(byteCount: Self.frames * Self.frameBytes, hugePages: .auto) }

    static var options: AFXDPOptions {
        var options = AFXDPOptions()
        options.fillEntries = 64
        options.completionEntries = 64
        options.receiveEntries = 64
        options.transmitEntries = 64
        return options
    }

    /// Registers the UMEM with the first socket; the others share it through the one opened last.
    @discardableResult
    func open(interfaceIndex: Int, queue: UInt32 = 0) throws -> Int32 {
        let source: AFXDPSocket.UMEM
        if let last = open.last {
            source = .share(last.socket.number)
        } else {
            source = .register(
                UMEMArea(base: umem.base, byteCount: umem.byteCount, chunkBytes: UInt32(Self.frameBytes), headroomBytes: 0))
        }
        let box = Box(
            try AFXDPSocket(interfaceIndex: Int32(interfaceIndex), queue: queue, umem: source, options: Self.options))
        open.append(box)
        return box.socket.number
    }

    func close(_ index: Int) { open.remove(at: index) }
}

/// The least that a ring needs, on the production layout.
extension RingMemory {
    func produce(_ write: (UnsafeMutableRawPointer, Int) -> Void, count: UInt32) {
        let start = culvert_load_relaxed_u32(producer)
        for i in 0..<count { write(descriptors, Int((start &+ i) & (size - 1))) }
        culvert_store_release_u32(producer, start &+ count)
    }

    func consume<Entry: BitwiseCopyable>(as type: Entry.Type) -> [Entry] {
        let end = culvert_load_acquire_u32(producer)
        var at = culvert_load_relaxed_u32(consumer)
        var result: [Entry] = []
        while at != end {
            result.append(descriptors.load(fromByteOffset: Int(at & (size - 1)) * MemoryLayout<Entry>.stride, as: type))
            at = at &+ 1
        }
        culvert_store_release_u32(consumer, at)
        return result
    }
}

/// Somebody else's XDP program.
enum Stranger {
    static func attach(interfaceIndex: Int) throws {
        // mov64 r0, XDP_PASS; exit
        let instructions = [
            bpf_insn(code: 0xB7, dst_reg: 0, src_reg: 0, off: 0, imm: 2),
            bpf_insn(code: 0x95, dst_reg: 0, src_reg: 0, off: 0, imm: 0),
        ]
        let program = bpf_prog_load(BPF_PROG_TYPE_XDP, "stranger", "GPL", instructions, instructions.count, nil)
        guard program >= 0 else { throw LaboratoryError(description: "bpf_prog_load: \(program)") }
        let result = bpf_xdp_attach(Int32(interfaceIndex), program, 1 << 2, nil)
        guard result == 0 else { throw LaboratoryError(description: "bpf_xdp_attach: \(result)") }
    }
}
