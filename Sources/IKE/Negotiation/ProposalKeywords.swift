/// Why a proposal string such as `aes256gcm16-prfsha384-ecp384` was refused.
public struct ProposalKeywordError: Error, Hashable, Sendable, CustomStringConvertible {
    public enum Reason: Hashable, Sendable {
        /// No such keyword; the nearest known one, when there is one near.
        case unknown(suggestion: String?)
        /// Known, and too weak to be used: the text says why.
        case weak(String)
        /// Known, but not in this version; a keyword to use instead, when there is one.
        case unsupported(instead: String?)
        /// A role that no keyword of the string fills, such as "a key exchange group".
        case missing(String)
        /// The same algorithm is written twice.
        case duplicate
        /// Known, but without a meaning in this kind of proposal: the text says why.
        case misplaced(String)
        case empty
    }
    /// The keyword at fault; the whole string when something is missing.
    public var token: String
    public var reason: Reason

    public init(token: String, reason: Reason) { (self.token, self.reason) = (token, reason) }

    /// One sentence: what is wrong and what to write instead.
    public var sentence: String {
        switch reason {
        case .unknown(let suggestion?): "unknown proposal keyword '\(token)', did you mean '\(suggestion)'?"
        case .unknown(nil): "unknown proposal keyword '\(token)'"
        case .weak(let why): "'\(token)' is too weak to be used: \(why)"
        case .unsupported(let instead?): "'\(token)' is not supported by this version; use '\(instead)' instead"
        case .unsupported(nil): "'\(token)' is not supported by this version"
        case .missing(let what): "the proposal '\(token)' lacks \(what)"
        case .duplicate: "'\(token)' is there twice"
        case .misplaced(let why): "'\(token)' does not belong here: \(why)"
        case .empty: "a proposal is empty"
        }
    }
    public var description: String { sentence }
}

/// What one keyword stands for.
enum ProposalKeyword: Hashable {
    case gcm(Int)
    case cbc(Int)
    case integrity(IntegrityAlgorithm)
    case prf(PseudoRandomFunction)
    case method(KeyExchangeMethod)
    /// nil: `keN_none`.
    case additional(slot: UInt8, KeyExchangeMethod?)
    case extendedSequenceNumbers(Bool)
    case weak(String)
    case unsupported(instead: String?)

    static func lookUp(_ token: String) throws(ProposalKeywordError) -> ProposalKeyword {
        let name = token.lowercased()
        if let keyword = known[name] { return keyword }
        if let keyword = try additional(name, token) { return keyword }
        if let why = weak[name] { return .weak(why) }
        if let instead = unsupported[name] { return .unsupported(instead: instead.isEmpty ? nil : instead) }
        if unsupportedPrefixes.contains(where: { name.hasPrefix($0) }) { return .unsupported(instead: nil) }
        throw ProposalKeywordError(token: token, reason: .unknown(suggestion: nearest(to: name, among: known.keys)))
    }

    /// `ke1_mlkem768`: an additional key exchange and its place. Nil when the keyword is not of that shape.
    private static func additional(_ name: String, _ token: String) throws(ProposalKeywordError) -> ProposalKeyword? {
        let parts = name.split(separator: "_", maxSplits: 1, omittingEmptySubsequences: false)
        guard parts.count == 2, parts[0].hasPrefix("ke"), let slot = UInt8(parts[0].dropFirst(2)),
            AdditionalKeyExchange.slots.contains(slot)
        else { return nil }
        let method = String(parts[1])
        if method == "none" { return .additional(slot: slot, nil) }
        if case .method(let method) = known[method] { return .additional(slot: slot, method) }
        if let why = weak[method] { return .weak(why) }
        if let instead = unsupported[method] {
            return .unsupported(instead: known[instead] == nil ? nil : "\(parts[0])_\(instead)")
        }
        let methods = known.filter { if case .method = $0.value { true } else { false } }
        let suggestion = nearest(to: method, among: methods.keys).map { "\(parts[0])_\($0)" }
        throw ProposalKeywordError(token: token, reason: .unknown(suggestion: suggestion))
    }

