/// A policy written by the operator, evaluated before the connections' own; first match wins. RFC 4301 §4.4.1.
public struct SecurityPolicy: Hashable, Sendable {
    public enum Action: String, Sendable { case bypass, discard }
    public var action: Action
    /// Protocol and ports of a rule are in `destination`; source ports in `source`.
    public var source: TrafficSelector
    public var destination: TrafficSelector

    public init(action: Action, source: TrafficSelector, destination: TrafficSelector) {
        (self.action, self.source, self.destination) = (action, source, destination)
    }
}
