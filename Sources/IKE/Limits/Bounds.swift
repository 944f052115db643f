/// Every bound of the IKE core that is not a setting, by name. What exceeds one is refused or dropped, and counted.
package enum Bounds {
    // Messages (RFC 7296 §2: 1280 octets must be accepted, 3000 should be).
    package static let messageBytes = 16_384
    package static let payloadsPerMessage = 512
    package static let proposalsPerSA = 32
    package static let transformsPerProposal = 128
    package static let attributesPerTransform = 8
    /// Sent, and compared: a payload may hold 255, of which the first so many count.
    package static let selectorsPerPayload = 128
    package static let spisPerDelete = 1024
    package static let spiBytes = 8
    package static let identityBytes = 1024
    /// RFC 7296 §3.9: between 16 and 256 octets.
    package static let nonceBytes = 16...256
    package static let ourNonceBytes = 32
    /// RFC 7296 §2.6: between 1 and 64 octets.
    package static let cookieBytes = 1...64

    /// CERT, and CERTREQ, payloads of one message that are looked at.
    package static let certificatesPerMessage = 16
    /// Authorities of a peer's CERTREQ that are remembered. RFC 7296 §3.7.
    package static let requestedAuthorities = 256
    /// Connections whose secrets or authorities one proof is tried on.
    package static let connectionsTried = 64
    /// Authorities that we name in a CERTREQ; IKE_SA_INIT cannot be split.
    package static let announcedAuthorities = 20
    /// Raw public keys of one connection that are tried on a signature.
    package static let rawPublicKeys = 16

    // Exchanges.
    /// EAP packets of ours in one IKE_AUTH exchange: EAP-TLS in fragments takes a few dozen. RFC 5216 §3.1.
    package static let eapRounds = 128
    /// EAP conversations under way at once, as responder.
    package static let eapConversations = 256
    /// About what verifying a peer's AUTH takes, of one key, with what each connection makes of it.
    package static let signatureMicroseconds = 250
    /// Before a peer's certificate runs out, it is asked to authenticate anew, perhaps with another.
    package static let certificateNotice: Duration = .seconds(300)
    /// A certificate's end further away is not waited for. A hundred years.
    package static let longestValiditySeconds: Int64 = 3_155_760_000
    /// From the first IKE_AUTH message to the end of authentication, as responder.
    package static let authenticationLifetime: Duration = .seconds(120)
    /// How long the surroundings may take to ask an OCSP responder or an authentication backend.
    package static let outsideWait: Duration = .seconds(20)
    /// How long IKE_AUTH is put off while a responder is asked about our own certificate.
    package static let ownStatusWait: Duration = .seconds(1)
    /// Retries of IKE_SA_INIT with a cookie or another group, together. RFC 7296 §2.6: "should limit the number of cookie
    /// exchanges".
    package static let initRetries = 8
    /// A half-open SA keeps its peer's first message: this bounds what each can take.
    package static let initMessageBytes = 8192
    /// Time for key exchanges with peers that are not authenticated, per second: once for addresses that the configuration names,
    /// once for all others together.
    package static let unauthenticatedWorkMicroseconds = 300_000
    /// Time of another thread for judging the certificates of peers that are not authenticated, per second, likewise.
    package static let judgingMicroseconds = 400_000
    /// First messages of one address that are answered before it must send a cookie back. RFC 7296 §2.6.
    package static let unverifiedPerAddress = 8
    /// How often the answer to one first message is sent again.
    package static let initRepeats = 16
    /// Half-open SAs from one address that sent its cookie back: of a peer that the configuration names, and of anybody else
    /// (several behind one NAT).
    package static let halfOpenPerPeer = 256
    package static let halfOpenPerStranger = 32
    /// A responder forgets an initiator that does not authenticate.
    package static let halfOpenLifetime: Duration = .seconds(30)
    /// How long an unauthenticated refusal of IKE_SA_INIT is waited out. RFC 7296 §2.21.1.
    package static let refusalGrace: Duration = .seconds(3)
    /// How long a closed IKE SA still answers retransmissions of the request that closed it.
    package static let closedLinger: Duration = .seconds(10)
    /// Retransmissions of the request that closes an IKE SA.
    package static let closingTries = 3
    /// A request whose peer still sends authenticated ESP is retransmitted for this long at most.
    package static let requestPatience: Duration = .seconds(120)
    /// From this transmission of a request on its silence is told: one datagram may be lost anywhere.
    package static let transmissionsOfSilence = 3
    /// More are not counted in advance.
    static let mostTransmissions = 64
    package static let longestRetransmitInterval: Duration = .seconds(10)
    /// RFC 7296 §2.25: "must wait so that the sender may complete whatever operation caused the temporary condition".
    package static let temporaryFailureWait: Duration = .seconds(2)
    /// RFC 7296 §2.25: "after several minutes, it should conclude that the state information is out of sync".
    package static let temporaryFailures = 60
    /// How long an initiator waits before it deletes a redundant IKE SA that a simultaneous initiation left.
    package static let redundantSAWait: Duration = .seconds(3)
    /// How long a responder leaves further children to the initiator before it creates them itself.
    package static let responderChildWait: Duration = .seconds(5)
    /// How long the peer has to delete an IKE SA that it rekeyed.
    package static let supersededWait: Duration = .seconds(60)
    package static let longestChildRetry: Duration = .seconds(60)
    /// How long the surroundings may take to install a child SA.
    package static let installWait: Duration = .seconds(10)

    // Tables and queues.
    /// Besides those that replace others for a moment.
    package static let childrenPerIKESA = 256
    package static let tasksPerIKESA = 1024
    package static let transmitQueue = 65_536
    package static let eventQueue = 65_536
    /// Unprotected error answers (INVALID_IKE_SPI, INVALID_MAJOR_VERSION, NO_PROPOSAL_CHOSEN …) per second. RFC 7296 §2.21.4.
    package static let unprotectedAnswersPerSecond = 10
    /// Actions taken on unprotected hints, per IKE SA: one per this interval. RFC 7296 §2.4.
    package static let hintInterval: Duration = .seconds(10)
    /// Between questions whether the peer is where a packet came from.
    static let verificationInterval: Duration = .seconds(1)
    /// A refusal in the same words is logged and told again after this.
    package static let sameRefusalInterval: Duration = .seconds(5)
    /// Refusals in other words that a connection logs within that time: strangers choose many of the words.
    package static let refusalsLogged = 10
    package static let cookieSecretLifetime: Duration = .seconds(60)
    package static let logOffers = 4
}

