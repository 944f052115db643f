import Testing

@testable import IKE

/// Whatever a refusal tells to add to the configuration is accepted there, and makes the two ends agree.
@Suite struct RemedyTests {
    private static func transforms(_ list: [(UInt8, UInt16, UInt16?)]) -> [Transform] {
        list.map { Transform($0.0, $0.1, keyLength: $0.2) }
    }

    private static func offer(_ number: UInt8, esp: Bool, _ transforms: [Transform]) -> WireProposal {
        WireProposal(
            number: number, protocolID: esp ? ProtocolID.esp : ProtocolID.ike, spi: esp ? [1, 2, 3, 4] : [],
            transforms: transforms)
    }

    private static let encryptions: [(UInt16, UInt16?)] = [
        (2, nil), (3, nil), (11, nil), (12, 128), (12, 192), (12, 256), (13, 256), (16, 256), (18, 256), (20, 128), (20, 192),
        (20, 256), (21, 256), (23, 256), (28, nil), (77, nil),
    ]
    private static let groups: [UInt16] = [0, 1, 2, 5, 14, 15, 16, 18, 19, 20, 21, 28, 31, 32, 35, 36, 37, 99]

    /// What the sentence says to add; nil when it says that nothing can be.
    private func remedy(_ text: String) throws -> String? {
        guard let start = text.firstRange(of: "add "), let end = text[start.upperBound...].firstRange(of: " to ") else {
            #expect(text.contains("Nothing of the offer can be accepted here"), "\(text)")
            return nil
        }
        return String(text[start.upperBound..<end.lowerBound])
    }

    @Test func `of every IKE offer`() throws {
        let ours = [try IKEProposal(keywords: "aes256gcm16-prfsha384-ecp521")]
        var (found, none) = (0, 0)
        for (cipher, bits) in Self.encryptions {
            for integrity in [nil, 0, 1, 2, 5, 12, 13, 14] as [UInt16?] {
                for prf in [1, 2, 4, 5, 6, 7, 8] as [UInt16] {
                    for group in Self.groups {
                        let offer = [
                            Self.offer(
                                1, esp: false,
                                Self.transforms([(1, cipher, bits), (2, prf, nil), (4, group, nil)])
                                    + (integrity.map { [Transform(3, $0)] } ?? []))
                        ]
                        guard Negotiation.choose(ours, from: offer) == nil else { continue }
                        let text = NegotiationReport.ike(ours: ours, offer: offer, connection: "c")
                        guard let keywords = try remedy(text) else { none += 1; continue }
                        found += 1
                        let added = try IKEProposal(keywords: keywords)
                        #expect(Negotiation.choose(ours + [added], from: offer) != nil, "\(text)")
                    }
                }
            }
        }
        #expect(found > 100 && none > 100)
    }

    @Test func `of every ESP offer`() throws {
        let ours = [try ESPProposal(keywords: "aes256gcm16-ecp521-esn")]
        var (found, none) = (0, 0)
        for (cipher, bits) in Self.encryptions {
            for group in Self.groups {
                for sequence in [[], [0], [1], [0, 1]] as [[UInt16]] {
                    for withMethods in [true, false] {
                        var list = Self.transforms([(1, cipher, bits)] + sequence.map { (5, $0, nil) })
                        if withMethods, group != 0 { list.append(Transform(4, group)) }
                        let offer = [Self.offer(1, esp: true, list)]
                        guard Negotiation.choose(ours, from: offer, withMethods: withMethods) == nil else { continue }
                        let text = NegotiationReport.esp(
                            ours: ours, offer: offer, withMethods: withMethods, connection: "c", child: "net")
                        guard let keywords = try remedy(text) else { none += 1; continue }
                        found += 1
                        let added = try ESPProposal(keywords: keywords)
                        #expect(Negotiation.choose(ours + [added], from: offer, withMethods: withMethods) != nil, "\(text)")
                    }
                }
            }
        }
        #expect(found > 50 && none > 50)
    }

    @Test func `the cause comes first, and defaults are not listed`() {
        let offer = [Self.offer(1, esp: false, Self.transforms([(1, 12, 256), (2, 5, nil), (3, 12, nil), (4, 2, nil)]))]
        let text = NegotiationReport.ike(ours: IKEProposal.defaults, offer: offer, connection: "c")
        #expect(text.utf8.count < 450, "\(text)")
        #expect(text.hasPrefix("No common IKE proposal: the first difference is the key exchange group"))
    }
}
