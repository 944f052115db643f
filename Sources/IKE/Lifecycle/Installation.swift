import IPsec

// Handing child SAs to whoever installs them, and what waits for that. RFC 7296 §2.8.
extension IKECore {
    /// As initiator of the exchange: nothing is withheld, the peer installed its side before it answered.
    func install(_ made: MadeChild, on sa: IKESA, _ established: EstablishedSA, now: Instant) {
        _ = adopt(made, on: sa, established, now: now)
    }

    /// As responder: the response waits for the installation.
    func withhold(
        _ made: MadeChild, on sa: IKESA, _ established: EstablishedSA, exchange: ExchangeType, payloads: [Payload],
        failure: [Payload],
        path: Path, now: Instant
    ) {
        let token = adopt(made, on: sa, established, now: now)
        sa.withheld = WithheldResponse(
            token: token, inboundSPI: made.record.inboundSPI, exchange: exchange, path: path, payloads: payloads,
            failurePayloads: failure, expires: now + Bounds.installWait)
        touch(sa)
    }

    private func adopt(_ made: MadeChild, on sa: IKESA, _ established: EstablishedSA, now: Instant) -> UInt64 {
        let token = nextToken
        made.record.installBy = now + Bounds.installWait
        nextToken &+= 1
        established.children.append(made.record)
        childIndex[made.record.inboundSPI] = sa.localSPI
        installs[token] = made.record.inboundSPI
        made.record.token = token
        claim(made.record, sa, established)
        countChild(made.record, sa, established)
        var child = made.sa
        child.replaces = made.record.replaces
        emit(.installChild(child, token: token))
        touch(sa)
        return token
    }

    func installed(token: UInt64, now: Instant) {
        guard let spi = installs.removeValue(forKey: token), let owner = childIndex[spi], let sa = sas[owner],
            let established = sa.established, let record = established.child(inbound: spi)
        else { return }
        if case .installing = record.state { record.state = .installed }
        established.temporaryFailures = 0
        if let withheld = sa.withheld, withheld.token == token {
            sa.withheld = nil
            respond(sa, withheld.exchange, withheld.payloads, path: withheld.path)
        }
        childIsUp(record, sa, established, now: now)
        touch(sa)
    }

    private func childIsUp(_ record: ChildRecord, _ sa: IKESA, _ established: EstablishedSA, now: Instant) {
        guard let name = sa.connection, let connection = connections[name] else { return }
        connection.slots[record.name]?.reason = nil
        // A new child with a new IKE SA is no rekey: the next one will be refused as well.
        if record.replaces != nil { connection.slots[record.name]?.rekeyProblem = nil }
        connection.slots[record.name]?.retryWait = nil
        connection.slots[record.name]?.nextAttempt = nil
        connection.slots[record.name]?.isCreating = false
        let (spiIn, spiOut) = (record.inboundSPI.hexadecimal, record.outboundSPI.hexadecimal)
        let what =
            "\(record.localSelectors.sentence) <-> \(record.remoteSelectors.sentence), \(record.suite.transform.keyword), spi in "
            + "\(spiIn) out \(spiOut)."
        if record.replaces == nil {
            let failures = endOfFailures(name, child: record.name, now: now)
            sayEstablished(name, "child \(record.name)", "Child \(record.name) is up\(failures): \(what)", now: now)
        } else {
            log(.info, name, "Child \(record.name) was rekeyed: \(what)", from: sa.path.remote.address)
        }
        if record.isRedundant {
            enqueue(.deleteChild(inboundSPI: record.inboundSPI), on: sa)
        }
        // "when the new one is established, delete the old one" (§2.8): whoever initiated the exchange does it.
        else if record.weInitiated, let old = record.replaces {
            enqueue(.deleteChild(inboundSPI: old), on: sa)
        }
        if let loser = record.ousts { enqueue(.deleteChild(inboundSPI: loser), on: sa) }
        if record.weInitiated || connection.slots[record.name]?.wantsRest == true {
            wantRest(record.name, connection, established)
        }
        completeReplacement(sa, established, now: now)
        touch(connection: name)
    }

    func installFailed(token: UInt64, reason: String, now: Instant) {
        guard let spi = installs.removeValue(forKey: token), let owner = childIndex[spi], let sa = sas[owner],
            let established = sa.established, let record = established.child(inbound: spi)
        else { return }
        if let name = sa.connection, let connection = connections[name] {
            let sentence = Reason(.notInstalled, "Child \(record.name) could not be installed: \(reason)")
            if let old = record.replaces.flatMap({ established.child(inbound: $0) }), old.isLive {
                // The old one still carries the traffic: it is asked to be replaced again.
                old.rekeyAt = min(old.expiresAt, now + Bounds.temporaryFailureWait + jitter(Bounds.temporaryFailureWait))
                connection.slots[record.name]?.reason = sentence
                say(.warning, name, part: record.name, sentence, now: now)
            } else {
                connection.slots[record.name]?.restAt = now + settings.reconnectInterval
                childFailed(connection, record.name, reason: sentence, now: now)
            }
        }
        if let withheld = sa.withheld, withheld.token == token {
            sa.withheld = nil
            respond(sa, withheld.exchange, withheld.failurePayloads, path: withheld.path)
            remove(record, of: sa, established)
        } else {
            enqueue(.deleteChild(inboundSPI: spi), on: sa)
        }
        touch(sa)
    }

    /// Forgets a child and has it removed.
    func remove(_ record: ChildRecord, of sa: IKESA, _ established: EstablishedSA) {
        established.children.removeAll { $0 === record }
        guard childIndex.removeValue(forKey: record.inboundSPI) != nil else { return }
        unclaim(record)
        uncountChild(record)
        if let token = record.token { installs.removeValue(forKey: token) }
        if let withheld = sa.withheld, withheld.inboundSPI == record.inboundSPI {
            // Nobody will tell of its installation any more: the peer gets its answer now.
            sa.withheld = nil
            respond(sa, withheld.exchange, withheld.failurePayloads, path: withheld.path)
        }
        for other in established.children where other.replacedBy == record.inboundSPI { other.replacedBy = nil }
        emit(
            .removeChild(
                connection: sa.connection ?? "", child: record.name, inboundSPI: record.inboundSPI,
                outboundSPI: record.outboundSPI))
        if let name = sa.connection { touch(connection: name) }
    }

    /// A child that was replaced stays a moment longer: packets that the peer sent on it are still under way.
    func retire(_ record: ChildRecord, of sa: IKESA, _ established: EstablishedSA, now: Instant) {
        if case .draining = record.state { return }
        let hasSuccessor =
            record.replacedBy != nil
            || established.children.contains {
                $0 !== record && $0.name == record.name && $0.isInstalled
            }
        guard hasSuccessor else { remove(record, of: sa, established); return }
        record.state = .draining(until: now + Bounds.drain)
        // "it MUST delete the outgoing SAs while processing the request" (§1.4.1): what is sent goes on one that the peer has.
        let candidates = established.children.filter {
            $0.name == record.name && $0.isInstalled && peerReceives(inboundSPI: $0.inboundSPI)
        }
        let successor = candidates.first { $0.inboundSPI == record.replacedBy } ?? candidates.last
        if let successor { emit(.useChild(inboundSPI: successor.inboundSPI)) }
        touch(sa)
    }
}
