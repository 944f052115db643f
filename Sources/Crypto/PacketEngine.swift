public import COpenSSL
public import IPsec

#if arch(x86_64)
public import CIPSecMB
#endif

/// Who computes AES-GCM for packets.
public enum EngineKind: String, Sendable, CaseIterable {
    case openssl
    /// Intel multi-buffer crypto: x86-64 only, several times OpenSSL 3.0 on small packets.
    case ipsecMB = "ipsec-mb"

    public static var available: [EngineKind] {
        #if arch(x86_64)
        [.openssl, .ipsecMB]
        #else
        [.openssl]
        #endif
    }

    public static var best: EngineKind { available.last ?? .openssl }
}

public enum EngineError: Error, Hashable, Sendable, CustomStringConvertible {
    case unavailable(EngineKind)
    case keyBits(Int)
    case outOfMemory

    public var description: String {
        switch self {
        case .unavailable(let kind): "the engine \(kind.rawValue) is not available on this machine; use engine: openssl"
        case .keyBits(let bits): "AES-GCM keys have 128 or 256 bits, not \(bits)"
        case .outOfMemory: "out of memory for a packet key"
        }
    }
}

/// A worker's own engine state: the ipsec-mb manager, or nothing for OpenSSL. Used by one thread; freed by it.
public struct EngineManager: ~Copyable {
    /// Passed to `PacketEngine` with every packet.
    public let handle: UnsafeMutableRawPointer?

    public init(_ kind: EngineKind) {
        #if arch(x86_64)
        handle = kind == .ipsecMB ? culvert_mb_manager().map { UnsafeMutableRawPointer($0) } : nil
        #else
        handle = nil
        #endif
    }

    deinit {
        #if arch(x86_64)
        if let handle { culvert_mb_manager_free(handle.assumingMemoryBound(to: IMB_MGR.self)) }
        #endif
    }
}

/// One direction's keyed AES-GCM state for one SA. Wiped when released; used by the SA's owner worker alone.
public struct AEADContext: ~Copyable {
    public enum Direction: Sendable { case seal, open }

    /// For `PacketEngine`: an `EVP_CIPHER_CTX`, or an expanded key of ipsec-mb in locked memory that stays out of core dumps.
    public let handle: UnsafeMutableRawPointer
    private let engine: EngineKind
    private let arena: SecureArena

    /// - Parameters:
    ///   - key: 16 or 32 octets, without the salt.
    ///   - keyBits: 128 or 256.
    public init(engine: EngineKind, key: Secret, keyBits: Int, direction: Direction) throws(EngineError) {
        try self.init(engine: engine, key: key, keyBits: keyBits, direction: direction, arena: .shared)
    }

    /// `arena` is where ipsec-mb's expanded key goes, for example one whose pages are bound to the worker's NUMA node.
    /// libcrypto keeps its contexts in its own heap, wherever the calling thread runs.
    package init(engine: EngineKind, key: Secret, keyBits: Int, direction: Direction, arena: SecureArena) throws(EngineError) {
        guard keyBits == 128 || keyBits == 256, key.count == keyBits / 8 else { throw .keyBits(key.count * 8) }
        handle = try Self.makeHandle(engine, key, keyBits: keyBits, direction, arena)
        (self.engine, self.arena) = (engine, arena)
    }

    private static func makeHandle(
        _ engine: EngineKind, _ key: Secret, keyBits: Int, _ direction: Direction, _ arena: SecureArena
    ) throws(EngineError) -> UnsafeMutableRawPointer {
        switch engine {
        case .openssl:
            guard let cipher = try? Algorithms.shared.gcm(keyBits: keyBits) else { throw .keyBits(keyBits) }
            let context = key.withBytes { bytes in
                bytes.withUnsafeBytes { raw in
                    raw.baseAddress.flatMap {
                        culvert_gcm_context(cipher, $0.assumingMemoryBound(to: UInt8.self), direction == .seal ? 1 : 0)
                    }
                }
            }
            guard let context else { throw .outOfMemory }
            return UnsafeMutableRawPointer(context)
        case .ipsecMB:
            #if arch(x86_64)
            guard let memory = arena.allocate(bytes: Int(CULVERT_MB_KEY_BYTES)) else { throw .outOfMemory }
            let manager = EngineManager(.ipsecMB)
            guard let functions = manager.handle else {
                arena.release(memory, bytes: Int(CULVERT_MB_KEY_BYTES))
                throw .outOfMemory
            }
            key.withBytes { bytes in
                bytes.withUnsafeBytes { raw in
                    culvert_mb_expand(
                        functions.assumingMemoryBound(to: IMB_MGR.self), raw.baseAddress, keyBits == 256 ? 1 : 0,
                        memory.assumingMemoryBound(to: gcm_key_data.self))
                }
            }
            return memory
            #else
            throw .unavailable(.ipsecMB)
            #endif
        }
    }

