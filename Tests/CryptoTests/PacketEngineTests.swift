import Crypto
import IKE
import IPsec
import Synchronization
import Testing

@Suite struct PacketEngineTests {
    struct File: Decodable {
        struct Case: Decodable {
            var `case`: Int
            var key, salt, iv, aad, plaintext, ciphertext_and_icv: String
        }
        var cases: [Case]
    }

    @Test("draft-mcgrew-gcm-test-01: ESP packets both ways", arguments: EngineKind.available)
    func draft(_ engine: EngineKind) throws {
        let cases = try vectors("rfc/draft-mcgrew-gcm-test-01-aes-gcm-esp.json", as: File.self).cases
        #expect(cases.count == 14)
        var used = 0
        for vector in cases where [32, 64].contains(vector.key.count) {
            let keyed = try KeyedEngine(engine, key: bytes(hex: vector.key))
            let nonce = bytes(hex: vector.salt + vector.iv)
            let (aad, text, sealed) = (
                bytes(hex: vector.aad), bytes(hex: vector.plaintext), bytes(hex: vector.ciphertext_and_icv)
            )
            #expect(keyed.seal(nonce: nonce, aad: aad, text) == sealed, "case \(vector.case)")
            #expect(keyed.open(nonce: nonce, aad: aad, sealed) == text, "case \(vector.case)")
            used += 1
        }
        #expect(used >= 10)
    }

    @Test("the engines agree on every packet size, with and without ESN", arguments: [16, 32])
    func agreement(_ keyBytes: Int) throws {
        let key = (0..<keyBytes).map { UInt8($0 * 3) }
        let reference = try KeyedEngine(.openssl, key: key)
        for engine in EngineKind.available {
            let keyed = try KeyedEngine(engine, key: key)
            for length in Array(1...300) + [1399, 1400, 1401, 1500, 4096, 9000] {
                let text = (0..<length).map { UInt8(truncatingIfNeeded: $0 &* 31) }
                let nonce = (0..<12).map { UInt8(truncatingIfNeeded: $0 &+ length) }
                for aad in [[UInt8](repeating: 0xA5, count: 8), [UInt8](repeating: 0x5A, count: 12)] {
                    let sealed = try #require(keyed.seal(nonce: nonce, aad: aad, text))
                    #expect(sealed == reference.seal(nonce: nonce, aad: aad, text))
                    #expect(keyed.open(nonce: nonce, aad: aad, sealed) == text)
                }
            }
        }
    }

    @Test("a forged packet is refused and leaves the context as good as before", arguments: EngineKind.available)
    func forgery(_ engine: EngineKind) throws {
        let keyed = try KeyedEngine(engine, key: [UInt8](repeating: 9, count: 32))
        let (nonce, aad) = ([UInt8](repeating: 1, count: 12), [UInt8](repeating: 2, count: 8))
        let text = [UInt8](repeating: 3, count: 100)
        let sealed = try #require(keyed.seal(nonce: nonce, aad: aad, text))
        for index in sealed.indices {
            var forged = sealed
            forged[index] ^= 1 << UInt8(index % 8)
            #expect(keyed.open(nonce: nonce, aad: aad, forged) == nil)
            #expect(keyed.open(nonce: nonce, aad: aad, sealed) == text)
        }
        #expect(keyed.open(nonce: nonce, aad: [UInt8](repeating: 2, count: 12), sealed) == nil)
        #expect(keyed.open(nonce: [UInt8](repeating: 0, count: 12), aad: aad, sealed) == nil)
        #expect(keyed.seal(nonce: nonce, aad: aad, text) == sealed)
    }

    @Test("keys of other sizes are refused by name", arguments: EngineKind.available)
    func keySizes(_ engine: EngineKind) {
        for (keyBytes, keyBits) in [(24, 192), (0, 0), (16, 256), (20, 128), (36, 256)] {
            #expect(throws: EngineError.keyBits(keyBytes * 8)) {
                _ = try AEADContext(
                    engine: engine, key: SecureBytes([UInt8](repeating: 1, count: keyBytes)), keyBits: keyBits, direction: .seal
                )
            }
        }
    }

    #if arch(x86_64)
    @Test("ipsec-mb's expanded keys are aligned, in the arena given, and wiped when released")
    func expandedKeys() throws {
        let placed = Mutex(0)
        let arena = SecureArena { _, octets in placed.withLock { $0 += octets } }
        let key = SecureBytes([UInt8](repeating: 7, count: 32))
        var address = UInt(0)
        do {
            let context = try AEADContext(engine: .ipsecMB, key: key, keyBits: 256, direction: .seal, arena: arena)
            address = UInt(bitPattern: context.handle)
            #expect(address % 64 == 0)
            let head = UnsafeRawBufferPointer(start: context.handle, count: 32)
            // AES: the first round keys are the key itself.
            #expect(Array(head) == key.exposed)
        }
        #expect(placed.withLock { $0 } == SecureArena.chunkBytes)
        let memory = try #require(UnsafeRawPointer(bitPattern: address))
        #expect(UnsafeRawBufferPointer(start: memory, count: 2048).allSatisfy { $0 == 0 })
    }
    #endif
}
