import CLinux
import Glibc
import Platform
import Testing

@Suite struct MemoryTests {
    @Test func `An arena is zeroed, whole pages, and says which pages it got`() throws {
        let arena = try Arena(byteCount: 5000, hugePages: .off, numaNode: 0)
        #expect(arena.byteCount == 8192 && !arena.usesHugePages)
        #expect((0..<arena.byteCount).allSatisfy { arena.base.load(fromByteOffset: $0, as: UInt8.self) == 0 })
        arena.base.storeBytes(of: 0xAB, toByteOffset: 8191, as: UInt8.self)
    }

    @Test func `Huge pages are used when there are any and missed when required`() throws {
        let automatic = try Arena(byteCount: 3 << 20, hugePages: .auto)
        if automatic.usesHugePages {
            #expect(automatic.byteCount == 4 << 20)
        } else {
            #expect(automatic.byteCount == 3 << 20)
            let error = #expect(throws: SystemError.self) { _ = try Arena(byteCount: 3 << 20, hugePages: .require) }
            #expect(error?.description.contains("vm.nr_hugepages=2") == true)
        }
    }

    @Test func `Sizes that make no sense are refused`() {
        for size in [0, -1, Int.max] {
            #expect(throws: SystemError.self) { _ = try Arena(byteCount: size, hugePages: .off) }
        }
    }

    @Test func `Key memory is locked and kept out of core dumps`() throws {
        let arena = try Arena.secret(byteCount: 4096)
        let flags = try #require(try Self.mappingFlags(of: arena.base))
        #expect(flags.contains("lo") && flags.contains("dd") && flags.contains("dc"), "\(flags)")
    }

    /// The VmFlags of the mapping that holds an address.
    private static func mappingFlags(of address: UnsafeMutableRawPointer) throws -> [Substring]? {
        let text = try output(of: "cat /proc/\(getpid())/smaps")
        let start = String(UInt(bitPattern: address), radix: 16)
        var inside = false
        for line in text.split(separator: "\n") {
            if let range = line.split(separator: " ").first, range.contains("-") { inside = range.hasPrefix(start + "-") }
            if inside, line.hasPrefix("VmFlags:") { return line.split(separator: " ").dropFirst().map { $0 } }
        }
        return nil
    }

    @Test func `A thread stays on the CPU it is pinned to`() async throws {
        try await inNewNetworkNamespace {
            for cpu in Numa.allowedCPUs() {
                try Numa.pinThread(toCPU: cpu)
                #expect(Int(culvert_current_cpu()) == cpu)
                #expect(Numa.node(ofCPU: cpu).map { (0..<Numa.nodeCount).contains($0) } == true)
            }
            #expect(throws: SystemError.self) { try Numa.pinThread(toCPU: 1023) }
            #expect(throws: SystemError.self) { try Numa.pinThread(toCPU: -1) }
            #expect(Numa.node(ofInterface: "lo") == nil)
        }
    }

    @Test func `The counters' names match the program's list`() {
        #expect(XDPCounter.allCases.count == Int(CULVERT_COUNTERS.rawValue))
        #expect(Set(XDPCounter.allCases.map(\.name)).count == XDPCounter.allCases.count)
        #expect(XDPCounter.droppedClearInbound.rawValue == CULVERT_COUNT_DROPPED_CLEAR_INBOUND.rawValue)
        #expect(XDPCounter.redirectedProtected.rawValue == CULVERT_COUNT_REDIRECTED_PROTECTED.rawValue)
        #expect(XDPCounter.droppedNoSocket.rawValue == CULVERT_COUNT_DROPPED_NO_SOCKET.rawValue)
        #expect(XDPCounter.allCases.filter(\.isDrop).count == 6)
    }
}
