import IKE
import NIOCore
import NIOPosix
import Wire

/// Asks RADIUS servers. Every question has a UDP socket, and so a source port, of its own: identifiers cannot run out (RFC 2865
/// §3 has 256 per port), and an answer is nobody else's. Servers that did not answer are asked last for a while. Confined to
/// the event loop.
///
/// The sockets carry no mark: a server behind a tunnel is asked through it.
final class BackendClient {
    /// Questions under way at once; more are answered with silence at once, and counted.
    static let questionsMost = 512
    /// RFC 2865 §3: "maximum length is 4096".
    static let answerBytesMost = 4096
    /// How long a server that stayed silent is asked last.
    static let silenceLasts: Duration = .seconds(60)

    private final class Question {
        let request: EAPBackendRequest
        let done: (EAPBackendAnswer?) -> Void
        /// Indices of candidates, in the order in which they are asked.
        var order: [Int]
        var position = 0
        var sent = 0
        var channel: (any Channel)?
        var timer: Scheduled<Void>?
        /// When the peer's patience and the core's are at an end.
        let end: NIODeadline

        init(_ request: EAPBackendRequest, order: [Int], done: @escaping (EAPBackendAnswer?) -> Void) {
            (self.request, self.order, self.done) = (request, order, done)
            end = .now() + .nanoseconds(BackendClient.nanoseconds(Bounds.outsideWait))
        }
        /// How often one server is asked: all of them have their turn before the end.
        var tries: Int {
            let share = Bounds.outsideWait / max(1, order.count)
            let most = max(1, Int(share / max(request.retransmitInterval, .milliseconds(100))))
            return max(1, min(request.tries, most))
        }
        var candidate: Int? { order.indices.contains(position) ? order[position] : nil }
    }

    private let loop: any EventLoop
    private let log: (LogLevel, String) -> Void
    private var questions: [ObjectIdentifier: Question] = [:]
    private var silentUntil: [Endpoint: NIODeadline] = [:]
    /// Questions that found no room.
    private(set) var refused: UInt64 = 0

    init(loop: any EventLoop, log: @escaping (LogLevel, String) -> Void) { (self.loop, self.log) = (loop, log) }

    /// `done` is called once, later, on the event loop.
    func ask(_ request: EAPBackendRequest, done: @escaping (EAPBackendAnswer?) -> Void) {
        guard questions.count < Self.questionsMost else {
            refused &+= 1
            loop.assumeIsolated().execute { done(nil) }
            return
        }
        let now = NIODeadline.now()
        let isSilent = { (index: Int) in (self.silentUntil[request.candidates[index].server] ?? now) > now }
        let indices = Array(request.candidates.indices)
        let question = Question(request, order: indices.filter { !isSilent($0) } + indices.filter(isSilent), done: done)
        questions[ObjectIdentifier(question)] = question
        loop.assumeIsolated().execute { [self] in proceed(question) }
    }

    func closeAll() {
        for question in questions.values {
            question.timer?.cancel()
            question.channel?.close(promise: nil)
        }
        questions = [:]
    }

    // MARK: One question

    private func isOpen(_ question: Question) -> Bool { questions[ObjectIdentifier(question)] != nil }

    /// Sends to the candidate whose turn it is, or gives up.
    private func proceed(_ question: Question) {
        guard isOpen(question) else { return }
        guard let index = question.candidate, NIODeadline.now() < question.end else { finish(question, nil); return }
        let candidate = question.request.candidates[index]
        guard question.sent < question.tries else {
            noteSilence(candidate.server)
            (question.position, question.sent) = (question.position + 1, 0)
            proceed(question)
            return
        }
        guard let remote = IKESockets.socketAddress(candidate.server) else {
            question.position += 1
            proceed(question)
            return
        }
        withChannel(of: question, isIPv4: candidate.server.address.isIPv4) { [self] channel in
            guard isOpen(question) else { return }
            question.sent += 1
            channel?.writeAndFlush(
                AddressedEnvelope(remoteAddress: remote, data: ByteBuffer(bytes: candidate.octets)), promise: nil)
            let pause = TimeAmount.nanoseconds(Self.nanoseconds(question.request.retransmitInterval))
            question.timer = loop.assumeIsolated().scheduleTask(in: pause) { [self] in proceed(question) }
        }
    }

    /// The question's socket, made at its first use; another one when the next server is of the other family.
    private func withChannel(of question: Question, isIPv4: Bool, _ body: @escaping ((any Channel)?) -> Void) {
        if let channel = question.channel, channel.localAddress?.protocol == (isIPv4 ? .inet : .inet6) { body(channel); return }
        question.channel?.close(promise: nil)
        let box = NIOLoopBound((client: self, question: question), eventLoop: loop)
        DatagramBootstrap(group: loop)
            .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: Self.answerBytesMost))
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(
                        DatagramHandler { [box] bytes, from, _ in
                            box.value.client.received(bytes, from: from, box.value.question)
                        })
                }
            }
            .bind(host: isIPv4 ? "0.0.0.0" : "::", port: 0).assumeIsolated().whenComplete { [self] result in
                switch result {
                case .success(let channel):
                    guard isOpen(question) else { channel.close(promise: nil); return }
                    question.channel = channel
                    body(channel)
                case .failure(let error):
                    log(.warning, "cannot ask RADIUS servers: \(error)")
                    body(nil)
                }
            }
    }

    private func received(_ bytes: [UInt8], from: SocketAddress, _ question: Question) {
        guard isOpen(question), let sender = IKESockets.endpoint(from) else { return }
        // Also one that comes late, when the next server has been asked already.
        for index in question.order.prefix(question.position + 1) {
            let candidate = question.request.candidates[index]
            guard candidate.server == sender, candidate.isAnswer(bytes) else { continue }
            silentUntil[sender] = nil
            finish(question, EAPBackendAnswer(candidate: index, octets: bytes))
            return
        }
    }

    private func finish(_ question: Question, _ answer: EAPBackendAnswer?) {
        guard questions.removeValue(forKey: ObjectIdentifier(question)) != nil else { return }
        question.timer?.cancel()
        question.channel?.close(promise: nil)
        question.done(answer)
    }

    private func noteSilence(_ server: Endpoint) {
        let now = NIODeadline.now()
        if (silentUntil[server] ?? now) <= now { log(.warning, "the RADIUS server \(server) does not answer") }
        silentUntil[server] = now + .nanoseconds(Self.nanoseconds(Self.silenceLasts))
    }

    fileprivate static func nanoseconds(_ duration: Duration) -> Int64 {
        let parts = duration.components
        return Int64(clamping: parts.seconds).multipliedReportingOverflow(by: 1_000_000_000).partialValue
            &+ parts.attoseconds / 1_000_000_000
    }
}
