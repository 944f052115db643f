import ArgumentParser

/// A word that is no command: what was meant, most likely.
enum Suggestion {
    /// Nil when every word that must be a command is one.
    static func complaint(_ words: [String], root: any ParsableCommand.Type) -> String? {
        var command = root
        var path = root._commandName
        for word in words {
            let children = command.configuration.subcommands
            guard !children.isEmpty, !word.hasPrefix("-"), word != "help" else { return nil }
            if let child = children.first(where: { $0._commandName == word || $0.configuration.aliases.contains(word) }) {
                command = child
                path += " \(word)"
                continue
            }
            let names = children.filter { $0.configuration.shouldDisplay }.map { $0._commandName }
            let close = names.map { ($0, distance(word, $0)) }.min { $0.1 < $1.1 }.flatMap { $0.1 <= 2 ? $0.0 : nil }
            let remedy = close.map { "did you mean `\(path) \($0)`?" } ?? "`\(path) --help` lists them."
            return "\(path) has no command `\(word)`: \(remedy)"
        }
        return nil
    }

    /// Insertions, deletions, replacements and exchanges of neighbours that make one of the other.
    static func distance(_ first: String, _ second: String) -> Int {
        let (a, b) = (Array(first.lowercased()), Array(second.lowercased()))
        var rows = [[Int]](repeating: [Int](repeating: 0, count: b.count + 1), count: a.count + 1)
        for i in 0...a.count { rows[i][0] = i }
        for j in 0...b.count { rows[0][j] = j }
        for i in a.indices {
            for j in b.indices {
                let replaced = rows[i][j] + (a[i] == b[j] ? 0 : 1)
                rows[i + 1][j + 1] = min(rows[i][j + 1] + 1, rows[i + 1][j] + 1, replaced)
                if i > 0, j > 0, a[i] == b[j - 1], a[i - 1] == b[j] {
                    rows[i + 1][j + 1] = min(rows[i + 1][j + 1], rows[i - 1][j - 1] + 1)
                }
            }
        }
        return rows[a.count][b.count]
    }
}
