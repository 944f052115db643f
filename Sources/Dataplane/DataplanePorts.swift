import CLinux
import Glibc
import IPsec
import Platform
import Wire

/// A port as the control side holds it: its sockets, and what tables say of it.
final class Port {
    static let absent = TablesView.Port(mac: (0, 0, 0, 0, 0, 0), attached: false, mtuBytes: 0, address: 0)

    /// `AFXDPSocket` cannot be put in an array; its box can.
    final class Socket {
        let socket: AFXDPSocket
        let worker: Int
        /// What the kernel had counted when we last looked.
        var seen: AFXDPStatistics?
        init(_ socket: consuming AFXDPSocket, worker: Int) {
            self.socket = socket
            self.worker = worker
        }
    }

    let description: PortDescription
    /// Octets: the interface's, but no more than a frame receives.
    let mtu: Int
    var xdpMode = "none"
    var sockets: [Socket]
    /// `FrameOwner` of this attachment.
    let owner: UInt8

    init(_ description: PortDescription, packetBytesLimit: Int, sockets: [Socket], owner: UInt8) {
        (self.description, self.sockets, self.owner) = (description, sockets, owner)
        mtu = min(description.mtu, packetBytesLimit)
    }

    var tableEntry: TablesView.Port {
        let m = description.mac
        guard m.count == 6 else { return Self.absent }
        return TablesView.Port(
            mac: (m[0], m[1], m[2], m[3], m[4], m[5]), attached: true, mtuBytes: UInt16(clamping: mtu), address: 0)
    }
}

/// Ports come and go; workers and SAs stay.
extension Dataplane {
    /// Ring entries of each kind and socket. Fill targets are lower: the pool must feed them all.
    static let ringEntries: UInt32 = 2048
    /// Times 10 ms: a caller that must not wait tries again by itself.
    static let bindRetries = 3

    /// The underlay's MTU: the smallest of its ports.
    var underlayMTU: Int {
        let mtus = ports.compactMap { $0 }.filter { $0.description.role.contains(.underlay) }.map(\.mtu)
        return mtus.min() ?? 1500
    }

    /// Opens a socket per queue over the shared UMEM, hands each to its worker, and attaches the XDP program.
    public func attach(_ description: PortDescription) throws(DataplaneError) -> AttachedPort {
        let index = try portIndex(description.name)
        if ports[index] != nil { detach(portIndex: index) }
        guard description.mac.count == 6, description.queues >= 1 else {
            throw DataplaneError("\(description.name) has no Ethernet address or no receive queue; AF_XDP needs both")
        }
        let queues = min(description.queues, Int(CULVERT_MAX_QUEUES))
        let busiest =
            (queues + workers.count - 1) / workers.count
            + ports.compactMap { $0 }.reduce(0) { $0 + ($1.sockets.count + workers.count - 1) / workers.count }
        guard busiest <= Worker.queueLimit else {
            throw DataplaneError(
                "\(description.name): a worker would serve \(busiest) queues, more than \(Worker.queueLimit); "
                    + "use more workers or fewer queues (ethtool -L)"
            )
        }
        do {
            let port = try openPort(description, queues: queues)
            // Known from here on, so that a failure below still closes what was opened.
            ports[index] = port
            try program.setPort(
                interfaceIndex: description.interfaceIndex, index: index, roles: description.role.rawValue, mac: description.mac)
            for (queue, socket) in port.sockets.enumerated() {
                give(socket, queue: queue, port: index, port)
                try program.setSocket(portIndex: index, queue: queue, descriptor: socket.socket.number)
            }
            let mode = try program.attach(interfaceIndex: description.interfaceIndex, mode: attachMode)
            let zeroCopy = port.sockets.first?.socket.zeroCopy == true
            let name = zeroCopy ? "zero-copy" : mode == .generic ? "generic" : "native"
            port.xdpMode = name
            setTransmitters(port: index, queues: max(1, min(queues, description.transmitQueues)))
            republish()
            for pair in pairs.values { applyMTU(pair) }
            tellLongPackets(description)
            log("\(description.name): XDP \(name) mode, \(queues) queue\(queues == 1 ? "" : "s")\(zeroCopy ? "" : ", copy")")
            return AttachedPort(index: index, xdpMode: name)
        } catch let error as SystemError {
            detach(portIndex: index)
            throw DataplaneError("\(description.name): \(error)", isPrivilege: error.code == EPERM || error.code == EACCES)
        } catch let error as DataplaneError {
            throw error
        } catch {
            detach(portIndex: index)
            throw DataplaneError("\(description.name): \(error)")
        }
    }

