/// What will happen, earliest first; what happens at the same moment happens in the order in which it was scheduled.
struct EventQueue<Item> {
    private var heap: [(at: UInt64, order: UInt64, item: Item)] = []
    private var counter: UInt64 = 0

    var count: Int { heap.count }
    /// Nanoseconds.
    var first: UInt64? { heap.first?.at }

    mutating func push(_ item: Item, at: UInt64) {
        counter &+= 1
        heap.append((at, counter, item))
        var position = heap.count - 1
        while position > 0, isBefore(position, (position - 1) / 2) {
            heap.swapAt(position, (position - 1) / 2)
            position = (position - 1) / 2
        }
    }

    mutating func pop() -> (at: UInt64, item: Item)? {
        guard let top = heap.first else { return nil }
        let last = heap.removeLast()
        if !heap.isEmpty {
            heap[0] = last
            var position = 0
            while true {
                var least = position
                for child in [2 * position + 1, 2 * position + 2] where child < heap.count && isBefore(child, least) {
                    least = child
                }
                if least == position { break }
                heap.swapAt(position, least)
                position = least
            }
        }
        return (top.at, top.item)
    }

    private func isBefore(_ a: Int, _ b: Int) -> Bool { (heap[a].at, heap[a].order) < (heap[b].at, heap[b].order) }
}
