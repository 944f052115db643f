import Foundation

/// A whole regular file, bounded, and who else may read it.
struct FileContents {
    var bytes: [UInt8]
    /// Group or world have the read permission.
    var isReadableByOthers: Bool

    /// A clause that completes "the configuration …" or "the file …".
    struct Failure: Error {
        var clause: String
    }

    /// Only regular files (or links to one) are opened, so that a pipe or a device cannot hold the reader up.
    init(path: String, maxBytes: Int) throws(Failure) {
        let resolved = URL(fileURLWithPath: path).resolvingSymlinksInPath().path
        let attributes: [FileAttributeKey: Any]
        do {
            attributes = try FileManager.default.attributesOfItem(atPath: resolved)
        } catch {
            throw Failure(clause: "\(quoted(path)) does not exist or its folder cannot be entered")
        }
        guard attributes[.type] as? FileAttributeType == .typeRegular else {
            throw Failure(clause: "\(quoted(path)) is not a regular file")
        }
        guard let handle = FileHandle(forReadingAtPath: resolved) else {
            throw Failure(clause: "\(quoted(path)) cannot be opened for reading; check its owner and permissions")
        }
        defer { try? handle.close() }
        let data: Data?
        do {
            data = try handle.read(upToCount: maxBytes + 1)
        } catch {
            throw Failure(clause: "\(quoted(path)) cannot be read")
        }
        bytes = data.map { Array($0) } ?? []
        guard bytes.count <= maxBytes else {
            throw Failure(clause: "\(quoted(path)) is larger than \(maxBytes) bytes, the most that is read")
        }
        let permissions = (attributes[.posixPermissions] as? NSNumber)?.intValue ?? 0
        isReadableByOthers = permissions & 0o044 != 0
    }
}
