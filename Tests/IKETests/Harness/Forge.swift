import Crypto
import IKE
import IPsec

/// Messages sealed with the keys of a live SA, as a misbehaving peer would send them.
struct Forge {
    /// The SA on the end that is played.
    let sa: IKESA
    let random = SeededRandom(seed: 4711)

    init?(_ node: Node) {
        guard let sa = node.core.allSAs.last(where: { $0.established != nil }) else { return nil }
        self.sa = sa
    }

    init(sa: IKESA) { self.sa = sa }

    func request(_ exchange: ExchangeType, _ payloads: [Payload], id: UInt32) throws -> [UInt8] {
        try request(exchange, first: payloads.first?.type ?? .none, inner: PayloadChain.encode(payloads), id: id)
    }

    func request(_ exchange: ExchangeType, first: PayloadType, inner: [UInt8], id: UInt32) throws -> [UInt8] {
        guard let suite = sa.suite, let keys = sa.ourKeys else { return [] }
        return try MessageSealer(crypto: OpenSSLCrypto(), cipher: suite.cipher).seal(
            sa.header(exchange, isResponse: false, id: id), first: first, inner: inner, keys: keys,
            iv: random.bytes(suite.cipher.ivBytes))
    }

    /// A response of this end's, with one more payload.
    func amended(_ bytes: [UInt8], with payload: Payload) throws -> [UInt8] {
        let message = try WireMessage(parsing: bytes)
        guard let suite = sa.suite, let keys = sa.ourKeys, let encrypted = message.encrypted else { return [] }
        let sealer = MessageSealer(crypto: OpenSSLCrypto(), cipher: suite.cipher)
        let inner = try sealer.open(encrypted, keys: keys)
        let all = try PayloadChain(first: encrypted.firstPayload, bytes: inner[...]).payloads.all + [payload]
        return try sealer.seal(
            message.header, first: all.first?.type ?? .none, inner: PayloadChain.encode(all), keys: keys,
            iv: random.bytes(suite.cipher.ivBytes))
    }

    /// The payloads of a message that the other end sealed.
    func open(_ bytes: [UInt8]) throws -> PayloadList {
        guard let suite = sa.suite, let keys = sa.peerKeys, let encrypted = try WireMessage(parsing: bytes).encrypted else {
            return PayloadList()
        }
        let inner = try MessageSealer(crypto: OpenSSLCrypto(), cipher: suite.cipher).open(encrypted, keys: keys)
        return try PayloadChain(first: encrypted.firstPayload, bytes: inner[...]).payloads
    }
}

enum OpenSSLCryptoForTests {
    static let shared = OpenSSLCrypto()
}
