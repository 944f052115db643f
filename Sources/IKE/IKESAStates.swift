import IPsec
import Wire

/// We sent IKE_SA_INIT.
package final class InitiatingSA {
    let nonce: [UInt8]
    let offered: [WireProposal]
    var keyExchange: any KeyExchange
    var cookie: [UInt8]?
    var retries = 0
    /// The digest that pretends a NAT (`nat_traversal: force`); the same in every retry, which may change nothing but cookie and
    /// KE.
    let forgedDigest: [UInt8]?
    /// The latest version of our message: that is the one AUTH signs. RFC 7296 §2.15.
    var message: [UInt8] = []
    /// An unauthenticated refusal, waited out before it is believed.
    var refusal: (reason: Reason, until: Instant)?
    /// The IKE SA that this one shall replace (reauthentication, or a rekey that the peer refused).
    var replaces: UInt64?
    /// The gateway that sent us here. RFC 5685 §9.3.
    let redirectedFrom: IPAddress?

    init(
        nonce: [UInt8], offered: [WireProposal], keyExchange: any KeyExchange, forgedDigest: [UInt8]?, replaces: UInt64?,
        redirectedFrom: IPAddress?
    ) {
        self.redirectedFrom = redirectedFrom
        (self.nonce, self.offered, self.keyExchange) = (nonce, offered, keyExchange)
        (self.forgedDigest, self.replaces) = (forgedDigest, replaces)
    }
}

/// We sent IKE_INTERMEDIATE with an additional key exchange. RFC 9370 §2.2.2.
package final class IntermediateSA {
    /// What IKE_AUTH needs later.
    let initiation: InitiatingSA
    let responderNonce: [UInt8]
    let responderMessage: [UInt8]
    let keyExchange: any KeyExchange

    init(initiation: InitiatingSA, responderNonce: [UInt8], responderMessage: [UInt8], keyExchange: any KeyExchange) {
        (self.initiation, self.responderNonce) = (initiation, responderNonce)
        (self.responderMessage, self.keyExchange) = (responderMessage, keyExchange)
    }
}

/// We answered IKE_SA_INIT and wait for IKE_INTERMEDIATE or IKE_AUTH. A Diffie-Hellman secret is computed only when that comes.
package final class HalfOpenSA {
    let initiatorNonce: [UInt8]
    let responderNonce: [UInt8]
    let keyExchange: any KeyExchangeAnswer
    let initiatorMessage: [UInt8]
    var responderMessage: [UInt8] = []
    /// How often it was sent again.
    var repeats = 0
    var expires: Instant
    /// Authentication under way, from the first IKE_AUTH request on that could not be settled at once.
    var auth: ResponderAuth?
    /// The first IKE_AUTH request, while its answer waits for news of our own certificate, or for a judgement on the peer's.
    var putOff: (request: PayloadList, path: Path)?
    /// The peer's certificates have been judged: what is left to compute is little.
    var isJudged = false
    /// Signatures of the peer that were verified: once, however many connections they are tried on.
    let signatures = VerifiedSignatures()

    init(
        initiatorNonce: [UInt8], responderNonce: [UInt8], keyExchange: any KeyExchangeAnswer, initiatorMessage: [UInt8],
        expires: Instant
    ) {
        (self.initiatorNonce, self.responderNonce, self.keyExchange) = (initiatorNonce, responderNonce, keyExchange)
        (self.initiatorMessage, self.expires) = (initiatorMessage, expires)
    }

    var transcript: InitTranscript {
        InitTranscript(
            initiatorMessage: initiatorMessage, responderMessage: responderMessage, initiatorNonce: initiatorNonce,
            responderNonce: responderNonce)
    }
}

/// An IKE_AUTH exchange as responder that takes more than one step.
package final class ResponderAuth {
    enum Step {
        /// Waits for an OCSP responder.
        case revocation(PeerProof)
        /// Waits for an OCSP responder in the middle of EAP.
        case eapRevocation(any EAPServerSession)
        /// Waits for an authentication backend.
        case backend(any EAPServerSession)
        /// Waits for the peer's next EAP packet.
        case eap(any EAPServerSession)
        /// EAP has succeeded: waits for the peer's AUTH.
        case proof(EAPOutcome)
    }

    /// The first IKE_AUTH request: IDi, and what it wants besides being authenticated.
    let request: PayloadList
    let identity: WireIdentity
    let claimed: Identity
    let connection: ConnectionState
    var step: Step
    /// Payloads that go out with the first EAP packet: IDr, CERT, AUTH.
    var head: [Payload] = []
    var localMethod = ""
    /// We prove ourselves by the EAP method alone. RFC 5998.
    var isEAPOnly = false
    /// Of the request in hand.
    var path: Path
    let givesUp: Instant

    init(
        request: PayloadList, identity: WireIdentity, claimed: Identity, connection: ConnectionState, step: Step, path: Path,
        givesUp: Instant
    ) {
        (self.request, self.identity, self.claimed, self.connection) = (request, identity, claimed, connection)
        (self.step, self.path, self.givesUp) = (step, path, givesUp)
    }
}

