import Dataplane
import IPsec
import Wire

/// What the lifecycle of SAs asks of the data plane.
protocol SAControlling: AnyObject {
    func install(_ sa: ChildSA, childIndex: Int, token: UInt64) throws(DataplaneError)
    func switchOutbound(childIndex: Int, inboundSPI: UInt32)
    func clearOutbound(childIndex: Int)
    func setHolding(childIndex: Int, _ holds: Bool)
    func retire(inboundSPI: UInt32)
    func movePath(inboundSPI: UInt32, path: TunnelPath)
    func counters(inboundSPI: UInt32) -> SACounters?
}

/// The control side of the data plane, as the control thread sees it; a protocol so that SA lifecycle and admin socket are
/// tested without a NIC.
protocol DataplaneControlling: SAControlling {
    func attach(_ port: PortDescription) throws(DataplaneError) -> AttachedPort
    func update(portIndex: Int, _ port: PortDescription) throws(DataplaneError)
    func detach(portIndex: Int)
    func keepProgram(portIndex: Int) throws(DataplaneError) -> Bool
    func start() throws(DataplaneError)
    func stop()
    func setPathMTU(remote: IPAddress, mtu: Int)
    func publish(_ update: ForwardingUpdate)
    func steer(_ plan: SteeringPlan) throws(DataplaneError)
    func setIKESA(spi: UInt64, isLive: Bool)
    var eventFileDescriptor: Int32 { get }
    func drainEvents(_ body: (DataplaneEvent) -> Void)
    func inject(inner packet: [UInt8])
    func inject(espPacket packet: [UInt8])
    func inject(esp: [UInt8], from: IPv6Address)
    func inject(udpEncapsulated payload: [UInt8], from: IPAddress, port: UInt16, to: IPAddress, localPort: UInt16)
    func counters() -> DataplaneCounters
}

extension Dataplane: DataplaneControlling {}
