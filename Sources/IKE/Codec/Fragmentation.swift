import IPsec
import Wire

/// A protected message before it is sealed, or after it was opened and put together again: what is split and split again, and
/// what an exchange authenticates as if it had never been split (RFC 9242 §3.3.2).
package struct ProtectedContent: Sendable {
    /// SPIs, exchange, flags and message id; next payload and length are those of whatever carried it.
    package var header: IKEHeader
    /// Type of the first payload inside.
    package var firstPayload: PayloadType
    /// The inner payloads with their generic headers, without padding.
    package var inner: [UInt8]
    /// Of a message that was received: the octets from the IKE header through the generic header of the Encrypted payload; of
    /// the first fragment when it was split.
    package var associatedData: [UInt8]?

    package init(header: IKEHeader, firstPayload: PayloadType, inner: [UInt8], associatedData: [UInt8]? = nil) {
        (self.header, self.firstPayload, self.inner) = (header, firstPayload, inner)
        self.associatedData = associatedData
    }

    package init(header: IKEHeader, payloads: [Payload]) {
        self.init(header: header, firstPayload: payloads.first?.type ?? .none, inner: PayloadChain.encode(payloads))
    }
}

/// Fragment Number and Total Fragments of an Encrypted Fragment payload. RFC 7383 §2.5.
package struct FragmentNumber: Hashable, Sendable {
    package static let byteCount = 4
    package var number: UInt16
    package var total: UInt16
    package init(number: UInt16, total: UInt16) { (self.number, self.total) = (number, total) }

    /// "check that the Fragment Number and the Total Fragments fields contain non-zero values"; "check that the value in the
    /// Fragment Number field is less than or equal to the value in the Total Fragments field" (§2.6).
    var isValid: Bool { number > 0 && number <= total }
}

/// How an IKE SA splits what it sends, and what it has of what the peer split. RFC 7383.
package struct FragmentationState: Sendable {
    /// "IKE fragmentation MUST NOT be used unless both peers have indicated their support for it." (§2.4)
    package var isNegotiated = false
    /// IP datagrams with fragments are no longer than this. It only shrinks, and a rekeyed IKE SA inherits it: "In subsequent
    /// exchanges, the node should start with the current value" (§2.5.2).
    package var datagramBytes = Bounds.fragmentDatagramBytes
    /// The longest IP datagram of the peer's last request, when that came in fragments: "The responder in the exchange may use
    /// the maximum size of the received IKE Fragment message IP datagrams as a threshold" (§2.5.1).
    var requestDatagramBytes: Int?
    /// One message at a time per direction.
    var request: Reassembly?
    var response: Reassembly?
}

/// The fragments of one message, decrypted. RFC 7383 §2.6.
package struct Reassembly: Sendable {
    enum Outcome: Equatable { case waiting, complete(PayloadType, [UInt8]), tooMuch }

    let messageID: UInt32
    let exchange: ExchangeType
    let total: UInt16
    let expires: Instant
    private(set) var octets = 0
    /// Of the IP datagrams, the longest.
    private(set) var datagramBytes = 0
    private var firstPayload = PayloadType.none
    /// Of the first fragment, without its numbers.
    private(set) var associatedData: [UInt8] = []
    private var pieces: [UInt16: [UInt8]] = [:]

    init(messageID: UInt32, exchange: ExchangeType, total: UInt16, expires: Instant) {
        (self.messageID, self.exchange, self.total, self.expires) = (messageID, exchange, total, expires)
    }

    /// Whether a fragment is worth its decryption: "check that the value in the Total Fragments field is equal to or greater than
    /// the Total Fragments field in the fragments that have already been stored"; one that is there already "is considered a
    /// replay and MUST be silently discarded".
    func wants(_ fragment: FragmentNumber, _ exchange: ExchangeType) -> Bool {
        exchange == self.exchange && (fragment.total > total || (fragment.total == total && pieces[fragment.number] == nil))
    }

    /// Takes a fragment whose ICV verified.
    mutating func add(
        _ fragment: FragmentNumber, first: PayloadType, content: [UInt8], associatedData: [UInt8], datagramBytes: Int
    ) -> Outcome {
        octets += content.count
        guard octets <= Bounds.messageBytes else { return .tooMuch }
        self.datagramBytes = max(self.datagramBytes, datagramBytes)
        if fragment.number == 1 {
            (firstPayload, self.associatedData) = (first, associatedData.dropLast(FragmentNumber.byteCount))
        }
        pieces[fragment.number] = content
        guard pieces.count == Int(total) else { return .waiting }
        var inner: [UInt8] = []
        inner.reserveCapacity(octets)
        for number in 1...total { inner += pieces[number] ?? [] }
        return .complete(firstPayload, inner)
    }
}

