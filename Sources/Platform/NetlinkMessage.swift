import CLinux

/// A netlink message being written: header, family header, attributes. Host byte order, padded to four octets as the
/// kernel wants it.
struct NetlinkMessage {
    private(set) var bytes: [UInt8] = []

    /// The length is filled in by `finished`.
    init(type: some BinaryInteger, flags: Int32) {
        var header = nlmsghdr()
        header.nlmsg_type = UInt16(truncatingIfNeeded: type)
        header.nlmsg_flags = UInt16(truncatingIfNeeded: flags | NLM_F_REQUEST)
        append(header)
    }

    mutating func append<Value: BitwiseCopyable>(_ value: Value) {
        withUnsafeBytes(of: value) { bytes.append(contentsOf: $0) }
        pad()
    }

    mutating func attribute(_ type: some BinaryInteger, _ value: some Collection<UInt8>) {
        appendHeader(type, length: 4 + value.count)
        bytes.append(contentsOf: value)
        pad()
    }

    mutating func attribute(_ type: some BinaryInteger, u32 value: UInt32) {
        attribute(type, withUnsafeBytes(of: value) { Array($0) })
    }

    /// Network byte order, as nf_tables has it.
    mutating func attribute(_ type: some BinaryInteger, be32 value: UInt32) { attribute(type, u32: value.bigEndian) }

    mutating func attribute(_ type: some BinaryInteger, text: String) { attribute(type, Array(text.utf8) + [0]) }

    /// An attribute that holds the attributes `body` writes.
    mutating func nested(_ type: some BinaryInteger, _ body: (inout NetlinkMessage) -> Void) {
        let start = bytes.count
        appendHeader(UInt32(truncatingIfNeeded: type) | UInt32(NLA_F_NESTED), length: 0)
        body(&self)
        let length = UInt16(truncatingIfNeeded: bytes.count - start)
        withUnsafeBytes(of: length) { bytes.replaceSubrange(start..<start + 2, with: $0) }
    }

    private mutating func appendHeader(_ type: some BinaryInteger, length: Int) {
        withUnsafeBytes(of: (UInt16(truncatingIfNeeded: length), UInt16(truncatingIfNeeded: type))) {
            bytes.append(contentsOf: $0)
        }
    }

    private mutating func pad() {
        while bytes.count % 4 != 0 { bytes.append(0) }
    }

    func finished(sequence: UInt32, addingFlags extra: Int32 = 0) -> [UInt8] {
        var result = bytes
        result[6] |= UInt8(truncatingIfNeeded: extra)
        withUnsafeBytes(of: UInt32(truncatingIfNeeded: bytes.count)) { result.replaceSubrange(0..<4, with: $0) }
        withUnsafeBytes(of: sequence) { result.replaceSubrange(8..<12, with: $0) }
        return result
    }
}

/// Octets from the kernel, read with bounds. What is cut short reads as nothing.
struct NetlinkReader {
    let bytes: ArraySlice<UInt8>

    /// The value at the start, if there are enough octets for it.
    func value<Value: BitwiseCopyable>(_ type: Value.Type, at offset: Int = 0) -> Value? {
        guard offset >= 0, bytes.count - offset >= MemoryLayout<Value>.size else { return nil }
        return bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: offset, as: type) }
    }

    func dropping(_ count: Int) -> NetlinkReader { NetlinkReader(bytes: bytes.dropFirst((count + 3) & ~3)) }

    /// Attributes by type, flag bits taken off; of several of one type the last.
    var attributes: [UInt16: NetlinkReader] {
        var result: [UInt16: NetlinkReader] = [:]
        for (type, value) in attributeList { result[type] = value }
        return result
    }

    var attributeList: [(UInt16, NetlinkReader)] {
        var result: [(UInt16, NetlinkReader)] = []
        var rest = self
        while let length = rest.value(UInt16.self).map(Int.init), let type = rest.value(UInt16.self, at: 2),
            length >= 4, length <= rest.bytes.count
        {
            result.append((type & 0x3FFF, NetlinkReader(bytes: rest.bytes.dropFirst(4).prefix(length - 4))))
            rest = rest.dropping(length)
        }
        return result
    }

    var u32: UInt32? { value(UInt32.self) }

    /// Text up to its first zero octet.
    var text: String { String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self) }
}

/// One message from the kernel.
struct NetlinkReply {
    let type: UInt16
    let flags: UInt16
    let sequence: UInt32
    let body: NetlinkReader

    /// The messages of one datagram.
    static func split(_ datagram: [UInt8]) -> [NetlinkReply] {
        var result: [NetlinkReply] = []
        var rest = NetlinkReader(bytes: datagram[...])
        let headerBytes = MemoryLayout<nlmsghdr>.size
        while let header = rest.value(nlmsghdr.self), header.nlmsg_len >= headerBytes, header.nlmsg_len <= rest.bytes.count {
            let length = Int(header.nlmsg_len)
            result.append(
                NetlinkReply(
                    type: header.nlmsg_type, flags: header.nlmsg_flags, sequence: header.nlmsg_seq,
                    body: NetlinkReader(bytes: rest.bytes.dropFirst(headerBytes).prefix(length - headerBytes))))
            rest = rest.dropping(length)
        }
        return result
    }

    /// For NLMSG_ERROR and NLMSG_DONE: the errno value (0: acknowledged) and the kernel's explanation.
    var outcome: (code: Int32, text: String) {
        guard let error = body.value(Int32.self) else { return (0, "") }
        let code = error < 0 ? 0 &- error : 0
        guard Int32(flags) & NLM_F_ACK_TLVS != 0 else { return (code, "") }
        var offset = MemoryLayout<Int32>.size
        if type == NLMSG_ERROR {
            offset += MemoryLayout<nlmsghdr>.size
            // Unless the kernel capped it, the request follows, then the explanation.
            if Int32(flags) & NLM_F_CAPPED == 0, let request = body.value(UInt32.self, at: 4) {
                offset += max(0, Int(request) - MemoryLayout<nlmsghdr>.size)
            }
        }
        return (code, body.dropping(offset).attributes[1 /* NLMSGERR_ATTR_MSG */]?.text ?? "")
    }
}
