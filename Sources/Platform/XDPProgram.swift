import CLinux
import Glibc
import Synchronization
import Wire

/// Where the kernel runs the program.
public enum XDPAttachMode: String, Sendable, Hashable, CaseIterable {
    /// In the driver where it can, else generic.
    case auto
    /// In the driver, before the kernel has made anything of the packet.
    case native
    /// In the network stack: works on every interface, slower.
    case generic

    var flags: UInt32 { self == .generic ? 1 << 1 : 1 << 2 }  // XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE
}

/// What the program knows of one prefix. Bit i of a set stands for child i, or bypass rule i (64 each at most). A lookup sees
/// the longest match only: give each prefix the sets of every prefix that covers it.
public struct PrefixPolicy: Sendable, Hashable {
    /// 0: nothing to say; 1: to the kernel (connected, or reached without a tunnel); 2: to a worker (behind a tunnel).
    public var steer: UInt32
    public var localSets: UInt64
    public var remoteSets: UInt64
    public var bypassSource: UInt64
    public var bypassDestination: UInt64

    public init(
        steer: UInt32, localSets: UInt64 = 0, remoteSets: UInt64 = 0, bypassSource: UInt64 = 0, bypassDestination: UInt64 = 0
    ) {
        self.steer = steer
        self.localSets = localSets
        self.remoteSets = remoteSets
        self.bypassSource = bypassSource
        self.bypassDestination = bypassDestination
    }
}

/// The XDP program: loaded once, attached to every port, steered through its maps. Every method is safe from any thread.
///
/// The program stays attached when this object or the process ends: without sockets it drops what is to be protected and
/// passes the rest. `detach` takes it off.
public final class XDPProgram: @unchecked Sendable {
    /// The name the kernel shows, by which a program left by an earlier run is known.
    public static let name = "culvert_xdp"

    private let object: OpaquePointer
    private let program: Int32
    private let maps: Maps
    private let state = Mutex(Entries())

    /// What the maps hold, so that an update touches only what changed.
    private struct Entries {
        var localAddresses: Set<IPAddress> = []
        var prefixes: [IPPrefix: PrefixPolicy] = [:]
        var peers: Set<IPAddress> = []
    }

    private struct Maps {
        let ports, sockets, localAddresses, localIPv6, prefixes, settings, counters, ikeSAs, peers, peersIPv6: Int32
    }

    /// Loads the program into the kernel. Attaches nothing.
    public init() throws(SystemError) {
        culvert_bpf_log_start()
        // Kernels before 5.11 charge maps to this limit; on newer ones a refusal does no harm.
        culvert_raise_memlock_limit()
        guard let bytes = Base64.decode(embeddedXDPProgram) else {
            throw SystemError(call: "reading the embedded XDP program", code: 0, remedy: "build again from clean")
        }
        guard let object = bytes.withUnsafeBytes({ bpf_object__open_mem($0.baseAddress, $0.count, nil) }) else {
            throw Self.error("bpf_object__open_mem", errno)
        }
        let loaded = bpf_object__load(object)
        guard loaded == 0 else {
            bpf_object__close(object)
            throw Self.error("bpf_object__load", -loaded)
        }
        self.object = object
        program = bpf_program__fd(bpf_object__find_program_by_name(object, Self.name))
        let map = { (name: String) in bpf_object__find_map_fd_by_name(object, name) }
        maps = Maps(
            ports: map("ports"), sockets: map("xsks"), localAddresses: map("local_addresses"),
            localIPv6: map("local_ipv6"), prefixes: map("prefixes"), settings: map("settings"), counters: map("counters"),
            ikeSAs: map("ike_sas"), peers: map("peers"), peersIPv6: map("peers_ipv6"))
    }

    deinit { bpf_object__close(object) }

    // MARK: Attaching

    /// What is attached to an interface now.
    public struct Attachment: Sendable, Hashable {
        public let programID: UInt32
        public let name: String
        public let mode: XDPAttachMode
    }