/// We sent IKE_AUTH.
package final class AuthenticatingSA {
    enum Step {
        /// The first request is out.
        case first
        /// EAP is under way: our last response is out.
        case eap(EAPPeer)
        /// EAP has succeeded: our AUTH is out.
        case proof(EAPOutcome)
    }

    let transcript: InitTranscript
    /// Nil: childless. RFC 6023.
    let child: ChildOffer?
    var replaces: UInt64?
    var step = Step.first
    /// How we proved ourselves.
    var localMethod = ""
    /// IDr as it came, and what it means.
    var responderIdentity: (wire: WireIdentity, claimed: Identity)?
    /// Who the responder has proved to be; nil before, and with EAP-only.
    var responder: ProvenPeer?
    /// What is judged again when a revocation check has been answered.
    var waiting: (proof: PeerProof, payloads: PayloadList)?
    /// The responder's certificates have been judged.
    var isJudged = false
    /// Our first request is not out: it waits for news of our own certificate.
    var isPutOff = false
    /// Nobody wants it any more: it is deleted as soon as the peer answers.
    var isAbandoned = false

    init(_ transcript: InitTranscript, child: ChildOffer?, replaces: UInt64?) {
        (self.transcript, self.child, self.replaces) = (transcript, child, replaces)
    }
}

/// Both ends are authenticated.
package final class EstablishedSA {
    let localIdentity: Identity
    let remoteIdentity: Identity
    let establishedAt: Instant
    var rekeyAt: Instant
    var expiresAt: Instant
    /// When something authenticated last came from the peer, here or on a child.
    var lastHeard: Instant
    /// When authenticated ESP last came: it keeps an unanswered request waiting longer.
    var lastTraffic: Instant?
    var nextKeepalive: Instant?
    package var children: [ChildRecord] = []
    /// The lower of the two nonces that made it; decides which of two redundant SAs goes. RFC 7296 §2.8.
    let lowestNonce: [UInt8]
    /// How the two ends proved who they are; inherited when the IKE SA is rekeyed.
    package let peer: ProvenPeer
    let localMethod: String
    /// Set when this one lost against a redundant SA: closed then by us.
    package var closeAt: Instant?
    var redundantSince: Instant?
    /// The IKE SA that both ends are rekeying, as long as it is open which of the two new ones stays: this one is the peer's.
    var contestedOf: UInt64?
    /// The IKE SA that inherited our children. RFC 7296 §2.8.
    package var supersededBy: UInt64?
    /// When it is asked again whether our children can stand for those of the IKE SA that this one replaces.
    var coverCheckAt: Instant?
    /// The IKE SA to close once our children are installed.
    var replaces: UInt64?
    /// When to authenticate anew, and when an SA that has not been ends: counted from the last authentication, not from a rekey.
    var reauthAt: Instant?
    var authenticationEndsAt: Instant?
    /// When the first certificate of the peer's chain runs out, and when the peer is asked for another one before that.
    var certificateEndsAt: Instant?
    var certificateNoticeAt: Instant?
    var temporaryFailures = 0
    var followUpFailures = 0
    /// Why it ends at `expiresAt`, when that is not its lifetime.
    var endReason: Reason?
    package var settled = SettledConfiguration()

    init(
        localIdentity: Identity, peer: ProvenPeer, localMethod: String, establishedAt: Instant, rekeyAt: Instant,
        expiresAt: Instant, lowestNonce: [UInt8]
    ) {
        (self.localIdentity, remoteIdentity, self.establishedAt) = (localIdentity, peer.identity, establishedAt)
        (self.peer, self.localMethod) = (peer, localMethod)
        (self.rekeyAt, self.expiresAt, lastHeard, self.lowestNonce) = (rekeyAt, expiresAt, establishedAt, lowestNonce)
    }

    func child(inbound spi: UInt32) -> ChildRecord? { children.first { $0.inboundSPI == spi } }
    func child(outbound spi: UInt32) -> ChildRecord? { children.first { $0.outboundSPI == spi } }
    /// The child that stands for a configured one: the newest that is not on its way out.
    func current(_ name: String) -> ChildRecord? { children.last { $0.name == name && $0.isLive } }
}

