import IPsec
import Testing

@Suite struct DropReasonTests {
    @Test("every reason has a name of its own, a text and a remedy, and is found by its name", arguments: DropReason.allCases)
    func complete(_ reason: DropReason) {
        #expect(reason.name.wholeMatch(of: /[a-z]+(-[a-z]+)*/) != nil)
        #expect(DropReason.allCases.filter { $0.name == reason.name } == [reason])
        #expect(DropReason(name: reason.name) == reason)
        #expect(reason.text.count > 10 && reason.remedy.count > 5)
        #expect(!reason.text.hasSuffix("."), "a clause, not a sentence")
    }

    /// The raw value is an index into a worker's counters.
    @Test("the raw values are the places in the list")
    func indices() {
        #expect(DropReason.allCases.map { Int($0.rawValue) } == Array(0..<DropReason.allCases.count))
        #expect(DropReason(name: "no-such-reason") == nil)
    }

    /// Names are a contract with who reads status and metrics, and each must stand beside what it says.
    @Test(
        "the names that scripts rely on mean what they say",
        arguments: [
            (DropReason.noPolicy, "no-policy"), (.noSA, "no-sa"), (.replay, "replay"), (.tooBig, "too-big"),
            (.transmitFailed, "transmit-failed"), (.portDown, "port-down"), (.injectFull, "inject-full"),
            (.clearInbound, "clear-inbound"), (.stranger, "stranger"), (.tunnelDevice, "tunnel-device"),
            (.engineFailed, "engine-failed"), (.frameTooSmall, "frame-too-small"), (.fragmentUnknown, "fragment-unknown"),
        ])
    func names(_ reason: DropReason, _ name: String) {
        #expect(reason.name == name)
    }
}

@Suite("ESP layout, RFC 4303 §2 and RFC 4106")
struct ESPLayoutTests {
    @Test("payload, padding and trailer end on four octets; no more padding than that takes", arguments: 20...120)
    func padding(_ payload: Int) {
        let pad = ESPLayout.padBytes(payloadBytes: payload)
        #expect((0...3).contains(pad))
        #expect((payload + pad + 2) % 4 == 0)
    }

    @Test(
        "sizes by hand: RFC 4106 in IPv4 and IPv6, native and in UDP",
        arguments: [
            (64, false, false, 120), (64, true, false, 128), (64, false, true, 140), (64, true, true, 148),
            (1446, false, false, 1500), (1438, true, false, 1500), (1426, false, true, 1500), (1418, true, true, 1500),
        ])
    func totals(_ payload: Int, _ udp: Bool, _ ipv6: Bool, _ total: Int) {
        #expect(ESPLayout.totalBytes(payloadBytes: payload, udp: udp, ipv6: ipv6) == total)
    }

    @Test(
        "the largest payload fits and one octet more does not", arguments: [1280, 1400, 1492, 1500, 3826, 9000], [false, true])
    func largest(_ mtu: Int, _ udp: Bool) {
        for ipv6 in [false, true] {
            let payload = ESPLayout.largestPayload(mtu: mtu, udp: udp, ipv6: ipv6)
            #expect(ESPLayout.totalBytes(payloadBytes: payload, udp: udp, ipv6: ipv6) <= mtu)
            #expect(ESPLayout.totalBytes(payloadBytes: payload + 1, udp: udp, ipv6: ipv6) > mtu)
        }
    }

    @Test("key material is key and salt", arguments: [(128, 20), (192, 28), (256, 36)])
    func keyMaterial(_ bits: Int, _ bytes: Int) {
        #expect(ESPTransform(keyBits: bits, extendedSequenceNumbers: true).keyMaterialBytes == bytes)
        #expect(ESPTransform(keyBits: bits, extendedSequenceNumbers: true).keyword == "aes\(bits)gcm16-esn")
        #expect(ESPTransform(keyBits: bits, extendedSequenceNumbers: false).keyword == "aes\(bits)gcm16")
    }
}

@Suite struct SecretTests {
    private final class Fake: SecretMemory {
        let bytes: [UInt8]
        init(_ bytes: [UInt8]) { self.bytes = bytes }
        var count: Int { bytes.count }
        func withBytes<R>(_ body: (RawSpan) throws -> R) rethrows -> R {
            try bytes.withUnsafeBytes { try body(RawSpan(_unsafeBytes: $0)) }
        }
    }

    @Test("a child SA carries its keys as secrets, which lend their octets and say nothing else")
    func lending() {
        let secret: Secret = Fake([1, 2, 3, 4])
        #expect(secret.count == 4)
        #expect(secret.withBytes { $0.byteCount } == 4)
        #expect(secret.withBytes { $0.unsafeLoadUnaligned(as: UInt32.self).littleEndian } == 0x0403_0201)
        #expect(throws: Trouble.self) { try secret.withBytes { _ in throw Trouble() } }
    }
    private struct Trouble: Error {}
}
