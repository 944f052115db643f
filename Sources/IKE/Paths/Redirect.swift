import IPsec
import Wire

// Redirection. RFC 5685. Names of gateways are not resolved here: a REDIRECT with an FQDN is refused with a sentence.

/// GW Ident Type, GW Ident Len, identity, and in IKE_SA_INIT the nonce. RFC 5685 §9.2, §9.3.
package struct RedirectData: Hashable, Sendable {
    package var gateway: PathPlan.Gateway
    package var nonce: [UInt8]

    package init(gateway: PathPlan.Gateway, nonce: [UInt8] = []) { (self.gateway, self.nonce) = (gateway, nonce) }

    package init(parsing data: [UInt8]) throws(IKEFault) {
        var reader = OctetReader(data[...])
        let type = try reader.u8("REDIRECT: gateway identity type")
        let length = Int(try reader.u8("REDIRECT: gateway identity length"))
        let identity = Array(try reader.take(length, "REDIRECT: gateway identity"))
        nonce = Array(reader.rest())
        switch (type, length) {
        case (1, 4), (2, 16):
            guard let address = IPAddress(bytes: identity) else { throw .malformed("REDIRECT: address") }
            gateway = .address(address)
        case (3, 1...): gateway = .name(String(decoding: identity, as: UTF8.self))
        default: throw .malformed("REDIRECT: gateway identity type")
        }
        guard nonce.isEmpty || Bounds.nonceBytes.contains(nonce.count) else { throw .malformed("REDIRECT: nonce data") }
    }

    package var encoded: [UInt8] {
        switch gateway {
        case .address(let address):
            [address.isIPv4 ? 1 : 2, UInt8(address.bytes.count)] + address.bytes + nonce
        case .name(let name): [3, UInt8(clamping: name.utf8.count)] + Array(name.utf8.prefix(255)) + nonce
        }
    }
}

extension Bounds {
    /// RFC 5685 §7: MAX_REDIRECTS and REDIRECT_LOOP_DETECT_PERIOD, their default values.
    static let redirects = 5
    static let redirectPeriod: Duration = .seconds(300)
    /// How long a redirected initiator has to delete its IKE SA: one without children, and one with.
    static let redirectedWait: Duration = .seconds(4)
    static let redirectedSessionWait: Duration = .seconds(30)
}

extension IKECore {
    // MARK: As initiator

    /// REDIRECT_SUPPORTED, or REDIRECTED_FROM, whose presence "indicates to the new gateway that the client supports the redirect
    /// mechanism" (§3).
    func redirectPayloads(_ state: InitiatingSA, _ plan: ConnectionPlan) -> [Payload] {
        guard plan.paths.followsRedirects else { return [] }
        guard let from = state.redirectedFrom else { return [.notify(Notify(.redirectSupported))] }
        return [.notify(Notify(.redirectedFrom, data: RedirectData(gateway: .address(from)).encoded))]
    }

    /// In IKE_SA_INIT. "the client … MUST verify that the nonce data matches the value sent in the IKE_SA_INIT request. If the
    /// values do not match, the client MUST silently discard the response" (§3).
    func obeyInitRedirect(_ sa: IKESA, _ state: InitiatingSA, _ notify: Notify, _ plan: ConnectionPlan, now: Instant) {
        guard let data = try? RedirectData(parsing: notify.data), crypto.constantTimeEqual(data.nonce, state.nonce),
            let connection = connections[plan.name]
        else { counters.unexpected &+= 1; return }
        do throws(RedirectRefusal) {
            let target = try redirectTarget(data, connection, from: sa.path.remote.address, now: now)
            log(.info, plan.name, "The peer \(sa.path.remote.address) redirects to \(target).")
            drop(sa, reason: nil, failed: false, now: now)
            connect(connection, to: target, from: sa.path.remote.address, local: sa.path.local.address, state.replaces, now: now)
        } catch {
            refuse(sa, state, Reason(.other, error.sentence), now: now)
        }
    }