    private static let known: [String: ProposalKeyword] = [
        "aes128gcm16": .gcm(128), "aes128gcm128": .gcm(128), "aes256gcm16": .gcm(256), "aes256gcm128": .gcm(256),
        "aes128": .cbc(128), "aes": .cbc(128), "aes192": .cbc(192), "aes256": .cbc(256),
        "sha256": .integrity(.hmacSHA256_128), "sha2_256": .integrity(.hmacSHA256_128),
        "sha384": .integrity(.hmacSHA384_192), "sha2_384": .integrity(.hmacSHA384_192),
        "sha512": .integrity(.hmacSHA512_256), "sha2_512": .integrity(.hmacSHA512_256),
        "prfsha256": .prf(.hmacSHA256), "prfsha2_256": .prf(.hmacSHA256),
        "prfsha384": .prf(.hmacSHA384), "prfsha2_384": .prf(.hmacSHA384),
        "prfsha512": .prf(.hmacSHA512), "prfsha2_512": .prf(.hmacSHA512),
        "x25519": .method(.x25519), "curve25519": .method(.x25519),
        "ecp256": .method(.ecp256), "ecp384": .method(.ecp384), "ecp521": .method(.ecp521),
        "modp2048": .method(.modp2048), "modp3072": .method(.modp3072), "modp4096": .method(.modp4096),
        "mlkem512": .method(.mlkem512), "mlkem768": .method(.mlkem768), "mlkem1024": .method(.mlkem1024),
        "esn": .extendedSequenceNumbers(true), "noesn": .extendedSequenceNumbers(false),
    ]

    private static let weak: [String: String] = [
        "des": "DES has 56-bit keys; use aes256gcm16", "3des": "3DES has 64-bit blocks; use aes256gcm16",
        "blowfish": "Blowfish has 64-bit blocks; use aes256gcm16", "blowfish128": "Blowfish has 64-bit blocks; use aes256gcm16",
        "blowfish192": "Blowfish has 64-bit blocks; use aes256gcm16",
        "blowfish256": "Blowfish has 64-bit blocks; use aes256gcm16",
        "cast128": "CAST-128 has 64-bit blocks; use aes256gcm16", "null": "NULL does not encrypt; use aes256gcm16",
        "md5": "MD5 is broken; use sha256", "md5_128": "MD5 is broken; use sha256", "prfmd5": "MD5 is broken; use prfsha256",
        "sha": "SHA-1 is broken; use sha256", "sha1": "SHA-1 is broken; use sha256", "sha1_160": "SHA-1 is broken; use sha256",
        "prfsha1": "SHA-1 is broken; use prfsha256", "sha256_96": "its 96-bit truncation is not the standard's; use sha256",
        "sha2_256_96": "its 96-bit truncation is not the standard's; use sha256",
        "modp768": "a 768-bit group is broken; use x25519", "modp1024": "a 1024-bit group is within reach of states; use x25519",
        "modp1536": "a 1536-bit group is below today's minimum; use x25519",
        "modp1024s160": "a 1024-bit group is within reach of states; use x25519",
        "modpnull": "it exchanges no key", "modpnone": "it exchanges no key",
        "ecp192": "a 192-bit curve is below today's minimum; use x25519",
    ]

    /// Known keywords that this version does not do, and what to write instead (empty: nothing near).
    private static let unsupported: [String: String] = [
        "chacha20poly1305": "aes256gcm16", "chacha20poly1305compat": "aes256gcm16", "aes192gcm16": "aes256gcm16",
        "aes192gcm128": "aes256gcm16", "aesxcbc": "sha256", "aescmac": "sha256", "prfaesxcbc": "prfsha256",
        "prfaescmac": "prfsha256",
        "modp6144": "modp4096", "modp8192": "modp4096", "modp2048s224": "modp2048", "modp2048s256": "modp2048",
        "x448": "ecp521", "curve448": "ecp521", "ecp224": "ecp256", "ecp224bp": "ecp256", "ecp256bp": "ecp256",
        "ecp384bp": "ecp384",
        "ecp512bp": "ecp521", "aes128gmac": "aes128gcm16", "aes192gmac": "aes256gcm16", "aes256gmac": "aes256gcm16",
        "kyber1": "mlkem512", "kyber3": "mlkem768", "kyber5": "mlkem1024",
        "aes128gcm8": "aes128gcm16", "aes128gcm64": "aes128gcm16", "aes128gcm12": "aes128gcm16", "aes128gcm96": "aes128gcm16",
        "aes192gcm8": "aes256gcm16", "aes192gcm12": "aes256gcm16", "aes256gcm8": "aes256gcm16", "aes256gcm64": "aes256gcm16",
        "aes256gcm12": "aes256gcm16", "aes256gcm96": "aes256gcm16", "default": "",
    ]
    private static let unsupportedPrefixes = [
        "camellia", "serpent", "twofish", "ntru", "newhope", "frodo", "hqc", "aes128ccm", "aes192ccm", "aes256ccm", "aes128ctr",
        "aes192ctr", "aes256ctr",
    ]

