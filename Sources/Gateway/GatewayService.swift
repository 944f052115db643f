public import Configuration
import Crypto
import Dataplane
import IKE
import Logging
import NIOCore
import NIOPosix
import Platform
import ServiceLifecycle
import UnixSignals

/// `culvert run`: a gateway from start to SIGTERM.
public enum GatewayService {
    public struct Options: Sendable {
        /// nil: the configuration's `control_socket`.
        public var socketPath: String?
        /// Remove routes, rules and filter at the end, which lets protected prefixes go out in the clear.
        public var releaseOnExit: Bool
        /// Read again on SIGHUP and `culvert reload`.
        public var configurationPath: String

        public init(socketPath: String? = nil, releaseOnExit: Bool = false, configurationPath: String) {
            (self.socketPath, self.releaseOnExit, self.configurationPath) = (socketPath, releaseOnExit, configurationPath)
        }
    }

    /// SIGHUP, from when this is made: before, it would end the process. What comes before the gateway runs waits for it.
    public struct ReloadRequests: Sendable {
        fileprivate let signals: UnixSignalsSequence

        public init() async { signals = await UnixSignalsSequence(trapping: .sighup) }
    }

    /// Runs until SIGTERM or SIGINT; SIGHUP reloads. Throws `GatewayStartError` when the gateway cannot start.
    public static func run(
        _ configuration: GatewayConfiguration, options: Options, reloadRequests: ReloadRequests
    ) async throws {
        if let sentence = SettingsMapping.unsupported(configuration).first {
            throw GatewayStartError(exitCode: 78, sentence: sentence)
        }
        let handler = GatewayLogHandler(configuration.log, gateway: configuration.name)
        let logger = Logger(label: "culvert", factory: { _ in handler })
        try LinuxKernel.prepareProcess()
        if let listen = configuration.metricsListen {
            logger.warning("metrics_listen \(listen): this version has no metrics server; use `culvert status --json`")
        }

        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let gateway = RunningGateway(
            configuration: configuration, options: options, hangups: reloadRequests.signals, logger: logger, loop: group.next())
        do {
            var services = ServiceGroupConfiguration(
                services: [.init(service: gateway)], gracefulShutdownSignals: [.sigterm, .sigint],
                logger: Logger(label: "culvert.lifecycle", factory: { _ in SwiftLogNoOpLogHandler() }))
            services.maximumGracefulShutdownDuration = .seconds(5)
            try await ServiceGroup(configuration: services).run()
        } catch {
            try? await group.shutdownGracefully()
            throw error
        }
        try await group.shutdownGracefully()
    }
}

/// Ties the control thread's life to the process's signals.
private struct RunningGateway: Service {
    let configuration: GatewayConfiguration
    let options: GatewayService.Options
    let hangups: UnixSignalsSequence
    let logger: Logger
    let loop: any EventLoop
    private let parts: NIOLoopBoundBox<Parts>
    private let watcher = DescriptorWatcher(descriptors: 3)

    /// Lives on the event loop.
    private struct Parts {
        var admin: AdminServer?
        var control: ControlThread?
    }

    init(
        configuration: GatewayConfiguration, options: GatewayService.Options, hangups: UnixSignalsSequence, logger: Logger,
        loop: any EventLoop
    ) {
        (self.configuration, self.options, self.hangups, self.logger, self.loop) = (
            configuration, options, hangups, logger, loop
        )
        parts = NIOLoopBoundBox.makeBoxSendingValue(Parts(), eventLoop: loop)
    }

    /// The control socket first: it tells whether another gateway is at work here, before anything is touched.
    func start() async throws {
        let (parts, loop) = (parts, loop)
        let path = options.socketPath ?? configuration.controlSocket
        let configurationPath = SystemFiles.absolute(options.configurationPath)
        do {
            try await loop.flatSubmit {
                let admin = AdminServer(loop: loop, path: path) { request, reply in
                    guard let control = parts.value.control else {
                        reply(.refused("The gateway is starting; try again.")); return
                    }
                    control.handle(request) { response in
                        var response = response
                        if request.command == .status { response.configuration = configurationPath }
                        reply(response)
                    }
                }
                return admin.start().assumeIsolated().map { parts.value.admin = admin }.nonisolated()
            }.get()
            try await loop.submit { try startControl() }.get()
        } catch {
            await watcher.stop()
            try? await loop.submit { parts.value.admin?.stop() }.get()
            throw error
        }
    }

    /// On the loop.
    private func startControl() throws {
        let kernel = try LinuxKernel()
        for problem in ControlThread.protect(configuration, kernel) { logger.error("\(problem)") }
        let path = options.configurationPath
        let surroundings = GatewaySurroundings(
            kernel: kernel, dataplane: try makeDataplane(kernel), crypto: OpenSSLCrypto(), random: SystemRandom(),
            coreSettings: CoreSettings(), reload: { ConfigurationReader.load(path: path, inspector: CredentialInspection()) })
        let control = ControlThread(loop: loop, configuration: configuration, surroundings: surroundings, logger: logger)
        do {
            try control.start()
        } catch {
            surroundings.dataplane.stop()
            throw error
        }
        parts.value.control = control
        ServiceManager.tellReady()
        let parts = parts
        watcher.watch(kernel.monitorDescriptor, on: loop) {
            parts.value.control?.kernelReadable()
            return true
        }
        watcher.watch(kernel.tunDescriptor, on: loop) { parts.value.control?.tunReadable() ?? false }
        watcher.watch(surroundings.dataplane.eventFileDescriptor, on: loop) {
            parts.value.control?.dataplaneReadable()
            return true
        }
    }

    private func makeDataplane(_ kernel: LinuxKernel) throws(GatewayStartError) -> Dataplane {
        let links = configuration.interfaces.compactMap { kernel.view.link(named: $0.name) }
        let settings = SettingsMapping.dataplaneSettings(
            configuration.dataplane, allowedCPUs: LinuxKernel.allowedCPUs(), queues: links.map { kernel.queueCount($0.name) },
            mtus: links.map(\.mtu), bestEngine: .best, numaNode: nil)
        let logger = logger
        do {
            let dataplane = try Dataplane(settings, log: { logger.info("\($0)") })
            let workers = settings.workerCPUs.count == 1 ? "1 worker on CPU" : "\(settings.workerCPUs.count) workers on CPUs"
            let cpus = settings.workerCPUs.map(String.init).joined(separator: ", ")
            logger.info("\(workers) \(cpus), engine \(settings.engine.rawValue)")
            return dataplane
        } catch {
            throw GatewayStartError(exitCode: error.isPrivilege ? 77 : 1, sentence: error.sentence)
        }
    }

    // MARK: Life

    /// The start is within: SIGTERM is taken before the control socket answers, and ends a gateway that is starting when it has.
    func run() async throws {
        try await start()
        let parts = parts
        let loop = loop
        let signals = hangups
        let reloading = Task {
            for await _ in signals {
                try? await loop.submit { _ = parts.value.control?.reload() }.get()
            }
        }
        try? await gracefulShutdown()
        reloading.cancel()
        let release = options.releaseOnExit
        try? await loop.flatSubmit {
            parts.value.control?.stop(release: release) ?? loop.makeSucceededVoidFuture()
        }.get()
        await watcher.stop()
        try? await loop.submit {
            parts.value.control?.finish(release: release)
            parts.value.admin?.stop()
            parts.value = Parts()
        }.get()
    }
}
