import CLinux
import Glibc
import Wire

/// The kernel's own guard of what policy wants protected, for whatever routed a packet and whether XDP is attached or not (RFC
/// 4301 §5): one nf_tables table, replaced in one transaction, which outlives the process until `remove`.
///
/// ```
/// table ip culvert {
///     chain prerouting  { type filter hook prerouting priority raw; iifname <inside> return; jump inbound }
///     chain inbound {
///         fib daddr type local  esp, ah, udp dport 500, 4500, later UDP fragments  accept
///         ip saddr … ip daddr … accept                                             bypass, both ways
///         iifname … ip saddr … ip daddr … accept                                   the site's own, on this interface
///         ip saddr <remote subnets> ip daddr <local subnets> counter drop
///         iifname <outer> jump outer
///     }
///     chain outer       { ip saddr <local subnets> ip daddr <remote subnets> counter drop }   only where no host of ours is
///     chain postrouting { type filter hook postrouting priority 99; oifname <inside> return; jump outbound }
///     chain outbound {
///         mark <our sockets> accept
///         ip saddr … ip daddr … accept                                             bypass, both ways
///         oifname … ip daddr … accept                                              networks on this interface
///         ip saddr <local subnets> ip daddr <remote subnets> counter drop
///         ip saddr <remote subnets> ip daddr <local subnets> counter drop          but for 0.0.0.0/0
///         icmp type <errors> jump quoted
///     }
///     chain quoted      { the last two again, for the packet that the error is about }
/// }
/// ```
public final class KernelFilter {
    /// More prefixes than this are refused (E2BIG), and more pairs of lists, which the kernel tries one by one.
    public static let prefixLimit = 65_536
    public static let pairLimit = 2_048

    /// Packets dropped since the object was made, over all replacements, and by what it found in place.
    public struct Drops: Hashable, Sendable {
        /// On the way in and on the way out.
        public var inbound: UInt64 = 0
        public var outbound: UInt64 = 0

        public init(inbound: UInt64 = 0, outbound: UInt64 = 0) { (self.inbound, self.outbound) = (inbound, outbound) }

        static func &+ (a: Drops, b: Drops) -> Drops {
            Drops(inbound: a.inbound &+ b.inbound, outbound: a.outbound &+ b.outbound)
        }
    }

    public let table: String
    private let socket: NetlinkSocket
    private var droppedBefore = Drops()
    private var fibIsMissing = false
    /// As the last `install` left it; nil before, and where the kernel did not say.
    private var installed: Contents?
    /// The ruleset's generation when it was last seen to be in place.
    private var seenGeneration: UInt32?

    public init(table: String = "culvert") throws(SystemError) {
        self.table = table
        do throws(SystemError) {
            socket = try NetlinkSocket(protocol: NETLINK_NETFILTER, name: "nf_tables")
        } catch {
            guard error.code == EPROTONOSUPPORT else { throw error }
            throw Self.missing(error.code)
        }
        var buffer: Int32 = 16 << 20
        _ = setsockopt(socket.descriptor.number, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, 4)
    }

    /// Replaces the whole filter; no packet sees half of it.
    public func install(_ rules: FilterRules) throws(SystemError) {
        let pairs = rules.pairs
        let prefixes = pairs.reduce(0) { $0 + $1.sources.count + $1.destinations.count }
        guard pairs.count <= Self.pairLimit, prefixes <= Self.prefixLimit else {
            throw SystemError(
                call: "nf_tables", code: E2BIG, subject: "\(prefixes) prefixes in \(pairs.count) pairs of lists",
                remedy: "configure at most \(Self.prefixLimit) subnets, in at most \(Self.pairLimit) pairs of lists that differ")
        }
        let before = (try? currentDrops()) ?? Drops()
        do throws(SystemError) {
            try commit(FilterProgram(rules, table: table, hasFib: !fibIsMissing).messages)
        } catch {
            // Kernels without the fib expression cannot tell local destinations: ESP and IKE then pass to any.
            guard error.code == ENOENT, !fibIsMissing else { throw Self.explained(error) }
            fibIsMissing = true
            do throws(SystemError) {
                try commit(FilterProgram(rules, table: table, hasFib: false).messages)
            } catch { throw Self.explained(error) }
        }
        droppedBefore = droppedBefore &+ before
        let generation = try? self.generation()
        installed = (try? contents()) ?? nil
        seenGeneration = generation
    }

    /// Takes the table away. One that is not there is no error.
    public func remove() throws(SystemError) {
        let before = (try? currentDrops()) ?? Drops()
        do throws(SystemError) { try commit([FilterProgram.table(table, NFT_MSG_DELTABLE.rawValue)]) } catch {
            guard error.code == ENOENT else { throw Self.explained(error) }
        }
        droppedBefore = droppedBefore &+ before
    }

    /// True while the kernel has the table as `install` left it: in force, with the same rules. Others may take away the table
    /// or its rules (`nft flush ruleset`, `nft flush table ip culvert`), and nobody tells us: look from time to time and
    /// `install` again. Costs one question while nobody has changed any rule on this machine.
    public func isInPlace() throws(SystemError) -> Bool {
        let generation = try? self.generation()
        if let generation, generation == seenGeneration { return true }
        do throws(SystemError) {
            guard let present = try contents(), installed.map({ $0 == present }) ?? true else { return false }
            seenGeneration = generation
            return true
        } catch {
            guard error.code == ENOENT else { throw Self.explained(error) }
            return false
        }
    }

    /// Counts every change of any table, by anybody.
    private func generation() throws(SystemError) -> UInt32? {
        let reply = try socket.get(NetlinkMessage(nftables: NFT_MSG_GETGEN.rawValue), "the generation")
        return reply.flatMap { Self.number(Self.attributes($0)[UInt16(NFTA_GEN_ID.rawValue)]) }
    }

