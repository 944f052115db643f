import CLinux
import Glibc
import Wire

/// The kernel's own guard against clear packets that policy wants protected (RFC 4301 §5.2), for when XDP is not attached: one
/// nf_tables table, replaced in one transaction, which outlives the process until `remove`.
///
/// ```
/// table ip culvert {
///     chain prerouting { type filter hook prerouting priority raw; iifname "wan0" jump outer; iifname "wan0" jump inbound }
///     chain outer { ip saddr <local subnets> ip daddr <remote subnets> counter drop }   only where no host of ours is
///     chain inbound {
///         fib daddr type local  esp, ah, udp dport 500, 4500, later UDP fragments  accept
///         ip saddr … ip daddr … accept                                             bypass
///         ip saddr <remote subnets> ip daddr <local subnets> counter drop
///     }
/// }
/// ```
public final class KernelFilter {
    /// Sources and destinations, each with each. IPv6 prefixes are ignored.
    public struct Pair: Hashable, Sendable {
        public var sources: [IPPrefix]
        public var destinations: [IPPrefix]

        public init(sources: [IPPrefix], destinations: [IPPrefix]) {
            (self.sources, self.destinations) = (sources, destinations)
        }
    }

    /// More pairs of prefixes than this are refused (E2BIG): the kernel would try each for every packet.
    public static let pairLimit = 8_192

    public let table: String
    private let socket: NetlinkSocket
    private var droppedBefore: UInt64 = 0
    private var fibIsMissing = false
    /// As the last `install` left it; nil before, and where the kernel did not say.
    private var installed: Contents?

    private static let prerouting = "prerouting"
    private static let inbound = "inbound"
    private static let outer = "outer"

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
    /// - Parameters:
    ///   - interfaces: the underlay's, by name: they need not exist yet.
    ///   - accept: let through before `drop`, in the direction given.
    ///   - drop: clear packets from sources to destinations.
    ///   - outer: those of `interfaces` that have no host of ours behind them.
    ///   - spoofed: dropped there as well, after `accept`.
    public func install(
        interfaces: [String], accept: [Pair], drop: [Pair], outer: [String] = [], spoofed: [Pair] = []
    ) throws(SystemError) {
        let accepted = Self.pairs(accept)
        let dropped = Self.pairs(drop)
        let never = Self.pairs(spoofed)
        guard accepted.count + dropped.count + never.count <= Self.pairLimit else {
            throw SystemError(
                call: "nf_tables", code: E2BIG, subject: "\(accepted.count + dropped.count + never.count) pairs of prefixes",
                remedy: "configure at most \(Self.pairLimit) pairs of local and remote subnets")
        }
        let before = (try? currentDrops()) ?? 0
        do throws(SystemError) {
            try commit(messages(interfaces, accepted, dropped, outer, never))
        } catch {
            // Kernels without the fib expression cannot tell local destinations: ESP and IKE then pass to any.
            guard error.code == ENOENT, !fibIsMissing else { throw Self.explained(error) }
            fibIsMissing = true
            do throws(SystemError) {
                try commit(messages(interfaces, accepted, dropped, outer, never))
            } catch { throw Self.explained(error) }
        }
        droppedBefore &+= before
        installed = (try? contents()) ?? nil
    }

    /// Takes the table away. One that is not there is no error.
    public func remove() throws(SystemError) {
        let before = (try? currentDrops()) ?? 0
        do throws(SystemError) { try commit([tableMessage(NFT_MSG_DELTABLE.rawValue, 0)]) } catch {
            guard error.code == ENOENT else { throw Self.explained(error) }
        }
        droppedBefore &+= before
    }

    /// True while the kernel has the table as `install` left it: in force, with as many chains and rules. Others may take away
    /// the table or its rules (`nft flush ruleset`, `nft flush table ip culvert`), and nobody tells us: look from time to time
    /// and `install` again.
    public func isInPlace() throws(SystemError) -> Bool {
        do throws(SystemError) {
            guard let present = try contents() else { return false }
            return installed.map { $0 == present } ?? true
        } catch {
            guard error.code == ENOENT else { throw Self.explained(error) }
            return false
        }
    }

