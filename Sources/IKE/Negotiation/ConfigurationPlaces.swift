/// The lines of the configuration file that say what a connection is, so that a sentence can name the one to change.
public struct ConfigurationPlaces: Hashable, Sendable {
    /// Where the connection begins.
    public var line: Int
    /// By key, also where a profile says it: `ike_proposals`, `remote.id`, `NAME/esp_proposals` for a child's.
    public var lines: [String: Int]
    public init(line: Int, lines: [String: Int] = [:]) { (self.line, self.lines) = (line, lines) }
}

extension ConnectionPlan {
    /// Goes after the name of a key in a sentence: ` (line 12)`, empty when the plan did not come from a file.
    /// - Parameter keys: the first one that stands in the file counts.
    func line(_ keys: String...) -> String {
        guard let places else { return "" }
        if let line = keys.lazy.compactMap({ places.lines[$0] }).first { return " (line \(line))" }
        return " (not set; the connection is in line \(places.line))"
    }
}

extension IKECore {
    /// The same connection, on other lines of a file that changed elsewhere.
    public func setPlaces(_ places: ConfigurationPlaces?, ofConnection name: String) {
        connections[name]?.plan.places = places
    }
}
