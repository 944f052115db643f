import CLinux
import Wire

/// What the kernel's packet filter does, and the netlink messages that make it so. Membership of prefixes is looked up in sets,
/// so that a packet costs a few lookups per pair of lists, whatever is in the lists.
public struct FilterRules: Hashable, Sendable {
    /// Sources and destinations, each with each; an empty list matches nothing. IPv6 prefixes are ignored.
    public struct Pair: Hashable, Sendable {
        public var sources: [IPPrefix]
        public var destinations: [IPPrefix]

        public init(sources: [IPPrefix], destinations: [IPPrefix]) {
            (self.sources, self.destinations) = (sources, destinations)
        }

        var reversed: Pair { Pair(sources: destinations, destinations: sources) }
        /// Without `0.0.0.0/0` among the sources: the local side of a hub, which is no site's network.
        var ofSites: Pair { Pair(sources: sources.filter { $0.length > 0 }, destinations: destinations) }
    }

    /// What is let through on one interface; nil: on all.
    public struct Exception: Hashable, Sendable {
        public var interface: String?
        public var pair: Pair

        public init(interface: String?, pair: Pair) { (self.interface, self.pair) = (interface, pair) }
    }

    /// Interfaces that are the protected side's alone, and those that lead into tunnels: nothing is judged there. All other
    /// interfaces are judged, whether anybody has heard of them or not. By name: they need not exist yet.
    public var inside: [String]
    /// Interfaces without a host of ours behind them.
    public var outer: [String]
    /// Let through everywhere, in both directions.
    public var bypass: [Pair]
    public var onEntry: [Exception]
    public var onExit: [Exception]
    /// From local to remote subnets: neither these packets nor their answers cross in the clear.
    public var protected: [Pair]
    /// Packets with this mark may leave: those of our own sockets.
    public var mark: UInt32?

    public init(
        inside: [String] = [], outer: [String] = [], bypass: [Pair] = [], onEntry: [Exception] = [], onExit: [Exception] = [],
        protected: [Pair] = [], mark: UInt32? = nil
    ) {
        (self.inside, self.outer, self.bypass, self.mark) = (inside, outer, bypass, mark)
        (self.onEntry, self.onExit, self.protected) = (onEntry, onExit, protected)
    }

    var pairs: [Pair] { bypass + onEntry.map(\.pair) + onExit.map(\.pair) + protected }
}

/// The chains of the filter. Counters are told apart by them.
enum FilterChain: String, CaseIterable {
    case prerouting, inbound, outer, postrouting, outbound, quoted

    /// Whether what is dropped here came in, and did not try to leave.
    var isInbound: Bool {
        switch self {
        case .prerouting, .inbound, .outer: true
        case .postrouting, .outbound, .quoted: false
        }
    }

    /// Hook number and priority of the chains that the kernel calls itself.
    var hook: (number: UInt32, priority: Int32)? {
        switch self {
        case .prerouting: (0, -300)  // raw: before connection tracking
        case .postrouting: (4, 99)  // just before source NAT
        case .inbound, .outer, .outbound, .quoted: nil
        }
    }
}

/// Writes the table as one transaction.
struct FilterProgram {
    /// Elements of a set per message: an attribute's length has 16 bits.
    private static let elementsPerMessage = 1_000

    let table: String
    /// Kernels without the fib expression cannot tell local destinations: ESP and IKE then pass to any.
    let hasFib: Bool
    private(set) var messages: [NetlinkMessage] = []
    private var sets: UInt32 = 0

    init(_ rules: FilterRules, table: String, hasFib: Bool) {
        (self.table, self.hasFib) = (table, hasFib)
        // Deleting a table that is not there fails: so it is made, deleted with all it had, and made anew.
        messages = [
            Self.table(table, NFT_MSG_NEWTABLE.rawValue, NLM_F_CREATE), Self.table(table, NFT_MSG_DELTABLE.rawValue),
            Self.table(table, NFT_MSG_NEWTABLE.rawValue, NLM_F_CREATE),
        ]
        for chain in FilterChain.allCases { messages.append(newChain(chain)) }
        writeEntry(rules)
        writeExit(rules)
    }

