public import Wire

/// What a connection may do with the paths between its ends.
public struct PathPlan: Hashable, Sendable {
    /// Where a peer is sent. RFC 5685 §9.2.
    public enum Gateway: Hashable, Sendable, CustomStringConvertible {
        case address(IPAddress)
        case name(String)

        /// An address, or a host name of several labels. RFC 1123 §2.1.
        public init?(_ text: String) {
            if let address = IPAddress(text) {
                guard address.isUsableUnicast else { return nil }
                self = .address(address)
                return
            }
            let labels = text.utf8.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
            let isName =
                text.utf8.count <= 253 && labels.count > 1 && labels.allSatisfy { (1...63).contains($0.count) }
                && labels.allSatisfy { $0.allSatisfy { Self.isHostOctet($0) } }
                && labels.last?.allSatisfy { (48...57).contains($0) } == false
            guard isName else { return nil }
            self = .name(text)
        }

        private static func isHostOctet(_ octet: UInt8) -> Bool {
            switch octet {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"):
                true
            default: false
            }
        }

        public var description: String {
            switch self {
            case .address(let address): address.description
            case .name(let name): Identity.fqdn(name).description
            }
        }
    }

    /// Further addresses of ours, in order of preference, besides `ConnectionPlan.localAddress`.
    public var otherLocalAddresses: [IPAddress] = []
    /// Further addresses of the peer, tried in turn after `ConnectionPlan.remoteAddress`.
    public var otherRemoteAddresses: [IPAddress] = []
    /// RFC 7383.
    public var fragmentation = true
    /// Longest IP datagram with a fragment of an IKE message, in octets.
    public var fragmentDatagramBytes = Bounds.fragmentDatagramBytes
    /// RFC 4555: addresses may change while the SAs stay.
    public var mobike = false
    /// Between keepalives from behind a NAT; zero for none, nil for the gateway's setting. RFC 3948 §2.3.
    public var natKeepalive: Duration?
    /// Whether we go where a peer's REDIRECT sends us. RFC 5685.
    public var followsRedirects = true
    /// Peers that support it are sent there instead of being served.
    public var redirectTo: Gateway?
    public init() {}
}

extension ConnectionPlan {
    /// In order of preference.
    public var localAddresses: [IPAddress] { [localAddress] + paths.otherLocalAddresses }
    /// In the order they are tried; empty when the peer may come from anywhere.
    public var remoteAddresses: [IPAddress] { (remoteAddress.map { [$0] } ?? []) + paths.otherRemoteAddresses }
}