    /// What the kernel counts by itself: cheaper than a reading of all rules, of which there may be thousands.
    private struct Contents: Equatable {
        /// NFT_TABLE_F_DORMANT: there, and without effect.
        var isDormant: Bool
        /// Chains of the table; of each of ours the rules and the jumps to it.
        var uses: [UInt32]
    }

    /// nil, or ENOENT, when the table or a chain is not there.
    private func contents() throws(SystemError) -> Contents? {
        let subject = "the table ip \(table)"
        let attributes = { (reply: NetlinkReply) in reply.body.dropping(MemoryLayout<nfgenmsg>.size).attributes }
        let number = { (reader: NetlinkReader?) in reader?.value(UInt32.self).map { UInt32(bigEndian: $0) } }
        var question = NetlinkMessage(nftables: NFT_MSG_GETTABLE.rawValue)
        question.attribute(NFTA_TABLE_NAME.rawValue, text: table)
        guard let reply = try socket.get(question, subject) else { return nil }
        let found = attributes(reply)
        let flags = number(found[UInt16(NFTA_TABLE_FLAGS.rawValue)]) ?? 0
        var result = Contents(
            isDormant: flags & UInt32(NFT_TABLE_F_DORMANT.rawValue) != 0,
            uses: [number(found[UInt16(NFTA_TABLE_USE.rawValue)]) ?? 0])
        for chain in [Self.prerouting, Self.inbound, Self.outer] {
            var question = NetlinkMessage(nftables: NFT_MSG_GETCHAIN.rawValue)
            question.attribute(NFTA_CHAIN_TABLE.rawValue, text: table)
            question.attribute(NFTA_CHAIN_NAME.rawValue, text: chain)
            guard let reply = try socket.get(question, subject) else { return nil }
            result.uses.append(number(attributes(reply)[UInt16(NFTA_CHAIN_USE.rawValue)]) ?? 0)
        }
        return result
    }

    /// Packets dropped since this object was made, over all replacements, and by what it found in place.
    public func droppedPackets() -> UInt64 { droppedBefore &+ ((try? currentDrops()) ?? 0) }

    // MARK: The rules

    private typealias PrefixPair = (source: IPv4PrefixBytes, destination: IPv4PrefixBytes)

    private static func pairs(_ list: [Pair]) -> [PrefixPair] {
        let bytes = { (prefix: IPPrefix) -> IPv4PrefixBytes? in
            prefix.address.isIPv4 ? IPv4PrefixBytes(address: prefix.address.bytes, length: prefix.length) : nil
        }
        return list.flatMap { pair in
            pair.sources.compactMap(bytes).flatMap { source in
                pair.destinations.compactMap(bytes).map { (source: source, destination: $0) }
            }
        }
    }

    private func messages(
        _ interfaces: [String], _ accept: [PrefixPair], _ drop: [PrefixPair], _ outer: [String], _ spoofed: [PrefixPair]
    ) -> [NetlinkMessage] {
        // Deleting a table that is not there fails: so it is made, deleted with all it had, and made anew.
        var list = [
            tableMessage(NFT_MSG_NEWTABLE.rawValue, NLM_F_CREATE), tableMessage(NFT_MSG_DELTABLE.rawValue, 0),
            tableMessage(NFT_MSG_NEWTABLE.rawValue, NLM_F_CREATE), chain(Self.prerouting, isBase: true),
            chain(Self.inbound, isBase: false), chain(Self.outer, isBase: false),
        ]
        list += outer.map { rule(Self.prerouting, [.interface($0), .jump(Self.outer)]) }
        list += interfaces.map { rule(Self.prerouting, [.interface($0), .jump(Self.inbound)]) }
        let local: [FilterExpression] = fibIsMissing ? [] : [.localDestination]
        let udp = local + [.layer4(17)]
        let addresses = { (pair: PrefixPair) in
            FilterExpression.source(pair.source) + FilterExpression.destination(pair.destination)
        }
        list += [
            rule(Self.inbound, local + [.layer4(50), .accept]), rule(Self.inbound, local + [.layer4(51), .accept]),
            rule(Self.inbound, udp + [.destinationPort(500), .accept]),
            rule(Self.inbound, udp + [.destinationPort(4500), .accept]),
            // Later fragments have no ports; without their first, which the rules above and below judge, they come to nothing.
            rule(
                Self.inbound,
                udp + [.header(network: true, offset: 6, equals: [0, 0], mask: [0x1F, 0xFF], inverted: true), .accept]),
        ]
        list += accept.map {
            rule(Self.inbound, addresses($0) + [.accept])
        }
        list += drop.map {
            rule(Self.inbound, addresses($0) + [.count, .drop])
        }
        list += accept.map { rule(Self.outer, addresses($0) + [.return]) }
        list += spoofed.map { rule(Self.outer, addresses($0) + [.count, .drop]) }
        return list
    }