    private mutating func writeEntry(_ rules: FilterRules) {
        for name in rules.inside { add(.prerouting, [.input(name), .return]) }
        add(.prerouting, [.jump(.inbound)])
        let local: [FilterExpression] = hasFib ? [.localDestination] : []
        let udp = local + [.layer4(17)]
        add(.inbound, local + [.layer4(50), .accept])
        add(.inbound, local + [.layer4(51), .accept])
        add(.inbound, udp + [.destinationPort(500), .accept])
        add(.inbound, udp + [.destinationPort(4500), .accept])
        // Later fragments have no ports; without their first, which the rules above and below judge, they come to nothing.
        add(
            .inbound,
            udp + [.header(network: true, offset: 6, equals: [0, 0], mask: [0x1F, 0xFF], inverted: true), .accept])
        for pair in rules.bypass.flatMap({ [$0, $0.reversed] }) { add(.inbound, pair, then: [.accept]) }
        for exception in rules.onEntry {
            add(.inbound, on: exception.interface.map { [.input($0)] } ?? [], exception.pair, then: [.accept])
        }
        for pair in rules.protected { add(.inbound, pair.reversed, then: [.count, .drop]) }
        for name in rules.outer { add(.inbound, [.input(name), .jump(.outer)]) }
        // Only a spoofer sends these there. Routed into the tunnel they would reach the far site as authentic.
        for pair in rules.protected { add(.outer, pair.ofSites, then: [.count, .drop]) }
    }

    private mutating func writeExit(_ rules: FilterRules) {
        for name in rules.inside { add(.postrouting, [.output(name), .return]) }
        add(.postrouting, [.jump(.outbound)])
        if let mark = rules.mark { add(.outbound, [.mark(mark), .accept]) }
        for pair in rules.bypass.flatMap({ [$0, $0.reversed] }) { add(.outbound, pair, then: [.accept]) }
        for exception in rules.onExit {
            add(.outbound, on: exception.interface.map { [.output($0)] } ?? [], exception.pair, then: [.accept])
        }
        for pair in rules.protected { add(.outbound, pair, then: [.count, .drop]) }
        for pair in rules.protected { add(.outbound, pair.ofSites.reversed, then: [.count, .drop]) }
        // Unreachable, source quench, redirect, time exceeded, parameter problem: they quote the packet they are about.
        for type: UInt8 in [3, 4, 5, 11, 12] {
            add(
                .outbound,
                [.layer4(1), .header(network: false, offset: 0, equals: [type], mask: nil), .jump(.quoted)])
        }
        for pair in rules.protected {
            add(.quoted, pair.ofSites, at: (.quotedSource, .quotedDestination), then: [.count, .drop])
            add(.quoted, pair.ofSites.reversed, at: (.quotedSource, .quotedDestination), then: [.count, .drop])
        }
    }

    // MARK: Rules

    private mutating func add(
        _ chain: FilterChain, on before: [FilterExpression] = [], _ pair: FilterRules.Pair,
        at places: (AddressPlace, AddressPlace) = (.source, .destination), then after: [FilterExpression]
    ) {
        guard let source = match(pair.sources, at: places.0), let destination = match(pair.destinations, at: places.1) else {
            return
        }
        add(chain, before + source + destination + after)
    }

    private mutating func add(_ chain: FilterChain, _ expressions: [FilterExpression]) {
        var message = NetlinkMessage(nftables: NFT_MSG_NEWRULE.rawValue, flags: NLM_F_CREATE | NLM_F_APPEND)
        message.attribute(NFTA_RULE_TABLE.rawValue, text: table)
        message.attribute(NFTA_RULE_CHAIN.rawValue, text: chain.rawValue)
        message.nested(NFTA_RULE_EXPRESSIONS.rawValue) { list in
            for expression in expressions { expression.write(&list) }
        }
        messages.append(message)
    }

    /// nil: nothing matches.
    private mutating func match(_ prefixes: [IPPrefix], at place: AddressPlace) -> [FilterExpression]? {
        let prefixes = prefixes.filter(\.address.isIPv4)
        if prefixes.isEmpty { return nil }
        if prefixes.contains(where: { $0.length == 0 }) { return [] }
        if prefixes.count == 1 { return [.prefix(prefixes[0], place)] }
        sets += 1
        messages += Self.set(AddressRanges(prefixes), number: sets, table: table)
        return [.inSet(sets, place)]
    }

    // MARK: Tables, chains, sets

    static func table(_ name: String, _ type: UInt32, _ flags: Int32 = 0) -> NetlinkMessage {
        var message = NetlinkMessage(nftables: type, flags: flags)
        message.attribute(NFTA_TABLE_NAME.rawValue, text: name)
        return message
    }

