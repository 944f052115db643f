import DequeModule

/// Elements in order of insertion, each once. To add or remove one costs the same however many there are.
package struct OrderedList<Element: Hashable>: Sequence {
    private var slots: Deque<Element?> = []
    /// The number of the first slot; it only grows.
    private var base = 0
    private var places: [Element: Int] = [:]

    package init() {}

    package var count: Int { places.count }
    package var isEmpty: Bool { places.isEmpty }
    package var first: Element? { slots.first ?? nil }
    package func contains(_ element: Element) -> Bool { places[element] != nil }

    package mutating func append(_ element: Element) {
        guard places[element] == nil else { return }
        places[element] = base + slots.count
        slots.append(element)
    }

    package mutating func remove(_ element: Element) {
        guard let place = places.removeValue(forKey: element) else { return }
        slots[place - base] = nil
        while let last = slots.last, last == nil { slots.removeLast() }
        while let first = slots.first, first == nil { slots.removeFirst(); base += 1 }
        // Gaps never take more room than the elements: paid for by the removals that made them.
        if slots.count > 2 * places.count + 16 { closeGaps() }
    }

    private mutating func closeGaps() {
        slots = Deque(slots.filter { $0 != nil })
        for (offset, element) in slots.enumerated() { if let element { places[element] = base + offset } }
    }

    package func makeIterator() -> AnyIterator<Element> {
        var index = slots.startIndex
        return AnyIterator { [slots] in
            while index < slots.endIndex {
                defer { index += 1 }
                if let element = slots[index] { return element }
            }
            return nil
        }
    }

    /// The newest first.
    package var newestFirst: AnyIterator<Element> {
        var index = slots.endIndex
        return AnyIterator { [slots] in
            while index > slots.startIndex {
                index -= 1
                if let element = slots[index] { return element }
            }
            return nil
        }
    }

    /// The element at or after a place, and the place after it, going round at the end: to have some of them in turn.
    package func next(_ place: inout Int) -> Element? {
        guard !places.isEmpty else { return nil }
        if place < base || place >= base + slots.count { place = base }
        while true {
            let element = slots[place - base]
            place = place + 1 < base + slots.count ? place + 1 : base
            if let element { return element }
        }
    }
}