    deinit {
        switch engine {
        // Frees after cleansing the key schedule.
        case .openssl: EVP_CIPHER_CTX_free(OpaquePointer(handle))
        case .ipsecMB:
            #if arch(x86_64)
            arena.release(handle, bytes: Int(CULVERT_MB_KEY_BYTES))
            #endif
        }
    }
}

/// AES-GCM over one packet, in place: the only calls that the packet path makes outside of itself. RFC 4106.
public enum PacketEngine {
    /// - Parameters:
    ///   - handle: of an `AEADContext` for sealing.
    ///   - manager: of this thread's `EngineManager`.
    ///   - nonce: 12 octets, never used before with this key.
    ///   - aad: 8 or 12 octets.
    ///   - data: `length` octets, encrypted in place.
    ///   - tag: 16 octets are written here.
    /// - Returns: false when the library failed; `data` is then neither clear nor sealed.
    @inlinable @inline(__always)
    public static func seal(
        _ engine: EngineKind, keyIs256: Bool, handle: UnsafeMutableRawPointer, manager: UnsafeMutableRawPointer?,
        nonce: UnsafeMutableRawPointer, aad: UnsafeMutableRawPointer, aadBytes: Int, data: UnsafeMutableRawPointer, length: Int,
        tag: UnsafeMutableRawPointer
    ) -> Bool {
        #if arch(x86_64)
        if case .ipsecMB = engine {
            // A thread whose manager could not be made must not hand this key to the other library.
            guard let manager else { return false }
            culvert_mb_seal(
                manager.assumingMemoryBound(to: IMB_MGR.self), handle.assumingMemoryBound(to: gcm_key_data.self),
                keyIs256 ? 1 : 0,
                nonce.assumingMemoryBound(to: UInt8.self), aad.assumingMemoryBound(to: UInt8.self),
                UInt64(truncatingIfNeeded: aadBytes),
                data.assumingMemoryBound(to: UInt8.self), UInt64(truncatingIfNeeded: length),
                tag.assumingMemoryBound(to: UInt8.self))
            return true
        }
        #endif
        return culvert_gcm_seal(
            OpaquePointer(handle), nonce.assumingMemoryBound(to: UInt8.self), aad.assumingMemoryBound(to: UInt8.self),
            Int32(truncatingIfNeeded: aadBytes), data.assumingMemoryBound(to: UInt8.self), Int32(truncatingIfNeeded: length),
            tag.assumingMemoryBound(to: UInt8.self)) == 1
    }

    /// The reverse of `seal`: verifies `tag` and decrypts in place. False: not authentic, and `data` is worthless.
    @inlinable @inline(__always)
    public static func open(
        _ engine: EngineKind, keyIs256: Bool, handle: UnsafeMutableRawPointer, manager: UnsafeMutableRawPointer?,
        nonce: UnsafeMutableRawPointer, aad: UnsafeMutableRawPointer, aadBytes: Int, data: UnsafeMutableRawPointer, length: Int,
        tag: UnsafeMutableRawPointer
    ) -> Bool {
        #if arch(x86_64)
        if case .ipsecMB = engine {
            // A thread whose manager could not be made must not hand this key to the other library.
            guard let manager else { return false }
            return culvert_mb_open(
                manager.assumingMemoryBound(to: IMB_MGR.self), handle.assumingMemoryBound(to: gcm_key_data.self),
                keyIs256 ? 1 : 0,
                nonce.assumingMemoryBound(to: UInt8.self), aad.assumingMemoryBound(to: UInt8.self),
                UInt64(truncatingIfNeeded: aadBytes),
                data.assumingMemoryBound(to: UInt8.self), UInt64(truncatingIfNeeded: length),
                tag.assumingMemoryBound(to: UInt8.self)) == 1
        }
        #endif
        return culvert_gcm_open(
            OpaquePointer(handle), nonce.assumingMemoryBound(to: UInt8.self), aad.assumingMemoryBound(to: UInt8.self),
            Int32(truncatingIfNeeded: aadBytes), data.assumingMemoryBound(to: UInt8.self), Int32(truncatingIfNeeded: length),
            tag.assumingMemoryBound(to: UInt8.self)) == 1
    }
}
