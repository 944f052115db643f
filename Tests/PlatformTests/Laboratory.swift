import CLinux
import Dispatch
import Glibc
import Platform
import Synchronization
import Testing

/// Why a test could not begin. Without root nothing is skipped in silence: the test fails with this.
struct LaboratoryError: Error, CustomStringConvertible {
    let description: String
}

/// Runs `body` on a thread of its own in a new network namespace, which vanishes with the thread. Programs started by
/// `shell` there are inside it too. The body stays in the test's task, so that its failures carry the test's name.
func inNewNetworkNamespace(_ body: @escaping @Sendable () throws -> Void) async throws {
    let thread = try NamespaceThread()
    defer { thread.end() }
    try await withTaskExecutorPreference(thread) {
        try shell("ip link set lo up")
        try body()
    }
}

/// A thread that is alone in a network namespace and runs the jobs of tasks that prefer it.
private final class NamespaceThread: TaskExecutor, @unchecked Sendable {
    private let jobs = Mutex<[UnownedJob]>([])
    private let ready = DispatchSemaphore(value: 0)
    private let started = DispatchSemaphore(value: 0)
    private var isEnding = false
    private var failure: Int32 = 0

    init() throws {
        var thread = pthread_t()
        let context = Unmanaged.passRetained(self).toOpaque()
        let result = pthread_create(
            &thread, nil,
            { context in
                guard let context else { return nil }
                Unmanaged<NamespaceThread>.fromOpaque(context).takeRetainedValue().run()
                return nil
            }, context)
        guard result == 0 else { throw LaboratoryError(description: "pthread_create: \(result)") }
        pthread_detach(thread)
        started.wait()
        guard failure == 0 else {
            throw LaboratoryError(
                description: "these tests make network namespaces and need root: \(String(cString: strerror(failure)))")
        }
    }

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        jobs.withLock { $0.append(job) }
        ready.signal()
    }

    func end() {
        jobs.withLock { _ in isEnding = true }
        ready.signal()
    }

    private func run() {
        if culvert_unshare_network() != 0 { failure = errno }
        started.signal()
        guard failure == 0 else { return }
        while true {
            ready.wait()
            let (job, done) = jobs.withLock { ($0.isEmpty ? nil : $0.removeFirst(), isEnding) }
            if let job { job.runSynchronously(on: asUnownedTaskExecutor()) } else if done { return }
        }
    }
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
