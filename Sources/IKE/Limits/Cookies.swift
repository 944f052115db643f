import IPsec
import Wire

/// Stateless cookies: `Cookie = <VersionIDofSecret> | Hash(Ni | IPi | SPIi | <secret>)`. RFC 7296 §2.6.
package struct CookieJar {
    private struct Generation {
        var version: UInt8
        var secret: Secret
        var since: Instant
    }

    private let crypto: any IKECrypto
    private let random: any IKERandom
    private var current: Generation?
    /// "it MAY keep the old value of <secret> around for a short time and accept cookies computed from either one": one rotation.
    private var previous: Generation?

    package init(crypto: any IKECrypto, random: any IKERandom) { (self.crypto, self.random) = (crypto, random) }

    package mutating func make(nonce: [UInt8], address: IPAddress, spi: UInt64, now: Instant) throws(IKEFault) -> [UInt8] {
        rotate(now)
        guard let current else { throw .ours("no cookie secret") }
        return try cookie(current, nonce, address, spi)
    }

    package mutating func verify(_ cookie: [UInt8], nonce: [UInt8], address: IPAddress, spi: UInt64, now: Instant) -> Bool {
        rotate(now)
        guard let version = cookie.first,
            let generation = [current, previous].compactMap({ $0 }).first(where: { $0.version == version }),
            let expected = try? self.cookie(generation, nonce, address, spi)
        else { return false }
        return crypto.constantTimeEqual(expected, cookie)
    }

    private mutating func rotate(_ now: Instant) {
        if let current, now < current.since + Bounds.cookieSecretLifetime { return }
        if let current, now < current.since + Bounds.cookieSecretLifetime + Bounds.cookieSecretLifetime {
            previous = current
        } else {
            previous = nil
        }
        current = Generation(version: (current?.version ?? 0) &+ 1, secret: crypto.secret(random.bytes(32)), since: now)
    }

    private func cookie(_ generation: Generation, _ nonce: [UInt8], _ address: IPAddress, _ spi: UInt64) throws(IKEFault)
        -> [UInt8]
    {
        do throws(IKECryptoError) {
            return [generation.version]
                + (try crypto.prf(.hmacSHA256, key: generation.secret, data: nonce + address.bytes + [UInt8](u64: spi)))
        } catch { throw .ours("computing a cookie failed: \(error)") }
    }
}