    private static func nearest(to name: String, among keywords: some Collection<String>) -> String? {
        let limit = name.count <= 4 ? 1 : 3
        return keywords.map { ($0, editDistance(name, $0)) }
            .filter { $0.1 <= limit }
            .min { ($0.1, $0.0) < ($1.1, $1.0) }?.0
    }

    /// Levenshtein distance; the strings are configuration keywords, bounded by the line they stand in.
    private static func editDistance(_ a: String, _ b: String) -> Int {
        let (a, b) = (Array(a.utf8.prefix(32)), Array(b.utf8.prefix(32)))
        var row = Array(0...b.count)
        for (i, x) in a.enumerated() {
            var diagonal = row[0]
            row[0] = i + 1
            for (j, y) in b.enumerated() {
                let above = row[j + 1]
                row[j + 1] = min(above + 1, row[j] + 1, diagonal + (x == y ? 0 : 1))
                diagonal = above
            }
        }
        return row[b.count]
    }
}

/// The keywords of one string, looked up, with what both kinds of proposal refuse already refused.
private struct KeywordList {
    var tokens: [(text: String, keyword: ProposalKeyword)] = []

    init(_ string: String) throws(ProposalKeywordError) {
        for part in string.split(separator: "-", omittingEmptySubsequences: false) {
            let text = part.trimmingSpaces
            guard !text.isEmpty else { throw ProposalKeywordError(token: string, reason: .empty) }
            let keyword = try ProposalKeyword.lookUp(text)
            switch keyword {
            case .weak(let why): throw ProposalKeywordError(token: text, reason: .weak(why))
            case .unsupported(let instead): throw ProposalKeywordError(token: text, reason: .unsupported(instead: instead))
            default: break
            }
            guard !tokens.contains(where: { $0.keyword == keyword }) else {
                throw ProposalKeywordError(token: text, reason: .duplicate)
            }
            tokens.append((text, keyword))
        }
    }

    func refuse(_ text: (String) -> String, where matches: (ProposalKeyword) -> Bool) throws(ProposalKeywordError) {
        if let found = tokens.first(where: { matches($0.keyword) }) {
            throw ProposalKeywordError(token: found.text, reason: .misplaced(text(found.text)))
        }
    }

    func collect<T>(_ pick: (ProposalKeyword) -> T?) -> [T] { tokens.compactMap { pick($0.keyword) } }
    var methods: [KeyExchangeMethod] { collect { if case .method(let method) = $0 { method } else { nil } } }

    /// By slot, each with its methods in the order they are written.
    func additional(_ whole: String) throws(ProposalKeywordError) -> [AdditionalKeyExchange] {
        var result: [AdditionalKeyExchange] = []
        for slot in AdditionalKeyExchange.slots {
            let methods = tokens.compactMap { token -> KeyExchangeMethod?? in
                if case .additional(slot, let method) = token.keyword { .some(method) } else { nil }
            }
            guard !methods.isEmpty else { continue }
            let named = methods.compactMap { $0 }
            guard !named.isEmpty else {
                throw ProposalKeywordError(token: whole, reason: .missing("a method beside ke\(slot)_none"))
            }
            result.append(AdditionalKeyExchange(slot: slot, methods: named, isOptional: named.count < methods.count))
        }
        guard result.isEmpty || !self.methods.isEmpty else {
            throw ProposalKeywordError(token: whole, reason: .missing("a first key exchange such as x25519"))
        }
        try refuseRepetition(result)
        return result
    }

    /// "the responder's choice MUST NOT contain duplicated algorithms" (RFC 9370 §2.2.1): a method that has to be done twice
    /// could never be chosen.
    private func refuseRepetition(_ additional: [AdditionalKeyExchange]) throws(ProposalKeywordError) {
        var taken: Set<KeyExchangeMethod> = methods.count == 1 ? Set(methods) : []
        for exchange in additional where exchange.methods.count == 1 && !exchange.isOptional {
            guard let method = exchange.methods.first, !taken.insert(method).inserted else { continue }
            throw ProposalKeywordError(
                token: "ke\(exchange.slot)_\(method.keyword)",
                reason: .misplaced("\(method.keyword) is done before already, and each additional key exchange must differ"))
        }
    }
}

