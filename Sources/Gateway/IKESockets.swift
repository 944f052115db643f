import IKE
import NIOCore
import NIOPosix
import Platform
import Wire

/// What the socket layer hands up, already told apart. All on the event loop.
struct DatagramReceivers {
    /// Whether IKE is taken on the interface with this index: a local address is reachable by all of them.
    var listens: (Int) -> Bool
    /// IKE: the UDP payload as received; on the NAT traversal port its non-ESP marker is still there.
    var ike: ([UInt8], Path) -> Void
    /// ESP in UDP that the kernel passed up (reassembled, or XDP is detached): the UDP payload.
    var encapsulatedESP: ([UInt8], Path) -> Void
    /// A whole ESP packet, IPv4 header included.
    var esp: ([UInt8]) -> Void
    /// The same over IPv6: the ESP packet without its header, and where it came from.
    var espOverIPv6: ([UInt8], IPv6Address) -> Void
    /// A whole ICMP packet, IPv4 header included.
    var icmp: ([UInt8]) -> Void
    /// An ICMPv6 "packet too big" or "destination unreachable", from its type on, and who sent it.
    var icmpv6: ([UInt8], IPv6Address) -> Void
    /// Said once per change of an address's sockets.
    var log: (LogLevel, String) -> Void
}

/// What a datagram on the NAT traversal port is. RFC 3948 §2.
enum NATTraversalPayload {
    case ike, esp, keepalive, tooShort

    init(_ payload: some Collection<UInt8>) {
        // §2.3: the keepalive is a single octet 0xFF.
        if payload.count == 1, payload.first == 0xFF { self = .keepalive; return }
        guard payload.count >= 4 else { self = .tooShort; return }
        // §2.2: four zero octets where ESP has its SPI mark IKE.
        self = payload.prefix(4).allSatisfy { $0 == 0 } ? .ike : .esp
    }
}

/// The UDP sockets of IKE, two per local address, and the raw sockets for ESP and ICMP. An address that is missing, or goes, is
/// tried again by `openMissing`; a socket that fails closes and counts as missing. Confined to the event loop.
final class IKESockets {
    /// The largest datagram IPv4 can carry.
    static let maxDatagramBytes = 65_535
    static let receiveBufferBytes: SocketOptionValue = 1 << 20
    static let espProtocol = NIOIPProtocol(rawValue: 50)
    static let icmpv6Protocol = NIOIPProtocol(rawValue: IPv6.nextHeaderICMP)

    private let loop: any EventLoop
    private let ports: [UInt16]
    private let natTraversalPort: UInt16
    private let mark: UInt32
    private let receivers: DatagramReceivers
    private var wanted: [IPAddress] = []
    private var channels: [Endpoint: any Channel] = [:]
    private var opening: Set<Endpoint> = []
    private var raw: [RawKind: any Channel] = [:]
    private var openingRaw: Set<RawKind> = []
    private var isClosed = false
    /// Addresses whose failure has been logged already.
    private var complained: Set<IPAddress> = []
    private var complainedRaw: Set<RawKind> = []

    /// The raw sockets; those for IPv6 only where a local address needs them.
    private enum RawKind: CaseIterable {
        case esp, icmp, espOverIPv6, icmpv6

        var isIPv6: Bool { self == .espOverIPv6 || self == .icmpv6 }
        var number: NIOIPProtocol {
            switch self {
            case .esp, .espOverIPv6: IKESockets.espProtocol
            case .icmp: .icmp
            case .icmpv6: IKESockets.icmpv6Protocol
            }
        }
    }

    init(loop: any EventLoop, ikePort: UInt16, natTraversalPort: UInt16, mark: UInt32, receivers: DatagramReceivers) {
        self.loop = loop
        self.ports = [ikePort, natTraversalPort]
        self.natTraversalPort = natTraversalPort
        self.mark = mark
        self.receivers = receivers
    }

    /// The local addresses that need sockets from now on. Sockets of others are closed.
    func want(_ addresses: [IPAddress]) {
        wanted = addresses
        for (endpoint, channel) in channels {
            if !addresses.contains(endpoint.address) { close(endpoint, channel) }
        }
    }

    /// Opens what is wanted, not there, and possible: `present` are the addresses the kernel has now. Sockets of an address that
    /// the kernel no longer has are closed, since they would come back deaf.
    func openMissing(present: (IPAddress) -> Bool) {
        guard !isClosed else { return }
        for address in wanted {
            for port in ports {
                let endpoint = Endpoint(address, port)
                if !present(address) {
                    if let channel = channels[endpoint] { close(endpoint, channel) }
                } else if channels[endpoint] == nil, opening.insert(endpoint).inserted {
                    open(address, endpoint)
                }
            }
        }
        let hasIPv6 = wanted.contains { !$0.isIPv4 }
        for kind in RawKind.allCases where raw[kind] == nil && (hasIPv6 || !kind.isIPv6) {
            if openingRaw.insert(kind).inserted { openRaw(kind) }
        }
    }

