public import IPsec

/// How we prove to the peer who we are.
public enum LocalAuthentication: Sendable {
    /// The secret is chosen by the peer's identity. RFC 7296 §2.15.
    case presharedKey(PresharedKeys)
    /// A certificate or a raw public key.
    case signature(SigningIdentity)
    /// As EAP peer, RFC 7296 §2.16. Only an initiator can do that.
    case eap(EAPClientPlan)
}

/// How the peer has to prove who it is. The methods of the two sides need not be the same.
public enum RemoteAuthentication: Sendable {
    case presharedKey(PresharedKeys)
    /// X.509 certificates; the trust says which are good, and whether they speak for the identity that the peer claims.
    case certificate(any PeerTrust)
    /// RFC 7670: the peer's key is one of these SubjectPublicKeyInfos (DER), whatever identity it claims within `remote.id`.
    case rawPublicKeys([[UInt8]], any PeerTrust)
    /// As EAP server, RFC 7296 §2.16. Only a responder can do that: such a connection is never initiated.
    case eap(EAPServerPlan)
    /// The server proves itself within the EAP method alone, RFC 5998. For `LocalAuthentication.eap`.
    case eapOnly
}

/// Pre-shared keys by the peer's identity.
public struct PresharedKeys: Sendable {
    public struct Entry: Sendable {
        public var identity: IdentityPattern
        public var secret: Secret
        public init(identity: IdentityPattern, secret: Secret) { (self.identity, self.secret) = (identity, secret) }
    }

    public var entries: [Entry]
    public init(_ entries: [Entry]) { self.entries = entries }
    /// One secret for whoever the peer is.
    public init(_ secret: Secret) { entries = [Entry(identity: .any, secret: secret)] }

    /// The secret shared with a peer: of the entry that names it most precisely.
    public func secret(for identity: Identity) -> Secret? {
        best { $0.matches(identity) }
    }

    /// The secret for a peer that has not named itself yet, as far as its configured identity tells: that of the entry for
    /// exactly this identity or pattern, or else the one for everybody.
    public func secret(expecting pattern: IdentityPattern) -> Secret? {
        if let identity = pattern.exact { return secret(for: identity) }
        return best { $0 == pattern || $0 == .any }
    }

    private func best(where isMeant: (IdentityPattern) -> Bool) -> Secret? {
        var found: Entry?
        for entry in entries where isMeant(entry.identity) {
            if let found, found.identity.specificity >= entry.identity.specificity { continue }
            found = entry
        }
        return found?.secret
    }
}

/// Which RSA signature we make when the peer takes either (RFC 7427). RFC 8247 §3.2.1 wants PSS; some older peers only know
/// PKCS #1 v1.5.
public enum RSAPadding: String, Sendable { case pss, pkcs1 }

/// Whether an IKE SA is made without a child at first. RFC 6023.
public enum Childless: String, Sendable {
    /// Not offered: the first child is asked for within IKE_AUTH, and a peer that asks for none there is refused.
    case never
    /// As initiator with a child; as responder as the peer likes.
    case allow
    /// As initiator without a child where the peer can; the children follow with CREATE_CHILD_SA.
    case prefer
}
