import ArgumentParser
import Glibc

/// What the process ends with. 64, a wrong command line, is ArgumentParser's own.
enum Exit {
    /// It ran, and the answer is no.
    static let no = ExitCode(1)
    /// No gateway answers on the socket.
    static let unavailable = ExitCode(69)
    /// A privilege is missing.
    static let privilege = ExitCode(77)
    /// The configuration is refused.
    static let configuration = ExitCode(78)
}

/// One line to stderr.
func complain(_ sentence: String) { writeError(sentence + "\n") }

/// Straight to the descriptor, unbuffered.
func writeError(_ text: String) {
    var rest = Array(text.utf8)[...]
    while !rest.isEmpty {
        let count = rest.withUnsafeBytes { write(STDERR_FILENO, $0.baseAddress, $0.count) }
        if count < 0, errno == EINTR { continue }
        guard count > 0 else { return }
        rest = rest.dropFirst(count)
    }
}

/// Output to a pipe is buffered in blocks: whoever reads along wants it now.
func flushOutput() { fflush(nil) }