    /// False when there is no socket for the path's local end; the core retransmits.
    /// - Parameter failed: called later with the system's error number, when it refused the datagram.
    func send(_ transmit: Transmit, failed: @escaping (Int32) -> Void) -> Bool {
        guard let channel = channels[transmit.path.local], let remote = Self.socketAddress(transmit.path.remote) else {
            return false
        }
        let family = SocketOptions.discovery(transmit.path.local.address)
        if transmit.isWhole { try? channel.syncOptions?.setOption(family.option, value: SocketOptions.probe) }
        defer { if transmit.isWhole { try? channel.syncOptions?.setOption(family.option, value: family.value) } }
        let written = channel.writeAndFlush(
            AddressedEnvelope(remoteAddress: remote, data: ByteBuffer(bytes: transmit.bytes)))
        written.assumeIsolated().whenFailure { [self] error in
            // NIO closes a socket for what one peer's datagram met: the others need it again at once.
            openAgain(transmit.path.local)
            if let number = Self.errorNumber(error) { failed(number) }
        }
        return true
    }

    private static func errorNumber(_ error: any Error) -> Int32? {
        if let error = error as? IOError { return error.errnoCode }
        if case ChannelError.writeMessageTooLarge? = error as? ChannelError { return SendFailures.messageTooLong }
        return nil
    }

    private func openAgain(_ endpoint: Endpoint) {
        guard !isClosed, wanted.contains(endpoint.address), channels[endpoint]?.isActive != true else { return }
        channels[endpoint] = nil
        if opening.insert(endpoint).inserted { open(endpoint.address, endpoint) }
    }

    /// Whether both sockets of the address are open.
    func isOpen(_ address: IPAddress) -> Bool { ports.allSatisfy { channels[Endpoint(address, $0)] != nil } }

    func closeAll() {
        isClosed = true
        for (endpoint, channel) in channels { close(endpoint, channel) }
        for channel in raw.values { channel.close(promise: nil) }
        raw = [:]
    }

    // MARK: UDP

