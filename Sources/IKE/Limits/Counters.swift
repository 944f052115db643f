/// What the core has seen, refused and dropped; counters never go backwards.
public struct CoreCounters: Hashable, Sendable {
    /// Datagrams handed in, and those of them that were no IKE: NAT keepalives, ESP, noise.
    public var datagrams = 0, keepalivesReceived = 0, notIKE = 0
    /// Unreadable messages that nothing answered.
    public var malformed = 0
    public var wrongVersion = 0
    public var unknownSPI = 0
    /// The ICV did not verify.
    public var unauthentic = 0
    /// Unprotected messages for an SA that has keys.
    public var unprotected = 0
    public var outOfWindow = 0
    public var unexpected = 0
    public var requestsRetransmitted = 0, responsesRetransmitted = 0
    public var cookiesSent = 0, cookiesRefused = 0
    public var halfOpenRefused = 0, halfOpenExpired = 0, saLimitReached = 0
    /// Half-open SAs of strangers that gave way to others, and key exchanges that were put off for want of time.
    public var halfOpenEvicted = 0, keyExchangesDeferred = 0
    public var strangersRefused = 0
    public var unprotectedAnswers = 0, unprotectedAnswersSuppressed = 0
    /// Certificates of peers that were not accepted, and questions to OCSP responders or backends that stayed unanswered.
    public var certificatesRefused = 0, peersRevoked = 0, outsideWaitsExpired = 0, signaturesDeferred = 0
    /// Lines of the log that were left out, being like many before them.
    public var linesUnsaid = 0
    public var refusalsUnsaid = 0, peerSALimitReached = 0
    public var proposalsRefused = 0, authenticationsRefused = 0, selectorsRefused = 0
    /// Peers that asked for traffic which is somebody else's. RFC 4301 §4.4.3.
    public var selectorsClaimed = 0
    public var childLimitReached = 0, taskLimitReached = 0
    public var peersDead = 0
    /// RFC 9370: series of additional key exchanges that a peer began and did not finish in time, or began too many of.
    public var followUpsExpired = 0, followUpLimitReached = 0
    /// RFC 5685.
    public var redirectsSent = 0, redirectsFollowed = 0
    /// RFC 7383: messages sent in fragments and put together from them; fragments kept, and refused (numbers, replays, bounds).
    public var messagesFragmented = 0, messagesReassembled = 0, reassembliesExpired = 0
    public var fragmentsReceived = 0, fragmentsRefused = 0
    public var transmitsDropped = 0, eventsDropped = 0
    public init() {}
}
