import Configuration
import IPsec

/// A configured child, by name.
struct ChildKey: Hashable, Comparable, Sendable, CustomStringConvertible {
    var connection: String
    var child: String
    /// Which of several peers of the connection; zero: the child as configured.
    var instance: UInt32
    /// Which of several sets of selectors that child SAs of it carry side by side; zero: all that is configured, or of one of
    /// several peers the first set. SAs of one set replace each other.
    var selection: UInt32

    init(_ connection: String, _ child: String, instance: UInt32 = 0, selection: UInt32 = 0) {
        (self.connection, self.child, self.instance, self.selection) = (connection, child, instance, selection)
    }

    /// The child as configured.
    var configured: ChildKey { ChildKey(connection, child) }
    /// The same child's other set of selectors.
    func selecting(_ selection: UInt32) -> ChildKey {
        ChildKey(connection, child, instance: instance, selection: selection)
    }

    /// It has rules of its own, from what was negotiated, in front of the configured child's.
    var hasOwnRules: Bool { instance != 0 || selection != 0 }

    var description: String { instance == 0 ? "\(connection)/\(child)" : "\(connection)/\(child) of peer \(instance)" }
    static func < (a: Self, b: Self) -> Bool {
        (a.connection, a.child, a.instance, a.selection) < (b.connection, b.child, b.instance, b.selection)
    }
}

/// The small stable integers by which the workers know configured children. A number is given to another child only after
/// its own is gone from the configuration.
struct ChildTable: Sendable {
    /// What the workers' tables have room for.
    static let limit = GatewayLimits.children

    private var indices: [ChildKey: Int] = [:]
    private var keys: [Int: ChildKey] = [:]
    /// Numbers given back, and the first that nobody has had.
    private var free: [Int] = []
    private var next = 0

    init() {}

    /// Every child of the configuration, in file order. Children beyond `limit` get no number; `assign` says so.
    init(_ connections: [Connection]) {
        for connection in connections {
            for child in connection.children { assign(ChildKey(connection.name, child.name)) }
        }
    }

    /// The child's number, a new one when it has none; nil when all are taken.
    @discardableResult
    mutating func assign(_ key: ChildKey) -> Int? {
        if let index = indices[key] { return index }
        guard let number = free.popLast() ?? (next < Self.limit ? next : nil) else { return nil }
        if number == next { next += 1 }
        indices[key] = number
        keys[number] = key
        return number
    }

    mutating func release(_ key: ChildKey) {
        guard let index = indices.removeValue(forKey: key) else { return }
        keys[index] = nil
        free.append(index)
    }

    func index(of key: ChildKey) -> Int? { indices[key] }
    func key(at index: Int) -> ChildKey? { keys[index] }
    /// Children as configured.
    var count: Int { indices.keys.count { !$0.hasOwnRules } }
}