    private func newChain(_ chain: FilterChain) -> NetlinkMessage {
        var message = NetlinkMessage(nftables: NFT_MSG_NEWCHAIN.rawValue, flags: NLM_F_CREATE)
        message.attribute(NFTA_CHAIN_TABLE.rawValue, text: table)
        message.attribute(NFTA_CHAIN_NAME.rawValue, text: chain.rawValue)
        guard let hook = chain.hook else { return message }
        message.nested(NFTA_CHAIN_HOOK.rawValue) {
            $0.attribute(NFTA_HOOK_HOOKNUM.rawValue, be32: hook.number)
            $0.attribute(NFTA_HOOK_PRIORITY.rawValue, be32: UInt32(bitPattern: hook.priority))
        }
        message.attribute(NFTA_CHAIN_TYPE.rawValue, text: "filter")
        message.attribute(NFTA_CHAIN_POLICY.rawValue, be32: 1)  // accept
        return message
    }

    /// An anonymous set: it belongs to one rule, and nobody can change it once the rule is there.
    private static func set(_ ranges: AddressRanges, number: UInt32, table: String) -> [NetlinkMessage] {
        let flags = NFT_SET_ANONYMOUS.rawValue | NFT_SET_CONSTANT.rawValue | NFT_SET_INTERVAL.rawValue
        var made = NetlinkMessage(nftables: NFT_MSG_NEWSET.rawValue, flags: NLM_F_CREATE)
        made.attribute(NFTA_SET_TABLE.rawValue, text: table)
        made.attribute(NFTA_SET_NAME.rawValue, text: FilterExpression.anonymousSet)
        made.attribute(NFTA_SET_FLAGS.rawValue, be32: flags)
        made.attribute(NFTA_SET_KEY_TYPE.rawValue, be32: 7)  // ipv4_addr, as nft shows it
        made.attribute(NFTA_SET_KEY_LEN.rawValue, be32: 4)
        made.attribute(NFTA_SET_ID.rawValue, be32: number)
        let elements = ranges.ends
        return [made]
            + stride(from: 0, to: elements.count, by: elementsPerMessage).map { start in
                var message = NetlinkMessage(nftables: NFT_MSG_NEWSETELEM.rawValue, flags: NLM_F_CREATE)
                message.attribute(NFTA_SET_ELEM_LIST_TABLE.rawValue, text: table)
                message.attribute(NFTA_SET_ELEM_LIST_SET.rawValue, text: FilterExpression.anonymousSet)
                message.attribute(NFTA_SET_ELEM_LIST_SET_ID.rawValue, be32: number)
                message.nested(NFTA_SET_ELEM_LIST_ELEMENTS.rawValue) { list in
                    for element in elements[start..<min(start + elementsPerMessage, elements.count)] {
                        list.nested(NFTA_LIST_ELEM.rawValue) {
                            $0.nested(NFTA_SET_ELEM_KEY.rawValue) {
                                $0.attribute(NFTA_DATA_VALUE.rawValue, IPAddress.v4(element.address).bytes)
                            }
                            if element.isEnd {
                                $0.attribute(NFTA_SET_ELEM_FLAGS.rawValue, be32: NFT_SET_ELEM_INTERVAL_END.rawValue)
                            }
                        }
                    }
                }
                return message
            }
    }
}

/// IPv4 prefixes as the kernel's interval sets want them: ranges that neither overlap nor touch, ascending.
struct AddressRanges {
    private(set) var ranges: [ClosedRange<UInt32>] = []

    init(_ prefixes: [IPPrefix]) {
        let all = prefixes.compactMap { prefix in
            prefix.address.v4.flatMap { first in prefix.last.v4.map { first.bits...$0.bits } }
        }
        for range in all.sorted(by: { ($0.lowerBound, $0.upperBound) < ($1.lowerBound, $1.upperBound) }) {
            if let last = ranges.last, last.upperBound == .max || range.lowerBound <= last.upperBound + 1 {
                ranges[ranges.count - 1] = last.lowerBound...max(last.upperBound, range.upperBound)
            } else {
                ranges.append(range)
            }
        }
    }

    /// Where each range begins, and the address after its end; what reaches to the last address has no end.
    var ends: [(address: IPv4Address, isEnd: Bool)] {
        ranges.flatMap { range in
            let first = (address: IPv4Address(bits: range.lowerBound), isEnd: false)
            if range.upperBound == .max { return [first] }
            return [first, (address: IPv4Address(bits: range.upperBound + 1), isEnd: true)]
        }
    }
}
