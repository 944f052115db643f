/// What a connection may do with the paths between its ends.
public struct PathPlan: Sendable {
    /// RFC 7383.
    public var fragmentation = true
    /// Longest IP datagram with a fragment of an IKE message, in octets.
    public var fragmentDatagramBytes = Bounds.fragmentDatagramBytes
    public init() {}
}