    /// The program attached to an interface, ours or another's; nil when there is none.
    public static func attachment(interfaceIndex: Int) throws(SystemError) -> Attachment? {
        culvert_bpf_log_start()
        var query = culvert_xdp_attachment()
        let result = culvert_xdp_query(index(interfaceIndex), &query)
        guard result == 0 else { throw error("bpf_xdp_query", -result, subject: "interface \(interfaceIndex)") }
        guard query.program_id != 0 else { return nil }
        var name = [CChar](repeating: 0, count: 64)
        let named = culvert_program_name(query.program_id, &name, name.count)
        let text = named == 0 ? String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self) : ""
        return Attachment(programID: query.program_id, name: text, mode: query.mode == 2 ? .generic : .native)
    }

    /// Attaches to one interface and returns the mode in use: never `.auto`. A program that an earlier run of ours left is
    /// replaced without a gap where the mode is the same. Another program is left alone and named in the error (EBUSY).
    @discardableResult
    public func attach(interfaceIndex: Int, mode: XDPAttachMode) throws(SystemError) -> XDPAttachMode {
        let present = try Self.attachment(interfaceIndex: interfaceIndex)
        if let present, present.name != Self.name {
            let chained = present.name == "xdp_dispatcher"
            throw SystemError(
                call: "attaching the XDP program", code: EBUSY, subject: "interface \(interfaceIndex)",
                detail: "the XDP program \"\(present.name)\" (id \(present.programID)) is attached already",
                remedy: chained
                    ? "unload it (xdp-loader status; xdp-loader unload … --all)" : "detach it (ip link set … xdp off)")
        }
        if mode != .auto { return try attach(interfaceIndex, mode, replacing: present) }
        // Not every refusal of a driver is worth a second try: one that is gone or busy is gone or busy in any mode.
        do throws(SystemError) { return try attach(interfaceIndex, .native, replacing: present) } catch {
            guard [EOPNOTSUPP, EINVAL, ENOMEM, ENOSPC, ERANGE].contains(error.code) else { throw error }
            let left = try Self.attachment(interfaceIndex: interfaceIndex)
            return try attach(interfaceIndex, .generic, replacing: left)
        }
    }

    private func attach(
        _ interfaceIndex: Int, _ mode: XDPAttachMode, replacing present: Attachment?
    ) throws(SystemError) -> XDPAttachMode {
        var replaced: UInt32 = 0
        if let present {
            if present.mode == mode {
                replaced = present.programID
            } else {
                // One interface has one mode: the kernel wants the old program gone first.
                _ = culvert_xdp_detach(Self.index(interfaceIndex), present.mode.flags, present.programID)
            }
        }
        let result = culvert_xdp_attach(Self.index(interfaceIndex), program, mode.flags, replaced)
        guard result == 0 else {
            throw Self.error(
                "attaching the XDP program in \(mode.rawValue) mode", -result, subject: "interface \(interfaceIndex)",
                remedy: Self.attachRemedy(-result, mode))
        }
        return mode
    }

    private static func attachRemedy(_ code: Int32, _ mode: XDPAttachMode) -> String {
        switch code {
        case EBUSY, EEXIST: "detach the other XDP program (ip link set … xdp off)"
        case EOPNOTSUPP where mode == .native: "the driver has no native XDP: set xdp_mode: auto or generic"
        case EINVAL, ERANGE: "lower the interface's MTU (native XDP needs a packet in one page) or set xdp_mode: generic"
        default: ""
        }
    }

    /// Takes our program off an interface. An interface that is gone, or has another program or none, is left as it is.
    @discardableResult
    public static func detach(interfaceIndex: Int) -> Bool {
        guard let present = try? attachment(interfaceIndex: interfaceIndex), present.name == name else { return false }
        return culvert_xdp_detach(index(interfaceIndex), present.mode.flags, present.programID) == 0
    }

    public func detach(interfaceIndex: Int) { Self.detach(interfaceIndex: interfaceIndex) }

    // MARK: Maps

    /// Makes an interface a port.
    /// - Parameters:
    ///   - index: the port's number, 0 to 63; its sockets are registered under it.
    ///   - roles: 1 underlay, 2 protected, 3 both.
    ///   - mac: six octets; frames for another unicast address are left to the kernel. Empty: not checked.
    public func setPort(interfaceIndex: Int, index: Int, roles: UInt32, mac: [UInt8]) throws(SystemError) {
        guard (0..<Int(CULVERT_MAX_PORTS)).contains(index), mac.isEmpty || mac.count == 6 else {
            throw SystemError(
                call: "setPort", code: EINVAL, subject: "port \(index)",
                remedy: "configure at most \(CULVERT_MAX_PORTS) interfaces")
        }
        var key = UInt32(bitPattern: Self.index(interfaceIndex))
        var value = culvert_port()
        value.index = UInt32(index)
        value.roles = roles
        if mac.count == 6 { value.mac = (mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]) }
        try update(maps.ports, &key, &value, "ports")
    }

    /// The interface is no port any more: all its packets pass.
    public func removePort(interfaceIndex: Int) {
        var key = UInt32(bitPattern: Self.index(interfaceIndex))
        _ = bpf_map_delete_elem(maps.ports, &key)
    }

    /// Gives one receive queue of a port to an AF_XDP socket. The kernel takes it back when the socket closes.
    public func setSocket(portIndex: Int, queue: Int, descriptor: Int32) throws(SystemError) {
        guard (0..<Int(CULVERT_MAX_PORTS)).contains(portIndex), (0..<Int(CULVERT_MAX_QUEUES)).contains(queue) else {
            throw SystemError(
                call: "setSocket", code: EINVAL, subject: "port \(portIndex) queue \(queue)",
                remedy: "use at most 64 queues per interface (ethtool -L … combined N)")
        }
        var key = UInt32(portIndex) * UInt32(CULVERT_MAX_QUEUES) + UInt32(queue)
        var value = UInt32(bitPattern: descriptor)
        try update(maps.sockets, &key, &value, "xsks")
    }

    private static func index(_ interfaceIndex: Int) -> Int32 { Int32(clamping: interfaceIndex) }

    /// The addresses of this machine, all of them: packets for them are never steered, and IPsec for them is ours.
    public func setLocalAddresses(_ list: [IPAddress]) throws(SystemError) {
        let addresses = Set(list)
        try locked { (entries: inout Entries) throws(SystemError) in
            for address in addresses.subtracting(entries.localAddresses) {
                try set(address, isPresent: true, in: (maps.localAddresses, "local_addresses"), (maps.localIPv6, "local_ipv6"))
                entries.localAddresses.insert(address)
            }
            for address in entries.localAddresses.subtracting(addresses) {
                try set(address, isPresent: false, in: (maps.localAddresses, "local_addresses"), (maps.localIPv6, "local_ipv6"))
                entries.localAddresses.remove(address)
            }
        }
    }

    /// Puts an address into the map of its family, or takes it out.
    private func set(
        _ address: IPAddress, isPresent: Bool, in map: (Int32, String), _ mapIPv6: (Int32, String)
    ) throws(SystemError) {
        var value: UInt32 = 1
        switch address {
        case .v4(let address):
            var key = address.bits.bigEndian
            if isPresent { try update(map.0, &key, &value, map.1) } else { try delete(map.0, &key, map.1) }
        case .v6(let address):
            // `struct culvert_ipv6_address`, in the order of the wire.
            var key = (address.high.bigEndian, address.low.bigEndian)
            if isPresent { try update(mapIPv6.0, &key, &value, mapIPv6.1) } else { try delete(mapIPv6.0, &key, mapIPv6.1) }
        }
    }

    /// Replaces all prefixes; IPv6 ones are ignored. Longer prefixes change first and stale ones go last, so that no packet
    /// in between finds less protection than both the old and the new table give it.
    public func setPrefixes(_ table: [(prefix: IPPrefix, policy: PrefixPolicy)]) throws(SystemError) {
        try locked { (entries: inout Entries) throws(SystemError) in
            let wanted = Dictionary(table.filter { $0.prefix.address.isIPv4 }.map { ($0.prefix, $0.policy) }) { _, last in last }
            let longestFirst = wanted.sorted { $0.key.length > $1.key.length }
            for (prefix, policy) in longestFirst where entries.prefixes[prefix] != policy {
                guard var key = Self.prefixKey(prefix) else { continue }
                var value = culvert_prefix_policy()
                value.steer = policy.steer
                value.local_sets = policy.localSets
                value.remote_sets = policy.remoteSets
                value.bypass_source = policy.bypassSource
                value.bypass_destination = policy.bypassDestination
                try update(maps.prefixes, &key, &value, "prefixes")
                entries.prefixes[prefix] = policy
            }
            for prefix in entries.prefixes.keys where wanted[prefix] == nil {
                guard var key = Self.prefixKey(prefix) else { continue }
                try delete(maps.prefixes, &key, "prefixes")
                entries.prefixes[prefix] = nil
            }
        }
    }

    /// The same, as a tuple per prefix.
    public func setPrefixes(
        _ table: [(
            prefix: IPPrefix, steer: UInt32, localSets: UInt64, remoteSets: UInt64, bypassSource: UInt64,
            bypassDestination: UInt64
        )]
    ) throws(SystemError) {
        try setPrefixes(
            table.map {
                let policy = PrefixPolicy(
                    steer: $0.steer, localSets: $0.localSets, remoteSets: $0.remoteSets, bypassSource: $0.bypassSource,
                    bypassDestination: $0.bypassDestination)
                return (prefix: $0.prefix, policy: policy)
            })
    }

    private static func prefixKey(_ prefix: IPPrefix) -> culvert_prefix? {
        guard let address = prefix.address.v4 else { return nil }
        return culvert_prefix(length: UInt32(prefix.length), address: address.bits.bigEndian)
    }

    /// What passes of IKE.
    /// - Parameters:
    ///   - packetsPerSecond: from one source address (of IPv6: one network of 64 bits), or for one IKE SA of ours, on
    ///   average; 0 is
    ///     no limit.
    ///   - burst: at once, after a silence.
    ///   - onlyPeers: IKE and ESP from any other address is dropped; nil: everybody may come.
    ///   - longestFrameBytes: of an Ethernet frame that the sockets take; longer ones go to the kernel. 0: any.
    public func setIKE(
        packetsPerSecond: Int, burst: Int, onlyPeers: [IPAddress]? = nil, longestFrameBytes: Int = 0
    ) throws(SystemError) {
        let wanted = Set(onlyPeers ?? [])
        try locked { (entries: inout Entries) throws(SystemError) in
            // Who may come is known before others are shut out.
            for address in wanted.subtracting(entries.peers) {
                try set(address, isPresent: true, in: (maps.peers, "peers"), (maps.peersIPv6, "peers_ipv6"))
                entries.peers.insert(address)
            }
            var key: UInt32 = 0
            var value = culvert_settings()
            value.ike_packets_per_second = UInt32(clamping: packetsPerSecond)
            value.ike_burst_packets = UInt32(clamping: max(burst, 1))
            value.only_peers = onlyPeers == nil ? 0 : 1
            value.longest_frame_bytes = UInt32(clamping: longestFrameBytes)
            try update(maps.settings, &key, &value, "settings")
            for address in entries.peers.subtracting(wanted) {
                try set(address, isPresent: false, in: (maps.peers, "peers"), (maps.peersIPv6, "peers_ipv6"))
                entries.peers.remove(address)
            }
        }
    }

    /// An IKE SA of ours began or ended. Best effort: one that finds no room shares its source's limit, as all others do.
    /// - Parameter spi: the one that we chose.
    public func setIKESA(spi: UInt64, isLive: Bool) {
        var key = spi.bigEndian
        // It begins with nothing used of its share: credit is capped at the burst when the first packet comes.
        var value = culvert_ike_bucket(last_ns: 0, credit_ns: 0)
        if isLive { _ = bpf_map_update_elem(maps.ikeSAs, &key, &value, 1) } else { _ = bpf_map_delete_elem(maps.ikeSAs, &key) }
    }

    /// The program's counters, summed over all CPUs, cumulative since it was loaded.
    public func counters() throws(SystemError) -> XDPCounters {
        let cpus = libbpf_num_possible_cpus()
        guard cpus > 0 else { throw Self.error("libbpf_num_possible_cpus", -cpus) }
        var result = XDPCounters()
        var perCPU = [UInt64](repeating: 0, count: Int(cpus))
        for counter in XDPCounter.allCases {
            var key = counter.rawValue
            let failed = bpf_map_lookup_elem(maps.counters, &key, &perCPU)
            guard failed == 0 else { throw Self.error("reading the XDP counters", -failed) }
            result[counter] = perCPU.reduce(0, &+)
        }
        return result
    }

    /// Runs the program once over a frame, as if it had come in on this interface and queue (BPF_PROG_TEST_RUN), and
    /// returns the verdict: 1 drop, 2 pass, 4 redirect. For tests and for `diagnose`; the counters count it.
    public func testRun(frame: [UInt8], interfaceIndex: Int, queue: UInt32 = 0) throws(SystemError) -> UInt32 {
        var verdict: UInt32 = 0
        let result = frame.withUnsafeBytes {
            culvert_program_test_run(
                program, $0.baseAddress, UInt32($0.count), UInt32(bitPattern: Self.index(interfaceIndex)), queue, &verdict)
        }
        guard result == 0 else { throw Self.error("BPF_PROG_TEST_RUN", -result) }
        return verdict
    }

    // MARK: Helpers

    private func update<Key: BitwiseCopyable, Value: BitwiseCopyable>(
        _ map: Int32, _ key: inout Key, _ value: inout Value, _ name: String
    ) throws(SystemError) {
        let result = bpf_map_update_elem(map, &key, &value, 0)
        guard result == 0 else {
            throw Self.error(
                "updating the XDP map \(name)", -result,
                remedy: result == -ENOSPC || result == -E2BIG ? "configure fewer prefixes, addresses or interfaces" : "")
        }
    }

    private func delete<Key: BitwiseCopyable>(_ map: Int32, _ key: inout Key, _ name: String) throws(SystemError) {
        let result = bpf_map_delete_elem(map, &key)
        guard result == 0 || result == -ENOENT else { throw Self.error("deleting from the XDP map \(name)", -result) }
    }

    private func locked(_ body: (inout Entries) throws(SystemError) -> Void) throws(SystemError) {
        try state.withLock { (entries: inout sending Entries) throws(SystemError) in try body(&entries) }
    }

    /// With libbpf's own words since the last call, at most their end.
    private static func error(_ call: String, _ code: Int32, subject: String = "", remedy: String = "") -> SystemError {
        var log = [CChar](repeating: 0, count: 4096)
        let length = culvert_bpf_log_take(&log, log.count)
        let text = String(decoding: log.prefix(length).map { UInt8(bitPattern: $0) }, as: UTF8.self)
        let lines = text.split(separator: "\n").suffix(12).joined(separator: " | ")
        return SystemError(call: call, code: code, subject: subject, detail: lines, remedy: remedy)
    }
}
