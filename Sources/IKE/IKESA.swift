import DequeModule
import IPsec
import Wire

/// One IKE SA, from its first IKE_SA_INIT to its end. Its phase says what else it knows.
package final class IKESA {
    /// Each state is a type of its own.
    package enum Phase {
        case initiating(InitiatingSA)
        case intermediate(IntermediateSA)
        case halfOpen(HalfOpenSA)
        case authenticating(AuthenticatingSA)
        case established(EstablishedSA)
        /// Our DELETE is under way or about to be.
        case closing
        /// Gone, but still answering retransmissions of the request that ended it.
        case closed(until: Instant)
    }

    /// The SPI that we chose: the key of the core's table.
    package let localSPI: UInt64
    package let initiatorSPI: UInt64
    package var responderSPI: UInt64
    /// Whether we are the original initiator. RFC 7296 §2.2.
    package let isInitiator: Bool
    /// Whether we began the first of the IKE SAs that were rekeyed into this one: it decides in MOBIKE (RFC 4555 §1.3) and is
    /// who can be redirected (RFC 5685 §10).
    package var isOriginalInitiator: Bool
    package let createdAt: Instant
    package var path: Path
    package var phase: Phase
    /// nil while a responder does not know yet who its peer is.
    package var connection: String?

    package var suite: IKESuite?
    package var keys: IKEKeys?
    /// What AUTH covers besides IKE_SA_INIT and the identity. RFC 9242 §3.3.2.
    package var intermediateAuthentication = IntermediateAuthentication()
    package var postquantum = PostquantumState()
    /// Additional key exchanges that are still to be done before IKE_AUTH. RFC 9370 §2.2.2.
    package var pendingMethods: [KeyExchangeMethod] = []

    /// The system did not let our last transmission out.
    package var sendFailure: SendFailure?
    /// What the peer said about the proof that it wants from us.
    package var wishes = PeerWishes()
    /// CHILDLESS_IKEV2_SUPPORTED was in the responder's IKE_SA_INIT. RFC 6023.
    package var peerAllowsChildless = false
    /// Authentication waits for somebody outside.
    package var waiting: OutsideWait?
    /// It has waited for news of our own certificate, and will not again.
    package var hasWaitedForOwnStatus = false
    /// Message id of the last IKE_AUTH request of the peer.
    package var lastAuthID: UInt32?

    // Requests of ours: window one. RFC 7296 §2.3.
    package var nextRequestID: UInt32 = 0
    package var outstanding: OutstandingRequest?
    package var tasks: Deque<SATask> = []
    /// What the peer's SET_WINDOW_SIZE allows; one request at a time is sent whatever it says.
    package var peerWindow: UInt32 = 1

    // Requests of the peer.
    package var expectedRequestID: UInt32 = 0
    package var lastResponse: SentResponse?
    package var withheld: WithheldResponse?
    /// Series of additional key exchanges that the peer has begun. RFC 9370 §2.2.4.
    package var answered: [AnsweredSeries] = []

    package var fragmentation = FragmentationState()
    /// When the peer last sent fragments of a message that is too long.
    package var lastOversized: Instant?

    package var mobility = MobilityState()
    /// Whether the peer said that it can be redirected, and where it was redirected from. RFC 5685 §3.
    var peerFollowsRedirects = false
    var redirectedFrom: IPAddress?

    // NAT traversal.
    package var localNAT = false
    package var remoteNAT = false
    /// ESP goes in UDP: a NAT was seen, or is pretended.
    package var encapsulates = false

    /// Key of the table that recognises retransmissions of the first message. RFC 7296 §2.1.
    package var initKey: InitKey?
    /// The identity that the initiator wanted us to have (IDr of its request), for the sentence when it minds ours.
    package var requestedIdentity: WireIdentity?
    /// Not authenticated, and in the counts of `IKECore.halfOpenCount`.
    package var countsAsHalfOpen = false
    package var halfOpenAddress: IPAddress?
    /// It has sent back a cookie: nobody has made its address up.
    var isAddressVerified = false
    /// Its key in the table of who speaks, while it is in there.
    var indexedIdentities: IdentityPair?
    /// Messages sealed with our key: the IV of the next with AES-GCM.
    package var sealedMessages: UInt64 = 0
    package var lastHint: Instant?
    package var lastInvalidMessageID: Instant?
    var lastVerification: Instant?

    package init(
        localSPI: UInt64, initiatorSPI: UInt64, responderSPI: UInt64, isInitiator: Bool, path: Path, phase: Phase, now: Instant
    ) {
        (self.localSPI, self.initiatorSPI, self.responderSPI) = (localSPI, initiatorSPI, responderSPI)
        (self.isInitiator, self.path, self.phase, createdAt) = (isInitiator, path, phase, now)
        isOriginalInitiator = isInitiator
    }

    package var established: EstablishedSA? { if case .established(let state) = phase { state } else { nil } }
    package var isHalfOpen: Bool { if case .halfOpen = phase { true } else { false } }
    package var isClosing: Bool { if case .closing = phase { true } else { false } }
    package var isClosed: Bool { if case .closed = phase { true } else { false } }

    package var ourKeys: DirectionKeys? { isInitiator ? keys?.initiator : keys?.responder }
    package var peerKeys: DirectionKeys? { isInitiator ? keys?.responder : keys?.initiator }

    package func header(_ exchange: ExchangeType, isResponse: Bool, id: UInt32) -> IKEHeader {
        IKEHeader(
            initiatorSPI: initiatorSPI, responderSPI: responderSPI, exchange: exchange, isFromInitiator: isInitiator,
            isResponse: isResponse, messageID: id)
    }

    /// Where packets of its children travel. RFC 7296 §2.23: "UDP encapsulation MUST NOT be done on port 500".
    package func tunnelPath(_ settings: CoreSettings) -> TunnelPath {
        if let held = mobility.heldTunnelPath { return held }
        guard encapsulates else { return TunnelPath(local: path.local.address, remote: path.remote.address) }
        let onNATPort = path.local.port == settings.natTraversalPort
        return TunnelPath(
            local: path.local.address, remote: path.remote.address, localPort: settings.natTraversalPort,
            remotePort: onNATPort ? path.remote.port : settings.natTraversalPort)
    }
}

