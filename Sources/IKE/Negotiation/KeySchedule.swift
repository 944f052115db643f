import IPsec

/// All keys of one IKE SA. RFC 7296 §2.14.
package struct IKEKeys: Sendable {
    package var derivation: Secret  // SK_d
    package var initiator: DirectionKeys  // SK_ai, SK_ei
    package var responder: DirectionKeys  // SK_ar, SK_er
    package var initiatorAuthentication: Secret  // SK_pi
    package var responderAuthentication: Secret  // SK_pr
}

/// Derivations of RFC 7296 §2.13 to §2.18. Secrets go in and come out without being seen.
package struct KeySchedule {
    let crypto: any IKECrypto
    package init(crypto: any IKECrypto) { self.crypto = crypto }

    /// `SKEYSEED = prf(Ni | Nr, g^ir)`. RFC 7296 §2.14.
    package func seed(
        prf: PseudoRandomFunction, initiatorNonce: [UInt8], responderNonce: [UInt8], shared: Secret
    ) throws(IKEFault) -> Secret {
        do throws(IKECryptoError) {
            return try crypto.prfSecret(prf, key: crypto.secret(initiatorNonce + responderNonce), data: [.secret(shared)])
        } catch { throw .ours("deriving SKEYSEED failed: \(error)") }
    }

    /// `SKEYSEED = prf(SK_d (old), g^ir (new) | Ni | Nr)`, with the old SA's PRF. RFC 7296 §2.18. With additional key exchanges
    /// `prf(SK_d, SK(0) | Ni | Nr | SK(1) | ... SK(n))`. RFC 9370 §2.2.4.
    package func rekeySeed(
        oldPRF: PseudoRandomFunction, oldDerivation: Secret, shared: Secret, additional: [Secret] = [], initiatorNonce: [UInt8],
        responderNonce: [UInt8]
    ) throws(IKEFault) -> Secret {
        do throws(IKECryptoError) {
            return try crypto.prfSecret(
                oldPRF, key: oldDerivation,
                data: [.secret(shared), .bytes(initiatorNonce + responderNonce)] + additional.map(SeedPart.secret))
        } catch { throw .ours("deriving SKEYSEED failed: \(error)") }
    }

    /// `{SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr} = prf+ (SKEYSEED, Ni | Nr | SPIi | SPIr)`. RFC 7296 §2.14.
    package func keys(
        suite: IKESuite, seed: Secret, initiatorNonce: [UInt8], responderNonce: [UInt8], initiatorSPI: UInt64,
        responderSPI: UInt64
    ) throws(IKEFault) -> IKEKeys {
        let prfBytes = suite.prf.outputBytes
        let integrityBytes = suite.cipher.integrityKeyBytes
        let encryptionBytes = suite.cipher.encryptionKeyBytes
        let total = 3 * prfBytes + 2 * integrityBytes + 2 * encryptionBytes
        let material = try expand(
            suite.prf, seed, initiatorNonce + responderNonce + [UInt8](u64: initiatorSPI) + [UInt8](u64: responderSPI), total)
        var position = 0
        func next(_ count: Int) -> Secret {
            defer { position += count }
            return crypto.slice(material, position..<position + count)
        }
        let derivation = next(prfBytes)
        let (integrityI, integrityR) = (next(integrityBytes), next(integrityBytes))
        let (encryptionI, encryptionR) = (next(encryptionBytes), next(encryptionBytes))
        let (authenticationI, authenticationR) = (next(prfBytes), next(prfBytes))
        return IKEKeys(
            derivation: derivation, initiator: DirectionKeys(encryption: encryptionI, integrity: integrityI),
            responder: DirectionKeys(encryption: encryptionR, integrity: integrityR), initiatorAuthentication: authenticationI,
            responderAuthentication: authenticationR)
    }

    private func expand(_ prf: PseudoRandomFunction, _ key: Secret, _ seed: [UInt8], _ count: Int) throws(IKEFault) -> Secret {
        do throws(IKECryptoError) {
            return try crypto.prfPlus(prf, key: key, seed: [.bytes(seed)], count: count)
        } catch { throw .ours("deriving keys failed: \(error)") }
    }

    /// `KEYMAT = prf+(SK_d, [g^ir (new) |] Ni | Nr)`; "All keys for SAs carrying data from the initiator to the responder are
    /// taken before SAs going from the responder to the initiator." The initiator is that of the exchange. RFC 7296 §2.17.
    ///
    /// With additional key exchanges `prf+ (SK_d, SK(0) | Ni | Nr | SK(1) | ... SK(n))`. RFC 9370 §2.2.4.
    package func childKeys(
        prf: PseudoRandomFunction, derivation: Secret, shared: Secret?, additional: [Secret] = [], initiatorNonce: [UInt8],
        responderNonce: [UInt8], transform: ESPTransform
    ) throws(IKEFault) -> (fromInitiator: Secret, fromResponder: Secret) {
        let count = transform.keyMaterialBytes
        var seed: [SeedPart] = [.bytes(initiatorNonce + responderNonce)]
        if let shared { seed.insert(.secret(shared), at: 0) }
        seed += additional.map(SeedPart.secret)
        do throws(IKECryptoError) {
            let material = try crypto.prfPlus(prf, key: derivation, seed: seed, count: 2 * count)
            return (crypto.slice(material, 0..<count), crypto.slice(material, count..<2 * count))
        } catch { throw .ours("deriving child keys failed: \(error)") }
    }

    /// What the signer's AUTH covers, whatever the method: `RealMsg1 | NonceRData | MACedIDForI | IntAuth` for the initiator,
    /// `RealMsg2 | NonceIData | MACedIDForR | IntAuth` for the responder. RFC 7296 §2.15, RFC 9242 §3.3.2.
    /// - Parameters:
    ///   - message: the signer's own IKE_SA_INIT message, from the first octet of its header.
    ///   - nonce: the other side's nonce.
    ///   - identity: the signer's ID payload without the generic header.
    ///   - authenticationKey: SK_pi or SK_pr of the signer, the latest there is (`IKEKeys`).
    ///   - intermediate: `IKESA.intermediateAuthentication.octets`, the same on both sides; empty without IKE_INTERMEDIATE.
    package func signedOctets(
        prf: PseudoRandomFunction, message: [UInt8], nonce: [UInt8], identity: [UInt8], authenticationKey: Secret,
        intermediate: [UInt8]
    ) throws(IKEFault) -> [UInt8] {
        do throws(IKECryptoError) {
            return message + nonce + (try crypto.prf(prf, key: authenticationKey, data: identity)) + intermediate
        } catch { throw .ours("computing AUTH failed: \(error)") }
    }

    /// `AUTH = prf( prf(Shared Secret, "Key Pad for IKEv2"), <SignedOctets>)`. RFC 7296 §2.15.
    package func authentication(
        prf: PseudoRandomFunction, presharedKey: Secret, signedOctets: [UInt8]
    ) throws(IKEFault) -> [UInt8] {
        do throws(IKECryptoError) {
            let padded = try crypto.prfSecret(prf, key: presharedKey, data: [.bytes(Array("Key Pad for IKEv2".utf8))])
            return try crypto.prf(prf, key: padded, data: signedOctets)
        } catch { throw .ours("computing AUTH failed: \(error)") }
    }

    /// Both steps, for a pre-shared key.
    package func authentication(
        prf: PseudoRandomFunction, presharedKey: Secret, message: [UInt8], nonce: [UInt8], identity: [UInt8],
        authenticationKey: Secret, intermediate: [UInt8] = []
    ) throws(IKEFault) -> [UInt8] {
        try authentication(
            prf: prf, presharedKey: presharedKey,
            signedOctets: try signedOctets(
                prf: prf, message: message, nonce: nonce, identity: identity, authenticationKey: authenticationKey,
                intermediate: intermediate))
    }
}
