/// Key material nobody but its owner can read by accident: the bytes live in memory that is locked, left out of core
/// dumps and wiped on release. The `Crypto` target supplies the only implementation; pure code passes secrets around
/// without seeing them.
public protocol SecretMemory: AnyObject, Sendable {
    var count: Int { get }
    /// Lends the bytes for the duration of `body`. Copies made there are the caller's to wipe.
    func withBytes<R>(_ body: (RawSpan) throws -> R) rethrows -> R
}

public typealias Secret = any SecretMemory