/// Recognises a retransmitted IKE_SA_INIT: "a robust responder will do the IKE SA lookup using the whole packet, its hash, or the
/// Ni payload". RFC 7296 §2.1.
package struct InitKey: Hashable, Sendable {
    var remote: Endpoint
    var initiatorSPI: UInt64
    var digest: [UInt8]
}

/// A request of ours that waits for its response.
package struct OutstandingRequest {
    package var id: UInt32
    package var exchange: ExchangeType
    package var kind: Kind
    /// From the IKE header on: "A retransmission from the initiator MUST be bitwise identical to the original request."
    /// The fragments when it is split.
    package var messages: [[UInt8]]
    /// What they were sealed from; nil for IKE_SA_INIT.
    package var content: ProtectedContent?
    package var firstSent: Instant
    package var nextTransmit: Instant
    package var interval: Duration
    package var transmissions: Int
    package var giveUpAt: Instant
    /// Of the IKE SA's addresses, when it was first sent.
    var generation = 0
    /// It was sent on other paths besides.
    var isProbing = false
    /// It must not be fragmented on the way.
    var isWhole = false

    package enum Kind {
        case initiate, intermediate, authenticate
        case child(CreatingChild)
        case rekeyIKE(RekeyingIKE)
        case followUp(FollowUpSeries)
        case deleteChildren([UInt32])
        case deleteIKE
        case informational
        case mobility(MobilityRequest)
        case redirect
        case verifyPath(Path)
        /// Of so many octets, IP header included.
        case probePath(Int)
    }
}

/// Our last response, for requests that come again.
package struct SentResponse {
    package var id: UInt32
    /// The fragments when it is split.
    package var messages: [[UInt8]]
    package var content: ProtectedContent
    package var datagramBytes: Int
    /// Those it was sealed with, and its request too: an additional key exchange replaces the keys right after its response.
    package var keys: IKEKeys?
    package var repeats = 0
}

/// Something to ask the peer for, as soon as the window allows.
package enum SATask: Hashable, Sendable {
    case createChild(String)
    /// What the peer has left out of a child.
    case createRest(String)
    case rekeyChild(inboundSPI: UInt32)
    case deleteChild(inboundSPI: UInt32)
    case rekeyIKE
    case deleteIKE
    case liveness
    /// RFC 4555 §3.5, §3.6, §3.7.
    case updateAddresses, announceAddresses, checkRoutability
    /// RFC 5685 §5: the notify's data.
    case redirect([UInt8])
    /// Whether the peer is where a packet of its came from. RFC 7296 §2.23.
    case verifyPath(Path)
    case notify(NotifyType, [UInt8])
    case probePath
}

/// The response to a request, kept back until the child's inbound SA is installed: it lets the peer send on it.
/// "The responder … MUST be prepared to accept messages on an SA before sending its response to the creation request." RFC 7296
/// §2.8.
package struct WithheldResponse {
    package var token: UInt64
    package var inboundSPI: UInt32
    package var exchange: ExchangeType
    package var path: Path
    package var payloads: [Payload]
    /// What to answer when the installation fails.
    package var failurePayloads: [Payload]
    package var expires: Instant
}
