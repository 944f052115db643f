import Crypto
import IKE
import IPsec
import Wire

/// One gateway of the simulation: a core, and a data plane that remembers what it was told to install.
final class Node {
    let name: String
    let address: IPAddress
    /// What it can send from and receive on.
    var addresses: Set<IPAddress>
    var core: IKECore
    let settings: CoreSettings
    let random: SeededRandom

    /// Children in place, by inbound SPI, in order of installation.
    var installed: [ChildSA] = []
    var installations = 0
    var removals = 0
    var ups = 0
    var liveSPIs: Set<UInt64> = []
    var downs: [String] = []
    var logs: [String] = []
    /// Those of them that an operator reads at the usual level.
    var said: [String] = []
    var moves: [TunnelPath] = []
    /// What the peer gave as virtual addresses, in order; nil: taken back.
    var virtual: [VirtualConfiguration?] = []
    /// Children that the core said the peer receives on, by inbound SPI.
    var used: [UInt32] = []
    /// Removals of children that were never installed, and double installations: always a fault of the core.
    var faults: [String] = []
    /// Tokens that a test wants to answer itself.
    /// Certificates are judged as soon as the core wants it; false: their tokens are held.
    var judges = true
    var judged = 0
    var heldTokens: [UInt64] = []
    var holdsInstallations = false
    var failsInstallations: String?
    /// What OCSP responders and authentication backends say; nil: nothing comes, and the test answers by `heldTokens`.
    var answersRevocation: ((RevocationCheck) -> [UInt8]?)?
    var answersBackend: ((EAPBackendRequest) -> EAPBackendAnswer?)?
    var revocationChecks: [RevocationCheck] = []
    /// Waits for news of our own certificate; a test says when they have come.
    var ownStatusTokens: [UInt64] = []
    /// False: the machine is off, nothing is sent or received.
    var isAlive = true

    init(_ name: String, _ address: String, seed: UInt64, settings: CoreSettings = CoreSettings()) {
        self.name = name
        self.address = IPAddress(address)!
        addresses = [self.address]
        self.settings = settings
        random = SeededRandom(seed: seed)
        core = IKECore(settings: settings, crypto: OpenSSLCrypto(), random: random)
    }

    /// The process dies and starts again without memory.
    func restart() {
        core = IKECore(settings: settings, crypto: OpenSSLCrypto(), random: random)
        installed = []
        heldTokens = []
        liveSPIs = []
    }

    /// Its addresses change, and its core is told.
    func setAddresses(_ texts: String..., now: Instant) {
        addresses = Set(texts.map { IPAddress($0)! })
        core.setLocalAddresses(addresses, now: now)
    }

    func takeEvents(now: Instant) {
        while let event = core.pollEvent() {
            switch event {
            case .installChild(let child, let token):
                if installed.contains(where: { $0.inboundSPI == child.inboundSPI }) { faults.append("installed twice") }
                if holdsInstallations { heldTokens.append(token); installed.append(child); continue }
                if let reason = failsInstallations { core.childInstallFailed(token: token, reason: reason, now: now); continue }
                installed.append(child)
                installations += 1
                core.childInstalled(token: token, now: now)
            case .removeChild(_, _, let inboundSPI, _):
                removals += 1
                let before = installed.count
                installed.removeAll { $0.inboundSPI == inboundSPI }
                if installed.count == before, failsInstallations == nil {
                    faults.append("removed \(inboundSPI), which was not installed")
                }
            case .useChild(let inboundSPI): used.append(inboundSPI)
            case .movePath(_, _, let path): moves.append(path)
            case .connectionEstablished: ups += 1
            case .ikeSA(let spi, _, let isLive):
                if isLive {
                    liveSPIs.insert(spi)
                } else if liveSPIs.remove(spi) == nil {
                    faults.append("an IKE SA ended that never began")
                }
            case .connectionDown(_, let reason): downs.append(reason)
            case .checkRevocation(let check, let token):
                revocationChecks.append(check)
                guard let answer = answersRevocation else { heldTokens.append(token); continue }
                core.revocationAnswered(token: token, response: answer(check), now: now)
            case .judgeCertificates(let works, let token):
                judged += works.count
                guard judges else { heldTokens.append(token); continue }
                for work in works { work.run() }
                core.certificatesJudged(token: token, now: now)
            case .awaitOwnStatus(_, let token):
                ownStatusTokens.append(token)
            case .askBackend(let request, let token):
                guard let answer = answersBackend else { heldTokens.append(token); continue }
                core.backendAnswered(token: token, answer: answer(request), now: now)
            case .virtualAddresses(_, let given): virtual.append(given)
            case .log(let level, _, let text):
                logs.append(text)
                if level != .debug { said.append(text) }
            }
        }
    }

    func status(_ connection: String = "c", now: Instant) -> ConnectionStatus? {
        core.status(now: now).first { $0.name == connection }
    }
}

extension SecretMemory {
    var octets: [UInt8] {
        withBytes { span in (0..<span.byteCount).map { span.unsafeLoad(fromByteOffset: $0, as: UInt8.self) } }
    }
}
