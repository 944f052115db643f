@testable import Gateway
import Foundation
import NIOCore
import NIOPosix
import Testing

/// A client that sends raw lines and collects what comes back.
private final class LineClient: ChannelInboundHandler, @unchecked Sendable {
    typealias InboundIn = ByteBuffer
    private var received = ByteBuffer()
    private let lines: AsyncStream<[UInt8]>.Continuation
    let stream: AsyncStream<[UInt8]>

    init() { (stream, lines) = AsyncStream.makeStream() }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = unwrapInboundIn(data)
        received.writeBuffer(&bytes)
        while let end = received.readableBytesView.firstIndex(of: 10) {
            lines.yield(received.readBytes(length: end - received.readerIndex + 1) ?? [])
        }
    }
    func channelInactive(context: ChannelHandlerContext) { lines.finish() }
}

@Suite("The admin socket")
struct AdminServerTests {
    private let directory = FileManager.default.temporaryDirectory.appending(path: "culvert-\(UInt32.random(in: 0...UInt32.max))")
    private var path: String { directory.path + "/gateway.sock" }

    private func serve(
        _ loop: any EventLoop, handler: @escaping @Sendable (AdminRequest, @escaping (AdminResponse) -> Void) -> Void
    ) async throws -> NIOLoopBound<AdminServer> {
        let path = path
        return try await loop.flatSubmit {
            let server = AdminServer(loop: loop, path: path, handler: handler)
            let box = NIOLoopBound(server, eventLoop: loop)
            return server.start().map { box }
        }.get()
    }

    private func connect(_ loop: any EventLoop) async throws -> (any Channel, AsyncStream<[UInt8]>) {
        let client = LineClient()
        let channel = try await ClientBootstrap(group: loop)
            .channelInitializer { channel in channel.pipeline.addHandler(client) }
            .connect(unixDomainSocketPath: path).get()
        return (channel, client.stream)
    }

    private func stop(_ loop: any EventLoop, _ server: NIOLoopBound<AdminServer>) async throws {
        try await loop.submit { server.value.stop() }.get()
        try? FileManager.default.removeItem(at: directory)
    }

    private let echo: @Sendable (AdminRequest, @escaping (AdminResponse) -> Void) -> Void = { request, reply in
        reply(.done("\(request.command.rawValue) \(request.connection ?? "-")"))
    }

    @Test func `requests are answered in order, one line each, on one connection`() async throws {
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let server = try await serve(loop, handler: echo)
        let (channel, stream) = try await connect(loop)
        var lines = stream.makeAsyncIterator()
        let first = try AdminCodec.line(AdminRequest(.status)),
            second = try AdminCodec.line(AdminRequest(.down, connection: "west"))
        try await channel.writeAndFlush(ByteBuffer(bytes: first + second.prefix(7)))
        #expect(try AdminCodec.response(try #require(await lines.next())).message == "status -")
        try await channel.writeAndFlush(ByteBuffer(bytes: Array(second.dropFirst(7))))
        #expect(try AdminCodec.response(try #require(await lines.next())).message == "down west")
        try await stop(loop, server)
        #expect(await lines.next() == nil)
    }

    @Test func `the socket is for owner and group`() async throws {
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let server = try await serve(loop, handler: echo)
        let mode = try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int
        #expect(mode == 0o660)
        try await stop(loop, server)
        #expect(!FileManager.default.fileExists(atPath: path))
    }

    @Test func `nonsense and endless lines are refused with a sentence`() async throws {
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let server = try await serve(loop, handler: echo)
        let (channel, stream) = try await connect(loop)
        var lines = stream.makeAsyncIterator()
        try await channel.writeAndFlush(ByteBuffer(string: "{\"command\":\"dance\"}\n"))
        let refusal = try AdminCodec.response(try #require(await lines.next()))
        #expect(!refusal.ok && refusal.code == 64 && refusal.message?.contains("status") == true)
        try await channel.writeAndFlush(ByteBuffer(repeating: UInt8(ascii: "x"), count: AdminCodec.maxRequestBytes + 1))
        #expect(try AdminCodec.response(try #require(await lines.next())).ok == false)
        #expect(await lines.next() == nil, "the stream is closed")
        try await stop(loop, server)
    }

    @Test func `a second gateway on the same socket is refused, a left-over file is not in the way`() async throws {
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let server = try await serve(loop, handler: echo)
        await #expect(throws: GatewayStartError.self) { _ = try await serve(loop, handler: echo) }
        try await loop.flatSubmit { () -> EventLoopFuture<Void> in
            server.value.stop()
            return loop.makeSucceededVoidFuture()
        }.get()
        // A socket's file that nobody listens on, as after a kill. It never was a listening one: a process that another test
        // starts meanwhile may inherit its descriptor and keep it open.
        let leftOver = try await DatagramBootstrap(group: loop).bind(unixDomainSocketPath: path).get()
        try await leftOver.close().get()
        #expect(FileManager.default.fileExists(atPath: path))
        let next = try await serve(loop, handler: echo)
        try await stop(loop, next)
    }

    @Test func `a client too many is told so`() async throws {
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let server = try await serve(loop, handler: echo)
        for _ in 0..<AdminServer.maxClients { _ = try await connect(loop) }
        let (_, stream) = try await connect(loop)
        var lines = stream.makeAsyncIterator()
        #expect(try AdminCodec.response(try #require(await lines.next())).message?.contains("Too many") == true)
        #expect(await lines.next() == nil)
        try await stop(loop, server)
    }
}
