import IKE

/// Clear IKE messages, and payload chains as they come out of the Encrypted payload (the first octet says which).
/// What parses must encode, and the encoding must parse to the same payloads.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ start: UnsafePointer<UInt8>, _ count: Int) -> CInt {
    let bytes = Array(UnsafeBufferPointer(start: start, count: count))
    guard let selector = bytes.first else { return 0 }
    if selector & 1 == 0 {
        guard let message = try? WireMessage(parsing: Array(bytes.dropFirst())) else { return 0 }
        if message.encrypted == nil { check(message.payloads.all) }
    } else {
        let first = PayloadType(rawValue: selector >> 1)
        guard let chain = try? PayloadChain(first: first, bytes: bytes.dropFirst()) else { return 0 }
        if chain.encrypted == nil { check(chain.payloads.all) }
    }
    return 0
}

func check(_ payloads: [Payload]) {
    guard let first = payloads.first else { return }
    let encoded = PayloadChain.encode(payloads)
    guard let again = try? PayloadChain(first: first.type, bytes: encoded[...]) else {
        fatalError("what was parsed and encoded does not parse: \(payloads)")
    }
    precondition(again.payloads.all == payloads, "\(payloads) became \(again.payloads.all)")
}
