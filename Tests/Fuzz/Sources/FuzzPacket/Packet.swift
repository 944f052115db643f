import Wire

/// Inner packets and TCP segments: ICMP errors about them, and the MSS clamp.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ start: UnsafePointer<UInt8>, _ count: Int) -> CInt {
    var bytes = Array(UnsafeBufferPointer(start: start, count: count))
    if ICMP.mayAnswer(bytes) {
        let error = ICMP.error(.fragmentationNeeded(mtu: 1400), about: bytes, source: IPv4Address("192.0.2.1")!)
        precondition(error.count <= 576, "an ICMP error of \(error.count) octets")
    }
    let before = bytes
    var span = bytes.mutableSpan
    let changed = TCP.clampMSS(&span, to: 1300)
    precondition(changed || bytes == before, "said unchanged, but changed")
    return 0
}
