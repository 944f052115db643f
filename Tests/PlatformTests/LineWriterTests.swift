import CLinux
import Dispatch
import Glibc
import Testing

@testable import Platform

/// A pipe whose reader has stopped, and whose writing end blocks, as that of standard error does.
private final class StalledPipe: Sendable {
    let reading: FileDescriptor
    let writing: FileDescriptor

    /// - Parameter room: pages that are left free.
    init(room: Int = 0) throws {
        var ends: [Int32] = [0, 0]
        try #require(pipe(&ends) == 0)
        reading = FileDescriptor(owning: ends[0])
        writing = FileDescriptor(owning: ends[1])
        _ = culvert_fcntl_int(ends[1], F_SETFL, O_NONBLOCK)
        let page = [UInt8](repeating: UInt8(ascii: "."), count: 4096)
        while write(ends[1], page, page.count) > 0 {}
        _ = culvert_fcntl_int(ends[1], F_SETFL, 0)
        if room > 0 { _ = take(room * 4096) }
    }

    /// Reads so many octets, or all that there are.
    func take(_ limit: Int = .max) -> [UInt8] {
        var result: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 4096)
        while result.count < limit, Poll.readable(reading.number, timeoutMilliseconds: 0) {
            let got = read(reading.number, &buffer, min(buffer.count, limit - result.count))
            guard got > 0 else { break }
            result += buffer[..<got]
        }
        return result
    }

    func text() -> String { String(decoding: take().drop { $0 == UInt8(ascii: ".") }, as: UTF8.self) }
}

@Suite("Log lines to a reader that stopped")
struct LineWriterTests {
    private static func notice(_ lost: UInt64) -> [UInt8] { Array("\(lost) lost\n".utf8) }

    /// Writes on a thread of its own: should it block, the test ends all the same, with false.
    private static func write(_ lines: [String], to writer: LineWriter) -> Bool {
        let done = DispatchSemaphore(value: 0)
        DispatchQueue.global().async {
            for line in lines { writer.write(Array(line.utf8), notice: notice) }
            done.signal()
        }
        return done.wait(timeout: .now() + 5) == .success
    }

    @Test func `a full pipe costs one wait, and later the log says how much is missing`() throws {
        let pipe = try StalledPipe()
        let writer = LineWriter(descriptor: pipe.writing.number)
        let began = MonotonicClock.nanoseconds
        #expect(Self.write((0..<50).map { "line \($0)\n" }, to: writer), "the writer is stuck")
        #expect(MonotonicClock.nanoseconds - began < 2_000_000_000, "fifty lines wait once, not fifty times")
        #expect(writer.lostLines == 50)
        _ = pipe.take()
        #expect(Self.write(["here again\n"], to: writer))
        #expect(pipe.text() == "50 lost\nhere again\n")
        #expect(writer.lostLines == 0)
    }

    @Test func `a line that is cut short is ended before the next one`() throws {
        let pipe = try StalledPipe(room: 1)
        let writer = LineWriter(descriptor: pipe.writing.number)
        #expect(Self.write([String(repeating: "x", count: 10_000) + "\n", "no room\n"], to: writer), "the writer is stuck")
        _ = pipe.take()
        #expect(Self.write(["here again\n"], to: writer))
        #expect(pipe.text() == "\n2 lost\nhere again\n")
    }

    @Test func `a line longer than a piece arrives whole`() throws {
        let pipe = try StalledPipe()
        _ = pipe.take()
        let line = String(repeating: "y", count: 3 * LineWriter.pieceBytes + 5) + "\n"
        let writer = LineWriter(descriptor: pipe.writing.number)
        #expect(Self.write([line, "z\n"], to: writer))
        #expect(pipe.text() == line + "z\n")
        #expect(writer.lostLines == 0)
    }
}
