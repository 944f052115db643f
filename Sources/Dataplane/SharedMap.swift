/// A hash map as workers read it: two levels of 64 pointers, then a bucket with its entries, never changed where a worker can see
/// them. A change copies one of each, whatever else the map holds.
struct SharedMapView {
    typealias Directory = UnsafeMutablePointer<UnsafeMutableRawPointer?>
    static let slots = 64
    /// Before a bucket's entries stands their number.
    static let bucketHeaderBytes = 16

    var root: Directory

    /// The bucket of a hash of 32 bits, whose upper 12 choose it.
    func bucket(_ hash: UInt32) -> UnsafeMutableRawPointer? {
        guard let middle = root[Int(hash >> 26)] else { return nil }
        return middle.assumingMemoryBound(to: UnsafeMutableRawPointer?.self)[Int((hash >> 20) & 63)]
    }

    static func count(_ bucket: UnsafeMutableRawPointer) -> Int { bucket.load(as: Int.self) }
}

/// The control side of such a map: the only writer.
final class SharedMap<Entry: BitwiseCopyable> {
    private var root: SharedMapView.Directory
    /// What workers may still read until they have the next tables.
    private var replaced: [UnsafeMutableRawPointer] = []
    private(set) var count = 0
    /// Made since the last `publish`: no worker knows them, so they may be changed in place.
    private var fresh: Set<UnsafeMutableRawPointer> = []
    /// Directories and buckets copied so far: what changes have cost.
    private(set) var copies = 0

    init() { root = Self.directory() }

    deinit {
        for middle in 0..<SharedMapView.slots {
            guard let directory = root[middle]?.assumingMemoryBound(to: UnsafeMutableRawPointer?.self) else { continue }
            for bucket in 0..<SharedMapView.slots { directory[bucket]?.deallocate() }
            directory.deallocate()
        }
        root.deallocate()
    }

    var view: SharedMapView { SharedMapView(root: root) }

    /// Puts the entry in place of the one that `isSame` finds; nil: takes that one out.
    func set(hash: UInt32, _ entry: Entry?, isSame: (Entry) -> Bool) {
        let old = view.bucket(hash)
        let present = old.map { Self.entries($0) } ?? []
        var entries = present.filter { !isSame($0) }
        if let entry { entries.append(entry) }
        guard entry != nil || entries.count != present.count else { return }
        count += entries.count - present.count
        root = own(root)
        let slot = root + Int(hash >> 26)
        let middle = own(slot.pointee?.assumingMemoryBound(to: UnsafeMutableRawPointer?.self))
        slot.pointee = UnsafeMutableRawPointer(middle)
        let bucket = Self.bucket(entries)
        if let bucket { fresh.insert(bucket) }
        middle[Int((hash >> 20) & 63)] = bucket
        if let old { discard(old) }
        copies += 1
    }

    /// The directory itself while no worker knows it, else a copy; a new one for none.
    private func own(_ directory: SharedMapView.Directory?) -> SharedMapView.Directory {
        if let directory, fresh.contains(UnsafeMutableRawPointer(directory)) { return directory }
        let copy = Self.directory(directory)
        fresh.insert(UnsafeMutableRawPointer(copy))
        if let directory { replaced.append(UnsafeMutableRawPointer(directory)) }
        copies += 1
        return copy
    }

    private func discard(_ piece: UnsafeMutableRawPointer) {
        if fresh.remove(piece) != nil { piece.deallocate() } else { replaced.append(piece) }
    }

    /// What no worker reads once all have the present tables.
    func publish() -> [UnsafeMutableRawPointer] {
        fresh = []
        defer { replaced = [] }
        return replaced
    }

    private static func entries(_ bucket: UnsafeMutableRawPointer) -> [Entry] {
        let first = (bucket + SharedMapView.bucketHeaderBytes).assumingMemoryBound(to: Entry.self)
        return Array(UnsafeBufferPointer(start: first, count: SharedMapView.count(bucket)))
    }

    private static func bucket(_ entries: [Entry]) -> UnsafeMutableRawPointer? {
        guard !entries.isEmpty else { return nil }
        let bytes = SharedMapView.bucketHeaderBytes + entries.count * MemoryLayout<Entry>.stride
        let memory = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: 16)
        memory.storeBytes(of: entries.count, as: Int.self)
        for (index, entry) in entries.enumerated() {
            let offset = SharedMapView.bucketHeaderBytes + index * MemoryLayout<Entry>.stride
            memory.storeBytes(of: entry, toByteOffset: offset, as: Entry.self)
        }
        return memory
    }

    private static func directory(_ from: SharedMapView.Directory? = nil) -> SharedMapView.Directory {
        let memory = SharedMapView.Directory.allocate(capacity: SharedMapView.slots)
        if let from {
            memory.initialize(from: from, count: SharedMapView.slots)
        } else {
            memory.initialize(repeating: nil, count: SharedMapView.slots)
        }
        return memory
    }
}