    /// In IKE_AUTH, from a responder that has authenticated. "When the client receives the IKE_AUTH response with the REDIRECT
    /// payload, it SHOULD delete the IKEv2 security association" (§6). False: there is no redirection to follow.
    func obeyAuthRedirect(
        _ sa: IKESA, _ connection: ConnectionState, _ payloads: PayloadList, replaces: UInt64?, now: Instant
    ) -> Bool {
        guard let notify = payloads.notify(.redirect), payloads.proposals == nil else { return false }
        let reason: Reason
        do throws(RedirectRefusal) {
            guard let data = try? RedirectData(parsing: notify.data) else {
                throw RedirectRefusal(sentence: "The peer \(sa.path.remote) sent a REDIRECT that cannot be read.")
            }
            let target = try redirectTarget(data, connection, from: sa.path.remote.address, now: now)
            log(.info, connection.plan.name, "The peer \(sa.path.remote.address) redirects to \(target).")
            leave(sa, reason: nil, failed: false, now: now)
            connect(connection, to: target, from: sa.path.remote.address, local: sa.path.local.address, replaces, now: now)
            endUnwanted(sa, now: now)
            return true
        } catch { reason = Reason(.other, error.sentence) }
        leave(sa, reason: reason, failed: true, now: now)
        endUnwanted(sa, now: now)
        return true
    }

    private func endUnwanted(_ sa: IKESA, now: Instant) {
        sa.phase = .closing
        sa.tasks = [.deleteIKE]
        touch(sa)
    }

    /// In a session. "only the original responder can redirect the original initiator" (§10). The old SA goes when the new one
    /// has its children.
    func obeyRedirect(_ sa: IKESA, _ notify: Notify, now: Instant) {
        guard let established = sa.established, established.supersededBy == nil, sa.isOriginalInitiator,
            let connection = connection(of: sa), let data = try? RedirectData(parsing: notify.data)
        else { counters.unexpected &+= 1; return }
        do throws(RedirectRefusal) {
            guard connection.attempt == nil else { return }
            let target = try redirectTarget(data, connection, from: sa.path.remote.address, now: now)
            log(.info, connection.plan.name, "The peer \(sa.path.remote.address) redirects to \(target).")
            connect(
                connection, to: target, from: sa.path.remote.address, local: sa.path.local.address, sa.localSPI, now: now)
        } catch {
            log(.warning, connection.plan.name, error.sentence)
        }
    }

    private struct RedirectRefusal: Error { var sentence: String }

    /// Where to go. "the client SHOULD be configured to not accept more than a certain number of redirects (MAX_REDIRECTS)
    /// within a short time period" (§7).
    private func redirectTarget(
        _ data: RedirectData, _ connection: ConnectionState, from: IPAddress, now: Instant
    ) throws(RedirectRefusal) -> IPAddress {
        let start = "The peer \(from) redirects to \(data.gateway)"
        guard connection.plan.paths.followsRedirects else {
            throw RedirectRefusal(sentence: "\(start), which `redirects: ignore` forbids.")
        }
        guard case .address(let target) = data.gateway else {
            throw RedirectRefusal(
                sentence: "\(start), a name, and peers' names are not resolved: let the peer redirect to an address (redirect_to "
                    + "there), or put the address of that gateway into remote.address\(connection.plan.line("remote.address")) "
                    + "here.")
        }
        guard target.isUsableUnicast, target != from, !connection.plan.localAddresses.contains(target),
            presentAddresses?.contains(target) != true
        else { throw RedirectRefusal(sentence: "\(start), which cannot be another gateway.") }
        guard connection.plan.localAddresses.contains(where: { $0.isIPv4 == target.isIPv4 }) else {
            throw RedirectRefusal(
                sentence: "\(start), to which `local.address` has no address of its family; add one, or correct the peer's "
                    + "redirect_to.")
        }
        connection.redirects.removeAll { now >= $0 + Bounds.redirectPeriod }
        guard connection.redirects.count < Bounds.redirects else {
            throw RedirectRefusal(
                sentence:
                    "\(start), the \(Bounds.redirects + 1)th redirection within \(Bounds.redirectPeriod.components.seconds) s: "
                    + "gateways redirect to each other in a circle; correct their redirect_to.")
        }
        connection.redirects.append(now)
        counters.redirectsFollowed &+= 1
        return target
    }

    /// "When the client gets redirected, it MUST use the same Peer Authorization Database (PAD) and Security Policy Database
    /// (SPD) entries as it would have used with the original gateway" (§3): the plan stays, identities and all.
    private func connect(
        _ connection: ConnectionState, to target: IPAddress, from: IPAddress, local: IPAddress, _ replaces: UInt64?, now: Instant
    ) {
        let locals = connection.plan.localAddresses.filter { $0.isIPv4 == target.isIPv4 && isPresent($0) }
        let ours = locals.contains(local) ? local : locals.first ?? local
        beginConnect(
            connection, replaces: replaces, pair: AddressPair(local: ours, remote: target), redirectedFrom: from, now: now)
    }