    private func open(_ address: IPAddress, _ endpoint: Endpoint) {
        let box = NIOLoopBound(self, eventLoop: loop)
        var bootstrap = DatagramBootstrap(group: loop)
            .channelOption(.socketOption(.init(rawValue: SocketOptions.mark)), value: SocketOptionValue(mark))
            .channelOption(.socketOption(.so_rcvbuf), value: Self.receiveBufferBytes)
            .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: Self.maxDatagramBytes))
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(
                        DatagramHandler { [box] bytes, from, interface in
                            box.value.received(bytes, from: from, on: endpoint, interface)
                        })
                }
            }
        for option in SocketOptions.family(address, natTraversal: endpoint.port == natTraversalPort) {
            bootstrap = bootstrap.channelOption(.socket(option.level, option.name), value: option.value)
        }
        bootstrap.bind(host: address.description, port: Int(endpoint.port)).assumeIsolated().whenComplete { [self] result in
            opening.remove(endpoint)
            switch result {
            case .success(let channel):
                guard !isClosed, wanted.contains(address) else { channel.close(promise: nil); return }
                channels[endpoint] = channel
                // NIO takes the option once it knows the family. Without it the interface is not known, and IKE is taken.
                channel.setOption(.receivePacketInfo, value: true).whenFailure { _ in }
                channel.closeFuture.assumeIsolated().whenComplete { [self] _ in
                    if channels[endpoint] === channel { channels[endpoint] = nil }
                }
                if isOpen(address) {
                    complained.remove(address)
                    receivers.log(
                        .info, "listening on \(address), UDP ports \(ports.map(String.init).joined(separator: " and "))")
                }
            case .failure(let error):
                guard complained.insert(address).inserted else { return }
                receivers.log(.warning, "cannot listen on \(endpoint): \(error); trying again")
            }
        }
    }

    private func close(_ endpoint: Endpoint, _ channel: any Channel) {
        channels[endpoint] = nil
        channel.close(promise: nil)
    }

    private func received(_ bytes: [UInt8], from: SocketAddress, on local: Endpoint, _ interface: Int?) {
        guard let remote = Self.endpoint(from), interface.map(receivers.listens) ?? true else { return }
        let path = Path(local: local, remote: remote)
        guard local.port == natTraversalPort else { receivers.ike(bytes, path); return }
        switch NATTraversalPayload(bytes) {
        case .ike: receivers.ike(bytes, path)
        case .esp: receivers.encapsulatedESP(bytes, path)
        case .keepalive, .tooShort: break
        }
    }

    // MARK: Raw

    private func openRaw(_ kind: RawKind) {
        (kind.isIPv6 ? bindRawIPv6(kind) : bindRaw(kind)).assumeIsolated().whenComplete { [self] result in
            openingRaw.remove(kind)
            switch result {
            case .success(let channel):
                guard !isClosed else { channel.close(promise: nil); return }
                raw[kind] = channel
                complainedRaw.remove(kind)
                channel.closeFuture.assumeIsolated().whenComplete { [self] _ in
                    if raw[kind] === channel { raw[kind] = nil }
                }
            case .failure(let error):
                guard complainedRaw.insert(kind).inserted else { return }
                let family = kind.isIPv6 ? " of IPv6" : ""
                receivers.log(.warning, "no raw socket for protocol \(kind.number.rawValue)\(family): \(error); trying again")
            }
        }
    }

    private func bindRaw(_ kind: RawKind) -> EventLoopFuture<any Channel> {
        var bootstrap = NIORawSocketBootstrap(group: loop)
            .channelOption(.socketOption(.so_rcvbuf), value: Self.receiveBufferBytes)
            .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: Self.maxDatagramBytes))
            .channelInitializer(rawInitializer(kind))
        if kind == .icmp {
            bootstrap = bootstrap.channelOption(
                .socket(SocketOptions.rawLevel, SocketOptions.icmpFilter),
                value: SocketOptions.onlyDestinationUnreachable)
        }
        return bootstrap.bind(host: "0.0.0.0", ipProtocol: kind.number)
    }

    /// NIO's own raw sockets want an IPv4 option; a datagram channel over ours reads them as well.
    private func bindRawIPv6(_ kind: RawKind) -> EventLoopFuture<any Channel> {
        let descriptor: CInt
        do throws(SystemError) {
            let types = kind == .icmpv6 ? [ICMPv6.packetTooBig, ICMPv6.destinationUnreachable] : []
            descriptor = try RawSocket.ipv6(protocolNumber: kind.number.rawValue, icmpTypes: types).release()
        } catch {
            return loop.makeFailedFuture(error)
        }
        return DatagramBootstrap(group: loop)
            .channelOption(.socketOption(.so_rcvbuf), value: Self.receiveBufferBytes)
            .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: Self.maxDatagramBytes))
            .channelInitializer(rawInitializer(kind))
            .withBoundSocket(descriptor)
    }

    private func rawInitializer(_ kind: RawKind) -> @Sendable (any Channel) -> EventLoopFuture<Void> {
        let box = NIOLoopBound(self, eventLoop: loop)
        return { channel in
            channel.eventLoop.makeCompletedFuture {
                try channel.pipeline.syncOperations.addHandler(
                    DatagramHandler { [box] bytes, from, _ in box.value.receivedRaw(kind, bytes, from: from) })
            }
        }
    }

    private func receivedRaw(_ kind: RawKind, _ bytes: [UInt8], from: SocketAddress) {
        switch kind {
        case .esp: receivers.esp(bytes)
        case .icmp: receivers.icmp(bytes)
        case .icmpv6, .espOverIPv6:
            guard let source = from.ipAddress.flatMap({ IPv6Address($0) }) else { return }
            kind == .icmpv6 ? receivers.icmpv6(bytes, source) : receivers.espOverIPv6(bytes, source)
        }
    }

    // MARK: Addresses

    static func socketAddress(_ endpoint: Endpoint) -> SocketAddress? {
        try? SocketAddress(ipAddress: endpoint.address.description, port: Int(endpoint.port))
    }

    static func endpoint(_ address: SocketAddress) -> Endpoint? {
        guard let text = address.ipAddress, let ip = IPAddress(text), let port = address.port.flatMap(UInt16.init(exactly:))
        else { return nil }
        return Endpoint(ip, port)
    }
}

/// Gives every datagram of a channel to a closure.
final class DatagramHandler: ChannelInboundHandler {
    typealias InboundIn = AddressedEnvelope<ByteBuffer>
    private let receive: ([UInt8], SocketAddress, Int?) -> Void

    /// - Parameter receive: the octets, where they came from, and the index of the interface that they came in by.
    init(_ receive: @escaping ([UInt8], SocketAddress, Int?) -> Void) { self.receive = receive }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let envelope = unwrapInboundIn(data)
        receive(
            Array(envelope.data.readableBytesView), envelope.remoteAddress, envelope.metadata?.packetInfo?.interfaceIndex)
    }

    /// Errors that NIO does not close the channel for (an ICMP error, a full buffer) are the network's normal life.
    func errorCaught(context: ChannelHandlerContext, error: any Error) {}
}