extension Substring {
    fileprivate var trimmingSpaces: String {
        String(drop { $0 == " " }.reversed().drop { $0 == " " }.reversed())
    }
}

extension IKEProposal {
    /// Reads strongSwan keywords: at least one cipher, a PRF (or an integrity algorithm that names it), a key exchange method.
    /// - Throws: `ProposalKeywordError` with the keyword at fault.
    public init(keywords: String) throws(ProposalKeywordError) {
        let list = try KeywordList(keywords)
        try list.refuse({ _ in "sequence numbers belong to ESP proposals" }) {
            if case .extendedSequenceNumbers = $0 { true } else { false }
        }
        let gcm = list.collect { if case .gcm(let bits) = $0 { bits } else { nil } }
        let cbc = list.collect { if case .cbc(let bits) = $0 { bits } else { nil } }
        let integrity = list.collect { if case .integrity(let algorithm) = $0 { algorithm } else { nil } }
        var prfs = list.collect { if case .prf(let prf) = $0 { prf } else { nil } }
        // RFC 7296 §2.7: "combined-mode ciphers are not allowed to have any integrity algorithm other than NONE".
        if !gcm.isEmpty, !cbc.isEmpty {
            throw ProposalKeywordError(
                token: "aes\(cbc[0])", reason: .misplaced("write AES-CBC and AES-GCM as two proposals of the list"))
        }
        guard !gcm.isEmpty || !cbc.isEmpty else {
            throw ProposalKeywordError(token: keywords, reason: .missing("an encryption algorithm such as aes256gcm16"))
        }
        if !cbc.isEmpty, integrity.isEmpty {
            throw ProposalKeywordError(
                token: keywords, reason: .missing("an integrity algorithm such as sha256, which AES-CBC needs"))
        }
        if prfs.isEmpty { prfs = integrity.map(\.prf) }
        guard !prfs.isEmpty else {
            throw ProposalKeywordError(token: keywords, reason: .missing("a pseudo-random function such as prfsha384"))
        }
        guard !list.methods.isEmpty else {
            throw ProposalKeywordError(token: keywords, reason: .missing("a key exchange group such as x25519 or ecp384"))
        }
        let ciphers =
            gcm.map { IKECipher.aesGCM16(keyBits: $0) }
            + cbc.flatMap { bits in integrity.map { IKECipher.aesCBC(keyBits: bits, $0) } }
        self.init(ciphers: ciphers, prfs: prfs, methods: list.methods, additional: try list.additional(keywords))
    }

    /// The canonical keywords; `IKEProposal(keywords:)` of them gives an equal proposal.
    public var keywords: String {
        var parts: [String] = []
        func add(_ part: String) { if !parts.contains(part) { parts.append(part) } }
        for cipher in ciphers { add(cipher.encryptionKeyword) }
        for case .aesCBC(_, let integrity) in ciphers { add(integrity.keyword) }
        let derived = ciphers.compactMap { if case .aesCBC(_, let integrity) = $0 { integrity.prf } else { nil } }
        if Array(derived.uniqued) != prfs { for prf in prfs { add(prf.keyword) } }
        for method in methods { add(method.keyword) }
        for keyword in additional.flatMap(\.keywordList) { add(keyword) }
        return parts.joined(separator: "-")
    }

    /// What is offered and accepted when the configuration says nothing: first with ML-KEM after the classical exchange (RFC
    /// 9370), so that whoever records the traffic today cannot read it with a quantum computer later; then without, for peers
    /// that cannot, who pass over proposals with transform types that they do not know. AES-GCM comes before AES-CBC.
    public static let defaults: [IKEProposal] = [
        [AdditionalKeyExchange(slot: 1, methods: [.mlkem768, .mlkem1024])], [],
    ].flatMap { additional in
        let prfs: [PseudoRandomFunction] = [.hmacSHA384, .hmacSHA256, .hmacSHA512]
        let methods: [KeyExchangeMethod] = [.x25519, .ecp384, .ecp256, .ecp521, .modp3072, .modp4096, .modp2048]
        let cbc = [256, 128].flatMap { bits in
            [.hmacSHA384_192, .hmacSHA256_128, .hmacSHA512_256].map { IKECipher.aesCBC(keyBits: bits, $0) }
        }
        return [[.aesGCM16(keyBits: 256), .aesGCM16(keyBits: 128)], cbc].map { (ciphers: [IKECipher]) in
            IKEProposal(ciphers: ciphers, prfs: prfs, methods: methods, additional: additional)
        }
    }
}