    private func tableMessage(_ type: UInt32, _ flags: Int32) -> NetlinkMessage {
        var message = NetlinkMessage(nftables: type, flags: flags)
        message.attribute(NFTA_TABLE_NAME.rawValue, text: table)
        return message
    }

    private func chain(_ name: String, isBase: Bool) -> NetlinkMessage {
        var message = NetlinkMessage(nftables: NFT_MSG_NEWCHAIN.rawValue, flags: NLM_F_CREATE)
        message.attribute(NFTA_CHAIN_TABLE.rawValue, text: table)
        message.attribute(NFTA_CHAIN_NAME.rawValue, text: name)
        guard isBase else { return message }
        message.nested(NFTA_CHAIN_HOOK.rawValue) {
            $0.attribute(NFTA_HOOK_HOOKNUM.rawValue, be32: 0)  // prerouting
            $0.attribute(NFTA_HOOK_PRIORITY.rawValue, be32: UInt32(bitPattern: -300))  // raw: before connection tracking
        }
        message.attribute(NFTA_CHAIN_TYPE.rawValue, text: "filter")
        message.attribute(NFTA_CHAIN_POLICY.rawValue, be32: 1)  // accept
        return message
    }

    private func rule(_ chain: String, _ expressions: [FilterExpression]) -> NetlinkMessage {
        var message = NetlinkMessage(nftables: NFT_MSG_NEWRULE.rawValue, flags: NLM_F_CREATE | NLM_F_APPEND)
        message.attribute(NFTA_RULE_TABLE.rawValue, text: table)
        message.attribute(NFTA_RULE_CHAIN.rawValue, text: chain)
        message.nested(NFTA_RULE_EXPRESSIONS.rawValue) { list in
            for expression in expressions { expression.write(&list) }
        }
        return message
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

    private func currentDrops() throws(SystemError) -> UInt64 {
        var message = NetlinkMessage(nftables: NFT_MSG_GETRULE.rawValue, flags: NLM_F_DUMP)
        message.attribute(NFTA_RULE_TABLE.rawValue, text: table)
        var sum: UInt64 = 0
        for reply in try socket.dump(message, "the table ip \(table)") {
            let attributes = reply.body.dropping(MemoryLayout<nfgenmsg>.size).attributes
            // Older kernels return every table's rules.
            guard attributes[UInt16(NFTA_RULE_TABLE.rawValue)]?.text == table else { continue }
            for (_, element) in attributes[UInt16(NFTA_RULE_EXPRESSIONS.rawValue)]?.attributeList ?? [] {
                let parts = element.attributes
                guard parts[UInt16(NFTA_EXPR_NAME.rawValue)]?.text == "counter" else { continue }
                let data = parts[UInt16(NFTA_EXPR_DATA.rawValue)]?.attributes
                sum &+= data?[UInt16(NFTA_COUNTER_PACKETS.rawValue)]?.value(UInt64.self).map { UInt64(bigEndian: $0) } ?? 0
            }
        }
        return sum
    }
}
