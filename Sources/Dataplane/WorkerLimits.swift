import IPsec

/// What an outbound SA may carry: sequence numbers, packets and octets. RFC 4301 §4.4.2.1, RFC 4303 §3.3.3.
extension OutboundSA {
    /// Takes over the limits of a new SA; what is not limited ends with the sequence numbers.
    mutating func apply(_ limits: SALimits) {
        if limits.hardPackets > 0 {
            lastSequence = min(lastSequence, limits.hardPackets)
            rekeySequence = min(rekeySequence, limits.softPackets)
        }
        if limits.hardBytes > 0 { byteMark = limits.softBytes }
    }
}

extension Dataplane {
    /// The soft limit is reached: the worker's next mark is the hard one.
    func setHardLimit(inboundSPI: UInt32) {
        guard let pair = pairs[inboundSPI], pair.sa.limits.hardBytes > 0 else { return }
        broadcast(.setHardLimit, pointer: UnsafeMutableRawPointer(pair.outbound), first: pair.sa.limits.hardBytes) { _ in
            withExtendedLifetime(pair) {}
        }
    }
}

extension Worker {
    /// A mark is reached: asks control for a rekey at the soft limits, and says no at the hard ones.
    /// - Parameter sequence: of the packet that wants to leave.
    @inline(never)
    mutating func isWithinLimits(_ sa: UnsafeMutablePointer<OutboundSA>, sequence: UInt64) -> Bool {
        if sequence > sa.pointee.lastSequence || (sa.pointee.byteMarkIsHard && sa.pointee.bytes >= sa.pointee.byteMark) {
            if !sa.pointee.isSpent {
                sa.pointee.isSpent = true
                tell(.limitReached, sa.pointee.inboundSPI, low: 1)
            }
            return false
        }
        // Repeated now and then: a hint can be lost.
        if sequence >= sa.pointee.rekeySequence, (sequence &- sa.pointee.rekeySequence) & 0xFFFFF == 0 {
            let isExhausting = sequence >= SequenceNumbers.rekeyThreshold(extended: sa.pointee.extended)
            tell(isExhausting ? .sequenceNumbersRunningOut : .limitReached, sa.pointee.inboundSPI)
        }
        if sa.pointee.bytes >= sa.pointee.byteMark {
            // Control answers with the hard limit (`setHardLimit`), which has no room in this record.
            sa.pointee.byteMark = .max
            tell(.limitReached, sa.pointee.inboundSPI)
        }
        return true
    }
}