    private var attachMode: XDPAttachMode {
        settings.xdpMode == .generic ? .generic : settings.xdpMode == .auto ? .auto : .native
    }

    /// Attaches the XDP program to a port again when somebody has taken it off; true when that was so.
    public func keepProgram(portIndex index: Int) throws(DataplaneError) -> Bool {
        guard ports.indices.contains(index), let description = ports[index]?.description else { return false }
        do {
            let present = try XDPProgram.attachment(interfaceIndex: description.interfaceIndex)
            if present?.name == XDPProgram.name { return false }
            try program.attach(interfaceIndex: description.interfaceIndex, mode: attachMode)
            return true
        } catch {
            // An interface that has just gone is detached when the kernel has told.
            if error.code == ENODEV { return false }
            throw DataplaneError("\(description.name): \(error)", isPrivilege: error.code == EPERM || error.code == EACCES)
        }
    }

    /// Frames are of one page at most: what is longer goes by the kernel, slowly.
    func tellLongPackets(_ description: PortDescription) {
        guard description.mtu > settings.packetBytesLimit else { return }
        // Frames are chosen at the start, by the MTUs that the interfaces have then.
        let restart = settings.frameBytes < 4096 ? ", or restart the gateway, which then takes larger frames" : ""
        log(
            "\(description.name) has an MTU of \(description.mtu): packets of more than \(settings.packetBytesLimit) octets are "
                + "longer than a frame and take the slow way through the kernel; "
                + "lower it to \(settings.packetBytesLimit) (ip link set \(description.name) mtu …)\(restart)")
    }

    private func openPort(_ description: PortDescription, queues: Int) throws -> Port {
        guard let owner = takeOwner() else {
            throw DataplaneError("\(description.name): ports come and go faster than their frames; try again in a second")
        }
        do {
            return Port(
                description, packetBytesLimit: settings.packetBytesLimit, sockets: try openSockets(description, queues: queues),
                owner: owner)
        } catch {
            // No worker has seen these sockets: no frame carries the number.
            ownersInUse.remove(owner)
            throw error
        }
    }

    /// A number for a new attachment that no frame carries any more.
    private func takeOwner() -> UInt8? {
        for owner in FrameOwner.firstPort...UInt8.max where !ownersInUse.contains(owner) {
            ownersInUse.insert(owner)
            return owner
        }
        return nil
    }

    private func portIndex(_ name: String) throws(DataplaneError) -> Int {
        if let known = portNames[name] { return known }
        guard ports.count < TablesView.portLimit else {
            throw DataplaneError("more than \(TablesView.portLimit) interfaces cannot be attached")
        }
        portNames[name] = ports.count
        ports.append(nil)
        return ports.count - 1
    }

    private func openSockets(_ description: PortDescription, queues: Int) throws -> [Port.Socket] {
        var sockets: [Port.Socket] = []
        for queue in 0..<queues {
            let worker = queue % workers.count
            sockets.append(Port.Socket(try openSocket(description, queue: queue, opened: sockets), worker: worker))
        }
        return sockets
    }

    /// Shares the UMEM of any socket that is still bound; the very first socket registers it. EBUSY is the kernel still tearing
    /// down the previous one.
    private func openSocket(_ description: PortDescription, queue: Int, opened: [Port.Socket]) throws -> AFXDPSocket {
        var options = AFXDPOptions()
        options.fillEntries = Self.ringEntries
        options.completionEntries = Self.ringEntries
        options.receiveEntries = Self.ringEntries
        options.transmitEntries = Self.ringEntries
        switch settings.xdpMode {
        case .auto: options.copyMode = .auto
        case .zeroCopy: options.copyMode = .zeroCopy
        case .native, .generic: options.copyMode = .copy
        }
        let area = UMEMArea(
            base: umem.base, byteCount: workers.count * settings.framesPerWorker * settings.frameBytes,
            chunkBytes: UInt32(settings.frameBytes),
            headroomBytes: 0)
        var tries = 0
        while true {
            var candidates: [AFXDPSocket.UMEM] = (opened + ports.compactMap { $0 }.flatMap(\.sockets)).map {
                .share($0.socket.number)
            }
            if candidates.isEmpty { candidates = [.register(area)] }
            var failure: SystemError?
            for candidate in candidates {
                do {
                    return try AFXDPSocket(
                        interfaceIndex: Int32(description.interfaceIndex), queue: UInt32(queue), umem: candidate, options: options
                    )
                } catch {
                    failure = error
                    // This one's interface is gone; another's may not be.
                    if error.code != EBADF { break }
                }
            }
            tries += 1
            guard let failure else { continue }
            guard failure.code == EBUSY, tries < Self.bindRetries else { throw failure }
            usleep(10_000)
        }
    }