    /// Whether we began the IKE SA: only then may it be with a gateway that no connection names.
    public func isInitiator(spi: UInt64) -> Bool { sas[spi]?.isInitiator ?? false }

    // MARK: As responder

    /// What the initiator said about it in IKE_SA_INIT.
    func noteRedirectSupport(_ sa: IKESA, _ payloads: PayloadList) {
        if let notify = payloads.notify(.redirectedFrom), let data = try? RedirectData(parsing: notify.data),
            case .address(let address) = data.gateway
        {
            (sa.peerFollowsRedirects, sa.redirectedFrom) = (true, address)
        } else {
            sa.peerFollowsRedirects = payloads.notify(.redirectSupported) != nil
        }
    }

    /// Answers IKE_SA_INIT with REDIRECT when every connection that the peer can mean is served elsewhere. One that comes from
    /// there is served: sending it back would be a circle.
    func redirectInit(
        _ message: WireMessage, _ octets: Int, nonce: [UInt8], _ candidates: [ConnectionState], path: Path
    ) -> Bool {
        guard let target = candidates.first?.plan.paths.redirectTo,
            candidates.allSatisfy({ $0.plan.paths.redirectTo == target })
        else { return false }
        let from = message.payloads.notify(.redirectedFrom).flatMap { try? RedirectData(parsing: $0.data) }?.gateway
        guard from != nil || message.payloads.notify(.redirectSupported) != nil, from != target else { return false }
        counters.redirectsSent &+= 1
        let data = RedirectData(gateway: target, nonce: nonce).encoded
        answerClear(message.header, [.notify(Notify(.redirect, data: data))], toOctets: octets, path: path)
        return true
    }

    /// In IKE_AUTH, for one connection of several. "it prevents the creation of a CHILD SA and sends the REDIRECT payload in the
    /// IKE_AUTH response" (§6). Nil: it is served here.
    func authRedirect(_ sa: IKESA, _ established: EstablishedSA, _ plan: ConnectionPlan, now: Instant) -> Payload? {
        guard let target = plan.paths.redirectTo, sa.peerFollowsRedirects else { return nil }
        if case .address(let address) = target, address == sa.redirectedFrom { return nil }
        counters.redirectsSent &+= 1
        end(established, in: Bounds.redirectedWait, target, now: now)
        touch(sa)
        return .notify(Notify(.redirect, data: RedirectData(gateway: target).encoded))
    }

    /// Sends the peers of a live connection elsewhere. RFC 5685 §5. Returns a sentence when that cannot be.
    public func redirect(connection name: String, to target: PathPlan.Gateway, now: Instant) -> String? {
        guard let state = connections[name] else { return "There is no connection \(name)." }
        let peers = state.sas.compactMap { sas[$0] }.filter { $0.established?.supersededBy == nil && $0.established != nil }
        guard let first = peers.first else { return "Connection \(name) is not established." }
        let answered = peers.filter { !$0.isOriginalInitiator }
        guard !answered.isEmpty else {
            return "Connection \(name) was begun by this gateway; only the end that answered can redirect (RFC 5685)."
        }
        let willing = answered.filter(\.peerFollowsRedirects)
        guard !willing.isEmpty else { return "The peer \(first.path.remote) does not support being redirected." }
        for sa in willing { enqueue(.redirect(RedirectData(gateway: target).encoded), on: sa) }
        settle(now)
        return nil
    }

    /// "it should allow sufficient time for the client to set up the required security associations with the new security
    /// gateway" (§5).
    func finishRedirect(_ sa: IKESA, _ established: EstablishedSA, now: Instant) {
        counters.redirectsSent &+= 1
        end(established, in: Bounds.redirectedSessionWait, nil, now: now)
        touch(sa)
    }

    private func end(_ established: EstablishedSA, in wait: Duration, _ target: PathPlan.Gateway?, now: Instant) {
        established.expiresAt = min(established.expiresAt, now + wait)
        established.rekeyAt = max(established.rekeyAt, established.expiresAt)
        let destination = target.map { " to \($0)" } ?? ""
        established.endReason = Reason(.peerClosed, "The peer was redirected\(destination) and did not leave by itself.")
    }
}