extension Bounds {
    /// A setting that counts something, never below one.
    static func countLimit(_ setting: Int) -> Int { max(1, setting) }
}

extension Bounds {
    /// How long after we created a child the peer's request for the same one counts as having crossed ours.
    static let crossingTime: Duration = .seconds(60)
    /// How long a replaced child still receives what was under way when it was deleted.
    static let drain: Duration = .seconds(2)
    /// SPIs in DELETE payloads that are remembered while a child is being created.
    static let earlyDeletes = 16
    /// Between the end of one attempt and the beginning of the next, whatever the settings say.
    static let shortestPause: Duration = .milliseconds(100)
    /// The longest pause between the beginnings of two attempts.
    static let longestReconnect: Duration = .seconds(20)
    /// One identity has at most this part of what a gateway carries.
    static let identitiesShare = 8
    /// IKE SAs between the same two identities: devices of one user, and what a rekeying or reauthentication leaves for a while.
    package static let ikeSAsPerPeer = 256
    /// Virtual addresses of one pool that one identity has at the same time: one device each, and no user takes all of them.
    package static let addressesPerIdentity = 64
    /// A peer's AUTH_LIFETIME is not believed below this; each time that it is not above it the bound doubles, up to the other.
    static let shortestReauthentication: Duration = .seconds(5)
    static let longestForcedReauthentication: Duration = .seconds(600)
    /// How long an IKE SA that is being replaced is kept for children that the new one does not have yet.
    static let replacementWait: Duration = .seconds(30)
    /// Refusals of IKE_SA_INIT (INVALID_KE_PAYLOAD, NO_PROPOSAL_CHOSEN) per second: each is shorter than what it answers.
    static let initRefusalsPerSecond = 1000
}
