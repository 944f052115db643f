import CLinux

/// What the XDP program counts, in the order of `enum culvert_counter`. Each packet is counted once.
public enum XDPCounter: UInt32, CaseIterable, Sendable, Hashable {
    case passed
    case passedIKE
    case passedFragment
    case passedLocal
    case passedBypass
    case passedOtherHost
    case passedVLAN
    case passedNotIPv4
    case passedMalformed
    case passedUnknownPort
    case passedNoSocket
    case passedLong
    case redirectedESP
    case redirectedUDPESP
    case redirectedProtected
    case droppedClearInbound
    case droppedNATKeepalive
    case droppedIKEFlood
    case droppedMalformed
    case droppedNoSocket
    case droppedStranger

    /// The name in status and metrics.
    public var name: String {
        switch self {
        case .passed: "xdp-passed"
        case .passedIKE: "xdp-passed-ike"
        case .passedFragment: "xdp-passed-fragment"
        case .passedLocal: "xdp-passed-local"
        case .passedBypass: "xdp-passed-bypass"
        case .passedOtherHost: "xdp-passed-other-host"
        case .passedVLAN: "xdp-passed-vlan"
        case .passedNotIPv4: "xdp-passed-not-ipv4"
        case .passedMalformed: "xdp-passed-malformed"
        case .passedUnknownPort: "xdp-passed-unknown-port"
        case .passedNoSocket: "xdp-passed-no-socket"
        case .passedLong: "xdp-passed-long"
        case .redirectedESP: "xdp-redirected-esp"
        case .redirectedUDPESP: "xdp-redirected-udp-esp"
        case .redirectedProtected: "xdp-redirected-protected"
        case .droppedClearInbound: "clear-inbound"
        case .droppedNATKeepalive: "nat-keepalive"
        case .droppedIKEFlood: "ike-flood"
        case .droppedMalformed: "xdp-malformed"
        case .droppedNoSocket: "xdp-no-socket"
        case .droppedStranger: "stranger"
        }
    }

    /// True when the packet ended in the program.
    public var isDrop: Bool { rawValue >= Self.droppedClearInbound.rawValue }
}

/// One reading of all counters, packets since the program was loaded.
public struct XDPCounters: Sendable, Hashable {
    private var values = [UInt64](repeating: 0, count: Int(CULVERT_COUNTERS.rawValue))

    public init() {}

    public subscript(_ counter: XDPCounter) -> UInt64 {
        get { values[Int(counter.rawValue)] }
        set { values[Int(counter.rawValue)] = newValue }
    }

    /// All packets seen.
    public var total: UInt64 { values.reduce(0, &+) }
}

/// The embedded object is text in the binary, since a string literal compiles fast where an array of bytes does not.
enum Base64 {
    /// Standard alphabet with padding; nil for anything else.
    static func decode(_ text: StaticString) -> [UInt8]? {
        text.withUTF8Buffer { decode($0) }
    }

    static func decode(_ text: UnsafeBufferPointer<UInt8>) -> [UInt8]? {
        guard text.count % 4 == 0 else { return nil }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(text.count / 4 * 3)
        var bits: UInt32 = 0
        var padding = 0
        for (index, character) in text.enumerated() {
            if character == 61 /* = */ {
                guard index >= text.count - 2 else { return nil }
                padding += 1
                bits <<= 6
            } else {
                guard padding == 0, let value = value(character) else { return nil }
                bits = bits << 6 | value
            }
            guard index % 4 == 3 else { continue }
            bytes.append(UInt8(truncatingIfNeeded: bits >> 16))
            if padding < 2 { bytes.append(UInt8(truncatingIfNeeded: bits >> 8)) }
            if padding < 1 { bytes.append(UInt8(truncatingIfNeeded: bits)) }
        }
        return bytes
    }

    private static func value(_ character: UInt8) -> UInt32? {
        switch character {
        case 65...90: UInt32(character) - 65  // A-Z
        case 97...122: UInt32(character) - 71  // a-z
        case 48...57: UInt32(character) + 4  // 0-9
        case 43: 62  // +
        case 47: 63  // /
        default: nil
        }
    }
}