extension ESPProposal {
    /// Reads strongSwan keywords: AES-GCM ciphers, optional key exchange methods (perfect forward secrecy on rekey), `esn`,
    /// `noesn`.
    /// - Throws: `ProposalKeywordError` with the keyword at fault.
    public init(keywords: String) throws(ProposalKeywordError) {
        let list = try KeywordList(keywords)
        for (text, keyword) in list.tokens {
            switch keyword {
            case .cbc(let bits):
                throw ProposalKeywordError(
                    token: text, reason: .unsupported(instead: bits == 128 ? "aes128gcm16" : "aes256gcm16"))
            case .integrity: throw ProposalKeywordError(token: text, reason: .misplaced("AES-GCM authenticates by itself"))
            case .prf:
                throw ProposalKeywordError(token: text, reason: .misplaced("ESP uses the pseudo-random function of the IKE SA"))
            default: break
            }
        }
        let keyBits = list.collect { if case .gcm(let bits) = $0 { bits } else { nil } }
        let esn = list.collect { if case .extendedSequenceNumbers(let extended) = $0 { extended } else { nil } }
        guard !keyBits.isEmpty else {
            throw ProposalKeywordError(token: keywords, reason: .missing("an encryption algorithm such as aes256gcm16"))
        }
        self.init(
            keyBits: keyBits, methods: list.methods, additional: try list.additional(keywords),
            extendedSequenceNumbers: esn.isEmpty ? [false] : esn)
    }

    /// The canonical keywords; `ESPProposal(keywords:)` of them gives an equal proposal.
    public var keywords: String {
        var parts = keyBits.map { "aes\($0)gcm16" } + methods.map(\.keyword) + additional.flatMap(\.keywordList)
        if extendedSequenceNumbers != [false] { parts += extendedSequenceNumbers.map { $0 ? "esn" : "noesn" } }
        return parts.joined(separator: "-")
    }

    /// What is offered and accepted when the configuration says nothing: rekeys with a key exchange of their own (perfect forward
    /// secrecy), of whatever group the peer has, then without, for peers that do none.
    public static let defaults: [ESPProposal] = [
        [.x25519, .ecp384, .ecp256, .ecp521, .modp3072, .modp4096, .modp2048], [],
    ].map { ESPProposal(keyBits: [256, 128], methods: $0, extendedSequenceNumbers: [true, false]) }
}

extension IKECipher {
    var encryptionKeyword: String {
        switch self {
        case .aesGCM16(let bits): "aes\(bits)gcm16"
        case .aesCBC(let bits, _): "aes\(bits)"
        }
    }
    var keyBits: Int {
        switch self {
        case .aesGCM16(let bits), .aesCBC(let bits, _): bits
        }
    }
    var integrity: IntegrityAlgorithm? { if case .aesCBC(_, let integrity) = self { integrity } else { nil } }
}

extension IntegrityAlgorithm {
    public var keyword: String {
        switch self {
        case .hmacSHA256_128: "sha256"
        case .hmacSHA384_192: "sha384"
        case .hmacSHA512_256: "sha512"
        }
    }
    /// The PRF that strongSwan derives from it when a proposal names none.
    var prf: PseudoRandomFunction {
        switch self {
        case .hmacSHA256_128: .hmacSHA256
        case .hmacSHA384_192: .hmacSHA384
        case .hmacSHA512_256: .hmacSHA512
        }
    }
}

extension PseudoRandomFunction {
    public var keyword: String {
        switch self {
        case .hmacSHA256: "prfsha256"
        case .hmacSHA384: "prfsha384"
        case .hmacSHA512: "prfsha512"
        }
    }
}

extension KeyExchangeMethod {
    public var keyword: String { "\(self)" }
}

extension Sequence where Element: Hashable {
    /// The elements in order, each once.
    var uniqued: [Element] {
        var seen: Set<Element> = []
        return filter { seen.insert($0).inserted }
    }
}
