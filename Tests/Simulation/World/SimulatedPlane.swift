@testable import Gateway
import Dataplane
import IKE
import IPsec
import Wire

/// A data plane that keeps SAs, answers after a while, and opens and seals nothing: it compares keys.
final class SimulatedPlane: SAControlling {
    enum Answer {
        case ready(token: UInt64, inboundSPI: UInt32)
        case retired(UInt32)
    }

    struct Entry {
        var sa: ChildSA
        var childIndex: Int
        var isReady = false
        var inboundKey: UInt64
        var outboundKey: UInt64
        var counters = SACounters()
    }

    private(set) var entries: [UInt32: Entry] = [:]
    /// The inbound SPI of the pair on which a child's packets leave.
    private(set) var outbound: [Int: UInt32] = [:]
    private var switched: [UInt32] = []
    unowned let gateway: SimulatedGateway

    init(_ gateway: SimulatedGateway) { self.gateway = gateway }

    // MARK: What the lifecycle asks

    func install(_ sa: ChildSA, childIndex: Int, token: UInt64) throws(DataplaneError) {
        if gateway.refusesInstallations { throw DataplaneError("The simulation refuses it.") }
        if entries[sa.inboundSPI] != nil { gateway.world.fail("\(gateway.name) installs SPI \(hex(sa.inboundSPI)) twice") }
        let entry = Entry(
            sa: sa, childIndex: childIndex, inboundKey: sa.inboundKey.fingerprint, outboundKey: sa.outboundKey.fingerprint)
        entries[sa.inboundSPI] = entry
        gateway.noteInstallation(entry)
        gateway.answerLater(.ready(token: token, inboundSPI: sa.inboundSPI), after: gateway.installationDelay)
    }

    func switchOutbound(childIndex: Int, inboundSPI: UInt32) {
        guard let entry = entries[inboundSPI], entry.isReady else {
            gateway.world.fail("\(gateway.name) sends on SPI \(hex(inboundSPI)), which is not in place")
            return
        }
        outbound[childIndex] = inboundSPI
        gateway.world.trace("\(gateway.name) sends child \(childIndex) on \(hex(entry.sa.outboundSPI))")
        switched.append(inboundSPI)
    }

    func clearOutbound(childIndex: Int) {
        outbound[childIndex] = nil
        gateway.world.trace("\(gateway.name) sends child \(childIndex) nowhere")
    }

    func retire(inboundSPI: UInt32) {
        guard let entry = entries.removeValue(forKey: inboundSPI) else {
            gateway.world.fail("\(gateway.name) retires SPI \(hex(inboundSPI)), which it has not")
            return
        }
        if outbound[entry.childIndex] == inboundSPI { outbound[entry.childIndex] = nil }
        gateway.world.trace("\(gateway.name) retires \(hex(inboundSPI))")
        gateway.answerLater(.retired(inboundSPI), after: .milliseconds(1))
    }

    func setHolding(childIndex: Int, _ holds: Bool) {}
    func movePath(inboundSPI: UInt32, path: TunnelPath) { entries[inboundSPI]?.sa.path = path }
    func counters(inboundSPI: UInt32) -> SACounters? { entries[inboundSPI]?.counters }

    /// The pairs that were taken into use since the last call.
    func takeSwitched() -> [UInt32] {
        defer { switched = [] }
        return switched
    }

    // MARK: Packets

    func becomeReady(_ spi: UInt32) { entries[spi]?.isReady = true }

    /// The entry that a child's next packet leaves on.
    func departing(childIndex: Int) -> Entry? { outbound[childIndex].flatMap { entries[$0] } }

    func countSent(_ spi: UInt32) { entries[spi]?.counters.packetsOut &+= 1 }

    /// The pair that opens the packet.
    func open(_ packet: ESPPacket) -> Entry? {
        guard let entry = entries[packet.spi], entry.isReady, entry.inboundKey == packet.key else { return nil }
        entries[packet.spi]?.counters.packetsIn &+= 1
        return entry
    }
}