    /// What tells a table from one that somebody has changed: sets of rules cannot change.
    private struct Contents: Equatable {
        /// NFT_TABLE_F_DORMANT: there, and without effect.
        var isDormant: Bool
        /// Of each chain of ours the rules and the jumps to it.
        var uses: [UInt32] = []
        /// Whatever replaces a rule has another.
        var ruleHandles: [UInt64] = []
    }

    private static func attributes(_ reply: NetlinkReply) -> [UInt16: NetlinkReader] {
        reply.body.dropping(MemoryLayout<nfgenmsg>.size).attributes
    }

    private static func number(_ reader: NetlinkReader?) -> UInt32? {
        reader?.value(UInt32.self).map { UInt32(bigEndian: $0) }
    }

    /// nil, or ENOENT, when the table or a chain is not there.
    private func contents() throws(SystemError) -> Contents? {
        let subject = "the table ip \(table)"
        var question = NetlinkMessage(nftables: NFT_MSG_GETTABLE.rawValue)
        question.attribute(NFTA_TABLE_NAME.rawValue, text: table)
        guard let reply = try socket.get(question, subject) else { return nil }
        let flags = Self.number(Self.attributes(reply)[UInt16(NFTA_TABLE_FLAGS.rawValue)]) ?? 0
        var result = Contents(isDormant: flags & UInt32(NFT_TABLE_F_DORMANT.rawValue) != 0)
        for chain in FilterChain.allCases {
            var question = NetlinkMessage(nftables: NFT_MSG_GETCHAIN.rawValue)
            question.attribute(NFTA_CHAIN_TABLE.rawValue, text: table)
            question.attribute(NFTA_CHAIN_NAME.rawValue, text: chain.rawValue)
            guard let reply = try socket.get(question, subject) else { return nil }
            result.uses.append(Self.number(Self.attributes(reply)[UInt16(NFTA_CHAIN_USE.rawValue)]) ?? 0)
        }
        result.ruleHandles = try rules().map { attributes in
            attributes[UInt16(NFTA_RULE_HANDLE.rawValue)]?.value(UInt64.self) ?? 0
        }
        return result
    }

    /// Attributes of each rule, in order.
    private func rules() throws(SystemError) -> [[UInt16: NetlinkReader]] {
        var message = NetlinkMessage(nftables: NFT_MSG_GETRULE.rawValue, flags: NLM_F_DUMP)
        message.attribute(NFTA_RULE_TABLE.rawValue, text: table)
        // Older kernels return every table's rules.
        return try socket.dump(message, "the table ip \(table)").map(Self.attributes)
            .filter { $0[UInt16(NFTA_RULE_TABLE.rawValue)]?.text == table }
    }

    public func droppedPackets() -> Drops { droppedBefore &+ ((try? currentDrops()) ?? Drops()) }

    private func currentDrops() throws(SystemError) -> Drops {
        var sum = Drops()
        for attributes in try rules() {
            let chain = attributes[UInt16(NFTA_RULE_CHAIN.rawValue)].map(\.text).flatMap { FilterChain(rawValue: $0) }
            let count = Self.counted(attributes)
            if chain?.isInbound ?? true { sum.inbound &+= count } else { sum.outbound &+= count }
        }
        return sum
    }

    private static func counted(_ rule: [UInt16: NetlinkReader]) -> UInt64 {
        var sum: UInt64 = 0
        for (_, element) in rule[UInt16(NFTA_RULE_EXPRESSIONS.rawValue)]?.attributeList ?? [] {
            let parts = element.attributes
            guard parts[UInt16(NFTA_EXPR_NAME.rawValue)]?.text == "counter" else { continue }
            let data = parts[UInt16(NFTA_EXPR_DATA.rawValue)]?.attributes
            sum &+= data?[UInt16(NFTA_COUNTER_PACKETS.rawValue)]?.value(UInt64.self).map { UInt64(bigEndian: $0) } ?? 0
        }
        return sum
    }

    // MARK: The transaction

    /// All or nothing. Every message has the same sequence number, the last one asks for the acknowledgement: the first answer
    /// is then either the first error or success.
    private func commit(_ messages: [NetlinkMessage]) throws(SystemError) {
        let sequence = socket.nextSequence()
        var bytes = NetlinkMessage(batch: 0x10).finished(sequence: sequence)
        for (index, message) in messages.enumerated() {
            bytes += message.finished(sequence: sequence, addingFlags: index == messages.count - 1 ? NLM_F_ACK : 0)
        }
        bytes += NetlinkMessage(batch: 0x11).finished(sequence: sequence)
        let subject = "the table ip \(table)"
        try socket.send(bytes, subject)
        while true {
            for reply in try socket.receive(subject) where reply.sequence == sequence && Int32(reply.type) == NLMSG_ERROR {
                let (code, text) = reply.outcome
                guard code == 0 else { throw SystemError(call: "nf_tables", code: code, subject: subject, detail: text) }
                return
            }
        }
    }

    private static func explained(_ error: SystemError) -> SystemError {
        [EOPNOTSUPP, EPROTONOSUPPORT, EINVAL, ENOENT].contains(error.code) ? missing(error.code, error.detail) : error
    }

    private static func missing(_ code: Int32, _ detail: String = "") -> SystemError {
        SystemError(
            call: "nf_tables", code: code, detail: detail,
            remedy: "use a kernel with nf_tables for IPv4 (CONFIG_NF_TABLES_IPV4; modprobe nf_tables)")
    }
}
