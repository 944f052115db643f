import Wire

/// Values by address prefix, for the question which of them overlap another prefix: what contains it lies on the way to its
/// place, what it contains lies below. Both families in one tree; nodes where nothing branches are left out.
package final class PrefixTree<Value> {
    private final class Node {
        var prefix: Bits
        var values: [Value] = []
        var children: (Node?, Node?) = (nil, nil)
        init(_ prefix: Bits) { self.prefix = prefix }

        subscript(bit: Bool) -> Node? {
            get { bit ? children.1 : children.0 }
            set { if bit { children.1 = newValue } else { children.0 = newValue } }
        }
    }

    /// The first bit tells the families apart; 1 to 129 bits.
    private struct Bits: Equatable {
        var isIPv4: Bool
        var high: UInt64
        var low: UInt64
        var length: Int

        /// The shortest prefix that has the whole range.
        init(first: IPAddress, last: IPAddress) {
            switch (first, last) {
            case (.v4(let a), .v4(let b)):
                (isIPv4, high, low) = (true, UInt64(a.bits) << 32, 0)
                length = 1 + min(32, (a.bits ^ b.bits).leadingZeroBitCount)
            case (.v6(let a), .v6(let b)):
                (isIPv4, high, low) = (false, a.high, a.low)
                let differing = a.high ^ b.high
                length = 1 + (differing != 0 ? differing.leadingZeroBitCount : 64 + (a.low ^ b.low).leadingZeroBitCount)
            default:
                (isIPv4, high, low, length) = (first.isIPv4, 0, 0, 1)
            }
        }

        init(common a: Bits, _ length: Int) { self = a; self.length = length }

        /// How many of the first bits are the same.
        func common(_ other: Bits) -> Int {
            guard isIPv4 == other.isIPv4 else { return 0 }
            let differing = high ^ other.high
            let same = 1 + (differing != 0 ? differing.leadingZeroBitCount : 64 + (low ^ other.low).leadingZeroBitCount)
            return min(same, length, other.length)
        }

        subscript(position: Int) -> Bool {
            if position == 0 { return isIPv4 }
            let index = position - 1
            return index < 64 ? high >> (63 - UInt64(index)) & 1 == 1 : low >> (127 - UInt64(index)) & 1 == 1
        }
    }

    private var root: Node?
    private let meter: WorkMeter

    package init(_ meter: WorkMeter) { self.meter = meter }

    package func insert(_ value: Value, first: IPAddress, last: IPAddress) {
        let prefix = Bits(first: first, last: last)
        root = insert(value, prefix, below: root)
    }

    private func insert(_ value: Value, _ prefix: Bits, below node: Node?) -> Node {
        meter.count()
        guard let node else {
            let leaf = Node(prefix)
            leaf.values = [value]
            return leaf
        }
        let same = node.prefix.common(prefix)
        if same < node.prefix.length {
            let fork = Node(Bits(common: prefix, same))
            fork[node.prefix[same]] = node
            if same == prefix.length {
                fork.values = [value]
            } else {
                fork[prefix[same]] = insert(value, prefix, below: nil)
            }
            return fork
        }
        if same == prefix.length {
            node.values.append(value)
        } else {
            node[prefix[same]] = insert(value, prefix, below: node[prefix[same]])
        }
        return node
    }

    /// Removes what stands at exactly this range and is meant.
    package func remove(first: IPAddress, last: IPAddress, where isMeant: (Value) -> Bool) {
        root = remove(Bits(first: first, last: last), below: root, isMeant)
    }

    private func remove(_ prefix: Bits, below node: Node?, _ isMeant: (Value) -> Bool) -> Node? {
        meter.count()
        guard let node, node.prefix.common(prefix) == node.prefix.length else { return node }
        if node.prefix.length == prefix.length {
            node.values.removeAll(where: isMeant)
        } else {
            let bit = prefix[node.prefix.length]
            node[bit] = remove(prefix, below: node[bit], isMeant)
        }
        if !node.values.isEmpty || (node[false] != nil && node[true] != nil) { return node }
        return node[false] ?? node[true]
    }

    /// The first value that is meant among those whose prefix may overlap the range.
    package func first(overlapping first: IPAddress, _ last: IPAddress, where isMeant: (Value) -> Bool) -> Value? {
        let prefix = Bits(first: first, last: last)
        var node = root
        while let here = node {
            meter.count()
            let same = here.prefix.common(prefix)
            if same == prefix.length { return search(here, isMeant) }
            guard same == here.prefix.length else { return nil }
            if let found = here.values.first(where: isMeant) { return found }
            node = here[prefix[same]]
        }
        return nil
    }

    private func search(_ node: Node, _ isMeant: (Value) -> Bool) -> Value? {
        meter.count()
        if let found = node.values.first(where: isMeant) { return found }
        return node[false].flatMap { search($0, isMeant) } ?? node[true].flatMap { search($0, isMeant) }
    }
}
