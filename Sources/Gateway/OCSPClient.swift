import Crypto
import Glibc
import IKE
import NIOCore
import NIOHTTP1
import NIOPosix

/// Asks OCSP responders over HTTP (RFC 6960 appendix A), one after the other, bounded in time and size. Confined to the event
/// loop. Responders are those that a certificate names whose chain was found good.
final class OCSPClient {
    /// Questions under way; more are answered with nothing at once.
    static let maxQuestions = 64
    static let maxResponders = 4
    static let connectTimeout: TimeAmount = .seconds(2)
    /// For one responder, from the connection on.
    static let responseTimeout: TimeAmount = .seconds(4)
    static let maxResponseBytes = 64 * 1024

    private let loop: any EventLoop
    private let mark: SocketOptionValue
    private(set) var underWay = 0
    /// Questions that were not asked because too many were.
    private(set) var dropped: UInt64 = 0

    /// - Parameter mark: of the sockets, so that routes into tunnels do not apply to them.
    init(loop: any EventLoop, mark: SocketOptionValue) { (self.loop, self.mark) = (loop, mark) }

    /// - Parameter done: called once, on the loop, with an OCSPResponse in DER, or nil when no responder gave one.
    func ask(_ check: RevocationCheck, done: @escaping ([UInt8]?) -> Void) {
        guard underWay < Self.maxQuestions else {
            dropped &+= 1
            done(nil)
            return
        }
        underWay += 1
        let places = check.responders.prefix(Self.maxResponders).compactMap { ResponderPlace($0) }
        ask(places[...], check.request) { [self] response in
            underWay -= 1
            done(response)
        }
    }

    private func ask(_ places: ArraySlice<ResponderPlace>, _ request: [UInt8], done: @escaping ([UInt8]?) -> Void) {
        guard let place = places.first else { done(nil); return }
        let handler = OCSPQuestion(place, request) { [self] response in
            if let response { done(response) } else { ask(places.dropFirst(), request, done: done) }
        }
        let box = NIOLoopBound(handler, eventLoop: loop)
        ClientBootstrap(group: loop)
            .connectTimeout(Self.connectTimeout)
            .channelOption(.socket(SocketOptionLevel(SOL_SOCKET), SocketOptions.mark), value: mark)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHTTPClientHandlers()
                    try channel.pipeline.syncOperations.addHandler(box.value)
                }
            }
            .connect(host: place.host, port: place.port).assumeIsolated()
            .whenFailure { _ in box.value.finish(nil) }
    }
}

/// `http://HOST[:PORT]/PATH`
struct ResponderPlace: Hashable {
    var host: String
    var port: Int
    var path: String
    /// As the Host header has it.
    var authority: String

    init?(_ url: String) {
        let scheme = "http://"
        guard url.hasPrefix(scheme), url.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else { return nil }
        let rest = url.dropFirst(scheme.count)
        let slash = rest.firstIndex { $0 == "/" || $0 == "?" } ?? rest.endIndex
        authority = String(rest[..<slash])
        let tail = String(rest[slash...].prefix { $0 != "#" })
        path = tail.isEmpty ? "/" : tail.hasPrefix("/") ? tail : "/" + tail
        guard !authority.contains("@") else { return nil }
        var name = authority[...]
        port = 80
        // A colon behind the brackets of an IPv6 address, or the only one.
        if let colon = name.lastIndex(of: ":"), name.last != "]" {
            guard let number = UInt16(name[name.index(after: colon)...]), number != 0 else { return nil }
            port = Int(number)
            name = name[..<colon]
        }
        if name.hasPrefix("["), name.hasSuffix("]") { name = name.dropFirst().dropLast() }
        guard !name.isEmpty else { return nil }
        host = String(name)
    }
}

/// One POST and its answer.
private final class OCSPQuestion: ChannelInboundHandler {
    typealias InboundIn = HTTPClientResponsePart
    typealias OutboundOut = HTTPClientRequestPart

    private let place: ResponderPlace
    private let request: [UInt8]
    private var done: (([UInt8]?) -> Void)?
    private var body: [UInt8] = []
    private var deadline: Scheduled<Void>?

    init(_ place: ResponderPlace, _ request: [UInt8], done: @escaping ([UInt8]?) -> Void) {
        (self.place, self.request, self.done) = (place, request, done)
    }

    /// The first outcome counts.
    func finish(_ response: [UInt8]?) {
        deadline?.cancel()
        deadline = nil
        let done = done
        self.done = nil
        done?(response)
    }

    func channelActive(context: ChannelHandlerContext) {
        deadline = context.eventLoop.assumeIsolated().scheduleTask(in: OCSPClient.responseTimeout) { [self] in
            finish(nil)
            context.close(promise: nil)
        }
        let headers: HTTPHeaders = [
            "Host": place.authority, "Content-Type": "application/ocsp-request", "Accept": "application/ocsp-response",
            "Content-Length": "\(request.count)", "Connection": "close",
        ]
        let head = HTTPRequestHead(version: .http1_1, method: .POST, uri: place.path, headers: headers)
        context.write(wrapOutboundOut(.head(head)), promise: nil)
        context.write(wrapOutboundOut(.body(.byteBuffer(ByteBuffer(bytes: request)))), promise: nil)
        context.writeAndFlush(wrapOutboundOut(.end(nil)), promise: nil)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch unwrapInboundIn(data) {
        case .head(let head):
            guard head.status == .ok else { end(nil, context); return }
        case .body(let part):
            guard body.count + part.readableBytes <= OCSPClient.maxResponseBytes else { end(nil, context); return }
            body += Array(part.readableBytesView)
        case .end: end(body, context)
        }
    }

    func channelInactive(context: ChannelHandlerContext) { finish(nil) }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { end(nil, context) }

    private func end(_ response: [UInt8]?, _ context: ChannelHandlerContext) {
        finish(response)
        context.close(promise: nil)
    }
}
