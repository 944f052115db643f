import IPsec
import Wire

/// Transport checksums that the sender has left to a device. A host behind a virtual link (veth, tap, a bridge of them) hands its
/// packets over with only the pseudo-header summed up in the checksum field (CHECKSUM_PARTIAL), and XDP does not tell.
extension Worker {
    /// Finishes the checksum of a TCP or UDP packet whose field holds just the pseudo-header's sum. That sum alone is looked at
    /// for every packet, the payload only of those; a complete checksum that happens to be equal comes out as it was, unless the
    /// packet was damaged.
    @inline(never)
    mutating func finishChecksum(_ header: UnsafeMutableRawPointer, available: Int) {
        let headerBytes = Int(load8(header, 0) & 15) &* 4
        let total = Int(load16(header + IPv4.totalLengthOffset))
        let number = load8(header, IPv4.protocolOffset)
        guard headerBytes >= IPv4.minimumHeaderBytes, total <= available, !isFragment(header),
            number == IPv4.protocolTCP || number == IPv4.protocolUDP
        else { return }
        let offset = number == IPv4.protocolTCP ? TCP.checksumOffset : UDP.checksumOffset
        let bytes = total &- headerBytes
        guard bytes >= (number == IPv4.protocolTCP ? TCP.minimumHeaderBytes : UDP.headerBytes) else { return }
        let transport = header + headerBytes
        var sum = UInt32(number) &+ UInt32(truncatingIfNeeded: bytes)
        var place = IPv4.sourceOffset
        while place < IPv4.minimumHeaderBytes {
            sum &+= UInt32(load16(header + place))
            place &+= 2
        }
        let pseudoHeader = Checksum.fold(sum)
        guard load16(transport + offset) == pseudoHeader else { return }
        let segment = Span<UInt8>(_unsafeStart: transport.assumingMemoryBound(to: UInt8.self), count: bytes)
        let checksum = ~Checksum.fold(Checksum.sum(segment))
        // RFC 768: "If the computed checksum is zero, it is transmitted as all ones".
        store16(checksum == 0 && number == IPv4.protocolUDP ? 0xFFFF : checksum, transport + offset)
    }
}
