/// What is fuzzed. The name is that of its corpus, a folder of Tests/Fuzz/Corpus, and what scripts/fuzz takes.
///
/// Tests/Fuzz runs these with libFuzzer; `CorpusTests` runs every input of the corpora and mutations of them in `swift test`.
enum Harness: String, CaseIterable, Sendable {
    case message = "IKEMessage"
    case session = "IKESession"
    case eap = "EAP"
    case certificate = "Certificate"
    case packet = "Packet"
    case esp = "ESP"

    /// Traps when something is wrong; any octets may come.
    func run(_ bytes: [UInt8]) {
        switch self {
        case .message: ikeMessageHarness(bytes)
        case .session: ikeSessionHarness(bytes)
        case .eap: eapHarness(bytes)
        case .certificate: certificateHarness(bytes)
        case .packet: packetHarness(bytes)
        case .esp: espHarness(bytes)
        }
    }
}
