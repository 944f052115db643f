import CLinux
import Wire

/// The few nf_tables expressions that the filter is made of, as the kernel's netlink wants them (linux/netfilter/nf_tables.h).
extension NetlinkMessage {
    static let nftablesSubsystem: UInt16 = 10
    static let familyIPv4: UInt8 = 2

    /// A message of the nf_tables subsystem.
    init(nftables type: some BinaryInteger, flags: Int32 = 0, family: UInt8 = familyIPv4) {
        self.init(type: Self.nftablesSubsystem << 8 | UInt16(truncatingIfNeeded: type), flags: flags)
        append(nfgenmsg(nfgen_family: family, version: 0, res_id: 0))
    }

    /// The begin (0x10) or end (0x11) of a batch.
    init(batch type: UInt16) {
        self.init(type: type, flags: 0)
        append(nfgenmsg(nfgen_family: 0, version: 0, res_id: Self.nftablesSubsystem.bigEndian))
    }
}

/// An address in a packet. The quoted ones are those of the packet that an ICMP error is about.
enum AddressPlace {
    case source, destination, quotedSource, quotedDestination

    var header: (network: Bool, offset: UInt32) {
        switch self {
        case .source: (true, 12)
        case .destination: (true, 16)
        case .quotedSource: (false, 8 + 12)
        case .quotedDestination: (false, 8 + 16)
        }
    }
}

/// One match or action of a rule.
enum FilterExpression {
    /// The interface the packet came in on, or leaves by, has this name.
    case input(String), output(String)
    /// Octets of the IPv4 header (`network`) or of what follows it compare so.
    case header(network: Bool, offset: UInt32, equals: [UInt8], mask: [UInt8]?, inverted: Bool = false)
    case prefix(IPPrefix, AddressPlace)
    /// The address is in the set of this number in the transaction.
    case inSet(UInt32, AddressPlace)
    case layer4(UInt8)
    case mark(UInt32)
    /// The destination is an address of this machine.
    case localDestination
    case count
    case accept
    case drop
    case jump(FilterChain)
    /// Back to where the chain was jumped to from.
    case `return`

    /// The name that asks the kernel for one.
    static let anonymousSet = "__set%d"

    static func destinationPort(_ port: UInt16) -> FilterExpression {
        .header(network: false, offset: 2, equals: [UInt8(port >> 8), UInt8(port & 255)], mask: nil)
    }

    private static let register: UInt32 = 1

    func write(_ list: inout NetlinkMessage) {
        switch self {
        case .input(let name): Self.interface(&list, key: NFT_META_IIFNAME.rawValue, name)
        case .output(let name): Self.interface(&list, key: NFT_META_OIFNAME.rawValue, name)
        case .mark(let mark):
            Self.meta(&list, key: UInt32(NFT_META_MARK.rawValue))
            Self.compare(&list, withUnsafeBytes(of: mark) { Array($0) }, inverted: false)
        case .prefix(let prefix, let place):
            Self.payload(&list, network: place.header.network, offset: place.header.offset, length: 4)
            if prefix.length < 32 { Self.bitwise(&list, Self.mask(prefix.length)) }
            Self.compare(&list, prefix.address.bytes, inverted: false)
        case .inSet(let number, let place):
            Self.payload(&list, network: place.header.network, offset: place.header.offset, length: 4)
            Self.expression(&list, "lookup") {
                $0.attribute(NFTA_LOOKUP_SET.rawValue, text: Self.anonymousSet)
                $0.attribute(NFTA_LOOKUP_SREG.rawValue, be32: Self.register)
                $0.attribute(NFTA_LOOKUP_SET_ID.rawValue, be32: number)
            }
        case .layer4(let number):
            Self.meta(&list, key: UInt32(NFT_META_L4PROTO.rawValue))
            Self.compare(&list, [number], inverted: false)
        case .header(let network, let offset, let value, let mask, let inverted):
            Self.payload(&list, network: network, offset: offset, length: UInt32(value.count))
            if let mask { Self.bitwise(&list, mask) }
            Self.compare(&list, value, inverted: inverted)
        case .localDestination:
            Self.expression(&list, "fib") {
                $0.attribute(NFTA_FIB_DREG.rawValue, be32: Self.register)
                $0.attribute(NFTA_FIB_RESULT.rawValue, be32: NFT_FIB_RESULT_ADDRTYPE.rawValue)
                $0.attribute(NFTA_FIB_FLAGS.rawValue, be32: NFTA_FIB_F_DADDR.rawValue)
            }
            Self.compare(&list, withUnsafeBytes(of: UInt32(RTN_LOCAL)) { Array($0) }, inverted: false)
        case .count: Self.expression(&list, "counter") { _ in }
        case .accept: Self.verdict(&list, 1, chain: nil)
        case .drop: Self.verdict(&list, 0, chain: nil)
        case .jump(let chain): Self.verdict(&list, -3, chain: chain.rawValue)
        case .return: Self.verdict(&list, -5, chain: nil)
        }
    }

