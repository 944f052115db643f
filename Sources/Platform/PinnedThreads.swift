import Glibc

/// Threads for measurements: each on a CPU of its own as far as there are any.
public enum PinnedThreads {
    private final class Job: @unchecked Sendable {
        let cpu: Int?
        let body: @Sendable () throws -> any Sendable
        var outcome: Result<any Sendable, any Error>?
        init(cpu: Int?, _ body: @escaping @Sendable () throws -> any Sendable) { (self.cpu, self.body) = (cpu, body) }
    }

    /// Runs `body` in `count` threads at once and waits for all of them.
    /// - Returns: what each gave, in order of their numbers.
    /// - Throws: what the first of them threw; `SystemError` when a thread cannot be started.
    public static func run<Value: Sendable>(_ count: Int, _ body: @escaping @Sendable (Int) throws -> Value) throws -> [Value] {
        let cpus = Numa.allowedCPUs()
        let jobs = (0..<count).map { number in
            Job(cpu: cpus.isEmpty ? nil : cpus[number % cpus.count]) { try body(number) }
        }
        var threads: [pthread_t] = []
        defer { for thread in threads { pthread_join(thread, nil) } }
        for job in jobs {
            var thread = pthread_t()
            let pointer = Unmanaged.passRetained(job).toOpaque()
            let code = pthread_create(
                &thread, nil,
                { argument in
                    // The thread owns the reference that was passed to it.
                    guard let argument else { return nil }
                    let job = Unmanaged<Job>.fromOpaque(argument).takeRetainedValue()
                    if let cpu = job.cpu { try? Numa.pinThread(toCPU: cpu) }
                    job.outcome = Result { try job.body() }
                    return nil
                }, pointer)
            guard code == 0 else {
                Unmanaged<Job>.fromOpaque(pointer).release()
                throw SystemError(
                    call: "pthread_create", code: code, subject: "a thread", remedy: "raise the limit on threads (ulimit -u)")
            }
            threads.append(thread)
        }
        for thread in threads { pthread_join(thread, nil) }
        threads = []
        return try jobs.compactMap { try $0.outcome?.get() as? Value }
    }
}
