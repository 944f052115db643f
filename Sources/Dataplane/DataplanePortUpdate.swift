import Platform
import Wire

/// A port whose interface changed in place: its sockets, and the packets in them, go on.
extension Dataplane {
    /// Takes over another link-layer address or MTU of an attached port. Throws, and changes nothing, when the port is not
    /// attached to this interface: detach and attach then.
    public func update(portIndex: Int, _ description: PortDescription) throws(DataplaneError) {
        guard ports.indices.contains(portIndex), let port = ports[portIndex],
            port.description.interfaceIndex == description.interfaceIndex, port.description.queues == description.queues,
            description.mac.count == 6
        else { throw DataplaneError("\(description.name) is another interface now") }
        do throws(SystemError) {
            try program.setPort(
                interfaceIndex: description.interfaceIndex, index: portIndex, roles: description.role.rawValue,
                mac: description.mac)
        } catch {
            throw DataplaneError("\(description.name): \(error)")
        }
        let changed = Port(
            description, packetBytesLimit: settings.packetBytesLimit, sockets: port.sockets, owner: port.owner)
        if description.mtu != port.description.mtu { tellLongPackets(description) }
        changed.xdpMode = port.xdpMode
        let underlayBefore = underlayMTU
        ports[portIndex] = changed
        republish()
        if underlayMTU != underlayBefore { for pair in pairs.values { applyMTU(pair) } }
    }
}
