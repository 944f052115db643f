/// Deadlines by key: a binary heap with the position of every key, so that a deadline is moved or dropped in O(log n).
package struct TimerQueue<Key: Hashable & Sendable>: Sendable {
    private var heap: [(deadline: Instant, order: UInt64, key: Key)] = []
    private var positions: [Key: Int] = [:]
    private var counter: UInt64 = 0

    package init() {}

    package var first: Instant? { heap.first?.deadline }
    package var count: Int { heap.count }

    /// Sets, moves, or with nil drops the deadline of a key.
    package mutating func set(_ key: Key, _ deadline: Instant?) {
        guard let deadline else { remove(key); return }
        if let position = positions[key] {
            guard heap[position].deadline != deadline else { return }
            heap[position].deadline = deadline
            siftUp(position)
            siftDown(positions[key] ?? position)
        } else {
            counter &+= 1
            heap.append((deadline, counter, key))
            positions[key] = heap.count - 1
            siftUp(heap.count - 1)
        }
    }

    /// The keys that are due, earliest first, removed from the queue.
    package mutating func takeDue(_ now: Instant) -> [Key] {
        var due: [Key] = []
        while let first = heap.first, first.deadline <= now {
            due.append(first.key)
            remove(first.key)
        }
        return due
    }

    private mutating func remove(_ key: Key) {
        guard let position = positions.removeValue(forKey: key) else { return }
        let last = heap.count - 1
        if position != last {
            heap.swapAt(position, last)
            positions[heap[position].key] = position
        }
        heap.removeLast()
        if position < heap.count {
            siftUp(position)
            siftDown(position)
        }
    }

    /// Equal deadlines keep their order of arrival: a simulation replays exactly.
    private func isBefore(_ a: Int, _ b: Int) -> Bool { (heap[a].deadline, heap[a].order) < (heap[b].deadline, heap[b].order) }

    private mutating func siftUp(_ start: Int) {
        var position = start
        while position > 0, isBefore(position, (position - 1) / 2) {
            exchange(position, (position - 1) / 2)
            position = (position - 1) / 2
        }
    }

    private mutating func siftDown(_ start: Int) {
        var position = start
        while true {
            var least = position
            for child in [2 * position + 1, 2 * position + 2] where child < heap.count && isBefore(child, least) { least = child }
            if least == position { return }
            exchange(position, least)
            position = least
        }
    }

    private mutating func exchange(_ a: Int, _ b: Int) {
        heap.swapAt(a, b)
        positions[heap[a].key] = a
        positions[heap[b].key] = b
    }
}
