/// Exchange types. RFC 7296 §3.1.
public struct ExchangeType: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
    public var rawValue: UInt8
    public init(rawValue: UInt8) { self.rawValue = rawValue }
    public static let ikeSAInit = Self(rawValue: 34)
    public static let ikeAuth = Self(rawValue: 35)
    public static let createChildSA = Self(rawValue: 36)
    public static let informational = Self(rawValue: 37)
    /// RFC 9242.
    public static let ikeIntermediate = Self(rawValue: 43)
    /// RFC 9370 §2.2.4.
    public static let ikeFollowUpKE = Self(rawValue: 44)

    public var description: String {
        switch self {
        case .ikeSAInit: "IKE_SA_INIT"
        case .ikeAuth: "IKE_AUTH"
        case .createChildSA: "CREATE_CHILD_SA"
        case .informational: "INFORMATIONAL"
        case .ikeIntermediate: "IKE_INTERMEDIATE"
        case .ikeFollowUpKE: "IKE_FOLLOWUP_KE"
        default: "exchange type \(rawValue)"
        }
    }
}

/// Payload types. RFC 7296 §3.2.
package struct PayloadType: RawRepresentable, Hashable, Sendable {
    package var rawValue: UInt8
    package init(rawValue: UInt8) { self.rawValue = rawValue }
    package static let none = Self(rawValue: 0)
    package static let securityAssociation = Self(rawValue: 33)
    package static let keyExchange = Self(rawValue: 34)
    package static let identityInitiator = Self(rawValue: 35)
    package static let identityResponder = Self(rawValue: 36)
    package static let certificate = Self(rawValue: 37)
    package static let certificateRequest = Self(rawValue: 38)
    package static let authentication = Self(rawValue: 39)
    package static let nonce = Self(rawValue: 40)
    package static let notify = Self(rawValue: 41)
    package static let delete = Self(rawValue: 42)
    package static let vendorID = Self(rawValue: 43)
    package static let trafficSelectorsInitiator = Self(rawValue: 44)
    package static let trafficSelectorsResponder = Self(rawValue: 45)
    package static let encrypted = Self(rawValue: 46)
    package static let configuration = Self(rawValue: 47)
    package static let extensibleAuthentication = Self(rawValue: 48)
    /// SKF, "Encrypted and Authenticated Fragment". RFC 7383 §2.5.
    package static let encryptedFragment = Self(rawValue: 53)

    /// Types that RFC 7296 defines; the critical bit of these is ignored (§3.2).
    package var isDefined: Bool { (33...48).contains(rawValue) || self == .encryptedFragment }
}

/// Security protocol identifiers. RFC 7296 §3.3.1.
package enum ProtocolID {
    package static let none: UInt8 = 0
    package static let ike: UInt8 = 1
    package static let ah: UInt8 = 2
    package static let esp: UInt8 = 3
}

/// Transform types. RFC 7296 §3.3.2.
package enum TransformType {
    package static let encryption: UInt8 = 1
    package static let prf: UInt8 = 2
    package static let integrity: UInt8 = 3
    package static let keyExchange: UInt8 = 4
    package static let sequenceNumbers: UInt8 = 5
}

/// Encryption transform ids that this implementation knows. RFC 7296 §3.3.2, RFC 5282.
package enum EncryptionID {
    package static let aesCBC: UInt16 = 12
    package static let aesGCM16: UInt16 = 20
}

/// Authentication methods. RFC 7296 §3.8.
package enum AuthenticationMethod {
    package static let rsa: UInt8 = 1
    package static let sharedKey: UInt8 = 2
    /// RFC 4754.
    package static let ecdsaP256: UInt8 = 9
    package static let ecdsaP384: UInt8 = 10
    package static let ecdsaP521: UInt8 = 11
    /// RFC 7427.
    package static let digitalSignature: UInt8 = 14

    static let signatures: Set<UInt8> = [rsa, ecdsaP256, ecdsaP384, ecdsaP521, digitalSignature]
}

