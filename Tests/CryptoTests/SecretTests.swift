import COpenSSL
import Crypto
import Foundation
import IKE
import IPsec
import Testing

@Suite struct SecretTests {
    @Test("a secret is wiped when it is released", arguments: [1, 32, 100, 4000, 5000])
    func wiping(_ count: Int) throws {
        // An arena of its own: no other test can use the memory again before it is looked at.
        let arena = SecureArena()
        // Keeps the mapping when a large secret has pages of its own.
        let address: UInt
        do {
            let secret = SecureBytes(count: count, arena: arena) { $0.initializeMemory(as: UInt8.self, repeating: 0xAB) }
            address = secret.withBytes { $0.withUnsafeBytes { UInt(bitPattern: $0.baseAddress) } }
            #expect(secret.exposed == [UInt8](repeating: 0xAB, count: count))
        }
        if count > SecureArena.largestSlotBytes {
            #expect(arena.mapped.bytes == 0)
            return
        }
        let memory = try #require(UnsafeRawPointer(bitPattern: address))
        #expect(UnsafeRawBufferPointer(start: memory, count: count).allSatisfy { $0 == 0 })
    }

    @Test("secrets are in OpenSSL's secure heap, and in the arena when that is nearly full")
    func placement() async {
        await #expect(processExitsWith: .success) {
            let one = SecureBytes([1, 2, 3])
            let inHeap = one.withBytes { $0.withUnsafeBytes { CRYPTO_secure_allocated($0.baseAddress) == 1 } }
            precondition(inHeap || !SecureHeap.size.isLocked)
            var many: [SecureBytes] = []
            for index in 0..<SecureHeap.size.bytes / 4096 + 16 {
                many.append(
                    SecureBytes(count: 4096) {
                        $0.initializeMemory(as: UInt8.self, repeating: UInt8(truncatingIfNeeded: index))
                    })
            }
            let outside = many.filter { !$0.withBytes { $0.withUnsafeBytes { CRYPTO_secure_allocated($0.baseAddress) == 1 } } }
            precondition(!outside.isEmpty && SecureArena.shared.mapped.bytes >= outside.count * 4096)
            for (index, secret) in many.enumerated() {
                precondition(secret.exposed.allSatisfy { $0 == UInt8(truncatingIfNeeded: index) })
            }
            // libcrypto still has room for its own secrets.
            let crypto = OpenSSLCrypto()
            let (a, b) = (try? crypto.makeKeyExchange(.ecp256), try? crypto.makeKeyExchange(.ecp256))
            precondition((try? a?.sharedSecret(peerPublicValue: b?.publicValue ?? [])) != nil)
        }
    }

    @Test("the pages are locked and left out of core dumps")
    func pages() throws {
        let arena = SecureArena()
        let memory = try #require(arena.allocate(bytes: 64))
        defer { arena.release(memory, bytes: 64) }
        let flags = try #require(Self.mappingFlags(of: UInt(bitPattern: memory)))
        #expect(flags.contains("dd"))
        if arena.mapped.lockedBytes > 0 { #expect(flags.contains("lo")) }
    }

    @Test("slots are aligned, zero at first, distinct while held and used again after release")
    func slots() throws {
        let arena = SecureArena()
        var held: [(UnsafeMutableRawPointer, Int)] = []
        for size in [1, 64, 65, 2288, 4096, 100, 4032, 64, 9000] + Array(repeating: 4096, count: 40) {
            let memory = try #require(arena.allocate(bytes: size))
            #expect(UInt(bitPattern: memory) % 64 == 0)
            #expect(UnsafeRawBufferPointer(start: memory, count: size).allSatisfy { $0 == 0 })
            for (other, otherSize) in held { #expect(memory + size <= other || other + otherSize <= memory) }
            memory.initializeMemory(as: UInt8.self, repeating: 0xFF, count: size)
            held.append((memory, size))
        }
        for (memory, size) in held { arena.release(memory, bytes: size) }
        let mapped = arena.mapped.bytes
        for _ in 0..<10_000 {
            let memory = try #require(arena.allocate(bytes: 4096))
            arena.release(memory, bytes: 4096)
        }
        #expect(arena.mapped.bytes == mapped)
    }

    @Test("slices are copies and never trap")
    func slices() {
        let crypto = OpenSSLCrypto()
        let whole = crypto.secret(Array(0..<10))
        #expect(crypto.slice(whole, 2..<5).exposed == [2, 3, 4])
        #expect(crypto.slice(whole, 8..<20).exposed == [8, 9])
        #expect(crypto.slice(whole, 20..<30).count == 0)
        #expect(crypto.slice(whole, -5..<2).exposed == [0, 1])
        #expect(crypto.secret([]).exposed == [])
    }

    /// In a process of its own, so that nothing else moves its memory.
    @Test("error paths leak nothing", .timeLimit(.minutes(10)))
    func leaks() async {
        await #expect(processExitsWith: .success) {
            let attempts = 100_000
            let crypto = OpenSSLCrypto()
            let hostile = HostileInput(crypto)
            for _ in 0..<2_000 { hostile.attempt(crypto) }
            let (resident, secure) = (SecretTests.residentBytes(), CRYPTO_secure_used())
            for _ in 0..<attempts { hostile.attempt(crypto) }
            let grown = SecretTests.residentBytes() - resident
            let secureGrown = Int(CRYPTO_secure_used()) - Int(secure)
            // 100,000 leaks of 32 octets would be 3.2 MB.
            precondition(resident > 0 && grown < 2 * 1024 * 1024 && secureGrown == 0 && ERR_peek_error() == 0)
            withExtendedLifetime(hostile) {}
        }
    }

    static func residentBytes() -> Int {
        let pages = (try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8))?.split(separator: " ")
        return (pages?.count ?? 0) > 1 ? (Int(pages?[1] ?? "") ?? 0) * 4096 : 0
    }

    /// The VmFlags of the mapping that holds an address. proc(5), smaps.
    static func mappingFlags(of address: UInt) -> [Substring]? {
        guard
            let text = (FileHandle(forReadingAtPath: "/proc/self/smaps")?.readDataToEndOfFile()).map({
                String(decoding: $0, as: UTF8.self)
            })
        else { return nil }
        var inside = false
        for line in text.split(separator: "\n") {
            let range = line.prefix { $0 != " " }.split(separator: "-")
            if range.count == 2, let low = UInt(range[0], radix: 16), let high = UInt(range[1], radix: 16) {
                inside = low <= address && address < high
            } else if inside, line.hasPrefix("VmFlags:") {
                return line.dropFirst(8).split(separator: " ")
            }
        }
        return nil
    }
}

