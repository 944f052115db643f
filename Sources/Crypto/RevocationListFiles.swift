internal import COpenSSL
internal import Synchronization

/// A file of revocation lists that is read again when it has changed.
final class RevocationListFile: Sendable {
    let path: String
    struct Contents: Sendable {
        var lists: [RevocationList] = []
        /// Certificates in the same file, of those who signed the lists.
        var signers: [Certificate] = []
        /// Another number with every reading.
        var version = 0
    }
    private struct State {
        var stamp: CredentialFile.Stamp?
        var contents = Contents()
        var problem: String?
    }
    private let state: Mutex<State>

    private struct Shared { weak var file: RevocationListFile? }
    private static let files = Mutex<[String: Shared]>([:])

    /// The one for a path: a list that many connections name is read and kept once.
    static func shared(_ path: String) -> RevocationListFile {
        files.withLock { files in
            if let file = files[path]?.file { return file }
            files = files.filter { $0.value.file != nil }
            let file = RevocationListFile(path: path)
            files[path] = Shared(file: file)
            return file
        }
    }

    init(path: String) {
        self.path = path
        state = Mutex(State())
    }

    /// Nothing has to be read.
    var isCurrent: Bool {
        let stamp = CredentialFile.Stamp(path: path)
        return state.withLock { stamp == nil || stamp == $0.stamp }
    }

    /// What the file holds now. When a new version cannot be read, the lists of the last good one, with a sentence.
    func current() -> (contents: Contents, problem: String?) {
        state.withLock { state in
            guard let stamp = CredentialFile.Stamp(path: path) else {
                state.stamp = nil
                return (state.contents, "The revocation list \(path) is gone; put it back, or remove it from `crl`.")
            }
            guard stamp != state.stamp else { return (state.contents, state.problem) }
            do throws(CredentialError) {
                let (lists, signers) = try RevocationList.readAll(file: path)
                state.contents = Contents(lists: lists, signers: signers, version: state.contents.version + 1)
                state.problem = nil
            } catch {
                state.problem = "The revocation list \(path) \(error.clause); the last good one is used."
            }
            state.stamp = stamp
            return (state.contents, state.problem)
        }
    }
}

/// All revocation lists that a connection names, sorted out once per change.
final class RevocationLists: Sendable {
    /// What the lists are, apart from any certificate.
    struct Snapshot: Sendable {
        /// Another one with every change of a file.
        var versions: [Int] = []
        /// Of lists about the same the newest alone: neither number nor date goes back.
        var complete: [RevocationList] = []
        var deltas: [RevocationList] = []
        var signers: [Certificate] = []
        /// Paths of the files, by list.
        var places: [ObjectIdentifier: String] = [:]

        var isEmpty: Bool { complete.isEmpty && deltas.isEmpty }

        func place(of list: RevocationList) -> String { places[ObjectIdentifier(list)].map { " (\($0))" } ?? "" }

        /// The newest delta list that goes with a complete one.
        func delta(for base: RevocationList) -> RevocationList? {
            deltas.filter { $0.completes(base) }.max { $0.precedes($1) }
        }

        /// The next time at which a list begins or ends to count.
        func nextChange(after now: Int64) -> Int64 {
            (complete + deltas).flatMap { [$0.thisUpdate, $0.nextUpdate ?? .max] }.filter { $0 > now }.min() ?? .max
        }
    }

    private let files: [RevocationListFile]
    private let snapshot = Mutex(Snapshot())

    init(paths: [String]) { files = paths.map { RevocationListFile.shared($0) } }

    var isCurrent: Bool { files.allSatisfy(\.isCurrent) }

    /// Reads what has changed.
    func current() -> (snapshot: Snapshot, problems: [String]) {
        let read = files.map { $0.current() }
        let versions = read.map(\.contents.version)
        let now = snapshot.withLock { snapshot in
            if snapshot.versions != versions {
                snapshot = Self.sorted(zip(files, read).map { ($0.path, $1.contents) })
            }
            return snapshot
        }
        return (now, read.compactMap(\.problem))
    }

    static func sorted(_ files: [(path: String, contents: RevocationListFile.Contents)]) -> Snapshot {
        var result = Snapshot()
        result.versions = files.map(\.contents.version)
        for (path, contents) in files {
            result.signers += contents.signers
            for list in contents.lists {
                result.places[ObjectIdentifier(list)] = path
                if list.isDelta { result.deltas.append(list) } else { result.complete.append(list) }
            }
        }
        let all = result.complete
        result.complete = all.enumerated().filter { place, list in
            // Of two that are the same in all of this, the first.
            !all.enumerated().contains { other, newer in
                newer.isAboutTheSame(as: list) && (list.precedes(newer) || (!newer.precedes(list) && other < place))
            }
        }.map(\.element)
        return result
    }
}

/// What `culvert check` and the log say of revocation lists before any peer has come.
public enum RevocationListReview {
    /// Reads what has changed, for those who judge by it next.
    public static func load(paths: [String]) { for path in paths { _ = RevocationListFile.shared(path).current() } }

    /// - Parameters:
    ///   - paths: files that can be read; others are told elsewhere.
    ///   - authorities: of the connection.
    /// - Returns: clauses to go on after the file's name.
    public static func findings(paths: [String], authorities: [Certificate], now: Int64) -> [(path: String, clause: String)] {
        var files: [(path: String, contents: RevocationListFile.Contents)] = []
        for path in paths {
            guard let read = try? RevocationList.readAll(file: path) else { continue }
            files.append((path, .init(lists: read.lists, signers: read.signers)))
        }
        let snapshot = RevocationLists.sorted(files)
        return files.flatMap { path, contents in
            contents.lists.flatMap { list in
                clauses(list, snapshot, authorities, now).map { (path, $0) }
            }
        }
    }

    private static func clauses(
        _ list: RevocationList, _ snapshot: RevocationLists.Snapshot, _ authorities: [Certificate], _ now: Int64
    ) -> [String] {
        let name = "holds \(list.isDelta ? "a delta revocation list" : "a revocation list") of `\(list.issuer)`"
        var found: [String] = []
        if let end = list.nextUpdate, end < now { found.append("\(name) that is out of date; get a new one") }
        if let fault = list.fault { found.append("\(name) that \(fault): it settles nothing, and whom it names is refused") }
        if list.isDelta, !snapshot.complete.contains(where: { list.completes($0) }) {
            found.append("\(name) without the complete list that it adds to; put that into `crl` too")
        }
        if !list.isDelta, !snapshot.complete.contains(where: { $0 === list }) {
            found.append("\(name) that is older than another one in `crl`, and is not looked at; remove it")
        }
        let signers = (authorities + snapshot.signers).filter { $0.subjectName == list.issuerName }
        if signers.isEmpty {
            found.append(
                "\(name), which is no CA of `ca`: it counts only for peers that send that CA's certificate along")
        } else if !signers.contains(where: { list.mayBeSigned(by: $0) && list.isSigned(by: $0) }) {
            found.append("\(name) that is not signed by the CA of that name in `ca`; get the list of this CA")
        }
        return found
    }
}
