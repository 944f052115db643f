import Crypto
import Foundation
import IPsec
import Testing
import Wire

@testable import IKE

/// RFC 8784.
@Suite struct PostquantumKeyTests {
    typealias Key = (id: String, secret: String, isRequired: Bool)

    static let secret = "a postquantum key of 32 octets or so"

    static func pair(_ east: Key?, _ west: Key?) -> Pair {
        let pair = Pair()
        (pair.eastSide.ppk, pair.westSide.ppk) = (east, west)
        return pair
    }

    static func used(_ pair: Pair) -> [Bool?] {
        [pair.east, pair.west].map { $0.status(now: pair.now)?.ike?.usesPostquantumKey }
    }

    @Test func `SK_d, SK_pi and SK_pr are mixed as the formula says`() throws {
        let tests = AdditionalKeyScheduleTests()
        for vector in try AdditionalKeyScheduleTests.cases() {
            let (suite, keys, auth) = try tests.run(vector)
            let schedule = KeySchedule(crypto: tests.crypto)
            let mixed = try schedule.mix(tests.crypto.secret(tests.hex(vector.ppk)), into: keys, prf: suite.prf)
            #expect(mixed.derivation.octets == tests.hex(vector.mixed["d"] ?? ""))
            #expect(mixed.initiatorAuthentication.octets == tests.hex(vector.mixed["pi"] ?? ""))
            #expect(mixed.responderAuthentication.octets == tests.hex(vector.mixed["pr"] ?? ""))
            #expect(mixed.initiator.encryption.octets == keys.initiator.encryption.octets)
            let value = try schedule.authentication(
                prf: suite.prf, presharedKey: tests.crypto.secret(tests.hex(vector.psk)), message: tests.hex(vector.realMessage),
                nonce: tests.hex(vector.nr), identity: tests.hex(vector.identity),
                authenticationKey: mixed.initiatorAuthentication, intermediate: auth.octets)
            #expect(value == tests.hex(vector.authWithPPK))
        }
    }

    @Test(arguments: [(false, false), (false, true), (true, false), (true, true)])
    func `both ends with the same key use it, required or not`(_ east: Bool, _ west: Bool) throws {
        let pair = Self.pair(("link-1", Self.secret, east), ("link-1", Self.secret, west))
        pair.eastSide.ike = ["aes256gcm16-prfsha384-x25519-ke1_mlkem768"]
        pair.westSide.ike = pair.eastSide.ike
        #expect(try pair.establish())
        #expect(pair.mismatch == nil && Self.used(pair) == [true, true])
        // "It MUST NOT be used when these subkeys are calculated as result of IKE SA rekey": the new keys come of SK_d alone.
        #expect(pair.east.core.rekey(connection: "c", child: nil, ike: true, now: pair.now))
        pair.run(5)
        #expect(pair.west.core.rekey(connection: "c", child: nil, ike: false, now: pair.now))
        pair.run(5)
        #expect(pair.mismatch == nil && pair.isUp && Self.used(pair) == [true, true])
    }

    @Test func `the key changes the keys of the child`() throws {
        let keys = try [nil, ("link-1", Self.secret, true)].map { (key: Key?) in
            let pair = Self.pair(key, key)
            #expect(try pair.establish())
            let sa = try #require(pair.east.core.allSAs.first { $0.established != nil })
            let notifies = pair.network.history.filter { $0.bytes[18] == 34 }
                .map { try? WireMessage(parsing: $0.bytes).payloads.notify(.usePPK) }
            #expect(notifies.allSatisfy { ($0 != nil) == (key != nil) })
            return (sa.keys?.derivation.octets, pair.east.installed.first?.inboundKey.octets)
        }
        #expect(keys[0].0 != keys[1].0 && keys[0].1 != keys[1].1)
    }

    @Test func `an optional key is gone without when the other end has none, or another one`() throws {
        let cases: [(Key?, Key?)] = [
            (("link-1", Self.secret, false), nil), (nil, ("link-1", Self.secret, false)),
            (("link-1", Self.secret, false), ("link-2", Self.secret, false)),
        ]
        for (east, west) in cases {
            let pair = Self.pair(east, west)
            #expect(try pair.establish())
            #expect(pair.mismatch == nil && Self.used(pair) == [false, false])
            #expect(pair.west.core.rekey(connection: "c", child: nil, ike: false, now: pair.now))
            pair.run(5)
            #expect(pair.mismatch == nil)
        }
        let pair = Self.pair(cases[2].0, cases[2].1)
        #expect(try pair.establish())
        let told = "The peer 192.0.2.1:500 uses the postquantum key key-id:link-1, but connection c has ppk id key-id:link-2"
        #expect(pair.west.logs.contains { $0.contains(told) && $0.contains("goes on without") })
    }

    @Test func `a required key that the other end lacks, or knows otherwise, keeps the tunnel down, with the reason`() throws {
        let cases: [(Key?, Key?, String, String)] = [
            (("link-1", Self.secret, true), nil, "east", "does not use postquantum keys"),
            (nil, ("link-1", Self.secret, true), "west", "offers no postquantum key"),
            (("link-1", Self.secret, true), ("link-2", Self.secret, false), "west", "uses the postquantum key key-id:link-1"),
            (("link-1", Self.secret, false), ("link-2", Self.secret, true), "west", "make id and secret of ppk equal"),
            (("link-1", Self.secret, true), ("link-1", Self.secret + "!", true), "west", "its proof does not fit"),
            (
                ("link-1", Self.secret, false), ("link-1", Self.secret + "!", false), "east",
                "The postquantum key key-id:link-1 may"
            ),
        ]
        for (east, west, node, sentence) in cases {
            let pair = Self.pair(east, west)
            #expect(try !pair.establish(within: .seconds(6)))
            let told = node == "east" ? pair.east.downs : pair.west.downs
            #expect(told.contains { $0.contains(sentence) }, "\(node): \(told)")
            #expect(pair.east.installed.isEmpty && pair.west.installed.isEmpty)
            #expect((pair.east.logs + pair.west.logs).allSatisfy { !$0.contains(Self.secret) })
        }
    }

    /// West's answer to IKE_SA_INIT or IKE_AUTH without what says that it uses the key.
    @Test func `an initiator that requires the key refuses a responder that proves itself without`() throws {
        // Whoever knows the pre-shared key but not the postquantum one, and pretends: AUTH then does not fit, whatever it says.
        let pair = Self.pair(("link-1", Self.secret, true), ("link-1", "another key of the same name, same length", false))
        #expect(try !pair.establish(within: .seconds(5)))
        #expect(pair.west.core.counters.authenticationsRefused > 0)
        #expect(Self.used(pair) == [nil, nil])
    }
}