extension Bounds {
    /// Fragments of one message. One of `messageBytes` octets has 40 when no datagram is longer than 576 octets.
    static let fragmentsPerMessage: UInt16 = 128
    /// Longest IP datagram with a fragment unless configured: IPv6 guarantees it (RFC 7383 §2.5.1), and IPv4 paths below it are
    /// rare; those are found by going unanswered.
    package static let fragmentDatagramBytes = 1280
    /// What is tried next when fragments go unanswered: IPv6's minimum, then IPv4's recommended size. RFC 7383 §2.5.1, §2.5.2.
    static let fragmentDatagramSteps = [1280, 576]
    /// Neither configuration nor a peer's small fragments make ours smaller than this.
    package static let shortestFragmentDatagramBytes = 256
    /// "Performing a few retries within several seconds for each probe seems appropriate" (RFC 7383 §2.5.2): the transmissions
    /// after which the next smaller size is tried.
    static let transmissionsPerFragmentSize = 2
    /// How long the fragments of an incomplete message are kept.
    static let reassemblyTime: Duration = .seconds(20)
}

extension IKECore {
    // MARK: Sending

    /// The datagrams of a protected message: one, or its fragments when it is too long for the path and the peer takes those.
    /// - Parameter keys: ours; nil: the current ones.
    func sealed(
        _ content: ProtectedContent, on sa: IKESA, path: Path, datagramBytes: Int, keys: DirectionKeys? = nil
    ) throws(IKEFault) -> [[UInt8]] {
        guard let suite = sa.suite, let keys = keys ?? sa.ourKeys else { throw .ours("the IKE SA has no keys") }
        let sealer = MessageSealer(crypto: crypto, cipher: suite.cipher)
        let limit = datagramBytes - overheadBytes(of: path)
        guard sa.fragmentation.isNegotiated, sealer.messageBytes(innerBytes: content.inner.count) > limit else {
            return [
                try sealer.seal(
                    content.header, first: content.firstPayload, inner: content.inner, keys: keys, iv: freshIV(sa, suite.cipher))
            ]
        }
        guard content.inner.count <= Bounds.messageBytes else {
            throw .ours("a message to send is longer than \(Bounds.messageBytes) octets")
        }
        let chunkBytes = sealer.chunkBytes(messageBytes: limit)
        let total = (content.inner.count + chunkBytes - 1) / chunkBytes
        guard total <= Int(UInt16.max) else { throw .ours("a message to send has too many fragments") }
        var messages: [[UInt8]] = []
        for index in 0..<total {
            let start = index * chunkBytes
            let chunk = Array(content.inner[start..<min(start + chunkBytes, content.inner.count)])
            messages.append(
                try sealer.sealFragment(
                    content.header, first: index == 0 ? content.firstPayload : .none, chunk: chunk,
                    FragmentNumber(number: UInt16(clamping: index + 1), total: UInt16(clamping: total)), keys: keys,
                    iv: freshIV(sa, suite.cipher)))
        }
        counters.messagesFragmented &+= 1
        return messages
    }

    /// Octets of IP and UDP header and of the non-ESP marker in front of a message.
    func overheadBytes(of path: Path) -> Int {
        (path.local.address.isIPv4 ? 20 : 40) + 8 + (path.local.port == settings.natTraversalPort ? 4 : 0)
    }

    /// The size below the current one, nil when that is the smallest for this path.
    private func smallerDatagram(than bytes: Int, path: Path) -> Int? {
        let smallest = path.local.address.isIPv4 ? 576 : 1280
        return Bounds.fragmentDatagramSteps.first { $0 < bytes && $0 >= smallest }
    }

    /// "refragment the original message, using the next smaller value of the threshold if it did not receive a response in a
    /// reasonable time after several retransmissions" (§2.5.2). Nil when it is as small as it can be, or when nothing would
    /// change: "the sender MUST ensure that the value in the Total Fragments field is really increased".
    func splitSmaller(
        _ content: ProtectedContent, _ messages: [[UInt8]], on sa: IKESA, path: Path, from datagramBytes: Int,
        keys: DirectionKeys? = nil
    ) -> (messages: [[UInt8]], datagramBytes: Int)? {
        guard sa.fragmentation.isNegotiated, let smaller = smallerDatagram(than: datagramBytes, path: path),
            let split = try? sealed(content, on: sa, path: path, datagramBytes: smaller, keys: keys), split.count > messages.count
        else { return nil }
        return (split, smaller)
    }

    // MARK: Receiving

