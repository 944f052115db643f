import IKE

/// Clear IKE messages, and payload chains as they come out of the Encrypted payload (the first octet says which).
/// What parses must encode, and what then parses must encode to itself (what nobody understands may be lost on the way).
func ikeMessageHarness(_ bytes: [UInt8]) {
    guard let selector = bytes.first else { return }
    if selector & 1 == 0 {
        guard let message = try? WireMessage(parsing: Array(bytes.dropFirst())) else { return }
        if message.encrypted == nil { check(message.payloads.all) }
    } else {
        let first = PayloadType(rawValue: selector >> 1)
        guard let chain = try? PayloadChain(first: first, bytes: bytes.dropFirst()) else { return }
        if chain.encrypted == nil { check(chain.payloads.all) }
    }
}

func check(_ payloads: [Payload]) {
    guard let first = payloads.first else { return }
    let encoded = PayloadChain.encode(payloads)
    // Selectors of a type that nobody knows are not encoded again, and a payload without selectors does not parse.
    guard let again = try? PayloadChain(first: first.type, bytes: encoded[...]) else { return }
    precondition(PayloadChain.encode(again.payloads.all) == encoded, "\(payloads) became \(again.payloads.all)")
}
