/// Why the gateway cannot start (or go on): the exit code of the process and a sentence with the remedy.
public struct GatewayStartError: Error, Hashable, Sendable {
    /// 1: in the way on this machine; 77: privileges missing; 78: configuration refused.
    public var exitCode: Int32
    public var sentence: String
    public init(exitCode: Int32, sentence: String) { (self.exitCode, self.sentence) = (exitCode, sentence) }
}
