/// Counts the looks into tables of what exists. The price of a datagram, a tick or the status of one connection must not grow
/// with the number of peers, and tests hold to that by this count rather than by time.
package final class WorkMeter {
    package private(set) var looks = 0
    package init() {}
    package func count(_ more: Int = 1) { looks &+= more }
}

/// A dictionary that counts every look into it, and every element that is walked over.
package struct CountedTable<Key: Hashable, Value> {
    private var storage: [Key: Value] = [:]
    private let meter: WorkMeter

    package init(_ meter: WorkMeter) { self.meter = meter }

    package subscript(key: Key) -> Value? {
        get { meter.count(); return storage[key] }
        set { meter.count(); storage[key] = newValue }
        _modify { meter.count(); yield &storage[key] }
    }

    /// The number of elements costs nothing.
    package var count: Int { storage.count }
    package var isEmpty: Bool { storage.isEmpty }
    package var keys: Dictionary<Key, Value>.Keys { meter.count(storage.count); return storage.keys }
    package var values: Dictionary<Key, Value>.Values { meter.count(storage.count); return storage.values }

    package var elements: [Key: Value] { meter.count(storage.count); return storage }

    @discardableResult
    package mutating func removeValue(forKey key: Key) -> Value? { meter.count(); return storage.removeValue(forKey: key) }
    package mutating func removeAll() { storage = [:] }
}
