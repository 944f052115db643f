import CLinux
import Glibc

/// A netlink socket and its request/answer protocol, whatever the family.
final class NetlinkSocket {
    /// How long the kernel may take to answer. It answers at once or something is badly wrong.
    static let timeoutMilliseconds: Int32 = 5_000
    /// A dump that changed while it was read is read again, at most this often.
    static let dumpAttempts = 5
    private static let datagramBytes = 256 * 1024

    let descriptor: FileDescriptor
    private var sequence: UInt32 = 0
    private let name: String

    /// - Parameters:
    ///   - groups: bits of the multicast groups to hear; 0 for a socket that only asks.
    init(protocol number: Int32, name: String, groups: UInt32 = 0) throws(SystemError) {
        let fd = Glibc.socket(AF_NETLINK, Int32(SOCK_RAW.rawValue) | Int32(SOCK_CLOEXEC.rawValue), number)
        guard fd >= 0 else { throw SystemError(call: "socket(\(name))") }
        descriptor = FileDescriptor(owning: fd)
        self.name = name
        // Explanations and short answers: not on every kernel, and nice to have only.
        var one: Int32 = 1
        _ = setsockopt(fd, Int32(CULVERT_SOL_NETLINK), NETLINK_EXT_ACK, &one, 4)
        _ = setsockopt(fd, Int32(CULVERT_SOL_NETLINK), NETLINK_CAP_ACK, &one, 4)
        // Dumps that the kernel filters itself (Linux 4.20), such as the routes of one table.
        _ = setsockopt(fd, Int32(CULVERT_SOL_NETLINK), NETLINK_GET_STRICT_CHK, &one, 4)
        // Bursts of route changes (a BGP session that comes up) must fit.
        var buffer: Int32 = 4 << 20
        if setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, 4) != 0 { _ = setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, 4) }
        var address = sockaddr_nl()
        address.nl_family = sa_family_t(AF_NETLINK)
        address.nl_groups = groups
        let bound = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(fd, $0, socklen_t(MemoryLayout<sockaddr_nl>.size)) }
        }
        guard bound == 0 else { throw SystemError(call: "bind(\(name))") }
    }

    func nextSequence() -> UInt32 {
        sequence &+= 1
        return sequence
    }

    /// Sends one request and waits for its acknowledgement.
    func request(_ message: NetlinkMessage, _ what: String) throws(SystemError) {
        let sequence = nextSequence()
        try send(message.finished(sequence: sequence), what)
        _ = try answers(to: sequence, what, endsAtFirst: false)
    }

    /// Sends one request and returns its answer: one message.
    func get(_ message: NetlinkMessage, _ what: String) throws(SystemError) -> NetlinkReply? {
        let sequence = nextSequence()
        try send(message.finished(sequence: sequence), what)
        return try answers(to: sequence, what, endsAtFirst: true).messages.first
    }

    /// Sends a dump request and returns all its messages, from one consistent reading where the kernel can say so.
    func dump(_ message: NetlinkMessage, _ what: String) throws(SystemError) -> [NetlinkReply] {
        var messages: [NetlinkReply] = []
        for _ in 0..<Self.dumpAttempts {
            let sequence = nextSequence()
            try send(message.finished(sequence: sequence), what)
            let result = try answers(to: sequence, what, endsAtFirst: false)
            messages = result.messages
            if !result.interrupted { break }
        }
        return messages
    }

    func send(_ bytes: [UInt8], _ what: String) throws(SystemError) {
        var sent: Int
        repeat { sent = Glibc.send(descriptor.number, bytes, bytes.count, 0) } while sent < 0 && errno == EINTR
        guard sent == bytes.count else { throw SystemError(call: "send(\(name))", subject: what) }
    }

    /// Until the acknowledgement, the end of a dump, or (`endsAtFirst`) the first message.
    private func answers(
        to sequence: UInt32, _ what: String, endsAtFirst: Bool
    ) throws(SystemError) -> (messages: [NetlinkReply], interrupted: Bool) {
        var messages: [NetlinkReply] = []
        var interrupted = false
        while true {
            for reply in try receive(what) where reply.sequence == sequence {
                if Int32(reply.flags) & NLM_F_DUMP_INTR != 0 { interrupted = true }
                switch Int32(reply.type) {
                case NLMSG_ERROR, NLMSG_DONE:
                    let (code, text) = reply.outcome
                    guard code == 0 else { throw SystemError(call: name, code: code, subject: what, detail: text) }
                    return (messages, interrupted)
                case NLMSG_NOOP: continue
                default:
                    messages.append(reply)
                    if endsAtFirst { return (messages, interrupted) }
                }
            }
        }
    }

    /// The next datagram's messages, within the time limit.
    func receive(_ what: String) throws(SystemError) -> [NetlinkReply] {
        guard Poll.readable(descriptor.number, timeoutMilliseconds: Self.timeoutMilliseconds) else {
            throw SystemError(call: name, code: ETIMEDOUT, subject: what)
        }
        return try receiveNow() ?? []
    }

    /// What is waiting; nil when nothing is. ENOBUFS: the kernel had more to tell than the socket could hold.
    func receiveNow() throws(SystemError) -> [NetlinkReply]? {
        var failure: Int32 = 0
        let bytes = [UInt8](unsafeUninitializedCapacity: Self.datagramBytes) { buffer, count in
            var got: Int
            repeat { got = recv(descriptor.number, buffer.baseAddress, buffer.count, Int32(MSG_DONTWAIT)) }
            while got < 0 && errno == EINTR
            if got < 0 { failure = errno }
            count = max(got, 0)
        }
        if failure == EAGAIN { return nil }
        guard failure == 0 else { throw SystemError(call: "recv(\(name))", code: failure) }
        return NetlinkReply.split(bytes)
    }
}
