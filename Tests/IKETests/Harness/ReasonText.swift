import IKE

/// Tests look for what a person must find in the sentence.
extension Reason {
    var isEmpty: Bool { sentence.isEmpty }
    func contains(_ text: String) -> Bool { sentence.contains(text) }
    func hasSuffix(_ text: String) -> Bool { sentence.hasSuffix(text) }
    func hasPrefix(_ text: String) -> Bool { sentence.hasPrefix(text) }
}
