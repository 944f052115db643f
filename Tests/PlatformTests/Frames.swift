import Wire

/// Frames for the XDP program, written by hand so that nothing under test makes them.
struct Frame {
    static let portMAC: [UInt8] = [0x02, 0, 0, 0, 0, 0x01]
    static let otherMAC: [UInt8] = [0x02, 0, 0, 0, 0, 0x99]
    static let broadcast = [UInt8](repeating: 0xFF, count: 6)

    var destinationMAC = Frame.portMAC
    /// 802.1Q tags, outermost first.
    var vlanTags: [UInt16] = []
    var etherType: UInt16 = 0x0800
    var source = "203.0.113.9"
    var destination = "192.0.2.1"
    var protocolNumber: UInt8 = 17
    /// In octets, a multiple of eight.
    var fragmentOffset = 0
    var moreFragments = false
    /// Octets of IPv4 options, a multiple of four.
    var options = 0
    var payload: [UInt8] = []

    var bytes: [UInt8] {
        var result = destinationMAC + [0x02, 0, 0, 0, 0, 0x02]
        for tag in vlanTags { result += [0x81, 0x00, UInt8(tag >> 8), UInt8(tag & 255)] }
        result += [UInt8(etherType >> 8), UInt8(etherType & 255)]
        let length = 20 + options + payload.count
        let fragment = fragmentOffset / 8 | (moreFragments ? 0x2000 : 0)
        result += [UInt8(0x45 + options / 4), 0, UInt8(length >> 8), UInt8(length & 255), 0, 1]
        result += [UInt8(fragment >> 8), UInt8(fragment & 255), 64, protocolNumber, 0, 0]
        result += Self.octets(source) + Self.octets(destination)
        result += [UInt8](repeating: 1, count: options)
        return result + payload
    }

    /// An IPv6 packet from 2001:db8:9::9, extension headers left to `payload`.
    static func ipv6(
        to destination: String = "2001:db8::1", source: String = "2001:db8:9::9", nextHeader: UInt8, payload: [UInt8],
        mac: [UInt8] = Frame.portMAC, vlanTags: [UInt16] = [], version: UInt8 = 6
    ) -> [UInt8] {
        var result = mac + [0x02, 0, 0, 0, 0, 0x02]
        for tag in vlanTags { result += [0x81, 0x00, UInt8(tag >> 8), UInt8(tag & 255)] }
        result += [0x86, 0xDD, version << 4, 0, 0, 0, UInt8(payload.count >> 8), UInt8(payload.count & 255), nextHeader, 64]
        for text in [source, destination] { result += IPAddress(text)?.bytes ?? [] }
        return result + payload
    }

    private static func octets(_ text: String) -> [UInt8] { text.split(separator: ".").map { UInt8($0) ?? 0 } }

    static func udp(to port: UInt16, _ data: [UInt8]) -> [UInt8] {
        let length = 8 + data.count
        return [0x11, 0x94, UInt8(port >> 8), UInt8(port & 255), UInt8(length >> 8), UInt8(length & 255), 0, 0] + data
    }

    static let esp: [UInt8] = [0xC0, 0xFF, 0xEE, 0x01, 0, 0, 0, 1] + [UInt8](repeating: 0xAB, count: 48)
    static let ikeHeader = [UInt8](repeating: 0x5A, count: 28)
    static let nonESPMarker: [UInt8] = [0, 0, 0, 0]
}