    /// The content of a protected message. Nil when it does not verify, or is a fragment that does not complete its message.
    func unseal(
        _ message: WireMessage, _ encrypted: WireMessage.Encrypted, _ sa: IKESA, path: Path, now: Instant
    ) -> ProtectedContent? {
        if let fragment = encrypted.fragment {
            return reassemble(fragment, message.header, encrypted, sa, path: path, now: now)
        }
        guard let inner = open(encrypted, sa) else { return nil }
        if !message.header.isResponse { (sa.fragmentation.request, sa.fragmentation.requestDatagramBytes) = (nil, nil) }
        return ProtectedContent(
            header: message.header, firstPayload: encrypted.firstPayload, inner: inner, associatedData: encrypted.associatedData)
    }

    /// RFC 7383 §2.6: 1. check the numbers; 2. drop what is there already; 3. verify; 4. start over when the peer split its
    /// message anew; 5. keep, and put together what is complete.
    private func reassemble(
        _ fragment: FragmentNumber, _ header: IKEHeader, _ encrypted: WireMessage.Encrypted, _ sa: IKESA, path: Path, now: Instant
    ) -> ProtectedContent? {
        guard sa.fragmentation.isNegotiated, fragment.isValid, fragment.total <= Bounds.fragmentsPerMessage else {
            counters.fragmentsRefused &+= 1
            return nil
        }
        let kept = (header.isResponse ? sa.fragmentation.response : sa.fragmentation.request)
            .flatMap { $0.messageID == header.messageID && now < $0.expires ? $0 : nil }
        if let kept, !kept.wants(fragment, header.exchange) { counters.fragmentsRefused &+= 1; return nil }
        guard let content = open(encrypted, sa) else { return nil }
        counters.fragmentsReceived &+= 1
        var reassembly =
            kept.flatMap { $0.total == fragment.total ? $0 : nil }
            ?? Reassembly(
                messageID: header.messageID, exchange: header.exchange, total: fragment.total,
                expires: now + Bounds.reassemblyTime)
        let bytes = encrypted.associatedData.count + encrypted.sealed.count + overheadBytes(of: path)
        let outcome = reassembly.add(
            fragment, first: encrypted.firstPayload, content: content, associatedData: encrypted.associatedData,
            datagramBytes: bytes)
        switch outcome {
        case .waiting:
            keep(reassembly, isResponse: header.isResponse, on: sa)
            touch(sa)
            return nil
        case .tooMuch:
            keep(nil, isResponse: header.isResponse, on: sa)
            refuseOversized(sa, now: now)
            return nil
        case .complete(let first, let inner):
            counters.messagesReassembled &+= 1
            keep(nil, isResponse: header.isResponse, on: sa)
            if !header.isResponse { sa.fragmentation.requestDatagramBytes = reassembly.datagramBytes }
            return ProtectedContent(
                header: header, firstPayload: first, inner: inner, associatedData: reassembly.associatedData)
        }
    }

    private func keep(_ reassembly: Reassembly?, isResponse: Bool, on sa: IKESA) {
        if isResponse { sa.fragmentation.response = reassembly } else { sa.fragmentation.request = reassembly }
    }

    /// "either an attack or a broken sender implementation. In either case, the receiver SHOULD drop the connection" (§5): one
    /// that has not authenticated is dropped. With one that has, the exchange runs out of time, and traffic goes on.
    private func refuseOversized(_ sa: IKESA, now: Instant) {
        counters.fragmentsRefused &+= 1
        let reason = "The peer \(sa.path.remote) sent fragments of a message longer than \(Bounds.messageBytes) octets."
        if sa.established == nil, !sa.isClosing {
            drop(sa, reason: Reason(.other, reason), failed: true, now: now)
        } else if sa.lastOversized.map({ now >= $0 + Bounds.hintInterval }) ?? true {
            sa.lastOversized = now
            log(.warning, sa.connection, reason)
        }
    }

    /// "If the receiver does not get all IKE fragments needed to reassemble the original message within a timeout interval, it
    /// MUST discard all IKE Fragment messages received so far for the exchange." (§2.6)
    func expireFragments(_ sa: IKESA, now: Instant) {
        if let request = sa.fragmentation.request, request.expires <= now {
            sa.fragmentation.request = nil
            counters.reassembliesExpired &+= 1
        }
        if let response = sa.fragmentation.response, response.expires <= now {
            sa.fragmentation.response = nil
            counters.reassembliesExpired &+= 1
        }
    }

    func fragmentsDeadline(_ sa: IKESA) -> Instant? {
        [sa.fragmentation.request?.expires, sa.fragmentation.response?.expires].compactMap { $0 }.min()
    }

    // MARK: Negotiation

    /// Both ends want it: from here on whatever is too long is split.
    func agreeOnFragmentation(_ sa: IKESA, _ plan: ConnectionPlan) {
        sa.fragmentation.isNegotiated = true
        sa.fragmentation.datagramBytes = max(Bounds.shortestFragmentDatagramBytes, plan.paths.fragmentDatagramBytes)
    }
}
