import CLinux
import Glibc
import Platform
import Testing

/// Why a test could not begin. Without root nothing is skipped in silence: the test fails with this.
struct LaboratoryError: Error, CustomStringConvertible {
    let description: String
}

/// Runs `body` on a thread of its own in a new network namespace, which vanishes with the thread. Programs started by
/// `shell` there are inside it too.
func inNewNetworkNamespace(_ body: @escaping @Sendable () throws -> Void) throws {
    final class Job: @unchecked Sendable {
        let body: @Sendable () throws -> Void
        var failure: (any Error)?
        init(_ body: @escaping @Sendable () throws -> Void) { self.body = body }

        func run() {
            guard culvert_unshare_network() == 0 else {
                failure = LaboratoryError(
                    description: "these tests make network namespaces and need root: \(String(cString: strerror(errno)))")
                return
            }
            do {
                try shell("ip link set lo up")
                try body()
            } catch { failure = error }
        }
    }
    let job = Job(body)
    let context = Unmanaged.passRetained(job).toOpaque()
    var thread = pthread_t()
    let started = pthread_create(
        &thread, nil,
        { context in
            guard let context else { return nil }
            Unmanaged<Job>.fromOpaque(context).takeRetainedValue().run()
            return nil
        }, context)
    guard started == 0 else { throw LaboratoryError(description: "pthread_create failed") }
    pthread_join(thread, nil)
    if let failure = job.failure { throw failure }
}

/// Runs commands in the calling thread's network namespace; throws when they fail.
func shell(_ commands: String) throws {
    let status = system("set -e; { \(commands)\n} >/dev/null")
    guard status == 0 else { throw LaboratoryError(description: "failed (\(status)): \(commands)") }
}

/// What commands print, in the calling thread's network namespace.
func output(of commands: String) throws -> String {
    guard let pipe = popen(commands, "r") else { throw LaboratoryError(description: "popen: \(commands)") }
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 4096)
    while true {
        let got = fread(&buffer, 1, buffer.count, pipe)
        if got == 0 { break }
        bytes += buffer[0..<got]
    }
    let status = pclose(pipe)
    guard status == 0 else { throw LaboratoryError(description: "failed (\(status)): \(commands)") }
    return String(decoding: bytes, as: UTF8.self)
}

/// The interface's index in the calling thread's network namespace.
func index(of name: String) throws -> Int {
    let index = if_nametoindex(name)
    guard index != 0 else { throw LaboratoryError(description: "no interface \(name)") }
    return Int(index)
}

/// Tries until it holds or five seconds are over.
func eventually(_ condition: () throws -> Bool) rethrows -> Bool {
    for _ in 0..<500 {
        if try condition() { return true }
        usleep(10_000)
    }
    return try condition()
}