    /// The worker's end of a socket.
    private func give(_ socket: Port.Socket, queue: Int, port index: Int, _ port: Port) {
        let role = port.description.role
        let entry = UnsafeMutablePointer<Queue>.allocate(capacity: 1)
        entry.initialize(
            to: Queue(
                receive: ConsumerRing(socket.socket.receive), transmit: ProducerRing(socket.socket.transmit),
                fill: ProducerRing(socket.socket.fill), completion: ConsumerRing(socket.socket.completion),
                descriptor: socket.socket.number,
                portIndex: UInt8(index), owner: port.owner, finishesChecksums: port.description.leavesChecksums,
                canTransmit: queue < max(1, port.description.transmitQueues),
                isUnderlay: role.contains(.underlay), isProtected: role.contains(.protected), inFlight: 0, staged: 0,
                fillLimit: Self.ringEntries, fillTarget: 0, filled: 0, broken: false))
        let worker = workers[socket.worker]
        let identifier = begin(1) { _ in entry.deallocate() }
        send(.attachQueue, to: worker, identifier: identifier, pointer: UnsafeMutableRawPointer(entry))
        if settings.busyPoll { try? socket.socket.preferBusyPolling(microseconds: 20, budgetPackets: 64) }
    }

    /// Workers without a queue on the port pass their frames to one that has.
    private func setTransmitters(port: Int, queues: Int) {
        for worker in workers {
            let transmitter = worker.index < queues ? worker.index : (worker.index % queues) % workers.count
            let identifier = begin(1) { _ in }
            send(
                .setTransmitter, to: worker, identifier: identifier, first: UInt64(port),
                second: UInt64(bitPattern: Int64(transmitter)))
        }
    }

    /// The interface vanished or is to be attached anew. Its sockets close when all workers have let go.
    public func detach(portIndex index: Int) {
        guard ports.indices.contains(index), let port = ports[index] else { return }
        ports[index] = nil
        foldSocketDrops(port)
        // The interface may be gone already, and its program with it.
        program.detach(interfaceIndex: port.description.interfaceIndex)
        program.removePort(interfaceIndex: port.description.interfaceIndex)
        for worker in workers {
            let identifier = begin(1) { _ in }
            send(.setTransmitter, to: worker, identifier: identifier, first: UInt64(index), second: UInt64(bitPattern: -1))
        }
        broadcast(.detachPort, first: UInt64(index)) { plane in
            // The last reference: the sockets close with it, and the kernel lets go of their frames.
            let owner = port.owner
            plane.retire(port)
            plane.broadcast(.recoverFrames, first: UInt64(owner)) { $0.ownersInUse.remove(owner) }
        }
        republish()
        for pair in pairs.values { applyMTU(pair) }
    }

    private func retire(_ port: Port) { port.sockets = [] }

    /// At the very end: the threads are gone.
    func closePort(_ index: Int) {
        guard let port = ports[index] else { return }
        program.detach(interfaceIndex: port.description.interfaceIndex)
        ports[index] = nil
    }

    /// What the XDP program needs to know of addresses, policies and limits.
    public func steer(_ plan: SteeringPlan) throws(DataplaneError) {
        do {
            try program.setLocalAddresses(plan.localAddresses.map { .v4($0) } + plan.localAddressesIPv6.map { .v6($0) })
            try program.setPrefixes(
                plan.prefixes.map {
                    (
                        prefix: $0.prefix,
                        policy: PrefixPolicy(
                            steer: $0.steer.rawValue, localSets: $0.localSets, remoteSets: $0.remoteSets,
                            bypassSource: $0.bypassSource,
                            bypassDestination: $0.bypassDestination)
                    )
                })
            try program.setIKE(
                packetsPerSecond: plan.ikePacketsPerSecond, burst: plan.ikeBurst, onlyPeers: plan.onlyPeers,
                longestFrameBytes: settings.packetBytesLimit + Ethernet.headerBytes)
        } catch {
            throw DataplaneError("the XDP program's maps cannot be written: \(error)")
        }
    }

    /// Messages of an IKE SA of ours, by the SPI that we chose, have their own share of what the control thread takes.
    public func setIKESA(spi: UInt64, isLive: Bool) { program.setIKESA(spi: spi, isLive: isLive) }
}
