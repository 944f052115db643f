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

extension SecurityPolicy {
    /// Any protocol, any ports.
    package var isAddressOnly: Bool {
        source.ipProtocol == 0 && destination.ipProtocol == 0 && source.ports == 0...65535 && destination.ports == 0...65535
    }

    /// Whether some packet matches both.
    package func overlaps(_ other: SecurityPolicy) -> Bool {
        source.intersection(other.source) != nil && destination.intersection(other.destination) != nil
    }
}
