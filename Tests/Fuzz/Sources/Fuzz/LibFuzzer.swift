import Glibc

/// Which harness this process runs: CULVERT_HARNESS says it.
private let harness: Harness = {
    let name = getenv("CULVERT_HARNESS").map { String(cString: $0) } ?? ""
    guard let harness = Harness(rawValue: name) else {
        let all = Harness.allCases.map(\.rawValue).joined(separator: ", ")
        fatalError("CULVERT_HARNESS is \"\(name)\"; it has to be one of \(all)")
    }
    return harness
}()

/// libFuzzer calls this with every input.
@_cdecl("LLVMFuzzerTestOneInput")
public func testOneInput(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    harness.run(Array(UnsafeBufferPointer(start: start, count: count)))
    return 0
}
