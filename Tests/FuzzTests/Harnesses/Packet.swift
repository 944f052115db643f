import Wire

/// Inner packets and TCP segments: ICMP errors about them, and the MSS clamp. IPv6 headers: what is read is written back.
func packetHarness(_ bytes: [UInt8]) {
    var bytes = bytes
    if ICMP.mayAnswer(bytes) {
        let error = ICMP.error(.fragmentationNeeded(mtu: 1400), about: bytes, source: IPv4Address("192.0.2.1")!)
        precondition(error.count <= 576, "an ICMP error of \(error.count) octets")
    }
    if let header = IPv6Header(bytes.span) {
        precondition(header.bytes == Array(bytes.prefix(IPv6.headerBytes)), "an IPv6 header changed on its way")
    }
    let before = bytes
    var span = bytes.mutableSpan
    let changed = TCP.clampMSS(&span, to: 1300)
    precondition(changed || bytes == before, "said unchanged, but changed")
}