/// What an attacker can make fail in a handshake, once each.
struct HostileInput {
    private let exchanges: [any KeyExchange]
    private let ciphers: [(IKECipher, MessageProtectionTests.Keys)]
    private let forged = [UInt8](repeating: 0x55, count: 120)

    init(_ crypto: OpenSSLCrypto) {
        exchanges = KeyExchangeMethod.allCases.compactMap { try? crypto.makeKeyExchange($0) }
        ciphers = [.aesGCM16(keyBits: 256), .aesCBC(keyBits: 256, .hmacSHA512_256)].map { ($0, .init($0)) }
    }

    func attempt(_ crypto: OpenSSLCrypto) {
        for exchange in exchanges {
            // Any ciphertext of the right length has a secret (FIPS 203 §7.3); all-zero encapsulation keys are valid too.
            let bytes = exchange.method.isEncapsulation ? exchange.method.answerBytes - 1 : exchange.method.publicValueBytes
            let value = [UInt8](repeating: 0, count: bytes)
            precondition((try? exchange.sharedSecret(peerPublicValue: value)) == nil)
            precondition((try? exchange.sharedSecret(peerPublicValue: forged)) == nil)
            let unreduced = [UInt8](repeating: 0xFF, count: exchange.method.publicValueBytes)
            if exchange.method.isEncapsulation {
                precondition((try? crypto.answerKeyExchange(exchange.method, peerPublicValue: unreduced)) == nil)
            }
        }
        for (cipher, keys) in ciphers {
            let opened = try? crypto.open(
                cipher, encryptionKey: keys.encryption, integrityKey: keys.integrity, associatedData: [1], sealed: forged)
            precondition(opened == nil)
            precondition(
                (try? crypto.seal(
                    cipher, encryptionKey: keys.encryption, integrityKey: keys.integrity,
                    associatedData: [], plaintext: [], iv: [])) == nil)
        }
        precondition((try? crypto.prfPlus(.hmacSHA512, key: crypto.secret([1]), seed: [], count: 1 << 20)) == nil)
        precondition((try? AEADContext.refused(crypto.secret([1, 2]))) == nil)
    }
}

extension AEADContext {
    fileprivate static func refused(_ key: Secret) throws -> Bool {
        for engine in EngineKind.available { _ = try AEADContext(engine: engine, key: key, keyBits: 128, direction: .open) }
        return true
    }
}
