import Wire

/// Routes by prefix as workers read them: a tree of four bits per level, never changed where a worker can see it. A change copies
/// the nodes on its way, eight at most, whatever else the tree holds.
struct RouteTrieView {
    /// One of sixteen entries of a node: the longest prefix of the node's level that covers it, and the node of four more bits.
    struct Slot {
        /// nil: no longer prefix below.
        var child: UnsafePointer<Slot>?
        /// As `TablesView.Route`.
        var gateway: UInt32 = 0
        var portIndex: UInt8 = 0
        /// Prefix length plus one; zero: no route here.
        var lengthPlusOne: UInt8 = 0
        var viaIPv6 = false
        var clear = ForwardingPlan.Clear.allowed
    }

    static let bitsPerLevel = 4
    static let slotsPerNode = 1 << bitsPerLevel

    var root: UnsafePointer<Slot>

    /// The longest prefix that covers the address.
    func route(to destination: UInt32) -> TablesView.Route? {
        var node: UnsafePointer<Slot>? = root
        var best: TablesView.Route?
        var shift: UInt32 = 28
        while let slots = node {
            let slot = slots + Int((destination >> shift) & 15)
            if slot.pointee.lengthPlusOne != 0 {
                best = .init(
                    gateway: slot.pointee.gateway, portIndex: slot.pointee.portIndex, viaIPv6: slot.pointee.viaIPv6,
                    clear: slot.pointee.clear, length: slot.pointee.lengthPlusOne &- 1)
            }
            node = slot.pointee.child
            shift &-= 4
        }
        return best
    }
}

/// The control side of the tree: the only writer.
final class RouteTrie {
    typealias Slot = RouteTrieView.Slot
    struct Key: Hashable {
        var first: UInt32
        var length: Int
    }

    private var routes: [Key: TablesView.Route] = [:]
    private var root: UnsafeMutablePointer<Slot>
    /// Made since the last `publish`: no worker knows them, so they may be changed in place.
    private var fresh: Set<UnsafeMutablePointer<Slot>> = []
    /// What workers may still read until they have the next tables.
    private var replaced: [UnsafeMutablePointer<Slot>] = []
    /// Nodes copied so far: what changes have cost.
    private(set) var copies = 0

    init() {
        root = Self.node()
        fresh = [root]
    }

    deinit { free(root) }

    var view: RouteTrieView { RouteTrieView(root: root) }
    var count: Int { routes.count }

    /// nil: no such route any more.
    func set(_ key: Key, _ route: TablesView.Route?) {
        routes[key] = route
        let level = key.length == 0 ? 0 : (key.length - 1) / RouteTrieView.bitsPerLevel
        root = change(root, level: 0, last: level, key) ?? root
    }

    /// All nodes that workers get from now on are fixed. Returns those that no worker reads once all have the new ones.
    func publish() -> [UnsafeMutablePointer<Slot>] {
        fresh = []
        defer { replaced = [] }
        return replaced
    }

    /// The changed node; nil when nothing is left in it.
    private func change(
        _ node: UnsafeMutablePointer<Slot>, level: Int, last: Int, _ key: Key
    ) -> UnsafeMutablePointer<Slot>? {
        let node = own(node)
        let place = Self.place(key.first, level)
        if level < last {
            let below = node[place].child.map { UnsafeMutablePointer(mutating: $0) }
            guard below != nil || routes[key] != nil else { return node }
            let child = below ?? {
                let new = Self.node()
                fresh.insert(new)
                return new
            }()
            node[place].child = change(child, level: level + 1, last: last, key).map { UnsafePointer($0) }
        } else {
            let bits = key.length - level * RouteTrieView.bitsPerLevel
            for index in place..<place + 1 << (RouteTrieView.bitsPerLevel - bits) { fill(node + index, index, level, key) }
        }
        guard level > 0, (0..<RouteTrieView.slotsPerNode).allSatisfy({ node[$0].child == nil && node[$0].lengthPlusOne == 0 })
        else { return node }
        discard(node)
        return nil
    }

    /// The longest prefix of this level that covers the slot: a longer one than `key` stays, a shorter one takes its place.
    private func fill(_ slot: UnsafeMutablePointer<Slot>, _ index: Int, _ level: Int, _ key: Key) {
        guard Int(slot.pointee.lengthPlusOne) <= key.length + 1 else { return }
        let base = level * RouteTrieView.bitsPerLevel
        let above = base == 0 ? 0 : key.first & (~0 << UInt32(32 - base))
        let first = above | UInt32(index) << UInt32(28 - base)
        // A level ends with its own last bit; the first has the default route too.
        for length in stride(from: key.length, through: base == 0 ? 0 : base + 1, by: -1) {
            let masked = length == 0 ? 0 : first & (~0 << UInt32(32 - length))
            guard let route = routes[Key(first: masked, length: length)] else { continue }
            slot.pointee.gateway = route.gateway
            slot.pointee.portIndex = route.portIndex
            slot.pointee.viaIPv6 = route.viaIPv6
            slot.pointee.clear = route.clear
            slot.pointee.lengthPlusOne = UInt8(length + 1)
            return
        }
        slot.pointee.lengthPlusOne = 0
    }

    private static func place(_ address: UInt32, _ level: Int) -> Int {
        Int((address >> UInt32(28 - level * RouteTrieView.bitsPerLevel)) & 15)
    }

    private static func node() -> UnsafeMutablePointer<Slot> {
        let node = UnsafeMutablePointer<Slot>.allocate(capacity: RouteTrieView.slotsPerNode)
        node.initialize(repeating: Slot(child: nil), count: RouteTrieView.slotsPerNode)
        return node
    }

    /// The node itself while no worker knows it, else a copy.
    private func own(_ node: UnsafeMutablePointer<Slot>) -> UnsafeMutablePointer<Slot> {
        if fresh.contains(node) { return node }
        let copy = UnsafeMutablePointer<Slot>.allocate(capacity: RouteTrieView.slotsPerNode)
        copy.initialize(from: node, count: RouteTrieView.slotsPerNode)
        copies += 1
        fresh.insert(copy)
        replaced.append(node)
        return copy
    }

    private func discard(_ node: UnsafeMutablePointer<Slot>) {
        if fresh.remove(node) != nil { node.deallocate() } else { replaced.append(node) }
    }

    private func free(_ node: UnsafeMutablePointer<Slot>) {
        for index in 0..<RouteTrieView.slotsPerNode {
            if let child = node[index].child { free(UnsafeMutablePointer(mutating: child)) }
        }
        node.deallocate()
    }
}