    private static func expression(_ list: inout NetlinkMessage, _ name: String, _ body: (inout NetlinkMessage) -> Void) {
        list.nested(NFTA_LIST_ELEM.rawValue) {
            $0.attribute(NFTA_EXPR_NAME.rawValue, text: name)
            $0.nested(NFTA_EXPR_DATA.rawValue, body)
        }
    }

    private static func interface(_ list: inout NetlinkMessage, key: some BinaryInteger, _ name: String) {
        let padded = Array(name.utf8.prefix(15)) + [UInt8](repeating: 0, count: 16 - min(15, name.utf8.count))
        meta(&list, key: UInt32(key))
        compare(&list, padded, inverted: false)
    }

    /// Of a prefix of this length, in network order.
    private static func mask(_ length: Int) -> [UInt8] {
        (0..<4).map { octet in
            let bits = min(8, max(0, length - 8 * octet))
            return UInt8(truncatingIfNeeded: 0xFF00 >> bits)
        }
    }

    private static func meta(_ list: inout NetlinkMessage, key: UInt32) {
        expression(&list, "meta") {
            $0.attribute(NFTA_META_KEY.rawValue, be32: key)
            $0.attribute(NFTA_META_DREG.rawValue, be32: register)
        }
    }

    private static func payload(_ list: inout NetlinkMessage, network: Bool, offset: UInt32, length: UInt32) {
        expression(&list, "payload") {
            $0.attribute(NFTA_PAYLOAD_DREG.rawValue, be32: register)
            let base = network ? NFT_PAYLOAD_NETWORK_HEADER : NFT_PAYLOAD_TRANSPORT_HEADER
            $0.attribute(NFTA_PAYLOAD_BASE.rawValue, be32: base.rawValue)
            $0.attribute(NFTA_PAYLOAD_OFFSET.rawValue, be32: offset)
            $0.attribute(NFTA_PAYLOAD_LEN.rawValue, be32: length)
        }
    }

    private static func bitwise(_ list: inout NetlinkMessage, _ mask: [UInt8]) {
        expression(&list, "bitwise") {
            $0.attribute(NFTA_BITWISE_SREG.rawValue, be32: register)
            $0.attribute(NFTA_BITWISE_DREG.rawValue, be32: register)
            $0.attribute(NFTA_BITWISE_LEN.rawValue, be32: UInt32(mask.count))
            $0.nested(NFTA_BITWISE_MASK.rawValue) { $0.attribute(NFTA_DATA_VALUE.rawValue, mask) }
            $0.nested(NFTA_BITWISE_XOR.rawValue) {
                $0.attribute(NFTA_DATA_VALUE.rawValue, [UInt8](repeating: 0, count: mask.count))
            }
        }
    }

    private static func compare(_ list: inout NetlinkMessage, _ value: [UInt8], inverted: Bool) {
        expression(&list, "cmp") {
            $0.attribute(NFTA_CMP_SREG.rawValue, be32: register)
            $0.attribute(NFTA_CMP_OP.rawValue, be32: inverted ? NFT_CMP_NEQ.rawValue : NFT_CMP_EQ.rawValue)
            $0.nested(NFTA_CMP_DATA.rawValue) { $0.attribute(NFTA_DATA_VALUE.rawValue, value) }
        }
    }

    private static func verdict(_ list: inout NetlinkMessage, _ code: Int32, chain: String?) {
        expression(&list, "immediate") {
            $0.attribute(NFTA_IMMEDIATE_DREG.rawValue, be32: 0)
            $0.nested(NFTA_IMMEDIATE_DATA.rawValue) {
                $0.nested(NFTA_DATA_VERDICT.rawValue) {
                    $0.attribute(NFTA_VERDICT_CODE.rawValue, be32: UInt32(bitPattern: code))
                    if let chain { $0.attribute(NFTA_VERDICT_CHAIN.rawValue, text: chain) }
                }
            }
        }
    }
}
