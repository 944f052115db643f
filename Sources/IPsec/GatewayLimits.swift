/// How many of what one gateway has room for: said once, for `check`, the control plane and the workers.
public enum GatewayLimits {
    /// One bit each in the masks by which workers wake each other.
    public static let workers = UInt64.bitWidth
    /// Interfaces that carry traffic. A power of two: workers take a port's number from a mask.
    public static let interfaces = 32
    /// Children of all connections. A power of two, for the same reason.
    public static let children = 1024
}
