@testable import Gateway
import IKE
import NIOCore
import NIOHTTP1
import NIOPosix
import Testing

@Suite("Asking OCSP responders") struct OCSPClientTests {
    @Test(arguments: [
        ("http://ocsp.example", "ocsp.example", 80, "/"), ("http://ocsp.example:8080/a/b?c", "ocsp.example", 8080, "/a/b?c"),
        ("http://192.0.2.1/x", "192.0.2.1", 80, "/x"), ("http://[2001:db8::1]:81/", "2001:db8::1", 81, "/"),
        ("http://[2001:db8::1]", "2001:db8::1", 80, "/"), ("http://a.example?q#f", "a.example", 80, "/?q"),
    ])
    func `Addresses are taken apart`(url: String, host: String, port: Int, path: String) throws {
        let place = try #require(ResponderPlace(url))
        #expect((place.host, place.port, place.path) == (host, port, path))
    }

    @Test(arguments: [
        "https://ocsp.example", "ocsp.example", "http://", "http://:80/", "http://a:0/", "http://a:65536/", "http://a:x/",
        "http://user@host/", "http://a b/", "http://a\r\nHost: b/",
    ])
    func `What is no http address is not asked`(url: String) { #expect(ResponderPlace(url) == nil) }

    /// A responder of the test: what it was asked, and what it says.
    private final class Responder: ChannelInboundHandler {
        typealias InboundIn = HTTPServerRequestPart
        typealias OutboundOut = HTTPServerResponsePart
        let answer: @Sendable (HTTPRequestHead, [UInt8]) -> (HTTPResponseStatus, [UInt8])?
        private var head: HTTPRequestHead?
        private var body: [UInt8] = []

        init(_ answer: @escaping @Sendable (HTTPRequestHead, [UInt8]) -> (HTTPResponseStatus, [UInt8])?) { self.answer = answer }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            switch unwrapInboundIn(data) {
            case .head(let head): self.head = head
            case .body(let part): body += Array(part.readableBytesView)
            case .end:
                guard let head, let (status, octets) = answer(head, body) else { return }
                context.write(wrapOutboundOut(.head(.init(version: .http1_1, status: status))), promise: nil)
                context.write(wrapOutboundOut(.body(.byteBuffer(ByteBuffer(bytes: octets)))), promise: nil)
                context.writeAndFlush(wrapOutboundOut(.end(nil)), promise: nil)
            }
        }
    }

    /// The client's answer when responders at loopback say what `answers` says; nil in place of one: nobody listens there.
    private func outcome(
        _ answers: [(@Sendable (HTTPRequestHead, [UInt8]) -> (HTTPResponseStatus, [UInt8])?)?]
    ) async throws -> [UInt8]? {
        try await timedOutcome(answers).response
    }

    /// The same, with the time that the client took, as the event loop saw it: the test's own task may wait long for its turn.
    private func timedOutcome(
        _ answers: [(@Sendable (HTTPRequestHead, [UInt8]) -> (HTTPResponseStatus, [UInt8])?)?]
    ) async throws -> (response: [UInt8]?, waited: TimeAmount) {
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let loop = group.next()
        var places: [String] = []
        var servers: [any Channel] = []
        for answer in answers {
            guard let answer else { places.append("http://127.0.0.1:1/"); continue }
            let server = try await ServerBootstrap(group: group).childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.configureHTTPServerPipeline()
                    try channel.pipeline.syncOperations.addHandler(Responder(answer))
                }
            }.bind(host: "127.0.0.1", port: 0).get()
            servers.append(server)
            places.append("http://127.0.0.1:\(server.localAddress?.port ?? 0)/ocsp")
        }
        let check = RevocationCheck(responders: places, request: [1, 2, 3])
        let result: EventLoopFuture<(response: [UInt8]?, waited: TimeAmount)> = loop.flatSubmit {
            let promise = loop.makePromise(of: (response: [UInt8]?, waited: TimeAmount).self)
            let before = NIODeadline.now()
            let client = OCSPClient(loop: loop, mark: 0)
            client.ask(check) { response in
                #expect(client.underWay == 0)
                promise.succeed((response, NIODeadline.now() - before))
            }
            return promise.futureResult
        }
        let response = try await result.get()
        for server in servers { try? await server.close() }
        try await group.shutdownGracefully()
        return response
    }

    @Test func `A responder is asked as RFC 6960 says`() async throws {
        let response = try await outcome([
            { head, body in
                let isRight =
                    head.method == .POST && head.uri == "/ocsp" && body == [1, 2, 3]
                    && head.headers["Content-Type"] == ["application/ocsp-request"] && head.headers["Content-Length"] == ["3"]
                    && head.headers["Host"].first?.hasPrefix("127.0.0.1:") == true
                return isRight ? (.ok, [4, 5]) : (.badRequest, [])
            }
        ])
        #expect(response == [4, 5])
    }

    @Test func `The next one is asked when one is away, refuses or says too much`() async throws {
        let response = try await outcome([
            nil, { _, _ in (.notFound, [9]) }, { _, _ in (.ok, [UInt8](repeating: 0, count: 70_000)) }, { _, _ in (.ok, [7]) },
        ])
        #expect(response == [7])
        #expect(try await outcome([nil, { _, _ in (.internalServerError, []) }]) == nil)
        #expect(try await outcome([]) == nil)
    }

    @Test func `A responder that says nothing is not waited for`() async throws {
        let (response, waited) = try await timedOutcome([{ _, _ in nil }])
        #expect(response == nil)
        #expect(waited >= OCSPClient.responseTimeout && waited < OCSPClient.responseTimeout + .seconds(20))
    }

    @Test func `Questions are bounded`() async throws {
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let loop = group.next()
        let dropped = try await loop.submit {
            let client = OCSPClient(loop: loop, mark: 0)
            let check = RevocationCheck(responders: ["http://127.0.0.1:1/"], request: [])
            var unanswered = 0
            for _ in 0..<OCSPClient.maxQuestions { client.ask(check) { _ in } }
            client.ask(check) { if $0 == nil { unanswered += 1 } }
            return (client.dropped, unanswered)
        }.get()
        #expect(dropped == (1, 1))
        try await group.shutdownGracefully()
    }
}