/// Notify message types; below 16384 they are errors. RFC 7296 §3.10.1 and the registry that continues it.
public struct NotifyType: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
    public var rawValue: UInt16
    public init(rawValue: UInt16) { self.rawValue = rawValue }
    public init(_ rawValue: UInt16) { self.rawValue = rawValue }

    public static let unsupportedCriticalPayload = Self(1)
    public static let invalidIKESPI = Self(4)
    public static let invalidMajorVersion = Self(5)
    public static let invalidSyntax = Self(7)
    public static let invalidMessageID = Self(9)
    public static let invalidSPI = Self(11)
    public static let noProposalChosen = Self(14)
    public static let invalidKEPayload = Self(17)
    public static let authenticationFailed = Self(24)
    public static let singlePairRequired = Self(34)
    public static let noAdditionalSAs = Self(35)
    public static let internalAddressFailure = Self(36)
    public static let failedCPRequired = Self(37)
    public static let tsUnacceptable = Self(38)
    public static let invalidSelectors = Self(39)
    public static let temporaryFailure = Self(43)
    public static let childSANotFound = Self(44)
    public static let stateNotFound = Self(47)
    public static let initialContact = Self(16384)
    public static let setWindowSize = Self(16385)
    /// RFC 4478.
    public static let authLifetime = Self(16403)
    public static let additionalTSPossible = Self(16386)
    public static let natDetectionSourceIP = Self(16388)
    public static let natDetectionDestinationIP = Self(16389)
    public static let cookie = Self(16390)
    public static let useTransportMode = Self(16391)
    public static let rekeySA = Self(16393)
    public static let espTFCPaddingNotSupported = Self(16394)

    public static let unacceptableAddresses = Self(40)
    public static let unexpectedNATDetected = Self(41)
    public static let mobikeSupported = Self(16396)
    public static let additionalIP4Address = Self(16397)
    public static let additionalIP6Address = Self(16398)
    public static let noAdditionalAddresses = Self(16399)
    public static let updateSAAddresses = Self(16400)
    public static let cookie2 = Self(16401)
    public static let noNATsAllowed = Self(16402)
    public static let redirectSupported = Self(16406)
    public static let redirect = Self(16407)
    public static let redirectedFrom = Self(16408)
    public static let fragmentationSupported = Self(16430)
    /// RFC 5998.
    public static let eapOnlyAuthentication = Self(16417)
    /// RFC 6023.
    public static let childlessSupported = Self(16418)
    /// RFC 7427.
    public static let signatureHashAlgorithms = Self(16431)
    /// RFC 8784 §3.
    public static let usePPK = Self(16435)
    public static let ppkIdentity = Self(16436)
    public static let noPPKAuthentication = Self(16437)
    /// RFC 9242 §3.1, RFC 9370 §2.2.4.
    public static let intermediateExchangeSupported = Self(16438)
    public static let additionalKeyExchange = Self(16441)
    /// Padding of a liveness check, of the range for private use (RFC 7296 §3.10.1): nobody needs to know it.
    static let pathProbe = Self(65280)

    public var isError: Bool { rawValue < 16384 }

    public var description: String {
        Self.names[rawValue] ?? (isError ? "error notify \(rawValue)" : "status notify \(rawValue)")
    }

    private static let names: [UInt16: String] = [
        1: "UNSUPPORTED_CRITICAL_PAYLOAD", 4: "INVALID_IKE_SPI", 5: "INVALID_MAJOR_VERSION", 7: "INVALID_SYNTAX",
        9: "INVALID_MESSAGE_ID", 11: "INVALID_SPI", 14: "NO_PROPOSAL_CHOSEN", 17: "INVALID_KE_PAYLOAD",
        24: "AUTHENTICATION_FAILED", 34: "SINGLE_PAIR_REQUIRED", 35: "NO_ADDITIONAL_SAS", 36: "INTERNAL_ADDRESS_FAILURE",
        37: "FAILED_CP_REQUIRED", 38: "TS_UNACCEPTABLE", 39: "INVALID_SELECTORS", 40: "UNACCEPTABLE_ADDRESSES",
        41: "UNEXPECTED_NAT_DETECTED", 42: "USE_ASSIGNED_HoA", 43: "TEMPORARY_FAILURE", 44: "CHILD_SA_NOT_FOUND",
        45: "INVALID_GROUP_ID", 46: "AUTHORIZATION_FAILED", 47: "STATE_NOT_FOUND", 48: "TS_MAX_QUEUE", 49: "REGISTRATION_FAILED",
        16384: "INITIAL_CONTACT", 16403: "AUTH_LIFETIME", 16385: "SET_WINDOW_SIZE", 16386: "ADDITIONAL_TS_POSSIBLE",
        16387: "IPCOMP_SUPPORTED",
        16388: "NAT_DETECTION_SOURCE_IP", 16389: "NAT_DETECTION_DESTINATION_IP", 16390: "COOKIE", 16391: "USE_TRANSPORT_MODE",
        16392: "HTTP_CERT_LOOKUP_SUPPORTED", 16393: "REKEY_SA", 16394: "ESP_TFC_PADDING_NOT_SUPPORTED",
        16395: "NON_FIRST_FRAGMENTS_ALSO", 16396: "MOBIKE_SUPPORTED",
        16397: "ADDITIONAL_IP4_ADDRESS", 16398: "ADDITIONAL_IP6_ADDRESS", 16399: "NO_ADDITIONAL_ADDRESSES",
        16400: "UPDATE_SA_ADDRESSES", 16401: "COOKIE2", 16402: "NO_NATS_ALLOWED", 16404: "MULTIPLE_AUTH_SUPPORTED",
        16406: "REDIRECT_SUPPORTED", 16407: "REDIRECT", 16408: "REDIRECTED_FROM",
        16417: "EAP_ONLY_AUTHENTICATION", 16418: "CHILDLESS_IKEV2_SUPPORTED", 16431: "SIGNATURE_HASH_ALGORITHMS",
        16430: "IKEV2_FRAGMENTATION_SUPPORTED",
        16435: "USE_PPK", 16436: "PPK_IDENTITY", 16437: "NO_PPK_AUTH", 16438: "INTERMEDIATE_EXCHANGE_SUPPORTED",
        16441: "ADDITIONAL_KEY_EXCHANGE",
    ]
}
