import NIOCore
import NIOPosix
import Platform

/// The Unix socket on which `culvert status`, `up`, `down` … are answered: one JSON request per line, one JSON response per
/// line, in order. Confined to the event loop.
final class AdminServer {
    /// Clients at once; one more is told so and closed.
    static let maxClients = 64
    static let heartbeatInterval: TimeAmount = .seconds(5)
    static let socketMode: UInt32 = 0o660
    static let directoryMode: UInt32 = 0o755

    /// Called on the loop; answers by calling the closure once, now or later.
    typealias Handler = (AdminRequest, @escaping (AdminResponse) -> Void) -> Void

    private let loop: any EventLoop
    private let path: String
    private let handler: Handler
    private var server: (any Channel)?
    /// The socket's time of last change is a sign of life, which a gateway that is killed leaves behind.
    private var heartbeat: RepeatedTask?
    private var clients: [ObjectIdentifier: any Channel] = [:]

    init(loop: any EventLoop, path: String, handler: @escaping Handler) {
        (self.loop, self.path, self.handler) = (loop, path, handler)
    }

    /// Listens. A socket file that nobody answers on is removed first; when somebody does, the gateway must not start.
    func start() -> EventLoopFuture<Void> {
        let box = NIOLoopBound(self, eventLoop: loop)
        let path = path
        return ClientBootstrap(group: loop).connect(unixDomainSocketPath: path).flatMap { channel in
            channel.close(promise: nil)
            return channel.eventLoop.makeFailedFuture(
                GatewayStartError(
                    exitCode: 1, sentence: "Another gateway answers on \(path); end it first, or choose another control_socket."))
        }.flatMapError { error in
            if let error = error as? GatewayStartError { return box.eventLoop.makeFailedFuture(error) }
            return box.value.listen()
        }
    }

    func stop() {
        heartbeat?.cancel()
        server?.close(promise: nil)
        server = nil
        for client in clients.values { client.close(promise: nil) }
        clients = [:]
        try? SystemFiles.remove(path)
    }

    private func listen() -> EventLoopFuture<Void> {
        let box = NIOLoopBound(self, eventLoop: loop)
        let path = path
        let directory = path.split(separator: "/").dropLast().joined(separator: "/")
        do {
            if !directory.isEmpty, path.hasPrefix("/") {
                try SystemFiles.makeDirectory("/" + directory, mode: Self.directoryMode)
            }
        } catch {
            return loop.makeFailedFuture(
                GatewayStartError(exitCode: 1, sentence: "No directory for the control socket: \(error)."))
        }
        return ServerBootstrap(group: loop)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(AdminClientHandler(server: box.value))
                }
            }
            // Removes what is there when it is a socket, and fails when it is anything else.
            .bind(unixDomainSocketPath: path, cleanupExistingSocketFile: true)
            .flatMapThrowing { channel in
                box.value.server = channel
                box.value.heartbeat = box.eventLoop.scheduleRepeatedTask(
                    initialDelay: Self.heartbeatInterval, delay: Self.heartbeatInterval
                ) { _ in try? SystemFiles.touch(path) }
                try SystemFiles.setMode(path, Self.socketMode)
            }.flatMapErrorThrowing { error in
                throw GatewayStartError(
                    exitCode: 1,
                    sentence: "The control socket \(path) cannot be opened: \(error); check the directory and its permissions.")
            }
    }

    // MARK: Clients

    /// False when there are too many.
    fileprivate func joined(_ channel: any Channel) -> Bool {
        guard clients.count < Self.maxClients else { return false }
        clients[ObjectIdentifier(channel)] = channel
        return true
    }

    fileprivate func left(_ channel: any Channel) { clients[ObjectIdentifier(channel)] = nil }

    fileprivate func answer(_ line: [UInt8], reply: @escaping (AdminResponse) -> Void) {
        do {
            handler(try AdminCodec.request(line), reply)
        } catch {
            reply(.refused(error.sentence, code: 64))
        }
    }
}

/// One client: cuts the stream into lines and answers them one after the other. The next request is looked at when the answer
/// to the one before is written, so what a client can make the gateway hold is bounded.
private final class AdminClientHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let server: AdminServer
    private var pending = ByteBuffer()
    private var isBusy = false

    init(server: AdminServer) { self.server = server }

    func channelActive(context: ChannelHandlerContext) {
        if !server.joined(context.channel) {
            refuse("Too many clients are connected; try again.", context: context)
        }
    }

    func channelInactive(context: ChannelHandlerContext) { server.left(context.channel) }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = unwrapInboundIn(data)
        pending.writeBuffer(&bytes)
        guard pending.readableBytes <= AdminCodec.maxRequestBytes else {
            refuse(
                "The request is longer than \(AdminCodec.maxRequestBytes) bytes; send one JSON object per line.", context: context
            )
            return
        }
        next(context: context)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

    private func next(context: ChannelHandlerContext) {
        guard !isBusy, let length = pending.readableBytesView.firstIndex(of: UInt8(ascii: "\n")) else { return }
        let line = pending.readBytes(length: length - pending.readerIndex) ?? []
        pending.moveReaderIndex(forwardBy: 1)
        pending.discardReadBytes()
        isBusy = true
        server.answer(line) { [self] response in
            write(response, context: context).assumeIsolated().whenComplete { [self] _ in
                isBusy = false
                if context.channel.isActive { next(context: context) }
            }
        }
    }

    private func refuse(_ sentence: String, context: ChannelHandlerContext) {
        pending.clear()
        isBusy = true
        write(.refused(sentence, code: 64), context: context).assumeIsolated().whenComplete { _ in context.close(promise: nil) }
    }

    private func write(_ response: AdminResponse, context: ChannelHandlerContext) -> EventLoopFuture<Void> {
        let line =
            (try? AdminCodec.line(response))
            ?? Array(#"{"ok":false,"code":1,"message":"the answer could not be written"}"#.utf8 + [10])
        let promise = context.eventLoop.makePromise(of: Void.self)
        context.writeAndFlush(wrapOutboundOut(ByteBuffer(bytes: line)), promise: promise)
        return promise.futureResult
    }
}
