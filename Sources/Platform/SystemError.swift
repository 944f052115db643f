import CLinux
import Glibc

/// A system call, or a library call, that failed: what was tried, what the kernel answered, and what to do about it.
/// The blame is the machine's or ours, never a peer's.
public struct SystemError: Error, Hashable, Sendable, CustomStringConvertible {
    /// The call, such as `bind(AF_XDP)`.
    public let call: String
    /// The errno value, positive; 0 when the failure has none.
    public let code: Int32
    /// What it was about, such as `wan0 queue 3`; empty when there is nothing to add.
    public let subject: String
    /// What the kernel or library said in words, such as netlink's extended acknowledgement; empty when it said nothing.
    public let detail: String
    /// What the reader can do, as the end of a sentence; empty when nothing is known.
    public let remedy: String

    public init(call: String, code: Int32 = errno, subject: String = "", detail: String = "", remedy: String = "") {
        self.call = call
        self.code = code
        self.subject = subject
        self.detail = detail
        self.remedy = remedy.isEmpty ? Self.usualRemedy(code) : remedy
    }

    /// One sentence: what, where, why, and what to do.
    public var description: String {
        var text = call
        if !subject.isEmpty { text += " for \(subject)" }
        text += " failed"
        if code != 0 { text += ": \(String(cString: strerror(code))) (errno \(code))" }
        if !detail.isEmpty { text += ": \(detail)" }
        if !remedy.isEmpty { text += "; \(remedy)" }
        return text
    }

    private static func usualRemedy(_ code: Int32) -> String {
        switch code {
        case EPERM, EACCES: "run as root, or with CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and CAP_IPC_LOCK"
        case ENOMEM, ENOBUFS: "free memory, raise the locked-memory limit (ulimit -l), or configure fewer frames"
        case EMFILE, ENFILE: "raise the limit of open files (ulimit -n)"
        case ENODEV, ENXIO: "check the interface's name and that it exists (ip link)"
        default: ""
        }
    }
}