/// One pair of ESP SAs, without its keys: those left with the `installChild` event.
package final class ChildRecord {
    enum State { case installing, installed, deleting, draining(until: Instant) }

    let name: String
    let inboundSPI: UInt32
    let outboundSPI: UInt32
    let suite: ESPSuite
    let localSelectors: [TrafficSelector]
    let remoteSelectors: [TrafficSelector]
    let createdAt: Instant
    /// The peer wanted transport mode and was given tunnel mode.
    var wasAskedForTransportMode = false
    var state: State = .installing
    var rekeyAt: Instant
    let expiresAt: Instant
    /// Whether the exchange that made it was ours, and the lowest nonce in it: they settle collisions. RFC 7296 §2.8.1.
    let weInitiated: Bool
    let lowestNonce: [UInt8]
    /// The inbound SPI of the child that this one replaces, and of the one that replaces this.
    var replaces: UInt32?
    var replacedBy: UInt32?
    /// The inbound SPI of a child of ours that the peer's request for the same one crossed, and that lost against it.
    var ousts: UInt32?
    /// Of one that the peer made: it has sent another request since, or deleted the one before, so it has this one in place.
    var isConfirmed = false
    /// The peer has said once that it does not know this one.
    var wasNotFound = false
    /// Set when ours is the redundant one of a collision: deleted as soon as it is installed.
    var isRedundant = false
    /// The surroundings have until then to install it, and answer with this.
    var installBy: Instant?
    var token: UInt64?
    /// In whose name its selectors are kept from others.
    var claimant: SelectorClaims.Holder?
    /// Whose share it takes a part of.
    var owner: ChildShares.Owner?

    init(
        name: String, inboundSPI: UInt32, outboundSPI: UInt32, suite: ESPSuite, localSelectors: [TrafficSelector],
        remoteSelectors: [TrafficSelector], createdAt: Instant, rekeyAt: Instant, expiresAt: Instant, weInitiated: Bool,
        lowestNonce: [UInt8]
    ) {
        (self.name, self.inboundSPI, self.outboundSPI, self.suite) = (name, inboundSPI, outboundSPI, suite)
        (self.localSelectors, self.remoteSelectors) = (localSelectors, remoteSelectors)
        (self.createdAt, self.rekeyAt, self.expiresAt) = (createdAt, rekeyAt, expiresAt)
        (self.weInitiated, self.lowestNonce) = (weInitiated, lowestNonce)
    }

    var isLive: Bool {
        switch state {
        case .installing, .installed: true
        case .deleting, .draining: false
        }
    }
    var isInstalled: Bool { if case .installed = state { true } else { false } }
    var isDeleting: Bool { if case .deleting = state { true } else { false } }
}

/// What we proposed for one child.
package struct ChildOffer {
    var name: String
    var inboundSPI: UInt32
    var proposals: [WireProposal]
    var localSelectors: [TrafficSelector]
    var remoteSelectors: [TrafficSelector]
}

/// Our CREATE_CHILD_SA request for a child, new or rekeyed.
package final class CreatingChild {
    let offer: ChildOffer
    let nonce: [UInt8]
    let keyExchange: (any KeyExchange)?
    /// The inbound SPI of the child that it replaces.
    let rekeys: UInt32?
    var retries: Int
    /// It asks for what the peer has left out of a child that is up.
    let isRest: Bool
    /// SPIs that the peer has deleted meanwhile and that we do not know: one of them may be this child's.
    var endedByPeer: [UInt32] = []

    init(
        offer: ChildOffer, nonce: [UInt8], keyExchange: (any KeyExchange)?, rekeys: UInt32?, retries: Int, isRest: Bool = false
    ) {
        (self.offer, self.nonce, self.keyExchange, self.rekeys, self.retries) = (offer, nonce, keyExchange, rekeys, retries)
        self.isRest = isRest
    }
}

/// Our CREATE_CHILD_SA request for a new IKE SA.
package final class RekeyingIKE {
    let localSPI: UInt64
    let offered: [WireProposal]
    let nonce: [UInt8]
    let keyExchange: any KeyExchange
    var retries: Int
    /// The IKE SA that the peer made by rekeying at the same time. RFC 7296 §2.8.2.
    var collision: UInt64?

    init(localSPI: UInt64, offered: [WireProposal], nonce: [UInt8], keyExchange: any KeyExchange, retries: Int) {
        (self.localSPI, self.offered, self.nonce, self.keyExchange, self.retries) = (
            localSPI, offered, nonce, keyExchange, retries
        )
    }
}

/// "octet-by-octet comparison … If you reach the end of one nonce, that nonce is the lower one." RFC 7296 §2.8.1.
package func lowerNonce(_ a: [UInt8], _ b: [UInt8]) -> [UInt8] { a.lexicographicallyPrecedes(b) ? a : b }
