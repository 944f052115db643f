import IKE

/// Proposals, and the weak algorithms a connection may insist on.
extension Reader {
    static var maxProposals: Int { 64 }
    static var weakAlgorithms: [String] { ["des", "3des", "md5", "sha1", "modp768", "modp1024", "modp1536"] }

    /// Every item of the list by `parse`; what does not parse is an error at the item.
    func proposals<Proposal: Equatable>(
        _ entry: Entry, allowed: Set<String>, parse: (String) throws(ProposalKeywordError) -> Proposal
    ) -> [Proposal] {
        guard let values = list(entry) else { return [] }
        if values.isEmpty { error(entry.mark, "`\(entry.key)` is empty; remove it to get the defaults") }
        if values.count > Self.maxProposals { error(entry.mark, "more than \(Self.maxProposals) proposals in `\(entry.key)`") }
        var result: [Proposal] = []
        for value in values.prefix(Self.maxProposals) {
            guard let text = text(value, in: entry.key) else { continue }
            do {
                let proposal = try parse(text)
                if result.contains(proposal) { warning(value.mark, "\(quoted(text)) says the same as a proposal before it") }
                result.append(proposal)
            } catch {
                self.error(value.mark, refusal(error, of: text, allowed: allowed))
            }
        }
        return result
    }

    private func refusal(_ failure: ProposalKeywordError, of text: String, allowed: Set<String>) -> String {
        guard case .weak(let why) = failure.reason else { return clean(failure.sentence) }
        let token = failure.token.lowercased()
        let name = weakName(token)
        let reason = "\(quoted(token)) is weak: \(clean(why))"
        guard let name else { return reason }
        if allowed.contains(name) { return "\(reason); `allow_weak` permits it, and it is not available in this version" }
        return
            "\(reason) (refused unless the connection says `allow_weak: [\(name)]`, and not available in this version even then)"
    }

    /// A sentence of the proposal parser quotes what the file says: bounded, and without control characters.
    private func clean(_ sentence: String) -> String { String(quoted(sentence, maxScalars: 300).dropFirst().dropLast()) }

    /// The name in `allow_weak` that stands for a keyword: `prfsha1` is SHA-1 too.
    private func weakName(_ token: String) -> String? {
        if Self.weakAlgorithms.contains(token) { return token }
        if token.contains("md5") { return "md5" }
        if token == "sha" || token.contains("sha1") { return "sha1" }
        return token.hasPrefix("modp1024") ? "modp1024" : nil
    }

    func weakNames(_ entry: Entry) -> Set<String> {
        guard let values = list(entry) else { return [] }
        var result: Set<String> = []
        for value in values {
            guard let text = text(value, in: entry.key) else { continue }
            if Self.weakAlgorithms.contains(text) {
                result.insert(text)
            } else {
                error(value.mark, unknownChoice(text, for: entry.key, among: Self.weakAlgorithms))
            }
        }
        return result
    }
}
