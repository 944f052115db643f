import Configuration
import Dataplane
import IKE

/// Keeps the data plane attached to the configured interfaces while these come, go, and change. Confined to the event loop.
final class PortKeeper {
    /// Pause between attempts to attach an interface that refused.
    static let retryInterval: Duration = .seconds(2)
    /// Until workers and kernel have let go of the sockets of an interface that was detached.
    static let releaseTime: Duration = .milliseconds(100)

    private struct Known {
        var portIndex: Int
        var link: KernelView.Link
    }

    private let dataplane: any DataplaneControlling
    private let kernel: any KernelControlling
    private let log: (LogLevel, String) -> Void
    private(set) var interfaces: [GatewayConfiguration.Interface]
    private var known: [String: Known] = [:]
    /// Why an interface is not in use, by name.
    private(set) var problems: [String: String] = [:]
    private var retryAt: [String: Instant] = [:]
    /// Why an interface has no XDP program of ours, by name.
    private var withoutProgram: [String: String] = [:]

    init(
        _ interfaces: [GatewayConfiguration.Interface], dataplane: any DataplaneControlling, kernel: any KernelControlling,
        log: @escaping (LogLevel, String) -> Void
    ) {
        (self.interfaces, self.dataplane, self.kernel, self.log) = (interfaces, dataplane, kernel, log)
    }

    /// What forwarding and steering count as our ports: attached, and there.
    var attached: [AttachedInterface] {
        interfaces.compactMap { interface in
            known[interface.name].map {
                AttachedInterface(
                    portIndex: $0.portIndex, linkIndex: $0.link.index, name: interface.name,
                    role: SettingsMapping.role(interface.role))
            }
        }
    }

    func linkIndex(ofPort portIndex: Int) -> Int? { known.values.first { $0.portIndex == portIndex }?.link.index }

    /// The name of an interface that is protected and no underlay.
    func protectedName(linkIndex: Int) -> String? {
        interfaces.first { $0.role == .protected && known[$0.name]?.link.index == linkIndex }?.name
    }

    var names: [String] { interfaces.map(\.name) }
    var underlayNames: [String] { interfaces.filter { $0.role != .protected }.map(\.name) }

    /// Attaches what can be attached, lets go of what is gone. Returns the first error of an interface that is there and up:
    /// at start it ends the gateway, later it is tried again.
    @discardableResult
    func synchronize(now: Instant) -> DataplaneError? {
        var failure: DataplaneError?
        for interface in interfaces {
            let link = kernel.view.link(named: interface.name)
            if let known = known[interface.name], !isCurrent(known, link, interface) {
                dataplane.detach(portIndex: known.portIndex)
                self.known[interface.name] = nil
                retryAt[interface.name] = now + Self.releaseTime
                let event = link == nil ? "is gone" : "has changed; attaching again"
                log(.warning, "interface \(interface.name) \(event)")
            }
            guard let link else {
                note(interface.name, "The interface \(interface.name) does not exist; create it or correct its name.")
                continue
            }
            if let refusal = refusal(link) {
                if let known = known.removeValue(forKey: interface.name) { dataplane.detach(portIndex: known.portIndex) }
                note(interface.name, refusal)
                continue
            }
            guard link.isUp else {
                note(interface.name, "The interface \(interface.name) is down; bring it up (ip link set \(interface.name) up).")
                continue
            }
            if known[interface.name] == nil, let error = attach(interface, link, now: now) { failure = failure ?? error }
            guard known[interface.name] != nil else { continue }
            known[interface.name]?.link = link
            note(
                interface.name,
                link.isRunning
                    ? withoutProgram[interface.name]
                    : "The interface \(interface.name) has no carrier; check the cable and the far end.")
        }
        return failure
    }

    /// The next time `synchronize` has something to try again.
    var nextRetry: Instant? {
        interfaces.compactMap { interface in
            kernel.view.link(named: interface.name).map { $0.isUp && refusal($0) == nil } == true ? retryAt[interface.name] : nil
        }.min()
    }

    /// Puts the XDP program back where somebody has taken it off.
    func keepPrograms() {
        for (name, port) in known {
            do throws(DataplaneError) {
                let isPutBack = try dataplane.keepProgram(portIndex: port.portIndex)
                if isPutBack {
                    log(.warning, "interface \(name) had lost the XDP program (somebody took it off); it is attached again")
                }
                if withoutProgram.removeValue(forKey: name) != nil { note(name, nil) }
            } catch {
                withoutProgram[name] = error.sentence
                note(name, error.sentence, level: .error)
            }
        }
    }

    func detachAll() {
        for port in known.values { dataplane.detach(portIndex: port.portIndex) }
        known = [:]
    }

    private func refusal(_ link: KernelView.Link) -> String? {
        let master = link.masterIndex.flatMap { kernel.view.links[$0] }
        return LinkSupport.refusal(link.name, master: master?.name, masterKind: master?.kind)
    }

    /// Whether the data plane has the interface as it is now, after having been told of another MAC or MTU.
    private func isCurrent(
        _ known: Known, _ link: KernelView.Link?, _ interface: GatewayConfiguration.Interface
    ) -> Bool {
        guard let link, known.link.index == link.index else { return false }
        if known.link.mac == link.mac, known.link.mtu == link.mtu { return true }
        guard (try? dataplane.update(portIndex: known.portIndex, description(interface, link))) != nil else { return false }
        self.known[interface.name]?.link = link
        log(.info, "interface \(interface.name) has another address or MTU (\(link.mtu)), taken over")
        return true
    }

    private func description(_ interface: GatewayConfiguration.Interface, _ link: KernelView.Link) -> PortDescription {
        var result = PortDescription(
            name: interface.name, interfaceIndex: link.index, role: SettingsMapping.role(interface.role), mac: link.mac,
            mtu: link.mtu, queues: kernel.queueCount(interface.name))
        result.leavesChecksums = kernel.leavesChecksums(interface.name)
        return result
    }

    private func attach(_ interface: GatewayConfiguration.Interface, _ link: KernelView.Link, now: Instant) -> DataplaneError? {
        if let earliest = retryAt[interface.name], now < earliest { return nil }
        do {
            let done = try dataplane.attach(description(interface, link))
            known[interface.name] = Known(portIndex: done.index, link: link)
            retryAt[interface.name] = nil
            log(.debug, "attached \(interface.name) as \(interface.role.rawValue), XDP \(done.xdpMode)")
            if done.xdpMode == "generic", let sentence = LinkSupport.slowness(link.name, kind: link.kind) {
                log(.warning, sentence)
            }
            return nil
        } catch {
            retryAt[interface.name] = now + Self.retryInterval
            note(interface.name, error.sentence, level: .error)
            return error
        }
    }

    /// Logs a problem once, and its end.
    private func note(_ name: String, _ problem: String?, level: LogLevel = .warning) {
        guard problems[name] != problem else { return }
        problems[name] = problem
        if let problem { log(level, problem) } else { log(.info, "interface \(name) is in use") }
    }
}
