public import Wire

/// The ESP transform of a child SA: AES-GCM with a 16-octet ICV. RFC 4106.
public struct ESPTransform: Hashable, Sendable {
    public enum Cipher: UInt8, Sendable { case aesGCM16 }
    public var cipher: Cipher
    public var keyBits: Int
    /// RFC 4303 §2.2.1: 64-bit extended sequence numbers.
    public var extendedSequenceNumbers: Bool

    public init(cipher: Cipher = .aesGCM16, keyBits: Int, extendedSequenceNumbers: Bool) {
        (self.cipher, self.keyBits, self.extendedSequenceNumbers) = (cipher, keyBits, extendedSequenceNumbers)
    }

    /// Octets taken from KEYMAT for one direction: the key and the 4-octet salt. RFC 4106 §8.1.
    public var keyMaterialBytes: Int { keyBits / 8 + 4 }

    /// strongSwan-style keyword: `aes256gcm16-esn`, `aes128gcm16`.
    public var keyword: String { "aes\(keyBits)gcm16" + (extendedSequenceNumbers ? "-esn" : "") }
}

/// What an SA may carry in one direction. RFC 4301 §4.4.2.1: "a soft lifetime that warns the implementation to initiate action
/// such as setting up a replacement SA, and a hard lifetime when the current SA ends and is destroyed". Zero: no limit.
public struct SALimits: Hashable, Sendable {
    /// Octets of inner packets.
    public var softBytes: UInt64 = 0
    public var hardBytes: UInt64 = 0
    public var softPackets: UInt64 = 0
    public var hardPackets: UInt64 = 0
    public init() {}
}

/// Where packets of an SA travel on the underlay. Port 0 on both ends: native ESP; otherwise UDP encapsulation (RFC 3948).
public struct TunnelPath: Hashable, Sendable {
    public var local: IPAddress
    public var remote: IPAddress
    public var localPort: UInt16
    public var remotePort: UInt16

    public init(local: IPAddress, remote: IPAddress, localPort: UInt16 = 0, remotePort: UInt16 = 0) {
        (self.local, self.remote, self.localPort, self.remotePort) = (local, remote, localPort, remotePort)
    }

    public var isUDPEncapsulated: Bool { remotePort != 0 }
}

/// The outer header's "don't fragment" bit, on an IPv4 underlay. RFC 4301 §8.1.
public enum DFHandling: UInt8, Hashable, Sendable {
    /// As the inner packet has it.
    case copy
    /// Always: the path's MTU is found out, and nobody has to put fragments together.
    case set
    /// Never: the path may fragment.
    case clear
}

/// What the MSS option of TCP SYNs that pass a child is lowered to.
public enum MSSClamp: Hashable, Sendable {
    /// What fits the child's packets.
    case automatic
    /// It stays as it is.
    case untouched
    /// Octets.
    case at(UInt16)
}

/// Sizes of a child's packets, as the operator wants them.
public struct TunnelSizes: Hashable, Sendable {
    public var dontFragment = DFHandling.set
    /// The largest inner packet, octets; 0: as large as the path carries.
    public var mtu: UInt16 = 0
    public var mss = MSSClamp.automatic
    public init() {}
}

/// A negotiated pair of ESP SAs, as the IKE core hands it to whoever installs it. RFC 7296 §2.17.
public struct ChildSA: Sendable {
    public var connection: String
    public var child: String
    /// Which of several peers of the connection it belongs to; zero when the connection has one peer.
    public var instance: UInt32 = 0
    /// The inbound SPI of the child SA that it takes the place of, when it was rekeyed.
    public var replaces: UInt32?
    /// The SPI that we chose: packets to us carry it.
    public var inboundSPI: UInt32
    /// The SPI that the peer chose: packets from us carry it.
    public var outboundSPI: UInt32
    public var transform: ESPTransform
    /// Encryption key followed by the 4-octet salt.
    public var inboundKey: Secret
    public var outboundKey: Secret
    public var localSelectors: [TrafficSelector]
    public var remoteSelectors: [TrafficSelector]
    public var path: TunnelPath
    public var replayWindowPackets: Int
    /// What one direction may carry.
    public var limits = SALimits()
    public var sizes = TunnelSizes()

    public init(
        connection: String, child: String, inboundSPI: UInt32, outboundSPI: UInt32, transform: ESPTransform,
        inboundKey: Secret, outboundKey: Secret, localSelectors: [TrafficSelector], remoteSelectors: [TrafficSelector],
        path: TunnelPath, replayWindowPackets: Int
    ) {
        (self.connection, self.child) = (connection, child)
        (self.inboundSPI, self.outboundSPI) = (inboundSPI, outboundSPI)
        (self.transform, self.inboundKey, self.outboundKey) = (transform, inboundKey, outboundKey)
        (self.localSelectors, self.remoteSelectors) = (localSelectors, remoteSelectors)
        (self.path, self.replayWindowPackets) = (path, replayWindowPackets)
    }
}
