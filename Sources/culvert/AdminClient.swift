import ArgumentParser
import Configuration
import Gateway
import Glibc

/// Which gateway a client talks to.
struct SocketOptions: ParsableArguments {
    @Option(name: .long, help: ArgumentHelp("The gateway's control socket.", valueName: "path"), completion: .file())
    var socket: String?

    @Option(
        name: .long,
        help: ArgumentHelp(
            "The gateway's configuration file, which names its control socket (unless told: \(Self.usualFile), when it exists).",
            valueName: "file"),
        completion: .file())
    var config: String?

    static let usualFile = "/etc/culvert/culvert.yaml"

    /// `--socket`, else the file's `control_socket`, else the built-in path. A file that is named must be there.
    func path() throws(AdminClientError) -> String {
        if let config, !Machine.isReadable(config), socket == nil || errno == ENOENT {
            let isForbidden = errno == EACCES
            throw AdminClientError(
                exit: isForbidden ? Exit.privilege : Exit.configuration,
                sentence:
                    "\(config): \(String(cString: strerror(errno))): correct --config, or leave it out for \(Self.usualFile).")
        }
        return socket ?? ConfigurationReader.controlSocket(path: config ?? Self.usualFile)
            ?? ConfigurationReader.defaultControlSocket
    }

    /// One request and its answer. Complaints go to stderr, and the exit code is thrown.
    /// - Parameter whileWaiting: called about once a second until the answer is there.
    func ask(
        _ request: AdminRequest, answerWithinSeconds: Int = 15, whileWaiting: (() -> Void)? = nil
    ) throws(ExitCode) -> AdminResponse {
        do {
            return try exchange(request, answerWithinSeconds: answerWithinSeconds, whileWaiting: whileWaiting)
        } catch {
            complain(error.sentence)
            if error.exit == Exit.unavailable, let left = GatewayAbsence.look(self) {
                complain(left.sentence)
                complain("-> \(left.remedy)")
            }
            throw error.exit
        }
    }

    /// As `ask`, but a refusal by the gateway ends the command too.
    func askFor(_ request: AdminRequest) throws(ExitCode) -> AdminResponse {
        let response = try ask(request)
        guard response.ok else {
            complain(response.message ?? "The gateway refused the request and said no more.")
            throw ExitCode(response.code ?? Exit.no.rawValue)
        }
        return response
    }

    /// As `ask`, and tells the outcome: the gateway's sentence, or with `asJSON` an `ActionOutcome`. A refusal ends the command.
    func act(
        _ request: AdminRequest, asJSON: Bool, otherwise: String, answerWithinSeconds: Int = 15,
        whileWaiting: (() -> Void)? = nil
    ) throws {
        let response = try ask(request, answerWithinSeconds: answerWithinSeconds, whileWaiting: whileWaiting)
        let code = response.ok ? 0 : response.code ?? Exit.no.rawValue
        let message =
            response.message ?? (response.ok ? otherwise : "The gateway refused the request and said no more; see its log.")
        if asJSON {
            print(try AdminCodec.prettyJSON(ActionOutcome(done: response.ok, exitCode: code, message: message)))
        } else if response.ok {
            print(message)
        } else {
            complain(message)
        }
        if !response.ok { throw ExitCode(code) }
    }

    func exchange(
        _ request: AdminRequest, answerWithinSeconds: Int, whileWaiting: (() -> Void)? = nil
    ) throws(AdminClientError) -> AdminResponse {
        let path = try path()
        let connection = try AdminConnection(path: path, answerWithinSeconds: answerWithinSeconds)
        let line: [UInt8]
        do {
            line = try AdminCodec.line(request)
        } catch {
            throw AdminClientError(exit: ExitCode(64), sentence: "The request cannot be written as JSON: \(error)")
        }
        try connection.send(line)
        if let whileWaiting {
            for _ in 0..<answerWithinSeconds where !connection.hasAnswer(withinSeconds: 1) { whileWaiting() }
        }
        let answer = try connection.receiveLine()
        do {
            return try AdminCodec.response(answer)
        } catch {
            throw AdminClientError(exit: Exit.unavailable, sentence: "\(path): \(error.sentence)")
        }
    }
}

/// What `up`, `down`, `rekey`, `redirect` and `reload` print with `--json`.
struct ActionOutcome: Encodable {
    var done: Bool
    /// What the command ends with.
    var exitCode: Int32
    var message: String

    enum CodingKeys: String, CodingKey {
        case done, message
        case exitCode = "exit_code"
    }
}

/// Why there is no answer, and what to end with.
struct AdminClientError: Error {
    var exit: ExitCode
    var sentence: String
}

/// A connected stream socket, closed with its owner.
private struct AdminConnection: ~Copyable {
    private let descriptor: Int32
    private let path: String
    private let answerWithinSeconds: Int

    init(path: String, answerWithinSeconds: Int) throws(AdminClientError) {
        (self.path, self.answerWithinSeconds) = (path, answerWithinSeconds)
        descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw Self.failure(path, errno) }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let bytes = Array(path.utf8)
        // One octet stays for the final zero.
        guard bytes.count < MemoryLayout.size(ofValue: address.sun_path) else {
            close(descriptor)
            throw AdminClientError(
                exit: ExitCode(64), sentence: "The socket path \(path) is too long; a Unix socket's path has at most 107 bytes.")
        }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
        var patience = timeval(tv_sec: answerWithinSeconds, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
        let outcome = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard outcome == 0 else {
            let code = errno
            close(descriptor)
            throw Self.failure(path, code)
        }
    }

    deinit { close(descriptor) }

    func send(_ bytes: [UInt8]) throws(AdminClientError) {
        var sent = 0
        while sent < bytes.count {
            let count = bytes[sent...].withUnsafeBytes { Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw Self.failure(path, errno) }
            sent += count
        }
    }

    func hasAnswer(withinSeconds seconds: Int32) -> Bool {
        var waiting = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        return poll(&waiting, 1, seconds * 1000) > 0
    }

    /// Up to the newline, which is left out.
    func receiveLine() throws(AdminClientError) -> [UInt8] {
        var line: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 65_536)
        while line.count <= AdminCodec.maxResponseBytes {
            let count = chunk.withUnsafeMutableBytes { recv(descriptor, $0.baseAddress, $0.count, 0) }
            if count < 0, errno == EINTR { continue }
            if count < 0, errno == EAGAIN {
                throw AdminClientError(
                    exit: Exit.unavailable,
                    sentence: "The gateway on \(path) has not answered within \(answerWithinSeconds) s; see its log.")
            }
            guard count >= 0 else { throw Self.failure(path, errno) }
            if count == 0 {
                throw AdminClientError(
                    exit: Exit.unavailable,
                    sentence: "The gateway on \(path) closed the connection without an answer; see its log.")
            }
            let part = chunk[..<count]
            if let end = part.firstIndex(of: UInt8(ascii: "\n")) { return line + part[..<end] }
            line += part
        }
        throw AdminClientError(
            exit: Exit.unavailable, sentence: "The answer of the gateway on \(path) is longer than any status can be.")
    }

    private static func failure(_ path: String, _ code: Int32) -> AdminClientError {
        if code == EACCES || code == EPERM {
            return AdminClientError(
                exit: Exit.privilege,
                sentence: "No permission for the control socket \(path): run as root or as a member of the socket's group.")
        }
        return AdminClientError(
            exit: Exit.unavailable,
            sentence: "No gateway answers on \(path) (\(String(cString: strerror(code)))): start one with "
                + "`culvert run --config FILE`, or name its socket with --socket.")
    }
}
