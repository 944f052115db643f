internal import COpenSSL
public import IKE

/// The system's randomness, through OpenSSL's generator.
public final class SystemRandom: IKERandom, Sendable {
    public init() {}

    /// Traps when the generator fails: a nonce, SPI or key that can be guessed is worse than no gateway.
    public func bytes(_ count: Int) -> [UInt8] {
        guard count > 0, let size = Int32(exactly: count) else { return [] }
        return [UInt8](unsafeUninitializedCapacity: count) { buffer, written in
            guard RAND_bytes(buffer.baseAddress, size) == 1 else { fatalError("OpenSSL's random generator failed") }
            written = count
        }
    }
}
