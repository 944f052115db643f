/// Pre-shared keys and passwords. Nothing in this file puts a value into a diagnostic.
extension Reader {
    static var maxKeyBytes: Int { 1024 }
    /// RFC 7296 §2.15: a key from a password is only as strong as the password.
    static var shortKeyBytes: Int { 20 }

    /// The octets of `psk` or `psk_file`; nil when there is neither or it is refused.
    func presharedKey(_ mapping: Mapping, isRequired: Bool) -> [UInt8]? {
        switch (mapping["psk"], mapping["psk_file"]) {
        case (nil, nil):
            if isRequired { missing("psk_file", of: mapping, "`psk_file` is missing (or `psk`); `auth: psk` needs one") }
            return nil
        case (let inline?, let file?):
            let later = max(inline.keyMark, file.keyMark)
            error(later, "`psk` and `psk_file` are both given; keep one")
            return nil
        case (let entry?, nil): return longEnough(inlineSecret(entry), entry: entry, what: "`psk`")
        case (nil, let entry?): return longEnough(secretFile(entry), entry: entry, what: "the secret in `psk_file`")
        }
    }

    /// A secret that stands in the file itself.
    func inlineSecret(_ entry: Entry) -> [UInt8]? {
        guard case .scalar(let text, let isQuoted) = entry.value.content else {
            error(entry.mark, "`\(entry.key)` must be text, in quotes, not \(entry.value.kind)")
            return nil
        }
        if readableByOthers {
            warning(
                entry.keyMark,
                "this file holds a secret and others can read it; `chmod 600` it, or move the secret to a file of its own")
        }
        if !isQuoted, closeComments.contains(entry.mark.line) {
            warning(
                entry.mark,
                "`\(entry.key)` ends before the `#`, which begins a comment behind a blank: put the secret into quotes if it "
                    + "goes on")
        }
        return checked(Array(text.utf8), entry: entry, what: "`\(entry.key)`")
    }

    /// A secret in a file of its own.
    func secretFile(_ entry: Entry) -> [UInt8]? {
        guard let text = text(entry) else { return nil }
        let contents: FileContents
        do {
            contents = try FileContents(path: absolutePath(text), maxBytes: Self.maxKeyBytes + 2)
        } catch {
            self.error(entry.mark, "`\(entry.key)` \(error.clause)")
            return nil
        }
        if contents.isReadableByOthers {
            warning(entry.mark, "\(quoted(text)) holds a secret and others can read it; `chmod 600` it")
        }
        // Editors and `openssl rand` end the file with a line end that is no part of the secret.
        var bytes = contents.bytes
        if bytes.last == UInt8(ascii: "\n") { bytes.removeLast() }
        if bytes.last == UInt8(ascii: "\r") { bytes.removeLast() }
        return checked(bytes, entry: entry, what: "the secret in \(quoted(text))")
    }

    private func checked(_ key: [UInt8], entry: Entry, what: String) -> [UInt8]? {
        guard !key.isEmpty else { error(entry.mark, "\(what) is empty; `openssl rand -base64 32` makes a good one"); return nil }
        guard key.count <= Self.maxKeyBytes else {
            error(entry.mark, "\(what) is longer than \(Self.maxKeyBytes) bytes"); return nil
        }
        if let scalar = String(validating: key, as: UTF8.self)?.unicodeScalars.first(where: Self.isLookalike) {
            warning(
                entry.mark,
                "\(what) holds U+\(SourceText.hexadecimal(scalar)) (\(scalar.properties.name ?? "no name")), as documents and "
                    + "pages put in; it is taken as a part of the secret, and the other end must have it too")
        }
        return key
    }

    /// What looks like a quotation mark or a blank of ASCII, or like nothing.
    private static func isLookalike(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.properties.generalCategory {
        case .initialPunctuation, .finalPunctuation, .format: true
        case .spaceSeparator: scalar != " "
        case .openPunctuation: scalar == "\u{201A}" || scalar == "\u{201E}"
        default: false
        }
    }

    private func longEnough(_ key: [UInt8]?, entry: Entry, what: String) -> [UInt8]? {
        if let key, key.count < Self.shortKeyBytes {
            warning(
                entry.mark,
                "\(what) is shorter than \(Self.shortKeyBytes) characters: whoever records one exchange can try "
                    + "passwords offline; `openssl rand -base64 32` makes a good one"
            )
        }
        return key
    }
}
