import IPsec
import Testing
import Wire

@testable import IKE

/// Without `esp_proposals` children are rekeyed with a key exchange of their own where the peer does one, and without where not.
@Suite struct DefaultProposalTests {
    /// The group that made the keys of the newest child on one end; nil: none.
    private func group(_ node: Node) -> KeyExchangeMethod? {
        node.core.sas.values.compactMap(\.established).flatMap(\.children).max { $0.createdAt < $1.createdAt }?.suite.method
    }

    @Test(
        arguments: [
            ([], nil), (["aes256gcm16"], nil), (["aes128gcm16-noesn"], nil), (["aes256gcm16-x25519-esn"], .x25519),
            (["aes256gcm16-ecp521"], .ecp521), (["aes128gcm16-modp2048"], .modp2048),
            (["aes256gcm16-x25519", "aes256gcm16"], .x25519),
        ] as [([String], KeyExchangeMethod?)], ["east", "west"])
    func `whoever rekeys, with the defaults on one end`(peer: ([String], KeyExchangeMethod?), who: String) throws {
        let defaults = ESPProposal.defaults.map(\.keywords)
        for defaultsAreEast in [true, false] {
            let pair = Pair()
            let theirs = peer.0.isEmpty ? defaults : peer.0
            (pair.eastSide.esp, pair.westSide.esp) = defaultsAreEast ? (defaults, theirs) : (theirs, defaults)
            #expect(try pair.establish())
            #expect(group(pair.east) == nil, "IKE_AUTH has no exchange for the child")
            let rekeyer = who == "east" ? pair.east : pair.west
            let before = pair.east.installations
            #expect(rekeyer.core.rekey(connection: "c", child: "net", ike: false, now: pair.now))
            pair.run(3)
            #expect(pair.isUp && pair.mismatch == nil && pair.east.installations == before + 1)
            let expected = peer.0.isEmpty ? .x25519 : peer.1
            #expect(group(pair.east) == expected && group(pair.west) == expected)
            #expect(pair.east.status(now: pair.now)?.children.first?.reason == nil)
        }
    }

    @Test func `in IKE_AUTH equal proposals are offered once`() {
        let offer = Offer.esp(ESPProposal.defaults, spi: 1000, withMethods: false)
        #expect(offer.count == 1 && offer[0].number == 1)
        #expect(Offer.esp(ESPProposal.defaults, spi: 1000, withMethods: true).map(\.number) == [1, 2])
    }
}
